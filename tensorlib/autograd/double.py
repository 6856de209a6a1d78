"""Second derivatives: a node's backward run again on Tensors, so that it is recorded itself.

A backward is written with operators and NumPy functions on the arrays it captured. Here the
captured arrays that are an input's or the output's array are replaced by stand-ins that hold the
Tensor and answer NumPy's protocols with tensorlib's operations. An operation whose backward cannot
be run that way gives `record` a second form, `smooth`, which runs on the Tensors themselves. What
cannot be replaced (a captured floating-point array that is neither) is an error that names the
operation, never a wrong number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tensorlib.autograd import saved, tape
from tensorlib.autograd.tape import Node
from tensorlib.errors import UnsupportedError


def call(node: Node, gradient: Any) -> tuple[Any, ...]:
    """Run a node's backward on Tensors; `gradient` is one, or a list for several outputs."""
    kind = type(node)
    if kind is not Node and kind is not tape.ManyNode:
        return node.run(gradient, True)  # type: ignore[attr-defined,no-any-return]  # a custom Function's
    if gradient is None or (kind is tape.ManyNode and all(g is None for g in gradient)):
        return (None,) * len(node.inputs)
    if node.backward is None:
        raise saved.freed(node)
    saved.check_versions(node)
    function, ids = node.smooth or node.backward, None
    if isinstance(function, saved.Packed):
        function, ids = function.unpack()
    grads = gradient if isinstance(gradient, list) else [gradient]
    if getattr(function, "__code__", None) is None:
        raw = function(*grads)  # a callable object works on Tensors by itself
    else:
        known = _known(node)
        if ids is not None:
            known = {ids[key]: made for key, made in known.items() if key in ids}
        # in a second form Tensors stand in as themselves, in the first as something NumPy takes
        dress = _plain if node.smooth is not None else Stand
        replaced = saved.with_cells(function, _Replace(node, known, dress))
        raw = replaced(*(None if g is None else dress(g) for g in grads))
    raw = raw if isinstance(raw, tuple) else (raw,)
    if len(raw) != len(node.inputs):
        raise saved.wrong_count(node, len(raw))
    return tuple(fit(value, entry) for value, entry in zip(raw, node.inputs, strict=True))


def plus(a: Any, b: Any, own: bool) -> Any:
    """The sum of two gradients that are Tensors."""
    return a + b


def _plain(tensor: Any) -> Any:
    return tensor


def _known(node: Node) -> dict[int, Any]:
    """By id of the captured array: the Tensor it belongs to, with its place in the graph."""

    def tensor_of(edge: Any) -> Callable[[Any], Any]:
        return lambda array: tape.placed(array, edge)

    known: dict[int, Any] = {}
    if isinstance(node, tape.ManyNode):
        known = {key: tensor_of(node.part(index)) for key, index, *_ in node.results}
    elif node.output_id:
        known[node.output_id] = tensor_of(node)
    for edge, *_, array_id in node.inputs:
        if array_id and (array_id not in known or edge is not None):
            known[array_id] = tensor_of(edge)
    return known


class _Replace:
    """What a captured value becomes when backward runs on Tensors."""

    def __init__(self, node: Node, known: dict[int, Any], dress: Callable[[Any], Any]) -> None:
        self.node, self.known, self.dress = node, known, dress
        self.made: dict[int, Any] = {}

    def __call__(self, name: str, value: Any) -> Any:
        if isinstance(value, np.ndarray | np.generic) or (
            hasattr(value, "dtype") and hasattr(value, "strides")
        ):
            found = self.known.get(id(value))
            if found is not None:
                if id(value) not in self.made:
                    self.made[id(value)] = self.dress(found(tape.as_array(value)))
                return self.made[id(value)]
            if value.dtype.kind in "fcV" and self.node.smooth is None:
                raise UnsupportedError(
                    self.node.name(),
                    f"has no second derivative: its backward keeps the array {name!r}",
                    "operations that are smooth",
                    hint="leave create_graph=True out, or compute this part with other operations",
                )
            return value
        if isinstance(value, tuple | list):
            return (
                type(value)(self(name, v) for v in value) if type(value) in (tuple, list) else value
            )
        if getattr(value, "__closure__", None):
            return saved.with_cells(value, self)
        return value


def fit(value: Any, entry: Any) -> Any:
    """A gradient as a Tensor of its input's shape and dtype."""
    from tensorlib.ops import elementwise, reduction, shape

    if value is None or entry[0] is None:
        return None
    if isinstance(value, Stand):
        value = value.tensor
    elif not hasattr(value, "array"):
        value = tape.wrap(np.asarray(value))
    wanted, kind = entry[1], entry[2]
    if wanted is None:
        return value
    if value.array.shape != wanted:
        extra = value.array.ndim - len(wanted)
        if extra > 0:
            value = reduction.sum(value, tuple(range(extra)))
        axes = tuple(i for i, n in enumerate(wanted) if n == 1 and value.array.shape[i] != 1)
        if axes:
            value = reduction.sum(value, axes, True)
        if value.array.shape != wanted:
            value = shape.expand(value, wanted)
    if value.array.dtype != kind:
        if value.array.dtype.kind == "c" and kind.kind != "c":
            value = elementwise.real(value)
        value = value.to(dtype=kind)
    return value


