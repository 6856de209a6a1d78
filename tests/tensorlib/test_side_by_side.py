"""Expressions and what PyTorch 2.13 makes of them, recorded in `side_by_side.txt`: data in and out,
new tensors, types, devices and sizes, Python's protocols, copies, printing.

`python -m tests.tensorlib.test_side_by_side` records them again with PyTorch.
"""

import array
import builtins
import collections
import copy
import decimal
import fractions
import math
import operator
import pickle
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import tensorlib

RECORD = Path(__file__).with_suffix("").with_name("side_by_side.txt")


class Sequence:
    """A sequence that is no list."""

    def __len__(self):
        return 2

    def __getitem__(self, index):
        if index > 1:
            raise IndexError
        return float(index)


class Arrayed:
    def __array__(self, dtype=None, copy=None):
        return np.arange(3)


class Floats:
    def __float__(self):
        return 2.5


class Indexes:
    def __index__(self):
        return 3


class Ints:
    def __int__(self):
        return 3


DTYPES = """
    float32 float64 complex64 complex128 uint8 uint16 uint32 uint64 int8 int16 int32 int64 bool
""".split()  # noqa: SIM905 (a table reads better)


def pairs(library, function, names=DTYPES):
    """Outcomes for all pairs of dtypes, by name."""
    found = []
    for a in names:
        for b in names:
            try:
                found.append(function(getattr(library, a), getattr(library, b)))
            except (RuntimeError, TypeError) as error:
                found.append(next(k for k in (RuntimeError, TypeError) if isinstance(error, k)))
    return found


NAMES = {
    "pairs": pairs,
    "D": DTYPES,
    "np": np,
    "pd": pd,
    "array": array,
    "collections": collections,
    "copy": copy,
    "decimal": decimal,
    "fractions": fractions,
    "math": math,
    "operator": operator,
    "pickle": pickle,
    "Seq": Sequence,
    "Arr": Arrayed,
    "Fl": Floats,
    "In": Indexes,
    "It": Ints,
    "df": pd.DataFrame({"a": [1, 2], "b": [1.5, 2.5]}),
    "A": np.arange(6.0).reshape(2, 3),
}


def outcome(expression, library):
    """The repr of the value, or what kind of error it is."""
    library.manual_seed(0)
    names = NAMES | {"t": library, "x": library.rand(3, 4)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = repr(eval(expression, names))
        except Exception as error:
            return error
    return found.replace("torch.", "tensorlib.")


def told(found):
    """An outcome as it stands in the record."""
    if isinstance(found, Exception):
        return f"raises {type(found).__name__}"
    return found.encode("unicode_escape").decode()


RECORDS = [
    line.split("  =>  ")
    for line in RECORD.read_text().splitlines()
    if line and not line.startswith("#")
]


@pytest.mark.parametrize(("expression", "expected"), RECORDS)
def test_is_what_pytorch_makes_of_it(expression, expected):
    found = outcome(expression, tensorlib)
    if expected.startswith("raises "):
        kind = getattr(builtins, expected[7:])
        assert isinstance(found, kind), f"{found!r}; {expected} expected"
    else:
        assert told(found) == expected, f"{found!r:.300}"


@pytest.mark.oracle
@pytest.mark.parametrize(("expression", "expected"), RECORDS)
def test_the_record_is_right(expression, expected):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    assert told(outcome(expression, torch)) == expected


if __name__ == "__main__":
    import torch

    lines = []
    for line in RECORD.read_text().splitlines():
        if line and not line.startswith("#"):
            expression = line.partition("  =>  ")[0]
            line = f"{expression}  =>  {told(outcome(expression, torch))}"
        lines.append(line)
    RECORD.write_text("\n".join(lines) + "\n")
