"""The backward pass: from the newest node to the oldest, each gradient summed before it is passed
on.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib.autograd import tape
from tensorlib.autograd.tape import Node, Output, wrap
from tensorlib.errors import ArgumentError, AutogradError, ShapeError

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _count_unique() -> int:
    """References an array has in `_accumulate` when nobody else holds it; differs between Python
    versions.
    """

    def inner(gradient: Any) -> int:
        return sys.getrefcount(gradient)

    for gradient in (np.empty(1),):
        return inner(gradient)
    return 0


def backward(
    tensors: Tensor | Sequence[Tensor],
    grad_tensors: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensor | Sequence[Tensor] | None = None,
) -> None:
    """Add the gradients of the sum of `tensors` to `.grad` of the leaves (or of `inputs` only)."""
    roots, grads = _roots("backward", tensors, grad_tensors, create_graph)
    retain = create_graph if retain_graph is None else retain_graph
    targets = None if inputs is None else _as_list(inputs)
    if targets == []:
        raise AutogradError("backward", "inputs is empty", hint="leave it out to reach all leaves")
    _run(roots, grads, retain, create_graph, targets, accumulate=True)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor, ...]:
    """The gradients of the sum of `outputs` with respect to `inputs`, without touching `.grad`."""
    if is_grads_batched:
        raise tape_unsupported("grad", "is_grads_batched=True")
    if materialize_grads and allow_unused is False:
        raise AutogradError(
            "grad", "materialize_grads=True needs allow_unused to be True or left out"
        )
    roots, grads = _roots("grad", outputs, grad_outputs, create_graph)
    targets = _as_list(inputs)
    for position, target in enumerate(targets):
        if not target.requires_grad:
            raise AutogradError(
                "grad",
                f"input {position} of shape {tuple(target.shape)} does not require grad: one of "
                f"the differentiated "
                "Tensors does not require grad",
                hint="call requires_grad_() on it before the forward pass",
            )
    retain = create_graph if retain_graph is None else retain_graph
    found = _run(roots, grads, retain, create_graph, targets, accumulate=False)
    results: list[Any] = []
    for position, target in enumerate(targets):
        value = found.get(_key(target))
        if value is None and materialize_grads:
            value = np.zeros_like(target.array)
        elif value is None and not allow_unused:
            raise AutogradError(
                "grad",
                f"input {position} of shape {tuple(target.shape)}: one of the differentiated "
                f"Tensors appears to not "
                "have been used in the graph",
                hint="set allow_unused=True if this is the desired behavior",
            )
        results.append(value if value is None or hasattr(value, "array") else wrap(value))
    return tuple(results)


def tape_unsupported(where: str, what: str) -> Exception:
    """The error for an argument that PyTorch has and we do not."""
    from tensorlib.errors import UnsupportedError

    return UnsupportedError(where, f"{what} is not supported")


def _as_list(tensors: Any) -> list[Any]:
    return [tensors] if hasattr(tensors, "array") else list(tensors)


def _key(tensor: Any) -> Any:
    """What the engine knows a tensor's gradient by: its node, or the leaf itself (by id: ==
    compares elements).
    """
    if tensor._base is not None:
        tensor._sync()
    return id(tensor) if tensor._node is None else tensor._node


def _roots(where: str, tensors: Any, grads: Any, create_graph: bool) -> tuple[list[Any], list[Any]]:
    roots = _as_list(tensors)
    given = [None] * len(roots) if grads is None else _as_list(grads)
    if len(given) != len(roots):
        raise AutogradError(
            where, f"got {len(roots)} tensors and {len(given)} gradients", "one for each"
        )
    seeds: list[Any] = []
    for root, seed in zip(roots, given, strict=True):
        if not root.requires_grad:
            raise AutogradError(
                where,
                f"element 0 of tensors does not require grad and does not have a grad_fn, shape "
                f"{tuple(root.shape)}",
                hint="call requires_grad_() on an input, and do not compute under no_grad()",
            )
        if seed is None:
            if root.array.size != 1:
                raise AutogradError(
                    where,
                    f"grad can be implicitly created only for scalar outputs, shape "
                    f"{tuple(root.shape)}",
                    hint="reduce it with sum() or mean(), or pass a gradient of its shape",
                )
            seed = wrap(np.ones_like(root.array))
        elif not hasattr(seed, "array"):
            raise ArgumentError(
                where, f"gradients can be either Tensors or None, but got {type(seed).__name__}"
            )
        elif seed.array.shape != root.array.shape:
            raise ShapeError(
                where,
                f"Mismatch in shape: the gradient has shape {seed.array.shape}, its tensor "
                f"{root.array.shape}",
                "equal shapes",
            )
        if create_graph:
            seeds.append(seed)
        else:
            array = seed.array
            seeds.append(
                array if array.dtype == root.array.dtype else array.astype(root.array.dtype)
            )
    return roots, seeds


def _run(
    roots: list[Any],
    seeds: list[Any],
    retain: bool,
    create_graph: bool,
    targets: list[Any] | None,
    accumulate: bool,
) -> dict[Any, Any]:
    """Walk the graph; returns the gradients of `targets` by `_key`."""
    nodes, uses = _reach(roots)
    wanted = None if targets is None else {_key(t) for t in targets}
    useful = None if wanted is None else _useful(nodes, wanted)
    keep = {_key(t): t for t in targets or ()}
    found: dict[Any, Any] = {}
    call, plus = _call, _plus
    if create_graph:
        from tensorlib.autograd import double  # needs the operations, which need the tape

        call, plus = double.call, double.plus
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
            else:
                pending[edge] = plus(pending[edge], gradient, edge in owned)
                owned.add(edge)
            return
        key = id(edge)
        if wanted is not None and key not in wanted:
            return
        entry = leaves.get(key)
        if entry is None:
            entry = leaves[key] = [edge, gradient, uses[key], False]
        elif gradient is not None:
            entry[1] = gradient if entry[1] is None else plus(entry[1], gradient, entry[3])
            entry[3] = True
        entry[2] -= 1
        if entry[2] == 0:
            del leaves[key]
            if entry[1] is not None:
                finish(edge, entry[1], entry[3])

    def finish(leaf: Any, gradient: Any, fresh: bool) -> None:
        gradient = run_hooks(leaf._extra and leaf._extra.get("hooks"), gradient, create_graph)
        if not accumulate:
            found[id(leaf)] = gradient
            return
        _accumulate(leaf, gradient, create_graph, fresh)
        after = leaf._extra and leaf._extra.get("post_accumulate")
        for hook in list(after or ()):
            hook(leaf)

    for root, seed in zip(roots, seeds, strict=True):
        send(root if root._node is None else root._node, seed)
    while heap:
        _, node = heapq.heappop(heap)
        gradient = pending.pop(node)
        owned.discard(node)
        if node.hooks:
            gradient = run_hooks(node.hooks, gradient, create_graph)
        if wanted is not None and node in wanted:
            found[node] = gradient
            if accumulate:
                _accumulate(keep[node], gradient, create_graph, False)
        if type(node) is Output:
            parent = node.parent
            if useful is not None and parent not in useful:
                continue
            if parent not in pending:
                pending[parent] = [None] * parent.outputs
                heapq.heappush(heap, (-parent.sequence, parent))
            pending[parent][node.index] = gradient
            continue
        if useful is not None and node not in useful:
            continue
        results = call(node, gradient)
        if not retain:
            node.free()
        inputs = node.inputs
        if len(results) != len(inputs):
            raise AutogradError(
                node.name(),
                f"backward returned {len(results)} gradients",
                f"{len(inputs)}, one for each input",
            )
        del gradient
        for entry, partial in zip(inputs, results, strict=True):
            edge = entry[0]
            if edge is None:
                continue
            if partial is None:
                if not isinstance(edge, Node):
                    send(edge, None)
                continue
            send(edge, partial)
        del results, partial
    for entry in list(leaves.values()):  # some of their uses gave no gradient or were cut off
        if entry[1] is not None:
            finish(entry[0], entry[1], entry[3])
    return found


def _reach(roots: list[Any]) -> tuple[list[Node], dict[int, int]]:
    """All nodes behind `roots`, and how many edges lead to each leaf."""
    uses: dict[int, int] = {}
    seen: set[Node] = set()
    stack: list[Node] = []
    for root in roots:
        if root._node is None:
            uses[id(root)] = uses.get(id(root), 0) + 1
        elif root._node not in seen:
            seen.add(root._node)
            stack.append(root._node)
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
    return list(seen), uses


def _useful(nodes: list[Node], wanted: set[Any]) -> set[Any]:
    """The nodes through which a wanted tensor can be reached."""
    useful: set[Any] = set()
    for node in sorted(nodes, key=lambda n: n.sequence):
        for entry in node.inputs:
            edge = entry[0]
            if isinstance(edge, Node):
                if edge in useful or edge in wanted:
                    useful.add(node)
                    break
            elif edge is not None and id(edge) in wanted:
                useful.add(node)
                break
    return useful | {node for node in nodes if node in wanted}


def _call(node: Node, gradient: Any) -> tuple[Any, ...]:
    """Run a node's backward on arrays; undo broadcasting and casts of its inputs."""
    function = node.backward
    if function is None:
        raise freed(node)
    check_versions(node)
    raw = function(*gradient) if node.outputs > 1 or type(gradient) is list else function(gradient)
    if type(raw) is not tuple:
        raw = (raw,)
    results: list[Any] = []
    for entry, value in zip(node.inputs, raw, strict=False):
        if value is None or entry[0] is None:
            results.append(None)
            continue
        if entry[1] is not None:
            if value.shape != entry[1]:
                value = unbroadcast(value, entry[1])
            if value.dtype != entry[2]:
                value = _cast(value, entry[2])
        results.append(value)
    results.extend(raw[len(results) :])
    return tuple(results)


