"""Masked operations beside torch, and against what they are on the elements kept."""

import numpy as np
import pytest

import tensorlib
from tensorlib import masked

from .side import equal, normal, refused_alike

MASK = np.array([[True, False, True, True], [False] * 4, [True] * 4])
REDUCED = ("sum", "prod", "amax", "amin", "mean", "norm", "var", "std", "logsumexp")
CALLS = {
    **{name: lambda M, x, m, n=name: getattr(M, n)(x, dim=1, mask=m) for name in REDUCED},
    "sum over all": lambda M, x, m: M.sum(x, mask=m, keepdim=True),
    "norm of order -inf": lambda M, x, m: M.norm(x, -float("inf"), 0, mask=m),
    "var of integers": lambda M, x, m: M.var((x * 5).long(), 1, unbiased=False, mask=m),
    "std, corrected": lambda M, x, m: M.std(x, 0, correction=2, mask=m),
    "median": lambda M, x, m: M.median(x, 1, mask=m),
    "argmax": lambda M, x, m: M.argmax(x, 1, mask=m),
    "argmin": lambda M, x, m: M.argmin(x, keepdim=True, mask=m),
    "cumsum": lambda M, x, m: M.cumsum(x, 1, mask=m),
    "cumprod": lambda M, x, m: M.cumprod(x, -1, mask=m),
    "softmax": lambda M, x, m: M.softmax(x, 0, mask=m),
    "log_softmax": lambda M, x, m: M.log_softmax(x, 0, mask=m),
    "softmin": lambda M, x, m: M.softmin(x, 0, mask=m),
    "normalize": lambda M, x, m: M.normalize(x, 2.0, 1, mask=m),
    "logaddexp": lambda M, x, m: M.logaddexp(x, x + 1, input_mask=m, other_mask=m),
    "a mask that broadcasts": lambda M, x, m: M.sum(x, 0, mask=m[0]),
    "no mask": lambda M, x, m: M.mean(x, 0),
}
# torch's derivative at slices without elements is NaN in both, by other ways
FIRST = {"std", "std, corrected", "norm", "logsumexp", "log_softmax"}


@pytest.mark.oracle
@pytest.mark.parametrize("name", CALLS)
def test_as_torch(name):
    def call(library, x):
        return CALLS[name](library.masked, x, library.tensor(MASK))

    equal(call, [normal(3, 4)], second=name not in FIRST)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("dims", lambda L: L.masked.sum(L.ones(2, 2), (0, 0), mask=L.ones(2, 2).bool())),
        ("mask", lambda L: L.masked.sum(L.ones(2), 0, mask=L.ones(2, 2).bool())),
        ("mean", lambda L: L.masked.mean(L.ones(2).long(), 0)),
        ("median", lambda L: L.masked.median(L.ones(2).long(), 0, mask=L.zeros(2).bool())),
        ("complex", lambda L: L.masked.amax(L.ones(2) + 0j, 0, mask=L.ones(2).bool())),
        ("bool", lambda L: L.masked.amin(L.ones(2).bool(), 0, mask=L.ones(2).bool())),
    ],
)
def test_refusals_are_torchs(what, call):
    refused_alike(call)


def test_only_elements_kept_count():
    x, mask = normal(3, 4), MASK.copy()
    mask[1, 2] = True
    for name, reference in (("mean", np.mean), ("amax", np.max), ("prod", np.prod)):
        found = getattr(masked, name)(tensorlib.tensor(x), 1, mask=tensorlib.tensor(mask))
        expected = [reference(row[keep]) for row, keep in zip(x, mask, strict=True)]
        np.testing.assert_allclose(found.numpy(), expected)
