"""Optimizers: torch's numbers, torch's state dicts, exact resume, and refusals."""

import copy
import io
import pickle

import numpy as np
import pytest

import tensorlib
from tensorlib import nn, optim
from tensorlib.serialization import load, save

CASES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.01, "amsgrad": True, "maximize": True}),
    ("Adam", {"lr": 0.01, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True}),
    ("AdamW", {"lr": 0.01, "foreach": True}),
]
IDS = [f"{name}-{'-'.join(options) or 'defaults'}" for name, options in CASES]
SHAPES = [(3, 4), (5,), ()]


def values(seed: int, dtype: str = "float32") -> list[np.ndarray]:
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


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_thirty_steps_equal_torchs(name, options, dtype):
    torch = pytest.importorskip("torch")
    ours, ours_optimizer = make(tensorlib, name, options, dtype)
    theirs, theirs_optimizer = make(torch, name, options, dtype)
    steps(tensorlib, ours, ours_optimizer, range(30), dtype)
    steps(torch, theirs, theirs_optimizer, range(30), dtype)
    tolerance = 2e-6 if dtype == "float32" else 1e-14
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(
            a.detach().numpy(), b.detach().numpy(), rtol=tolerance, atol=tolerance
        )
    a, b = ours_optimizer.state_dict(), theirs_optimizer.state_dict()
    assert a["param_groups"] == b["param_groups"]
    assert list(a["param_groups"][0]) == list(b["param_groups"][0])
    assert a["state"].keys() == b["state"].keys()
    for number, state in b["state"].items():
        mine = {key: value for key, value in a["state"][number].items() if value is not None}
        assert mine.keys() == {key for key, value in state.items() if value is not None}
        for key, value in mine.items():
            assert str(value.dtype).partition(".")[2] == str(state[key].dtype).partition(".")[2]
            np.testing.assert_allclose(value.numpy(), state[key].numpy(), rtol=1e-5, atol=1e-7)


@pytest.mark.oracle
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_resume_across_libraries(name, options):
    torch = pytest.importorskip("torch")
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
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=2e-6, atol=1e-7)


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


def test_loading_copies():
    params, optimizer = make(tensorlib, "SGD", {"momentum": 0.9})
    steps(tensorlib, params, optimizer, [1])
    state = optimizer.state_dict()
    _, other = make(tensorlib, "SGD", {"momentum": 0.9})
    other.load_state_dict(state)
    steps(tensorlib, params, optimizer, [2])
    mine = other.state_dict()["state"][0]["momentum_buffer"]
    assert not np.array_equal(mine.numpy(), state["state"][0]["momentum_buffer"].numpy())


def test_the_update_is_made_in_place():
    param = nn.Parameter(tensorlib.ones(3))
    memory = param.detach().numpy()
    optimizer = optim.SGD([param], lr=1.0)
    param.grad = tensorlib.ones(3)
    optimizer.step()
    assert memory.tolist() == [0, 0, 0]


def test_a_step_between_forward_and_backward_is_noticed():
    weight = nn.Parameter(tensorlib.ones(3))
    optimizer = optim.SGD([weight], lr=1.0)
    loss = (weight * weight).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified"):
        loss.backward()


def test_groups_have_their_own_options():
    a, b = nn.Parameter(tensorlib.ones(1)), nn.Parameter(tensorlib.ones(1))
    optimizer = optim.SGD([{"params": [a]}, {"params": b, "lr": 1.0}], lr=0.1)
    optimizer.add_param_group({"params": [c := nn.Parameter(tensorlib.ones(1))], "lr": 0.5})
    for param in (a, b, c):
        param.grad = tensorlib.ones(1)
    optimizer.step()
    assert [round(p.item(), 6) for p in (a, b, c)] == [0.9, 0.0, 0.5]
    assert [g["params"] for g in optimizer.state_dict()["param_groups"]] == [[0], [1], [2]]


