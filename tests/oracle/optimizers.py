"""PyTorch's database of optimizers side by side: values, states, resumes, texts, refusals."""

from __future__ import annotations

import inspect
import re
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch

import tensorlib

from . import convert
from .result import Result

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's test code warns about what is not installed
    from torch.testing._internal.common_optimizers import OptimizerErrorEnum, optim_db

STEPS, MORE = 20, 10  # of these L-BFGS makes a fifth: each has up to 20 iterations
# where a gradient's last bit decides between two courses, both libraries compute in float64
CHAOTIC = ("LBFGS", "Rprop")
KINDS = ("exists", "signature", "value", "dtypes", "resume", "text", "refusals")


def check(names: Iterable[str] | None = None) -> list[Result]:
    """Every check of the optimizers named (default: all of them)."""
    wanted = None if names is None else set(names)
    found: list[Result] = []
    for info in optim_db:
        if wanted is None or info.name in wanted:
            found += check_one(info)
    return found


def check_one(info: Any) -> list[Result]:
    """Every check of one entry of the database."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # small arrays; threads that wait for each other cost a hundredfold
    try:
        return _check_one(info)
    finally:
        torch.set_num_threads(threads)


def _check_one(info: Any) -> list[Result]:
    name = info.name
    if not hasattr(tensorlib.optim, name):
        return [Result(name, "exists", False, f"no tensorlib.optim.{name}")]
    results = [Result(name, "exists", True), _attempt(name, "signature", _signature, name)]
    for label, kwargs in inputs(info):
        checks: list[tuple[str, Callable[..., None]]] = [("text", _text)]
        if not info.only_supports_sparse_grads:
            checks += [("value", _train), ("resume", _resume)]
            checks += [("dtypes", lambda *a, d=d: _dtype(*a, d)) for d in dtypes(info, kwargs)]
        results += [_attempt(f"{name}[{label}]", kind, do, info, kwargs) for kind, do in checks]
    for case in info.optim_error_inputs_func("cpu", torch.float32):
        label = case.optimizer_error_input.desc
        results.append(_attempt(f"{name}[{label}]", "refusals", _refusal, info, case))
    if "differentiable" in info.supported_impls:
        results.append(_attempt(name, "refusals", _not_differentiable, info))
    return results


def inputs(info: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Labelled options: the database's, alone and with each implementation torch has on the CPU."""
    for given in info.optim_inputs_func("cpu"):
        yield given.desc, given.kwargs
        fused = "fused" in info.supported_impls and "cpu" in info.supports_fused_on
        for flag, has in (("foreach", "foreach" in info.supported_impls), ("fused", fused)):
            tensors = any(isinstance(v, torch.Tensor) for v in given.kwargs.values())
            tensors |= isinstance(given.kwargs.get("betas", (0,))[0], torch.Tensor)
            if has and not (flag == "foreach" and tensors):
                yield f"{given.desc} & {flag}", {**given.kwargs, flag: True}


def dtypes(info: Any, kwargs: dict[str, Any]) -> Iterator[torch.dtype]:
    """Types of parameters beside float32 that torch's optimizer takes."""
    yield torch.float64
    # torch's other implementations round half precision elsewhere (fused SGD loses it: 2.13), and a
    # line search in it is chaotic
    if info.name not in ("LBFGS", "Muon") and not kwargs.get("fused") and not kwargs.get("foreach"):
        yield torch.float16
    if info.supports_complex and not kwargs.get("fused"):
        yield torch.complex64


def _attempt(name: str, kind: str, do: Callable[..., None], *args: Any) -> Result:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            do(*args)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error}".strip().replace("\n", " ")
        return Result(name, kind, False, f"{text[:300]} ({place.filename[-40:]}:{place.lineno})")
    return Result(name, kind, True)


# -- the pair of nets ------------------------------------------------------------------------------


def nets(info: Any) -> tuple[Any, Any]:
    """A small net of torch's and ours with the same weights; matrices only for Muon."""
    torch.manual_seed(0)
    bias = info.name != "Muon"
    both = [
        lib.nn.Sequential(lib.nn.Linear(4, 6, bias), lib.nn.Tanh(), lib.nn.Linear(6, 2, bias))
        for lib in (torch, tensorlib)
    ]
    if info.name in CHAOTIC:
        both = [net.double() for net in both]
    both[1].load_state_dict({k: convert.tensor(v) for k, v in both[0].state_dict().items()})
    return both[0], both[1]


def train(lib: Any, net: Any, optimizer: Any, steps: Iterable[int]) -> list[float]:
    """One step of the optimizer for each number, which seeds the batch; the losses."""
    losses = []
    for number in steps:
        # L-BFGS is meant for one batch and amplifies every bit on changing ones
        rng = np.random.default_rng(0 if type(optimizer).__name__ == "LBFGS" else number)
        dtype = next(iter(net.parameters())).dtype
        x, y = (lib.from_numpy(rng.normal(size=(8, n))).to(dtype) for n in (4, 2))

        def closure(x: Any = x, y: Any = y) -> Any:
            optimizer.zero_grad()
            loss = ((net(x) - y) ** 2).mean()
            loss.backward()
            return loss

        losses.append(optimizer.step(closure).item())
    return losses


