"""Elementwise operations beside torch: every type, edge values, numbers, in place and `out=`."""

import itertools
from typing import Any

import pytest

import tensorlib as tl

from .beside import INF, NAN, TYPES, difference, edge_values, ours

torch: Any = pytest.importorskip("torch", reason="the oracle")
pytestmark = [
    pytest.mark.oracle,
    # torch's own, where it discards imaginary parts and resizes
    pytest.mark.filterwarnings(
        "ignore:Casting complex values", "ignore:An output with one or more"
    ),
]

UNARY = [
    "abs",
    "acos",
    "acosh",
    "angle",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "bitwise_not",
    "ceil",
    "conj",
    "conj_physical",
    "cos",
    "cosh",
    "deg2rad",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "frac",
    "frexp",
    "imag",
    "is_nonzero",
    "isfinite",
    "isinf",
    "isnan",
    "isneginf",
    "isposinf",
    "isreal",
    "log",
    "log10",
    "log1p",
    "log2",
    "logical_not",
    "nan_to_num",
    "neg",
    "positive",
    "rad2deg",
    "real",
    "reciprocal",
    "resolve_conj",
    "round",
    "rsqrt",
    "sgn",
    "sign",
    "signbit",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "tan",
    "tanh",
    "trunc",
]
BINARY = [
    "add",
    "atan2",
    "bitwise_and",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "clamp_max",
    "clamp_min",
    "copysign",
    "div",
    "eq",
    "equal",
    "float_power",
    "floor_divide",
    "fmax",
    "fmin",
    "fmod",
    "gcd",
    "ge",
    "gt",
    "heaviside",
    "hypot",
    "isclose",
    "isin",
    "lcm",
    "ldexp",
    "le",
    "logical_and",
    "logical_or",
    "logical_xor",
    "lt",
    "maximum",
    "minimum",
    "mul",
    "ne",
    "nextafter",
    "pow",
    "remainder",
    "rsub",
    "sub",
    "true_divide",
]
POWERS = ("pow", "float_power")
NUMBERS = (True, 2, 0, -1, 3.5, 0.0, NAN, INF, 2j, 300)
MAIN = ("float32", "float64", "float16", "bfloat16", "complex64", "int64", "uint8", "bool")
OUT_TYPES = ("float32", "float64", "int64", "complex64", "bool")


def undefined(kind: str, other: Any) -> bool:
    """complex32, which tensorlib has not; complex infinities, whose NaN parts differ."""
    if isinstance(other, complex):
        return kind in ("float16", "bfloat16")
    if isinstance(other, float) and other == INF:
        return kind.startswith("complex")
    return False


def nonzero(value: Any) -> Any:
    """For whole divisors."""
    if value.is_floating_point() or value.is_complex():
        return value
    return torch.where(value == 0, torch.ones_like(value), value)


@pytest.mark.parametrize("name", UNARY)
def test_unary(name: str) -> None:
    theirs, mine = getattr(torch, name), getattr(tl, name)
    wrong = {}
    for kind in TYPES:
        x = edge_values(torch, kind)
        for place, value in (("", x), ("0-dim", x[1]), ("empty", x[:0].reshape(0, 2))):
            found = difference(torch, lambda v=value: theirs(v), lambda v=value: mine(ours(v)))
            if found:
                wrong[kind, place] = found
        if hasattr(torch.Tensor, name + "_"):
            a, b = x.clone(), ours(x)
            found = difference(
                torch,
                lambda a=a: (getattr(a, name + "_")(), a),
                lambda b=b: (getattr(b, name + "_")(), b),
            )
            if found:
                wrong[kind, "in place"] = found
    assert not wrong


@pytest.mark.parametrize(
    "name",
    [n for n in UNARY if n not in ("abs", "frexp") and hasattr(getattr(tl, n), "__wrapped__")],
)
def test_unary_out(name: str) -> None:
    theirs, mine = getattr(torch, name), getattr(tl, name)
    wrong = {}
    for kind, target in itertools.product(TYPES, OUT_TYPES):
        x = edge_values(torch, kind)[:3]
        a = torch.empty(3, dtype=getattr(torch, target))
        b = ours(a)
        found = difference(
            torch,
            lambda x=x, a=a: theirs(x, out=a).dtype is a.dtype,
            lambda x=x, b=b: mine(ours(x), out=b) is b,
        )
        if found:
            wrong[kind, target] = found
    assert not wrong


