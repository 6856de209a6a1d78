"""The tape: accumulation, freeing, hooks, custom functions, depth."""

import pytest

import tensorlib


def test_gradients_accumulate_until_cleared():
    x = tensorlib.tensor([1.0, 2.0], requires_grad=True)
    (x * 3).sum().backward()
    (x * x).sum().backward()
    assert x.grad.tolist() == [5, 7]
    x.grad = None
    (x * 2).sum().backward()
    assert x.grad.tolist() == [2, 2]


def test_a_tensor_used_twice_gets_both_contributions():
    x = tensorlib.tensor(3.0, requires_grad=True)
    y = x * x
    (y * x + y).backward()
    assert x.grad.item() == 3 * 9 + 2 * 3


def test_second_backward_needs_retain_graph():
    x = tensorlib.ones(2, requires_grad=True)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.tolist() == [4, 4]
    with pytest.raises(RuntimeError, match="retain_graph"):
        y.backward()


def test_backward_of_several_values_needs_a_gradient():
    x = tensorlib.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="scalar"):
        (x * 2).backward()
    (x * 2).backward(tensorlib.tensor([1.0, 10.0]))
    assert x.grad.tolist() == [2, 20]


def test_backward_without_a_graph_is_an_error():
    with pytest.raises(RuntimeError, match="grad"):
        tensorlib.ones(1).backward()


def test_no_grad_and_enable_grad():
    x = tensorlib.ones(2, requires_grad=True)
    with tensorlib.no_grad():
        assert not (x * 2).requires_grad
        assert not tensorlib.is_grad_enabled()
        with tensorlib.enable_grad():
            assert (x * 2).requires_grad
    assert (x * 2).requires_grad

    @tensorlib.no_grad()
    def decorated():
        return x * 2

    assert not decorated().requires_grad
    with pytest.raises(ZeroDivisionError), tensorlib.no_grad():
        _ = 1 / 0
    assert tensorlib.is_grad_enabled()


def test_detach_cuts_the_graph():
    x = tensorlib.tensor(3.0, requires_grad=True)
    (x.detach() * x).backward()
    assert x.grad.item() == 3


def test_grad_returns_gradients_and_leaves_grad_alone():
    x = tensorlib.tensor(3.0, requires_grad=True)
    y = tensorlib.tensor(4.0, requires_grad=True)
    middle = x * y
    found = tensorlib.autograd.grad(middle * x, [x, y, middle])
    assert [one.item() for one in found] == [24, 9, 3]
    assert x.grad is None
    unused = tensorlib.tensor(1.0, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"unused|not have been used"):
        tensorlib.autograd.grad(x * 2, unused)
    assert tensorlib.autograd.grad(x * 2, unused, allow_unused=True) == (None,)


def test_hooks_see_and_change_gradients():
    x = tensorlib.ones(2, requires_grad=True)
    y = x * 2
    seen = []
    y.register_hook(lambda grad: seen.append(grad.tolist()))
    handle = x.register_hook(lambda grad: grad * 10)
    y.sum().backward()
    assert seen == [[1, 1]]
    assert x.grad.tolist() == [20, 20]
    handle.remove()
    (x * 1).sum().backward()
    assert x.grad.tolist() == [21, 21]


def test_post_accumulate_hook_runs_after_the_gradient_is_there():
    x = tensorlib.ones(2, requires_grad=True)
    seen = []
    x.register_post_accumulate_grad_hook(lambda one: seen.append(one.grad.tolist()))
    (x * 3).sum().backward()
    assert seen == [[3, 3]]


def test_retain_grad_keeps_the_gradient_of_a_result():
    x = tensorlib.ones(2, requires_grad=True)
    y = x * 2
    y.retain_grad()
    (y * 5).sum().backward()
    assert y.grad.tolist() == [5, 5]


class Cube(tensorlib.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x)
        ctx.scale = scale
        return x * x * x * scale

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 3 * x * x * ctx.scale, None


def test_custom_function():
    x = tensorlib.tensor([1.0, 2.0], requires_grad=True)
    y = Cube.apply(x, 2)
    assert y.tolist() == [2, 16]
    y.sum().backward()
    assert x.grad.tolist() == [6, 24]


class Short(tensorlib.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        return x + y

    @staticmethod
    def backward(ctx, grad):
        return grad


def test_custom_function_with_too_few_gradients_is_an_error():
    x = tensorlib.ones(1, requires_grad=True)
    with pytest.raises(RuntimeError, match="gradient"):
        Short.apply(x, x).backward()


def test_a_graph_of_20000_nodes_needs_no_recursion():
    x = tensorlib.tensor(0.0, requires_grad=True)
    y = x
    for _ in range(20_000):
        y = y + 1
    y.backward()
    assert y.item() == 20_000
    assert x.grad.item() == 1
    del y  # the chain is freed without recursion, too


def test_requires_grad_of_integers_is_an_error():
    with pytest.raises(RuntimeError, match="float"):
        tensorlib.ones(2, dtype=tensorlib.int64, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf"):
        (tensorlib.ones(2, requires_grad=True) * 2).requires_grad_(False)
