"""nn.utils next to torch's: one scenario runs in both libraries and tells what came out."""

import copy
import pickle

import numpy as np
import pytest

import tensorlib
from tensorlib import nn
from tensorlib.nn.utils import parametrizations, parametrize, prune


def told(value):
    """Tensors, dicts and sequences of them as arrays, lists and names."""
    if hasattr(value, "detach"):
        return np.asarray(value.detach().numpy())
    if isinstance(value, dict):
        return [[key, told(item)] for key, item in value.items()]
    return [told(item) for item in value] if isinstance(value, tuple | list) else value


def same(mine, reference, tolerance=3e-5):
    if isinstance(reference, list):
        assert len(mine) == len(reference)
        for a, b in zip(mine, reference, strict=True):
            same(a, b, tolerance)
    elif isinstance(reference, np.ndarray):
        assert mine.dtype == reference.dtype
        np.testing.assert_allclose(mine, reference, rtol=tolerance, atol=tolerance)
    else:
        assert mine == reference


def used(lib, module, shape, times=1):
    """Outputs and gradients of a module that is called."""
    x = lib.arange(float(np.prod(shape))).reshape(shape).cos()
    found = []
    for _ in range(times):
        out = module(x)
        (out * out).sum().backward()
        found.append(out)
    return found, {name: p.grad for name, p in module.named_parameters()}


def all_of(lib, module, shape, times=1):
    results = used(lib, module, shape, times)
    return *results, dict(module.state_dict()), [n for n, _ in module.named_modules()], str(module)


# --- weight norm and spectral norm --------------------------------------------------------------


def old_weight_norm(lib, dim):
    layer = lib.nn.utils.weight_norm(lib.nn.Conv1d(3, 4, 2), dim=dim)
    before = all_of(lib, layer, (2, 3, 5), 2)
    lib.nn.utils.remove_weight_norm(layer)
    return before, all_of(lib, layer, (2, 3, 5))


def new_weight_norm(lib, dim):
    layer = lib.nn.Conv1d(3, 4, 2)
    lib.nn.utils.parametrizations.weight_norm(layer, dim=dim)
    before = all_of(lib, layer, (2, 3, 5), 2)
    old = {"bias": lib.zeros(4), "weight_g": layer.parametrizations.weight.original0 * 2}
    old["weight_v"] = layer.parametrizations.weight.original1 + 1
    layer.load_state_dict(old)
    return before, layer.weight, all_of(lib, layer, (2, 3, 5))


def old_spectral_norm(lib, build):
    layer = lib.nn.utils.spectral_norm(build(lib.nn), n_power_iterations=2)
    shape = (2, 3, 5, 5) if hasattr(layer, "kernel_size") else (2, 3)
    before = all_of(lib, layer, shape, 2)
    meta = layer.state_dict()._metadata
    layer.eval()
    after = all_of(lib, layer, shape)
    layer.load_state_dict(layer.state_dict())
    lib.nn.utils.remove_spectral_norm(layer)
    return before, after, meta, all_of(lib, layer, shape)


def new_spectral_norm(lib, build):
    layer = lib.nn.utils.parametrizations.spectral_norm(build(lib.nn))
    shape = (2, 3, 5, 5) if hasattr(layer, "kernel_size") else (2, 3)
    before = all_of(lib, layer, shape, 2)
    return before, all_of(lib, layer.eval(), shape)


LAYERS = (
    lambda n: n.Linear(3, 4),
    lambda n: n.Conv2d(3, 4, 2),
    lambda n: n.ConvTranspose2d(3, 4, 2),
)


def spectral_norm_of_a_vector(lib):
    layer = lib.nn.Linear(3, 4)
    lib.nn.utils.parametrizations.spectral_norm(layer, "bias")
    return all_of(lib, layer, (2, 3))


