"""train_sequence: it learns more than counting can, in its own units, and says what will not do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jobs
import tensorlib
from jobs.data import series, text
from jobs.networks import SequenceModel
from orchestrator.errors import UsageError
from orchestrator.plan import RunPlan
from orchestrator.store import RunDir
from orchestrator.submit import preflight

Planned = Callable[..., RunPlan]
DATA = Path(jobs.__file__).parent / "data"
TEXT: dict[str, Any] = {
    "model": {"name": "lstm", "width": 48, "dropout": 0.0},
    "data": {"kind": "text", "path": str(DATA / "arithmetic.txt"), "window": 32},
    "optimizer": {"name": "adam", "lr": 0.01},
    "clip_norm": 1.0,
    "batch_size": 64,
    "epochs": 4,
}
SERIES: dict[str, Any] = {
    "model": {"name": "transformer", "width": 16, "layers": 1, "heads": 2, "dropout": 0.0},
    "data": {
        "kind": "series",
        "path": str(DATA / "load.csv"),
        "columns": ["load", "temperature"],
        "targets": ["load"],
        "time": "hour",
        "window": 24,
    },
    "optimizer": {"name": "adam", "lr": 0.005},
    "batch_size": 64,
    "epochs": 6,
}


def last(run_dir: RunDir, key: str) -> float:
    return float(run_dir.metrics()[key][-1][1])


def facts(run_dir: RunDir) -> dict[str, Any]:
    """What the run said of its data."""
    return next(e["facts"] for _, e in run_dir.events() if e["kind"] == "data")


def test_a_lstm_predicts_letters_better_than_counts_of_pairs(run_here: Any) -> None:
    run_dir = run_here("train_sequence", TEXT)
    letters = (DATA / "arithmetic.txt").read_text()
    cut = round(len(letters) * 0.9)
    pairs, ones = Counter(pairwise(letters[:cut])), Counter(letters[:cut])
    chances = [(pairs[p] + 1) / (ones[p[0]] + len(ones)) for p in pairwise(letters[cut:])]
    perplexity = last(run_dir, "val/perplexity")
    assert perplexity < 0.6 * np.exp(-np.log(chances).mean())
    assert perplexity == pytest.approx(np.exp(last(run_dir, "val/loss")))
    assert len((run_dir.artifacts_dir / "sample.txt").read_text()) == 401
    said = facts(run_dir)
    assert said["train_tokens"] + said["train_tokens_left_out"] + 1 == cut


def test_a_transformer_predicts_words(run_here: Any) -> None:
    params = TEXT | {
        "model": {"name": "transformer", "width": 32, "heads": 2, "dropout": 0.0},
        "data": TEXT["data"] | {"level": "word", "window": 18, "min_count": 2},
        "epochs": 3,
    }
    run_dir = run_here("train_sequence", params)
    words = text.split((DATA / "arithmetic.txt").read_text(), "word")
    counts = np.array(list(Counter(words).values())) / len(words)
    assert last(run_dir, "val/perplexity") < 0.5 * np.exp(-(counts * np.log(counts)).sum())
    assert facts(run_dir)["test_tokens_unknown"] == 0


def test_a_forecast_is_better_than_the_last_value(run_here: Any) -> None:
    run_dir = run_here("train_sequence", SERIES)
    naive = facts(run_dir)["mae_of_last_value"]["load"]
    assert last(run_dir, "val/mae") < 0.7 * naive
    std = series.load(series.SeriesConfig(**SERIES["data"])).std[0]
    assert last(run_dir, "val/mse") == pytest.approx(last(run_dir, "val/loss") * std**2)


def test_several_targets_and_hours_each_in_its_unit(run_here: Any) -> None:
    data = SERIES["data"] | {"targets": ["temperature", "load"], "horizon": 3}
    run_dir = run_here("train_sequence", SERIES | {"data": data, "epochs": 1})
    values = [last(run_dir, f"val/mae/{name}") for name in ("temperature", "load")]
    assert 0 < values[0] < values[1]  # degrees vary less than megawatts here


def test_no_sample_has_rows_of_both_parts() -> None:
    loaded = series.load(series.SeriesConfig(**SERIES["data"]))
    assert (len(loaded.train), len(loaded.test)) == (1600 - 24, 400 - 24)
    np.testing.assert_allclose(loaded.train.rows.mean(0), 0, atol=1e-4)
    np.testing.assert_array_equal(loaded.train[1575][1][0], loaded.train.rows[1599, :1])
    np.testing.assert_array_equal(loaded.test[0][0], loaded.test.rows[:24])
    assert abs(loaded.test.rows.mean(0)).max() > 0.01  # standardised by the others' mean


def test_tokens_that_training_did_not_see_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("abc " * 45 + "xyz " * 5)
    loaded = text.load(text.TextConfig(kind="text", path=path, window=4))
    assert loaded.tokens == ["<unknown>", " ", "a", "b", "c"]
    assert loaded.facts["test_tokens_unknown"] == 15  # the rest of 20 are spaces
    x, y = loaded.train[1]
    assert [loaded.tokens[i] for i in (*x, y[-1])] == list("abc a")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"columns": ["load", "temprature"]}, "has no column 'temprature'.*'temperature'"),
        ({"time": None}, "nothing names: hour.*ignore"),
        ({"targets": ["hour"]}, "not among the columns"),
        ({"window": 390, "horizon": 20}, "window \\+ horizon = 410"),
        ({"time": None, "columns": ["load", "hour"], "ignore": ["temperature"]}, None),
    ],
)
def test_a_series_that_will_not_do(planned: Planned, change: Any, what: str | None) -> None:
    made = planned("train_sequence", SERIES | {"data": SERIES["data"] | change})
    if what is None:
        preflight(made)
        return
    with pytest.raises(UsageError, match=what):
        preflight(made)


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ("1,2,3\n2,,3\n3,4,5", "missing values: {'b': 1}"),
        ("1,2,3\n2,x,3\n3,4,5", "row 2 of column 'b' is 'x'"),
        ("1,2,3\n3,4,3\n2,4,5", "t goes from 3 to 2 at row 3"),
        ("2024-01-01,2,3\n2024-01-03,4,3\n2024-01-02,4,5", "t goes from 2024-01-03 to 2024-01-02"),
        ("1,2,3\n2,2,3\n3,2,5", "b, c: one value in all 2 training rows"),
        ("1,2,3\n2,2,3,4\n3,2,5", "cannot be read as CSV"),
    ],
)
def test_a_file_that_is_no_series(planned: Planned, tmp_path: Path, rows: str, what: str) -> None:
    path = tmp_path / "series.csv"
    path.write_text(f"t,b,c\n{rows}\n")
    data = {"kind": "series", "path": str(path), "columns": ["b", "c"], "targets": ["b"]}
    data |= {"time": "t", "window": 1}
    with pytest.raises(UsageError, match=what):
        preflight(planned("train_sequence", SERIES | {"data": data}))


def test_dropout_of_one_layer_is_that_before_the_output() -> None:
    model = SequenceModel("lstm", 3, 4, features=2, width=8, layers=1, dropout=0.5)
    x = tensorlib.ones(1, 4, 2)
    first, second = (model(x).detach().numpy() for _ in range(2))
    assert (first != second).any()
    model.eval()
    np.testing.assert_array_equal(model(x).detach().numpy(), model(x).detach().numpy())


def test_what_cannot_be_is_said_before(planned: Planned, tmp_path: Path) -> None:
    for model, what in (
        ({"name": "lstm", "heads": 2}, "lstm takes no heads"),
        ({"name": "transformer", "width": 30}, "30 for 4 heads"),
        ({"name": "gru"}, "gru"),
    ):
        with pytest.raises(UsageError, match=what):
            planned("train_sequence", TEXT | {"model": model})
    with pytest.raises(UsageError, match="has no blocks"):
        preflight(planned("train_sequence", TEXT | {"activation_checkpointing": True}))
    (tmp_path / "latin").write_bytes(b"\xe4" * 1000)
    for path, what in (
        ("latin", "not UTF-8"),
        ("none", "none: cannot be read: No such"),
        ("short", "expected more than"),
        ("empty", "0 tokens to train on and 0 held out; expected more than"),
    ):
        (tmp_path / "empty").touch()
        (tmp_path / "short").write_text("short")
        data = {"kind": "text", "path": str(tmp_path / path)}
        with pytest.raises(UsageError, match=what):
            preflight(planned("train_sequence", TEXT | {"data": data}))


def test_a_warm_start_needs_the_same_vocabulary(
    run_here: Any, planned: Planned, tmp_path: Path
) -> None:
    path = tmp_path / "text.txt"
    path.write_text("abcd " * 60)
    params = TEXT | {"data": {"kind": "text", "path": str(path), "window": 8}, "epochs": 1}
    run_here("train_sequence", params)
    warm = params | {"weights": "run:/run-1", "weights_only": True}
    assert last(run_here("train_sequence", warm), "val/perplexity") > 1
    path.write_text("abce " * 60)
    with pytest.raises(UsageError, match="knows 6 tokens, this text has 6; expected the same ones"):
        preflight(planned("train_sequence", warm))
