"""The Mersenne Twister (Matsumoto and Nishimura, 1998), word for word as NumPy's and PyTorch's."""

from __future__ import annotations

import numba
import numpy as np
from numba import types

from tensorlib.kernels.cpu.compiler import f32, i64, ptr, vectorised, vectorised_task

WORDS = 624
_CHUNK = 16 * WORDS

_UPPER, _LOWER, _MATRIX = np.uint32(0x80000000), np.uint32(0x7FFFFFFF), np.uint32(0x9908B0DF)
_ONE, _NONE = np.uint32(1), np.uint32(0)


@vectorised
def _twist(old, new):
    """The next state."""
    for i in range(227):
        y = (old[i] & _UPPER) | (old[i + 1] & _LOWER)
        new[i] = old[i + 397] ^ (y >> _ONE) ^ (_MATRIX if y & _ONE else _NONE)
    for i in range(227, 454):
        y = (old[i] & _UPPER) | (old[i + 1] & _LOWER)
        new[i] = new[i - 227] ^ (y >> _ONE) ^ (_MATRIX if y & _ONE else _NONE)
    for i in range(454, 623):
        y = (old[i] & _UPPER) | (old[i + 1] & _LOWER)
        new[i] = new[i - 227] ^ (y >> _ONE) ^ (_MATRIX if y & _ONE else _NONE)
    y = (old[623] & _UPPER) | (new[0] & _LOWER)
    new[623] = new[396] ^ (y >> _ONE) ^ (_MATRIX if y & _ONE else _NONE)


@vectorised
def _tempered(state, first, last, out, at):
    """Words `first` to `last` of a state, as they are drawn, to `out[at:]`."""
    for i in range(last - first):
        y = state[first + i]
        y ^= y >> np.uint32(11)
        y ^= (y << np.uint32(7)) & np.uint32(0x9D2C5680)
        y ^= (y << np.uint32(15)) & np.uint32(0xEFC60000)
        out[at + i] = y ^ (y >> np.uint32(18))


@vectorised
def _draw(a, b, turned, position, out, count):
    """Put `count` words into `out`. The state is in `a` or, `turned`, in `b`; returns where it is
    then, and the position in it.
    """
    at = 0
    while at < count:
        if position == WORDS:
            if turned:
                _twist(b, a)
            else:
                _twist(a, b)
            turned, position = 1 - turned, 0
        last = min(WORDS, position + count - at)
        _tempered(b if turned else a, position, last, out, at)
        at += last - position
        position = last
    return turned, position


@vectorised_task
def words(block, worker, key: ptr, position: i64, out: ptr, count: i64):
    """`count` words; `key` holds the state before and after, and room for another."""
    a = _at(key)
    b = _at(key + 4 * WORDS)
    turned, _ = _draw(a, b, 0, position, _at(out), count)
    if turned:
        for i in range(WORDS):
            a[i] = b[i]


@vectorised_task
def bernoulli(
    block, worker, key: ptr, position: i64, out: ptr, count: i64, limit: i64, one: f32, chunk: ptr
):
    """`one` where a draw of 53 bits is below `limit`, 0 elsewhere; `chunk` has room for words."""
    a = _at(key)
    b = _at(key + 4 * WORDS)
    held = _at(chunk)
    y = _at_f32(out)
    high_limit, low_limit = np.uint32(limit >> 32), np.uint32(limit & 0xFFFFFFFF)
    turned = 0
    done = 0
    while done < count:
        some = min(_CHUNK // 2, count - done)
        turned, position = _draw(a, b, turned, position, held, 2 * some)
        for i in range(some):
            high, low = held[2 * i] & np.uint32(0x1FFFFF), held[2 * i + 1]
            below = (high < high_limit) | ((high == high_limit) & (low < low_limit))
            y[done + i] = one if below else np.float32(0.0)
        done += some
    if turned:
        for i in range(WORDS):
            a[i] = b[i]


@numba.extending.intrinsic
def _at(context, address):
    def generate(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint32)(types.int64), generate


@numba.extending.intrinsic
def _at_f32(context, address):
    def generate(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.int64), generate
