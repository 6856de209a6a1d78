"""Recurrent layers and cells: `lstm gru rnn_tanh rnn_relu` and their `_cell` forms.

Each layer and direction is one recorded operation on a kernel with backward through time written
by hand. The same layer written with other operations is its second derivative, and its only form
for complex numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tensorlib import dtypes
from tensorlib.autograd import engine
from tensorlib.errors import ArgumentError, DTypeError, ShapeError
from tensorlib.kernels import recurrent as kernels
from tensorlib.ops import _autocast, activation, elementwise, linalg, shape
from tensorlib.ops._common import Grads, astype, record_outputs, wants, wrap
from tensorlib.ops.dropout import dropout as dropped

if TYPE_CHECKING:
    from tensorlib.tensor import Tensor

__all__ = [
    "gru",
    "gru_cell",
    "lstm",
    "lstm_cell",
    "rnn_relu",
    "rnn_relu_cell",
    "rnn_tanh",
    "rnn_tanh_cell",
]

# how many gates share a layer's weights
_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
_STATES = {"lstm": 2, "gru": 1, "rnn_tanh": 1, "rnn_relu": 1}


class Weights(NamedTuple):
    """What one direction of one layer learns; None where it has no such part."""

    ih: Tensor
    hh: Tensor
    bias_ih: Tensor | None = None
    bias_hh: Tensor | None = None
    hr: Tensor | None = None


def lstm(input: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """`(output, h_n, c_n)` of a stack of LSTM layers. Hochreiter and Schmidhuber, 1997.

    `lstm(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)`
    for [T, B, I], or `lstm(data, batch_sizes, hx, params, has_biases, num_layers, dropout, train,
    bidirectional)` for the parts of a PackedSequence; `hx = (h_0, c_0)` of [layers * directions, B,
    H]; `params` lists each layer's and direction's weight_ih, weight_hh, bias_ih, bias_hh,
    weight_hr, without those it has not.
    """
    output, h, c = _called("lstm", input, args, kwargs)
    return output, h, c


def gru(input: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """`(output, h_n)` of a stack of GRU layers; arguments as `lstm`'s, `hx` one tensor. Cho et
    al., 2014.
    """
    output, h = _called("gru", input, args, kwargs)
    return output, h


def rnn_tanh(input: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """`(output, h_n)` of a stack of layers `h = tanh(x W' + b + h U' + d)`; arguments as `gru`'s.
    Elman, 1990.
    """
    output, h = _called("rnn_tanh", input, args, kwargs)
    return output, h


def rnn_relu(input: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """As `rnn_tanh`, with relu in place of tanh."""
    output, h = _called("rnn_relu", input, args, kwargs)
    return output, h


def lstm_cell(
    input: Tensor,
    hx: Sequence[Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of an LSTM: [B, I] and `hx = (h, c)` of [B, H] to the next `(h, c)`."""
    if len(hx) != 2:
        raise ShapeError("lstm_cell", "lstm_cell expects two hidden states", f"got {len(hx)}")
    h, c = _cell("lstm", input, hx, Weights(w_ih, w_hh, b_ih, b_hh))
    return h, c


def gru_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """One step of a GRU: [B, I] and [B, H] to the next state [B, H]."""
    return _cell("gru", input, (hx,), Weights(w_ih, w_hh, b_ih, b_hh))[0]


def rnn_tanh_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """`tanh(input @ w_ih.T + b_ih + hx @ w_hh.T + b_hh)`: [B, I] and [B, H] to [B, H]."""
    return _cell("rnn_tanh", input, (hx,), Weights(w_ih, w_hh, b_ih, b_hh))[0]


