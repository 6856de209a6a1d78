"""Contractions of several dimensions or tensors: `einsum tensordot kron multi_dot chain_matmul`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tensorlib.errors import ArgumentError, InvalidValueError, ShapeError
from tensorlib.ops import elementwise, reduction, shape
from tensorlib.ops._common import called, dims_of, expect_tensor
from tensorlib.ops.linalg import matmul, same_dtype
from tensorlib.ops.out import direct, takes_exact_out, takes_out

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

_matmul = direct(matmul)


@takes_exact_out
def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """Sum of products over the last `dims` of `a` and first of `b`, or over given pairs of
    dimensions; one of a pair may have size 1.
    """
    expect_tensor("tensordot", "b", b)
    same_dtype("tensordot", a.array, b.array)
    left, right = _contracted(a, b, dims)
    for i, j in zip(left, right, strict=True):
        n, m = a.array.shape[i], b.array.shape[j]
        if n != m and n != 1 and m != 1:
            raise ShapeError(
                "tensordot",
                f"contracted dimensions need to match, but the first has size {n} in dim {i} and "
                f"the second has size {m} in dim {j}",
            )
        if n != m and m == 1:
            a = reduction.sum(a, i, True)
        elif n != m:
            b = reduction.sum(b, j, True)
    rest_a = [i for i in range(a.array.ndim) if i not in left]
    rest_b = [j for j in range(b.array.ndim) if j not in right]
    size = math.prod(a.array.shape[i] for i in left)
    x = shape.reshape(
        shape.permute(a, rest_a + left), (math.prod(a.array.shape[i] for i in rest_a), size)
    )
    y = shape.reshape(
        shape.permute(b, right + rest_b), (size, math.prod(b.array.shape[j] for j in rest_b))
    )
    return shape.reshape(
        _matmul(x, y), [a.array.shape[i] for i in rest_a] + [b.array.shape[j] for j in rest_b]
    )


@takes_exact_out
def inner(input: Tensor, other: Tensor) -> Tensor:
    """Sums of products over the last dimensions."""
    expect_tensor("inner", "other", other)
    same_dtype("inner", input.array, other.array)
    if not input.array.ndim or not other.array.ndim:
        return elementwise.mul(input, other)
    if input.array.shape[-1] != other.array.shape[-1]:
        raise ShapeError(
            "inner", f"the last sizes of {input.array.shape} and {other.array.shape} differ"
        )
    return direct(tensordot)(input, other, ([-1], [-1]))


def _contracted(a: Tensor, b: Tensor, dims: Any) -> tuple[list[int], list[int]]:
    """The dimensions of both that are summed over."""
    if hasattr(dims, "array"):
        dims = dims.tolist() if dims.array.size > 1 else int(dims.item())
    if isinstance(dims, int):
        if not 0 <= dims <= min(a.array.ndim, b.array.ndim):
            raise ShapeError("tensordot", f"dims={dims}", f"0 to {min(a.array.ndim, b.array.ndim)}")
        return list(range(a.array.ndim - dims, a.array.ndim)), list(range(dims))
    if not isinstance(dims, list | tuple) or len(dims) != 2:
        raise ShapeError("tensordot", f"dims={dims!r}", "a number or two lists of dimensions")
    if any(isinstance(d, int) for d in dims):
        raise ArgumentError("tensordot", f"dims={dims!r}", "a number or two lists of dimensions")
    left = list(dims_of(dims[0], a.array.ndim, "tensordot"))
    right = list(dims_of(dims[1], b.array.ndim, "tensordot"))
    if len(left) != len(right):
        raise ShapeError("tensordot", f"dims={dims!r}", "two lists of the same length")
    return left, right


def einsum(*args: Any) -> Tensor:
    """Sums of products in Einstein's notation: `einsum("bij,bjk->bik", a, b)`, or with lists of
    numbers after each operand: `einsum(a, [0, 1], b, [1, 2], [0, 2])`.
    """
    if len(args) < 2:
        raise InvalidValueError("einsum", f"{len(args)} arguments", "an equation and operands")
    if hasattr(args[0], "array"):
        equation = ",".join("".join(map(_letter, labels)) for labels in args[1::2])
        if len(args) % 2:
            equation += "->" + "".join(map(_letter, args[-1]))
        tensors = list(args[: len(args) // 2 * 2 : 2])
    else:
        equation, tensors = args[0], list(args[1:])
        if not isinstance(equation, str):
            raise ArgumentError("einsum", f"equation must be str, not {type(equation).__name__}")
        if len(tensors) == 1 and isinstance(tensors[0], list | tuple):
            tensors = list(tensors[0])
    inputs, output = _parse_einsum(equation, tensors)
    current, labels = _einsum_single(tensors[0], inputs[0])
    for position in range(1, len(tensors)):
        later = set().union(output, *inputs[position + 1 :])
        other, others = _einsum_single(tensors[position], inputs[position])
        current, labels = _einsum_pair(current, labels, other, others, later)
    drop = [i for i, c in enumerate(labels) if c not in output]
    if drop:
        current = reduction.sum(current, drop)
        labels = [c for c in labels if c in output]
    return shape.permute(current, [labels.index(c) for c in output]) if labels else current


def _letter(number: Any) -> str:
    """The letter of a numbered label."""
    if number is Ellipsis:
        return "..."
    if not 0 <= number < 52:
        raise InvalidValueError("einsum", f"label {number}", "within the valid range [0, 52)")
    return chr(ord("A") + number) if number < 26 else chr(ord("a") + number - 26)


def _parse_einsum(equation: str, tensors: list[Any]) -> tuple[list[list[str]], list[str]]:
    """Labels per operand and of the result; an ellipsis becomes private labels."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(tensors):
        raise ShapeError(
            "einsum", f"{equation!r} names {len(terms)} operands, {len(tensors)} given"
        )
    widths = []
    for term, x in zip(terms, tensors, strict=True):
        expect_tensor("einsum", "operands", x)
        letters = term.replace("...", "")
        if not all(c.isascii() and c.isalpha() for c in letters):
            raise ShapeError(
                "einsum", f"invalid subscript in {equation!r}", "letters, ',', '->' and '...'"
            )
        extra = x.array.ndim - len(letters)
        if extra < 0 or (extra and "..." not in term):
            raise ShapeError(
                "einsum",
                f"{term!r} has {len(letters)} labels for a tensor of shape {x.array.shape}",
            )
        widths.append(extra)
    wide = max(widths, default=0)

    def labels(term: str, extra: int) -> list[str]:
        dots = [f".{i}" for i in range(wide - extra, wide)]
        before, mark, after = term.partition("...")
        return [*before, *(dots if mark else []), *after]

    inputs = [labels(t, e) for t, e in zip(terms, widths, strict=True)]
    if arrow:
        result = labels(right, wide)
    else:
        flat = [c for part in inputs for c in part]
        result = sorted({c for c in flat if c.startswith(".")}) + sorted(
            c for c in set(flat) if flat.count(c) == 1 and not c.startswith(".")
        )
    sizes: dict[str, int] = {}
    for part, x in zip(inputs, tensors, strict=True):
        for c, n in zip(part, x.array.shape, strict=True):
            if sizes.setdefault(c, n) not in (n, 1) and n != 1:
                raise ShapeError(
                    "einsum", f"label {c!r} has sizes {sizes[c]} and {n} in {equation!r}"
                )
            sizes[c] = max(sizes[c], n) if n else 0
    for c in result:
        if c not in sizes or result.count(c) > 1:
            raise ShapeError(
                "einsum", f"output label {c!r} of {equation!r}", "a label of an input, once"
            )
    return inputs, result


