"""torch.linalg and the older names: beside torch, and by what factors and inverses are."""

import pickle

import numpy as np
import pytest

import tensorlib
from tensorlib.autograd import gradcheck, gradgradcheck

from .side import equal, normal, refused_alike

KINDS = ("float64", "complex128")


def square(kind, *batch, n=3, seed=0):
    """Matrices that are far from singular, of distinct eigenvalues."""
    return normal(*batch, n, n, kind=kind, seed=seed) + 2.5 * np.diag(np.arange(1.0, n + 1))


def definite(L, a):
    """A positive definite matrix made of any."""
    return a @ a.mH + L.eye(a.shape[-1], dtype=a.dtype)


def tall(kind, *batch):
    return normal(*batch, 4, 3, kind=kind, seed=2)


def wide(kind, *batch):
    return normal(*batch, 3, 4, kind=kind, seed=3)


def absolute(values):
    return [v.abs() for v in values]


# name -> (call, arrays of a kind); results do not depend on signs or phases
CASES = {
    "inv": (lambda L, a: L.linalg.inv(a), lambda k: [square(k, 2)]),
    "inv_ex": (lambda L, a: L.linalg.inv_ex(a).inverse, lambda k: [square(k)]),
    "det": (lambda L, a: L.linalg.det(a), lambda k: [square(k, 2)]),
    "slogdet": (lambda L, a: list(L.linalg.slogdet(a)), lambda k: [square(k, 2)]),
    "logdet": (lambda L, a: L.logdet(definite(L, a)), lambda k: [square(k)]),
    "solve": (lambda L, a, b: L.linalg.solve(a, b), lambda k: [square(k, 2), tall(k)[:3]]),
    "solve of a vector": (lambda L, a, b: L.linalg.solve(a, b), lambda k: [square(k), tall(k)[0]]),
    "solve from the right": (
        lambda L, a, b: L.linalg.solve(a, b, left=False),
        lambda k: [square(k), tall(k, 2)],
    ),
    "solve_triangular": (
        lambda L, a, b: L.linalg.solve_triangular(a, b, upper=False),
        lambda k: [square(k, 2), wide(k)],
    ),
    "solve_triangular, unit, right": (
        lambda L, a, b: L.linalg.solve_triangular(a, b, upper=True, left=False, unitriangular=True),
        lambda k: [square(k), tall(k)],
    ),
    "triangular_solve": (
        lambda L, a, b: list(L.triangular_solve(b, a, transpose=True)),
        lambda k: [square(k), wide(k)],
    ),
    "cholesky": (lambda L, a: L.linalg.cholesky(definite(L, a)), lambda k: [square(k, 2)]),
    "upper cholesky": (lambda L, a: L.cholesky(definite(L, a), upper=True), lambda k: [square(k)]),
    "cholesky_solve": (
        lambda L, a, b: L.cholesky_solve(b, L.tril(a)),
        lambda k: [square(k, 2), wide(k)],
    ),
    "cholesky_inverse": (lambda L, a: L.cholesky_inverse(L.triu(a), True), lambda k: [square(k)]),
    "qr": (lambda L, a: absolute(L.linalg.qr(a)), lambda k: [tall(k, 2)]),
    "qr of a wide matrix": (lambda L, a: absolute(L.qr(a)), lambda k: [wide(k)]),
    "eigh": (lambda L, a: absolute(L.linalg.eigh(a + a.mH)), lambda k: [square(k, 2)]),
    "eigvalsh": (lambda L, a: L.linalg.eigvalsh(a, "U"), lambda k: [square(k)]),
    "eig": (lambda L, a: absolute(L.linalg.eig(a)), lambda k: [square(k)]),
    "eigvals": (lambda L, a: L.linalg.eigvals(a).abs().sort().values, lambda k: [square(k)]),
    "svd": (lambda L, a: absolute(L.linalg.svd(a, False)), lambda k: [tall(k, 2)]),
    "svdvals": (lambda L, a: L.linalg.svdvals(a), lambda k: [wide(k)]),
    "torch.svd": (lambda L, a: absolute(L.svd(a)), lambda k: [wide(k)]),
    "lu": (lambda L, a: list(L.linalg.lu(a)), lambda k: [tall(k, 2)]),
    "lu of a wide matrix": (lambda L, a: list(L.linalg.lu(a)), lambda k: [wide(k)]),
    "lu_factor": (lambda L, a: L.linalg.lu_factor(a).LU, lambda k: [square(k, 2)]),
    "lu_solve": (
        lambda L, a, b: L.linalg.lu_solve(*L.linalg.lu_factor(a), b, adjoint=True),
        lambda k: [square(k), tall(k)[:3]],
    ),
    "lu_solve from the right": (
        lambda L, a, b: L.linalg.lu_solve(*L.linalg.lu_factor(a), b, left=False),
        lambda k: [square(k), tall(k)],
    ),
    "householder_product": (
        lambda L, a, t: L.linalg.householder_product(a, t),
        lambda k: [tall(k), tall(k)[0]],
    ),
    "ormqr": (
        lambda L, a, t, c: L.ormqr(a, t, c, left=False, transpose=True),
        lambda k: [tall(k), tall(k)[0], normal(2, 4, kind=k)],
    ),
    "pinv": (lambda L, a: L.linalg.pinv(a), lambda k: [wide(k, 2)]),
    "lstsq": (
        lambda L, a, b: list(L.linalg.lstsq(a, b, driver="gelsd"))[:2],
        lambda k: [tall(k), square(k, n=4)],
    ),
    "matrix_exp": (lambda L, a: L.linalg.matrix_exp(a / 4), lambda k: [square(k, 2)]),
    "matrix_power": (lambda L, a: L.linalg.matrix_power(a, -3), lambda k: [square(k)]),
    "multi_dot": (
        lambda L, a, b, c: L.linalg.multi_dot([a, b, c, b]),
        lambda k: [tall(k)[0], wide(k), tall(k)],
    ),
    "tensorsolve": (
        lambda L, a, b: L.linalg.tensorsolve(a.reshape(3, 3), b),
        lambda k: [square(k), tall(k)[0]],
    ),
    "vander": (lambda L, a: L.linalg.vander(a, N=4), lambda k: [tall(k)]),
    "cond": (lambda L, a: L.linalg.cond(a), lambda k: [square(k, 2)]),
    "cond by an inverse": (lambda L, a: L.linalg.cond(a, "fro"), lambda k: [square(k, 2)]),
    "cross": (lambda L, a, b: L.linalg.cross(a, b), lambda k: [tall(k), tall(k)[:1]]),
    "vecdot": (lambda L, a, b: L.linalg.vecdot(a, b, dim=0), lambda k: [tall(k), tall(k)[:, :1]]),
    "nuclear norm": (lambda L, a: L.linalg.norm(a, "nuc"), lambda k: [wide(k)]),
    "norm of order 3": (lambda L, a: L.linalg.vector_norm(a, 3, 1), lambda k: [wide(k)]),
    "norm of order -inf": (
        lambda L, a: L.linalg.matrix_norm(a, -float("inf"), (0, 2), True),
        lambda k: [tall(k, 2)],
    ),
    "addbmm": (
        lambda L, c, a, b: L.addbmm(c, a, b, beta=0.5, alpha=2),
        lambda k: [square(k), wide(k, 2), tall(k, 2)],
    ),
    "addr": (
        lambda L, a, u: L.addr(a, u, u, beta=0, alpha=3),
        lambda k: [square(k), tall(k)[0]],
    ),
    "einsum with numbers": (
        lambda L, a, b: L.einsum(a, [..., 0, 1], b, [1, 2], [2, ..., 0]),
        lambda k: [tall(k, 2), wide(k)],
    ),
    "tensordot over a size of one": (
        lambda L, a, b: L.tensordot(a, b, ([1], [0])),
        lambda k: [tall(k)[:, :1], wide(k)],
    ),
    "cov": (lambda L, a: L.cov(a, correction=0), lambda k: [wide(k)]),
    "corrcoef": (lambda L, a: L.corrcoef(a), lambda k: [wide(k)]),
    "renorm": (lambda L, a: L.renorm(a, 2, 0, 1.5), lambda k: [wide(k)]),
}
REAL = {
    "cdist": (lambda L, a, b: L.cdist(a, b, p=1.5), lambda k: [tall(k, 2), square(k)]),
    "cdist by a product": (
        lambda L, a, b: L.cdist(a, b),
        lambda k: [normal(30, 3, kind=k), square(k)],
    ),
    "pdist": (lambda L, a: L.pdist(a, float("inf")), lambda k: [tall(k)]),
    "trapezoid": (lambda L, y, x: L.trapezoid(y, x, dim=0), lambda k: [tall(k), tall(k)]),
    "cumulative_trapezoid": (
        lambda L, y: L.cumulative_trapezoid(y, dx=0.5),
        lambda k: [tall(k)],
    ),
}
ONCE = {"cdist", "pdist"}  # of which torch has no second derivative
NEVER = {"cond by an inverse"}  # whose gradient torch refuses: it changes a saved value in place
ALL = [(n, k) for n in CASES if n not in NEVER for k in KINDS] + [(n, "float64") for n in REAL]


