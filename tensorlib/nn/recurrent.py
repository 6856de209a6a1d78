"""Recurrent layers and cells."""

from __future__ import annotations

import math
import numbers
import warnings
from typing import Any

import tensorlib
from tensorlib.errors import ArgumentError, InvalidValueError, ShapeError
from tensorlib.nn import init
from tensorlib.nn.module import Module
from tensorlib.nn.parameter import Parameter
from tensorlib.nn.utils.rnn import PackedSequence
from tensorlib.ops import _autocast
from tensorlib.ops import recurrent as ops
from tensorlib.tensor import Tensor

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNBase", "RNNCell", "RNNCellBase"]

# mode: operation of the stack, gates
_MODES = {
    "LSTM": (ops.lstm, 4),
    "GRU": (ops.gru, 3),
    "RNN_TANH": (ops.rnn_tanh, 1),
    "RNN_RELU": (ops.rnn_relu, 1),
}


class RNNBase(Module):
    """What RNN, LSTM and GRU share: sizes, weights `weight_ih_l{layer}`, `weight_hh_l{layer}`,
    `bias_ih_l{layer}`, `bias_hh_l{layer}` and with proj_size `weight_hr_l{layer}`, those of the
    second direction with the suffix `_reverse`, and their checks.
    """

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.mode, self.input_size, self.hidden_size = mode, input_size, hidden_size
        self.num_layers, self.bias, self.batch_first = num_layers, bias, batch_first
        self.dropout, self.bidirectional, self.proj_size = float(dropout), bidirectional, proj_size
        self._check_dropout(dropout)
        self._check_sizes()
        gates = _MODES[mode][1] * hidden_size
        state, directions = proj_size or hidden_size, 2 if bidirectional else 1
        self._all_weights: list[list[str]] = []
        for layer in range(num_layers):
            size = state * directions if layer else input_size
            shapes: dict[str, tuple[int, ...]] = {
                "weight_ih": (gates, size),
                "weight_hh": (gates, state),
            }
            if bias:
                shapes |= {"bias_ih": (gates,), "bias_hh": (gates,)}
            if proj_size:
                shapes["weight_hr"] = (proj_size, hidden_size)
            for suffix in ("", "_reverse")[:directions]:
                names = {f"{name}_l{layer}{suffix}": shape for name, shape in shapes.items()}
                for name, shape in names.items():
                    values = tensorlib.empty(shape, device=device, dtype=dtype)
                    setattr(self, name, Parameter(values))
                self._all_weights.append(list(names))
        self.reset_parameters()

    def _check_dropout(self, dropout: Any) -> None:
        where = type(self).__name__
        number = isinstance(dropout, numbers.Number) and not isinstance(dropout, bool)
        if not number or not 0 <= dropout <= 1:
            raise InvalidValueError(
                where,
                "dropout should be a number in range [0, 1] representing the probability of an "
                f"element being zeroed, got {dropout!r}",
            )
        if dropout > 0 and self.num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero"
                " dropout expects num_layers greater than 1, but got"
                f" dropout={dropout} and num_layers={self.num_layers}",
                stacklevel=4,
            )

    def _check_sizes(self) -> None:
        where = type(self).__name__
        for name, kind in (
            ("bias", bool),
            ("batch_first", bool),
            ("input_size", int),
            ("hidden_size", int),
        ):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise ArgumentError(
                    where,
                    f"{name} should be of type {kind.__name__}, got: {type(value).__name__}",
                )
            if kind is int and value <= 0:
                raise InvalidValueError(where, f"{name} must be greater than zero, got {value}")
        if self.num_layers <= 0:
            raise InvalidValueError(
                where, f"num_layers must be greater than zero, got {self.num_layers}"
            )
        if self.proj_size < 0:
            raise InvalidValueError(
                where,
                "proj_size should be a positive integer or zero to disable projections, got "
                f"{self.proj_size}",
            )
        if self.proj_size >= self.hidden_size:
            raise InvalidValueError(
                where,
                f"proj_size has to be smaller than hidden_size, got {self.proj_size} and "
                f"{self.hidden_size}",
            )
        if self.mode not in _MODES:
            raise InvalidValueError(
                where, f"Unrecognized RNN mode: {self.mode}", f"one of {', '.join(_MODES)}"
            )

    def reset_parameters(self) -> None:
        bound = 1.0 / math.sqrt(self.hidden_size)
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)

    def flatten_parameters(self) -> None:
        """Nothing: it arranges memory for cuDNN in PyTorch."""

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The weights of each layer and direction."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    @property
    def _flat_weights(self) -> list[Parameter]:
        return [weight for weights in self.all_weights for weight in weights]

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        """Refuse an input that does not fit the weights."""
        where, weight = type(self).__name__, getattr(self, self._all_weights[0][0])
        if input.dtype != weight.dtype and not _autocast.active:  # which casts
            raise InvalidValueError(
                where,
                f"RNN input dtype ({input.dtype}) does not match weight dtype ({weight.dtype})",
                hint=f"Convert input: input.to({weight.dtype}), or convert model: "
                f"model.to({input.dtype})",
            )
        dims = 3 if batch_sizes is None else 2
        if input.dim() != dims:
            raise ShapeError(where, f"input must have {dims} dimensions, got {input.dim()}")
        if input.shape[-1] != self.input_size:
            raise ShapeError(
                where,
                "input.size(-1) must be equal to input_size. Expected "
                f"{self.input_size}, got {input.shape[-1]}",
            )

    def get_expected_hidden_size(
        self, input: Tensor, batch_sizes: Tensor | None
    ) -> tuple[int, int, int]:
        """[layers * directions, batch, size] of a hidden state for this input."""
        if batch_sizes is not None:
            batch = int(batch_sizes[0])
        else:
            batch = input.shape[0 if self.batch_first else 1]
        directions = 2 if self.bidirectional else 1
        return self.num_layers * directions, batch, self.proj_size or self.hidden_size

    def check_hidden_size(
        self,
        hx: Tensor,
        expected_hidden_size: tuple[int, int, int],
        msg: str = "Expected hidden size {}, got {}",
    ) -> None:
        """Refuse a state of another size."""
        if tuple(hx.shape) != expected_hidden_size:
            raise ShapeError(type(self).__name__, msg.format(expected_hidden_size, list(hx.shape)))

    def check_forward_args(self, input: Tensor, hidden: Any, batch_sizes: Tensor | None) -> None:
        """Refuse an input and a state that do not fit the weights."""
        self.check_input(input, batch_sizes)
        self.check_hidden_size(hidden, self.get_expected_hidden_size(input, batch_sizes))

    def permute_hidden(self, hx: Any, permutation: Tensor | None) -> Any:
        """The states in another order of the batch."""
        if permutation is None:
            return hx
        if isinstance(hx, tuple | list):
            return tuple(self.permute_hidden(state, permutation) for state in hx)
        return hx.index_select(1, permutation)

    def _zeros(self, input: Tensor, batch_sizes: Tensor | None) -> Any:
        return input.new_zeros(self.get_expected_hidden_size(input, batch_sizes))

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        for name, usual in (
            ("proj_size", 0),
            ("num_layers", 1),
            ("bias", True),
            ("batch_first", False),
            ("dropout", 0),
            ("bidirectional", False),
        ):
            value = getattr(self, name)
            if value != usual:
                text += f", {name}={value}"
        return text


