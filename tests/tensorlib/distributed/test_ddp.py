"""DistributedDataParallel on ranks in threads; real processes at the end."""

import copy
import hashlib
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import tensorlib
from tensorlib import nn, optim
from tensorlib.distributed import DistributedDataParallel, ThreadCommunicator, loss_weight
from tensorlib.errors import UnsupportedError
from tensorlib.nn import functional as F

LIMIT_S = 30
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(24, 6)).astype(np.float32)
Y = RANDOM.normal(size=(24, 3)).astype(np.float32)


def on_ranks(world_size, work):
    """`work(communicator)` on every rank; results by rank."""
    group = ThreadCommunicator.group(world_size, LIMIT_S)
    with ThreadPoolExecutor(world_size) as pool:
        futures = [pool.submit(work, rank) for rank in group]
        return [future.result(LIMIT_S) for future in futures]


def make_model(seed=0, norm=False):
    tensorlib.manual_seed(seed)
    layers = [nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)]
    return (
        nn.Sequential(*layers[:1], nn.BatchNorm1d(16), *layers[1:])
        if norm
        else nn.Sequential(*layers)
    )


def gradients(model):
    return {name: p.grad.numpy().copy() for name, p in model.named_parameters()}


def loss_of(model, x, y, reduction="mean"):
    return F.mse_loss(model(tensorlib.tensor(x)), tensorlib.tensor(y), reduction=reduction)


def whole_batch_gradients(x=X, y=Y):
    model = make_model()
    loss_of(model, x, y).backward()
    return gradients(model)


