"""Equal elements in the order in which PyTorch leaves them, and the algorithms by themselves."""

from typing import Any

import numpy as np
import pytest

import tensorlib as tl
from tensorlib.ops import _selection

SIZES = (1, 2, 3, 4, 5, 16, 17, 33, 64, 65, 130, 700)


def rows(size: int) -> list[list[int]]:
    """Rows with many, some and no equal elements, and in descending order."""
    draw = np.random.default_rng(size)
    found = [draw.integers(0, n, size).tolist() for n in (2, 9, 10**6)]
    return [*found, list(range(size))[::-1], [0] * size]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_selected(size: int) -> None:
    for row in rows(size):
        ordered = sorted(row)
        assert [row[i] for i in _selection.sort(row)] == ordered
        for k in {1, size // 2 or 1, size}:
            assert row[_selection.quickselect(row, k - 1)] == ordered[k - 1]
            places = _selection.nth_element(row, k - 1)
            assert sorted(places) == list(range(size))
            assert row[places[k - 1]] == ordered[k - 1]
            assert [row[i] for i in _selection.top(row, k, True)] == ordered[:k]
            assert sorted(row[i] for i in _selection.top(row, k, False)) == ordered[:k]


def test_a_row_that_defeats_the_pivot_is_selected_by_a_heap() -> None:
    size = 2048  # "median of three" killer: D. Musser, 1997
    half = size // 2
    row = [0] * size
    for i in range(half):
        row[i] = i + 1 if i % 2 == 0 else half + i + (half % 2)
        row[half + i] = (i + 1) * 2
    assert [row[i] for i in _selection.sort(row)] == sorted(row)
    assert row[_selection.nth_element(row, half)[half]] == sorted(row)[half]


@pytest.mark.oracle
@pytest.mark.parametrize("size", SIZES)
def test_indices_are_torchs(size: int) -> None:
    torch: Any = pytest.importorskip("torch", reason="the oracle")
    for row in rows(size)[:2]:
        theirs, mine = torch.tensor([row, row[::-1]]), tl.tensor([row, row[::-1]])
        for name, args in (
            ("sort", (1,)),
            ("sort", (1, True)),
            ("median", (1,)),
            ("mode", (1,)),
            ("kthvalue", (size // 2 + 1, 1)),
            ("topk", (size // 2 + 1, 1)),
            ("topk", (size // 70 + 1, 1)),
            ("topk", (size // 2 + 1, 1, False, False)),
        ):
            expected = getattr(theirs, name)(*args)
            found = getattr(mine, name)(*args)
            assert found.values.tolist() == expected.values.tolist(), (name, args)
            assert found.indices.tolist() == expected.indices.tolist(), (name, args)


def test_stable_sorts_keep_the_order() -> None:
    x = tl.tensor(np.random.default_rng(0).integers(0, 4, 300))
    indices = x.sort(stable=True).indices.numpy()
    assert (indices == np.argsort(x.numpy(), kind="stable")).all()
