"""Compiled optimizer steps: bit for bit NumPy's, near PyTorch's, whatever the threads."""

import itertools

import numpy as np
import pytest

import tensorlib
from tensorlib import kernels, nn, optim
from tensorlib.kernels import cpu
from tensorlib.kernels import optimizer as steps
from tensorlib.optim import rule

SHAPES = ((64, 3, 7, 7), (501, 33), (33,), (), (4, 40000))
CASES = [
    (optim.SGD, {"lr": 0.1}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-2}),
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "maximize": True}),
    (optim.Adam, {}),
    (optim.Adam, {"amsgrad": True, "weight_decay": 0.1, "betas": (0.4, 0.9)}),
    (optim.AdamW, {"lr": 1e-2}),
    (optim.AdamW, {"maximize": True, "amsgrad": True}),
]
ids = [f"{kind.__name__}-{options}" for kind, options in CASES]


def steps_of(kind, options, count, module=tensorlib, last=False):
    rng = np.random.default_rng(0)
    params = []
    for shape in SHAPES:
        value = module.tensor(rng.standard_normal(shape).astype(np.float32))
        if last and len(shape) == 4:
            value = value.to(memory_format=module.channels_last)
        params.append(value.requires_grad_())
    optimizer = getattr(module.optim, kind.__name__)(params, **options)
    for _ in range(count):
        for p in params:
            p.grad = module.tensor(rng.standard_normal(tuple(p.shape)).astype(np.float32))
        optimizer.step()
    states = [
        value.numpy()
        for state in optimizer.state_dict()["state"].values()
        for value in state.values()
        if value is not None
    ]
    return [p.detach().numpy() for p in params], states


@pytest.mark.parametrize(("kind", "options"), CASES, ids=ids)
@pytest.mark.parametrize("last", [False, True])
def test_one_launch_gives_the_bits_of_numpy(kind, options, last, monkeypatch):
    calls = []
    for name in ("adam_step", "sgd_step"):
        made = getattr(steps, name)
        found = made.overrides[0].function
        monkeypatch.setattr(
            made,
            "_active",
            (
                kernels.Override(
                    "counted",
                    "",
                    made.overrides[0].condition,
                    lambda *a, f=found: calls.append(1) or f(*a),
                ),
            ),
        )
    compiled = steps_of(kind, options, 5, last=last)
    assert len(calls) == 5
    monkeypatch.setattr(rule, "TOGETHER", 1 << 60)
    plain = steps_of(kind, options, 5, last=last)
    assert len(calls) == 5
    for one, other in zip(itertools.chain(*compiled), itertools.chain(*plain), strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize(
    ("name", "sample"),
    [(n, i) for n in ("adam_step", "sgd_step") for i in range(len(getattr(steps, n).samples()))],
)
def test_the_override_changes_what_the_reference_changes(name, sample, monkeypatch):
    monkeypatch.setattr(cpu, "sizes_matter", False)
    made = getattr(steps, name)
    expected = made.reference(*made.samples()[sample])
    given = made.samples()[sample]
    assert made.overrides[0].condition(*given)
    for one, other in zip(made.overrides[0].function(*given), expected, strict=True):
        for a, b in zip(one, other, strict=True):
            assert a.tobytes() == b.tobytes()


def test_threads_do_not_change_a_bit():
    before = tensorlib.get_num_threads()
    results = []
    for count in (1, 2, 3):
        tensorlib.set_num_threads(count)
        results.append([a.tobytes() for a in steps_of(optim.AdamW, {}, 3)[0]])
    tensorlib.set_num_threads(before)
    assert results[0] == results[1] == results[2]


def test_parameters_that_cannot_go_together_still_move():
    wide = nn.Parameter(tensorlib.ones(300, 300, dtype=tensorlib.float64))
    whole = tensorlib.ones(600, 300)
    view = whole[::2].detach().requires_grad_()
    plain = nn.Parameter(tensorlib.ones(300, 300))
    idle = nn.Parameter(tensorlib.ones(300, 300))
    params = [wide, view, plain, idle]
    optimizer = optim.Adam(params, lr=0.5)
    for p in params[:3]:
        p.grad = tensorlib.ones_like(p)
    optimizer.step()
    for p in params[:3]:
        np.testing.assert_allclose(p.detach().numpy(), 0.5, rtol=1e-5)
    assert (whole[1::2] == 1).all()
    assert (idle == 1).all()
    assert set(optimizer.state) == {wide, view, plain}


@pytest.mark.oracle
@pytest.mark.parametrize(("kind", "options"), CASES, ids=ids)
def test_fifty_steps_stay_near_pytorchs(kind, options):
    """Three units in the last place of the largest of a few hundred thousand elements: torch fuses
    multiplications with additions, NumPy cannot.
    """
    torch = pytest.importorskip("torch")
    ours, theirs = steps_of(kind, options, 50)[0], steps_of(kind, options, 50, torch)[0]
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a - b).max() <= 3 * np.spacing(np.abs(b).max())
