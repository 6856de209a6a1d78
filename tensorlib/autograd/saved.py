"""What backward functions keep: the arrays in their closures, found, replaced, and packed away by
`saved_tensors_hooks`.
"""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tensorlib.autograd import tape
from tensorlib.errors import ArgumentError, AutogradError

# When memory was last changed in place, by the id of the object that owns it and in the order of
# nodes: an operation may keep an index or a mask that is no input of its node.
changes: dict[int, int] = {}


def owner_of(array: Any) -> Any:
    """What owns the memory of an array."""
    while getattr(array, "base", None) is not None:
        array = array.base
    return array


def captured_arrays(function: Any) -> Iterator[tuple[str, Any]]:
    """The arrays (and array-like scalars) a closure holds, by name; looks into tuples, lists and
    inner functions.
    """
    code = getattr(function, "__code__", None)
    if code is None:
        return
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            held = cell.cell_contents
        except ValueError:  # the name is bound later, in the branch not taken
            continue
        yield from _arrays_in(name, held)


def _is_array(held: Any) -> bool:
    return isinstance(held, np.ndarray | np.generic) or (
        hasattr(held, "dtype") and hasattr(held, "strides")
    )


def _arrays_in(name: str, held: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(held, tuple | list):
        for item in held:
            yield from _arrays_in(name, item)
    elif isinstance(held, types.FunctionType):
        if held.__closure__:
            yield from captured_arrays(held)
    elif _is_array(held):
        yield name, held


def with_cells(function: Any, replace: Callable[[str, Any], Any]) -> Any:
    """The function with each captured value `v` under `name` replaced by `replace(name, v)`."""
    cells = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            cells.append(types.CellType(replace(name, cell.cell_contents)))
        except ValueError:
            cells.append(cell)
    made = types.FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(cells),
    )
    made.__qualname__ = function.__qualname__
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    return made


def map_arrays(function: Any, change: Callable[[Any], Any]) -> Any:
    """The function with each array it holds replaced by `change(array)`."""

    return with_cells(function, _Exchange(_is_array, change))


class _Exchange:
    """Changes the values that a test picks; a class, since a function that calls itself is a cycle
    that would keep arrays until the next garbage collection.
    """

    def __init__(self, picks: Callable[[Any], bool], change: Callable[[Any], Any]) -> None:
        self.picks, self.change = picks, change

    def __call__(self, name: str, held: Any) -> Any:
        if self.picks(held):
            return self.change(held)
        if type(held) in (tuple, list):
            return type(held)(self(name, item) for item in held)
        if isinstance(held, types.FunctionType) and held.__closure__:
            return with_cells(held, self)
        return held


def _forms(node: Any) -> list[Any]:
    return [f for f in (node.backward, node.smooth) if getattr(f, "__closure__", None)]


def settle_inplace(node: Any, tensor: Any, result: Any, others: tuple[Any, ...]) -> None:
    """Before `result`, which `node` computed from `tensor`, is written into the memory of `tensor`:
    closures get a copy of the old values where they hold them, and `tensor`'s memory for the
    result.

    Where another operand shares that memory there is no copy, so that backward refuses, as
    PyTorch's does.
    """
    target, output = tensor.array, result.array
    held = [a for form in _forms(node) for _, a in captured_arrays(form)]
    # where `tensor` wants no gradient, only its own old values are kept
    shared = tape.wants(tensor) and any(
        getattr(o, "_counter", None) is tensor._counter for o in others
    )
    if shared:
        return
    old = any(_shares(a, target) for a in held)
    if not old and not any(a is output for a in held):
        return
    copies: dict[int, Any] = {}

    def change(array: Any) -> Any:
        if array is output:
            return target
        if old and _shares(array, target):
            return copies.setdefault(id(array), array.copy())
        return array

    if getattr(node.backward, "__closure__", None):
        node.backward = map_arrays(node.backward, change)
    if getattr(node.smooth, "__closure__", None):
        node.smooth = map_arrays(node.smooth, change)
    renamed = {before: id(copy) for before, copy in copies.items()}
    node.inputs = [(*entry[:5], renamed.get(entry[5], entry[5])) for entry in node.inputs]
    if node.output_id == id(output):
        node.output_id = id(target)
    node.output_version, node.output_seen = tensor._counter, tensor._counter[0] + 1


