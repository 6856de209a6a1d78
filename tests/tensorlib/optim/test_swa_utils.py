"""Averages of weights along training, next to torch's."""

import copy

import numpy as np
import pytest

import tensorlib
from tensorlib import nn
from tensorlib.optim import swa_utils

TORCH = "PyTorch is the reference"
WAYS = {
    "mean": lambda s: {},
    "mean of buffers too": lambda s: {"use_buffers": True},
    "ema": lambda s: {"avg_fn": s.get_ema_avg_fn(0.9)},
    "ema of lists": lambda s: {"multi_avg_fn": s.get_ema_multi_avg_fn(0.9), "use_buffers": True},
    "mean of lists": lambda s: {"multi_avg_fn": s.get_swa_multi_avg_fn()},
    "mean by function": lambda s: {"avg_fn": s.get_swa_avg_fn()},
    "own": lambda s: {"avg_fn": lambda average, current, count: average + current * (count + 1)},
}


def net(lib):
    model = lib.nn.Sequential(lib.nn.Linear(3, 4), lib.nn.BatchNorm1d(4), lib.nn.Linear(4, 2))
    rng = np.random.default_rng(0)
    with lib.no_grad():
        for param in model.parameters():
            param.copy_(lib.from_numpy(rng.normal(size=tuple(param.shape)).astype(np.float32)))
    return model


def batch(lib, number):
    return lib.from_numpy(np.random.default_rng(number).normal(size=(6, 3)).astype(np.float32))


def averaged(lib, way):
    utils = lib.optim.swa_utils
    model = net(lib)
    average = utils.AveragedModel(model, **WAYS[way](utils))
    optimizer = lib.optim.SGD(model.parameters(), lr=0.1)
    for number in range(4):
        optimizer.zero_grad()
        (model(batch(lib, number)) ** 2).mean().backward()
        optimizer.step()
        average.update_parameters(model)
    return model, average


@pytest.mark.oracle
@pytest.mark.parametrize("way", WAYS)
def test_averages_equal_torchs(way):
    torch = pytest.importorskip("torch", reason=TORCH)
    _, ours = averaged(tensorlib, way)
    _, theirs = averaged(torch, way)
    mine, reference = ours.state_dict(), theirs.state_dict()
    assert list(mine) == list(reference)
    for key, value in reference.items():
        assert str(mine[key].dtype).partition(".")[2] == str(value.dtype).partition(".")[2]
        np.testing.assert_allclose(
            mine[key].numpy(), value.numpy(), rtol=1e-5, atol=1e-6, err_msg=key
        )
    assert mine["n_averaged"].item() == 4


@pytest.mark.oracle
@pytest.mark.parametrize("momentum", [0.1, None])
def test_update_bn_equals_torchs(momentum):
    torch = pytest.importorskip("torch", reason=TORCH)
    found = []
    for lib in (tensorlib, torch):
        model = net(lib).eval()
        model[1].momentum = momentum
        batches = [[batch(lib, number), None] for number in range(3)]
        lib.optim.swa_utils.update_bn(batches, model, device="cpu")
        assert model[1].momentum == momentum
        assert not model.training
        found.append({k: v.numpy() for k, v in model[1].state_dict().items()})
    for key, value in found[1].items():
        np.testing.assert_allclose(found[0][key], value, rtol=1e-5, err_msg=key)
    assert found[0]["num_batches_tracked"] == 3


def test_update_bn_without_batchnorm_reads_nothing():
    swa_utils.update_bn(iter([]), nn.Linear(2, 2))


def test_the_model_stays_apart_from_its_average():
    model, average = averaged(tensorlib, "mean")
    before = copy.deepcopy(average.state_dict())
    with tensorlib.no_grad():
        for param in model.parameters():
            param.zero_()
    for key, value in average.state_dict().items():
        assert np.array_equal(value.numpy(), before[key].numpy())
    assert average(batch(tensorlib, 9)).shape == (6, 2)


def test_whole_numbers_are_averaged_too():
    pair = [tensorlib.tensor([4, 8])], [tensorlib.tensor([6, 0])]
    swa_utils.get_ema_multi_avg_fn(0.5)(*pair, 1)
    assert pair[0][0].tolist() == [5, 4]
    swa_utils.get_swa_multi_avg_fn()(*pair, 1)
    assert pair[0][0].tolist() == [5, 2]


@pytest.mark.parametrize("make", [swa_utils.get_ema_avg_fn, swa_utils.get_ema_multi_avg_fn])
@pytest.mark.parametrize("decay", [-0.1, 1.1])
def test_a_decay_outside_zero_to_one(make, decay):
    with pytest.raises(ValueError, match="Invalid decay value"):
        make(decay)


def test_two_ways_of_averaging():
    with pytest.raises(AssertionError, match="Only one of avg_fn and multi_avg_fn"):
        swa_utils.AveragedModel(nn.Linear(1, 1), None, max, max)
