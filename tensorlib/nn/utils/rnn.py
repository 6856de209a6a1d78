"""Batches of sequences of different lengths: padded, and packed without the padding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np

import tensorlib
from tensorlib.autograd.tape import record, wrap
from tensorlib.errors import InvalidValueError, ShapeError
from tensorlib.tensor import Tensor

__all__ = [
    "PackedSequence",
    "invert_permutation",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "unpack_sequence",
    "unpad_sequence",
]

Places = tuple[Any, Any]


class _Parts(NamedTuple):
    data: Tensor
    batch_sizes: Tensor
    sorted_indices: Tensor | None
    unsorted_indices: Tensor | None


class PackedSequence(_Parts):
    """Sequences without padding: `data` lists all first elements, then all second ones, and so on;
    `batch_sizes[t]` says how many sequences have a t-th element.

    The sequences stand in the order `sorted_indices`, longest first; `unsorted_indices` leads back.
    Made by `pack_sequence` and `pack_padded_sequence`; every recurrent layer takes one.
    """

    __slots__ = ()

    def __new__(
        cls,
        data: Any,
        batch_sizes: Tensor | None = None,
        sorted_indices: Tensor | None = None,
        unsorted_indices: Tensor | None = None,
    ) -> Self:
        if batch_sizes is None:
            if not isinstance(data, list | tuple) or len(data) != 2:
                raise AssertionError(
                    f"PackedSequence: batch_sizes is None and data is a {type(data).__name__};"
                    " Expected data to be a list or tuple of length 2."
                )
            data, batch_sizes = data
        if unsorted_indices is None:
            unsorted_indices = invert_permutation(sorted_indices)
        return super().__new__(cls, data, batch_sizes, sorted_indices, unsorted_indices)

    def to(self, *args: Any, **kwargs: Any) -> PackedSequence:
        """`data` converted as by `Tensor.to`; the sequence itself when that changes nothing."""
        data = self.data.to(*args, **kwargs)
        if data is self.data:
            return self
        indices = (
            None if t is None else t.to(data.device)
            for t in (self.sorted_indices, self.unsorted_indices)
        )
        return type(self)(data, self.batch_sizes, *indices)

    def pin_memory(self) -> PackedSequence:
        """Itself: memory is not pinned."""
        return self

    def cpu(self) -> PackedSequence:
        """In main memory."""
        return self.to("cpu")

    def cuda(self, device: Any = None) -> PackedSequence:
        """On a GPU."""
        return self.to("cuda" if device is None else device)

    def double(self) -> PackedSequence:
        """With float64 data."""
        return self.to(tensorlib.float64)

    def float(self) -> PackedSequence:
        """With float32 data."""
        return self.to(tensorlib.float32)

    def half(self) -> PackedSequence:
        """With float16 data."""
        return self.to(tensorlib.float16)

    def long(self) -> PackedSequence:
        """With int64 data."""
        return self.to(tensorlib.int64)

    def int(self) -> PackedSequence:
        """With int32 data."""
        return self.to(tensorlib.int32)

    def short(self) -> PackedSequence:
        """With int16 data."""
        return self.to(tensorlib.int16)

    def char(self) -> PackedSequence:
        """With int8 data."""
        return self.to(tensorlib.int8)

    def byte(self) -> PackedSequence:
        """With uint8 data."""
        return self.to(tensorlib.uint8)

    @property
    def is_cuda(self) -> bool:
        """Whether the data lives on a GPU."""
        return self.data.is_cuda


def invert_permutation(permutation: Tensor | None) -> Tensor | None:
    """The indices that undo `permutation`; None for None."""
    if permutation is None:
        return None
    found = np.empty_like(permutation.array)
    found[permutation.array] = np.arange(found.size)
    return wrap(found)


def pack_padded_sequence(
    input: Tensor,
    lengths: Tensor | Sequence[int],
    batch_first: bool = False,
    enforce_sorted: bool = True,
) -> PackedSequence:
    """Pack [T, B, *] (`batch_first`: [B, T, *]), of which sequence b fills the first `lengths[b]`.

    With `enforce_sorted` the lengths must fall; otherwise the sequences are sorted here.
    """
    where = "pack_padded_sequence"
    counts = np.asarray(getattr(lengths, "array", lengths)).astype(np.int64)
    if counts.ndim != 1:
        raise ShapeError(where, f"'lengths' has shape {counts.shape}", "a 1D tensor or list")
    order = None
    if not enforce_sorted:
        order = tensorlib.argsort(wrap(counts), descending=True).array  # torch's order of equals
        counts = counts[order]
        input = input.index_select(0 if batch_first else 1, wrap(order))
    shape = input.array.shape
    if not input.array.size:
        raise ShapeError(where, f"Cannot pack empty tensors, shape {shape}")
    steps, batch = shape[:2][::-1] if batch_first else shape[:2]
    if len(counts) != batch:
        raise ShapeError(
            where, f"Expected `len(lengths)` to be equal to batch_size {batch}, got {len(counts)}"
        )
    if counts[-1] <= 0:
        raise ShapeError(
            where,
            "Length of all samples has to be greater than 0, but found an element in 'lengths' that"
            f" is <= 0: {counts.min()}",
        )
    if (np.diff(counts) > 0).any():
        raise ShapeError(
            where,
            "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True, got "
            f"{counts.tolist()}",
            hint="pass enforce_sorted=False",
        )
    if counts[0] > steps:
        raise ShapeError(where, f"a length is {counts[0]}", f"at most the {steps} steps of input")
    sizes = (counts[:, None] > np.arange(counts[0])).sum(0)
    times, rows = _positions(sizes)
    data = _taken(input, (rows, times) if batch_first else (times, rows))
    return PackedSequence(data, wrap(sizes), None if order is None else wrap(order))


def pad_packed_sequence(
    sequence: PackedSequence,
    batch_first: bool = False,
    padding_value: float = 0.0,
    total_length: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`(padded, lengths)` with the sequences in the order they were packed from; see
    `pack_padded_sequence`. `total_length` gives more steps than the longest sequence has.
    """
    sizes = sequence.batch_sizes.array
    steps, batch = len(sizes), int(sizes[0])
    if total_length is not None:
        if total_length < steps:
            raise InvalidValueError(
                "pad_packed_sequence",
                "Expected total_length to be at least the length of the longest sequence in input, "
                f"but got total_length={total_length} and max sequence length being {steps}",
            )
        steps = total_length
    times, rows = _positions(sizes)
    lengths = (sizes[:, None] > np.arange(batch)).sum(0)
    if sequence.unsorted_indices is not None:
        rows = sequence.sorted_indices.array[rows]  # type: ignore[union-attr]  # both or none
        lengths = lengths[sequence.unsorted_indices.array]
    places, shape = (
        ((rows, times), (batch, steps)) if batch_first else ((times, rows), (steps, batch))
    )
    full = (*shape, *sequence.data.array.shape[1:])
    return _placed(sequence.data, places, full, padding_value), wrap(lengths)


