"""All parameters as one vector, and back."""

from __future__ import annotations

from collections.abc import Iterable

import tensorlib
from tensorlib.tensor import Tensor

__all__ = ["parameters_to_vector", "vector_to_parameters"]


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """The values of all parameters in one dimension."""
    return tensorlib.cat([parameter.reshape(-1) for parameter in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Give the parameters the values in `vec`; each becomes a view of it, as in torch."""
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected a Tensor, but got {type(vec).__name__}")
    parameters = list(parameters)
    needed = sum(parameter.numel() for parameter in parameters)
    if vec.numel() != needed:
        raise ValueError(
            f"vector_to_parameters: the vector has {vec.numel()} values; the parameters have"
            f" {needed}"
        )
    start = 0
    for parameter in parameters:
        end = start + parameter.numel()
        parameter.data = vec[start:end].view(parameter.shape).detach()
        start = end
