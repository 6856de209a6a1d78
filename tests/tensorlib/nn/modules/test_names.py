"""Base classes and helpers by the names of torch's files."""

import importlib
from collections import OrderedDict

import pytest

from tensorlib import nn

NAMES = {
    "batchnorm": ["_BatchNorm", "_NormBase", "BatchNorm2d"],
    "conv": ["_ConvNd", "_ConvTransposeNd", "Conv2d"],
    "dropout": ["_DropoutNd"],
    "loss": ["_Loss", "_WeightedLoss"],
    "module": ["Module"],
    "rnn": ["RNNBase", "LSTM"],
    "pixelshuffle": ["PixelShuffle"],
    "utils": ["_single", "_pair", "_triple", "_quadruple", "_ntuple"],
}


@pytest.mark.oracle
@pytest.mark.parametrize("file", NAMES)
def test_files_hold_torchs_names(file):
    pytest.importorskip("torch", reason="PyTorch is the oracle")
    theirs = importlib.import_module(f"torch.nn.modules.{file}")
    ours = importlib.import_module(f"tensorlib.nn.modules.{file}")
    assert getattr(nn.modules, file) is ours
    for name in NAMES[file]:
        assert getattr(ours, name).__name__ == getattr(theirs, name).__name__


def test_layers_are_found_by_their_base_classes():
    assert isinstance(nn.BatchNorm1d(2), nn.modules.batchnorm._BatchNorm)
    assert isinstance(nn.Conv1d(1, 1, 1), nn.modules.conv._ConvNd)
    assert nn.modules.Linear is nn.Linear
    with pytest.raises(AttributeError, match="Lineer"):
        _ = nn.modules.Lineer


def test_helpers():
    assert nn.modules.utils._pair(3) == (3, 3)
    assert nn.modules.utils._pair([1, 2]) == (1, 2)
    state = OrderedDict({"module.a": 1, "b": 2})
    state._metadata = OrderedDict({"": 0, "module": 1, "module.a": 2})
    nn.modules.utils.consume_prefix_in_state_dict_if_present(state, "module.")
    assert dict(state) == {"b": 2, "a": 1}
    assert dict(state._metadata) == {"": 1, "a": 2}
