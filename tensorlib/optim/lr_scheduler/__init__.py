"""Learning rate schedules. Each call of `step()` sets the `lr` of the optimizer's groups.

As in torch, most schedules compute the next rate from the present one, so that several can act on
one optimizer (`ChainedScheduler`); the closed form is used where a schedule starts over.
"""

from tensorlib.optim.lr_scheduler.base import LRScheduler
from tensorlib.optim.lr_scheduler.base import _LRScheduler as _LRScheduler
from tensorlib.optim.lr_scheduler.combined import ChainedScheduler, SequentialLR
from tensorlib.optim.lr_scheduler.cycles import CosineAnnealingWarmRestarts, CyclicLR, OneCycleLR
from tensorlib.optim.lr_scheduler.decay import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiplicativeLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from tensorlib.optim.lr_scheduler.plateau import ReduceLROnPlateau

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]
