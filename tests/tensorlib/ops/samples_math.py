"""Samples: creation, dtype, elementwise, reduction, matrix."""

from .inputs import D, b, f, far, i, lit, pos, restart, s

restart(20)

NAN = lit([1.0, float("nan"), float("inf"), -float("inf")])
HALVES = lit([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])


def unary(make=f):
    """A matrix, a zero-dim, an empty and a three-dim input."""
    return [s(make(3, 4)), s(make()), s(make(0, 3)), s(make(2, 3, 2))]


def binary(left=f, right=f):
    """Same shapes, broadcasting both ways, a number, zero-dim, empty."""
    return [
        s(left(3, 4), right(3, 4)),
        s(left(3, 1), right(2, 1, 4)),
        s(left(2, 3), 2.5),
        s(left(2, 3), right()),
        s(left(0, 3), right(1, 3)),
    ]


def compared():
    return [
        s(i(3, 3, 4), i(3, 3, 4)),
        s(f(3, 1), f(4)),
        s(i(3, 4), 1),
        s(i(3, 4), 1.5),
        s(NAN, NAN),
        s(f(0), f(0)),
    ]


CREATION = {
    "arange": [s(5), s(2, 7), s(1, 9, 3), s(0.0, 1.0, 0.3), s(5, 0, -2), s(4, dtype=D("float64"))],
    "zeros": [s(2, 3), s((2, 0)), s(()), s(3, dtype=D("int64"))],
    "ones": [s(2, 3), s((2, 0)), s(()), s(3, dtype=D("bool"))],
    "full": [s((2, 3), 1.5), s((2,), 3), s((), True), s((2,), 3, dtype=D("float64"))],
    "eye": [s(3), s(2, 4), s(3, dtype=D("int64"))],
    "linspace": [s(0, 1, 7), s(-3.0, 3.0, 1), s(2, 1, 5, dtype=D("float64"))],
    "zeros_like": [s(f(2, 3)), s(i(3, 2)), s(f(2), dtype=D("int32"))],
    "ones_like": [s(f(2, 3)), s(i(3, 2)), s(f(2), dtype=D("int32"))],
    "full_like": [s(f(2, 3), 2.5), s(i(3, 2), 3)],
    "empty": [s(2, 3), s((0, 2)), s(3, dtype=D("int64"))],
    "new_zeros": [s(f(2), (3, 2)), s(i(3, 2), 4), s(f(2), 2, dtype=D("bool"))],
    "rand_like": [s(f(2, 3)), s(f(20))],
    "randn": [s(2, 3), s(17), s((5, 5))],
    "randn_like": [s(f(2, 3)), s(f(20))],
    "randint": [s(10, (5,)), s(-3, 4, (2, 6))],
    "bernoulli": [s(f(4, 5, lo=0, hi=1, grad=False))],
    "multinomial": [s(pos(5), 3), s(pos(2, 5), 4), s(pos(4), 9, replacement=True)],
    "to": [s(f(2, 3), D("float64")), s(f(2), D("int32")), s(f(3), "cpu"), s(i(4, 2), f(2))],
    "float": [s(f(3)), s(i(4, 3)), s(b(3))],
    "half": [s(f(3, grad=False)), s(i(4, 3))],
    "int": [s(f(3)), s(b(3))],
    "long": [s(f(3)), s(b(3))],
    "bool": [s(f(3)), s(i(2, 3))],
    "clone": unary(),
    "contiguous": unary(),
    "item": [s(f()), s(f(1, 1)), s(i(9)), s(b())],
}

