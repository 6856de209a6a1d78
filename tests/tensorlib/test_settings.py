"""Switches and questions scripts begin with: devices, determinism, default types."""

import importlib
import subprocess
import sys

import pytest

import tensorlib


def test_a_script_finds_out_that_there_is_no_gpu():
    expected = "cuda" if tensorlib.cuda.is_available() else "cpu"
    assert tensorlib.cuda.device_count() == (0 if expected == "cpu" else pytest.approx(1, abs=64))
    assert tensorlib.ones(1, device=expected).device.type == expected


@pytest.mark.skipif(tensorlib.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_functions_say_so():
    tensorlib.cuda.empty_cache()
    for ask in (tensorlib.cuda.current_device, tensorlib.cuda.synchronize):
        with pytest.raises(RuntimeError, match="CuPy"):
            ask()


def test_seeding_gpus_leaves_the_stream_alone():
    tensorlib.manual_seed(3)
    expected = tensorlib.rand(3).tolist()
    tensorlib.manual_seed(3)
    tensorlib.cuda.manual_seed(9)
    tensorlib.cuda.manual_seed_all(9)
    assert tensorlib.rand(3).tolist() == expected


def test_switches_remember_and_refuse():
    tensorlib.use_deterministic_algorithms(True, warn_only=True)
    try:
        assert tensorlib.are_deterministic_algorithms_enabled()
        assert tensorlib.is_deterministic_algorithms_warn_only_enabled()
    finally:
        tensorlib.use_deterministic_algorithms(False)
    assert not tensorlib.are_deterministic_algorithms_enabled()
    with pytest.raises(TypeError, match="bool"):
        tensorlib.use_deterministic_algorithms("yes")
    tensorlib.set_float32_matmul_precision("high")
    assert tensorlib.get_float32_matmul_precision() == "high"
    tensorlib.set_float32_matmul_precision("highest")
    with pytest.warns(UserWarning, match="best is not one of"):
        tensorlib.set_float32_matmul_precision("best")
    assert tensorlib.get_float32_matmul_precision() == "highest"
    assert tensorlib.set_flush_denormal(False)
    assert not tensorlib.set_flush_denormal(True)


def test_default_types_by_name():
    try:
        for name in ("torch.DoubleTensor", tensorlib.DoubleTensor, "tensorlib.HalfTensor"):
            tensorlib.set_default_tensor_type(name)
            assert tensorlib.ones(1).dtype is tensorlib.get_default_dtype() != tensorlib.float32
        with pytest.raises(TypeError, match="int32"):
            tensorlib.set_default_tensor_type("torch.IntTensor")
    finally:
        tensorlib.set_default_dtype(tensorlib.float32)


def test_default_device():
    assert tensorlib.get_default_device() == tensorlib.device("cpu")
    with tensorlib.device("cpu"):
        assert tensorlib.ones(1).device.type == "cpu"
    with pytest.raises(RuntimeError, match="gpu"):
        tensorlib.set_default_device("gpu")


@pytest.mark.skipif(tensorlib.cuda.is_available(), reason="there is a GPU")
def test_a_default_device_that_is_absent_is_an_error_where_it_is_used():
    with tensorlib.device("cuda"):
        for make in (lambda: tensorlib.ones(1), lambda: tensorlib.tensor([1])):
            with pytest.raises(RuntimeError, match="CuPy"):
                make()
    assert tensorlib.ones(1).device.type == "cpu"


def test_type_names():
    assert isinstance(tensorlib.ones(1), tensorlib.FloatTensor)
    assert not isinstance(tensorlib.ones(1), tensorlib.LongTensor)
    assert tensorlib.LongTensor([1, 2]).dtype is tensorlib.int64
    assert tensorlib.FloatTensor(2, 3).shape == (2, 3)
    with pytest.raises(AttributeError, match="FooTensor"):
        _ = tensorlib.FooTensor


def test_settings_need_no_other_library():
    code = "import sys, tensorlib as t; t.cuda.is_available(); assert 'scipy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_compile_gives_the_same_function():
    model = tensorlib.nn.Linear(2, 2)
    assert tensorlib.compile(model, mode="max-autotune") is model
    assert tensorlib.compile(fullgraph=True)(abs) is abs
    with pytest.raises(TypeError, match="int given"):
        tensorlib.compile(3)


def test_backends():
    for name in ("cudnn", "mps", "cuda", "mkldnn"):
        importlib.import_module(f"tensorlib.backends.{name}")
    backends = tensorlib.backends
    assert not backends.mps.is_available()
    assert backends.cudnn.version() is None
    assert (backends.cudnn.benchmark, backends.cudnn.deterministic) == (False, False)
    assert backends.cuda.matmul.allow_tf32 is False


@pytest.mark.skipif(tensorlib.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_held_and_moving_there_is_an_error():
    cuda = tensorlib.cuda
    assert cuda.memory_allocated() == cuda.memory_reserved() == cuda.max_memory_allocated() == 0
    assert cuda.get_rng_state_all() == []
    cuda.set_rng_state_all([])
    with pytest.raises(TypeError, match="1 states given"):
        cuda.set_rng_state_all([tensorlib.get_rng_state()])
    assert not tensorlib.accelerator.is_available()
    assert tensorlib.accelerator.device_count() == 0
    assert tensorlib.accelerator.current_accelerator() is None
    model = tensorlib.nn.Linear(1, 1)
    for use in (
        lambda: cuda.set_device(0),
        lambda: model.to("cuda"),
        lambda: tensorlib.ones(1, device="cuda:0"),
        lambda: tensorlib.ones(1).cuda(),
    ):
        # PyTorch built without CUDA raises AssertionError, built with it RuntimeError
        for kind in (RuntimeError, AssertionError):
            with pytest.raises(kind, match="Hint: pip install cupy"):
                use()


def test_variable():
    from tensorlib.autograd import Variable

    x = tensorlib.ones(2)
    y = Variable(x, requires_grad=True)
    assert y.is_leaf
    assert y.requires_grad
    y.data[0] = 3
    assert x.tolist() == [3, 1]
    assert isinstance(x, Variable)
    assert not isinstance(3, Variable)
    assert not Variable(y * 2).requires_grad
    assert Variable().shape == (0,)
    with pytest.raises(TypeError, match="got list"):
        Variable([1.0])
