"""An iterator that works ahead in a thread of its own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

_LOOK_EVERY_S = 0.1


class Ahead(Generic[T]):
    """The items of an iterator, up to `depth` of them made before they are asked for.

    Leaving the block ends the thread after the item it is making. An exception of the iterator is
    raised where its item would have come.
    """

    def __init__(self, items: Iterator[T], depth: int = 2) -> None:
        self._items = items
        self._made: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
        self._left = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Iterator[T]:
        self._thread.start()
        return self._taken()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._left.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            for item in self._items:
                if not self._put((item, None)):
                    return
            self._put((None, StopIteration()))
        except BaseException as error:
            self._put((None, error))

    def _put(self, made: tuple[T | None, BaseException | None]) -> bool:
        while not self._left.is_set():
            try:
                self._made.put(made, timeout=_LOOK_EVERY_S)
            except queue.Full:
                continue
            return True
        return False

    def _taken(self) -> Iterator[T]:
        while True:
            item, error = self._made.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]  # an item where there is no error
