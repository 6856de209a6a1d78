"""Short-time Fourier transforms: `stft istft`."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.errors import DTypeError, ShapeError
from tensorlib.ops import elementwise, shape
from tensorlib.ops._common import expect_tensor, wrap
from tensorlib.ops.fft import _complex, _halved, _restored
from tensorlib.ops.indexing import index_add
from tensorlib.ops.out import direct
from tensorlib.ops.padding import pad

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _framing(
    where: str, n_fft: int, hop: int | None, size: int | None, window: Any
) -> tuple[int, int, Tensor]:
    """Step between frames, their size, and the window filled with zeros to `n_fft`."""
    hop = n_fft // 4 if hop is None else hop
    size = n_fft if size is None else size
    if hop <= 0:
        raise ShapeError(where, f"hop_length={hop}", "a number above 0")
    if not 0 < size <= n_fft:
        raise ShapeError(where, f"win_length={size} for n_fft={n_fft}", f"1 to {n_fft}")
    if window is None:
        window = wrap(np.ones(size, np.float32))
    expect_tensor(where, "window", window)
    if window.array.shape != (size,):
        raise ShapeError(where, f"window has shape {window.array.shape}", f"win_length={size}")
    left = (n_fft - size) // 2
    sides = [wrap(np.zeros(n, window.array.dtype)) for n in (left, n_fft - size - left)]
    if size < n_fft:
        window = shape.cat([sides[0], window, sides[1]], 0)
    return hop, size, window


def stft(
    input: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    pad_mode: str = "reflect",
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Tensor:
    """Spectra of overlapping frames of a signal [(batch), time]: [(batch), frequencies, frames].

    A frame of `n_fft` samples starts every `hop_length` (a quarter of it) and is multiplied by
    `window`; `center` fills half a frame on both sides first. Of real signals only the first half
    of the spectrum is kept unless `onesided=False`. `return_complex=False` gives real and imaginary
    parts in a last dimension.
    """
    where = "stft"
    expect_tensor(where, "input", input)
    if center and align_to_window is not None:
        raise ShapeError(where, "align_to_window should only be set when center=False")
    x, batched = input, input.array.ndim == 2
    if x.array.dtype.char not in "fdFD":
        raise DTypeError(where, f"input is {input.dtype}", "a tensor of floating point or complex")
    if x.array.ndim not in (1, 2):
        raise ShapeError(where, f"input has {x.array.ndim} dimensions", "1 or 2")
    if center:
        lead = [1] * (3 - x.array.ndim) + list(x.array.shape)
        x = pad(shape.reshape(x, lead), [n_fft // 2, n_fft // 2], pad_mode)
        x = shape.reshape(x, x.array.shape[-input.array.ndim :])
    x = x if batched else shape.unsqueeze(x, 0)
    if not 0 < n_fft <= x.array.shape[1]:
        raise ShapeError(where, f"n_fft={n_fft} for a signal of length {x.array.shape[1]}")
    kinds = [t.array.dtype.kind for t in (x, window) if t is not None]
    complex_input = "c" in kinds
    hop, size, shaped = _framing(where, n_fft, hop_length, win_length, window)
    if return_complex is None and not complex_input:
        raise ShapeError(
            where, "requires the return_complex parameter be given for real inputs", "True"
        )
    half = not complex_input if onesided is None else onesided
    if half and complex_input:
        raise ShapeError(where, "Cannot have onesided output if window or input is complex")
    if align_to_window and not center:
        start = (n_fft - size) // 2
        x = pad(x, [start, start]) if start else x
    frames = shape.unfold(x, 1, n_fft, hop)
    if window is not None or size < n_fft:
        frames = elementwise.mul(frames, shaped)
    norm = "ortho" if normalized else "backward"
    spectrum = _halved(frames, 2, norm) if half else _complex(frames, (2,), norm, True)
    spectrum = shape.transpose(spectrum, 1, 2)
    spectrum = spectrum if batched else shape.squeeze(spectrum, 0)
    return spectrum if return_complex or return_complex is None else _parts(spectrum)


def _parts(x: Tensor) -> Tensor:
    """Real and imaginary parts in a last dimension."""
    return shape.stack([elementwise.real(x), elementwise.imag(x)], -1)


def istft(
    input: Tensor,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Tensor | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: int | None = None,
    return_complex: bool = False,
) -> Tensor:
    """The signal whose `stft` is nearest to `input` [(batch), frequencies, frames]: frames added
    where they overlap, divided by the sum of squared windows (D. Griffin and J. Lim, 1984).
    """
    where = "istft"
    expect_tensor(where, "input", input)
    if input.array.dtype.kind != "c":
        raise DTypeError(where, "requires a complex-valued input tensor matching stft's output")
    if input.array.ndim not in (2, 3) or not input.array.size:
        raise ShapeError(where, f"input has shape {input.array.shape}", "2 or 3 dimensions")
    batched = input.array.ndim == 3
    x = shape.transpose(input if batched else shape.unsqueeze(input, 0), 1, 2)
    count, bins = x.array.shape[1:]
    complex_window = window is not None and window.array.dtype.kind == "c"
    half = (bins != n_fft) if onesided is None else onesided
    if bins != (n_fft // 2 + 1 if half else n_fft):
        raise ShapeError(where, f"{bins} frequencies for n_fft={n_fft}, onesided={half}")
    if complex_window and not return_complex:
        raise ShapeError(where, "Complex windows are incompatible with return_complex=False")
    if return_complex and half:
        raise ShapeError(where, "Cannot have onesided output if window or input is complex")
    hop, size, shaped = _framing(where, n_fft, hop_length, win_length, window)
    if hop > size:
        raise ShapeError(where, f"hop_length={hop}", f"at most win_length={size}")
    norm = "ortho" if normalized else "backward"
    if return_complex:
        frames = _complex(x, (2,), norm, False)
    else:  # of a whole spectrum too the first half tells all of a real signal
        frames = _restored(shape.narrow(x, 2, 0, n_fft // 2 + 1), 2, n_fft, norm)
    total = n_fft + hop * (count - 1)
    added = _overlapped(elementwise.mul(frames, shaped), total, hop)
    square = elementwise.mul(shaped, shaped)
    weight = _overlapped(shape.expand(square, (1, count, n_fft)), total, hop)
    start = n_fft // 2 if center else 0
    stop = start + length if length is not None else total - start
    end = min(stop, total)
    added, weight = (shape.narrow(t, 1, start, end - start) for t in (added, weight))
    smallest = np.abs(weight.array).min() if weight.array.size else 0
    if not smallest > 1e-11:
        raise ShapeError(where, f"window overlap add min: {smallest}", "nowhere zero")
    signal = elementwise.div(added, weight)
    if stop > total:
        warnings.warn(
            "The length of signal is shorter than the length parameter. Result is being padded "
            "with zeros in the tail. Please check your center, hop_length and win_length.",
            UserWarning,
            stacklevel=2,
        )
        signal = pad(signal, [0, stop - total])
    return signal if batched else shape.squeeze(signal, 0)


def _overlapped(frames: Tensor, total: int, hop: int) -> Tensor:
    """Frames [batch, count, size] added into signals of length `total`, `hop` apart."""
    batch, count, size = frames.array.shape
    places = (np.arange(count)[:, None] * hop + np.arange(size)).reshape(-1)
    zeros = wrap(np.zeros((batch, total), frames.array.dtype))
    return direct(index_add)(zeros, 1, wrap(places), shape.reshape(frames, (batch, -1)))
