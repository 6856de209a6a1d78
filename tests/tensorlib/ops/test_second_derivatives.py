"""create_graph=True: every operation's second derivative, and the refusal where there is none."""

import numpy as np
import pytest

import tensorlib
from tensorlib.nn import functional

from .inputs import Bound, flatten, operation
from .samples import CASES, IDS, SAMPLES


def derivatives(library, name, number):
    """First and second derivatives of a random projection; None for a sample without a gradient."""
    library.manual_seed(7)
    bound = Bound(library, SAMPLES[name][number], "float64", grad=True)
    results = flatten(operation(library, name)(*bound.args, **bound.kwargs))
    chosen = [one for one in results if getattr(one, "requires_grad", False)]
    if not chosen or not bound.leaves:
        return None
    rng = np.random.default_rng(3)

    def projected(tensors):
        parts = [
            (one * library.tensor(rng.standard_normal(tuple(one.shape))).to(one.dtype)).sum()
            for one in tensors
            if one is not None
        ]
        return sum(parts[1:], parts[0]) if parts else None

    def gradients(loss, **options):
        if loss is None or not loss.requires_grad:
            return [None] * len(bound.leaves)
        return library.autograd.grad(loss, bound.leaves, allow_unused=True, **options)

    first = gradients(projected(chosen), create_graph=True)
    second = gradients(projected(first))
    return [None if one is None else one.numpy(force=True) for one in (*first, *second)]


@pytest.mark.oracle
@pytest.mark.parametrize(("name", "number"), CASES, ids=IDS)
@pytest.mark.filterwarnings("ignore")  # torch's own
def test_second_derivative_equals_torchs(name, number):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    try:
        expected = derivatives(torch, name, number)
    except RuntimeError as error:  # torch has no second derivative either
        pytest.skip(str(error).splitlines()[0])
    actual = derivatives(tensorlib, name, number)
    assert (actual is None) == (expected is None)
    for one, other in zip(actual or (), expected or (), strict=True):
        if one is None or other is None:  # no gradient is a gradient of zeros
            assert one is None or not one.any()
            assert other is None or not other.any()
        else:
            np.testing.assert_allclose(one, other, 1e-6, 1e-7)


def test_second_derivative_of_a_network_is_the_difference_of_first_ones():
    tensorlib.manual_seed(0)
    weight = tensorlib.randn(4, 2, 3, 3, dtype=tensorlib.float64, requires_grad=True)
    scale = tensorlib.rand(4, dtype=tensorlib.float64, requires_grad=True)
    image = tensorlib.randn(3, 2, 6, 6, dtype=tensorlib.float64, requires_grad=True)

    def penalty(weight, create_graph):
        hidden = functional.conv2d(image, weight, stride=2, padding=1)
        hidden = functional.batch_norm(hidden, None, None, scale, training=True)
        score = functional.softplus(hidden).mean((1, 2, 3)).sum()
        (grad,) = tensorlib.autograd.grad(score, image, create_graph=create_graph)
        return ((grad.flatten(1).norm(2, 1) - 1) ** 2).mean()

    penalty(weight, True).backward()
    direction = tensorlib.randn(4, 2, 3, 3, dtype=tensorlib.float64)
    step = 1e-6
    ends = [
        penalty((weight + sign * step * direction).detach().requires_grad_(), False).item()
        for sign in (1, -1)
    ]
    difference = (ends[0] - ends[1]) / (2 * step)
    assert (weight.grad * direction).sum().item() == pytest.approx(difference, rel=1e-5)
    assert scale.grad is not None


def test_third_derivative():
    x = tensorlib.tensor([0.5, -1.5], dtype=tensorlib.float64, requires_grad=True)
    value = (x**4).sum()
    for _ in range(3):
        (value,) = tensorlib.autograd.grad(value.sum(), x, create_graph=True)
    tensorlib.testing.assert_close(value, 24 * x.detach())


def test_views_changed_in_place_have_second_derivatives():
    x = tensorlib.tensor([1.0, 2.0, 3.0], dtype=tensorlib.float64, requires_grad=True)
    y = x * 1
    row = y[1:]
    row.mul_(x[:2] ** 2)
    row[0] = x[2] ** 3
    loss = (y**2).sum()
    (first,) = tensorlib.autograd.grad(loss, x, create_graph=True)
    (second,) = tensorlib.autograd.grad(first.sum(), x)
    # loss = x0^2 + x2^6 + (x2 x1^2)^2
    x0, x1, x2 = x.tolist()
    assert first.tolist() == pytest.approx([2 * x0, 4 * x2**2 * x1**3, 6 * x2**5 + 2 * x2 * x1**4])
    assert second.tolist() == pytest.approx(
        [2, 12 * x2**2 * x1**2 + 8 * x2 * x1**3, 30 * x2**4 + 2 * x1**4 + 8 * x2 * x1**3]
    )


def test_gradients_of_a_function_are_differentiated_again():
    class Cube(tensorlib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return grad * 3 * x**2

    x = tensorlib.tensor(2.0, requires_grad=True)
    (first,) = tensorlib.autograd.grad(Cube.apply(x), x, create_graph=True)
    (second,) = tensorlib.autograd.grad(first, x)
    assert (first.item(), second.item()) == (12.0, 12.0)
