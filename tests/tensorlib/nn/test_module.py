"""Module, Parameter, Buffer and the containers."""

import copy
import pickle
from collections import OrderedDict

import numpy as np
import pytest

import tensorlib
from tensorlib import nn
from tensorlib.nn.module import StateDictError
from tensorlib.nn.utils import (
    clip_grad_norm_,
    clip_grad_value_,
    parameters_to_vector,
    vector_to_parameters,
)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.tied = self.first
        self.scale = nn.Parameter(tensorlib.ones(1))
        self.register_buffer("count", tensorlib.zeros(1))
        self.hidden = nn.Buffer(tensorlib.ones(2), persistent=False)
        self.rest = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
        self.plain = 7

    def forward(self, x):
        return self.rest(self.first(x)) * self.scale


def torch_net(torch):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(2, 3)
            self.tied = self.first
            self.scale = torch.nn.Parameter(torch.ones(1))
            self.register_buffer("count", torch.zeros(1))
            self.hidden = torch.nn.Buffer(torch.ones(2), persistent=False)
            self.rest = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))

    return Net()


# --- registration ----------------------------------------------------------------------------


def test_parameters_are_leaves_around_the_same_memory():
    x = tensorlib.ones(3)
    parameter = nn.Parameter(x)
    parameter.data[0] = 5
    assert x.tolist() == [5, 1, 1]
    assert parameter.requires_grad
    assert parameter.is_leaf
    assert isinstance(parameter, tensorlib.Tensor)
    assert not nn.Parameter(x, requires_grad=False).requires_grad
    assert type(parameter * 2) is tensorlib.Tensor
    assert type(parameter.detach()) is tensorlib.Tensor


@pytest.mark.oracle
def test_text_of_a_parameter():
    torch = pytest.importorskip("torch")
    assert str(nn.Parameter(tensorlib.ones(2))) == str(torch.nn.Parameter(torch.ones(2)))


@pytest.mark.oracle
def test_names_and_order_equal_torchs():
    torch = pytest.importorskip("torch")
    ours, theirs = Net(), torch_net(torch)
    for method in ("named_parameters", "named_buffers", "named_modules", "named_children"):
        mine, reference = getattr(ours, method)(), getattr(theirs, method)()
        assert [name for name, _ in mine] == [name for name, _ in reference]
    assert [n for n, _ in ours.named_parameters(remove_duplicate=False)] == [
        n for n, _ in theirs.named_parameters(remove_duplicate=False)
    ]
    assert [n for n, _ in ours.named_parameters("x", recurse=False)] == ["x.scale"]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.state_dict()._metadata == theirs.state_dict()._metadata


@pytest.mark.oracle
def test_text_of_a_tree_equals_torchs():
    torch = pytest.importorskip("torch")

    def tree(n):
        return n.Sequential(
            OrderedDict(
                conv=n.Conv2d(1, 2, 3),
                many=n.ModuleList(
                    [n.Linear(1, 1), n.Linear(1, 1), n.ReLU(), n.Sequential(n.ReLU())]
                ),
                named=n.ModuleDict({"a": n.Tanh(), "b": n.ModuleList([n.Flatten()])}),
                empty=n.Sequential(),
            )
        )

    assert str(tree(nn)) == str(tree(torch.nn))
    for build in (
        lambda lib: lib.nn.ParameterList([lib.ones(2, 3), lib.nn.Parameter(lib.ones(1)), 5]),
        lambda lib: lib.nn.ParameterDict({"a": lib.ones(2, 3), "b": "text"}),
    ):
        assert str(build(tensorlib)) == str(build(torch)).replace("torch.", "tensorlib.")


