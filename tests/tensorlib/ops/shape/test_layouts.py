"""Every view and rearrangement of tensors that lie in memory in several ways: shape, strides,
offset, what is a view of what, and values, as in torch; or a refusal of the same kind.
"""

import warnings
from typing import Any

import numpy as np
import pytest

import tensorlib as tl

LAYOUTS = {
    "row-major": lambda lib, n: n(2, 3, 4),
    "transposed": lambda lib, n: n(4, 3, 2).permute(2, 1, 0),
    "sliced": lambda lib, n: n(4, 5, 8)[1:3, ::2, 1::2],
    "expanded": lambda lib, n: n(2, 1, 4).expand(2, 3, 4),
    "channels last": lambda lib, n: n(2, 4, 5, 3).permute(0, 3, 1, 2),
    "ones": lambda lib, n: n(4, 1, 3)[:, :, :1],
    "vector": lambda lib, n: n(6)[::2],
    "matrix": lambda lib, n: n(4, 4).t(),
    "0-dim": lambda lib, n: n(3)[1],
    "empty": lambda lib, n: n(2, 0, 3),
}
OPERATIONS = {
    "reshape(-1)": lambda lib, x: x.reshape(-1),
    "reshape(2, -1)": lambda lib, x: x.reshape(2, -1),
    "reshape(shape=)": lambda lib, x: lib.reshape(x, shape=(x.numel(), 1, 1)),
    "reshape(5)": lambda lib, x: x.reshape(5),
    "reshape(-1, -1)": lambda lib, x: x.reshape(-1, -1),
    "view(-1)": lambda lib, x: x.view(-1),
    "view(2, 1, -1, 1)": lambda lib, x: x.view(2, 1, -1, 1),
    "view(int32)": lambda lib, x: x.view(lib.int32),
    "view(size=)": lambda lib, x: x.view(size=tuple(x.shape)),
    "view_as": lambda lib, x: x.view_as(x),
    "flatten": lambda lib, x: x.flatten(),
    "flatten(1)": lambda lib, x: x.flatten(1),
    "flatten(0, 1)": lambda lib, x: lib.flatten(x, 0, 1),
    "flatten(2, 1)": lambda lib, x: x.flatten(2, 1),
    "ravel": lambda lib, x: x.ravel(),
    "unflatten": lambda lib, x: x.unflatten(0, (2, -1)),
    "squeeze": lambda lib, x: x.squeeze(),
    "squeeze(1)": lambda lib, x: x.squeeze(1),
    "squeeze((0, -1))": lambda lib, x: x.squeeze((0, -1)),
    "unsqueeze(0)": lambda lib, x: x.unsqueeze(0),
    "unsqueeze(-1)": lambda lib, x: x.unsqueeze(-1),
    "unsqueeze(1)": lambda lib, x: x.unsqueeze(1),
    "unsqueeze(9)": lambda lib, x: x.unsqueeze(9),
    "transpose": lambda lib, x: x.transpose(0, -1),
    "swapaxes": lambda lib, x: lib.swapaxes(x, axis0=0, axis1=1),
    "t": lambda lib, x: x.t(),
    "mT": lambda lib, x: x.mT,
    "mH": lambda lib, x: x.mH,
    "H": lambda lib, x: x.H,
    "adjoint": lambda lib, x: lib.adjoint(x),
    "permute": lambda lib, x: x.permute(*range(x.ndim - 1, -1, -1)),
    "permute(dims=)": lambda lib, x: lib.permute(x, dims=(0, 0)),
    "movedim": lambda lib, x: x.movedim(0, -1),
    "movedim of two": lambda lib, x: x.movedim((0, 1), (1, 2)),
    "expand": lambda lib, x: x.expand(2, *x.shape),
    "expand(-1)": lambda lib, x: x.expand(*([-1] * x.ndim)),
    "expand(7)": lambda lib, x: x.expand(7),
    "expand_as": lambda lib, x: x.expand_as(lib.zeros(2, 2, 3, 4)),
    "broadcast_to": lambda lib, x: lib.broadcast_to(x, (1, *x.shape)),
    "broadcast_tensors": lambda lib, x: lib.broadcast_tensors(x, lib.zeros(())),
    "narrow": lambda lib, x: x.narrow(0, 1, 1),
    "narrow(-2)": lambda lib, x: x.narrow(-1, -2, 2),
    "narrow too long": lambda lib, x: x.narrow(0, 1, 9),
    "select": lambda lib, x: x.select(-1, 1),
    "select(-1)": lambda lib, x: x.select(0, -1),
    "diagonal": lambda lib, x: x.diagonal(),
    "diagonal(1)": lambda lib, x: x.diagonal(1, -1, 0),
    "diagonal(-9)": lambda lib, x: x.diagonal(-9),
    "unfold": lambda lib, x: x.unfold(-1, 2, 1),
    "unfold(1, 1, 2)": lambda lib, x: x.unfold(1, 1, 2),
    "unfold too wide": lambda lib, x: x.unfold(0, 99, 1),
    "as_strided": lambda lib, x: x.as_strided((2, 2), (1, 2)),
    "as_strided(offset)": lambda lib, x: x.as_strided((2,), (2,), 1),
    "as_strided too far": lambda lib, x: x.as_strided((99,), (99,)),
    "split": lambda lib, x: x.split(2),
    "split of sizes": lambda lib, x: x.split([1, 1], 0),
    "split dim": lambda lib, x: x.split(3, -1),
    "chunk": lambda lib, x: x.chunk(2, -1),
    "tensor_split": lambda lib, x: x.tensor_split(3, -1),
    "tensor_split at": lambda lib, x: x.tensor_split((1, -1)),
    "hsplit": lambda lib, x: x.hsplit(1),
    "vsplit": lambda lib, x: lib.vsplit(x, 2),
    "dsplit": lambda lib, x: lib.dsplit(x, (1,)),
    "unbind": lambda lib, x: x.unbind(-1),
    "unsafe_chunk": lambda lib, x: x.unsafe_chunk(2),
    "atleast_1d": lambda lib, x: lib.atleast_1d(x),
    "atleast_2d": lambda lib, x: lib.atleast_2d(x),
    "atleast_3d": lambda lib, x: lib.atleast_3d(x),
    "meshgrid": lambda lib, x: lib.meshgrid(x, x, indexing="xy"),
    "[0]": lambda lib, x: x[0],
    "[-1:]": lambda lib, x: x[-1:],
    "[:, 1::2]": lambda lib, x: x[:, 1::2],
    "[..., None]": lambda lib, x: x[..., None],
    "[None, 0, None]": lambda lib, x: x[None, 0, None],
    "[()]": lambda lib, x: x[()],
    "[:]": lambda lib, x: x[:],
    "detach": lambda lib, x: x[..., :1].detach(),
    "data": lambda lib, x: x[..., 1:].data,
    "view_as_complex": lambda lib, x: lib.view_as_complex(x),
    "contiguous": lambda lib, x: x.contiguous(),
    "contiguous channels last": lambda lib, x: x.contiguous(memory_format=lib.channels_last),
    "clone": lambda lib, x: x.clone(),
    "clone row-major": lambda lib, x: x.clone(memory_format=lib.contiguous_format),
    "repeat": lambda lib, x: x.repeat(*([2] * x.ndim)),
    "repeat more": lambda lib, x: x.repeat(2, *([1] * x.ndim)),
    "repeat too few": lambda lib, x: x.repeat(2),
    "tile": lambda lib, x: x.tile((2,)),
    "repeat_interleave": lambda lib, x: x.repeat_interleave(2, 0),
    "repeat_interleave flat": lambda lib, x: x.repeat_interleave(2),
    "flip": lambda lib, x: x.flip(0),
    "flip both": lambda lib, x: x.flip((0, -1)),
    "fliplr": lambda lib, x: x.fliplr(),
    "roll": lambda lib, x: x.roll(1, 0),
    "roll two": lambda lib, x: x.roll((1, -2), (0, -1)),
    "roll flat": lambda lib, x: x.roll(2),
    "rot90": lambda lib, x: x.rot90(),
    "rot90(-2)": lambda lib, x: x.rot90(-2, (0, -1)),
    "rot90(4)": lambda lib, x: x.rot90(4),
    "tril": lambda lib, x: x.tril(),
    "triu(1)": lambda lib, x: x.triu(1),
    "diag": lambda lib, x: x.diag(),
    "diag_embed": lambda lib, x: x.diag_embed(1, 0, -1),
    "diagflat": lambda lib, x: x.diagflat(-1),
    "cat": lambda lib, x: lib.cat([x, x], -1),
    "stack": lambda lib, x: lib.stack([x, x]),
    "hstack": lambda lib, x: lib.hstack([x, x]),
    "vstack": lambda lib, x: lib.vstack((x, x)),
    "dstack": lambda lib, x: lib.dstack((x, x)),
    "column_stack": lambda lib, x: lib.column_stack((x, x)),
    "block_diag": lambda lib, x: lib.block_diag(x, x),
    "cartesian_prod": lambda lib, x: lib.cartesian_prod(x, x),
    "index_select": lambda lib, x: x.index_select(0, lib.tensor([0, 0])),
    "index_fill": lambda lib, x: x.index_fill(-1, lib.tensor([0]), 7.0),
    "take": lambda lib, x: x.take(lib.tensor([[0, -1]])),
    "masked_fill": lambda lib, x: x.masked_fill(lib.tensor(True), 7.0),
    "expand_copy": lambda lib, x: lib.expand_copy(x, (2, *x.shape)),
    "permute_copy": lambda lib, x: lib.permute_copy(x, tuple(range(x.ndim))[::-1]),
}


