"""Modules that hold modules or parameters."""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, overload

from tensorlib.nn.activation import ReLU
from tensorlib.nn.fusion import norm_relu
from tensorlib.nn.module import Module, indent
from tensorlib.nn.normalization import BatchNorm2d
from tensorlib.nn.parameter import Parameter
from tensorlib.tensor import Tensor

__all__ = ["ModuleDict", "ModuleList", "ParameterDict", "ParameterList", "Sequential"]


def _index(index: int, length: int) -> int:
    index = operator.index(index)
    if not -length <= index < length:
        raise IndexError(f"index {index} is out of range for {length} items")
    return index % length


class _ModuleSequence(Module):
    """Children named "0", "1", ..."""

    def _items(self) -> list[Module]:
        return list(self._modules.values())  # type: ignore[arg-type]  # None is never appended

    def _renumber(self, items: Iterable[Module]) -> None:
        self._modules.clear()
        for i, module in enumerate(items):
            self.add_module(str(i), module)

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._items())

    def _name_at(self, index: int) -> str:
        return list(self._modules)[_index(index, len(self))]

    def __setitem__(self, index: int, module: Module) -> None:
        setattr(self, self._name_at(index), module)

    def __delitem__(self, index: int | slice) -> None:
        items = self._items()
        del items[index if isinstance(index, slice) else _index(index, len(self))]
        self._renumber(items)

    def append(self, module: Module) -> Self:
        """Add one module at the end; returns self."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end; returns self."""
        if not isinstance(modules, Iterable):
            raise TypeError(
                f"{type(self).__name__}.extend should be called with an iterable, but got"
                f" {type(modules).__name__}"
            )
        for module in list(modules):
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Put one module before `index`; returns self."""
        items = self._items()
        items.insert(index, module)
        self._renumber(items)
        return self

    def pop(self, index: int | slice = -1) -> Any:
        """Take a module out and return it."""
        value = self[index]
        del self[index]
        return value

    def __getitem__(self, index: Any) -> Any:
        raise NotImplementedError

    def __iadd__(self, modules: Iterable[Module]) -> Self:
        return self.extend(modules)


class Sequential(_ModuleSequence):
    """Modules called one after another, each with the result of the one before.

    Takes modules, or one OrderedDict of named modules.
    """

    @overload
    def __init__(self, *args: Module) -> None: ...
    @overload
    def __init__(self, args: OrderedDict[str, Module], /) -> None: ...
    def __init__(self, *args: Any) -> None:
        super().__init__()
        named = args[0].items() if len(args) == 1 and isinstance(args[0], OrderedDict) else None
        for name, module in named or ((str(i), module) for i, module in enumerate(args)):
            self.add_module(name, module)

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> Sequential: ...
    def __getitem__(self, index: int | slice) -> Module:
        if isinstance(index, slice):
            return type(self)(OrderedDict(list(self._modules.items())[index]))  # type: ignore[arg-type]
        return self._items()[_index(index, len(self))]

    def __add__(self, other: Sequential) -> Sequential:
        if not isinstance(other, Sequential):
            raise ValueError(
                "add operator supports only objects of Sequential class, but"
                f" {type(other).__name__} is given."
            )
        return Sequential(*self, *other)

    def __iadd__(self, other: Iterable[Module]) -> Self:
        if not isinstance(other, Sequential):
            raise ValueError(
                "add operator supports only objects of Sequential class, but"
                f" {type(other).__name__} is given."
            )
        return self.extend(other)

    def insert(self, index: int, module: Module) -> Self:
        """Put one module before `index`; returns self. Raises IndexError outside the list."""
        if not isinstance(module, Module):
            raise AssertionError(f"module is a {type(module).__name__}; expected an nn.Module")
        if not -len(self) <= index <= len(self):
            raise IndexError(f"Index out of range: {index} for {len(self)} modules")
        return super().insert(index, module)

    def __mul__(self, times: int) -> Sequential:
        return Sequential(*(self._items() * _factor(times)))

    __rmul__ = __mul__

    def __imul__(self, times: int) -> Self:
        return self.extend(self._items() * (_factor(times) - 1))

    def forward(self, input: Any) -> Any:
        norm: Module | None = None  # a batch norm that waits for what follows it
        for module in self._modules.values():
            assert module is not None  # None is never appended
            if norm is not None:
                if type(module) is ReLU:
                    input, norm = norm_relu(norm, module, input), None
                    continue
                input, norm = norm(input), None
            if type(module) is BatchNorm2d:
                norm = module
            else:
                input = module(input)
        return input if norm is None else norm(input)


def _factor(times: int) -> int:
    if not isinstance(times, int):
        raise TypeError(f"unsupported operand type(s) for *: Sequential and {type(times).__name__}")
    if times <= 0:
        raise ValueError(f"Non-positive multiplication factor {times} for Sequential")
    return times


def _pairs(where: str, given: Any, sort: bool) -> Iterable[tuple[str, Any]]:
    """The pairs of a mapping or of an iterable of pairs; with `sort` those of a plain dict sorted,
    as PyTorch does.
    """
    if isinstance(given, OrderedDict | ModuleDict | ParameterDict):
        return list(given.items())
    if isinstance(given, Mapping):
        return sorted(given.items()) if sort else list(given.items())
    if not isinstance(given, Iterable):
        raise TypeError(
            f"{where}.update should be called with an iterable of key/value pairs, but got"
            f" {type(given).__name__}"
        )
    pairs = []
    for i, pair in enumerate(given):
        if not isinstance(pair, Sequence):
            raise TypeError(
                f"{where} update sequence element #{i} should be Iterable; is {type(pair).__name__}"
            )
        if len(pair) != 2:
            raise ValueError(
                f"{where} update sequence element #{i} has length {len(pair)}; 2 is required"
            )
        pairs.append((pair[0], pair[1]))
    return pairs


class ModuleList(_ModuleSequence):
    """A list of modules; it has no forward."""

    def __init__(self, modules: Iterable[Module] | None = None) -> None:
        super().__init__()
        if modules is not None:
            self.extend(modules)

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> ModuleList: ...
    def __getitem__(self, index: int | slice) -> Module:
        if isinstance(index, slice):
            return type(self)(self._items()[index])
        return self._items()[_index(index, len(self))]

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        return ModuleList([*self, *other])

    def __repr__(self) -> str:
        """As Module's, with equal neighbours joined: `(0-2): 3 x Linear(...)`."""
        runs: list[tuple[int, int, str]] = []
        for i, module in enumerate(self):
            text = repr(module)
            if runs and runs[-1][2] == text:
                runs[-1] = (runs[-1][0], i, text)
            else:
                runs.append((i, i, text))
        if not runs:
            return f"{self._get_name()}()"
        lines = [
            f"({first}): {text}"
            if first == last
            else f"({first}-{last}): {last - first + 1} x {text}"
            for first, last, text in runs
        ]
        return f"{self._get_name()}(\n  " + "\n  ".join(indent(line) for line in lines) + "\n)"


