"""Specs from YAML, profiles and --set: every problem is told, each with its place."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from orchestrator import config
from orchestrator.errors import ConfigError
from orchestrator.spec import CheckpointSpec

pytestmark = pytest.mark.usefixtures("toyjobs")

HEAD = "version: 1\nname: toy\njob: toyjobs.toy\n"


def problems(text: str, *overrides: str, profile: str | None = None) -> list[str]:
    Path("s.yaml").write_text(text)
    if profile is not None:
        Path("p.yaml").write_text(profile)
    with pytest.raises(ConfigError) as caught:
        config.load("s.yaml", overrides=overrides, profile="p.yaml" if profile else None)
    assert caught.value.exit_code == 2
    return caught.value.problems


def params(text: str, *overrides: str) -> dict:
    Path("s.yaml").write_text(HEAD + text)
    return config.load("s.yaml", overrides=overrides).spec.params


def test_a_spec_with_defaults_and_places():
    Path("s.yaml").write_text(
        HEAD + "params:\n  optimizer:\n    lr: 0.5\nresources: {workers: 2}\n"
    )
    loaded = config.load("s.yaml")
    assert loaded.spec.resources.workers == 2
    assert loaded.spec.retry.worker_deaths == 3
    assert loaded.spec.checkpoint.every_steps == 50
    assert loaded.source.where(("params", "optimizer", "lr")) == "s.yaml:6"
    assert loaded.source.where(("params", "optimizer", "momentum")) == "s.yaml:5"
    assert loaded.source.where(("resources", "workers")) == "s.yaml:7"
    assert loaded.source.where(("seed",)) == "s.yaml"


# (YAML, a line that must be among the problems)
BAD = [
    ("seeed: 1", "s.yaml:4: unknown key 'seeed'. Hint: did you mean 'seed'?"),
    (
        "resources:\n  wokers: 2",
        "s.yaml:5: unknown key 'resources.wokers'. Hint: did you mean 'workers'?",
    ),
    (
        "retry: {foo: 2}",
        "s.yaml:4: unknown key 'retry.foo'; expected one of errors, hang_timeout_s, pr",
    ),
    (
        "seed: x\nparams:\n  optimizer:\n    name: sgd\n    learning_rat: 1",
        "s.yaml:8: unknown key 'params.optimizer.learning_rat'. Hint: did you mean 'lr'?",
    ),
    (
        "seed: x\nparams:\n  optimizer: {lr: 1}",
        "s.yaml:6: missing key 'params.optimizer.name'; it decides which other keys there are.",
    ),
    (
        "seed: x\nparams:\n  optimizer:\n    name: adm",
        "s.yaml:7: params.optimizer.name: got the text 'adm'; expected 'sgd' or 'adam'. "
        "Hint: did you mean 'adam'?",
    ),
    ("seed: ten", "s.yaml:4: seed: got the text 'ten'; expected a whole number."),
    ("seed: true", "s.yaml:4: seed: got true; expected a whole number."),
    ("seed: 1.5", "s.yaml:4: seed: got 1.5; expected a whole number."),
    ("seed: '1'", "s.yaml:4: seed: got the text '1'; expected a whole number."),
    ("seed: -1", "s.yaml:4: seed: got -1; expected greater than or equal to 0."),
    ("params: 3", "s.yaml:4: params: got 3; expected a mapping of keys."),
    ("resources:", "s.yaml:4: resources: got nothing (null); expected a mapping of keys."),
    ("resources: {workers: 0}", "s.yaml:4: resources.workers: got 0; expected greater than or eq"),
    (
        "resources: {workers: {min: 3, max: 2}}",
        "s.yaml:4: resources.workers: min is 3 and max 2; expected min <= max",
    ),
    (
        "resources: {workers: {min: 1, maxx: 2}}",
        "s.yaml:4: unknown key 'resources.workers.maxx'. Hint: did you mean 'max'?",
    ),
    (
        "resources: {workers: {min: 0, max: 2}}",
        "s.yaml:4: resources.workers.min: got 0; expected greater than or equal to 1.",
    ),
    ("resources: {workers: many}", "s.yaml:4: resources.workers: got the text 'many'; expected a"),
    ("shards: 0", "s.yaml:4: shards: got 0; expected greater than or equal to 1."),
    ("checkpoint: {every_minutes: 0}", "s.yaml:4: checkpoint.every_minutes: got 0; expected gr"),
    ("checkpoint: {every_minutes: .inf}", "s.yaml:4: checkpoint.every_minutes: got"),
    ("retry: {hang_timeout_s: 0.5}", "s.yaml:4: retry.hang_timeout_s: got 0.5; expected"),
    (
        "resources: {gpus_per_worker: 1}",
        "s.yaml:4: resources.gpus_per_worker: 1 GPUs per worker are not supported yet",
    ),
    (
        "determinism: exakt",
        "s.yaml:4: determinism: got the text 'exakt'; expected 'exact' or 'fast'. "
        "Hint: did you mean 'exact'?",
    ),
    ("storage: s3n://bucket/x", "s.yaml:4: storage: nothing here knows the scheme 's3n'"),
    ("checkpoint: {best: a b c}", "s.yaml:4: checkpoint.best: 'a b c' is not a metric"),
    ("seed: 1\nseed: 2", "s.yaml:5: duplicate key 'seed'; it is already on line 4."),
    (
        "params:\n  data:\n    root: a\n    root: b",
        "s.yaml:7: duplicate key 'params.data.root'; it is already on line 6.",
    ),
    ("when: 2020-01-01", "s.yaml:4: unknown key 'when'"),
]


@pytest.mark.parametrize(("text", "expected"), BAD, ids=[expected[:60] for _, expected in BAD])
def test_problems_name_file_and_line(text, expected):
    found = problems(HEAD + text)
    assert any(line.startswith(expected) for line in found), found


def test_all_problems_are_told_in_the_order_of_lines():
    found = problems(
        "version: 2\nname: a/b\njob: toyjobs.toy\nparmas: {}\nseed: 1\nseed: 2\n"
        "params:\n  epoch: 3\n  data: {splt: x}\nresources: {wokers: 2}\n"
    )
    assert [int(line.split(":")[1]) for line in found] == [1, 2, 4, 6, 8, 9, 10]


def test_missing_keys_are_named():
    found = problems("seed: 3\n")
    assert [line.split(": ", 1)[1] for line in found] == [
        "missing key 'version'; it has no default.",
        "missing key 'name'; it has no default.",
        "missing key 'job'; it has no default.",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "s.yaml: is empty; expected keys such as version, name, job, params."),
        ("# nothing\n", "s.yaml: is empty; expected keys such as version, name, job, params."),
        ("- a\n- b\n", "s.yaml:1: is a list at the top level; expected keys."),
        ("\n3\n", "s.yaml:2: is a single value at the top level; expected keys."),
        ("a: [1, 2\nb: 3\n", "s.yaml:2:2: is not YAML: expected ',' or ']', but got ':'."),
        ("a:\n\tb: 1\n", "s.yaml:2:1: is not YAML: found character '\\t' that cannot start any"),
        ("a: 1\n---\nb: 2\n", "s.yaml:2:1: is not YAML: but found another document."),
        ("a: *x\n", "s.yaml:1:4: is not YAML: found undefined alias 'x'."),
        ("a: &x [*x]\n", "s.yaml:1: an alias contains itself; expected a finite value."),
        ("a: !!python/object:os.system {}\n", "s.yaml:1: the tag tag:yaml.org,2002:python/"),
        ("? [a, b]\n: 1\n", "s.yaml:1: a key is a list; expected a name."),
        ("a: !mine x\n", "s.yaml:1: the tag !mine is not supported; expected plain YAML."),
        ("a: \x00\n", "s.yaml: is not YAML: "),
    ],
)
def test_files_that_are_no_spec(text, expected):
    found = problems(text)
    assert len(found) >= 1
    assert found[0].startswith(expected), found


def test_an_alias_bomb_is_refused():
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)
    )
    assert "aliases unfold to over" in problems(text)[0]


def test_missing_and_unreadable_files():
    Path("digits.yaml").write_text(HEAD)
    Path("latin.yaml").write_bytes(b"name: \xe9\n")
    for name, expected in [
        (
            "digts.yaml",
            "digts.yaml: there is no such file; expected a YAML file. Hint: did you mean ",
        ),
        ("latin.yaml", "latin.yaml: is not UTF-8 text"),
        (".", ".: cannot be read: Is a directory"),
    ]:
        with pytest.raises(ConfigError, match="^" + expected.replace(".", r"\.")) as caught:
            config.load(name)
        assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-.5e+2", -50.0),
        ("3.", 3.0),
        (".inf", math.inf),
        ("10", 10),
        ("0x1f", 31),
        ("0o17", 15),
        ("007", 7),
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        ("1_000", "1_000"),
        ("true", True),
        ("~", None),
        ("'1e-3'", "1e-3"),
        ("!!str 1", "1"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    found = params(f"params: {{x: {text}}}\n")["x"]
    assert found == value
    assert type(found) is type(value)


def test_a_float_written_as_quoted_text_works_for_the_job(spec_file):
    from orchestrator import plan

    loaded = config.load(spec_file, overrides=["params.optimizer.lr='1e-3'"])
    assert plan.plan(loaded).config["optimizer"]["lr"] == 1e-3


def test_anchors_and_merge_keys():
    found = params("params:\n  a: &a {x: 1, y: 2}\n  b: {<<: *a, y: 3}\n  c: *a\n")
    assert found == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": {"x": 1, "y": 2}}


# --set


def test_set_reaches_every_depth_and_has_the_last_word():
    found = params(
        "params: {a: {b: 1}, l: [1, {x: 2}]}\n",
        "params.a.b=1e-2",
        "params.a.c=[1, 2]",
        "params.new.deep=text",
        "params.l.1.x=5",
        "params.empty=",
        "params.a.eq=k=v",
    )
    assert found == {
        "a": {"b": 0.01, "c": [1, 2], "eq": "k=v"},
        "l": [1, {"x": 5}],
        "new": {"deep": "text"},
        "empty": None,
    }


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed", "--set seed: is not an assignment; expected KEY=VALUE, as in a.b=1."),
        ("a..b=1", "--set a..b=1: is not an assignment"),
        ("=1", "--set =1: is not an assignment"),
        ("sed=1", "--set sed: unknown key 'sed'. Hint: did you mean 'seed'?"),
        ("seed=x", "--set seed: got the text 'x'; expected a whole number."),
        ("seed.x=1", "--set seed.x: 'seed' holds no keys; expected a mapping there."),
        (
            "retry.eror=1",
            "--set retry.eror: unknown key 'retry.eror'. Hint: did you mean 'errors'?",
        ),
        ("rety.errors=1", "--set rety.errors: unknown key 'rety'. Hint: did you mean 'retry'?"),
        ("params.layers.5.width=1", "--set params.layers.5.width: 'params.layers.5' holds no keys"),
        ("params.layers.7=1", "--set params.layers.7: '7' is no position in a list of 1."),
        ("seed=[1", "--set seed:1:"),
    ],
)
def test_problems_name_the_override(override, expected):
    text = HEAD + "seed: 1\nparams: {layers: [{width: 1}]}\n"
    assert any(line.startswith(expected) for line in problems(text, override))


# Profiles


def test_a_profile_says_where_and_is_merged_over():
    Path("s.yaml").write_text(HEAD + "resources: {workers: 2, cpus_per_worker: 3}\n")
    Path("p.yaml").write_text("address: ray://head:10001\nresources:\n  workers: 8\n")
    loaded = config.load("s.yaml", profile="p.yaml", overrides=["retry.errors=1"])
    assert loaded.address == "ray://head:10001"
    assert loaded.spec.resources.workers == 8
    assert loaded.spec.resources.cpus_per_worker == 3
    assert loaded.source.where(("resources", "workers")) == "p.yaml:3"
    assert loaded.source.where(("resources", "cpus_per_worker")) == "s.yaml:4"
    assert loaded.source.where(("retry", "errors")) == "--set retry.errors"


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (
            "params: {epochs: 3}\n",
            "p.yaml:1: unknown key 'params' in a profile. Hint: a profile says where",
        ),
        (
            "adress: x\n",
            "p.yaml:1: unknown key 'adress' in a profile. Hint: did you mean 'address'?",
        ),
        ("address: 3\n", "p.yaml:1: address: got 3; expected text."),
        (
            "resources: {wokers: 1}\n",
            "p.yaml:1: unknown key 'resources.wokers'. Hint: did you mean",
        ),
    ],
)
def test_problems_of_a_profile(profile, expected):
    found = problems(HEAD, profile=profile)
    assert any(line.startswith(expected) for line in found), found


# Specs built from flags


def test_errors_of_a_spec_from_flags_name_the_flag():
    data = {"version": 1, "name": "x", "job": "toyjobs.toy", "resources": {"workers": 0}}
    with pytest.raises(ConfigError, match=r"^--workers: resources\.workers: got 0"):
        config.from_dict(data, "orchestrator classify", {"resources": "--workers"})
    with pytest.raises(ConfigError, match=r"^orchestrator classify: resources\.workers: got 0"):
        config.from_dict(data, "orchestrator classify")


@pytest.mark.parametrize(
    ("best", "expected"),
    [
        (None, None),
        ("val/accuracy", ("val/accuracy", "max")),
        ("val/loss", ("val/loss", "min")),
        ("loss_scale", ("loss_scale", "max")),
        ("val/loss max", ("val/loss", "max")),
        ("score min", ("score", "min")),
    ],
)
def test_the_better_direction_of_a_metric(best, expected):
    assert CheckpointSpec(best=best).best_metric() == expected
