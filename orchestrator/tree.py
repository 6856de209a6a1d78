"""A state as structure and arrays: nested dicts, lists and tuples of what NumPy can read, and back.

`encode` gives the structure as JSON-ready values, in which `{"$array": name}` stands for an array,
`$tuple`, `$bytes` and `$dict` for what JSON has no word for.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["SAFETENSORS", "bytes_of", "decode", "encode", "weights_sha256"]

# NumPy dtypes that safetensors has a name for; others travel as bytes.
SAFETENSORS = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}


def weights_sha256(state: Any) -> str:
    """sha256 over state["model"] and state["optimizer"] (over all of it where it has neither).

    Each leaf, in the order of its dotted name, adds name, dtype, shape and little-endian bytes;
    a value that is no array adds its type and repr.
    """
    parts = state
    if isinstance(state, dict) and ("model" in state or "optimizer" in state):
        parts = {key: state[key] for key in ("model", "optimizer") if key in state}
    digest = hashlib.sha256()
    for name, leaf in sorted(_leaves(parts, ""), key=lambda item: item[0]):
        if _is_array(leaf):
            array = _contiguous(leaf, name)
            shape = ",".join(map(str, array.shape))
            digest.update(f"{name}|{array.dtype.str}|{shape}|".encode())
            digest.update(bytes_of(array))
        else:
            digest.update(f"{name}|{type(leaf).__name__}|{leaf!r}|".encode())
    return digest.hexdigest()


def encode(value: Any, name: str, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    """The structure of `value`; its arrays are put into `arrays` under dotted names.

    Raises TypeError naming the dotted key of what cannot be kept.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, tuple):
        return {"$tuple": [encode(item, _join(name, i), arrays) for i, item in enumerate(value)]}
    if isinstance(value, list):
        return [encode(item, _join(name, i), arrays) for i, item in enumerate(value)]
    if isinstance(value, dict):
        for key in value:
            if type(key) not in (str, int, bool, float, type(None)):
                raise TypeError(
                    f"checkpoint: {name or 'state'}: the key {key!r} is {type(key).__name__}; "
                    "expected a string or a number."
                )
        items = [(key, encode(item, _join(name, key), arrays)) for key, item in value.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return dict(items)
        return {"$dict": [[key, item] for key, item in items]}
    if not _is_array(value):
        raise TypeError(
            f"checkpoint: {name or 'state'} is {type(value).__name__}; expected numbers, strings, "
            "bytes, None, arrays, and dicts, lists or tuples of them."
        )
    array = _contiguous(value, name)
    label = name or "state"
    while label in arrays or label == "__metadata__":
        label += "'"
    if array.dtype.name in SAFETENSORS:
        arrays[label] = array
        return {"$array": label}
    arrays[label] = np.frombuffer(bytes_of(array), dtype=np.uint8)
    return {"$array": label, "dtype": array.dtype.str, "shape": list(array.shape)}


def decode(value: Any, arrays: dict[str, np.ndarray[Any, Any]]) -> Any:
    """What `encode` took apart."""
    if isinstance(value, list):
        return [decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if "$array" in value:
        array = arrays[value["$array"]]
        if "dtype" in value:
            array = array.view(value["dtype"]).reshape(value["shape"])
        return array
    if "$bytes" in value:
        return base64.b64decode(value["$bytes"])
    if "$tuple" in value:
        return tuple(decode(item, arrays) for item in value["$tuple"])
    if "$dict" in value:
        return {key: decode(item, arrays) for key, item in value["$dict"]}
    return {key: decode(item, arrays) for key, item in value.items()}


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, _join(name, key))
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield from _leaves(item, _join(name, i))
    else:
        yield name, value


def _join(name: str, key: object) -> str:
    return f"{name}.{key}" if name else str(key)


def _is_array(value: Any) -> bool:
    return hasattr(value, "__array__")


def _contiguous(value: Any, name: str) -> np.ndarray[Any, Any]:
    """`value` as a C-contiguous little-endian array; no copy where it is one already."""
    array = np.asarray(value, order="C")
    if array.dtype.kind not in "biufc":
        raise TypeError(
            f"checkpoint: {name or 'state'} has dtype {array.dtype}; expected numbers or booleans."
        )
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and sys.byteorder == "big"):
        array = array.astype(array.dtype.newbyteorder("<"))
    return array


def bytes_of(array: np.ndarray[Any, Any]) -> memoryview:
    """The array's memory, without a copy. `reshape` first: a view cannot change a 0-dim dtype."""
    return array.reshape(-1).view(np.uint8).data
