"""Learning rate schedules: torch's curves bit for bit, state dicts, warnings, and refusals."""

import copy
import gc
import math
import pickle
import types
import warnings
import weakref

import numpy as np
import pytest

import tensorlib
from tensorlib import nn, optim
from tensorlib.optim import lr_scheduler, swa_utils

STEPS = 40
TORCH = "PyTorch is the reference"


class Falling:
    """A function with a state."""

    def __init__(self, rate=0.9):
        self.rate = rate

    def __call__(self, epoch):
        return self.rate**epoch


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
    "lambdas": lambda s, o: s.LambdaLR(o, [lambda e: 0.95**e, Falling()]),
    "multiplicative": lambda s, o: s.MultiplicativeLR(o, lambda e: 0.95),
    "multiplicative lambdas": lambda s, o: s.MultiplicativeLR(
        o, (lambda e: 0.95, lambda e: 1 - 1 / (2 + e))
    ),
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
    "cyclic": lambda s, o: s.CyclicLR(o, 0.01, 0.1, 5),
    "cyclic halved": lambda s, o: s.CyclicLR(
        o, [0.01, 0.02], [0.1, 0.3], 4, 6, mode="triangular2", base_momentum=0.7
    ),
    "cyclic exponential": lambda s, o: s.CyclicLR(
        o, 0.01, 0.1, 5, mode="exp_range", gamma=0.97, cycle_momentum=False
    ),
    "cyclic own": lambda s, o: s.CyclicLR(
        o, 0.01, 0.1, 5, scale_fn=Falling(), scale_mode="iterations"
    ),
    "sequence": warm_up_then_cosine,
    "sequence of three": three_in_a_row,
    "nested": nested,
    "chained": lambda s, o: s.ChainedScheduler([s.ConstantLR(o, 0.1, 3), s.ExponentialLR(o, 0.9)]),
    "chained cosine": lambda s, o: s.ChainedScheduler(
        [s.CosineAnnealingLR(o, 20), s.LinearLR(o, 0.2, total_iters=5)], o
    ),
    "swa": lambda s, o: s.SWALR(o, 0.05),
    "swa linear": lambda s, o: s.SWALR(o, [0.05, 0.3], 7, "linear"),
    "swa at once": lambda s, o: s.SWALR(o, 0.05, 0),
}
# what closes in on a rate in a form that needs no state, for `step(epoch)`
CLOSED = ["step", "multi step", "constant", "linear", "exponential", "polynomial", "cosine"]


def schedules(lib):
    """All schedules of a library in one namespace."""
    every = {n: getattr(lib.optim.lr_scheduler, n) for n in lr_scheduler.__all__}
    return types.SimpleNamespace(**every, SWALR=lib.optim.swa_utils.SWALR)


def optimizer(lib, kind="SGD", tensors=False):
    params = [lib.nn.Parameter(lib.zeros(1)) for _ in range(2)]
    rates = [lib.tensor(0.1), lib.tensor([0.03])] if tensors else [0.1, 0.03]
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": rates[1]}]
    extra = {"momentum": 0.9} if kind == "SGD" else {}
    return getattr(lib.optim, kind)(groups, lr=rates[0], **extra)


def observe(optimizer):
    row = []
    for group in optimizer.param_groups:
        row += [float(group["lr"]), group.get("momentum", 0), *group.get("betas", ())]
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


def same(ours, theirs, what="state"):
    """Equal state dicts; functions and Tensors by kind and value."""
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs), f"{what}: {set(ours) ^ set(theirs)}"
        for key, value in theirs.items():
            same(ours[key], value, f"{what}.{key}")
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs), what
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            same(a, b, f"{what}[{i}]")
    elif type(theirs).__module__.startswith("torch"):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-6, err_msg=what)
    else:
        assert ours == theirs, f"{what}: {ours} is not {theirs}"


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("name", CURVES)
def test_curves_and_states_equal_torchs(name, kind):
    torch = pytest.importorskip("torch", reason=TORCH)
    ours, theirs = optimizer(tensorlib, kind), optimizer(torch, kind)
    mine = CURVES[name](schedules(tensorlib), ours)
    reference = CURVES[name](schedules(torch), theirs)
    assert curve(ours, mine) == curve(theirs, reference)
    state, expected = mine.state_dict(), reference.state_dict()
    # torch's one cycle keeps no anneal function either; its SWALR drops the bound method
    same(state, expected)
    groups = [{k: v for k, v in g.items() if k != "params"} for g in ours.param_groups]
    same(groups, [{k: v for k, v in g.items() if k != "params"} for g in theirs.param_groups])


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
@pytest.mark.parametrize("name", [n for n in CURVES if "own" not in n])
def test_rates_that_are_tensors(name):
    torch = pytest.importorskip("torch", reason=TORCH)
    rows = []
    for lib in (tensorlib, torch):
        opt = optimizer(lib, tensors=True)
        held = [group["lr"] for group in opt.param_groups]
        rows.append(curve(opt, CURVES[name](schedules(lib), opt), 15))
        assert all(a is g["lr"] for a, g in zip(held, opt.param_groups, strict=True))
    np.testing.assert_allclose(rows[0], rows[1], rtol=2e-6, atol=1e-9)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step")
