"""Batch normalisation over several ranks (threads) equals that of the whole batch."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import tensorlib
from tensorlib import nn
from tensorlib.distributed import DistributedDataParallel
from tensorlib.distributed.threads import ThreadCommunicator

SPLITS = {"even": (3, 6), "uneven": (1, 2), "one rank empty": (0, 4), "one value": (1, 8)}


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("name", SPLITS)
def test_equals_the_whole_batch(name, affine, momentum):
    rng = np.random.default_rng(0)
    data = rng.normal(3, 2, size=(9, 4, 2)).astype("f")
    slope = rng.normal(size=data.shape).astype("f")
    options = {"affine": affine, "momentum": momentum}
    whole = nn.BatchNorm1d(4, **options)
    x = tensorlib.from_numpy(data).requires_grad_()
    out = whole(x)
    (out * tensorlib.from_numpy(slope)).sum().backward()

    def rank(group, part, weights):
        layer = nn.SyncBatchNorm(4, **options, process_group=group)
        y = tensorlib.from_numpy(part).requires_grad_()
        result = layer(y)
        (result * tensorlib.from_numpy(weights)).sum().backward()
        return layer, y.grad.numpy(), result.detach().numpy()

    parts = zip(
        ThreadCommunicator.group(3, timeout_s=20),
        np.split(data.copy(), SPLITS[name]),
        np.split(slope, SPLITS[name]),
        strict=True,
    )
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(rank, *part) for part in parts]
        results = [future.result() for future in futures]
    close = {"rtol": 2e-4, "atol": 2e-5}
    np.testing.assert_allclose(
        np.concatenate([r[2] for r in results]), out.detach().numpy(), **close
    )
    np.testing.assert_allclose(np.concatenate([r[1] for r in results]), x.grad.numpy(), **close)
    for layer, _, _ in results:
        for key, value in whole.named_buffers():
            np.testing.assert_allclose(layer.get_buffer(key).numpy(), value.numpy(), **close)
    for key, value in whole.named_parameters():
        total = sum(layer.get_parameter(key).grad.numpy() for layer, _, _ in results)
        np.testing.assert_allclose(total, value.grad.numpy(), **close)


def test_within_distributed_data_parallel():
    """Training on two ranks is training on the whole batch; tiny buckets reduce during backward."""
    rng = np.random.default_rng(1)
    data, target = rng.normal(size=(8, 1, 6, 6)).astype("f"), rng.integers(0, 2, 8)

    def model():
        tensorlib.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 2),
            nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(18, 2),
        )  # fmt: skip

    def train(net, images, classes):
        optimizer = tensorlib.optim.SGD(net.parameters(), lr=0.1)
        for _ in range(4):
            optimizer.zero_grad()
            logits = net(tensorlib.from_numpy(images))
            nn.functional.cross_entropy(logits, tensorlib.from_numpy(classes)).backward()
            optimizer.step()
        return [*net.parameters(), *net.buffers()]

    def rank(group, images, classes, net):
        return train(
            DistributedDataParallel(net, process_group=group, bucket_cap_mb=1e-5), images, classes
        )

    groups = ThreadCommunicator.group(2, timeout_s=20)
    nets = [nn.SyncBatchNorm.convert_sync_batchnorm(model(), group) for group in groups]
    parts = zip(groups, np.split(data, 2), np.split(target, 2), nets, strict=True)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(rank, *part) for part in parts]
        results = [future.result() for future in futures]
    for expected, *others in zip(train(model(), data, target), *results, strict=True):
        for value in others:
            np.testing.assert_allclose(
                value.detach().numpy(), expected.detach().numpy(), rtol=1e-3, atol=1e-4
            )


def test_without_a_group_and_in_evaluation_it_is_batch_norm():
    x = tensorlib.randn(6, 3)
    group = ThreadCommunicator.group(2, timeout_s=1)[0]
    sync, plain = nn.SyncBatchNorm(3, process_group=group).eval(), nn.BatchNorm1d(3).eval()
    assert sync(x).tolist() == plain(x).tolist()  # rank 1 is not there, and not needed
    sync, plain = nn.SyncBatchNorm(3), nn.BatchNorm1d(3)
    assert sync(x).tolist() == plain(x).tolist()
    assert sync.running_var.tolist() == plain.running_var.tolist()


def test_one_value_in_the_whole_group_is_refused():
    def rank(group, rows):
        layer = nn.SyncBatchNorm(2, process_group=group)
        with pytest.raises(RuntimeError, match="more than 1 value per channel"):
            layer(tensorlib.ones(rows, 2))

    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(rank, group, rows)
            for rows, group in enumerate(ThreadCommunicator.group(2, timeout_s=20))
        ]
        assert [future.result() for future in futures] == [None, None]


def test_conversion_keeps_state_and_other_layers():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3, eps=0.1), nn.Sequential()).eval()
    model[2].append(nn.BatchNorm1d(2, affine=False, track_running_stats=False))
    names = list(model.state_dict())
    weight = model[1].weight
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert converted is model
    assert list(converted.state_dict()) == names
    assert type(converted[1]) is type(converted[2][0]) is nn.SyncBatchNorm
    assert converted[1].weight is weight
    assert converted[1].eps == 0.1
    assert not converted[1].training
    assert type(nn.SyncBatchNorm.convert_sync_batchnorm(nn.BatchNorm1d(2))) is nn.SyncBatchNorm
