"""Models by name, with the names that published weights give them."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from tensorlib.nn import Module
from tensorlib.vision.models.efficientnet_lite import (
    EfficientNetLite,
    efficientnet_lite0,
    efficientnet_lite1,
    efficientnet_lite2,
    efficientnet_lite3,
    efficientnet_lite4,
)
from tensorlib.vision.models.resnet import (
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
)
from tensorlib.vision.models.small import mlp, small_cnn

__all__ = [
    "EfficientNetLite",
    "ResNet",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "efficientnet_lite3",
    "efficientnet_lite4",
    "get_model",
    "list_models",
    "mlp",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "small_cnn",
]

_MODELS: dict[str, Callable[..., Module]] = {
    build.__name__: build
    for build in (
        *(efficientnet_lite0, efficientnet_lite1, efficientnet_lite2),
        *(efficientnet_lite3, efficientnet_lite4),
        *(resnet18, resnet34, resnet50, resnet101, resnet152),
        *(mlp, small_cnn),
    )
}


def list_models() -> list[str]:
    """The names `get_model` knows."""
    return sorted(_MODELS)


def get_model(name: str, **options: Any) -> Module:
    """Build the model `name`; `options` are the arguments of its function.

    Raises ValueError for an unknown name and TypeError for an unknown option.
    """
    build = _MODELS.get(name)
    if build is None:
        close = difflib.get_close_matches(name, _MODELS, 1)
        hint = f" Hint: did you mean {close[0]!r}?" if close else ""
        raise ValueError(
            f"get_model: unknown model {name!r}; expected one of {', '.join(list_models())}.{hint}"
        )
    return build(**options)