def test_assignment_moves_a_name_between_tables():
    net = Net()
    net.first = None
    assert "first" not in dict(net.named_children())
    net.plain = nn.Parameter(tensorlib.ones(1))
    assert "plain" in dict(net.named_parameters())
    net.plain = None
    assert net.plain is None
    net.plain = nn.ReLU()
    assert "plain" not in net._parameters
    net.count = tensorlib.ones(1)
    assert dict(net.named_buffers())["count"].item() == 1
    del net.plain, net.count, net.scale
    assert not hasattr(net, "plain")
    assert next(iter(net.state_dict())) == "tied.weight"
    net.later = 1
    net.later = nn.Buffer(tensorlib.ones(1))
    assert "later" in net.state_dict()
    assert "later" not in vars(net)


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda m: setattr(m, "scale", tensorlib.ones(1)), TypeError, r"expected nn\.Parameter"),
        (lambda m: setattr(m, "first", 3), TypeError, r"expected nn\.Module"),
        (lambda m: setattr(m, "count", "x"), TypeError, "expected a Tensor or None"),
        (lambda m: m.register_buffer("a.b", None), KeyError, 'contains "."'),
        (lambda m: m.register_buffer("", None), KeyError, "empty"),
        (lambda m: m.register_buffer("x", 3), TypeError, "expected a Tensor"),
        (lambda m: m.register_parameter("x", tensorlib.ones(1)), TypeError, "nn.Parameter or None"),
        (lambda m: m.add_module("x", 3), TypeError, "not a Module subclass"),
        (lambda m: m.missing, AttributeError, "'Net' object has no attribute 'missing'"),
        (lambda m: m.get_submodule("rest.5"), AttributeError, "no attribute '5'"),
        (lambda m: m.get_parameter("count"), AttributeError, "not an nn.Parameter"),
        (lambda m: m.get_buffer("scale"), AttributeError, "not a buffer"),
        (lambda m: m.train("yes"), ValueError, "expected a bool"),
        (lambda m: m.to(tensorlib.int64), TypeError, "floating point"),
        (lambda m: m.to(speed=3), TypeError, "unexpected argument 'speed'"),
        (lambda m: m.load_state_dict([1]), TypeError, "expected a dict"),
        (lambda m: nn.Module()(1), NotImplementedError, 'missing the required "forward"'),
        (lambda m: nn.Parameter([1.0]), TypeError, "expected a Tensor"),
    ],
)
def test_refusals(act, error, words):
    with pytest.raises(error, match=words):
        act(Net())


def test_forgotten_super_init():
    class Broken(nn.Module):
        def __init__(self):
            self.layer = nn.ReLU()

    with pytest.raises(AttributeError, match=r"super\(\).__init__\(\) first"):
        Broken()


# --- state dict ------------------------------------------------------------------------------


def test_state_dict_shares_memory_and_loading_copies():
    one, two = Net(), Net()
    state = one.state_dict()
    assert not state["scale"].requires_grad
    assert one.state_dict(keep_vars=True)["scale"] is one.scale
    assert "hidden" not in state
    assert state["rest.0.num_batches_tracked"].dtype is tensorlib.int64
    before = two.first.weight
    assert str(two.load_state_dict(state)) == "<All keys matched successfully>"
    assert two.first.weight is before
    state["scale"][0] = 9
    assert one.scale.item() == 9
    assert two.scale.item() == 1


def test_all_problems_are_listed_at_once():
    net = Net()
    state = net.state_dict()
    del state["scale"], state["rest.1.bias"]
    state["extra.weight"] = tensorlib.ones(1)
    state["first.weight"] = tensorlib.ones(9, 9)
    state["count"] = "text"
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state["first.bias"] = tensorlib.full((3,), 4.0)
    with pytest.raises(StateDictError) as caught:
        net.load_state_dict(state)
    message = str(caught.value)
    assert isinstance(caught.value, RuntimeError)
    for words in (
        "Missing key(s) in state_dict (2):\n    scale\n    rest.1.bias",
        "Unexpected key(s) in state_dict (1):\n    extra.weight",
        "first.weight: (9, 9) in the state dict, (3, 2) in the model",
        "count: a str, expected a tensor",
    ):
        assert words in message
    for name, value in net.state_dict().items():
        assert value.tolist() == before[name].tolist(), name


def test_not_strict():
    net = Net()
    result = net.load_state_dict({"scale": np.array([3.0]), "new": np.ones(1)}, strict=False)
    assert net.scale.item() == 3
    assert "first.weight" in result.missing_keys
    assert result.unexpected_keys == ["new"]
    with pytest.raises(StateDictError, match="size mismatch"):
        net.load_state_dict({"scale": np.ones((2, 2))}, strict=False)


def test_assign_takes_the_tensors_themselves():
    net = Net()
    state = {name: value.double().clone() for name, value in net.state_dict().items()}
    net.load_state_dict(state, assign=True)
    assert net.scale.dtype is tensorlib.float64
    assert isinstance(net.scale, nn.Parameter)
    assert net.scale.requires_grad
    state["scale"][0] = 8
    assert net.scale.item() == 8


def test_values_are_cast_to_the_models_dtype():
    net = nn.Linear(1, 1)
    net.load_state_dict({"weight": np.ones((1, 1), "f8"), "bias": np.ones(1, "f2")})
    assert net.weight.dtype is tensorlib.float32
    assert net.bias.item() == 1


def test_batch_norm_without_a_counter():
    layer = nn.BatchNorm1d(2)
    state = layer.state_dict()
    del state["num_batches_tracked"], state._metadata
    layer.load_state_dict(state)
    assert layer.num_batches_tracked.item() == 0


def test_a_scalar_saved_with_one_dimension():
    net = nn.Module()
    net.x = nn.Parameter(tensorlib.tensor(1.0))
    net.load_state_dict({"x": tensorlib.tensor([5.0])})
    assert net.x.item() == 5


