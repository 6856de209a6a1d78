"""Activations and their gradients over flat memory."""

from __future__ import annotations

from tensorlib.kernels.cpu import vector as v
from tensorlib.kernels.cpu.compiler import f32, i64, inner, ptr, task
from tensorlib.kernels.cpu.vector import (
    BYTES,
    above,
    below,
    both,
    exp,
    fma,
    less,
    load,
    load_part,
    select,
    settle,
    splat,
    store,
    store_part,
    stream,
)


def _forward(name, function):
    """The task `y[i] = function(x[i], a, b, c)` of one block."""
    body = inner(function)

    def run(
        block, worker, x: ptr, y: ptr, size: i64, length: i64, past: i64, a: f32, b: f32, c: f32
    ):
        k, m, n = splat(a), splat(b), splat(c)
        first = 4 * block * length
        last = min(first + 4 * length, 4 * size)
        whole = last - (last - first) % BYTES
        if past:
            for i in range(first, whole, BYTES):
                stream(y + i, body(load(x + i), k, m, n))
            settle(0)
        else:
            for i in range(first, whole, BYTES):
                store(y + i, body(load(x + i), k, m, n))
        if whole < last:
            rest = (last - whole) // 4
            store_part(y + whole, body(load_part(x + whole, rest), k, m, n), rest)

    run.__name__ = name
    return task(run)


def _gradient(name, function):
    """The task `y[i] = function(g[i], x[i], a, b, c)` of one block."""
    body = inner(function)

    def run(
        block, worker, g: ptr, x: ptr, y: ptr, size: i64, length: i64, past: i64,
        a: f32, b: f32, c: f32,
    ):  # fmt: skip
        k, m, n = splat(a), splat(b), splat(c)
        first = 4 * block * length
        last = min(first + 4 * length, 4 * size)
        whole = last - (last - first) % BYTES
        if past:
            for i in range(first, whole, BYTES):
                stream(y + i, body(load(g + i), load(x + i), k, m, n))
            settle(0)
        else:
            for i in range(first, whole, BYTES):
                store(y + i, body(load(g + i), load(x + i), k, m, n))
        if whole < last:
            rest = (last - whole) // 4
            found = body(load_part(g + whole, rest), load_part(x + whole, rest), k, m, n)
            store_part(y + whole, found, rest)

    run.__name__ = name
    return task(run)


# -- pieces with corners ---------------------------------------------------------------------------


def _relu(x, a, b, c):
    return above(x, splat(0.0))


def _relu_grad(g, y, a, b, c):
    return select(v.less_equal(y, splat(0.0)), splat(0.0), g)


def _hardtanh(x, low, high, c):
    return below(above(x, low), high)


def _hardtanh_grad(g, y, low, high, c):
    return select(both(less(low, y), less(y, high)), g, splat(0.0))


def _leaky_relu(x, slope, b, c):
    return select(less(splat(0.0), x), x, x * slope)


def _leaky_relu_grad(g, x, slope, b, c):
    return select(less(splat(0.0), x), g, g * slope)


def _hardswish(x, a, b, c):
    return x * below(above(x + splat(3.0), splat(0.0)), splat(6.0)) / splat(6.0)


def _hardswish_grad(g, x, a, b, c):
    inside = select(less(x, splat(3.0)), g * (x / splat(3.0) + splat(0.5)), g)
    return select(v.less_equal(x, splat(-3.0)), splat(0.0), inside)


def _hardsigmoid(x, a, b, c):
    return below(above(x + splat(3.0), splat(0.0)), splat(6.0)) / splat(6.0)


def _hardsigmoid_grad(g, x, a, b, c):
    inside = both(less(splat(-3.0), x), less(x, splat(3.0)))
    return select(inside, g / splat(6.0), splat(0.0))


# -- smooth ones -----------------------------------------------------------------------------------


def _sigmoid(x, a, b, c):
    return v.sigmoid(x)


def _sigmoid_grad(g, y, a, b, c):
    return g * (y * (splat(1.0) - y))


def _tanh(x, a, b, c):
    return v.tanh(x)


def _tanh_grad(g, y, a, b, c):
    return g * (splat(1.0) - y * y)


def _silu(x, a, b, c):
    return x / (splat(1.0) + exp(-x))


def _silu_grad(g, x, a, b, c):
    s = v.sigmoid(x)
    return g * (s * fma(x, splat(1.0) - s, splat(1.0)))