def rnn_relu_cell(
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """`relu(input @ w_ih.T + b_ih + hx @ w_hh.T + b_hh)`: [B, I] and [B, H] to [B, H]."""
    return _cell("rnn_relu", input, (hx,), Weights(w_ih, w_hh, b_ih, b_hh))[0]


# -- stacks ----------------------------------------------------------------------------------------

_COMMON = ("hx", "params", "has_biases", "num_layers", "dropout", "train", "bidirectional")


def _called(kind: str, input: Tensor, args: tuple[Any, ...], kwargs: Any) -> list[Tensor]:
    """Sort the arguments of the padded and the packed form, and run the stack."""
    # the packed form has a tensor of sizes where the other has hx, and then hx as a tensor (lstm:
    # a pair) where the other has the list of weights
    place = 0 if kind == "lstm" else 1
    packed = "batch_sizes" in kwargs or (len(args) > place and hasattr(args[place], "array"))
    names = ("batch_sizes", *_COMMON) if packed else (*_COMMON, "batch_first")
    if len(args) + len(kwargs) != len(names) or set(names[len(args) :]) != set(kwargs):
        raise ArgumentError(
            kind,
            f"got {len(args) + 1} positional arguments and {sorted(kwargs)}",
            f"input, {', '.join(names)}",
        )
    given = dict(zip(names, args, strict=False)) | kwargs
    states = given["hx"] if kind == "lstm" else (given["hx"],)
    if len(states) != _STATES[kind]:
        raise ShapeError(kind, "lstm expects two hidden states", f"got {len(states)}")
    if _autocast.active:
        input, *states = _autocast.single(input, *states)
    turn = not packed and given["batch_first"]
    x = shape.transpose(input, 0, 1) if turn else input
    if packed:
        sizes = tuple(given["batch_sizes"].tolist())
    else:
        if x.array.ndim != 3:
            raise ShapeError(kind, f"input has shape {x.array.shape}", "3 dimensions")
        sizes = (x.array.shape[1],) * x.array.shape[0]
    if not sizes:
        raise ShapeError(kind, "Expected sequence length to be larger than 0 in RNN")
    rest = (given["has_biases"], given["num_layers"], given["bidirectional"])
    chance = given["dropout"] if given["train"] else 0.0
    output, *last = _stack(kind, x, sizes, states, given["params"], *rest, chance)
    return [shape.transpose(output, 0, 1) if turn else output, *last]


def _stack(
    kind: str,
    x: Tensor,
    sizes: kernels.Sizes,
    hidden: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    dropout: float,
) -> list[Tensor]:
    """All layers and directions, with dropout between layers."""
    directions = 2 if bidirectional else 1
    count = num_layers * directions
    projected = kind == "lstm" and hidden[0].array.shape[-1] != hidden[1].array.shape[-1]
    each = 2 + 2 * bool(has_biases) + projected
    if len(params) % each:
        raise ShapeError(
            kind,
            f"got an incorrect number of RNN parameters, {len(params)}",
            f"{each} for each of {count} layers and directions",
        )
    if len(params) < each * count:
        raise ShapeError(
            kind, f"Expected more weights in stacked_rnn, got {len(params)}", f"{each * count}"
        )
    for state in hidden:
        if state.array.ndim != 3 or state.array.shape[0] < count:
            raise ShapeError(
                kind,
                f"Expected more hidden states in stacked_rnn, got shape {state.array.shape}",
                f"({count}, batch, size)",
            )
    finals: list[list[Tensor]] = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            at = layer * directions + direction
            own = list(params[at * each : (at + 1) * each])
            if not has_biases:
                own[2:2] = [None, None]  # type: ignore[list-item]  # the biases' places
            starts = [shape.select(state, 0, at) for state in hidden]
            output, *last = _layer(kind, x, sizes, starts, Weights(*own), direction == 1)
            outputs.append(output)
            finals.append(last)
        x = outputs[0] if directions == 1 else shape.cat(outputs, -1)
        if dropout and layer < num_layers - 1:
            x = dropped(x, dropout)
    return [x, *(shape.stack(parts) for parts in zip(*finals, strict=True))]


def _cell(kind: str, input: Tensor, states: Sequence[Tensor], w: Weights) -> list[Tensor]:
    """One step, with PyTorch's checks of a cell."""
    where = f"{kind}_cell"
    if _autocast.active:
        input, *states = _autocast.single(input, *states)
    if input.array.ndim != 2:
        raise ShapeError(where, f"input has shape {input.array.shape}", "(batch, input_size)")
    batch, size = input.array.shape
    hidden = w.hh.array.shape[1]
    if size != w.ih.array.shape[1]:
        raise ShapeError(
            where,
            f"input has inconsistent input_size: got {size} expected {w.ih.array.shape[1]}",
        )
    if w.ih.array.shape[0] != _GATES[kind] * hidden:
        raise ShapeError(
            where,
            f"weight_ih first dim must be {_GATES[kind]} * hidden_size = {_GATES[kind] * hidden}, "
            f"but got {w.ih.array.shape[0]}",
        )
    for number, state in enumerate(states):
        if state.array.ndim != 2 or state.array.shape[0] != batch:
            raise ShapeError(
                where,
                f"Input batch size {batch} doesn't match hidden{number} batch size "
                f"{state.array.shape[0] if state.array.ndim else None}",
            )
        if state.array.shape[1] != hidden:
            raise ShapeError(
                where,
                f"hidden{number} has inconsistent hidden_size: got {state.array.shape[1]}, "
                f"expected {hidden}",
            )
    if (w.bias_ih is None) != (w.bias_hh is None):
        zeros = wrap(np.zeros_like(w.ih.array, shape=w.ih.array.shape[:1]))
        w = w._replace(
            bias_ih=zeros if w.bias_ih is None else w.bias_ih,
            bias_hh=zeros if w.bias_hh is None else w.bias_hh,
        )
    return _layer(kind, input, (batch,), states, w, False)[1:]


# -- one layer and direction -----------------------------------------------------------------------


def _layer(
    kind: str,
    x: Tensor,
    sizes: kernels.Sizes,
    states: Sequence[Tensor],
    w: Weights,
    reverse: bool,
) -> list[Tensor]:
    """`[output, *last states]` of [T, B, I], or of rows [N, I] sorted by step."""
    inputs = [x, *states, *w]
    _check(kind, x, sizes, states, w)
    dtype = x.array.dtype
    if dtype.kind == "c":
        return _composed(kind, sizes, reverse, inputs)
    if dtype.itemsize < 4:  # half precision is widened for the whole layer and rounded once
        wide = [None if t is None else astype(t, np.dtype(np.float32)) for t in inputs]
        return [astype(t, dtype) for t in _recorded(kind, sizes, reverse, wide)]
    return _recorded(kind, sizes, reverse, inputs)


def _recorded(kind: str, sizes: Any, reverse: bool, inputs: Sequence[Any]) -> list[Tensor]:
    """The layer as one operation on the kernels."""
    arrays: tuple[Any, ...] = tuple(None if t is None else t.array for t in inputs)
    lead = arrays[0].shape[:-1]
    x = arrays[0].reshape(sum(sizes), arrays[0].shape[-1])
    count = 1 + _STATES[kind]
    states, (ih, hh, bias, bias_hh, hr) = arrays[1:count], arrays[count:]
    given = (x, sizes, *states, ih, hh)
    relu = kind == "rnn_relu"
    found: tuple[Any, ...]
    if kind == "lstm":
        found = kernels.lstm(*given, bias, bias_hh, hr, reverse)
    elif kind == "gru":
        found = kernels.gru(*given, bias, bias_hh, reverse)
    else:
        found = kernels.rnn(*given, bias, bias_hh, relu, reverse)
    out, saved = found[0], found[count:]
    needs = [t is not None and wants(t) for t in inputs]
    need = (needs[0], any(needs[count:]))

    def backward(grad: Any, *grads: Any) -> Grads:
        back = None if grad is None else grad.reshape(out.shape)
        rest = (reverse, bias is not None, out, *saved, need)
        if kind == "lstm":
            parts = kernels.lstm_grad(back, *grads, *given, hr, *rest)
        elif kind == "gru":
            parts = kernels.gru_grad(back, *grads, *given, *rest)
        else:
            parts = kernels.rnn_grad(back, *grads, *given, relu, *rest)
        left = None if parts[0] is None else parts[0].reshape(arrays[0].shape)
        return tuple(g for g, t in zip((left, *parts[1:]), arrays, strict=False) if t is not None)

    def smooth(*grads: Any) -> Grads:
        return _again(kind, sizes, reverse, arrays, grads)

    backward.__qualname__ = kind
    outputs = (out.reshape(*lead, out.shape[1]), *found[1:count])
    results = record_outputs(
        outputs, backward, *(t for t in inputs if t is not None), smooth=smooth
    )
    if results[0]._node is not None:  # backward reads the output: note its changes in place
        results[0]._node.parent.output_version = results[0]._counter
    return list(results)


def _check(
    kind: str, x: Tensor, sizes: kernels.Sizes, states: Sequence[Tensor], w: Weights
) -> None:
    """Refuse sizes and types that do not fit together."""
    gates, hidden = w.hh.array.shape[0], w.hh.array.shape[0] // _GATES[kind]
    size = w.hh.array.shape[1]
    expected = {
        "weight_ih": (w.ih, (gates, x.array.shape[-1])),
        "weight_hh": (w.hh, (_GATES[kind] * hidden, size)),
        "bias_ih": (w.bias_ih, (gates,)),
        "bias_hh": (w.bias_hh, (gates,)),
        "weight_hr": (w.hr, (size, hidden)),
        "hidden state": (states[0], (max(sizes), size)),
        "cell state": (states[-1], (max(sizes), hidden)),
    }
    if w.hr is None and size != hidden:
        raise ShapeError(kind, f"weight_hh has shape {w.hh.array.shape}", f"({gates}, {hidden})")
    for name, (tensor, wanted) in expected.items():
        if tensor is None:
            continue
        if tensor.array.dtype != x.array.dtype:
            raise DTypeError(
                kind,
                f"mat1 and mat2 must have the same dtype, but got input {dtypes.of(x.array.dtype)}"
                f" and {name} {dtypes.of(tensor.array.dtype)}",
                hint="convert one with .to(dtype)",
            )
        if tensor.array.shape != wanted:
            raise ShapeError(
                kind,
                f"{name} has shape {tensor.array.shape}",
                f"{wanted} for an input of shape {x.array.shape}",
            )
    if x.array.ndim == 2 and (sum(sizes) != len(x.array) or list(sizes) != sorted(sizes)[::-1]):
        raise ShapeError(
            kind, f"batch sizes {sizes} for {len(x.array)} rows", "falling sizes that sum up to it"
        )


# -- the same layer of other operations ------------------------------------------------------------


def _again(
    kind: str, sizes: Any, reverse: bool, inputs: Sequence[Any], grads: Sequence[Any]
) -> Grads:
    """The layer's gradients as Tensors with a history of their own."""
    # a view of each input, so that what one input owes to another one is not counted here
    own = [shape.view_as(t, t) if t is not None and t.requires_grad else t for t in inputs]
    outputs = _composed(kind, sizes, reverse, own)
    used = [(o, g) for o, g in zip(outputs, grads, strict=True) if g is not None]
    wanted = [t for t in own if t is not None and t.requires_grad]
    found = iter(
        engine.grad(
            [o for o, _ in used],
            wanted,
            [g for _, g in used],
            create_graph=True,
            allow_unused=True,
        )
    )
    return tuple(next(found) if t.requires_grad else None for t in own if t is not None)


def _composed(kind: str, sizes: Any, reverse: bool, inputs: Sequence[Any]) -> list[Tensor]:
    """The layer step by step in operations on Tensors."""
    x, count = inputs[0], 1 + _STATES[kind]
    states, w = list(inputs[1:count]), Weights(*inputs[count:])
    rows = linalg.linear(shape.reshape(x, (-1, x.array.shape[-1])), w.ih, w.bias_ih)
    starts = np.cumsum((0, *sizes)).tolist()
    order = range(len(sizes))
    found = {}
    for t in reversed(order) if reverse else order:
        size = sizes[t]
        present = [shape.narrow(s, 0, 0, size) for s in states]
        now = _advanced(kind, shape.narrow(rows, 0, starts[t], size), present, w)
        found[t] = now[0]
        states = [
            n
            if len(s.array) == size
            else shape.cat([n, shape.narrow(s, 0, size, len(s.array) - size)])
            for n, s in zip(now, states, strict=True)
        ]
    output = shape.cat([found[t] for t in order])
    return [shape.reshape(output, (*x.array.shape[:-1], output.array.shape[1])), *states]


def _advanced(kind: str, row: Tensor, states: list[Tensor], w: Weights) -> list[Tensor]:
    """The next states of one step; `row` is the projection of its input."""
    add, mul = elementwise.add, elementwise.mul
    sigmoid, tanh = activation.sigmoid, activation.tanh
    h = states[0]
    past = linalg.linear(h, w.hh, w.bias_hh)
    if kind == "lstm":
        i, f, n, o = shape.chunk(add(row, past), 4, 1)
        c = add(mul(sigmoid(f), states[1]), mul(sigmoid(i), tanh(n)))
        h = mul(sigmoid(o), tanh(c))
        return [h if w.hr is None else linalg.linear(h, w.hr), c]
    if kind == "gru":
        (r, z, n), (hr, hz, hn) = shape.chunk(row, 3, 1), shape.chunk(past, 3, 1)
        new = tanh(add(n, mul(sigmoid(add(r, hr)), hn)))
        return [add(mul(elementwise.sub(h, new), sigmoid(add(z, hz))), new)]
    return [(tanh if kind == "rnn_tanh" else activation.relu)(add(row, past))]
