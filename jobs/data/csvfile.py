"""CSV files with named columns: every column has a part, every number is one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import did_you_mean

if TYPE_CHECKING:
    import pandas as pd


def read(path: Path, needed: Sequence[str], ignored: Iterable[str], where: str) -> pd.DataFrame:
    """The columns `needed`, each as text. Missing is what pandas takes for it: empty cells, NA,
    NaN, None, null and the like.

    Raises ValueError for a file that cannot be read, a column that is not in it, and one of its own
    that is neither needed nor ignored.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, dtype=str)
    except OSError as error:
        raise ValueError(
            f"{path}: cannot be read: {error.strerror}; expected a CSV file. Hint: {where}.path"
        ) from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path}: cannot be read as CSV: {' '.join(str(error).split())}"
        ) from error
    there, ignored = list(table.columns), list(ignored)
    twice = sorted(name for name in {*needed} if list(needed).count(name) > 1 or name in ignored)
    if twice:
        raise ValueError(f"{where}: {', '.join(twice)}: named twice; expected one part each")
    for name in (*needed, *ignored):
        if name not in there:
            close = did_you_mean(name, there)
            hint = f". Hint: did you mean {close!r}?" if close else ""
            raise ValueError(
                f"{where}: {path} has no column {name!r}; expected some of {', '.join(there)}{hint}"
            )
    over = [name for name in there if name not in needed and name not in ignored]
    if over:
        raise ValueError(
            f"{where}: {path} has columns that nothing names: {', '.join(over)}; expected each "
            f"to have a part. Hint: {where}.ignore: [{', '.join(over)}]"
        )
    return table[list(needed)]


def numbers(column: pd.Series[Any], path: object) -> NDArray[np.float64]:
    """A column as float64, NaN where a cell is missing. ValueError names the first other cell."""
    import pandas as pd

    values = pd.to_numeric(column, errors="coerce").to_numpy(np.float64)
    wrong = ~np.isfinite(values) & column.notna().to_numpy()
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"{path}: row {row + 1} of column {column.name!r} is '{column.iloc[row]}' "
            f"({int(wrong.sum())} such); expected a finite number, or nothing"
        )
    return values


def missing(table: pd.DataFrame) -> dict[str, int]:
    """How many cells are missing, by column; those without are left out."""
    return {str(name): int(n) for name, n in table.isna().sum().items() if n}


def facts(path: Path) -> dict[str, Any]:
    """Name, path and hash of a file, for the report."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"name": path.name, "path": str(path), "sha256": digest}