def pad_sequence(
    sequences: Tensor | Iterable[Tensor],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Tensor:
    """[T, B, *] (`batch_first`: [B, T, *]) of B sequences [L, *], T the longest L.

    The padding stands after a sequence, or before it with `padding_side="left"`. The result has
    the first sequence's dtype.
    """
    where = "pad_sequence"
    if not isinstance(sequences, Iterable):
        raise ShapeError(
            where, f"Expected iterable for input sequences, but got arg of type: {type(sequences)}"
        )
    parts = list(sequences)
    if not parts:
        raise ShapeError(where, "received an empty list of sequences")
    if padding_side not in ("left", "right"):
        raise ShapeError(
            where, f"Expected padding_side to be one of left or right, but got {padding_side}"
        )
    shapes = [part.array.shape for part in parts]
    if not all(shapes) or len({shape[1:] for shape in shapes}) > 1:
        raise ShapeError(
            where, f"sequences of shapes {shapes}", "(length, *) with one and the same *"
        )
    lengths = [shape[0] for shape in shapes]
    longest = max(lengths)
    rows = np.repeat(np.arange(len(parts)), lengths)
    starts = [longest - n if padding_side == "left" else 0 for n in lengths]
    times = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])
    data = tensorlib.cat([part.to(parts[0].dtype) for part in parts])
    if batch_first:
        return _placed(data, (rows, times), (len(parts), longest, *shapes[0][1:]), padding_value)
    return _placed(data, (times, rows), (longest, len(parts), *shapes[0][1:]), padding_value)


def unpad_sequence(
    padded_sequences: Tensor, lengths: Tensor, batch_first: bool = False
) -> list[Tensor]:
    """The sequences of [T, B, *] (`batch_first`: [B, T, *]), each cut to its length."""
    rows = padded_sequences if batch_first else padded_sequences.transpose(0, 1)
    return [row[: int(n)].clone() for row, n in zip(rows.unbind(0), lengths.tolist(), strict=True)]


def pack_sequence(sequences: Sequence[Tensor], enforce_sorted: bool = True) -> PackedSequence:
    """Pack sequences [L, *] that have the same *; see `pack_padded_sequence`."""
    lengths = [len(sequence.array) for sequence in sequences]
    return pack_padded_sequence(pad_sequence(sequences), lengths, enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Tensor]:
    """The sequences of a PackedSequence, in the order they were packed from."""
    return unpad_sequence(*pad_packed_sequence(packed_sequences, True), batch_first=True)


def _positions(sizes: Any) -> Places:
    """Step and sequence of each row of packed data."""
    starts = np.cumsum(sizes) - sizes
    times = np.repeat(np.arange(len(sizes)), sizes)
    return times, np.arange(len(times)) - starts[times]


def _taken(input: Tensor, places: Places) -> Tensor:
    """The elements at `places` of the first two dimensions, none of them twice."""
    shape = input.array.shape

    def pack_padded_sequence(grad: Any) -> Any:
        whole = np.zeros_like(grad, shape=shape)
        whole[places] = grad
        return (whole,)

    def smooth(grad: Tensor) -> Any:
        return (_placed(grad, places, shape, 0.0),)

    return record(input.array[places], pack_padded_sequence, input, smooth=smooth)


def _placed(data: Tensor, places: Places, shape: tuple[int, ...], value: float) -> Tensor:
    """A tensor of this shape, `data` at `places` of the first two dimensions, `value` elsewhere."""
    whole = np.full_like(data.array, value, shape=shape)
    whole[places] = data.array

    def pad_packed_sequence(grad: Any) -> Any:
        return (grad[places],)

    def smooth(grad: Tensor) -> Any:
        return (_taken(grad, places),)

    return record(whole, pad_packed_sequence, data, smooth=smooth)