class ModuleDict(Module):
    """Modules by name, in order; it has no forward."""

    def __init__(
        self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] | None = None
    ) -> None:
        super().__init__()
        if modules is not None:
            self.update(modules)

    def __getitem__(self, key: str) -> Module:
        return self._modules[key]  # type: ignore[return-value]  # None is never stored

    def __setitem__(self, key: str, module: Module) -> None:
        self.add_module(key, module)

    def __delitem__(self, key: str) -> None:
        del self._modules[key]

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __contains__(self, key: str) -> bool:
        return key in self._modules

    def clear(self) -> None:
        """Take all modules out."""
        self._modules.clear()

    def pop(self, key: str) -> Module:
        """Take one module out and return it."""
        module = self[key]
        del self[key]
        return module

    def keys(self) -> Iterable[str]:
        return self._modules.keys()

    def items(self) -> Iterable[tuple[str, Module]]:
        return self._modules.items()  # type: ignore[return-value]  # None is never stored

    def values(self) -> Iterable[Module]:
        return self._modules.values()  # type: ignore[return-value]  # None is never stored

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Add modules, replacing those of the same name."""
        for key, module in _pairs("ModuleDict", modules, False):
            self[key] = module


def _as_parameter(value: Any) -> Any:
    is_plain = isinstance(value, Tensor) and not isinstance(value, Parameter)
    return Parameter(value) if is_plain else value


def _describe(name: object, value: Any, kind: str) -> str:
    if not isinstance(value, Tensor):
        return f"  ({name}): Object of type: {type(value).__name__}"
    size = "x".join(str(n) for n in value.shape)
    where = f" ({value.device})" if value.device.type == "cuda" else ""
    what = "Parameter" if isinstance(value, Parameter) else "Tensor"
    return f"  ({name}): {what} containing: [{kind} of size {size}{where}]"


class ParameterList(Module):
    """A list of parameters (tensors become parameters; other objects are kept as they are)."""

    def __init__(self, values: Iterable[Any] | None = None) -> None:
        super().__init__()
        self._size = 0
        if values is not None:
            self.extend(values)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Any]:
        return (getattr(self, str(i)) for i in range(self._size))

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> ParameterList: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return type(self)(list(self)[index])
        return getattr(self, str(_index(index, self._size)))

    def __setitem__(self, index: int, value: Any) -> None:
        setattr(self, str(_index(index, self._size)), _as_parameter(value))

    def append(self, value: Any) -> Self:
        """Add one value at the end; returns self."""
        self._size += 1
        self[self._size - 1] = value
        return self

    def extend(self, values: Iterable[Any]) -> Self:
        """Add values at the end; returns self."""
        if not isinstance(values, Iterable) or isinstance(values, Tensor):
            raise TypeError(
                "ParameterList.extend should be called with an iterable, but got"
                f" {type(values).__name__}"
            )
        for value in list(values):
            self.append(value)
        return self

    def __iadd__(self, values: Iterable[Any]) -> Self:
        return self.extend(values)

    def extra_repr(self) -> str:
        return "\n".join(
            _describe(i, value, str(getattr(value, "dtype", ""))) for i, value in enumerate(self)
        )


class ParameterDict(Module, Container[str]):
    """Parameters by name, in order (tensors become parameters; other objects stay)."""

    def __init__(self, parameters: Any = None) -> None:
        super().__init__()
        self._keys: dict[str, None] = {}
        if parameters is not None:
            self.update(parameters)

    def __getitem__(self, key: str) -> Any:
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise TypeError(f"ParameterDict: the key {key!r} is no string")
        self._keys[key] = None
        setattr(self, key, _as_parameter(value))

    def __delitem__(self, key: str) -> None:
        del self._keys[key]
        delattr(self, key)

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def keys(self) -> Iterable[str]:
        return self._keys.keys()

    def items(self) -> Iterable[tuple[str, Any]]:
        return [(key, self[key]) for key in self._keys]

    def values(self) -> Iterable[Any]:
        return [self[key] for key in self._keys]

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key) if key in self._keys else default

    def pop(self, key: str) -> Any:
        """Take one value out and return it."""
        value = self[key]
        del self[key]
        return value

    def clear(self) -> None:
        """Take all values out."""
        for key in list(self._keys):
            del self[key]

    def update(self, parameters: Any) -> None:
        """Add values, replacing those of the same name. A plain dict is sorted by its keys."""
        for key, value in _pairs("ParameterDict", parameters, True):
            self[key] = value

    def copy(self) -> ParameterDict:
        """A dict of the same parameters."""
        return ParameterDict(self)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value of `key`, which gets `default` if it has none."""
        if key not in self:
            self[key] = default
        return self[key]

    def popitem(self) -> tuple[str, Any]:
        """Take the newest value out and return it with its key."""
        key = next(reversed(self))
        return key, self.pop(key)

    def fromkeys(self, keys: Iterable[str], default: Any = None) -> ParameterDict:
        """A new dict in which all `keys` have the value `default`."""
        return ParameterDict([(key, default) for key in keys])

    def __reversed__(self) -> Iterator[str]:
        return reversed(self._keys)

    def __or__(self, other: ParameterDict) -> ParameterDict:
        made = self.copy()
        made.update(other)
        return made

    def __ior__(self, other: ParameterDict) -> Self:
        self.update(other)
        return self

    def extra_repr(self) -> str:
        return "\n".join(_describe(key, value, _typename(value)) for key, value in self.items())


def _typename(value: Any) -> str:
    names = {
        "float16": "Half", "float32": "Float", "float64": "Double", "int8": "Char",
        "uint8": "Byte", "int16": "Short", "int32": "Int", "int64": "Long", "bool": "Bool",
    }  # fmt: skip
    kind = str(getattr(value, "dtype", "")).rpartition(".")[2]
    return f"tensorlib.{names.get(kind, kind)}Tensor"