def build(lib: Any, name: str, params: Any, kwargs: dict[str, Any]) -> Any:
    """The optimizer of that name in `lib`."""
    given = kwargs if lib is torch else convert.tree(kwargs)
    return getattr(lib.optim, name)(params, **given)


def _pair(info: Any, kwargs: dict[str, Any]) -> tuple[Any, Any, Any, Any]:
    theirs, ours = nets(info)
    return (
        theirs,
        ours,
        build(torch, info.name, theirs.parameters(), kwargs),
        build(tensorlib, info.name, ours.parameters(), kwargs),
    )


def close(ours: Any, theirs: Any, what: str, **tolerance: float) -> None:
    """Equal dtype, shape, and numbers by torch's tolerances."""
    torch.testing.assert_close(
        convert.back(ours),
        theirs.detach(),
        equal_nan=True,
        msg=lambda text: f"{what}: {text}",
        **tolerance,
    )


def same_state(ours: Any, theirs: Any, what: str = "state", **tolerance: float) -> None:
    """The same nested dicts with the same kinds of values at the leaves."""
    if isinstance(theirs, torch.Tensor):
        assert isinstance(ours, tensorlib.Tensor), f"{what}: {type(ours)} for a tensor"
        close(ours, theirs, what, **tolerance)
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs) or set(map(str, ours)) == set(map(str, theirs)), (
            f"{what}: {list(ours)} is not {list(theirs)}"
        )
        for key, value in theirs.items():
            same_state(ours[key], value, f"{what}.{key}", **tolerance)
    elif isinstance(theirs, list | tuple):
        assert type(ours) is type(theirs), f"{what}: {type(ours)} is not {type(theirs)}"
        assert len(ours) == len(theirs), f"{what}: {len(ours)} for {len(theirs)} values"
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            same_state(a, b, f"{what}[{i}]", **tolerance)
    elif isinstance(theirs, float):
        assert isinstance(ours, float), f"{what}: {type(ours)} is not a float"
        assert np.isclose(ours, theirs, rtol=1e-5, atol=1e-6), f"{what}: {ours} is not {theirs}"
    else:
        assert ours == theirs, f"{what}: {ours!r} is not {theirs!r}"


# -- the checks ------------------------------------------------------------------------------------


def _signature(name: str) -> None:
    theirs = inspect.signature(getattr(torch.optim, name))
    ours = inspect.signature(getattr(tensorlib.optim, name))
    for a, b in zip(ours.parameters.values(), theirs.parameters.values(), strict=True):
        assert (a.name, a.kind, a.default) == (b.name, b.kind, b.default), f"{a} is not {b}"


def _tolerance(info: Any) -> dict[str, float]:
    # Muon rounds to bfloat16 within
    wide = {"LBFGS": 1e-5, "Muon": 2e-3}.get(info.name)
    return {"rtol": wide, "atol": wide / 10} if wide else {}


