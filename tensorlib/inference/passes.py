"""Rewrites of a graph that leave its results the same up to rounding.

`in place` to new values where nobody can tell; what does not depend on the input computed once;
batch norm of running statistics into the weights before it; sums and limits into the convolution or
product that makes their operand; zeros around images into its padding; what nobody uses dropped.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tensorlib.autograd import tape
from tensorlib.autograd.tape import wrap
from tensorlib.inference import fused
from tensorlib.inference.capture import bind
from tensorlib.inference.epilogues import fuse_epilogues
from tensorlib.inference.graph import Graph, bound, renamed
from tensorlib.inference.templates import Batch, Pack, Ref, decode, leaves
from tensorlib.inference.trace import Call
from tensorlib.ops.out import direct
from tensorlib.tensor import Tensor

__all__ = ["Report", "optimise"]

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")


@dataclass
class Report:
    """What passes did, in counts, for the summary."""

    counts: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return ", ".join(f"{count} {what}" for what, count in self.counts.items()) or "nothing"


def optimise(graph: Graph) -> tuple[Graph, Report]:
    """A better graph, and what was done; the given one stays."""
    graph, report = graph.copy(), Report()
    _plain_fills(graph)
    _functional(graph)
    _fold_constants(graph, report)
    _cancel_transposes(graph)
    _drop_dead(graph)
    _fold_norms(graph, report)
    _general_forms(graph)
    _absorb_pads(graph, report)
    _absorb_bytes(graph, report)
    _rows_of_attention(graph)
    fuse_epilogues(graph, report.counts)
    _drop_dead(graph)
    return graph, report


def _plain_fills(graph: Graph) -> None:
    """`zeros` and `ones` in the form of a tensor need its shape alone."""
    for call in graph.calls:
        made = call.outputs()
        if call.name.partition("_")[0] in ("zeros", "ones") and made and not call.changed:
            value = graph.values[made[0]]
            if not value.varies and any(graph.values[i].varies for i in call.inputs()):
                shape = Pack(tuple, value.shape)
                number = float(call.name.startswith("ones"))
                call.arguments = {"shape": shape, "dtype": value.dtype, "number": number}
                call.function, call.places = fused.filled, tuple(call.arguments)
                call.star = call.named = None


# -- changes in place ------------------------------------------------------------------------------


def _functional(graph: Graph) -> None:
    """Make changes in place new values where no other view of the memory is read later."""
    last: dict[int, int] = {}
    for place, call in enumerate(graph.calls):
        for i in call.inputs():
            last[i] = place
    for i in graph.results():
        last[i] = len(graph.calls)
    names: dict[int, int] = {}
    calls = []
    for place, given in enumerate(graph.calls):
        call = _renamed(given, names)
        target = given.changed[0] if len(given.changed) == 1 else None
        plain = None
        if (
            target is not None
            and given.outputs() == [target]
            and _alone(graph, target, place, last)
        ):
            kinds = {graph.values[i].dtype for i in given.inputs()}
            plain = _out_of_place(call) if len(kinds) == 1 else None
        if plain is None or target is None:
            calls.append(call)
            continue
        made = graph.value(graph.values[target])
        names[target] = made.index
        calls.append(replace(plain, result=Ref(made.index), changed=()))
    graph.calls = calls
    graph.result = renamed(graph.result, names)


def _renamed(call: Call, names: dict[int, int]) -> Call:
    arguments = {key: renamed(value, names) for key, value in call.arguments.items()}
    changed = tuple(names.get(i, i) for i in call.changed)
    return replace(call, arguments=arguments, result=renamed(call.result, names), changed=changed)


def _alone(graph: Graph, target: int, place: int, last: dict[int, int]) -> bool:
    """Whether no other value in the memory of `target` is used after the call at `place`."""
    value = graph.values[target]
    for other in graph.values:
        if other.memory == value.memory and (
            other.origin != "made" or (other is not value and last.get(other.index, -1) > place)
        ):
            return False
    return value.origin == "made"


def _out_of_place(call: Call) -> Call | None:
    """The operation whose twin in place `call` is; None where it is none, or where the twin casts
    its result.
    """
    if call.arguments.get("inplace") is True:
        return replace(call, arguments={**call.arguments, "inplace": False})
    if call.name not in _SAME_TYPE:
        return None
    plain = call.name[:-1]
    operation = direct(call.function.__globals__.get(plain) or getattr(Tensor, plain))
    return replace(
        call,
        name=plain,
        function=operation,
        arguments=bound(operation, call),
        star=None,
        named=None,
        places=_positional(operation),
    )


# twins whose plain form gives the dtype of the first operand, if the others have it too
_SAME_TYPE = {
    "relu_", "add_", "sub_", "mul_", "div_", "sigmoid_", "tanh_", "elu_", "selu_", "celu_",
    "hardtanh_", "leaky_relu_", "clamp_", "clamp_min_", "clamp_max_", "exp_", "sqrt_", "abs_",
}  # fmt: skip


def _positional(function: Callable[..., Any]) -> tuple[str, ...]:
    kinds = inspect.Parameter
    return tuple(
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    )


# -- constants and dead code -----------------------------------------------------------------------


def call_now(call: Call, tensors: Any, n: int) -> Any:
    """Run a call."""
    given = {key: decode(value, tensors, n) for key, value in call.arguments.items()}
    positional = [given.pop(name) for name in call.places]
    if call.star is not None:
        positional += given.pop(call.star)
    if call.named is not None:
        given |= given.pop(call.named)
    return call.function(*positional, **given)


def _fold_constants(graph: Graph, report: Report) -> None:
    """Compute now what depends neither on the inputs nor on the batch size."""
    changed = {graph.values[i].memory for call in graph.calls for i in call.changed}
    rest = []
    for call in graph.calls:
        given = [graph.values[i] for i in call.inputs()]
        ours = [*given, *(graph.values[i] for i in call.outputs())]
        plain = (leaf for t in call.arguments.values() for leaf in leaves(t))
        if (
            call.changed
            or any(v.varies or v.memory in changed for v in ours)
            or any(v.origin != "state" for v in given)
            or any(type(leaf) is Batch for leaf in plain)
        ):
            rest.append(call)
            continue
        tensors = {v.index: v.tensor for v in given}
        with tape.no_grad():
            found = call_now(call, tensors, 0)
        made: dict[int, Any] = {}
        bind(call.result, found, made)
        for i, tensor in made.items():
            value = graph.values[i]
            value.origin, value.tensor = "state", tensor
        report.counts["constants computed once"] += 1
    graph.calls = rest


def _drop_dead(graph: Graph) -> None:
    """Drop calls whose results nobody uses; those that change memory stay."""
    wanted = graph.results()
    kept = []
    for call in reversed(graph.calls):
        fresh = [
            i for i in call.outputs() if graph.values[i].origin == "made" and i not in call.inputs()
        ]
        if call.changed or any(i in wanted for i in fresh):
            kept.append(call)
            wanted.update(call.inputs())
    graph.calls = kept[::-1]


def _cancel_transposes(graph: Graph) -> None:
    """Two transpositions of the same dimensions are none."""
    pinned = {graph.values[i].memory for call in graph.calls for i in call.changed}
    names: dict[int, int] = {}
    before: dict[int, tuple[Any, int]] = {}  # what a value is the transposition of
    calls = []
    for given in graph.calls:
        call = _renamed(given, names)
        calls.append(call)
        if call.name != "transpose" or call.changed:
            continue
        source, made = call.inputs()[0], call.outputs()[0]
        if graph.values[source].memory in pinned:
            continue
        dims = _transposed(graph, call)
        if source in before and before[source][0] == dims:
            names[made] = before[source][1]
        before[made] = dims, source
    graph.calls = calls
    graph.result = renamed(graph.result, names)


# -- batch norm ------------------------------------------------------------------------------------


def _fold_norms(graph: Graph, report: Report) -> None:
    """Batch norm with running statistics into the weights of the convolution or product before."""
    users, makers = graph.users(), graph.makers()
    names: dict[int, int] = {}
    dropped = set()
    for norm in graph.calls:
        before = _foldable(graph, norm, users, makers)
        if before is None:
            continue
        state = {key: _tensor(graph, norm.arguments[key]) for key in _NORM}
        weight, bias = _folded(graph, before, state, norm.arguments["eps"])
        where = before.module or before.name
        before.arguments["weight"] = Ref(graph.constant(weight, f"{where}.weight").index)
        before.arguments["bias"] = Ref(graph.constant(bias, f"{where}.bias").index)
        names[norm.outputs()[0]] = before.outputs()[0]
        dropped.add(id(norm))
        report.counts["batch norms folded into weights"] += 1
    calls = (call for call in graph.calls if id(call) not in dropped)
    graph.calls = [_renamed(call, names) for call in calls]
    graph.result = renamed(graph.result, names)


_NORM = ("running_mean", "running_var", "weight", "bias")


def _tensor(graph: Graph, template: Any) -> Any:
    return None if template is None else graph.values[template.index].tensor


def _is_state(graph: Graph, template: Any) -> bool:
    return template is None or graph.values[template.index].origin == "state"


def _foldable(graph: Graph, norm: Call, users: Any, makers: Any) -> Call | None:
    """The call before a batch norm, where one can be folded into it."""
    if norm.name != "batch_norm" or norm.arguments["training"] or norm.changed:
        return None
    source = norm.arguments["input"].index
    before: Call | None = makers.get(source)
    if before is None or len(users[source]) != 1 or before.name not in (*_CONVOLUTIONS, "linear"):
        return None
    parts = [norm.arguments[key] for key in _NORM]
    parts += [before.arguments["weight"], before.arguments["bias"]]
    if not all(_is_state(graph, part) for part in parts):
        return None
    if before.name == "linear" and len(graph.values[source].shape) != 2:
        return None
    if graph.values[source].dtype.kind != "f" or graph.values[source].dtype.itemsize < 4:
        return None
    return before


def _folded(graph: Graph, before: Call, state: dict[str, Any], eps: float) -> tuple[Any, Any]:
    """Weight and bias with the norm in them, computed in double precision."""
    weight = _tensor(graph, before.arguments["weight"]).array
    bias = _tensor(graph, before.arguments["bias"])
    double: dict[str, Any] = {
        key: None if t is None else t.array.astype(np.float64) for key, t in state.items()
    }
    factor = 1 / np.sqrt(double["running_var"] + eps)
    if double["weight"] is not None:
        factor = factor * double["weight"]
    shift = -double["running_mean"] * factor
    if bias is not None:
        shift = shift + bias.array * factor
    if double["bias"] is not None:
        shift = shift + double["bias"]
    # a part at a time: whole weights in double precision would be fresh memory twice as large
    scaled = np.empty_like(weight)
    by = factor.reshape((-1,) + (1,) * (weight.ndim - 1))
    np.multiply(weight, by, out=scaled, dtype=np.float64, casting="same_kind")
    return wrap(scaled), wrap(shift.astype(weight.dtype))


# -- forms -----------------------------------------------------------------------------------------


def _general_forms(graph: Graph) -> None:
    """Convolutions and products in the form that takes an epilogue."""
    for call in graph.calls:
        if call.name in _CONVOLUTIONS:
            ndim = _CONVOLUTIONS.index(call.name) + 3
            if len(graph.values[call.arguments["input"].index].shape) == ndim:
                _become(call, fused.convolution)
        elif (
            call.name == "linear"
            and call.arguments["out"] is None
            and _two_dims(graph, call.arguments["weight"])
        ):
            del call.arguments["out"]
            _become(call, fused.product)


def _absorb_pads(graph: Graph, report: Report) -> None:
    """Zeros around images into the padding of the convolution that reads them."""
    makers = graph.makers()
    for call in graph.calls:
        if call.name != "convolution" or call.arguments["padding"] == "same":
            continue
        before = makers.get(call.arguments["input"].index)
        if before is None or before.name != "pad" or before.changed:
            continue
        sides, image = before.arguments["pad"], before.arguments["input"]
        if (
            type(sides) is Pack
            and len(sides.items) == 4
            and all(type(side) is int and side >= 0 for side in sides.items)
            and before.arguments["mode"] == "constant"
            and not before.arguments["value"]
            and len(graph.values[image.index].shape) == 4
        ):
            call.arguments |= {"input": image, "around": sides}
            report.counts["paddings fused"] += 1


def _absorb_bytes(graph: Graph, report: Report) -> None:
    """Images of bytes into the convolution of few channels that reads them: it copies its input
    anyhow.
    """
    makers = graph.makers()
    for call in graph.calls:
        if call.name != "convolution":
            continue
        before = makers.get(call.arguments["input"].index)
        weight = graph.values[call.arguments["weight"].index].shape
        if (
            before is not None
            and before.name == "from_bytes"
            and not before.changed
            and call.arguments["groups"] == 1
            and weight[1] <= 4
            and weight[-1] > 1
            and call.arguments["dilation"] in (1, Pack(tuple, (1, 1)))
        ):
            levels = Pack(tuple, (before.arguments["mean"], before.arguments["std"]))
            call.arguments |= {"input": before.arguments["input"], "levels": levels}
            report.counts["normalisations fused"] += 1


def _rows_of_attention(graph: Graph) -> None:
    """Attention [L, N, E] whose projection is transposed: in the order that is wanted."""
    users = graph.users()
    for call in list(graph.calls):
        if call.name != "attended_projections" or call.changed:
            continue
        made = call.outputs()[0]
        after = users[made]
        if len(after) != 1 or after[0] is None or after[0].name != "product":
            continue
        product = after[0]
        turned = users[product.outputs()[0]]
        if product.arguments["input"] != Ref(made) or len(turned) != 1 or turned[0] is None:
            continue
        if turned[0].name != "transpose" or _transposed(graph, turned[0]) != {0, 1}:
            continue
        length, batch, size = graph.values[made].shape
        graph.values[made].shape = batch, length, size
        call.name, call.function = "attended_rows", fused.attended_rows
        product.result = turned[0].result
        graph.calls = [c for c in graph.calls if c is not turned[0]]


def _transposed(graph: Graph, call: Call) -> set[int]:
    """The dimensions that a transposition exchanges."""
    ndim = len(graph.values[call.inputs()[0]].shape)
    return {value % ndim for value in call.arguments.values() if type(value) is int}


def _two_dims(graph: Graph, template: Any) -> bool:
    return len(graph.values[template.index].shape) == 2


def _become(call: Call, function: Callable[..., Any]) -> None:
    call.function, call.name = function, function.__name__
    call.arguments |= {"residual": None, "low": None, "high": None}
    if function is fused.convolution:
        call.arguments |= {"around": None, "levels": None}
    call.places, call.star, call.named = _positional(function), None, None