def spectral_norm_without_version(lib):
    layer = lib.nn.utils.spectral_norm(lib.nn.Linear(3, 4)).eval()
    layer(lib.ones(2, 3))
    state = layer.state_dict()
    state._metadata = {}
    state["weight"] = state["weight_orig"] / 3.0
    del state["weight_v"]
    layer.load_state_dict(state)
    return dict(layer.state_dict())


# --- orthogonal ---------------------------------------------------------------------------------


def orthogonal(lib, shape, orthogonal_map, use_trivialization):
    layer = lib.nn.Linear(*shape)
    lib.nn.utils.parametrizations.orthogonal(
        layer, orthogonal_map=orthogonal_map, use_trivialization=use_trivialization
    )
    found = all_of(lib, layer, (2, shape[0]))
    if use_trivialization:
        with lib.no_grad():
            layer.weight = lib.eye(shape[1], shape[0])
        found += (layer.weight,)
    return found


# --- parametrize --------------------------------------------------------------------------------


def chain(lib):
    class Double(lib.nn.Module):
        def forward(self, x):
            seen.append("double")
            return x * 2

        def right_inverse(self, x):
            return x / 2

    class Split(lib.nn.Module):
        def forward(self, a, b):
            seen.append("split")
            return a + b

        def right_inverse(self, x):
            return x * 0.25, x * 0.75

    seen = []
    from_utils = lib.nn.utils.parametrize
    layer = lib.nn.Linear(2, 2)
    kind = type(layer).__name__
    from_utils.register_parametrization(layer, "weight", Split())
    from_utils.register_parametrization(layer, "weight", Double(), unsafe=True)
    from_utils.register_parametrization(layer, "bias", Double())
    found = [all_of(lib, layer, (3, 2)), type(layer).__name__, from_utils.is_parametrized(layer)]
    found.append(from_utils.type_before_parametrizations(layer).__name__)
    del seen[:]
    with from_utils.cached():
        layer(lib.ones(1, 2))
        layer(lib.ones(1, 2))
    found.append(list(seen))
    layer.bias = lib.tensor([3.0, 4.0])
    layer.weight = lib.tensor([[1.0, 2.0], [3.0, 4.0]])
    twin = copy.deepcopy(layer)
    other = from_utils.transfer_parametrizations_and_params(layer, lib.nn.Linear(2, 2), "bias")
    found += [layer.weight, dict(layer.state_dict()), dict(twin.state_dict()), other.bias]
    from_utils.remove_parametrizations(layer, "bias", leave_parametrized=False)
    from_utils.remove_parametrizations(layer, "weight")
    found += [type(layer).__name__ == kind, all_of(lib, layer, (3, 2))]
    return found


def a_buffer(lib):
    class Square(lib.nn.Module):
        def forward(self, x):
            return x * x

    layer = lib.nn.BatchNorm1d(2)
    lib.nn.utils.parametrize.register_parametrization(layer, "running_mean", Square())
    found = [layer.running_mean, dict(layer.named_buffers())]
    lib.nn.utils.parametrize.remove_parametrizations(layer, "running_mean")
    return found, dict(layer.named_buffers())


# --- pruning ------------------------------------------------------------------------------------

PRUNINGS = {
    "identity": lambda p, m: p.identity(m, "weight"),
    "random_unstructured": lambda p, m: p.random_unstructured(m, "weight", 0.4),
    "l1_unstructured": lambda p, m: p.l1_unstructured(m, "weight", 5),
    "l1_unstructured scores": lambda p, m: p.l1_unstructured(m, "weight", 0.3, m.weight * m.weight),
    "random_structured": lambda p, m: p.random_structured(m, "weight", 2, 0),
    "ln_structured": lambda p, m: p.ln_structured(m, "weight", 0.5, 2, -1),
    "ln_structured max": lambda p, m: p.ln_structured(m, "weight", 1, float("inf"), 0),
    "custom": lambda p, m: p.custom_from_mask(m, "weight", m.weight > 0),
    "nothing": lambda p, m: p.random_structured(m, "weight", 0, 0),
}


