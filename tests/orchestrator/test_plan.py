"""Plans: the job found and asked, paths absolute, resources compared, a hash of what runs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from orchestrator import config, plan
from orchestrator.errors import ConfigError, UsageError
from orchestrator.plan import RunPlan


def refused(path: Path, *overrides: str, **options) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        plan.plan(config.load(path, overrides=overrides), **options)
    return caught.value.problems


def test_a_plan_is_resolved(make_plan, tmp_path, home):
    made = make_plan("params.data.root=some/where")
    assert made.engine == "training"
    assert made.job_module == "toyjobs.toy"
    assert made.config["optimizer"] == {"name": "sgd", "lr": 0.001, "momentum": 0.9}
    assert made.config["data"]["root"] == str(tmp_path / "some/where")
    assert made.home == str(home)
    assert made.run_dir == str(home / made.run_id)
    assert not home.exists()  # planning writes nothing


def test_run_ids_tell_name_and_time(make_plan):
    import re

    assert re.fullmatch(r"toy-\d{8}-\d{6}-[0-9a-f]{4}", make_plan().run_id)
    assert make_plan(run_id="mine").run_id == "mine"


@pytest.mark.parametrize("run_id", ["../x", "a/b", "", ".hidden", "x" * 200, "a b"])
def test_run_ids_that_are_no_directory_names(make_plan, run_id):
    if run_id == "":
        assert make_plan(run_id=None).run_id
        return
    with pytest.raises(UsageError, match="--run-id"):
        make_plan(run_id=run_id)


def test_storage_moves_the_run_but_not_its_home(make_plan, tmp_path, home):
    made = make_plan("storage=elsewhere")
    assert made.run_dir == str(tmp_path / "elsewhere" / made.run_id)
    assert made.home == str(home)


def test_json_round_trip_with_every_kind_of_number(make_plan):
    made = make_plan("params.optimizer={name: adam, lr: .inf}")
    again = RunPlan.model_validate_json(made.model_dump_json())
    assert again == made
    assert again.config["optimizer"]["lr"] == math.inf


def test_the_config_of_a_plan_is_valid_for_the_job_again(make_plan):
    made = make_plan("params.optimizer={name: adam}", "params.layers=[{width: 2}]")
    module = plan.find_job("toyjobs.toy")
    assert module.Config.model_validate(made.config).layers[0].width == 2


def test_the_hash_is_of_what_runs(make_plan, monkeypatch):
    one = make_plan("params.epochs=5", run_id="a")
    assert make_plan("params.epochs=5", run_id="b").hash == one.hash
    assert make_plan("params.epochs=6", run_id="a").hash != one.hash
    assert make_plan("seed=1", "params.epochs=5", run_id="a").hash != one.hash
    assert len(one.hash) == 64
    module = plan.find_job("toyjobs.toy")
    monkeypatch.setitem(module.Sgd.model_fields, "momentum", module.Sgd.model_fields["lr"])
    module.Sgd.model_rebuild(force=True)
    module.Config.model_rebuild(force=True)
    assert make_plan("params.epochs=5", run_id="a").hash != one.hash  # a default counts as well


def test_parameters_the_job_refuses_carry_their_line(spec_file):
    spec_file.write_text(spec_file.read_text().replace("lr: 1e-3", "lr: fast\n    momentun: 1"))
    assert refused(spec_file) == [
        f"{spec_file}:8: params.optimizer.lr: got the text 'fast'; expected a number.",
        f"{spec_file}:9: unknown key 'params.optimizer.momentun'. Hint: did you mean 'momentum'?",
    ]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "params.layers=[{widht: 1}]",
            "--set params.layers: unknown key 'params.layers.0.widht'. Hint: did you mean 'width'?",
        ),
        (
            "params.fallback={rot: x}",
            "--set params.fallback: unknown key 'params.fallback.rot'. Hint: did you mean 'root'?",
        ),
        (
            "params.optimizer={name: adam, momentum: 1}",
            "--set params.optimizer: unknown key 'params.optimizer.momentum'; expected one of "
            "betas, lr, name.",
        ),
        (
            "params.data.split=tset",
            "--set params.data.split: got the text 'tset'; expected 'train'",
        ),
        ("params.epochs=101", "--set params.epochs: params.epochs: 101 would take for ever; expec"),
    ],
)
def test_suggestions_reach_every_depth_of_the_job(spec_file, override, expected):
    found = refused(spec_file, override)
    assert any(line.startswith(expected) for line in found), found


def test_a_check_without_a_key_stands_at_params(spec_file):
    assert refused(spec_file, "resources.workers=13") == [
        f"{spec_file}:4: 13 workers bring bad luck"
    ]


def test_more_than_the_machine_has(spec_file):
    assert refused(spec_file, "resources.workers=64", available={"CPU": 2.0, "GPU": 0}) == [
        "--set resources.workers: needs 64 CPUs (64 workers x 1), this machine has 2. "
        "Hint: --set resources.workers=2."
    ]
    assert refused(spec_file, "resources.cpus_per_worker=3", available={"CPU": 2.0}) == [
        f"{spec_file}:9: needs 6 CPUs (2 workers x 3), this machine has 2."
    ]


def test_no_such_job(spec_file, monkeypatch, tmp_path):
    package = tmp_path / "some" / "jobs"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "train_classifier.py").write_text("ENGINE = 'training'\nclass Config: pass\n")
    (package / "helper.py").write_text("class ConfigPart: pass\n")
    import sys

    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("jobs")}
    monkeypatch.syspath_prepend(str(package.parent))
    try:
        assert plan.jobs_available() == ["train_classifier"]
        assert refused(spec_file, "job=train_clasifier") == [
            "--set job: there is no job 'train_clasifier'. Hint: did you mean 'train_classifier'?"
        ]
        assert refused(spec_file, "job=zzz") == [
            "--set job: there is no job 'zzz'; expected one of train_classifier."
        ]
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "jobs"]:
            del sys.modules[name]
        sys.modules.update(kept)


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        ("toyjobs.nope", "--set job: there is no job 'toyjobs.nope'"),
        ("nowhere.nope", "--set job: there is no job 'nowhere.nope'"),
        (
            "toyjobs.empty",
            "--set job: module toyjobs.empty is not a job; it has no ENGINE and no C",
        ),
        ("toyjobs.broken", "--set job: job 'toyjobs.broken' cannot be imported: No module named"),
    ],
)
def test_modules_that_are_no_job(spec_file, job, expected):
    assert refused(spec_file, f"job={job}")[0].startswith(expected)


def test_a_job_whose_import_fails_with_any_error(spec_file, toyjobs):
    (toyjobs / "raises.py").write_text("1 / 0\n")
    assert refused(spec_file, "job=toyjobs.raises") == [
        "--set job: job 'toyjobs.raises' cannot be imported: ZeroDivisionError: division by zero"
    ]


def test_render_shows_every_parameter(make_plan):
    text = plan.render(make_plan())
    for part in ("2 x 1 CPU = 2 CPU", "lr: 0.001", "embedded Ray", "toyjobs.toy (training)"):
        assert part in text


@pytest.mark.parametrize(
    ("workers", "more", "shards"),
    [
        ("1", (), 4),
        ("4", (), 4),
        ("5", (), 8),
        ("9", (), 12),
        ("{min: 1, max: 6}", (), 8),
        ("{min: 1, max: 3}", ("shards=3",), 3),
        ("2", ("shards=2",), 2),
        ("2", ("determinism=fast",), None),
    ],
)
def test_shards_follow_the_most_workers_never_the_current_number(make_plan, workers, more, shards):
    made = make_plan(f"resources.workers={workers}", *more)
    assert made.shards == shards
    assert f"shards         {shards or 'one per worker'}" in plan.render(made)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["resources.workers={min: 1, max: 6}", "shards=4"],
            "--set shards: shards is 4, but up to 6 workers share them; expected at least one each."
            " Hint: --set shards=6.",
        ),
        (
            ["determinism=fast", "shards=4"],
            "--set shards: shards is 4, but with determinism: fast there is one shard per worker",
        ),
        (
            ["job=toyjobs.batch", "shards=4"],
            "--set shards: shards has no effect on a batch job; expected it to be left out.",
        ),
        (
            ["job=toyjobs.batch", "determinism=fast"],
            "--set determinism: determinism has no effect on a batch job",
        ),
        (
            ["job=toyjobs.batch", "checkpoint.keep=7"],
            "--set checkpoint.keep: checkpoint has no effect on a batch job",
        ),
        (
            ["job=toyjobs.batch", "retry.preemptions=3", "retry.worker_deaths=1"],
            "--set retry.preemptions: retry.preemptions has no effect on a batch job",
        ),
    ],
)
def test_what_would_be_ignored_is_refused(spec_file, overrides, expected):
    (found,) = refused(spec_file, *overrides)
    assert found.startswith(expected)


def test_elastic_workers_need_room_for_the_fewest(make_plan, spec_file):
    elastic = "resources.workers={min: 2, max: 8}"
    assert "2 to 8 x 1 CPU = 2 to 8 CPU" in plan.render(make_plan(elastic))
    loaded = config.load(spec_file, overrides=[elastic])
    assert plan.plan(loaded, available={"CPU": 2.0}).shards == 8
    assert "needs 2 CPUs (2 workers x 1)" in refused(spec_file, elastic, available={"CPU": 1})[0]


def test_steps_are_the_default_only_where_nothing_else_is_said(make_plan):
    assert make_plan().spec.checkpoint.every_steps == 50
    assert make_plan("checkpoint.every_epochs=2").spec.checkpoint.every_steps is None
    both = make_plan("checkpoint={every_minutes: 2.5, every_steps: 7, keep_every: 100}")
    assert "every 7 steps, 2.5 minutes, keep 2, every 100 steps for ever" in plan.render(both)
    assert RunPlan.model_validate_json(both.model_dump_json()) == both