def test_extra_state():
    class Counter(nn.Module):
        seen = 0

        def get_extra_state(self):
            return {"seen": self.seen}

        def set_extra_state(self, state):
            self.seen = state["seen"]

    one, two = nn.Sequential(Counter()), nn.Sequential(Counter())
    one[0].seen = 5
    assert list(one.state_dict()) == ["0._extra_state"]
    two.load_state_dict(one.state_dict())
    assert two[0].seen == 5
    with pytest.raises(StateDictError, match=r"0\._extra_state"):
        two.load_state_dict({})


# --- mode, dtype, copies -----------------------------------------------------------------------


def test_train_and_eval_reach_everything():
    net = Net()
    assert net.eval() is net
    assert not any(module.training for module in net.modules())
    net.rest.train()
    assert net.rest[0].training
    assert not net.training


def test_to_casts_floats_only_and_keeps_the_parameters():
    net = Net()
    weight = net.first.weight
    weight.grad = tensorlib.ones(3, 2)
    assert net.double() is net
    assert net.first.weight is weight
    assert weight.dtype is tensorlib.float64
    assert weight.grad.dtype is tensorlib.float64
    assert net.hidden.dtype is tensorlib.float64
    assert net.rest[0].num_batches_tracked.dtype is tensorlib.int64
    net.to("cpu", tensorlib.float16)
    assert weight.dtype is tensorlib.float16
    net.to(tensorlib.ones(1))
    assert weight.dtype is tensorlib.float32
    assert net.half().cpu().float().first.weight.dtype is tensorlib.float32


def test_requires_grad_and_zero_grad():
    net = Net()
    net(tensorlib.ones(4, 2)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad(set_to_none=False)
    assert all(not p.grad.any() for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())
    net.requires_grad_(False)
    assert not net(tensorlib.ones(4, 2)).requires_grad


def test_apply_visits_children_first():
    seen = []
    nn.Sequential(nn.Linear(1, 1), nn.ReLU()).apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Linear", "ReLU", "Sequential"]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_independent_and_keep_ties(duplicate):
    net = Net().eval()
    twin = duplicate(net)
    assert twin.tied is twin.first
    assert twin.first.weight is not net.first.weight
    assert isinstance(twin.first.weight, nn.Parameter)
    assert not twin.training
    assert list(twin.state_dict()) == list(net.state_dict())
    x = tensorlib.ones(2, 2)
    assert twin(x).tolist() == net(x).tolist()
    with tensorlib.no_grad():
        twin.scale += 1
    assert net.scale.item() == 1
    assert twin.scale.item() == 2


# --- hooks -------------------------------------------------------------------------------------


def test_forward_hooks():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1)
    calls = []
    layer.register_forward_pre_hook(lambda m, args: calls.append("second") or (args[0] + 1,))
    layer.register_forward_pre_hook(lambda m, args: calls.append("first"), prepend=True)
    handle = layer.register_forward_hook(lambda m, args, out: calls.append("after") or out * 10)
    assert layer(tensorlib.ones(1, 1)).item() == 20
    assert calls == ["first", "second", "after"]
    handle.remove()
    assert layer(tensorlib.ones(1, 1)).item() == 2
    with layer.register_forward_hook(lambda m, args, out: out * 0):
        assert layer(tensorlib.ones(1, 1)).item() == 0
    assert layer(tensorlib.ones(1, 1)).item() == 2


def test_hooks_with_keyword_arguments():
    class Scale(nn.Module):
        def forward(self, x, *, by=1):
            return x * by

    layer, seen = Scale(), []
    layer.register_forward_pre_hook(
        lambda m, args, kwargs: (args, {"by": kwargs["by"] + 1}), with_kwargs=True
    )
    layer.register_forward_hook(lambda m, a, k, out: seen.append(k["by"]), with_kwargs=True)
    assert layer(tensorlib.ones(1), by=2).item() == 3
    assert seen == [3]


# --- containers ----------------------------------------------------------------------------------


def linears(count):
    return [nn.Linear(i + 1, i + 2) for i in range(count)]


def test_sequential_is_a_list():
    layers = linears(4)
    model = nn.Sequential(*layers[:3])
    assert model(tensorlib.ones(2, 1)).shape == (2, 4)
    assert len(model) == 3
    assert model[-1] is layers[2]
    assert [*model[1:]] == layers[1:3]
    assert list(dict(model[1:].named_children())) == ["1", "2"]
    assert model.append(layers[3]) is model
    model.insert(0, nn.Identity())
    assert isinstance(model[0], nn.Identity)
    assert list(dict(model.named_children())) == list("01234")
    assert model.pop(0).__class__ is nn.Identity
    del model[0]
    assert [*model] == layers[1:]
    model[0] = nn.ReLU()
    assert isinstance(model[0], nn.ReLU)
    assert len(model + model) == 6
    assert len(model * 2) == 6
    model += nn.Sequential(nn.Tanh())
    assert len(model) == 4
    with pytest.raises(IndexError, match="index 7 is out of range"):
        model[7]
    with pytest.raises(ValueError, match="Sequential class"):
        model + nn.ModuleList()
    with pytest.raises(TypeError, match="not a Module subclass"):
        nn.Sequential(3)


