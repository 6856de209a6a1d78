"""PyTorch's database of modules side by side: construction, text, state, values, gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

import tensorlib
from tests.oracle import convert
from tests.oracle.result import Result

SEED = 20
DTYPES = (torch.float32, torch.float64, torch.complex64)
# wider where float32 sums over whole images are added in another order
TOLERANCE = {
    torch.float32: {"rtol": 2e-5, "atol": 2e-5},
    torch.float64: {"rtol": 1e-7, "atol": 1e-7},
    torch.complex64: {"rtol": 5e-5, "atol": 5e-5},
}
# float32 logarithms of long sums in torch, float64 in ours
LOOSE = {"nn.CTCLoss": {"rtol": 1e-3, "atol": 2e-4}}
INFOS = {info.name: info for info in module_db}


class Twins:
    """Trees of torch's leaves and ours with the same numbers; one tensor given twice stays one."""

    def __init__(self) -> None:
        self.made: dict[int, tuple[Any, Any, Any]] = {}

    def __call__(self, value: Any) -> tuple[Any, Any]:
        if isinstance(value, torch.nn.utils.rnn.PackedSequence):
            theirs, ours = self(list(value))
            return type(value)(*theirs), tensorlib.nn.utils.rnn.PackedSequence(*ours)
        if isinstance(value, torch.nn.Module):
            return value, mirror(value)
        if isinstance(value, torch.Tensor):
            if id(value) not in self.made:
                leaf = value.detach().clone().requires_grad_(value.requires_grad)
                self.made[id(value)] = (value, leaf, convert.tensor(leaf))
            return self.made[id(value)][1:]
        if isinstance(value, dict):
            pairs = {key: self(item) for key, item in value.items()}
            return {k: p[0] for k, p in pairs.items()}, {k: p[1] for k, p in pairs.items()}
        if type(value) in (list, tuple):
            made = [self(item) for item in value]
            return type(value)(p[0] for p in made), type(value)(p[1] for p in made)
        return value, convert.tree(value)

    def leaves(self) -> tuple[list[Any], list[Any]]:
        """The tensors that want a gradient."""
        kept = [(a, b) for _, a, b in self.made.values() if a.requires_grad]
        return [a for a, _ in kept], [b for _, b in kept]


def mirror(module: torch.nn.Module) -> Any:
    """Our module of the same class with the same settings, parameters and children."""
    name = type(module).__name__
    kind = getattr(tensorlib.nn, name, None) or getattr(tensorlib.nn.attention, name)
    made = object.__new__(kind)
    tensorlib.nn.Module.__init__(made)
    known = set(vars(torch.nn.Module()))
    for name, value in vars(module).items():
        if name not in known or name == "training":
            setattr(made, name, convert.tree(value))
    for name, parameter in module._parameters.items():
        made.register_parameter(name, convert.tree(parameter))
    for name, child in module.named_children():
        made.register_module(name, mirror(child))
    return made


def flat(value: Any) -> list[Any]:
    """All tensors of an output, in order."""
    if isinstance(value, torch.Tensor | tensorlib.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in flat(item)]
    return []


def seed() -> None:
    torch.manual_seed(SEED)
    tensorlib.manual_seed(SEED)


def close(ours: Any, theirs: Any, what: str, tolerance: dict[str, float] | None = None) -> None:
    """Equal in dtype, shape and numbers, or AssertionError."""
    if ours is None or theirs is None:
        assert ours is theirs, f"{what}: ours {ours}, torch's {theirs}"
        return
    mine, reference = convert.back(ours), theirs.detach()
    assert mine.dtype == reference.dtype, f"{what}: {mine.dtype}, torch's {reference.dtype}"
    assert mine.shape == reference.shape, f"{what}: {mine.shape}, torch's {reference.shape}"
    tolerance = tolerance or TOLERANCE.get(reference.dtype, {})
    torch.testing.assert_close(
        mine, reference, equal_nan=True, msg=lambda text: f"{what}: {text}", **tolerance
    )


def same_state(ours: Any, theirs: Any) -> None:
    """Keys in order, shapes, dtypes, versions."""
    mine, reference = ours.state_dict(), theirs.state_dict()
    assert list(mine) == list(reference), f"keys {list(mine)}, torch's {list(reference)}"
    for key, value in reference.items():
        if isinstance(value, torch.nn.parameter.UninitializedTensorMixin):
            continue
        form = tuple(mine[key].shape), str(mine[key].dtype).rpartition(".")[2]
        expected = tuple(value.shape), str(value.dtype).rpartition(".")[2]
        assert form == expected, f"{key}: {form}, torch's {expected}"
    assert dict(mine._metadata) == dict(reference._metadata), "versions in _metadata differ"
    for kind in ("named_parameters", "named_buffers", "named_modules"):
        names = [[n for n, _ in getattr(m, kind)()] for m in (ours, theirs)]
        assert names[0] == names[1], f"{kind} {names[0]}, torch's {names[1]}"