def assert_close(ours, expected):
    assert ours.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(ours[name], expected[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("bucket_cap_mb", [25, 0.0002])
def test_gradients_equal_those_of_one_big_batch(world_size, bucket_cap_mb):
    models = [make_model(seed=rank) for rank in range(world_size)]

    def work(group):
        model = DistributedDataParallel(
            models[group.rank], process_group=group, bucket_cap_mb=bucket_cap_mb
        )
        loss_of(model, X[group.rank :: world_size], Y[group.rank :: world_size]).backward()
        return gradients(model.module)

    expected = whole_batch_gradients()
    first, *others = on_ranks(world_size, work)
    assert_close(first, expected)
    for other in others:
        for name in first:
            assert first[name].tobytes() == other[name].tobytes()


def test_construction_takes_over_rank_0_and_state_dict_has_torchs_prefix():
    models = [make_model(seed=rank, norm=True) for rank in range(2)]
    models[0][1].running_mean[:] = 5.0
    expected = {f"module.{k}": v.numpy().copy() for k, v in models[0].state_dict().items()}

    def work(group):
        model = DistributedDataParallel(models[group.rank], process_group=group)
        return {name: value.numpy().copy() for name, value in model.state_dict().items()}

    for state in on_ranks(2, work):
        assert state.keys() == expected.keys()
        for name in state:
            np.testing.assert_array_equal(state[name], expected[name])


def test_uneven_batches_with_loss_weight():
    """Ranks with 1, 5 and 18 of 24 samples give the gradients of the mean over all 24."""
    models = [make_model() for _ in range(3)]
    parts = [slice(0, 1), slice(1, 6), slice(6, 24)]

    def work(group):
        model = DistributedDataParallel(models[group.rank], process_group=group)
        x, y = X[parts[group.rank]], Y[parts[group.rank]]
        weight = loss_weight(y.size, group)
        (loss_of(model, x, y, "sum") * weight).backward()
        return gradients(model.module)

    for result in on_ranks(3, work):
        assert_close(result, whole_batch_gradients())


def test_no_sync_accumulates_to_one_big_batch():
    models = [make_model() for _ in range(2)]

    def work(group):
        model = DistributedDataParallel(models[group.rank], process_group=group)
        x, y = X[group.rank :: 2], Y[group.rank :: 2]
        for part in (slice(0, 4), slice(4, 8), slice(8, 12)):
            if part.start < 8:
                with model.no_sync():
                    (loss_of(model, x[part], y[part]) / 3).backward()
            else:
                local = gradients(model.module)
                (loss_of(model, x[part], y[part]) / 3).backward()
        return local, gradients(model.module)

    (local0, total0), (local1, total1) = on_ranks(2, work)
    assert any(not np.array_equal(local0[name], local1[name]) for name in local0)
    assert_close(total0, whole_batch_gradients())
    assert_close(total1, total0)


class Branches(nn.Module):
    """A model of which an input uses one of two parts."""

    def __init__(self):
        super().__init__()
        self.common = nn.Linear(6, 4)
        self.left = nn.Linear(4, 3)
        self.right = nn.Linear(4, 3)

    def forward(self, x, side):
        return getattr(self, side)(self.common(x))


def branches():
    tensorlib.manual_seed(0)
    return Branches()


def test_unused_parameters_are_named():
    models = [branches() for _ in range(2)]

    def work(group):
        model = DistributedDataParallel(models[group.rank], process_group=group)
        with pytest.raises(
            RuntimeError, match=r"parameters right\.weight, right\.bias.*find_unused"
        ):
            model(tensorlib.tensor(X), "left")
        return True

    assert on_ranks(2, work) == [True, True]


def test_unused_parameters_contribute_zeros():
    """Used on one rank: half its gradient on both. Used nowhere: no gradient at all."""
    models = [branches() for _ in range(2)]
    alone = branches()
    alone(tensorlib.tensor(X), "left").sum().backward()

    def work(group):
        model = DistributedDataParallel(
            models[group.rank], process_group=group, find_unused_parameters=True
        )
        model(tensorlib.tensor(X), "left").sum().backward()
        assert model.module.right.weight.grad is None
        both = model.module.left.weight.grad.numpy().copy()
        model.zero_grad()
        model(tensorlib.tensor(X), "left" if group.rank else "right").sum().backward()
        return both, gradients(model.module)

    expected = alone.left.weight.grad.numpy()
    (both, mixed), (_, other) = on_ranks(2, work)
    np.testing.assert_allclose(both, expected, rtol=1e-6)
    np.testing.assert_allclose(mixed["left.weight"], expected / 2, rtol=1e-6)
    assert mixed["right.weight"].any()
    for name in mixed:
        assert mixed[name].tobytes() == other[name].tobytes()


def test_an_output_left_out_of_the_loss_is_an_error_at_the_next_forward():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, x):
            return {"a": self.a(x), "b": [self.b(x)]}

    models = [Two() for _ in range(2)]

    def work(group):
        model = DistributedDataParallel(models[group.rank], process_group=group)
        model(tensorlib.tensor(X))["a"].sum().backward()
        with pytest.raises(RuntimeError, match=r"no gradients for the parameters b\.weight"):
            model(tensorlib.tensor(X))
        return True

    assert on_ranks(2, work) == [True, True]


def test_buffers_follow_rank_0_before_each_training_forward():
    models = [make_model(norm=True) for _ in range(2)]

    def work(group):
        model = DistributedDataParallel(models[group.rank], process_group=group)
        norm = model.module[1]
        x, y = X[group.rank :: 2] + group.rank, Y[group.rank :: 2]
        loss_of(model, x, y).backward()
        apart = norm.running_mean.numpy().copy()
        model.sync_buffers()
        synced = norm.running_mean.numpy().copy(), norm.num_batches_tracked.item()
        model.eval()
        model(tensorlib.tensor(X))  # no communication: the other rank need not call it
        return apart, synced

    (apart0, (synced0, count0)), (apart1, (synced1, count1)) = on_ranks(2, work)
    assert not np.array_equal(apart0, apart1)
    np.testing.assert_array_equal(synced0, apart0)
    np.testing.assert_array_equal(synced1, apart0)
    assert count0 == count1 == 1


def test_several_forwards_and_frozen_parameters():
    models = [make_model() for _ in range(2)]
    for model in models:
        model[0].bias.requires_grad_(False)
    expected = copy.deepcopy(models[0])
    (loss_of(expected, X, Y) + loss_of(expected, -X, Y)).backward()

    def work(group):
        model = DistributedDataParallel(models[group.rank], process_group=group)
        (loss_of(model, X, Y) + loss_of(model, -X, Y)).backward()
        first = model.module[2].weight.grad.numpy().copy()
        model.zero_grad()
        loss_of(model, X, Y).backward()  # one backward after the other adds up
        loss_of(model, -X, Y).backward()
        assert model.module[0].bias.grad is None
        return first, model.module[2].weight.grad.numpy().copy()

    for first, second in on_ranks(2, work):
        np.testing.assert_allclose(first, expected[2].weight.grad.numpy(), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(second, expected[2].weight.grad.numpy(), rtol=1e-5, atol=1e-7)


def test_models_that_differ_are_refused_on_every_rank():
    models = [nn.Linear(6, 3), nn.Linear(6, 4)]

    def work(group):
        with pytest.raises(RuntimeError, match="rank 1 has another model than rank 0"):
            DistributedDataParallel(models[group.rank], process_group=group)
        return True

    assert on_ranks(2, work) == [True, True]


def test_arguments_are_checked():
    group = ThreadCommunicator.group(1)[0]
    with pytest.raises(ValueError, match="bucket_cap_mb=0"):
        DistributedDataParallel(nn.Linear(1, 1), process_group=group, bucket_cap_mb=0)
    with pytest.raises(RuntimeError, match="no parameter that requires"):
        DistributedDataParallel(nn.ReLU(), process_group=group)
    with pytest.raises(ValueError, match="in no group"):
        DistributedDataParallel(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="no rank has a sample"):
        loss_weight(0, group)


def test_torchs_arguments_are_taken_in_its_order_or_refused():
    group = ThreadCommunicator.group(1)[0]
    wrapped = DistributedDataParallel(
        nn.Linear(1, 1), None, None, 0, False, True, group, None, True, False, True, False
    )
    assert wrapped.process_group is group
    assert wrapped.find_unused_parameters
    assert not wrapped.broadcast_buffers
    for arguments, error, said in [
        ({"device_ids": [0]}, ValueError, r"device_ids=\[0\], .* on cpu; expected both None"),
        ({"output_device": "cuda:0"}, ValueError, "output_device=cuda:0 for a module on cpu"),
        ({"dim": 1}, UnsupportedError, "dim=1; expected 0"),
        ({"check_reduction": True}, UnsupportedError, "check_reduction=True; expected False"),
        ({"static_graph": True}, UnsupportedError, "Hint: find_unused_parameters=True"),
    ]:
        with pytest.raises(error, match=said):
            DistributedDataParallel(nn.Linear(1, 1), process_group=group, **arguments)


def test_without_init_sync_each_rank_keeps_its_weights():
    models = [make_model(0), make_model(1)]
    before = [model[0].weight.detach().numpy().copy() for model in models]

    def work(group):
        DistributedDataParallel(models[group.rank], process_group=group, init_sync=False)
        return models[group.rank][0].weight.detach().numpy()

    np.testing.assert_array_equal(on_ranks(2, work), before)


# ten steps in real processes


def train(model, group=None, rank=0, world_size=1, steps=10):
    """SGD with momentum on the digits of X; the hash of the parameters."""
    wrapped = DistributedDataParallel(model, process_group=group) if group else model
    optimizer = optim.SGD(wrapped.parameters(), lr=0.05, momentum=0.9)
    for step in range(steps):
        rows = np.roll(np.arange(24), step)[:12][rank::world_size]
        optimizer.zero_grad()
        loss_of(wrapped, X[rows], Y[rows]).backward()
        optimizer.step()
    return model


def digest(model):
    value = hashlib.sha256()
    for tensor in model.state_dict().values():
        value.update(tensor.numpy().tobytes())
    return value.hexdigest()


def main():
    from tensorlib import distributed

    distributed.init_process_group(timeout=LIMIT_S)
    group = distributed.get_communicator()
    model = train(make_model(group.rank, norm=False), group, group.rank, group.world_size)
    print(digest(model), *model[2].bias.tolist())
    distributed.barrier()
    distributed.destroy_process_group()


@pytest.mark.parametrize("world_size", [2, 3])
def test_parameters_are_equal_to_the_bit_after_10_steps_in_processes(world_size):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "OPENBLAS_NUM_THREADS": "1",
    }
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__],
            env={**environment, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    try:
        outputs = [rank.communicate(timeout=60)[0] for rank in ranks]
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
                rank.communicate()
    assert [rank.returncode for rank in ranks] == [0] * world_size, outputs
    first, *others = [output.split() for output in outputs]
    assert all(other == first for other in others)
    alone = train(make_model(0))
    np.testing.assert_allclose(
        np.float32(first[1:]), alone[2].bias.detach().numpy(), rtol=1e-5, atol=1e-6
    )


if __name__ == "__main__":
    main()
