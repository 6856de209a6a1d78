"""Mixed precision by torch.amp's names: operations in lower precision, and scaled losses."""

from __future__ import annotations

import functools
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from tensorlib.device import device
from tensorlib.dtypes import bfloat16, float16, float64, numpy_dtype, of
from tensorlib.ops import _autocast

if TYPE_CHECKING:
    from tensorlib.optim import Optimizer
    from tensorlib.tensor import Tensor

__all__ = [
    "GradScaler",
    "autocast",
    "custom_bwd",
    "custom_fwd",
    "get_autocast_dtype",
    "is_autocast_available",
    "is_autocast_enabled",
]

F = TypeVar("F", bound=Callable[..., Any])


class autocast:
    """A block or function in which products, convolutions and attention compute in `dtype`.

    Their arguments of single or half precision are cast, so that parameters stay in float32 and get
    gradients in float32. Losses and recurrent layers take float32; what is left computes in what it
    is given. Backward computes in what forward did, and needs no block. On a CPU the results are
    those of lower precision, but sums are computed in float32, so that nothing is faster.

    Args:
        dtype: bfloat16 or float16; by default bfloat16 on "cpu", float16 on "cuda".
        cache_enabled: has no effect: weights are cast each time they are used.

    For "cuda" without a GPU it warns and is off, as in torch; so it does for another dtype.
    """

    def __init__(
        self,
        device_type: str,
        dtype: Any = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        self.device = device(device_type).type
        self.fast_dtype = get_autocast_dtype(device_type) if dtype is None else dtype
        if enabled and self.device == "cuda" and not _cuda_is_available():
            warnings.warn("CUDA is not available. Disabling autocast.", stacklevel=2)
            enabled = False
        if enabled and self.fast_dtype not in (bfloat16, float16):
            warnings.warn(
                f"In {self.device.upper()} autocast, but the target dtype {self.fast_dtype} is not "
                "supported. Disabling autocast. Supported are bfloat16 and float16.",
                stacklevel=2,
            )
            enabled = False
        self._enabled = enabled
        self._before: list[dict[str, Any]] = []

    def __enter__(self) -> autocast:
        chosen = {k: v for k, v in _autocast.chosen.dtypes.items() if k != self.device}
        if self._enabled:
            chosen[self.device] = numpy_dtype(self.fast_dtype)
        self._before.append(_autocast.enter(chosen))
        return self

    def __exit__(self, *_: object) -> None:
        _autocast.leave(self._before.pop())

    def __call__(self, function: F) -> F:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return wrapped  # type: ignore[return-value]  # of the same signature


class GradScaler:
    """Losses times a factor, so that small float16 gradients do not vanish.

    `scaler.scale(loss).backward(); scaler.step(optimizer); scaler.update()`. A step whose gradients
    hold an inf or NaN is left out, and the factor is multiplied by `backoff_factor`; after
    `growth_interval` steps without one, by `growth_factor`.
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if enabled and device == "cuda" and not _cuda_is_available():
            warnings.warn(
                "GradScaler is enabled, but CUDA is not available.  Disabling.", stacklevel=2
            )
            enabled = False
        if enabled and not (growth_factor > 1.0 > backoff_factor):
            raise AssertionError(
                f"GradScaler: growth_factor={growth_factor}, backoff_factor={backoff_factor}; "
                "expected them above and below 1"
            )
        self._enabled = enabled
        self._scale = float(init_scale)
        self._growth_factor = growth_factor
        self._backoff_factor = backoff_factor
        self._growth_interval = growth_interval
        self._growth_tracker = 0
        self._reset()

    def _reset(self) -> None:
        # by optimizer: "unscaled" and "stepped"; whether an inf was found
        self._stage: dict[int, str] = defaultdict(str)
        self._found: dict[int, bool] = {}

    def scale(self, outputs: Any) -> Any:
        """`outputs`, a tensor or a list or tuple of these, times the factor."""
        if not self._enabled:
            return outputs
        if hasattr(outputs, "requires_grad"):
            return outputs * self._scale
        if isinstance(outputs, Iterable):
            scaled = [self.scale(output) for output in outputs]
            return scaled if isinstance(outputs, list) else tuple(scaled)
        raise ValueError(
            f"GradScaler.scale: {type(outputs).__name__} given; expected a tensor or an iterable "
            "of tensors"
        )

    def unscale_(self, optimizer: Optimizer) -> None:
        """Divide the gradients by the factor, so that they can be clipped before `step`."""
        if not self._enabled:
            return
        stage = self._stage[id(optimizer)]
        if stage:
            raise RuntimeError(
                f"GradScaler.unscale_: the gradients of this optimizer were {stage} since the last "
                "update(); expected one unscale_() before step()"
            )
        inverse, found = 1.0 / self._scale, False
        for group in optimizer.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    grad: Tensor = param.grad.detach()
                    grad.mul_(inverse)
                    found = found or not bool(grad.isfinite().all())
        self._found[id(optimizer)] = found
        self._stage[id(optimizer)] = "unscaled"

    def step(self, optimizer: Optimizer, *args: Any, **kwargs: Any) -> Any:
        """`optimizer.step()` on unscaled gradients, unless one is an inf or NaN."""
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs:
            raise RuntimeError(
                "GradScaler.step: closure given; expected none: it is not supported with a scaler"
            )
        if self._stage[id(optimizer)] == "stepped":
            raise RuntimeError(
                "GradScaler.step: called twice since the last update(); expected update() between"
            )
        if not self._stage[id(optimizer)]:
            self.unscale_(optimizer)
        self._stage[id(optimizer)] = "stepped"
        return None if self._found[id(optimizer)] else optimizer.step(*args, **kwargs)

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """The next factor, or the one given."""
        if not self._enabled:
            return
        if new_scale is not None:
            self._scale = float(new_scale)
        elif not self._found:
            raise AssertionError(
                "GradScaler.update: no step was checked for infs; expected step() before it"
            )
        elif any(self._found.values()):
            self._scale *= self._backoff_factor
            self._growth_tracker = 0
        else:
            self._growth_tracker += 1
            if self._growth_tracker == self._growth_interval:
                grown = self._scale * self._growth_factor
                self._scale = grown if math.isfinite(grown) else self._scale
                self._growth_tracker = 0
        self._reset()

    def is_enabled(self) -> bool:
        """Whether losses are scaled."""
        return self._enabled

    def get_scale(self) -> float:
        """The factor; 1 where losses are not scaled."""
        return self._scale if self._enabled else 1.0

    def get_growth_factor(self) -> float:
        """What the factor is multiplied by after `growth_interval` good steps."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Another growth factor."""
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        """What the factor is multiplied by after a step that was left out."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Another backoff factor."""
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        """Good steps before the factor grows."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Another interval."""
        self._growth_interval = new_interval

    def state_dict(self) -> dict[str, Any]:
        """Factor, settings and the good steps so far; empty where losses are not scaled."""
        if not self._enabled:
            return {}
        return {
            "scale": self._scale,
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._growth_tracker,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict()`, torch's included."""
        if not self._enabled:
            return
        if not state_dict:
            raise RuntimeError(
                "GradScaler.load_state_dict: the state is empty; expected that of an enabled one. "
                "Hint: it was saved by GradScaler(enabled=False)"
            )
        self._scale = float(state_dict["scale"])
        self._growth_factor = state_dict["growth_factor"]
        self._backoff_factor = state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        self._growth_tracker = state_dict["_growth_tracker"]


def is_autocast_available(device_type: str) -> bool:
    """Whether `autocast` knows the device type: "cpu" and "cuda"."""
    return device(device_type).type in ("cpu", "cuda")


def is_autocast_enabled(device_type: str) -> bool:
    """Whether operations on such a device compute in lower precision now."""
    return device(device_type).type in _autocast.chosen.dtypes


def get_autocast_dtype(device_type: str) -> Any:
    """The lower precision of the block around; its default outside of one."""
    kind = device(device_type).type
    chosen = _autocast.chosen.dtypes.get(kind)
    if chosen is not None:
        return of(chosen)
    return float16 if kind == "cuda" else bfloat16


def custom_fwd(
    fwd: Callable[..., Any] | None = None, *, device_type: str, cast_inputs: Any = None
) -> Any:
    """Decorator of an `autograd.Function`'s forward, with `custom_bwd` on its backward.

    With `cast_inputs`, inside autocast, floating tensors of the device type come in that dtype and
    autocast is off in the function; without it the function computes as the block around it.
    """
    if fwd is None:
        return functools.partial(custom_fwd, device_type=device_type, cast_inputs=cast_inputs)
    kind = device(device_type).type

    @functools.wraps(fwd)
    def decorated(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        on = is_autocast_enabled(kind)
        ctx._dtype = get_autocast_dtype(kind)
        ctx._fwd_used_autocast = on and cast_inputs is None
        if not on or cast_inputs is None:
            return fwd(ctx, *args, **kwargs)
        with autocast(kind, enabled=False):
            return fwd(
                ctx,
                *(_as(a, kind, cast_inputs) for a in args),
                **{k: _as(a, kind, cast_inputs) for k, a in kwargs.items()},
            )

    return decorated


def custom_bwd(bwd: Callable[..., Any] | None = None, *, device_type: str) -> Any:
    """Decorator of an `autograd.Function`'s backward: autocast as it was in its forward."""
    if bwd is None:
        return functools.partial(custom_bwd, device_type=device_type)
    kind = device(device_type).type

    @functools.wraps(bwd)
    def decorated(ctx: Any, *args: Any, **kwargs: Any) -> Any:
        with autocast(kind, ctx._dtype, enabled=ctx._fwd_used_autocast):
            return bwd(ctx, *args, **kwargs)

    return decorated


def _as(value: Any, kind: str, dtype: Any) -> Any:
    """Floating tensors of a device type, but double ones, in `dtype`."""
    if not hasattr(value, "array") or value.device.type != kind:
        return value
    eligible = value.is_floating_point() and value.dtype is not float64
    return value.to(dtype) if eligible else value


def _cuda_is_available() -> bool:
    from tensorlib.cuda import is_available

    return is_available()
