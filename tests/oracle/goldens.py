"""PyTorch's answers to its own samples, recorded for machines without it.

`python -m tests.oracle.goldens` writes goldens.npz; `replay` needs no torch.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import tensorlib

PATH = Path(__file__).parent / "goldens.npz"
KINDS = {
    "float32": 4,
    "complex64": 1,
    "int64": 2,
}  # samples per entry, spread over those that torch draws
LARGEST = 120  # elements of all inputs of a sample


class Unrecordable(Exception):
    """A sample with something in it that is no array, number or text."""


def find(path: str) -> Any:
    """tensorlib's function of this dotted name, or the Tensor method."""
    found: Any = tensorlib
    try:
        for part in path.split("."):
            found = getattr(found, part)
    except AttributeError:
        return getattr(tensorlib.Tensor, path)
    return found


def encode(value: Any, arrays: list[np.ndarray]) -> Any:
    """A tree of one of our samples as JSON; its arrays go to `arrays`."""
    if isinstance(value, tensorlib.Tensor):
        arrays.append(value.detach().numpy())
        return {"tensor": len(arrays) - 1, "grad": value.requires_grad}
    if isinstance(value, tensorlib.dtype):
        return {"dtype": str(value).removeprefix("tensorlib.")}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, slice):
        return {"slice": [value.start, value.stop, value.step]}
    if type(value) in (tuple, list) or isinstance(value, tensorlib.Size):
        return {type(value).__name__.lower(): [encode(item, arrays) for item in value]}
    if type(value) is dict:
        return {"dict": {key: encode(item, arrays) for key, item in value.items()}}
    raise Unrecordable(type(value).__name__)


def decode(value: Any, arrays: list[np.ndarray]) -> Any:
    """What `encode` was given."""
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        made = tensorlib.from_numpy(np.array(arrays[value["tensor"]]))
        return made.requires_grad_() if value["grad"] else made
    ((kind, content),) = value.items()
    if kind == "dtype":
        return getattr(tensorlib, content)
    if kind == "complex":
        return complex(*content)
    if kind == "slice":
        return slice(*content)
    if kind == "dict":
        return {key: decode(item, arrays) for key, item in content.items()}
    items = [decode(item, arrays) for item in content]
    return {"tuple": tuple, "list": list, "size": tensorlib.Size}[kind](items)


def flat(value: Any) -> list[Any]:
    """The leaves of nested tuples, lists and dicts."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        return [one for item in value for one in flat(item)]
    return [value]


def digest(array: np.ndarray) -> list[Any]:
    """dtype, shape and two projections of unit weight, NaN and infinities counted as numbers."""
    plain = np.asarray(array)
    values = plain.reshape(-1).astype(np.complex128 if plain.dtype.kind == "c" else np.float64)
    values = np.nan_to_num(values, nan=0.5, posinf=7.0, neginf=-7.0)
    weights = np.random.default_rng(5).standard_normal((2, values.size))
    found = weights @ values / max(values.size, 1) ** 0.5
    numbers = found.view(np.float64) if plain.dtype.kind == "c" else found
    return [plain.dtype.name, list(plain.shape), *(float(f"{v:.8g}") for v in numbers)]


def answers(name: str, args: Any, kwargs: Any) -> list[Any]:
    """Digests of our results and of the gradients of one projection."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensorlib.manual_seed(7)
        results = flat(find(name)(*args, **kwargs))
        found = [
            digest(one.detach().numpy()) if isinstance(one, tensorlib.Tensor) else one
            for one in results
        ]
        leaves = [one for one in flat([args, kwargs]) if getattr(one, "requires_grad", False)]
        outputs = [one for one in results if getattr(one, "requires_grad", False)]
        if not outputs or not leaves:
            return found
        weights = [tensorlib.from_numpy(_weights(tuple(o.shape))).to(o.dtype) for o in outputs]
        grads = tensorlib.autograd.grad(outputs, leaves, weights, allow_unused=True)
    return [*found, *(None if g is None else digest(g.numpy()) for g in grads)]


def _weights(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape)


def load() -> Iterator[tuple[str, str, Any, list[Any]]]:
    """`(label, name, (args, kwargs) builder, expected)` of each record."""
    with np.load(PATH) as stored:
        index, heads = json.loads(bytes(stored["index"]).decode())
        memory = bytes(stored["memory"])
    arrays, place = [], 0
    for kind, shape in heads:
        dtype = np.dtype(kind)
        count = math.prod(shape)
        arrays.append(np.frombuffer(memory, dtype, count, place).reshape(shape))
        place += count * dtype.itemsize
    for number, (name, tree, expected) in enumerate(index):

        def build(tree: Any = tree) -> tuple[Any, Any]:
            args, kwargs = decode(tree, arrays)
            return args, kwargs

        yield f"{name}-{number}", name, build, expected


