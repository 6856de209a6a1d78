"""A classification under faults: it ends with the same table, or says that it did not (N2, N3)."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

import tensorlib
from tensorlib.vision import models

from ..tensorlib.vision.corpus import cases
from .conftest import COMMAND, ROOT, Started, cli, environment, result_of, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]
INPUTS, ROWS = 200, 4


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small pictures, equal ones and bad ones among them."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for i in range(INPUTS - 8):
        pixels = random.integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    for i in range(4):
        (folder / f"copy-{i}.png").write_bytes((folder / f"{i * 50:03d}.png").read_bytes())
        (folder / f"bad-{i}.png").write_bytes((folder / f"{i:03d}.png").read_bytes()[: 900 + i])
    return folder


@pytest.fixture(scope="module")
def spec(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The spec of a classification that works for some seconds, in many parts."""
    folder = tmp_path_factory.mktemp("specs")
    tensorlib.manual_seed(0)
    tensorlib.save(models.get_model("resnet18").state_dict(), folder / "resnet18.pth")

    def write(name: str, output: Path, **params: Any) -> Path:
        path = folder / f"{name}.yaml"
        given = {
            "inputs": str(images),
            "weights": str(folder / "resnet18.pth"),
            "model": "resnet18",
            "rows_per_part": ROWS,
            "batch_size": ROWS,
            "output": str(output),
            **params,
        }
        path.write_text(
            yaml.safe_dump(
                {
                    "version": 1,
                    "name": name,
                    "job": "classify_images",
                    "params": given,
                    "resources": {"workers": {"min": 1, "max": 2}},
                    "tracking": {"when": "later"},
                }
            )
        )
        return path

    return write


