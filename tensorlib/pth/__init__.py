"""torch's zip format: `reader` and `writer`, the restricted `unpickler`, the older `legacy` format
(read only), and what they share.

The zip format is a zip of uncompressed members under one folder: `data.pkl` (a pickle in which each
storage is a persistent id), `data/<key>` (the bytes of each storage), `byteorder`, `version`.

TensorlibError
├── LoadError(RuntimeError)                    damaged, another format, a device that is not here
├── UnsafePickleError(pickle.UnpicklingError)  the file asks for something that is not data
└── SaveError(TypeError)                       an object that `load` could not read back
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np

from tensorlib.errors import TensorlibError


class LoadError(TensorlibError, RuntimeError):
    """A file that cannot be read: damaged, truncated, or in another format."""


class UnsafePickleError(TensorlibError, pickle.UnpicklingError):
    """A file whose pickle names something outside the allow-list. Nothing of it was run."""


class SaveError(TensorlibError, TypeError):
    """An object that has no place in a file of weights."""


# torch's storage class -> the bytes' type; NumPy has no bfloat16, see `numpy_type`
STORAGES: dict[str, str] = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
    "ComplexFloatStorage": "c8",
    "ComplexDoubleStorage": "c16",
}
# dtypes that torch stores untyped, with the dtype beside the tensor
UNTYPED = {"uint16": "u2", "uint32": "u4", "uint64": "u8"}
DTYPES = """
    float32 float64 float16 bfloat16 int64 int32 int16 int8 uint8 uint16 uint32 uint64 bool
    complex64 complex128
""".split()  # noqa: SIM905 (a table reads better)
UNTYPED_OF = {np.dtype(code): name for name, code in UNTYPED.items()}
STORAGE_OF = {np.dtype(code): name for name, code in STORAGES.items() if code != "bfloat16"}


def numpy_type(code: str) -> np.dtype[Any]:
    """The type of a storage's items."""
    if code == "bfloat16":
        from tensorlib import dtypes

        found: np.dtype[Any] = dtypes.bfloat16.numpy
        return found
    return np.dtype(code)


def storage_name(dtype: np.dtype[Any]) -> str:
    """The storage class for items of this type."""
    return "BFloat16Storage" if dtype.kind == "V" else STORAGE_OF[dtype]