def settle_behind(node: Any, tensor: Any, since: int) -> None:
    """The old values for the nodes behind `node` that an operation made of several recorded, that
    is after `since` in the sequence of nodes.
    """
    pending, seen, target = [node], {id(node)}, tensor.array
    while pending:
        for entry in pending.pop().inputs:
            edge = entry[0]
            if type(edge) is not tape.Node or edge.sequence < since or id(edge) in seen:
                continue
            seen.add(id(edge))
            pending.append(edge)
            held = [a for form in _forms(edge) for _, a in captured_arrays(form)]
            copies = {id(a): a.copy() for a in held if _shares(a, target)}
            if not copies:
                continue
            forms = [f and _with_copies(f, copies) for f in (edge.backward, edge.smooth)]
            edge.backward, edge.smooth = forms
            edge.inputs = [
                (*e[:5], id(copies[e[5]]) if e[5] in copies else e[5]) for e in edge.inputs
            ]


def _with_copies(function: Any, copies: dict[int, Any]) -> Any:
    if getattr(function, "__closure__", None) is None:
        return function
    return map_arrays(function, lambda array: copies.get(id(array), array))


def _shares(held: Any, array: Any) -> bool:
    return hasattr(held, "__array_function__") and bool(np.may_share_memory(held, array))


# -- checks ---------------------------------------------------------------------------------------


def freed(node: Any) -> AutogradError:
    """The error for a second walk through a freed graph."""
    return AutogradError(
        node.name(),
        "Trying to backward through the graph a second time (or directly access saved tensors"
        " after they have already been freed)",
        "saved values are freed by backward() or autograd.grad()",
        hint="specify retain_graph=True if you need to backward through the graph a second time",
    )


def wrong_count(node: Any, count: int) -> AutogradError:
    """The error for a backward that returned too few gradients, or too many."""
    return AutogradError(
        node.name(),
        f"function {node.name()} returned an incorrect number of gradients (expected"
        f" {len(node.inputs)}, got {count})",
    )


def check_versions(node: Any) -> None:
    """Refuse to compute with a captured value whose memory was changed in place since it was
    recorded.
    """
    if node.sequence > tape._last_change:
        return
    changed: list[tuple[Any, int, Any]] = []
    for edge, _, _, version, seen, _ in node.inputs:
        if version is not None and version[0] != seen:
            changed.append((version, seen, edge))
    own = node.output_version
    if own is not None and own[0] != node.output_seen:
        changed.append((own, node.output_seen, node))
    if type(node) is tape.ManyNode:
        changed += [(one[2], one[3], node) for one in node.results if one[2][0] != one[3]]
    held = [a for _, a in captured_arrays(node.backward) if not isinstance(a, np.generic)]
    for version, seen, edge in changed:
        owner = version[1]() if len(version) > 1 else None
        if owner is None:
            continue
        for array in held:
            if id(array) == node.output_id and edge is not node:
                continue  # an in-place operation's own result, in the memory of its input
            if np.may_share_memory(array, owner):
                raise changed_in_place(node.name(), array, version[0], seen, edge)
    known = {entry[5] for entry in node.inputs} | {node.output_id}
    if type(node) is tape.ManyNode:
        known |= {one[0] for one in node.results}
    for array in held:
        key = id(owner_of(array))
        if changes.get(key, -1) > node.sequence and id(array) not in known and key not in known:
            raise changed_in_place(node.name(), array, None, None, None)


