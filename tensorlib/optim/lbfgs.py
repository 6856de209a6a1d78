"""L-BFGS."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import tensorlib
from tensorlib.autograd.tape import bump, wrap
from tensorlib.errors import AutogradError, InvalidValueError
from tensorlib.optim.inplace import real_view
from tensorlib.optim.line_search import strong_wolfe
from tensorlib.optim.optimizer import Array, Group, Optimizer, State
from tensorlib.optim.rule import check_lr, scalar
from tensorlib.tensor import Tensor

__all__ = ["LBFGS"]


class LBFGS(Optimizer):
    """L-BFGS (Liu and Nocedal, 1989; after Schmidt's minFunc). `step` needs a closure, which is
    called several times. One group of parameters only.

    Args:
        max_iter: iterations within one step.
        max_eval: evaluations of the closure within one step; by default max_iter · 1.25.
        tolerance_grad: the largest element of the gradient at which to stop.
        tolerance_change: the change of loss or parameters at which to stop.
        history_size: number of past steps that approximate the Hessian.
        line_search_fn: "strong_wolfe" or None.
    """

    _counters = ()

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        check_lr("LBFGS", lr)
        if max_eval is None:
            max_eval = max_iter * 5 // 4
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        super().__init__(params, defaults)
        if len(self.param_groups) != 1:
            raise InvalidValueError(
                "LBFGS",
                "LBFGS doesn't support per-parameter options (parameter groups)",
                f"one group, not {len(self.param_groups)}",
            )

    @property
    def _params(self) -> list[Tensor]:
        params: list[Tensor] = self.param_groups[0]["params"]
        return params

    def _flat_grad(self) -> Tensor:
        """All gradients in one vector."""
        parts = []
        for param in self._params:
            grad = param.grad
            array = real_view(param.array if grad is None else grad.array)
            flat = wrap(array).reshape(-1)
            parts.append(tensorlib.zeros_like(flat) if grad is None else flat)
        return tensorlib.cat(parts, 0)

    def _move(self, size: Any, direction: Tensor) -> None:
        """param += size · direction."""
        offset, factor = 0, float(size)
        for param in self._params:
            array = real_view(param.array)
            part = direction.array[offset : offset + array.size].reshape(array.shape)
            array += part * array.dtype.type(factor)
            bump(param)
            offset += array.size

    def _evaluate(
        self, closure: Callable[[], Any], start: list[Array], size: Any, direction: Tensor
    ) -> tuple[float, Tensor]:
        """Loss and gradient at start + size · direction; the parameters end where they began."""
        self._move(size, direction)
        loss = float(closure())
        grad = self._flat_grad()
        for param, array in zip(self._params, start, strict=True):
            param.array[...] = array
            bump(param)
        return loss, grad

    @tensorlib.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]  # needs a closure
        """Minimise `closure()`, which clears the gradients, computes the loss, calls backward and
        returns the loss. Returns the first loss.
        """
        if len(self.param_groups) != 1:
            raise AssertionError(
                f"LBFGS.step: Expected exactly one param_group, but got {len(self.param_groups)}"
            )
        closure = tensorlib.enable_grad()(closure)
        group = self.param_groups[0]
        state = self.state[self._params[0]]
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)
        first = closure()
        loss, evals = float(first), 1
        state["func_evals"] += 1
        grad = self._flat_grad()
        if grad.abs().max() <= group["tolerance_grad"]:
            return first
        d: Any = state.get("d")
        before: Any = state.get("prev_flat_grad")
        t, loss_before = state.get("t"), state.get("prev_loss")
        lr = scalar(group["lr"])
        for iteration in range(1, group["max_iter"] + 1):
            state["n_iter"] += 1
            if state["n_iter"] == 1:
                d = grad.neg()
                state.update(old_dirs=[], old_stps=[], ro=[], H_diag=1)
            else:
                d = _direction(state, group, grad, before, d, t)
            if before is None:
                before = grad.clone()
            else:
                before.copy_(grad)
            loss_before = loss
            t = min(1.0, 1.0 / grad.abs().sum()) * lr if state["n_iter"] == 1 else lr
            slope = grad.dot(d)
            if slope > -group["tolerance_change"]:
                break
            loss, grad, t, used = self._search(
                closure, group, iteration, loss, grad, t, d, slope, evals
            )
            evals += used
            state["func_evals"] += used
            if (
                iteration == group["max_iter"]
                or evals >= group["max_eval"]
                or grad.abs().max() <= group["tolerance_grad"]
                or d.mul(t).abs().max() <= group["tolerance_change"]
                or abs(loss - loss_before) < group["tolerance_change"]
            ):
                break
        state.update(d=d, t=t, prev_flat_grad=before, prev_loss=loss_before)
        return first

    def _search(
        self,
        closure: Callable[[], Any],
        group: Group,
        iteration: int,
        loss: float,
        grad: Tensor,
        t: Any,
        d: Tensor,
        slope: Tensor,
        evals: int,
    ) -> tuple[float, Tensor, Any, int]:
        """Move along `d`; the loss, gradient, step size and number of evaluations."""
        if group["line_search_fn"] is None:
            self._move(t, d)
            if iteration == group["max_iter"]:  # nobody needs the loss at the last point
                return loss, grad, t, 0
            loss = float(closure())
            return loss, self._flat_grad(), t, 1
        if group["line_search_fn"] != "strong_wolfe":
            raise AutogradError(
                "LBFGS.step",
                f"only 'strong_wolfe' is supported, got line_search_fn={group['line_search_fn']!r}",
            )
        start = [param.array.copy() for param in self._params]

        def at(size: Any) -> tuple[float, Tensor]:
            return self._evaluate(closure, start, size, d)

        loss, grad, t, used = strong_wolfe(
            at, t, d, loss, grad, slope, max_ls=group["max_eval"] - evals
        )
        self._move(t, d)
        return loss, grad, t, used


def _direction(
    state: State, group: Group, grad: Tensor, before: Tensor, d: Tensor, t: Any
) -> Tensor:
    """Remember the last step and multiply the gradient by the approximate inverse Hessian."""
    old_dirs, old_stps, ro = state["old_dirs"], state["old_stps"], state["ro"]
    y, s = grad.sub(before), d.mul(t)
    ys = y.dot(s)
    if ys > 1e-10:
        if len(old_dirs) == group["history_size"]:
            for history in (old_dirs, old_stps, ro):
                history.pop(0)
        old_dirs.append(y)
        old_stps.append(s)
        ro.append(1.0 / ys)
        state["H_diag"] = ys / y.dot(y)
    al = state.setdefault("al", [None] * group["history_size"])
    q = grad.neg()
    for i in range(len(old_dirs) - 1, -1, -1):
        al[i] = old_stps[i].dot(q) * ro[i]
        q.sub_(old_dirs[i] * al[i])
    r = q.mul(state["H_diag"])
    for i in range(len(old_dirs)):
        r.add_(old_stps[i] * (al[i] - old_dirs[i].dot(r) * ro[i]))
    return r