@pytest.mark.parametrize("direction", ["ours", "to torch", "from torch"])
@pytest.mark.parametrize("name", [n for n in CURVES if n != "nested"])
def test_state_moves_between_libraries(name, direction):
    torch = pytest.importorskip("torch", reason=TORCH)
    source = torch if direction == "from torch" else tensorlib
    target = torch if direction == "to torch" else tensorlib
    straight = optimizer(source)
    expected = curve(straight, CURVES[name](schedules(source), straight))

    first = optimizer(source)
    scheduler = CURVES[name](schedules(source), first)
    curve(first, scheduler, 15)
    second = optimizer(target)
    resumed = CURVES[name](schedules(target), second)
    second.load_state_dict(first.state_dict())
    saved = scheduler.state_dict()
    resumed.load_state_dict(copy.deepcopy(saved))
    rest = curve(second, resumed, STEPS - 15)
    np.testing.assert_allclose(rest, expected[15:], rtol=1e-12, atol=1e-15)


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step", "ignore:The epoch parameter")
@pytest.mark.parametrize("name", [*CLOSED, "lambda", "restarts", "cyclic", "one cycle"])
def test_going_to_an_epoch_and_resuming_at_one(name):
    torch = pytest.importorskip("torch", reason=TORCH)
    rows = []
    for lib in (tensorlib, torch):
        seen = []
        opt = optimizer(lib)
        scheduler = CURVES[name](schedules(lib), opt)
        for epoch in (3, 0, 7, 20, 21):
            scheduler.step(epoch)
            seen.append(observe(opt))
        make = getattr(schedules(lib), type(scheduler).__name__)
        again = {
            "StepLR": (7, 0.3),
            "ExponentialLR": (0.9,),
            "PolynomialLR": (20, 2.0),
            "CosineAnnealingLR": (12, 0.001),
            "LinearLR": (0.1, 0.9, 12),
            "CosineAnnealingWarmRestarts": (4, 2),
        }
        if type(scheduler).__name__ in again:
            later = make(opt, *again[type(scheduler).__name__], last_epoch=4)
            seen += curve(opt, later, 6)
        rows.append(seen)
    assert rows[0] == rows[1]


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
    torch = pytest.importorskip("torch", reason=TORCH)
    metrics = np.round(np.cumsum(np.random.default_rng(3).normal(size=STEPS)), 1)
    rows, states = [], []
    for lib in (tensorlib, torch):
        opt = optimizer(lib)
        scheduler = lib.optim.lr_scheduler.ReduceLROnPlateau(opt, **options)
        seen = []
        for value in metrics:
            opt.step()
            scheduler.step(lib.tensor(float(value)))
            seen.append(observe(opt))
        rows.append(seen)
        states.append(scheduler.state_dict())
        again = lib.optim.lr_scheduler.ReduceLROnPlateau(opt)
        again.load_state_dict(states[0])
        assert (again.best, again.mode) == (scheduler.best, scheduler.mode)
    assert rows[0] == rows[1]
    assert rows[0][0] != rows[0][-1]
    same(*states)


def test_a_plateau_and_a_group_that_came_later():
    opt = optimizer(tensorlib)
    one = lr_scheduler.ReduceLROnPlateau(opt, patience=0)
    own = lr_scheduler.ReduceLROnPlateau(opt, patience=0, min_lr=[0.1, 0.1])
    opt.add_param_group({"params": nn.Parameter(tensorlib.zeros(1)), "lr": 1.0})
    for scheduler in (one, own):
        scheduler.step(1.0)
    one.step(2.0)
    assert opt.param_groups[2]["lr"] == pytest.approx(0.1)
    with pytest.raises(RuntimeError, match=r"number of param groups .* differs"):
        own.step(2.0)


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


