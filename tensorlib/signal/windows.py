"""`torch.signal.windows`'s names: windows of M points, symmetric or (`sym=False`) periodic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import creation, dtypes
from tensorlib.errors import ArgumentError, InvalidValueError

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

__all__ = [
    "bartlett",
    "blackman",
    "cosine",
    "exponential",
    "gaussian",
    "general_cosine",
    "general_hamming",
    "hamming",
    "hann",
    "kaiser",
    "nuttall",
]


def _window(
    where: str,
    M: Any,
    values: Callable[[Any], Any],
    start: float,
    step: float,
    options: dict[str, Any],
    single: bool = False,
) -> Tensor:
    """`values` of M numbers from `start` on, `step` apart; `single`: one point is 1."""
    kind = options["dtype"] or dtypes.get_default_dtype()
    if isinstance(M, bool) or not isinstance(M, int):
        raise ArgumentError(where, f"M must be int, not {type(M).__name__}")
    if M < 0:
        raise InvalidValueError(where, f"requires non-negative window length, got M={M}")
    if options["layout"] not in (None, dtypes.strided):
        raise InvalidValueError(where, f"layout={options['layout']}", "tensorlib.strided")
    if kind not in (dtypes.float32, dtypes.float64):
        raise InvalidValueError(where, f"dtype={kind}", "float32 or float64")
    points = start + step * np.arange(M)
    found = np.ones(M) if single and M == 1 else values(points)
    return creation.tensor(
        np.asarray(found, kind.numpy),
        device=options["device"],
        requires_grad=options["requires_grad"],
    )


def _span(M: Any, sym: bool) -> Any:
    """Number of steps that one period, or the window, has."""
    return max(M if not sym else M - 1, 1) if isinstance(M, int) else 1


def exponential(
    M: int,
    *,
    center: float | None = None,
    tau: float = 1.0,
    sym: bool = True,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`exp(-|n - center| / tau)`."""
    where = "exponential"
    options = _options(dtype, layout, device, requires_grad)
    _window(where, M, np.asarray, 0, 0, options)  # its errors come first
    if tau <= 0:
        raise InvalidValueError(where, f"tau={tau}", "a positive number")
    if sym and center is not None:
        raise InvalidValueError(where, f"center={center} for a symmetric window", "None")
    middle = (M if not sym and M > 1 else M - 1) / 2.0 if center is None else center
    return _window(where, M, lambda k: np.exp(-np.abs(k)), -middle / tau, 1 / tau, options)


def cosine(
    M: int,
    *,
    sym: bool = True,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`sin(pi (n + 1/2) / M)`."""
    options = _options(dtype, layout, device, requires_grad)
    count = M + 1 if not sym and M > 1 else M
    step = math.pi / count if count else 0.0
    return _window("cosine", M, np.sin, 0.5 * step, step, options)


def gaussian(
    M: int,
    *,
    std: float = 1.0,
    sym: bool = True,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`exp(-(n / std)^2 / 2)` around the middle."""
    options = _options(dtype, layout, device, requires_grad)
    _window("gaussian", M, np.asarray, 0, 0, options)  # its errors come first
    if std <= 0:
        raise InvalidValueError("gaussian", f"std={std}", "a positive number")
    step = 1 / (std * math.sqrt(2))
    start = -(M if not sym and M > 1 else M - 1) / 2.0
    return _window("gaussian", M, lambda k: np.exp(-(k**2)), start * step, step, options)


def kaiser(
    M: int,
    *,
    beta: float = 12.0,
    sym: bool = True,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`i0(beta sqrt(1 - x^2)) / i0(beta)` for x from -1 to 1."""
    options = _options(dtype, layout, device, requires_grad)
    _window("kaiser", M, np.asarray, 0, 0, options)  # its errors come first
    if beta < 0:
        raise InvalidValueError("kaiser", f"beta={beta}", "a non-negative number")

    def values(k: Any) -> Any:
        from tensorlib.ops.special import scipy_special

        i0 = scipy_special("i0")
        return i0(np.sqrt(np.maximum(beta * beta - k**2, 0))) / i0(beta)

    return _window("kaiser", M, values, -beta, 2.0 * beta / _span(M, sym), options, True)


def bartlett(
    M: int,
    *,
    sym: bool = True,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`1 - |x|` for x from -1 to 1."""
    options = _options(dtype, layout, device, requires_grad)
    step = 2 / _span(M, sym)
    return _window("bartlett", M, lambda k: 1 - np.abs(k), -1, step, options, True)


def general_cosine(
    M: int,
    *,
    a: Iterable[float],
    sym: bool = True,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`a[0] - a[1] cos(x) + a[2] cos(2 x) - ...` for x from 0 to 2 pi."""
    where = "general_cosine"
    options = _options(dtype, layout, device, requires_grad)
    step = 2 * math.pi / _span(M, sym)

    def values(k: Any) -> Any:
        if not isinstance(a, Iterable):
            raise ArgumentError(where, "Coefficients must be a list/tuple")
        weights = list(a)
        if not weights:
            raise InvalidValueError(where, "Coefficients cannot be empty")
        return sum((-1) ** i * w * np.cos(i * k) for i, w in enumerate(weights))

    return _window(where, M, values if M else np.asarray, 0, step, options, True)


def general_hamming(
    M: int,
    *,
    alpha: float = 0.54,
    sym: bool = True,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`alpha - (1 - alpha) cos(x)`."""
    options = _options(dtype, layout, device, requires_grad)
    return general_cosine(M, a=[alpha, 1.0 - alpha], sym=sym, **options)


def hamming(
    M: int,
    *,
    sym: bool = True,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`general_hamming` of 0.54."""
    return general_hamming(M, sym=sym, **_options(dtype, layout, device, requires_grad))


def hann(
    M: int,
    *,
    sym: bool = True,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`general_hamming` of 0.5."""
    options = _options(dtype, layout, device, requires_grad)
    return general_hamming(M, alpha=0.5, sym=sym, **options)


def blackman(
    M: int,
    *,
    sym: bool = True,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`general_cosine` of 0.42, 0.5, 0.08."""
    options = _options(dtype, layout, device, requires_grad)
    return general_cosine(M, a=[0.42, 0.5, 0.08], sym=sym, **options)


def nuttall(
    M: int,
    *,
    sym: bool = True,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """`general_cosine` of Nuttall's four coefficients."""
    options = _options(dtype, layout, device, requires_grad)
    return general_cosine(M, a=[0.3635819, 0.4891775, 0.1365995, 0.0106411], sym=sym, **options)


def _options(dtype: Any, layout: Any, device: Any, requires_grad: bool) -> dict[str, Any]:
    return {"dtype": dtype, "layout": layout, "device": device, "requires_grad": requires_grad}
