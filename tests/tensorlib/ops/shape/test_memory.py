"""Small programs about memory: shapes and storages changed in place, writes through views, what
reads them anew; each observes the same in torch.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorlib as tl


def leaf(lib: Any, *size: int) -> Any:
    """Numbers from 1 that want a gradient."""
    return lib.arange(1.0, np.prod(size) + 1).reshape(size).clone().requires_grad_()


def grads(lib: Any, output: Any, *inputs: Any) -> Any:
    """Gradients of one projection, as lists."""
    weights = lib.arange(float(output.numel())).reshape(output.shape)
    found = lib.autograd.grad((output * weights).sum(), inputs, allow_unused=True)
    return [None if g is None else g.tolist() for g in found]


def transposed(lib: Any) -> Any:
    x = leaf(lib, 2, 3)
    y = x * 2
    y.t_()
    return y, grads(lib, y, x)


def reshaped_by_steps(lib: Any) -> Any:
    x = leaf(lib, 2, 1, 3)
    y = x * 2
    assert y.squeeze_() is y
    y.unsqueeze_(0).transpose_(0, 2).swapaxes_(0, 1).swapdims_(0, 1)
    return y, grads(lib, y * y, x)


def transposed_view(lib: Any) -> Any:
    x = leaf(lib, 2, 3)
    y = x * 2
    v = y[:, :2]
    v.t_()
    v.mul_(3)
    return y, v, grads(lib, y, x)


def base_transposed_under_a_view(lib: Any) -> Any:
    x = leaf(lib, 2, 3)
    y = x * 2
    v = y[0]
    y.t_()
    v.mul_(3)
    return y, v, grads(lib, y, x)


def restrided(lib: Any) -> Any:
    x = leaf(lib, 2, 3)
    y = x * 2
    y.as_strided_((2, 2), (1, 2), 1)
    return y, grads(lib, y, x)


def leaf_under_no_grad(lib: Any) -> Any:
    x = leaf(lib, 2, 3)
    with lib.no_grad():
        x.t_()
    return x


def smaller_and_larger(lib: Any) -> Any:
    x = lib.arange(6.0)
    x.resize_(2, 2)
    small = x.clone()
    x.resize_(6)
    return small, x, lib.zeros(3).resize_as_(lib.ones(2)).shape


def grown(lib: Any) -> Any:
    x = lib.arange(3.0).resize_(2, 4)
    return x.shape, x[0, :3], x.untyped_storage().nbytes()


def resized_view(lib: Any) -> Any:
    x = lib.arange(6.0)
    v = x[1:3].resize_(4)
    v.add_(10)
    return x, v


def same_memory(lib: Any) -> Any:
    x, y = lib.arange(6.0), lib.zeros(2)
    y.set_(x)
    y[0] = 9
    part = lib.zeros(1).set_(x.untyped_storage(), 1, (2, 2), (2, 1))
    return x, y, part, part.storage_offset(), y.is_set_to(x), x[1:].is_set_to(x), lib.ones(2).set_()


def detached_part(lib: Any) -> Any:
    d = lib.arange(6.0)[2:].detach()
    return d.storage_offset(), d.data.storage_offset(), d.as_strided((2,), (1,)), d._is_view()


def detached_start(lib: Any) -> Any:
    return lib.arange(6.0)[2:].detach().as_strided((2,), (1,), 0)


def storages(lib: Any) -> Any:
    x = lib.arange(4.0)
    whole, typed = x[1:].untyped_storage(), x[2:].storage()
    same = whole.data_ptr() == x.data_ptr()
    return whole.nbytes(), len(whole), same, typed.tolist(), typed.size(), typed[1]


def complex_through_real(lib: Any) -> Any:
    x = lib.arange(4.0).reshape(2, 2).clone().requires_grad_()
    y = x * 2
    lib.view_as_complex(y).mul_(2)
    return y, grads(lib, y, x)


def real_through_complex(lib: Any) -> Any:
    x = lib.arange(4.0).reshape(2, 2).clone().requires_grad_()
    c = lib.view_as_complex(x * 1)
    r = lib.view_as_real(c)
    r[0].mul_(3)
    return r, grads(lib, lib.view_as_real(c), x)


def other_type(lib: Any) -> Any:
    x = lib.arange(4.0)
    y = x.view(lib.int32)
    y[0] = 1065353216
    return x, y, y._version == x._version, x.view(lib.uint8).shape


def filled_diagonal(lib: Any) -> Any:
    x = leaf(lib, 5, 3)
    y = x * 1
    y.fill_diagonal_(7.0, wrap=True)
    return y, grads(lib, y, x), lib.zeros(2, 2, 2).fill_diagonal_(1.0)


def filled_with_a_tensor(lib: Any) -> Any:
    x, v = leaf(lib, 3), leaf(lib, 1)
    y = x * 1
    y.fill_(v[0])
    return y, grads(lib, y, x, v)


def copied_over(lib: Any) -> Any:
    x, y = leaf(lib, 3), leaf(lib, 1)
    z = x * 1
    z.copy_(y)
    whole = lib.zeros(3, dtype=lib.int64).copy_(lib.tensor([1.5, 2.5, -1.5]))
    return z, grads(lib, z, x, y), whole, lib.zeros(2).copy_(5)


def put_in_place(lib: Any) -> Any:
    x, v = leaf(lib, 2, 3), leaf(lib, 2)
    y = x * 1
    y.put_(lib.tensor([0, -1]), v)
    return y, grads(lib, y, x, v)


def reduced_in_place(lib: Any) -> Any:
    x, v = leaf(lib, 3, 2), leaf(lib, 2, 2)
    y = x * 1
    y.index_reduce_(0, lib.tensor([0, 0]), v, "prod")
    z = x[0, 0] * 1
    z.scatter_reduce_(0, lib.tensor(0), v[1, 1], "sum")
    return y, grads(lib, y, x, v), grads(lib, z, x, v)


def by_python(lib: Any) -> Any:
    x = lib.arange(3.0).apply_(lambda v: v * 2 + 1)
    return x, lib.arange(3.0).map_(x, lambda a, b: a + b * 10)


def parts_changed(lib: Any) -> Any:
    y = lib.arange(4.0)
    a, _ = y.split(2)
    a.mul_(2)
    x = leaf(lib, 4)
    c, _ = (x * 1).unsafe_split(2)
    c.mul_(2)
    return y, a, c, grads(lib, c, x)


def twice_differentiated(lib: Any) -> Any:
    x = leaf(lib, 2, 3)
    y = x * 1
    y.view(3, 2)[0].mul_(2)
    first = lib.autograd.grad((y**3).sum(), x, create_graph=True)[0]
    return grads(lib, first, x)


def orders(lib: Any) -> Any:
    x = lib.ones(2, 3)
    return x.t().dim_order(), lib.ones(2, 1, 3).dim_order(), x.expand(4, 2, 3).dim_order()


def sequences(lib: Any) -> Any:
    x = lib.arange(3.0)
    return reversed(x), reversed(lib.tensor(2.0)), 2.0 in x, lib.tensor(7.0) in x


def through_numpy(lib: Any) -> Any:
    found = np.sin(lib.arange(3.0))
    return found, type(found).__name__, np.greater(lib.arange(3.0), 1)


def flags(lib: Any) -> Any:
    x = lib.ones(2)
    names = (
        "is_cpu is_cuda is_meta is_quantized is_nested is_sparse is_mps is_mkldnn name output_nr"
    )
    calls = "is_shared is_pinned is_distributed is_inference element_size dense_dim sparse_dim"
    return [getattr(x, n) for n in names.split()], [getattr(x, n)() for n in calls.split()]


REFUSED: dict[str, Callable[[Any], Any]] = {
    "a leaf changes its shape": lambda lib: leaf(lib, 2, 3).t_(),
    "a view of a leaf changes its shape": lambda lib: leaf(lib, 2, 3)[0].unsqueeze_(0),
    "a history is resized": lambda lib: (leaf(lib, 2) * 1).resize_(3),
    "parts of one operation": lambda lib: (leaf(lib, 4) * 1).split(2)[0].mul_(2),
    "sizes that do not expand": lambda lib: lib.zeros(4).copy_(lib.zeros(3)),
    "an overlap": lambda lib: (lambda x: x[1:].copy_(x[:-1]))(lib.arange(5.0)),
    "an expanded tensor": lambda lib: lib.ones(1).expand(3).add_(1),
    "a list copied": lambda lib: lib.zeros(2).copy_([1, 2]),
    "a tensor as filler": lambda lib: lib.zeros(2).fill_(lib.ones(2)),
    "a complex filler": lambda lib: lib.zeros(2).fill_(1j),
    "an uneven diagonal": lambda lib: lib.zeros(3, 2, 3).fill_diagonal_(1.0),
    "bytes that do not fit": lambda lib: lib.zeros(4, 3).view(lib.float64),
    "memory of another type": lambda lib: lib.zeros(2).set_(lib.zeros(2, dtype=lib.int64)),
    "beyond the storage": lambda lib: lib.zeros(2).set_(lib.zeros(2).untyped_storage(), 1, (2,)),
    "a Python function of a history": lambda lib: leaf(lib, 2).apply_(abs),
    "a deleted item": lambda lib: lib.zeros(2).__delitem__(0),
    "a word in a tensor": lambda lib: "a" in lib.zeros(2),
}
PROGRAMS = [
    transposed,
    reshaped_by_steps,
    transposed_view,
    base_transposed_under_a_view,
    restrided,
    leaf_under_no_grad,
    smaller_and_larger,
    grown,
    resized_view,
    same_memory,
    detached_part,
    detached_start,
    storages,
    complex_through_real,
    real_through_complex,
    other_type,
    filled_diagonal,
    filled_with_a_tensor,
    copied_over,
    put_in_place,
    reduced_in_place,
    by_python,
    parts_changed,
    twice_differentiated,
    orders,
    sequences,
    through_numpy,
    flags,
]


def plain(value: Any) -> Any:
    """Tensors as their form and numbers."""
    if hasattr(value, "detach"):
        place = (value.stride(), value.storage_offset(), value._is_view()) if value.numel() else ()
        kind = str(value.dtype).partition(".")[2]
        return kind, tuple(value.shape), place, value.requires_grad, value.tolist()
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return value


@pytest.mark.oracle
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.__name__)
def test_programs_observe_what_they_do_in_torch(program: Callable[[Any], Any]) -> None:
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = plain(program(torch))
    assert plain(program(tl)) == theirs


@pytest.mark.oracle
@pytest.mark.parametrize("name", REFUSED)
def test_what_torch_refuses_is_refused(name: str) -> None:
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    with pytest.raises(Exception) as theirs:  # noqa: PT011  # any kind: it is what ours must be
        REFUSED[name](torch)
    with pytest.raises(theirs.type):
        REFUSED[name](tl)


def test_memory_that_others_share_does_not_grow() -> None:
    with pytest.raises(NotImplementedError, match="does not grow"):
        tl.arange(4.0)[:2].resize_(9)


def test_a_mapped_file_is_written_through(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    np.arange(4, dtype=np.float32).tofile(path)
    private, shared = tl.from_file(str(path), size=4), tl.from_file(str(path), True, 6)
    shared[0], private[1] = 9.0, 7.0
    assert np.fromfile(path, np.float32).tolist() == [9, 1, 2, 3, 0, 0]
    assert private.tolist() == [9, 7, 2, 3]  # its own page only where it was written
    with pytest.raises(RuntimeError, match="bytes"):
        tl.from_file(str(path), size=99)


def test_a_view_beyond_its_shrunk_base_is_found_in_backward() -> None:
    x = tl.arange(10.0).requires_grad_()
    y = x * 1
    v = y[5:]
    y.as_strided_((2,), (1,))
    with pytest.raises(RuntimeError, match="beyond its base"):
        tl.autograd.grad((v * 2).sum(), x)
