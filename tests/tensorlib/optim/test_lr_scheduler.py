"""Learning rate schedules: torch's curves, state dicts, and refusals."""

import math

import numpy as np
import pytest

import tensorlib
from tensorlib import nn, optim
from tensorlib.optim import lr_scheduler

STEPS = 40


def warm_up_then_cosine(s, o):
    warm = s.LinearLR(o, 0.1, total_iters=5)
    return s.SequentialLR(o, [warm, s.CosineAnnealingLR(o, 30, 0.001)], [5])


def three_in_a_row(s, o):
    parts = [s.ConstantLR(o, 0.1, 4), s.ExponentialLR(o, 0.9), s.StepLR(o, 3, 0.5)]
    return s.SequentialLR(o, parts, [4, 12])


def nested(s, o):
    inner = s.SequentialLR(o, [s.ConstantLR(o, 0.5, 2), s.ExponentialLR(o, 0.8)], [3])
    return s.SequentialLR(o, [inner, s.CosineAnnealingWarmRestarts(o, 5)], [9])


CURVES = {
    "lambda": lambda s, o: s.LambdaLR(o, lambda e: 0.95**e),
    "lambdas": lambda s, o: s.LambdaLR(o, [lambda e: 0.95**e, lambda e: 1 / (1 + e)]),
    "step": lambda s, o: s.StepLR(o, 7, 0.3),
    "multi step": lambda s, o: s.MultiStepLR(o, [3, 9, 9, 20], 0.5),
    "constant": lambda s, o: s.ConstantLR(o, 0.25, 6),
    "linear": lambda s, o: s.LinearLR(o, 0.1, 0.9, 12),
    "warm up": lambda s, o: s.LinearLR(o),
    "exponential": lambda s, o: s.ExponentialLR(o, 0.9),
    "polynomial": lambda s, o: s.PolynomialLR(o, 20, 2.0),
    "cosine": lambda s, o: s.CosineAnnealingLR(o, 12, 0.001),
    "cosine once": lambda s, o: s.CosineAnnealingLR(o, STEPS),
    "restarts": lambda s, o: s.CosineAnnealingWarmRestarts(o, 4, 2, 0.001),
    "restarts equal": lambda s, o: s.CosineAnnealingWarmRestarts(o, 6),
    "one cycle": lambda s, o: s.OneCycleLR(o, 0.5, STEPS + 1),
    "one cycle linear": lambda s, o: s.OneCycleLR(
        o, [0.5, 0.2], epochs=5, steps_per_epoch=10, anneal_strategy="linear", three_phase=True
    ),
    "one cycle fixed momentum": lambda s, o: s.OneCycleLR(o, 0.5, 50, cycle_momentum=False),
    "sequence": warm_up_then_cosine,
    "sequence of three": three_in_a_row,
    "nested": nested,
    "chained": lambda s, o: s.ChainedScheduler([s.ConstantLR(o, 0.1, 3), s.ExponentialLR(o, 0.9)]),
    "chained cosine": lambda s, o: s.ChainedScheduler(
        [s.CosineAnnealingLR(o, 20), s.LinearLR(o, 0.2, total_iters=5)], o
    ),
}


def optimizer(lib, kind="SGD"):
    params = [lib.nn.Parameter(lib.zeros(1)) for _ in range(2)]
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.03}]
    extra = {"momentum": 0.9} if kind == "SGD" else {}
    return getattr(lib.optim, kind)(groups, lr=0.1, **extra)


def observe(optimizer):
    row = []
    for group in optimizer.param_groups:
        row += [group["lr"], group.get("momentum", 0), *group.get("betas", ())]
    return row


def curve(optimizer, scheduler, steps=STEPS):
    rows = [observe(optimizer)]
    for _ in range(steps):
        optimizer.step()
        scheduler.step()
        rows.append(observe(optimizer))
        groups = [group["lr"] for group in optimizer.param_groups]
        assert scheduler.get_last_lr() == groups
    return rows


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("name", CURVES)
def test_curves_equal_torchs(name, kind):
    torch = pytest.importorskip("torch")
    ours, theirs = optimizer(tensorlib, kind), optimizer(torch, kind)
    mine = curve(ours, CURVES[name](lr_scheduler, ours))
    reference = curve(theirs, CURVES[name](torch.optim.lr_scheduler, theirs))
    np.testing.assert_allclose(mine, reference, rtol=1e-12, atol=1e-15)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
@pytest.mark.parametrize("direction", ["ours", "to torch", "from torch"])
@pytest.mark.parametrize("name", [n for n in CURVES if n != "nested"])
def test_state_moves_between_libraries(name, direction):
    torch = pytest.importorskip("torch")
    schedules = {tensorlib: lr_scheduler, torch: torch.optim.lr_scheduler}
    source = torch if direction == "from torch" else tensorlib
    target = torch if direction == "to torch" else tensorlib
    straight = optimizer(source)
    expected = curve(straight, CURVES[name](schedules[source], straight))

    first = optimizer(source)
    scheduler = CURVES[name](schedules[source], first)
    curve(first, scheduler, 15)
    second = optimizer(target)
    resumed = CURVES[name](schedules[target], second)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    rest = curve(second, resumed, STEPS - 15)
    np.testing.assert_allclose(rest, expected[15:], rtol=1e-12, atol=1e-15)


