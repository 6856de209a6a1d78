"""Operations whose derivative is one formula written with operations on Tensors.

The formula serves both times: on detached Tensors for a first derivative, on those of the graph for
a second one. It costs a few operations' overhead, so the hot elementwise families write their
backward on arrays instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tensorlib.autograd import tape
from tensorlib.autograd.tape import record, record_outputs, wrap
from tensorlib.errors import UnsupportedError
from tensorlib.ops._common import Array, Grads

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

Formula = Callable[..., Sequence[Any]]


def _arrays(found: Sequence[Any]) -> Grads:
    return tuple(None if g is None else g.array for g in found)


def _wrapped(arrays: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(None if a is None else wrap(a) for a in arrays)


def derived(output: Any, formula: Formula, *inputs: Tensor, name: str) -> Tensor:
    """A Tensor around `output` whose gradients are `formula(grad, output, *inputs)`, all of them
    Tensors; `name` is the operation's, for its node.
    """
    if not tape.needs_grad(*inputs):
        return wrap(output)
    output = tape.as_array(output)
    given = tuple(t.array for t in inputs)

    def backward(grad: Array) -> Grads:
        with tape.no_grad():
            return _arrays(formula(wrap(grad), wrap(output), *_wrapped(given)))

    def smooth(grad: Any) -> Sequence[Any]:
        return tuple(formula(grad, output, *given))

    backward.__qualname__ = name
    return record(output, backward, *inputs, smooth=smooth)  # type: ignore[arg-type]


def derived_outputs(
    outputs: tuple[Any, ...],
    formula: Formula,
    *inputs: Tensor,
    name: str,
) -> tuple[Tensor, ...]:
    """As `derived` for several outputs: `formula(grads, outputs, *inputs)`, where the gradient of
    an unused output is None.
    """
    outputs = tuple(map(tape.as_array, outputs))
    given = tuple(t.array for t in inputs)

    def backward(*grads: Any) -> Grads:
        with tape.no_grad():
            return _arrays(formula(_wrapped(grads), _wrapped(outputs), *_wrapped(given)))

    def smooth(*grads: Any) -> Sequence[Any]:
        return tuple(formula(grads, outputs, *given))

    backward.__qualname__ = name
    return record_outputs(outputs, backward, *inputs, smooth=smooth)  # type: ignore[arg-type]


def underivable(output: Any, *inputs: Tensor, name: str) -> Tensor:
    """A Tensor around `output` that requires a gradient where PyTorch's does, and whose backward
    is refused as there.
    """

    def backward(*_: Any) -> Grads:
        raise UnsupportedError(name, f"the derivative for '{name}' is not implemented")

    backward.__qualname__ = name
    return record(output, backward, *inputs)
