"""A graph is freed by reference counts alone: memory never waits for the garbage collector."""

from __future__ import annotations

import gc

import pytest

import tensorlib
from tensorlib import nn
from tensorlib.utils.checkpoint import checkpoint


class TwoOutputs(tensorlib.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.exp()
        ctx.save_for_backward(x, y)
        return y, x * 2

    @staticmethod
    def backward(ctx, a, b):
        _, y = ctx.saved_tensors
        return a * y + b * 2


def second_derivative(x):
    (g,) = tensorlib.autograd.grad((x.exp() * x).sum(), x, create_graph=True)
    tensorlib.autograd.grad(g.sum(), x)


def function(x):
    a, b = TwoOutputs.apply(x)
    (a * b).sum().backward()


def in_place(x):
    y = x * 1
    v = y[1:]
    v.mul_(3)
    y.exp_()
    v.sum().backward()


def hooks(x):
    y = x * 2
    y.register_hook(lambda g: g * 2)
    y.retain_grad()
    y.sum().backward()


def parts(x):
    a, b = x.split(2)
    (a * b).sum().backward()


def packed(x):
    with tensorlib.autograd.graph.saved_tensors_hooks(lambda t: t.detach(), lambda t: t):
        y = (x.exp() * x).sum()
    y.backward()


def layers(x):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    optimizer = tensorlib.optim.Adam(model.parameters())
    nn.functional.cross_entropy(model(x.view(1, 4)), tensorlib.tensor([1])).backward()
    optimizer.step()


CASES = [
    lambda x: (x * x).sum().backward(),
    lambda x: x.exp() * x,
    lambda x: TwoOutputs.apply(x),
    lambda x: checkpoint(lambda x: x.exp().sin(), x, use_reentrant=False).sum().backward(),
    lambda x: checkpoint(lambda x: x.exp().sin(), x, use_reentrant=True).sum().backward(),
    lambda x: tensorlib.autograd.functional.jacobian(lambda x: x.exp(), x),
    lambda x: tensorlib.func.grad(lambda x: (x**3).sum())(x),
    second_derivative,
    function,
    in_place,
    hooks,
    parts,
    packed,
    layers,
]


@pytest.mark.parametrize("case", CASES)
def test_nothing_waits_for_the_garbage_collector(case):
    x = tensorlib.randn(4, requires_grad=True)
    case(x)  # caches fill
    # other threads of the process (a distributed test run's) leave garbage now and then
    assert 0 in (_garbage(case, x) for _ in range(5))


def _garbage(case, x):
    """Objects that one more run leaves to the collector."""
    gc.collect()
    gc.disable()
    try:
        case(x)
        return gc.collect()
    finally:
        gc.enable()
