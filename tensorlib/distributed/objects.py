"""Objects as bytes for the collectives: JSON values, tuples, bytes and arrays. No pickle.

Reading them can therefore run no code. The layout: 8 bytes with the length of a JSON text, the
text, and the raw bytes that the text refers to.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np

_KEY = "$tensorlib"


def dumps(value: Any) -> bytes:
    """Encode None, bools, numbers, strings, bytes, arrays, Tensors, lists, tuples, str-keyed dicts.

    Tensors become arrays. Raises TypeError for anything else, naming its place.
    """
    blobs: list[bytes] = []
    text = json.dumps(_encode(value, blobs, "object")).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(blobs)


def loads(data: bytes) -> Any:
    """Decode what `dumps` wrote. Raises ValueError when the bytes are damaged."""
    try:
        (size,) = struct.unpack_from("<Q", data)
        return _decode(json.loads(data[8 : 8 + size]), memoryview(data)[8 + size :])
    except (struct.error, KeyError, TypeError) as error:
        raise ValueError(f"objects.loads: damaged data: {error}") from error


def _encode(value: Any, blobs: list[bytes], where: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bytes):
        return _blob("bytes", value, blobs)
    if isinstance(value, list):
        return [_encode(item, blobs, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {_KEY: "tuple", "items": _encode(list(value), blobs, where)}
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where}: key {key!r}; expected strings as keys")
        items = {k: _encode(item, blobs, f"{where}[{k!r}]") for k, item in value.items()}
        return {_KEY: "dict", "items": items} if _KEY in items else items
    if hasattr(value, "__array__"):
        array = np.asarray(value)
        if array.dtype.kind in "biufc":
            blob = _blob("array", array.tobytes(), blobs)
            return {**blob, "dtype": array.dtype.str, "shape": list(array.shape)}
    raise TypeError(
        f"{where}: {type(value).__name__} cannot be sent; expected JSON values, tuples, bytes, "
        "arrays or Tensors"
    )


def _blob(kind: str, data: bytes, blobs: list[bytes]) -> dict[str, Any]:
    start = sum(len(blob) for blob in blobs)
    blobs.append(data)
    return {_KEY: kind, "at": [start, len(data)]}


def _decode(value: Any, blobs: memoryview) -> Any:
    if isinstance(value, list):
        return [_decode(item, blobs) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get(_KEY)
    if kind is None or kind == "dict":
        items = value if kind is None else value["items"]
        return {key: _decode(item, blobs) for key, item in items.items()}
    if kind == "tuple":
        return tuple(_decode(value["items"], blobs))
    start, size = value["at"]
    data = bytes(blobs[start : start + size])
    if len(data) != size:
        raise ValueError("objects.loads: damaged data: it ends inside a value")
    if kind == "bytes":
        return data
    dtype, shape = np.dtype(value["dtype"]), tuple(value["shape"])
    if dtype.kind not in "biufc" or math.prod(shape) * dtype.itemsize != size:
        raise ValueError(f"objects.loads: damaged data: {dtype} {shape} in {size} bytes")
    return np.frombuffer(data, dtype).reshape(shape).copy()
