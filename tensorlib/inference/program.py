"""What a compiled model runs: steps in order, each an operation or a run of compiled tasks."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from tensorlib.autograd import tape
from tensorlib.autograd.tape import wrap
from tensorlib.inference.chunks import Group, grouped
from tensorlib.inference.graph import Graph
from tensorlib.inference.lowering import Lowered, NotLowered, lower
from tensorlib.inference.plan import Buffer, place
from tensorlib.inference.segment import Arena, Segment
from tensorlib.inference.steps import Step
from tensorlib.inference.templates import Ref, decode, leaves, size_at
from tensorlib.inference.trace import Call
from tensorlib.kernels import Unsupported, choice

__all__ = ["Program"]

_KEPT = 4  # batch sizes whose constants are kept


class Program:
    """A graph made ready to run at batch sizes up to `most`."""

    def __init__(self, graph: Graph, most: int) -> None:
        self.graph, self.most = graph, most
        self.places = [x.index for x in leaves(graph.inputs) if type(x) is Ref]
        self._base: list[Any] = [value.tensor for value in graph.values]
        constant = _per_size(graph)
        self._constants = [Step(c, "") for c in graph.calls if id(c) in constant]
        self._by_size: dict[int, list[Any]] = {}
        calls = [c for c in graph.calls if id(c) not in constant]
        chosen = _chosen(graph, calls)
        self.steps = _steps(graph, calls, chosen, most)
        segments = [step for step in self.steps if isinstance(step, Segment)]
        groups = [group for segment in segments for group in segment.groups]
        self.arena = _arena(graph, calls, chosen, groups, most) if groups else None
        for segment in segments:
            segment.arena = self.arena
        self._free_early()

    def _free_early(self) -> None:
        """Note at each step which values nobody reads later."""
        kept = self.graph.results() | {i for s in self._constants for i in s.makes}
        kept |= {v.index for v in self.graph.values if v.origin == "state"}
        seen = set(kept)
        for step in reversed(self.steps):
            for i in (*step.reads, *step.makes):
                if i not in seen:
                    seen.add(i)
                    step.free.append(i)

    def _tensors(self, n: int) -> list[Any]:
        """The tensors known before a run: states, and constants of this batch size."""
        if not self._constants:
            return self._base.copy()
        found = self._by_size.get(n)
        if found is None:
            found = self._base.copy()
            for step in self._constants:
                step.run(found, n)
            if len(self._by_size) >= _KEPT:
                del self._by_size[next(iter(self._by_size))]
            self._by_size[n] = found
        return found.copy()

    def run(self, inputs: list[Any], n: int) -> Any:
        """The result for these tensors, whose batch has n examples."""
        with tape.no_grad():
            tensors = self._tensors(n)
            for index, tensor in zip(self.places, inputs, strict=True):
                tensors[index] = tensor
            for step in self.steps:
                step.run(tensors, n)
            if self.arena is not None:
                for i in self.graph.results():
                    if self.arena.holds(tensors[i].array):
                        tensors[i] = wrap(tensors[i].array.copy("K"))
            return decode(self.graph.result, tensors, n)

    def words(self) -> list[str]:
        """Lines of the summary."""
        lines = []
        compiled = Counter(
            part.words for step in self.steps if isinstance(step, Segment) for part in step.parts
        )
        if self.arena is not None:
            lines.append(f"compiled: {_counts(compiled)}")
            lines.append(f"memory: {self.arena.size / 2**20:.1f} MiB for all values between")
        plain: dict[str, Counter[str]] = {}
        for step in self.steps:
            if isinstance(step, Step):
                plain.setdefault(step.reason, Counter())[step.call.name] += 1
        for reason, counts in plain.items():
            lines.append(f"run one by one ({reason}): {_counts(counts)}")
        return lines


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _per_size(graph: Graph) -> set[int]:
    """Calls (by id) that depend on the batch size alone."""
    changed = {graph.values[i].memory for call in graph.calls for i in call.changed}
    found = set()
    for call in graph.calls:
        ours = [graph.values[i] for i in (*call.inputs(), *call.outputs())]
        if not call.changed and not any(v.varies or v.memory in changed for v in ours):
            found.add(id(call))
    return found


def _chosen(graph: Graph, calls: list[Call]) -> list[Any]:
    """For each call its lowering, or why it runs as the operation it is."""
    from tensorlib.inference import lowered  # registers them

    assert lowered is not None
    if choice() == "reference":
        return ["TENSORLIB_KERNELS=reference"] * len(calls)
    pinned = {graph.values[i].memory for call in calls for i in call.changed}
    chosen: list[Any] = []
    for call in calls:
        try:
            chosen.append(lower(graph, call, pinned))
        except (NotLowered, Unsupported) as problem:
            chosen.append(str(problem))
    while _demoted(chosen):
        pass
    return chosen


def _demoted(chosen: list[Any]) -> bool:
    """Give up segments without real work, and other shapes of what is not in the arena; whether
    there was one.
    """
    made = {part.output for part in chosen if isinstance(part, Lowered)}
    for i, part in enumerate(chosen):
        if not isinstance(part, Lowered):
            continue
        if part.same is not None and part.same not in made:
            chosen[i] = "it costs nothing"
            return True
        if part.resident and not made.issuperset(part.sources):
            chosen[i] = "what it reads is not compiled"
            return True
    start = 0
    while start < len(chosen):
        stop = start
        while stop < len(chosen) and isinstance(chosen[stop], Lowered):
            stop += 1
        if stop > start and not any(part.heavy for part in chosen[start:stop]):
            chosen[start:stop] = ["too little work for a segment"] * (stop - start)
            return True
        start = stop + 1
    return False


def _steps(graph: Graph, calls: list[Call], chosen: list[Any], most: int) -> list[Any]:
    """Operations, and segments of what is compiled."""
    resident = {part.output for part in chosen if isinstance(part, Lowered)}
    exports = graph.results()
    for call, part in zip(calls, chosen, strict=True):
        if not isinstance(part, Lowered):
            exports.update(call.inputs())
    read_by = Counter(i for p in chosen if isinstance(p, Lowered) for i in set(p.sources))
    steps: list[Any] = []
    run: list[Lowered] = []

    def close() -> None:
        if run:
            own = Counter(i for part in run for i in set(part.sources))
            others = {i for i, count in read_by.items() if count > own[i]}
            groups = grouped(list(run), most, exports | others)
            steps.append(Segment(groups, resident, exports))
            run.clear()

    for call, part in zip(calls, chosen, strict=True):
        if isinstance(part, Lowered):
            run.append(part)
            continue
        close()
        steps.append(Step(call, part))
    close()
    return steps


def _arena(
    graph: Graph, calls: list[Call], chosen: list[Any], groups: list[Group], most: int
) -> Arena:
    """Offsets of all values that compiled steps write."""
    parts = [(i, part) for i, part in enumerate(chosen) if isinstance(part, Lowered)]
    first, last = _lives(graph, calls, chosen)
    sizes = dict.fromkeys(first, most)
    chunks: dict[int, int] = {}
    places = {id(part): i for i, part in parts}
    for group in groups:
        chunks |= {id(part): group.chunk for part in group.parts}
        if group.chunk < most:  # values of whole batches: in use until the last chunk
            sizes |= dict.fromkeys(group.local, group.chunk)
            begin, end = places[id(group.parts[0])], places[id(group.parts[-1])]
            for i in (group.values - group.local) & first.keys():
                first[i], last[i] = min(first[i], begin), max(last[i], end)
    made = {part.output for _, part in parts}
    roots = {part.output: part.same for _, part in parts if part.same in made}
    shared = {*roots, *roots.values()}
    for i, part in parts:
        # a sum takes the place of what it is added to, where that ends here
        other, made_here = getattr(part, "residual", None), part.output
        if (
            other in made
            and last[other] == i
            and part.input.index != other  # type: ignore[attr-defined]  # what has a residual
            and shared.isdisjoint((other, made_here))
            and graph.values[other].shape == graph.values[made_here].shape
            and sizes[other] == sizes[made_here]
        ):
            roots[made_here] = other
    buffers: dict[int, Buffer] = {}
    for index in first:
        root = index
        while root in roots:
            root = roots[root]
        size = 4 * math.prod(size_at(graph.values[index].shape, sizes[index]))
        buffer = buffers.setdefault(root, Buffer(size, first[index], last[index]))
        buffer.first = min(buffer.first, first[index])
        buffer.last = max(buffer.last, last[index])
        buffers[index] = buffer
    temporaries = {
        id(part): Buffer(part.temporary_bytes(min(chunks[id(part)], most)), i, i)
        for i, part in parts
    }
    unique = list({id(b): b for b in (*buffers.values(), *temporaries.values())}.values())
    size = place(unique)
    return Arena(
        size,
        {index: buffer.offset for index, buffer in buffers.items()},
        {key: buffer.offset for key, buffer in temporaries.items()},
    )


def _lives(
    graph: Graph, calls: list[Call], chosen: list[Any]
) -> tuple[dict[int, int], dict[int, int]]:
    """First and last call that uses the arena's memory of each value."""
    first = {p.output: i for i, p in enumerate(chosen) if isinstance(p, Lowered)}
    last = dict(first)
    shared: dict[int, list[int]] = {}
    for index in first:
        shared.setdefault(graph.values[index].memory, []).append(index)
    for i, (call, part) in enumerate(zip(calls, chosen, strict=True)):
        compiled = isinstance(part, Lowered)
        for used in part.sources if compiled else call.inputs():
            if compiled and used in first:
                last[used] = i
                continue
            for index in shared.get(graph.values[used].memory, ()):  # an operation's view
                last[index] = i
    for used in graph.results():
        for index in shared.get(graph.values[used].memory, ()):
            last[index] = len(calls)
    return first, last