class _Recurrent(RNNBase):
    """The forward pass; a state is a tensor, or for LSTM a tuple of two."""

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        packed = isinstance(input, PackedSequence)
        rows, batch_sizes, order, back = input if packed else (input, None, None, None)
        single = False
        if not packed:
            if rows.dim() not in (2, 3):
                raise InvalidValueError(
                    type(self).__name__, f"Expected input to be 2D or 3D, got {rows.dim()}D"
                )
            single = rows.dim() == 2
            if single:
                rows = rows.unsqueeze(0 if self.batch_first else 1)
            if hx is not None:
                hx = self._batched(hx, single)
        if hx is None:
            hx = self._zeros(rows, batch_sizes)
        else:
            hx = self.permute_hidden(hx, order)
        self.check_forward_args(rows, hx, batch_sizes)
        settings = (self.bias, self.num_layers, self.dropout, self.training, self.bidirectional)
        run = _MODES[self.mode][0]
        if packed:
            data, *last = run(rows, batch_sizes, hx, self._flat_weights, *settings)
            output: Any = PackedSequence(data, batch_sizes, order, back)
        else:
            output, *last = run(rows, hx, self._flat_weights, *settings, self.batch_first)
        if single:
            output = output.squeeze(0 if self.batch_first else 1)
            last = [state.squeeze(1) for state in last]
        return output, self.permute_hidden(last[0] if len(last) == 1 else tuple(last), back)

    def _batched(self, hx: Any, single: bool) -> Any:
        """A given state with its batch dimension."""
        wanted, kind = (2, "unbatched 2-D") if single else (3, "batched 3-D")
        if hx.dim() != wanted:
            raise ShapeError(
                type(self).__name__,
                f"For {kind} input, hx should also be {wanted}-D but got {hx.dim()}-D tensor",
            )
        return hx.unsqueeze(1) if single else hx