def changed_in_place(where: str, array: Any, now: Any, then: Any, edge: Any) -> AutogradError:
    """The error for a saved value that was changed in place."""
    origin, versions = "", "changed after the operation"
    if now is not None:
        versions = f"at version {now}; expected version {then} instead"
    if isinstance(edge, tape.Node):
        index = edge.index if type(edge) is tape.Output else 0
        origin = f", which is output {index} of {edge.name()},"
    return AutogradError(
        where,
        "one of the variables needed for gradient computation has been modified by an inplace"
        f" operation: [{array.dtype} {list(array.shape)}]{origin} is {versions}",
        hint="clone() it before the in-place change, or use the operation without the trailing"
        " underscore; autograd.set_detect_anomaly(True) finds the operation that needed it",
    )


# -- hooks -----------------------------------------------------------------------------------------


class _Stack(threading.local):
    def __init__(self) -> None:
        self.hooks: list[tuple[Any, Any]] = []
        self.disabled: list[str] = []


stack = _Stack()
users = 0  # hooks entered in all threads


class Packed:
    """A backward whose arrays were handed to a pack hook; unpacks them for each use."""

    def __init__(self, function: Any, boxes: dict[int, Any]) -> None:
        self.function, self.boxes = function, boxes
        self.__qualname__ = function.__qualname__

    def __call__(self, *grads: Any) -> Any:
        return self.unpack()[0](*grads)

    def unpack(self) -> tuple[Any, dict[int, int]]:
        """The function with its arrays back, and the id of each by that of the array packed."""
        back: dict[int, Any] = {}

        def opened(box: Box) -> Any:
            if box.key not in back:
                back[box.key] = box.open()
            return back[box.key]

        function = with_cells(self.function, _Exchange(lambda held: type(held) is Box, opened))
        return function, {key: id(array) for key, array in back.items()}


class Box:
    """One packed array."""

    def __init__(self, key: int, packed: Any, unpack: Callable[[Any], Any], like: Any) -> None:
        self.key, self.packed, self.unpack = key, packed, unpack
        self.generic = isinstance(like, np.generic)

    def open(self) -> Any:
        """The array that the unpack hook makes of it."""
        found = self.unpack(self.packed)
        if not hasattr(found, "array"):
            raise ArgumentError(
                "saved_tensors_hooks",
                f"unpack_hook returned {type(found).__name__}",
                "Output of saved tensor unpack_hook expected to be a Tensor",
            )
        return found.array[()] if self.generic else found.array


def pack(node: Any, inputs: Any, results: Any) -> None:
    """Hand what the node's closures hold to the innermost pair of hooks."""
    if not stack.hooks:
        return
    pack_hook, unpack_hook = stack.hooks[-1]
    tensors = {id(t.array): t for t in inputs}
    boxes: dict[int, Box] = {}

    def change(array: Any) -> Any:
        key = id(array)
        if key not in boxes:
            given = tensors.get(key)
            if given is None:
                given = tape.wrap(array)
            version = given._counter[0]
            boxes[key] = Box(key, pack_hook(given), unpack_hook, array)
            if given._counter[0] != version:
                raise AutogradError(
                    "saved_tensors_hooks",
                    "A saved tensor pack hook is modifying its input in place. Tensors provided as"
                    " input to pack hook can not be modified by in-place operations",
                    hint="clone() it in the hook",
                )
        return boxes[key]

    with tape.no_grad(), _quiet():
        if getattr(node.backward, "__closure__", None):
            packed = map_arrays(node.backward, change)
            if boxes:
                node.backward = Packed(packed, boxes)
        if getattr(node.smooth, "__closure__", None):
            packed = map_arrays(node.smooth, change)
            if boxes:
                node.smooth = Packed(packed, boxes)


class _quiet:
    """Hooks off while a hook runs."""

    def __enter__(self) -> None:
        self.before, stack.hooks = stack.hooks, []

    def __exit__(self, *_: object) -> None:
        stack.hooks = self.before


def pack_tensor(tensor: Any) -> Any:
    """What a custom Function keeps of a tensor: a Box under hooks, itself without."""
    if not stack.hooks:
        return tensor
    pack_hook, unpack_hook = stack.hooks[-1]
    with _quiet():
        return Box(0, pack_hook(tensor), unpack_hook, tensor.array)
