"""Every form of index: read, written with numbers and tensors, differentiated, as in torch; or a
refusal of the same kind.
"""

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl

# `t` makes an index tensor, `m` a mask
FORMS: dict[str, Callable[[Any, Any], Any]] = {
    "int": lambda t, m: 1,
    "negative": lambda t, m: -1,
    "ints": lambda t, m: (1, 2),
    "too large": lambda t, m: 5,
    "too large later": lambda t, m: (slice(None), 9),
    "too many": lambda t, m: (0, 0, 0, 0),
    "slice": lambda t, m: slice(1, None),
    "steps": lambda t, m: (slice(None), slice(None, None, 2)),
    "backwards": lambda t, m: slice(None, None, -1),
    "no step": lambda t, m: slice(None, None, 0),
    "slice of tensors": lambda t, m: slice(t(0), t(1)),
    "slice of floats": lambda t, m: slice(0.5, None),
    "ellipsis": lambda t, m: ...,
    "ellipses": lambda t, m: (..., 0, ...),
    "none": lambda t, m: None,
    "nones": lambda t, m: (None, ..., None, 1),
    "nothing": lambda t, m: (),
    "true": lambda t, m: True,
    "false": lambda t, m: False,
    "true inside": lambda t, m: (slice(None), True),
    "true and a list": lambda t, m: (slice(None), True, [0]),
    "two truths": lambda t, m: (True, True),
    "0-dim tensor": lambda t, m: t(1),
    "0-dim truth": lambda t, m: m(True),
    "list": lambda t, m: [0, 1, 1],
    "empty list": lambda t, m: [],
    "list of truths": lambda t, m: [True, False],
    "nested list": lambda t, m: [[0, 1], [1, 0]],
    "list of tensors": lambda t, m: [t([0, 1]), t([2, 0])],
    "list with a slice": lambda t, m: [slice(0, 1), 0],
    "range": lambda t, m: range(2),
    "array": lambda t, m: np.array([1, 0]),
    "numpy int": lambda t, m: np.int64(1),
    "numpy bool": lambda t, m: np.bool_(True),
    "tensor": lambda t, m: t([1, 0]),
    "matrix": lambda t, m: t([[0, 1], [1, 0]]),
    "transposed matrix": lambda t, m: (slice(None), t([[0, 1], [2, 0]]).t()),
    "out of range": lambda t, m: t([5]),
    "far negative": lambda t, m: (slice(None), t([-5])),
    "two tensors": lambda t, m: (t([0, 1]), t([2, 0])),
    "broadcast tensors": lambda t, m: (t([[0], [1]]), t([2, 0, 1])),
    "tensors that do not": lambda t, m: (t([0, 1]), t([0, 1, 2])),
    "apart": lambda t, m: (t([0, 1]), slice(None), t([3, 0])),
    "after a slice": lambda t, m: (slice(None), t([0, 2]), t([3, 0])),
    "int and list": lambda t, m: (0, slice(None), [0, 1]),
    "list and int": lambda t, m: ([0, 1], slice(None), 0),
    "list int list": lambda t, m: ([0, 1], 0, [1, 2]),
    "none between": lambda t, m: (slice(None), [0, 1], None, [0, 1]),
    "ellipsis between": lambda t, m: (t([0, 1]), t([1, 2]), ..., t([0, 3])),
    "mask": lambda t, m: m([True, False]),
    "mask of two": lambda t, m: m([[True, False, True], [False, True, True]]),
    "mask later": lambda t, m: (0, m([True, False, True])),
    "mask and int": lambda t, m: (m([True, False]), 0),
    "mask and tensor": lambda t, m: (m([True, True]), t([0, 2])),
    "wrong mask": lambda t, m: m([True, False, True]),
    "wrong masks": lambda t, m: m([[True, False], [True, True]]),
    "float": lambda t, m: 1.0,
    "word": lambda t, m: "a",
    "dict": lambda t, m: {},
    "float tensor": lambda t, m: t([1.0]),
}


def index_for(lib: Any, name: str) -> Any:
    return FORMS[name](lib.tensor, lib.tensor)