def _train(info: Any, kwargs: dict[str, Any]) -> None:
    theirs, ours, their_optimizer, our_optimizer = _pair(info, kwargs)
    steps = range(STEPS // (5 if info.name == "LBFGS" else 1))
    expected = train(torch, theirs, their_optimizer, steps)
    found = train(tensorlib, ours, our_optimizer, steps)
    tolerance = _tolerance(info)
    np.testing.assert_allclose(found, expected, rtol=max(1e-5, tolerance.get("rtol", 0)))
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        close(a, b, name, **tolerance)
    a, b = our_optimizer.state_dict(), their_optimizer.state_dict()
    same_state(a["param_groups"], b["param_groups"], "param_groups")
    assert [list(g) for g in a["param_groups"]] == [list(g) for g in b["param_groups"]]
    if info.name != "LBFGS":
        same_state(a["state"], b["state"], **tolerance)
    else:
        kinds = {k: type(v).__name__ for k, v in a["state"][0].items()}
        assert kinds == {k: type(v).__name__ for k, v in b["state"][0].items()}, kinds


def _resume(info: Any, kwargs: dict[str, Any]) -> None:
    share = 5 if info.name == "LBFGS" else 1
    before, after = range(STEPS // share), range(STEPS, STEPS + MORE // share)
    for source, target in ((tensorlib, torch), (torch, tensorlib)):
        first = dict(zip((torch, tensorlib), nets(info), strict=True))
        optimizers = {
            lib: build(lib, info.name, net.parameters(), kwargs) for lib, net in first.items()
        }
        moved = convert_state if target is torch else convert.tree
        train(source, first[source], optimizers[source], before)
        first[target].load_state_dict(moved(dict(first[source].state_dict())))
        optimizers[target].load_state_dict(moved(optimizers[source].state_dict()))
        train(source, first[source], optimizers[source], after)
        train(target, first[target], optimizers[target], after)
        for (name, a), b in zip(
            first[tensorlib].named_parameters(), first[torch].parameters(), strict=True
        ):
            close(a, b, f"{source.__name__} to {target.__name__}: {name}", **_tolerance(info))


def convert_state(value: Any) -> Any:
    """`value` with our tensors in it replaced by torch's."""
    if isinstance(value, tensorlib.Tensor):
        return convert.back(value)
    if isinstance(value, list | tuple):
        return type(value)(map(convert_state, value))
    if isinstance(value, dict):
        return {key: convert_state(item) for key, item in value.items()}
    return value


def fixed_steps(
    lib: Any,
    name: str,
    kwargs: dict[str, Any],
    dtype: torch.dtype,
    steps: int,
    shapes: tuple[tuple[int, ...], ...] = ((3, 4), (7, 5)),
) -> tuple[list[Any], Any]:
    """Parameters and optimizer after steps with gradients that are the same in both libraries."""
    rng = np.random.default_rng(0)

    def draw(shape: tuple[int, ...]) -> Any:
        parts = [rng.normal(size=shape) for _ in range(1 + dtype.is_complex)]
        array = parts[0] if len(parts) == 1 else parts[0] + 1j * parts[1]
        made = torch.from_numpy(np.asarray(array)).to(dtype)
        return made if lib is torch else convert.tensor(made)

    params = [lib.nn.Parameter(draw(shape)) for shape in shapes]
    optimizer = build(lib, name, params, kwargs)

    def closure() -> float:
        return 0.0

    for _ in range(steps):
        for param in params:
            param.grad = draw(tuple(param.shape))
        optimizer.step(closure)
    return params, optimizer


def _dtype(info: Any, kwargs: dict[str, Any], dtype: torch.dtype) -> None:
    theirs, their_optimizer = fixed_steps(torch, info.name, kwargs, dtype, 12)
    ours, our_optimizer = fixed_steps(tensorlib, info.name, kwargs, dtype, 12)
    tolerance = {"rtol": 2e-3, "atol": 1e-4} if dtype == torch.float16 else _tolerance(info)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        close(a, b, f"{dtype} {i}", **tolerance)
    if info.name != "LBFGS":
        a, b = our_optimizer.state_dict()["state"], their_optimizer.state_dict()["state"]
        same_state(a, b, **tolerance)


def _text(info: Any, kwargs: dict[str, Any]) -> None:
    _, _, theirs, ours = _pair(info, kwargs)
    assert repr(ours) == repr(theirs), repr(ours)


def _refusal(info: Any, case: Any) -> None:
    given = case.optimizer_error_input
    try:
        params = _params(given.params)
    except convert.Absent:
        return  # a sparse tensor, which cannot be made
    if given.params is None:
        params = [tensorlib.nn.Parameter(tensorlib.ones(2, 2))]
    kwargs = convert.tree(given.kwargs)
    make = getattr(tensorlib.optim, info.name)
    try:
        if case.error_on is OptimizerErrorEnum.CONSTRUCTION_ERROR:
            make(params, **kwargs)
        else:
            optimizer = make(params, **kwargs)
            optimizer.step(lambda: 0.0)
    except case.error_type as error:
        text = str(error)
    else:
        raise AssertionError(f"accepted; torch raises {case.error_type} {case.error_regex}")
    assert re.search(case.error_regex, text), f"{text} has not {case.error_regex}"


def _params(value: Any) -> Any:
    """Parameters of an error case as ours, one for each of torch's, with their gradients."""
    known: dict[int, Any] = {}

    def one(item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            if id(item) not in known:
                known[id(item)] = made = convert.tree(item)
                if item.grad is not None:
                    made.grad = convert.tensor(item.grad)
            return known[id(item)]
        if isinstance(item, list | tuple):
            return type(item)(map(one, item))
        if isinstance(item, dict):
            return {key: one(part) for key, part in item.items()}
        return item

    return one(value)


def _not_differentiable(info: Any) -> None:
    params = [tensorlib.nn.Parameter(tensorlib.ones(2, 2))]
    try:
        getattr(tensorlib.optim, info.name)(params, differentiable=True)
    except NotImplementedError as error:
        text = str(error)
    else:
        raise AssertionError("differentiable=True is accepted and cannot be honoured")
    assert "differentiable" in text, text


def main() -> None:
    """Print how many checks pass for each optimizer, and what differs."""
    found = check()
    for name in sorted({r.name.partition("[")[0] for r in found}):
        mine = [r for r in found if r.name.partition("[")[0] == name]
        cells = []
        for kind in KINDS:
            oks = [r.ok for r in mine if r.kind == kind]
            cells.append(f"{kind} {sum(oks)}/{len(oks)}" if oks else "")
        print(f"{name:<12}" + "  ".join(f"{cell:<15}" for cell in cells))
    for result in found:
        if not result.ok:
            print(f"{result.name:<50} {result.kind:<9} {result.detail}")


if __name__ == "__main__":
    main()
