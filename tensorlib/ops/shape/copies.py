"""The views of this package as copies (`X_copy`), and writing into a copy through one
(`X_scatter`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.errors import ShapeError
from tensorlib.ops._common import Array, Grads, called, expect_tensor, record, wrap
from tensorlib.ops.out import takes_out
from tensorlib.ops.shape import reinterpret, splitting, views
from tensorlib.ops.shape.rearranging import clone
from tensorlib.ops.strides import copied_memory

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _copy(view: Tensor) -> Tensor:
    return clone(view, memory_format="contiguous_format")


@takes_out
def alias_copy(input: Tensor) -> Tensor:
    """A copy in row-major order."""
    return _copy(input)


@takes_out
def detach_copy(input: Tensor) -> Tensor:
    """A copy without history."""
    return _copy(wrap(input.array))


@takes_out
def as_strided_copy(
    input: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Tensor:
    """`as_strided`, copied."""
    return _copy(reinterpret.as_strided(input, size, stride, storage_offset))


@takes_out
def diagonal_copy(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """`diagonal`, copied."""
    return _copy(reinterpret.diagonal(input, offset, dim1, dim2))


@takes_out
def expand_copy(input: Tensor, size: Any, *, implicit: bool = False) -> Tensor:
    """`expand`, copied."""
    return _copy(views.expand(input, size))


@takes_out
def permute_copy(input: Tensor, dims: Any) -> Tensor:
    """`permute`, copied."""
    return _copy(views.permute(input, dims=dims))


@takes_out
def narrow_copy(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """`narrow`, copied."""
    if input.array.ndim and dim >= input.array.ndim:
        raise ShapeError("narrow_copy", f"dim {dim} of a tensor of shape {input.array.shape}")
    return _copy(views.narrow(input, dim, start, length))


@takes_out
def select_copy(input: Tensor, dim: int, index: int) -> Tensor:
    """`select`, copied."""
    return _copy(views.select(input, dim, index))


@takes_out
def slice_copy(
    input: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Tensor:
    """`input[..., start:end:step, ...]` along `dim`, copied."""
    return _copy(views.slice_along(input, dim, start, end, step))


@takes_out
def squeeze_copy(input: Tensor, dim: Any = None) -> Tensor:
    """`squeeze`, copied."""
    return _copy(views.squeeze(input, dim))


@takes_out
def unsqueeze_copy(input: Tensor, dim: int) -> Tensor:
    """`unsqueeze`, copied."""
    return _copy(views.unsqueeze(input, dim))


@takes_out
def t_copy(input: Tensor) -> Tensor:
    """`t`, copied."""
    return _copy(views.t(input))


@takes_out
def transpose_copy(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """`transpose`, copied."""
    return _copy(views.transpose(input, dim0, dim1))


@takes_out
def unfold_copy(input: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """`unfold`, copied."""
    return _copy(reinterpret.unfold(input, dimension, size, step))


@takes_out
def view_copy(input: Tensor, size: Any = None, *, dtype: Any = None) -> Tensor:
    """`view`, copied; where strides do not allow the view, as `reshape`."""
    from tensorlib.dtypes import dtype as type_of

    if dtype is None and not isinstance(size, type_of):
        return _copy(views.reshape(input, size))
    return _copy(reinterpret.view_dtype(input, size if dtype is None else dtype))


@takes_out
def view_as_real_copy(input: Tensor) -> Tensor:
    """`view_as_real`, copied."""
    return _copy(reinterpret.view_as_real(input))


@takes_out
def view_as_complex_copy(input: Tensor) -> Tensor:
    """`view_as_complex`, copied."""
    return _copy(reinterpret.view_as_complex(input))


@takes_out
def split_copy(tensor: Tensor, split_size: int, dim: int = 0) -> tuple[Tensor, ...]:
    """`split`, copied."""
    return tuple(map(_copy, splitting.split(tensor, split_size, dim)))


@takes_out
def split_with_sizes_copy(
    tensor: Tensor, split_sizes: Sequence[int], dim: int = 0
) -> tuple[Tensor, ...]:
    """`split_with_sizes`, copied."""
    return tuple(map(_copy, splitting.split_with_sizes(tensor, split_sizes, dim)))


@takes_out
def unbind_copy(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """`unbind`, copied."""
    return tuple(map(_copy, splitting.unbind(input, dim)))


# -- scatters --------------------------------------------------------------------------------------


def _scattered(
    where: str,
    input: Tensor,
    src: Tensor,
    view: Callable[[Tensor], Tensor],
    inside: bool = False,
) -> Tensor:
    """A copy of `input` whose `view` holds `src`; the gradient of `input` is that outside of the
    view (or `inside`).
    """
    expect_tensor(where, "src", src)
    output = copied_memory(input.array)
    place = view(wrap(output)).array
    values = src.array
    if place.shape != values.shape:
        raise ShapeError(
            where,
            f"expected src to have a size equal to the slice of self. src size = "
            f"{list(values.shape)}, slice size = {list(place.shape)}",
        )
    if values.dtype.kind == "c" and place.dtype.kind != "c":
        values = values.real
    place[...] = values

    def backward(grad: Array) -> Grads:
        rest = np.array(grad, order="C")
        held = view(wrap(rest)).array
        own = held.copy()
        if inside:
            rest[...] = 0
        held[...] = own if inside else 0
        return rest, own

    def smooth(grad: Any) -> Grads:
        own = view(grad)
        if inside:
            zeros = wrap(np.zeros_like(grad.array))
            return _scattered(where, zeros, own, view), own
        return _scattered(where, grad, wrap(np.zeros_like(own.array)), view), own

    return record(output, backward, input, src, smooth=smooth)


@takes_out
@called("SelectScatterBackward0")
def select_scatter(input: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """A copy of `input` with `src` at `index` along `dim`."""
    return _scattered("select_scatter", input, src, lambda x: views.select(x, dim, index))


@takes_out
@called("SliceScatterBackward0")
def slice_scatter(
    input: Tensor, src: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Tensor:
    """A copy of `input` with `src` in `start:end:step` along `dim`."""
    return _scattered(
        "slice_scatter", input, src, lambda x: views.slice_along(x, dim, start, end, step)
    )


@takes_out
@called("DiagonalScatterBackward0")
def diagonal_scatter(
    input: Tensor, src: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1
) -> Tensor:
    """A copy of `input` with `src` on the diagonal of the planes (dim1, dim2)."""
    return _scattered(
        "diagonal_scatter", input, src, lambda x: reinterpret.diagonal(x, offset, dim1, dim2)
    )


@takes_out
@called("AsStridedScatterBackward0")
def as_strided_scatter(
    input: Tensor,
    src: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    storage_offset: int | None = None,
) -> Tensor:
    """A copy of `input` with `src` in its memory at the given strides. The gradient of `input` is
    PyTorch's: that of the overwritten part, not of the rest.
    """
    return _scattered(
        "as_strided_scatter",
        input,
        src,
        lambda x: reinterpret.as_strided(x, size, stride, storage_offset),
        inside=True,
    )