def _cast(value: Any, dtype: Any) -> Any:
    if value.dtype.kind == "c" and dtype.kind != "c":
        value = value.real
    return np.asarray(value).astype(dtype) if isinstance(value, np.generic) else value.astype(dtype)


def unbroadcast(value: Any, shape: tuple[int, ...]) -> Any:
    """Sum `value` over the dimensions that broadcasting added or stretched."""
    extra = value.ndim - len(shape)
    if extra > 0:
        value = value.sum(axis=tuple(range(extra)))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and value.shape[i] != 1)
    if stretched:
        value = value.sum(axis=stretched, keepdims=True)
    if value.shape != shape:
        value = np.broadcast_to(value, shape) if value.ndim == 0 else value.reshape(shape)
    return tape.as_array(value)


def freed(node: Node) -> AutogradError:
    """The error for a second walk through a freed graph."""
    return AutogradError(
        node.name(),
        "Trying to backward through the graph a second time (or directly access saved tensors "
        "after they have already "
        "been freed)",
        "saved values are freed by backward() or autograd.grad()",
        hint="specify retain_graph=True if you need to backward through the graph a second time",
    )


def check_versions(node: Node) -> None:
    """Refuse to compute with a captured value whose memory was changed in place since it was
    recorded.
    """
    changed = [(e[3], e[4], e[1]) for e in node.inputs if e[3] is not None and e[3][0] != e[4]]
    own = node.output_version
    if own is not None and own[0] != 0:
        changed.append((own, 0, None))
    if node.outputs > 1 and node.output_id:
        changed += [(place[3], 0, None) for place in node.output_id if place[3][0] != 0]
    if not changed:
        return
    held: list[Any] = (
        [a for _, a in tape.captured_arrays(node.backward)]
        if hasattr(node.backward, "__code__")
        else []
    )
    for version, seen, _ in changed:
        owner = version[1]() if len(version) > 1 else None
        if owner is None:
            continue
        for array in held:
            if isinstance(array, np.generic) or not np.may_share_memory(array, owner):
                continue
            raise AutogradError(
                node.name(),
                "one of the variables needed for gradient computation has been modified by an "
                "inplace operation: a "
                f"{array.dtype} tensor of shape {array.shape} is at version {version[0]}; expected "
                f"version {seen} "
                "instead",
                hint=(
                    "clone() it before the in-place change, or use the operation without the "
                    "trailing underscore"
                ),
            )