@pytest.mark.oracle
@pytest.mark.parametrize(("name", "kind"), ALL, ids=[f"{n}-{k}" for n, k in ALL])
def test_as_torch(name, kind):
    call, arrays = {**CASES, **REAL}[name]
    equal(call, arrays(kind), second=name not in ONCE)


# torch symmetrises or fills these gradients: what is read of the input is less than what gets one
CONVENTIONS = {"eigvalsh", "cholesky_solve", "cholesky_inverse", "pdist", "norm of order -inf"}


@pytest.mark.parametrize("name", [n for n in CASES if n not in CONVENTIONS])
def test_derivatives_are_those_of_differences(name):
    call, arrays = CASES[name]
    given = [tensorlib.tensor(a).requires_grad_() for a in arrays("float64")]

    def function(*tensors):
        found = call(tensorlib, *tensors)
        found = found if isinstance(found, list) else [found]
        return tuple(one for one in found if one.requires_grad)

    assert gradcheck(function, given, fast_mode=True)
    assert gradgradcheck(function, given, fast_mode=True)


REFUSED = {
    "a singular inverse": lambda L: L.linalg.inv(L.zeros(2, 2)),
    "a singular system": lambda L: L.linalg.solve(L.zeros(2, 2), L.eye(2)),
    "an indefinite factor": lambda L: L.linalg.cholesky(-L.eye(2)),
    "a singular factor": lambda L: L.linalg.lu_factor(L.zeros(2, 2)),
    "no square": lambda L: L.linalg.det(L.ones(2, 3)),
    "a vector": lambda L: L.linalg.svd(L.ones(3)),
    "an integer matrix": lambda L: L.linalg.inv(L.ones(2, 2, dtype=L.int64)),
    "a half matrix": lambda L: L.linalg.qr(L.ones(2, 2, dtype=L.float16)),
    "dtypes that differ": lambda L: L.linalg.solve(L.eye(2), L.eye(2, dtype=L.float64)),
    "sizes that differ": lambda L: L.linalg.solve(L.eye(2), L.ones(3, 1)),
    "NaN in a decomposition": lambda L: L.linalg.svd(L.full((2, 2), float("nan"))),
    "NaN in eig": lambda L: L.linalg.eig(L.full((2, 2), float("nan"))),
    "an unknown triangle": lambda L: L.linalg.eigh(L.eye(2), "X"),
    "an unknown QR": lambda L: L.linalg.qr(L.eye(2), mode="thin"),
    "an unknown driver": lambda L: L.linalg.lstsq(L.eye(2), L.eye(2), driver="gelsz"),
    "a driver of CUDA": lambda L: L.linalg.svd(L.eye(2), driver="gesvd"),
    "LU without pivots": lambda L: L.linalg.lu(L.eye(2), pivot=False),
    "a float power": lambda L: L.linalg.matrix_power(L.eye(2), 0.5),
    "one matrix": lambda L: L.linalg.multi_dot([L.eye(2)]),
    "an unknown norm": lambda L: L.linalg.matrix_norm(L.eye(2), "max"),
    "an infinite norm of nothing": lambda L: L.linalg.vector_norm(L.zeros(0), float("inf")),
    "an integer norm": lambda L: L.linalg.norm(L.ones(2, dtype=L.int64)),
    "a narrowing norm": lambda L: L.linalg.vector_norm(L.ones(2).double(), dtype=L.float32),
    "three dims": lambda L: L.linalg.norm(L.ones(2, 2, 2), dim=(0, 1, 2)),
    "no product of bools": lambda L: L.mm(L.eye(2).bool(), L.eye(2).bool()),
    "a float scale of integers": lambda L: L.addr(
        L.ones(2, 2).long(), L.ones(2).long(), L.ones(2).long(), beta=0.5
    ),
    "contracted sizes": lambda L: L.tensordot(L.ones(2, 3), L.ones(2, 3), 1),
    "labels": lambda L: L.einsum("ij,jk->il", L.ones(2, 2), L.ones(2, 2)),
    "a number as operand": lambda L: L.einsum("i,i", L.ones(2), 2.0),
    "a removed name": lambda L: L.solve(L.eye(2), L.eye(2)),
    "the gradient of geqrf": lambda L: L.geqrf(L.eye(2).requires_grad_()).a.sum().backward(),
    "the gradient of a complete QR": lambda L: (
        L.linalg.qr(L.ones(3, 2).requires_grad_(), "complete").Q.sum().backward()
    ),
    "a gradient of a phase": lambda L: (
        L.linalg.eigh((L.eye(2) * L.arange(1.0, 3) + 1j * L.ones(2, 2).triu(1)).requires_grad_())
        .eigenvectors.imag.sum()
        .backward()
    ),
}


