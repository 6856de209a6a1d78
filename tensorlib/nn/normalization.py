"""Normalisation layers."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

import tensorlib
from tensorlib.autograd import record
from tensorlib.nn import functional as F
from tensorlib.nn import init
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter
from tensorlib.tensor import Tensor

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "CrossMapLRN2d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
    "LocalResponseNorm",
    "RMSNorm",
]


class _Affine(Module):
    """Optional weight and bias over `shape`, starting at one and zero."""

    weight: Parameter | None
    bias: Parameter | None

    def _make_affine(self, shape: Any, affine: bool, bias: bool, device: Any, dtype: Any) -> None:
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            if wanted:
                values = tensorlib.empty(shape, device=device, dtype=dtype)
                setattr(self, name, Parameter(values))
            else:
                self.register_parameter(name, None)

    def reset_parameters(self) -> None:
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)


class _NormBase(_Affine):
    """Weight, bias and running statistics of C channels."""

    _version = 2
    _dims: tuple[int, ...] = ()
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features, self.eps, self.momentum = num_features, eps, momentum
        self.affine, self.track_running_stats = affine, track_running_stats
        self._make_affine((num_features,), affine, bias, device, dtype)
        mean = var = count = None
        if track_running_stats:
            mean = tensorlib.zeros(num_features, device=device, dtype=dtype)
            var = tensorlib.ones(num_features, device=device, dtype=dtype)
            count = tensorlib.tensor(0, dtype=tensorlib.int64, device=device)
        self.register_buffer("running_mean", mean)
        self.register_buffer("running_var", var)
        self.register_buffer("num_batches_tracked", count)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forget what was seen."""
        if self.track_running_stats:
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.running_mean.zero_()
            self.running_var.fill_(1)
            self.num_batches_tracked.zero_()

    def reset_parameters(self) -> None:
        self.reset_running_stats()
        super().reset_parameters()

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in self._dims:
            wanted = " or ".join(f"{dims}D" for dims in self._dims)
            raise ValueError(f"expected {wanted} input (got {input.dim()}D input)")

    def _upgrade_state(self, state: dict[str, Any], prefix: str, version: int | None) -> None:
        if (version is None or version < 2) and self.track_running_stats:
            count = self.num_batches_tracked
            state.setdefault(
                f"{prefix}num_batches_tracked", tensorlib.tensor(0) if count is None else count
            )

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine},"
            f" bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_NormBase):
    def forward(self, input: Tensor) -> Tensor:
        return self._normalize(input, *self._begin(input))

    def _begin(self, input: Tensor) -> tuple[float, bool]:
        """Count the batch; the momentum for it, and whether it is normalised by its own
        statistics.
        """
        self._check_input_dim(input)
        momentum = 0.0 if self.momentum is None else self.momentum
        count = self.num_batches_tracked
        if self.training and self.track_running_stats and count is not None:
            count.add_(1)
            if self.momentum is None:
                momentum = 1.0 / float(count.item())
        return momentum, self.training or (self.running_mean is None and self.running_var is None)

    def _normalize(self, input: Tensor, momentum: float, by_batch: bool) -> Tensor:
        # running statistics are given where they are used (eval) or updated (training)
        given = not self.training or self.track_running_stats
        return F.batch_norm(
            input,
            self.running_mean if given else None,
            self.running_var if given else None,
            self.weight,
            self.bias,
            by_batch,
            momentum,
            self.eps,
        )


