"""Padding and packing sequences, next to torch's and there and back."""

import copy
import pickle

import numpy as np
import pytest

import tensorlib
from tensorlib.nn.utils import rnn


def steps(t, dtype="float32"):
    return t.arange(24).reshape(4, 3, 2).to(getattr(t, dtype))


def sequences(t, *lengths):
    return [t.arange(2 * n).reshape(n, 2).to(t.float64) + n for n in lengths]


CASES = {
    "sorted": lambda t, r: r.pack_padded_sequence(steps(t), [4, 2, 1]),
    "shorter": lambda t, r: r.pack_padded_sequence(steps(t), t.tensor([3, 3, 1])),
    "unsorted": lambda t, r: r.pack_padded_sequence(steps(t), [2, 4, 1], enforce_sorted=False),
    "many equal lengths": lambda t, r: r.pack_padded_sequence(
        t.arange(80.0).reshape(2, 40), [1, 2] * 20, enforce_sorted=False
    ),
    "equal lengths": lambda t, r: r.pack_padded_sequence(steps(t), [2, 3, 2], enforce_sorted=False),
    "batch first": lambda t, r: r.pack_padded_sequence(
        steps(t).transpose(0, 1), [2, 4, 1], batch_first=True, enforce_sorted=False
    ),
    "labels": lambda t, r: r.pack_padded_sequence(steps(t, "int64")[..., 0], [3, 2, 1]),
    "fewer lengths": lambda t, r: r.pack_padded_sequence(steps(t), [2, 4], enforce_sorted=False),
    "pad": lambda t, r: r.pad_packed_sequence(r.pack_padded_sequence(steps(t), [4, 2, 1])),
    "pad unsorted": lambda t, r: r.pad_packed_sequence(
        r.pack_padded_sequence(steps(t), [2, 4, 1], enforce_sorted=False), True, -1.0, 6
    ),
    "pad labels": lambda t, r: r.pad_packed_sequence(
        r.pack_padded_sequence(steps(t, "int64"), [2, 2, 1]), padding_value=-100
    ),
    "pad_sequence": lambda t, r: r.pad_sequence(sequences(t, 2, 4, 1)),
    "pad_sequence left": lambda t, r: r.pad_sequence(sequences(t, 2, 4, 1), True, 0.5, "left"),
    "pad_sequence of a tensor": lambda t, r: r.pad_sequence(steps(t)),
    "pad_sequence of types": lambda t, r: r.pad_sequence(
        [t.ones(2, dtype=t.int64), t.full((3,), 2.5)]
    ),
    "pad_sequence empty": lambda t, r: r.pad_sequence(sequences(t, 0, 2)),
    "pack_sequence": lambda t, r: r.pack_sequence(sequences(t, 4, 2, 2)),
    "pack_sequence unsorted": lambda t, r: r.pack_sequence(sequences(t, 1, 3), False),
    "unpack_sequence": lambda t, r: r.unpack_sequence(r.pack_sequence(sequences(t, 1, 3), False)),
    "unpad_sequence": lambda t, r: r.unpad_sequence(steps(t), t.tensor([2, 1, 4])),
    "unpad_sequence batch first": lambda t, r: r.unpad_sequence(
        steps(t), t.tensor([2, 1, 3, 0]), batch_first=True
    ),
    "invert_permutation": lambda t, r: r.invert_permutation(t.tensor([2, 0, 1])),
    "made by hand": lambda t, r: r.PackedSequence(t.ones(3), t.tensor([3]), t.tensor([2, 0, 1])),
    "made of a pair": lambda t, r: r.PackedSequence((t.ones(3), t.tensor([2, 1]))),
    "to": lambda t, r: r.pack_sequence(sequences(t, 1, 3), False).to(t.float32),
    "double": lambda t, r: r.pack_sequence([t.ones(3, dtype=t.int64)]).double(),
    "char": lambda t, r: r.pack_sequence(sequences(t, 2, 1)).char(),
}