def _short(value: Any) -> Any:
    """Half of the digits of a float32 tensor: files of them compress."""
    import torch

    if not isinstance(value, torch.Tensor) or value.dtype is not torch.float32:
        return value
    bits = value.detach().contiguous().view(torch.int32) & ~0x1FFF
    return bits.view(torch.float32).requires_grad_(value.requires_grad)


def _candidates(op: Any, dtype: Any, count: int) -> Iterator[Any]:
    from . import ops

    drawn = [
        s
        for s in itertools.islice(ops.samples(op, dtype, 0, grad=dtype.is_floating_point), 60)
        if sum(getattr(t, "numel", lambda: 0)() for t in ops.flat(ops._arguments(s, values=True)))
        <= LARGEST
    ]
    for sample in drawn[:: max(1, len(drawn) // count)][:count]:
        yield sample.transform(_short)


def _recorded(op: Any) -> Iterator[tuple[Any, list[Any]]]:
    """`(our sample, torch's answers)` where both agree."""
    import torch

    from . import ops

    for kind, count in KINDS.items():
        dtype = getattr(torch, kind)
        if not op.supports_dtype(dtype, "cpu"):
            continue
        for sample in _candidates(op, dtype, count):
            pair = ops.Pair(sample)
            expected = ops.call(op.op, torch, pair.theirs, pair.their_options)
            actual = ops.call(find(op.name), tensorlib, pair.ours, pair.our_options)
            ops.equal(actual, expected, op.name)
            results = [
                digest(one.detach().resolve_conj().resolve_neg().numpy())
                if isinstance(one, torch.Tensor)
                else one
                for one in ops.flat(expected)
            ]
            leaves = pair.leaves()[1]
            outs = [o for o in ops.flat(expected) if getattr(o, "requires_grad", False)]
            if outs and leaves:
                weights = [torch.from_numpy(_weights(tuple(o.shape))).to(o.dtype) for o in outs]
                grads = torch.autograd.grad(outs, leaves, weights, allow_unused=True)
                results += [None if g is None else digest(g.numpy()) for g in grads]
            yield (pair.ours, pair.our_options), results


def same(actual: list[Any], expected: list[Any]) -> bool:
    """Whether two lists of answers agree; a gradient may be None or zeros."""
    if len(actual) != len(expected):
        return False
    for one, other in zip(actual, expected, strict=True):
        if one is None or other is None:
            if any((one or other or [0, 0])[2:]):
                return False
        elif isinstance(other, list):
            if one[:2] != other[:2] or not np.allclose(one[2:], other[2:], 3e-5, 3e-5):
                return False
        elif one != other:
            return False
    return True


def record() -> str:
    """Write the file; the line says how many samples stand in it and how many could not."""
    from torch.testing._internal.common_methods_invocations import op_db

    from . import ops

    index: list[Any] = []
    arrays: list[np.ndarray] = []
    left = []
    for op in op_db:
        if ops.internal(op.name) or op.name in ops.UNSPECIFIED | ops.GAUGE:
            continue
        if str(getattr(op.op, "__module__", "torch.test")).startswith("torch.test"):
            left.append(op.name)  # a helper of the database, that needs torch
            continue
        try:
            for (args, kwargs), expected in _recorded(op):
                kept = len(arrays)
                try:
                    tree = encode((args, kwargs), arrays)
                    json.dumps(tree)
                    agrees = same(answers(op.name, *decode(tree, arrays)), expected)
                except (Unrecordable, TypeError):
                    agrees = False
                if agrees:
                    index.append([op.name, tree, expected])
                else:
                    del arrays[kept:]
                    left.append(op.name)
        except Exception:  # what does not pass is in the oracle's table, not here
            left.append(op.name)
    heads = [(a.dtype.str, a.shape) for a in arrays]
    memory = b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)
    text = json.dumps([index, heads]).encode()
    np.savez_compressed(
        PATH, index=np.frombuffer(text, np.uint8), memory=np.frombuffer(memory, np.uint8)
    )
    names = {name for name, *_ in index}
    return (
        f"{PATH.name}: {len(index)} samples of {len(names)} names, {PATH.stat().st_size} bytes; "
        f"not recorded: {', '.join(sorted(set(left) - names))}"
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.stdout.write(record() + "\n")
