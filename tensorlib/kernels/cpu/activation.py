"""Compiled activations: one pass over memory without gaps, in whatever order its dims are."""

from __future__ import annotations

from typing import Any

from tensorlib.kernels import REGISTRY, activation
from tensorlib.kernels.cpu import Tasks, address, single, worth
from tensorlib.kernels.cpu.layout import alike, gapless, like, matched

_run = Tasks("activation")
LEAST = 1 << 14  # elements for which the call is no longer dearer than NumPy's
_BLOCK = 1 << 13
PAST = 1 << 22  # bytes of a result from which on it is written past the cache

NAMES = (
    "relu", "hardtanh", "leaky_relu", "sigmoid", "tanh", "silu", "gelu", "gelu_tanh", "mish",
    "softplus", "elu", "hardswish", "hardsigmoid",
)  # fmt: skip


def cut(size: int) -> tuple[int, int]:
    """Count and length of the blocks of `size` elements: a few for each thread, whole lines."""
    length = max(_BLOCK, -(-size // 4096) * 64)
    return -(-size // length), length


def _one(x: Any, *numbers: float, out: Any = None) -> bool:
    return (
        worth(x.size, LEAST)
        and single(x)
        and gapless(x)
        and (out is None or (single(out) and out.strides == x.strides and out.flags.writeable))
    )


def _two(grad: Any, x: Any, *numbers: float) -> bool:
    return worth(x.size, LEAST) and single(grad, x) and grad.shape == x.shape and gapless(x)


def _numbers(given: tuple[float, ...]) -> tuple[float, ...]:
    return (*given, *(0.0,) * (3 - len(given)))


def _register(name: str) -> None:
    def forward(x: Any, *numbers: float, out: Any = None) -> Any:
        y = like(x) if out is None else out
        count, length = cut(x.size)
        past = out is None and y.nbytes >= PAST
        body(count, address(x), address(y), x.size, length, past, *_numbers(numbers))
        return y

    def gradient(grad: Any, x: Any, *numbers: float) -> Any:
        grad = grad if alike(grad, x) else matched(grad, x)
        made = like(x)
        count, length = cut(x.size)
        arrays = address(grad), address(x), address(made)
        past = made.nbytes >= PAST
        body_grad(count, *arrays, x.size, length, past, *_numbers(numbers))
        return made

    def body(*arguments: Any) -> None:
        getattr(_run, name)(*arguments)

    def body_grad(*arguments: Any) -> None:
        getattr(_run, f"{name}_grad")(*arguments)

    forward.__qualname__, gradient.__qualname__ = name, f"{name}_grad"
    REGISTRY[name].override("float32 without gaps, large", _one)(forward)
    REGISTRY[f"{name}_grad"].override("float32 without gaps, large", _two)(gradient)


for _name in NAMES:
    assert hasattr(activation, _name)
    _register(_name)
