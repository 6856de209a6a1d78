"""`quantize`: a compiled model with convolutions and products of 8-bit numbers where they are
faster on this CPU.

The optimised graph of `compile` runs once on calibration batches, which tell the range of what each
convolution and product reads. Each of them is timed in both forms (`lowered/int8.py` has that of
8 bits); everything between layers stays float32.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

import numpy as np

from tensorlib.autograd.tape import wrap
from tensorlib.errors import ArgumentError, InvalidValueError
from tensorlib.inference.capture import Example, bind
from tensorlib.inference.chunks import fitting
from tensorlib.inference.compiled import Compiled
from tensorlib.inference.graph import Graph
from tensorlib.inference.lowered.int8 import Quantised
from tensorlib.inference.program import Program
from tensorlib.inference.steps import Step
from tensorlib.inference.templates import Pack, Ref, size_at
from tensorlib.inference.trace import Call
from tensorlib.kernels import Unsupported, choice
from tensorlib.kernels.cpu import host, runtime

__all__ = ["Layer", "QuantizationReport", "Quantized", "quantize"]

TAIL = 1e-4  # part of the numbers at each end that may lie beyond the range
SAMPLE = 1 << 18  # numbers of a tensor that tell its range
RUNS = 5  # of each form of a layer
WORTH = 0.95  # of float32's time: less of a gain is noise, and not worth the rounding


def quantize(
    model: Callable[..., Any], loader: Iterable[Any], *, batches: int = 8, batch_dim: int = 0
) -> Quantized:
    """`compile(model, example)` with convolutions and products of 8-bit numbers where those are
    faster on this CPU by 5 % or more; `report` says which, and what they cost in accuracy.

    Args:
        model: a Module in evaluation mode, or a function of one tensor.
        loader: batches like those it will be called with: Tensors, or (input, labels). Their
            values tell the ranges of activations, and the first one the example of `compile`.
        batches: how many of them to use.
        batch_dim: the dimension of arguments and results that is the batch.

    Layers are timed when the model is made, so that what runs in 8 bits may differ from one time to
    the next. Numbers beyond the range seen are limited to it, infinity and NaN too. When weights
    change, ranges and times are taken anew from the same batches. Without AVX2, or where nothing
    gets faster, all layers stay float32.

    Raises InvalidValueError for a model in training mode and for a loader without batches.
    """
    return Quantized(model, _taken(loader, batches), batch_dim)


def _taken(loader: Any, count: int) -> list[tuple[Any, Any]]:
    """The first batches of a loader: inputs and labels, or None."""
    if type(count) is not int or count < 1:
        raise InvalidValueError("quantize", f"batches is {count!r}", "a positive whole number")
    if hasattr(loader, "_counter") or not isinstance(loader, Iterable):
        kind = type(loader).__name__
        raise ArgumentError(
            "quantize", f"the loader is a {kind}", "a DataLoader or list of batches"
        )
    found: list[tuple[Any, Any]] = []
    for batch in loader:
        parts = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
        if not 1 <= len(parts) <= 2 or not all(hasattr(part, "_counter") for part in parts):
            words = f"a batch is a {type(batch).__name__} of {len(parts)}"
            raise ArgumentError("quantize", words, "a Tensor or a pair of input and labels")
        found.append((parts[0], parts[1] if len(parts) == 2 else None))
        if len(found) == count:
            break
    if not found:
        raise InvalidValueError("quantize", "the loader has no batches", "at least one")
    return found


# -- the report ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A convolution or product: seconds in both forms (NaN where it has one alone), and whether and
    why it runs in 8 bits.
    """

    name: str
    kind: str
    int8: bool
    reason: str
    seconds_float32: float = math.nan
    seconds_int8: float = math.nan


