"""One call in both libraries: numbers, dtypes, shapes, gradients and second gradients compared."""

import warnings

import numpy as np
import pytest

import tensorlib


def torch_or_skip():
    return pytest.importorskip("torch", reason="compares with PyTorch")


def rng(seed=0):
    return np.random.default_rng(seed)


def normal(*shape, kind="float64", seed=0):
    """Normal numbers of a dtype by name."""
    drawn = rng(seed).standard_normal(shape)
    if kind.startswith("complex"):
        drawn = drawn + 1j * rng(seed + 1).standard_normal(shape)
    return np.asarray(drawn, kind)


def tensors(library, arrays, grad):
    made = [library.tensor(a) if isinstance(a, np.ndarray) else a for a in arrays]
    for one in made:
        if (
            grad
            and hasattr(one, "requires_grad_")
            and one.dtype.is_floating_point | (one.dtype.is_complex)
        ):
            one.requires_grad_()
    return made


def flat(value):
    if isinstance(value, list | tuple):
        return [one for item in value for one in flat(item)]
    return [value]


def array(tensor):
    return np.asarray(tensor.numpy(force=True))


def derivatives(library, call, arrays, second):
    """The results, the gradients of one random projection, and (`second`) those again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        given = tensors(library, arrays, True)
        leaves = [t for t in given if getattr(t, "requires_grad", False)]
        results = flat(call(library, *given))
    found = [list(results)]
    for order in range(1 + second):
        chosen = [t for t in found[-1] if t is not None and getattr(t, "requires_grad", False)]
        if not chosen or not leaves:
            break
        weights = [
            library.tensor(normal(*array(t).shape, kind=str(array(t).dtype), seed=7 + k))
            for k, t in enumerate(chosen)
        ]
        grads = library.autograd.grad(
            chosen, leaves, weights, allow_unused=True, create_graph=order < second
        )
        found.append(list(grads))
    return [[None if one is None else array(one) for one in part] for part in found]


def equal(call, arrays, *, second=True, tolerance=1e-9):
    """Both libraries agree on `call(library, *tensors)`."""
    expected = derivatives(torch_or_skip(), call, arrays, second)
    actual = derivatives(tensorlib, call, arrays, second)
    assert len(actual) == len(expected)
    for mine, reference in zip(actual, expected, strict=True):
        assert len(mine) == len(reference)
        for one, other in zip(mine, reference, strict=True):
            if one is None or other is None:  # no gradient is a gradient of zeros
                assert one is None or not one.any()
                assert other is None or not other.any()
                continue
            assert one.dtype == other.dtype
            assert one.shape == other.shape
            scale = max(1.0, float(np.abs(np.nan_to_num(other)).max(initial=0)))
            np.testing.assert_allclose(one, other, tolerance, tolerance * scale)


def refused_alike(call):
    """Both refuse `call(library)`: torch's exception is caught by its builtin type in ours."""
    torch = torch_or_skip()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception) as theirs:  # noqa: PT011  # whatever torch raises
            call(torch)
    builtin = next(k for k in type(theirs.value).__mro__ if k.__module__ == "builtins")
    with pytest.raises(builtin) as ours:
        call(tensorlib)
    assert isinstance(ours.value, tensorlib.errors.TensorlibError), repr(ours.value)
