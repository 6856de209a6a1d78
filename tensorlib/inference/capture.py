"""From a model to a graph: three runs on few examples tell what depends on the batch size and what
on the data.

Run A has two examples, run C the first of them, run B one other example. Where B and C differ in
form, the data decides what the model does; where A and C differ, the batch size does, and whole
numbers become expressions of it. The results of A begin with those of C, or the examples of a batch
depend on each other. Where that is so the graph holds for the given shape alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tensorlib.autograd.tape import wrap
from tensorlib.inference.graph import Graph
from tensorlib.inference.templates import Batch, Differs, Pack, Ref, decode, encode, leaves, merge
from tensorlib.inference.trace import Call, Trace, Untraceable, Value, trace
from tensorlib.random import get_rng_state

__all__ = ["Example", "Run", "capture"]


@dataclass
class Example:
    """Arguments of a model: a template and its tensors, and which of them have the batch."""

    template: Any
    tensors: list[Any]
    batched: list[bool]
    dim: int

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any], dim: int) -> Example:
        tensors: list[Any] = []

        def number(tensor: Any) -> int:
            for place, known in enumerate(tensors):
                if known is tensor:
                    return place
            tensors.append(tensor)
            return len(tensors) - 1

        template = encode((args, kwargs), number)
        sizes = [t.array.shape[dim] if t.array.ndim > dim else None for t in tensors]
        first = next((s for s in sizes if s is not None), None)
        return cls(template, tensors, [s is not None and s == first for s in sizes], dim)

    @property
    def size(self) -> int:
        """The batch size."""
        for tensor, batched in zip(self.tensors, self.batched, strict=True):
            if batched:
                return int(tensor.array.shape[self.dim])
        return 0

    def arguments(self, tensors: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with other tensors."""
        args, kwargs = decode(self.template, dict(enumerate(tensors)), 0)
        return args, kwargs

    def part(self, start: int, stop: int) -> list[Any]:
        """The tensors with examples `start` to `stop` alone."""
        index = (slice(None),) * self.dim + (slice(start, stop),)
        return [
            wrap(t.array[index]) if batched else t
            for t, batched in zip(self.tensors, self.batched, strict=True)
        ]


@dataclass
class Run:
    """A traced run: arguments, what was recorded, the result."""

    tensors: list[Any]
    size: int
    trace: Trace
    result: Any


def capture(model: Callable[..., Any], example: Example) -> tuple[Graph, list[Run], str]:
    """The graph of a model, the runs it was made of, and why it holds for one shape only ("" where
    it does not).

    Raises Untraceable.
    """

    def run(tensors: list[Any], size: int) -> Run:
        args, kwargs = example.arguments(tensors)
        before = get_rng_state().array
        found = Run(tensors, size, *trace(model, args, kwargs))
        if not np.array_equal(before, get_rng_state().array):
            raise Untraceable("the model draws random numbers")
        return found

    why = "the example has no batch"
    if example.size:
        try:
            return *_any_size(run, example), ""
        except Differs as problem:
            why = str(problem)
        except Untraceable:
            raise
        except Exception as problem:  # a model that wants the given size: asked again below
            why = f"another batch size fails ({type(problem).__name__}: {problem})"
    first, second = run(example.tensors, 0), run([_varied(t) for t in example.tensors], 0)
    try:
        graph = _merged(first, second, False)
    except Differs as problem:
        raise Untraceable(f"the data decides what the model does: {problem}") from None
    return graph, [first, second], why


def _any_size(run: Callable[..., Run], example: Example) -> tuple[Graph, list[Run]]:
    """A graph of runs with 2 and 1 examples; where one example is special (its memory has several
    layouts at once), of 3 and 2, to be compared with what one example gives.
    """
    some = _examples(example, 3)
    try:
        return _of_sizes(run, some, 2, 1)
    except Differs:
        graph, runs = _of_sizes(run, some, 3, 2)
        return graph, [*runs, run(some.part(0, 1), 1)]


def _examples(example: Example, count: int) -> Example:
    """As many examples, others like those given where there are fewer."""
    tensors = example.part(0, count)
    while tensors and Example(None, tensors, example.batched, example.dim).size < count:
        more = [
            wrap(np.concatenate([t.array, _varied(t).array], example.dim)) if batched else t
            for t, batched in zip(tensors, example.batched, strict=True)
        ]
        tensors = Example(None, more, example.batched, example.dim).part(0, count)
    return Example(example.template, tensors, example.batched, example.dim)


def _of_sizes(
    run: Callable[..., Run], some: Example, more: int, less: int
) -> tuple[Graph, list[Run]]:
    other = [
        _varied(t) if batched else t
        for t, batched in zip(some.part(0, less), some.batched, strict=True)
    ]
    a, b, c = run(some.part(0, more), more), run(other, less), run(some.part(0, less), less)
    try:
        _merged(b, c, False)
    except Differs as problem:
        raise Untraceable(f"the data or the call decides what the model does: {problem}") from None
    graph = _merged(a, c, True)
    _expect_independent(graph, a, c)
    return graph, [a, b]


