"""A pickle reader that can only build data: no import, no attribute lookup, no foreign call.

It runs the opcodes itself instead of steering Python's `pickle`, so what is not written here
cannot happen. A name in the stream is looked up in the table the caller gives; every other name
is refused by its full name.
"""

from __future__ import annotations

import pickle
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

__all__ = ["BadPickle", "Call", "RefusedPickle", "unpickle"]


class BadPickle(pickle.UnpicklingError):
    """The stream is damaged or is no pickle."""


class RefusedPickle(pickle.UnpicklingError):
    """The stream asks for something outside the allow-list. Nothing of it was run."""


class Call:
    """A name the stream may call: `function` gets the checked positional arguments."""

    __slots__ = ("function", "name")

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.name = name
        self.function = function


class _Mark:
    """Start of a run of items on the stack."""


class _ArrayInProgress:
    """A NumPy array between its construction and its state."""


_MARK = _Mark()
_ATOMS = (str, int, float, complex, bytes, type(None))


def unpickle(
    data: bytes, names: Mapping[str, Any], persistent: Callable[[Any], Any] | None = None
) -> Any:
    """The object in `data`. `names` maps "module.name" to a constant or a `Call`.

    Raises BadPickle for a damaged stream and RefusedPickle for a name outside `names`.
    """
    try:
        return _Machine(names, persistent).run(data)
    except (pickle.UnpicklingError, MemoryError):
        raise
    except RecursionError:
        raise BadPickle("the pickle nests too deeply") from None
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError) as error:
        raise BadPickle(f"the pickle is damaged ({type(error).__name__}: {error})") from error


