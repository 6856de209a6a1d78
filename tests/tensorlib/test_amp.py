"""Scaled losses and autocast beside torch's."""

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

import tensorlib
from tensorlib import amp
from tensorlib.amp import GradScaler, autocast
from tensorlib.utils.checkpoint import checkpoint


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


def results(torch, dtype):
    """A convolution, a norm, attention, an LSTM and a loss inside autocast, and gradients."""
    torch.manual_seed(0)
    nn, x = torch.nn, torch.randn(4, 3, 6, 6)
    conv, norm, attend = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.MultiheadAttention(8, 2)
    head = nn.Linear(8, 5)
    with torch.autocast("cpu", dtype=getattr(torch, dtype)):
        seen = norm(conv(x)).relu()
        rows = seen.flatten(2).permute(2, 0, 1)
        mixed = attend(rows, rows, rows, need_weights=False)[0]
        logits = head(mixed.mean(0))
        loss = nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3]))
    loss.backward()
    values = [seen, mixed, logits, loss, conv.weight.grad, head.weight.grad]
    return [(str(v.dtype).split(".")[-1], v.float().flatten().tolist()) for v in values]


@pytest.mark.oracle
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_autocast_computes_as_torchs(dtype):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    for (kind, ours), (expected_kind, theirs) in zip(
        results(tensorlib, dtype), results(torch, dtype), strict=True
    ):
        assert kind == expected_kind
        assert ours == pytest.approx(theirs, abs=0.06, rel=0.06)


def test_autocast_lowers_products_and_keeps_parameters_and_losses():
    model = tensorlib.nn.Linear(3, 2)
    x, y = tensorlib.ones(4, 3), tensorlib.zeros(4, 2)
    with autocast("cpu"):
        out = model(x)
        assert out.dtype is tensorlib.bfloat16
        assert (x @ x.T).dtype is tensorlib.bfloat16
        assert tensorlib.nn.LSTM(2, 2)(out[None])[0].dtype is tensorlib.float32
        loss = tensorlib.nn.functional.mse_loss(out, y)
        with autocast("cpu", enabled=False):
            assert model(x).dtype is tensorlib.float32
        with autocast("cpu", tensorlib.float16):
            assert model(x).dtype is tensorlib.float16
        assert model(x).dtype is tensorlib.bfloat16
        assert model.double()(x.double()).dtype is tensorlib.float64
        assert amp.is_autocast_enabled("cpu")
        assert amp.get_autocast_dtype("cpu") is tensorlib.bfloat16
    assert loss.dtype is tensorlib.float32
    assert not amp.is_autocast_enabled("cpu")
    model.float()
    model(x).sum().backward()
    assert model.weight.grad.dtype is tensorlib.float32


def test_autocast_is_of_its_thread_and_ends_with_an_error():
    model, x = tensorlib.nn.Linear(3, 2), tensorlib.ones(1, 3)
    with autocast("cpu"), ThreadPoolExecutor(1) as pool:
        assert pool.submit(model, x).result(30).dtype is tensorlib.float32
    with pytest.raises(KeyError), autocast("cpu"):
        raise KeyError
    assert model(x).dtype is tensorlib.float32
    assert autocast("cpu")(model)(x).dtype is tensorlib.bfloat16


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_computes_again_in_the_same_precision(reentrant):
    tensorlib.manual_seed(0)
    model = tensorlib.nn.Sequential(tensorlib.nn.Linear(3, 8), tensorlib.nn.Tanh())
    x = tensorlib.randn(5, 3, requires_grad=True)
    grads = []
    for kept in (True, False):
        model.zero_grad()
        with autocast("cpu"):
            out = model(x) if kept else checkpoint(model, x, use_reentrant=reentrant)
        (out.float() ** 2).sum().backward()
        grads.append(model[0].weight.grad.clone())
    assert grads[0].tolist() == grads[1].tolist()


def test_custom_functions_follow_autocast():
    seen = []

    class Double(tensorlib.autograd.Function):
        @staticmethod
        @amp.custom_fwd(device_type="cpu", cast_inputs=tensorlib.float32)
        def forward(ctx, x):
            seen.append((x.dtype, (x[None] @ x[:, None]).dtype))
            return x * 2

        @staticmethod
        @amp.custom_bwd(device_type="cpu")
        def backward(ctx, grad):
            seen.append((grad[None] @ grad[:, None]).dtype)
            return grad * 2

    x = tensorlib.ones(2, requires_grad=True)
    with autocast("cpu"):
        Double.apply(x.bfloat16()).sum().backward()
    assert x.grad.tolist() == [2, 2]
    assert seen == [(tensorlib.float32, tensorlib.float32), tensorlib.float32]


def test_autocast():
    with pytest.raises(RuntimeError, match="unknown device 'foo'"):
        autocast("foo")
    with pytest.warns(UserWarning, match="float64 is not supported"):
        off = autocast("cpu", tensorlib.float64)
    with off:
        assert not amp.is_autocast_enabled("cpu")
    assert amp.is_autocast_available("cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with autocast("cpu", enabled=False):
            x = tensorlib.ones(1)
        assert autocast("cuda", tensorlib.float16, enabled=False)(tensorlib.neg)(x).item() == -1
