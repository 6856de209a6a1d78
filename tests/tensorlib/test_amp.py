"""Scaled losses beside torch's; autocast where it is on is refused."""

import pickle
import warnings

import pytest

import tensorlib
from tensorlib import amp
from tensorlib.amp import GradScaler, autocast


def training(torch, kind):
    """Factors and weights of a training whose fourth and fifth gradients overflow."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8, growth_interval=3)
    seen = []
    for step in range(12):
        x = torch.full((2, 3), float("inf") if step in (4, 5) else step / 12)
        optimizer.zero_grad()
        loss = model(x).pow(2).mean()
        scaled, both = scaler.scale(loss), scaler.scale((loss, [loss]))
        assert both[1][0].item() == scaled.item() or step in (4, 5)
        scaled.backward()
        if kind == "clipped":
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        scaler.step(optimizer)
        scaler.update(64.0 if kind == "given" and step == 8 else None)
        seen += [scaler.get_scale(), *model.weight.flatten().tolist()]
        if step == 6:
            again = torch.amp.GradScaler("cpu")
            again.load_state_dict(scaler.state_dict())
            scaler = again
    return seen, scaler.state_dict()


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["plain", "clipped", "given"])
def test_a_scaled_training_is_torchs(kind):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    (ours, state), (theirs, expected) = training(tensorlib, kind), training(torch, kind)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert state == expected


def test_misuse_of_the_scaler():
    model = tensorlib.nn.Linear(1, 1)
    optimizer = tensorlib.optim.SGD(model.parameters(), lr=0.1)
    scaler = GradScaler("cpu")
    with pytest.raises(AssertionError, match=r"expected step\(\) before"):
        scaler.update()
    with pytest.raises(ValueError, match="int given"):
        scaler.scale(3)
    scaler.scale(model(tensorlib.ones(1, 1)).sum()).backward()
    scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="were unscaled since"):
        scaler.unscale_(optimizer)
    with pytest.raises(RuntimeError, match="closure"):
        scaler.step(optimizer, closure=lambda: None)
    scaler.step(optimizer)
    with pytest.raises(RuntimeError, match="called twice"):
        scaler.step(optimizer)
    with pytest.raises(AssertionError, match=r"growth_factor=0\.5"):
        GradScaler("cpu", growth_factor=0.5)
    with pytest.raises(RuntimeError, match="the state is empty"):
        scaler.load_state_dict({})
    assert pickle.loads(pickle.dumps(GradScaler("cpu", 4.0))).get_scale() == 4


def test_a_scaler_that_is_off_does_nothing():
    scaler = GradScaler("cpu", enabled=False)
    loss = tensorlib.ones(1)
    assert scaler.scale(loss) is loss
    assert scaler.get_scale() == 1
    assert scaler.state_dict() == {}
    scaler.load_state_dict({})
    scaler.update()
    assert not scaler.is_enabled()


@pytest.mark.skipif(tensorlib.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_warns_and_is_off():
    with pytest.warns(UserWarning, match="CUDA is not available"):
        assert not GradScaler().is_enabled()
    with pytest.warns(UserWarning, match="CUDA is not available"), autocast("cuda"):
        pass
    with pytest.warns(FutureWarning, match=r"torch.amp.GradScaler\('cuda'"):
        tensorlib.cuda.amp.GradScaler(enabled=False)
    with pytest.warns(FutureWarning, match=r"torch.amp.autocast\('cuda'"):
        tensorlib.cuda.amp.autocast(enabled=False)


def test_custom_functions_are_as_they_are():
    class Double(tensorlib.autograd.Function):
        @staticmethod
        @amp.custom_fwd(device_type="cpu", cast_inputs=tensorlib.float32)
        def forward(ctx, x):
            return x * 2

        @staticmethod
        @tensorlib.cuda.amp.custom_bwd
        def backward(ctx, grad):
            return grad * 2

    x = tensorlib.ones(2, requires_grad=True)
    Double.apply(x).sum().backward()
    assert x.grad.tolist() == [2, 2]
    assert not amp.is_autocast_available("cpu")


def test_autocast():
    with pytest.raises(NotImplementedError, match=r"enabled for 'cpu'.*model\.to"):
        tensorlib.autocast("cpu")
    with pytest.raises(RuntimeError, match="unknown device 'foo'"):
        autocast("foo")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with autocast("cpu", enabled=False):
            x = tensorlib.ones(1)
        assert autocast("cuda", tensorlib.float16, enabled=False)(tensorlib.neg)(x).item() == -1