@pytest.fixture(scope="module")
def table(home: Path, spec: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The undisturbed table, made in one process with another batch size."""
    path = spec("alone", tmp_path_factory.mktemp("out"), local=True, batch_size=16)
    done = cli(home, "run", path, "--json")
    assert done.returncode == 0, done.stderr
    result = result_of(done)
    counts = [result[name] for name in ("inputs", "ok", "quarantined", "duplicates")]
    assert counts == [INPUTS, INPUTS - 4, 4, 4]
    return pd.read_parquet(result["output"])


def parts(output: Path) -> int:
    return len(list(output.glob("part-*"))) if output.exists() else 0


def in_work(run_dir: Path, attempt: int = 1) -> list[Path]:
    return list((run_dir / "attempts" / str(attempt)).glob("part-*.tries"))


def test_n2_a_killed_driver_costs_a_tenth_and_the_same_command_ends_with_the_same_table(
    home: Path,
    spec: Callable[..., Path],
    table: pd.DataFrame,
    tmp_path: Path,
    start: Callable[..., Started],
) -> None:
    path = spec("driver", tmp_path / "out")
    command = start(home, "run", path, "--run-id", "driver")
    wait_for("ten parts", lambda: parts(tmp_path / "out") >= 10)
    os.kill(command.process.pid, signal.SIGKILL)
    command.process.communicate(timeout=30)
    wait_for(
        "the end of its workers",
        lambda: json.loads(cli(home, "status", "driver", "--json").stdout)["status"] == "FAILED",
    )
    assert parts(tmp_path / "out") < INPUTS // ROWS
    assert len(in_work(home / "driver")) * ROWS <= INPUTS // 10  # what is done again
    again = cli(home, "run", path, "--json")
    assert again.returncode == 0, again.stderr
    result = result_of(again)
    assert (result["run_id"], result["attempts"]) == ("driver", 2)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out"), table, check_exact=True)
    assert result_of(cli(home, "run", path, "--json")) == result  # all is done already


def test_a_worker_killed_three_times_costs_no_row(
    home: Path,
    spec: Callable[..., Path],
    table: pd.DataFrame,
    tmp_path: Path,
    start: Callable[..., Started],
) -> None:
    command = start(home, "run", spec("worker", tmp_path / "out"), "--run-id", "worker", "--json")
    killed: set[int] = set()

    def one_more() -> bool:
        for tries in in_work(home / "worker"):
            try:
                pid = int(tries.read_text().split()[-1])
            except (FileNotFoundError, IndexError):
                continue
            if pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
                return True
        return False

    for count in range(1, 4):
        wait_for(f"{count} killed workers", one_more)
        seen = parts(tmp_path / "out")
        wait_for("another part", lambda seen=seen: parts(tmp_path / "out") > seen)
    done = command.finish()
    assert done.returncode == 0, done.stderr
    assert len(killed) == 3
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out"), table, check_exact=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 100 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mount is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_waited_for(
    home: Path,
    spec: Callable[..., Path],
    table: pd.DataFrame,
    small_disk: Path,
    start: Callable[..., Started],
) -> None:
    path = spec("full", small_disk / "out", local=True)
    command = start(home, "run", path, "--run-id", "full", "--json")
    events = home / "full" / "events.jsonl"
    wait_for(
        "a word about it", lambda: events.exists() and "waiting for space" in events.read_text()
    )
    assert command.process.poll() is None
    subprocess.run(["mount", "-o", "remount,size=10m", str(small_disk)], check=True)
    done = command.finish()
    assert done.returncode == 0, done.stderr
    assert "No space left" in done.stderr
    pd.testing.assert_frame_equal(pd.read_parquet(small_disk / "out"), table, check_exact=True)


def test_one_photograph_is_named_on_the_terminal_without_ray(
    home: Path, spec: Callable[..., Path], images: Path
) -> None:
    weights = yaml.safe_load(spec("one", images).read_text())["params"]["weights"]
    done = cli(
        home,
        *("classify", images / "000.png", "--model", "resnet18", "--weights", weights),
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    probabilities = [float(line[-1]) for line in lines[2:7]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert "starting" not in done.stderr
    assert "orchestrator sync" in done.stdout


def test_n3_hostile_and_odd_files_get_their_verdicts_in_less_than_a_gibibyte(
    home: Path, spec: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    paths = [(case, case.write(folder)) for case in cases()]
    assert len(paths) >= 80
    with (tmp_path / "list.csv").open("w", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file"])
        writer.writerows([str(path)] for _, path in paths)
    path = spec(
        *("hostile", tmp_path / "out"),
        inputs=str(tmp_path / "list.csv"),
        column="file",
        local=True,
        batch_size=16,
        rows_per_part=16,
    )
    program = (
        "import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(done.returncode)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *COMMAND, "run", str(path)],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=ROOT,
        env=environment(home),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) < 1 << 20  # KiB, of the largest process
    table = pd.read_parquet(tmp_path / "out")
    assert len(table) == len(paths)
    for (case, _), row in zip(paths, table.to_dict("records"), strict=True):
        assert row["status"] == ("ok" if case.refused is None else "quarantined"), case.name
        if case.refused is None:
            assert row["rotated"] == case.rotated, case.name
        else:
            assert re.search(case.refused, row["error"]), (case.name, row["error"])


def test_a_registered_model_classifies_and_its_run_is_tracked(
    home: Path, digits: dict[str, Any], digit_images: Path
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(digits["tracking"]["uri"])
    run_id = digits["tracking"]["run_id"]
    client.create_registered_model("digits")
    source = f"{client.get_run(run_id).info.artifact_uri}/checkpoints/{10 * 23:08d}"
    version = client.create_model_version("digits", source, run_id)
    client.set_registered_model_alias("digits", "best", version.version)
    weights = ("--weights", "mlflow:models:/digits@best")
    done = cli(home, "classify", digit_images, "--local", *weights, "--json")
    assert done.returncode == 0, done.stderr
    result = result_of(done)
    assert result["ok"] == 360
    plan = json.loads((Path(result["run_dir"]) / "plan.json").read_text())
    assert plan["config"]["weights"] == "mlflow:models:/digits/1"
    assert cli(home, "sync", result["run_id"]).returncode == 0
    run = client.search_runs(
        [client.get_experiment_by_name("classify").experiment_id],
        f"tags.`orchestrator.run_id` = '{result['run_id']}'",
    )[0]
    assert run.data.metrics["ok"] == 360
    (data,) = run.inputs.dataset_inputs
    manifest = json.loads((Path(result["run_dir"]) / "report.json").read_text())["data"]["sha256"]
    assert manifest.startswith(data.dataset.digest)
    assert client.list_artifacts(run.info.run_id, "predictions")
    missing = cli(home, "classify", digit_images, "--local", "--weights", "mlflow:models:/digits/7")
    assert missing.returncode == 2
    assert "expected a registered model" in missing.stderr
