"""Mistakes of people who write training scripts: PyTorch's type of exception, and what helps."""

import copy
import re

import numpy as np
import pytest

import tensorlib
from tensorlib.errors import TensorlibError


def backward_twice(t):
    x = t.ones(2, requires_grad=True)
    loss = (x * x).sum()
    loss.backward()
    loss.backward()


def changed_leaf(t):
    x = t.ones(2, requires_grad=True)
    x += 1


def changed_element_of_a_leaf(t):
    t.ones(2, requires_grad=True)[0] = 1


def changed_needed_value(t):
    x = t.ones(2, requires_grad=True)
    y = x.sigmoid()
    t.nn.functional.relu(y, inplace=True)
    y.sum().backward()


def unused_input(t):
    x, y = t.ones(2, requires_grad=True), t.ones(2, requires_grad=True)
    t.autograd.grad((x * 2).sum(), y)


def loss_under_no_grad(t):
    with t.no_grad():
        loss = t.nn.Linear(4, 3)(t.ones(2, 4)).sum()
    loss.backward()


def inference_tensor(t):
    with t.inference_mode():
        x = t.nn.Linear(4, 3)(t.ones(2, 4))
    t.nn.Linear(3, 1)(x).sum().backward()


def backward_after_step(t):
    model = t.nn.Linear(2, 2, bias=False)
    optimizer = t.optim.SGD(model.parameters(), lr=0.1)
    loss = model(model(t.ones(1, 2))).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    loss.backward()


def state_of_another_model(t):
    def optimizer(*layers):
        return t.optim.SGD(t.nn.Sequential(*layers).parameters(), lr=0.1)

    two = optimizer(t.nn.Linear(1, 1), t.nn.Linear(1, 1))
    optimizer(t.nn.Linear(1, 1)).load_state_dict(two.state_dict())


def parameters_given_twice(t):
    layer = t.nn.Linear(1, 1)
    groups = [{"params": layer.parameters()}, {"params": [layer.bias]}]
    t.optim.SGD(groups, lr=0.1)


def more_steps_than_planned(t):
    optimizer = t.optim.SGD(t.nn.Linear(1, 1).parameters(), lr=0.1)
    schedule = t.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=2)
    for _ in range(4):
        optimizer.step()
        schedule.step()


def no_call_of_super(t):
    class Model(t.nn.Module):
        def __init__(self):
            self.layer = t.nn.Linear(1, 1)

    Model()


