"""Batch normalisation over the batches of all ranks."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.autograd import record
from tensorlib.autograd.tape import bump
from tensorlib.errors import ShapeError
from tensorlib.nn.module import Module
from tensorlib.nn.normalization import _BatchNorm
from tensorlib.tensor import Tensor

__all__ = ["SyncBatchNorm"]


class SyncBatchNorm(_BatchNorm):
    """BatchNorm of (N, C, *) over the batches of all ranks together, in values and gradients.

    `process_group` is a Communicator; by default that of `tensorlib.distributed`. Without a group
    of more than one rank, and in evaluation, it is BatchNorm.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias
        )
        self.process_group = process_group

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")
        if input.shape[1] == 0:
            raise ValueError("SyncBatchNorm number of input channels should be non-zero")

    def _normalize(self, input: Tensor, momentum: float, training: bool) -> Tensor:
        group = self._group() if training and self.training else None
        if group is None or group.world_size < 2:
            return super()._normalize(input, momentum, training)
        return _synchronized(self, input, momentum, group)

    def _group(self) -> Any:
        from tensorlib import distributed

        if self.process_group is not None:
            return self.process_group
        return distributed.get_communicator() if distributed.is_initialized() else None

    @classmethod
    def convert_sync_batchnorm(cls, module: Module, process_group: Any = None) -> Module:
        """`module` with every BatchNorm in it replaced by a SyncBatchNorm of the same state."""
        made = module
        if isinstance(module, _BatchNorm):
            made = cls(
                module.num_features,
                module.eps,
                module.momentum,
                module.affine,
                module.track_running_stats,
                process_group,
                bias=module.bias is not None,
            )
            made.weight, made.bias = module.weight, module.bias
            for name, buffer in module._buffers.items():
                setattr(made, name, buffer)
            made.training = module.training
        for name, child in module.named_children():
            setattr(made, name, cls.convert_sync_batchnorm(child, process_group))
        return made


def _synchronized(layer: SyncBatchNorm, input: Tensor, momentum: float, group: Any) -> Tensor:
    """Normalise by the statistics of all ranks' batches; the ranks' backward passes meet again to
    sum what the statistics pass back.
    """
    x, weight, bias = input.array, layer.weight, layer.bias
    axes = (0, *range(2, x.ndim))
    flat = (1, -1) + (1,) * (x.ndim - 2)
    count, mean, squares = _all_statistics(x, axes, flat, group)
    if count < 2:
        raise ShapeError(
            "SyncBatchNorm",
            "Expected more than 1 value per channel over all ranks when training, got input size"
            f" {x.shape}",
        )
    variance = squares / count
    if layer.track_running_stats:
        for running, value in ((layer.running_mean, mean), (layer.running_var, squares)):
            if running is not None:
                target = running.array
                new = value if running is layer.running_mean else value / (count - 1)
                target[...] = target * (1 - momentum) + new * momentum
                bump(running)
    kind = x.dtype
    inverse = (1 / np.sqrt(variance + layer.eps)).reshape(flat).astype(kind)
    hat = (x - mean.reshape(flat).astype(kind)) * inverse
    w = None if weight is None else weight.array.reshape(flat)
    output = hat if w is None else hat * w
    if bias is not None:
        output = output + bias.array.reshape(flat)

    def sync_batch_norm(grad: Any) -> tuple[Any, ...]:
        own = np.stack([grad.sum(axes, dtype=np.float64), (grad * hat).sum(axes, dtype=np.float64)])
        total = own.copy()
        group.settle()  # DistributedDataParallel reduces gradients meanwhile
        group.all_reduce(total)
        share = (total / count).astype(kind)
        rest = grad - share[0].reshape(flat) - hat * share[1].reshape(flat)
        back = [rest * inverse if w is None else rest * (inverse * w)]
        if weight is not None:
            back.append(own[1].astype(kind))
        if bias is not None:
            back.append(own[0].astype(kind))
        return tuple(back)

    inputs = [input, *(t for t in (weight, bias) if t is not None)]
    return record(output.astype(kind, copy=False), sync_batch_norm, *inputs)


def _all_statistics(x: Any, axes: Any, flat: Any, group: Any) -> tuple[int, Any, Any]:
    """Number of values per channel, their mean and their summed squares around it, over all
    ranks. Chan, Golub and LeVeque's formula joins them without cancellation.
    """
    count = x.size // x.shape[1]
    own = np.zeros((3, x.shape[1]))
    if count:
        own[0] = count
        own[1] = x.mean(axes, dtype=np.float64)
        own[2] = np.square(x - own[1].reshape(flat)).sum(axes)
    counts, means, squares = np.moveaxis(group.all_gather(own), 1, 0)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / np.maximum(total, 1)
    joined = (squares + counts * np.square(means - mean)).sum(0)
    return int(total[0]), mean, joined
