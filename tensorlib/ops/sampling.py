"""New random tensors: uniform, normal, whole numbers, permutations, and draws by probability.

The numbers are PyTorch's for the same seed. Tensor methods that draw in place are in `draws`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from tensorlib import dtypes
from tensorlib.autograd.tape import wrap
from tensorlib.creation import empty_as, empty_like, finish, into, kind_of, refuse, size_of
from tensorlib.device import Array
from tensorlib.errors import ArgumentError, DTypeError, InvalidValueError, ShapeError
from tensorlib.ops import draws
from tensorlib.ops._common import broadcast_shapes, expect_tensor
from tensorlib.ops._formula import underivable
from tensorlib.ops.draws import chance, chances, constant, expect_floating, expect_plain, not_int
from tensorlib.ops.out import takes_exact_out, takes_out
from tensorlib.random import Generator, pick

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor


def _made(shape: tuple[int, ...], kind: Any, draw: Any, *args: float) -> Array:
    """A new contiguous array of drawn numbers."""
    count = math.prod(shape)
    if kind.kind == "c":
        part = np.dtype(f"f{kind.itemsize // 2}")
        return draw(2 * count, part, *args).view(kind).reshape(shape)  # type: ignore[no-any-return]  # any draw
    return draw(count, kind, *args).reshape(shape)  # type: ignore[no-any-return]  # any draw


def rand(
    *sizes: Any,
    size: Any = None,
    generator: Generator | None = None,
    out: Tensor | None = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform numbers in [0, 1)."""
    refuse("rand", layout, pin_memory)
    shape, kind = size_of("rand", sizes, size), kind_of(dtype, "rand", out)
    expect_floating("rand", kind, complex=True)
    result = finish(_made(shape, kind, pick(generator).uniform), requires_grad, device)
    return result if out is None else into("rand", out, result)


def randn(
    *sizes: Any,
    size: Any = None,
    generator: Generator | None = None,
    out: Tensor | None = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
) -> Tensor:
    """Normal numbers of mean 0 and deviation 1."""
    refuse("randn", layout, pin_memory)
    shape, kind = size_of("randn", sizes, size), kind_of(dtype, "randn", out)
    expect_floating("randn", kind, complex=True)
    std = 1 / math.sqrt(2) if kind.kind == "c" else 1.0
    result = finish(_made(shape, kind, pick(generator).normal, 0.0, std), requires_grad, device)
    return result if out is None else into("randn", out, result)


def randint(
    *limits: Any,
    low: Any = 0,
    high: Any = None,
    size: Any = None,
    generator: Generator | None = None,
    out: Tensor | None = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
) -> Tensor:
    """Integers in [low, high): `randint(low, high, size)` or `randint(high, size)`."""
    refuse("randint", layout, pin_memory)
    given = list(limits)
    if size is None and given:
        size = given.pop()
    low, high = _limits("randint", given, low, high)
    if not isinstance(size, list | tuple):
        raise ArgumentError("randint", f"argument 'size' must be tuple of ints, not {size!r}")
    shape = size_of("randint", (size,))
    kind = kind_of(dtypes.int64 if dtype is None and out is None else dtype, "randint", out)
    start, span = draws.whole_range(low, high, kind)
    array = pick(generator).integers(math.prod(shape), start, span).astype(kind, copy=False)
    result = finish(array.reshape(shape), requires_grad, device)
    return result if out is None else into("randint", out, result)


def _limits(where: str, given: list[Any], low: Any, high: Any) -> tuple[Any, Any]:
    """`low` and `high` from what was given by place: both of them, or `high`."""
    if given and high is None:
        high = given.pop()
    if given:
        low = given.pop()
    for name, value in (("low", low), ("high", high)):
        if not_int(value) or given:
            raise ArgumentError(
                where,
                f"argument '{name}' must be int, not {type(value).__name__}",
                f"{where}(high, ...) or {where}(low, high, ...)",
            )
    return low, high


def randperm(
    n: int,
    *,
    generator: Generator | None = None,
    out: Tensor | None = None,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool = False,
    requires_grad: bool = False,
) -> Tensor:
    """The numbers 0 to n-1 in random order."""
    refuse("randperm", layout, pin_memory)
    if not_int(n):
        raise ArgumentError("randperm", f"argument 'n' must be int, not {type(n).__name__}")
    if n < 0:
        raise ShapeError("randperm", f"n must be non-negative, got {n}")
    kind = kind_of(dtypes.int64 if dtype is None and out is None else dtype, "randperm", out)
    expect_plain("randperm", kind)
    if kind.kind == "b":
        raise DTypeError("randperm", "not implemented for tensorlib.bool", "numbers")
    most = (1 << dtypes.digits(kind)) + 1 if kind.kind in "fV" else dtypes.limits(kind)[1]
    if n > most:
        raise ShapeError("randperm", f"n={n} is too large for {dtypes.of(kind)}", f"up to {most}")
    array = pick(generator).permutation(int(n)).astype(kind, copy=False)
    result = finish(array, requires_grad, device)
    return result if out is None else into("randperm", out, result)


