"""Layers that follow each other, computed in fewer passes over memory where nobody looks between
them.
"""

from __future__ import annotations

import sys

import numpy as np

from tensorlib.autograd import needs_grad, tape
from tensorlib.nn.activation import ReLU
from tensorlib.nn.module import Module
from tensorlib.nn.normalization import BatchNorm2d
from tensorlib.ops.normalization import batch_norm_relu
from tensorlib.tensor import Tensor

__all__ = ["norm_relu"]

_SINGLE = np.dtype(np.float32)
_PLAIN = {BatchNorm2d: BatchNorm2d.forward, ReLU: ReLU.forward}


def norm_relu(norm: Module, relu: Module, input: Tensor, residual: Tensor | None = None) -> Tensor:
    """`relu(norm(input) + residual)`.

    In one operation where `norm` is a BatchNorm2d and `relu` a ReLU without hooks and nothing
    watches what operations save; otherwise the modules are called.
    """
    if _is_plain(norm, BatchNorm2d) and _is_plain(relu, ReLU):
        assert isinstance(norm, BatchNorm2d)
        if _fits(norm, input, residual):
            momentum, by_batch = norm._begin(input)
            given = not norm.training or norm.track_running_stats
            return batch_norm_relu(
                input,
                norm.running_mean if given else None,
                norm.running_var if given else None,
                norm.weight,
                norm.bias,
                by_batch,
                momentum,
                norm.eps,
                residual,
            )
    out: Tensor = norm(input)
    if residual is not None:
        out += residual
    result: Tensor = relu(out)
    return result


def _is_plain(module: Module, kind: type[Module]) -> bool:
    return (
        type(module) is kind
        and module._hooks is None
        and "forward" not in module.__dict__
        and kind.forward is _PLAIN[kind]
    )


def _fits(norm: BatchNorm2d, input: Tensor, residual: Tensor | None) -> bool:
    x = input.array
    if x.ndim != 4 or x.dtype != _SINGLE or tape._watch is not None:
        return False
    other = x if residual is None else residual.array
    if other.shape != x.shape or other.dtype != _SINGLE:
        return False
    if norm.training or norm.running_mean is None:
        return True
    # a trace sees each layer; gradients of evaluation are those of the layers
    tensors = (t for t in (input, norm.weight, norm.bias, residual) if t is not None)
    return sys.getprofile() is None and not needs_grad(*tensors)
