"""Compiled batch norm and layer norm: errors against float64, gradients, layouts, threads."""

import numpy as np
import pytest

import tensorlib
from tensorlib import nn
from tensorlib.kernels import cpu
from tensorlib.kernels import normalization as kernels
from tensorlib.nn.fusion import norm_relu

rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def compiled_whatever_the_size(monkeypatch):
    monkeypatch.setattr(cpu, "sizes_matter", False)


@pytest.fixture
def threads():
    before = tensorlib.get_num_threads()
    yield tensorlib.set_num_threads
    tensorlib.set_num_threads(before)


def last(array):
    """The same images with their channels innermost in memory."""
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)


def spaced(array):
    """The same with other rows between, channels innermost."""
    return last(np.repeat(array, 2, 2))[:, :, ::2]


def single(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def both(x, weight, bias, residual, grad, relu):
    """Results and gradients of the layers, with the fused kernel and step by step in float64."""
    found = []
    for fused, kind in ((True, np.float32), (False, np.float64)):
        tensors = [
            None if a is None else tensorlib.tensor(a.astype(kind), requires_grad=True)
            for a in (x, weight, bias, residual)
        ]
        if fused:
            tensors[0] = tensorlib.from_numpy(x).requires_grad_()
        t, w, b, r = tensors
        mean, var = tensorlib.zeros(x.shape[1]), tensorlib.ones(x.shape[1])
        statistics = [s.to(t.dtype) for s in (mean, var)]
        if fused and relu:
            out = tensorlib.ops.normalization.batch_norm_relu(
                t, *statistics, w, b, True, residual=r
            )
        else:
            out = nn.functional.batch_norm(t, *statistics, w, b, True)
            if relu:
                out = nn.functional.relu(out if r is None else out + r)
        out.backward(tensorlib.tensor(grad.astype(kind)))
        grads = [p.grad.numpy() for p in tensors if p is not None]
        found.append([out.detach().numpy(), *grads, *(s.numpy() for s in statistics)])
    return found


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", [(3, 37, 5, 7), (2, 16, 9, 8), (5, 3, 4, 4), (33, 520, 1, 2)])
@pytest.mark.parametrize("layout", [np.ascontiguousarray, last, spaced])
def test_batch_norm_and_its_gradients(shape, layout, affine, residual, relu):
    if residual and not relu:
        pytest.skip("no such kernel")
    x, grad = layout(single(*shape) * 3 + 1), single(*shape)
    weight, bias = (single(shape[1]), single(shape[1])) if affine else (None, None)
    other = layout(single(*shape)) if residual else None
    got, truth = both(x, weight, bias, other, grad, relu)
    for one, right in zip(got, truth, strict=True):
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, right, rtol=2e-5, atol=2e-5 * np.abs(right).max())


@pytest.mark.oracle
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("offset", [0.0, 30.0, 3000.0])
def test_errors_are_within_four_times_those_of_pytorch(offset, channels_last):
    torch = pytest.importorskip("torch")
    x, grad = single(8, 24, 17, 19) + np.float32(offset), single(8, 24, 17, 19)
    weight, bias = single(24), single(24)
    wide = [torch.tensor(a.astype(np.float64), requires_grad=True) for a in (x, weight, bias)]
    truth = torch.nn.functional.batch_norm(wide[0], None, None, *wide[1:], True)
    truth.backward(torch.tensor(grad.astype(np.float64)))
    right = [truth.detach().numpy(), *(t.grad.numpy() for t in wide)]
    theirs = [torch.tensor(a, requires_grad=True) for a in (x, weight, bias)]
    if channels_last:
        moved = torch.tensor(x).to(memory_format=torch.channels_last)
        theirs[0] = moved.requires_grad_()
    out = torch.nn.functional.batch_norm(theirs[0], None, None, *theirs[1:], True)
    out.backward(torch.tensor(grad))
    peer = [out.detach().numpy(), *(t.grad.numpy() for t in theirs)]
    ours = last(x) if channels_last else x
    y, mean, invstd = kernels.batch_norm_train(ours, weight, bias, 1e-5)
    got = [y, *kernels.batch_norm_train_grad(grad, ours, mean, invstd, weight)]
    for one, other, exact in zip(got, peer, right, strict=True):
        budget = max(4 * np.abs(other - exact).max(), 4e-7 * np.abs(exact).max())
        assert np.abs(one - exact).max() <= budget