def test_module_list():
    layers = linears(3)
    modules = nn.ModuleList(layers)
    assert [*modules] == layers
    assert [*modules[:2]] == layers[:2]
    assert len(modules + nn.Sequential(nn.ReLU())) == 4
    del modules[:2]
    assert [*modules] == layers[2:]
    assert len(list(modules.parameters())) == 2
    with pytest.raises(NotImplementedError):
        modules(1)


def test_module_dict():
    modules = nn.ModuleDict({"a": nn.ReLU()})
    modules["b"] = nn.Tanh()
    modules.update([("c", nn.Linear(1, 1))])
    assert list(modules) == list(modules.keys()) == ["a", "b", "c"]
    assert "b" in modules
    assert isinstance(modules.pop("b"), nn.Tanh)
    assert [name for name, _ in modules.items()] == ["a", "c"]
    assert len([*modules.values()]) == len(modules) == 2
    del modules["a"]
    assert list(modules.state_dict()) == ["c.weight", "c.bias"]
    modules.clear()
    assert len(modules) == 0


def test_parameter_list_and_dict():
    values = nn.ParameterList([tensorlib.ones(i + 1) for i in range(3)])
    assert len(values) == 3
    assert isinstance(values[1], nn.Parameter)
    assert list(values.state_dict()) == ["0", "1", "2"]
    values[0] = tensorlib.zeros(5)
    values.append(nn.Parameter(tensorlib.ones(1)))
    values += [tensorlib.ones(2)]
    assert [p.numel() for p in values] == [5, 2, 3, 1, 2]
    assert [p.numel() for p in values[1:3]] == [2, 3]
    named = nn.ParameterDict({"a": tensorlib.ones(2)})
    named["b"] = nn.Parameter(tensorlib.ones(3))
    named.update({"c": tensorlib.ones(1)})
    assert list(named) == list(named.keys()) == ["a", "b", "c"]
    assert named.get("x", 4) == 4
    assert named.pop("a").numel() == 2
    assert [name for name, _ in named.items()] == ["b", "c"]
    assert list(named.state_dict()) == ["b", "c"]
    with pytest.raises(AttributeError, match="no attribute"):
        named["a"]
    named.clear()
    assert len(named) == 0
    for container in (values, named):
        assert str(copy.deepcopy(container)) == str(container)


# --- nn.utils -----------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.parametrize("order", [2.0, 1.0, 3.0, float("inf")])
@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_clip_grad_norm_equals_torchs(order, limit):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    grads = [rng.normal(size=shape).astype("f") for shape in ((3, 4), (5,), ())]
    results = []
    for lib in (tensorlib, torch):
        params = [lib.nn.Parameter(lib.zeros(g.shape)) for g in grads] + [
            lib.nn.Parameter(lib.ones(1))
        ]
        for param, grad in zip(params, grads, strict=False):
            param.grad = lib.from_numpy(np.array(grad))
        norm = lib.nn.utils.clip_grad_norm_(params, limit, order)
        results.append([norm.numpy(), *(p.grad.numpy() for p in params[:3])])
    for mine, reference in zip(*results, strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-5)


def test_clip_grad_value():
    param = nn.Parameter(tensorlib.zeros(3))
    param.grad = tensorlib.tensor([-5.0, 0.1, 5.0])
    clip_grad_value_(param, 1.0)
    np.testing.assert_allclose(param.grad.numpy(), [-1, 0.1, 1], rtol=1e-6)


def test_clip_grad_norm_of_nan():
    param = nn.Parameter(tensorlib.zeros(1))
    param.grad = tensorlib.tensor([float("nan")])
    with pytest.raises(RuntimeError, match="non-finite"):
        clip_grad_norm_(param, 1.0, error_if_nonfinite=True)
    assert clip_grad_norm_([nn.Parameter(tensorlib.ones(1))], 1.0).item() == 0


def test_parameters_as_one_vector():
    net = nn.Linear(2, 2)
    vector = parameters_to_vector(net.parameters())
    assert vector.numel() == 6
    vector_to_parameters(tensorlib.arange(6.0), net.parameters())
    assert net.weight.tolist() == [[0, 1], [2, 3]]
    assert net.bias.tolist() == [4, 5]
    with pytest.raises(ValueError, match="7 values; the parameters have 6"):
        vector_to_parameters(tensorlib.ones(7), net.parameters())
