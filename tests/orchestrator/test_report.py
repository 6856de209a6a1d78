"""Reports: every run ends with one that can be checked again, whatever became of the run."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib

import pytest

from orchestrator import config, plan, report
from orchestrator.store import RunDir


def png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0\0"))
        + chunk(b"IEND", b"")
    )


def fill(run_dir: RunDir) -> None:
    run_dir.append_event("attempt", number=1, workers=2)
    run_dir.append_event("data", facts={"train": 1437, "sha256": "feed"})
    for step, loss in ((1, 2.0), (2, 1.0)):
        run_dir.append_event("metrics", attempt=1, step=step, epoch=0, values={"loss": loss})
    run_dir.append_event(
        "attempt_end", number=1, reason="WORKER_DIED", message="rank 1 | x", step=2
    )
    run_dir.append_event("attempt", number=2, workers=2)
    run_dir.append_event("checkpoint_skipped", path="checkpoints/00000003", why="truncated")
    run_dir.append_event("metrics", attempt=2, step=3, epoch=0, values={"loss": 0.5})
    run_dir.append_event("checkpoint", step=3, path="checkpoints/00000003", sha256="abc123")
    run_dir.append_event("attempt_end", number=2, reason="COMPLETED", message="", step=3)
    (run_dir.artifacts_dir / "loss & <curve>.png").write_bytes(png())
    (run_dir.artifacts_dir / "model.bin").write_bytes(b"weights")
    run_dir.write_status(
        status="SUCCEEDED",
        reason="COMPLETED",
        attempts=2,
        started_at=100.0,
        ended_at=112.5,
        tracking={"uri": "sqlite:///x", "experiment": "toy", "run_id": "m1"},
    )


def test_json_says_all_of_it(run_dir):
    fill(run_dir)
    facts = report.build(run_dir)
    assert facts == json.loads((run_dir.path / "report.json").read_text())
    assert {
        "run_id",
        "status",
        "run_dir",
        "attempts",
        "metrics",
        "weights_sha256",
        "tracking",
    } <= set(facts)
    assert (facts["attempts"], facts["metrics"]) == (2, {"loss": 0.5})
    assert facts["weights_sha256"] == "abc123"
    assert facts["plan_hash"] == run_dir.plan().hash
    assert facts["data"] == {"train": 1437, "sha256": "feed"}
    assert facts["duration_s"] == 12.5
    assert [(a["number"], a["reason"], a["last_step"]) for a in facts["attempt_table"]] == [
        (1, "WORKER_DIED", 2),
        (2, "COMPLETED", 3),
    ]
    assert facts["curves"]["loss"] == {
        "points": 3,
        "first": 2.0,
        "last": 0.5,
        "min": 0.5,
        "max": 2.0,
        "last_step": 3,
    }
    digest = hashlib.sha256(b"weights").hexdigest()
    assert {"path": "artifacts/model.bin", "bytes": 7, "sha256": digest} in facts["artifacts"]
    assert facts["checkpoints"][0]["kept"] is False


def test_markdown_and_html_tell_the_same(run_dir):
    fill(run_dir)
    report.build(run_dir)
    markdown = (run_dir.path / "report.md").read_text()
    page = (run_dir.path / "report.html").read_text()
    for part in ("SUCCEEDED", "WORKER_DIED", "1437", "abc123", "truncated", run_dir.plan().hash):
        assert part in markdown
        assert part in page
    assert r"rank 1 \| x" in markdown  # a bar does not break the table
    assert "| artifacts/loss &amp; &lt;curve&gt;.png |" in markdown
    assert "<curve>" not in markdown
    assert f"orchestrator run {run_dir.path / 'spec.yaml'}" in markdown


def test_html_needs_no_other_file(run_dir):
    fill(run_dir)
    report.build(run_dir)
    page = (run_dir.path / "report.html").read_text()
    assert re.findall(r'src="(.{22})', page) == ["data:image/png;base64,"]
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "loss &amp; &lt;curve&gt;.png" in page
    assert "<curve>" not in page
    assert "<polyline" in page


def test_the_spec_as_it_ran_plans_to_the_same_config(run_dir):
    report.build(run_dir)
    again = plan.plan(config.load(run_dir.path / "spec.yaml"))
    assert again.config == run_dir.plan().config
    assert again.spec.resources == run_dir.plan().spec.resources


def test_a_picture_too_large_to_embed_is_named(run_dir, monkeypatch):
    monkeypatch.setattr(report, "_LARGEST_PICTURE_BYTES", 10)
    fill(run_dir)
    report.build(run_dir)
    page = (run_dir.path / "report.html").read_text()
    assert "too large to be embedded" in page
    assert "data:image" not in page


@pytest.mark.parametrize("status", ["PENDING", "RUNNING", "FAILED", "STOPPED"])
def test_a_run_in_any_state_has_a_report(run_dir, status):
    message = "ValueError: <bad>\nin two lines" if status == "FAILED" else None
    run_dir.write_status(status=status, message=message, reason="JOB_ERROR" if message else None)
    run_dir.append_event("metrics", step=1, epoch=None, values={"loss": float("nan")})
    with run_dir.lock():
        facts = report.build(run_dir)
    assert facts["status"] == status
    assert json.loads((run_dir.path / "report.json").read_text(), parse_constant=pytest.fail)
    assert "&lt;bad&gt;" in (run_dir.path / "report.html").read_text() or status != "FAILED"


def batch(make_plan, **counts) -> RunDir:
    run_dir = RunDir.create(make_plan(run_id="b", job="batch"))
    run_dir.write_status(status="SUCCEEDED", batch={"output": "/o", **counts})
    (run_dir.artifacts_dir / "quarantine.json").write_text(
        json.dumps([{"path": "a.png", "error": "truncated"}, {"path": "b.png", "error": "empty"}])
    )
    return run_dir


def test_counts_that_add_up(make_plan):
    run_dir = batch(make_plan, inputs=5, ok=3, quarantined=2, duplicates=1, images_per_s=7.5)
    facts = report.build(run_dir)
    assert facts["counts_add_up"] is True
    assert (facts["inputs"], facts["ok"], facts["quarantined"], facts["duplicates"]) == (5, 3, 2, 1)
    markdown = (run_dir.path / "report.md").read_text()
    assert "5 inputs = 3 ok + 2 quarantined" in markdown
    assert "| a.png | truncated |" in markdown


def test_counts_that_do_not_add_up_are_told(make_plan):
    run_dir = batch(make_plan, inputs=5, ok=3, quarantined=1, duplicates=0)
    assert report.build(run_dir)["counts_add_up"] is False
    assert "5 inputs is NOT 3 ok + 1 quarantined" in (run_dir.path / "report.md").read_text()


def test_counts_of_a_classification_cut_short(make_plan):
    run_dir = batch(make_plan, inputs=5)
    assert report.build(run_dir)["counts_add_up"] is None
    assert "has not counted its inputs" in (run_dir.path / "report.md").read_text()


def test_workers_that_may_change_and_shards_are_said(make_plan):
    for workers, said in (("{min: 1, max: 3}", "1 to 3 x 1 CPU"), ("2", "2 x 1 CPU")):
        run_dir = RunDir.create(make_plan(f"resources.workers={workers}"))
        report.build(run_dir)
        text = (run_dir.path / "report.md").read_text()
        assert f"| Workers | {said} |" in text
        assert "determinism exact, 4 shards" in text
