"""Automatic differentiation: a tape of closures. Knows no operation."""

from tensorlib.autograd.tape import (  # isort: skip  # first: the others build on it
    Node,
    needs_grad,
    record,
    record_outputs,
    record_view,
    record_views,
    wrap,
)
from tensorlib.autograd import anomaly_mode, function, functional, grad_mode, graph
from tensorlib.autograd.anomaly_mode import (
    detect_anomaly,
    is_anomaly_check_nan_enabled,
    is_anomaly_enabled,
    set_detect_anomaly,
)
from tensorlib.autograd.engine import backward, grad
from tensorlib.autograd.function import Function
from tensorlib.autograd.grad_mode import (
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    no_grad,
    set_grad_enabled,
    set_multithreading_enabled,
)
from tensorlib.autograd.gradcheck import gradcheck, gradgradcheck
from tensorlib.autograd.variable import Variable

__all__ = [
    "Function",
    "Node",
    "Variable",
    "anomaly_mode",
    "backward",
    "detect_anomaly",
    "enable_grad",
    "function",
    "functional",
    "grad",
    "grad_mode",
    "gradcheck",
    "gradgradcheck",
    "graph",
    "inference_mode",
    "is_anomaly_check_nan_enabled",
    "is_anomaly_enabled",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "needs_grad",
    "no_grad",
    "record",
    "record_outputs",
    "record_view",
    "record_views",
    "set_detect_anomaly",
    "set_grad_enabled",
    "set_multithreading_enabled",
    "wrap",
]
