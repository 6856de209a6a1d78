"""CUDA's switches."""

from types import SimpleNamespace

# TF32 products are never used: allowing them allows what does not happen
matmul = SimpleNamespace(allow_tf32=False)


def is_built() -> bool:
    """Whether CUDA can be used at all: whether CuPy is installed."""
    from importlib.util import find_spec

    return find_spec("cupy") is not None