@pytest.mark.oracle
@pytest.mark.parametrize(
    "options",
    [
        {"patience": 2},
        {"patience": 1, "mode": "max", "factor": 0.5, "cooldown": 3},
        {"patience": 0, "threshold": 0.2, "threshold_mode": "abs", "min_lr": [0.01, 0.02]},
        {"patience": 1, "mode": "max", "threshold": 0.1, "threshold_mode": "abs", "eps": 0.005},
    ],
)
def test_plateau_equals_torchs(options):
    torch = pytest.importorskip("torch")
    metrics = np.round(np.cumsum(np.random.default_rng(3).normal(size=STEPS)), 1)
    rows = []
    for lib, schedules in ((tensorlib, lr_scheduler), (torch, torch.optim.lr_scheduler)):
        opt = optimizer(lib)
        scheduler = schedules.ReduceLROnPlateau(opt, **options)
        seen = []
        for value in metrics:
            opt.step()
            scheduler.step(lib.tensor(float(value)))
            seen.append(observe(opt))
        rows.append(seen)
    assert rows[0] == rows[1]
    assert rows[0][0] != rows[0][-1]


def test_cosine_reaches_its_ends():
    opt = optim.SGD([nn.Parameter(tensorlib.zeros(1))], lr=1.0)
    scheduler = lr_scheduler.CosineAnnealingLR(opt, 10, 0.1)
    rates = [row[0] for row in curve(opt, scheduler, 10)]
    assert rates[0] == 1.0
    assert rates[5] == pytest.approx(0.55)
    assert rates[10] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True)


def test_fractions_of_an_epoch():
    opt = optim.SGD([nn.Parameter(tensorlib.zeros(1))], lr=1.0)
    scheduler = lr_scheduler.CosineAnnealingWarmRestarts(opt, 2)
    scheduler.step(0.5)
    assert opt.param_groups[0]["lr"] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    with pytest.raises(ValueError, match="non-negative"):
        scheduler.step(-1)


def test_stepping_before_the_optimizer_warns():
    opt = optimizer(tensorlib)
    scheduler = lr_scheduler.StepLR(opt, 3)
    with pytest.warns(UserWarning, match="before `optimizer.step"):
        scheduler.step()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda o: lr_scheduler.StepLR(1, 2), TypeError, "int is not an Optimizer"),
        (lambda o: lr_scheduler.StepLR(o, 2, last_epoch=3), KeyError, "initial_lr"),
        (lambda o: lr_scheduler.LambdaLR(o, [abs]), ValueError, "Expected 2 lr_lambdas"),
        (lambda o: lr_scheduler.ConstantLR(o, 2.0), ValueError, "between 0 and 1"),
        (lambda o: lr_scheduler.LinearLR(o, 0.0), ValueError, "start_factor"),
        (lambda o: lr_scheduler.LinearLR(o, 0.5, 2.0), ValueError, "end_factor"),
        (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 0), ValueError, "T_0"),
        (lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 1, 0), ValueError, "T_mult"),
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1), ValueError, "total_steps OR"),
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1, -1), ValueError, "positive integer"),
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1, 9, pct_start=2.0), ValueError, "pct_start"),
        (lambda o: lr_scheduler.OneCycleLR(o, [0.1], 9), ValueError, "same length"),
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1, 9, anneal_strategy="x"), ValueError, "'cos'"),
        (lambda o: lr_scheduler.SequentialLR(o, [], []), ValueError, "at least one"),
        (lambda o: lr_scheduler.ChainedScheduler([]), ValueError, "at least one"),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=1.0), ValueError, "Factor"),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o, "mean"), ValueError, "unknown"),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o, min_lr=[1]), ValueError, "same length"),
    ],
)
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call(optimizer(tensorlib))


def test_schedules_of_another_optimizer_are_refused():
    one, two = optimizer(tensorlib), optimizer(tensorlib)
    parts = [lr_scheduler.StepLR(one, 2), lr_scheduler.StepLR(two, 2)]
    with pytest.raises(ValueError, match="index 1"):
        lr_scheduler.ChainedScheduler(parts)
    with pytest.raises(ValueError, match="index 1"):
        lr_scheduler.SequentialLR(one, parts, [3])
    plateau = lr_scheduler.ReduceLROnPlateau(one)
    with pytest.raises(ValueError, match="ReduceLROnPlateau"):
        lr_scheduler.ChainedScheduler([plateau])


def test_more_steps_than_a_cycle_has():
    opt = optimizer(tensorlib)
    scheduler = lr_scheduler.OneCycleLR(opt, 0.1, 3)
    curve(opt, scheduler, 3)
    with pytest.raises(ValueError, match="Tried to step 4 times"):
        scheduler.step()
