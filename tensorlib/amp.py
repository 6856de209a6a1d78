"""Mixed precision by torch.amp's names: scaled losses; `autocast` where it is switched off.

Casting operations one by one is not supported: it is refused, never left out in silence. Cast
model and batch instead: `model.to(tensorlib.bfloat16)`.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from tensorlib.device import device
from tensorlib.errors import UnsupportedError

if TYPE_CHECKING:
    from tensorlib.optim import Optimizer
    from tensorlib.tensor import Tensor

__all__ = ["GradScaler", "autocast", "custom_bwd", "custom_fwd", "is_autocast_available"]

F = TypeVar("F", bound=Callable[..., Any])


class autocast:
    """A block or function with lower precision; only `enabled=False` does anything here: nothing.

    For "cuda" without a GPU it warns and is off, as in torch. Raises UnsupportedError where it
    would be on.
    """

    def __init__(
        self,
        device_type: str,
        dtype: Any = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        self.device = device(device_type).type
        if enabled and self.device == "cuda" and not _cuda_is_available():
            warnings.warn("CUDA is not available. Disabling autocast.", stacklevel=2)
            enabled = False
        if enabled:
            raise UnsupportedError(
                "autocast",
                f"enabled for {self.device!r}",
                "enabled=False",
                hint="cast the model and its input: model.to(tensorlib.bfloat16)",
            )
        self._enabled = False

    def __enter__(self) -> autocast:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __call__(self, function: F) -> F:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
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
    """False: operations are not cast one by one."""
    device(device_type)
    return False


def custom_fwd(
    fwd: Callable[..., Any] | None = None, *, device_type: str, cast_inputs: Any = None
) -> Any:
    """Decorator of an `autograd.Function`'s forward: itself, as autocast is never on."""
    device(device_type)
    return (lambda function: function) if fwd is None else fwd


def custom_bwd(bwd: Callable[..., Any] | None = None, *, device_type: str) -> Any:
    """Decorator of an `autograd.Function`'s backward: itself, as autocast is never on."""
    device(device_type)
    return (lambda function: function) if bwd is None else bwd


def _cuda_is_available() -> bool:
    from tensorlib.cuda import is_available

    return is_available()
