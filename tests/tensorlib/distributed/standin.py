"""A stand-in for CuPy and its NCCL: ranks are threads, device memory is the host's.

Work is queued on streams that run in threads of their own, as on a device: what a collective did is
not there before the event behind it is done. `dropped` and `failed` make links lose messages.
"""

from __future__ import annotations

import ctypes
import threading
from queue import Empty, SimpleQueue
from types import SimpleNamespace
from typing import Any

import numpy as np


class DeviceArray(np.ndarray):
    """Memory that host code must not touch."""

    @property
    def data(self):
        raise TypeError("the memory of a device has no buffer on the host")

    @property
    def __cuda_array_interface__(self):
        return {"data": (self.ctypes.data, False)}

    def __array_function__(self, function, types, args, kwargs):
        found = super().__array_function__(function, types, args, kwargs)
        return on_device(found) if type(found) is np.ndarray else found


def on_device(array):
    """The array's memory, as a device's."""
    return array.view(DeviceArray)


class NcclError(RuntimeError):
    pass


dropped: set[tuple[int, int]] = set()  # (from, to): what is sent never comes
failed: set[int] = set()  # ranks whose communicator reports an error
aborted: list[int] = []  # ranks that aborted, in order


class _Aborted(Exception):
    pass


class _Stream:
    def __init__(self):
        self.queue: SimpleQueue[Any] = SimpleQueue()
        self.ptr = id(self)
        threading.Thread(target=self._run, daemon=True, name="stream").start()

    def _run(self):
        while True:
            work = self.queue.get()
            try:
                work()
            except _Aborted:
                pass


_streams: dict[int, _Stream] = {}
_here = threading.local()


def get_current_stream():
    if not hasattr(_here, "stream"):
        _here.stream = _Stream()
        _streams[_here.stream.ptr] = _here.stream
    return _here.stream


class Event:
    def __init__(self, disable_timing=False):
        self.done = False

    def record(self):
        get_current_stream().queue.put(lambda: setattr(self, "done", True))


class _World:
    """What the ranks of one unique id share."""

    def __init__(self, size):
        self.came = threading.Barrier(size)
        self.links = {(a, b): SimpleQueue() for a in range(size) for b in range(size)}


_worlds: dict[tuple[int, ...], _World] = {}
_lock = threading.Lock()
_ids = iter(range(1, 1 << 30))
_BYTES = {0: 1, 1: 1, 2: 4, 3: 4, 4: 8, 5: 8, 6: 2, 7: 4, 8: 8}
_NUMPY = {0: "i1", 1: "u1", 2: "i4", 3: "u4", 4: "i8", 5: "u8", 6: "f2", 7: "f4", 8: "f8"}
_UFUNCS = {0: np.add, 1: np.multiply, 2: np.maximum, 3: np.minimum}


def get_unique_id():
    number = next(_ids)
    return (-128, 127, number % 100, number // 100, *([0] * 124))


class NcclCommunicator:
    def __init__(self, ndev, uid, rank):
        assert len(uid) == 128
        assert all(-128 <= byte < 128 for byte in uid)
        with _lock:
            self.world = _worlds.setdefault(uid, _World(ndev))
        self.rank, self.size, self.gone = rank, ndev, threading.Event()
        self.world.came.wait()

    def abort(self):
        aborted.append(self.rank)
        self.gone.set()

    def check_async_error(self):
        if self.rank in failed:
            raise NcclError("NCCL_ERROR_SYSTEM_ERROR: unhandled system error")

    def _put(self, peer, data):
        if (self.rank, peer) not in dropped:
            self.world.links[self.rank, peer].put(data)

    def _take(self, peer, count):
        while not self.gone.is_set():
            try:
                data = self.world.links[peer, self.rank].get(timeout=0.005)
            except Empty:
                continue
            assert len(data) == count
            return data
        raise _Aborted

    def send(self, at, count, kind, peer, stream):
        nbytes = count * _BYTES[kind]
        _queue(stream, lambda: self._put(peer, ctypes.string_at(at, nbytes)), first=True)

    def recv(self, at, count, kind, peer, stream):
        nbytes = count * _BYTES[kind]
        _queue(stream, lambda: ctypes.memmove(at, self._take(peer, nbytes), nbytes))

    def bcast(self, at, count, kind, root, stream):
        nbytes = count * _BYTES[kind]

        def work():
            if self.rank != root:
                ctypes.memmove(at, self._take(root, nbytes), nbytes)
                return
            for peer in range(self.size):
                if peer != root:
                    self._put(peer, ctypes.string_at(at, nbytes))

        _queue(stream, work)

    def allReduce(self, at, to, count, kind, op, stream):
        """Adds from the last rank to the first: another order than the tree's."""
        nbytes = count * _BYTES[kind]

        def work():
            mine = ctypes.string_at(at, nbytes)
            for peer in range(self.size):
                if peer != self.rank:
                    self._put(peer, mine)
            total = None
            for peer in reversed(range(self.size)):
                data = mine if peer == self.rank else self._take(peer, nbytes)
                part = np.frombuffer(data, _NUMPY[kind])
                total = part if total is None else _UFUNCS[op](total, part)
            ctypes.memmove(to, total.tobytes(), nbytes)

        _queue(stream, work)


def _queue(stream, work, first=False):
    group = getattr(_here, "group", None)
    if group is None:
        _streams[stream].queue.put(work)
    else:
        group.append((stream, first, work))


def groupStart():
    _here.group = []


def groupEnd():
    """All calls of a group go on at the same time: sending waits for no receiving."""
    group, _here.group = _here.group, None
    for stream, _, work in sorted(group, key=lambda entry: not entry[1]):
        _streams[stream].queue.put(work)


class Device:
    def __init__(self, number):
        self.number = number

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


_names = [
    "INT8",
    "UINT8",
    "INT32",
    "UINT32",
    "INT64",
    "UINT64",
    "FLOAT16",
    "FLOAT32",
    "FLOAT64",
]
nccl = SimpleNamespace(
    available=True,
    get_unique_id=get_unique_id,
    NcclCommunicator=NcclCommunicator,
    groupStart=groupStart,
    groupEnd=groupEnd,
    **{f"NCCL_{name}": number for number, name in enumerate(_names)},
    **{f"NCCL_{name}": number for number, name in enumerate(["SUM", "PROD", "MAX", "MIN"])},
)
cuda = SimpleNamespace(
    nccl=nccl,
    Device=Device,
    Event=Event,
    get_current_stream=get_current_stream,
    runtime=SimpleNamespace(getDevice=lambda: 0),
)


def zeros(shape, dtype):
    return on_device(np.zeros(shape, dtype))