@pytest.mark.parametrize("name", BINARY)
def test_binary_of_tensors(name: str) -> None:
    theirs, mine = getattr(torch, name), getattr(tl, name)
    wrong = {}
    for first, second in itertools.product(TYPES, MAIN):
        if {first, second} & {"float16"} and (first + second).count("complex"):
            continue  # complex32
        x, y = edge_values(torch, first), edge_values(torch, second, second=True)
        size = min(len(x), len(y), 4 if "complex" in first + second else 99)
        x, y = x[:size], y[:size]
        if name in POWERS and "complex" in first + second:
            x, y = x[1:3], y[1:3]  # torch's 0j ** 0j is NaN
        if name in ("floor_divide", "remainder", "fmod"):
            y = nonzero(y)
        for place, a in (("", x), ("0-dim", x[1])):
            found = difference(
                torch,
                lambda a=a, y=y: theirs(a, y),
                lambda a=a, y=y: mine(ours(a), ours(y)),
            )
            if found:
                wrong[first, second, place] = found
        if hasattr(torch.Tensor, name + "_"):
            a, b = x.clone(), ours(x)
            found = difference(
                torch,
                lambda a=a, y=y: (getattr(a, name + "_")(y), a),
                lambda b=b, y=y: (getattr(b, name + "_")(ours(y)), b),
            )
            if found:
                wrong[first, second, "in place"] = found
    assert not wrong


@pytest.mark.parametrize("name", BINARY)
def test_binary_with_a_number(name: str) -> None:
    theirs, mine = getattr(torch, name), getattr(tl, name)
    wrong = {}
    for kind, number in itertools.product(TYPES, NUMBERS):
        if undefined(kind, number):
            continue
        x = edge_values(torch, kind)[: 4 if isinstance(number, complex) else 99]
        if name in POWERS:
            x = x[:3]
        found = difference(
            torch, lambda x=x, n=number: theirs(x, n), lambda x=x, n=number: mine(ours(x), n)
        )
        if found:
            wrong[kind, number] = found
        whole = nonzero(x) if name in ("floor_divide", "remainder", "fmod") else x
        if not kind.startswith("complex") or name not in POWERS:
            found = difference(
                torch,
                lambda x=whole, n=number: theirs(n, x),
                lambda x=whole, n=number: mine(n, ours(x)),
            )
            if found:
                wrong[number, kind] = found
        if hasattr(torch.Tensor, name + "_"):
            a, b = x.clone(), ours(x)
            found = difference(
                torch,
                lambda a=a, n=number: (getattr(a, name + "_")(n), a),
                lambda b=b, n=number: (getattr(b, name + "_")(n), b),
            )
            if found:
                wrong[kind, number, "in place"] = found
    assert not wrong