def pruned(lib, first, second):
    layer = lib.nn.Linear(3, 4)
    from_utils = lib.nn.utils.prune
    PRUNINGS[first](from_utils, layer)
    if second is not None:
        PRUNINGS[second](from_utils, layer)
    found = [all_of(lib, layer, (2, 3)), from_utils.is_pruned(layer)]
    from_utils.remove(layer, "weight")
    return found, all_of(lib, layer, (2, 3)), from_utils.is_pruned(layer)


def pruned_globally(lib):
    model = lib.nn.Sequential(lib.nn.Linear(3, 4), lib.nn.Linear(4, 2))
    pairs = [(model[0], "weight"), (model[1], "weight")]
    from_utils = lib.nn.utils.prune
    from_utils.global_unstructured(pairs, from_utils.L1Unstructured, amount=0.4)
    from_utils.global_unstructured(pairs, from_utils.RandomUnstructured, amount=3)
    return all_of(lib, model, (2, 3))


def pruned_alone(lib):
    method = lib.nn.utils.prune.L1Unstructured(2)
    return method.prune(lib.tensor([[1.0, -5.0], [0.5, 2.0]]))


# --- fusion and the rest ------------------------------------------------------------------------


def fused(lib, build, bn, transpose=False):
    layer, norm = build(lib.nn), bn(lib.nn)
    with lib.no_grad():
        for p in (*norm.parameters(), *norm.buffers()):
            if p.is_floating_point():
                p += lib.arange(float(p.numel())) / 3
    layer.eval(), norm.eval()
    if isinstance(layer, lib.nn.Linear):
        joined = lib.nn.utils.fuse_linear_bn_eval(layer, norm)
    else:
        joined = lib.nn.utils.fuse_conv_bn_eval(layer, norm, transpose)
    return dict(joined.state_dict()), str(joined), [p.requires_grad for p in joined.parameters()]


def clipped(lib, norm_type, dtype):
    parameters = [lib.nn.Parameter(lib.zeros(n, dtype=getattr(lib, dtype))) for n in (3, 4)]
    for i, p in enumerate(parameters):
        p.grad = (lib.arange(float(p.numel())) - i).to(p.dtype)
    found = [lib.nn.utils.get_total_norm([p.grad for p in parameters], norm_type)]
    found.append(lib.nn.utils.clip_grad_norm_(iter(parameters), 1.5, norm_type, foreach=True))
    found.append([p.grad for p in parameters])
    lib.nn.utils.clip_grads_with_norm_(parameters[0], 1.0, lib.tensor(4.0))
    lib.nn.utils.clip_grad_value_(parameters[1], 0.2)
    return *found, [p.grad for p in parameters]