def flat(value):
    if isinstance(value, (tuple, list)):
        return [one for item in value for one in flat(item)]
    return [value]


@pytest.mark.oracle
@pytest.mark.parametrize("name", CASES)
def test_results_equal_torchs(name):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    expected = CASES[name](torch, torch.nn.utils.rnn)
    found = CASES[name](tensorlib, rnn)
    assert repr(found) == repr(expected).replace("torch.", "tensorlib.")
    for one, other in zip(flat(found), flat(expected), strict=True):
        if other is None:
            assert one is None
            continue
        assert str(one.dtype)[10:] == str(other.dtype)[6:]
        np.testing.assert_array_equal(one.numpy(), other.numpy())


REFUSED = {
    "unsorted": lambda t, r: r.pack_padded_sequence(steps(t), [2, 4, 1]),
    "no length": lambda t, r: r.pack_padded_sequence(steps(t), [4, 2, 0]),
    "two dimensions": lambda t, r: r.pack_padded_sequence(steps(t), t.tensor([[4, 2, 1]])),
    "too few lengths": lambda t, r: r.pack_padded_sequence(steps(t), [4, 2]),
    "nothing": lambda t, r: r.pack_padded_sequence(t.zeros(3, 0, 2), t.zeros(0)),
    "total_length": lambda t, r: r.pad_packed_sequence(
        r.pack_padded_sequence(steps(t), [4, 2, 1]), total_length=3
    ),
    "no sequences": lambda t, r: r.pad_sequence([]),
    "no list": lambda t, r: r.pad_sequence(3),
    "side": lambda t, r: r.pad_sequence([t.ones(2)], padding_side="up"),
    "other sizes": lambda t, r: r.pad_sequence([t.ones(2, 2), t.ones(3, 3)]),
    "a number": lambda t, r: r.pad_sequence([t.tensor(1.0), t.ones(3)]),
    "no batch_sizes": lambda t, r: r.PackedSequence(t.ones(3)),
}


@pytest.mark.oracle
@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_torchs(name):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    with pytest.raises(Exception) as theirs:  # noqa: PT011  # its type is what is compared
        REFUSED[name](torch, torch.nn.utils.rnn)
    with pytest.raises(theirs.type):
        REFUSED[name](tensorlib, rnn)


def test_a_length_beyond_the_steps_is_refused():
    with pytest.raises(RuntimeError, match="at most the 4 steps"):
        rnn.pack_padded_sequence(steps(tensorlib), [5, 4, 1])


def test_sequences_come_back_with_their_gradients():
    tensorlib.manual_seed(0)
    parts = [tensorlib.randn(n, 2, dtype=tensorlib.float64, requires_grad=True) for n in (2, 4, 1)]
    packed = rnn.pack_sequence(parts, enforce_sorted=False)
    assert packed.batch_sizes.tolist() == [3, 2, 1, 1]
    back = rnn.unpack_sequence(packed)
    for one, other in zip(back, parts, strict=True):
        tensorlib.testing.assert_close(one, other)
    value = sum((one**3).sum() for one in back)
    first = tensorlib.autograd.grad(value, parts, create_graph=True)
    second = tensorlib.autograd.grad(sum(g.sum() for g in first), parts)
    for part, one, two in zip(parts, first, second, strict=True):
        tensorlib.testing.assert_close(one, 3 * part**2)
        tensorlib.testing.assert_close(two, 6 * part)


def test_a_packed_sequence_copies_pickles_and_stays_itself():
    packed = rnn.pack_sequence(sequences(tensorlib, 1, 3), enforce_sorted=False)
    for other in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):
        assert type(other) is rnn.PackedSequence
        assert repr(other) == repr(packed)
    assert packed.cpu() is packed
    assert packed.to(tensorlib.float64) is packed
    assert packed.pin_memory() is packed
    assert packed.float().unsorted_indices.tolist() == packed.unsorted_indices.tolist()
    assert not packed.is_cuda
