"""ShardedDataParallel: the same bits for any number of ranks (promise N1). Ranks are threads."""

import copy
import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest

import tensorlib
from tensorlib import nn, optim
from tensorlib.distributed import (
    ShardedBatchSampler,
    ShardedDataParallel,
    ThreadCommunicator,
    tree,
)
from tensorlib.nn import functional as F
from tensorlib.utils.data import DataLoader

LIMIT_S = 60
RANDOM = np.random.default_rng(0)
SAMPLES = 50
X = RANDOM.normal(size=(SAMPLES, 3, 6, 6)).astype(np.float32)
Y = RANDOM.integers(0, 4, SAMPLES)


class Pairs:
    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        return X[index], int(Y[index])


class Counting(nn.Module):
    """A buffer that every forward replaces, and one that none changes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", tensorlib.zeros(3))
        self.register_buffer("fixed", tensorlib.tensor([0.1, -np.inf, np.nan]))

    def forward(self, x):
        self.mean = self.mean * 0.5 + x.detach().mean((0, 2, 3)) * 0.5
        return x


def make_model():
    tensorlib.manual_seed(1)
    return nn.Sequential(
        Counting(),
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(128, 16),
        nn.ReLU(),
        nn.Linear(16, 4),
    )


def on_ranks(world_size, work):
    """`work(communicator, rank's model)` on every rank; results by rank."""
    group = ThreadCommunicator.group(world_size, LIMIT_S)
    models = [make_model() for _ in group]
    with ThreadPoolExecutor(world_size) as pool:
        futures = [pool.submit(work, *pair) for pair in zip(group, models, strict=True)]
        return [future.result(LIMIT_S) for future in futures]


def digest(*states):
    found = hashlib.sha256()
    for state in states:
        for name in sorted(state):
            array = np.asarray(state[name].array if hasattr(state[name], "array") else state[name])
            found.update(f"{name} {array.dtype} {array.shape}".encode() + array.tobytes())
    return found.hexdigest()


def flat_state(optimizer):
    return {
        f"{index}.{name}": value
        for index, entry in optimizer.state_dict()["state"].items()
        for name, value in entry.items()
    }


class Phase(NamedTuple):
    """So many ranks for so many steps."""

    world_size: int
    steps: int


def train(phases, shards, batch_size=16, cap_mb=0.002):
    """The digest after the phases, each of which starts from the states of the one before."""
    saved = None
    for phase in phases:

        def work(group, model, saved=saved, phase=phase):
            net = ShardedDataParallel(
                model, shards=shards, seed=7, process_group=group, bucket_cap_mb=cap_mb
            )
            optimizer = optim.AdamW(net.parameters(), lr=0.01)
            sampler = ShardedBatchSampler(
                Pairs(),
                batch_size,
                shards=shards,
                num_replicas=group.world_size,
                rank=group.rank,
                seed=3,
            )
            loader = DataLoader(Pairs(), batch_sampler=sampler)
            step, losses = 0, []
            if saved is not None:
                step, losses = saved["step"], list(saved["losses"])
                net.load_state_dict(saved["model"])
                optimizer.load_state_dict(copy.deepcopy(saved["optimizer"]))  # it keeps the arrays
                loader.load_state_dict(saved["loader"])
            end = step + phase.steps
            while step < end:
                for images, labels in loader:
                    count = sampler.global_count(step % len(loader))
                    optimizer.zero_grad()
                    own = np.zeros((0, 1))
                    for shard in net.step(count, step):
                        output = net(images[shard.local])
                        loss = F.cross_entropy(output, labels[shard.local], reduction="sum")
                        (loss / count).backward()
                        own = np.concatenate([own, [[loss.item()]]])
                    losses.append(float(net.sum_over_shards(own)[0] / count))
                    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                    optimizer.step()
                    step += 1
                    if step == end:
                        break
            state = {
                "step": step,
                "losses": losses,
                "model": net.state_dict(),
                "optimizer": optimizer.state_dict(),
                "loader": loader.state_dict(),
            }
            return state, digest(net.state_dict(), flat_state(optimizer), {"l": np.array(losses)})

        results = on_ranks(phase.world_size, work)
        assert len({found for _, found in results}) == 1
        saved, found = results[0]
    return found, saved


@pytest.mark.parametrize(
    ("shards", "batch_size"),
    [(4, 16), (12, 16), (5, 16), (4, 49)],  # the last batches have 2, 2, 2 and 1 samples
)
def test_n1_any_number_of_ranks_gives_the_same_bits(shards, batch_size):
    """Steps through two epochs, whose last batch leaves shards and ranks without samples."""
    steps = 2 * -(-SAMPLES // batch_size)
    expected, state = train([Phase(1, steps)], shards, batch_size)
    assert len(state["losses"]) == steps
    assert state["losses"][-1] != state["losses"][0]
    for world_size in (2, 3, 4):
        assert train([Phase(world_size, steps)], shards, batch_size)[0] == expected


def test_n1_the_number_of_ranks_changes_on_the_way():
    expected, _ = train([Phase(1, 7)], shards=4)
    assert train([Phase(4, 3), Phase(2, 3), Phase(3, 1)], shards=4)[0] == expected
    assert train([Phase(2, 4), Phase(1, 1), Phase(4, 2)], shards=4, cap_mb=25)[0] == expected


def test_n1_is_about_the_tree_not_about_luck():
    """Other shards give other bits, so the test above would notice an order that changes."""
    assert train([Phase(1, 2)], shards=4)[0] != train([Phase(1, 2)], shards=5)[0]


def test_the_sum_is_the_gradient_of_the_whole_batch():
    def work(group, model):
        model[2].eval(), model[4].eval()
        net = ShardedDataParallel(model, shards=4, process_group=group)
        for shard in net.step(SAMPLES, 0):
            assert shard.stop - shard.start == shard.local.stop - shard.local.start
            assert all(p.grad is None for p in net.parameters())
            output = net(tensorlib.tensor(X[shard.start : shard.stop]))
            target = tensorlib.tensor(Y[shard.start : shard.stop])
            (F.cross_entropy(output, target, reduction="sum") / SAMPLES).backward()
        return [p.grad.numpy().copy() for p in net.parameters()]

    whole = make_model()
    whole[2].eval(), whole[4].eval()
    F.cross_entropy(whole(tensorlib.tensor(X)), tensorlib.tensor(Y)).backward()
    for result in on_ranks(3, work):
        for ours, parameter in zip(result, whole.parameters(), strict=True):
            np.testing.assert_allclose(ours, parameter.grad.numpy(), rtol=2e-4, atol=1e-6)


def test_buffers_are_the_mean_over_shards_and_constants_stay():
    def work(group, model):
        net = ShardedDataParallel(model, shards=5, process_group=group)
        for shard in net.step(20, 0):
            net(tensorlib.tensor(X[shard.start : shard.stop])).sum().backward()
        return {name: value.numpy().copy() for name, value in net.module.named_buffers()}

    model = make_model()
    fixed = model[0].fixed.numpy().tobytes()
    means = [X[4 * s : 4 * s + 4].mean((0, 2, 3)) * 0.5 for s in range(5)]
    for world_size in (1, 3):
        for buffers in on_ranks(world_size, work):
            assert buffers["0.fixed"].tobytes() == fixed
            np.testing.assert_allclose(buffers["0.mean"], np.mean(means, 0), rtol=1e-5)
            assert buffers["2.num_batches_tracked"] == 1
            assert buffers["2.running_mean"].any()


def test_gradients_add_to_what_was_there_and_unused_parameters_have_none():
    """What only shard 2 uses gets that shard's gradient; what none uses gets none."""

    def work(group, model):
        tensorlib.manual_seed(0)
        layer = nn.ModuleDict({name: nn.Linear(2, 2, bias=False) for name in "abc"})
        layer["a"].weight.grad = tensorlib.ones(2, 2)
        net = ShardedDataParallel(layer, shards=4, process_group=group)
        for step in range(2):
            for shard in net.step(4, step):
                x = tensorlib.full((1, 2), float(shard.index + 1))
                out = layer["a"](x).sum()
                (out + layer["b"](x).sum() if shard.index == 2 else out).backward()
        return [
            None if layer[n].weight.grad is None else layer[n].weight.grad.tolist() for n in "abc"
        ]

    for world_size in (1, 2, 3, 4):
        for result in on_ranks(world_size, work):
            assert result == [[[21.0, 21.0]] * 2, [[6.0, 6.0]] * 2, None]


