"""Automatic differentiation: a tape of closures. Knows no operation."""

from tensorlib.autograd.engine import backward, grad
from tensorlib.autograd.function import Function
from tensorlib.autograd.gradcheck import gradcheck, gradgradcheck
from tensorlib.autograd.tape import (
    Node,
    enable_grad,
    inference_mode,
    is_grad_enabled,
    is_inference_mode_enabled,
    needs_grad,
    no_grad,
    record,
    record_outputs,
    record_view,
    set_grad_enabled,
    wrap,
)

__all__ = [
    "Function",
    "Node",
    "backward",
    "enable_grad",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "inference_mode",
    "is_grad_enabled",
    "is_inference_mode_enabled",
    "needs_grad",
    "no_grad",
    "record",
    "record_outputs",
    "record_view",
    "set_grad_enabled",
    "wrap",
]
