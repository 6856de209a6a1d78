"""Samples: shape and indexing."""

from .inputs import b, f, far, i, lit, pos, restart, s

restart(22)

SHAPE = {
    "reshape": [s(f(3, 4), (2, 6)), s(f(3, 4), (-1,)), s(f(0, 3), (3, 0)), s(f(), (1, 1))],
    "view": [s(f(3, 4), (2, 6)), s(f(3, 4), -1), s(f(3, 4), 4, 3), s(f(0, 3), (3, 0))],
    "flatten": [s(f(2, 3, 4)), s(f(2, 3, 4), 1), s(f(2, 3, 4), 0, -2), s(f())],
    "unflatten": [s(f(6, 4), 0, (2, 3)), s(f(2, 6), -1, (-1, 2))],
    "squeeze": [s(f(1, 3, 1)), s(f(1, 3, 1), -1), s(f(1, 3, 1), 1), s(f(1, 1, 2), (0, 1)), s(f())],
    "unsqueeze": [s(f(3, 4), 0), s(f(3, 4), -1), s(f(), 0), s(f(0, 2), 1)],
    "transpose": [s(f(2, 3, 4), 0, 2), s(f(2, 3, 4), -1, -2), s(f(2, 0), 0, 1)],
    "t": [s(f(2, 3)), s(f(3)), s(f())],
    "T": [s(f(2, 3))],
    "mT": [s(f(2, 3)), s(f(2, 3, 4))],
    "permute": [s(f(2, 3, 4), (2, 0, 1)), s(f(2, 3, 4), (-1, 0, 1)), s(f(), ())],
    "expand": [s(f(3, 1), 3, 4), s(f(3), (2, -1)), s(f(), (2,)), s(f(1, 3), 0, 3)],
    "expand_as": [s(f(3, 1), f(3, 4)), s(f(1), f(2, 2))],
    "broadcast_to": [s(f(3, 1), (2, 3, 4)), s(f(), (2,))],
    "broadcast_tensors": [s(f(3, 1), f(4)), s(f(), f(2, 2))],
    "repeat": [s(f(2, 3), 2, 1), s(f(3), (2, 2)), s(f(), 3), s(f(2), 0)],
    "repeat_interleave": [s(f(2, 3), 2), s(f(2, 3), 2, 1), s(f(3, 2), lit([1, 0, 2]), dim=0)],
    "cat": [
        s([f(2, 3), f(1, 3)]),
        s([f(2, 3), f(2, 2)], -1),
        s([f(0), f(2, 3)]),
        s([i(4, 2), f(2)]),
    ],
    "stack": [s([f(2, 3), f(2, 3)]), s([f(2, 3), f(2, 3)], -1), s([f(), f()])],
    "split": [s(f(5, 2), 2), s(f(5, 2), [1, 4]), s(f(2, 5), 3, -1)],
    "chunk": [s(f(5, 2), 2), s(f(2, 6), 4, 1)],
    "unbind": [s(f(3, 2)), s(f(3, 2), -1)],
    "narrow": [s(f(5, 2), 0, 1, 3), s(f(2, 5), -1, 2, 0)],
    "select": [s(f(3, 4), 0, 1), s(f(3, 4), -1, -1)],
    "flip": [s(f(3, 4), (0,)), s(f(3, 4), (0, -1)), s(f(0, 2), (0,))],
    "roll": [s(f(3, 4), 1), s(f(3, 4), -1, 1), s(f(3, 4), (1, 2), (0, 1))],
    "diag": [s(f(3)), s(f(3, 4)), s(f(3, 4), 1), s(f(2), -1)],
    "diagonal": [s(f(3, 4)), s(f(2, 3, 4), -1, 1, 2), s(f(3, 3), offset=1)],
    "tril": [s(f(3, 4)), s(f(2, 3, 3), 1), s(f(3, 3), -1), s(i(4, 3, 3))],
    "triu": [s(f(3, 4)), s(f(2, 3, 3), 1), s(f(3, 3), -1), s(b(3, 3))],
    "unfold": [s(f(7, 2), 0, 3, 2), s(f(2, 6), -1, 2, 1)],
    "meshgrid": [s(f(2), f(3), indexing="ij"), s(f(2), f(3), f(2), indexing="xy")],
}

ROWS = lit([2, 0, 2])
MASK = lit([[True, False, True], [False, False, True]])
WHERE = lit([[0, 1, 2], [2, 0, 1]])

INDEXING = {
    "__getitem__": [s(f(4, 5), index) for index in (0, -1, slice(1, 3), slice(None, None, 2), None)]
    + [s(f(4, 5), index) for index in (Ellipsis, (Ellipsis, 1), (slice(None), None, 2), ROWS)]
    + [s(f(4, 5), index) for index in ((slice(None), ROWS), (ROWS, lit([0, 4, 4])), [0, 3])]
    + [s(f(2, 3), MASK), s(f(4, 5, 2), (ROWS, slice(None), lit([0, 1, 1]))), s(f(2), lit(1))]
    + [s(f(2, 3), (lit([True, False]), 1)), s(f(3), slice(3, None)), s(f(3, 2), lit([[0], [2]]))],
    "index_select": [s(f(3, 4), 0, ROWS), s(f(2, 3), -1, ROWS), s(f(3), 0, lit([1]))],
    "index_put": [
        s(f(3, 4), (ROWS, lit([0, 1, 2])), f(3)),
        s(f(3), (lit([0, 1]),), f()),
        s(f(3, 4), (ROWS,), f(3, 4), True),
        s(f(2, 3), (MASK,), f(3)),
    ],
    "index_add": [s(f(3, 4), 0, ROWS, f(3, 4)), s(f(2, 3), -1, ROWS, f(2, 3), alpha=0.5)],
    "gather": [s(f(3, 3), 0, WHERE), s(f(2, 4), 1, WHERE), s(f(2, 4), -1, lit([[0], [3]]))],
    "scatter": [
        s(f(3, 3), 0, WHERE, f(2, 3)),
        s(f(2, 3), 1, WHERE, 2.5),
        s(f(2, 5), -1, WHERE, f(2, 3)),
    ],
    "scatter_add": [
        s(f(3, 3), 0, lit([[0, 1, 2], [0, 0, 1]]), f(2, 3)),
        s(f(2, 4), -1, WHERE, f(2, 3)),
    ],
    "scatter_reduce": [
        s(far(3), 0, ROWS, pos(3), mode, include_self=own)
        for mode in ("sum", "mean", "amax", "amin", "prod")
        for own in (True, False)
    ],
    "masked_fill": [s(f(2, 3), MASK, 1.5), s(f(4, 2, 3), MASK, f()), s(i(3, 2, 3), MASK, 7)],
    "masked_select": [s(f(2, 3), MASK), s(f(4, 2, 3), MASK), s(f(2, 1), MASK)],
    "where": [s(MASK, f(2, 3), f(3)), s(MASK, 1.0, f(3)), s(MASK, i(4, 3), f(3)), s(MASK)],
    "nonzero": [s(MASK), s(i(2, 3, 2)), s(f(0, 2, grad=False)), s(lit([1.0, 0.0]), as_tuple=True)],
}

SAMPLES = {**SHAPE, **INDEXING}
