"""The walk of a backward pass: from the newest node to the oldest, each gradient summed before it
is passed on.
"""

from __future__ import annotations

import heapq
import itertools
import sys
import threading
from typing import Any

import numpy as np

from tensorlib.autograd import anomaly_mode, hooks, saved, tape
from tensorlib.autograd.tape import ManyNode, Node, Output, wrap
from tensorlib.errors import AutogradError
from tensorlib.kernels.arithmetic import LARGE, add

_ids = itertools.count()


class Task:
    """One backward pass, as hooks see it."""

    __slots__ = ("id", "nodes", "useful", "uses", "wanted")

    def __init__(self, nodes: Any, uses: Any, useful: Any, wanted: Any) -> None:
        self.id = next(_ids)
        self.nodes, self.uses, self.useful, self.wanted = nodes, uses, useful, wanted

    def runs(self, key: Any) -> bool:
        """Whether the gradient of a node, or of the leaf of this id, will be computed."""
        if self.useful is None:
            return key in self.uses if isinstance(key, int) else key in self.nodes
        if isinstance(key, int):
            return key in self.wanted and key in self.uses
        return key in self.useful and key in self.nodes


class _Current(threading.local):
    task: Task | None = None


current = _Current()


def run(
    roots: list[Any],
    seeds: list[Any],
    retain: bool,
    create_graph: bool,
    targets: dict[Any, Any] | None,
    accumulate: bool,
) -> dict[Any, Any]:
    """Walk the graph behind `roots`, which are edges (nodes or leaves); returns the gradients of
    `targets` by their keys.
    """
    nodes, uses = reach(roots)
    useful = None if targets is None else _useful(nodes, targets, accumulate)
    found: dict[Any, Any] = {}
    call, plus = _call, _plus
    if create_graph:
        from tensorlib.autograd import double  # needs the operations, which need the tape

        call, plus = double.call, double.plus
    if anomaly_mode.state.on:
        call = anomaly_mode.watched(call)
    plain = call is _call and targets is None
    pending: dict[Node, Any] = {}
    leaves: dict[int, list[Any]] = {}
    owned: set[Any] = set()
    heap: list[tuple[int, Node]] = []

    def send(edge: Any, gradient: Any) -> None:
        if isinstance(edge, Node):
            if useful is not None and edge not in useful:
                return
            if edge not in pending:
                pending[edge] = gradient
                heapq.heappush(heap, (-edge.sequence, edge))
            elif gradient is not None:
                before = pending[edge]
                if before is None:
                    pending[edge] = gradient
                else:
                    pending[edge] = plus(before, gradient, edge in owned)
                    owned.add(edge)
            return
        key = id(edge)
        if targets is not None and key not in targets:
            return
        if uses[key] == 1:
            if gradient is not None:
                finish(edge, gradient, False)
            return
        entry = leaves.get(key)
        if entry is None:
            entry = leaves[key] = [edge, gradient, uses[key], False]
        elif gradient is not None:
            if entry[1] is None:
                entry[1] = gradient
            else:
                entry[1] = plus(entry[1], gradient, entry[3])
                entry[3] = True
        entry[2] -= 1
        if entry[2] == 0:
            del leaves[key]
            if entry[1] is not None:
                finish(edge, entry[1], entry[3])

    def finish(leaf: Any, gradient: Any, fresh: bool) -> None:
        extra = leaf._extra
        if extra is not None and extra.get("hooks"):
            gradient = hooks.run_hooks(extra["hooks"], gradient, create_graph)
        if not accumulate:
            found[id(leaf)] = gradient
            return
        if extra is not None and extra.get("before"):
            (gradient,) = hooks.tuple_hooks(extra["before"], (gradient,), create_graph)
        _accumulate(leaf, gradient, create_graph, fresh)
        if extra is not None:
            for hook in list(extra.get("post_accumulate") or ()):
                if hook(leaf) is not None:
                    raise AutogradError(
                        "post_accumulate_grad_hook", "the hook returned a value", "None"
                    )
            if extra.get("after"):
                given = gradient if create_graph else wrap(gradient)
                for hook in list(extra["after"]):
                    hook((), (given,))

    mode, before = tape.mode, current.task
    recording = mode.grad, mode.asked
    current.task = Task(nodes, uses, useful, targets)
    mode.asked, mode.grad = create_graph, create_graph and not mode.inference
    try:
        for root, seed in zip(roots, seeds, strict=True):
            send(root, seed)
        while heap:
            _, node = heapq.heappop(heap)
            gradient = pending.pop(node)
            if owned:
                owned.discard(node)
            if plain and type(node) is Node and not node.hooks and node.extra is None:
                results = _call(node, gradient)
                if not retain:
                    node.free()
                gradient = None
                for entry, partial in zip(node.inputs, results, strict=True):
                    edge = entry[0]
                    if edge is None:
                        continue
                    if type(edge) is Node and edge not in pending:
                        pending[edge] = partial
                        heapq.heappush(heap, (-edge.sequence, edge))
                    else:
                        send(edge, partial)
                results = partial = None
                continue
            if targets and useful and not accumulate and node in targets and useful[node]:
                found[node] = gradient  # before its hooks, as PyTorch's, where the node runs
            if node.hooks and gradient is not None:
                gradient = hooks.run_hooks(node.hooks, gradient, create_graph)
            extra = node.extra
            if extra is not None:
                gradient = hooks.before_node(extra, gradient, create_graph)
            if targets is not None and node in targets:
                found.setdefault(node, gradient)
                if accumulate and gradient is not None:
                    _accumulate(targets[node], gradient, create_graph, False)
            if type(node) is Output:
                parent = node.parent
                if useful is not None and parent not in useful:
                    continue
                if parent not in pending:
                    pending[parent] = [None] * parent.outputs
                    heapq.heappush(heap, (-parent.sequence, parent))
                pending[parent][node.index] = gradient
                continue
            if useful is not None and not useful[node]:
                continue
            if type(gradient) is list and any(g is None for g in gradient):
                hooks.unused_outputs(node, gradient, create_graph)
            results = call(node, gradient)
            if extra is not None and "after" in extra:
                results = hooks.after_node(extra["after"], results, gradient, create_graph)
            if not retain:
                node.free()
            gradient = None
            for entry, partial in zip(node.inputs, results, strict=True):
                edge = entry[0]
                if edge is not None:
                    send(edge, partial)
            results = partial = None
        for entry in list(leaves.values()):  # some of their uses were cut off
            if entry[1] is not None:
                finish(entry[0], entry[1], entry[3])
    finally:
        current.task = before
        mode.grad, mode.asked = recording
    return found


