"""torch.distributed's functions on the process group, and objects without pickle."""

import json
import socket
import struct
import subprocess
import sys

import numpy as np
import pytest

import tensorlib
import tensorlib.distributed as dist
from tensorlib.distributed import ThreadCommunicator, objects


@pytest.fixture
def alone(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    dist.init_process_group()
    yield
    dist.destroy_process_group()


def test_a_group_of_one_needs_no_address(alone):
    assert dist.is_initialized()
    assert (dist.get_rank(), dist.get_world_size()) == (0, 1)
    array = np.array([2.0, 4.0])
    dist.all_reduce(array, dist.ReduceOp.AVG)
    dist.broadcast(array)
    dist.barrier()
    gathered = [np.zeros(2)]
    dist.all_gather(gathered, array)
    joined = np.zeros(2)
    dist.all_gather_into_tensor(joined, array)
    kept = [np.zeros(2)]
    dist.gather(array, kept)
    part = np.zeros(2)
    dist.reduce_scatter(part, [array])
    other = np.zeros(2)
    dist.reduce_scatter_tensor(other, array)
    for result in (array, gathered[0], joined, kept[0], part, other):
        np.testing.assert_array_equal(result, [2.0, 4.0])
    values = [{"a": 1}, "b"]
    dist.broadcast_object_list(values)
    assert values == [{"a": 1}, "b"]
    with pytest.raises(RuntimeError, match="in a group already"):
        dist.init_process_group()


def test_without_a_group():
    assert not dist.is_initialized()
    with pytest.raises(ValueError, match="in no group"):
        dist.get_rank()
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("env", "text"),
    [
        ({}, "RANK .* is not set"),
        ({"RANK": "0"}, "WORLD_SIZE .* is not set"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK='x'"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "rank=2, world_size=2"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}, "MASTER_PORT"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "h", "MASTER_PORT": "0"},
            "MASTER_PORT=0",
        ),
    ],
)
def test_what_is_missing_is_named(monkeypatch, env, text):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=text):
        dist.init_process_group()
    assert not dist.is_initialized()


def test_arguments_of_init():
    with pytest.raises(ValueError, match="backend='mpi'"):
        dist.init_process_group("mpi", rank=0, world_size=1)
    with pytest.raises(ValueError, match="timeout=0"):
        dist.init_process_group("tcp", timeout=0, rank=0, world_size=1)
    with pytest.raises(ValueError, match="backend='threads' with world_size=2"):
        dist.init_process_group("threads", rank=0, world_size=2)
    with pytest.raises(ValueError, match="communicator excludes"):
        dist.init_process_group("tcp", communicator=ThreadCommunicator.group(1)[0])
    for method in ("file:///tmp/x", "tcp://host", "tcp://host:0", "tcp://host:70000"):
        with pytest.raises(ValueError, match="init_method"):
            dist.init_process_group("gloo", method, rank=0, world_size=1)


def test_scripts_for_torch_meet_by_init_method_and_timedelta():
    """PyTorch's arguments: backend, init_method, timeout, world_size, rank."""
    program = (
        "import sys, datetime\n"
        "import numpy as np\n"
        "import tensorlib.distributed as dist\n"
        "rank = int(sys.argv[1])\n"
        "wait = datetime.timedelta(seconds=30)\n"
        "dist.init_process_group('gloo', 'tcp://127.0.0.1:' + sys.argv[2], wait, 2, rank)\n"
        "x = np.full(3, rank + 1.0)\n"
        "dist.all_reduce(x)\n"
        "assert x.tolist() == [3.0, 3.0, 3.0]\n"
        "dist.destroy_process_group()\n"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    ranks = [subprocess.Popen([sys.executable, "-c", program, str(r), port]) for r in (0, 1)]
    assert [rank.wait(60) for rank in ranks] == [0, 0]


def test_wrong_tensors_are_refused(alone):
    fixed = np.zeros(2)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        dist.all_reduce(fixed)
    with pytest.raises(TypeError, match="list"):
        dist.all_reduce([1.0])
    with pytest.raises(ValueError, match="tensor_list is 2 tensors; expected 1"):
        dist.all_gather([np.zeros(2), np.zeros(2)], np.zeros(2))
    with pytest.raises(ValueError, match=r"tensor_list\[0\] is float64 \(3,\)"):
        dist.all_gather([np.zeros(3)], np.zeros(2))
    with pytest.raises(ValueError, match="room for all"):
        dist.all_gather_into_tensor(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="1 times its size"):
        dist.reduce_scatter_tensor(np.zeros(3), np.zeros(2))


VALUES = [
    None,
    [True, 1, -2.5, "text", float("inf")],
    {"a": [1, (2, (3,))], "b": b"\0\xff"},
    {"$tensorlib": "a user's own key", "x": {"$tensorlib": "tuple"}},
    (),
    b"",
]


@pytest.mark.parametrize("value", VALUES)
def test_objects_survive(value):
    result = objects.loads(objects.dumps(value))
    assert result == value
    assert type(result) is type(value)


def test_arrays_survive():
    arrays = {
        "many": np.arange(6, dtype=np.int32).reshape(2, 3),
        "one": np.array(2.5, np.float16),
        "none": np.zeros((0, 4)),
    }
    result = objects.loads(objects.dumps(arrays))
    for name, array in arrays.items():
        assert result[name].dtype == array.dtype
        np.testing.assert_array_equal(result[name], array)
        assert result[name].flags.writeable


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({1: 2}, "key 1"),
        ([{"a": {1, 2}}], r"object\[0\]\['a'\]: set"),
        (np.array([object()]), "ndarray"),
        (print, "builtin_function_or_method"),
    ],
)
def test_other_objects_are_refused(value, text):
    with pytest.raises(TypeError, match=text):
        objects.dumps(value)


def _message(value, blob=b""):
    text = json.dumps(value).encode()
    return struct.pack("<Q", len(text)) + text + blob


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 8,
        _message({"$tensorlib": "array", "at": [0, 8], "dtype": "<f4", "shape": [1]}, b"\0" * 8),
        _message({"$tensorlib": "array", "at": [0, 8], "dtype": "O", "shape": [1]}, b"\0" * 8),
        _message({"$tensorlib": "bytes", "at": [0, 9]}, b"\0" * 8),
        _message({"$tensorlib": "array"}),
        objects.dumps([1, 2])[:-1],
    ],
)
def test_damaged_objects_are_an_error(data):
    with pytest.raises(ValueError, match=r"."):
        objects.loads(data)


def test_tensors_are_changed_in_place_and_autograd_notices(alone):
    tensor = tensorlib.tensor([2.0, 4.0])
    dist.all_reduce(tensor, dist.ReduceOp.AVG)
    assert tensor.tolist() == [2.0, 4.0]
    out = tensorlib.zeros(1, 2)
    dist.all_gather_into_tensor(out, tensor)
    assert out.tolist() == [[2.0, 4.0]]
    weight = tensorlib.tensor([1.0, 1.0], requires_grad=True)
    loss = (weight * tensor).sum()
    dist.broadcast(tensor)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    values = [None]
    dist.all_gather_object(values, {"t": tensor})
    np.testing.assert_array_equal(values[0]["t"], [2.0, 4.0])
