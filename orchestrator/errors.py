"""Exceptions a user can meet, each with the exit code the command line ends with.

    OrchestratorError                        1
    +-- UsageError (ValueError)              2   configuration, arguments, missing inputs
    |   +-- ConfigError                      2   one or more problems, each with its file:line
    |   +-- RunNotFound (LookupError)        2
    |   +-- RunExists                        2
    +-- BackendUnavailable (ConnectionError) 3   Ray or MLflow cannot be reached
    +-- JobFailed (RuntimeError)             1
    +-- CheckpointError (ValueError)         1
    +-- NonFiniteLoss (FloatingPointError)   1   the loss is NaN or infinite

A message reads `<where>: <what is wrong, with the values>; <what was expected>. Hint: <fix>.`
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

__all__ = [
    "BackendUnavailable",
    "CheckpointError",
    "ConfigError",
    "JobFailed",
    "NonFiniteLoss",
    "OrchestratorError",
    "RunExists",
    "RunNotFound",
    "UsageError",
    "did_you_mean",
]


class OrchestratorError(Exception):
    """Base of everything this package raises on purpose."""

    exit_code = 1


class UsageError(OrchestratorError, ValueError):
    """The command, the spec or an input is wrong; nothing was started."""

    exit_code = 2


class ConfigError(UsageError):
    """Problems of a spec, one line each.

    Args:
        problems: a message, or several; `str(error)` joins them by newlines.
    """

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class RunNotFound(UsageError, LookupError):
    """No run of this id under the home directory."""


class RunExists(UsageError):
    """A run of this id is already there."""


class BackendUnavailable(OrchestratorError, ConnectionError):
    """Ray, or another service the run needs, cannot be reached."""

    exit_code = 3


class JobFailed(OrchestratorError, RuntimeError):
    """The job's own code failed and no retry was left."""


class CheckpointError(OrchestratorError, ValueError):
    """A checkpoint is damaged, or could not be written."""


class NonFiniteLoss(OrchestratorError, FloatingPointError):
    """A loss is NaN or infinite."""


def did_you_mean(wrong: str, known: Iterable[str]) -> str | None:
    """The name in `known` that `wrong` most likely stands for, or None.

    Spelling is compared without case; initials count too, so `learning_rate` finds `lr`.
    """
    by_lower = {name.lower(): name for name in known}
    lower = wrong.lower()
    close = get_close_matches(lower, by_lower, n=1, cutoff=0.6)
    if close:
        return by_lower[close[0]]
    for candidate, name in by_lower.items():
        if _initials(lower) == candidate or _initials(candidate) == lower:
            return name
    inside = [name for candidate, name in by_lower.items() if lower in candidate.split("_")]
    return inside[0] if len(inside) == 1 else None


def _initials(name: str) -> str:
    words = [word for word in name.replace("-", "_").split("_") if word]
    return "".join(word[0] for word in words) if len(words) > 1 else ""
