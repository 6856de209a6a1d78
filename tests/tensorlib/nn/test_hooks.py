"""Hooks of a Module next to torch's: one scenario runs in both libraries and tells what it saw."""

import copy

import pytest

import tensorlib
from tensorlib import nn
from tensorlib.errors import UnsupportedError


def told(value):
    """Tensors and tuples as comparable lists."""
    if isinstance(value, tuple | list):
        return [told(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def layer_of(lib):
    layer = lib.nn.Linear(2, 2, bias=False)
    layer.load_state_dict({"weight": lib.tensor([[1.0, 2.0], [3.0, 4.0]])})
    return layer


def pair_module(lib):
    class Pair(lib.nn.Module):
        def forward(self, a, note, b, unused=None):
            return a * b, note, b + 1

    return Pair()


def backward_replaces(lib):
    layer, seen = layer_of(lib), []

    def hook(module, grad_input, grad_output):
        seen.append(told([grad_input, grad_output]))
        return tuple(None if g is None else g * 10 for g in grad_input)

    layer.register_full_backward_hook(hook)
    x = lib.ones(1, 2, requires_grad=True)
    (layer(x) * 2).sum().backward()
    return seen, told(x.grad), told(layer.weight.grad)


def backward_without_input_gradient(lib):
    layer, seen = layer_of(lib), []
    layer.register_full_backward_hook(lambda m, i, o: seen.append(told([i, o])))
    (layer(lib.ones(1, 2)) * 2).sum().backward()
    return seen, told(layer.weight.grad)


def backward_of_many(lib):
    module, seen = pair_module(lib), []
    module.register_full_backward_hook(lambda m, i, o: seen.append(told([i, o])))
    a = lib.ones(2, requires_grad=True)
    b = lib.tensor([2.0, 3.0], requires_grad=True)
    product, _, plus = module(a, "text", b)
    (product.sum() + (plus * 4).sum()).backward()
    return seen, told(a.grad), told(b.grad)


def backward_of_one_output(lib):
    module, seen = pair_module(lib), []
    module.register_full_backward_hook(lambda m, i, o: seen.append(told([i, o])))
    a, b = lib.ones(2, requires_grad=True), lib.ones(2, requires_grad=True)
    module(a, 1, b)[2].sum().backward()
    return seen, told(a.grad), told(b.grad)


def backward_beside_constants(lib):
    module, seen = pair_module(lib), []
    module.register_full_backward_hook(lambda m, i, o: seen.append(told([i, o])))
    a, b = lib.ones(2, requires_grad=True), lib.full((2,), 3.0)
    module(a, None, b, unused=1)[0].sum().backward()
    return seen, told(a.grad)


def backward_pre_hooks(lib):
    layer, seen = layer_of(lib), []
    layer.register_full_backward_pre_hook(lambda m, g: seen.append(told(g)) or (g[0] * 2,))
    layer.register_full_backward_pre_hook(lambda m, g: (g[0] + 1,), prepend=True)
    layer.register_full_backward_hook(lambda m, i, o: seen.append(told([i, o])))
    x = lib.ones(1, 2, requires_grad=True)
    layer(x).sum().backward()
    return seen, told(x.grad)


def backward_twice(lib):
    layer, seen = layer_of(lib), []
    layer.register_full_backward_hook(lambda m, i, o: seen.append(told([i, o])))
    x = lib.ones(1, 2, requires_grad=True)
    (slope,) = lib.autograd.grad((layer(x) ** 3).sum(), x, create_graph=True)
    slope.sum().backward()
    return seen, told(x.grad), told(layer.weight.grad)


def forward_order(lib):
    layer, seen = layer_of(lib), []
    layer.register_forward_pre_hook(lambda m, args: seen.append("second") or (args[0] + 1,))
    layer.register_forward_pre_hook(lambda m, args: seen.append("first"), prepend=True)
    handle = layer.register_forward_hook(lambda m, a, out: seen.append(told([a, out])) or out * 10)
    out = [told(layer(lib.ones(2)))]
    handle.remove()
    out.append(told(layer(lib.ones(2))))
    with layer.register_forward_hook(lambda m, args, out: out * 0):
        out.append(told(layer(lib.ones(2))))
    return seen, out, told(layer(lib.ones(2)))


def always_called(lib):
    class Fails(lib.nn.Module):
        def forward(self, x, *, how):
            raise KeyError(how)

    module, seen = Fails(), []
    module.register_forward_hook(lambda m, a, out: seen.append("never"))
    module.register_forward_hook(
        lambda m, a, k, out: seen.append([told(a), k, out]), always_call=True, with_kwargs=True
    )
    with pytest.raises(KeyError, match="so"):
        module(lib.ones(1), how="so")
    return seen


def keywords(lib):
    class Scale(lib.nn.Module):
        def forward(self, x, *, by=1):
            return x * by

    layer, seen = Scale(), []
    layer.register_forward_pre_hook(
        lambda m, args, kwargs: (args, {"by": kwargs["by"] + 1}), with_kwargs=True
    )
    layer.register_forward_hook(lambda m, a, k, out: seen.append(k["by"]), with_kwargs=True)
    return told(layer(lib.ones(1), by=2)), seen


def saving(lib):
    module, seen = lib.nn.Sequential(layer_of(lib)), []
    module[0].register_state_dict_pre_hook(lambda m, p, keep: seen.append([p, keep]))
    module.register_state_dict_post_hook(lambda m, s, p, meta: seen.append([list(s), p, meta]))
    module[0]._register_state_dict_hook(lambda m, s, p, meta: {**s, "more": 1})
    state = module.state_dict(prefix="top.")
    return seen, list(state), dict(state._metadata)


def loading(lib):
    module, seen = lib.nn.Sequential(layer_of(lib)), []

    def rename(m, state, prefix, meta, strict, missing, unexpected, errors):
        seen.append([type(m).__name__, sorted(state), prefix, meta, strict])
        state[f"{prefix}weight"] = state.pop(f"{prefix}kernel")

    module[0].register_load_state_dict_pre_hook(rename)
    module.register_load_state_dict_post_hook(lambda m, keys: keys.missing_keys.clear())
    module.register_load_state_dict_post_hook(lambda m, keys: keys.unexpected_keys.clear())
    module.add_module("late", lib.nn.Linear(1, 1))
    result = module.load_state_dict({"0.kernel": lib.zeros(2, 2), "odd": lib.ones(1)})
    return seen, list(result), told(module[0].weight)


def versions(lib):
    class Old(lib.nn.Module):
        _version = 3

        def __init__(self):
            super().__init__()
            self.scale = lib.nn.Parameter(lib.ones(1))

        def _load_from_state_dict(self, state, prefix, meta, *rest):
            seen.append(meta.get("version"))
            if (meta.get("version") or 1) < 3:
                state[f"{prefix}scale"] = state.pop(f"{prefix}old") * 2
            super()._load_from_state_dict(state, prefix, meta, *rest)
            seen.append(told(self.scale))

    seen = []
    module = lib.nn.Sequential(Old())
    state = module.state_dict()
    module.load_state_dict(state)
    state._metadata["0"]["version"] = 2
    state["0.old"] = state.pop("0.scale") * 5
    module.load_state_dict(state)
    return seen, told(module[0].scale), module.state_dict()._metadata


def copies_keep_hooks(lib):
    layer = layer_of(lib)
    layer.register_forward_hook(lambda m, args, out: out + 1)
    twin = copy.deepcopy(layer)
    return told(layer(lib.ones(2))), told(twin(lib.ones(2)))


SCENARIOS = [
    backward_replaces, backward_without_input_gradient, backward_of_many, backward_of_one_output,
    backward_beside_constants, backward_pre_hooks, backward_twice, forward_order, always_called,
    keywords, saving, loading, versions, copies_keep_hooks,
]  # fmt: skip


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda s: s.__name__)
def test_what_hooks_see_equals_torchs(scenario):
    torch = pytest.importorskip("torch", reason="the comparison needs PyTorch")
    assert scenario(tensorlib) == scenario(torch)


def wrong_count(lib):
    layer = layer_of(lib)
    layer.register_full_backward_hook(lambda m, i, o: (*i, *i))
    layer(lib.ones(1, 2, requires_grad=True)).sum().backward()


def wrong_count_before(lib):
    layer = layer_of(lib)
    layer.register_full_backward_pre_hook(lambda m, o: (*o, *o))
    layer(lib.ones(1, 2, requires_grad=True)).sum().backward()


def gradient_from_nothing(lib):
    layer = layer_of(lib)
    layer.register_full_backward_hook(lambda m, i, o: o)
    layer(lib.ones(1, 2)).sum().backward()


def odd_arguments(lib):
    layer = layer_of(lib)
    layer.register_forward_pre_hook(lambda m, a, k: a, with_kwargs=True)
    layer(lib.ones(1, 2))


def post_hook_returns(lib):
    layer = layer_of(lib)
    layer.register_state_dict_post_hook(lambda m, s, p, meta: s)
    layer.state_dict()


def load_hook_returns(lib):
    layer = layer_of(lib)
    layer.register_load_state_dict_post_hook(lambda m, keys: 1)
    layer.load_state_dict(layer.state_dict())


def changed_in_place(lib):
    layer = lib.nn.ReLU(inplace=True)
    layer.register_full_backward_hook(lambda m, i, o: None)
    layer(lib.ones(2, requires_grad=True) * 2)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (wrong_count, RuntimeError, "got 2, but expected 1"),
        (wrong_count_before, RuntimeError, "got 2, but expected 1"),
        (gradient_from_nothing, RuntimeError, "always return None"),
        (odd_arguments, RuntimeError, "tuple of \\(new_args, new_kwargs\\)"),
        (post_hook_returns, RuntimeError, "must return None"),
        (load_hook_returns, AssertionError, "in ?place"),
        (changed_in_place, RuntimeError, "in ?place"),
    ],
)
def test_refusals_are_torchs(act, error, words):
    torch = pytest.importorskip("torch", reason="the comparison needs PyTorch")
    for lib in (tensorlib, torch):
        with pytest.raises(error, match=words):
            act(lib)


def test_the_old_backward_hook_is_refused():
    with pytest.raises(UnsupportedError, match="register_full_backward_hook"):
        nn.ReLU().register_backward_hook(print)


def test_hooks_can_be_counted_but_not_changed():
    layer = nn.Linear(1, 1)
    assert len(layer._forward_hooks) == len(layer._forward_pre_hooks) == 0
    handle = layer.register_forward_hook(print)
    layer.register_full_backward_hook(len)
    assert list(layer._forward_hooks.values()) == [print]
    assert list(layer._backward_hooks.values()) == [len]
    with pytest.raises(AttributeError):
        layer._forward_hooks.clear()
    handle.remove()
    assert len(layer._forward_hooks) == 0
