"""Random programs of operations, views, changes in place and no_grad blocks: every step succeeds or
fails as in torch, and values, versions, flags and gradients are the same.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

import tensorlib

KINDS = ["unary", "binary", "view", "view", "alone", "with", "with", "set", "detach", "clone"]
KINDS += ["part", "blind view", "blind change", "retain"]
UNARY = ["exp", "sigmoid", "neg", "sin", "relu", "tanh", "abs", "sqrt", "square"]
BINARY = ["add", "sub", "mul", "div"]
VIEWS = {
    "slice": lambda t: t[..., 1:],
    "row": lambda t: t[0],
    "half": lambda t: t[:1],
    "unsqueeze": lambda t: t.unsqueeze(0),
    "flat": lambda t: t.reshape(-1),
}
ALONE = ["exp_", "zero_", "neg_", "sigmoid_", "relu_", "sqrt_", "tanh_"]
WITH = ["add_", "mul_", "copy_", "sub_"]
PARTS = {
    "unbind": lambda t: t.unbind(),
    "split": lambda t: t.split(1),
    "chunk": lambda t: t.chunk(2),
}


def program(seed):
    """Steps as tuples: what, which tensors of the pool, which form."""
    draw = random.Random(seed)
    steps, count = [], 2
    for _ in range(draw.randint(3, 14)):
        kind = draw.choice(KINDS)
        forms = {"unary": UNARY, "binary": BINARY, "view": list(VIEWS), "alone": ALONE}
        forms |= {"with": WITH, "part": list(PARTS)}
        form = draw.choice(forms.get(kind, [None]))
        steps.append((kind, draw.randrange(count), draw.randrange(count), form))
        count += kind in ("unary", "binary", "view", "detach", "clone", "part", "blind view")
    return [*steps, *(("backward", draw.randrange(count), 0, None) for _ in range(2))]


def apply(lib, pool, kind, a, b, form):
    """Run one step; returns a new tensor for the pool, or None."""
    t, other = pool[a], pool[b]
    if kind == "unary":
        return getattr(t, form)()
    if kind == "binary":
        return getattr(t, form)(other)
    if kind == "view":
        return VIEWS[form](t)
    if kind == "part":
        return PARTS[form](t)[0]
    if kind in ("detach", "clone"):
        return getattr(t, kind)()
    if kind == "blind view":
        with lib.no_grad():
            return t.view(t.shape)
    if kind == "blind change":
        with lib.no_grad():
            t.mul_(1.5)
    elif kind == "alone":
        getattr(t, form)()
    elif kind == "with":
        getattr(t, form)(other)
    elif kind == "set":
        t[0] = other if other.dim() < t.dim() else 0.75
    elif kind == "retain":
        t.retain_grad()
    else:
        t.sum().backward()
    return None


def run(lib, steps):
    x = lib.tensor([[0.5, 1.5], [2.0, 0.7]], dtype=lib.float64, requires_grad=True)
    c = lib.tensor([[1.2, 0.3], [0.9, 2.2]], dtype=lib.float64)
    pool, log = [x, c], []
    for kind, a, b, form in steps:
        made = kind in ("unary", "binary", "view", "detach", "clone", "part", "blind view")
        try:
            result = apply(lib, pool, kind, a, b, form)
            log.append("ok" if result is None else (bool(result.requires_grad), result.dim()))
        except (RuntimeError, IndexError):
            log.append("refused")
            result = c.detach().clone()
        if made:
            pool.append(result)
    versions = [t._version for t in pool]
    values = [np.array(t.detach().tolist()) for t in pool]
    grads = None if x.grad is None else np.array(x.grad.tolist())
    return log, versions, values, grads


@pytest.mark.oracle
@pytest.mark.parametrize("start", range(0, 1000, 100))
def test_every_step_does_what_it_does_in_torch(start):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    for seed in range(start, start + 100):
        steps = program(seed)
        theirs, ours = run(torch, steps), run(tensorlib, steps)
        message = f"program {seed}: {steps}"
        assert ours[0] == theirs[0], message
        assert ours[1] == theirs[1], message
        assert (ours[3] is None) == (theirs[3] is None), message
        for one, other in zip(ours[2], theirs[2], strict=True):
            np.testing.assert_allclose(one, other, err_msg=message)
        if ours[3] is not None:
            np.testing.assert_allclose(ours[3], theirs[3], err_msg=message)
