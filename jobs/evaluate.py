"""Judge a trained image classifier on held-out images: every image once, exactly.

    orchestrator run configs/evaluate/digits.yaml --set params.weights=run:/digits
    python -m jobs.evaluate configs/evaluate/digits.yaml params.weights=run:/digits

Leaves `evaluation.json` (counts, so that they can be added up) and `confusion_matrix.png` among
the artifacts. The numbers do not depend on how many workers there were.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

import tensorlib
from jobs import evaluation, plots
from jobs.config import Part
from jobs.sources import DataConfig, Source, load_source
from jobs.weights import Weights, load, resolve
from orchestrator.context import JobContext
from orchestrator.errors import UsageError
from tensorlib import Tensor, distributed
from tensorlib.distributed import Communicator, ThreadCommunicator
from tensorlib.nn import functional as F

ENGINE = "training"
TRAINS = False  # no state to save, no batch to cut, nothing drawn


class Config(Part):
    """`params` of an evaluation.

    Args:
        weights: a checkpoint, `run:/ID`, or a `.pth` or `.safetensors` file with `model`.
        labels: file of the model's class names, one a line, where they are not ImageNet's.
        data: its held-out part is judged; class names have to be the model's.
        top_k: how many of the best labels count as right for `val/top5_accuracy`.
    """

    weights: str
    model: str | None = None
    labels: Path | None = None
    data: DataConfig
    top_k: int = Field(default=5, ge=1)
    batch_size: int = Field(default=64, ge=1)
    loader_threads: int = Field(default=0, ge=0)

    @field_validator("weights")
    @classmethod
    def _resolve(cls, value: str) -> str:
        return resolve(value)


def prepare(config: Config) -> tuple[Weights, Source, NDArray[np.int64]]:
    """The weights, the data, and for each class of the data its index among the model's."""
    weights = load(config.weights, config.model, config.labels)
    source = load_source(config.data, preset=weights.preset)
    index = {name: i for i, name in enumerate(weights.classes)}
    unknown = [name for name in source.classes if name not in index]
    if unknown:
        raise UsageError(
            f"params.data: the model knows no class {', '.join(unknown[:5])}"
            f"{f' and {len(unknown) - 5} more' if len(unknown) > 5 else ''}; expected some of its "
            f"{len(weights.classes)}, such as {', '.join(weights.classes[:3])}. Hint: params.labels"
        )
    if config.top_k > len(weights.classes):
        raise UsageError(
            f"params.top_k: {config.top_k} labels of a model with {len(weights.classes)} classes; "
            "expected at most as many"
        )
    return weights, source, np.array([index[name] for name in source.classes])


def check(config: Config) -> None:
    """Say now what could not work later."""
    prepare(config)[0].build()


def run(config: Config, ctx: JobContext, process_group: Communicator | None = None) -> None:
    """Judge, log, and leave the confusion matrix."""
    tensorlib.set_num_threads(ctx.threads)
    if process_group is None and ctx.world_size > 1:
        distributed.init_process_group()
        process_group = distributed.get_communicator()
    weights, source, index = prepare(config)
    ctx.record_data(**source.facts)
    module, classes = weights.build(), len(weights.classes)

    def judge(batch: Any) -> tuple[list[float], NDArray[np.int64]]:
        images, labels = batch[0].numpy(), index[batch[1].numpy()]
        logits = module(tensorlib.from_numpy(weights.preset.normalize(images)))
        return judged(logits, labels, config.top_k)

    (loss,), counts = evaluation.over(
        *(ctx, process_group or ThreadCommunicator.group(1)[0], source.test, judge),
        sums=1,
        counts=(classes * classes + 1,),
        batch_size=config.batch_size,
        loader_threads=config.loader_threads,
    )
    confusion, among_best = counts[:-1].reshape(classes, classes), int(counts[-1])
    samples, right = int(confusion.sum()), int(np.trace(confusion))
    if samples != len(source.test):
        raise RuntimeError(
            f"{samples} samples were judged; expected each of the {len(source.test)} once"
        )
    ctx.metrics.log(
        {
            "val/loss": loss / samples,
            "val/accuracy": right / samples,
            f"val/top{config.top_k}_accuracy": among_best / samples,
        },
        step=0,
    )
    if ctx.rank == 0:
        best = {"k": config.top_k, "right": among_best}
        write(ctx, weights, confusion, {"loss": loss / samples, "top_k": best})


def judged(
    logits: Tensor, labels: NDArray[np.int64], top_k: int
) -> tuple[list[float], NDArray[np.int64]]:
    """The summed loss; the confusion matrix, flat, and how many labels are among the best `top_k`.

    Ties go to the lower index, as in a classification.
    """
    scores = logits.float().numpy()
    classes = scores.shape[1]
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    pairs = np.bincount(labels * classes + order[:, 0], minlength=classes * classes)
    among = int((order == labels[:, None]).sum())
    loss = F.cross_entropy(logits.float(), tensorlib.from_numpy(labels), reduction="sum")
    return [loss.item()], np.append(pairs, among)


def write(
    ctx: JobContext, weights: Weights, confusion: NDArray[np.int64], more: dict[str, Any]
) -> None:
    """evaluation.json and confusion_matrix.png."""
    record = evaluation.record(str(weights.path), weights.classes, confusion) | more
    path = ctx.artifacts.path("evaluation.json")
    path.write_text(json.dumps(record) + "\n", encoding="utf-8")
    picture = ctx.artifacts.path("confusion_matrix.png")
    with ctx.long_work("draw"):
        plots.confusion_matrix(confusion, weights.classes, picture)
    for made in (path, picture):
        ctx.artifacts.add(made)


if __name__ == "__main__":
    from orchestrator.local import main

    main(__file__)