def rand_like(input: Tensor, *, generator: Generator | None = None, **options: Any) -> Tensor:
    """Uniform numbers in [0, 1) in the size and memory order of `input`; `options` as those of
    `empty_like`.
    """
    return _like("rand_like", input, options, lambda t: draws.uniform_(t, generator=generator))


def randn_like(input: Tensor, *, generator: Generator | None = None, **options: Any) -> Tensor:
    """Normal numbers in the size and memory order of `input`; `options` as those of
    `empty_like`.
    """
    return _like("randn_like", input, options, lambda t: draws.normal_(t, generator=generator))


def randint_like(
    input: Tensor,
    *limits: Any,
    low: Any = 0,
    high: Any = None,
    generator: Generator | None = None,
    **options: Any,
) -> Tensor:
    """Integers in [low, high) in the size of `input`: `randint_like(input, low, high)` or
    `randint_like(input, high)`; `options` as those of `empty_like`.
    """
    start, end = _limits("randint_like", list(limits), low, high)
    return _like(
        "randint_like", input, options, lambda t: draws.random_(t, start, end, generator=generator)
    )


def _like(where: str, input: Any, options: dict[str, Any], draw: Callable[[Tensor], Any]) -> Tensor:
    expect_tensor(where, "input", input)
    grad = options.pop("requires_grad", False)
    made = empty_like(input, **options)
    draw(made)
    return made.requires_grad_() if grad else made


# -- by mean and deviation -------------------------------------------------------------------------


