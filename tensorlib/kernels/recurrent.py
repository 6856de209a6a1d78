"""One direction of one recurrent layer over a whole sequence, and backward through time.

Rows are sorted by step: `sizes[t]` sequences, never more than at the step before, are present at
step t, so that the first rows of a state belong to the sequences still running. All steps' input
projections, and all gradients of weights, are one matrix product each; a step is one product with
the hidden weights and a few passes over memory that stays in cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tensorlib.device import array_namespace
from tensorlib.kernels import kernel
from tensorlib.kernels.normalization import column_sums

Sizes = tuple[int, ...]


def _steps(sizes: Sizes, reverse: bool) -> list[tuple[slice, int]]:
    """The rows of each step and their number, in the order of computation."""
    found, start = [], 0
    for size in sizes:
        found.append((slice(start, start + size), size))
        start += size
    return found[::-1] if reverse else found


def _past(rows: Any, first: Any, steps: list[tuple[slice, int]], k: int) -> Any:
    """The state that the k-th step started from: rows of the step before it, or of `first`."""
    size = steps[k][1]
    if k == 0:
        return first[:size]
    before, known = steps[k - 1]
    found = rows[before][:size]
    if known >= size:
        return found
    return array_namespace(rows).concatenate([found, first[known:size]])


def _all_past(rows: Any, first: Any, steps: list[tuple[slice, int]], reverse: bool) -> Any:
    """`_past` of all steps, sorted as `rows`."""
    found = [_past(rows, first, steps, k) for k in range(len(steps))]
    return array_namespace(rows).concatenate(found[::-1] if reverse else found)


def _blocks(rows: Any, count: int) -> Any:
    """The memory of [size, count * H] rows as [count, size, H]: each gate in one piece."""
    return rows.reshape(count, len(rows), rows.shape[1] // count)


def _columns(rows: Any, count: int) -> Any:
    """[size, count * H] rows seen as [count, size, H]."""
    return rows.reshape(len(rows), count, rows.shape[1] // count).swapaxes(0, 1)


def _start(grad: Any, like: Any) -> Any:
    """The gradient of the last state, to be changed in place; zeros where there is none."""
    xp = array_namespace(like)
    return xp.zeros(like.shape, like.dtype) if grad is None else grad.copy(order="C")


def _weight_grads(
    gates: Any, hidden_gates: Any, x: Any, w_ih: Any, before: Any, has_bias: bool, need: Any
) -> tuple[Any, ...]:
    """Gradients of input, weights and biases from those of both projections of all steps."""
    need_x, need_w = need
    back = gates @ w_ih if need_x else None
    if not need_w:
        return back, None, None, None, None
    biases = (None, None)
    if has_bias:
        sums = column_sums(gates)
        biases = (sums, sums if hidden_gates is gates else column_sums(hidden_gates))
    return back, gates.T @ x, hidden_gates.T @ before, *biases


SMALL = (4, (3, 2, 2))  # hidden size, and how many sequences are present at each step
EQUAL = (37, (14, 14, 14, 14))
FALLING = (16, (29, 22, 22, 5, 1))


def _arrays(gates: int, states: int, has_bias: bool, sizes: Any = SMALL) -> list[Any]:
    rng = np.random.default_rng(0)
    hidden, counts = sizes

    def draw(*shape: int) -> Any:
        return (rng.standard_normal(shape) / 2).astype(np.float32)

    weights = [draw(hidden * gates, 3), draw(hidden * gates, hidden)]
    weights += [draw(hidden * gates), draw(hidden * gates)] if has_bias else [None, None]
    first = (draw(counts[0], hidden) for _ in range(states))
    return [draw(sum(counts), 3), counts, *first, *weights]


def _grads_of(states: int, sizes: Any = SMALL) -> list[Any]:
    rng = np.random.default_rng(1)
    hidden, counts = sizes
    shapes = [(sum(counts), hidden)] + [(counts[0], hidden)] * states
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


# -- LSTM ------------------------------------------------------------------------------------------


def _lstm_samples() -> list[tuple[Any, ...]]:
    project = (np.random.default_rng(2).standard_normal((4, 4)) / 2).astype(np.float32)
    return [
        (*_arrays(4, 2, True), None, False),
        (*_arrays(4, 2, False), None, True),
        (*_arrays(4, 2, True), project, True),
        (*_arrays(4, 2, True, EQUAL), None, False),
        (*_arrays(4, 2, True, EQUAL), None, True),
        (*_arrays(4, 2, True, FALLING), None, False),
        (*_arrays(4, 2, False, FALLING), None, True),
    ]


@kernel(_lstm_samples)
def lstm(
    x: Any,
    sizes: Sizes,
    h: Any,
    c: Any,
    w_ih: Any,
    w_hh: Any,
    b_ih: Any,
    b_hh: Any,
    w_hr: Any,
    reverse: bool,
) -> tuple[Any, ...]:
    """`(out, h_n, c_n, gates, cells)`: the gates after their activations, per step in `_blocks`
    of input, forget, cell, output; the cells of all steps.
    """
    xp = array_namespace(x)
    hidden = w_hh.shape[0] // 4
    # sigmoid(v) = tanh(v / 2) / 2 + 1/2, so that one tanh serves all gates; halving is exact
    scale = xp.full(4 * hidden, 0.5, x.dtype)
    scale[2 * hidden : 3 * hidden] = 1
    gates = x @ (w_ih.T * scale)
    if b_ih is not None:
        gates += (b_ih + b_hh) * scale
    recur = xp.multiply(w_hh.T, scale, order="C")
    cells = xp.empty((len(x), hidden), x.dtype)
    out = xp.empty((len(x), h.shape[1]), x.dtype)
    h, c = h.copy(order="C"), c.copy(order="C")
    wide, short = xp.empty((len(h), 4 * hidden), x.dtype), xp.empty_like(c)
    for place, size in _steps(sizes, reverse):
        sums, memory, work = wide[:size], c[:size], short[:size]
        xp.matmul(h[:size], recur, out=sums)
        sums += gates[place]
        gate = np.tanh(_columns(sums, 4), out=_blocks(gates[place], 4))
        for sigmoid in (gate[:2], gate[3]):
            sigmoid *= 0.5
            sigmoid += 0.5
        memory *= gate[1]
        memory += np.multiply(gate[0], gate[2], out=work)
        cells[place] = memory
        np.tanh(memory, out=work)
        work *= gate[3]
        if w_hr is not None:
            work = work @ w_hr.T
        out[place] = h[:size] = work
    return out, h, c, gates, cells


def _lstm_grad_samples() -> list[tuple[Any, ...]]:
    found = []
    for sample in _lstm_samples():
        x, sizes, h, c, w_ih, w_hh, b_ih, _, w_hr, reverse = sample
        out, _, _, gates, cells = lstm.reference(*sample)
        saved = (w_hr, reverse, b_ih is not None, out, gates, cells)
        rest = (x, sizes, h, c, w_ih, w_hh, *saved)
        grads = _grads_of(2, (h.shape[1], sizes))
        found.append((*grads, *rest, (True, True)))
        found.append((None, *grads[1:], *rest, (False, True)))
        found.append((grads[0], None, None, *rest, (True, False)))
    return found


@kernel(_lstm_grad_samples)
def lstm_grad(
    grad: Any,
    grad_h: Any,
    grad_c: Any,
    x: Any,
    sizes: Sizes,
    h: Any,
    c: Any,
    w_ih: Any,
    w_hh: Any,
    w_hr: Any,
    reverse: bool,
    has_bias: bool,
    out: Any,
    gates: Any,
    cells: Any,
    need: tuple[bool, bool],
) -> tuple[Any, ...]:
    """Gradients of `(x, h, c, w_ih, w_hh, b_ih, b_hh, w_hr)`; a gradient of None is zero, `need`
    says whether those of x and of the weights are wanted.
    """
    xp = array_namespace(x)
    hidden, steps = w_hh.shape[0] // 4, _steps(sizes, reverse)
    dh, dc = _start(grad_h, h), _start(grad_c, c)
    dgates = xp.empty_like(gates)
    inner, outer = xp.empty_like(cells), xp.empty_like(out)  # what was projected, and its gradient
    slopes, short = xp.empty((2, 4 * len(h), hidden), x.dtype), xp.empty_like(dc)
    for k in range(len(steps) - 1, -1, -1):
        place, size = steps[k]
        gate, past, memory, work = (
            _blocks(gates[place], 4),
            dh[:size],
            dc[:size],
            short[:size],
        )
        slope, back = (part[: 4 * size].reshape(4, size, hidden) for part in slopes)
        if grad is not None:
            past += grad[place]
        level = np.tanh(cells[place])
        down = past
        if w_hr is not None:
            outer[place] = past
            np.multiply(gate[3], level, out=inner[place])
            down = past @ w_hr
        np.multiply(down, level, out=back[3])
        level *= level
        np.subtract(1, level, out=level)
        level *= np.multiply(down, gate[3], out=work)
        memory += level
        np.multiply(memory, gate[2], out=back[0])
        np.multiply(memory, _past(cells, c, steps, k), out=back[1])
        np.multiply(memory, gate[0], out=back[2])
        memory *= gate[1]
        np.multiply(gate, gate, out=slope)
        np.subtract(gate[:2], slope[:2], out=slope[:2])
        np.subtract(1, slope[2], out=slope[2])
        np.subtract(gate[3], slope[3], out=slope[3])
        np.multiply(back, slope, out=_columns(dgates[place], 4))
        xp.matmul(dgates[place], w_hh, out=past)
    before = _all_past(out, h, steps, reverse)
    found = _weight_grads(dgates, dgates, x, w_ih, before, has_bias, need)
    project = outer.T @ inner if w_hr is not None and need[1] else None
    return found[0], dh, dc, *found[1:], project


# -- GRU -------------------------------------------------------------------------------------------


def _gru_samples() -> list[tuple[Any, ...]]:
    found = []
    for sizes in (SMALL, EQUAL, FALLING):
        found.append((*_arrays(3, 1, True, sizes), False))
        found.append((*_arrays(3, 1, False, sizes), True))
    return found


@kernel(_gru_samples)
def gru(
    x: Any,
    sizes: Sizes,
    h: Any,
    w_ih: Any,
    w_hh: Any,
    b_ih: Any,
    b_hh: Any,
    reverse: bool,
) -> tuple[Any, ...]:
    """`(out, h_n, gates)`: per step in `_blocks` reset, update, new and what the hidden state
    adds to new.
    """
    xp = array_namespace(x)
    hidden = w_hh.shape[1]
    scale = xp.ones(3 * hidden, x.dtype)
    scale[: 2 * hidden] = 0.5  # sigmoid(v) = tanh(v / 2) / 2 + 1/2
    projected = x @ (w_ih.T * scale)
    if b_ih is not None:
        projected += b_ih * scale
        added = b_hh * scale
    recur = xp.multiply(w_hh.T, scale, order="C")
    gates = xp.empty((len(x), 4 * hidden), x.dtype)
    out, h = xp.empty((len(x), hidden), x.dtype), h.copy(order="C")
    wide, short = xp.empty((len(h), 3 * hidden), x.dtype), xp.empty_like(h)
    for place, size in _steps(sizes, reverse):
        sums, past, work = wide[:size], h[:size], short[:size]
        xp.matmul(past, recur, out=sums)
        if b_ih is not None:
            sums += added
        here, mine = _columns(projected[place], 3), _columns(sums, 3)
        gate = _blocks(gates[place], 4)
        gate[3] = mine[2]
        sigmoid, new = gate[:2], gate[2]
        np.add(here[:2], mine[:2], out=sigmoid)
        np.tanh(sigmoid, out=sigmoid)
        sigmoid *= 0.5
        sigmoid += 0.5
        np.multiply(gate[0], gate[3], out=work)
        work += here[2]
        np.tanh(work, out=new)
        past -= new
        past *= gate[1]
        past += new
        out[place] = past
    return out, h, gates


def _gru_grad_samples() -> list[tuple[Any, ...]]:
    found = []
    for sample in _gru_samples():
        x, sizes, h, w_ih, w_hh, b_ih, _, reverse = sample
        out, _, gates = gru.reference(*sample)
        rest = (x, sizes, h, w_ih, w_hh, reverse, b_ih is not None, out, gates)
        grads = _grads_of(1, (h.shape[1], sizes))
        found.append((*grads, *rest, (True, True)))
        found.append((None, *grads[1:], *rest, (False, True)))
        found.append((*grads, *rest, (True, False)))
    return found


@kernel(_gru_grad_samples)
def gru_grad(
    grad: Any,
    grad_h: Any,
    x: Any,
    sizes: Sizes,
    h: Any,
    w_ih: Any,
    w_hh: Any,
    reverse: bool,
    has_bias: bool,
    out: Any,
    gates: Any,
    need: tuple[bool, bool],
) -> tuple[Any, ...]:
    """Gradients of `(x, h, w_ih, w_hh, b_ih, b_hh)`; see `lstm_grad`."""
    xp = array_namespace(x)
    hidden, steps = w_hh.shape[1], _steps(sizes, reverse)
    dh = _start(grad_h, h)
    inputs = xp.empty((len(x), 3 * hidden), x.dtype)  # gradients of the projections of x
    states = xp.empty_like(inputs)  # and of those of the hidden state
    slopes, short = xp.empty((2, 3 * len(h), hidden), x.dtype), xp.empty_like(dh)
    for k in range(len(steps) - 1, -1, -1):
        place, size = steps[k]
        gate, past, work = _blocks(gates[place], 4), dh[:size], short[:size]
        slope, back = (part[: 3 * size].reshape(3, size, hidden) for part in slopes)
        if grad is not None:
            past += grad[place]
        np.subtract(_past(out, h, steps, k), gate[2], out=back[1])
        back[1] *= past
        np.multiply(past, gate[1], out=work)
        np.subtract(past, work, out=back[2])
        np.multiply(gate[:3], gate[:3], out=slope)
        np.subtract(gate[:2], slope[:2], out=slope[:2])
        np.subtract(1, slope[2], out=slope[2])
        back[2] *= slope[2]
        np.multiply(back[2], gate[3], out=back[0])
        back[:2] *= slope[:2]
        _columns(inputs[place], 3)[...] = back
        back[2] *= gate[0]
        _columns(states[place], 3)[...] = back
        xp.matmul(states[place], w_hh, out=past)
        past += work
    before = _all_past(out, h, steps, reverse)
    found = _weight_grads(inputs, states, x, w_ih, before, has_bias, need)
    return found[0], dh, *found[1:]


# -- plain RNN -------------------------------------------------------------------------------------


def _rnn_samples() -> list[tuple[Any, ...]]:
    return [
        (*_arrays(1, 1, True), relu, reverse) for relu, reverse in ((False, False), (True, True))
    ] + [(*_arrays(1, 1, False), False, True)]


@kernel(_rnn_samples)
def rnn(
    x: Any,
    sizes: Sizes,
    h: Any,
    w_ih: Any,
    w_hh: Any,
    b_ih: Any,
    b_hh: Any,
    relu: bool,
    reverse: bool,
) -> tuple[Any, Any]:
    """`(out, h_n)` of the layer whose state is tanh, or relu, of the sum of both projections."""
    xp = array_namespace(x)
    out = x @ w_ih.T
    if b_ih is not None:
        out += b_ih + b_hh
    recur, h = xp.ascontiguousarray(w_hh.T), h.copy(order="C")
    for place, size in _steps(sizes, reverse):
        now, past = out[place], h[:size]
        now += past @ recur
        if relu:
            np.maximum(now, 0, out=now)
        else:
            np.tanh(now, out=now)
        past[...] = now
    return out, h


def _rnn_grad_samples() -> list[tuple[Any, ...]]:
    found = []
    for sample in _rnn_samples():
        x, sizes, h, w_ih, w_hh, b_ih, _, relu, reverse = sample
        out, _ = rnn.reference(*sample)
        rest = (x, sizes, h, w_ih, w_hh, relu, reverse, b_ih is not None, out)
        found.append((*_grads_of(1), *rest, (True, True)))
        found.append((_grads_of(1)[0], None, *rest, (False, True)))
        found.append((*_grads_of(1), *rest, (True, False)))
    return found


@kernel(_rnn_grad_samples)
def rnn_grad(
    grad: Any,
    grad_h: Any,
    x: Any,
    sizes: Sizes,
    h: Any,
    w_ih: Any,
    w_hh: Any,
    relu: bool,
    reverse: bool,
    has_bias: bool,
    out: Any,
    need: tuple[bool, bool],
) -> tuple[Any, ...]:
    """Gradients of `(x, h, w_ih, w_hh, b_ih, b_hh)`; see `lstm_grad`."""
    xp = array_namespace(x)
    steps = _steps(sizes, reverse)
    dh, inner = _start(grad_h, h), xp.empty_like(out)
    for place, size in reversed(steps):
        now, back, past = out[place], inner[place], dh[:size]
        if grad is not None:
            past += grad[place]
        if relu:
            np.multiply(past, now > 0, out=back)
        else:
            np.multiply(now, now, out=back)
            np.subtract(1, back, out=back)
            back *= past
        xp.matmul(back, w_hh, out=past)
    found = _weight_grads(inner, inner, x, w_ih, _all_past(out, h, steps, reverse), has_bias, need)
    return found[0], dh, *found[1:]
