"""Where a value came from that is not finite: the first module of a forward that made one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from tensorlib import Tensor, nn


class Seen:
    """What a watched forward showed; `first` is a sentence, or None where all was finite."""

    def __init__(self) -> None:
        self.first: str | None = None

    def note(self, what: str) -> None:
        """Keep the first."""
        self.first = self.first or what


@contextmanager
def watching(module: nn.Module, batch: Iterable[Any]) -> Iterator[Seen]:
    """Watch the forwards of `module` within the block, on `batch`.

    What is looked at, in this order: the batch, the weights, then each module's output when its
    forward ends, so that a module inside another one is named first.
    """
    seen = Seen()
    for number, part in enumerate(batch):
        if not _finite(part):
            seen.note(f"part {number} of the batch itself")
    for name, parameter in module.named_parameters():
        if not _finite(parameter):
            seen.note(f"the weights {name}, before the step")

    def look(name: str, layer: nn.Module) -> Any:
        def hook(_: nn.Module, inputs: Any, output: Any) -> None:
            for value in _tensors(output):
                if not _finite(value):
                    node = value.grad_fn
                    made = f", made by {node.name()}" if node is not None else ""
                    seen.note(f"the output of {name or 'the model'} ({layer._get_name()}){made}")

        return layer.register_forward_hook(hook)

    handles = [look(name, layer) for name, layer in module.named_modules()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _finite(value: Any) -> bool:
    array = value.array if isinstance(value, Tensor) else value
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fV":
        return True
    return bool(np.isfinite(array.astype(np.float32)).all())