def normal(
    mean: Any = 0.0,
    std: Any = 1.0,
    size: Any = None,
    *,
    generator: Generator | None = None,
    out: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Normal numbers: `normal(mean, std, size)` of numbers, or of tensors `mean`, `std`, or both,
    which broadcast. `options` as those of `empty`, with `size` only.
    """
    arrays = [hasattr(v, "array") for v in (mean, std)]
    if not any(arrays):
        if size is None:
            raise ArgumentError("normal", "neither a tensor nor a size given", "one of them")
        requires_grad = options.pop("requires_grad", False)
        kind = kind_of(options.pop("dtype", None), "normal", out)
        device = options.pop("device", None)
        refuse("normal", options.pop("layout", None), options.pop("pin_memory", False))
        _no_more("normal", options)
        made = finish(np.empty(size_of("normal", (size,)), kind), False, device)
        draws.normal_(made, mean, std, generator=generator)
        if requires_grad:
            made.requires_grad_()
        return made if out is None else into("normal", out, made)
    _no_more("normal", options)
    if size is not None:
        raise ArgumentError("normal", f"size {size} given with a tensor", "one of them")
    made = _normal_of(mean, std, arrays, generator)
    return made if out is None else into("normal", out, made)


def _no_more(where: str, options: dict[str, Any]) -> None:
    if options:
        raise ArgumentError(where, f"got an unexpected keyword argument {next(iter(options))!r}")


def _normal_of(mean: Any, std: Any, arrays: list[bool], generator: Generator | None) -> Tensor:
    if arrays[1]:
        deviation = std.array
        if deviation.dtype.kind == "c":
            raise ShapeError("normal", "expects standard deviation to be non-complex")
        if deviation.size and not deviation.min() >= 0:
            raise ShapeError("normal", "expects all elements of std >= 0.0", f"{deviation.min()}")
    shapes = [v.array.shape for v, is_array in zip((mean, std), arrays, strict=True) if is_array]
    kind = (mean if arrays[0] else std).array.dtype
    drawn = wrap(np.empty(broadcast_shapes(*shapes), kind))
    draws.normal_(drawn, 0, 1 if arrays[1] else std, generator=generator)
    values = drawn.array
    if arrays[1]:
        values = (values * std.array).astype(kind)
    values = (values + (mean.array if arrays[0] else kind.type(mean))).astype(kind)
    label = f"NormalBackward{1 if not arrays[1] else 2 if not arrays[0] else 3}"
    tensors = [v for v, is_array in zip((mean, std), arrays, strict=True) if is_array]
    return constant(values, label, *tensors)


# -- by probability --------------------------------------------------------------------------------


@takes_out
def bernoulli(
    input: Tensor, p: float | None = None, *, generator: Generator | None = None
) -> Tensor:
    """Ones with the probabilities in `input` (or with `p` everywhere)."""
    expect_tensor("bernoulli", "input", input)
    x, source = input.array, pick(generator)
    expect_plain("bernoulli", x.dtype)
    fresh = np.empty(x.shape, x.dtype)
    if p is not None:
        chance("bernoulli", p)
        draws.fill(fresh, lambda n, k, _: source.bernoulli(p, k, n))
        return constant(fresh, "BernoulliBackward2", input)
    found = chances("bernoulli", x, fresh)
    draws.fill(fresh, lambda n, k, _: source.bernoulli(found, k))
    return constant(fresh, "BernoulliBackward0", input)


@takes_exact_out
def multinomial(
    input: Tensor,
    num_samples: int,
    replacement: bool = False,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """Indices drawn with the weights in the rows of `input` ([n] or [m, n])."""
    expect_tensor("multinomial", "input", input)
    if not_int(num_samples):
        raise ArgumentError("multinomial", f"num_samples {num_samples!r} given", "an integer")
    x, source = input.array, pick(generator)
    _check_weights(x, num_samples, replacement)
    shape = (*x.shape[:-1], num_samples)
    if not math.prod(shape):
        return wrap(np.empty(shape, np.int64))
    if not (np.isfinite(x).all() and (x >= 0).all()):
        raise ShapeError(
            "multinomial", "probability tensor contains either `inf`, `nan` or element < 0"
        )
    if not (x.sum(-1) > 0).all():
        raise ShapeError(
            "multinomial", "invalid multinomial distribution (sum of probabilities <= 0)"
        )
    if not replacement or num_samples == 1:
        waits = empty_as(x, x.dtype)
        draws.fill(waits, lambda n, k, _: source.exponential(n, k))
        scores = x / waits
        if num_samples == 1:
            return wrap(np.argmax(scores, -1, keepdims=True))
        return wrap(np.argsort(-scores, -1, kind="stable")[..., :num_samples].copy())
    work = np.dtype(np.float32) if x.itemsize == 2 else x.dtype
    rows = np.cumsum(x.reshape(-1, x.shape[-1]), -1, dtype=work)
    rows = rows / rows[:, -1:]
    rows[:, -1] = 1
    chosen = source.uniform(len(rows) * num_samples, np.dtype(np.float64)).reshape(len(rows), -1)
    found = np.stack([np.searchsorted(r, d, "left") for r, d in zip(rows, chosen, strict=True)])
    return wrap(found.reshape(shape))


def _check_weights(x: Array, num_samples: int, replacement: bool) -> None:
    if x.ndim not in (1, 2):
        raise ShapeError("multinomial", f"prob_dist must be 1 or 2 dim, got shape {x.shape}")
    if x.dtype.kind not in "fV":
        raise ShapeError(
            "multinomial",
            f"only supports floating-point dtypes for input, got: {dtypes.of(x.dtype)}",
        )
    if num_samples <= 0:
        raise ShapeError("multinomial", f"cannot sample n_sample <= 0 samples, {num_samples}")
    if not replacement and num_samples > x.shape[-1]:
        raise ShapeError(
            "multinomial",
            f"cannot sample n_sample > prob_dist.size(-1) samples without replacement, "
            f"{num_samples} > {x.shape[-1]}",
        )
    if x.shape[-1] > 1 << 24:
        raise ShapeError("multinomial", f"number of categories {x.shape[-1]} cannot exceed 2^24")


def poisson(input: Tensor, generator: Generator | None = None) -> Tensor:
    """Poisson numbers with the rates in `input`. Hoermann (1993) from rate 10 on."""
    expect_tensor("poisson", "input", input)
    x = input.array
    expect_floating("poisson", x.dtype)
    if x.size and not (x >= 0).all():
        raise ShapeError("poisson", "invalid Poisson rate, expected rate to be non-negative")
    with pick(generator)._one_by_one() as draw:
        drawn = [_poisson(rate, draw) for rate in x.astype(np.float64).reshape(-1).tolist()]
    output = np.array(drawn, np.float64).astype(x.dtype).reshape(x.shape)
    return constant(output, "PoissonBackward0", input)


def _poisson(rate: float, draw: Callable[[], float]) -> int:
    if rate == 0:
        return 0
    if rate < 10:
        limit, product, count = math.exp(-rate), 1.0, 0
        while True:
            product *= draw()
            if product <= limit:
                return count
            count += 1
    root, log_rate = math.sqrt(rate), math.log(rate)
    b = 0.931 + 2.53 * root
    a = -0.059 + 0.02483 * b
    log_inverse = math.log(1.1239 + 1.1328 / (b - 3.4))
    accept = 0.9277 - 3.6224 / (b - 2)
    while True:
        u = draw() - 0.5
        v = draw()
        margin = 0.5 - abs(u)
        count = math.floor((2 * a / margin + b) * u + rate + 0.43) if margin else -1
        if margin >= 0.07 and v <= accept:
            return count
        if count < 0 or (margin < 0.013 and v > margin):
            continue
        left = _log(v) + log_inverse - math.log(a / (margin * margin) + b)
        if left <= -rate + count * log_rate - math.lgamma(count + 1):
            return count


def _log(value: float) -> float:
    return math.log(value) if value else -math.inf


def binomial(count: Tensor, prob: Tensor, generator: Generator | None = None) -> Tensor:
    """Binomial numbers: successes in `count` trials of probability `prob`, which broadcasts.

    Hoermann's BTRS (1993) where both outcomes are frequent, else by inversion.
    """
    for name, value in (("count", count), ("prob", prob)):
        expect_tensor("binomial", name, value)
        if value.array.dtype.kind not in "fV":
            raise InvalidValueError(
                "binomial", f"only supports floating-point dtypes for {name}, got: {value.dtype}"
            )
    n, p = count.array, prob.array
    if n.itemsize == 2:
        raise DTypeError("binomial", f"not implemented for {count.dtype}", "float32 or float64")
    if n.dtype != p.dtype:
        raise ShapeError("binomial", f"Found dtype {prob.dtype} but expected {count.dtype}")
    if broadcast_shapes(n.shape, p.shape) != n.shape:
        raise ShapeError(
            "binomial", f"output with shape {n.shape} doesn't match the shape of prob, {p.shape}"
        )
    with pick(generator)._one_by_one() as draw:
        pairs = zip(n.reshape(-1), np.broadcast_to(p, n.shape).reshape(-1), strict=True)
        drawn = [_binomial(*pair, draw) for pair in pairs]
    return underivable(np.array(drawn, n.dtype).reshape(n.shape), count, prob, name="binomial")


def _binomial(count: Any, prob: Any, draw: Callable[[], float]) -> Any:
    """One number, in the arithmetic of the tensors' own type where PyTorch's is."""
    kind = type(count)
    if not (count > 0 and prob > 0):
        return kind(0) if count == count and prob == prob else kind(np.nan)
    if prob >= 1:
        return count
    rare = prob if prob <= 0.5 else kind(1.0 - float(prob))
    sample = _btrs if count * rare >= 10 else _by_gaps
    found = sample(count, rare, draw)
    return found if prob <= 0.5 else count - found


def _by_gaps(count: Any, prob: Any, draw: Callable[[], float]) -> Any:
    scale, total, found = float(np.log1p(-prob)), 0.0, 0
    while True:
        total += math.ceil(_log(draw()) / scale)
        if total > count:
            return type(count)(found)
        found += 1


_TAIL = (
    0.0810614667953272, 0.0413406959554092, 0.0276779256849983, 0.02079067210376509,
    0.0166446911898211, 0.0138761288230707, 0.0118967099458917, 0.0104112652619720,
    0.00925546218271273, 0.00833056343336287,
)  # fmt: skip


def _stirling_tail(k: float) -> float:
    if k < len(_TAIL):
        return _TAIL[int(k)]
    square = (k + 1) * (k + 1)
    return (1.0 / 12 - (1.0 / 360 - 1.0 / 1260 / square) / square) / (k + 1)


def _btrs(count: Any, prob: Any, draw: Callable[[], float]) -> Any:
    kind, one = type(count), type(count)(1)
    deviation = float(np.sqrt(count * prob * (one - prob)))
    b = 1.15 + 2.53 * deviation
    a = -0.0873 + 0.0248 * b + 0.01 * float(prob)
    c = float(count * prob) + 0.5
    accept = 0.92 - 4.2 / b
    odds = float(prob / (one - prob))
    alpha = (2.83 + 5.1 / b) * deviation
    mode = float(np.floor((count + one) * prob))
    total = float(count)
    while True:
        u = draw() - 0.5
        v = draw()
        margin = 0.5 - abs(u)
        found = kind(math.floor((2 * a / margin + b) * u + c) if margin else -1)
        if found < 0 or found > count:
            continue
        if margin >= 0.07 and v <= accept:
            return found
        k, rest = float(found), float(count - found + one)
        bound = (
            (mode + 0.5) * math.log((mode + 1) / (odds * (total - mode + 1)))
            + float(count + one) * math.log((total - mode + 1) / rest)
            + (k + 0.5) * math.log(odds * rest / (k + 1))
            + _stirling_tail(mode)
            + _stirling_tail(total - mode)
            - _stirling_tail(k)
            - _stirling_tail(float(count - found))
        )
        if _log(v * alpha / (a / (margin * margin) + b)) <= bound:
            return found