def form(outcome: Any, input: Any) -> list[Any]:
    """What is compared of one tensor, or of several."""
    if isinstance(outcome, tuple | list):
        return [part for one in outcome for part in form(one, input)]
    filled = outcome.numel() > 0
    return [
        (
            tuple(outcome.shape),
            outcome.stride() if filled and not one_wide(outcome) else None,
            outcome.storage_offset() if filled else None,
            outcome._is_view(),
            outcome._base is not None,
            outcome is input,
            outcome.is_contiguous(),
            np.asarray(outcome.resolve_conj().tolist()).tolist(),
        )
    ]


def one_wide(tensor: Any) -> bool:
    """Strides of single elements in copies differ here and there; they address nothing."""
    return not tensor._is_view() and 1 in tensor.shape


@pytest.mark.oracle
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_layouts_are_torchs(name: str, layout: str) -> None:
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    found = []
    for lib in (torch, tl):

        def numbered(*size: int, lib: Any = lib) -> Any:
            return lib.arange(float(np.prod(size)), dtype=lib.float32).reshape(size)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x = LAYOUTS[layout](lib, numbered)
            try:
                found.append(form(OPERATIONS[name](lib, x), x))
            except Exception as error:
                found.append(error)
    theirs, ours = found
    if isinstance(theirs, Exception):
        assert isinstance(ours, type(theirs)), f"{ours!r}; torch: {theirs!r}"
    else:
        assert ours == theirs
