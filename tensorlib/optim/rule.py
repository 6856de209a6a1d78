"""What optimizers with a rule per element share: the walk over parameters, and checks of options.

Large parameters are updated block by block, so that the passes of a rule run over memory that is
in the cache, and intermediate values take no more room than a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

import tensorlib
from tensorlib.autograd.tape import bump, wrap
from tensorlib.errors import AutogradError, InvalidValueError
from tensorlib.kernels import Kernel
from tensorlib.optim.inplace import add_, mul_, real_view
from tensorlib.optim.optimizer import Array, Group, Optimizer, State, counter
from tensorlib.tensor import Tensor

__all__ = [
    "Rule",
    "Scratch",
    "check",
    "check_betas",
    "check_lr",
    "check_options",
    "gradient_like",
    "number",
    "scalar",
]

BLOCK = 1 << 15
TOGETHER = 1 << 16  # elements of a group from which on a compiled update takes them together
_SINGLE = np.dtype(np.float32)

# what one call of a rule works on: parameter, gradient, state arrays, the step (or what `advance`
# made of it), and four scratch arrays of the parameter's shape, of which the first has the dtype
# computed in
Scratch = tuple[Array, Array, Array, Array]
Piece = tuple[Array, Array, list[Array], Any, Scratch]


class Rule(Optimizer):
    """An optimizer whose `_update(group)` loops over `_live(group, names)`.

    `foreach` and `fused` choose among torch's own loops; they are accepted, with the conflicts
    torch refuses, and all lead to the same one here.
    """

    def __init__(self, params: Iterable[Any], defaults: Group) -> None:
        self._scratch: dict[Any, Scratch] = {}
        if defaults.get("fused"):
            for other in ("differentiable", "foreach"):
                if defaults.get(other):
                    raise AutogradError(
                        type(self).__name__,
                        "`fused` does not support `differentiable`"
                        if other == "differentiable"
                        else "`fused` and `foreach` cannot be `True` together.",
                    )
        super().__init__(params, defaults)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        `closure` evaluates the loss again (with gradients on) before; its result is returned.
        """
        loss = None
        if closure is not None:
            with tensorlib.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._update(group)
        return loss

    def _update(self, group: Group) -> None:
        """One step of the parameters of `group`."""
        raise NotImplementedError(f"{type(self).__name__} has no update rule")

    def _start(self, state: State, param: Tensor, group: Group) -> None:
        """Fill the state of a parameter that has none."""
        state["step"] = counter(0.0, group)
        for name in self._names(group):
            state[name] = wrap(np.zeros_like(param.array))

    def _names(self, group: Group) -> tuple[str, ...]:
        """Names of the state arrays that a rule changes."""
        return self._shaped

    def _live(
        self,
        group: Group,
        names: tuple[str, ...],
        advance: Callable[[State, Tensor, float], Any] | None = None,
    ) -> Iterator[Piece]:
        """The parameters of `group` that have a gradient, in pieces; see `Piece`. The gradient is
        negated for `maximize` and has weight decay in it, unless that is decoupled: then the
        parameter has shrunk. Complex numbers come as pairs of real ones.
        """
        self._check_flags(group)
        maximize, decay = group["maximize"], number(group.get("weight_decay", 0))
        shrink = None
        if decay and group.get("decoupled_weight_decay"):
            shrink, decay = 1 - number(group["lr"]) * decay, 0
        for param in group["params"]:
            if param._grad is None:
                continue
            x, g = param.array, param._grad.array
            buffers, step = self._begin(param, group, names, advance)
            if x.dtype.kind == "c":
                x, g, buffers = real_view(x), real_view(g), [real_view(b) for b in buffers]
            pieces: Iterable[Any]
            if x.size > BLOCK:
                pieces = self._blocks(x, g, buffers)
            else:
                pieces = ((x, g, buffers, self._work(x)),)
            for part, grad, arrays, work in pieces:
                if shrink is not None:
                    mul_(part, shrink, work[0])
                if maximize:
                    grad = np.negative(grad, work[1])
                if decay:
                    add_(grad, part, decay, work[0], work[1])
                    grad = work[1]
                yield part, grad, arrays, step, work
            bump(param)

    def _begin(
        self,
        param: Tensor,
        group: Group,
        names: tuple[str, ...],
        advance: Callable[[State, Tensor, float], Any] | None = None,
    ) -> tuple[list[Array], Any]:
        """The state arrays of a parameter, and its step (or what `advance` made of it)."""
        # a rule without state leaves no entry for it
        state = self.state[param] if names or self._counters else {}
        if not state:
            self._start(state, param, group)
        step: Any = 0.0
        if "step" in state:
            count = state["step"].array
            step = count.item() + 1.0
            count[()] = step
        if advance is not None:
            step = advance(state, param, step)
        return [state[name].array for name in names], step

    def _together(self, group: Group, update: Kernel) -> tuple[list[Tensor], Group]:
        """The parameters that a compiled `update` takes in one launch, and the group with the
        others.
        """
        params = group["params"]
        if not update.overrides_active:
            return [], group
        size = 0
        for param in params:
            size += param.array.size
        if size < TOGETHER:
            return [], group
        taken, others = [], []
        for param in params:
            x, grad = param.array, param._grad
            if grad is not None and x.dtype == _SINGLE and grad.array.dtype == _SINGLE:
                taken.append(param)
            else:
                others.append(param)
        self._check_flags(group)
        return taken, {**group, "params": others}

    def _blocks(
        self, x: Array, g: Array, buffers: list[Array]
    ) -> Iterator[tuple[Array, Array, list[Array], Scratch]]:
        if not (x.flags.c_contiguous and all(b.flags.c_contiguous for b in buffers)):
            yield x, g, buffers, _scratch(x, x.shape)
            return
        x, g, buffers = x.reshape(-1), g.reshape(-1), [b.reshape(-1) for b in buffers]
        for i in range(0, x.size, BLOCK):
            piece = slice(i, i + BLOCK)
            part = x[piece]
            yield part, g[piece], [b[piece] for b in buffers], self._work(part)

    def _work(self, x: Array) -> Scratch:
        """Scratch for `x`, of memory that all parameters share."""
        key = (type(x), x.dtype.char, x.shape)
        found = self._scratch.get(key)
        if found is None:
            base = (type(x), x.dtype.char)
            if base not in self._scratch:
                self._scratch[base] = _scratch(x, (BLOCK,))
            w, t, u, v = (a[: x.size].reshape(x.shape) for a in self._scratch[base])
            found = self._scratch[key] = w, t, u, v
        return found

    def _check_flags(self, group: Group) -> None:
        if not (group.get("capturable") or group.get("fused") or group.get("differentiable")):
            return
        where = f"{type(self).__name__}.step"
        for param in group["params"]:
            if param._grad is None:
                continue
            if group.get("capturable"):
                raise AssertionError(
                    f"{where}: If capturable=True, params and state_steps must be on supported"
                    f" devices, but got {param.device}; tensorlib captures no graphs."
                    " Hint: leave capturable at False."
                )
            if group.get("fused") and param.array.dtype.kind not in "fV":
                raise AutogradError(
                    where,
                    "`fused=True` requires all the params to be floating point Tensors of"
                    f" supported devices, but got {param.dtype} and {param.device.type}",
                )

    def __setstate__(self, state: State) -> None:
        self._scratch = {}
        super().__setstate__(state)


