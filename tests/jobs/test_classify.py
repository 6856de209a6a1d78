"""Classification in this process: rows and their bits, what ends a run, what the table says."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

import tensorlib
from jobs import classify_images, predictor
from jobs.ahead import Ahead
from jobs.data import digits
from jobs.predictor import Predictor
from jobs.weights import load
from orchestrator import batch, checkpoint
from orchestrator.cli.run import finish
from orchestrator.errors import UsageError
from orchestrator.parts import Manifest, Parts
from orchestrator.plan import RunPlan
from orchestrator.run import Run
from orchestrator.store import RunDir
from orchestrator.submit import run_here as drive
from tensorlib.vision import models
from tensorlib.vision.transforms import ImageClassification

Planned = Callable[..., RunPlan]


class Silent:
    """A console that remembers warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)

    def say(self, text: str) -> None: ...
    def progress(self, *_: Any, **__: Any) -> None: ...
    def close(self) -> None: ...


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of a classifier of digits, which has learned nothing."""
    tensorlib.manual_seed(0)
    options = {"width": 8, "in_channels": 1, "image_size": 8}
    module = models.get_model("small_cnn", num_classes=10, **options)
    preset = ImageClassification(8, 8, mean=(0.3055,), std=(0.3759,), mode="L")
    facts = {
        "model": "small_cnn",
        "options": options,
        "classes": list(digits.CLASSES),
        "preset": preset.to_dict(),
    }
    state = {"model": module.state_dict(), "classifier": facts}
    return str(checkpoint.write(tmp_path_factory.mktemp("run"), state, step=1, metrics={}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 digits in folders of their class, one twice, and three that are bad."""
    images, labels = (array[:60] for array in digits.load("test"))
    root = tmp_path / "images"
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path = root / str(label) / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(image).reshape(8, 8)).save(path)
    first = sorted(root.rglob("*.png"))[0]
    (root / "9" / "copy.png").write_bytes(first.read_bytes())
    (root / "9" / "empty.png").touch()
    (root / "other").mkdir()
    (root / "other" / "text.png").write_text("no image")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(root / "other" / "half.jpg")
    data = (root / "other" / "half.jpg").read_bytes()
    (root / "other" / "half.jpg").write_bytes(data[: len(data) // 2])
    return root


@pytest.fixture
def classified(planned: Planned, trained: str, folder: Path) -> Callable[..., tuple[Run, Any]]:
    """A classification to its end; gives the run and its table."""

    def run(**params: Any) -> tuple[Run, pd.DataFrame]:
        given = {"inputs": str(folder), "weights": trained, "top_k": 3, **params}
        plan = planned("classify_images", given, tracking={"when": "later"})
        done = drive(plan, console=Silent())
        parts = Parts.of(
            Manifest(done.path / "manifest.parquet"), batch.output(plan), plan.config["format"]
        )
        tables = [parts.read(index) for index in range(len(parts)) if parts.path(index).exists()]
        frames = [table.to_pandas() for table in tables] or [pd.DataFrame()]
        return done, pd.concat(frames, ignore_index=True)

    return run


def test_n3_one_row_for_each_input_with_the_promised_columns(
    classified: Callable[..., Any], folder: Path
) -> None:
    run, table = classified()
    ranks = ("1", "2", "3")
    assert list(table) == [
        *("id", "path", "status"),
        *(f"{name}_{k}" for name in ("label", "index", "prob") for k in ranks),
        *("width", "height", "rotated", "error"),
    ]
    assert table["path"].tolist() == sorted(str(p) for p in folder.rglob("*") if p.is_file())
    result = run.result()
    assert [result[k] for k in ("inputs", "ok", "quarantined", "duplicates")] == [64, 61, 3, 1]
    bad = table[table["status"] == "quarantined"].set_index("path")["error"]
    assert [Path(path).name for path in bad.index] == ["empty.png", "half.jpg", "text.png"]
    assert bad.str.contains("empty file|truncated|not an image").all()
    good = table[table["status"] == "ok"]
    assert (good["width"] == 8).all()
    assert good["error"].isna().all()
    copy = good[good["path"].str.endswith("copy.png")].iloc[0]
    assert copy.drop(["id", "path"]).equals(good.iloc[0].drop(["id", "path"]))


def test_n2_the_same_bits_for_any_batch_size_part_and_format(
    classified: Callable[..., Any],
) -> None:
    run, table = classified()
    for params in ({"batch_size": 1, "rows_per_part": 7}, {"batch_size": 64, "rows_per_part": 1}):
        pd.testing.assert_frame_equal(classified(**params)[1], table, check_exact=True)
    schema = pq.read_schema(batch.output(run.directory.plan()) / "part-00000.parquet")
    for kind in ("jsonl", "csv"):
        other, _ = classified(format=kind, rows_per_part=64)
        parts = Parts(batch.output(other.directory.plan()), 64, 64, kind)
        found = parts.read(0, schema=schema).to_pandas()
        pd.testing.assert_frame_equal(found, table, check_exact=True)


def test_what_does_not_compile_computes_batches_of_one_size(
    trained: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor.inference.Compiled, "independent", False)
    weights = load(trained, None, None)
    images = np.random.default_rng(0).integers(0, 256, (21, 8, 8, 1), np.uint8)
    seen: list[int] = []
    tables = []
    for size in (3, 16, 40):
        made = Predictor(weights, size, 2, False, 1)
        model = made.model
        made.model = lambda x, model=model: (seen.append(x.shape[0]), model(x))[1]
        tables.append(made.columns(images)[0])
    assert seen == [16] * 6
    assert tables[0] == tables[1] == tables[2]
    assert len(tables[0]["label_1"]) == 21


def test_features_are_what_the_last_layer_is_given(
    classified: Callable[..., Any], trained: str
) -> None:
    _, table = classified(features=True)
    good = table[table["status"] == "ok"]
    features = np.stack(good["features"])
    layer = load(trained, None, None).build()[-1]
    logits = features @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
    assert (logits.argmax(1) == good["index_1"]).all()
    assert np.isnan(np.stack(table[table["status"] != "ok"]["features"])).all()
    with pytest.raises(ValueError, match="CSV has no lists"):
        classify_images.Config(inputs="x.jpg", weights="w", features=True, format="csv")


def test_evaluation_counts_every_judged_image(classified: Callable[..., Any]) -> None:
    run, table = classified(truth="folder")
    good = table[(table["status"] == "ok") & (table["truth"] != "other")]
    right = int((good["truth"] == good["label_1"]).sum())
    record = json.loads((run.path / "artifacts" / "evaluation.json").read_text())
    assert (record["samples"], record["right"]) == (61, right)
    assert np.sum(record["confusion"]) == 61
    assert sum(row["samples"] for row in record["classes"].values()) == 61
    among = sum((good["truth"] == good[f"label_{k}"]).sum() for k in (1, 2, 3))
    assert record["top_k"] == {"k": 3, "right": among}
    metrics = run.last_metrics()
    assert metrics["val/accuracy"] == right / 61
    assert metrics["val/top3_accuracy"] == among / 61
    text = (run.path / "report.md").read_text()
    assert f"{right} of 61" in text
    assert "Most frequent confusions" in text


def test_a_copy_keeps_the_truth_of_its_own_folder(
    classified: Callable[..., Any], folder: Path
) -> None:
    copy = folder / "9" / "copy.png"  # of the first of 0
    for params in ({}, {"rows_per_part": 8}):  # the first is in its part, and in another
        table = classified(truth="folder", **params)[1].set_index("path")
        assert table.loc[str(copy), "truth"] == "9"
        assert (table["truth"] == [Path(path).parent.name for path in table.index]).all()


def test_truths_that_are_no_class_are_counted_not_judged(
    classified: Callable[..., Any], folder: Path
) -> None:
    (folder / "9").rename(folder / "nine")
    run, table = classified(truth="folder")
    record = json.loads((run.path / "artifacts" / "evaluation.json").read_text())
    unknown = int(((table["status"] == "ok") & (table["truth"] == "nine")).sum())
    assert record["unknown"] == {"nine": unknown}
    assert record["samples"] == 61 - unknown


def test_the_report_shows_pictures_of_the_surest_and_the_bad(
    classified: Callable[..., Any],
) -> None:
    run, table = classified()
    found = json.loads((run.path / "artifacts" / "classification.json").read_text())
    assert sum(count for _, count in found["classes"]) == 61
    good = table[table["status"] == "ok"].sort_values("prob_1", kind="stable")
    assert [row["id"] for row in found["least_confident"]] == good["id"].tolist()[:24]
    assert found["most_confident"][0]["labels"][0][1] == pytest.approx(good["prob_1"].max())
    assert [row["thumbnail"] is not None for row in found["quarantine"]] == [False, True, False]
    half = found["quarantine"][1]["thumbnail"]
    with Image.open(run.path / "artifacts" / half) as picture:
        assert picture.size == (64, 64)
    html = (run.path / "report.html").read_text()
    assert html.count("data:image/jpeg;base64") == 49
    assert "no pixels" in html
    for shown in ("small_cnn", found["weights"]["sha256"]):
        assert f"<td>{shown}</td>" in html
    assert "max pixels" in html


def test_max_bad_decides_and_the_table_is_complete(classified: Callable[..., Any]) -> None:
    assert classified(max_bad=3)[0].result()["status"] == "SUCCEEDED"
    run, table = classified(max_bad="4%")  # of 64: 2
    result = run.result()
    assert (result["status"], result["reason"]) == ("FAILED", "TOO_MANY_BAD_INPUTS")
    assert "3 of 64 inputs" in result["message"]
    assert len(table) == 64


def test_one_image_alone_that_is_bad_fails_with_its_reason(
    classified: Callable[..., Any], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = str(folder / "other" / "half.jpg")
    run, table = classified(inputs=bad)
    assert table["status"].tolist() == ["quarantined"]
    assert finish(run, as_json=False) == 1
    assert f"FAILED (TOO_MANY_BAD_INPUTS): {bad}: {table['error'][0]}" in capsys.readouterr().err
    for inputs, max_bad, allowed in ((bad, None, 0), (bad, 1, 1), (str(folder), None, None)):
        config = classify_images.Config(inputs=inputs, weights="w", max_bad=max_bad)
        assert config.allowed_bad(1) == allowed


def test_a_share_of_bad_inputs_is_exact() -> None:
    for share, inputs, allowed in (("0.7%", 1000, 7), ("29%", 100, 29), ("0.1%", 999, 0)):
        config = classify_images.Config(inputs="x", weights="w", max_bad=share)
        assert config.allowed_bad(inputs) == allowed


def test_labels_that_are_too_few_are_refused(trained: str, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n")
    with pytest.raises(UsageError, match=r"names 2 classes, the model of .* has 10"):
        load(trained, None, tmp_path / "labels.txt")


def test_other_class_names_have_another_fingerprint(trained: str, tmp_path: Path) -> None:
    found = [classify_images.fingerprint(classify_images.Config(inputs="x", weights=trained))]
    for letter in "ab":
        path = tmp_path / f"{letter}.txt"
        path.write_text("".join(f"{letter}{i}\n" for i in range(10)))
        config = classify_images.Config(inputs="x", weights=trained, labels=path)
        found.append(classify_images.fingerprint(config))
    assert found[0] == load(trained, None, None).sha256
    assert len(set(found)) == 3


def test_a_stop_leaves_whole_parts_and_the_rest_is_done_later(
    classified: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = classified()[1]
    output = tmp_path / "out"
    monkeypatch.setattr(RunDir, "stop_requested", lambda _: len(list(output.glob("part-*"))) > 3)
    run, _table = classified(output=str(output), rows_per_part=4)
    assert run.result()["status"] == "STOPPED"
    assert 4 <= len(list(output.glob("part-*"))) < 16
    monkeypatch.undo()
    plan = run.directory.plan()
    assert batch.earlier(plan.model_copy(update={"run_id": "again"})) is not None
    parts = Parts.of(Manifest(run.path / "manifest.parquet"), output, "parquet")
    before = {path: path.stat().st_mtime_ns for path in output.glob("part-*")}
    work = batch.PartWorker(plan, run.path, 2, Manifest(run.path / "manifest.parquet"), parts)
    for index in parts.missing():
        work(index)
    work.close()
    parts.fill(work.manifest)
    driver: Any = None
    progress = batch._Progress(driver, parts, [0])  # as if the first 4 of 64 were left
    assert (progress.done, progress.bad) == (60, 3)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    pd.testing.assert_frame_equal(pd.read_parquet(output), whole, check_exact=True)


def test_the_same_command_continues_and_another_is_refused(
    classified: Callable[..., Any], planned: Planned, folder: Path, trained: str, tmp_path: Path
) -> None:
    output = str(tmp_path / "out")
    run, _ = classified(output=output)
    plan = run.directory.plan()

    def again(**params: Any) -> RunPlan:
        return plan.model_copy(update={"run_id": "again", "config": {**plan.config, **params}})

    found = batch.earlier(again(batch_size=3, max_bad=0))
    assert found is not None
    assert found.run_id == run.run_id
    with pytest.raises(UsageError, match=r"its top_k is 3, not 2; expected the same command"):
        batch.earlier(again(top_k=2))
    (folder / "9" / "new.png").write_bytes(b"new")
    with pytest.raises(UsageError, match="the inputs have changed since"):
        batch.earlier(again())
    (folder / "9" / "new.png").unlink()
    run.directory.write_status(weights_sha256="0" * 64)
    with pytest.raises(UsageError, match="the weights or their class names have changed since"):
        batch.earlier(again())
    assert batch.earlier(again(output=str(tmp_path / "elsewhere"))) is None
    assert batch.earlier(again(output=None)) is None  # one that ended well is not continued


def test_without_a_folder_the_newest_that_did_not_end_well_is_continued(
    classified: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RunDir, "stop_requested", lambda _: True)
    run, _ = classified(rows_per_part=4)
    assert run.result()["status"] == "STOPPED"
    plan = run.directory.plan()
    new = plan.model_copy(update={"run_id": "new", "run_dir": str(run.path.with_name("new"))})
    found = batch.earlier(new)
    assert found is not None
    assert found.run_id == run.run_id
    assert batch.earlier(new, named=True) is None
    same = batch.earlier(plan, named=True)
    assert same is not None
    other = new.model_copy(update={"config": {**plan.config, "top_k": 1}})
    assert batch.earlier(other) is None


def test_the_same_command_brings_its_own_workers_and_max_bad(
    classified: Callable[..., Any],
) -> None:
    run, _ = classified(max_bad=3)
    plan, counts = run.directory.plan(), run.directory.status().batch
    assert counts is not None
    assert batch.settled(run, plan)
    resources = plan.spec.resources.model_copy(update={"workers": 2})
    spec = plan.spec.model_copy(update={"resources": resources, "name": "other"})
    config = {**plan.config, "max_bad": 2, "batch_size": 3, "top_k": 1}
    new = batch.continued(plan, plan.model_copy(update={"spec": spec, "config": config}))
    assert batch.too_many_bad(new, counts).startswith("3 of 64 inputs are quarantined; max_bad 2")
    assert not batch.settled(run, new)
    assert new.config == {**plan.config, "max_bad": 2, "batch_size": 3}
    assert (new.spec.resources.workers, new.spec.name) == (2, plan.spec.name)
    assert new.run_id == run.run_id
    next(batch.output(plan).glob("part-*")).unlink()
    assert not batch.settled(run, plan)


def test_a_disk_that_stays_full_is_said_in_the_end(
    classified: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Parts, "commit", full)
    monkeypatch.setattr(batch, "DISK_WAIT_S", 0.0)
    run, _ = classified()
    assert run.result()["reason"] == "DISK_FULL"
    assert "No space left on device" in run.result()["message"]


def test_a_part_that_ends_its_worker_again_and_again_ends_the_run(
    classified: Callable[..., Any],
) -> None:
    run, _ = classified()
    plan = run.directory.plan()
    listed = Manifest(run.path / "manifest.parquet")
    work = batch.PartWorker(plan, run.path, 2, listed, Parts.of(listed, run.path, "parquet"))
    tries = work.tries / "part-00001.tries"
    for count in range(5):
        if count < 4:  # the first, and three more
            work._count(1, tries)
        else:
            with pytest.raises(batch.PartLost, match=r"\(inputs 16 to 31\): its worker ended 4"):
                work._count(1, tries)
    work.close()


def test_ahead_hands_on_items_and_errors_and_can_be_left() -> None:
    made: list[int] = []

    def numbers(fail: bool) -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i
            if fail and i == 2:
                raise KeyError("gone")

    with Ahead(numbers(False)) as items:
        assert list(items) == list(range(100))
    with Ahead(numbers(True)) as items, pytest.raises(KeyError, match="gone"):
        list(items)
    made.clear()
    with Ahead(numbers(False), depth=2) as items:
        assert next(items) == 0
    assert len(made) <= 5  # taken, two waiting, one in hand


def test_the_manifest_is_frozen(classified: Callable[..., Any], folder: Path) -> None:
    run, table = classified()
    facts = Manifest(run.path / "manifest.parquet").facts
    assert len(facts["sha256"]) == 64
    assert pq.read_table(run.path / "manifest.parquet").num_rows == len(table)
    report = json.loads((run.path / "report.json").read_text())
    assert report["data"]["sha256"] == facts["sha256"]
