"""Train an LSTM or a Transformer on a text (the next token) or a time series (the next values).

    orchestrator run configs/train/sequence.yaml                # arithmetic in words, by letters
    python -m jobs.train_sequence configs/train/series.yaml     # electric load from a CSV file

The end of the file is held out. Each sample starts anew: an LSTM keeps no state between windows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

import tensorlib
from jobs.config import AdamConfig, Part, TrainingConfig
from jobs.data import series, text
from jobs.networks import SequenceModel
from jobs.training import Model, Step, Task, Training, check_task, train
from jobs.weights import load_checkpoint
from orchestrator.context import JobContext
from orchestrator.errors import UsageError
from tensorlib import Tensor, nn
from tensorlib.nn import functional as F
from tensorlib.utils.data import sample_generator

ENGINE = "training"
SAMPLE_TOKENS = 400


class SequenceModelConfig(Part):
    """`heads` are the Transformer's, and divide `width`."""

    name: Literal["lstm", "transformer"]
    width: int = Field(default=128, ge=1)
    layers: int = Field(default=1, ge=1)
    heads: int = Field(default=4, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads(self) -> SequenceModelConfig:
        if self.name == "lstm" and self.heads != type(self).model_fields["heads"].default:
            raise ValueError("lstm takes no heads")
        if self.name == "transformer" and self.width % self.heads:
            raise ValueError(
                f"width {self.width} for {self.heads} heads; expected a multiple of them"
            )
        return self

    def build(self, outputs: int, window: int, **sizes: Any) -> SequenceModel:
        """The model; `sizes` as `SequenceModel` takes them."""
        own = self.model_dump(exclude={"name"})
        return SequenceModel(self.name, outputs, window, **own, **sizes)


class Config(TrainingConfig):
    """`params` of a training on sequences; the optimizer is Adam unless another is named."""

    model: SequenceModelConfig
    data: Annotated[text.TextConfig | series.SeriesConfig, Field(discriminator="kind")]
    optimizer: AdamConfig = AdamConfig()


class TextTask(Task):
    """Cross-entropy of the next token: the mean over a window's tokens is the loss of a sample."""

    def __init__(self, config: Config, source: text.Text) -> None:
        assert isinstance(config.data, text.TextConfig)
        self.source, self.config = source, config.data
        self.dataset, self.facts = source.train, source.facts
        count = len(source.tokens)
        self.model = config.model.build(count, config.data.window, tokens=count)
        self.saved = {
            "sequence": {
                "model": config.model.model_dump(),
                "data": config.data.model_dump(mode="json"),
                "tokens": source.tokens,
            }
        }

    def start(self, weights: Path) -> None:
        """Take over weights; UsageError for a checkpoint of another vocabulary."""
        if weights.is_dir():
            saved = load_checkpoint(weights).get("sequence", {})
            theirs, own = saved.get("tokens", []), self.source.tokens
            if theirs != own:
                raise UsageError(
                    f"weights: {weights} knows {len(theirs)} tokens, this text has {len(own)}; "
                    "expected the same ones, in the same order"
                )
        super().start(weights)

    def loss(self, model: Model, batch: Any, where: Step) -> tuple[Tensor, Sequence[float]]:
        """Cross-entropy in nats."""
        logits = model(batch[0])
        total = F.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), batch[1].reshape(-1), reduction="sum"
        )
        return total / self.config.window, []

    def evaluate(self, training: Training) -> dict[str, float]:
        """Loss in nats per token and perplexity, its exponential, on the end of the text."""
        where = Step(training.ctx.seed, training.progress.epoch, training.progress.step, 0)
        (total,), _ = training.over(
            self.source.test,
            lambda batch: ([self.loss(training.final, batch, where)[0].item()], 0),
            sums=1,
        )
        loss = float(total) / len(self.source.test)
        return {"val/loss": loss, "val/perplexity": math.exp(loss)}

    def finish(self, training: Training) -> None:
        """The loss curve, and a text that the model wrote."""
        training.draw(("loss",))
        path = training.ctx.artifacts.path("sample.txt")
        path.write_text(self.write(training.final, training.ctx.seed) + "\n", encoding="utf-8")
        training.ctx.artifacts.add(path)

    def write(self, model: nn.Module, seed: int) -> str:
        """A text drawn token by token, after the first window of the held-out part."""
        random = sample_generator(seed, 0, 0)
        codes = list(self.source.test[0][0])
        with tensorlib.no_grad():
            for _ in range(SAMPLE_TOKENS):
                last = np.array(codes[-self.config.window :])[None]
                chances = model(tensorlib.from_numpy(last))[0, -1].softmax(0).numpy()
                chances = np.cumsum(chances, dtype=np.float64)
                codes.append(int(np.searchsorted(chances, random.random() * chances[-1])))
        written = codes[self.config.window :]
        return text.join([self.source.tokens[code] for code in written], self.config.level)


