"""One call in both libraries: the same values, types and shapes, or a refusal of the same kind."""

from typing import Any

import tensorlib as tl

NAN, INF = float("nan"), float("inf")
TYPES = (
    *("float32", "float64", "float16", "bfloat16", "complex64", "complex128"),
    *("int64", "int32", "int16", "int8", "uint8", "bool"),
)


def ours(value: Any) -> Any:
    """Our twin of a tensor, dtype, or a list or dict of them."""
    if hasattr(value, "detach"):
        plain = value.detach()
        if str(plain.dtype) == "torch.bfloat16":
            return tl.from_numpy(plain.float().numpy().copy()).to(tl.bfloat16)
        return tl.from_numpy(plain.numpy().copy())
    if type(value).__name__ == "dtype":
        return getattr(tl, str(value).removeprefix("torch."))
    if isinstance(value, list | tuple):
        return type(value)(map(ours, value))
    if isinstance(value, dict):
        return {key: ours(item) for key, item in value.items()}
    return value


def back(torch: Any, value: Any) -> Any:
    """One of our tensors as torch's."""
    if value.dtype == tl.bfloat16:
        return torch.from_numpy(value.detach().float().numpy().copy()).to(torch.bfloat16)
    return torch.from_numpy(value.detach().numpy().copy())


def flat(value: Any) -> list[Any]:
    """The leaves of nested tuples and lists."""
    if isinstance(value, tuple | list):
        return [one for item in value for one in flat(item)]
    return [value]


def attempt(call: Any) -> tuple[Any, Exception | None]:
    """A result or the exception instead of it."""
    try:
        return call(), None
    except Exception as error:  # every refusal is an outcome here
        return None, error


def difference(torch: Any, theirs: Any, mine: Any) -> str | None:
    """What differs between two calls, None if nothing does."""
    (expected, refusal), (found, error) = attempt(theirs), attempt(mine)
    if refusal is not None or error is not None:
        if refusal is None:
            return f"raises {type(error).__name__}: {error}"
        if error is None:
            return f"accepts what torch refuses: {refusal}"
        if not isinstance(error, type(refusal)):
            return f"{type(error).__name__} ({error}); {type(refusal).__name__} expected"
        return None
    for one, other in zip(flat(found), flat(expected), strict=True):
        if not hasattr(other, "detach"):
            if one != other and one == one:  # NaN differs from itself
                return f"{one!r}; {other!r} expected"
            continue
        kind, wanted = str(one.dtype).partition(".")[2], str(other.dtype).partition(".")[2]
        if (kind, tuple(one.shape)) != (wanted, tuple(other.shape)):
            return f"{kind} {tuple(one.shape)}; {wanted} {tuple(other.shape)} expected"
        try:
            plain = other.detach().resolve_conj().resolve_neg()
            torch.testing.assert_close(back(torch, one), plain, equal_nan=True)
        except AssertionError as wrong:
            return str(wrong)
    return None


def edge_values(torch: Any, name: str, second: bool = False) -> Any:
    """Zeros of both signs, limits, infinities and NaN, as far as the type has them."""
    kind = getattr(torch, name)
    if name == "bool":
        return torch.tensor([True, False, True, True, False])[second:][:4]
    if name == "uint8":
        return torch.tensor([3, 2, 9, 255] if second else [0, 1, 200, 7], dtype=kind)
    if name.startswith("int"):
        return torch.tensor([2, -1, 5, 3] if second else [0, 1, -3, torch.iinfo(kind).max]).to(kind)
    if name.startswith("complex"):
        values = [1 + 1j, 2, 0.5j, -1 - 1j, 3, 1j, 1] if second else [0, 1 + 2j, -1.5 - 0.5j, 0.5]
        return torch.tensor(values + ([] if second else [-1, 1j, -2j]), dtype=kind)
    first = [0.0, -0.0, 1.5, -2.25, NAN, INF, -INF, 0.3, 1e-3, -5.0, 0.5, 2.5, -1.0, 1e4]
    other = [2.0, 1.0, -0.0, 0.0, 1.0, -INF, INF, NAN, 3.0, -2.0, -0.5, 1.5, 1.0, -7.0]
    return torch.tensor(other if second else first).to(kind)