def _bare(value: Any) -> Any:
    """A Tensor for a stand-in or an array, other values as they are."""
    if isinstance(value, Stand):
        return value.tensor
    if isinstance(value, np.ndarray | np.generic):
        return tape.wrap(tape.as_array(value))
    return value


def _operand(value: Any, like: Any) -> Any:
    """As `_bare`, numbers made Tensors of the type of `like`."""
    value = _bare(value)
    return value if hasattr(value, "array") else tape.wrap(np.asarray(value, like.array.dtype))


class Stand:
    """A Tensor that looks like an array to backward functions."""

    __slots__ = ("tensor",)
    __array_priority__ = 2000

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor

    shape = property(lambda self: self.tensor.array.shape)
    ndim = property(lambda self: self.tensor.array.ndim)
    size = property(lambda self: self.tensor.array.size)
    dtype = property(lambda self: self.tensor.array.dtype)
    T = property(lambda self: Stand(self.tensor.T))
    real = property(lambda self: Stand(self.tensor.real))
    imag = property(lambda self: Stand(self.tensor.imag))

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method == "reduce" and ufunc.__name__ == "add":
            return self.sum(*inputs[1:], **kwargs)
        made = UFUNCS.get(ufunc.__name__)
        if made is None or method != "__call__" or kwargs:
            raise _unsupported(f"numpy.{ufunc.__name__}")
        like = next(i for i in inputs if isinstance(i, Stand)).tensor
        return _dressed(made(*(_operand(i, like) if len(inputs) > 1 else _bare(i) for i in inputs)))

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        made = FUNCTIONS.get(func.__name__)
        if made is None:
            raise _unsupported(f"numpy.{func.__name__}")
        return _dressed(made(*args, **kwargs))

    def __neg__(self) -> Any:
        return Stand(-self.tensor)

    def __getitem__(self, index: Any) -> Any:
        return Stand(self.tensor[index])

    def sum(self, axis: Any = None, keepdims: bool = False) -> Any:
        """As an array's: no axes leave it as it is, where PyTorch takes all."""
        return self if axis == () else Stand(self.tensor.sum(axis, keepdims))

    def mean(self, axis: Any = None, keepdims: bool = False) -> Any:
        """As an array's: no axes leave it as it is, where PyTorch takes all."""
        return self if axis == () else Stand(self.tensor.mean(axis, keepdims))

    def max(self, axis: Any = None, keepdims: bool = False) -> Any:
        """As an array's."""
        return Stand(self.tensor.amax(() if axis is None else axis, keepdims))

    def reshape(self, *shape: Any) -> Any:
        """As an array's."""
        return Stand(self.tensor.reshape(*shape))

    def squeeze(self, axis: Any = None) -> Any:
        """As an array's."""
        return Stand(self.tensor.squeeze(axis))

    def transpose(self, *axes: Any) -> Any:
        """As an array's."""
        return Stand(self.tensor.permute(*axes))

    def swapaxes(self, a: int, b: int) -> Any:
        """As an array's."""
        return Stand(self.tensor.transpose(a, b))

    def astype(self, dtype: Any) -> Any:
        """As an array's."""
        return Stand(self.tensor.to(dtype=np.dtype(dtype)))

    def sigmoid(self) -> Any:
        """The logistic function, which NumPy has not."""
        return Stand(self.tensor.sigmoid())

    def conj(self) -> Any:
        """As an array's."""
        return Stand(self.tensor.conj())

    def copy(self) -> Any:
        """As an array's."""
        return Stand(self.tensor.clone())

    def all(self) -> bool:
        """As an array's."""
        return bool(self.tensor.array.all())


def _unsupported(what: str) -> UnsupportedError:
    return UnsupportedError(
        "create_graph", f"second derivatives do not go through {what}", "operations that are smooth"
    )


def _dressed(value: Any) -> Any:
    if hasattr(value, "array"):
        return Stand(value) if value.array.dtype.kind in "fcV" else value.array
    return value


def _binary(name: str) -> tuple[Any, Any]:
    """An operator and its reflected form."""
    operation = UFUNCS[name]

    def forward(self: Any, other: Any) -> Any:
        return _dressed(operation(self.tensor, _bare(other)))

    def reflected(self: Any, other: Any) -> Any:
        return _dressed(operation(_operand(other, self.tensor), self.tensor))

    return forward, reflected