def test_an_outlier_does_not_spoil_the_variance():
    x = single(2, 16, 64, 64)
    x[0, :, 0, 0] = 1e4
    for image in (x, last(x)):
        _, mean, invstd = kernels.batch_norm_train(image, None, None, 1e-5)
        wide = x.astype(np.float64)
        np.testing.assert_allclose(mean, wide.mean((0, 2, 3)), rtol=1e-6)
        np.testing.assert_allclose(1 / invstd**2, wide.var((0, 2, 3)), rtol=2e-6)


@pytest.mark.parametrize("layout", [np.ascontiguousarray, last])
def test_threads_do_not_change_a_bit(threads, layout):
    x, grad, other = (layout(single(4, 48, 30, 31)) for _ in range(3))
    weight = single(48)
    results = []
    for count in (1, 2, 3):
        threads(count)
        y, mean, invstd = kernels.batch_norm_relu_train(x, weight, weight, 1e-5, other)
        parts = kernels.batch_norm_relu_train_grad(grad, x, y, mean, invstd, weight, weight, True)
        plain = kernels.batch_norm_train_grad(grad, x, mean, invstd, weight)
        results.append([a.tobytes() for a in (y, mean, invstd, *parts, *plain)])
    assert results[0] == results[1] == results[2]


def test_large_results_written_past_the_cache():
    x, grad = last(single(8, 64, 64, 64)), last(single(8, 64, 64, 64))
    weight = single(64)
    y, mean, invstd = kernels.batch_norm_train(x, weight, weight, 1e-5)
    expected = kernels.batch_norm_train.reference(x, weight, weight, 1e-5)[0]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    got = kernels.batch_norm_train_grad(grad, x, mean, invstd, weight)[0]
    expected = kernels.batch_norm_train_grad.reference(grad, x, mean, invstd, weight)[0]
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert y.strides == x.strides == got.strides


class Seen(nn.ReLU):
    pass


def test_layers_are_fused_only_where_nobody_looks(monkeypatch):
    calls = []
    real = tensorlib.nn.fusion.batch_norm_relu
    monkeypatch.setattr(
        tensorlib.nn.fusion, "batch_norm_relu", lambda *a: calls.append(1) or real(*a)
    )
    x = tensorlib.from_numpy(single(2, 8, 4, 4))
    plain = nn.BatchNorm2d(8)
    assert norm_relu(plain, nn.ReLU(), x).grad_fn.name() == "ReluBackward0"
    assert calls == [1]
    hooked = nn.BatchNorm2d(8)
    hooked.register_forward_hook(lambda *_: None)
    patched = nn.BatchNorm2d(8)
    patched.forward = lambda x: x
    for norm, relu in ((hooked, nn.ReLU()), (plain, Seen()), (patched, nn.ReLU())):
        norm_relu(norm, relu, x)
    with tensorlib.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        norm_relu(plain, nn.ReLU(), x)
    plain.eval()
    norm_relu(plain, nn.ReLU(), x)  # its weight wants a gradient
    assert calls == [1]
    with tensorlib.no_grad():
        norm_relu(plain, nn.ReLU(), x, x)
    assert calls == [1, 1]


def test_a_sequence_fuses_what_follows_a_batch_norm(monkeypatch):
    calls = []
    real = tensorlib.nn.fusion.batch_norm_relu
    monkeypatch.setattr(
        tensorlib.nn.fusion, "batch_norm_relu", lambda *a: calls.append(1) or real(*a)
    )
    x = tensorlib.from_numpy(single(2, 8, 4, 4))
    for layers, fused in (
        ([nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8), nn.ReLU(inplace=True)], 2),
        ([nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.GELU(), nn.ReLU()], 0),
        ([nn.ReLU(), nn.BatchNorm2d(8)], 0),
    ):
        calls.clear()
        expected = x
        for layer in layers:
            expected = layer(expected)
        assert not calls
        assert tensorlib.allclose(nn.Sequential(*layers)(x), expected, atol=1e-6)
        assert len(calls) == fused


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_fused_block_leaves_the_state_of_the_layers(training, momentum):
    states = []
    for fused in (True, False):
        norm = nn.BatchNorm2d(8, momentum=momentum)
        norm.train(training)
        generator = np.random.default_rng(1)
        with tensorlib.no_grad():
            for _ in range(3):
                x = tensorlib.from_numpy(last(generator.standard_normal((4, 8, 5, 5), np.float32)))
                y = norm_relu(norm, nn.ReLU() if fused else Seen(), x, x)
        states.append([y.numpy(), *(v.numpy() for v in norm.state_dict().values())])
    for one, other in zip(*states, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)
    assert states[0][-1] == (3 if training else 0)