def test_random_numbers_belong_to_the_shard_and_the_stream_outside_goes_on():
    def work(group, model):
        net = ShardedDataParallel(nn.Linear(1, 1), shards=3, process_group=group)
        drawn = {}
        for step in (0, 1):
            for shard in net.step(3, step):
                drawn[step, shard.index] = tensorlib.rand(1).item()
                net(tensorlib.ones(1, 1)).sum().backward()
        return drawn

    alone = on_ranks(1, work)[0]
    assert len(set(alone.values())) == 6
    parts = on_ranks(2, work)
    assert parts[0].keys() == {(0, 0), (1, 0)}
    assert parts[0] | parts[1] == alone
    net = ShardedDataParallel(nn.Linear(1, 1), shards=2)
    tensorlib.manual_seed(5)
    expected = tensorlib.rand(2).tolist()
    tensorlib.manual_seed(5)
    first = tensorlib.rand(1).item()
    for _ in net.step(2, 0):
        tensorlib.rand(1)
        tensorlib.manual_seed(9)
        net(tensorlib.ones(1, 1)).sum().backward()
    assert [first, tensorlib.rand(1).item()] == expected


def test_sums_of_scalars_are_exact_and_in_shard_order():
    values = np.array([[1e16], [1.0], [-1e16], [1.0]])

    def work(group, model):
        net = ShardedDataParallel(model, shards=4, process_group=group)
        own = []
        for shard in net.step(4, 0):
            own.append(values[shard.index])
            net(tensorlib.tensor(X[: 2 + shard.index])).sum().backward()
        return net.sum_over_shards(np.array(own).reshape(-1, 1)).tolist()

    for world_size in (1, 2, 3, 4):
        assert on_ranks(world_size, work) == [[((1e16 + 1.0) - 1e16) + 1.0]] * world_size


