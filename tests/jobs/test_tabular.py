"""train_tabular: it learns, statistics are the training rows', missing values are counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jobs
from jobs import train_tabular
from jobs.data import table
from jobs.data.table import TableConfig
from orchestrator.errors import UsageError
from orchestrator.plan import RunPlan
from orchestrator.store import RunDir
from orchestrator.submit import preflight

Planned = Callable[..., RunPlan]
HOUSES = Path(jobs.__file__).parent / "data" / "houses.csv"
DATA: dict[str, Any] = {
    "path": str(HOUSES),
    "target": "price",
    "task": "regression",
    "numeric": ["area", "rooms", "age"],
    "categorical": ["district", "heating"],
    "missing": "fill",
}
PARAMS: dict[str, Any] = {
    "model": {"hidden": [32, 32]},
    "data": DATA,
    "optimizer": {"name": "adamw", "lr": 0.01},
    "batch_size": 64,
    "epochs": 10,
}


def last(run_dir: RunDir, key: str) -> float:
    return float(run_dir.metrics()[key][-1][1])


def held_out(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that are trained on, and the others."""
    order = np.random.default_rng(0).permutation(len(rows))
    cut = round(len(rows) * 0.8)
    return rows.iloc[order[:cut]], rows.iloc[order[cut:]]


def test_prices_are_told_better_than_by_a_linear_model(run_here: Any) -> None:
    run_dir = run_here("train_tabular", PARAMS)
    parts = held_out(pd.read_csv(HOUSES).fillna({"age": 45.0, "heating": "none"}))
    dummies = pd.get_dummies(pd.concat(parts), columns=["district", "heating"], dtype=float)
    inputs = dummies.drop(columns="price").assign(one=1.0).to_numpy()
    prices = dummies["price"].to_numpy()
    weights = np.linalg.lstsq(inputs[:960], prices[:960], rcond=None)[0]
    linear = np.mean((inputs[960:] @ weights - prices[960:]) ** 2)
    assert last(run_dir, "val/mse") < 0.8 * linear
    assert last(run_dir, "val/r2") == pytest.approx(
        1 - last(run_dir, "val/mse") / prices[960:].var(), rel=1e-4
    )


def test_a_saved_model_predicts_what_was_judged(run_here: Any) -> None:
    run_dir = run_here("train_tabular", PARAMS | {"epochs": 2})
    model, columns = train_tabular.load("run:/run-1")
    _, rows = held_out(pd.read_csv(HOUSES))
    prices = train_tabular.predict(model, columns, rows.drop(columns="price"))
    assert np.abs(prices - rows["price"]).mean() == pytest.approx(
        last(run_dir, "val/mae"), rel=1e-5
    )
    strange = rows.head(1).assign(district="moon")
    assert np.isfinite(train_tabular.predict(model, columns, strange)).all()
    with pytest.raises(ValueError, match="no column age; expected area, rooms"):
        train_tabular.predict(model, columns, rows.drop(columns="age"))
    with pytest.raises(ValueError, match="district holds 7; expected text"):
        train_tabular.predict(model, columns, rows.assign(district=7))
    with pytest.raises(ValueError, match="row 1 of column 'area' is 'inf'"):
        train_tabular.predict(model, columns, rows.assign(area=np.inf))


def test_classes(run_here: Any, planned: Planned) -> None:
    data = DATA | {"target": "district", "task": "classification"}
    data |= {"numeric": ["area", "rooms", "age", "price"], "categorical": ["heating"]}
    run_dir = run_here("train_tabular", PARAMS | {"data": data})
    _, rows = held_out(pd.read_csv(HOUSES))
    assert last(run_dir, "val/accuracy") > 1.5 * rows["district"].value_counts(normalize=True).max()
    model, columns = train_tabular.load("run:/run-1")
    right = train_tabular.predict(model, columns, rows) == rows["district"]
    assert right.mean() == last(run_dir, "val/accuracy")
    assert (run_dir.artifacts_dir / "confusion_matrix.png").exists()
    with pytest.raises(UsageError, match="not of an image classifier"):
        preflight(planned("evaluate", {"weights": "run:/run-1", "data": {"name": "digits"}}))


def test_statistics_are_of_the_training_rows() -> None:
    loaded = table.load(TableConfig(**DATA))
    train, test = held_out(pd.read_csv(HOUSES))
    assert loaded.columns.numeric["age"] == pytest.approx(
        (train["age"].mean(), train["age"].std(ddof=0))
    )
    assert loaded.columns.target_scale[0] == pytest.approx(train["price"].mean())
    numbers, codes, _ = loaded.test[0]
    assert numbers[0] == pytest.approx(
        (test["area"].iloc[0] - train["area"].mean()) / train["area"].std(ddof=0), abs=1e-5
    )
    assert loaded.columns.categories["district"][int(codes[0]) - 1] == test["district"].iloc[0]


def test_missing_values_are_refused_left_out_or_filled_and_counted() -> None:
    holes = pd.read_csv(HOUSES).isna()
    by_column = {name: int(n) for name, n in holes.sum().items() if n}
    with pytest.raises(ValueError, match=f"{by_column} of 1200 rows.*drop or fill"):
        table.load(TableConfig(**DATA | {"missing": "error"}))
    filled = table.load(TableConfig(**DATA)).facts
    assert (filled["missing"], filled["train_samples"] + filled["test_samples"]) == (
        by_column,
        1200,
    )
    dropped = table.load(TableConfig(**DATA | {"missing": "drop"})).facts
    assert dropped["rows_left_out"] == holes.any(axis=1).sum()
    assert dropped["train_samples"] + dropped["test_samples"] == 1200 - dropped["rows_left_out"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"numeric": ["area", "room", "age"]}, "has no column 'room'.*did you mean 'rooms'"),
        ({"numeric": ["area", "age"]}, "nothing names: rooms; .*ignore: \\[rooms\\]"),
        ({"ignore": ["area"]}, "area: named twice"),
        ({"ignore": ["arena"]}, "has no column 'arena'"),
        (
            {"target": "heating", "categorical": ["district"], "ignore": ["price"]},
            "cannot be filled",
        ),
        (
            {"numeric": ["area", "rooms", "age", "district"], "categorical": ["heating"]},
            "is 'hills'",
        ),
        ({"path": "none.csv"}, "none.csv: cannot be read: No such file"),
        ({"numeric": [], "categorical": [], "ignore": ["area"]}, "expected at least one"),
        ({"validation": 0.0001}, "at least one in each part"),
    ],
)
def test_a_table_that_will_not_do(planned: Planned, change: Any, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        preflight(planned("train_tabular", PARAMS | {"data": DATA | change}))


def test_columns_go_through_a_checkpoint() -> None:
    columns = table.load(TableConfig(**DATA)).columns
    assert table.Columns.from_dict(columns.to_dict()) == columns


def test_a_warm_start_needs_the_same_columns(run_here: Any, planned: Planned) -> None:
    run_here("train_tabular", PARAMS | {"epochs": 1})
    warm = PARAMS | {"weights": "run:/run-1", "weights_only": True, "epochs": 1}
    assert last(run_here("train_tabular", warm), "val/r2") > 0
    data = DATA | {"numeric": ["rooms", "area", "age"]}
    with pytest.raises(UsageError, match=r"differs in rooms, area; .* in the same order"):
        preflight(planned("train_tabular", warm | {"data": data}))
