"""Activation checkpointing of the models that are made of blocks."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from tensorlib import nn
from tensorlib.utils.checkpoint import checkpoint
from tensorlib.vision.models.resnet import BasicBlock, Bottleneck

BLOCKS = (BasicBlock, Bottleneck, nn.TransformerEncoderLayer)


def blocks(module: nn.Module) -> list[nn.Module]:
    """The parts whose activations can be computed again. ValueError where there are none."""
    found: list[nn.Module] = [part for part in module.modules() if isinstance(part, BLOCKS)]
    if not found:
        raise ValueError(
            f"activation_checkpointing: {type(module).__name__} has no blocks to compute again; "
            "expected a ResNet or a Transformer. Hint: accumulate takes less memory too"
        )
    return found


def wrap(module: nn.Module) -> None:
    """Let each block keep its input alone, and compute the rest again in backward.

    Running statistics stay as the first forward left them, so that the training is the same. A
    copy of the module would call this one's blocks: copy before.
    """
    for block in blocks(module):
        block.forward = functools.partial(_again, block, block.forward)  # type: ignore[method-assign]


def _again(block: nn.Module, forward: Any, *args: Any, **kwargs: Any) -> Any:
    return checkpoint(
        forward,
        *args,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _buffers_kept(block)),
        **kwargs,
    )


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    kept = [
        (owner, name, buffer, buffer.array.copy())
        for owner in module.modules()
        for name, buffer in owner._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for owner, name, buffer, values in kept:
            buffer.array[...] = values
            owner._buffers[name] = buffer
