"""Pieces of `params` that several jobs share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tensorlib import nn
from tensorlib.vision import models


class Part(BaseModel):
    """A part of a job's `params`: frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelConfig(Part):
    """A model of `tensorlib.vision.models` by name, with arguments for its builder."""

    name: str
    options: dict[str, Any] = Field(default_factory=dict)


def build_model(config: ModelConfig, defaults: Mapping[str, Any]) -> nn.Module:
    """Build the model; `options` win over what the data says (classes, channels, image size).

    Raises ValueError for an unknown name or option, naming it.
    """
    try:
        return models.get_model(config.name, **{**defaults, **config.options})
    except TypeError as error:
        raise ValueError(
            f"params.model.options: {error}; expected arguments of {config.name}. "
            f"Hint: help(tensorlib.vision.models.{config.name})"
        ) from error