class RNN(_Recurrent):
    """Layers of h_t = tanh(x_t W_ihᵀ + b_ih + h_(t-1) W_hhᵀ + b_hh). Elman, 1990.

    `RNN(input_size, hidden_size, num_layers=1, nonlinearity="tanh", bias=True, batch_first=False,
    dropout=0.0, bidirectional=False, device=None, dtype=None)`; nonlinearity "tanh" or "relu".

    Shape: (T, N, input_size) and h_0 (num_layers * directions, N, hidden_size), zeros by default,
    to (T, N, directions * hidden_size) and h_n; `batch_first` swaps T and N; without N for one
    sequence; a PackedSequence gives one.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _no_projection(type(self).__name__, kwargs)
        if len(args) > 3:
            nonlinearity, args = args[3], args[:3] + args[4:]
        else:
            nonlinearity = kwargs.pop("nonlinearity", "tanh")
        if nonlinearity not in ("tanh", "relu"):
            raise InvalidValueError(
                "RNN", f"Unknown nonlinearity '{nonlinearity}'", "Select from 'tanh' or 'relu'"
            )
        super().__init__(f"RNN_{nonlinearity.upper()}", *args, **kwargs)
        self.nonlinearity = nonlinearity


class GRU(_Recurrent):
    """Layers of gated recurrent units. Cho et al., 2014.

    `GRU(input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0,
    bidirectional=False, device=None, dtype=None)`; shapes as `RNN`'s.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _no_projection(type(self).__name__, kwargs)
        super().__init__("GRU", *args, **kwargs)


