"""LSTM and GRU layers in float32: parts of the batch run through all steps on their own thread."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from tensorlib.kernels import matrix, recurrent
from tensorlib.kernels.cpu import Tasks, address, dense, empty, runtime, scratch, single, worth
from tensorlib.kernels.recurrent import Sizes

_run = Tasks("recurrent")

LEAST = 1 << 18  # multiplications of the hidden projection in all steps


@cache
def _block() -> tuple[int, int]:
    """Rows and columns of the block in registers."""
    from tensorlib.kernels.cpu.host import blocking

    return blocking().rows, blocking().panel


@cache
def _steps(sizes: Sizes, reverse: bool) -> tuple[Any, Any, Any]:
    """The order of the steps, the first row and the number of rows of each."""
    count = np.array(sizes, np.int64)
    starts = np.cumsum(count) - count
    order = np.arange(len(sizes), dtype=np.int64)
    return np.ascontiguousarray(order[::-1] if reverse else order), starts, count


def _packed(b: Any) -> Any:
    """Panels [columns / panel, depth, panel] of a matrix of any strides."""
    depth, columns = b.shape
    panel = _block()[1]
    panels = -(-columns // panel)
    found = empty((panels * panel * depth,))
    _run.pack(
        panels,
        address(b),
        b.strides[0],
        b.strides[1],
        depth,
        columns,
        address(found),
    )
    return found


def _parts(batch: int) -> int:
    """Into how many parts the batch is cut."""
    tiles = -(-batch // _block()[0])
    threads = runtime().threads()
    return tiles if tiles <= 4 * threads else 4 * threads


def _fits(x: Any, sizes: Sizes, h: Any, w_ih: Any, w_hh: Any) -> bool:
    return (
        single(x, h, w_ih, w_hh)
        and worth(x.shape[0] * w_hh.size, LEAST)
        and min(x.size, h.size) > 0
        and min(sizes) > 0
    )


def _before(rows: Any, first: Any, sizes: Sizes, reverse: bool, into: Any) -> None:
    """Write the state that each row's step began with, in the order of `rows`."""
    batch = sizes[0]
    if sizes[-1] != batch:
        steps = recurrent._steps(sizes, reverse)
        into[...] = recurrent._all_past(rows, first, steps, reverse)
    elif reverse:
        into[:-batch], into[-batch:] = rows[batch:], first
    else:
        into[batch:], into[:batch] = rows[:-batch], first


def _start(grad: Any, like: Any) -> Any:
    return np.zeros(like.shape, np.float32) if grad is None else grad.copy(order="C")


def _weight_grads(
    gates: Any, hidden_gates: Any, x: Any, w_ih: Any, past: tuple[Any, Any, Sizes, bool],
    has_bias: bool, need: tuple[bool, bool],
) -> tuple[Any, ...]:  # fmt: skip
    """See `kernels.recurrent._weight_grads`; `past` is what `_before` takes."""
    back = matrix.matmul(gates, w_ih) if need[0] else None
    if not need[1]:
        return back, None, None, None, None
    size, hidden = x.shape[1], past[0].shape[1]
    wide = empty((len(x), size + hidden))
    wide[:, :size] = x
    before = wide[:, size:]
    _before(*past, before)
    if gates is hidden_gates:  # both weights meet the same gradients: one product
        both = matrix.matmul(gates.T, wide)
        sums = matrix.sum_rows(gates) if has_bias else None
        return back, both[:, :size].copy(), both[:, size:].copy(), sums, sums
    sums = (matrix.sum_rows(gates), matrix.sum_rows(hidden_gates)) if has_bias else (None, None)
    return back, matrix.matmul(gates.T, x), matrix.matmul(hidden_gates.T, before), *sums


def _fits_lstm(
    x: Any, sizes: Sizes, h: Any, c: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, w_hr: Any,
    reverse: bool,
) -> bool:  # fmt: skip
    return w_hr is None and _fits(x, sizes, h, w_ih, w_hh) and single(c)


@recurrent.lstm.override(
    "float32, no projection, from 2^18 multiplications of states on", _fits_lstm
)
def lstm(
    x: Any, sizes: Sizes, h: Any, c: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, w_hr: Any,
    reverse: bool,
) -> tuple[Any, ...]:  # fmt: skip
    """See `kernels.recurrent.lstm`."""
    rows, (batch, hidden) = len(x), h.shape
    projected = matrix.matmul(x, w_ih.T, None if b_ih is None else b_ih + b_hh)
    h, c = h.copy(order="C"), c.copy(order="C")
    out, cells, gates = (empty((rows, hidden * n)) for n in (1, 1, 4))
    recur = _packed(w_hh.T)
    order, starts, counts = _steps(sizes, reverse)
    parts = _parts(batch)
    memory, stride = scratch(16 * hidden * batch)
    _run.lstm(
        parts,
        parts,
        len(order),
        address(order),
        address(starts),
        address(counts),
        batch,
        hidden,
        address(projected),
        address(recur),
        address(h),
        address(c),
        address(gates),
        address(cells),
        address(out),
        memory,
        stride,
    )
    return out, h, c, gates, cells


