"""Strides: which shapes an array can be seen in without a copy, by PyTorch's rules, and arrays over
given strides. NumPy's own differ at dimensions of size 1 and where nothing is stored.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.device import address, array_namespace


def strided(array: Any, shape: Any, strides: Any, offset: int = 0, dtype: Any = None) -> Any:
    """A view into the memory of `array`; `strides` and `offset` in bytes from its first element."""
    kind = dtype or array.dtype
    if isinstance(array, np.ndarray):
        buffer = array
        if not array.flags.c_contiguous:
            owner = array.base
            if type(owner) is not np.ndarray or not owner.flags.c_contiguous:
                owner = memory(array)
            offset += address(array) - address(owner)
            buffer = owner
        return np.ndarray(shape, kind, buffer, offset, strides)
    return array_namespace(array).ndarray(shape, kind, memptr=array.data + offset, strides=strides)


def memory(array: Any) -> Any:
    """The memory `array` spans, as a one-dimensional array that begins at its first element."""
    if array.flags.c_contiguous:
        return array.reshape(-1)
    item = array.itemsize
    count = 0 if not array.size else 1 + extent(array.shape, array.strides) // item
    if isinstance(array, np.ndarray):
        return np.lib.stride_tricks.as_strided(
            array, (count,), (item,), writeable=array.flags.writeable
        )
    return strided(array, (count,), (item,))


def extent(shape: Any, strides: Any) -> int:
    """Steps from the first to the last element."""
    total = 0
    for n, s in zip(shape, strides, strict=True):
        total += (n - 1) * s
    return total


def contiguous_strides(shape: tuple[int, ...], item: int) -> tuple[int, ...]:
    """Strides of a row-major array; a dimension of size 0 counts as 1."""
    strides = []
    for n in reversed(shape):
        strides.append(item)
        item *= n or 1
    return tuple(reversed(strides))


def view_strides(array: Any, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The strides in which `array` is seen as `shape` (of as many elements), None if it must be
    copied: PyTorch's `computeStride`.
    """
    before, strides, item = array.shape, array.strides, array.itemsize
    if not before:
        return (item,) * len(shape)
    if not array.size:
        return strides if before == shape else contiguous_strides(shape, item)
    found = [0] * len(shape)
    place = len(shape) - 1
    step = strides[-1]
    held = taken = 1
    for d in range(len(before) - 1, -1, -1):
        held *= before[d]
        if d and (before[d - 1] == 1 or strides[d - 1] == held * step):
            continue  # the next dimension outwards goes on where this one ends
        while place >= 0 and (taken < held or shape[place] == 1):
            found[place] = taken * step
            taken *= shape[place]
            place -= 1
        if taken != held:
            return None
        if d:
            step = strides[d - 1]
            held = taken = 1
    return tuple(found) if place == -1 else None


def seen_as(array: Any, shape: tuple[int, ...]) -> Any:
    """`array` in another shape without a copy, None where strides forbid it."""
    if array.flags.c_contiguous and array.size and 1 not in array.shape:
        return array.reshape(shape)
    strides = view_strides(array, shape)
    return None if strides is None else restrided(array, shape, strides)


def restrided(array: Any, shape: Any, strides: Any) -> Any:
    """The same elements under another shape and strides."""
    if array.flags.c_contiguous:  # NumPy's own way is the quickest where it gives the same
        output = array.reshape(shape)
        if output.strides == strides:
            return output
    return strided(array, shape, strides)


def overlaps(array: Any) -> bool:
    """Whether several elements lie in one place in memory."""
    if not array.size:
        return False
    span = 0
    for s, n in sorted(zip(array.strides, array.shape, strict=True)):
        if n > 1:
            if s <= span:
                return True
            span += s * (n - 1)
    return False


# -- layouts of new arrays -------------------------------------------------------------------------