def outcome(call: Callable[[], Any]) -> Any:
    """The result as numbers, or the exception."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            first, *others = call()
            steps = first.stride() if first.numel() and 1 not in first.shape else None
            return steps, [(tuple(t.shape), t.tolist()) for t in (first, *others)]
        except Exception as error:  # every refusal is an outcome here
            return error


def compare(ours: Any, theirs: Any) -> None:
    if "INTERNAL ASSERT" in str(theirs):
        return  # a bug of torch's, as it says itself
    if isinstance(theirs, Exception):
        assert isinstance(ours, type(theirs)), f"{ours!r}; torch: {theirs!r}"
    else:
        assert ours == theirs


def numbered(lib: Any, *size: int) -> Any:
    return lib.arange(float(np.prod(size))).reshape(size).clone().requires_grad_()


def graded(lib: Any, output: Any, *inputs: Any) -> Any:
    weights = lib.arange(float(output.numel())).reshape(output.shape) + 1
    return lib.autograd.grad((output * weights).sum(), inputs)


def read(lib: Any, name: str, layout: str) -> Any:
    x = numbered(lib, 2, 3, 4)
    seen = x if layout == "row-major" else x.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    found = seen[index_for(lib, name)]
    return (found, *graded(lib, found, x)) if found._is_view() == (found._base is not None) else ()


def write_number(lib: Any, name: str) -> Any:
    x = numbered(lib, 2, 3, 4)
    y = x * 1
    y[index_for(lib, name)] = 5
    return y, *graded(lib, y, x)


def write_tensor(lib: Any, name: str, lead: int) -> Any:
    x = numbered(lib, 2, 3, 4)
    y = x * 1
    place = index_for(lib, name)
    shape = y.detach()[place].shape
    value = numbered(lib, *(1,) * lead, *shape)
    y[place] = value
    return (y, *graded(lib, y, x, value)) if value.numel() else (y,)


def put(lib: Any, name: str, accumulate: bool) -> Any:
    x = numbered(lib, 2, 3, 4)
    place = index_for(lib, name)
    place = place if isinstance(place, tuple) else (place,)
    value = numbered(lib, 4)
    found = x.index_put(place, value, accumulate)
    return found, *graded(lib, found, x, value)


@pytest.mark.oracle
@pytest.mark.parametrize("name", FORMS)
def test_forms_are_torchs(name: str) -> None:
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    programs: list[tuple[Any, ...]] = [
        (read, name, "row-major"),
        (read, name, "transposed"),
        (write_number, name),
        (write_tensor, name, 0),
        (write_tensor, name, 2),
        (put, name, False),
        (put, name, True),
    ]
    for program, *args in programs:
        theirs = outcome(lambda p=program, a=args: p(torch, *a))
        compare(outcome(lambda p=program, a=args: p(tl, *a)), theirs)


VALUES: dict[str, Callable[[Any], Any]] = {
    "a list": lambda lib: [1, 2, 3],
    "an array": lambda lib: np.ones(3, np.float32),
    "a numpy float": lambda lib: np.float32(3),
    "a numpy int": lambda lib: np.int64(3),
    "a word": lambda lib: "a",
    "None": lambda lib: None,
    "a truth": lambda lib: True,
    "a complex number": lambda lib: 1j,
    "a fraction": lambda lib: 2.7,
    "a large number": lambda lib: 300,
    "a 0-dim tensor": lambda lib: lib.tensor(2.7),
    "a tensor of another type": lambda lib: lib.tensor([1, 2, 3]),
    "a longer tensor": lambda lib: lib.ones(4),
    "a leading 1": lambda lib: lib.ones(1, 1, 3),
    "more dimensions": lambda lib: lib.ones(2, 3),
}


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "bool"])
@pytest.mark.parametrize("value", VALUES)
def test_values_are_taken_as_in_torch(value: str, dtype: str) -> None:
    torch = pytest.importorskip("torch", reason="compares with PyTorch")

    def write(lib: Any, place: str) -> Any:
        x = lib.zeros(4, 3, dtype=getattr(lib, dtype))
        places = {"row": 0, "rows": lib.tensor([0, 2]), "mask": x == 0}
        x[places[place]] = VALUES[value](lib)
        return (x,)

    for place in ("row", "rows", "mask"):
        compare(outcome(lambda p=place: write(tl, p)), outcome(lambda p=place: write(torch, p)))


def drawn(draw: random.Random, shape: tuple[int, ...]) -> list[Any]:
    """A random index: arrays as ("array", values)."""
    found: list[Any] = []
    wide = [draw.choice([1, 2, 3]) for _ in range(draw.randint(0, 2))]
    for n in shape:
        kind = draw.random()
        if kind < 0.3:
            found.append(slice(draw.choice([None, 0, 1]), None, draw.choice([None, 2])))
        elif kind < 0.55:
            size = [m if draw.random() < 0.7 else 1 for m in wide]
            values = np.array(
                [draw.randint(-n, n - 1) for _ in range(int(np.prod(size)))], np.int64
            )
            found.append(("array", values.reshape(size)))
        elif kind < 0.7:
            found.append(draw.randint(-n, n - 1))
        elif kind < 0.8:
            found.append(("array", np.array([draw.random() < 0.6 for _ in range(n)])))
        else:
            break
        if draw.random() < 0.15:
            found.append(draw.choice([None, True, ...]))
    return found


@pytest.mark.oracle
@pytest.mark.parametrize("seed", range(8))
def test_random_indices_are_torchs(seed: int) -> None:
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    draw = random.Random(seed)
    for _ in range(60):
        shape = tuple(draw.randint(1, 4) for _ in range(draw.randint(1, 4)))
        order = draw.sample(range(len(shape)), len(shape))
        index = drawn(draw, tuple(shape[d] for d in order))

        def run(lib: Any, shape: Any = shape, order: Any = order, index: Any = index) -> Any:
            x = numbered(lib, *shape)
            place = tuple(lib.from_numpy(i[1]) if isinstance(i, tuple) else i for i in index)
            found = x.permute(order)[place]
            y = x * 1
            y.permute(order)[place] = -1
            return found, *graded(lib, found, x), y, *graded(lib, y, x)

        compare(outcome(lambda: run(tl)), outcome(lambda: run(torch)))


def test_errors_tell_what_is_out_of_range() -> None:
    x = tl.zeros(2, 3)
    with pytest.raises(IndexError, match=r"index 5 is out of bounds.*\(2, 3\)"):
        x[:, 5]
    with pytest.raises(IndexError, match="0-dim"):
        tl.tensor(1.0)[0]
    with pytest.raises(ValueError, match="flip"):
        x[::-1]
    with pytest.raises(TypeError, match="can't assign a list"):
        x[0] = [1, 2, 3]
    with pytest.raises(RuntimeError, match=r"\[4\].*\[3\]"):
        x[0] = tl.zeros(4)
    with pytest.warns(UserWarning, match="uint8"):
        x[tl.tensor([1, 0], dtype=tl.uint8)]
