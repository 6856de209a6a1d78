"""Attention: every argument, next to torch's."""

import numpy as np
import pytest

import tensorlib

from .inputs import Bound, b, f, flatten, restart, s

restart(24)

ROW = np.arange(6) < np.array([[3], [6], [0], [1], [6]])  # of the queries, one sees no key
Q, K, V = f(2, 4, 5, 8), f(2, 4, 6, 8), f(2, 4, 6, 3)


class Mask:
    """A boolean mask, or with `added` a floating one."""

    def __init__(self, array, added=False):
        self.array, self.added = array, added

    def bind(self, library, dtype):
        if not self.added:
            return library.tensor(self.array)
        return library.tensor(np.where(self.array, 0.5, -np.inf).astype(dtype))


ATTENTION = {
    "4 dimensions": s(Q, K, V),
    "2 dimensions": s(f(5, 8), f(6, 8), f(6, 3)),
    "3 dimensions": s(f(4, 5, 8), f(4, 6, 8), f(4, 6, 3), is_causal=True),
    "5 dimensions": s(f(2, 1, 2, 5, 4), f(2, 1, 2, 6, 4), f(2, 1, 2, 6, 4), dropout_p=0.5),
    "broadcast": s(f(1, 4, 5, 8), f(2, 1, 6, 8), f(4, 6, 3)),
    "causal, more queries": s(f(7, 4), f(3, 4), f(3, 4), is_causal=True),
    "causal, more keys": s(f(3, 4), f(7, 4), f(7, 4), is_causal=True, dropout_p=0.25),
    "boolean mask": s(Q, K, V, b(5, 6)),
    "boolean mask of each head": s(Q, K, V, b(2, 4, 5, 6), 0.2),
    "broadcast mask": s(Q, K, V, b(2, 1, 1, 6)),
    "floating mask": s(Q, K, V, attn_mask=f(5, 6)),
    "floating row": s(Q, K, V, attn_mask=f(1, 6), scale=0.3),
    "a row without keys": s(Q, K, V, Mask(ROW)),
    "a row of minus infinity": s(Q, K, V, Mask(ROW, added=True)),
    "dropout": s(Q, K, V, dropout_p=0.4),
    "dropout of all": s(Q, K, V, dropout_p=1.0),
    "scale": s(Q, K, V, scale=-0.7),
    "scale 0": s(Q, K, V, scale=0.0),
    "shared heads": s(Q, f(2, 2, 6, 8), f(2, 2, 6, 3), enable_gqa=True),
    "shared heads, 3 dimensions": s(f(4, 5, 8), f(1, 6, 8), f(2, 6, 3), enable_gqa=True),
    "shared heads and mask": s(Q, f(2, 2, 6, 8), f(2, 2, 6, 3), b(5, 6), enable_gqa=True),
    "no queries": s(f(2, 0, 4), f(2, 3, 4), f(2, 3, 4)),
    "no keys": s(f(2, 3, 4), f(2, 0, 4), f(2, 0, 4)),
    "empty vectors": s(f(2, 3, 0), f(2, 3, 0), f(2, 3, 4)),
}


def results(library, sample, dtype):
    """Outputs, first and second gradients of a random projection, as arrays."""
    args, kwargs = sample
    args = tuple(a.bind(library, dtype) if isinstance(a, Mask) else a for a in args)
    bound = Bound(library, (args, kwargs), dtype, grad=True)
    library.manual_seed(7)
    output = library.nn.functional.scaled_dot_product_attention(*bound.args, **bound.kwargs)
    rng = np.random.default_rng(3)

    def projected(tensors):
        return sum(
            (t * library.tensor(rng.standard_normal(tuple(t.shape)).astype(dtype))).sum()
            for t in tensors
        )

    first = library.autograd.grad(
        projected([output]), bound.leaves, create_graph=True, materialize_grads=True
    )
    second = [None] * len(bound.leaves)
    total = projected(first)
    if total.requires_grad:
        second = library.autograd.grad(total, bound.leaves, materialize_grads=True)
    return [t if t is None else t.detach().numpy() for t in (output, *first, *second)]


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.filterwarnings("ignore")  # torch's own
def test_attention_equals_torchs(name, dtype):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = results(torch, ATTENTION[name], dtype)
    tolerance = 2e-5 if dtype == "float32" else 1e-9
    for one, other in zip(results(tensorlib, ATTENTION[name], dtype), expected, strict=True):
        if one is None or other is None:
            assert one is None or not one.any()
            assert other is None or not other.any()
        else:
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, tolerance, tolerance)


@pytest.mark.oracle
def test_half_precision_is_rounded_once():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    args, _ = ATTENTION["4 dimensions"]
    bound = [Bound(t, (args, {}), "float16").args for t in (tensorlib, torch)]
    mask = np.linspace(0, 1, 30, dtype=np.float32).reshape(5, 6)
    found, expected = (
        t.nn.functional.scaled_dot_product_attention(*x, t.tensor(mask))
        for t, x in zip((tensorlib, torch), bound, strict=True)
    )
    assert found.dtype is tensorlib.float16
    np.testing.assert_allclose(found.numpy(), expected.numpy(), 2e-3, 2e-3)