@dataclass(frozen=True)
class QuantizationReport:
    """Layers, and how results on the calibration batches differ from the float32 model's.

    `agreement` is the part of them with the same largest element along dimension 1; errors are
    relative to the largest and the mean absolute value of all results.
    """

    layers: list[Layer] = field(default_factory=list)
    reason: str = ""  # why there is no layer in 8 bits
    seconds_float32: float = math.nan  # the whole model, for the first batch
    seconds_int8: float = math.nan
    agreement: float = 1.0
    max_error: float = 0.0
    mean_error: float = 0.0
    accuracy_float32: float | None = None
    accuracy_int8: float | None = None

    @property
    def count(self) -> int:
        """Layers in 8 bits."""
        return sum(layer.int8 for layer in self.layers)

    def __repr__(self) -> str:
        lines = [f"{self.count} of {len(self.layers)} layers in 8 bits"]
        if self.reason:
            lines[0] += f": {self.reason}"
        for layer in self.layers:
            form = "int8" if layer.int8 else "float32"
            lines.append(f"  {layer.name}: {layer.kind}, {form}, {layer.reason}{_times(layer)}")
        if not math.isnan(self.seconds_int8):
            lines.append(f"whole model{_times(self)}")
        lines.append(
            f"same largest element: {self.agreement:.2%}; relative error: at most "
            f"{self.max_error:.2e}, {self.mean_error:.2e} in the mean"
        )
        if self.accuracy_float32 is not None and self.accuracy_int8 is not None:
            lines.append(
                f"accuracy: float32 {self.accuracy_float32:.2%}, int8 {self.accuracy_int8:.2%}"
            )
        return "\n".join(lines)


def _times(of: Layer | QuantizationReport) -> str:
    """The times of both forms, in words."""
    if math.isnan(of.seconds_int8):
        return ""
    return f" (float32 {of.seconds_float32 * 1e3:.3f} ms, int8 {of.seconds_int8 * 1e3:.3f} ms)"


# -- ranges and times ------------------------------------------------------------------------------


def _range(x: Any) -> tuple[float, float]:
    """The least and largest number without tails, of a sample of a large tensor."""
    flat = x.reshape(-1)
    if not flat.size:
        return 0.0, 0.0
    if flat.size > SAMPLE:
        flat = flat[np.random.default_rng(0).integers(0, flat.size, SAMPLE)]
    if flat.dtype != np.float32 or not np.isfinite(flat).all():
        return math.nan, math.nan
    low, high = np.quantile(flat, (TAIL, 1 - TAIL), method="inverted_cdf")
    return min(float(low), 0.0), max(float(high), 0.0)


def _observed(
    graph: Graph, batches: list[Any], dim: int
) -> tuple[dict[int, tuple[float, float]], list[Any]]:
    """What each convolution and product read at least and at most, by its place, and the results
    of the batches.
    """
    ranges: dict[int, tuple[float, float]] = {}
    results = []
    last = {i: place for place, call in enumerate(graph.calls) for i in call.inputs()}
    steps = [Step(call, "") for call in graph.calls]
    kept = graph.results() | {v.index for v in graph.values if v.origin == "state"}
    for x in batches:
        tensors: list[Any] = [value.tensor for value in graph.values]
        tensors[graph.input_values()[0].index] = wrap(x.array.copy("K"))  # may be changed in place
        n = x.array.shape[dim] if graph.batched else 0
        for place, step in enumerate(steps):
            if step.call.name in ("convolution", "product"):
                low, high = _range(tensors[step.call.arguments["input"].index].array)
                known = ranges.get(place, (0.0, 0.0))
                ranges[place] = float(np.minimum(known[0], low)), float(np.maximum(known[1], high))
            step.run(tensors, n)
            for i in step.reads:
                if last[i] == place and i not in kept:
                    tensors[i] = None
        results.append(_first(graph, {i: tensors[i] for i in graph.results()}))
    return ranges, results


def _first(graph: Graph, tensors: dict[int, Any]) -> Any:
    """The first result as an array."""
    array = tensors[min(graph.results())].array
    return array.astype(np.float64) if array.dtype.kind in "biu" else array.copy()


def _alone(graph: Graph, call: Call, most: int) -> Program:
    """A program of one call."""
    states = {v.index for v in graph.values if v.origin == "state"}
    given = [Ref(i) for i in dict.fromkeys(call.inputs()) if i not in states]
    inputs = Pack(tuple, tuple(given))
    return Program(Graph(graph.values, [call], inputs, call.result, graph.batched), most)


