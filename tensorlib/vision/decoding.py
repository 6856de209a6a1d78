"""Images decoded in processes of their own, so that a file that breaks its decoder breaks nothing
else.

A process works on one file at a time and has the next one ready, so that it never waits. It has at
most so much memory beyond what it starts with, and each file a deadline. One that dies or is late
is replaced; the file that it had in work is the culprit. Paths and encoded bytes go there, pixels
come back, through memory that both sides have open; a socket carries a few numbers for each image.
"""

from __future__ import annotations

import json
import mmap
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np

from tensorlib.errors import InvalidValueError, TensorlibError
from tensorlib.vision import decoder, image
from tensorlib.vision.decoder import READY, REPLY, REQUEST, SLOTS, Recipe
from tensorlib.vision.image import ImageError
from tensorlib.vision.transforms import ImageClassification

__all__ = ["DecoderError", "DecoderPool", "Decodings"]

Source = str | os.PathLike[str] | bytes

_PROGRAM = Path(decoder.__file__)
_START_S = 60.0  # until a process says that it is ready
_END_S = 2.0  # for a process that was told to end
_TRIES = 2  # of a file whose decoder died, which another process's memory may have caused
_REASON_BYTES = 1000
_LARGE_BYTES = 1 << 20  # of an input, whose memory is given back at once


class DecoderError(TensorlibError, RuntimeError):
    """Decoder processes cannot be started."""


@dataclass(frozen=True)
class Decodings:
    """What became of N files, in their order.

    Attributes:
        images: uint8 [N, crop_size, crop_size, C]; zeros where there is an error.
        errors: None, or the reason in one line.
        width, height: int64 [N], of the picture as seen; 0 where there is an error.
        rotated: bool [N], whether EXIF turned or mirrored it.
    """

    images: np.ndarray
    errors: list[str | None]
    width: np.ndarray
    height: np.ndarray
    rotated: np.ndarray

    @classmethod
    def of(cls, count: int, recipe: Recipe) -> Decodings:
        """Room for `count` files."""
        return cls(
            np.zeros((count, *recipe.shape), np.uint8),
            [None] * count,
            np.zeros(count, np.int64),
            np.zeros(count, np.int64),
            np.zeros(count, np.bool_),
        )