def reach(roots: list[Any]) -> tuple[set[Node], dict[int, int]]:
    """All nodes behind `roots`, and how many edges lead to each leaf."""
    uses: dict[int, int] = {}
    seen: set[Node] = set()
    stack: list[Node] = []
    for root in roots:
        if not isinstance(root, Node):
            uses[id(root)] = uses.get(id(root), 0) + 1
        elif root not in seen:
            seen.add(root)
            stack.append(root)
    while stack:
        for entry in stack.pop().inputs:
            edge = entry[0]
            if edge is None:
                continue
            if isinstance(edge, Node):
                if edge not in seen:
                    seen.add(edge)
                    stack.append(edge)
            else:
                uses[id(edge)] = uses.get(id(edge), 0) + 1
    return seen, uses


def _useful(nodes: set[Node], targets: dict[Any, Any], accumulate: bool) -> dict[Node, bool]:
    """The nodes through which a target is reached, and the targets; true for those to be run,
    which for `backward` the targets are too, as in PyTorch.
    """
    useful: dict[Node, bool] = {}
    for node in sorted(nodes, key=lambda n: n.sequence):
        for entry in node.inputs:
            edge = entry[0]
            if (edge in useful) if isinstance(edge, Node) else (id(edge) in targets):
                useful[node] = True
                break
        else:
            if node in targets:
                useful[node] = accumulate
    return useful