def _timed(plain: Program, small: Program, low: float, high: float) -> list[float]:
    """Seconds of two forms of a call, on as many examples as run together."""
    ours, theirs = plain.steps[0], small.steps[0]
    n = min(fitting(ours.groups[0]), plain.most)
    draw = np.random.default_rng(0)
    tensors: list[Any] = [value.tensor for value in plain.graph.values]
    for i in plain.places:
        shape = size_at(plain.graph.values[i].shape, n)
        laid = (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape
        array = draw.uniform(low, high, laid).astype(np.float32)
        tensors[i] = wrap(array.transpose(0, 3, 1, 2) if len(shape) == 4 else array)
    return _race([lambda: ours.run(tensors.copy(), n), lambda: theirs.run(tensors.copy(), n)])


def _without() -> str:
    """Why this host has no layers of 8 bits; "" where it has."""
    if choice() == "reference":
        return "TENSORLIB_KERNELS=reference"
    try:
        runtime()
    except Unsupported as problem:
        return str(problem)
    return "" if host.features().get("avx2") else "this CPU has no AVX2"


def _form(graph: Graph, call: Call) -> Any:
    """What calls that take the same time have in common."""
    parts = (
        (key, str(graph.values[value.index].shape) if type(value) is Ref else str(value))
        for key, value in call.arguments.items()
    )
    return call.name, *parts


def _decided(
    graph: Graph, call: Call, most: int, span: tuple[float, float], known: dict[Any, Any]
) -> tuple[Layer, Call]:
    """What to do with a convolution or product, and the call to do it; `known` has times."""
    low, high = span
    name, kind = call.module or call.name, call.name

    def stays(why: str) -> tuple[Layer, Call]:
        return Layer(name, kind, False, why), call

    plain = _alone(graph, call, most)
    if isinstance(plain.steps[0], Step):
        return stays(plain.steps[0].reason)
    kind = plain.steps[0].parts[0].words
    if not math.isfinite(high - low):
        return stays("its input is not finite")
    if not high > low:
        return stays("its input is zero")
    made = Quantised.of(call, low, high)
    small = _alone(graph, made, most)
    if isinstance(small.steps[0], Step):
        return stays(small.steps[0].reason)
    form = _form(graph, call)
    if form not in known:
        known[form] = _timed(plain, small, low, high)
    times = known[form]
    faster = times[1] < WORTH * times[0]
    why = "faster" if faster else "int8 is not faster by 5 %"
    return Layer(name, kind, faster, why, *times), made if faster else call


# -- the model -------------------------------------------------------------------------------------


class Quantized(Compiled):
    """A model made ready for inference in 8 bits; see `quantize`. Call it as the model."""

    report: QuantizationReport
    _where = "quantize"

    def __init__(
        self, model: Callable[..., Any], batches: list[tuple[Any, Any]], batch_dim: int = 0
    ) -> None:
        self._batches = batches
        self._ready = False  # whether programs that are built are of 8 bits
        super().__init__(model, batches[0][0], batch_dim)

    def __reduce__(self) -> Any:
        return quantize_again, (self.model, self._batches, self._example.dim)

    def refresh(self) -> None:
        """Trace the model anew, with its weights and structure as they are now, and take ranges,
        times and errors from the same batches.
        """
        self._expect_evaluation()
        with self._lock:
            self._ready = False
            super().refresh()
            self._ready = True
            if self._program is None:
                self.report = QuantizationReport(reason=f"the model runs as it is: {self.reason}")
            else:
                self._program = self._in_bytes(self._program)

    def _build(self) -> Program:
        program = super()._build()
        return self._in_bytes(program) if self._ready else program

    def _in_bytes(self, plain: Program) -> Program:
        """The faster form of a program; writes the report."""
        inputs = [x for x, _ in self._batches]
        why = _without()
        for x in inputs:
            unfit = self._unfit(Example.of((x,), {}, self._example.dim))
            if unfit:
                raise InvalidValueError(
                    "quantize", unfit, "batches that differ in their number of examples alone"
                )
            if type(x.array) is not np.ndarray:
                why = why or f"the batches are on {x.device}"
        graph = plain.graph
        why = why or ("" if graph.results() else "it returns no tensor")
        if why:
            self.report = QuantizationReport(reason=why)
            return plain
        ranges, wanted = _observed(graph, inputs, self._example.dim)
        known: dict[Any, Any] = {}
        decided = {
            place: _decided(graph, graph.calls[place], plain.most, span, known)
            for place, span in ranges.items()
        }
        layers = [layer for layer, _ in decided.values()]
        labels, axis = [y for _, y in self._batches], 1 if self._example.dim == 0 else -1
        same = _compared(wanted, wanted, labels, axis)
        if not any(layer.int8 for layer in layers):
            words = "no layer is faster in 8 bits" if layers else "it has no layers to quantise"
            self.report = QuantizationReport(layers, words, **same)
            return plain
        calls = [
            decided[place][1] if place in decided else call
            for place, call in enumerate(graph.calls)
        ]
        small = Program(replace(graph, calls=calls), plain.most)
        times = _race(
            [lambda: self._result(plain, inputs[0]), lambda: self._result(small, inputs[0])]
        )
        if times[1] >= times[0]:
            layers = [
                replace(layer, int8=False, reason="the whole model is not faster")
                for layer in layers
            ]
            self.report = QuantizationReport(
                layers, "the whole model is not faster", *times, **same
            )
            return plain
        got = [self._result(small, x) for x in inputs]
        errors = _compared(got, wanted, labels, axis)
        self.report = QuantizationReport(layers, "", *times, **errors)
        return small

    def _result(self, program: Program, x: Any) -> Any:
        """The first result for a batch as an array."""
        given = Example.of((wrap(x.array.copy("K")),), {}, self._example.dim)
        size = given.size if program.graph.batched else 0
        fits = size <= program.most
        result = program.run(given.tensors, size) if fits else self._pieces(program, given)
        found: dict[int, Any] = {}
        bind(program.graph.result, result, found)
        return _first(program.graph, found)


def quantize_again(
    model: Callable[..., Any], batches: list[tuple[Any, Any]], batch_dim: int
) -> Quantized:
    """What unpickling calls."""
    return Quantized(model, batches, batch_dim)


def _race(forms: list[Callable[[], Any]]) -> list[float]:
    """Median seconds of each of some functions, called in turn."""
    seconds: list[list[float]] = [[] for _ in forms]
    for turn in range(RUNS + 1):
        for form, found in zip(forms, seconds, strict=True):
            began = time.perf_counter()
            form()
            if turn:  # the first one writes the rows
                found.append(time.perf_counter() - began)
    return [median(found) for found in seconds]


def _compared(got: list[Any], wanted: list[Any], labels: list[Any], axis: int) -> dict[str, Any]:
    """What the report tells about results."""
    equal: list[Any] = []
    right: tuple[list[Any], list[Any]] = ([], [])
    for ours, theirs, y in zip(got, wanted, labels, strict=True):
        pair = (np.atleast_1d(theirs), np.atleast_1d(ours))
        chosen = [np.argmax(a, axis if a.ndim > 1 else 0) for a in pair]
        equal.append(np.ravel(chosen[0] == chosen[1]))
        if y is not None and y.array.dtype.kind in "iu" and y.array.shape == chosen[0].shape:
            for found, own in zip(right, chosen, strict=True):
                found.append(np.ravel(own == y.array))
    differ = [np.abs(a - b) for a, b in zip(got, wanted, strict=True)]
    size = sum(a.size for a in wanted)
    largest = max(float(np.abs(a).max(initial=0)) for a in wanted) or 1.0
    mean = sum(float(np.abs(a).sum()) for a in wanted) / size or 1.0
    accuracy = [float(np.concatenate(found).mean()) if found else None for found in right]
    return {
        "agreement": float(np.concatenate(equal).mean()),
        "max_error": max(float(d.max(initial=0)) for d in differ) / largest,
        "mean_error": sum(float(d.sum()) for d in differ) / size / mean,
        "accuracy_float32": accuracy[0],
        "accuracy_int8": accuracy[1],
    }
