"""Optimizers: exact resume, groups, layouts of memory, and torch's files."""

import copy
import io
import pickle

import numpy as np
import pytest

import tensorlib
from tensorlib import nn, optim
from tensorlib.optim import rule
from tensorlib.serialization import load, save

CASES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"lr": 0.01, "amsgrad": True, "maximize": True, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.01, "foreach": True}),
    ("Adamax", {"weight_decay": 0.1}),
    ("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("RAdam", {"lr": 0.01}),
    ("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.1}),
    ("Adadelta", {"weight_decay": 0.1}),
    ("RMSprop", {"momentum": 0.9, "centered": True}),
    ("Rprop", {}),
    ("ASGD", {"t0": 3, "weight_decay": 0.1}),
    ("Adafactor", {"weight_decay": 0.1}),
]
IDS = [f"{name}-{'-'.join(options) or 'defaults'}" for name, options in CASES]
SHAPES = [(3, 4), (5,), ()]
ELEMENTWISE = [(n, o) for n, o in CASES if n != "Adafactor"]


def values(seed, dtype="float32"):
    rng = np.random.default_rng(seed)
    return [np.asarray(rng.normal(size=shape)).astype(dtype) for shape in SHAPES]


def make(lib, name, options, dtype="float32"):
    params = [lib.nn.Parameter(lib.from_numpy(v.copy())) for v in values(0, dtype)]
    return params, getattr(lib.optim, name)(params, **options)


def steps(lib, params, optimizer, numbers, dtype="float32"):
    for number in numbers:
        # amsgrad only differs when gradients shrink
        scale = 1.0 / (1 + number % 5)
        for i, (param, grad) in enumerate(zip(params, values(100 + number, dtype), strict=True)):
            skip = i == 1 and number % 3 == 0  # a parameter may have no gradient
            param.grad = None if skip else lib.from_numpy(np.asarray(grad * scale, dtype))
        optimizer.step()


def parameter(*size):
    return nn.Parameter(tensorlib.ones(*(size or (1,))))


def with_grad(*size):
    param = parameter(*size)
    param.grad = tensorlib.ones_like(param)
    return param


# -- state -----------------------------------------------------------------------------------------


@pytest.mark.oracle
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_files_of_both_libraries(name, options):
    """Saved here and loaded in torch, then the other way round, it goes on as if never stopped."""
    torch = pytest.importorskip("torch", reason="PyTorch is the reference")
    ours, ours_optimizer = make(tensorlib, name, options)
    theirs, theirs_optimizer = make(torch, name, options)
    steps(tensorlib, ours, ours_optimizer, range(5))
    stream = io.BytesIO()
    save([ours_optimizer.state_dict(), [p.detach() for p in ours]], stream)
    stream.seek(0)
    state, params = torch.load(stream, weights_only=True)
    theirs_optimizer.load_state_dict(state)
    for target, value in zip(theirs, params, strict=True):
        target.data.copy_(value)
    steps(torch, theirs, theirs_optimizer, range(5, 10))
    stream = io.BytesIO()
    torch.save([theirs_optimizer.state_dict(), [p.detach() for p in theirs]], stream)
    state, params = load(stream)
    ours_optimizer.load_state_dict(state)
    for target, value in zip(ours, params, strict=True):
        target.data = value
    straight, straight_optimizer = make(tensorlib, name, options)
    steps(tensorlib, straight, straight_optimizer, range(12))
    steps(tensorlib, ours, ours_optimizer, range(10, 12))
    for a, b in zip(ours, straight, strict=True):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("route", ["deepcopy", "arrays", "file"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_resume_gives_the_same_bits(name, options, route):
    straight, straight_optimizer = make(tensorlib, name, options)
    steps(tensorlib, straight, straight_optimizer, range(8))

    first, first_optimizer = make(tensorlib, name, options)
    steps(tensorlib, first, first_optimizer, range(5))
    second, second_optimizer = make(tensorlib, name, {**options, "lr": 77.0})
    for target, value in zip(second, first, strict=True):
        target.data = value.detach().clone()
    state = first_optimizer.state_dict()
    if route == "deepcopy":
        state = copy.deepcopy(state)
    elif route == "arrays":
        state = {
            "param_groups": copy.deepcopy(state["param_groups"]),
            "state": {
                number: {key: np.asarray(value) for key, value in values.items()}
                for number, values in state["state"].items()
            },
        }
    else:
        stream = io.BytesIO()
        save(state, stream)
        state = load(stream)
    second_optimizer.load_state_dict(state)
    steps(tensorlib, second, second_optimizer, range(5, 8))
    for a, b in zip(second, straight, strict=True):
        assert a.detach().numpy().tobytes() == b.detach().numpy().tobytes()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_pickle_and_deepcopy_keep_the_state(name, options, duplicate):
    params, optimizer = make(tensorlib, name, options)
    steps(tensorlib, params, optimizer, [1, 2])
    twin = duplicate(optimizer)
    twins = twin.param_groups[0]["params"]
    steps(tensorlib, params, optimizer, [4])
    steps(tensorlib, twins, twin, [4])
    for a, b in zip(params, twins, strict=True):
        assert a is not b
        assert a.detach().numpy().tobytes() == b.detach().numpy().tobytes()


def test_loading_shares_tensors_and_copies_arrays():
    params, optimizer = make(tensorlib, "SGD", {"momentum": 0.9})
    steps(tensorlib, params, optimizer, [1])
    state = optimizer.state_dict()
    _, other = make(tensorlib, "SGD", {"momentum": 0.9})
    other.load_state_dict(state)
    mine = other.state_dict()["state"][0]["momentum_buffer"]
    assert mine.data_ptr() == state["state"][0]["momentum_buffer"].data_ptr()
    array = np.ones((3, 4), np.float32)
    array.flags.writeable = False
    state["state"][0]["momentum_buffer"] = array
    other.load_state_dict(state)
    other.state_dict()["state"][0]["momentum_buffer"].zero_()
    assert array.all()


def test_old_state_dicts():
    """Counters that are numbers, and options that did not exist yet."""
    params, optimizer = make(tensorlib, "NAdam", {})
    steps(tensorlib, params, optimizer, [1])
    state = optimizer.state_dict()
    for values_ in state["state"].values():
        values_["step"], values_["mu_product"] = 7, 0.5
    for option in ("maximize", "foreach", "decoupled_weight_decay"):
        del state["param_groups"][0][option]
    optimizer.load_state_dict(state)
    found = optimizer.state[params[0]]
    assert found["step"].dtype == tensorlib.float32
    assert (found["step"].item(), found["mu_product"].item()) == (7, 0.5)
    assert optimizer.param_groups[0]["maximize"] is False
    steps(tensorlib, params, optimizer, [2])
    assert found["step"].item() == 8


def test_loading_what_does_not_fit():
    params, optimizer = make(tensorlib, "SGD", {"momentum": 0.9})
    steps(tensorlib, params, optimizer, [1])
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"group 0 has 3 parameters; the\s+optimizer 1"):
        optim.SGD([parameter()]).load_state_dict(state)
    two = optim.SGD([{"params": parameter()}, {"params": parameter()}])
    with pytest.raises(ValueError, match="different number of parameter groups: 1"):
        two.load_state_dict(state)
    other = optim.SGD([parameter() for _ in range(3)])
    with pytest.raises(ValueError, match=r"(?s)state 0 momentum_buffer: \(3, 4\).*state 1"):
        other.load_state_dict(state)


def test_state_of_what_is_no_parameter_is_kept():
    _, optimizer = make(tensorlib, "SGD", {})
    optimizer.state["epoch"] = {"number": 3}
    state = optimizer.state_dict()
    assert state["state"] == {"epoch": {"number": 3}}
    _, other = make(tensorlib, "SGD", {})
    other.load_state_dict(state)
    assert other.state["epoch"] == {"number": 3}


# -- steps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), ELEMENTWISE)
def test_blocks_and_layouts_give_the_same_bits(name, options, monkeypatch):
    """A parameter in blocks, transposed, or strided is updated as a small contiguous one."""
    rng = np.random.default_rng(0)
    start, grads = rng.normal(size=(6, 8)), rng.normal(size=(4, 6, 8))

    def run(layout):
        param = nn.Parameter(layout(tensorlib.tensor(start)))
        optimizer = getattr(optim, name)([param], **options)
        for grad in grads:
            param.grad = layout(tensorlib.tensor(grad))
            optimizer.step()
        return param.detach().numpy().tolist()

    expected = run(lambda t: t)
    assert run(lambda t: t.t().contiguous().t()) == expected
    monkeypatch.setattr(rule, "BLOCK", 10)
    assert run(lambda t: t) == expected
    assert run(lambda t: t.t().contiguous().t()) == expected


@pytest.mark.parametrize(("name", "options"), ELEMENTWISE)
def test_complex_parameters_are_pairs_of_real_ones(name, options):
    rng = np.random.default_rng(0)
    pairs = rng.normal(size=(4, 3, 2, 2))
    rows = []
    for view in (lambda a: a.view(complex)[..., 0], lambda a: a.view(complex)[..., 0].T):
        param = nn.Parameter(tensorlib.from_numpy(view(pairs[0].copy())))
        real = nn.Parameter(tensorlib.from_numpy(pairs[0].copy()))
        optimizers = [getattr(optim, name)([p], **options) for p in (param, real)]
        for grad in pairs[1:]:
            param.grad = tensorlib.from_numpy(view(grad.copy()))
            real.grad = tensorlib.from_numpy(grad.copy())
            for optimizer in optimizers:
                optimizer.step()
        rows.append(param.detach().numpy().tolist())
        assert rows[-1] == view(real.detach().numpy()).tolist()
    assert np.array(rows[0]).T.tolist() == rows[1]


def test_the_update_is_made_in_place_and_noticed():
    weight = nn.Parameter(tensorlib.ones(3))
    memory = weight.detach().numpy()
    optimizer = optim.SGD([weight], lr=1.0)
    loss = (weight * weight).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    assert memory.tolist() == [-1, -1, -1]
    with pytest.raises(RuntimeError, match="modified"):
        loss.backward()


def test_groups_have_their_own_options():
    a, b = parameter(), parameter()
    optimizer = optim.SGD([{"params": [a]}, {"params": b, "lr": 1.0}], lr=0.1)
    optimizer.add_param_group({"params": [c := parameter()], "lr": 0.5})
    for param in (a, b, c):
        param.grad = tensorlib.ones(1)
    optimizer.step()
    assert [round(p.item(), 6) for p in (a, b, c)] == [0.9, 0.0, 0.5]
    assert [g["params"] for g in optimizer.state_dict()["param_groups"]] == [[0], [1], [2]]


def test_a_rate_that_is_a_tensor():
    rate = tensorlib.tensor(0.5)
    for kind in (optim.SGD, optim.Adagrad):
        param = with_grad()
        optimizer = kind([param], lr=rate.clone())
        optimizer.param_groups[0]["lr"].fill_(0.25)
        optimizer.step()
        assert param.item() == 0.75


def test_a_closure_runs_with_gradients_on():
    param = parameter()
    optimizer = optim.SGD([param], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (param * 3).sum()
        loss.backward()
        return loss

    with tensorlib.no_grad():
        loss = optimizer.step(closure)
    assert loss.item() == 3
    assert param.item() == pytest.approx(0.7)


def test_zero_grad():
    param = with_grad(2)
    optimizer = optim.SGD([param])
    grad = param.grad
    optimizer.zero_grad(set_to_none=False)
    assert param.grad is grad
    assert grad.tolist() == [0, 0]
    optimizer.zero_grad()
    assert param.grad is None
    optimizer.zero_grad(set_to_none=False)
    assert param.grad is None


def test_named_parameters_keep_their_names():
    model = nn.Linear(2, 1)
    optimizer = optim.AdamW(model.named_parameters())
    state = optimizer.state_dict()
    assert state["param_groups"][0]["param_names"] == ["weight", "bias"]
    state["param_groups"][0]["param_names"] = ["w", "b"]
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["param_names"] == ["w", "b"]
    del state["param_groups"][0]["param_names"]
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["param_names"] == ["w", "b"]


def test_lbfgs_finds_the_valley_of_rosenbrock():
    for search in (None, "strong_wolfe"):
        point = nn.Parameter(tensorlib.tensor([-1.2, 1.0]))
        optimizer = optim.LBFGS(
            [point], lr=1 if search else 0.02, max_iter=50, line_search_fn=search
        )

        def closure(point=point, optimizer=optimizer):
            optimizer.zero_grad()
            loss = (1 - point[0]) ** 2 + 100 * (point[1] - point[0] ** 2) ** 2
            loss.backward()
            return loss

        first = optimizer.step(closure).item()
        for _ in range(10):
            last = optimizer.step(closure).item()
        assert last < first / 10
    assert point.tolist() == pytest.approx([1, 1], abs=1e-3)


def test_an_optimizer_of_ones_own():
    class Signs(optim.Optimizer):
        def __init__(self, params, lr=0.1):
            super().__init__(params, {"lr": lr})

        @tensorlib.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for p in group["params"]:
                    state = self.state[p]
                    state["count"] = state.get("count", 0) + 1
                    p.add_(p.grad.sign(), alpha=-group["lr"])

    param = with_grad(2)
    optimizer = Signs([param], lr=0.5)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    optimizer.step()
    assert param.tolist() == [0.5, 0.5]
    assert optimizer.state_dict()["state"] == {0: {"count": 1}}
    assert calls == [1]


@pytest.mark.oracle
def test_every_optimizer_of_torchs_is_there():
    torch = pytest.importorskip("torch", reason="PyTorch is the reference")
    # it exists to trace optimizers with fake tensors
    assert set(torch.optim.__all__) - set(optim.__all__) == {"swap_in_optimizer_params_and_state"}