CASES = {
    "backward twice": backward_twice,
    "changed leaf": changed_leaf,
    "changed element of a leaf": changed_element_of_a_leaf,
    "changed needed value": changed_needed_value,
    "unused input": unused_input,
    "loss under no_grad": loss_under_no_grad,
    "inference tensor": inference_tensor,
    "backward after step": backward_after_step,
    "state of another model": state_of_another_model,
    "parameters given twice": parameters_given_twice,
    "more steps than planned": more_steps_than_planned,
    "no call of super": no_call_of_super,
    "linear wrong width": lambda t: t.nn.Linear(4, 3)(t.ones(2, 5)),
    "linear int input": lambda t: t.nn.Linear(4, 3)(t.ones(2, 4, dtype=t.int64)),
    "linear double input": lambda t: t.nn.Linear(4, 3)(t.ones(2, 4, dtype=t.float64)),
    "linear of list": lambda t: t.nn.Linear(4, 3)([1.0, 2.0, 3.0, 4.0]),
    "linear numpy": lambda t: t.nn.Linear(4, 3)(np.ones((2, 4), "f")),
    "conv 2d image": lambda t: t.nn.Conv2d(3, 4, 3)(t.ones(8, 8)),
    "conv channels": lambda t: t.nn.Conv2d(3, 4, 3)(t.ones(2, 1, 8, 8)),
    "conv hwc": lambda t: t.nn.Conv2d(3, 4, 3)(t.ones(1, 8, 8, 3)),
    "conv kernel too big": lambda t: t.nn.Conv2d(3, 4, 9)(t.ones(1, 3, 8, 8)),
    "conv uint8": lambda t: t.nn.Conv2d(3, 4, 3)(t.ones(1, 3, 8, 8).byte()),
    "conv groups": lambda t: t.nn.Conv2d(3, 4, 3, groups=2),
    "flatten mismatch": lambda t: t.nn.Sequential(
        t.nn.Conv2d(1, 2, 3), t.nn.Flatten(), t.nn.Linear(10, 2)
    )(t.ones(2, 1, 8, 8)),
    "bn one value": lambda t: t.nn.BatchNorm1d(4)(t.ones(1, 4)),
    "bn dims": lambda t: t.nn.BatchNorm2d(4)(t.ones(2, 4)),
    "bn channels": lambda t: t.nn.BatchNorm2d(4)(t.ones(2, 3, 4, 4)),
    "layernorm": lambda t: t.nn.LayerNorm(5)(t.ones(2, 4)),
    "ce label range": lambda t: t.nn.functional.cross_entropy(t.ones(2, 3), t.tensor([0, 3])),
    "ce label negative": lambda t: t.nn.functional.cross_entropy(t.ones(2, 3), t.tensor([0, -1])),
    "ce float target": lambda t: t.nn.functional.cross_entropy(t.ones(2, 3), t.tensor([0.0, 1.0])),
    "ce int32 target": lambda t: t.nn.functional.cross_entropy(
        t.ones(2, 3), t.tensor([0, 1], dtype=t.int32)
    ),
    "ce batch": lambda t: t.nn.functional.cross_entropy(t.ones(2, 3), t.tensor([0, 1, 2])),
    "ce target 2d": lambda t: t.nn.functional.cross_entropy(t.ones(2, 3), t.tensor([[0], [1]])),
    "ce one hot long": lambda t: t.nn.functional.cross_entropy(
        t.ones(2, 3), t.tensor([[0, 0, 1], [1, 0, 0]])
    ),
    "ce weight size": lambda t: t.nn.functional.cross_entropy(
        t.ones(2, 3), t.tensor([0, 1]), weight=t.ones(2)
    ),
    "ce reduction": lambda t: t.nn.functional.cross_entropy(
        t.ones(2, 3), t.tensor([0, 1]), reduction="average"
    ),
    "ce smoothing": lambda t: t.nn.functional.cross_entropy(
        t.ones(2, 3), t.tensor([0, 1]), label_smoothing=2.0
    ),
    "nll range": lambda t: t.nn.functional.nll_loss(t.ones(2, 3), t.tensor([0, 5])),
    "nll float target": lambda t: t.nn.functional.nll_loss(t.ones(2, 3), t.ones(2)),
    "bce range": lambda t: t.nn.functional.binary_cross_entropy(t.ones(2) * 2, t.ones(2)),
    "bce long": lambda t: t.nn.functional.binary_cross_entropy(t.ones(2) * 0.5, t.tensor([0, 1])),
    "bce shape": lambda t: t.nn.functional.binary_cross_entropy(t.ones(2, 1) * 0.5, t.ones(2)),
    "bcel shape": lambda t: t.nn.functional.binary_cross_entropy_with_logits(
        t.ones(2, 1), t.ones(2)
    ),
    "bcel long": lambda t: t.nn.functional.binary_cross_entropy_with_logits(
        t.ones(2), t.tensor([0, 1])
    ),
    "mse shape": lambda t: t.nn.functional.mse_loss(t.ones(2, 3), t.ones(4, 3)),
    "mse none": lambda t: t.nn.functional.mse_loss(t.ones(2), None),
    "embedding range": lambda t: t.nn.Embedding(4, 2)(t.tensor([4])),
    "embedding negative": lambda t: t.nn.Embedding(4, 2)(t.tensor([-1])),
    "embedding float": lambda t: t.nn.Embedding(4, 2)(t.ones(2)),
    "one_hot": lambda t: t.nn.functional.one_hot(t.tensor([0, 3]), 3),
    "one_hot float": lambda t: t.nn.functional.one_hot(t.ones(2)),
    "gather range": lambda t: t.ones(2, 3).gather(1, t.tensor([[3], [0]])),
    "gather float idx": lambda t: t.ones(2, 3).gather(1, t.ones(2, 1)),
    "index range": lambda t: t.ones(2, 3)[2],
    "index tensor range": lambda t: t.ones(2, 3)[t.tensor([5])],
    "index float": lambda t: t.ones(2, 3)[1.5],
    "index too many": lambda t: t.ones(2, 3)[0, 0, 0],
    "mask shape": lambda t: t.ones(2, 3)[t.tensor([True, False, True])],
    "cat shapes": lambda t: t.cat([t.ones(2, 3), t.ones(2, 4)]),
    "cat empty": lambda t: t.cat([]),
    "stack shapes": lambda t: t.stack([t.ones(2), t.ones(3)]),
    "matmul": lambda t: t.ones(2, 3) @ t.ones(2, 3),
    "bmm": lambda t: t.bmm(t.ones(2, 3, 4), t.ones(3, 4, 5)),
    "mm dtype": lambda t: t.mm(t.ones(2, 2), t.ones(2, 2, dtype=t.float64)),
    "broadcast": lambda t: t.ones(2, 3) + t.ones(4, 3),
    "view": lambda t: t.ones(2, 3).view(4),
    "view t": lambda t: t.ones(2, 3).t().view(6),
    "reshape": lambda t: t.ones(2, 3).reshape(4, -1),
    "squeeze dim": lambda t: t.ones(2, 3).sum(5),
    "permute": lambda t: t.ones(2, 3).permute(0),
    "expand": lambda t: t.ones(2, 3).expand(4, 3),
    "item": lambda t: t.ones(2).item(),
    "bool many": lambda t: bool(t.ones(2)),
    "float many": lambda t: float(t.ones(2)),
    "numpy grad": lambda t: t.ones(2, requires_grad=True).numpy(),
    "asarray grad": lambda t: np.asarray(t.ones(2, requires_grad=True)),
    "tensor ragged": lambda t: t.tensor([[1, 2], [3]]),
    "tensor str": lambda t: t.tensor(["a"]),
    "tensor none": lambda t: t.tensor(None),
    "from_numpy list": lambda t: t.from_numpy([1]),
    "from_numpy str": lambda t: t.from_numpy(np.array(["a"])),
    "backward vector": lambda t: (t.ones(2, requires_grad=True) * 2).backward(),
    "backward no grad": lambda t: t.ones(2).sum().backward(),
    "backward int": lambda t: t.tensor(1, requires_grad=True),
    "int requires_grad_": lambda t: t.tensor([1]).requires_grad_(),
    "long param": lambda t: t.nn.Parameter(t.tensor([1])),
    "grad output shape": lambda t: t.autograd.grad(
        t.ones(2, requires_grad=True) * 2, t.ones(2, requires_grad=True), t.ones(3)
    ),
    "opt empty": lambda t: t.optim.SGD([], lr=0.1),
    "opt tensor": lambda t: t.optim.SGD(t.ones(2, requires_grad=True), lr=0.1),
    "opt nonleaf": lambda t: t.optim.SGD([t.ones(2, requires_grad=True) * 2], lr=0.1),
    "opt modules": lambda t: t.optim.SGD([t.nn.Linear(1, 1)], lr=0.1),
    "opt lr": lambda t: t.optim.Adam(t.nn.Linear(4, 3).parameters(), lr=-1),
    "opt betas": lambda t: t.optim.Adam(t.nn.Linear(4, 3).parameters(), betas=(1.0, 0.9)),
    "opt nesterov": lambda t: t.optim.SGD(t.nn.Linear(4, 3).parameters(), lr=0.1, nesterov=True),
    "lbfgs no closure": lambda t: t.optim.LBFGS(t.nn.Linear(4, 3).parameters()).step(),
    "sched not opt": lambda t: t.optim.lr_scheduler.StepLR(t.nn.Linear(4, 3), 1),
    "sched plateau no metric": lambda t: t.optim.lr_scheduler.ReduceLROnPlateau(
        t.optim.SGD(t.nn.Linear(4, 3).parameters(), lr=0.1)
    ).step(),
    "plateau mode": lambda t: t.optim.lr_scheduler.ReduceLROnPlateau(
        t.optim.SGD(t.nn.Linear(4, 3).parameters(), lr=0.1), "lowest"
    ),
    "onecycle args": lambda t: t.optim.lr_scheduler.OneCycleLR(
        t.optim.SGD(t.nn.Linear(4, 3).parameters(), lr=0.1), 0.1
    ),
    "sd missing": lambda t: t.nn.Linear(4, 3).load_state_dict({"weight": t.ones(3, 4)}),
    "sd unexpected": lambda t: t.nn.Linear(4, 3).load_state_dict(
        {"weight": t.ones(3, 4), "bias": t.ones(3), "z": t.ones(1)}
    ),
    "sd shape": lambda t: t.nn.Linear(4, 3).load_state_dict(
        {"weight": t.ones(3, 5), "bias": t.ones(3)}
    ),
    "sd not dict": lambda t: t.nn.Linear(4, 3).load_state_dict(t.nn.Linear(4, 3)),
    "sd path": lambda t: t.nn.Linear(4, 3).load_state_dict("a.pt"),
    "cuda tensor": lambda t: t.ones(2, device="cuda"),
    "cuda module": lambda t: t.nn.Linear(1, 1).cuda(),
    "cuda to": lambda t: t.ones(2).to("cuda:1"),
    "device name": lambda t: t.device("gpu"),
    "device to": lambda t: t.ones(2).to("gpu"),
    "dtype str": lambda t: t.ones(2, dtype="float32"),
    "attr": lambda t: t.nn.Linear(4, 3).wieght,
    "no super": lambda t: type(
        "M", (t.nn.Module,), {"__init__": lambda s: setattr(s, "l", t.nn.Linear(1, 1))}
    )(),
    "no forward": lambda t: t.nn.Module()(t.ones(1)),
    "seq not module": lambda t: t.nn.Sequential(3),
    "modulelist call": lambda t: t.nn.ModuleList([t.nn.Linear(4, 3)])(t.ones(2, 4)),
    "assign non module": lambda t: setattr(t.nn.Sequential(t.nn.Linear(4, 3)), "0", 3),
    "param assign": lambda t: setattr(t.nn.Linear(1, 1), "weight", t.ones(1, 1)),
    "lstm input size": lambda t: t.nn.LSTM(4, 3)(t.ones(5, 2, 3)),
    "lstm hidden size": lambda t: t.nn.LSTM(4, 3)(
        t.ones(5, 2, 4), (t.ones(1, 2, 4), t.ones(1, 2, 4))
    ),
    "lstm hidden tensor": lambda t: t.nn.LSTM(4, 3)(t.ones(5, 2, 4), t.ones(1, 2, 3)),
    "lstm dims": lambda t: t.nn.LSTM(4, 3)(t.ones(5, 2, 2, 4)),
    "gru hidden": lambda t: t.nn.GRU(4, 3)(t.ones(5, 2, 4), t.ones(2, 2, 3)),
    "pack unsorted": lambda t: t.nn.utils.rnn.pack_padded_sequence(t.ones(5, 2, 4), [2, 5]),
    "pack zero": lambda t: t.nn.utils.rnn.pack_padded_sequence(t.ones(5, 2, 4), [2, 0]),
    "mha embed": lambda t: t.nn.MultiheadAttention(5, 2),
    "mha mask": lambda t: t.nn.MultiheadAttention(4, 2)(
        t.ones(3, 2, 4), t.ones(3, 2, 4), t.ones(3, 2, 4), attn_mask=t.ones(2, 2)
    ),
    "mha dim": lambda t: t.nn.MultiheadAttention(4, 2)(
        t.ones(3, 2, 5), t.ones(3, 2, 5), t.ones(3, 2, 5)
    ),
    "transformer batch": lambda t: t.nn.Transformer(4, 2, 1, 1, 8)(
        t.ones(3, 2, 4), t.ones(3, 3, 4)
    ),
    "dropout p": lambda t: t.nn.Dropout(1.5),
    "softmax dim": lambda t: t.nn.functional.softmax(t.ones(2, 3), dim=2),
    "softmax int": lambda t: t.tensor([1, 2]).softmax(0),
    "mean int": lambda t: t.tensor([1, 2]).mean(),
    "maxpool small": lambda t: t.nn.MaxPool2d(4)(t.ones(1, 1, 2, 2)),
    "pool pad": lambda t: t.nn.MaxPool2d(2, padding=2)(t.ones(1, 1, 4, 4)),
    "pixelshuffle": lambda t: t.nn.PixelShuffle(2)(t.ones(1, 3, 2, 2)),
    "upsample": lambda t: t.nn.functional.interpolate(t.ones(1, 1, 2, 2), mode="linear"),
    "interp none": lambda t: t.nn.functional.interpolate(t.ones(1, 1, 2, 2)),
    "clip none": lambda t: t.nn.utils.clip_grad_norm_(t.nn.Linear(4, 3), 1.0),
    "multinomial zero": lambda t: t.multinomial(t.zeros(3), 1),
    "multinomial many": lambda t: t.multinomial(t.ones(3), 5),
    "topk": lambda t: t.ones(3).topk(5),
    "randint": lambda t: t.randint(5, (2,)).uniform_(),
    "randint range": lambda t: t.randint(5, 5, (2,)),
    "arange": lambda t: t.arange(5, 0),
    "cholesky": lambda t: t.linalg.cholesky(-t.eye(2)),
    "inverse": lambda t: t.linalg.inv(t.zeros(2, 2)),
    "solve": lambda t: t.linalg.solve(t.zeros(2, 2), t.ones(2)),
    "einsum": lambda t: t.einsum("ij,jk->ik", t.ones(2, 3), t.ones(2, 3)),
    "split": lambda t: t.ones(5).split([2, 2]),
    "loader batch 0": lambda t: t.utils.data.DataLoader([1], batch_size=0),
    "loader shuffle sampler": lambda t: t.utils.data.DataLoader([1], shuffle=True, sampler=[0]),
    "loader ragged": lambda t: list(t.utils.data.DataLoader([t.ones(2), t.ones(3)], batch_size=2)),
    "loader none": lambda t: list(t.utils.data.DataLoader([None])),
    "loader empty shuffle": lambda t: t.utils.data.DataLoader([], shuffle=True),
    "dataset index": lambda t: t.utils.data.TensorDataset(t.ones(2))[5],
    "tensordataset sizes": lambda t: t.utils.data.TensorDataset(t.ones(2), t.ones(3)),
    "split sizes": lambda t: t.utils.data.random_split([1, 2, 3], [1, 1]),
    "dataset abstract": lambda t: t.utils.data.Dataset()[0],
    "add none": lambda t: t.ones(2) + None,
    "add str": lambda t: t.ones(2) + "a",
    "add list": lambda t: t.ones(2) + {1: 2},
    "ones str": lambda t: t.ones("a"),
    "zeros neg": lambda t: t.zeros(-1),
    "masked assign shape": lambda t: t.ones(4).__setitem__(
        t.tensor([True, False, True, True]), t.ones(2)
    ),
    "setitem shape": lambda t: t.ones(4).__setitem__(slice(0, 2), t.ones(3)),
    "copy_": lambda t: t.ones(2).copy_(t.ones(3)),
    "inplace dtype": lambda t: t.tensor([1]).add_(1.5),
    "inplace shape": lambda t: t.ones(2).add_(t.ones(3, 2)),
    "hook": lambda t: t.ones(2).register_hook(print),
    "jacobian": lambda t: t.autograd.functional.jacobian(lambda v: 3, t.ones(2)),
    "deepcopy nonleaf": lambda t: copy.deepcopy(t.ones(2, requires_grad=True) * 2),
    "data dtype": lambda t: setattr(t.nn.Linear(1, 1).weight, "data", 3),
    "grad assign shape": lambda t: setattr(t.ones(2, requires_grad=True), "grad", t.ones(3)),
    "grad assign dtype": lambda t: setattr(
        t.ones(2, requires_grad=True), "grad", t.ones(2, dtype=t.float64)
    ),
    "requires_grad nonleaf": lambda t: setattr(
        t.ones(2, requires_grad=True) * 2, "requires_grad", False
    ),
    "seed str": lambda t: t.manual_seed("a"),
    "iter 0-d": lambda t: list(t.tensor(1.0)),
    "len 0-d": lambda t: len(t.tensor(1.0)),
    "index 0-d": lambda t: t.tensor(1.0)[0],
}


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_mistakes_raise_torchs_type_of_exception(name):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        CASES[name](torch)
    builtin = next(kind for kind in theirs.type.__mro__ if kind.__module__ == "builtins")
    with pytest.raises(builtin) as ours:
        CASES[name](tensorlib)
    if isinstance(ours.value, TensorlibError):
        assert re.match(r"(?s)[\w .()'\[\]-]+: .+\.|.*Hint: ", str(ours.value)), str(ours.value)


