"""Adafactor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from tensorlib.autograd.tape import bump, wrap
from tensorlib.errors import AutogradError
from tensorlib.optim.inplace import add_, div_, lerp_, mul_
from tensorlib.optim.optimizer import Array, Group, State, counter
from tensorlib.optim.rule import Rule, check, check_lr, number
from tensorlib.tensor import Tensor

__all__ = ["Adafactor"]


class Adafactor(Rule):
    """Adafactor (Shazeer and Stern, 2018): of the second moments of a matrix only the means of rows
    and columns are kept, and steps are relative to the size of the parameter.

    Args:
        beta2_decay: the decay of the second moments is 1 - t^beta2_decay.
        eps: the least second moment (None: the dtype's epsilon), and the least size of a parameter.
        d: the largest root mean square of an update before it is scaled.
    """

    _late: ClassVar[Group] = {"foreach": None}

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        where = "Adafactor"
        check_lr(where, lr, "Learning rate should be >= 0 but is")
        good = beta2_decay <= 0.0
        check(where, "beta2_decay should be <= 0 but is", beta2_decay, good, "<= 0")
        first = 0.0 if eps[0] is None else eps[0]
        check(where, "epsilon1 should be >= 0 but is", first, first >= 0.0, ">= 0")
        check(where, "epsilon2 should be >= 0 but is", eps[1], eps[1] >= 0.0, ">= 0")
        check(where, "Clipping threshold d should be >= 1 but is", d, d >= 1.0, ">= 1")
        good = weight_decay >= 0.0
        check(where, "weight_decay should be >= 0 but is", weight_decay, good, ">= 0")
        defaults = {
            "lr": lr,
            "beta2_decay": beta2_decay,
            "eps": eps,
            "d": d,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _start(self, state: State, param: Tensor, group: Group) -> None:
        shape = param.shape
        state["step"] = counter(0.0, group)
        if len(shape) > 1:
            rows, columns = (*shape[:-1], 1), (*shape[:-2], 1, shape[-1])
            state["row_var"] = wrap(np.zeros_like(param.array, shape=rows))
            state["col_var"] = wrap(np.zeros_like(param.array, shape=columns))
        else:
            state["variance"] = wrap(np.zeros_like(param.array))

    def _update(self, group: Group) -> None:
        lr, decay = number(group["lr"]), group["weight_decay"]
        least, smallest = group["eps"]
        for param in group["params"]:
            if param._grad is None:
                continue
            x, g = param.array, param._grad.array
            if x.dtype.kind == "c":
                raise AutogradError(
                    "Adafactor.step", "Adafactor does not support complex parameters"
                )
            if least is None:
                least = float(np.finfo(x.dtype).eps)
            state = self.state[param]
            if not state:
                self._start(state, param, group)
            state["step"].array[()] += 1
            step = state["step"].array.item()
            if group["maximize"]:
                g = -g
            size = max(smallest, _norm(x) / x.size**0.5) * min(lr, 1 / step**0.5)
            wide = np.empty_like(x, dtype=np.float32) if x.dtype.char in "eE" else np.empty_like(x)
            if decay:
                mul_(x, 1 - lr * decay, wide)
            update = _second_moment(state, g, step ** group["beta2_decay"], least)
            np.maximum(update, least * least, out=update)
            np.sqrt(update, update)
            np.reciprocal(update, update)
            np.multiply(update, g, update)
            excess = max(1.0, _norm(update) / (update.size**0.5 * group["d"]))
            add_(x, update, -size / excess, wide)
            bump(param)


def _second_moment(state: State, g: Array, weight: float, least: float) -> Array:
    """A new array: the estimate of the mean of g², after `g` entered the state."""
    if g.ndim < 2:
        mean = state["variance"].array
        lerp_(mean, g * g, weight, _like(mean))
        return mean.copy()
    rows, columns = state["row_var"].array, state["col_var"].array
    for axis, mean in ((-1, rows), (-2, columns)):
        length = np.sqrt(np.square(g, dtype=_like(mean).dtype).sum(axis, keepdims=True))
        square = np.square(length.astype(g.dtype))
        div_(square, g.shape[axis], _like(mean))
        lerp_(mean, square, weight, _like(mean))
    estimate = rows * columns
    estimate /= np.maximum(rows.mean(-2, keepdims=True), least)
    return estimate


def _like(array: Array) -> Array:
    return np.empty_like(array, dtype=np.float32 if array.dtype.char in "eE" else array.dtype)


def _norm(array: Array) -> float:
    wide = array.astype(np.float32) if array.dtype.char in "eE" else array
    return array.dtype.type(np.linalg.norm(wide)).item()  # type: ignore[no-any-return]
