"""Attention by blocks of queries and keys (Dao et al., "FlashAttention", 2022; Rabe and Staats,
"Self-attention does not need O(n^2) memory", 2021): softmax is corrected block by block, and the
gradients compute the weights again from the logarithms of the sums.
"""

from __future__ import annotations

import numpy as np

from tensorlib.kernels.cpu.compiler import f32, i64, inner, ptr, task
from tensorlib.kernels.cpu.tasks.panels import (
    PANEL,
    ROWS,
    columns_block,
    pack_panels,
    rows_block,
)
from tensorlib.kernels.cpu.vector import (
    LANES,
    exp,
    fma,
    largest,
    load,
    load_f32,
    load_i64,
    load_part,
    maximum,
    splat,
    store,
    store_f32,
    store_part,
    total,
)

KEYS = 256  # of a block
QUERIES = 8 * ROWS
WIDE = KEYS + PANEL  # numbers from a query's row of weights to the next

# fields of a description of heads, each a word: addresses, then strides in bytes
(Q, K, V, MASK, KEEP, OUT, LOGS, GRAD, DQ, DK, DV) = range(0, 11 * 32, 32)


@inner
def _place(fields, field, n, h):
    """Address of a head's first row."""
    at = fields + field
    return load_i64(at) + n * load_i64(at + 8) + h * load_i64(at + 16)


@inner
def _stride(fields, field):
    """Bytes from a row to the next."""
    return load_i64(fields + field + 24)


