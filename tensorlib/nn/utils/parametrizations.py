"""Ready parametrizations: orthogonal, weight-normalised and spectrally normalised tensors."""

from __future__ import annotations

from typing import Any, TypeVar

import tensorlib
from tensorlib.nn import functional as F
from tensorlib.nn.conv import _ConvTransposeNd
from tensorlib.nn.module import Module
from tensorlib.nn.utils.parametrize import register_parametrization
from tensorlib.nn.utils.weight_norm import norm_except, normalized
from tensorlib.tensor import Tensor

__all__ = ["orthogonal", "spectral_norm", "weight_norm"]

M = TypeVar("M", bound=Module)
_MAPS = ("matrix_exp", "cayley", "householder")


def _tensor(module: Module, name: str) -> Tensor:
    weight = getattr(module, name, None)
    if not isinstance(weight, Tensor):
        raise ValueError(f"Module '{module}' has no parameter or buffer with name '{name}'")
    return weight


def orthogonal(
    module: M,
    name: str = "weight",
    orthogonal_map: str | None = None,
    *,
    use_trivialization: bool = True,
) -> M:
    """Make a matrix (or a batch of them) orthogonal: its columns or rows, the fewer of them.

    `orthogonal_map` is "matrix_exp", "cayley" or "householder"; with `use_trivialization` the
    tensor keeps its (orthogonalised) value and the map moves it from there. Lezcano-Casado, 2019.
    """
    weight = _tensor(module, name)
    if weight.dim() < 2:
        raise ValueError(
            f"Expected a matrix or batch of matrices. Got a tensor of {weight.dim()} dimensions."
        )
    if orthogonal_map is None:
        square = weight.shape[-2] == weight.shape[-1]
        orthogonal_map = "matrix_exp" if square or weight.is_complex() else "householder"
    if orthogonal_map not in _MAPS:
        raise ValueError(f"orthogonal_map has to be one of {_MAPS}. Got: {orthogonal_map}")
    made = _Orthogonal(weight, orthogonal_map, use_trivialization)
    return register_parametrization(module, name, made, unsafe=True)


class _Orthogonal(Module):
    base: Tensor

    def __init__(self, weight: Tensor, orthogonal_map: str, use_trivialization: bool) -> None:
        super().__init__()
        if weight.is_complex() and orthogonal_map == "householder":
            raise ValueError("The householder parametrization does not support complex tensors.")
        self.shape, self.orthogonal_map = weight.shape, orthogonal_map
        if use_trivialization:
            self.register_buffer("base", None)

    def forward(self, x: Tensor) -> Tensor:
        wide = x.shape[-2] < x.shape[-1]
        x = x.mT if wide else x
        q = self._reflections(x) if self.orthogonal_map == "householder" else self._map(x)
        if hasattr(self, "base"):
            q = tensorlib.matmul(self.base, q)
        return q.mT if wide else q

    def _map(self, x: Tensor) -> Tensor:
        """The exponential or Cayley map of the skew matrix whose lower part is `x`."""
        n, k = x.shape[-2:]
        x = x.tril()
        if n != k:
            x = tensorlib.cat([x, x.new_zeros(*x.shape[:-2], n, n - k)], -1)
        skew = x - x.mH
        if self.orthogonal_map == "matrix_exp":
            q = tensorlib.matrix_exp(skew)
        else:
            one = tensorlib.eye(n, dtype=skew.dtype, device=skew.device)
            q = tensorlib.linalg.solve(one - skew * 0.5, one + skew * 0.5)
        return q[..., :k] if n != k else q

    def _reflections(self, x: Tensor) -> Tensor:
        below = x.tril(-1)
        tau = 2.0 / (1.0 + (below * below).sum(-2))
        q = tensorlib.linalg.householder_product(below, tau)
        signs = x.diagonal(dim1=-2, dim2=-1).int().unsqueeze(-2)
        return q * signs

    @tensorlib.no_grad()
    def right_inverse(self, q: Tensor) -> Tensor:
        """The tensor that gives `q`."""
        if q.shape != self.shape:
            raise ValueError(
                f"Expected a matrix or batch of matrices of shape {self.shape}. Got a tensor of"
                f" shape {q.shape}."
            )
        wide = q.shape[-2] < q.shape[-1]
        tall = q.mT if wide else q
        n, k = tall.shape[-2:]
        if not hasattr(self, "base"):
            return self._reflected(tall, wide)
        if n != k:
            more = tensorlib.randn(*tall.shape[:-2], n, n - k, dtype=q.dtype, device=q.device)
            tall = _orthogonalized(tensorlib.cat([tall, more], -1))
        elif _is_orthogonal(tall):
            tall = tall.clone()
        else:
            tall = _orthogonalized(tall)
        self.base = tall
        start = tensorlib.zeros_like(q)
        start.diagonal(dim1=-2, dim2=-1).fill_(-1.0)
        return start

    def _reflected(self, tall: Tensor, wide: bool) -> Tensor:
        if self.orthogonal_map != "householder":
            raise NotImplementedError(
                "It is not possible to assign to the matrix exponential or the Cayley"
                " parametrizations when use_trivialization=False."
            )
        a, tau = tensorlib.geqrf(tall)
        signs = a.diagonal(dim1=-2, dim2=-1)
        signs.copy_(tensorlib.where(tau == 0, -signs.sign(), signs.sign()))
        found: Tensor = a.mT if wide else a
        return found