def first_numbers(ours: Any, theirs: Any) -> None:
    """The values default initialisation drew."""
    mine = ours.state_dict()
    for key, value in theirs.state_dict().items():
        if not isinstance(value, torch.nn.parameter.UninitializedTensorMixin):
            close(mine[key], value, key, {"rtol": 2e-6, "atol": 1e-7})


class Case:
    """One module of the database with one set of arguments, built in both libraries."""

    def __init__(self, info: Any, sample: Any, dtype: torch.dtype, training: bool) -> None:
        self.info, self.sample, self.dtype, self.training = info, sample, dtype, training
        mode = "train" if training else "eval"
        self.label = f"{sample.desc or 'plain'} {str(dtype)[6:]} {mode}"
        given = sample.constructor_input
        theirs_args, args = Twins()([list(given.args), dict(given.kwargs)])
        seed()
        self.theirs = info.module_cls(*theirs_args[0], **theirs_args[1])
        seed()
        self.ours = convert.find(info.name)(*args[0], **args[1])
        self.theirs.train(training)
        self.ours.train(training)

    def convert_dtype(self) -> None:
        self.theirs.to(self.dtype)
        self.ours.to(convert.dtype(self.dtype))

    def text(self) -> None:
        mine, reference = str(self.ours), str(self.theirs)
        reference = reference.replace("torch.", "tensorlib.")
        assert mine == reference, f"{mine}, torch's {reference}"

    def forward(self) -> tuple[Twins, list[Any], list[Any]]:
        given, twins = self.sample.forward_input, Twins()
        theirs_args, args = twins([list(given.args), dict(given.kwargs)])
        seed()
        reference = self.theirs(*theirs_args[0], **theirs_args[1])
        seed()
        value = self.ours(*args[0], **args[1])
        mine, reference = flat(value), flat(reference)
        assert len(mine) == len(reference), f"{len(mine)} outputs, torch's {len(reference)}"
        return twins, mine, reference

    def values(self) -> None:
        _, mine, reference = self.forward()
        for i, (a, b) in enumerate(zip(mine, reference, strict=True)):
            close(a, b, f"output {i}")
            assert a.requires_grad == b.requires_grad, f"output {i}: requires_grad"
        for (name, a), (_, b) in zip(
            self.ours.named_buffers(), self.theirs.named_buffers(), strict=True
        ):
            close(a, b, f"buffer {name}")

    def gradients(self, second: bool = False) -> None:
        """Of one random projection of the outputs; `second`: of one of those gradients again."""
        if second and self.sample.constructor_input.kwargs.get("options") is not None:
            return  # torch's chunked loss has no second derivative, and does not say so
        twins, mine, reference = self.forward()
        kept = [(a, b) for a, b in zip(mine, reference, strict=True) if b.requires_grad]
        if not kept:
            return
        leaves, own = twins.leaves()
        names = [f"input {i}" for i in range(len(leaves))]
        names += [n for n, p in self.theirs.named_parameters() if p.requires_grad]
        leaves += [p for p in self.theirs.parameters() if p.requires_grad]
        own += [p for p in self.ours.parameters() if p.requires_grad]
        weights = [torch.rand_like(b).requires_grad_(second) for _, b in kept]
        ours_weights = [convert.tensor(w) for w in weights]
        options: Any = {"allow_unused": True, "create_graph": second}
        grads = torch.autograd.grad([b for _, b in kept], leaves, weights, **options)
        if second:  # a second derivative is one by the weights too
            names += [f"weight of output {i}" for i in range(len(weights))]
            leaves += weights
            smooth = [i for i, g in enumerate(grads) if g is not None and g.requires_grad]
            again_weights = [torch.rand_like(grads[i]) for i in smooth]
            again = self.torch_again([grads[i] for i in smooth], leaves, again_weights)
            if again is None:
                return
        found = tensorlib.autograd.grad([a for a, _ in kept], own, ours_weights, **options)
        self.compare(names, found, grads)
        if not second:
            return
        own += ours_weights
        for i in smooth:
            assert found[i].requires_grad, f"gradient of {names[i]} has no history"
        ours_again = tensorlib.autograd.grad(
            [found[i] for i in smooth],
            own,
            [convert.tensor(w) for w in again_weights],
            allow_unused=True,
        )
        # what is None in one may be zeros in the other
        pairs = [
            (tensorlib.zeros_like(o) if a is None else a, torch.zeros_like(t) if b is None else b)
            for a, b, o, t in zip(ours_again, again, own, leaves, strict=True)
        ]
        kept = [i for i, (_, b) in enumerate(pairs) if not b.isnan().all()]  # 0 times infinity
        self.compare(
            [names[i] for i in kept], [pairs[i][0] for i in kept], [pairs[i][1] for i in kept]
        )

    def torch_again(self, grads: list[Any], leaves: list[Any], weights: list[Any]) -> Any:
        """torch's gradients of its gradients; None where it has none."""
        if not grads:
            return None
        try:
            return torch.autograd.grad(grads, leaves, weights, allow_unused=True)
        except RuntimeError as error:
            if "is not implemented" in str(error):
                return None
            raise

    def compare(self, names: list[str], found: Any, grads: Any) -> None:
        loose = LOOSE.get(self.info.name) if self.dtype is torch.float32 else None
        for name, a, b in zip(names, found, grads, strict=False):
            close(a, b, f"gradient of {name}", loose)

    def loads(self) -> None:
        """Our state dict goes into torch's module and torch's into ours."""
        state = {k: convert.tensor(v.detach()) for k, v in self.theirs.state_dict().items()}
        self.ours.load_state_dict(state)
        self.theirs.load_state_dict({k: convert.back(v) for k, v in self.ours.state_dict().items()})


