"""Names and exit codes of the exceptions, and what a misspelt word is taken for."""

import pytest

from orchestrator import errors
from orchestrator.errors import did_you_mean


@pytest.mark.parametrize(
    ("error", "code", "builtin"),
    [
        (errors.OrchestratorError, 1, Exception),
        (errors.UsageError, 2, ValueError),
        (errors.ConfigError, 2, ValueError),
        (errors.RunNotFound, 2, LookupError),
        (errors.RunExists, 2, ValueError),
        (errors.BackendUnavailable, 3, ConnectionError),
        (errors.JobFailed, 1, RuntimeError),
        (errors.CheckpointError, 1, ValueError),
    ],
)
def test_exit_codes_and_builtins(error, code, builtin):
    assert error.exit_code == code
    assert issubclass(error, errors.OrchestratorError)
    assert issubclass(error, builtin)


def test_config_error_keeps_each_problem():
    error = errors.ConfigError(["a:1: x", "a:2: y"])
    assert error.problems == ["a:1: x", "a:2: y"]
    assert str(error) == "a:1: x\na:2: y"


@pytest.mark.parametrize(
    ("wrong", "known", "right"),
    [
        ("wokers", ["workers", "cpus_per_worker"], "workers"),
        ("learning_rat", ["lr", "momentum"], "lr"),
        ("learning_rate", ["lr", "momentum"], "lr"),
        ("LR", ["lr", "momentum"], "lr"),
        ("workers", ["cpus_per_worker", "seed"], None),
        ("steps", ["every_steps", "keep"], "every_steps"),
        ("zzz", ["lr", "momentum"], None),
        ("x", [], None),
    ],
)
def test_did_you_mean(wrong, known, right):
    assert did_you_mean(wrong, known) == right