@pytest.mark.oracle
@pytest.mark.parametrize("what", REFUSED)
def test_refusals_are_torchs(what):
    refused_alike(REFUSED[what])


def test_a_singular_matrix_is_a_linalg_error_that_says_where():
    stack = tensorlib.stack([tensorlib.eye(2), tensorlib.zeros(2, 2)])
    with pytest.raises(tensorlib.linalg.LinAlgError, match=r"Batch element 1.*element 1 is zero"):
        tensorlib.linalg.inv(stack)
    assert issubclass(tensorlib.linalg.LinAlgError, RuntimeError)


def test_forms_with_info_report_instead_of_raising():
    singular = tensorlib.tensor([[1.0, 2.0], [2.0, 4.0]])
    assert tensorlib.linalg.inv_ex(singular).info.item() == 2
    assert tensorlib.linalg.solve_ex(singular, tensorlib.eye(2)).info.item() == 2
    assert tensorlib.linalg.lu_factor_ex(singular).info.item() == 2
    assert tensorlib.linalg.cholesky_ex(singular - 3).info.item() == 1
    with pytest.raises(tensorlib.linalg.LinAlgError):
        tensorlib.linalg.inv_ex(singular, check_errors=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 4, 3), (3, 4), (3, 3), (0, 3), (3, 0), (2, 0, 0)])
