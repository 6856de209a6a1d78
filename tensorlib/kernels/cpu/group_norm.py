"""Compiled group norm: batch norm's passes over planes, with numbers for every plane."""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.kernels import normalization as reference
from tensorlib.kernels.cpu import address, dense, empty, single, worth
from tensorlib.kernels.cpu.normalization import LEAST, Layout

__all__: list[str] = []


def _planes(x: Any) -> Any:
    """[1, N * C, P]: every plane has its numbers."""
    return dense(x).reshape(1, x.shape[0] * x.shape[1], -1)


def _table(values: Any, layout: Layout) -> Any:
    made = np.zeros(layout.width, np.float32)
    made[: layout.channels] = values.reshape(-1)
    return made


def _fits(x: Any, groups: int, weight: Any, bias: Any, eps: float) -> bool:
    return (
        worth(x.size, LEAST)
        and x.size > 0
        and single(x)
        and all(a is None or single(a) for a in (weight, bias))
    )


@reference.group_norm.override("float32", _fits)
def group_norm(x: Any, groups: int, weight: Any, bias: Any, eps: float) -> Any:
    """Two passes."""
    n, c = x.shape[:2]
    layout = Layout(_planes(x))
    sums, squares = layout.sums("moments", address(layout.flat)).reshape(2, n, groups, -1).sum(3)
    count = x.size // (n * groups)
    mean = sums / count
    variance = squares / count - mean * mean
    variance = np.where(np.isnan(variance), variance, np.maximum(variance, 0))
    invstd = (1 / np.sqrt(variance + eps)).astype(np.float32)
    mean = mean.astype(np.float32)
    scale = np.repeat(invstd, c // groups, 1)
    if weight is not None:
        scale = scale * weight
    shift = np.zeros((n, c), np.float32) if bias is None else np.broadcast_to(bias, (n, c))
    tables = [_table(t, layout) for t in (np.repeat(mean, c // groups, 1), scale, shift)]
    out = empty(x.shape)
    arrays = address(layout.flat), 0, address(out)
    layout.apply("apply", *arrays, tables=(*map(address, tables), 0))
    return out, mean, invstd


def _fits_back(grad: Any, x: Any, groups: int, mean: Any, invstd: Any, weight: Any) -> bool:
    return (
        worth(x.size, LEAST)
        and x.size > 0
        and single(grad, x, mean, invstd)
        and (weight is None or single(weight))
    )


@reference.group_norm_grad.override("float32", _fits_back)
def group_norm_grad(grad: Any, x: Any, groups: int, mean: Any, invstd: Any, weight: Any) -> Any:
    """Two passes."""
    n, c = x.shape[:2]
    layout, back = Layout(_planes(x)), _planes(grad)
    near, inverse = (np.repeat(a.astype(np.float64), c // groups, 1) for a in (mean, invstd))
    tables = [_table(near, layout)]
    places = address(tables[0]), 0, 0
    arrays = address(back), address(layout.flat)
    found = layout.sums("grad_sums", *arrays, 0, 0, tables=places).reshape(2, n, c)
    sums, products = found[0], found[1] * inverse
    scale = np.ones(c) if weight is None else weight.astype(np.float64)
    count = x.size // (n * groups)

    def over_groups(values: Any) -> Any:
        means = (values * scale).reshape(n, groups, -1).sum(2) / count
        return np.repeat(means, c // groups, 1)

    factors = np.zeros((3, layout.width), np.float32)
    parts = (scale, -over_groups(products) * inverse, -over_groups(sums))
    for row, part in zip(factors, parts, strict=True):
        row[: layout.channels] = (part * inverse).reshape(-1)
    out = empty(x.shape)
    ends = (*places, address(factors), layout.width)
    layout.apply("grad_apply", *arrays, address(out), tables=ends)
    kind = np.float32
    return out, products.sum(0).astype(kind), sums.sum(0).astype(kind)
