"""A Module as a tree of names, and as a function of its tensors, next to torch's."""

import copy
import pickle

import pytest

import tensorlib
from tensorlib import nn
from tensorlib.errors import UnsupportedError
from tensorlib.func import functional_call
from tensorlib.nn.attention import SDPBackend, sdpa_kernel
from tensorlib.nn.utils import stateless


def net(lib):
    class Net(lib.nn.Module):
        def __init__(self):
            super().__init__()
            self.rest = lib.nn.Sequential(lib.nn.Linear(2, 2), lib.nn.BatchNorm1d(2))
            self.tied = self.rest[0]
            self.scale = lib.nn.Parameter(lib.ones(2))
            self.register_buffer("shift", lib.zeros(2), persistent=False)
            self.plain = 3

        def forward(self, x, times=1):
            self.shift.add_(1)
            return self.rest(self.tied(x)) * self.scale * times + self.shift

    lib.manual_seed(1)
    return Net()


def told(value):
    if hasattr(value, "detach"):
        return pytest.approx(value.detach().double().numpy(), rel=1e-5, abs=1e-6)
    if isinstance(value, dict):
        return {key: told(item) for key, item in value.items()}
    return [told(item) for item in value] if isinstance(value, tuple | list) else value


def submodules(lib):
    module, seen = net(lib), []
    module.set_submodule("rest.1", lib.nn.ReLU())
    module.set_submodule("rest.2", lib.nn.Linear(2, 2))
    module.set_submodule("other", lib.nn.Tanh())
    seen.append([type(m).__name__ for m in module.modules(remove_duplicate=False)])
    seen.append([name for name, _ in module.named_modules(remove_duplicate=False)])
    seen.append([name for name, _ in module.named_buffers(remove_duplicate=False)])
    return [*seen, str(module), type(module.get_submodule("")).__name__]


def conversions(lib):
    module, seen = net(lib), []
    for act in ("half", "double", "bfloat16", "float"):
        getattr(module, act)()
        seen.append(sorted({str(v.dtype).split(".")[1] for v in module.state_dict().values()}))
    module.type(lib.float64)
    seen.append(sorted({str(v.dtype).split(".")[1] for v in module.state_dict().values()}))
    conv = lib.nn.Conv2d(2, 3, 2).to(memory_format=lib.channels_last)
    seen.append([conv.weight.is_contiguous(memory_format=lib.channels_last), conv.weight.stride()])
    empty = lib.nn.Linear(2, 3).to_empty(device="cpu")
    return [*seen, tuple(empty.weight.shape), type(empty.weight).__name__]


def replaced(lib):
    module = net(lib).eval()
    x = (lib.arange(6.0) ** 2).reshape(3, 2)
    weight = lib.tensor([[1.0, 2.0], [-1.0, 0.5]], requires_grad=True)
    given = {"rest.0.weight": weight, "shift": lib.full((2,), 5.0), "scale": lib.ones(2) * 2}
    out = lib.func.functional_call(module, given, (x,), {"times": 2})
    (grad,) = lib.autograd.grad((out * x).sum(), weight)
    own = dict(module.state_dict())
    several = lib.func.functional_call(module, (given, {"rest.0.bias": lib.ones(2)}), x)
    untied = lib.func.functional_call(module, given, x, tie_weights=False)
    return out, grad, own, given, module.shift, several, untied


@pytest.mark.oracle
@pytest.mark.parametrize("scenario", [submodules, conversions, replaced], ids=lambda s: s.__name__)
def test_equals_torchs(scenario):
    torch = pytest.importorskip("torch", reason="the comparison needs PyTorch")
    ours, theirs = told(scenario(tensorlib)), scenario(torch)

    def same(mine, reference):
        if isinstance(reference, dict):
            assert list(mine) == list(reference)
            for key, value in reference.items():
                same(mine[key], value)
        elif isinstance(reference, tuple | list):
            assert len(mine) == len(reference)
            for a, b in zip(mine, reference, strict=True):
                same(a, b)
        else:
            assert mine == (
                reference.detach().double().numpy() if hasattr(reference, "detach") else reference
            )

    same(ours, theirs)