def _is_orthogonal(q: Tensor) -> bool:
    n, k = q.shape[-2:]
    one = tensorlib.eye(k, dtype=q.dtype, device=q.device)
    slack = 10.0 * n * tensorlib.finfo(q.dtype).eps
    return tensorlib.allclose(q.mH @ q, one, atol=slack)


def _orthogonalized(a: Tensor) -> Tensor:
    """The factor Q of a QR decomposition with positive diagonal of R: Haar-distributed for normal
    `a`.
    """
    x, tau = tensorlib.geqrf(a)
    q = tensorlib.linalg.householder_product(x, tau)
    result: Tensor = q * x.diagonal(dim1=-2, dim2=-1).sgn().unsqueeze(-2)
    return result


def weight_norm(module: M, name: str = "weight", dim: int | None = 0) -> M:
    """Compute a tensor from its length per index of `dim` (original0; None: one length) and its
    direction (original1). Salimans and Kingma, 2016.
    """
    register_parametrization(module, name, _WeightNorm(dim), unsafe=True)

    def rename(state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
        old = [f"{prefix}{name}_g", f"{prefix}{name}_v"]
        if all(key in state_dict for key in old):
            for i, key in enumerate(old):
                new = f"{prefix}parametrizations.{name}.original{i}"
                state_dict[new] = state_dict.pop(key)

    module._register_load_state_dict_pre_hook(rename)
    return module


class _WeightNorm(Module):
    def __init__(self, dim: int | None = 0) -> None:
        super().__init__()
        self.dim = -1 if dim is None else dim

    def forward(self, weight_g: Tensor, weight_v: Tensor) -> Tensor:
        return normalized(weight_v, weight_g, self.dim)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Length and direction of `weight`."""
        return norm_except(weight, self.dim), weight


def spectral_norm(
    module: M,
    name: str = "weight",
    n_power_iterations: int = 1,
    eps: float = 1e-12,
    dim: int | None = None,
) -> M:
    """Divide a tensor by its largest singular value as a matrix [size of `dim`, rest], found by
    `n_power_iterations` steps of the power method per training call. Miyato et al., 2018.
    """
    weight = _tensor(module, name)
    if dim is None:
        dim = 1 if isinstance(module, _ConvTransposeNd) else 0
    made = _SpectralNorm(weight, n_power_iterations, dim, eps)
    return register_parametrization(module, name, made)


class _SpectralNorm(Module):
    _u: Tensor
    _v: Tensor

    def __init__(
        self, weight: Tensor, n_power_iterations: int = 1, dim: int = 0, eps: float = 1e-12
    ) -> None:
        super().__init__()
        ndim = weight.dim()
        if not -ndim <= dim < ndim:
            raise IndexError(
                f"Dimension out of range (expected to be in range of [-{ndim}, {ndim - 1}] but got"
                f" {dim})"
            )
        if n_power_iterations <= 0:
            raise ValueError(
                "Expected n_power_iterations to be positive, but got"
                f" n_power_iterations={n_power_iterations}"
            )
        self.dim, self.eps = dim % ndim, eps
        if ndim > 1:
            self.n_power_iterations = n_power_iterations
            matrix = self._matrix(weight).detach()
            for key, size in zip(("_u", "_v"), matrix.shape, strict=True):
                start = matrix.new_empty(size).normal_(0, 1)
                self.register_buffer(key, F.normalize(start, dim=0, eps=eps))
            self._power_method(matrix, 15)

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.movedim(self.dim, 0).flatten(1)

    @tensorlib.no_grad()
    def _power_method(self, matrix: Tensor, steps: int) -> None:
        for _ in range(steps):
            self._u.copy_(F.normalize(matrix @ self._v, dim=0, eps=self.eps))
            self._v.copy_(F.normalize(matrix.H @ self._u, dim=0, eps=self.eps))

    def forward(self, weight: Tensor) -> Tensor:
        if weight.dim() == 1:
            return F.normalize(weight, dim=0, eps=self.eps)
        matrix = self._matrix(weight)
        if self.training:
            self._power_method(matrix, self.n_power_iterations)
        u, v = self._u.clone(), self._v.clone()  # the next step changes them in place
        result: Tensor = weight / tensorlib.vdot(u, matrix @ v)
        return result

    def right_inverse(self, value: Tensor) -> Tensor:
        """`value` itself, which is taken as normalised."""
        return value