def _scratch(x: Array, shape: tuple[int, ...]) -> Scratch:
    wide = np.dtype(np.float32) if x.dtype.char in "eE" else x.dtype
    w = np.empty_like(x, dtype=wide, shape=shape)
    t, u, v = (np.empty_like(x, shape=shape) for _ in range(3))
    return w, t, u, v


def gradient_like(param: Tensor) -> Array:
    """The gradient of a parameter in memory of the same layout."""
    assert param._grad is not None
    x, g = param.array, param._grad.array
    if g.strides == x.strides:
        return g
    made = np.empty_like(x)
    made[...] = g
    return made


def number(value: Any) -> Any:
    """An option as a number: a Tensor of one element gives a NumPy scalar of its dtype, which
    computes with Python's numbers as a 0-dim tensor does.
    """
    if isinstance(value, Tensor):
        array = value.array
        return array.dtype.type(array.item())
    return value


def scalar(value: Any) -> Any:
    """A Tensor of one element without dimensions; any other option as it is."""
    return value.squeeze() if isinstance(value, Tensor) and value.ndim else value


def check(where: str, text: str, value: Any, good: bool | Tensor, expected: str) -> None:
    """Refuse an option: `text` is torch's, up to the value."""
    if not good:
        raise InvalidValueError(where, f"{text}: {value}", expected)


def check_lr(where: str, lr: Any, text: str = "Invalid learning rate") -> None:
    """Refuse a learning rate that is negative or a Tensor of several elements."""
    if isinstance(lr, Tensor) and lr.numel() != 1:
        raise InvalidValueError(
            where,
            f"Tensor lr must be 1-element, but it has {lr.numel()}",
            "a number or a 0-dim Tensor",
        )
    check(where, text, lr, lr >= 0.0, ">= 0")


def check_options(where: str, **options: Any) -> None:
    """Refuse negative values, NaN too."""
    for name, value in options.items():
        label = "epsilon" if name == "eps" else name
        check(where, f"Invalid {label} value", value, value >= 0.0, ">= 0")


def check_betas(where: str, betas: Any) -> None:
    """Refuse decay rates outside [0, 1)."""
    for i in range(2):
        good = 0.0 <= betas[i] < 1.0
        check(where, f"Invalid beta parameter at index {i}", betas[i], good, "in [0, 1)")