def attempt(name: str, kind: str, label: str, check: Callable[[], Any]) -> Result:
    """The row of one check: whatever it raises is its detail."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check()
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return Result(name, kind, False, f"{label}: {text[:300]}")
    return Result(name, kind, True, label)


def run(
    name: str, dtypes: tuple[torch.dtype, ...] = DTYPES, limit: int | None = None
) -> Iterator[Result]:
    """All rows of one module of the database, such as nn.Linear; `limit`: of so many of its
    samples, spread over all, for each dtype and mode.
    """
    info = INFOS[name]
    try:
        convert.find(name)
    except convert.Absent:
        yield Result(name, "exists", False, "tensorlib has no such module")
        return
    yield Result(name, "exists", True)
    modes = (True, False) if info.train_and_eval_differ else (True,)
    for dtype in dtypes:
        if dtype not in info.dtypes:
            continue
        for training in modes:
            yield from _cases(info, dtype, training, limit)
            if dtype is dtypes[0]:
                yield from _refusals(info, dtype, training)


def _inputs(function: Any, info: Any, dtype: torch.dtype, training: bool) -> list[Any]:
    torch.manual_seed(SEED)
    return list(function(info, device="cpu", dtype=dtype, requires_grad=True, training=training))


def _cases(info: Any, dtype: torch.dtype, training: bool, limit: int | None) -> Iterator[Result]:
    name = info.name
    samples = _inputs(info.module_inputs_func, info, dtype, training)
    step = 1 if limit is None else max(1, len(samples) // limit)
    for sample in samples[::step][:limit]:
        label = sample.desc or "plain"
        holder: list[Case] = []
        built = attempt(
            name,
            "build",
            label,
            lambda s=sample, h=holder: h.append(Case(info, s, dtype, training)),
        )
        yield built
        if not holder:
            continue
        case = holder[0]
        yield attempt(name, "text", case.label, case.text)
        yield attempt(name, "state", case.label, lambda c=case: same_state(c.ours, c.theirs))
        yield attempt(name, "init", case.label, lambda c=case: first_numbers(c.ours, c.theirs))
        case.convert_dtype()
        if info.is_lazy:  # the first call makes the parameters
            yield attempt(name, "lazy", case.label, case.values)
            yield attempt(name, "state", case.label, lambda c=case: same_state(c.ours, c.theirs))
        yield attempt(name, "load", case.label, case.loads)
        yield attempt(name, "value", case.label, case.values)
        yield attempt(name, "gradient", case.label, case.gradients)
        if info.supports_gradgrad and dtype is torch.float64:
            yield attempt(name, "gradgrad", case.label, lambda c=case: c.gradients(second=True))


def _refusals(info: Any, dtype: torch.dtype, training: bool) -> Iterator[Result]:
    if info.module_error_inputs_func is None:
        return
    for error in _inputs(info.module_error_inputs_func, info, dtype, training):
        label = str(error.error_regex)[:60]
        yield attempt(info.name, "error", label, lambda e=error: _refused(info, e, dtype, training))


def _refused(info: Any, error: Any, dtype: torch.dtype, training: bool) -> None:
    """Both libraries raise, ours what torch raises or a subclass of it."""
    sample = error.module_error_input
    given = sample.constructor_input
    theirs_args, args = Twins()([list(given.args), dict(given.kwargs)])
    build = convert.find(info.name)
    if error.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR:
        _raise_alike(
            lambda: info.module_cls(*theirs_args[0], **theirs_args[1]),
            lambda: build(*args[0], **args[1]),
        )
        return
    theirs = info.module_cls(*theirs_args[0], **theirs_args[1]).train(training).to(dtype)
    ours = build(*args[0], **args[1]).train(training).to(convert.dtype(dtype))
    given = sample.forward_input
    theirs_args, args = Twins()([list(given.args), dict(given.kwargs)])
    _raise_alike(
        lambda: theirs(*theirs_args[0], **theirs_args[1]), lambda: ours(*args[0], **args[1])
    )


def _raise_alike(theirs: Callable[[], Any], ours: Callable[[], Any]) -> None:
    try:
        theirs()
    except Exception as error:
        expected = type(error)
    else:
        return  # not an error in this mode
    try:
        ours()
    except expected:
        return
    except Exception as error:
        raise AssertionError(f"raised {type(error).__name__}, torch {expected}") from error
    raise AssertionError(f"accepted; torch raises {expected}")
