"""What a compiled model runs: steps in order, each an operation or a run of compiled tasks."""

from __future__ import annotations

from collections import Counter
from typing import Any

from tensorlib.autograd import tape
from tensorlib.inference.graph import Graph
from tensorlib.inference.steps import Step
from tensorlib.inference.templates import Ref, decode, leaves

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
        self.steps: list[Any] = [Step(c, "") for c in graph.calls if id(c) not in constant]
        self._by_size: dict[int, list[Any]] = {}
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
            for place, tensor in zip(self.places, inputs, strict=True):
                tensors[place] = tensor
            for step in self.steps:
                step.run(tensors, n)
            return decode(self.graph.result, tensors, n)

    def words(self) -> list[str]:
        """Lines of the summary."""
        counts = Counter(step.call.name for step in self.steps)
        listed = ", ".join(f"{count} {name}" for name, count in counts.items())
        return [f"operations that run one by one: {listed}"]


def _per_size(graph: Graph) -> set[int]:
    """Calls (by id) that depend on the batch size alone."""
    changed = {graph.values[i].memory for call in graph.calls for i in call.changed}
    found = set()
    for call in graph.calls:
        ours = [graph.values[i] for i in (*call.inputs(), *call.outputs())]
        if not call.changed and not any(v.varies or v.memory in changed for v in ours):
            found.add(id(call))
    return found
