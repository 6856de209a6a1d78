"""Layers that learn a size from their first input, next to torch's."""

import copy
import pickle

import pytest

import tensorlib
from tensorlib import nn
from tensorlib.nn.module import StateDictError

LAYERS = {
    "LazyLinear": (lambda n: n.LazyLinear(3), (4, 5)),
    "LazyLinear without bias": (lambda n: n.LazyLinear(3, bias=False), (4, 5)),
    "LazyConv1d": (lambda n: n.LazyConv1d(4, 3, 2), (2, 3, 9)),
    "LazyConv2d": (lambda n: n.LazyConv2d(4, 3, padding=1, groups=2), (2, 6, 5, 5)),
    "LazyConv3d": (lambda n: n.LazyConv3d(2, 2, bias=False), (2, 4, 3, 3)),
    "LazyConvTranspose1d": (lambda n: n.LazyConvTranspose1d(4, 3), (2, 3, 5)),
    "LazyConvTranspose2d": (lambda n: n.LazyConvTranspose2d(4, 3, 2, groups=2), (2, 6, 5, 5)),
    "LazyConvTranspose3d": (lambda n: n.LazyConvTranspose3d(2, 2), (1, 2, 3, 3, 3)),
    "LazyBatchNorm1d": (lambda n: n.LazyBatchNorm1d(), (4, 3)),
    "LazyBatchNorm2d": (lambda n: n.LazyBatchNorm2d(affine=False), (4, 3, 2, 2)),
    "LazyBatchNorm3d": (lambda n: n.LazyBatchNorm3d(bias=False), (4, 3, 2, 2, 2)),
    "LazyInstanceNorm1d": (lambda n: n.LazyInstanceNorm1d(), (4, 3, 5)),
    "LazyInstanceNorm2d": (lambda n: n.LazyInstanceNorm2d(affine=True), (4, 3, 2, 5)),
    "LazyInstanceNorm3d": (lambda n: n.LazyInstanceNorm3d(), (4, 3, 2, 5, 2)),
}


def told(layer, lib):
    """What a layer is before and after its first input, and what it returns."""
    build, shape = layer
    lib.manual_seed(4)
    module = build(lib.nn)
    seen = [type(module).__name__, module.has_uninitialized_params(), str(module)]
    seen.append([n for n, _ in module.named_parameters()])
    x = lib.arange(float(lib.zeros(shape).numel())).reshape(shape).sin()
    out = module.double()(x.double())
    seen += [type(module).__name__, str(module), list(module.state_dict())]
    return seen, [out, *module.state_dict().values()]


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize("name", LAYERS)
def test_a_lazy_layer_equals_torchs(name):
    torch = pytest.importorskip("torch", reason="the comparison needs PyTorch")
    ours, values = told(LAYERS[name], tensorlib)
    theirs, reference = told(LAYERS[name], torch)
    assert ours == theirs
    for value, expected in zip(values, reference, strict=True):
        got = torch.from_numpy(value.detach().numpy())
        torch.testing.assert_close(got, expected.detach(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_a_copy_of_a_lazy_layer_is_lazy_itself(duplicate):
    layer = nn.Sequential(nn.LazyLinear(2), nn.LazyBatchNorm1d())
    twin = duplicate(layer)
    assert twin(tensorlib.ones(3, 4)).shape == (3, 2)
    assert layer[0].has_uninitialized_params()
    assert layer(tensorlib.ones(3, 5)).shape == (3, 2)
    assert type(layer[1]) is nn.BatchNorm1d


def test_a_state_dict_gives_the_sizes():
    layer, plain = nn.LazyLinear(2), nn.Linear(3, 2)
    layer.load_state_dict(plain.state_dict())
    assert layer.weight.shape == (2, 3)
    x = tensorlib.ones(4, 3)
    assert layer(x).tolist() == plain(x).tolist()
    assert type(layer) is nn.Linear
    assert layer.in_features == 3


def test_an_uninitialized_state_dict():
    lazy = nn.LazyLinear(2)
    nn.LazyLinear(2).load_state_dict(lazy.state_dict())
    with pytest.raises(StateDictError, match="weight: uninitialized in the state dict"):
        nn.Linear(3, 2).load_state_dict(lazy.state_dict())


def test_uninitialized_tensors_keep_dtype_and_flags():
    weight = nn.UninitializedParameter(requires_grad=False, dtype=tensorlib.float64)
    assert str(weight) == "<UninitializedParameter>"
    weight.materialize((2, 3))
    assert type(weight) is nn.Parameter
    assert (weight.shape, weight.dtype) == ((2, 3), tensorlib.float64)
    assert not weight.requires_grad
    buffer = nn.UninitializedBuffer(persistent=False)
    buffer.materialize((2,), dtype=tensorlib.int64)
    assert isinstance(buffer, nn.Buffer)
    assert not buffer.persistent