def _einsum_single(x: Tensor, labels: list[str]) -> tuple[Tensor, list[str]]:
    """Take diagonals of repeated labels."""
    labels = list(labels)
    for c in list(dict.fromkeys(labels)):
        while labels.count(c) > 1:
            i = labels.index(c)
            j = labels.index(c, i + 1)
            if x.array.shape[i] != x.array.shape[j]:
                raise ShapeError("einsum", f"label {c!r} is repeated, sizes {x.array.shape}")
            x = shape.diagonal(x, 0, i, j)
            del labels[j], labels[i]
            labels.append(c)
    return x, labels


def _einsum_pair(
    a: Tensor, la: list[str], b: Tensor, lb: list[str], later: set[str]
) -> tuple[Tensor, list[str]]:
    """Contract two operands into one by a batched matrix product."""
    for operand in (0, 1):  # labels that only one has and nobody needs are summed first
        x, own, other = ((a, la, lb), (b, lb, la))[operand]
        drop = [i for i, c in enumerate(own) if c not in other and c not in later]
        if drop:
            x, own = reduction.sum(x, drop), [c for c in own if c in other or c in later]
        if operand == 0:
            a, la = x, own
        else:
            b, lb = x, own
    size_a, size_b = (
        dict(zip(la, a.array.shape, strict=True)),
        dict(zip(lb, b.array.shape, strict=True)),
    )
    both = [c for c in la if c in lb]
    batch = [c for c in both if c in later]
    summed = [c for c in both if c not in later]
    only_a, only_b = [c for c in la if c not in lb], [c for c in lb if c not in la]
    for c in summed:  # a broadcast size 1 in a summed label
        if size_a[c] != size_b[c]:
            n = max(size_a[c], size_b[c])
            a = shape.expand(a, [n if k == c else -1 for k in la])
            b = shape.expand(b, [n if k == c else -1 for k in lb])
            size_a[c] = size_b[c] = n
    x = shape.permute(a, [la.index(c) for c in batch + only_a + summed])
    y = shape.permute(b, [lb.index(c) for c in batch + summed + only_b])
    k = math.prod(size_a[c] for c in summed)
    x = shape.reshape(x, [size_a[c] for c in batch] + [math.prod(size_a[c] for c in only_a), k])
    y = shape.reshape(y, [size_b[c] for c in batch] + [k, math.prod(size_b[c] for c in only_b)])
    z = _matmul(x, y)
    lead = list(z.array.shape[: len(batch)])
    z = shape.reshape(z, lead + [size_a[c] for c in only_a] + [size_b[c] for c in only_b])
    return z, batch + only_a + only_b


