"""`torch.linalg`'s names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorlib.ops.contraction import multi_dot
from tensorlib.ops.decomposition import (
    LinAlgError,
    cholesky,
    cholesky_ex,
    eig,
    eigh,
    eigvals,
    eigvalsh,
    qr,
    svd,
    svdvals,
)
from tensorlib.ops.householder import householder_product
from tensorlib.ops.linalg import linalg_cross as cross
from tensorlib.ops.linalg import matmul, vecdot
from tensorlib.ops.lu import (
    ldl_factor,
    ldl_factor_ex,
    ldl_solve,
    lu,
    lu_factor,
    lu_factor_ex,
    lu_solve,
)
from tensorlib.ops.matrix_functions import det, matrix_exp, matrix_power, slogdet
from tensorlib.ops.matrix_functions import linalg_vander as vander
from tensorlib.ops.norm import cond, matrix_norm, vector_norm
from tensorlib.ops.norm import linalg_norm as norm
from tensorlib.ops.pseudoinverse import lstsq, matrix_rank, pinv
from tensorlib.ops.shape import diagonal as _diagonal
from tensorlib.ops.solver import (
    inv,
    inv_ex,
    solve,
    solve_ex,
    solve_triangular,
    tensorinv,
    tensorsolve,
)

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def diagonal(A: Tensor, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """The diagonals of matrices, by default of the last two dimensions; a view."""
    return _diagonal(A, offset, dim1, dim2)


__all__ = [
    "LinAlgError",
    "cholesky",
    "cholesky_ex",
    "cond",
    "cross",
    "det",
    "diagonal",
    "eig",
    "eigh",
    "eigvals",
    "eigvalsh",
    "householder_product",
    "inv",
    "inv_ex",
    "ldl_factor",
    "ldl_factor_ex",
    "ldl_solve",
    "lstsq",
    "lu",
    "lu_factor",
    "lu_factor_ex",
    "lu_solve",
    "matmul",
    "matrix_exp",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "multi_dot",
    "norm",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "solve_ex",
    "solve_triangular",
    "svd",
    "svdvals",
    "tensorinv",
    "tensorsolve",
    "vander",
    "vecdot",
    "vector_norm",
]
