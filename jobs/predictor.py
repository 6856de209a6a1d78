"""A classifier made ready to predict: bytes in, columns of the table out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

import tensorlib
from jobs.weights import Weights
from orchestrator.errors import UsageError
from tensorlib import Tensor, inference, nn

# What a model that does not compile computes at a time, whatever the batch size, so that its
# results do not depend on it: the order of sums in BLAS depends on shapes.
COMPUTE_BATCH = 16


class Predictor:
    """The compiled model with its class names.

    Args:
        batch_size: the most images that it is given at a time.
        features: also what the last layer classifies.
    """

    def __init__(
        self, weights: Weights, batch_size: int, top_k: int, features: bool, threads: int
    ) -> None:
        tensorlib.set_num_threads(threads)
        self.top_k, self.features = top_k, features
        self.names = np.array(list(weights.classes), dtype=object)
        module = weights.build() if features else weights.module  # a hook stays
        forward: Any = with_features(module) if features else module
        preset = weights.preset
        shape = (batch_size, preset.crop_size, preset.crop_size, len(preset.mean))
        example = tensorlib.zeros(shape, dtype=tensorlib.uint8)
        self.model = inference.compile(forward, example, mean=preset.mean, std=preset.std)
        self.any_size = self.model.independent
        self.at_once = batch_size if self.any_size else COMPUTE_BATCH

    def columns(self, images: np.ndarray) -> tuple[dict[str, pa.Array], np.ndarray | None]:
        """label, index and prob of the best `top_k` classes of uint8 [N, H, W, C]; features [N, D].

        Ties go to the lower index.
        """
        scores, features = self._run(images)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self.top_k]
        best = np.take_along_axis(scores, order, 1)
        ranks = range(self.top_k)
        found = {f"label_{k + 1}": pa.array(self.names[order[:, k]], pa.string()) for k in ranks}
        found |= {f"index_{k + 1}": pa.array(order[:, k], pa.int64()) for k in ranks}
        found |= {f"prob_{k + 1}": pa.array(best[:, k], pa.float32()) for k in ranks}
        return found, features

    def _run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities [N, classes] and features [N, D]."""
        scores, features = [], []
        # An image at least, so that the number of features is known.
        padded = images if len(images) else np.zeros((1, *images.shape[1:]), np.uint8)
        for start in range(0, len(padded), self.at_once):
            chunk = padded[start : start + self.at_once]
            count = len(chunk)
            if not self.any_size:
                rest = np.zeros((self.at_once - count, *chunk.shape[1:]), np.uint8)
                chunk = np.concatenate([chunk, rest])
            with tensorlib.no_grad():
                found = self.model(tensorlib.from_numpy(chunk))
                logits, seen = found if self.features else (found, None)
                scores.append(logits.float().softmax(1).numpy()[:count])
                if seen is not None:
                    features.append(seen.float().numpy()[:count])
        n = len(images)
        whole = np.concatenate(features)[:n] if features else None
        return np.concatenate(scores)[:n], whole


def with_features(module: nn.Module) -> Any:
    """A function that gives the result of a classifier and what its last Linear was given.

    Raises UsageError for a model that does not end in a Linear layer.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise UsageError(
            f"features: {type(module).__name__} has no Linear layer; expected one at its end"
        )
    seen: list[Tensor] = []
    layers[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        seen.clear()
        result = module(x)
        return result, seen[-1]

    return forward
