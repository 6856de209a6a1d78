"""A time series of a CSV file, cut into windows for a model that predicts what follows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from jobs.config import Part
from jobs.data import csvfile
from tensorlib.utils.data import Dataset

if TYPE_CHECKING:
    import pandas as pd


class SeriesConfig(Part):
    """A series to forecast.

    Args:
        path: a CSV file, a row for each point in time, oldest first, without gaps.
        columns: what the model sees.
        targets: of these, what it predicts.
        time: a column of numbers or ISO dates that has to rise from row to row; it is checked, and
            no input.
        ignore: columns of the file that are not used.
        window: how many rows a sample shows.
        horizon: how many rows after them are predicted.
        validation: share of the rows, the last ones, that is held out. No sample has rows of both
            parts.
    """

    kind: Literal["series"]
    path: Path
    columns: list[str] = Field(min_length=1)
    targets: list[str] = Field(min_length=1)
    time: str | None = None
    ignore: list[str] = Field(default_factory=list)
    window: int = Field(default=24, ge=1)
    horizon: int = Field(default=1, ge=1)
    validation: float = Field(default=0.2, gt=0, lt=1)


@dataclass(frozen=True)
class Series:
    """A series in two parts, standardised by mean and std [columns] of the training rows."""

    train: Windows
    test: Windows
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    facts: dict[str, Any]


class Windows(Dataset[tuple[Any, Any]]):
    """Samples (rows [window, columns], what follows [horizon, targets]) of float32, one from each
    row on.
    """

    def __init__(
        self, rows: NDArray[np.float32], targets: list[int], window: int, horizon: int
    ) -> None:
        self.rows, self.targets, self.window, self.horizon = rows, targets, window, horizon

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        end = index + self.window
        return self.rows[index:end], self.rows[end : end + self.horizon, self.targets]

    def __len__(self) -> int:
        return max(0, len(self.rows) - self.window - self.horizon + 1)


def load(config: SeriesConfig) -> Series:
    """Read, check, standardise and cut. ValueError for what will not do."""
    foreign = [name for name in config.targets if name not in config.columns]
    if foreign:
        raise ValueError(
            f"params.data.targets: {', '.join(foreign)}: not among the columns "
            f"{', '.join(config.columns)}; expected some of them"
        )
    path = config.path
    named = [*config.columns, *([config.time] if config.time else [])]
    table = csvfile.read(path, named, config.ignore, "params.data")
    holes = csvfile.missing(table)
    if holes:
        raise ValueError(
            f"{path}: missing values: {holes}; expected none in a series. Hint: fill or cut them "
            "first, as only you know what they mean"
        )
    if config.time is not None:
        _check_order(table[config.time], path)
    values = np.stack([csvfile.numbers(table[name], path) for name in config.columns], 1)
    cut = round(len(values) * (1 - config.validation))
    mean, std = values[:cut].mean(0), values[:cut].std(0)
    constant = [name for name, s in zip(config.columns, std, strict=True) if s == 0]
    if constant:
        raise ValueError(
            f"{path}: {', '.join(constant)}: one value in all {cut} training rows; expected a "
            "column that says something. Hint: params.data.ignore"
        )
    rows = ((values - mean) / std).astype(np.float32)
    targets = [config.columns.index(name) for name in config.targets]
    train, test = (
        Windows(part, targets, config.window, config.horizon) for part in (rows[:cut], rows[cut:])
    )
    if not len(train) or not len(test):
        raise ValueError(
            f"{path}: {cut} rows to train on and {len(rows) - cut} held out; expected at least "
            f"window + horizon = {config.window + config.horizon} in each part"
        )
    facts = csvfile.facts(path) | {"rows": len(rows), "columns": config.columns}
    facts |= {"train_samples": len(train), "test_samples": len(test)}
    return Series(train, test, mean, std, facts)


def _check_order(time: pd.Series[str], path: Path) -> None:
    """ValueError where `time` does not rise."""
    import pandas as pd

    values = pd.to_numeric(time, errors="coerce")
    if values.isna().any():
        try:
            values = pd.to_datetime(time, format="ISO8601", utc=True)
        except ValueError as error:
            raise ValueError(
                f"{path}: {time.name}: neither numbers nor ISO dates: {error}"
            ) from error
    ranks = values.to_numpy()
    falls = np.flatnonzero(ranks[1:] <= ranks[:-1])
    if len(falls):
        row = int(falls[0]) + 1
        raise ValueError(
            f"{path}: {time.name} goes from {time.iloc[row - 1]} to {time.iloc[row]} at row "
            f"{row + 1} ({len(falls)} such); expected it to rise from row to row"
        )
