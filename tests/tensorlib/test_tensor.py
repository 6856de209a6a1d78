"""Tensor: views and versions, in-place rules, dtype promotion, copies, NumPy sharing."""

import copy
import itertools
import pickle

import numpy as np
import pytest

import tensorlib

DTYPES = ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[1:],
        lambda x: x[..., ::2],
        lambda x: x.view(4, 3),
        lambda x: x.reshape(2, 6),
        lambda x: x.T,
        lambda x: x.permute(1, 0),
        lambda x: x.unsqueeze(0),
        lambda x: x.expand(2, 3, 4),
        lambda x: x.narrow(1, 1, 2),
        lambda x: x.diagonal(),
        lambda x: x.unfold(1, 2, 1),
        lambda x: x.chunk(2)[0],
        lambda x: x.unbind(1)[2],
        lambda x: x.detach(),
        lambda x: x.flatten(),
        lambda x: x.data,
    ],
)
def test_views_share_memory(view):
    base = tensorlib.zeros(3, 4)
    seen = view(base)
    assert np.shares_memory(seen.numpy(), base.numpy())
    base.fill_(5)
    assert (seen == 5).all()


@pytest.mark.parametrize(
    "make", [lambda x: x.clone(), lambda x: x[[0, 1]], lambda x: x.repeat(1, 1), lambda x: x + 0]
)
def test_copies_do_not_share_memory(make):
    base = tensorlib.zeros(3, 4)
    assert not np.shares_memory(make(base).numpy(), base.numpy())


def test_view_of_a_layout_that_cannot_be_viewed_is_an_error():
    with pytest.raises(RuntimeError, match="view"):
        tensorlib.zeros(3, 4).T.view(12)


def test_changing_a_saved_tensor_is_found_in_backward():
    x = tensorlib.ones(3, requires_grad=True)
    y = x * 2
    z = y * y
    y.add_(1)
    with pytest.raises(RuntimeError, match=r"in-place|inplace|modified"):
        z.sum().backward()


def test_changing_a_saved_tensor_through_a_view_is_found_in_backward():
    x = tensorlib.ones(3, requires_grad=True)
    y = x * 2
    z = y.exp()
    z[0:1].mul_(2)
    with pytest.raises(RuntimeError, match=r"in-place|inplace|modified"):
        z.sum().backward()


def test_changing_a_tensor_that_was_not_saved_is_no_error():
    x = tensorlib.ones(3, requires_grad=True)
    y = x + 2
    z = y + y
    y.add_(1)
    z.sum().backward()
    assert x.grad.tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.add_(1),
        lambda x: x.zero_(),
        lambda x: x[0].mul_(2),
        lambda x: x.__setitem__(0, 1.0),
        lambda x: x.uniform_(),
    ],
)
def test_in_place_on_a_leaf_is_an_error(change):
    x = tensorlib.ones(3, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf"):
        change(x)
    with tensorlib.no_grad():
        change(x)


def test_in_place_on_a_view_updates_the_gradient_of_the_base():
    x = tensorlib.ones(2, 3, requires_grad=True)
    base = x * 1
    base[0].mul_(5)
    base[:, 1] = 7.0
    base.T[2].add_(x[:, 2])
    base.sum().backward()
    assert x.grad.tolist() == [[5, 0, 6], [1, 0, 2]]


def test_a_view_made_before_its_base_changes_sees_the_new_gradient():
    x = tensorlib.ones(3, requires_grad=True)
    base = x * 1
    seen = base[1:]
    base.mul_(3)
    seen.sum().backward()
    assert x.grad.tolist() == [0, 3, 3]


@pytest.mark.oracle
@pytest.mark.parametrize("operation", ["add", "mul", "div", "pow", "maximum", "where", "cat"])
def test_dtype_promotion_equals_torch(operation):
    torch = pytest.importorskip("torch", reason="compares with PyTorch")

    def outcome(library, left, right):
        if operation == "where":
            return library.where(library.tensor([True]), left, right)
        if operation == "cat":
            return library.cat([left, right])
        return getattr(library, operation)(left, right)

    for first, second in itertools.product(DTYPES, DTYPES):
        for shape in ((1,), ()):
            if operation == "cat" and not shape:
                continue
            if operation == "pow" and first == second == "bool":
                continue
            found = [
                str(
                    outcome(
                        library,
                        library.ones(1, dtype=getattr(library, first)),
                        library.ones(shape, dtype=getattr(library, second)),
                    ).dtype
                ).split(".")[1]
                for library in (tensorlib, torch)
            ]
            assert found[0] == found[1], (first, second, shape)


@pytest.mark.oracle
def test_promotion_with_numbers_equals_torch():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    for name, number in itertools.product(DTYPES, (True, 2, 2.5)):
        for shape in ((2,), ()):
            found = [
                str((library.ones(shape, dtype=getattr(library, name)) * number).dtype)
                for library in (tensorlib, torch)
            ]
            assert found[0].split(".")[1] == found[1].split(".")[1], (name, number, shape)


def test_in_place_does_not_change_the_dtype():
    with pytest.raises(RuntimeError, match=r"int64|Long"):
        tensorlib.ones(2, dtype=tensorlib.int64).add_(1.5)
    x = tensorlib.ones(2)
    x.add_(tensorlib.ones(2, dtype=tensorlib.float64))
    assert x.dtype == tensorlib.float32


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_pickle_and_deepcopy_keep_everything_but_memory(duplicate):
    x = tensorlib.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    y = duplicate(x)
    assert y.tolist() == x.tolist()
    assert y.dtype == x.dtype
    assert y.requires_grad
    assert not np.shares_memory(x.detach().numpy(), y.detach().numpy())


def test_deepcopy_keeps_shared_tensors_shared_and_refuses_results():
    x = tensorlib.ones(2)
    first, second = copy.deepcopy([x, x])
    assert first is second
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(tensorlib.ones(2, requires_grad=True) * 2)


def test_numpy_shares_memory_both_ways():
    array = np.zeros((2, 3), np.float32)
    x = tensorlib.from_numpy(array)
    x += 1
    assert array.sum() == 6
    array[0, 0] = 9
    assert x[0, 0].item() == 9
    assert x.numpy() is not None
    assert np.shares_memory(x.numpy(), array)
    with pytest.raises(RuntimeError, match="grad"):
        tensorlib.ones(2, requires_grad=True).numpy()


def test_tensor_copies_its_data():
    array = np.zeros(3)
    x = tensorlib.tensor(array)
    array[0] = 1
    assert x.tolist() == [0, 0, 0]


def test_truth_and_number_of_several_values_are_errors():
    x = tensorlib.ones(2)
    with pytest.raises(RuntimeError):
        bool(x)
    with pytest.raises(RuntimeError):
        x.item()
    with pytest.raises(TypeError, match="0-d"):
        len(tensorlib.tensor(1.0))
