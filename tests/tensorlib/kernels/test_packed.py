"""Packed weights are kept while they are known not to change, and only then."""

import numpy as np

import tensorlib
from tensorlib import nn
from tensorlib.distributed import ShardedDataParallel
from tensorlib.kernels import packed


def test_forms_of_kept_arrays_are_made_once():
    calls = []

    @packed.reused
    def pack(weights, groups, flipped=False):
        calls.append(flipped)
        return weights.sum()

    kept, other = np.ones(3), np.ones(4)
    assert pack(kept, 1) == pack(kept, 1) == 3
    assert len(calls) == 2
    packed.keep([kept])
    try:
        for _ in range(3):
            assert pack(kept, 1) == 3
            assert pack(kept, 1, flipped=True) == 3
            assert pack(other, 1) == 4
        assert len(calls) == 2 + 2 + 3
        packed.keep([kept])  # what was kept before is forgotten
        kept[:] = 2
        assert pack(kept, 1) == 6
    finally:
        packed.keep(None)
    kept[:] = 3
    assert pack(kept, 1) == 9


def test_a_sharded_step_sees_weights_that_change_between_and_within_steps():
    """The gradient of the input is the weights: it tells which ones the convolution used."""
    net = ShardedDataParallel(nn.Conv2d(32, 32, 3, padding=1, bias=False), shards=2)
    x = tensorlib.ones(2, 32, 12, 12)
    weight = net.module.weight
    with tensorlib.no_grad():
        weight.fill_(0.5)
    seen = []
    for step in range(2):
        for shard in net.step(2, step):
            out = net(x[shard.local])
            out.sum().backward()
            seen.append(out[0, 0, 5, 5].item())
            if step == 1 and shard.index == 0:
                with tensorlib.no_grad():
                    weight.fill_(2.0)
        with tensorlib.no_grad():
            weight.fill_(1.0)
    sums = 32 * 9
    assert np.allclose(seen, [sums * 0.5, sums * 0.5, sums * 1.0, sums * 2.0], rtol=1e-5)
