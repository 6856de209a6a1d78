"""Discrete Fourier transforms under `torch.fft`'s names.

All are made of three linear ones: complex to complex, real to half a spectrum, half a spectrum to
real. The adjoint of each is another of them in the other direction, which makes every derivative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import creation, dtypes
from tensorlib.errors import ArgumentError, DimensionError, DTypeError, ShapeError
from tensorlib.ops import elementwise, shape
from tensorlib.ops._common import Array, astype, dim_index, dims_of, expect_tensor, wrap
from tensorlib.ops._formula import derived
from tensorlib.ops.out import takes_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

# by how much which direction is scaled; the adjoint scales the other direction as much
_OTHER = {"backward": "forward", "ortho": "ortho", "forward": "backward"}


# -- the three transforms --------------------------------------------------------------------------


def _complex(x: Tensor, dims: tuple[int, ...], norm: str, forward: bool) -> Tensor:
    """Complex to complex over `dims`; a real `x` counts as complex."""
    if not dims:
        return astype(x, np.result_type(x.array.dtype, np.complex64))
    transform: Any
    if not x.array.size:
        output = _nothing(x.array)
    elif len(dims) == 1:
        transform = np.fft.fft if forward else np.fft.ifft
        output = transform(x.array, axis=dims[0], norm=norm)
    else:
        transform = np.fft.fftn if forward else np.fft.ifftn
        output = transform(x.array, axes=dims, norm=norm)

    def formula(grad: Tensor, *_: Tensor) -> Sequence[Tensor]:
        return (_complex(grad, dims, _OTHER[norm], not forward),)

    return derived(output, formula, x, name="fft_c2c")


def _nothing(x: Array) -> Array:
    return x.astype(np.result_type(x.dtype, np.complex64))


def _halved(x: Tensor, dim: int, norm: Any) -> Tensor:
    """Real to the first half of the spectrum along `dim`."""
    n = x.array.shape[dim]
    if x.array.size:
        output = np.fft.rfft(x.array, axis=dim, norm=norm)
    else:
        output = _nothing(np.take(x.array, range(n // 2 + 1), dim))

    def formula(grad: Tensor, *_: Tensor) -> Sequence[Tensor]:
        whole = _resized(grad, dim, n)
        return (elementwise.real(_complex(whole, (dim,), _OTHER[norm], False)),)

    return derived(output, formula, x, name="fft_r2c")


def _restored(x: Tensor, dim: int, n: int, norm: Any) -> Tensor:
    """The first half of a spectrum to `n` real numbers along `dim`."""
    if x.array.size:
        output = np.fft.irfft(x.array, n, axis=dim, norm=norm)
    else:
        output = np.zeros((*x.array.shape[:dim], n, *x.array.shape[dim + 1 :]), x.array.real.dtype)

    def formula(grad: Tensor, *_: Tensor) -> Sequence[Tensor]:
        twice = np.ones(n // 2 + 1, grad.array.dtype)
        twice[1 : (n + 1) // 2] = 2  # these stand for their conjugates too
        twice = twice.reshape([-1] + [1] * (grad.array.ndim - 1 - dim))
        return (elementwise.mul(_halved(grad, dim, _OTHER[norm]), wrap(twice)),)

    return derived(output, formula, x, name="fft_c2r")


# -- arguments -------------------------------------------------------------------------------------


def _input(where: str, input: Any, real: bool = False) -> Tensor:
    expect_tensor(where, "input", input)
    x = input.array
    if x.dtype.kind == "c" and real:
        raise DTypeError(where, f"expects a real input tensor, but got {input.dtype}")
    if x.dtype.kind in "iub":
        return astype(input, dtypes.default_numpy())
    if x.dtype.char not in "fdFD":
        raise DTypeError(where, f"Unsupported dtype {input.dtype}", "single or double precision")
    found: Tensor = input
    return found


def _norm(where: str, norm: Any) -> str:
    if norm is None:
        return "backward"
    if not isinstance(norm, str):
        raise ArgumentError(where, f"norm must be str, not {type(norm).__name__}")
    if norm not in _OTHER:
        raise ShapeError(where, f"Invalid normalization mode: {norm!r}", ", ".join(_OTHER))
    return norm


def _dim(where: str, x: Tensor, dim: Any) -> int:
    if not x.array.ndim:
        raise DimensionError(where, f"Dimension specified as {dim} but tensor has no dimensions")
    return dim_index(dim, x.array.ndim, where)


def _points(where: str, n: Any) -> int:
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise ArgumentError(where, f"n must be int, not {type(n).__name__}")
    if n < 1:
        raise ShapeError(where, f"Invalid number of data points ({n}) specified", "at least 1")
    return int(n.__index__())


def _resized(x: Tensor, dim: int, n: int) -> Tensor:
    """`x` cut or filled with zeros to `n` elements along `dim`."""
    sizes = list(x.array.shape)
    if n <= sizes[dim]:
        return x if n == sizes[dim] else shape.narrow(x, dim, 0, n)
    sizes[dim] = n - sizes[dim]
    return shape.cat([x, wrap(np.zeros(sizes, x.array.dtype))], dim)


def _sizes(
    where: str, x: Tensor, s: Any, dim: Any, half: bool = False
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The dimensions to transform and their sizes; `half`: the last holds half a spectrum."""
    ndim = x.array.ndim
    dims: tuple[int, ...]
    given = None if s is None else ((s,) if isinstance(s, int) else tuple(s))
    if dim is not None:
        dim = (dim,) if isinstance(dim, int) else tuple(dim)
        if dim and not ndim:
            raise DimensionError(where, f"dim={dim} but tensor has no dimensions")
        dims = dims_of(dim, ndim, where)
        if given is not None and len(given) != len(dims):
            raise ShapeError(where, f"s={given}, dim={dim}", "the same length")
    elif given is None:
        dims = tuple(range(ndim))
    else:
        if len(given) > ndim:
            raise ShapeError(
                where, f"Got shape with {len(given)} values but input only has {ndim} dimensions"
            )
        dims = tuple(range(ndim - len(given), ndim))
    wanted = [x.array.shape[d] for d in dims]
    if half and dims:
        wanted[-1] = 2 * (wanted[-1] - 1)
    for i, n in enumerate(given or ()):
        wanted[i] = wanted[i] if n == -1 else n
    return dims, tuple(_points(where, n) for n in wanted)


