"""Sizes given as one number or as one for each dimension."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["Size", "spread"]

Size = int | tuple[int, ...]


def spread(value: Size, dims: int) -> tuple[int, ...]:
    """`value` for each of `dims` dimensions. Raises ValueError for another number of them."""
    sizes = tuple(value) if isinstance(value, Iterable) else (value,) * dims
    if len(sizes) != dims:
        raise ValueError(f"expected one number or {dims}, got {value}")
    return sizes