def _plus(a: Any, b: Any, own: bool) -> Any:
    if own and type(a) is np.ndarray and a.dtype == b.dtype and a.ndim:
        a += b
        return a
    return tape.as_array(a + b)


def run_hooks(hooks: Any, gradient: Any, create_graph: bool) -> Any:
    """Pass a gradient through tensor hooks; one that returns a Tensor replaces it."""
    if not hooks:
        return gradient
    for hook in list(hooks):
        value = gradient if create_graph else wrap(gradient)
        result = hook(value)
        if result is not None:
            if not hasattr(result, "array") or result.array.shape != value.array.shape:
                raise AutogradError(
                    "hook",
                    f"returned {type(result).__name__} of shape {getattr(result, 'shape', None)}",
                    f"None or a Tensor of the gradient's shape {value.array.shape}",
                )
            gradient = result if create_graph else result.array
    return gradient


def _accumulate(leaf: Any, gradient: Any, create_graph: bool, fresh: bool) -> None:
    """Add a complete gradient to `leaf.grad`; a new one is kept without a copy when nobody else can
    hold it.
    """
    old = leaf._grad
    if create_graph:
        leaf._grad = gradient if old is None else old + gradient
    elif old is None:
        if not fresh and (gradient.base is not None or sys.getrefcount(gradient) > _UNIQUE):
            gradient = gradient.copy()
        leaf._grad = wrap(gradient)
    elif old._requires_grad:
        leaf._grad = old.detach() + wrap(gradient)
    else:
        old.array += gradient
        tape.bump(old)


_UNIQUE = 0


def _calibrate() -> int:
    """Count the references of a gradient nobody else holds, on the very path it takes here."""
    counts: list[int] = []

    class Probe:
        _extra = None

        @property
        def _grad(self) -> None:
            return None

    def probe(leaf: Any, gradient: Any, create_graph: bool, fresh: bool) -> None:
        counts.append(sys.getrefcount(gradient))

    def finish(leaf: Any, gradient: Any) -> None:
        gradient = run_hooks(None, gradient, False)
        probe(leaf, gradient, False, False)

    def send(edge: Any, gradient: Any) -> None:
        entry = [edge, gradient, 1, False]
        finish(edge, entry[1])

    def call() -> tuple[Any, ...]:
        results: list[Any] = []
        for value in (np.empty(2),):
            results.append(value)  # noqa: PERF402  # as the engine's own loop holds it
        return tuple(results)

    results = call()
    for _, partial in zip((None,), results, strict=True):
        send(None, partial)
    return counts[0]


_UNIQUE = _calibrate()


def unsupported_smooth(where: str) -> Callable[..., Any]:
    """A second-derivative form that says there is none."""

    def refuse(*_: Any) -> Any:
        raise tape_unsupported(where, "create_graph=True")

    return refuse
