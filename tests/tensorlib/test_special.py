"""torch.special beside torch: numbers at ordinary and extreme places, derivatives, refusals."""

import inspect

import numpy as np
import pytest

import tensorlib
from tensorlib.autograd import gradcheck, gradgradcheck

from .side import equal, refused_alike, torch_or_skip

PLACES = np.concatenate([np.linspace(-12, 12, 97), [0.0, -0.0, 1e-9, -1e-9, 60.0, -60.0, 1e4]])
LIMITS = np.array([np.inf, -np.inf, np.nan])
PAIRS = ("gammainc", "gammaincc", "xlog1py", "xlogy", "zeta")
POLYNOMIALS = tuple(name for name in tensorlib.special.__all__ if "_polynomial_" in name)
OTHERS = ("polygamma", "multigammaln", "softmax", "log_softmax", "logsumexp")
UNARY = tuple(n for n in tensorlib.special.__all__ if n not in (*POLYNOMIALS, *PAIRS, *OTHERS))
# name -> places where the derivative is smooth
SMOOTH = {
    "digamma": (0.3, 4.0),
    "entr": (0.2, 3.0),
    "erf": (-2.0, 2.0),
    "erfc": (-2.0, 2.0),
    "erfcx": (-2.0, 3.0),
    "erfinv": (-0.9, 0.9),
    "gammaln": (0.3, 4.0),
    "i0": (-3.0, 3.0),
    "i0e": (0.2, 3.0),
    "i1": (0.2, 3.0),
    "i1e": (0.2, 3.0),
    "log_ndtr": (-3.0, 3.0),
    "logit": (0.1, 0.9),
    "ndtr": (-2.0, 2.0),
    "ndtri": (0.1, 0.9),
    "sinc": (-2.3, 2.3),
}


def test_every_name_of_torch_special_is_there():
    torch = torch_or_skip()
    assert set(torch.special.__all__) <= set(tensorlib.special.__all__)


@pytest.mark.oracle
@pytest.mark.parametrize("name", UNARY)
def test_values_as_torch(name):
    values = np.concatenate([PLACES, LIMITS])
    torch = torch_or_skip()
    for kind, tolerance in (("float64", 1e-7), ("float32", 1e-5)):
        x = values.astype(kind)
        if kind == "float32":
            x = x[np.abs(x) < 13]  # torch's own periods are lost beyond
        mine = getattr(tensorlib.special, name)(tensorlib.tensor(x)).numpy()
        theirs = getattr(torch.special, name)(torch.tensor(x)).numpy()
        known = x != -60 if name == "airy_ai" else np.full(x.shape, True)
        np.testing.assert_allclose(mine[known], theirs[known], tolerance, tolerance)


@pytest.mark.oracle
@pytest.mark.parametrize("name", PAIRS)
def test_pairs_as_torch(name):
    grid = np.array([-2.0, -1.5, -0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 9.0, np.inf, -np.inf, np.nan])
    a, b = (x.ravel() for x in np.meshgrid(grid, grid))
    equal(lambda L, x, y: getattr(L.special, name)(x.detach(), y.detach()), [a, b])


@pytest.mark.oracle
@pytest.mark.parametrize("name", POLYNOMIALS)
def test_polynomials_as_torch(name):
    degrees = np.array([-1.0, 0, 1, 2, 2.7, 5, 6, 7, 9, 12, 30])
    x, n = (v.ravel() for v in np.meshgrid(np.append(np.linspace(-2, 2, 33), np.inf), degrees))
    equal(lambda L, x, n: getattr(L.special, name)(x, n), [x, n], tolerance=1e-9)
    x, n = x[np.abs(x) < 1], n[np.abs(x) < 1]
    equal(
        lambda L, x, n: getattr(L.special, name)(x, n),
        [x.astype("float32"), n.astype("float32")],
        tolerance=1e-4,
    )


@pytest.mark.oracle
@pytest.mark.parametrize("n", range(4))
def test_polygamma_as_torch(n):
    x = np.array([-2.7, -0.3, 0.0, 0.2, 1.0, 3.5, 40.0])
    equal(lambda L, x: L.special.polygamma(n, x), [x])
    equal(lambda L, x: x.polygamma(n), [x[3:]])


