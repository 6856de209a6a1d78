"""Indexing: `x[...]` (`getitem`), indices along a dimension (`along`), `gather` and `scatter`
(`scattering`), masks and places (`masks`, `searching`).
"""

from tensorlib.ops.indexing.along import (
    index_add,
    index_copy,
    index_fill,
    index_reduce,
    index_select,
    put,
    take,
    take_along_dim,
)
from tensorlib.ops.indexing.getitem import add_at, add_rows, getitem, parse_index
from tensorlib.ops.indexing.masks import (
    argwhere,
    masked_fill,
    masked_scatter,
    masked_select,
    nonzero,
    nonzero_static,
    unravel_index,
    where,
)
from tensorlib.ops.indexing.scattering import (
    gather,
    scatter,
    scatter_add,
    scatter_reduce,
    segment_reduce,
)
from tensorlib.ops.indexing.searching import bucketize, searchsorted, tril_indices, triu_indices
from tensorlib.ops.indexing.setitem import index_put, setitem

__all__ = [
    "add_at",
    "add_rows",
    "argwhere",
    "bucketize",
    "gather",
    "getitem",
    "index_add",
    "index_copy",
    "index_fill",
    "index_put",
    "index_reduce",
    "index_select",
    "masked_fill",
    "masked_scatter",
    "masked_select",
    "nonzero",
    "nonzero_static",
    "parse_index",
    "put",
    "scatter",
    "scatter_add",
    "scatter_reduce",
    "searchsorted",
    "segment_reduce",
    "setitem",
    "take",
    "take_along_dim",
    "tril_indices",
    "triu_indices",
    "unravel_index",
    "where",
]
