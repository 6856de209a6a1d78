"""Names that PyTorch keeps only to say what took their place: `solve lstsq eig ...`."""

from __future__ import annotations

from typing import Any, NoReturn

from tensorlib.errors import ShapeError


class RemovedError(ShapeError):
    """A function that is no more (RuntimeError in PyTorch)."""


def _removed(name: str, instead: str) -> NoReturn:
    raise RemovedError(name, "was deprecated and is removed", hint=f"use {instead}")


def matrix_rank(input: Any, tol: Any = None, symmetric: bool = False) -> NoReturn:
    """Removed: use `linalg.matrix_rank`."""
    _removed("matrix_rank", "linalg.matrix_rank(A, tol, hermitian)")


def solve(input: Any, A: Any) -> NoReturn:
    """Removed: use `linalg.solve`, which takes its arguments in the other order."""
    _removed("solve", "linalg.solve(A, B)")


def lstsq(input: Any, A: Any) -> NoReturn:
    """Removed: use `linalg.lstsq`, which takes its arguments in the other order."""
    _removed("lstsq", "linalg.lstsq(A, B)")


def eig(input: Any, eigenvectors: bool = False) -> NoReturn:
    """Removed: use `linalg.eig` or `linalg.eigvals`, which give complex numbers."""
    _removed("eig", "linalg.eig(A) or linalg.eigvals(A)")


def symeig(input: Any, eigenvectors: bool = False, upper: bool = True) -> NoReturn:
    """Removed: use `linalg.eigh` or `linalg.eigvalsh`, which read the lower triangle."""
    _removed("symeig", "linalg.eigh(A, UPLO) or linalg.eigvalsh(A, UPLO)")