def test_tied_parameters_have_one_gradient_per_shard():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(self.layer(x))

    net = ShardedDataParallel(Tied(), shards=2)
    for shard in net.step(6, 0):
        net(tensorlib.ones(3, 4) * (shard.index + 1)).sum().backward()
    plain = Tied()
    plain.load_state_dict(net.module.state_dict())
    (plain(tensorlib.ones(3, 4)).sum() + plain(tensorlib.ones(3, 4) * 2).sum()).backward()
    np.testing.assert_allclose(
        net.module.layer.weight.grad.numpy(), plain.layer.weight.grad.numpy(), rtol=1e-5
    )


def test_mistakes_are_explained():
    group = ThreadCommunicator.group(3, LIMIT_S)[0]
    with pytest.raises(ValueError, match="shards=2 for 3 ranks"):
        ShardedDataParallel(nn.Linear(1, 1), shards=2, process_group=group)
    synchronized = nn.Sequential(nn.Linear(2, 2), nn.SyncBatchNorm(2))
    with pytest.raises(ValueError, match="1 is a SyncBatchNorm"):
        ShardedDataParallel(synchronized, shards=4)
    ShardedDataParallel(synchronized, shards=1)
    net = ShardedDataParallel(nn.Linear(1, 1), shards=2)
    with pytest.raises(RuntimeError, match="outside a shard"):
        net(tensorlib.ones(1, 1))
    net.eval()(tensorlib.ones(1, 1))
    net.train()
    with pytest.raises(ValueError, match="count=0"):
        next(net.step(0, 0))
    steps = net.step(2, 0)
    next(steps)
    with pytest.raises(RuntimeError, match="shard 0 brought no gradient"):
        next(steps)
    with pytest.raises(RuntimeError, match="left before its last shard"):
        next(net.step(2, 0))
    net = ShardedDataParallel(nn.Linear(1, 1), shards=2)
    steps = net.step(2, 0)
    next(steps)
    net(tensorlib.ones(1, 1)).sum().backward()
    with pytest.raises(RuntimeError, match="second gradient in shard 0"):
        net(tensorlib.ones(1, 1)).sum().backward()
    net = ShardedDataParallel(nn.Linear(1, 1), shards=1)
    for _ in net.step(1, 0):
        net(tensorlib.ones(1, 1)).sum().backward()
    with pytest.raises(ValueError, match=r"expected numbers \[1, k\]"):
        net.sum_over_shards(np.zeros((2, 3)))


# the tree itself


def tree_sum(values):
    if len(values) == 1:
        return values[0]
    middle = tree.split(0, len(values))
    return tree_sum(values[:middle]) + tree_sum(values[middle:])


@pytest.mark.parametrize("leaves", [1, 2, 3, 4, 5, 7, 8, 12, 13])
def test_plans_of_all_world_sizes_add_along_one_tree(leaves):
    values = RANDOM.normal(size=leaves).astype(np.float32) * 1e3
    expected = tree_sum(list(values))
    for world_size in range(1, leaves + 1):
        plan = tree.plan(leaves, world_size)
        rows = []
        for rank, nodes in enumerate(plan.nodes):
            own = tree.owned(rank, world_size, leaves)
            after, stack = tree.progress(own, leaves), []
            for leaf in own:
                value = values[leaf]
                for _ in range(after[leaf].merges):
                    value = stack.pop() + value
                stack.append(value)
                assert (after[leaf].row is None) or after[leaf].row == len(stack) - 1
            assert len(stack) == len(nodes)
            rows += stack
        rows = [np.array([row]) for row in rows]
        out = rows[plan.offsets[-1]]  # one of the inputs
        tree.combine(rows, plan, [[out]], np.add)
        assert out[0].tobytes() == expected.tobytes()