def attend(t, *shapes, dtypes=("float32",) * 3, **kwargs):
    x = [t.zeros(shape, dtype=getattr(t, d)) for shape, d in zip(shapes, dtypes, strict=True)]
    return t.nn.functional.scaled_dot_product_attention(*x, **kwargs)


HEADS = ((2, 4, 5, 8), (2, 3, 6, 8), (2, 3, 6, 8))
REFUSED = {
    "a number": lambda t: t.nn.functional.scaled_dot_product_attention(
        1, t.zeros(2, 2), t.zeros(2, 2)
    ),
    "scale by place": lambda t: t.nn.functional.scaled_dot_product_attention(
        *[t.zeros(2, 2)] * 3, None, 0.0, False, 0.5
    ),
    "one dimension": lambda t: attend(t, (3,), (3,), (3,)),
    "sizes": lambda t: attend(t, (2, 5, 8), (2, 6, 7), (2, 6, 8)),
    "number of values": lambda t: attend(t, (2, 5, 8), (2, 6, 8), (2, 5, 8)),
    "types": lambda t: attend(t, *[(2, 5, 8)] * 3, dtypes=("float32", "float32", "float64")),
    "integers": lambda t: attend(t, *[(2, 5, 8)] * 3, dtypes=("int64",) * 3),
    "complex": lambda t: attend(t, *[(2, 5, 8)] * 3, dtypes=("complex64",) * 3),
    "mask and causal": lambda t: attend(
        t, *[(2, 5, 8)] * 3, attn_mask=t.zeros(5, 5), is_causal=True
    ),
    "mask of integers": lambda t: attend(
        t, *[(2, 5, 8)] * 3, attn_mask=t.zeros(5, 5, dtype=t.int64)
    ),
    "wide mask": lambda t: attend(t, *[(2, 5, 8)] * 3, attn_mask=t.zeros(5, 5, dtype=t.float64)),
    "mask size": lambda t: attend(t, *[(2, 5, 8)] * 3, attn_mask=t.zeros(4, 5)),
    "larger mask": lambda t: attend(t, *[(2, 5, 8)] * 3, attn_mask=t.zeros(3, 2, 5, 5)),
    "dropout": lambda t: attend(t, *[(2, 5, 8)] * 3, dropout_p=1.5),
    "heads": lambda t: attend(t, *HEADS),
    "heads to share": lambda t: attend(t, *HEADS, enable_gqa=True),
    "no heads to share": lambda t: attend(t, *[(5, 8)] * 3, enable_gqa=True),
}


@pytest.mark.oracle
@pytest.mark.parametrize("name", REFUSED)
def test_refusals_are_torchs(name):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    with pytest.raises(Exception) as theirs:  # noqa: PT011  # its type is what is compared
        REFUSED[name](torch)
    with pytest.raises(theirs.type):
        REFUSED[name](tensorlib)


@pytest.mark.oracle
@pytest.mark.parametrize("need_weights", [True, False])
def test_given_keys_and_values_equal_torchs(need_weights):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    shapes = [(4, 2, 6), (5, 2, 6), (5, 2, 6), (18, 6), (18,), (6, 6), (6,), (4, 3, 3), (4, 3, 3)]
    arrays = [np.random.default_rng(1).standard_normal(shape) for shape in shapes]

    def run(t):
        q, k, v, packed, bias, out, out_bias, *static = (t.tensor(a) for a in arrays)
        return t.nn.functional.multi_head_attention_forward(
            *(q, k, v, 6, 2, packed, bias, None, None, True, 0.5, out, out_bias, False),
            need_weights=need_weights,
            static_k=static[0],
            static_v=static[1],
        )

    for one, other in zip(flatten(run(tensorlib)), flatten(run(torch)), strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), 1e-9)


def test_given_keys_of_another_size_are_refused():
    x = tensorlib.zeros(4, 2, 6)
    with pytest.raises(AssertionError, match=r"a static key .* \(4, 3, 2\); \(4, S, 3\)"):
        tensorlib.nn.functional.multi_head_attention_forward(
            *(x, x, x, 6, 2, tensorlib.zeros(18, 6), None, None, None, False, 0.0),
            tensorlib.zeros(6, 6),
            None,
            static_k=tensorlib.zeros(4, 3, 2),
        )


def test_a_mask_that_hides_nothing_changes_nothing():
    tensorlib.manual_seed(0)
    q, k, v = (tensorlib.randn(2, 3, 4) for _ in range(3))
    attend_to = tensorlib.nn.functional.scaled_dot_product_attention
    plain = attend_to(q, k, v)
    tensorlib.testing.assert_close(
        attend_to(q, k, v, tensorlib.ones(3, 3, dtype=tensorlib.bool)), plain
    )
    tensorlib.testing.assert_close(attend_to(q, k, v, tensorlib.zeros(3, 3)), plain)
    tensorlib.testing.assert_close(attend_to(q, k, v, is_causal=True)[:, 2], plain[:, 2])