ELEMENTWISE = {
    "add": [*binary(), s(i(5, 3), i(5, 3)), s(i(5, 3), f(3)), s(f(3), f(3), alpha=2), s(b(3), 1)],
    "sub": [*binary(), s(i(5, 3), 2), s(f(3), f(3), alpha=0.5)],
    "mul": [*binary(), s(i(5, 3), 1.5), s(b(3), f(3))],
    "div": [*binary(f, pos), s(i(9, 4), i(5, 4, low=1))]
    + [s(f(3, 4), pos(4), rounding_mode=mode) for mode in (None, "floor", "trunc")]
    + [s(i(9, 4, low=-9), i(5, 4, low=1), rounding_mode="floor")],
    "remainder": [s(f(3, 4), pos(3, 4)), s(f(3), -0.7), s(i(9, 4, low=-9), 4), s(f(2, 1), pos(3))],
    "pow": [*binary(pos, f), s(f(3), 2), s(f(3), 3.0), s(2.0, f(3)), s(i(4, 3), 2), s(pos(3), 0)],
    "__radd__": [s(f(2, 3), 2), s(i(4, 2), 1.5)],
    "__rsub__": [s(f(2, 3), 2), s(i(4, 2), 1.5)],
    "__rmul__": [s(f(2, 3), 2), s(i(4, 2), 1.5)],
    "__rdiv__": [s(pos(2, 3), 2), s(i(4, 2, low=1), 3)],
    "neg": [*unary(), s(i(5, 3))],
    "abs": [*unary(far), s(i(5, 3, low=-5))],
    "sign": [*unary(far), s(i(3, 3, low=-2)), s(lit([0.0, -0.0]))],
    "exp": [*unary(), s(i(3, 3))],
    "log": [*unary(pos), s(i(5, 3, low=1))],
    "log1p": unary(pos),
    "sqrt": [*unary(pos), s(i(5, 3))],
    "rsqrt": unary(pos),
    "square": [*unary(), s(i(5, 3))],
    "reciprocal": [*unary(pos), s(i(5, 3, low=1))],
    "sin": [*unary(), s(i(5, 3))],
    "cos": unary(),
    "tanh": unary(),
    "sigmoid": [*unary(), s(lit([-800.0, 0.0, 800.0], grad=True)), s(i(3, 4))],
    "erf": unary(),
    "floor": [*unary(far), s(i(4, 3))],
    "ceil": [*unary(far), s(i(4, 3))],
    "round": [*unary(far), s(HALVES), s(far(5), decimals=1), s(i(4, 3))],
    "clamp": [
        s(far(3, 4), -0.2, 0.2),
        s(far(5), min=0.12),
        s(far(5), max=0.12),
        s(far(3, 4), far(4), pos(3, 1)),
        s(i(9, 5), 2, 6),
        s(f(0), 0, 1),
    ],
    "maximum": [s(far(3, 4), far(4)), s(i(5, 3), i(5, 3)), s(NAN, lit([0.0] * 4))],
    "minimum": [s(far(3, 4), far(4)), s(i(5, 3), i(5, 3)), s(NAN, lit([0.0] * 4))],
    "lerp": [s(f(3, 4), f(4), 0.3), s(f(3, 4), f(3, 1), f(4)), s(f(3), f(3), 0.8)],
    "addcmul": [s(f(3, 4), f(4), f(3, 1)), s(f(3), f(3), f(3), value=0.5)],
    "addcdiv": [s(f(3, 4), f(4), pos(3, 1)), s(f(3), f(3), pos(3), value=0.5)],
    **{name: [s(NAN), s(i(3, 4)), s(f(2, 3))] for name in ("isnan", "isinf", "isfinite")},
    **{name: compared() for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "logical_and": [s(b(3, 4), b(4)), s(i(2, 5), f(5, grad=False))],
    "logical_or": [s(b(3, 4), b(4))],
    "logical_not": [s(b(3, 4)), s(i(2, 5)), s(f(3, grad=False))],
}


def reduced(make=f, *, empty=True):
    """No dim, one, negative, several, kept, zero-dim, and empty where torch takes it."""
    found = [s(make(3, 4)), s(make(3, 4), 1), s(make(2, 3, 4), -2, keepdim=True), s(make())]
    return [*found, s(make(0, 3), 0)] if empty else found


def several(make=f):
    return [s(make(2, 3, 4), (0, -1)), s(make(2, 3, 4), dim=(0, 1), keepdim=True)]


REDUCTION = {
    "sum": [*reduced(), *several(), s(i(5, 3, 2)), s(b(3, 2), 0), s(f(3), dtype=D("float64"))],
    "mean": [*reduced(), *several(), s(i(5, 4), dtype=D("float32"))],
    "prod": [*reduced(pos), s(i(4, 3, 2)), s(lit([2.0, 0.0, 3.0], grad=True)), s(i(4, 3, 2), -1)],
    "std": [*reduced(empty=False)[:3], *several(), s(f(3, 4), dim=0, correction=0)],
    "var": [*reduced(empty=False)[:3], *several(), s(f(3, 4), 0, unbiased=False)],
    "var_mean": [*reduced(empty=False)[:3], *several(), s(f(3, 4), dim=0, correction=2)],
    "max": [*reduced(far, empty=False), s(far(3, 4), far(4)), s(i(5, 3, 2)), s(NAN)],
    "min": [*reduced(far, empty=False), s(far(3, 4), far(4)), s(i(5, 3, 2)), s(NAN)],
    "amax": [*reduced(far, empty=False), *several(far), s(lit([2.0, 2.0, 1.0], grad=True))],
    "amin": [*reduced(far, empty=False), *several(far), s(lit([1.0, 2.0, 1.0], grad=True))],
    "argmax": [*reduced(far, empty=False), s(lit([1, 3, 3]))],
    "argmin": [*reduced(far, empty=False), s(lit([1, 3, 1]))],
    "all": [*reduced(b), s(i(2, 3, 2), 0)],
    "any": [*reduced(b), s(i(2, 3, 2), 0)],
    "logsumexp": [s(f(3, 4), 1), s(f(2, 3, 4), (0, -1), keepdim=True), s(lit([1e4, 1e4]), 0)],
    "norm": [
        s(f(3, 4)),
        s(f(3, 4), 2, 1),
        s(far(3, 4), 1, -1, True),
        s(far(3, 4), float("inf"), 0),
        s(f(2, 3, 4), p="fro", dim=(0, 2)),
        s(pos(5), 3),
    ],
    "cumsum": [s(f(3, 4), 0), s(f(3, 4), -1), s(i(5, 4), 0), s(f(0), 0), s(b(4), 0), s(f(), 0)],
    "sort": [
        s(far(3, 4)),
        s(far(3, 4), 0),
        s(far(5), descending=True),
        s(far(0)),
        s(i(3, 9), stable=True),
        s(i(3, 9), stable=True, descending=True, dim=0),
    ],
    "argsort": [s(far(3, 4)), s(far(3, 4), 0, True), s(i(3, 9), stable=True)],
    "topk": [s(far(3, 6), 2), s(far(6, 2), 3, 0), s(far(5), 2, largest=False), s(far(3, 6), 6, -1)],
}

MATRIX = {
    "mm": [
        s(f(3, 4), f(4, 2)),
        s(f(0, 3), f(3, 2)),
        s(f(2, 0), f(0, 3)),
        s(i(5, 2, 3), i(5, 3, 2)),
    ],
    "bmm": [s(f(2, 3, 4), f(2, 4, 5)), s(f(0, 3, 4), f(0, 4, 5))],
    "matmul": [
        s(f(4), f(4)),
        s(f(3, 4), f(4)),
        s(f(4), f(4, 2)),
        s(f(3, 4), f(4, 2)),
        s(f(2, 1, 3, 4), f(5, 4, 2)),
        s(f(4), f(2, 4, 3)),
        s(f(2, 3, 4), f(4)),
        s(i(5, 3), i(5, 3)),
    ],
    "addmm": [s(f(3, 2), f(3, 4), f(4, 2)), s(f(2), f(3, 4), f(4, 2), beta=0.5, alpha=2)],
    "baddbmm": [s(f(2, 3, 5), f(2, 3, 4), f(2, 4, 5)), s(f(5), f(2, 3, 4), f(2, 4, 5), alpha=2)],
    "outer": [s(f(3), f(4)), s(i(5, 2), i(5, 3))],
    "einsum": [
        s("ij,jk->ik", f(3, 4), f(4, 2)),
        s("bij,bjk", f(2, 3, 4), f(2, 4, 2)),
        s("ii->i", f(3, 3)),
        s("ij->", f(3, 4)),
        s("...ij,...jk->...ik", f(2, 3, 4), f(4, 2)),
        s("i,j,k->kji", f(2), f(3), f(4)),
        s("ii", f(3, 3)),
    ],
    "linalg.vector_norm": [
        s(f(3, 4)),
        s(far(3, 4), 1, 0),
        s(f(2, 3, 4), 2, (0, -1), True),
        s(far(3, 4), float("inf"), -1),
        s(far(5), -float("inf")),
        s(far(5), 0),
        s(pos(5), 3),
    ],
    "linalg.norm": [
        s(f(3, 4)),
        s(f(5), 1),
        s(f(3, 4), "fro"),
        s(f(3, 4), dim=1),
        s(far(3, 4), 1),
        s(far(3, 4), float("inf")),
        s(f(3, 4), 2),
    ],
}

SAMPLES = {**CREATION, **ELEMENTWISE, **REDUCTION, **MATRIX}