class _Machine:
    def __init__(self, names: Mapping[str, Any], persistent: Callable[[Any], Any] | None) -> None:
        self.names = {**_BUILTIN, **names}
        self.persistent = persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for name, arg in _opcodes(data):
            if name == "STOP":
                if len(self.stack) != 1 or isinstance(self.stack[0], _Mark | Call):
                    raise BadPickle("the pickle does not end in one object")
                return self.stack[0]
            if name in _PUSH_ARG:
                self.stack.append(arg)
            elif name in _PUSH_NEW:
                self.stack.append(_PUSH_NEW[name]())
            else:
                step = _STEPS.get(name)
                if step is None:
                    raise RefusedPickle(f"refuses the pickle opcode {name}")
                step(self, arg)
        raise BadPickle("the pickle has no end (the file is truncated)")

    def pop(self) -> Any:
        value = self.stack.pop()
        if isinstance(value, _Mark):
            raise BadPickle("the pickle pops a mark as if it were an object")
        return value

    def pop_to_mark(self) -> list[Any]:
        for i in range(len(self.stack) - 1, -1, -1):
            if isinstance(self.stack[i], _Mark):
                items = self.stack[i + 1 :]
                del self.stack[i:]
                return items
        raise BadPickle("the pickle closes a run of items that it never opened")

    def top(self, kind: type | tuple[type, ...]) -> Any:
        value = self.stack[-1]
        if not isinstance(value, kind):
            raise RefusedPickle(f"refuses to fill an object of type {type(value).__name__}")
        return value

    # one method per opcode; the argument is None where the opcode has none

    def op_nothing(self, arg: Any) -> None:
        """PROTO and FRAME say nothing that matters here."""

    def op_pop(self, arg: Any) -> None:
        self.stack.pop()

    def op_pop_mark(self, arg: Any) -> None:
        self.pop_to_mark()

    def op_dup(self, arg: Any) -> None:
        self.stack.append(self.stack[-1])

    def op_mark(self, arg: Any) -> None:
        self.stack.append(_MARK)

    def op_tuple(self, arg: Any) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def op_tuple1(self, arg: Any) -> None:
        self.stack.append((self.pop(),))

    def op_tuple2(self, arg: Any) -> None:
        second, first = self.pop(), self.pop()
        self.stack.append((first, second))

    def op_tuple3(self, arg: Any) -> None:
        third, second, first = self.pop(), self.pop(), self.pop()
        self.stack.append((first, second, third))

    def op_list(self, arg: Any) -> None:
        self.stack.append(self.pop_to_mark())

    def op_dict(self, arg: Any) -> None:
        self.stack.append({})
        self.set_items(self.pop_to_mark_below_top())

    def pop_to_mark_below_top(self) -> list[Any]:
        new = self.stack.pop()
        items = self.pop_to_mark()
        self.stack.append(new)
        return items

    def op_frozenset(self, arg: Any) -> None:
        self.stack.append(frozenset(_key(item) for item in self.pop_to_mark()))

    def op_append(self, arg: Any) -> None:
        value = self.pop()
        self.top(list).append(value)

    def op_appends(self, arg: Any) -> None:
        items = self.pop_to_mark()
        self.top(list).extend(items)

    def op_setitem(self, arg: Any) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def op_setitems(self, arg: Any) -> None:
        self.set_items(self.pop_to_mark())

    def set_items(self, items: list[Any]) -> None:
        target = self.top(dict)
        for i in range(0, len(items) - len(items) % 2, 2):
            target[_key(items[i])] = items[i + 1]
        if len(items) % 2:
            raise BadPickle("the pickle has a dict key without a value")

    def op_additems(self, arg: Any) -> None:
        items = self.pop_to_mark()
        self.top(set).update(_key(item) for item in items)

    def op_put(self, arg: Any) -> None:
        self.memo[int(arg)] = self.stack[-1]

    def op_memoize(self, arg: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def op_get(self, arg: Any) -> None:
        self.stack.append(self.memo[int(arg)])

    def op_global(self, arg: Any) -> None:
        self.push_name(str(arg).replace(" ", ".", 1))

    def op_stack_global(self, arg: Any) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise BadPickle("the pickle names a global with something that is not text")
        self.push_name(f"{module}.{name}")

    def push_name(self, name: str) -> None:
        try:
            self.stack.append(self.names[name])
        except KeyError:
            raise RefusedPickle(f"refuses {name!r}, which is not data") from None

    def op_reduce(self, arg: Any) -> None:
        args, function = self.pop(), self.pop()
        if not isinstance(function, Call):
            raise RefusedPickle(f"refuses to call an object of type {type(function).__name__}")
        if not isinstance(args, tuple):
            raise BadPickle("the pickle calls a function without a tuple of arguments")
        self.stack.append(function.function(*args))

    def op_build(self, arg: Any) -> None:
        state, value = self.pop(), self.pop()
        if isinstance(value, OrderedDict) and isinstance(state, dict):
            # torch keeps the versions of a state dict's modules here, and nothing else
            if set(state) - {"_metadata"}:
                raise RefusedPickle(f"refuses to set {sorted(map(str, state))} on an OrderedDict")
            vars(value).update(state)
            self.stack.append(value)
        elif isinstance(value, _ArrayInProgress):
            self.replace(value, _array(*state))
        elif isinstance(value, np.dtype):
            self.replace(value, value.newbyteorder(_byte_order(state)))
        else:
            raise RefusedPickle(f"refuses to set the state of a {type(value).__name__}")

    def replace(self, old: Any, new: Any) -> None:
        for key, value in self.memo.items():
            if value is old:
                self.memo[key] = new
        self.stack.append(new)

    def op_persid(self, arg: Any) -> None:
        self.load_persistent(arg)

    def op_binpersid(self, arg: Any) -> None:
        self.load_persistent(self.pop())

    def load_persistent(self, ident: Any) -> None:
        if self.persistent is None:
            raise RefusedPickle("refuses a persistent id: this file has no storages")
        self.stack.append(self.persistent(ident))


_PUSH_ARG = frozenset(
    """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE SHORT_BINUNICODE BINUNICODE
    BINUNICODE8 SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8 STRING BINSTRING SHORT_BINSTRING
    """.split()  # noqa: SIM905 (a table reads better)
)
_PUSH_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _Machine.op_nothing,
    "FRAME": _Machine.op_nothing,
    "POP": _Machine.op_pop,
    "POP_MARK": _Machine.op_pop_mark,
    "DUP": _Machine.op_dup,
    "MARK": _Machine.op_mark,
    "TUPLE": _Machine.op_tuple,
    "TUPLE1": _Machine.op_tuple1,
    "TUPLE2": _Machine.op_tuple2,
    "TUPLE3": _Machine.op_tuple3,
    "LIST": _Machine.op_list,
    "DICT": _Machine.op_dict,
    "FROZENSET": _Machine.op_frozenset,
    "APPEND": _Machine.op_append,
    "APPENDS": _Machine.op_appends,
    "SETITEM": _Machine.op_setitem,
    "SETITEMS": _Machine.op_setitems,
    "ADDITEMS": _Machine.op_additems,
    "PUT": _Machine.op_put,
    "BINPUT": _Machine.op_put,
    "LONG_BINPUT": _Machine.op_put,
    "MEMOIZE": _Machine.op_memoize,
    "GET": _Machine.op_get,
    "BINGET": _Machine.op_get,
    "LONG_BINGET": _Machine.op_get,
    "GLOBAL": _Machine.op_global,
    "STACK_GLOBAL": _Machine.op_stack_global,
    "REDUCE": _Machine.op_reduce,
    "BUILD": _Machine.op_build,
    "PERSID": _Machine.op_persid,
    "BINPERSID": _Machine.op_binpersid,
}


