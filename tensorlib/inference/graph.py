"""The program of a model: values, calls and what they return, for any batch size."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

from tensorlib.inference.templates import Pack, Ref, leaves
from tensorlib.inference.trace import Call, Value

__all__ = ["Graph", "renamed"]


@dataclass
class Graph:
    """Calls in order. `values` is by number; `batched` says whether sizes may follow the batch."""

    values: list[Value]
    calls: list[Call]
    inputs: Any
    result: Any
    batched: bool

    def copy(self) -> Graph:
        """A graph whose calls and values may be replaced."""
        calls = [replace(c, arguments=dict(c.arguments)) for c in self.calls]
        return replace(self, values=[copy.copy(v) for v in self.values], calls=calls)

    def value(self, like: Value) -> Value:
        """A new value, in form as another one."""
        made = replace(like, index=len(self.values))
        self.values.append(made)
        return made

    def constant(self, tensor: Any, name: str) -> Value:
        """A new value that is a tensor known now."""
        place = len(self.values)
        made = Value(
            place, tuple(tensor.array.shape), tensor.array.dtype, "state", place, False, tensor,
            name,
        )  # fmt: skip
        self.values.append(made)
        return made

    def results(self) -> set[int]:
        """Numbers of the values that are returned."""
        return {leaf.index for leaf in leaves(self.result) if type(leaf) is Ref}

    def input_values(self) -> list[Value]:
        """The values of the arguments, in order."""
        return [self.values[x.index] for x in leaves(self.inputs) if type(x) is Ref]

    def users(self) -> dict[int, list[Call]]:
        """For each value the calls that read it; returned values have the user None more."""
        found: dict[int, list[Any]] = defaultdict(list)
        for call in self.calls:
            for i in call.inputs():
                found[i].append(call)
        for i in self.results():
            found[i].append(None)
        return found

    def makers(self) -> dict[int, Call]:
        """For each value the call that makes it."""
        found: dict[int, Call] = {}
        for call in self.calls:
            for i in call.outputs():
                if self.values[i].origin == "made":
                    found.setdefault(i, call)
        return found


def renamed(template: Any, names: dict[int, int]) -> Any:
    """A template with other tensors."""
    if type(template) is Ref:
        return Ref(names.get(template.index, template.index))
    if type(template) is Pack:
        return Pack(
            template.kind, tuple(renamed(item, names) for item in template.items), template.keys
        )
    return template


def bound(function: Any, call: Call) -> dict[str, Any]:
    """The arguments of `call`, which are `function`'s, by its parameters."""
    positional = [call.arguments[name] for name in call.places]
    if call.star is not None:
        positional += call.arguments[call.star].items
    keywords = {}
    if call.named is not None:
        pack = call.arguments[call.named]
        keywords = dict(zip(pack.keys, pack.items, strict=True))
    found = inspect.signature(function).bind(*positional, **keywords)
    found.apply_defaults()
    return dict(found.arguments)
