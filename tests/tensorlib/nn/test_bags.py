"""Layers of tables and of many classes next to torch's."""

import numpy as np
import pytest

import tensorlib

TABLE = np.random.default_rng(0).normal(size=(7, 3)).astype("f")
BAGS = {
    "rows": ([[1, 2, 6], [4, 4, 0]], {}),
    "offsets": ([1, 2, 6, 4, 4], {"offsets": [0, 0, 2]}),
    "no bags": ([], {"offsets": [0, 0]}),
}
OPTIONS = {
    "plain": {},
    "padding": {"padding_idx": 4},
    "last offset": {"include_last_offset": True},
    "frequency": {"scale_grad_by_freq": True},
    "norm": {"max_norm": 1.0, "norm_type": 1.0},
}


CASES = [
    (mode, bags, options)
    for mode in ("sum", "mean", "max")
    for bags in BAGS
    for options in OPTIONS
    if (bags, options) != ("rows", "last offset") and (mode, options) != ("max", "frequency")
]


@pytest.mark.oracle
@pytest.mark.parametrize(("mode", "bags", "options"), CASES)
def test_embedding_bag(mode, bags, options):
    torch = pytest.importorskip("torch", reason="the comparison needs PyTorch")
    index, extra = BAGS[bags]
    keywords = OPTIONS[options]
    if "include_last_offset" in keywords:
        extra = {"offsets": [*extra["offsets"], len(index)]}
    results = []
    for lib in (tensorlib, torch):
        weight = lib.from_numpy(TABLE.copy())
        layer = lib.nn.EmbeddingBag.from_pretrained(weight, freeze=False, mode=mode, **keywords)
        given = {key: lib.tensor(value) for key, value in extra.items()}
        out = layer(lib.tensor(index, dtype=lib.int64), **given)
        (out * lib.arange(3.0)).sum().backward()
        results.append((out.detach(), layer.weight.grad, layer.weight.detach(), str(layer)))
    for mine, reference in zip(results[0][:3], results[1][:3], strict=True):
        np.testing.assert_allclose(mine.numpy(), reference.numpy(), rtol=1e-5, atol=1e-6)
    assert results[0][3] == results[1][3]


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("options", "given", "error"),
    [
        ({"mode": "max", "scale_grad_by_freq": True}, {"input": [[1]]}, ValueError),
        ({"mode": "median"}, {"input": [[1]]}, ValueError),
        ({}, {"input": [1]}, ValueError),
        ({}, {"input": [[1]], "offsets": [0]}, ValueError),
        ({}, {"input": [1], "offsets": [[0]]}, ValueError),
        ({}, {"input": [[[1]]]}, ValueError),
        ({"mode": "sum"}, {"input": [[1]], "per_sample_weights": [1.0]}, ValueError),
        ({}, {"input": [[1]], "per_sample_weights": [[1.0]]}, NotImplementedError),
        ({}, {"input": [1], "offsets": [1]}, RuntimeError),
        ({}, {"input": [1], "offsets": [0, 2]}, RuntimeError),
        ({"include_last_offset": True}, {"input": [], "offsets": []}, RuntimeError),
    ],
)
def test_refuses_what_torch_refuses(options, given, error):
    torch = pytest.importorskip("torch", reason="the comparison needs PyTorch")
    for lib in (torch, tensorlib):
        layer = lib.nn.EmbeddingBag(4, 2, **options)
        kinds = {"per_sample_weights": lib.float32}
        tensors = {k: lib.tensor(v, dtype=kinds.get(k, lib.int64)) for k, v in given.items()}
        with pytest.raises(error):
            layer(**tensors)


@pytest.mark.oracle
def test_weights_of_samples():
    torch = pytest.importorskip("torch", reason="the comparison needs PyTorch")
    results = []
    for lib in (tensorlib, torch):
        layer = lib.nn.EmbeddingBag.from_pretrained(lib.from_numpy(TABLE), mode="sum")
        factors = lib.tensor([[0.5, 2.0], [1.0, -1.0]], requires_grad=True)
        out = layer(lib.tensor([[1, 5], [0, 0]]), per_sample_weights=factors)
        out.sum().backward()
        results.append((out.detach().numpy(), factors.grad.numpy()))
    for mine, reference in zip(*results, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-5, atol=1e-6)


@pytest.mark.oracle
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("target", [[0, 4, 5, 11, 2], [1, 2, 0, 4, 3], [9, 10, 11, 9, 9], 7])
def test_adaptive_log_softmax(target, bias):
    torch = pytest.importorskip("torch", reason="the comparison needs PyTorch")
    data = np.random.default_rng(1).normal(size=(5, 8)).astype("f")
    data = data if isinstance(target, list) else data[0]
    results = []
    for lib in (tensorlib, torch):
        lib.manual_seed(6)
        layer = lib.nn.AdaptiveLogSoftmaxWithLoss(8, 12, [5, 9], div_value=2.0, head_bias=bias)
        x = lib.from_numpy(data).requires_grad_()
        found = layer(x, lib.tensor(target))
        found.loss.backward()
        rows = x.detach() if x.dim() == 2 else x.detach().unsqueeze(0)
        grads = [p.grad for p in layer.parameters() if p.grad is not None]
        results.append(
            [found.output.detach(), found.loss.detach(), x.grad, layer.log_prob(rows).detach(),
             layer.predict(rows), layer.predict(rows * -5), *grads]
        )  # fmt: skip
    for mine, reference in zip(*results, strict=True):
        np.testing.assert_allclose(mine.numpy(), reference.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (((5, 8), (4,)), "same size in the batch"),
        (((8,), (4,)), "1D target tensor expects 2D"),
        (((5, 8), ()), "0D target tensor expects 1D"),
        (((5, 8), (5, 1)), "multi-target"),
    ],
)
def test_adaptive_log_softmax_refuses(shapes, words):
    layer = tensorlib.nn.AdaptiveLogSoftmaxWithLoss(8, 12, [5])
    data, target = (tensorlib.zeros(shape) for shape in shapes)
    with pytest.raises(RuntimeError, match=words):
        layer(data, target.long())


def test_a_class_out_of_range():
    layer = tensorlib.nn.AdaptiveLogSoftmaxWithLoss(8, 12, [5])
    with pytest.raises(RuntimeError, match=r"\[0, 11\], but values in range \[2, 12\]"):
        layer(tensorlib.zeros(2, 8), tensorlib.tensor([2, 12]))