class LSTM(_Recurrent):
    """Layers of long short-term memory. Hochreiter and Schmidhuber, 1997; proj_size: Sak et al.,
    2014.

    `LSTM(input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0,
    bidirectional=False, proj_size=0, device=None, dtype=None)`.

    Shape: as `RNN`'s with the pair `(h, c)` for h; hidden_size of h and of the output is proj_size
    where that is not 0.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)

    def get_expected_cell_size(
        self, input: Tensor, batch_sizes: Tensor | None
    ) -> tuple[int, int, int]:
        """[layers * directions, batch, hidden_size] of a cell state for this input."""
        return *self.get_expected_hidden_size(input, batch_sizes)[:2], self.hidden_size

    def check_forward_args(self, input: Tensor, hidden: Any, batch_sizes: Tensor | None) -> None:
        self.check_input(input, batch_sizes)
        sizes = self.get_expected_hidden_size(input, batch_sizes)
        self.check_hidden_size(hidden[0], sizes, "Expected hidden[0] size {}, got {}")
        sizes = self.get_expected_cell_size(input, batch_sizes)
        self.check_hidden_size(hidden[1], sizes, "Expected hidden[1] size {}, got {}")

    def _zeros(self, input: Tensor, batch_sizes: Tensor | None) -> Any:
        cells = input.new_zeros(self.get_expected_cell_size(input, batch_sizes))
        return super()._zeros(input, batch_sizes), cells

    def _batched(self, hx: Any, single: bool) -> Any:
        wanted, kind = (2, "unbatched 2-D") if single else (3, "batched 3-D")
        if hx[0].dim() != wanted or hx[1].dim() != wanted:
            raise ShapeError(
                type(self).__name__,
                f"For {kind} input, hx and cx should also be {wanted}-D but got "
                f"({hx[0].dim()}-D, {hx[1].dim()}-D) tensors",
            )
        return (hx[0].unsqueeze(1), hx[1].unsqueeze(1)) if single else (hx[0], hx[1])


def _no_projection(where: str, kwargs: dict[str, Any]) -> None:
    if "proj_size" in kwargs:
        raise InvalidValueError(
            where, "proj_size argument is only supported for LSTM, not RNN or GRU"
        )


class RNNCellBase(Module):
    """What the cells share: `weight_ih`, `weight_hh`, `bias_ih`, `bias_hh`."""

    bias_ih: Parameter | None
    bias_hh: Parameter | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool,
        num_chunks: int,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        gates = num_chunks * hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (gates, input_size),
            "weight_hh": (gates, hidden_size),
            "bias_ih": (gates,),
            "bias_hh": (gates,),
        }
        for name, shape in shapes.items():
            if len(shape) == 1 and not bias:
                self.register_parameter(name, None)
            else:
                values = tensorlib.empty(shape, device=device, dtype=dtype)
                setattr(self, name, Parameter(values))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for weight in self.parameters():
            init.uniform_(weight, -bound, bound)

    def _weights(self) -> tuple[Any, ...]:
        return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh

    def _check(self, value: Tensor, name: str) -> None:
        if value.dim() not in (1, 2):
            raise InvalidValueError(
                type(self).__name__, f"Expected {name} to be 1D or 2D, got {value.dim()}D instead"
            )

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        if self.bias is not True:
            text += f", bias={self.bias}"
        return text


class _OneStateCell(RNNCellBase):
    def _operation(self) -> Any:
        raise NotImplementedError

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        self._check(input, "input")
        if hx is not None:
            self._check(hx, "hidden")
        single = input.dim() == 1
        rows = input.unsqueeze(0) if single else input
        if hx is None:
            hx = rows.new_zeros((rows.shape[0], self.hidden_size))
        elif single:
            hx = hx.unsqueeze(0)
        found: Tensor = self._operation()(rows, hx, *self._weights())
        return found.squeeze(0) if single else found


class RNNCell(_OneStateCell):
    """h' = tanh(x W_ihᵀ + b_ih + h W_hhᵀ + b_hh), or relu with nonlinearity "relu".

    Shape: (N, input_size) and h (N, hidden_size), zeros by default, to h'; or both without N.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def _operation(self) -> Any:
        found = {"tanh": ops.rnn_tanh_cell, "relu": ops.rnn_relu_cell}.get(self.nonlinearity)
        if found is None:
            raise ShapeError(
                "RNNCell", f"Unknown nonlinearity: {self.nonlinearity}", "'tanh' or 'relu'"
            )
        return found

    def extra_repr(self) -> str:
        text = super().extra_repr()
        return text if self.nonlinearity == "tanh" else f"{text}, nonlinearity={self.nonlinearity}"


class GRUCell(_OneStateCell):
    """One step of a gated recurrent unit; shapes as `RNNCell`'s."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def _operation(self) -> Any:
        return ops.gru_cell


class LSTMCell(RNNCellBase):
    """One step of an LSTM: (N, input_size) and `(h, c)` to the next `(h, c)`, each (N,
    hidden_size); or all without N. Zeros where no state is given.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        self._check(input, "input")
        for number, state in enumerate(hx or ()):
            self._check(state, f"hx[{number}]")
        single = input.dim() == 1
        rows = input.unsqueeze(0) if single else input
        if hx is None:
            zeros = rows.new_zeros((rows.shape[0], self.hidden_size))
            hx = (zeros, zeros)
        elif single:
            hx = (hx[0].unsqueeze(0), hx[1].unsqueeze(0))
        h, c = ops.lstm_cell(rows, hx, *self._weights())
        return (h.squeeze(0), c.squeeze(0)) if single else (h, c)