@pytest.mark.oracle
@pytest.mark.parametrize("p", [1, 2, 5])
def test_multigammaln_as_torch(p):
    equal(lambda L, x: L.special.multigammaln(x, p), [np.linspace(2.5, 9, 7)])


@pytest.mark.oracle
@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_as_torch(name):
    low, high = SMOOTH[name]
    x = np.append(np.linspace(low, high, 9), 0.0 if low < 0 < high else low)
    equal(lambda L, x: getattr(L.special, name)(x), [x])


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["xlogy", "xlog1py"])
def test_products_with_logarithms_have_torchs_derivatives(name):
    x = np.array([0.0, 0.0, 1.0, -2.0, 3.0])
    y = np.array([0.0, 2.0, 0.5, 1.0, 4.0])
    equal(lambda L, x, y: getattr(L.special, name)(x, y), [x, y], second=False)
    equal(lambda L, x, y: getattr(L.special, name)(x, y), [x[2:], y[2:]])


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["logaddexp", "logaddexp2"])
def test_log_sums_as_torch(name):
    x, y = np.array([0.0, -1e3, 3.0, np.inf]), np.array([1.0, 5.0, -2.0, 1.0])
    equal(lambda L, x, y: getattr(L, name)(x, y), [x, y], second=False)


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_are_those_of_differences(name):
    low, high = SMOOTH[name]
    x = np.linspace(low, high, 6)
    x = tensorlib.tensor(x[np.abs(x) > 0.05], requires_grad=True)
    function = getattr(tensorlib.special, name)
    assert gradcheck(function, [x], fast_mode=True)
    assert gradgradcheck(function, [x], fast_mode=True)


@pytest.mark.parametrize("name", ["gammainc", "gammaincc", "zeta"])
def test_the_derivative_by_the_order_is_refused_only_when_asked_for(name):
    order = tensorlib.tensor([2.5, 3.0], requires_grad=True)
    x = tensorlib.tensor([1.5, 2.0], requires_grad=True)
    y = getattr(tensorlib.special, name)(order, x).sum()
    (found,) = tensorlib.autograd.grad(y, x, retain_graph=True)
    assert found.isfinite().all()
    with pytest.raises(NotImplementedError, match="derivative"):
        y.backward()


@pytest.mark.parametrize("name", ["airy_ai", "bessel_j0", "modified_bessel_i0", POLYNOMIALS[0]])
def test_what_torch_does_not_derive_has_no_history(name):
    x = tensorlib.tensor([0.5], requires_grad=True)
    function = getattr(tensorlib.special, name)
    arguments = (x, x) if name in POLYNOMIALS else (x,)
    assert not function(*arguments).requires_grad


REFUSED = {
    "complex numbers": lambda L: L.special.i0(L.ones(2) + 0j),
    "half of a Bessel function": lambda L: L.special.bessel_j0(L.ones(2).half()),
    "half of zeta": lambda L: L.special.zeta(L.ones(2).half(), L.ones(2).half()),
    "integers of gammainc": lambda L: L.special.gammainc(L.ones(2).long(), L.ones(2).long()),
    "a number to igamma": lambda L: L.igamma(L.ones(2), 2),
    "a negative order": lambda L: L.special.polygamma(-1, L.ones(2)),
    "a float order": lambda L: L.special.polygamma(1.5, L.ones(2)),
    "no dimension": lambda L: L.mvlgamma(L.ones(2), 0),
    "shapes": lambda L: L.xlogy(L.ones(2), L.ones(3)),
    "a list": lambda L: L.special.erfcx([1.0]),
}


@pytest.mark.oracle
@pytest.mark.parametrize("what", REFUSED)
def test_refusals_are_torchs(what):
    refused_alike(REFUSED[what])


@pytest.mark.parametrize("name", tensorlib.special.__all__)
def test_every_function_says_what_it_is(name):
    function = getattr(tensorlib.special, name)
    assert inspect.getdoc(function)
    assert (
        name == "logsumexp"
        or "out" in inspect.signature(function).parameters
        or name
        in (
            "softmax",
            "log_softmax",
        )
    )


def test_in_place_and_given_results():
    x = tensorlib.tensor([0.5, 2.0])
    expected = tensorlib.special.gammaln(x)
    out = tensorlib.empty(2)
    assert tensorlib.special.gammaln(x, out=out) is out
    assert x.lgamma_() is x
    assert tensorlib.equal(x, expected)
    assert tensorlib.equal(out, expected)