def test_a_schedule_of_ones_own():
    class Halving(lr_scheduler._LRScheduler):
        def get_lr(self):
            return [base / 2**self.last_epoch for base in self.base_lrs]

    opt = optimizer(tensorlib)
    rows = curve(opt, Halving(opt), 3)
    assert [row[0] for row in rows] == [0.1, 0.05, 0.025, 0.0125]


@pytest.mark.parametrize("name", ["one cycle", "cyclic own", "swa", "sequence", "chained"])
@pytest.mark.filterwarnings("ignore:Seems like")
def test_schedules_are_pickled_and_freed(name):
    opt = optimizer(tensorlib)
    scheduler = CURVES[name](schedules(tensorlib), opt)
    curve(opt, scheduler, 6)
    twin = pickle.loads(pickle.dumps(scheduler))
    assert curve(twin.optimizer, twin, 9) == curve(opt, scheduler, 9)
    gone = weakref.ref(opt)
    gc.disable()
    try:
        del opt, scheduler
        assert gone() is None  # no cycle keeps the optimizer and its state
    finally:
        gc.enable()


def early(s, lib):
    opt = optimizer(lib)
    scheduler = s.StepLR(opt, 3)
    scheduler.step()


def replaced(s, lib):
    opt = optimizer(lib)
    scheduler = s.StepLR(opt, 3)
    opt.step = types.MethodType(lambda self: None, opt)
    scheduler.step()


def outside(s, lib):
    s.StepLR(optimizer(lib), 3).get_lr()


def with_epoch(s, lib):
    opt = optimizer(lib)
    scheduler = s.StepLR(opt, 3)
    opt.step()
    scheduler.step(4)


def plateau_with_epoch(s, lib):
    s.ReduceLROnPlateau(optimizer(lib)).step(1.0, 4)


def fine(s, lib):
    opt = optimizer(lib)
    scheduler = s.StepLR(opt, 3)
    opt.step()
    for _ in range(3):
        scheduler.step()


@pytest.mark.oracle
@pytest.mark.parametrize(
    "do", [early, replaced, outside, with_epoch, plateau_with_epoch, fine], ids=lambda f: f.__name__
)
def test_warnings(do):
    torch = pytest.importorskip("torch", reason=TORCH)
    seen = []
    for lib in (tensorlib, torch):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            do(schedules(lib), lib)
        seen.append([(w.category, str(w.message)[:40]) for w in caught])
    assert seen[0] == seen[1]


