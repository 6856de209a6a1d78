"""Vectors of float32 as wide as the CPU's registers, for use inside tasks.

`load(address)`, `store(address, v)` and their `_part` forms (the first `n` lanes only, other lanes
zero) touch memory; `splat(x)` repeats a number; `+ - * /`, unary `-`, `fma(a, b, c) = a * b + c`
and `sqrt` work lane by lane; `times(a, b)` is a product that is rounded before anything is added.
`maximum`, `minimum` pass NaN on as PyTorch's do: a NaN in either operand gives NaN. `less(a, b)`
and its kin, and `lanes(n)` (the first n), give masks for `select(mask, a, b)`. `total(v)` adds the
lanes. `exp expm1 sigmoid tanh erf log log1p` are polynomials with errors of a few ulp.

`stream(address, v)` writes, without reading the line first, what is too large to stay in the cache
(the address divisible by BYTES); `settle(0)` at the end of a task that does so.

Scalars in memory: `load_f32 store_f32 load_i64 store_i64 load_u8 load_i32`.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import (
    intrinsic,
    lower_builtin,
    models,
    register_model,
    type_callable,
)

from tensorlib.kernels.cpu import host
from tensorlib.kernels.cpu.compiler import inner

LANES = host.blocking().lanes
BYTES = 4 * LANES

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
F32 = ir.FloatType()
VECTOR = ir.VectorType(F32, LANES)
INTS = ir.VectorType(I32, LANES)
BITS = ir.VectorType(ir.IntType(1), LANES)


class _Vector(types.Type):
    def __init__(self, name: str) -> None:
        super().__init__(name=name)


vector = _Vector(f"float32x{LANES}")
mask = _Vector(f"mask{LANES}")


@register_model(_Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, VECTOR if kind is vector else BITS)


# -- pieces of LLVM code ---------------------------------------------------------------------------


def constant(value: float) -> Any:
    """A vector of equal numbers."""
    return ir.Constant(VECTOR, [value] * LANES)


def emit_splat(builder: Any, value: Any, kind: Any = VECTOR) -> Any:
    """A vector whose lanes are all `value`."""
    undefined = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    zeros = ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, undefined, zeros)


def emit_load(builder: Any, address: Any, kind: Any = VECTOR, align: int = 4) -> Any:
    """What lies at an address, as `kind`."""
    found = builder.load(builder.inttoptr(address, kind.as_pointer()))
    found.align = align
    return found


def emit_store(builder: Any, value: Any, address: Any, align: int = 4) -> Any:
    """Put `value` at an address."""
    made = builder.store(value, builder.inttoptr(address, value.type.as_pointer()))
    made.align = align
    return made


def emit_prefetch(builder: Any, address: Any, write: bool) -> None:
    """Ask for the cache line at an address."""
    kind = ir.FunctionType(ir.VoidType(), [I8.as_pointer(), I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    numbers = [ir.Constant(I32, value) for value in (int(write), 3 if write else 2, 1)]
    builder.call(function, [builder.inttoptr(address, I8.as_pointer()), *numbers])


def emit_lanes(builder: Any, count: Any) -> Any:
    """The mask of the first `count` lanes (an i64)."""
    steps = ir.Constant(INTS, list(range(LANES)))
    return builder.icmp_signed("<", steps, emit_splat(builder, builder.trunc(count, I32), INTS))


def emit_load_part(builder: Any, address: Any, count: Any) -> Any:
    """The first `count` lanes at an address, zeros behind them."""
    at = builder.inttoptr(address, VECTOR.as_pointer())
    kind = ir.FunctionType(VECTOR, [VECTOR.as_pointer(), I32, BITS, VECTOR])
    name = f"llvm.masked.load.v{LANES}f32.p0"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    lanes = emit_lanes(builder, count)
    return builder.call(function, [at, ir.Constant(I32, 4), lanes, constant(0.0)])


def emit_store_part(builder: Any, value: Any, address: Any, count: Any) -> None:
    """Put the first `count` lanes of `value` at an address."""
    at = builder.inttoptr(address, VECTOR.as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [VECTOR, VECTOR.as_pointer(), I32, BITS])
    name = f"llvm.masked.store.v{LANES}f32.p0"
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    builder.call(function, [value, at, ir.Constant(I32, 4), emit_lanes(builder, count)])


def emit_call(builder: Any, name: str, *values: Any) -> Any:
    """An LLVM intrinsic such as `fma` on vectors."""
    kind = ir.FunctionType(VECTOR, [VECTOR] * len(values))
    full = f"llvm.{name}.v{LANES}f32"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, full), values)


# -- operators -------------------------------------------------------------------------------------


def _operator(function: Any, arity: int, emit: Any) -> None:
    @type_callable(function)
    def typer(context: Any) -> Any:
        if arity == 1:
            return lambda a: vector if a is vector else None
        return lambda a, b: vector if a is vector and b is vector else None

    @lower_builtin(function, *[vector] * arity)
    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return emit(builder, *args)


_FLAGS = ("contract", "nsz")
_operator(operator.add, 2, lambda b, x, y: b.fadd(x, y, flags=_FLAGS))
_operator(operator.sub, 2, lambda b, x, y: b.fsub(x, y, flags=_FLAGS))
_operator(operator.mul, 2, lambda b, x, y: b.fmul(x, y, flags=_FLAGS))
_operator(operator.truediv, 2, lambda b, x, y: b.fdiv(x, y))
_operator(operator.neg, 1, lambda b, x: b.fneg(x))


def _make(result: Any, arguments: tuple[Any, ...], emit: Any) -> Any:
    """An intrinsic `emit(builder, *values)` of these Numba types."""
    signature = result(*arguments)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        made = emit(builder, *args)
        return context.get_dummy_value() if signature.return_type is types.void else made

    if len(arguments) == 1:

        @intrinsic
        def one(context: Any, a: Any) -> Any:
            return signature, generate

        return one
    if len(arguments) == 2:

        @intrinsic
        def two(context: Any, a: Any, b: Any) -> Any:
            return signature, generate

        return two

    @intrinsic
    def three(context: Any, a: Any, b: Any, c: Any) -> Any:
        return signature, generate

    return three


_i64, _f32 = types.int64, types.float32

load = _make(vector, (_i64,), emit_load)
store = _make(types.void, (_i64, vector), lambda b, at, v: emit_store(b, v, at))
load_part = _make(vector, (_i64, _i64), emit_load_part)
store_part = _make(
    types.void, (_i64, vector, _i64), lambda b, at, v, n: emit_store_part(b, v, at, n)
)
splat = _make(vector, (_f32,), emit_splat)
fma = _make(vector, (vector, vector, vector), lambda b, x, y, z: emit_call(b, "fma", x, y, z))
times = _make(  # Numba lets LLVM fuse every product; the fence does not
    vector, (vector, vector), lambda b, x, y: emit_call(b, "arithmetic.fence", b.fmul(x, y))
)
sqrt = _make(vector, (vector,), lambda b, x: emit_call(b, "sqrt", x))
absolute = _make(vector, (vector,), lambda b, x: emit_call(b, "fabs", x))
less = _make(mask, (vector, vector), lambda b, x, y: b.fcmp_ordered("<", x, y))
less_equal = _make(mask, (vector, vector), lambda b, x, y: b.fcmp_ordered("<=", x, y))
equal = _make(mask, (vector, vector), lambda b, x, y: b.fcmp_ordered("==", x, y))
is_nan = _make(mask, (vector,), lambda b, x: b.fcmp_unordered("uno", x, x))
select = _make(vector, (mask, vector, vector), lambda b, m, x, y: b.select(m, x, y))
both = _make(mask, (mask, mask), lambda b, m, n: b.and_(m, n))
either = _make(mask, (mask, mask), lambda b, m, n: b.or_(m, n))
lanes = _make(mask, (_i64,), emit_lanes)


def _emit_larger(sign: str) -> Any:
    def emit(b: Any, x: Any, y: Any) -> Any:
        # y where x compares (or y is NaN), else x, which is right where x is NaN
        chosen = b.select(b.fcmp_unordered(sign, y, x), y, x)
        return b.select(b.fcmp_unordered("uno", x, x), x, chosen)

    return emit


maximum = _make(vector, (vector, vector), _emit_larger(">"))
minimum = _make(vector, (vector, vector), _emit_larger("<"))


def _halves(b: Any, v: Any, join: Any) -> Any:
    """The lanes of `v` joined pairwise, in a tree."""
    count = LANES
    while count > 1:
        count //= 2
        kind = ir.VectorType(I32, count)
        undefined = ir.Constant(v.type, ir.Undefined)
        low = b.shuffle_vector(v, undefined, ir.Constant(kind, list(range(count))))
        high = b.shuffle_vector(v, undefined, ir.Constant(kind, list(range(count, 2 * count))))
        v = join(b, low, high)
    return b.extract_element(v, ir.Constant(I32, 0))


total = _make(_f32, (vector,), lambda b, v: _halves(b, v, lambda b, x, y: b.fadd(x, y)))
largest = _make(_f32, (vector,), lambda b, v: _halves(b, v, _emit_larger(">")))

load_f32 = _make(_f32, (_i64,), lambda b, at: emit_load(b, at, F32))
store_f32 = _make(types.void, (_i64, _f32), lambda b, at, v: emit_store(b, v, at))
load_i64 = _make(_i64, (_i64,), lambda b, at: emit_load(b, at, I64, 8))
store_i64 = _make(types.void, (_i64, _i64), lambda b, at, v: emit_store(b, v, at, 8))
load_i32 = _make(_i64, (_i64,), lambda b, at: b.sext(emit_load(b, at, I32), I64))
load_u8 = _make(_i64, (_i64,), lambda b, at: b.zext(emit_load(b, at, I8, 1), I64))
store_u8 = _make(types.void, (_i64, _i64), lambda b, at, v: emit_store(b, b.trunc(v, I8), at, 1))


# -- functions -------------------------------------------------------------------------------------


def _emit_stream(b: Any, address: Any, value: Any) -> None:
    made = emit_store(b, value, address, BYTES)
    made.set_metadata("nontemporal", b.module.add_metadata([ir.Constant(I32, 1)]))


def _emit_round(b: Any, x: Any) -> Any:
    return emit_call(b, "nearbyint", x)


def _emit_scale(b: Any, x: Any, n: Any) -> Any:
    """x * 2^n for whole n in [-252, 254], in two steps so that neither factor overflows."""
    whole = b.fptosi(n, INTS)
    half = b.ashr(whole, ir.Constant(INTS, [1] * LANES))
    for part in (half, b.sub(whole, half)):
        bias = b.add(part, ir.Constant(INTS, [127] * LANES))
        factor = b.bitcast(b.shl(bias, ir.Constant(INTS, [23] * LANES)), VECTOR)
        x = b.fmul(x, factor)
    return x


def _emit_exponent(b: Any, x: Any) -> Any:
    """The exponent of a positive normal number as a float."""
    bits = b.lshr(b.bitcast(x, INTS), ir.Constant(INTS, [23] * LANES))
    return b.sitofp(b.sub(bits, ir.Constant(INTS, [127] * LANES)), VECTOR)


def _emit_mantissa(b: Any, x: Any) -> Any:
    """The mantissa of a positive normal number, in [1, 2)."""
    bits = b.and_(b.bitcast(x, INTS), ir.Constant(INTS, [0x7FFFFF] * LANES))
    return b.bitcast(b.or_(bits, ir.Constant(INTS, [0x3F800000] * LANES)), VECTOR)


_MAGIC = 1.5 * 2.0**23  # a float near it holds the whole number n in its low bits


def _emit_powers(b: Any, t: Any, steps: int) -> Any:
    """2^n of t = n + _MAGIC in two factors (one with `steps` 1): neither overflows for n in
    [-252, 254]; no conversion to integers, which NaN would make undefined.
    """
    bits = b.bitcast(t, INTS)
    if steps == 2:
        whole = b.sub(bits, ir.Constant(INTS, [0x4B400000] * LANES))
        bits = b.ashr(whole, ir.Constant(INTS, [1] * LANES))
        return _emit_power(b, bits), _emit_power(b, b.sub(whole, bits))
    return _emit_power(b, bits)


def _emit_power(b: Any, bits: Any) -> Any:
    shifted = b.shl(bits, ir.Constant(INTS, [23] * LANES))
    return b.bitcast(b.add(shifted, ir.Constant(INTS, [0x3F800000] * LANES)), VECTOR)


def _emit_times_power(b: Any, x: Any, t: Any) -> Any:
    first, second = _emit_powers(b, t, 2)
    return b.fmul(b.fmul(x, first), second)


stream = _make(types.void, (_i64, vector), _emit_stream)
settle = _make(types.void, (_i64,), lambda b, _: b.fence("seq_cst"))
rounded = _make(vector, (vector,), _emit_round)
times_power = _make(vector, (vector, vector), _emit_times_power)
power = _make(vector, (vector,), lambda b, t: _emit_powers(b, t, 1))
copysign = _make(vector, (vector, vector), lambda b, x, y: emit_call(b, "copysign", x, y))
scale_by_power = _make(vector, (vector, vector), _emit_scale)
exponent = _make(vector, (vector,), _emit_exponent)
mantissa = _make(vector, (vector,), _emit_mantissa)


@inner
def above(x, least):
    """x, or `least` where x is smaller; NaN for NaN. One instruction, where `maximum` takes four:
    for bounds that are no NaN.
    """
    return select(less(x, least), least, x)


@inner
def below(x, most):
    """x, or `most` where x is larger; NaN for NaN."""
    return select(less(most, x), most, x)


@inner
def _exp_rest(x, t):
    """e^r - 1 for r = x - (t - _MAGIC) ln 2 in [-ln 2 / 2, ln 2 / 2] (Cephes expf)."""
    n = t - splat(_MAGIC)
    r = fma(n, splat(-0.693359375), x)
    r = fma(n, splat(2.12194440e-4), r)
    s = r * r  # pairs, then their sum: the processor waits half as long as for one after the other
    p = fma(splat(1.9875691500e-4), r, splat(1.3981999507e-3))
    p = fma(p, s, fma(splat(8.3334519073e-3), r, splat(4.1665795894e-2)))
    p = fma(p, s, fma(splat(1.6666665459e-1), r, splat(5.0000001201e-1)))
    return fma(p, s, r)


@inner
def exp(x):
    """e^x; 0 and inf beyond the range, NaN for NaN."""
    x = below(above(x, splat(-104.0)), splat(88.8))
    t = fma(x, splat(1.44269504088896341), splat(_MAGIC))
    return times_power(_exp_rest(x, t) + splat(1.0), t)


@inner
def expm1(x):
    """e^x - 1, accurate near zero too."""
    x = below(above(x, splat(-17.5)), splat(88.8))
    t = fma(x, splat(1.44269504088896341), splat(_MAGIC))
    half = power(t - splat(1.0))  # 2^128 would be infinite
    found = fma(half, _exp_rest(x, t), half - splat(0.5))
    return copysign(found + found, x)  # the sign of zero


@inner
def sigmoid(x):
    """1 / (1 + e^-x)."""
    return splat(1.0) / (splat(1.0) + exp(-x))


@inner
def tanh(x):
    """Hyperbolic tangent: 1 - 2 / (e^(2 |x|) + 1), a polynomial near zero (Cephes tanhf)."""
    z = absolute(x)
    w = below(z + z, splat(20.0))
    t = fma(w, splat(1.44269504088896341), splat(_MAGIC))
    e = power(t) * (_exp_rest(w, t) + splat(1.0))
    large = splat(1.0) - splat(2.0) / (e + splat(1.0))
    s = x * x
    p = splat(-5.70498872745e-3)
    p = fma(p, s, splat(2.06390887954e-2))
    p = fma(p, s, splat(-5.37397155531e-2))
    p = fma(p, s, splat(1.33314422036e-1))
    p = fma(p, s, splat(-3.33332819422e-1))
    return copysign(select(less(z, splat(0.625)), fma(p * s, z, z), large), x)


@inner
def erf(x):
    """Error function: a polynomial near zero, 1 - e^polynomial beyond (N. Juffa, 2015)."""
    z, s = below(absolute(x), splat(4.0)), x * x
    p = fma(splat(-1.72853470e-5), z, splat(3.83197126e-4))
    q = fma(splat(-3.88396438e-3), z, splat(2.42546219e-2))
    p = fma(p, z * z, q)
    p = fma(p, z, splat(-1.06777877e-1))
    p = fma(p, z, splat(-6.34846687e-1))
    p = fma(p, z, splat(-1.28717512e-1))
    p = fma(p, z, -z)
    t = fma(p, splat(1.44269504088896341), splat(_MAGIC))
    large = splat(1.0) - power(t) * (_exp_rest(p, t) + splat(1.0))
    p = splat(-5.96761703e-4)
    p = fma(p, s, splat(4.99119423e-3))
    p = fma(p, s, splat(-2.67681349e-2))
    p = fma(p, s, splat(1.12819925e-1))
    p = fma(p, s, splat(-3.76125336e-1))
    p = fma(p, s, splat(1.28379166e-1))
    return copysign(select(less(z, splat(0.927734375)), fma(p, z, z), large), x)


@inner
def _log_rest(r):
    """log(1 + r) for r in [sqrt(1/2) - 1, sqrt(2) - 1], less r (Cephes logf)."""
    z = r * r
    p = fma(splat(7.0376836292e-2), z, fma(splat(-1.1514610310e-1), r, splat(1.1676998740e-1)))
    p = fma(p, z, fma(splat(-1.2420140846e-1), r, splat(1.4249322787e-1)))
    p = fma(p, z, fma(splat(-1.6668057665e-1), r, splat(2.0000714765e-1)))
    p = fma(p, z, fma(splat(-2.4999993993e-1), r, splat(3.3333331174e-1)))
    return fma(p * r, z, splat(-0.5) * z)


@inner
def log(x):
    """Natural logarithm: -inf at zero, NaN below."""
    tiny = less(x, splat(1.17549435e-38))
    z = select(tiny, x * splat(8388608.0), x)
    e = exponent(z) + select(tiny, splat(-23.0), splat(0.0))
    m = mantissa(z)
    large = less(splat(1.41421356), m)
    m = select(large, m * splat(0.5), m)
    e = select(large, e + splat(1.0), e)
    r = m - splat(1.0)
    y = fma(e, splat(-2.12194440e-4), _log_rest(r)) + r
    y = fma(e, splat(0.693359375), y)
    y = select(less(x, splat(np.inf)), y, x)  # infinity and NaN are their own
    y = select(equal(x, splat(0.0)), splat(-np.inf), y)
    return select(less(x, splat(0.0)), splat(np.nan), y)


@inner
def log1p(x):
    """log(1 + x) for x in [0, 1], accurate near zero too."""
    large = less(splat(0.41421356), x)
    r = select(large, fma(x, splat(0.5), splat(-0.5)), x)
    return select(large, splat(0.69314718), splat(0.0)) + (_log_rest(r) + r)