@inner
def _below(t):
    """Phi(-t), the normal distribution function, for t in [0, 6), and 0 at 6: e^p with a polynomial
    p for log Phi(-t) (of degree 9, the smallest largest error of Phi, by reweighted least squares).
    """
    s = t * t
    p = fma(splat(3.5131757e-07), t, splat(-6.5660097e-06))
    p = fma(p, s, fma(splat(5.160669e-05), t, splat(-1.9595132e-04)))
    p = fma(p, s, fma(splat(8.303835e-06), t, splat(4.806515e-03)))
    p = fma(p, s, fma(splat(-3.634636e-02), t, splat(-3.1830764e-01)))
    p = fma(p, s, fma(splat(-7.9788476e-01), t, splat(-6.931472e-01)))
    n = fma(p, splat(1.44269504088896341), splat(v._MAGIC))
    found = v.power(n) * (v._exp_rest(p, n) + splat(1.0))
    return select(v.equal(t, splat(6.0)), splat(0.0), found)


def _gelu(x, a, b, c):
    t = below(v.absolute(x), splat(6.0))
    # the second product is 0, and NaN at -inf as PyTorch's
    return above(x, splat(0.0)) - fma(t, _below(t), below(x, splat(0.0)) * splat(0.0))


def _gelu_grad(g, x, a, b, c):
    f = _below(below(v.absolute(x), splat(6.0)))
    cdf = select(less(splat(0.0), x), splat(1.0) - f, f)
    return g * fma(x * splat(0.3989422804014327), exp(x * x * splat(-0.5)), cdf)


@inner
def _bell(x):
    """tanh(u) of GELU as 1 - 2 / (e^(2 u) + 1): small only where it is added to 1."""
    u = x * fma(x * x, splat(0.0713548162726), splat(1.5957691216057308))
    return splat(1.0) / (splat(1.0) + exp(-u))


def _gelu_tanh(x, a, b, c):
    return x * _bell(x)


def _gelu_tanh_grad(g, x, a, b, c):
    s = _bell(x)  # (1 + t) / 2, so that 1 - t^2 = 4 s (1 - s)
    slope = fma(x * x, splat(0.2140644488178), splat(1.5957691216057308))
    return g * fma(x * slope, s * (splat(1.0) - s), s)


def _mish(x, a, b, c):
    e = exp(below(x, splat(20.0)))  # tanh(log(1 + e)) = n / (n + 2)
    n = e * (e + splat(2.0))
    return x * (n / (n + splat(2.0)))


def _mish_grad(g, x, a, b, c):
    e = exp(below(x, splat(20.0)))
    n = e * (e + splat(2.0))
    share = splat(1.0) / (n + splat(2.0))
    bend = below(x, splat(20.0)) * (splat(4.0) * e * (e + splat(1.0)) * share * share)
    return g * fma(n, share, bend)


def _softplus(x, beta, threshold, c):
    z = x * beta
    t = v.log1p(exp(-v.absolute(z)))
    return select(less(threshold, z), x, (above(z, splat(0.0)) + t) / beta)


def _softplus_grad(g, x, beta, threshold, c):
    z = x * beta
    return select(less(threshold, z), g, g * v.sigmoid(z))


def _elu(x, alpha, scale, slope):
    curve = scale * alpha * v.expm1(below(x, splat(0.0)) * slope)
    return select(less(splat(0.0), x), x * scale, curve)


def _elu_grad(g, x, alpha, scale, slope):
    curve = scale * alpha * slope * exp(below(x, splat(0.0)) * slope)
    return g * select(less(splat(0.0), x), scale, curve)


relu, relu_grad = _forward("relu", _relu), _gradient("relu_grad", _relu_grad)
hardtanh = _forward("hardtanh", _hardtanh)
hardtanh_grad = _gradient("hardtanh_grad", _hardtanh_grad)
leaky_relu = _forward("leaky_relu", _leaky_relu)
leaky_relu_grad = _gradient("leaky_relu_grad", _leaky_relu_grad)
hardswish = _forward("hardswish", _hardswish)
hardswish_grad = _gradient("hardswish_grad", _hardswish_grad)
hardsigmoid = _forward("hardsigmoid", _hardsigmoid)
hardsigmoid_grad = _gradient("hardsigmoid_grad", _hardsigmoid_grad)
sigmoid, sigmoid_grad = _forward("sigmoid", _sigmoid), _gradient("sigmoid_grad", _sigmoid_grad)
tanh, tanh_grad = _forward("tanh", _tanh), _gradient("tanh_grad", _tanh_grad)
silu, silu_grad = _forward("silu", _silu), _gradient("silu_grad", _silu_grad)
gelu, gelu_grad = _forward("gelu", _gelu), _gradient("gelu_grad", _gelu_grad)
gelu_tanh = _forward("gelu_tanh", _gelu_tanh)
gelu_tanh_grad = _gradient("gelu_tanh_grad", _gelu_tanh_grad)
mish, mish_grad = _forward("mish", _mish), _gradient("mish_grad", _mish_grad)
softplus = _forward("softplus", _softplus)
softplus_grad = _gradient("softplus_grad", _softplus_grad)
elu, elu_grad = _forward("elu", _elu), _gradient("elu_grad", _elu_grad)
