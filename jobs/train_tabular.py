"""Train a perceptron on a table: a number (regression) or a class from the other columns.

    orchestrator run configs/train/tabular.yaml                 # prices of made-up houses
    python -m jobs.train_tabular configs/train/tabular.yaml params.data.missing=drop

What was measured on the training rows (means, categories, classes) is saved with the model:

    model, columns = load("run:/ID")        # also a checkpoint directory
    predict(model, columns, pandas.read_csv("new.csv"))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

import tensorlib
from jobs import plots
from jobs.config import AdamConfig, Part, TrainingConfig
from jobs.data import table
from jobs.images import judged
from jobs.networks import TableModel
from jobs.training import Model, Step, Task, Training, check_task, train
from jobs.weights import final_weights, load_checkpoint, resolve
from orchestrator.context import JobContext
from orchestrator.errors import UsageError
from tensorlib import Tensor
from tensorlib.nn import functional as F

if TYPE_CHECKING:
    import pandas as pd

ENGINE = "training"


class TableModelConfig(Part):
    """Widths of the hidden layers, and the length of a category's vector."""

    hidden: tuple[Annotated[int, Field(ge=1)], ...] = (64, 64)
    embedding: int = Field(default=8, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class Config(TrainingConfig):
    """`params` of a training on a table; the optimizer is Adam unless another is named."""

    model: TableModelConfig = TableModelConfig()
    data: table.TableConfig
    optimizer: AdamConfig = AdamConfig()
    activation_checkpointing: Literal[False] = False


class TableTask(Task):
    """Mean squared error of the standardised target, or cross-entropy of the classes."""

    def __init__(self, config: TableModelConfig, source: table.Table) -> None:
        self.source, self.columns = source, source.columns
        self.dataset, self.facts = source.train, source.facts
        self.classes = source.columns.classes
        self.names = ("loss", "accuracy") if self.classes else ("loss",)
        self.model = build(config, source.columns)
        self.confusion = np.zeros((len(self.classes),) * 2, np.int64)
        self.saved = {
            "tabular": {
                "model": config.model_dump(mode="json"),
                "columns": source.columns.to_dict(),
            }
        }

    def start(self, weights: Path) -> None:
        """Take over weights; UsageError for a checkpoint whose columns or names are others."""
        if weights.is_dir():
            saved = load_checkpoint(weights).get("tabular", {}).get("columns")
            theirs = table.Columns.from_dict(saved).names() if saved else {}
            own = self.columns.names()
            other = [name for name in own | theirs if own.get(name) != theirs.get(name)]
            if other:
                raise UsageError(
                    f"weights: {weights}: differs in {', '.join(other)}; expected a model of the "
                    "same columns, categories and classes, in the same order"
                )
        super().start(weights)

    def loss(self, model: Model, batch: Any, where: Step) -> tuple[Tensor, Sequence[float]]:
        """Squared errors; or cross-entropy, and how many are right."""
        numbers, codes, target = batch
        output = model(numbers, codes)
        if not self.classes:
            return F.mse_loss(output[:, 0], target, reduction="sum"), []
        right = (output.argmax(1) == target).sum().item()
        return F.cross_entropy(output, target, reduction="sum"), [right]

    def evaluate(self, training: Training) -> dict[str, float]:
        """On the held-out rows: loss and accuracy; or loss, and mse, mae (in the target's unit) and
        r2, the share of the target's variance that is explained.
        """
        count = len(self.source.test)
        if self.classes:
            (loss,), self.confusion = training.over(
                self.source.test,
                lambda batch: judged(training.final(*batch[:2]), batch[2]),
                sums=1,
                counts=self.confusion.shape,
            )
            right = np.trace(self.confusion)
            return {"val/loss": float(loss / count), "val/accuracy": float(right / count)}
        sums, _ = training.over(
            self.source.test,
            lambda batch: (_errors(training.final(*batch[:2]), batch[2]), 0),
            sums=4,
        )
        square, size, first, second = (sums / count).tolist()
        std = self.columns.target_scale[1]
        return {
            "val/loss": square,
            "val/mse": square * std**2,
            "val/mae": size * std,
            "val/r2": 1 - square / max(second - first**2, 1e-12),
        }

    def finish(self, training: Training) -> None:
        """The loss curve, and of classes the confusion matrix, as pictures."""
        training.draw(self.names)
        if self.classes:
            path = training.ctx.artifacts.path("confusion_matrix.png")
            plots.confusion_matrix(self.confusion, self.classes, path)
            training.ctx.artifacts.add(path)

    def state_dict(self) -> dict[str, Any]:
        """The confusion matrix of the last evaluation."""
        return {"confusion": self.confusion}

    def load_state_dict(self, state: Any) -> None:
        """Take it over."""
        self.confusion = np.array(state["confusion"])


def build(config: TableModelConfig, columns: table.Columns) -> TableModel:
    """The model for tables that look like `columns`."""
    return TableModel(
        len(columns.numeric),
        [len(known) + 1 for known in columns.categories.values()],
        len(columns.classes) or 1,
        **config.model_dump(),
    )


def load(weights: str) -> tuple[TableModel, table.Columns]:
    """A trained model in eval mode, and how it sees a table. `weights`: `run:/ID` or a checkpoint.

    Raises UsageError for anything else.
    """
    path = Path(resolve(weights))
    state = load_checkpoint(path)
    if "tabular" not in state:
        raise UsageError(f"{path}: is no checkpoint of train_tabular; expected one")
    columns = table.Columns.from_dict(state["tabular"]["columns"])
    model = build(TableModelConfig(**state["tabular"]["model"]), columns)
    model.load_state_dict(final_weights(state))
    model.eval()
    return model, columns


def predict(model: TableModel, columns: table.Columns, rows: pd.DataFrame) -> NDArray[Any]:
    """The target of each row: numbers float64 [N] in its unit, or names of classes [N].

    Missing values and categories that training did not see count as with `missing: fill`.
    ValueError for a column that is not there, or holds something else.
    """
    numbers, codes = columns.encode(rows)
    with tensorlib.no_grad():
        output: Tensor = model(tensorlib.from_numpy(numbers), tensorlib.from_numpy(codes))
    if columns.classes:
        return np.array([columns.classes[i] for i in output.argmax(1).tolist()])
    mean, std = columns.target_scale
    values: NDArray[np.float64] = output[:, 0].numpy().astype(np.float64)
    return values * std + mean


def _errors(output: Tensor, target: Tensor) -> list[float]:
    """Sums: squares and sizes of the errors, the targets and their squares."""
    truth = target.numpy().astype(np.float64)
    errors = output[:, 0].float().numpy() - truth
    return [(errors**2).sum(), np.abs(errors).sum(), truth.sum(), (truth**2).sum()]


def make(config: Config) -> TableTask:
    """The task; ValueError or OSError for data that cannot be."""
    return TableTask(config.model, table.load(config.data))


def check(config: Config) -> None:
    """Say now what could not work later."""
    check_task(config, make(config))


def run(config: Config, ctx: JobContext) -> None:
    """Train to the last epoch, or until the run is asked to stop; continue where it was."""
    train(config, ctx, lambda: make(config))


if __name__ == "__main__":
    from orchestrator.local import main

    main(__file__)
