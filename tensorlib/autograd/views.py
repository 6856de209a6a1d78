"""In-place changes and views: what is refused, versions, and the histories that follow.

A changed tensor gets the history of the change. A view passes it on to its base, and every other
view of that base takes its history from there when it is next used.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from tensorlib.autograd import tape
from tensorlib.autograd.nodes import COPY_SLICES, sequence
from tensorlib.autograd.saved import changes, owner_of
from tensorlib.device import address
from tensorlib.errors import AutogradError, ShapeError, UnsupportedError
from tensorlib.ops.strides import partly_overlap, strided

Grads = tuple[Any, ...]
_CLONE = "do it under tensorlib.no_grad(), or on a copy (clone())"


_BLOCK = "move the view and the change both inside the block, or both outside"
_OTHER = "use the operation without the trailing underscore, or clone() the view"
_WHY = {
    tape.NO_GRAD: "Given that this use case is ambiguous and error-prone, it is forbidden",
    tape.INFERENCE_VIEW: "Given that this use case is ambiguous and error-prone, it is forbidden",
    tape.MANY: "This view is the output of a function that returns multiple views. Such functions"
    " do not allow the output views to be modified inplace",
    tape.CUSTOM: "This view was created inside a custom Function (or because an input was returned"
    " as-is), whose backward the change would override",
}
_HINT = {
    tape.NO_GRAD: _BLOCK,
    tape.INFERENCE_VIEW: _BLOCK,
    tape.MANY: _OTHER,
    tape.CUSTOM: _OTHER,
}


def check_inplace(tensor: Any, where: str) -> None:
    """Refuse an in-place change of a leaf (or a view of one) that is to receive a gradient."""
    mode = tape.mode
    if tensor._counter is tape.INFERENCE and not mode.inference:
        raise AutogradError(
            where,
            "Inplace update to inference tensor outside InferenceMode is not allowed",
            hint="clone() it to get a normal tensor first",
        )
    if not mode.grad:
        return
    base = tensor._base
    wanted = tensor._requires_grad or (base is not None and base._requires_grad)
    if base is not None and wanted:
        check_view(tensor, where)
        if base._node is None:
            raise AutogradError(
                where,
                "a view of a leaf Variable that requires grad is being used in an in-place"
                f" operation, shape {tuple(tensor.array.shape)}",
                hint=_CLONE,
            )
    # as in PyTorch also a view whose base has just got its history, until the view is used
    if wanted and tensor._node is None:
        raise AutogradError(
            where,
            "a leaf Variable that requires grad is being used in an in-place operation, shape"
            f" {tuple(tensor.array.shape)}",
            hint=_CLONE,
        )


def check_view(view: Any, where: str, changed: str = "is being") -> None:
    """Refuse to record an in-place change of (or beside) a view that was made in a way that has no
    history to put it in.
    """
    kind = view._made if view._base is not None else tape.DEFAULT
    if kind == tape.DEFAULT:
        return
    node = view._node
    if kind in (tape.NO_GRAD, tape.INFERENCE_VIEW) or node is None:
        place = "inference mode" if kind == tape.INFERENCE_VIEW else "no_grad mode"
        after = "in normal mode" if kind == tape.INFERENCE_VIEW else "with grad mode enabled"
        what = f"A view was created in {place} and {changed} modified inplace {after}"
    else:
        index = node.index if type(node) is tape.Output else 0
        what = f"Output {index} of {node.name()} is a view and {changed} modified inplace"
    raise AutogradError(where, f"{what}. {_WHY[kind]}", hint=_HINT[kind])


def check_memory(tensor: Any, where: str, *others: Any) -> None:
    """Refuse to write where elements share memory, or partly overlap what is read: results would
    depend on the order.
    """
    array = tensor.array
    if (
        0 in array.strides
        and array.size
        and any(n > 1 and not s for n, s in zip(array.shape, array.strides, strict=True))
    ):
        raise ShapeError(
            where,
            "unsupported operation: more than one element of the written-to tensor refers to a"
            f" single memory location, shape {array.shape}",
            hint="clone() it first",
        )
    for other in others:
        source = getattr(other, "array", None)
        if source is None or other._counter is not tensor._counter or source is array:
            continue
        if partly_overlap(array, source):
            raise ShapeError(
                where,
                "unsupported operation: some elements of the input tensor and the written-to tensor"
                f" refer to a single memory location, shapes {source.shape} and {array.shape}",
                hint="clone() the input first",
            )


def bump(tensor: Any) -> None:
    """Note that the memory of `tensor` changed."""
    version = tensor._counter
    if version is tape.INFERENCE:
        return
    version[0] += 1
    if len(version) == 1:
        owner = owner_of(tensor.array)
        key = id(owner)
        try:
            version += weakref.ref(owner, lambda _: changes.pop(key, None)), key
        except TypeError:  # memory owned by a buffer that takes no weak reference
            version += (lambda: owner), key
    tape._last_change = changes[version[2]] = next(sequence)


def rebase(tensor: Any, backward: Any, inputs: list[Any], label: str) -> None:
    """Give `tensor`, whose memory was just changed, the history (backward, inputs); a view passes
    it on to its base.
    """
    node = tape.Node(backward, inputs)
    node.label = COPY_SLICES if label == "CopySlices" else label
    attach(tensor, node)


def attach(tensor: Any, node: Any) -> None:
    """Make `node` the history of a tensor whose memory was just changed; the base of a view takes
    it over for the memory that the view shares with it.
    """
    array, base = tensor.array, tensor._base
    if base is None:
        _put(tensor, node)
        return
    view = tensor
    version = view._counter
    written = (node, array.shape, array.dtype, version, version[0], 0)
    place = _Place(array, base.array)
    before = tape._describe(base)

    def smooth(grad: Any) -> Grads:
        places, flat = place.numbers(), grad.reshape(-1)
        kept = np.ones(flat.array.size, bool)
        kept[places.reshape(-1)] = False
        return (flat * kept).reshape(grad.array.shape), flat[places.reshape(-1)].reshape(
            places.shape
        )

    def copy_slices(grad: Any) -> Grads:
        buffer, region = place.within(grad)
        inner = region.copy()
        region[...] = 0
        return buffer, inner

    new = tape.Node(copy_slices, [before, written], smooth)
    new.label = COPY_SLICES
    _put(base, new)
    view._seen = -1
    sync_view(view)


def _put(tensor: Any, node: Any) -> None:
    """Set the history; `retain_grad` follows it."""
    old = tensor._node
    tensor._node, tensor._requires_grad = node, True
    if old is not None and old.extra is not None and "retain" in old.extra:
        node.more("retain")
        node.extra["retain"] = old.extra.pop("retain")


def sync_view(view: Any) -> bool:
    """Bring a view's history up to date after its memory was changed through another tensor;
    returns whether operations on it are recorded.
    """
    base, version = view._base, view._counter
    if view._seen == version[0] or not base._requires_grad:
        return view._requires_grad or base._requires_grad  # type: ignore[no-any-return]
    if view._made:
        check_view(view, "view", "its base or another view of its base has been")
    view._seen = version[0]
    place = _Place(view.array, base.array)

    def as_strided(grad: Any) -> Grads:
        return (place.outside(grad),)

    def smooth(grad: Any) -> Grads:
        from tensorlib.ops.shape import added_at  # the tape needs operations only here

        return (added_at(grad, place.numbers(), place.base_shape),)

    node = tape.Node(as_strided, [tape._describe(base)], smooth, 0, version)
    node.label = "AsStridedBackward0"
    _put(view, node)
    return True


class _Place:
    """Where a view lies within its base, known by shapes and strides alone."""

    def __init__(self, array: Any, base: Any) -> None:
        self.shape, self.steps, self.dtype = array.shape, array.strides, array.dtype
        self.base_shape, self.base_steps, self.base_dtype = base.shape, base.strides, base.dtype
        self.offset = address(array) - address(base) if array.size else 0

    def _flat(self, like: Any, kind: Any, item: int) -> tuple[Any, Any]:
        """Zeroed memory laid out like the base's, and a view of it with the base's shape."""
        steps = [s // self.base_dtype.itemsize * item for s in self.base_steps]
        reach = sum((n - 1) * s for n, s in zip(self.base_shape, steps, strict=True))
        count = 1 + reach // item if 0 not in self.base_shape else 0
        flat = np.zeros_like(like, kind, shape=(count,))
        return flat, np.lib.stride_tricks.as_strided(flat, self.base_shape, steps)

    def _window(self, flat: Any, item: int) -> Any:
        """The view's part of `flat`, whose elements take `item` bytes where the base's do."""
        own, ratio = self.base_dtype.itemsize, item / self.base_dtype.itemsize
        kind = flat.dtype
        if self.dtype.itemsize != own:  # a complex tensor read as real numbers, or the reverse
            kind = self.dtype
            flat = flat.view(kind)
        steps = tuple(round(s * ratio) for s in self.steps)
        try:
            return strided(flat, self.shape, steps, round(self.offset * ratio), kind)
        except (ValueError, TypeError):
            raise AutogradError(
                "view",
                f"a view of shape {self.shape} reaches beyond its base, which was given the shape"
                f" {self.base_shape} in place",
                hint="take the view anew",
            ) from None

    def within(self, grad: Any) -> tuple[Any, Any]:
        """A copy of `grad`, which has the base's shape, and the view's region of it."""
        flat, whole = self._flat(grad, grad.dtype, grad.dtype.itemsize)
        whole[...] = grad
        return whole, self._window(flat, grad.dtype.itemsize)

    def outside(self, grad: Any) -> Any:
        """Zeros of the base's shape with `grad` added at the view's region."""
        kind = self.base_dtype
        flat, whole = self._flat(grad, kind, kind.itemsize)
        if self.dtype.itemsize != kind.itemsize or not self._overlaps():
            self._window(flat, kind.itemsize)[...] = grad
            return whole
        numbers = self.numbers().reshape(-1)
        total = np.zeros_like(grad, shape=(whole.size,))
        np.add.at(total, numbers, grad.reshape(-1))
        return total.reshape(self.base_shape)

    def _overlaps(self) -> bool:
        """Whether two of the view's elements may be one in memory."""
        reach = 0
        steps = sorted((s, n) for s, n in zip(self.steps, self.shape, strict=True) if n > 1)
        for step, count in steps:
            if step <= reach:
                return True
            reach += step * (count - 1)
        return False

    def numbers(self) -> Any:
        """For each element of the view, its number in the base."""
        if self.dtype.itemsize != self.base_dtype.itemsize:
            raise UnsupportedError(
                "create_graph",
                "second derivatives through an in-place change beside a view of another dtype",
            )
        size = int(np.prod(self.base_shape))
        flat, whole = self._flat(np.empty(0), np.int64, 8)
        whole[...] = np.arange(size).reshape(self.base_shape)
        return self._window(flat, 8)


def increment_version(tensors: Any) -> None:
    """Note that the memory of a tensor (or of several) was changed by other means."""
    for tensor in [tensors] if hasattr(tensors, "array") else tensors:
        bump(tensor)
