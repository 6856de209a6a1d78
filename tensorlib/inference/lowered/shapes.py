"""Other shapes of the same elements."""

from __future__ import annotations

from typing import Any

from tensorlib.inference.lowering import Lowered, NotLowered, Space, lowering
from tensorlib.inference.templates import Batch
from tensorlib.kernels.cpu import Tasks

_direct = Tasks("convolution")


@lowering("flatten", "reshape", "view", "squeeze", "unsqueeze", "contiguous", "clone")
class Reshaped(Lowered):
    """Row by row the same memory; images with channels last are turned into planes first."""

    words = "other shape"

    def __init__(self, graph: Any, call: Any) -> None:
        super().__init__(graph, call)
        if len(self.sources) != 1:
            raise NotLowered("its input is known")
        source, output = graph.values[self.sources[0]], graph.values[self.output]
        self.planes = None
        if not _one_row(source.shape):
            self.planes = source.shape
        if not _one_row(output.shape) and output.shape != source.shape:
            raise NotLowered("its result is images")
        if source.shape == output.shape or self.planes is None:
            self.planes, self.same = None, source.index

    def write(self, space: Space) -> None:
        if self.planes is None:
            return
        n, c, h, w = self.shape(self.sources[0], space.n)
        space.add(
            _direct, "to_planes", n * -(-c // 16), space.at(self.sources[0]),
            space.at(self.output), c, h * w,
        )  # fmt: skip


def _one_row(shape: tuple[Any, ...]) -> bool:
    """Whether channels-last memory of this shape is row by row too."""
    if len(shape) != 4:
        return True
    _, c, h, w = shape
    if any(type(s) is Batch for s in (c, h, w)):
        return False
    return bool(c == 1 or h * w == 1)
