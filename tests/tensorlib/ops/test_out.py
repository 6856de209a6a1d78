"""`out=`: where results go, what is resized, what is refused."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.ops.out import direct, takes_exact_out, takes_out


@takes_out
def halves(input: tl.Tensor, *, times: int = 1) -> tl.Tensor:
    """A function of one result."""
    return input / 2 * times


@takes_exact_out
def halves_exactly(input: tl.Tensor) -> tl.Tensor:
    """A function whose `out` has the result's dtype."""
    return input / 2


@takes_out
def parts(input: tl.Tensor) -> Any:
    """A function of several results, by name."""
    return input.max(0)


def test_the_signature_shows_out_and_methods_have_none() -> None:
    assert list(inspect.signature(halves).parameters) == ["input", "times", "out"]
    assert list(inspect.signature(direct(halves)).parameters) == ["input", "times"]
    assert direct(direct) is direct


def test_the_result_is_written_into_out() -> None:
    out = tl.zeros(2)
    memory, version = out.array, out._version
    assert halves(tl.tensor([2.0, 4.0]), times=3, out=out) is out
    assert out.array is memory
    assert out._version == version + 1
    assert memory.tolist() == [3.0, 6.0]


def test_out_may_be_wider_a_view_or_the_input() -> None:
    wide = tl.zeros(2, 2, dtype=tl.float64)
    halves(tl.tensor([2.0, 4.0]), out=wide[:, 1])
    assert wide.tolist() == [[0.0, 1.0], [0.0, 2.0]]
    x = tl.tensor([2.0, 4.0])
    assert halves(x, out=x) is x
    assert x.tolist() == [1.0, 2.0]


def test_an_empty_out_is_resized_and_another_warns() -> None:
    out = tl.empty(0)
    halves(tl.tensor([2.0]), out=out)
    assert out.tolist() == [1.0]
    with pytest.warns(UserWarning, match=r"resized since it had shape \[1\]"):
        halves(tl.tensor([2.0, 4.0]), out=out)
    assert out.shape == (2,)


def test_several_results_go_into_a_tuple() -> None:
    values, indices = tl.empty(0), tl.empty(0, dtype=tl.int64)
    found = parts(tl.tensor([[1.0, 5.0], [3.0, 2.0]]), out=(values, indices))
    assert found.values is values
    assert found.indices is indices
    assert values.tolist() == [3.0, 5.0]
    assert indices.tolist() == [1, 0]


def test_nothing_is_recorded_under_no_grad() -> None:
    x, out = tl.ones(2, requires_grad=True), tl.zeros(2)
    with tl.no_grad():
        halves(x, out=out)
    assert out.tolist() == [0.5, 0.5]
    assert not out.requires_grad


def test_an_out_that_backward_needs_is_noticed() -> None:
    x, saved = tl.ones(2, requires_grad=True), tl.ones(2)
    y = (x * saved).sum()
    halves(tl.ones(2), out=saved)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


REFUSED: list[tuple[str, Callable[[], Any], type[Exception], str]] = [
    (
        "input requires grad",
        lambda: halves(tl.ones(2, requires_grad=True), out=tl.ones(2)),
        RuntimeError,
        "don't support automatic differentiation",
    ),
    (
        "out requires grad",
        lambda: halves(tl.ones(2), out=tl.ones(2, requires_grad=True)),
        RuntimeError,
        "don't support automatic differentiation",
    ),
    (
        "narrower out",
        lambda: halves(tl.ones(2), out=tl.ones(2, dtype=tl.int64)),
        RuntimeError,
        "result type .*float32 can't be cast to the desired output type .*int64",
    ),
    (
        "exact dtype",
        lambda: halves_exactly(tl.ones(2), out=tl.ones(2, dtype=tl.float64)),
        RuntimeError,
        "Expected out tensor to have dtype .*float32, but got .*float64",
    ),
    ("no tensor", lambda: halves(tl.ones(2), out=np.ones(2)), TypeError, "must be Tensor"),
    ("a tuple for one", lambda: halves(tl.ones(2), out=(tl.ones(2),)), TypeError, "must be Tensor"),
    ("one for several", lambda: parts(tl.ones(2), out=tl.ones(2)), TypeError, "a tuple of 2"),
    ("too few", lambda: parts(tl.ones(2), out=(tl.ones(2),)), TypeError, "a tuple of 2"),
    (
        "expanded out",
        lambda: halves(tl.ones(2), out=tl.ones(1).expand(2)),
        RuntimeError,
        "single memory location",
    ),
]


@pytest.mark.parametrize(
    ("call", "kind", "text"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_refused(call: Callable[[], Any], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()


def test_an_expanded_tensor_is_not_changed_in_place() -> None:
    with pytest.raises(RuntimeError, match="single memory location"):
        tl.ones(1).expand(3).add_(1)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.sum(axis=0, keepdims=True),
        lambda x: tl.sum(x, axis=0, keepdims=True),
        lambda x: tl.sum(x, axis=0, keepdims=True, out=tl.empty(0)),
        lambda x: tl.unsqueeze(x[0] + x[1], axis=0),
        lambda x: tl.add(a=x[:1], x2=x[1:]),
    ],
)
def test_numpys_names_of_arguments(call: Callable[[Any], Any]) -> None:
    assert call(tl.tensor([[1.0, 2.0], [3.0, 5.0]])).tolist() == [[4.0, 7.0]]


def test_other_names_are_refused() -> None:
    for call in (lambda: tl.ones(2).sum(axes=0), lambda: tl.sum(tl.ones(2), axes=0)):
        with pytest.raises(TypeError, match="unexpected keyword argument 'axes'"):
            call()
