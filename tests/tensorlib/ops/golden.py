"""A short record of a sample's results and gradients: dtype, shape and two projections of each."""

from pathlib import Path

import numpy as np

from .inputs import Bound, flatten, operation
from .samples import SAMPLES

PATH = Path(__file__).parent / "goldens.json"
# Their numbers are whatever the memory held.
UNSPECIFIED = {"empty"}


def digest(library, name, number):
    """[dtype, shape, projection, projection] of each result, then of each gradient (or None)."""
    bound = Bound(library, SAMPLES[name][number], "float32", grad=True)
    library.manual_seed(7)
    results = flatten(operation(library, name)(*bound.args, **bound.kwargs))
    found = [_record(plain(one), name) for one in results]
    rng = np.random.default_rng(3)
    loss = 0.0
    for one in results:
        if getattr(one, "requires_grad", False):
            weight = library.tensor(rng.standard_normal(tuple(one.shape)))
            loss = loss + (one * weight.to(one.dtype)).sum()
    if getattr(loss, "requires_grad", False):
        loss.backward()
    return found + [None if one is None else _record(one, name) for one in bound.gradients()]


def plain(one):
    return one.detach().numpy() if hasattr(one, "detach") else np.asarray(one)


def _record(array, name):
    head = [array.dtype.name, list(array.shape)]
    if name in UNSPECIFIED:
        return head
    values = np.nan_to_num(array.astype(np.float64), nan=0.5, posinf=7.0, neginf=-7.0).reshape(-1)
    # of unit weight, so that rounding stays that of one element
    weights = (
        np.random.default_rng(5).standard_normal((2, values.size)) / max(values.size, 1) ** 0.5
    )
    return [*head, *(float(f"{v:.7g}") for v in weights @ values)]