# what the message says beyond the type: the values, and the way out
WORDS = {
    "linear wrong width": r"input \(2, 5\), weight \(3, 4\).*Hint: ",
    "linear numpy": r"Linear: argument of type ndarray; a Tensor\. Hint: .*from_numpy",
    "ce label range": r"3 is out of .*",
    "ce float target": r"Hint: use target\.long\(\)",
    "ce int32 target": r"int32.*Hint: use target\.long\(\)",
    "backward twice": r"retain_graph=True",
    "changed leaf": r"leaf .*in-place",
    "changed needed value": r"version",
    "cuda tensor": r"CuPy.*Hint: ",
    "sd missing": r"bias",
    "sd unexpected": r"\bz\b",
    "conv hwc": r"3 channels, but got 8 channels.*Hint: images are \[N, C, H, W\]",
    "embedding range": r"out of range in self: 4; 0 to 3",
    "item": r"2 elements",
    "numpy grad": r"detach\(\)\.numpy\(\)",
    "view t": r"reshape",
    "no call of super": r"super\(\)\.__init__\(\)",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WORDS)
def test_messages_show_the_values_and_the_way_out(name):
    if name == "cuda tensor" and tensorlib.cuda.is_available():
        pytest.skip("a GPU is here")
    with pytest.raises(Exception, match=WORDS[name]):
        CASES[name](tensorlib)


WARNED = {
    "gradient of a non-leaf": (lambda t: (t.ones(2, requires_grad=True) * 2).grad, "not a leaf"),
    "mean of a divergence": (
        lambda t: t.nn.functional.kl_div(t.zeros(2, 2), t.ones(2, 2)),
        "batchmean",
    ),
    "sizes that broadcast": (
        lambda t: t.nn.functional.mse_loss(t.ones(2, 1), t.ones(2)),
        "target size",
    ),
    "softmax without dim": (lambda t: t.nn.functional.softmax(t.ones(2, 2)), "dim"),
    "schedule before optimizer": (
        lambda t: t.optim.lr_scheduler.StepLR(
            t.optim.SGD(t.nn.Linear(1, 1).parameters(), lr=0.1), 1
        ).step(),
        r"optimizer\.step",
    ),
}


@pytest.mark.oracle
@pytest.mark.parametrize("name", WARNED)
def test_torch_and_tensorlib_warn_of_the_same(name):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    for lib in (torch, tensorlib):
        with pytest.warns(UserWarning, match=WARNED[name][1]):
            WARNED[name][0](lib)