class DecoderPool:
    """Decodes files to what the preset makes of them before `normalize`; a context manager.

    Args:
        preset: whose `to_uint8` is applied.
        processes: how many decode at a time; 0 decodes in this process, without limits.
        timeout_s: for one file.
        memory_bytes: for one file.
        exif: as in `image.decode`.
        draft: a JPEG of at least twice the size that the preset resizes to is decoded smaller,
            faster and not to the same pixels.

    Processes start at once and take about 0.2 s, during which the caller can do something else.
    Calls from several threads run one after the other.

    Raises InvalidValueError for an argument out of range, and `decode` DecoderError where
    processes do not start.
    """

    def __init__(
        self,
        preset: ImageClassification,
        processes: int,
        timeout_s: float = 30.0,
        memory_bytes: int = 1 << 30,
        exif: Literal["apply", "ignore"] = "apply",
        draft: bool = False,
    ) -> None:
        if processes < 0 or timeout_s <= 0 or memory_bytes <= 0:
            raise InvalidValueError(
                "DecoderPool",
                f"processes={processes}, timeout_s={timeout_s}, memory_bytes={memory_bytes}",
                "processes of at least 0, limits above 0",
            )
        if draft and preset.resize_size is None:
            raise InvalidValueError(
                "DecoderPool", "draft=True for a preset that does not resize", "draft=False"
            )
        self.recipe = Recipe(
            preset.mode, preset.resize_size, preset.crop_size, preset.interpolation, exif, draft
        )
        self.processes, self.timeout_s, self.memory_bytes = processes, timeout_s, memory_bytes
        self._owner = os.getpid()
        self._lock, self._closed = threading.Lock(), False
        self._selector = selectors.DefaultSelector()
        self._processes: list[_Process] = []
        for _ in range(processes):
            self._start()

    def policy(self) -> dict[str, Any]:
        """The decoding policy with the limits of this pool, as a record for reports."""
        return {
            **image.policy(self.recipe.exif, self.recipe.draft),
            "processes": self.processes,
            "timeout_s": self.timeout_s if self.processes else None,
            "memory_bytes": self.memory_bytes if self.processes else None,
        }

    def decode(self, files: Sequence[Source]) -> Decodings:
        """Decode files, given as paths or as their encoded bytes."""
        result = Decodings.of(len(files), self.recipe)
        with self._lock:
            if self._closed:
                raise DecoderError("DecoderPool: decode after close; expected an open pool")
            if not self.processes:
                for i, source in enumerate(files):
                    self._here(i, source, result)
                return result
            try:
                self._there(files, result)
            except BaseException:  # the files in work must not answer the next call
                for process in [process for process in self._processes if process.files]:
                    process.kill()
                    process.end()
                    self._forget(process)
                    self._start()
                raise
        return result

    def _there(self, files: Sequence[Source], result: Decodings) -> None:
        waiting = deque((i, 1) for i in range(len(files)))
        while waiting or any(process.files for process in self._processes):
            for depth in range(SLOTS):
                for process in self._processes:
                    if waiting and process.started and len(process.files) == depth:
                        i, tries = waiting.popleft()
                        process.give(i, tries, files[i])
            self._wait(waiting, result)

    def _here(self, i: int, source: Source, result: Decodings) -> None:
        try:
            pixels, width, height, rotated = decoder.pixels_of(source, self.recipe)
        except ImageError as error:
            result.errors[i] = str(error)
        else:
            result.images[i], result.rotated[i] = pixels, rotated
            result.width[i], result.height[i] = width, height

    def _wait(self, waiting: deque[tuple[int, int]], result: Decodings) -> None:
        """Take over what is done, and replace processes that died or are late."""
        due = min(process.deadline for process in self._processes)
        ready = self._selector.select(max(0.0, due - time.monotonic()))
        for key, _ in ready:
            process: _Process = key.data
            if not process.receive(result):
                self._bury(process, waiting, result)
        now = time.monotonic()
        done = {id(key.data) for key, _ in ready}
        for process in list(self._processes):
            if now >= process.deadline and id(process) not in done:
                process.late = True
                process.kill()
                self._bury(process, waiting, result)

    def _bury(self, process: _Process, waiting: deque[tuple[int, int]], result: Decodings) -> None:
        why = process.end()
        if not process.started:
            self._forget(process)
            self._start()
            raise DecoderError(
                f"DecoderPool: a decoder process {why} before it was ready; expected it to start "
                f"within {_START_S:g} s. Hint: what it printed says why; processes=0 decodes here"
            )
        if process.files:
            (i, tries), *others = process.files
            waiting.extendleft(others)
            if process.late:
                result.errors[i] = f"decoding took longer than {self.timeout_s:g} s"
            elif tries < _TRIES:
                waiting.appendleft((i, tries + 1))
            else:
                result.errors[i] = f"the decoder {why}, {tries} times"
        self._forget(process)
        self._start()

    def _start(self) -> None:
        process = _Process(self.recipe, self.timeout_s, self.memory_bytes)
        self._processes.append(process)
        self._selector.register(process.socket, selectors.EVENT_READ, process)

    def _forget(self, process: _Process) -> None:
        self._selector.unregister(process.socket)
        self._processes.remove(process)
        process.close()

    def close(self) -> None:
        """End the processes."""
        with self._lock:
            self._closed = True
            for process in self._processes:
                process.hang_up()
            for process in list(self._processes):
                process.end()
                self._forget(process)
            self._selector.close()

    def __enter__(self) -> DecoderPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # a fork of this process has the sockets too, and no business to end their use
        if getattr(self, "_processes", None) and self._owner == os.getpid():
            self.close()


