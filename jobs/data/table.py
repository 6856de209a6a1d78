"""A table of a CSV file as numbers and categories for a model, and back from its outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from jobs.config import Part
from jobs.data import csvfile
from tensorlib.utils.data import TensorDataset

if TYPE_CHECKING:
    import pandas as pd


class TableConfig(Part):
    """A table to learn from. Each column of the file has to have a part.

    Args:
        path: a CSV file.
        target: the column to predict.
        task: `regression` of a number, or `classification` (what stands in it names the class).
        numeric: columns of numbers.
        categorical: columns of names.
        ignore: columns that are not used.
        missing: what becomes of rows with missing values. `error` refuses them; `drop` leaves them
            out; `fill` takes the mean of the training rows for a number, and a category of its own,
            which it shares with categories that training did not see. A missing target cannot be
            filled. The report has the counts.
        validation: share of the rows, drawn with `split_seed`, that is held out.
    """

    path: Path
    target: str
    task: Literal["regression", "classification"]
    numeric: list[str] = Field(default_factory=list)
    categorical: list[str] = Field(default_factory=list)
    ignore: list[str] = Field(default_factory=list)
    missing: Literal["error", "drop", "fill"] = "error"
    validation: float = Field(default=0.2, gt=0, lt=1)
    split_seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _something_to_learn_from(self) -> TableConfig:
        if not self.numeric and not self.categorical:
            raise ValueError("neither numeric nor categorical columns; expected at least one")
        return self


@dataclass(frozen=True)
class Columns:
    """How a model sees a table: what was measured on the training rows.

    `numeric` and `target_scale` are (mean, standard deviation); `categories` are numbered from 1
    on, by column; `classes` are empty in a regression.
    """

    target: str
    numeric: Mapping[str, tuple[float, float]]
    categories: Mapping[str, list[str]]
    classes: list[str]
    target_scale: tuple[float, float]

    def encode(
        self, table: pd.DataFrame, where: object = "the table"
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Rows as numbers [N, numeric] and categories [N, categorical]; what is missing becomes 0,
        as does a category that training did not see.

        Raises ValueError for a column that is not there, for what is no number in a column of
        numbers, and for what is no text in a column of categories: 7 is not "7".
        """
        named = [*self.numeric, *self.categories]
        lacks = [name for name in named if name not in table]
        if lacks:
            raise ValueError(f"{where}: no column {', '.join(lacks)}; expected {', '.join(named)}")
        numbers = np.zeros((len(table), len(self.numeric)), np.float32)
        for i, (name, (mean, std)) in enumerate(self.numeric.items()):
            values = (csvfile.numbers(table[name], where) - mean) / std
            numbers[:, i] = np.where(np.isnan(values), 0.0, values)
        codes = np.zeros((len(table), len(self.categories)), np.int64)
        for i, (name, known) in enumerate(self.categories.items()):
            wrong = [value for value in table[name].dropna().unique() if type(value) is not str]
            if wrong:
                raise ValueError(
                    f"{where}: {name} holds {wrong[0]}; expected text, as it is categorical. "
                    "Hint: pandas.read_csv(FILE, dtype=str)"
                )
            index = {value: j for j, value in enumerate(known, 1)}
            codes[:, i] = table[name].map(index).fillna(0).to_numpy(np.int64)
        return numbers, codes

    def targets(self, table: pd.DataFrame) -> NDArray[Any]:
        """Classes as int64 [N], or standardised numbers as float32 [N]."""
        column = table[self.target]
        if self.classes:
            index = {name: i for i, name in enumerate(self.classes)}
            return column.map(index).to_numpy(np.int64)
        mean, std = self.target_scale
        return ((column.to_numpy(np.float64) - mean) / std).astype(np.float32)

    def names(self) -> dict[str, Any]:
        """By column what has to be the same for a model to fit: position, categories, classes."""
        return {
            **{name: i for i, name in enumerate(self.numeric)},
            **{name: (i, known) for i, (name, known) in enumerate(self.categories.items())},
            self.target: self.classes,
        }

    def to_dict(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Columns:
        """From `to_dict`, also once it was JSON."""
        numeric = {name: (mean, std) for name, (mean, std) in state["numeric"].items()}
        mean, std = state["target_scale"]
        return cls(**{**state, "numeric": numeric, "target_scale": (mean, std)})


@dataclass(frozen=True)
class Table:
    """A table in two parts; samples are (numbers, categories, target)."""

    train: TensorDataset
    test: TensorDataset
    columns: Columns
    facts: dict[str, Any]


def load(config: TableConfig) -> Table:
    """Read, check, split, measure. ValueError for what will not do."""
    path = config.path
    named = [*config.numeric, *config.categorical, config.target]
    table = csvfile.read(path, named, config.ignore, "params.data")
    facts: dict[str, Any] = {**csvfile.facts(path), "rows": len(table)}
    holes = csvfile.missing(table)
    if holes and config.missing == "error":
        raise ValueError(
            f"{path}: missing values: {holes} of {len(table)} rows; expected none. Hint: "
            "params.data.missing: drop or fill"
        )
    if config.missing == "fill" and config.target in holes:
        raise ValueError(
            f"{path}: {holes[config.target]} rows without the target {config.target!r}; expected "
            "one in each row, as it cannot be filled. Hint: params.data.missing: drop"
        )
    if holes:
        facts["missing"] = holes
    if config.missing == "drop":
        table = table.dropna()
        facts["rows_left_out"] = facts["rows"] - len(table)
    numbers = [*config.numeric, *([config.target] if config.task == "regression" else [])]
    table = table.assign(**{name: csvfile.numbers(table[name], path) for name in numbers})
    order = np.random.default_rng(config.split_seed).permutation(len(table))
    cut = round(len(table) * (1 - config.validation))
    if not 0 < cut < len(table):
        raise ValueError(
            f"{path}: {len(table)} rows with {config.validation:g} of them held out; expected at "
            "least one in each part"
        )
    train, test = table.iloc[order[:cut]], table.iloc[order[cut:]]
    columns = measure(config, train)
    new = set(test[config.target]) - set(columns.classes) if columns.classes else set()
    if new:
        more = f" and {len(new) - 5} more" if len(new) > 5 else ""
        raise ValueError(
            f"{path}: classes without a training row: {', '.join(sorted(new)[:5])}{more}; expected "
            "some of each. Hint: another params.data.split_seed, or fewer classes"
        )
    facts |= {"train_samples": len(train), "test_samples": len(test)}
    unseen = {
        name: int((test[name].notna() & ~test[name].isin(known)).sum())
        for name, known in columns.categories.items()
    }
    if any(unseen.values()):
        facts["held_out_categories_unseen"] = {k: n for k, n in unseen.items() if n}
    parts = [
        TensorDataset(*columns.encode(rows, path), columns.targets(rows)) for rows in (train, test)
    ]
    return Table(parts[0], parts[1], columns, facts)


def measure(config: TableConfig, train: pd.DataFrame) -> Columns:
    """What `Columns` says, of the training rows alone."""
    numeric = {name: _scale(train[name], config.path) for name in config.numeric}
    categories = {name: sorted(train[name].dropna().unique()) for name in config.categorical}
    if config.task == "regression":
        scale = _scale(train[config.target], config.path)
        return Columns(config.target, numeric, categories, [], scale)
    classes = sorted(train[config.target].unique())
    if len(classes) < 2:
        raise ValueError(
            f"{config.path}: {config.target} is {classes[0]!r} in all training rows; expected at "
            "least two classes"
        )
    return Columns(config.target, numeric, categories, classes, (0.0, 1.0))


def _scale(column: pd.Series[float], path: Path) -> tuple[float, float]:
    mean, std = float(column.mean()), float(column.std(ddof=0))
    if not std > 0 or not math.isfinite(std):
        raise ValueError(
            f"{path}: {column.name} is {mean:g} in all training rows that have it; expected a "
            "column that says something. Hint: params.data.ignore"
        )
    return mean, std
