"""What optimizers refuse: torch's exceptions and words."""

import pytest

import tensorlib
from tensorlib import nn, optim


def parameter(*size):
    return nn.Parameter(tensorlib.ones(*(size or (1,))))


def with_grad(*size):
    param = parameter(*size)
    param.grad = tensorlib.ones_like(param)
    return param


def complex_parameter():
    param = nn.Parameter(tensorlib.ones(2, 2).to(tensorlib.complex64))
    param.grad = tensorlib.ones_like(param).detach()
    return param


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: optim.SGD([parameter()], lr=-1), ValueError, "Invalid learning rate: -1"),
        (lambda: optim.SGD([parameter()], lr=float("nan")), ValueError, "learning rate"),
        (lambda: optim.SGD([parameter()], momentum=-1), ValueError, "Invalid momentum value: -1"),
        (lambda: optim.SGD([parameter()], nesterov=True), ValueError, "Nesterov momentum requires"),
        (lambda: optim.Adam([parameter()], betas=(1.0, 0.9)), ValueError, "beta parameter at"),
        (lambda: optim.Adam([parameter()], betas=(0, 0.9)), ValueError, "both floats or both Ten"),
        (lambda: optim.Adam([parameter()], eps=-1), ValueError, "Invalid epsilon"),
        (lambda: optim.Adam([parameter()], weight_decay=-1), ValueError, "Invalid weight_decay"),
        (lambda: optim.SGD([]), ValueError, "empty parameter list"),
        (lambda: optim.SGD(parameter()), TypeError, "should be an iterable of Tensors or dicts"),
        (lambda: optim.SGD([1]), TypeError, "one of the params is int"),
        (lambda: optim.SGD([{"params": {parameter()}}]), TypeError, "ordered collections"),
        (lambda: optim.SGD([parameter() * 2]), ValueError, "non-leaf"),
        (lambda: optim.SGD([("a", parameter()), parameter()]), ValueError, "names are missing"),
        (lambda: optim.SGD([parameter()], differentiable=True), NotImplementedError, "differ"),
        (
            lambda: optim.SGD([parameter()]).add_param_group(
                {"params": [parameter()], "differentiable": True}
            ),
            NotImplementedError,
            "differentiable=True",
        ),
        (
            lambda: optim.SGD([parameter()], fused=True, differentiable=True),
            RuntimeError,
            "`fused` does not support `differentiable`",
        ),
        (
            lambda: optim.Adagrad([parameter()], fused=True, foreach=True),
            RuntimeError,
            "`fused` and `foreach` cannot be `True` together",
        ),
        (lambda: optim.SGD([parameter()]).add_param_group([1]), TypeError, "must be a dict"),
        (
            lambda: optim.Adam([with_grad()], capturable=True).step(),
            AssertionError,
            "If capturable=True, params and state_steps must be on supported devices",
        ),
        (
            lambda: optim.Adam([complex_parameter()], fused=True).step(),
            RuntimeError,
            "`fused=True` requires all the params to be floating point",
        ),
        (
            lambda: optim.Adafactor([complex_parameter()]).step(),
            RuntimeError,
            "Adafactor does not support complex",
        ),
        (
            lambda: optim.Muon([complex_parameter()]).step(),
            RuntimeError,
            "Muon does not support complex",
        ),
        (lambda: optim.Muon([parameter(3)]), ValueError, "Muon only supports 2D parameters"),
        (lambda: optim.Muon([with_grad(2, 2)], ns_steps=100).step(), ValueError, "less than 100"),
        (lambda: optim.SparseAdam([with_grad()]).step(), RuntimeError, "dense gradients"),
        (lambda: optim.SparseAdam([parameter()], lr=0), ValueError, "Invalid learning rate: 0"),
        (
            lambda: optim.LBFGS([{"params": parameter()}, {"params": parameter()}]),
            ValueError,
            "doesn't support per-parameter options",
        ),
        (
            lambda: optim.LBFGS([with_grad()], line_search_fn="x").step(lambda: 1.0),
            RuntimeError,
            "only 'strong_wolfe' is supported",
        ),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_parameters_given_twice():
    param = parameter()
    with pytest.raises(ValueError, match="more than one parameter group"):
        optim.SGD([{"params": [param]}, {"params": [param]}])
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optim.SGD([param, param])


def test_a_tensor_that_keeps_its_gradient_can_be_optimized():
    result = parameter() * 2
    result.retain_grad()
    optim.SGD([result])