def _table() -> tuple[dict[str, Any], dict[str, Any]]:
    """NumPy's names and the operations that answer them."""
    from tensorlib.ops import cumulative, indexing, linalg, reduction, shape
    from tensorlib.ops import elementwise as e

    ufuncs: dict[str, Any] = {
        "add": e.add,
        "subtract": e.sub,
        "multiply": e.mul,
        "divide": e.div,
        "true_divide": e.div,
        "power": e.pow,
        "negative": e.neg,
        "exp": e.exp,
        "exp2": e.exp2,
        "log": e.log,
        "log1p": e.log1p,
        "sqrt": e.sqrt,
        "square": e.square,
        "reciprocal": e.reciprocal,
        "absolute": e.abs,
        "sign": e.sign,
        "sin": e.sin,
        "cos": e.cos,
        "tan": e.tan,
        "sinh": e.sinh,
        "cosh": e.cosh,
        "arctan2": e.atan2,
        "maximum": e.maximum,
        "minimum": e.minimum,
        "floor": e.floor,
        "trunc": e.trunc,
        "conjugate": e.conj,
        "matmul": linalg.matmul,
        "equal": e.eq,
        "not_equal": e.ne,
        "less": e.lt,
        "less_equal": e.le,
        "greater": e.gt,
        "greater_equal": e.ge,
        "isnan": e.isnan,
        "isfinite": e.isfinite,
    }
    from tensorlib.ops.activation import tanh

    ufuncs["tanh"] = tanh

    def where(condition: Any, a: Any, b: Any) -> Any:
        like = next(v.tensor for v in (a, b, condition) if isinstance(v, Stand))
        return indexing.where(_bare(condition), _operand(a, like), _operand(b, like))

    def zeros_like(a: Any, dtype: Any = None, *, shape: Any = None, **_: Any) -> Any:
        return np.zeros(a.shape if shape is None else shape, dtype or a.dtype)

    def expand_dims(a: Any, axis: Any) -> Any:
        tensor = a.tensor
        axes = (axis,) if isinstance(axis, int) else tuple(axis)
        count = tensor.array.ndim + len(axes)
        for place in sorted(x % count for x in axes):
            tensor = shape.unsqueeze(tensor, place)
        return tensor

    def clip(a: Any, low: Any, high: Any) -> Any:
        return e.clamp(a.tensor, low, high)

    functions: dict[str, Any] = {
        "where": where,
        "zeros_like": zeros_like,
        "expand_dims": expand_dims,
        "clip": clip,
        "broadcast_to": lambda a, size: shape.expand(a.tensor, size),
        "sum": lambda a, axis=None, keepdims=False: reduction.sum(a.tensor, axis, keepdims),
        "mean": lambda a, axis=None, keepdims=False: reduction.mean(a.tensor, axis, keepdims),
        "cumsum": lambda a, axis: cumulative.cumsum(a.tensor, axis),
        "flip": lambda a, axis: shape.flip(a.tensor, axis),
        "roll": lambda a, s, axis=None: shape.roll(a.tensor, s, axis),
        "rot90": lambda a, k, axes: shape.rot90(a.tensor, k, axes),
        "tril": lambda a, k=0: shape.tril(a.tensor, k),
        "triu": lambda a, k=0: shape.triu(a.tensor, k),
        "swapaxes": lambda a, i, j: shape.transpose(a.tensor, i, j),
        "transpose": lambda a, axes=None: shape.permute(
            a.tensor, axes or tuple(range(a.ndim))[::-1]
        ),
        "diagonal": lambda a, offset=0, axis1=0, axis2=1: shape.diagonal(
            a.tensor, offset, axis1, axis2
        ),
        "take": lambda a, i, axis: indexing.index_select(a.tensor, axis, tape.wrap(i)),
        "stack": lambda parts, axis=0: shape.stack([_bare(p) for p in parts], axis),
        "concatenate": lambda parts, axis=0: shape.cat([_bare(p) for p in parts], axis),
        "pad": _pad,
    }
    return ufuncs, functions


def _pad(a: Any, sides: Any) -> Any:
    from tensorlib.ops.padding import pad_constant

    return pad_constant(a.tensor, sides, 0.0)


UFUNCS, FUNCTIONS = _table()
for _name, _symbol in (
    ("add", "add"),
    ("subtract", "sub"),
    ("multiply", "mul"),
    ("divide", "truediv"),
    ("power", "pow"),
    ("matmul", "matmul"),
):
    _forward, _reflected = _binary(_name)
    setattr(Stand, f"__{_symbol}__", _forward)
    setattr(Stand, f"__r{_symbol}__", _reflected)
for _name, _symbol in (
    ("greater", "gt"),
    ("greater_equal", "ge"),
    ("less", "lt"),
    ("less_equal", "le"),
    ("equal", "eq"),
    ("not_equal", "ne"),
):
    setattr(Stand, f"__{_symbol}__", _binary(_name)[0])