def _call(node: Node, gradient: Any) -> Any:
    """Run a node's backward on arrays; undo broadcasting and casts of its inputs."""
    kind = type(node)
    if kind is Node:
        if gradient is None:
            return (None,) * len(node.inputs)
        function = node.backward
        if function is None:
            raise saved.freed(node)
        if node.sequence < tape._last_change:
            saved.check_versions(node)
        raw = function(gradient)
    elif kind is ManyNode:
        if all(g is None for g in gradient):
            return (None,) * len(node.inputs)
        if node.backward is None:
            raise saved.freed(node)
        saved.check_versions(node)
        raw = node.backward(*gradient)
    else:
        return node.run(gradient, False)  # type: ignore[attr-defined]  # a custom Function's
    if type(raw) is not tuple:
        raw = (raw,)
    inputs = node.inputs
    if len(raw) != len(inputs):
        raise saved.wrong_count(node, len(raw))
    results: list[Any] = []
    for (edge, shape, dtype, _, _, _), value in zip(inputs, raw, strict=True):
        if value is None or edge is None:
            results.append(None)
            continue
        if value.shape != shape:
            value = unbroadcast(value, shape)
        if value.dtype is not dtype and value.dtype != dtype:
            value = _cast(value, dtype)
        results.append(value)
    return results


def fit(value: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """A gradient in the shape and dtype of its input."""
    if value.shape != shape:
        value = unbroadcast(value, shape)
    return value if value.dtype == dtype else _cast(value, dtype)


def _cast(value: Any, dtype: Any) -> Any:
    if value.dtype.kind == "c" and dtype.kind != "c":
        value = value.real
    return np.asarray(value).astype(dtype) if isinstance(value, np.generic) else value.astype(dtype)


def unbroadcast(value: Any, shape: tuple[int, ...]) -> Any:
    """Sum `value` over the dimensions that broadcasting added or stretched."""
    extra = value.ndim - len(shape)
    total = np.float32 if value.dtype.char in "eE" else None  # float16 adds up in float32
    if extra > 0:
        value = value.sum(axis=tuple(range(extra)), dtype=total)
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and value.shape[i] != 1)
    if stretched:
        value = value.sum(axis=stretched, keepdims=True, dtype=total)
    if value.shape != shape:
        value = np.broadcast_to(value, shape) if value.ndim == 0 else value.reshape(shape)
    return tape.as_array(value)


def _plus(a: Any, b: Any, own: bool) -> Any:
    if own and type(a) is np.ndarray and a.dtype == b.dtype and a.ndim:
        if a.size < LARGE:
            a += b
        else:
            add(a, b, out=a)
        return a
    return tape.as_array(a + b) if a.size < LARGE else add(a, b)


def _alone(array: Any) -> bool:
    """Whether the memory of an array that nobody else holds is its own."""
    base = array.base
    while type(base) is np.ndarray:
        if base.size != array.size or sys.getrefcount(base) > _BASE:
            return False
        base = base.base
    return base is None or hasattr(base, "piece")  # of `kernels.cpu.memory`


# -- leaves ----------------------------------------------------------------------------------------


def _accumulate(leaf: Any, gradient: Any, create_graph: bool, fresh: bool) -> None:
    """Add a complete gradient to `leaf.grad`; a new one is kept without a copy when nobody else can
    hold it, and laid out in memory as the leaf is.
    """
    old = leaf._grad
    if create_graph:
        leaf._grad = gradient if old is None else old + gradient
    elif old is None:
        if gradient.strides != leaf.array.strides:
            like, gradient = gradient, np.empty_like(leaf.array, gradient.dtype)
            gradient[...] = like
        elif not fresh and (sys.getrefcount(gradient) > _UNIQUE or not _alone(gradient)):
            gradient = gradient.copy("K")
        leaf._grad = wrap(gradient)
    else:
        total = old.array
        if total.size < LARGE:
            total += gradient
        else:
            add(total, gradient, out=total)
        tape.bump(old)


_UNIQUE = _BASE = 0


def _calibrate() -> int:
    """Count the references of a gradient nobody else holds, on the very path it takes here."""
    counts: list[int] = []

    def probe(leaf: Any, gradient: Any, create_graph: bool, fresh: bool) -> None:
        counts.append(sys.getrefcount(gradient))

    def finish(leaf: Any, gradient: Any, fresh: bool) -> None:
        probe(leaf, gradient, False, False)

    def send(edge: Any, gradient: Any) -> None:
        finish(edge, gradient, False)

    def call() -> list[Any]:
        results: list[Any] = []
        for value in (np.empty(2),):
            results.append(value)  # noqa: PERF402  # as the engine's own loop holds it
        return results

    results = call()
    for _, partial in zip((None,), results, strict=True):
        send(None, partial)
    return counts[0]


def _of_base(array: Any) -> int:
    base = array.base
    return sys.getrefcount(base)


_UNIQUE = _calibrate()
_BASE = _of_base(np.empty(2)[:1])
