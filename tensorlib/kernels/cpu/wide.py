"""Vectors of float64, as many as a float32 vector has lanes, for sums inside tasks.

`widen(v)`, `narrow(w)` convert; `load_wide store_wide splat_wide total_wide` and `+ - *` are as in
`vector`; `load_f64`, `store_f64` are for single numbers. `prefetch(address)` asks for a cache line
ahead of its use.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import lower_builtin, models, register_model, type_callable

from tensorlib.kernels.cpu.vector import (
    LANES,
    VECTOR,
    _make,
    _Vector,
    emit_load,
    emit_splat,
    emit_store,
    vector,
)

F64 = ir.DoubleType()
WIDE = ir.VectorType(F64, LANES)
WIDE_BYTES = 8 * LANES

_FLAGS = ("contract", "nsz")


class _Wide(_Vector):
    pass


wide = _Wide(f"float64x{LANES}")


@register_model(_Wide)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, WIDE)


def _operator(function: Any, emit: Any) -> None:
    @type_callable(function)
    def typer(context: Any) -> Any:
        return lambda a, b: wide if a is wide and b is wide else None

    @lower_builtin(function, wide, wide)
    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return emit(builder, *args)


_operator(operator.add, lambda b, x, y: b.fadd(x, y, flags=_FLAGS))
_operator(operator.sub, lambda b, x, y: b.fsub(x, y, flags=_FLAGS))
_operator(operator.mul, lambda b, x, y: b.fmul(x, y, flags=_FLAGS))

_i64, _f32, _f64 = types.int64, types.float32, types.float64


def _emit_total(b: Any, w: Any) -> Any:
    count = LANES
    while count > 1:
        count //= 2
        kind = ir.VectorType(ir.IntType(32), count)
        undefined = ir.Constant(w.type, ir.Undefined)
        low = b.shuffle_vector(w, undefined, ir.Constant(kind, list(range(count))))
        high = b.shuffle_vector(w, undefined, ir.Constant(kind, list(range(count, 2 * count))))
        w = b.fadd(low, high)
    return b.extract_element(w, ir.Constant(ir.IntType(32), 0))


def _emit_prefetch(b: Any, address: Any) -> None:
    number = ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), *[number] * 3])
    function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
    at = b.inttoptr(address, ir.IntType(8).as_pointer())
    b.call(function, [at, *(ir.Constant(number, n) for n in (0, 3, 1))])


widen = _make(wide, (vector,), lambda b, v: b.fpext(v, WIDE))
narrow = _make(vector, (wide,), lambda b, w: b.fptrunc(w, VECTOR))
load_wide = _make(wide, (_i64,), lambda b, at: emit_load(b, at, WIDE, 8))
store_wide = _make(types.void, (_i64, wide), lambda b, at, w: emit_store(b, w, at, 8))
splat_wide = _make(wide, (_f64,), lambda b, x: emit_splat(b, x, WIDE))
total_wide = _make(_f64, (wide,), _emit_total)
load_f64 = _make(_f64, (_i64,), lambda b, at: emit_load(b, at, F64, 8))
store_f64 = _make(types.void, (_i64, _f64), lambda b, at, x: emit_store(b, x, at, 8))
prefetch = _make(types.void, (_i64,), _emit_prefetch)