def _opcodes(data: bytes) -> Iterator[tuple[str, Any]]:
    import pickletools

    stream = pickletools.genops(data)
    while True:
        with warnings.catch_warnings():
            # text with odd escapes is the file's business, not a mistake in our source
            warnings.simplefilter("ignore", DeprecationWarning)
            found = next(stream, None)
        if found is None:
            return
        yield found[0].name, found[1]


def _key(value: Any) -> Any:
    """`value` if it may be a key: hashing a deep foreign tuple would overflow the C stack."""
    if isinstance(value, _ATOMS) or (
        isinstance(value, tuple) and all(isinstance(item, _ATOMS) for item in value)
    ):
        return value
    raise RefusedPickle(f"refuses a {type(value).__name__} as a dict key or set element")


def _set(items: Any = ()) -> set[Any]:
    return {_key(item) for item in _list(items)}


def _list(items: Any) -> list[Any]:
    if not isinstance(items, list | tuple):
        raise BadPickle(f"expected a list, got {type(items).__name__}")
    return list(items)


def _ordered(items: Any = ()) -> OrderedDict[Any, Any]:
    return OrderedDict((_key(key), value) for key, value in _list(items))


def _counter(counts: Any = None) -> Counter[Any]:
    if counts is not None and not isinstance(counts, dict):
        raise BadPickle(f"expected a dict of counts, got {type(counts).__name__}")
    return Counter(counts)


def _encode(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise RefusedPickle("refuses _codecs.encode for anything but latin1 text")
    return text.encode("latin1")


def _number(kind: type, length: int) -> Callable[..., Any]:
    def build(*args: Any) -> Any:
        if len(args) > length or not all(type(arg) in (int, float) for arg in args):
            raise BadPickle(f"expected numbers for a {kind.__name__}")
        return kind(*args)

    return build


def _dtype(code: Any, align: Any = False, copy: Any = True) -> np.dtype[Any]:
    # a structured or object dtype could hold references; numbers and bool are all we need
    if isinstance(code, str) and code.lstrip("<>=|")[:1] in "biufc" and len(code) <= 4:
        return np.dtype(code)
    raise RefusedPickle(f"refuses the NumPy dtype {code!r:.40}")


def _byte_order(state: Any) -> Any:
    if isinstance(state, tuple) and len(state) >= 2 and state[1] in ("<", ">", "|", "="):
        return state[1]
    raise BadPickle("a NumPy dtype has no byte order")


def _scalar(dtype: Any, data: Any) -> np.generic:
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes):
        raise BadPickle("a NumPy scalar needs a dtype and its bytes")
    if len(data) != dtype.itemsize:
        raise BadPickle(f"a NumPy scalar of {dtype} has {len(data)} bytes")
    value: np.generic = np.frombuffer(data, dtype)[0]
    return value


def _reconstruct(*args: Any) -> _ArrayInProgress:
    return _ArrayInProgress()


def _array(version: Any, shape: Any, dtype: Any, fortran: Any, data: Any) -> np.ndarray:
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes) or not _sizes(shape):
        raise BadPickle("a NumPy array needs a shape, a dtype and its bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C").copy("K")


def _sizes(shape: Any) -> bool:
    return isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)


_BUILTIN: dict[str, Any] = {"_codecs.encode": Call("_codecs.encode", _encode)}
for _module in ("collections", "builtins", "__builtin__"):
    if _module == "collections":
        _BUILTIN["collections.OrderedDict"] = Call("collections.OrderedDict", _ordered)
        _BUILTIN["collections.Counter"] = Call("collections.Counter", _counter)
    else:
        _BUILTIN[f"{_module}.set"] = Call("set", _set)
        _BUILTIN[f"{_module}.complex"] = Call("complex", _number(complex, 2))
for _core in ("numpy.core", "numpy._core"):
    _BUILTIN[f"{_core}.multiarray._reconstruct"] = Call("_reconstruct", _reconstruct)
    _BUILTIN[f"{_core}.multiarray.scalar"] = Call("scalar", _scalar)
_BUILTIN["numpy.ndarray"] = None  # only ever an argument of _reconstruct
_BUILTIN["numpy.dtype"] = Call("dtype", _dtype)