REFUSED = [
    (lambda n, m: m.set_submodule("", n.ReLU()), ValueError),
    (lambda n, m: m.set_submodule("rest.1", 3), ValueError),
    (lambda n, m: m.set_submodule("plain", n.ReLU()), AttributeError),
    (lambda n, m: m.set_submodule("new", n.ReLU(), strict=True), AttributeError),
    (lambda n, m: m.set_submodule("no.way", n.ReLU()), AttributeError),
    (lambda n, m: m.get_submodule("plain"), AttributeError),
    (lambda n, m: m.get_parameter("shift"), AttributeError),
    (lambda n, m: m.get_buffer("scale"), AttributeError),
    (lambda n, m: m.register_buffer("plain", None), KeyError),
    (lambda n, m: m.register_parameter("plain", None), KeyError),
    (lambda n, m: m.register_module("plain", None), KeyError),
    (lambda n, m: m.register_buffer("scale", None), KeyError),
    (lambda n, m: m.register_parameter("shift", None), KeyError),
    (lambda n, m: m.register_buffer(3, None), TypeError),
    (lambda n, m: m.register_parameter("x", n.Parameter().data), TypeError),
    (lambda n, m: setattr(m, "scale", 3), TypeError),
    (lambda n, m: setattr(m, "shift", 3), TypeError),
    (lambda n, m: setattr(m, "rest", 3), TypeError),
    (lambda n, m: m.missing, AttributeError),
    (lambda n, m: m.load_state_dict({}), RuntimeError),
    (lambda n, m: m.load_state_dict([]), TypeError),
    (lambda n, m: m.get_extra_state(), RuntimeError),
    (lambda n, m: m.set_extra_state(1), RuntimeError),
    (lambda n, m: n.Module()(1), NotImplementedError),
    (lambda n, m: n.Module(1), TypeError),
]


@pytest.mark.oracle
@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_refuses_what_torch_refuses(number):
    torch = pytest.importorskip("torch", reason="the comparison needs PyTorch")
    act, error = REFUSED[number]
    for lib in (torch, tensorlib):
        with pytest.raises(error):
            act(lib.nn, net(lib))


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("given", "options", "error"),
    [
        (lambda lib: {"scale": 3}, {}, TypeError),
        (lambda lib: {"no.such": lib.ones(1)}, {}, AttributeError),
        (lambda lib: {"scale": lib.ones(2)}, {"strict": True}, RuntimeError),
        (
            lambda lib: {"rest.0.bias": lib.ones(2), "tied.bias": lib.zeros(2)},
            {"tie_weights": True},
            ValueError,
        ),
        (lambda lib: ({"scale": lib.ones(2)}, {"scale": lib.ones(2)}), {}, ValueError),
        (lambda lib: 3, {}, ValueError),
    ],
)
def test_functional_call_refuses_what_torchs_refuses(given, options, error):
    torch = pytest.importorskip("torch", reason="the comparison needs PyTorch")
    for lib in (torch, tensorlib):
        module = net(lib)
        before = [v.tolist() for v in module.state_dict().values()]
        with pytest.raises(error):
            lib.func.functional_call(module, given(lib), lib.ones(3, 2), **options)
        assert [v.tolist() for v in module.state_dict().values()] == before


def test_the_old_place_of_functional_call_warns():
    layer = nn.Linear(2, 1)
    given = {"weight": tensorlib.ones(1, 2), "bias": tensorlib.zeros(1)}
    with pytest.warns(FutureWarning, match="func.functional_call"):
        assert stateless.functional_call(layer, given, tensorlib.ones(2)).item() == 2
    assert functional_call(layer, given, (tensorlib.ones(2),), strict=True).item() == 2


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_keep_shared_parameters_shared(duplicate):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    model[1].weight.requires_grad_(False)
    twin = duplicate(model)
    assert twin[1].weight is twin[0].weight
    assert twin[1].weight is not model[1].weight
    assert not twin[0].weight.requires_grad
    assert len(list(twin.parameters())) == 3
    state = twin.state_dict()
    assert state["0.weight"].data_ptr() == state["1.weight"].data_ptr()
    loaded = pickle.loads(pickle.dumps(state))
    twin.load_state_dict(loaded)


def test_data_parallel_on_one_device():
    layer = nn.Linear(2, 1)
    wrapped = nn.DataParallel(layer)
    x = tensorlib.ones(3, 2)
    assert wrapped(x).tolist() == layer(x).tolist()
    assert nn.parallel.data_parallel(layer, x).tolist() == layer(x).tolist()
    assert list(wrapped.state_dict()) == ["module.weight", "module.bias"]
    with pytest.raises(UnsupportedError, match="DistributedDataParallel"):
        nn.DataParallel(layer, device_ids=[0, 1])
    assert nn.parallel.DistributedDataParallel.__name__ == "DistributedDataParallel"


