"""Hooks around steps and state dicts."""

import pytest

import tensorlib
from tensorlib import nn, optim
from tensorlib.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)


def parameter():
    param = nn.Parameter(tensorlib.ones(1))
    param.grad = tensorlib.ones(1)
    return param


def test_hooks_of_steps():
    optimizer = optim.SGD([parameter()])
    calls = []

    def note(name):
        return lambda o, args, kwargs: calls.append((name, o is optimizer, len(args)))

    handles = [
        register_optimizer_step_pre_hook(note("before all")),
        register_optimizer_step_post_hook(note("after all")),
        optimizer.register_step_pre_hook(note("before")),
        optimizer.register_step_post_hook(note("after")),
        optimizer.register_step_pre_hook(lambda o, args, kwargs: ((*args, lambda: 5), kwargs)),
    ]
    assert optimizer.step() == 5
    names = [("before all", 1), ("before", 1), ("after", 2), ("after all", 2)]
    assert calls == [(name, True, count) for name, count in names]
    for handle in handles:
        handle.remove()
    assert optimizer.step() is None
    assert len(calls) == 4
    optimizer.register_step_pre_hook(lambda *_: 3)
    with pytest.raises(RuntimeError, match=r"must return None or a tuple .* but got 3"):
        optimizer.step()


def test_hooks_run_once_where_a_subclass_calls_its_parent():
    class Counting(optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    optimizer = Counting([parameter()])
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append(1))
    optimizer.step()
    assert calls == [1]


def test_hooks_of_state_dicts():
    optimizer = optim.SGD([parameter()])
    calls = []
    optimizer.register_state_dict_pre_hook(lambda o: calls.append("second"))
    optimizer.register_state_dict_pre_hook(lambda o: calls.append("first"), prepend=True)
    optimizer.register_state_dict_post_hook(lambda o, state: {**state, "note": 1})
    optimizer.register_load_state_dict_pre_hook(
        lambda o, state: {**state, "param_groups": [{**state["param_groups"][0], "lr": 9.0}]}
    )
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append("loaded"))
    state = optimizer.state_dict()
    assert state["note"] == 1
    optimizer.load_state_dict(state)
    assert calls == ["first", "second", "loaded"]
    assert optimizer.param_groups[0]["lr"] == 9.0
    assert state["param_groups"][0]["lr"] == 1e-3