@takes_out
@called("UnsafeViewBackward0")
def kron(input: Tensor, other: Tensor) -> Tensor:
    """Kronecker product."""
    n = max(input.array.ndim, other.array.ndim)
    a = shape.reshape(input, (1,) * (n - input.array.ndim) + input.array.shape)
    b = shape.reshape(other, (1,) * (n - other.array.ndim) + other.array.shape)
    wide = elementwise.mul(
        shape.reshape(a, [s for d in a.array.shape for s in (d, 1)]),
        shape.reshape(b, [s for d in b.array.shape for s in (1, d)]),
    )
    return shape.reshape(wide, [p * q for p, q in zip(a.array.shape, b.array.shape, strict=True)])


@takes_exact_out
def multi_dot(tensors: Sequence[Tensor]) -> Tensor:
    """Product of several matrices, in the order that costs least; the first and last may be
    vectors (T. Cormen et al., Introduction to Algorithms, 15.2).
    """
    if not isinstance(tensors, list | tuple):
        raise ArgumentError("linalg.multi_dot", f"{type(tensors).__name__} given", "tensors")
    if len(tensors) < 2:
        raise ShapeError("linalg.multi_dot", f"{len(tensors)} tensors given", "at least two")
    for place, one in enumerate(tensors):
        expect_tensor("linalg.multi_dot", f"tensors[{place}]", one)
        same_dtype("linalg.multi_dot", tensors[0].array, one.array)
        vector = place in (0, len(tensors) - 1) and one.array.ndim == 1
        if one.array.ndim != 2 and not vector:
            raise ShapeError(
                "linalg.multi_dot",
                f"tensor {place} has {one.array.ndim} dimensions",
                "matrices, and vectors at the ends",
            )
    chain = list(tensors)
    if len(chain) == 2:
        return _matmul(chain[0], chain[1])
    first, last = chain[0].array.ndim == 1, chain[-1].array.ndim == 1
    if first:
        chain[0] = shape.unsqueeze(chain[0], 0)
    if last:
        chain[-1] = shape.unsqueeze(chain[-1], 1)
    for a, b in itertools.pairwise(chain):
        if a.array.shape[1] != b.array.shape[0]:
            raise ShapeError(
                "linalg.multi_dot", f"{a.array.shape} and {b.array.shape} cannot be multiplied"
            )
    result = _product(chain, _cheapest_cuts(chain), 0, len(chain) - 1)
    ends = [(0, first), (1, last)]
    for place in [d for d, vector in ends[::-1] if vector]:
        result = shape.squeeze(result, place)
    return result


def _cheapest_cuts(chain: Sequence[Tensor]) -> list[list[int]]:
    """For each first and last factor, after which one to cut."""
    sizes = [chain[0].array.shape[0], *(x.array.shape[1] for x in chain)]
    count = len(chain)
    cost = [[0] * count for _ in range(count)]
    cuts = [[0] * count for _ in range(count)]
    for length in range(1, count):
        for i in range(count - length):
            j = i + length
            cost[i][j], cuts[i][j] = min(
                (cost[i][k] + cost[k + 1][j] + sizes[i] * sizes[k + 1] * sizes[j + 1], k)
                for k in range(i, j)
            )
    return cuts


def _product(chain: Sequence[Tensor], cuts: list[list[int]], i: int, j: int) -> Tensor:
    if i == j:
        return chain[i]
    k = cuts[i][j]
    return _matmul(_product(chain, cuts, i, k), _product(chain, cuts, k + 1, j))


def chain_matmul(*matrices: Tensor, out: Any = None) -> Tensor:
    """`linalg.multi_dot` of matrices given one by one."""
    for one in matrices:
        expect_tensor("chain_matmul", "matrices", one)
        if one.array.ndim != 2:
            raise ShapeError("chain_matmul", f"a factor of shape {one.array.shape}", "matrices")
    if len(matrices) == 1:
        return matrices[0]
    return multi_dot(list(matrices), out=out) if out is not None else multi_dot(list(matrices))  # type: ignore[call-arg]  # out= is added by the decorator
