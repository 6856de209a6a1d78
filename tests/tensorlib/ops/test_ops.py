"""Every operation on its samples: against torch, against differences, in any memory layout."""

from pathlib import Path

import numpy as np
import pytest

import tensorlib

from .inputs import Bound, In, flatten, operation
from .samples import CASES, IDS, SAMPLES

CORE = (Path(__file__).parent / "core_ops.txt").read_text().split()

# Names of core_ops.txt that are still to be built; a name that is built has to leave this list.
MISSING = {
    "bfloat16",  # of a type NumPy has not: test_bfloat16.py
}
# Their numbers are whatever the memory held.
UNSPECIFIED = {"empty"}
# Where the gradient is by definition not the derivative, or the value is NaN
NOT_DIFFERENCED = {
    ("amax", 6),  # ties share the gradient
    ("amin", 6),
    ("mean", 4),  # of nothing
    ("nn.functional.embedding", 1),  # padding_idx gets no gradient
    *(("nn.functional.ctc_loss", number) for number in range(4)),  # of logits, as in torch
    ("to", 0),  # float32 enters
    ("float", 0),
}
# torch's view refuses the strided layout
NO_STRIDES = {"view"}
# Random numbers fill memory in its own order, as in torch: test_random.py
DRAWN = {"multinomial", "nn.functional.dropout", "rand_like", "randn_like"}
TOLERANCE = {"float16": (1e-3, 1e-5), "float32": (1.3e-6, 1e-5), "float64": (1e-7, 1e-7)}


def run(library, name, number, dtype, **options):
    """Results of one sample and its bound arguments; the random stream starts anew."""
    bound = Bound(library, SAMPLES[name][number], dtype, **options)
    library.manual_seed(7)
    return flatten(operation(library, name)(*bound.args, **bound.kwargs)), bound


def differentiable(results):
    return [one for one in results if getattr(one, "requires_grad", False)]


def projections(results):
    rng = np.random.default_rng(3)
    return [rng.standard_normal(tuple(one.shape)) for one in results]


def backward(library, results):
    """Propagate one random projection of the results."""
    chosen = differentiable(results)
    loss = 0.0
    for one, weight in zip(chosen, projections(chosen), strict=True):
        loss = loss + (one * library.tensor(weight).to(one.dtype)).sum()
    if chosen:
        loss.backward()


def plain(one):
    return one.detach().numpy() if hasattr(one, "detach") else np.asarray(one)


def same(actual, expected, where):
    assert actual.shape == expected.shape, where
    assert actual.dtype == expected.dtype, where
    if actual.dtype.kind == "f":
        rtol, atol = TOLERANCE[actual.dtype.name]
        np.testing.assert_allclose(actual, expected, rtol, atol, err_msg=where)
    else:
        np.testing.assert_array_equal(actual, expected, where)


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "number"), CASES, ids=IDS)
@pytest.mark.filterwarnings("ignore")  # torch's own
def test_value_dtype_shape_and_gradient_equal_torch(name, number, dtype):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    expected, theirs = run(torch, name, number, dtype, grad=True)
    actual, ours = run(tensorlib, name, number, dtype, grad=True)
    assert len(actual) == len(expected)
    for place, (one, other) in enumerate(zip(actual, expected, strict=True)):
        assert type(one).__name__ == type(other).__name__
        where = f"result {place}"
        if name in UNSPECIFIED:
            assert plain(one).shape == plain(other).shape
            assert plain(one).dtype == plain(other).dtype
            continue
        same(plain(one), plain(other), where)
        wanted = getattr(other, "requires_grad", False)
        assert getattr(one, "requires_grad", False) == wanted, where
    backward(torch, expected)
    backward(tensorlib, actual)
    for place, (one, other) in enumerate(zip(ours.gradients(), theirs.gradients(), strict=True)):
        assert (one is None) == (other is None), f"gradient {place}"
        if one is not None:
            same(one, other, f"gradient {place}")


def moved(sample, directions, step):
    """The sample with each differentiable input moved along its direction."""
    remaining = iter(directions)

    def move(value):
        if isinstance(value, In):
            return In(value.array + step * next(remaining)) if value.grad else value
        if isinstance(value, (list, tuple)):
            return type(value)(move(item) for item in value)
        return value

    args, kwargs = sample
    return [move(value) for value in args], {key: move(value) for key, value in kwargs.items()}


@pytest.mark.filterwarnings("ignore:reduction. 'mean'")  # kl_div
@pytest.mark.parametrize(("name", "number"), CASES, ids=IDS)
def test_gradient_is_the_central_difference(name, number):
    results, bound = run(tensorlib, name, number, "float64", grad=True)
    chosen = [one for one in flatten(results) if getattr(one, "requires_grad", False)]
    if not chosen or (name, number) in NOT_DIFFERENCED:
        return
    places = [place for place, one in enumerate(results) if any(one is c for c in chosen)]
    weights = projections(chosen)
    backward(tensorlib, results)
    rng = np.random.default_rng(5)
    directions = [rng.standard_normal(tuple(leaf.shape)) for leaf in bound.leaves]
    step = 1e-6
    ends = []
    for sign in (1, -1):
        there = Bound(tensorlib, moved(SAMPLES[name][number], directions, sign * step), "float64")
        tensorlib.manual_seed(7)
        found = flatten(operation(tensorlib, name)(*there.args, **there.kwargs))
        ends.append(sum((plain(found[p]) * w).sum() for p, w in zip(places, weights, strict=True)))
    expected = (ends[0] - ends[1]) / (2 * step)
    grads = bound.gradients()
    actual = sum(
        (grad * direction).sum()
        for grad, direction in zip(grads, directions, strict=True)
        if grad is not None
    )
    assert actual == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.filterwarnings("ignore:reduction. 'mean'")  # kl_div
@pytest.mark.parametrize(("name", "number"), CASES, ids=IDS)
def test_layout_of_the_input_does_not_matter(name, number):
    if name in NO_STRIDES | UNSPECIFIED | DRAWN:
        return
    expected, packed = run(tensorlib, name, number, "float64", grad=True)
    actual, strided = run(tensorlib, name, number, "float64", grad=True, strided=True)
    for one, other in zip(actual, expected, strict=True):
        same(plain(one), plain(other), "result")
    backward(tensorlib, expected)
    backward(tensorlib, actual)
    for one, other in zip(strided.gradients(), packed.gradients(), strict=True):
        if other is None:
            assert one is None or not one.any()
        else:
            same(np.array(one, order="C"), other, "gradient")


def test_every_core_operation_that_is_built_has_a_sample():
    built = {name for name in CORE if operation(tensorlib, name) is not None} | {"bfloat16"}
    assert set(CORE) - set(SAMPLES) == MISSING
    assert MISSING - {"bfloat16"} == set(CORE) - built