def test_a_closure_runs_with_gradients_on():
    param = nn.Parameter(tensorlib.ones(1))
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
    param = nn.Parameter(tensorlib.ones(2))
    optimizer = optim.SGD([param])
    param.grad = tensorlib.ones(2)
    optimizer.zero_grad(set_to_none=False)
    assert param.grad.tolist() == [0, 0]
    optimizer.zero_grad()
    assert param.grad is None


def test_named_parameters_keep_their_names():
    model = nn.Linear(2, 1)
    optimizer = optim.AdamW(model.named_parameters())
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


@pytest.mark.oracle
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_printed_form(name, options):
    torch = pytest.importorskip("torch")
    assert str(make(tensorlib, name, options)[1]) == str(make(torch, name, options)[1])


def test_pickle_and_deepcopy_keep_the_state():
    for duplicate in (copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))):
        params, optimizer = make(tensorlib, "Adam", {})
        steps(tensorlib, params, optimizer, [1, 2])
        twin = duplicate(optimizer)
        steps(tensorlib, params, optimizer, [4])
        steps(tensorlib, twin.param_groups[0]["params"], twin, [4])
        for a, b in zip(params, twin.param_groups[0]["params"], strict=True):
            assert a is not b
            assert a.detach().numpy().tobytes() == b.detach().numpy().tobytes()


def parameter() -> nn.Parameter:
    return nn.Parameter(tensorlib.ones(1))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: optim.SGD([parameter()], lr=-1), ValueError, "Invalid learning rate: -1"),
        (lambda: optim.SGD([parameter()], lr=float("nan")), ValueError, "learning rate"),
        (lambda: optim.SGD([parameter()], momentum=-1), ValueError, "Invalid momentum"),
        (lambda: optim.SGD([parameter()], nesterov=True), ValueError, "Nesterov momentum requires"),
        (lambda: optim.SGD([parameter()], lr=tensorlib.ones(1)), TypeError, "expected a number"),
        (lambda: optim.Adam([parameter()], betas=(1.0, 0.9)), ValueError, "beta parameter at"),
        (lambda: optim.Adam([parameter()], eps=-1), ValueError, "Invalid epsilon"),
        (lambda: optim.Adam([parameter()], weight_decay=-1), ValueError, "Invalid weight_decay"),
        (lambda: optim.SGD([]), ValueError, "empty parameter list"),
        (lambda: optim.SGD(parameter()), TypeError, "expected an iterable"),
        (lambda: optim.SGD([1]), TypeError, "one of the params is int"),
        (lambda: optim.SGD([{"params": {parameter()}}]), TypeError, "ordered collections"),
        (lambda: optim.SGD([parameter() * 2]), ValueError, "non-leaf"),
        (lambda: optim.SGD([("a", parameter()), parameter()]), ValueError, "names are missing"),
        (lambda: optim.SGD([parameter()], differentiable=True), NotImplementedError, "differ"),
        (lambda: optim.Adam([parameter()], capturable=True), NotImplementedError, "capturable"),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_a_parameter_in_two_groups():
    param = parameter()
    with pytest.raises(ValueError, match="more than one parameter group"):
        optim.SGD([{"params": [param]}, {"params": [param]}])


def test_loading_what_does_not_fit():
    params, optimizer = make(tensorlib, "SGD", {"momentum": 0.9})
    steps(tensorlib, params, optimizer, [1])
    state = optimizer.state_dict()
    with pytest.raises(ValueError, match=r"group 0 has 3 parameters, the\s+optimizer 1"):
        optim.SGD([parameter()]).load_state_dict(state)
    two = optim.SGD([{"params": parameter()}, {"params": parameter()}])
    with pytest.raises(ValueError, match="different number of parameter groups: 1"):
        two.load_state_dict(state)
    other = optim.SGD([parameter() for _ in range(3)])
    with pytest.raises(ValueError, match=r"(?s)state 0 momentum_buffer: \(3, 4\).*state 1"):
        other.load_state_dict(state)
