"""Anomaly mode names the operation and the line of the user's code that made the NaN."""

from __future__ import annotations

import inspect
import warnings

import pytest

import tensorlib
from tensorlib.autograd import set_detect_anomaly, tape


def line_of(text: str) -> int:
    """The line of this file that holds `text`."""
    for number, line in enumerate(inspect.getsourcelines(inspect.getmodule(line_of))[0], 1):
        if text in line and "line_of" not in line:
            return number
    raise AssertionError(text)


def poisoned(x):
    root = (x * 0).sqrt()  # here the infinite slope comes in
    return (root * 0).sum()


def test_the_error_names_operation_file_line_and_text():
    x = tensorlib.ones(2, requires_grad=True)
    with set_detect_anomaly(True), pytest.raises(RuntimeError) as caught:
        poisoned(x).backward()
    text = str(caught.value)
    assert "SqrtBackward0" in text
    assert f"test_anomaly.py:{line_of('# here the infinite')} in poisoned" in text
    assert "root = (x * 0).sqrt()" in text


def test_a_step_recorded_before_the_mode_says_so():
    loss = poisoned(tensorlib.ones(2, requires_grad=True))
    with (
        set_detect_anomaly(True),
        pytest.raises(RuntimeError, match="recorded outside of anomaly mode"),
    ):
        loss.backward()


def test_an_exception_inside_backward_gets_the_place_as_a_note():
    class Bad(tensorlib.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise ValueError("from backward")

    with set_detect_anomaly(True):
        y = Bad.apply(tensorlib.ones(2, requires_grad=True))  # the bad call
        with pytest.raises(ValueError, match="from backward") as caught:
            y.sum().backward()
    (note,) = caught.value.__notes__
    assert "Error detected in BadBackward" in note
    assert f"test_anomaly.py:{line_of('# the bad call')}" in note


def test_a_second_derivative_names_the_first_calculation_too():
    x = tensorlib.zeros(2, dtype=tensorlib.float64, requires_grad=True)
    with set_detect_anomaly(True):
        y = x.pow(1.5)  # the first calculation
        (g,) = tensorlib.autograd.grad(y.sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="nan") as caught:
            (g * g.log()).sum().backward()
    assert "returned nan values" in str(caught.value)


def test_inside_a_module_the_line_is_the_users():
    class Net(tensorlib.nn.Module):
        def forward(self, x):
            return tensorlib.nn.functional.layer_norm(x * float("inf"), (2,))  # a poisoned layer

    with set_detect_anomaly(True), pytest.raises(RuntimeError, match="a poisoned layer"):
        Net()(tensorlib.ones(2, requires_grad=True)).sum().backward()


def test_detect_anomaly_warns_that_it_costs_time():
    with pytest.warns(UserWarning, match="Anomaly Detection has been enabled"):
        tensorlib.autograd.detect_anomaly()


def test_nothing_watches_the_tape_when_the_mode_is_off():
    assert tape._watch is None
    with set_detect_anomaly(True):
        assert tape._watch is not None
        with tensorlib.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
            pass
        assert tape._watch is not None
    assert tape._watch is None
    x = tensorlib.ones(2, requires_grad=True)
    assert "metadata" not in ((x * 2).grad_fn.extra or {})


def test_the_mode_ends_with_an_exception():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(KeyError), tensorlib.autograd.detect_anomaly():
            raise KeyError
    assert not tensorlib.is_anomaly_enabled()
