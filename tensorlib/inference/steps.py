"""Run the calls of a graph one by one through the operations themselves."""

from __future__ import annotations

from typing import Any

from tensorlib.inference.capture import bind
from tensorlib.inference.templates import Batch, Pack, Ref, decode, leaves
from tensorlib.inference.trace import Call

__all__ = ["Step"]


class Step:
    """A call that runs as the operation it is; `reads`, `makes` and `free` are numbers of values,
    the last of those nobody reads later.
    """

    def __init__(self, call: Call, reason: str) -> None:
        self.call, self.reason = call, reason
        self.reads, self.makes = call.inputs(), call.outputs()
        self.free: list[int] = []
        positional = [call.arguments[name] for name in call.places]
        if call.star is not None:
            positional += call.arguments[call.star].items
        self._positional = [(t, _fixed(t)) for t in positional]
        named = {
            key: value
            for key, value in call.arguments.items()
            if key not in call.places and key not in (call.star, call.named)
        }
        if call.named is not None:
            pack = call.arguments[call.named]
            named |= dict(zip(pack.keys, pack.items, strict=True))
        self._named = named
        self._single = self.makes[0] if type(call.result) is Ref else None

    def run(self, tensors: list[Any], n: int) -> None:
        """Compute, with `tensors` by number."""
        given = [t if fixed else decode(t, tensors, n) for t, fixed in self._positional]
        named = {key: decode(value, tensors, n) for key, value in self._named.items()}
        found = self.call.function(*given, **named)
        if self._single is not None:
            tensors[self._single] = found
        elif type(self.call.result) is Pack:
            made: dict[int, Any] = {}
            bind(self.call.result, found, made)
            for i, tensor in made.items():
                tensors[i] = tensor
        for i in self.free:
            tensors[i] = None


def _fixed(template: Any) -> bool:
    """Whether a template is the value itself."""
    return type(template) is not Pack and not any(
        type(leaf) in (Ref, Batch) for leaf in leaves(template)
    )
