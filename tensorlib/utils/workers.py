"""Threads that run calls in the order of their submission."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Any


class Workers:
    """`count` daemon threads named `name-0`, `name-1`, ...

    Not concurrent.futures' pool: that one joins its threads at exit, so a call that hangs would
    keep the process from ending after its timeout was reported.
    """

    def __init__(self, count: int, name: str):
        self._tasks: SimpleQueue[Any] = SimpleQueue()
        self._threads = [
            Thread(target=_work, args=(self._tasks,), name=f"{name}-{i}", daemon=True)
            for i in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Run `function(*arguments)` in a thread."""
        future: Future[Any] = Future()
        self._tasks.put((future, function, arguments))
        return future

    def close(self) -> None:
        """Let the threads end after what was submitted."""
        for _ in self._threads:
            self._tasks.put(None)
        self._threads = []

    def __del__(self) -> None:
        self.close()


def _work(tasks: SimpleQueue[Any]) -> None:
    while (task := tasks.get()) is not None:
        future, function, arguments = task
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)
        del task, future, function, arguments  # hold nothing while waiting for the next call