SCENARIOS = {
    **{f"weight_norm by hooks {d}": (old_weight_norm, d) for d in (0, 1, 2, None)},
    **{f"weight_norm {d}": (new_weight_norm, d) for d in (0, 1, 2, None)},
    **{f"spectral_norm by hooks {i}": (old_spectral_norm, b) for i, b in enumerate(LAYERS)},
    **{f"spectral_norm {i}": (new_spectral_norm, b) for i, b in enumerate(LAYERS)},
    "spectral_norm of a vector": (spectral_norm_of_a_vector,),
    "spectral_norm without version": (spectral_norm_without_version,),
    **{
        f"orthogonal {shape} {name} {trivial}": (orthogonal, shape, name, trivial)
        for shape in ((4, 4), (3, 5), (5, 3))
        for name in ("matrix_exp", "cayley", "householder", None)
        for trivial in (True, False)
        if name == "householder" or shape == (4, 4) or trivial
    },
    "chain": (chain,),
    "buffer": (a_buffer,),
    **{f"prune {name}": (pruned, name, None) for name in PRUNINGS},
    "prune twice": (pruned, "l1_unstructured", "random_unstructured"),
    "prune channels twice": (pruned, "random_structured", "ln_structured"),
    "prune channels, then elements": (pruned, "ln_structured", "custom"),
    "prune globally": (pruned_globally,),
    "prune alone": (pruned_alone,),
    "fuse conv": (fused, lambda n: n.Conv2d(2, 3, 2), lambda n: n.BatchNorm2d(3)),
    "fuse conv plain": (
        fused,
        lambda n: n.Conv1d(2, 3, 2, bias=False),
        lambda n: n.BatchNorm1d(3, affine=False, eps=0.1),
    ),
    "fuse transposed": (
        fused,
        lambda n: n.ConvTranspose2d(2, 3, 2),
        lambda n: n.BatchNorm2d(3),
        True,
    ),
    "fuse linear": (fused, lambda n: n.Linear(2, 3), lambda n: n.BatchNorm1d(3)),
    "fuse linear with one": (
        fused,
        lambda n: n.Linear(2, 3, bias=False),
        lambda n: n.BatchNorm1d(1),
    ),
    **{
        f"clip {order} {kind}": (clipped, order, kind)
        for order in (1, 2, 2.5, float("inf"))
        for kind in ("float32", "float64")
    },
}


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:.*weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", SCENARIOS)
def test_equals_torchs(name):
    torch = pytest.importorskip("torch", reason="the comparison needs PyTorch")
    pytest.importorskip("torch.nn.utils.prune", reason="a module that torch imports when asked")
    scenario, *arguments = SCENARIOS[name]
    results = []
    for lib in (tensorlib, torch):
        lib.manual_seed(3)
        results.append(told(scenario(lib, *arguments)))
    same(*results)


@pytest.mark.oracle
def test_clipped_half_precision():
    torch = pytest.importorskip("torch", reason="the comparison needs PyTorch")
    same(*(told(clipped(lib, 2, "float16")) for lib in (tensorlib, torch)), tolerance=1e-3)


# --- alone --------------------------------------------------------------------------------------


