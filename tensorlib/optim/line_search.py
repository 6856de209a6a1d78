"""The line search of L-BFGS: a step that satisfies the strong Wolfe conditions.

Nocedal and Wright, 2006, algorithms 3.5 and 3.6, with the safeguards of Schmidt's minFunc, as
torch has them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from tensorlib.tensor import Tensor

__all__ = ["strong_wolfe"]


class Point(NamedTuple):
    """A step size with the loss, the gradient and the slope there."""

    t: Any
    loss: float
    grad: Tensor
    slope: Any


def _cubic(a: Point, b: Point, bounds: tuple[Any, Any] | None = None) -> Any:
    """The minimum of the cubic through both points and slopes, within the bounds."""
    low, high = bounds or ((a.t, b.t) if a.t <= b.t else (b.t, a.t))
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = d1**2 - a.slope * b.slope
    if not square >= 0:
        return (low + high) / 2.0
    d2 = square.sqrt()
    if a.t > b.t:
        a, b = b, a
    best = b.t - (b.t - a.t) * ((b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2))
    return min(max(best, low), high)


def strong_wolfe(
    evaluate: Callable[[Any], tuple[float, Tensor]],
    t: Any,
    d: Tensor,
    loss: float,
    grad: Tensor,
    slope: Tensor,
    c1: float = 1e-4,
    c2: float = 0.9,
    tolerance_change: float = 1e-9,
    max_ls: int = 25,
) -> tuple[float, Tensor, Any, int]:
    """Search along `d` from `t`, where `evaluate(t)` gives loss and gradient; returns the loss,
    gradient and step size found, and the number of evaluations.
    """
    evals = 0

    def look(t: Any) -> Point:
        nonlocal evals
        evals += 1
        value, at = evaluate(t)
        return Point(t, value, at, at.dot(d))

    start = Point(0, loss, grad.clone(), slope)
    before, now = start, look(t)
    bracket, done, tries = [start, now], False, 0
    while tries < max_ls:
        too_high = now.loss > loss + c1 * now.t * slope
        if too_high or (tries > 1 and now.loss >= before.loss):
            bracket = [before, now]
            break
        if abs(now.slope) <= -c2 * slope:
            bracket, done = [now], True
            break
        if now.slope >= 0:
            bracket = [before, now]
            break
        bounds = now.t + 0.01 * (now.t - before.t), now.t * 10
        t = _cubic(before, now, bounds)
        before, now = now, look(t)
        tries += 1
        bracket = [start, now]
    low, high = (0, 1) if bracket[0].loss <= bracket[-1].loss else (1, 0)
    stuck, reach = False, d.abs().max()
    while not done and tries < max_ls:
        if abs(bracket[1].t - bracket[0].t) * reach < tolerance_change:
            break
        t, stuck = _inside(_cubic(bracket[0], bracket[1]), bracket, stuck)
        now = look(t)
        tries += 1
        if now.loss > loss + c1 * now.t * slope or now.loss >= bracket[low].loss:
            bracket[high] = now
            low, high = (0, 1) if bracket[0].loss <= bracket[1].loss else (1, 0)
            continue
        if abs(now.slope) <= -c2 * slope:
            done = True
        elif now.slope * (bracket[high].t - bracket[low].t) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = now
    found = bracket[low]
    return found.loss, found.grad, found.t, evals


def _inside(t: Any, bracket: list[Point], stuck: bool) -> tuple[Any, bool]:
    """`t`, moved away from the ends of the bracket if it is at one, or near one twice in a row."""
    low, high = min(p.t for p in bracket), max(p.t for p in bracket)
    margin = 0.1 * (high - low)
    if not min(high - t, t - low) < margin:
        return t, False
    if not (stuck or t >= high or t <= low):
        return t, True
    return (high - margin if abs(t - high) < abs(t - low) else low + margin), False
