"""What one comparison found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """One check of one name: `kind` is value, gradient, error, ...; `detail` says what differs."""

    name: str
    kind: str
    ok: bool
    detail: str = ""