def test_factors_multiply_back(kind, shape):
    a = tensorlib.tensor(normal(*shape, kind=kind))
    L = tensorlib.linalg
    p, lower, upper = L.lu(a)
    u, s, vh = L.svd(a, full_matrices=False)
    found = [p @ lower @ upper, (u * s.unsqueeze(-2)) @ vh]
    for mode in ("reduced", "complete"):
        q, r = L.qr(a, mode)
        found.append(q @ r)
    if shape[-1] <= shape[-2]:
        h, tau = tensorlib.geqrf(a)
        found.append(L.householder_product(h, tau) @ h[..., : shape[-1], :].triu())
    for one in found:
        np.testing.assert_allclose(one.numpy(), a.numpy(), atol=1e-12)


@pytest.mark.parametrize(("hermitian", "kind"), [(False, k) for k in KINDS] + [(True, KINDS[1])])
def test_ldl_solves(hermitian, kind):
    a = tensorlib.tensor(square(kind, 2))
    a = a + (a.mH if hermitian else a.mT)
    b = tensorlib.tensor(tall(kind)[:3])
    factors = tensorlib.linalg.ldl_factor(a, hermitian=hermitian)
    x = tensorlib.linalg.ldl_solve(*factors, b.expand(2, 3, 3), hermitian=hermitian)
    np.testing.assert_allclose((a @ x).numpy(), b.expand(2, 3, 3).numpy(), atol=1e-10)


def test_determinant_of_a_singular_matrix_has_a_gradient():
    a = tensorlib.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=tensorlib.float64, requires_grad=True)
    tensorlib.linalg.det(a).backward()
    np.testing.assert_allclose(a.grad.numpy(), [[4, -2], [-2, 1]], atol=1e-12)


def test_results_have_names_and_travel():
    found = tensorlib.linalg.eigh(tensorlib.eye(2))
    assert found._fields == ("eigenvalues", "eigenvectors")
    assert str(found).startswith(
        "tensorlib.return_types.linalg_eigh(\neigenvalues=tensor([1., 1.])"
    )
    again = pickle.loads(pickle.dumps(found))
    assert type(again) is type(found)
    assert again.eigenvalues.tolist() == [1, 1]


def test_results_go_into_given_tensors():
    q, r = tensorlib.empty(0), tensorlib.empty(0)
    found = tensorlib.linalg.qr(tensorlib.eye(2), out=(q, r))
    assert found.Q is q
    np.testing.assert_allclose((q @ r).numpy(), np.eye(2), atol=1e-6)
    with pytest.raises(RuntimeError, match="dtype"):
        tensorlib.linalg.inv(tensorlib.eye(2), out=tensorlib.empty(2, 2).double())


@pytest.mark.oracle
def test_low_rank_draws_the_same_numbers():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    a = normal(20, 3) @ normal(3, 12, seed=1)
    results = []
    for library in (torch, tensorlib):
        library.manual_seed(4)
        u, s, v = library.pca_lowrank(library.tensor(a), q=3)
        results.append([np.abs(np.asarray(t)) for t in (u, s, v)])
    for mine, reference in zip(*results[::-1], strict=True):
        np.testing.assert_allclose(mine, reference, atol=1e-9)
