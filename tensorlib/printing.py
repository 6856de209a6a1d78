"""The text of a tensor, character by character PyTorch's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.errors import InvalidValueError

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


class _Options:
    precision = 4
    threshold: float = 1000
    edgeitems = 3
    linewidth: float = 80
    sci_mode: bool | None = None


options = _Options()
_PROFILES: dict[str, tuple[int, float, int]] = {
    "default": (4, 1000, 3),
    "short": (2, 1000, 2),
    "full": (4, math.inf, 3),
}


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Digits, summarisation, line width and scientific mode of printed tensors."""
    if profile is not None:
        if profile not in _PROFILES:
            raise InvalidValueError(
                "set_printoptions", f"profile {profile!r}", f"one of {', '.join(_PROFILES)}"
            )
        options.precision, options.threshold, options.edgeitems = _PROFILES[profile]
        options.linewidth = 80
    if precision is not None:
        options.precision = precision
    if threshold is not None:
        options.threshold = threshold
    if edgeitems is not None:
        options.edgeitems = edgeitems
    if linewidth is not None:
        options.linewidth = linewidth
    options.sci_mode = sci_mode


class _Formatter:
    """How the numbers of one tensor are written: integers, decimals or scientific."""

    def __init__(self, values: Any) -> None:
        self.floating = values.dtype.kind == "f"
        self.integral = True
        self.scientific = False
        self.width = 1
        flat = values.reshape(-1)
        if not self.floating:
            self.width = max(map(len, map(str, flat.tolist())), default=1)
            return
        flat = flat.astype(np.float64)
        finite = flat[np.isfinite(flat) & (flat != 0)]
        if finite.size == 0:
            return
        size = np.abs(finite)
        low, high = float(size.min()), float(size.max())
        self.integral = bool((finite == np.ceil(finite)).all())
        self.scientific = (
            high / low > 1000.0 or high > 1.0e8 or low < 1.0e-4
            if options.sci_mode is None
            else options.sci_mode
        )
        if self.scientific:
            form = f".{options.precision}e"
        else:
            form = ".0f" if self.integral else f".{options.precision}f"
        point = self.integral and not self.scientific
        self.width = max(len(f"{v:{form}}") + point for v in finite.tolist())

    def format(self, value: Any) -> str:
        if self.floating:
            if self.scientific:
                text = f"{value:{self.width}.{options.precision}e}"
            elif self.integral:
                text = f"{value:.0f}"
                if not (math.isinf(value) or math.isnan(value)):
                    text += "."
            else:
                text = f"{value:.{options.precision}f}"
        else:
            text = f"{value}"
        return (self.width - len(text)) * " " + text


def _scalar(value: Any, first: _Formatter, second: _Formatter | None) -> str:
    if second is None:
        return first.format(value)
    real, imaginary = first.format(value.real), second.format(value.imag).lstrip()
    if imaginary[0] in "+-":
        return f"{real}{imaginary}j"
    return f"{real}+{imaginary}j"


def _vector(
    values: Any, indent: int, summarize: bool, first: _Formatter, second: _Formatter | None
) -> str:
    length = first.width + 2 + (0 if second is None else second.width + 1)
    per_line = max(1, math.floor((options.linewidth - indent) / length))
    items = values.tolist()
    edge = options.edgeitems
    if summarize and not edge:
        data = ["..."]
    elif summarize and len(items) > 2 * edge:
        data = [_scalar(v, first, second) for v in items[:edge]]
        data += [" ..."]
        data += [_scalar(v, first, second) for v in items[-edge:]]
    else:
        data = [_scalar(v, first, second) for v in items]
    lines = [data[i : i + per_line] for i in range(0, len(data), per_line)]
    return "[" + ("," + "\n" + " " * (indent + 1)).join(", ".join(line) for line in lines) + "]"


def _body(
    values: Any, indent: int, summarize: bool, first: _Formatter, second: _Formatter | None
) -> str:
    if values.ndim == 0:
        return _scalar(values.tolist(), first, second)
    if values.ndim == 1:
        return _vector(values, indent, summarize, first, second)
    edge = options.edgeitems
    if summarize and len(values) > 2 * edge:
        parts = [_body(values[i], indent + 1, summarize, first, second) for i in range(edge)]
        parts += ["..."]
        parts += [
            _body(values[i], indent + 1, summarize, first, second)
            for i in range(len(values) - edge, len(values))
        ]
    else:
        parts = [_body(v, indent + 1, summarize, first, second) for v in values]
    return "[" + ("," + "\n" * (values.ndim - 1) + " " * (indent + 1)).join(parts) + "]"  # type: ignore[no-any-return]  # NumPy's stubs are wider


def _summary(values: Any) -> Any:
    """The corners that a summarised print shows, for choosing the format."""
    edge = options.edgeitems
    if not edge and values.ndim > 1:
        return values[(slice(0, 0),) * values.ndim]
    for axis in range(values.ndim):
        if values.shape[axis] > 2 * edge:
            lead = (slice(None),) * axis
            # as in Python, -0 is no end but the start
            ends = values[(*lead, slice(None, edge))], values[(*lead, slice(-edge, None))]
            values = np.concatenate(ends, axis)
    return values


def tensor_text(array: Any, indent: int) -> str:
    """The nested brackets."""
    if array.size == 0:
        return "[]"
    if array.dtype.char in "eE":
        array = array.astype(np.float32)
    summarize = array.size > options.threshold
    shown = _summary(array) if summarize else array
    if array.dtype.kind == "c":
        return _body(array, indent, summarize, _Formatter(shown.real), _Formatter(shown.imag))
    return _body(array, indent, summarize, _Formatter(shown), None)


def text(tensor: Tensor) -> str:
    """`repr(tensor)`."""
    from tensorlib.device import get_default_device, to_host

    array = to_host(tensor.array)
    kind = type(tensor)
    prefix = "tensor(" if kind.__name__ in _PLAIN else f"{kind.__name__}("
    suffixes: list[str] = []
    where = tensor.device
    if where.type != get_default_device().type:
        suffixes.append(f"device='{where}'")
    name = dtypes.of(array.dtype)
    if array.size == 0:
        if array.ndim != 1:
            suffixes.append(f"size={tuple(array.shape)}")
        implied: tuple[Any, ...] = (dtypes.get_default_dtype(),)
    else:
        if not options.edgeitems:
            suffixes.append(f"size={tuple(array.shape)}")
        widest = dtypes.of(dtypes.default_complex())
        implied = (dtypes.get_default_dtype(), widest, dtypes.int64, dtypes.bool)
    if name not in implied:
        suffixes.append(f"dtype={name}")
    node = tensor.grad_fn
    if node is not None:
        suffixes.append(f"grad_fn=<{node.name()}>")
    elif tensor.requires_grad:
        suffixes.append("requires_grad=True")
    return _with_suffixes(prefix + tensor_text(array, len(prefix)), suffixes, len(prefix))


_PLAIN = ("Tensor", "Parameter")


def _with_suffixes(body: str, suffixes: list[str], indent: int) -> str:
    parts = [body]
    width = len(body) - body.rfind("\n") + 1
    for suffix in suffixes:
        length = len(suffix.replace("tensorlib.", "torch."))  # lines break where PyTorch's do
        if width + length + 2 > options.linewidth:
            parts.append(",\n" + " " * indent + suffix)
            width = indent + length
        else:
            parts.append(", " + suffix)
            width += length + 2
    return "".join(parts) + ")"