def test_the_choice_of_attention_kernels_changes_nothing():
    q = tensorlib.randn(1, 2, 4, 3)
    plain = nn.functional.scaled_dot_product_attention(q, q, q)
    with sdpa_kernel([SDPBackend.MATH, SDPBackend.FLASH_ATTENTION]):
        chosen = nn.functional.scaled_dot_product_attention(q, q, q)
    assert chosen.tolist() == plain.tolist()
    with pytest.raises(AssertionError, match="SDPBackend"), sdpa_kernel("math"):
        pass


# --- containers next to torch's --------------------------------------------------------------


def containers(lib):
    n, seen = lib.nn, []
    model = n.Sequential(n.Linear(1, 2), n.ReLU())
    model += n.Sequential(n.Tanh())
    model *= 2
    model.insert(1, n.Sigmoid()).insert(-1, n.ELU())
    seen += [str(model), str(model * 2), str(2 * model[:2]), str(model[1:3] + model[:1])]
    del model[1:3]
    seen += [str(model), [*dict(model.named_children())], type(model.pop(-1)).__name__]
    values = n.ParameterList([lib.ones(2), 3, lib.zeros(1)])
    values += [lib.ones(1)]
    seen += [str(values), str(values[::2]), len(values[1:]), [*values.state_dict()]]
    named = n.ParameterDict({"b": lib.ones(1), "a": lib.zeros(2)})
    more = n.ParameterDict([("z", lib.ones(2)), ("c", 4)])
    named |= more
    seen += [[*named], [*reversed(named)], [*(more | named)], [*named.copy()]]
    seen += [named.setdefault("new", 5), named.setdefault("c", 9), named.popitem(), [*named]]
    seen += [[*named.fromkeys(["x", "y"], 1).items()], [*named.state_dict()], str(named)]
    modules = n.ModuleDict({"b": n.ReLU(), "a": n.Tanh()})
    modules.update([("c", n.ELU())])
    seen += [str(modules), [*modules], type(modules.pop("b")).__name__]
    return [
        text.replace("torch.", "tensorlib.") if isinstance(text, str) else text for text in seen
    ]


@pytest.mark.oracle
def test_containers_equal_torchs():
    torch = pytest.importorskip("torch", reason="the comparison needs PyTorch")
    assert containers(tensorlib) == containers(torch)


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda n: n.Sequential().__iadd__([n.ReLU()]), ValueError),
        (lambda n: n.Sequential(n.ReLU()) + n.ModuleList(), ValueError),
        (lambda n: n.Sequential() * 1.5, TypeError),
        (lambda n: n.Sequential() * 0, ValueError),
        (lambda n: n.Sequential().insert(2, n.ReLU()), IndexError),
        (lambda n: n.Sequential().insert(0, 3), AssertionError),
        (lambda n: n.Sequential()[0], IndexError),
        (lambda n: n.ModuleList([n.ReLU()])[1], IndexError),
        (lambda n: n.ModuleList(3), TypeError),
        (lambda n: n.ModuleList([3]), TypeError),
        (lambda n: n.ModuleDict(3), TypeError),
        (lambda n: n.ModuleDict([3]), TypeError),
        (lambda n: n.ModuleDict([(1, 2, 3)]), ValueError),
        (lambda n: n.ModuleDict({"a": 3}), TypeError),
        (lambda n: n.ModuleDict({"a.b": n.ReLU()}), KeyError),
        (lambda n: n.ModuleDict({"keys": n.ReLU()}), KeyError),
        (lambda n: n.ModuleDict()["a"], KeyError),
        (lambda n: n.ParameterDict()["a"], AttributeError),
        (lambda n: n.ParameterDict({1: 2}), TypeError),
        (lambda n: n.ParameterDict(3), TypeError),
        (lambda n: n.ParameterList(3), TypeError),
        (lambda n: n.ParameterList()[0], IndexError),
        (lambda n: n.ParameterList()(1), RuntimeError),
        (lambda n: n.ParameterDict()(1), RuntimeError),
    ],
)
def test_containers_refuse_what_torchs_refuse(act, error):
    torch = pytest.importorskip("torch", reason="the comparison needs PyTorch")
    for lib in (torch, tensorlib):
        with pytest.raises(error):
            act(lib.nn)
