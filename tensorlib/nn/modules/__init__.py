"""torch.nn.modules' names of files, for code that takes base classes such as
`nn.modules.batchnorm._BatchNorm` from them.
"""

import sys
from types import ModuleType
from typing import Any

from tensorlib import nn
from tensorlib.nn import (
    activation,
    adaptive,
    container,
    conv,
    distance,
    dropout,
    flatten,
    fold,
    lazy,
    linear,
    loss,
    module,
    normalization,
    padding,
    pooling,
    recurrent,
    sparse,
    transformer,
    upsampling,
)
from tensorlib.nn.modules import utils as utils

_FILES: dict[str, ModuleType] = {
    "activation": activation,
    "adaptive": adaptive,
    "batchnorm": normalization,
    "channelshuffle": nn,
    "container": container,
    "conv": conv,
    "distance": distance,
    "dropout": dropout,
    "flatten": flatten,
    "fold": fold,
    "instancenorm": normalization,
    "lazy": lazy,
    "linear": linear,
    "loss": loss,
    "module": module,
    "normalization": normalization,
    "padding": padding,
    "pixelshuffle": nn,
    "pooling": pooling,
    "rnn": recurrent,
    "sparse": sparse,
    "transformer": transformer,
    "upsampling": upsampling,
}
for _name, _file in _FILES.items():
    sys.modules[f"{__name__}.{_name}"] = _file
globals().update(_FILES)


def __getattr__(name: str) -> Any:
    """Every layer is here too."""
    return getattr(nn, name)
