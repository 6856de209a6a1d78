"""The straight path: train with two workers, look at it in MLflow, classify a folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from .conftest import DIGITS, ROOT, cli, environment, result_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

STEPS = 10 * 23  # 10 epochs of ceil(1437 / 64)


@pytest.fixture(scope="module")
def classified(home: Path, digits: dict[str, Any], digit_images: Path) -> dict[str, Any]:
    arguments = ("classify", digit_images, "--weights", "run:/digits", "--top-k", "3")
    done = cli(home, *arguments, "--workers", "2", "--json")
    assert done.returncode == 0, done.stderr
    return result_of(done) | {"stdout": done.stdout, "stderr": done.stderr}


def test_training_reaches_the_accuracy_and_prints_its_result(digits: dict[str, Any]) -> None:
    assert digits["stdout"].splitlines()[0] == "digits"
    assert digits["status"] == "SUCCEEDED"
    assert digits["attempts"] == 1
    assert digits["metrics"]["val/accuracy"] >= 0.95
    assert len(digits["weights_sha256"]) == 64
    assert {"run_id", "status", "run_dir", "attempts", "metrics", "tracking"} <= digits.keys()
    assert "orchestrator report digits" in digits["stdout"] + digits["stderr"]


def test_mlflow_holds_parameters_metrics_checkpoints_and_pictures(digits: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(digits["tracking"]["uri"])
    run_id = digits["tracking"]["run_id"]
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["params.optimizer.lr"] == "0.1"
    assert run.data.params["resources.workers"] == "2"
    for key in ("train/loss", "train/accuracy"):
        history = client.get_metric_history(run_id, key)
        assert [point.step for point in history] == list(range(1, STEPS + 1))
    assert len(client.get_metric_history(run_id, "val/accuracy")) == 10
    names = {item.path for item in client.list_artifacts(run_id)}
    assert {"loss_curve.png", "confusion_matrix.png", "checkpoints"} <= names
    checkpoints = client.list_artifacts(run_id, "checkpoints")
    assert any(item.path.endswith(f"{STEPS:08d}") for item in checkpoints)
    picture = client.download_artifacts(run_id, "loss_curve.png")
    assert Path(picture).read_bytes().startswith(b"\x89PNG")


def test_n5_the_report_says_what_ran_on_what_and_what_came_out(
    home: Path, digits: dict[str, Any]
) -> None:
    done = cli(home, "report", "digits", "--json")
    assert done.returncode == 0, done.stderr
    report = result_of(done)
    assert report["weights_sha256"] == digits["weights_sha256"]
    text = (Path(digits["run_dir"]) / "report.md").read_text()
    assert "1437" in text
    assert digits["weights_sha256"] in text


def test_n3_every_input_gives_one_row_and_bad_ones_a_reason(
    classified: dict[str, Any], digit_images: Path
) -> None:
    counts = {k: classified[k] for k in ("inputs", "ok", "quarantined", "duplicates")}
    assert counts == {"inputs": 362, "ok": 360, "quarantined": 2, "duplicates": 0}
    table = pd.read_parquet(classified["output"])
    assert sorted(table["path"]) == sorted(str(path) for path in digit_images.iterdir())
    assert table["id"].tolist() == list(range(362))
    bad = table[table["status"] != "ok"]
    bad = bad.set_index(bad["path"].map(lambda path: Path(path).name))
    assert sorted(bad.index) == ["corrupt.jpg", "empty.png"]
    assert "empty" in bad.loc["empty.png", "error"]
    assert "truncated" in bad.loc["corrupt.jpg", "error"].lower()
    assert bad["label_1"].isna().all()
    good = table[table["status"] == "ok"]
    assert good["error"].isna().all()
    truth = good["path"].str.extract(r"label(\d)")[0]
    assert (truth == good["label_1"]).mean() >= 0.95
    assert (good["prob_1"] >= good["prob_2"]).all()
    assert "362" in classified["stdout"] + classified["stderr"]


def test_n2_predictions_do_not_depend_on_the_workers(
    home: Path, tmp_path: Path, classified: dict[str, Any], digit_images: Path
) -> None:
    """One process without Ray gives the table of two actors, bit for bit."""
    spec = json.loads((Path(classified["run_dir"]) / "plan.json").read_text())["spec"]
    spec["name"] = "alone"
    path = tmp_path / "alone.yaml"
    path.write_text(json.dumps(spec))
    done = subprocess.run(
        [sys.executable, "-m", "jobs.classify_images", str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(home),
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run_id = done.stdout.splitlines()[0]
    alone = pd.read_parquet(home / run_id / "artifacts" / "predictions")
    pd.testing.assert_frame_equal(alone, pd.read_parquet(classified["output"]), check_exact=True)


def test_the_same_job_runs_without_ray(home: Path, digits: dict[str, Any]) -> None:
    program = (
        "import runpy, sys; sys.argv = ['jobs.train_classifier', sys.argv[1], 'params.epochs=1'];"
        "code = 0\n"
        "try: runpy.run_module('jobs.train_classifier', run_name='__main__', alter_sys=True)\n"
        "except SystemExit as end: code = end.code\n"
        "assert 'ray' not in sys.modules and 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(DIGITS)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(home),
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run_id = done.stdout.splitlines()[0]
    listed = result_of(cli(home, "status", run_id, "--json"))
    assert listed["status"] == "SUCCEEDED"
    assert listed["metrics"]["val/accuracy"] > 0.7