class Bad(nn.Module):
    """Changes shape or dtype."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x):
        return self.change(x)


def parametrized(**members):
    kind = type("Made", (nn.Module,), {"forward": lambda self, x: x, **members})
    return lambda: parametrize.register_parametrization(nn.Linear(2, 2), "weight", kind())


@pytest.mark.filterwarnings("ignore:.*weight_norm` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (lambda m: nn.utils.weight_norm(nn.utils.weight_norm(m)), RuntimeError, "two weight_norm"),
        (lambda m: nn.utils.spectral_norm(nn.utils.spectral_norm(m)), RuntimeError, "two spectral"),
        (nn.utils.remove_weight_norm, ValueError, "'weight' not found"),
        (nn.utils.remove_spectral_norm, ValueError, "'weight' not found"),
        (lambda m: nn.utils.spectral_norm(m, n_power_iterations=0), ValueError, "positive"),
        (
            lambda m: nn.utils.spectral_norm(nn.Linear(1, 1, bias=False), "bias"),
            ValueError,
            "is None",
        ),
        (lambda m: nn.utils.weight_norm(nn.LazyLinear(2)), ValueError, "uninitialized"),
        (lambda m: nn.utils.spectral_norm(nn.LazyLinear(2)), ValueError, "uninitialized"),
        (lambda m: parametrizations.spectral_norm(m, dim=2), IndexError, "out of range"),
        (lambda m: parametrizations.spectral_norm(m, "x"), ValueError, "no parameter or buffer"),
        (lambda m: parametrizations.orthogonal(m, "bias"), ValueError, "1 dimensions"),
        (lambda m: parametrizations.orthogonal(m, orthogonal_map="qr"), ValueError, "one of"),
        (
            lambda m: parametrize.register_parametrization(m, "no", nn.ReLU()),
            ValueError,
            "with name 'no'",
        ),
        (
            lambda m: parametrize.register_parametrization(m, "weight", Bad(lambda x: x[:1])),
            ValueError,
            "has shape",
        ),
        (
            lambda m: parametrize.register_parametrization(m, "weight", Bad(lambda x: x.double())),
            ValueError,
            "has dtype",
        ),
        (
            lambda m: parametrize.register_parametrization(m, "weight", Bad(lambda x: 3)),
            ValueError,
            "Got int",
        ),
        (
            lambda m: parametrized(right_inverse=lambda self, x: x.double())(),
            ValueError,
            "may not change the dtype",
        ),
        (lambda m: parametrized(right_inverse=lambda self, x: 3)(), ValueError, "Got int"),
        (lambda m: setattr(parametrized()(), "weight", m.weight.data), RuntimeError, "implement"),
        (lambda m: pickle.dumps(parametrized()()), RuntimeError, "state_dict"),
        (
            lambda m: parametrize.remove_parametrizations(m, "weight"),
            ValueError,
            "does not have a parametrization",
        ),
        (lambda m: prune.remove(m, "weight"), ValueError, "has to be pruned"),
        (lambda m: prune.l1_unstructured(m, "weight", 1.5), ValueError, "amount=1.5"),
        (lambda m: prune.l1_unstructured(m, "weight", -1), ValueError, "amount=-1"),
        (lambda m: prune.l1_unstructured(m, "weight", "a"), TypeError, "Invalid type"),
        (lambda m: prune.l1_unstructured(m, "weight", 99), ValueError, "prune=4"),
        (lambda m: prune.random_structured(m, "bias", 1, 0), ValueError, "multidimensional"),
        (lambda m: prune.random_structured(m, "weight", 1, 2), IndexError, "Invalid index 2"),
        (
            lambda m: prune.custom_from_mask(m, "weight", tensorlib.ones(3)),
            AssertionError,
            "must match",
        ),
        (
            lambda m: prune.l1_unstructured(m, "weight", 1, tensorlib.ones(3)),
            AssertionError,
            "same shape",
        ),
        (lambda m: prune.global_unstructured(3, prune.Identity), TypeError, "not an Iterable"),
        (
            lambda m: prune.global_unstructured([(m, "weight")], prune.LnStructured, amount=1, n=1),
            TypeError,
            "unstructured",
        ),
        (
            lambda m: nn.utils.fuse_conv_bn_eval(nn.Conv1d(1, 1, 1), nn.BatchNorm1d(1)),
            AssertionError,
            "only for eval",
        ),
        (
            lambda m: nn.utils.fuse_linear_bn_eval(m.eval(), nn.BatchNorm1d(3).eval()),
            AssertionError,
            "bn.num_features=3",
        ),
        (lambda m: nn.utils.skip_init(3), RuntimeError, "expected a Module"),
        (lambda m: nn.utils.skip_init(nn.ReLU), RuntimeError, "'device' arg"),
    ],
)
def test_refusals(act, error, words):
    with pytest.raises(error, match=words):
        act(nn.Linear(2, 2))


def test_a_refused_pruning_changes_nothing():
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="prune=4"):
        prune.random_unstructured(layer, "weight", 7)
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert not prune.is_pruned(layer)


def test_an_empty_generator_warns():
    with pytest.warns(UserWarning, match="empty generator"):
        assert nn.utils.clip_grad_norm_((p for p in ()), 1.0).item() == 0
    with pytest.warns(FutureWarning, match="clip_grad_norm_"):
        assert nn.utils.clip_grad_norm([], 1.0).item() == 0


def test_skip_init_draws_nothing():
    before = tensorlib.get_rng_state().tolist()
    layer = nn.utils.skip_init(nn.Linear, 3, 2, bias=False)
    assert (layer.weight.shape, layer.bias) == ((2, 3), None)
    assert tensorlib.get_rng_state().tolist() == before


def test_memory_format_of_convolutions():
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Conv1d(2, 3, 2))
    values = model[0].weight.tolist()
    nn.utils.convert_conv2d_weight_memory_format(model, tensorlib.channels_last)
    assert model[0].weight.is_contiguous(memory_format=tensorlib.channels_last)
    assert model[0].weight.tolist() == values
    assert model[1].weight.is_contiguous()
