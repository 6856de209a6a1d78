"""Arguments of a sample, written once and turned into tensors of either library."""

import numpy as np

_RNG = np.random.default_rng(20)


def restart(seed):
    """Each table of samples starts its own stream: who imports it first changes no number."""
    global _RNG
    _RNG = np.random.default_rng(seed)


class In:
    """An array argument; `grad` says whether a gradient is asked for it."""

    def __init__(self, array, grad=False):
        self.array = np.asarray(array)
        self.grad = grad


class D:
    """A dtype by name, looked up in the library under test."""

    def __init__(self, name):
        self.name = name


def f(*shape, lo=None, hi=None, grad=True):
    """Floats: normal, or uniform in [lo, hi)."""
    if lo is None:
        return In(_RNG.standard_normal(shape), grad)
    return In(_RNG.uniform(lo, hi, shape), grad)


def pos(*shape):
    return f(*shape, lo=0.5, hi=2.0)


def far(*shape):
    """Distinct floats at least 0.05 apart, none near 0: kinks and ties are not differentiable."""
    count = int(np.prod(shape))
    values = 0.07 * (_RNG.permutation(count) - count // 2) + 0.03
    return In(values.reshape(shape), True)


def i(high, *shape, low=0):
    return In(_RNG.integers(low, high, shape), False)


def b(*shape):
    return In(_RNG.random(shape) < 0.5, False)


def lit(values, grad=False):
    return In(np.array(values), grad)


def s(*args, **kwargs):
    """One sample."""
    return args, kwargs


class Bound:
    """A sample's arguments as tensors of one library, and the leaves among them."""

    def __init__(self, library, sample, dtype, grad=False, strided=False):
        self.library, self.dtype, self.grad, self.strided = library, dtype, grad, strided
        self.leaves = []
        self.args = [self._bind(value) for value in sample[0]]
        self.kwargs = {key: self._bind(value) for key, value in sample[1].items()}

    def _bind(self, value):
        if isinstance(value, In):
            return self._tensor(value)
        if isinstance(value, D):
            return getattr(self.library, value.name)
        if isinstance(value, (list, tuple)):
            return type(value)(self._bind(item) for item in value)
        return value

    def _tensor(self, value):
        array = value.array
        if array.dtype == np.float64:
            array = array.astype(self.dtype)
        if not self.strided or array.ndim == 0:
            leaf = made = self.library.tensor(array)
        else:
            # every second element of the last axis, the axes stored in reverse order
            wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
            wide[..., ::2] = array
            leaf = self.library.tensor(np.ascontiguousarray(wide.T))
        if value.grad and self.grad:
            leaf.requires_grad_()
            self.leaves.append(leaf)
        if self.strided and array.ndim:
            order = tuple(reversed(range(array.ndim)))
            made = leaf.permute(order)[(Ellipsis, slice(None, None, 2))]
        else:
            made = leaf
        return made

    def gradients(self):
        """The leaves' gradients in the sample's layout."""
        found = []
        for leaf in self.leaves:
            grad = None if leaf.grad is None else leaf.grad.numpy()
            if grad is not None and self.strided and grad.ndim:
                grad = grad.T[..., ::2]
            found.append(grad)
        return found


def operation(library, name):
    """The callable a name of core_ops.txt stands for."""
    if name in ("T", "mT"):
        return lambda x: getattr(x, name)
    if name in ("float", "half", "int", "long", "bool"):  # library.float is a dtype
        return getattr(library.Tensor, name)
    found = library
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None:
            return getattr(library.Tensor, name, None)
    return found


def flatten(result):
    """The tensors and numbers of a result, in order."""
    if isinstance(result, (list, tuple)):
        return [one for item in result for one in flatten(item)]
    return [] if result is None else [result]