def _varied(tensor: Any) -> Any:
    """Other data of the same kind: the elements in another order, numbers with noise."""
    draw = np.random.default_rng(0)
    x = tensor.array
    flat = draw.permutation(x.reshape(-1))
    if x.dtype.kind == "f" and x.size:
        spread = float(np.std(flat)) or 1.0
        noise = draw.standard_normal(flat.shape) * (0.25 * spread)
        flat = (flat + noise).astype(x.dtype)
    made = np.empty_like(x)
    made[...] = flat.reshape(x.shape)
    return wrap(made)


def _merged(a: Run, c: Run, batched: bool) -> Graph:
    """One graph of two traces; raises Differs."""
    left, right = a.trace, c.trace
    for x, y in zip(left.calls, right.calls, strict=False):
        if x.name != y.name or x.function.__code__ is not y.function.__code__:
            raise Differs(f"{x.name}() at {x.where} in one run, {y.name}() at {y.where} in another")
    if len(left.calls) != len(right.calls):
        longer = max(left.calls, right.calls, key=len)
        longer = max(left.calls, right.calls, key=len)
        where = longer[min(len(left.calls), len(right.calls))].where
        raise Differs(f"one run has more operations than another, from {where} on")
    calls = [_same_call(x, y, a.size, c.size) for x, y in zip(left.calls, right.calls, strict=True)]
    if len(left.values) != len(right.values):
        raise Differs("one run has more tensors than another")
    values = [
        _same_value(x, y, a.size, c.size) for x, y in zip(left.values, right.values, strict=True)
    ]
    result = merge(left.result, right.result, 0, 0)
    return Graph(values, calls, left.inputs, result, batched)


def _same_call(x: Call, y: Call, n: int, m: int) -> Call:
    if x.changed != y.changed:
        raise Differs(f"{x.name}() at {x.where} changes other tensors in another run")
    arguments = {}
    for key in x.arguments:
        try:
            arguments[key] = merge(x.arguments[key], y.arguments[key], n, m)
        except Differs as problem:
            raise Differs(f"argument {key!r} of {x.name}() at {x.where}: {problem}") from None
    try:
        result = merge(x.result, y.result, n, m)
    except Differs as problem:
        raise Differs(f"the result of {x.name}() at {x.where}: {problem}") from None
    return replace(x, arguments=arguments, result=result)


def _same_value(x: Value, y: Value, n: int, m: int) -> Value:
    if x.origin == "state":
        if x.tensor is not y.tensor:
            raise Differs("a tensor that no recorded operation made")
        return x
    if len(x.shape) != len(y.shape) or x.dtype != y.dtype:
        raise Differs(f"shapes {x.shape} and {y.shape}")
    shape = tuple(merge(i, j, n, m) for i, j in zip(x.shape, y.shape, strict=True))
    return replace(x, shape=shape)


def _expect_independent(graph: Graph, a: Run, c: Run) -> None:
    """Refuse (Differs) where a batch is more than its examples side by side."""
    found: dict[int, Any] = {}
    bind(a.trace.result, a.result, found)
    first: dict[int, Any] = {}
    bind(c.trace.result, c.result, first)
    for leaf in leaves(graph.result):
        if type(leaf) is not Ref:
            continue
        value = graph.values[leaf.index]
        dim = batch_dim(value)
        if dim is None:
            raise Differs(f"a result of shape ({', '.join(map(str, value.shape))})")
        whole, part = found[leaf.index].array, first[leaf.index].array
        if not close(np.take(whole, range(c.size), dim), part, 1e-3):
            raise Differs("an example's result depends on the other examples of its batch")


def batch_dim(value: Value) -> int | None:
    """The dimension of a value that is the batch; None where there is none or several."""
    dims = [i for i, s in enumerate(value.shape) if type(s) is Batch]
    if len(dims) == 1 and value.shape[dims[0]] == Batch(1):
        return dims[0]
    return None


def bind(template: Any, result: Any, tensors: dict[int, Any]) -> None:
    """Put the tensors of `result` under their numbers in `template`."""
    if type(template) is Ref:
        tensors[template.index] = result
    elif type(template) is Pack:
        parts = result.values() if template.keys else result
        for item, part in zip(template.items, parts, strict=True):
            bind(item, part, tensors)


def close(got: Any, wanted: Any, tolerance: float) -> bool:
    """Whether two arrays differ by at most `tolerance` of the largest element."""
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return False
    if got.dtype.kind not in "fcV" or not got.size:
        return bool((got == wanted).all())
    kind = np.complex128 if got.dtype.kind == "c" else np.float64
    got, wanted = got.astype(kind), wanted.astype(kind)
    finite = np.isfinite(wanted)
    if not (np.isfinite(got) == finite).all():
        return False
    if not np.array_equal(got[~finite], wanted[~finite], equal_nan=True):
        return False
    scale = np.abs(wanted[finite]).max(initial=0.0)
    return bool((np.abs(got[finite] - wanted[finite]) <= tolerance * scale + 1e-30).all())
