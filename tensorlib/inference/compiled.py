"""`compile`: a model made ready for inference, and the object that stands for it."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tensorlib.autograd.tape import no_grad, wrap
from tensorlib.errors import ArgumentError, InvalidValueError
from tensorlib.inference.capture import Example, Run, batch_dim, bind, capture, close
from tensorlib.inference.passes import optimise
from tensorlib.inference.pixels import from_bytes
from tensorlib.inference.program import Program
from tensorlib.inference.segment import Segment
from tensorlib.inference.templates import decode
from tensorlib.inference.trace import Untraceable
from tensorlib.tensor import Tensor

__all__ = ["Compiled", "InferenceWarning", "compile"]

TOLERANCE = 1e-4  # of the largest element of a result


class InferenceWarning(UserWarning):
    """A compiled model runs as the model itself."""


def compile(
    model: Callable[..., Any],
    example: Any,
    *,
    batch_dim: int = 0,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Compiled:
    """`model` made ready for inference: traced once, batch norm folded into weights, activations
    and sums fused, run without the model's Python code.

    Args:
        model: a Module in evaluation mode, or a function of tensors.
        example: what it will be called with: a Tensor, or a tuple of arguments. Its batch size is
            the largest that runs in one piece; larger batches run in several.
        batch_dim: the dimension of arguments and results that is the batch.
        mean, std: of a preset such as `vision.transforms.ImageClassification`. The example, and
            what the result is called with, is then uint8 [N, H, W, C], and the model gets
            `(x / 255 - mean) / std` [N, C, H, W], computed within its first convolution.

    Values of the example do not matter, its shapes and dtypes do: other shapes run the model
    itself, with a warning. So does a model whose operations depend on the data (`.item()`, `if
    x.sum() > 0`), or whose results the compiled form does not reproduce; `summary()` says why.
    Results carry no gradient. Weights changed by operations (an optimizer, `load_state_dict`) are
    taken over at the next call; after a change by other means (`.numpy()`, another submodule) call
    `refresh()`. Calls from several threads run one after the other.

    Raises InvalidValueError for a model in training mode, and for an example or numbers that do
    not fit each other.
    """
    return Compiled(model, example, batch_dim, mean, std)


class Compiled:
    """A model made ready for inference; see `compile`. Call it as the model."""

    _where = "compile"  # what errors name

    def __init__(
        self,
        model: Callable[..., Any],
        example: Any,
        batch_dim: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        args = example if isinstance(example, tuple) else (example,)
        self.model = self._traced = model
        if mean is not None or std is not None:
            self._traced = _OfBytes(self._where, model, args, mean, std)
        self._given = example, batch_dim, mean, std
        self._example = Example.of(args, {}, batch_dim)
        if not self._example.tensors:
            raise ArgumentError(
                self._where, "the example has no Tensor", "a Tensor or a tuple of them"
            )
        self._lock = threading.RLock()
        self._said: set[Any] = set()
        self.reason = ""  # why the model itself runs
        self.shape_reason = ""  # why other batch sizes do
        self._program: Program | None = None
        self.refresh()

    def __reduce__(self) -> Any:
        return compile_again, (self.model, *self._given)

    # -- making ------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Trace the model anew and take over its weights and structure as they are now."""
        self._expect_evaluation()
        with self._lock:
            self._program, self.reason, self.shape_reason = None, "", ""
            try:
                self._graph, runs, self.shape_reason = capture(self._traced, self._example)
            except Untraceable as problem:
                self.reason = str(problem)
            else:
                self._program = self._build()
                self.reason = _difference(self._program, runs)
            if self.reason:
                self._program = None
                self._warn(f"the model runs as it is: {self.reason}")

    def _expect_evaluation(self) -> None:
        if getattr(self.model, "training", False):
            raise InvalidValueError(
                self._where, "the model is in training mode", "evaluation mode", hint="model.eval()"
            )

    def _build(self) -> Program:
        """A program of the graph with the weights as they are."""
        graph, self._done = optimise(self._graph)
        changed = {graph.values[i].memory for call in graph.calls for i in call.changed}
        self._states = [
            (v.tensor, v.tensor.array, v.tensor._counter, v.tensor._counter[0])
            for v in self._graph.values
            if v.origin == "state" and v.memory not in changed
        ]
        return Program(graph, self._example.size or 1)

    def _stale(self) -> bool:
        for tensor, array, counter, version in self._states:
            if tensor.array is not array or counter[0] != version:
                return True
        return False

    def _warn(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            warnings.warn(f"tensorlib.inference: {text}", InferenceWarning, stacklevel=4)

    # -- running -----------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's result."""
        if self._program is None:
            return self._eager(args, kwargs)
        given = Example.of(args, kwargs, self._example.dim)
        why = self._unfit(given)
        if why:
            self._warn(f"{why}: the model itself runs")
            return self._eager(args, kwargs)
        with self._lock:
            if self._stale():
                self._program = self._build()
            program = self._program
            size = given.size if self._graph.batched else 0
            if size <= program.most:
                return program.run(given.tensors, size)
            return self._pieces(program, given)

    @property
    def independent(self) -> bool:
        """Whether an example's result has the same bits in any batch: all of the model runs
        compiled, for any batch size.
        """
        program = self._program
        return (
            program is not None
            and self._graph.batched
            and all(isinstance(step, Segment) for step in program.steps)
        )

    def _eager(self, args: Any, kwargs: Any) -> Any:
        self._expect_evaluation()
        with no_grad():
            return self._traced(*args, **kwargs)

    def _unfit(self, given: Example) -> str:
        """Why these arguments are not what was planned; "" where they are."""
        planned = self._example
        if not _same_form(given, planned):
            return "arguments of another form than the example's"
        batched = self._graph.batched
        if batched and given.size == 0:
            return "an empty batch"
        for own, like, along in zip(given.tensors, planned.tensors, planned.batched, strict=True):
            x, y = own.array, like.array
            if x.dtype != y.dtype or type(x) is not type(y):
                return f"an argument of {own.dtype} on {own.device}"
            shape, wanted = list(x.shape), list(y.shape)
            if batched and along and x.ndim == y.ndim:
                shape[planned.dim] = wanted[planned.dim] = given.size
                if x.shape[planned.dim] != given.size:
                    return "batches of several sizes"
            if shape != wanted:
                return f"an argument of shape {tuple(x.shape)}, planned was {tuple(y.shape)}"
        return ""

    def _pieces(self, program: Program, given: Example) -> Any:
        """A large batch in pieces."""
        graph, most = program.graph, program.most
        found: dict[int, list[Any]] = {}
        for start in range(0, given.size, most):
            stop = min(start + most, given.size)
            part: dict[int, Any] = {}
            bind(graph.result, program.run(given.part(start, stop), stop - start), part)
            for i, tensor in part.items():
                found.setdefault(i, []).append(tensor.array)
        whole = {
            i: wrap(np.concatenate(parts, batch_dim(graph.values[i]))) for i, parts in found.items()
        }
        return decode(graph.result, whole, given.size)

    # -- words -------------------------------------------------------------------------------------

    def summary(self) -> str:
        """What was done to the model and what runs how."""
        name = getattr(self.model, "__name__", type(self.model).__name__)
        if self._program is None:
            return f"{name}, not compiled: {self.reason}"
        lines = [f"{name}, compiled: {self._done}"]
        shapes = ", ".join(f"{tuple(t.array.shape)} {t.dtype}" for t in self._example.tensors)
        if self.shape_reason:
            lines.append(f"for arguments {shapes} alone, because {self.shape_reason}")
        else:
            lines.append(f"for arguments {shapes}, batches of up to {self._program.most} in one go")
        return "\n".join([*lines, *self._program.words()])

    def __repr__(self) -> str:
        return f"<tensorlib.inference.Compiled: {self.summary()}>"


def compile_again(model: Any, example: Any, *options: Any) -> Compiled:
    """What unpickling calls."""
    return Compiled(model, example, *options)


class _OfBytes:
    """A model whose input is normalised first."""

    def __init__(
        self, where: str, model: Callable[..., Any], args: tuple[Any, ...], mean: Any, std: Any
    ) -> None:
        given = [tuple(map(float, part)) if part is not None else () for part in (mean, std)]
        self.model, (self.mean, self.std) = model, given
        array = args[0].array if len(args) == 1 and isinstance(args[0], Tensor) else None
        shape = () if array is None else tuple(array.shape)
        if (
            array is None
            or array.dtype != np.uint8
            or len(shape) != 4
            or not array.shape[-1] == len(self.mean) == len(self.std)
            or 0.0 in self.std
        ):
            raise InvalidValueError(
                where,
                f"mean={mean}, std={std} for an example of shape {shape}",
                "a uint8 Tensor [N, H, W, C], and a mean and a std other than 0 for each channel",
            )

    def __call__(self, pixels: Any) -> Any:
        return self.model(from_bytes(pixels, self.mean, self.std))

    def __getattr__(self, name: str) -> Any:  # names of parameters, for the summary
        return getattr(self.model, name)


def _same_form(given: Example, planned: Example) -> bool:
    try:
        return bool(given.template == planned.template)
    except ValueError:  # arrays among the arguments
        return False


def _difference(program: Program, runs: list[Run]) -> str:
    """What differs between the program's and the model's results; "" where nothing does."""
    for run in runs:
        if run.size > program.most:
            continue
        result = program.run(run.tensors, run.size)
        wanted: dict[int, Any] = {}
        bind(run.trace.result, run.result, wanted)
        got: dict[int, Any] = {}
        bind(run.trace.result, result, got)
        for i, tensor in wanted.items():
            if not close(got[i].array, tensor.array, TOLERANCE):
                return "the compiled form does not reproduce the model's result"
    return ""
