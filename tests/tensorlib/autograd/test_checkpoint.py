"""utils.checkpoint saves memory, and refuses what it cannot do."""

from __future__ import annotations

import tracemalloc

import pytest

import tensorlib
from tensorlib.utils.checkpoint import checkpoint, checkpoint_sequential

SIZE = 1 << 18  # a million bytes of float32
MEGABYTE = SIZE * 4


def steps(count):
    return [lambda x: x.sin().exp().cos()] * count


def run(x, **options):
    return checkpoint_sequential(steps(8), 4, x, **options)


def plain(x):
    for step in steps(8):
        x = step(x)
    return x


def held_after(forward):
    """Bytes that a forward pass leaves allocated for backward."""
    x = tensorlib.zeros(SIZE, requires_grad=True)
    tracemalloc.start()
    y = forward(x)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert y.requires_grad
    return held


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_checkpointed_model_keeps_a_fraction_of_the_memory(use_reentrant):
    all_of_it = held_after(plain)
    less = held_after(lambda x: run(x, use_reentrant=use_reentrant))
    assert all_of_it > 16 * MEGABYTE
    assert less < 0.5 * all_of_it  # the inputs of three parts, and the last part


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_backward_peaks_lower_too(use_reentrant):
    peaks = []
    for forward in (plain, lambda x: run(x, use_reentrant=use_reentrant)):
        x = tensorlib.zeros(SIZE, requires_grad=True)
        tracemalloc.start()
        forward(x).sum().backward()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 0.65 * peaks[0]


def test_values_of_a_finished_pass_are_let_go():
    x = tensorlib.zeros(SIZE, requires_grad=True)
    y = run(x, use_reentrant=False).sum()
    tracemalloc.start()
    y.backward(retain_graph=True)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2 * MEGABYTE  # the gradient


def test_not_saying_which_way_is_warned_of():
    x = tensorlib.ones(2, requires_grad=True)
    with pytest.warns(UserWarning, match="use_reentrant parameter should be passed"):
        checkpoint(lambda x: x * 2, x)
    with pytest.warns(UserWarning, match="use_reentrant parameter should be passed"):
        checkpoint_sequential([lambda x: x * 2], 1, x)
    with pytest.warns(UserWarning, match="None of the inputs have requires_grad=True"):
        checkpoint(lambda x: x * 2, x.detach(), use_reentrant=True)


def test_debug_is_refused():
    x = tensorlib.ones(2, requires_grad=True)
    with pytest.raises(NotImplementedError, match="debug=True"):
        checkpoint(lambda x: x * 2, x, use_reentrant=False, debug=True)
