"""Stores for tests: an S3 server on loopback, and a store in memory that fails as it is told."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem


@contextmanager
def s3_server() -> Iterator[str]:
    """`127.0.0.1:port` of an S3 server with an empty bucket `bucket`."""
    moto = pytest.importorskip("moto.server", reason="moto is not installed: make setup")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        make = urllib.request.Request(f"http://{host}:{port}/bucket", method="PUT")
        with urllib.request.urlopen(make, timeout=30):
            pass
        yield f"{host}:{port}"
    finally:
        server.stop()


CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_REGION": "us-east-1",
}


def s3_uri(server: str, prefix: str) -> str:
    return f"s3://bucket/{prefix}?endpoint_override=http%3A%2F%2F{server}&region=us-east-1"


class Killed(BaseException):
    """The process that used the store died here."""


class FaultyFileSystem(MemoryFileSystem):
    """Memory, with faults. Every request (write, look-up, listing, removal) is counted.

    `fails(n, request)` is asked first and raises what goes wrong; `takes` gives how much of an
    upload is kept; `lists` what a listing shows.
    """

    protocol = "faulty"
    store: dict[str, Any] = {}  # noqa: RUF012  # not the one of memory://
    pseudo_dirs = [""]  # noqa: RUF012
    cachable = False
    requests: list[str] = []  # noqa: RUF012
    fails: Any = None
    takes: Any = None
    lists: Any = None

    @classmethod
    def calm(cls) -> None:
        cls.requests.clear()
        cls.fails = cls.takes = cls.lists = None

    @classmethod
    def empty(cls) -> None:
        cls.calm()
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]

    @classmethod
    def _ask(cls, request: str, path: str) -> None:
        cls.requests.append(f"{request} {path}")
        if cls.fails is not None:
            cls.fails(len(cls.requests), request)

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode != "wb":
            self._ask("read", path)
            return super()._open(path, mode, **options)
        return _Object(self, self._strip_protocol(path))

    def info(self, path: str, **options: Any) -> Any:
        self._ask("info", path)
        return super().info(path, **options)

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        self._ask("list", path)
        found = super().ls(path, detail=detail, **options)
        return found if self.lists is None else type(self).lists(found)

    def rm_file(self, path: str) -> None:
        self._ask("remove", path)
        super().rm_file(path)

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        for one in self.expand_path(path, recursive=recursive, maxdepth=maxdepth)[::-1]:
            if super().isfile(one):
                self._ask("remove", one)
                super().rm_file(one)
            elif one in self.pseudo_dirs:
                self.pseudo_dirs.remove(one)


class _Object(MemoryFile):
    """Seen by others once it is closed, as an object of a store is; cut where `takes` says so."""

    def __init__(self, store: FaultyFileSystem, path: str) -> None:
        super().__init__(store, path)
        store._ask("write", path)

    def commit(self) -> None:
        return

    def close(self) -> None:
        if self.closed:
            return
        data = self.getvalue()
        if self.fs.takes is not None:
            data = data[: type(self.fs).takes(self.path, len(data))]
        self.fs._ask("put", self.path)
        kept = MemoryFile(self.fs, self.path, data)
        self.fs.store[self.path] = kept
        super().close()


fsspec.register_implementation("faulty", FaultyFileSystem, clobber=True)


def set_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    os.environ.pop("AWS_PROFILE", None)