def _fits_lstm_grad(
    grad: Any, grad_h: Any, grad_c: Any, x: Any, sizes: Sizes, h: Any, c: Any, w_ih: Any, w_hh: Any,
    w_hr: Any, reverse: bool, *rest: Any,
) -> bool:  # fmt: skip
    return (
        w_hr is None
        and _fits(x, sizes, h, w_ih, w_hh)
        and single(c)
        and all(g is None or single(g) for g in (grad, grad_h, grad_c))
    )


@recurrent.lstm_grad.override(
    "float32, no projection, from 2^18 multiplications of states on", _fits_lstm_grad
)
def lstm_grad(
    grad: Any, grad_h: Any, grad_c: Any, x: Any, sizes: Sizes, h: Any, c: Any, w_ih: Any, w_hh: Any,
    w_hr: Any, reverse: bool, has_bias: bool, out: Any, gates: Any, cells: Any,
    need: tuple[bool, bool],
) -> tuple[Any, ...]:  # fmt: skip
    """See `kernels.recurrent.lstm_grad`."""
    batch, hidden = h.shape
    dh, dc, first = _start(grad_h, h), _start(grad_c, c), dense(c)
    back = None if grad is None else dense(grad)
    dgates = empty(gates.shape)
    recur = _packed(w_hh)
    zeros = np.zeros(hidden, np.float32)
    order, starts, counts = _steps(sizes, reverse)
    parts = _parts(batch)
    _run.lstm_grad(
        parts,
        parts,
        len(order),
        address(order),
        address(starts),
        address(counts),
        batch,
        hidden,
        0 if back is None else address(back),
        address(recur),
        address(first),
        address(dh),
        address(dc),
        address(gates),
        address(cells),
        address(dgates),
        address(zeros),
    )
    past = (out, h, sizes, reverse)
    found = _weight_grads(dgates, dgates, x, w_ih, past, has_bias, need)
    return found[0], dh, dc, *found[1:], None


def _fits_gru(
    x: Any, sizes: Sizes, h: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, reverse: bool
) -> bool:
    return _fits(x, sizes, h, w_ih, w_hh)


@recurrent.gru.override("float32, from 2^18 multiplications of states on", _fits_gru)
def gru(
    x: Any, sizes: Sizes, h: Any, w_ih: Any, w_hh: Any, b_ih: Any, b_hh: Any, reverse: bool
) -> tuple[Any, ...]:
    """See `kernels.recurrent.gru`."""
    rows, (batch, hidden) = len(x), h.shape
    projected = matrix.matmul(x, w_ih.T, b_ih)
    h = h.copy(order="C")
    out, gates = empty((rows, hidden)), empty((rows, 4 * hidden))
    recur = _packed(w_hh.T)
    bias = np.zeros(3 * hidden, np.float32) if b_hh is None else dense(b_hh)
    order, starts, counts = _steps(sizes, reverse)
    parts = _parts(batch)
    memory, stride = scratch(12 * hidden * batch)
    _run.gru(
        parts,
        parts,
        len(order),
        address(order),
        address(starts),
        address(counts),
        batch,
        hidden,
        address(projected),
        address(recur),
        address(bias),
        address(h),
        address(gates),
        address(out),
        memory,
        stride,
    )
    return out, h, gates


def _fits_gru_grad(
    grad: Any, grad_h: Any, x: Any, sizes: Sizes, h: Any, w_ih: Any, w_hh: Any, *rest: Any
) -> bool:
    return _fits(x, sizes, h, w_ih, w_hh) and all(g is None or single(g) for g in (grad, grad_h))


@recurrent.gru_grad.override("float32, from 2^18 multiplications of states on", _fits_gru_grad)
def gru_grad(
    grad: Any, grad_h: Any, x: Any, sizes: Sizes, h: Any, w_ih: Any, w_hh: Any, reverse: bool,
    has_bias: bool, out: Any, gates: Any, need: tuple[bool, bool],
) -> tuple[Any, ...]:  # fmt: skip
    """See `kernels.recurrent.gru_grad`."""
    rows, (batch, hidden) = len(x), h.shape
    dh, first = _start(grad_h, h), dense(h)
    back = None if grad is None else dense(grad)
    inputs, states = empty((rows, 3 * hidden)), empty((rows, 3 * hidden))
    recur = _packed(w_hh)
    order, starts, counts = _steps(sizes, reverse)
    parts = _parts(batch)
    _run.gru_grad(
        parts,
        parts,
        len(order),
        address(order),
        address(starts),
        address(counts),
        batch,
        hidden,
        0 if back is None else address(back),
        address(recur),
        address(first),
        address(dh),
        address(gates),
        address(out),
        address(inputs),
        address(states),
    )
    past = (out, h, sizes, reverse)
    found = _weight_grads(inputs, states, x, w_ih, past, has_bias, need)
    return found[0], dh, *found[1:]