class SeriesTask(Task):
    """Mean squared error of the standardised values that follow a window."""

    def __init__(self, config: Config, source: series.Series) -> None:
        assert isinstance(config.data, series.SeriesConfig)
        self.source, self.config = source, config.data
        self.dataset = source.train
        at = [config.data.columns.index(name) for name in config.data.targets]
        self.at, self.std = at, source.std[at]
        self.model = config.model.build(
            config.data.horizon * len(at),
            config.data.window,
            features=len(config.data.columns),
            last=True,
        )
        self.facts = source.facts | {"mae_of_last_value": self.persistence()}
        self.saved = {
            "sequence": {
                "model": config.model.model_dump(),
                "data": config.data.model_dump(mode="json"),
                "mean": source.mean,
                "std": source.std,
            }
        }

    def predict(self, model: Model, rows: Tensor) -> Tensor:
        """[N, window, columns] to [N, horizon, targets], standardised."""
        forecast: Tensor = model(rows)
        return forecast.reshape(len(rows), self.config.horizon, len(self.at))

    def loss(self, model: Model, batch: Any, where: Step) -> tuple[Tensor, Sequence[float]]:
        """Squared errors, the mean over the values of a sample."""
        errors = F.mse_loss(self.predict(model, batch[0]), batch[1], reduction="sum")
        return errors / (self.config.horizon * len(self.at)), []

    def evaluate(self, training: Training) -> dict[str, float]:
        """On the last rows: the loss, and for each target mse and mae in its own unit."""
        count = len(self.at)
        sums, _ = training.over(
            self.source.test,
            lambda batch: (self._errors(self.predict(training.final, batch[0]), batch[1]), 0),
            sums=2 * count,
        )
        sums /= len(self.source.test) * self.config.horizon
        values = {"val/loss": float(sums[:count].mean())}
        for i, name in enumerate(self.config.targets):
            suffix = f"/{name}" if count > 1 else ""
            values[f"val/mse{suffix}"] = float(sums[i] * self.std[i] ** 2)
            values[f"val/mae{suffix}"] = float(sums[count + i] * self.std[i])
        return values

    def persistence(self) -> dict[str, float]:
        """For each target the held-out mae of the forecast that nothing changes."""
        test = self.source.test
        errors = np.zeros(len(self.at))
        for rows, following in (test[i] for i in range(len(test))):
            errors += np.abs(following - rows[-1, self.at]).mean(0)
        return dict(zip(self.config.targets, (errors / len(test) * self.std).tolist(), strict=True))

    def finish(self, training: Training) -> None:
        """The loss curve."""
        training.draw(("loss",))

    @staticmethod
    def _errors(forecast: Tensor, truth: Tensor) -> list[float]:
        """Sums over samples and horizon, for each target: of squares, then of sizes."""
        errors = (forecast.float().numpy() - truth.numpy()).astype(np.float64)
        return [*(errors**2).sum((0, 1)), *np.abs(errors).sum((0, 1))]


def make(config: Config) -> TextTask | SeriesTask:
    """The task; ValueError or OSError for data that cannot be."""
    if isinstance(config.data, text.TextConfig):
        return TextTask(config, text.load(config.data))
    return SeriesTask(config, series.load(config.data))


def check(config: Config) -> None:
    """Say now what could not work later."""
    check_task(config, make(config))


def run(config: Config, ctx: JobContext) -> None:
    """Train to the last epoch, or until the run is asked to stop; continue where it was."""
    train(config, ctx, lambda: make(config))


if __name__ == "__main__":
    from orchestrator.local import main

    main(__file__)