class _Process:
    """A decoder process, the memory shared with it, and the file that it has."""

    def __init__(self, recipe: Recipe, timeout_s: float, memory_bytes: int) -> None:
        self.socket, theirs = socket.socketpair()
        size = int(np.prod(recipe.shape))
        self.inputs, self.outputs = (
            [os.memfd_create(f"decoder-{what}", os.MFD_CLOEXEC) for _ in range(SLOTS)]
            for what in ("inputs", "outputs")
        )
        for file in self.outputs:
            os.ftruncate(file, max(size, _REASON_BYTES))
        self._memory = [mmap.mmap(file, 0) for file in self.outputs]
        self._pixels = [
            np.frombuffer(memory, np.uint8, size).reshape(recipe.shape) for memory in self._memory
        ]
        options = {
            "path": [str(path) for path in sys.path],
            "socket": theirs.fileno(),
            "inputs": self.inputs,
            "outputs": self.outputs,
            "recipe": asdict(recipe),
            "timeout_s": timeout_s,
            "memory_bytes": memory_bytes,
            "reason_bytes": _REASON_BYTES,
        }
        with theirs:
            # -S: the parent's path is used, so `site` need not find it again
            self.process = subprocess.Popen(
                [sys.executable, "-S", "-P", str(_PROGRAM), json.dumps(options)],
                pass_fds=(theirs.fileno(), *self.inputs, *self.outputs),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            )
        self.started = self.late = False
        self.files: deque[tuple[int, int]] = deque()  # place, and the how manieth try it is
        self._given = self._taken = 0
        self._timeout_s, self.deadline = timeout_s, time.monotonic() + _START_S

    def give(self, i: int, tries: int, source: Source) -> None:
        """Give it a file; a process that is dead by now is noticed when its answer is awaited."""
        inputs = self.inputs[self._given % SLOTS]
        is_path = not isinstance(source, bytes)
        data = os.fspath(source)
        data = data.encode(errors=decoder.PATH_ERRORS) if isinstance(data, str) else data
        at = 0
        while at < len(data):
            at += os.pwrite(inputs, memoryview(data)[at:], at)
        self._given += 1
        self.files.append((i, tries))
        if len(self.files) == 1:
            self._set_deadline()
        try:
            self.socket.sendall(REQUEST.pack(is_path, len(data)))
        except OSError:
            pass  # it died idle: the selector reports its end of the socket as closed

    def receive(self, result: Decodings) -> bool:
        """Take over an answer; False where it died instead."""
        if not self.started:
            self.started = self._read(len(READY)) == READY
            self.deadline = float("inf")
            return self.started
        answer = self._read(REPLY.size)
        if len(answer) < REPLY.size or not self.files:
            return False
        length, rotated, width, height = REPLY.unpack(answer)
        slot = self._taken % SLOTS
        i, _ = self.files.popleft()
        if length:
            reason = bytes(self._memory[slot][:length])
            result.errors[i] = reason.decode(errors="backslashreplace")
        else:
            result.images[i], result.rotated[i] = self._pixels[slot], rotated
            result.width[i], result.height[i] = width, height
        self._taken += 1
        self._set_deadline()
        if os.fstat(self.inputs[slot]).st_size > _LARGE_BYTES:
            os.ftruncate(self.inputs[slot], 0)
        return True

    def _set_deadline(self) -> None:
        """For the file that it begins now."""
        self.deadline = time.monotonic() + self._timeout_s if self.files else float("inf")

    def _read(self, size: int) -> bytes:
        try:
            return self.socket.recv(size, socket.MSG_WAITALL)
        except OSError:
            return b""

    def hang_up(self) -> None:
        """Let it end by itself."""
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it ended already

    def kill(self) -> None:
        """End it now."""
        self.process.kill()

    def end(self) -> str:
        """How it ended, after a moment at most."""
        try:
            code = self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.kill()
            try:
                code = self.process.wait(_END_S)
            except subprocess.TimeoutExpired:  # waits for a disk that does not answer
                return "does not end"
        if code >= 0:
            return f"ended with status {code}"
        name = signal.Signals(-code).name
        return f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")

    def close(self) -> None:
        """Let go of what is shared with it."""
        self.socket.close()
        self._pixels.clear()
        for memory in self._memory:
            memory.close()
        for file in (*self.inputs, *self.outputs):
            os.close(file)