@inner
def _panels_bytes(depth, columns):
    return depth * ((columns + PANEL - 1) // PANEL) * PANEL * 4


@inner
def multiply(a, a_stride, packed, rows, depth, columns, out, out_stride, zeros, fresh):
    """out (+)= a b for packed `b`."""
    for n in range(0, columns, PANEL):
        for m in range(0, rows, ROWS):
            target = out + m * out_stride + 4 * n
            rows_block(
                a + m * a_stride,
                a_stride,
                packed + n * depth * 4,
                depth,
                zeros if fresh else target,
                0 if fresh else out_stride,
                target,
                out_stride,
                min(ROWS, rows - m),
                min(PANEL, columns - n),
                -np.inf,
                np.inf,
            )


@inner
def multiply_turned(a, a_stride, packed, rows, depth, columns, out, out_stride, zeros, fresh):
    """out (+)= a' b for packed `b`."""
    for n in range(0, columns, PANEL):
        for m in range(0, rows, ROWS):
            target = out + m * out_stride + 4 * n
            columns_block(
                a + 4 * m,
                a_stride,
                packed + n * depth * 4,
                PANEL * 4,
                depth,
                zeros if fresh else target,
                0 if fresh else out_stride,
                target,
                out_stride,
                min(ROWS, rows - m),
                min(PANEL, columns - n),
                -np.inf,
                np.inf,
            )


@inner
def _visible(causal, query, first, keys):
    """How many keys of a block from `first` on a query sees."""
    if causal != 0:
        return max(0, min(keys, query + 1 - first))
    return keys


@inner
def _masked(row, mask, seen, scale):
    """Scale a row of products, add the mask, and find its largest number."""
    most = splat(-np.inf)
    factor = splat(scale)
    for j in range(0, seen, LANES):
        rest = seen - j
        z = load(row + 4 * j) * factor
        if mask != 0:
            z = z + load_part(mask + 4 * j, rest)
        store(row + 4 * j, z)
        if rest < LANES:
            store_part(row + 4 * j, z, rest)
            for i in range(rest, LANES):
                store_f32(row + 4 * (j + i), -np.inf)
            z = load(row + 4 * j)
        most = maximum(most, z)
    return largest(most)


@inner
def _powers(row, keep, seen, most):
    """e^(row - most) in place, zeros behind `seen`; their sum, before they are multiplied with
    `keep`.
    """
    added = splat(0.0)
    shift = splat(most)
    for j in range(0, seen, LANES):
        p = exp(load(row + 4 * j) - shift)
        added = added + p
        if keep != 0:
            p = p * load_part(keep + 4 * j, seen - j)
        store(row + 4 * j, p)
    return total(added)


@inner
def _blank(row, seen, keys):
    """Zeros from the first vector behind `seen` on."""
    for j in range((seen + LANES - 1) // LANES * LANES, keys, LANES):
        store(row + 4 * j, splat(0.0))


@inner
def _times(row, size, factor):
    by = splat(factor)
    for j in range(0, size, LANES):
        store_part(row + 4 * j, load_part(row + 4 * j, size - j) * by, size - j)


@inner
def _row(fields, field, n, h, query, key):
    """Address of a number of MASK or KEEP; 0 where there is none."""
    if load_i64(fields + field) == 0:
        return 0
    return _place(fields, field, n, h) + query * _stride(fields, field) + 4 * key


@task
def attend(
    block,
    worker,
    fields: ptr,
    heads: i64,
    length: i64,
    source: i64,
    size: i64,
    width: i64,
    parts: i64,
    causal: i64,
    scale: f32,
    zeros: ptr,
    scratch: ptr,
    scratch_stride: i64,
):
    """Part `block % parts` of the queries of head `block // parts`."""
    head = block // parts
    part = block - head * parts
    n = head // heads
    h = head - n * heads
    tiles = (length + QUERIES - 1) // QUERIES
    begin = part * tiles // parts * QUERIES
    end = min(length, (part + 1) * tiles // parts * QUERIES)
    keys_packed = scratch + worker * scratch_stride
    values_packed = keys_packed + _panels_bytes(size, KEYS)
    weights = values_packed + _panels_bytes(KEYS, width)
    state = weights + QUERIES * WIDE * 4  # largest number and sum of each query
    q, q_stride = _place(fields, Q, n, h), _stride(fields, Q)
    k, k_stride = _place(fields, K, n, h), _stride(fields, K)
    v, v_stride = _place(fields, V, n, h), _stride(fields, V)
    out, out_stride = _place(fields, OUT, n, h), _stride(fields, OUT)
    logs = _place(fields, LOGS, n, h)
    for i in range(end - begin):
        store_f32(state + 8 * i, -np.inf)
        store_f32(state + 8 * i + 4, 0.0)
    for first in range(0, source, KEYS):
        if causal != 0 and first >= end:
            break
        keys = min(KEYS, source - first)
        pack_panels(k + first * k_stride, 4, k_stride, size, keys, keys_packed)
        pack_panels(v + first * v_stride, v_stride, 4, keys, width, values_packed)
        for at in range(begin, end, QUERIES):
            count = min(QUERIES, end - at)
            if causal != 0 and first >= at + count:
                continue
            multiply(
                q + at * q_stride,
                q_stride,
                keys_packed,
                count,
                size,
                keys,
                weights,
                WIDE * 4,
                zeros,
                True,
            )
            for i in range(count):
                row = weights + i * WIDE * 4
                seen = _visible(causal, at + i, first, keys)
                mine = state + 8 * (at - begin + i)
                before = load_f32(mine)
                most = _masked(row, _row(fields, MASK, n, h, at + i, first), seen, scale)
                # a NaN among the numbers stays the largest
                most = before if before > most or before != before else most
                shift = most
                if most == -np.inf and (load_i64(fields + MASK) != 0 or seen == 0):
                    shift = np.float32(0.0)
                added = _powers(row, _row(fields, KEEP, n, h, at + i, first), seen, shift)
                _blank(row, seen, keys)
                store_f32(mine, most)
                if first == 0:
                    store_f32(mine + 4, added)
                else:
                    old = np.float32(np.exp(before - shift))
                    store_f32(mine + 4, load_f32(mine + 4) * old + added)
                    if old != 1:
                        _times(out + (at + i) * out_stride, width, old)
            multiply(
                weights,
                WIDE * 4,
                values_packed,
                count,
                keys,
                width,
                out + at * out_stride,
                out_stride,
                zeros,
                first == 0,
            )
    for i in range(begin, end):
        mine = state + 8 * (i - begin)
        added = load_f32(mine + 4)
        if added == 0:  # no key is seen: zeros, and weights of zero in the gradients
            store_f32(logs + 4 * i, np.inf)
        else:
            _times(out + i * out_stride, width, np.float32(1.0) / added)
            store_f32(logs + 4 * i, load_f32(mine) + np.float32(np.log(added)))


@inner
def _dot(a, b, size):
    added = splat(0.0)
    for j in range(0, size, LANES):
        added = fma(load_part(a + 4 * j, size - j), load_part(b + 4 * j, size - j), added)
    return total(added)


@inner
def _slopes(row, back, mask, keep, seen, scale, log, dot):
    """From products of a query with keys and of its gradient with values: the weights that values
    were multiplied with, and the gradients of the products.
    """
    factor, shift, less_ = splat(scale), splat(log), splat(dot)
    for j in range(0, seen, LANES):
        rest = seen - j
        z = load(row + 4 * j) * factor
        d = load(back + 4 * j)
        if mask != 0:
            z = z + load_part(mask + 4 * j, rest)
        p = exp(z - shift)
        used = p
        if keep != 0:
            kept = load_part(keep + 4 * j, rest)
            d = d * kept
            used = p * kept
        d = (d - less_) * p * factor
        store(row + 4 * j, used)
        store(back + 4 * j, d)
        if rest < LANES:
            for i in range(rest, LANES):
                store_f32(row + 4 * (j + i), 0.0)
                store_f32(back + 4 * (j + i), 0.0)


@task
def attend_grad(
    block,
    worker,
    fields: ptr,
    heads: i64,
    length: i64,
    source: i64,
    size: i64,
    width: i64,
    causal: i64,
    scale: f32,
    zeros: ptr,
    scratch: ptr,
    scratch_stride: i64,
):
    """Gradients of one head."""
    n = block // heads
    h = block - n * heads
    q, q_stride = _place(fields, Q, n, h), _stride(fields, Q)
    k, k_stride = _place(fields, K, n, h), _stride(fields, K)
    v, v_stride = _place(fields, V, n, h), _stride(fields, V)
    out, out_stride = _place(fields, OUT, n, h), _stride(fields, OUT)
    grad, grad_stride = _place(fields, GRAD, n, h), _stride(fields, GRAD)
    dq, dq_stride = _place(fields, DQ, n, h), _stride(fields, DQ)
    dk, dk_stride = _place(fields, DK, n, h), _stride(fields, DK)
    dv, dv_stride = _place(fields, DV, n, h), _stride(fields, DV)
    logs = _place(fields, LOGS, n, h)
    keys_across = scratch + worker * scratch_stride
    values_across = keys_across + _panels_bytes(size, KEYS)
    keys_along = values_across + _panels_bytes(width, KEYS)
    q_along = keys_along + _panels_bytes(KEYS, size)
    grad_along = q_along + _panels_bytes(QUERIES, size)
    weights = grad_along + _panels_bytes(QUERIES, width)
    backs = weights + (QUERIES + 1) * WIDE * 4
    dots = backs + (QUERIES + 1) * WIDE * 4
    for i in range(length):
        store_f32(dots + 4 * i, _dot(out + i * out_stride, grad + i * grad_stride, width))
    for first in range(0, source, KEYS):
        keys = min(KEYS, source - first)
        pack_panels(k + first * k_stride, 4, k_stride, size, keys, keys_across)
        pack_panels(v + first * v_stride, 4, v_stride, width, keys, values_across)
        pack_panels(k + first * k_stride, k_stride, 4, keys, size, keys_along)
        fresh = True
        for at in range(0, length, QUERIES):
            count = min(QUERIES, length - at)
            if causal != 0 and first >= at + count:
                continue
            here, there = q + at * q_stride, grad + at * grad_stride
            multiply(here, q_stride, keys_across, count, size, keys, weights, WIDE * 4, zeros, True)
            multiply(
                there, grad_stride, values_across, count, width, keys, backs, WIDE * 4, zeros, True
            )
            for i in range(count):
                row, back = weights + i * WIDE * 4, backs + i * WIDE * 4
                seen = _visible(causal, at + i, first, keys)
                _slopes(
                    row,
                    back,
                    _row(fields, MASK, n, h, at + i, first),
                    _row(fields, KEEP, n, h, at + i, first),
                    seen,
                    scale,
                    load_f32(logs + 4 * (at + i)),
                    load_f32(dots + 4 * (at + i)),
                )
                _blank(row, seen, keys)
                _blank(back, seen, keys)
            pack_panels(here, q_stride, 4, count, size, q_along)
            pack_panels(there, grad_stride, 4, count, width, grad_along)
            target = dv + first * dv_stride
            multiply_turned(
                weights, WIDE * 4, grad_along, keys, count, width, target, dv_stride, zeros, fresh
            )
            target = dk + first * dk_stride
            multiply_turned(
                backs, WIDE * 4, q_along, keys, count, size, target, dk_stride, zeros, fresh
            )
            target = dq + at * dq_stride
            multiply(
                backs, WIDE * 4, keys_along, count, keys, size, target, dq_stride, zeros, first == 0
            )
            fresh = False
        if fresh:  # keys that no query sees
            for i in range(first, first + keys):
                for j in range(size):
                    store_f32(dk + i * dk_stride + 4 * j, 0.0)
                for j in range(width):
                    store_f32(dv + i * dv_stride + 4 * j, 0.0)
