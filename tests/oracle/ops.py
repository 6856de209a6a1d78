"""Every operation of torch's `op_db`, on torch's own samples: value, gradient, second derivative,
method, in-place and `out=` forms, and what both refuse.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.testing._internal import common_methods_invocations as database
from torch.testing._internal.opinfo.core import SampleInput

import tensorlib

from . import convert
from .convert import Absent
from .result import Result

CORE = set((Path(__file__).parents[1] / "tensorlib/ops/core_ops.txt").read_text().split())
DTYPES = (
    torch.float32,
    torch.float64,
    torch.int64,
    torch.bool,
    torch.float16,
    torch.complex64,
)
# Names of torch's own machinery rather than of its users.
INTERNAL = ("_", "jiterator", "torch.", "sparse.", "to_sparse", "native_", "cudnn_", "masked.")
INTERNAL_NAMES = {
    "max_pool2d_with_indices_backward",
    "native_dropout_backward",
    "nonzero_static",
    "slice",
    "hash_tensor",
    "to_sparse",
}
# Leave `out=` as it was for some arguments, in PyTorch 2.13.
UNFILLED = {"fft.ihfftn"}
# Their numbers are whatever the memory held.
UNSPECIFIED = {
    "empty",
    "empty_like",
    "empty_permuted",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "resize_",
    "resize_as_",
}
# Unique up to signs or phases: compared by what the sample's own function makes of them.
GAUGE = {
    "linalg.eig",
    "linalg.eigh",
    "linalg.svd",
    "svd",
    "linalg.qr",
    "qr",
    "svd_lowrank",
    "pca_lowrank",
    "geqrf",
    "linalg.ldl_factor",
    "linalg.ldl_factor_ex",
}
# torch has no second derivative either: it says so when that is asked for, we when the first is.
FIRST_ONLY = {"nn.functional.ctc_loss"}
SECOND_SAMPLES = 4
VARIANT_SAMPLES = 4


def families() -> dict[str, list[Any]]:
    """The entries of `op_db` by family."""
    found: dict[str, list[Any]] = {}
    for op in database.op_db:
        if not internal(op.name):
            found.setdefault(family(op), []).append(op)
    return found


def label(op: Any) -> str:
    """The name of an entry: the operation's, and its variant's where there are several."""
    return f"{op.name}.{op.variant_test_name}" if op.variant_test_name else str(op.name)


def internal(name: str) -> bool:
    """Whether a name is not for users."""
    if name.startswith("__"):
        return False
    return name.startswith(INTERNAL) or name in INTERNAL_NAMES


def family(op: Any) -> str:
    """The family an entry is counted in."""
    if op.name in CORE:
        return "core"
    for prefix in ("nn.functional", "linalg", "fft", "special", "signal.windows", "masked"):
        if op.name.startswith(prefix + "."):
            return prefix
    for kind in (database.UnaryUfuncInfo, database.BinaryUfuncInfo, database.ReductionOpInfo):
        if isinstance(op, kind):
            return kind.__name__.removesuffix("Info").removesuffix("Op").removesuffix("Ufunc")
    return "other"


def flat(value: Any) -> list[Any]:
    """The tensors and numbers of nested tuples and lists."""
    if isinstance(value, tuple | list):
        return [one for item in value for one in flat(item)]
    if isinstance(value, dict):
        return [one for item in value.values() for one in flat(item)]
    return [value]


def equal(
    ours: Any,
    theirs: Any,
    where: str,
    *,
    values: bool = True,
    truth: Callable[[], Any] | None = None,
) -> None:
    """Raise AssertionError unless both results are the same: within torch's tolerances, or, where
    rounding adds up to more, as close to `truth` (torch's result in double precision) as torch's.
    """
    ours, theirs = flat(ours), flat(theirs)
    assert len(ours) == len(theirs), f"{where}: {len(ours)} results; {len(theirs)} expected"
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        place = f"{where}[{number}]"
        if not isinstance(other, torch.Tensor):
            if isinstance(other, float | complex):
                assert type(one) is type(other), f"{place}: {type(one)}; {type(other)} expected"
                torch.testing.assert_close(one, other, equal_nan=True)
            elif isinstance(other, torch.Size | int | bool | str):
                assert one == other, f"{place}: {one!r}; {other!r} expected"
            continue
        assert isinstance(one, tensorlib.Tensor), f"{place}: {type(one)}; Tensor expected"
        kind = str(one.dtype).removeprefix("tensorlib.")
        wanted = str(other.dtype).removeprefix("torch.")
        assert kind == wanted, f"{place}: dtype {kind}; {wanted} expected"
        shape = tuple(one.shape)
        assert shape == tuple(other.shape), f"{place}: shape {shape}; {tuple(other.shape)} expected"
        if values:
            plain = other.detach().resolve_conj().resolve_neg()
            try:
                torch.testing.assert_close(
                    convert.back(one), plain, equal_nan=True, check_stride=False
                )
            except AssertionError as error:
                if truth is None or not _as_true(convert.back(one), plain, flat(truth())[number]):
                    raise AssertionError(f"{place}: {error}") from None


def _as_true(one: torch.Tensor, other: torch.Tensor, truth: Any) -> bool:
    """Whether `one` is as close to the truth as `other`, up to a factor of three."""
    if (
        not isinstance(truth, torch.Tensor)
        or not truth.dtype.is_floating_point | truth.is_complex()
    ):
        return False
    allowed = (other.to(truth.dtype) - truth).abs().max()
    return bool((one.to(truth.dtype) - truth).abs().max() <= 3 * allowed)


def in_double(sample: SampleInput) -> SampleInput:
    """The sample in double precision."""
    wide = {
        torch.float16: torch.float64,
        torch.float32: torch.float64,
        torch.complex64: torch.complex128,
    }

    def widened(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dtype in wide:
            return value.detach().to(wide[value.dtype]).requires_grad_(value.requires_grad)
        return wide.get(value, value) if isinstance(value, torch.dtype) else value

    return sample.transform(widened)


def call(function: Callable[..., Any], library: Any, args: Any, kwargs: Any) -> Any:
    """A call on the same random stream in both libraries."""
    library.manual_seed(7)
    return function(*args, **kwargs)


def _arguments(sample: SampleInput, *, values: bool = False) -> tuple[Any, Any]:
    keyword = list(sample.kwargs.values()) if values else dict(sample.kwargs)
    return (sample.input, *sample.args), keyword


class Pair:
    """One sample, for torch and for us."""

    def __init__(self, sample: SampleInput) -> None:
        self.theirs = (sample.input, *sample.args)
        self.their_options = dict(sample.kwargs)
        with convert.sharing():
            self.ours = tuple(map(convert.tree, self.theirs))
            self.our_options = convert.tree(self.their_options)
        self.process = sample.output_process_fn_grad

    def run(self, theirs: Any, ours: Any) -> tuple[Any, Any]:
        expected = call(theirs, torch, self.theirs, self.their_options)
        return expected, call(ours, tensorlib, self.ours, self.our_options)

    def leaves(self) -> tuple[list[Any], list[Any]]:
        their = flat([self.theirs, list(self.their_options.values())])
        our = flat([self.ours, list(self.our_options.values())])
        pairs = [
            (a, b)
            for a, b in zip(our, their, strict=True)
            if isinstance(b, torch.Tensor) and b.requires_grad and b.is_leaf
        ]
        return [a for a, _ in pairs], [b for _, b in pairs]

    def processed(self, expected: Any, actual: Any) -> tuple[Any, Any]:
        if self.process is None:
            return expected, actual
        return self.process(expected), convert.function(self.process)(actual)


def weights(outputs: list[torch.Tensor], seed: int) -> list[torch.Tensor]:
    """One random cotangent per output."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for one in outputs:
        real = torch.randn(one.shape, generator=generator, dtype=torch.float64)
        if one.is_complex():
            real = torch.complex(
                real, torch.randn(one.shape, generator=generator, dtype=torch.float64)
            )
        made.append(real.to(one.dtype))
    return made


def gradients(
    outs: Any, expected: Any, leaves: tuple[Any, Any], seed: int, *, graph: bool = False
) -> tuple[Any, Any]:
    """Gradients of one random projection in both libraries; None where there are none."""
    pairs = [
        (a, b)
        for a, b in zip(flat(outs), flat(expected), strict=True)
        if isinstance(b, torch.Tensor) and b.requires_grad
    ]
    if not pairs or not leaves[0]:
        return None, None
    for a, _ in pairs:
        assert a.requires_grad, "an output does not require grad"
    cots = [c.requires_grad_(graph) for c in weights([b for _, b in pairs], seed)]
    our_cots = [convert.tensor(c) for c in cots]
    theirs = torch.autograd.grad(
        [b for _, b in pairs], leaves[1], cots, allow_unused=True, create_graph=graph
    )
    ours = tensorlib.autograd.grad(
        [a for a, _ in pairs], leaves[0], our_cots, allow_unused=True, create_graph=graph
    )
    if graph:  # a second derivative is one by the cotangents too
        leaves[0].extend(our_cots)
        leaves[1].extend(cots)
    return ours, theirs


def torch_gradients(result: Any, leaves: list[Any], seed: int) -> Any:
    """torch's gradients of the random projection that `gradients` takes."""
    outs = [b for b in flat(result) if isinstance(b, torch.Tensor) and b.requires_grad]
    return torch.autograd.grad(outs, leaves, weights(outs, seed), allow_unused=True)


def same_gradients(
    ours: Any, theirs: Any, where: str, truth: Callable[[], Any] | None = None
) -> None:
    """Raise AssertionError unless the gradients are the same; None may stand for zeros."""
    for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        if other is None or one is None:
            zero = one if other is None else other
            if zero is None or not bool((zero != 0).any()):
                continue  # None or zeros: both say that it does not matter
        assert one is not None, f"{where} {number}: None; a gradient expected"
        assert other is not None, f"{where} {number}: a gradient; None expected"
        wide = None if truth is None else (lambda number=number: truth()[number])
        equal(one, other, f"{where} {number}", truth=wide)


class Check:
    """Gathers the outcomes of one kind of check."""

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind = name, kind
        self.count = 0
        self.failures: list[str] = []

    def run(self, label: str, body: Callable[[], None]) -> bool:
        self.count += 1
        try:
            body()
        except Absent as missing:
            self.failures.append(f"{label}: no {missing}")
        except Exception as error:  # every kind of failure is a result here
            text = " ".join(str(error).split())[:300]
            self.failures.append(f"{label}: {type(error).__name__}: {text}")
        else:
            return True
        return False

    def result(self) -> Result:
        if not self.failures:
            return Result(self.name, self.kind, True, f"{self.count}")
        return Result(
            self.name,
            self.kind,
            False,
            f"{len(self.failures)}/{self.count}: {self.failures[0]}",
        )


def samples(op: Any, dtype: torch.dtype, seed: int, *, grad: bool) -> Iterator[SampleInput]:
    torch.manual_seed(seed)
    return iter(op.sample_inputs("cpu", dtype, requires_grad=grad))


def check_entry(job: tuple[int, int, int | None]) -> tuple[str, str, list[Result]]:
    """The family, the name and all checks of one entry, given as (index, seed, limit)."""
    index, seed, limit = job
    op = database.op_db[index]
    return family(op), op.name, check(op, seed=seed, limit=limit)


def check(
    op: Any, *, seed: int = 0, dtypes: Any = DTYPES, limit: int | None = None
) -> list[Result]:
    """All checks of one entry; `limit` samples per dtype."""
    name = label(op)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ours = convert.function(op.op) if callable(op.op) else None
            if ours is op.op or ours is None:
                ours = convert.lookup(op.name)
        except Absent:
            try:
                ours = convert.lookup(op.name)
            except Absent as missing:
                return [Result(name, "exists", False, f"no {missing}")]
        found = [Result(name, "exists", True)]
        kinds = {k: Check(name, k) for k in ("value", "gradient", "second", "variants", "refusals")}
        for dtype in dtypes:
            if op.supports_dtype(dtype, "cpu"):
                _check_dtype(op, ours, dtype, seed, kinds, limit)
            else:
                _check_refused_dtype(op, ours, dtype, seed, kinds["refusals"])
        _check_errors(op, ours, kinds["refusals"])
        return found + [one.result() for one in kinds.values() if one.count]


def _check_dtype(
    op: Any, ours: Any, dtype: torch.dtype, seed: int, kinds: dict[str, Check], limit: int | None
) -> None:
    grad = op.supports_autograd and dtype in op.supported_backward_dtypes("cpu")
    drawn = itertools.islice(samples(op, dtype, seed, grad=grad), limit)
    short = str(dtype).removeprefix("torch.")
    for number, sample in enumerate(drawn):
        label = f"{short} {number}"

        def value(sample: SampleInput = sample) -> None:
            pair = Pair(sample)
            expected, actual = pair.run(op.op, ours)
            if op.name in GAUGE:
                a, b = pair.processed(expected, actual)
                equal(b, a, "processed")
            equal(
                actual,
                expected,
                "result",
                values=op.name not in UNSPECIFIED | GAUGE,
                truth=lambda: call(op.op, torch, *_arguments(in_double(sample))),
            )
            for one, other in zip(flat(actual), flat(expected), strict=True):
                if isinstance(other, torch.Tensor):
                    assert one.requires_grad == other.requires_grad, (
                        f"requires_grad {one.requires_grad}; {other.requires_grad} expected"
                    )

        held = kinds["value"].run(label, value)
        if not held:
            continue

        def gradient(sample: SampleInput = sample) -> None:
            pair = Pair(sample)
            expected, actual = pair.processed(*pair.run(op.op, ours))
            found = _none(gradients(actual, expected, pair.leaves(), 3))

            def truth() -> Any:
                wide = in_double(sample)
                result = call(op.op, torch, *_arguments(wide))
                result = wide.output_process_fn_grad(result) if pair.process else result
                leaves = [
                    leaf
                    for leaf in flat([list(part) for part in _arguments(wide, values=True)])
                    if isinstance(leaf, torch.Tensor) and leaf.requires_grad
                ]
                return torch_gradients(result, leaves, 3)

            same_gradients(*found, "gradient", truth)

        if grad and not kinds["gradient"].run(label, gradient):
            continue

        def second(sample: SampleInput = sample) -> None:
            pair = Pair(sample)
            expected, actual = pair.processed(*pair.run(op.op, ours))
            leaves = pair.leaves()
            first = gradients(actual, expected, leaves, 3, graph=True)
            if first[0] is None:
                return
            kept = [
                (a, b) for a, b in zip(*first, strict=True) if b is not None and b.requires_grad
            ]
            if not kept:
                return
            assert all(a is not None for a, _ in kept), "a first gradient is None"
            again = gradients([a for a, _ in kept], [b for _, b in kept], leaves, 5)
            same_gradients(*_none(again), "second gradient")

        twice = op.supports_gradgrad and op.name not in FIRST_ONLY
        if grad and twice and dtype is torch.float64 and number < SECOND_SAMPLES:
            kinds["second"].run(label, second)
        if number < VARIANT_SAMPLES:
            _check_variants(op, sample, label, kinds["variants"])
            if op.supports_out and op.variant_test_name != "decomposed":
                kinds["variants"].run(f"out= {label}", _out_check(op, ours, sample))


def _none(found: tuple[Any, Any]) -> tuple[Any, Any]:
    return ((), ()) if found[0] is None else found


def _check_variants(op: Any, sample: SampleInput, label: str, into: Check) -> None:
    forms = [("method", op.method_variant), ("in-place", op.inplace_variant)]
    for kind, form in forms:
        if form is None or not callable(form):
            continue
        if kind == "in-place" and sample.broadcasts_input:
            continue

        def variant(form: Any = form, kind: str = kind) -> None:
            pair = Pair(sample)
            ours = convert.function(form)
            if kind == "in-place":
                pair.theirs = (_copied(pair.theirs[0]), *pair.theirs[1:])
                pair.ours = (_copied(pair.ours[0]), *pair.ours[1:])
            try:
                expected = call(form, torch, pair.theirs, pair.their_options)
            except Exception as error:  # what torch refuses in this form, we refuse
                _refuses(ours, pair, type(error))
                return
            actual = call(ours, tensorlib, pair.ours, pair.our_options)
            options: dict[str, Any] = {
                "values": op.name not in UNSPECIFIED | GAUGE,
                "truth": lambda: call(op.op, torch, *_arguments(in_double(sample))),
            }
            equal(actual, expected, kind, **options)
            if kind == "in-place":
                equal(pair.ours[0], pair.theirs[0], "changed input", **options)

        into.run(f"{kind} {label}", variant)


def _copied(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    return value.clone() if hasattr(value, "clone") else value


def _out_check(op: Any, ours: Any, sample: SampleInput) -> Callable[[], None]:
    def body() -> None:
        with torch.no_grad(), tensorlib.no_grad():
            pair = Pair(sample)
            expected = call(op.op, torch, pair.theirs, pair.their_options)
            if not all(isinstance(one, torch.Tensor) for one in flat(expected)):
                return
            their_out = _empties(expected)
            our_out = convert.tree(their_out)
            try:
                call(op.op, torch, pair.theirs, {**pair.their_options, "out": their_out})
            except Exception as error:  # what torch refuses in this form, we refuse
                pair.our_options = {**pair.our_options, "out": our_out}
                _refuses(ours, pair, type(error))
                return
            actual = call(ours, tensorlib, pair.ours, {**pair.our_options, "out": our_out})
            for one, other in zip(flat(actual), flat(our_out), strict=True):
                assert one is other, "out= is not what is returned"
            equal(
                our_out,
                expected if op.name in UNFILLED else their_out,
                "out",
                values=op.name not in UNSPECIFIED | GAUGE,
                truth=lambda: call(op.op, torch, *_arguments(in_double(sample))),
            )

    return body


def _empties(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return torch.empty_like(value)
    return tuple(map(_empties, value)) if isinstance(value, tuple) else list(map(_empties, value))


def _refuses(ours: Any, pair: Pair, kind: type[BaseException]) -> None:
    try:
        call(ours, tensorlib, pair.ours, pair.our_options)
    except kind:
        return
    except Exception as error:
        text = " ".join(str(error).split())[:120]
        raise AssertionError(f"{type(error).__name__} ({text}); {kind.__name__} expected") from None
    raise AssertionError(f"accepted what torch refuses with {kind.__name__}")


def _check_refused_dtype(op: Any, ours: Any, dtype: torch.dtype, seed: int, into: Check) -> None:
    """Samples cast to a dtype that torch's operation does not take are refused by both."""
    source = next((d for d in DTYPES if op.supports_dtype(d, "cpu")), None)
    if source is None or (dtype is torch.complex64 and not op.name):
        return
    for number, sample in enumerate(itertools.islice(samples(op, source, seed, grad=False), 2)):

        def cast(value: Any) -> Any:
            return (
                value.to(dtype)
                if isinstance(value, torch.Tensor) and value.dtype is source
                else value
            )

        cast_sample = sample.transform(cast)

        def body(sample: SampleInput = cast_sample) -> None:
            pair = Pair(sample)
            try:
                call(op.op, torch, pair.theirs, pair.their_options)
            except Exception as error:
                _refuses(
                    ours, pair, Exception if isinstance(error, AssertionError) else type(error)
                )

        into.run(f"{str(dtype).removeprefix('torch.')} {number}", body)


def _check_errors(op: Any, ours: Any, into: Check) -> None:
    if op.error_inputs_func is None:
        return
    torch.manual_seed(0)
    for number, wrong in enumerate(op.error_inputs("cpu")):

        def body(wrong: Any = wrong) -> None:
            if not isinstance(wrong.sample_input, SampleInput):
                return
            try:
                pair = Pair(wrong.sample_input)
            except (Absent, TypeError, ValueError):
                return  # sparse, meta, or of more dimensions than NumPy has
            try:
                call(op.op, torch, pair.theirs, pair.their_options)
            except Exception as error:
                _refuses(ours, pair, type(error))

        into.run(f"error input {number}", body)