class BatchNorm1d(_BatchNorm):
    """Normalise each of C channels over the batch: (N, C) or (N, C, L). Ioffe and Szegedy, 2015.

    In training the batch's own mean and (biased) variance are used and the running ones move by
    `momentum` (None: their plain average); in evaluation the running ones are used.
    """

    _dims = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Normalise each of C channels over batch and image: (N, C, H, W). See BatchNorm1d."""

    _dims = (4,)


class BatchNorm3d(_BatchNorm):
    """Normalise each of C channels over batch and volume: (N, C, D, H, W). See BatchNorm1d."""

    _dims = (5,)


class _InstanceNorm(_NormBase):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias
        )

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        alone = input.dim() == min(self._dims)
        channels = input.shape[0 if alone else 1]
        if channels != self.num_features:
            text = (
                f"expected input's size at dim={0 if alone else 1} to match num_features"
                f" ({self.num_features}), but got: {channels}."
            )
            if self.affine:
                raise ValueError(text)
            warnings.warn(f"{text} It is not used, as affine=False.", stacklevel=2)
        result = F.instance_norm(
            input.unsqueeze(0) if alone else input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )
        return result.squeeze(0) if alone else result


class InstanceNorm1d(_InstanceNorm):
    """Normalise each channel of each sample: (N, C, L) or (C, L). Ulyanov et al., 2016."""

    _dims = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Normalise each channel of each image: (N, C, H, W) or (C, H, W). See InstanceNorm1d."""

    _dims = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """Normalise each channel of each volume: (N, C, D, H, W) or (C, D, H, W)."""

    _dims = (4, 5)


class RMSNorm(Module):
    """Divide by the root mean square over the last dimensions. Zhang and Sennrich, 2019.

    `eps` is the dtype's own by default.
    """

    weight: Parameter | None

    def __init__(
        self,
        normalized_shape: int | list[int] | tuple[int, ...],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        sizes = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        self.normalized_shape = tuple(sizes)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        if elementwise_affine:
            values = tensorlib.empty(self.normalized_shape, device=device, dtype=dtype)
            self.weight = Parameter(values)
        else:
            self.register_parameter("weight", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.weight is not None:
            init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
        )


class LocalResponseNorm(Module):
    """Divide by a power of the mean square of `size` neighbouring channels. Krizhevsky, 2012."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, input: Tensor) -> Tensor:
        return F.local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class CrossMapLRN2d(LocalResponseNorm):
    """The oldest form of LocalResponseNorm, for (N, C, H, W): as PyTorch's, its running sum keeps
    the first channel, and its gradient looks at the channels before.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1) -> None:
        super().__init__(size, alpha, beta, k)

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 4:
            raise ValueError(f"CrossMapLRN2d: Expected input to be 4D, got {input.dim()}D instead.")
        x, size, beta = input.array, self.size, self.beta
        squares, channels, ahead = x * x, x.shape[1], (size - 1) // 2
        energy = np.zeros_like(x)
        running = squares[:, :ahead].sum(1)
        for c in range(channels):
            if c + ahead < channels:
                running = running + squares[:, c + ahead]
            if c > ahead + 1:
                running = running - squares[:, c - ahead - 1]
            energy[:, c] = running
        scale = energy * (self.alpha / size) + self.k
        factor = 2 * self.alpha * beta / size
        output = x * scale**-beta

        def cross_map_lrn2d(grad: Any) -> tuple[Any, ...]:
            ratio = np.zeros((len(x), channels + size, *x.shape[2:]), x.dtype)
            start = size - ahead
            ratio[:, start : start + channels] = grad * output / scale
            total = sum(ratio[:, i : i + channels] for i in range(size))
            return (grad * scale**-beta - x * (factor * total),)

        return record(output.astype(x.dtype), cross_map_lrn2d, input)


class LayerNorm(_Affine):
    """Normalise over the last dimensions, of sizes `normalized_shape`. Ba et al., 2016."""

    def __init__(
        self,
        normalized_shape: int | list[int] | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        sizes = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        self.normalized_shape = tuple(sizes)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self._make_affine(self.normalized_shape, elementwise_affine, bias, device, dtype)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps},"
            f" elementwise_affine={self.elementwise_affine}, bias={self.bias is not None}"
        )


class GroupNorm(_Affine):
    """Normalise each of `num_groups` groups of the C channels of (N, C, *). Wu and He, 2018."""

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if num_channels % num_groups:
            raise ValueError(
                f"GroupNorm: num_channels must be divisible by num_groups, got {num_channels} and"
                f" {num_groups}"
            )
        self.num_groups, self.num_channels, self.eps = num_groups, num_channels, eps
        self.affine = affine
        self._make_affine((num_channels,), affine, bias, device, dtype)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine},"
            f" bias={self.bias is not None}"
        )
