"""The task of classifying images: what train_classifier and finetune have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import tensorlib
from jobs import plots
from jobs.config import ModelConfig
from jobs.sources import Source
from jobs.training import Model, Step, Task, Training
from tensorlib import Tensor, nn
from tensorlib.nn import functional as F
from tensorlib.utils.data import sample_generator, using_generator
from tensorlib.vision.transforms import MixUp

_MIXUP_STREAM = 1  # beside 0, which the augmentation of samples draws from


class ImageTask(Task):
    """Cross-entropy on the images of a source, with label smoothing and mixup.

    Args:
        config: the model's name and options, as a checkpoint is to describe it.
        mixup: the alpha of `MixUp`; None mixes nothing. A mixed sample counts as correct where
            the prediction is the class of its larger share.
    """

    names = ("loss", "accuracy")

    def __init__(
        self,
        model: nn.Module,
        config: ModelConfig,
        source: Source,
        label_smoothing: float = 0.0,
        mixup: float | None = None,
    ) -> None:
        # The layout of the batches: gradients of weights then need not be moved into planes.
        self.model = model.to(memory_format=tensorlib.channels_last)
        self.source, self.label_smoothing = source, label_smoothing
        self.dataset, self.facts = source.train, source.facts
        classes = len(source.classes)
        self.mixup = None if mixup is None else MixUp(alpha=mixup, num_classes=classes)
        self.confusion = np.zeros((classes, classes), dtype=np.int64)
        self.saved = {
            "classifier": {
                "model": config.name,
                "options": dict(config.options),
                "classes": list(source.classes),
                "preset": source.preset.to_dict(),
            }
        }

    def inputs(self, images: Tensor) -> Tensor:
        """uint8 images [N, H, W(, C)] as what the model takes."""
        return tensorlib.from_numpy(self.source.preset.normalize(images.numpy()))

    def loss(self, model: Model, batch: Any, where: Step) -> tuple[Tensor, Sequence[float]]:
        """Cross-entropy, and how many are right."""
        images, labels = self.inputs(batch[0]), batch[1]
        targets = labels
        if self.mixup is not None:
            drawn = sample_generator(where.seed, where.step, where.shard, _MIXUP_STREAM)
            with using_generator(drawn):
                images, targets = self.mixup(images, labels)
            labels = targets.argmax(1)
        logits = model(images)
        loss = F.cross_entropy(
            logits, targets, reduction="sum", label_smoothing=self.label_smoothing
        )
        return loss, [(logits.argmax(1) == labels).sum().item()]

    def evaluate(self, training: Training) -> dict[str, float]:
        """Loss and accuracy on the held-out samples."""
        (loss,), self.confusion = training.over(
            self.source.test,
            lambda batch: judged(training.final(self.inputs(batch[0])), batch[1]),
            sums=1,
            counts=(len(self.source.classes),) * 2,
        )
        count = self.confusion.sum()
        return {
            "val/loss": float(loss / count),
            "val/accuracy": float(np.trace(self.confusion) / count),
        }

    def finish(self, training: Training) -> None:
        """The loss curve and the confusion matrix, as pictures among the artifacts."""
        artifacts = training.ctx.artifacts
        names = ("loss_curve.png", "confusion_matrix.png")
        curve, matrix = (artifacts.path(name) for name in names)
        plots.loss_curve(training.ctx.run_dir.metrics(), curve)
        plots.confusion_matrix(self.confusion, self.source.classes, matrix)
        for path in (curve, matrix):
            artifacts.add(path)

    def state_dict(self) -> dict[str, Any]:
        """The confusion matrix of the last evaluation."""
        return {"confusion": self.confusion}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it over."""
        self.confusion = np.array(state["confusion"])


def judged(logits: Tensor, labels: Tensor) -> tuple[list[float], np.ndarray]:
    """The summed cross-entropy, and the confusion matrix: true classes by predictions."""
    loss = F.cross_entropy(logits, labels, reduction="sum").item()
    classes = logits.shape[1]
    pairs = labels.numpy() * classes + logits.argmax(1).numpy()
    counts = np.bincount(pairs, minlength=classes * classes)
    return [loss], counts.reshape(classes, classes)