def is_dense(array: Any) -> bool:
    """Whether elements fill memory without gap or overlap, in some order of the dimensions."""
    if array.flags.c_contiguous:
        return True
    step = array.itemsize
    for s, n in sorted((s, n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if s != step:
            return False
        step *= n
    return True


def ordered(shape: tuple[int, ...], *strides: tuple[int, ...]) -> list[int]:
    """The dimensions from the innermost outwards, as PyTorch's iterators sort them by the strides
    of the operands; a stride of 0 decides nothing.
    """
    order = list(range(len(shape)))[::-1]

    def compare(a: int, b: int) -> int:
        for steps in strides:
            if steps[a] == 0 or steps[b] == 0:
                continue
            if steps[a] != steps[b]:
                return -1 if steps[a] < steps[b] else 1
            if shape[a] > shape[b]:
                return 1
        return 0

    for i in range(1, len(order)):
        at = i
        for before in range(i - 1, -1, -1):
            sign = compare(order[before], order[at])
            if sign > 0:
                order[before], order[at] = order[at], order[before]
                at = before
            elif sign < 0:
                break
    return order


def in_order(shape: tuple[int, ...], order: list[int], item: int) -> tuple[int, ...]:
    """Strides of a dense array whose dimensions lie in this order from the innermost outwards."""
    strides = [0] * len(shape)
    for d in order:
        strides[d] = item
        item *= max(shape[d], 1)
    return tuple(strides)


def empty_like(array: Any, dtype: Any = None) -> Any:
    """Memory for an array of the same shape in the same order of dimensions
    (`torch.preserve_format`).
    """
    kind = array.dtype if dtype is None else dtype
    if array.flags.c_contiguous and 1 not in array.shape:
        return np.empty_like(array, kind)
    shape, item = array.shape, array.itemsize
    if is_dense(array):
        strides = array.strides
    else:
        strides = in_order(shape, ordered(shape, array.strides), item)
    flat = np.empty_like(array, kind, shape=(array.size,))
    return strided(flat, shape, tuple(s // item * flat.itemsize for s in strides))


def copied(array: Any) -> Any:
    """A copy in the same order of dimensions (`torch.preserve_format`)."""
    if array.flags.c_contiguous:
        output = array.copy("C")
        if output.strides == array.strides:
            return output
    output = empty_like(array)
    output[...] = array
    return output


def copied_memory(array: Any) -> Any:
    """A copy with the same strides, gaps included; a dense one where elements overlap."""
    if overlaps(array) or not array.size:
        return copied(array)
    return strided(memory(array).copy(), array.shape, array.strides)


def is_channels_last(array: Any) -> bool:
    """Whether an image batch lies in memory with its channels innermost (`channels_last`)."""
    shape, strides = array.shape, array.strides
    if len(shape) not in (4, 5) or strides[1] == 0:
        return False
    step = 0
    for d in (1, *range(len(shape) - 1, 1, -1), 0):
        if shape[d] == 0 or strides[d] < step or (d == 0 and step == strides[1]):
            return False
        step = strides[d] * shape[d]
    return True


def empty_channels_last(like: Any, shape: tuple[int, ...]) -> Any:
    """Memory for an image batch with its channels innermost."""
    order = [1, *range(len(shape) - 1, 1, -1), 0]
    flat = np.empty_like(like, shape=(int(np.prod(shape)),))
    return strided(flat, shape, in_order(shape, order, flat.itemsize))


def laid_out_as(made: Any, *inputs: Any) -> Any:
    """`made` in row-major memory; with its channels innermost where an input's are: how PyTorch
    lays out what a layer for images makes.
    """
    if not any(is_channels_last(x) for x in inputs):
        return array_namespace(made).ascontiguousarray(made)
    if is_channels_last(made):
        return made
    output = empty_channels_last(made, made.shape)
    output[...] = made
    return output


def in_planes(x: Any) -> Any:
    """An image batch with dense planes, or with its channels innermost where they are."""
    return x if is_channels_last(x) else array_namespace(x).ascontiguousarray(x)


def partly_overlap(a: Any, b: Any) -> bool:
    """Whether two arrays share some elements but are not the same memory; not asked of arrays with
    gaps.
    """
    if not isinstance(a, np.ndarray) or not np.may_share_memory(a, b):
        return False
    if not a.size or not b.size or not is_dense(a) or not is_dense(b):
        return False
    return not (address(a) == address(b) and a.nbytes == b.nbytes and a.strides == b.strides)