MORE: list[tuple[str, Any]] = [
    ("alpha of the wrong kind", lambda t, x, i, b: t.add(i, i, alpha=1.5)),
    ("a Boolean alpha", lambda t, x, i, b: t.add(i, i, alpha=True)),
    ("a complex alpha", lambda t, x, i, b: t.add(x, x, alpha=1j)),
    ("alpha", lambda t, x, i, b: t.sub(x, i, alpha=3)),
    ("rsub alpha", lambda t, x, i, b: t.rsub(x, 2, alpha=3)),
    ("rounding mode", lambda t, x, i, b: t.div(x, 0.7, rounding_mode="trunc")),
    ("unknown rounding mode", lambda t, x, i, b: t.div(x, x, rounding_mode="up")),
    ("no rounding in true_divide", lambda t, x, i, b: t.true_divide(x, x, rounding_mode="floor")),
    ("integer division by zero", lambda t, x, i, b: t.floor_divide(i, 0)),
    ("negative integer power", lambda t, x, i, b: t.pow(i, -1)),
    ("lerp number", lambda t, x, i, b: t.lerp(x, x * 3, 0.7)),
    ("lerp tensor", lambda t, x, i, b: t.lerp(x, x * 3, x / 4)),
    ("lerp types", lambda t, x, i, b: t.lerp(x, x.double(), 0.5)),
    ("lerp integers", lambda t, x, i, b: t.lerp(i, i, 0.5)),
    ("addcmul", lambda t, x, i, b: t.addcmul(x, i, x, value=2)),
    ("addcmul bool", lambda t, x, i, b: t.addcmul(b, b, b)),
    ("addcdiv", lambda t, x, i, b: t.addcdiv(x, x, i + 9, value=0.5)),
    ("addcdiv integers", lambda t, x, i, b: t.addcdiv(x, i, i)),
    ("clamp", lambda t, x, i, b: t.clamp(x, -1, 1)),
    ("clamp tensors", lambda t, x, i, b: t.clamp(x, x - 1, x / 2)),
    ("clamp promotes", lambda t, x, i, b: t.clamp(i, min=0.5)),
    ("clamp mixed", lambda t, x, i, b: t.clamp(x, min=x, max=2)),
    ("clamp nothing", lambda t, x, i, b: t.clamp(x)),
    ("clamp bool", lambda t, x, i, b: t.clamp(b, False, True)),
    ("round decimals", lambda t, x, i, b: t.round(x * 1.2345, decimals=2)),
    ("round tens", lambda t, x, i, b: t.round(x * 123.45, decimals=-1)),
    ("round integers to decimals", lambda t, x, i, b: t.round(i, decimals=0)),
    ("nan_to_num", lambda t, x, i, b: t.nan_to_num(x / 0, nan=1.0, posinf=2.0, neginf=3.0)),
    ("isclose", lambda t, x, i, b: t.isclose(x, x + 1e-6, rtol=0, atol=1e-5)),
    ("isclose types", lambda t, x, i, b: t.isclose(x, x.double())),
    ("isclose negative", lambda t, x, i, b: t.isclose(x, x, rtol=-1)),
    ("shapes", lambda t, x, i, b: x + x[:-1]),
    ("invert floats", lambda t, x, i, b: ~x),
    ("negate bool", lambda t, x, i, b: -b),
    ("reflected", lambda t, x, i, b: (2 - i, 2 / i.abs().add(1), 2**x, 3 % (i + 9), 3 & i, 1 << b)),
    ("not a number", lambda t, x, i, b: x + "a"),
    ("compared with text", lambda t, x, i, b: x < "a"),
    ("not a tensor", lambda t, x, i, b: t.exp([1.0])),
    ("second not a tensor", lambda t, x, i, b: t.maximum(x, 1)),
    ("isin", lambda t, x, i, b: t.isin(i, i[:2], invert=True)),
    ("sum_to_size", lambda t, x, i, b: x.reshape(2, -1).sum_to_size(2, 1)),
    ("sum_to_size refused", lambda t, x, i, b: x.sum_to_size(7)),
    ("in place narrower", lambda t, x, i, b: i.add_(1.5)),
    ("in place bool", lambda t, x, i, b: b.add_(1)),
    ("in place broadcast", lambda t, x, i, b: x[0].add_(x)),
    ("in place alias", lambda t, x, i, b: (x.multiply_(2), x.subtract_(1), x.negative_(), x)),
    ("float_power_ narrows", lambda t, x, i, b: x.float_power_(2)),
    ("functions in place", lambda t, x, i, b: (t.exp_(x), x, t.clamp_(i, 0, 1), i)),
    ("apply_", lambda t, x, i, b: (x.apply_(lambda v: v * 2), x)),
]


@pytest.mark.parametrize("call", [m[1] for m in MORE], ids=[m[0] for m in MORE])
def test_arguments_and_refusals(call: Any) -> None:
    x = torch.tensor([-2.5, -1.0, -0.3, 0.0, 0.7, 3.0])
    i = torch.tensor([-3, -1, 0, 2, 5, 7])
    b = torch.tensor([True, False, True, True, False, False])
    mine = ours(x), ours(i), ours(b)
    found = difference(torch, lambda: call(torch, x, i, b), lambda: call(tl, *mine))
    assert not found