REFUSALS = [
    (lambda s, o: s.StepLR(1, 2), "int is not an Optimizer"),
    (lambda s, o: s.CyclicLR(1, 0.1, 0.2), "int is not an Optimizer"),
    (lambda s, o: s.OneCycleLR("x", 0.1), "str is not an Optimizer"),
    (lambda s, o: s.ReduceLROnPlateau(None), "NoneType is not an Optimizer"),
    (lambda s, o: s.StepLR(o, 2, last_epoch=3), "initial_lr"),
    (lambda s, o: s.LambdaLR(o, [abs]), "Expected 2 lr_lambdas, but got 1"),
    (lambda s, o: s.MultiplicativeLR(o, [abs]), "Expected 2 lr_lambdas, but got 1"),
    (lambda s, o: s.MultiplicativeLR(o, 3), "lr_lambda should be a function, but got int"),
    (lambda s, o: s.ConstantLR(o, 2.0), "expected to be between 0 and 1."),
    (lambda s, o: s.LinearLR(o, 0.0), "Starting multiplicative factor expected"),
    (lambda s, o: s.LinearLR(o, 0.5, 2.0), "Ending multiplicative factor expected"),
    (lambda s, o: s.CosineAnnealingWarmRestarts(o, 0), "Expected positive integer T_0"),
    (lambda s, o: s.CosineAnnealingWarmRestarts(o, 1.5), "Expected positive integer T_0"),
    (lambda s, o: s.CosineAnnealingWarmRestarts(o, 1, 0), "Expected integer T_mult >= 1"),
    (lambda s, o: s.CosineAnnealingWarmRestarts(o, 1, 1, "a"), "Expected float or int eta_min"),
    (lambda s, o: s.OneCycleLR(o, 0.1), "total_steps OR"),
    (lambda s, o: s.OneCycleLR(o, 0.1, -1), "Expected positive integer total_steps"),
    (lambda s, o: s.OneCycleLR(o, 0.1, epochs=0, steps_per_epoch=1), "positive integer epochs"),
    (lambda s, o: s.OneCycleLR(o, 0.1, epochs=1, steps_per_epoch=0), "integer steps_per_epoch"),
    (lambda s, o: s.OneCycleLR(o, 0.1, 9, pct_start=2.0), "Expected float between 0 and 1"),
    (lambda s, o: s.OneCycleLR(o, 0.1, 9, pct_start=1), "Expected float between 0 and 1"),
    (lambda s, o: s.OneCycleLR(o, [0.1], 9), "must have the same length"),
    (lambda s, o: s.OneCycleLR(o, 0.1, 9, anneal_strategy="x"), "one of 'cos' or 'linear'"),
    (lambda s, o: s.CyclicLR(o, 0.1, 0.2, mode="x"), "mode is invalid and scale_fn is None"),
    (lambda s, o: s.CyclicLR(o, [0.1], 0.2), "must have the same length"),
    (lambda s, o: s.CyclicLR(o, 0.1, [0.2]), "must have the same length"),
    (lambda s, o: s.SequentialLR(o, [], []), "expects at least one scheduler"),
    (lambda s, o: s.SequentialLR(o, [s.StepLR(o, 2)], [1]), "one more than the number of"),
    (lambda s, o: s.SequentialLR(o, [1], []), "should have `optimizer` as its attribute"),
    (lambda s, o: s.SequentialLR(o, [s.ReduceLROnPlateau(o)], []), "does not support `Reduce"),
    (lambda s, o: s.ChainedScheduler([]), "expects at least one scheduler to be chained"),
    (lambda s, o: s.ChainedScheduler([s.ReduceLROnPlateau(o)]), "does not support `Reduce"),
    (lambda s, o: s.ReduceLROnPlateau(o, factor=1.0), "Factor should be < 1.0."),
    (lambda s, o: s.ReduceLROnPlateau(o, "mean"), "mode mean is unknown!"),
    (lambda s, o: s.ReduceLROnPlateau(o, threshold_mode="x"), "threshold mode x is unknown!"),
    (lambda s, o: s.ReduceLROnPlateau(o, min_lr=[1]), "expected 2 min_lrs, got 1"),
    (lambda s, o: s.SWALR(o, [1]), "must have the same length"),
    (lambda s, o: s.SWALR(o, 1, anneal_strategy="x"), "one of 'cos' or 'linear'"),
    (lambda s, o: s.SWALR(o, 1, -2), "anneal_epochs must be equal or greater than 0"),
]


def refusal(lib, call):
    with pytest.raises(Exception) as caught:  # noqa: PT011  # the type is compared by the caller
        call(schedules(lib), optimizer(lib))
    return caught.value


@pytest.mark.oracle
@pytest.mark.parametrize(("call", "words"), REFUSALS, ids=[words for _, words in REFUSALS])
def test_refusals_equal_torchs(call, words):
    torch = pytest.importorskip("torch", reason=TORCH)
    ours, theirs = refusal(tensorlib, call), refusal(torch, call)
    assert words in str(ours)
    assert words in str(theirs)
    assert isinstance(ours, type(theirs))


def test_no_momentum_to_cycle():
    opt = optim.Adagrad([nn.Parameter(tensorlib.zeros(1))])
    for make in (lr_scheduler.CyclicLR, lr_scheduler.OneCycleLR):
        with pytest.raises(ValueError, match="must support momentum or beta1"):
            make(opt, 0.1, 9)


def test_schedules_of_another_optimizer_are_refused():
    one, two = optimizer(tensorlib), optimizer(tensorlib)
    parts = [lr_scheduler.StepLR(one, 2), lr_scheduler.StepLR(two, 2)]
    with pytest.raises(ValueError, match="index 1"):
        lr_scheduler.ChainedScheduler(parts)
    with pytest.raises(ValueError, match="index 1"):
        lr_scheduler.SequentialLR(one, parts, [3])


def test_more_steps_than_a_cycle_has():
    opt = optimizer(tensorlib)
    scheduler = lr_scheduler.OneCycleLR(opt, 0.1, 3)
    curve(opt, scheduler, 3)
    with pytest.raises(ValueError, match="Tried to step 4 times"):
        scheduler.step()


@pytest.mark.oracle
def test_every_schedule_of_torchs_is_there():
    torch = pytest.importorskip("torch", reason=TORCH)
    assert set(torch.optim.lr_scheduler.__all__) == set(lr_scheduler.__all__)
    assert set(torch.optim.swa_utils.__all__) == set(swa_utils.__all__)