def test_second_derivatives_of_the_fused_block():
    def penalty(fused):
        generator = np.random.default_rng(2)
        x, r = (
            tensorlib.tensor(generator.standard_normal((3, 4, 5, 5), np.float32)) for _ in range(2)
        )
        x.requires_grad_()
        norm = nn.BatchNorm2d(4)
        y = norm_relu(norm, nn.ReLU() if fused else Seen(), x, r)
        (g,) = tensorlib.autograd.grad((y * y).sum(), x, create_graph=True)
        (g * g).sum().backward()
        return x.grad.numpy(), norm.weight.grad.numpy()

    for one, other in zip(penalty(True), penalty(False), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def test_nan_and_infinity_pass_as_in_the_layers():
    x = single(2, 16, 8, 8)
    x[0, 3, 2, 2], x[1, 5, 0, 0] = np.nan, np.inf
    other = single(2, 16, 8, 8)
    other[0, 1, 1, 1] = np.nan
    for image in (x, last(x)):
        y, mean, _ = kernels.batch_norm_relu_train(image, None, None, 1e-5, other)
        assert np.isnan(y[:, 3]).all()
        assert np.isnan(mean[3])
        assert mean[5] == np.inf
        assert np.isnan(y[:, 5]).all()
        assert np.isnan(y[0, 1, 1, 1])
        assert np.isfinite(np.delete(y[:, :, 2:], (3, 5), 1)).all()


@pytest.mark.oracle
@pytest.mark.parametrize("shape", [(70, 37), (9, 1024), (300, 64), (3, 5000)])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_layer_norm_errors_are_within_four_times_those_of_pytorch(shape, offset):
    torch = pytest.importorskip("torch")
    x, grad = single(*shape) + np.float32(offset), single(*shape)
    weight, bias = single(shape[1]), single(shape[1])

    def run(kind):
        given = [torch.tensor(a.astype(kind), requires_grad=True) for a in (x, weight, bias)]
        out = torch.nn.functional.layer_norm(given[0], shape[1:], *given[1:])
        out.backward(torch.tensor(grad.astype(kind)))
        return [out.detach().numpy(), *(t.grad.numpy() for t in given)]

    y, mean, invstd = kernels.layer_norm(x, weight, bias, 1e-5)
    got = [y, *kernels.layer_norm_grad(grad, x, mean, invstd, weight, True)]
    for one, other, exact in zip(got, run(np.float32), run(np.float64), strict=True):
        budget = max(4 * np.abs(other - exact).max(), 4e-7 * np.abs(exact).max())
        assert np.abs(one - exact).max() <= budget


def test_threads_do_not_change_a_bit_of_layer_norm(threads):
    x, grad, weight = single(1000, 72), single(1000, 72), single(72)
    results = []
    for count in (1, 2, 3):
        threads(count)
        found = kernels.layer_norm(x, weight, weight, 1e-5)
        parts = kernels.layer_norm_grad(grad, x, *found[1:], weight, True)
        results.append([a.tobytes() for a in (*found, *parts)])
    assert results[0] == results[1] == results[2]


def test_layer_norm_notices_a_change_of_its_input():
    x = tensorlib.from_numpy(single(64, 512)).requires_grad_()
    inside = x * 1
    y = nn.functional.layer_norm(inside, (512,))
    inside += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.oracle
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_group_norm_errors_are_within_four_times_those_of_pytorch(offset, affine):
    torch = pytest.importorskip("torch")
    x, grad = single(3, 24, 11, 13) + np.float32(offset), single(3, 24, 11, 13)
    weight, bias = (single(24), single(24)) if affine else (None, None)

    def run(kind):
        given = [
            None if a is None else torch.tensor(a.astype(kind), requires_grad=True)
            for a in (x, weight, bias)
        ]
        out = torch.nn.functional.group_norm(given[0], 6, *given[1:])
        out.backward(torch.tensor(grad.astype(kind)))
        return [out.detach().numpy(), *(t.grad.numpy() for t in given if t is not None)]

    y, mean, invstd = kernels.group_norm(x, 6, weight, bias, 1e-5)
    got = [y, *kernels.group_norm_grad(grad, x, 6, mean, invstd, weight)]
    expected = zip(run(np.float32), run(np.float64), strict=True)
    for one, (other, exact) in zip(got, expected, strict=False):
        budget = max(4 * np.abs(other - exact).max(), 4e-7 * np.abs(exact).max())
        assert np.abs(one - exact).max() <= budget
