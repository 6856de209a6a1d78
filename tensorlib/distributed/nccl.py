"""Arrays on CUDA devices, one device per rank, through NCCL as CuPy wraps it.

Tested with a stand-in for CuPy, over which the contract of all communicators runs; not run on
hardware.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tensorlib.device import cupy_module
from tensorlib.utils.workers import Workers

from . import reduction, tree
from .communicator import Buffers, Communicator
from .messages import Call, DistributedError, ReduceOp, as_bytes, on_device, raise_timeout
from .tcp import TcpCommunicator

__all__ = ["NcclCommunicator"]

_LOOK_EVERY_S = 0.2
_LONGEST_NAP_S = 0.001
# NCCL has no types for the others; they are moved as bytes and reduced along the tree.
_TYPES: Mapping[str, str] = {
    "int8": "NCCL_INT8",
    "uint8": "NCCL_UINT8",
    "int32": "NCCL_INT32",
    "uint32": "NCCL_UINT32",
    "int64": "NCCL_INT64",
    "uint64": "NCCL_UINT64",
    "float16": "NCCL_FLOAT16",
    "float32": "NCCL_FLOAT32",
    "float64": "NCCL_FLOAT64",
}
_OPS: Mapping[ReduceOp, str] = {
    ReduceOp.SUM: "NCCL_SUM",
    ReduceOp.AVG: "NCCL_SUM",  # divided afterwards, as everywhere here
    ReduceOp.MIN: "NCCL_MIN",
    ReduceOp.MAX: "NCCL_MAX",
    ReduceOp.PRODUCT: "NCCL_PROD",
}


class NcclCommunicator(Communicator):
    """Ranks with a device each. What is on the device travels by NCCL, all else by `host`.

    The ranks first tell each other over `host` what they are about to do, so that ranks that do
    different things, or do not come, are named instead of hanging the device. Work is queued on the
    device's current stream, after what is there already, and waited for: a peer that dies meanwhile
    or takes longer than the timeout makes this rank abort its NCCL communicator and raise.

    Args:
        host: how the same ranks talk about everything but device arrays; it is closed with this.
        exact: reduce along the tree of all communicators, with the same bits as each of them. False
            lets NCCL reduce by itself, which moves less and whose order depends on the number of
            ranks and on NCCL. `all_reduce_shards` always uses the tree.
    """

    def __init__(self, host: TcpCommunicator, *, exact: bool = True):
        super().__init__(host.rank, host.world_size, host.timeout_s)
        self.exact = exact
        self._host = host
        self._cupy = cupy = cupy_module("NcclCommunicator")
        self._nccl = nccl = cupy.cuda.nccl
        if not nccl.available:
            raise DistributedError("NcclCommunicator: this CuPy has no NCCL; expected one that has")
        self._device = int(cupy.cuda.runtime.getDevice())
        mine = None
        if self.rank == 0:  # signed chars, as C has them
            mine = np.array(nccl.get_unique_id(), np.int8).tobytes()
        unique = tuple(np.frombuffer(host.broadcast_bytes(mine), np.int8).tolist())
        self._comm: Any = None
        try:
            # It returns when all ranks have called it, or never.
            self._comm = self._bounded(
                Call("new_group"), nccl.NcclCommunicator, self.world_size, unique, self.rank
            )
        except BaseException as error:
            self._fail(str(error) or type(error).__name__)
            raise

    def allocate(self, size: int, dtype: Any) -> np.ndarray:
        made: np.ndarray = self._cupy.zeros(size, dtype)
        return made

    # -- what a Communicator needs

    def _exchange(self, call: Call, sends: Buffers, receives: Buffers) -> None:
        self._host.timeout_s = self.timeout_s
        buffers = [buffer for group in (*sends.values(), *receives.values()) for buffer in group]
        if not any(map(on_device, buffers)):
            self._host._exchange(call, sends, receives)
            return
        self._agree(call, sends, receives)
        with self._cupy.cuda.Device(self._device):
            outgoing = {peer: _joined(group) for peer, group in sends.items()}
            incoming = {peer: _room(group) for peer, group in receives.items()}
            stream, kind = self._stream(), self._nccl.NCCL_INT8
            self._nccl.groupStart()
            try:
                for peer, data in outgoing.items():
                    if data.size:
                        self._comm.send(_address(data), data.size, kind, peer, stream)
                for peer, data in incoming.items():
                    if data.size:
                        self._comm.recv(_address(data), data.size, kind, peer, stream)
            finally:
                self._nccl.groupEnd()
            self._wait(call, sorted(outgoing.keys() | incoming.keys()))
            for peer, data in incoming.items():
                _split(data, receives[peer])

    def _spread(self, call: Call, buffers: list[Any], src: int) -> None:
        if not on_device(buffers[0]):
            super()._spread(call, buffers, src)
            return
        everyone = dict.fromkeys(self._peers(), buffers)
        mine = self.rank == src
        self._agree(call, everyone if mine else {}, {} if mine else {src: buffers})
        with self._cupy.cuda.Device(self._device):
            for data in buffers:
                if data.size:
                    stream, kind = self._stream(), self._nccl.NCCL_INT8
                    self._comm.bcast(_address(data), data.size, kind, src, stream)
            self._wait(call, self._peers() if mine else [src])

    def _reduce_rows(
        self, call: Call, rows: Sequence[np.ndarray], plan: tree.Plan, op: ReduceOp
    ) -> None:
        row = rows[0]
        by_nccl = (
            not self.exact
            and on_device(row)
            and call.name != "all_reduce_shards"
            and row.dtype.name in _TYPES
            and row.size > 0
        )
        if not by_nccl:
            super()._reduce_rows(call, rows, plan, op)
            return
        peers = self._peers()
        none: dict[int, list[Any]] = {peer: [] for peer in peers}
        self._agree(call, none, none)
        with self._cupy.cuda.Device(self._device):
            kind, how = getattr(self._nccl, _TYPES[row.dtype.name]), getattr(self._nccl, _OPS[op])
            at = _address(row)
            self._comm.allReduce(at, at, row.size, kind, how, self._stream())
            self._wait(call, peers)
            share = reduction.divisor(op, row.dtype, self.world_size)
            if share is not None:
                np.divide(row, share, out=row)

    def _subgroup(self, ranks: list[int]) -> Communicator | None:
        host = self._host._subgroup(ranks)
        if isinstance(host, TcpCommunicator):
            return NcclCommunicator(host, exact=self.exact)
        return host  # a group of one, or none: nothing leaves the device

    def _shut(self, reason: str) -> None:
        if self._comm is not None:
            # `destroy` waits for what is under way, for ever where a peer is gone.
            self._comm.abort()
            self._comm = None
        self._host._fail(reason)

    # -- inside

    def _agree(self, call: Call, sends: Buffers, receives: Buffers) -> None:
        """Tell the peers what comes, and hear the same; returns when all of them are here."""
        told = {peer: np.array([_nbytes(group)], np.int64) for peer, group in sends.items()}
        heard = {peer: np.zeros(1, np.int64) for peer in receives}
        self._host._exchange(
            call,
            {peer: [as_bytes(size)] for peer, size in told.items()},
            {peer: [as_bytes(size)] for peer, size in heard.items()},
        )
        for peer, size in heard.items():
            if size[0] != (expected := _nbytes(receives[peer])):
                raise DistributedError(
                    f"{call.name}: this rank expects another size than {call.who(peer)} sends "
                    f"({expected} and {size[0]} bytes)"
                )

    def _stream(self) -> int:
        return int(self._cupy.cuda.get_current_stream().ptr)

    def _wait(self, call: Call, peers: list[int]) -> None:
        """Until the device has done all of it."""
        event = self._cupy.cuda.Event(disable_timing=True)
        event.record()
        self._poll(call, peers, lambda: bool(event.done))

    def _bounded(self, call: Call, function: Callable[..., Any], *arguments: Any) -> Any:
        """A call of NCCL's that waits for the peers, in a thread that may be left behind."""
        cupy, device = self._cupy, self._device

        def run() -> Any:
            with cupy.cuda.Device(device):
                return function(*arguments)

        running = Workers(1, "nccl").submit(run)
        self._poll(call, self._peers(), running.done)
        return running.result()

    def _poll(self, call: Call, peers: list[int], done: Callable[[], bool]) -> None:
        end = time.monotonic() + self.timeout_s
        look, nap_s = time.monotonic() + _LOOK_EVERY_S, 1e-5
        while not done():
            now = time.monotonic()
            if now >= look:
                look = now + _LOOK_EVERY_S
                self._host._look(call)
                if self._comm is not None:
                    self._comm.check_async_error()
            if now >= end:
                raise_timeout(call, peers, self.timeout_s)
            time.sleep(nap_s)
            nap_s = min(2 * nap_s, _LONGEST_NAP_S)


def _address(array: Any) -> int:
    return int(array.__cuda_array_interface__["data"][0])


def _nbytes(buffers: Sequence[Any]) -> int:
    return sum(int(buffer.nbytes) for buffer in buffers)


def _joined(buffers: Sequence[Any]) -> Any:
    """One message: sender and receiver may cut it differently."""
    if len(buffers) == 1:
        return buffers[0]
    return np.concatenate(list(buffers)) if buffers else np.empty(0, np.uint8)


def _room(buffers: Sequence[Any]) -> Any:
    if len(buffers) == 1:
        return buffers[0]
    if not buffers:
        return np.empty(0, np.uint8)
    return np.empty_like(buffers[0], shape=_nbytes(buffers))


def _split(data: Any, buffers: Sequence[Any]) -> None:
    if len(buffers) < 2:
        return
    start = 0
    for buffer in buffers:
        buffer[...] = data[start : start + buffer.size]
        start += buffer.size