def _over(where: str, input: Any, s: Any, dim: Any, norm: Any, forward: bool) -> Tensor:
    mode, x = _norm(where, norm), _input(where, input)
    dims, sizes = _sizes(where, x, s, dim)
    for d, n in zip(dims, sizes, strict=True):
        x = _resized(x, d, n)
    return _complex(x, dims, mode, forward)


def _real_over(where: str, input: Any, s: Any, dim: Any, norm: Any, forward: bool) -> Tensor:
    """Real input to half a spectrum; `forward=False`: its conjugate, scaled as an inverse."""
    mode, x = _norm(where, norm), _input(where, input, True)
    dims, sizes = _sizes(where, x, s, dim)
    if not dims:
        raise ShapeError(where, "must transform at least one axis")
    for d, n in zip(dims, sizes, strict=True):
        x = _resized(x, d, n)
    if not forward:
        half = elementwise.conj(_halved(x, dims[-1], _OTHER[mode]))
        return _complex(half, dims[:-1], mode, False)
    return _complex(_halved(x, dims[-1], mode), dims[:-1], mode, True)


def _to_real(where: str, input: Any, s: Any, dim: Any, norm: Any, forward: bool) -> Tensor:
    """Half a spectrum to real numbers, inverse; `forward=True`: of a conjugate-symmetric signal."""
    mode, x = _norm(where, norm), _input(where, input)
    dims, sizes = _sizes(where, x, s, dim, half=True)
    if not dims:
        raise ShapeError(where, "must transform at least one axis")
    for d, n in zip(dims[:-1], sizes[:-1], strict=True):
        x = _resized(x, d, n)
    x = _complex(_resized(x, dims[-1], sizes[-1] // 2 + 1), dims[:-1], mode, forward)
    if forward:
        return _restored(elementwise.conj(x), dims[-1], sizes[-1], _OTHER[mode])
    return _restored(x, dims[-1], sizes[-1], mode)


def _one(where: str, input: Any, n: Any, dim: Any) -> tuple[Any, tuple[int, ...]]:
    """Arguments of a transform over one dimension as those of one over several."""
    expect_tensor(where, "input", input)
    return None if n is None else (_points(where, n),), (_dim(where, input, dim),)


# -- complex input ---------------------------------------------------------------------------------


@takes_out
def fft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """Transform along `dim`, cut or filled with zeros to `n` points."""
    return _over("fft.fft", input, *_one("fft.fft", input, n, dim), norm, True)


@takes_out
def ifft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """Inverse of `fft`."""
    return _over("fft.ifft", input, *_one("fft.ifft", input, n, dim), norm, False)


@takes_out
def fft2(input: Tensor, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """Transform over two dimensions, of sizes `s`."""
    return _over("fft.fft2", input, s, dim, norm, True)


@takes_out
def ifft2(input: Tensor, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """Inverse of `fft2`."""
    return _over("fft.ifft2", input, s, dim, norm, False)


@takes_out
def fftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """Transform over several dimensions, of sizes `s`."""
    return _over("fft.fftn", input, s, dim, norm, True)


@takes_out
def ifftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """Inverse of `fftn`."""
    return _over("fft.ifftn", input, s, dim, norm, False)


# -- real input or output --------------------------------------------------------------------------


@takes_out
def rfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """Transform of real numbers: the first `n // 2 + 1` values, the others are their conjugates."""
    return _real_over("fft.rfft", input, *_one("fft.rfft", input, n, dim), norm, True)


@takes_out
def irfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """Inverse of `rfft`: `n` real numbers (by default an even number)."""
    return _to_real("fft.irfft", input, *_one("fft.irfft", input, n, dim), norm, False)


@takes_out
def rfft2(input: Tensor, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """`rfft` over two dimensions."""
    return _real_over("fft.rfft2", input, s, dim, norm, True)


@takes_out
def irfft2(input: Tensor, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """Inverse of `rfft2`."""
    return _to_real("fft.irfft2", input, s, dim, norm, False)


@takes_out
def rfftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """`rfft` over several dimensions."""
    return _real_over("fft.rfftn", input, s, dim, norm, True)


@takes_out
def irfftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """Inverse of `rfftn`."""
    return _to_real("fft.irfftn", input, s, dim, norm, False)


@takes_out
def hfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """Transform of a conjugate-symmetric signal, of which `input` is the first half: real."""
    return _to_real("fft.hfft", input, *_one("fft.hfft", input, n, dim), norm, True)


@takes_out
def ihfft(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None) -> Tensor:
    """Inverse of `hfft`."""
    return _real_over("fft.ihfft", input, *_one("fft.ihfft", input, n, dim), norm, False)


@takes_out
def hfft2(input: Tensor, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """`hfft` over two dimensions."""
    return _to_real("fft.hfft2", input, s, dim, norm, True)


@takes_out
def ihfft2(input: Tensor, s: Any = None, dim: Any = (-2, -1), norm: str | None = None) -> Tensor:
    """Inverse of `hfft2`."""
    return _real_over("fft.ihfft2", input, s, dim, norm, False)


@takes_out
def hfftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """`hfft` over several dimensions."""
    return _to_real("fft.hfftn", input, s, dim, norm, True)


@takes_out
def ihfftn(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None) -> Tensor:
    """Inverse of `hfftn`."""
    return _real_over("fft.ihfftn", input, s, dim, norm, False)


# -- frequencies -----------------------------------------------------------------------------------


def _frequencies(where: str, numbers: Any, n: int, d: float, options: dict[str, Any]) -> Tensor:
    kind = options.pop("dtype") or dtypes.get_default_dtype()
    creation.refuse(where, options.pop("layout"), False)
    if not (kind.is_floating_point or kind.is_complex):
        raise DTypeError(where, f"requires a floating point or complex dtype, got {kind}")
    if n < 0:
        raise ShapeError(where, f"n={n}", "a number of at least 0")
    values = np.asarray(numbers, np.float64) * (1.0 / (n * d) if n else np.inf)
    return creation.tensor(values.astype(kind.numpy), **options)


@takes_out
def fftfreq(
    n: int,
    d: float = 1.0,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """The frequencies of `fft`'s `n` values for samples `d` apart: 0, 1, ..., -2, -1 over `n d`."""
    options = {"dtype": dtype, "layout": layout, "device": device, "requires_grad": requires_grad}
    half = (n + 1) // 2
    return _frequencies("fft.fftfreq", [*range(half), *range(-(n // 2), 0)], n, d, options)


@takes_out
def rfftfreq(
    n: int,
    d: float = 1.0,
    *,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """The frequencies of `rfft`'s values for `n` samples `d` apart."""
    options = {"dtype": dtype, "layout": layout, "device": device, "requires_grad": requires_grad}
    return _frequencies("fft.rfftfreq", range(n // 2 + 1), n, d, options)


def _shifted(where: str, input: Tensor, dim: Any, back: bool) -> Tensor:
    expect_tensor(where, "input", input)
    ndim = input.array.ndim
    dims = tuple(range(ndim)) if dim is None else dims_of(dim, ndim, where)
    sizes = [input.array.shape[d] for d in dims]
    steps = [(n + 1) // 2 if back else n // 2 for n in sizes]
    return shape.roll(input, steps, dims) if dims else shape.clone(input)


def fftshift(input: Tensor, dim: Any = None) -> Tensor:
    """Frequencies in ascending order, zero in the middle."""
    return _shifted("fft.fftshift", input, dim, False)


def ifftshift(input: Tensor, dim: Any = None) -> Tensor:
    """Inverse of `fftshift`."""
    return _shifted("fft.ifftshift", input, dim, True)
