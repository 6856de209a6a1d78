"""Places behind a URI: `s3://bucket/runs`, and whatever else pyarrow or fsspec has a driver for.

`RemotePath` has the few words of `pathlib.Path` that an object store can keep: objects are written
whole, listed, read and removed; there is no rename, no sync and no lock.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError, did_you_mean

__all__ = ["AnyPath", "RemoteError", "RemotePath", "is_uri", "uri_problem"]

# What pyarrow has a driver for; it comes first, fsspec serves the rest where it is installed.
_PYARROW = frozenset({"file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs"})
_BUCKETS = frozenset({"s3", "gs", "gcs", "abfs", "abfss"})
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.S)
# What another try will not cure, in the words of the stores, and what does.
_REFUSALS = (
    (
        r"ACCESS_DENIED|AccessDenied|Forbidden|INVALID_ACCESS_KEY|SIGNATURE|TOKEN|[Cc]redential",
        "give this process credentials for the bucket (for s3: AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or a role of the machine), on every node",
    ),
    (
        r"NO_SUCH_BUCKET|NoSuchBucket|[Bb]ucket does not exist|no bucket",
        "make the bucket first, or correct its name",
    ),
)


class RemoteError(OSError):
    """A place behind a URI refused. `transient`: another try may succeed."""

    def __init__(self, text: str, *, transient: bool) -> None:
        super().__init__(text)
        self.transient = transient


@dataclass(frozen=True)
class _Stat:
    st_size: int


class _Store:
    """A driver, made when it is first used: some ask the network then."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @cached_property
    def opened(self) -> tuple[Any, str]:
        """pyarrow's file system, and the key that the URI stands for in it."""
        import pyarrow.fs

        try:
            if self.uri.partition("://")[0] in _PYARROW:
                filesystem, key = pyarrow.fs.FileSystem.from_uri(self.uri)
            else:
                import fsspec  # type: ignore[import-untyped]

                # Listings of other processes' objects must be fresh.
                driver, key = fsspec.core.url_to_fs(self.uri, use_listings_cache=False)
                filesystem = pyarrow.fs.PyFileSystem(_handler(driver))
        except (ImportError, ValueError, TypeError, NotImplementedError) as error:
            place = self.uri.partition("?")[0]
            raise UsageError(f"{place}: cannot be opened: {_first_line(error)}.") from error
        return filesystem, str(key).rstrip("/")


class RemotePath:
    """An object, or what is under a prefix. `str` is its URI without options (the query)."""

    def __init__(self, store: _Store, uri: str, below: str = "") -> None:
        self._store, self._below, self.uri = store, below, uri

    @classmethod
    def of(cls, uri: str) -> RemotePath:
        """The place that `uri` names; no request is made. UsageError where nothing knows it."""
        problem = uri_problem(uri)
        if problem:
            raise UsageError(problem)
        return cls(_Store(uri), uri.partition("?")[0].rstrip("/"))

    @property
    def filesystem(self) -> Any:
        return self._store.opened[0]

    @property
    def key(self) -> str:
        """What the file system calls it."""
        return self._store.opened[1] + self._below

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self._store, f"{self.uri}/{name}", f"{self._below}/{name}")

    def __str__(self) -> str:
        return self.uri

    def __repr__(self) -> str:
        return f"RemotePath({self.uri!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and other.uri == self.uri

    def __hash__(self) -> int:
        return hash(self.uri)

    @property
    def name(self) -> str:
        """The last part."""
        return self.uri.rpartition("/")[2]

    def check_bucket(self) -> None:
        """RemoteError where the bucket is missing; stores say so in many words, or not at all."""
        if self.uri.partition("://")[0] in _BUCKETS:
            with _told(self, "reached"):
                bucket = self.key.partition("/")[0]
                if self._info(bucket).type.name == "NotFound":
                    raise OSError(f"there is no bucket {bucket!r}, or it may not be seen")

    def stat(self) -> _Stat:
        """Size in bytes; FileNotFoundError where there is no such object."""
        with _told(self, "looked up"):
            info = self._info(self.key)
            if info.type.name != "File":
                raise FileNotFoundError(f"{self}: there is no such object")
            return _Stat(int(info.size or 0))

    def exists(self) -> bool:
        """Whether there is an object of this name, or one under it."""
        with _told(self, "looked up"):
            return bool(self._info(self.key).type.name != "NotFound")

    def names(self) -> list[str]:
        """The names right under this one, sorted; none where it is not there."""
        with _told(self, "listed"):
            return sorted({info.base_name for info in self._list(recursive=False)})

    def walk(self) -> Iterator[tuple[str, int]]:
        """All objects under this one: relative name and bytes."""
        with _told(self, "listed"):
            found = self._list(recursive=True)
        for info in found:
            if info.type.name == "File":
                yield str(info.path).removeprefix(f"{self.key}/"), int(info.size or 0)

    def open(self, mode: str = "rb") -> Any:
        """The object's bytes as a stream to read. FileNotFoundError, RemoteError."""
        if mode != "rb":
            raise ValueError(f"{self}: open({mode!r}); expected 'rb': objects are written whole.")
        with _told(self, "read"):
            return self.filesystem.open_input_stream(self.key)

    def read_bytes(self) -> bytes:
        """All of the object. FileNotFoundError, RemoteError."""
        with self.open() as stream, _told(self, "read"):
            return bytes(stream.read())

    def write(self, parts: Callable[[Callable[[Any], Any]], None]) -> None:
        """Write the object by what `parts` hands to the function it is given.

        Where that fails the object may be there in part: only a name that was seen whole may be
        believed. RemoteError.
        """
        with _told(self, "written"):
            try:
                stream = self.filesystem.open_output_stream(self.key)
            except FileNotFoundError:  # a file system with real directories
                self.filesystem.create_dir(self.key.rpartition("/")[0], recursive=True)
                stream = self.filesystem.open_output_stream(self.key)
            with stream:
                parts(stream.write)

    def write_bytes(self, data: bytes) -> None:
        """Replace the object by `data`. RemoteError."""
        self.write(lambda put: put(data))

    def remove(self) -> None:
        """Remove the object, or all under this name; nothing where there is none."""
        with _told(self, "removed"):
            kind = self._info(self.key).type.name
            try:
                if kind == "File":
                    self.filesystem.delete_file(self.key)
                elif kind == "Directory":
                    self.filesystem.delete_dir(self.key)
            except FileNotFoundError:
                return

    def _info(self, key: str) -> Any:
        return self.filesystem.get_file_info(key)

    def _list(self, *, recursive: bool) -> list[Any]:
        import pyarrow.fs

        selector = pyarrow.fs.FileSelector(self.key, allow_not_found=True, recursive=recursive)
        return list(self.filesystem.get_file_info(selector))


AnyPath = Path | RemotePath


def is_uri(value: str) -> bool:
    """Whether `value` reads `scheme://...`."""
    return _URI.fullmatch(value) is not None


def uri_problem(uri: str) -> str | None:
    """What is wrong with a storage URI as it is written, or None. Nothing is asked of the network.

    Credentials in it are refused: plans, trackers and logs show the URI.
    """
    found = _URI.fullmatch(uri)
    if found is None:
        return f"{uri!r} is no URI; expected scheme://..."
    scheme, rest = found[1], found[2].partition("?")
    if scheme not in _PYARROW and scheme not in (known := _fsspec_schemes()):
        close = did_you_mean(scheme, [*_PYARROW, *known])
        hint = f" Hint: did you mean {close!r}?" if close else ""
        return (
            f"nothing here knows the scheme {scheme!r}; expected s3, gs, abfs, hdfs, file or "
            + (f"one that fsspec has a driver for.{hint}")
        )
    host, query = rest[0].partition("/")[0], rest[2]
    if re.match(r"[^@]*:[^@]*@", host) or re.search(r"(?i)secret|password|access_key", query):
        return f"the {scheme} URI holds credentials, which would be shown; expected none in it"
    if scheme in _BUCKETS and not host:
        return f"{uri!r} names no bucket; expected {scheme}://BUCKET/PREFIX"
    return None


def _handler(driver: Any) -> Any:
    """pyarrow's way to an fsspec driver, less its habit of taking any error of a look-up or a
    listing for "there is nothing": a run would begin anew where its store did not answer."""
    import pyarrow.fs

    class Handler(pyarrow.fs.FSSpecHandler):  # type: ignore[misc]  # pyarrow publishes no types
        def open_input_stream(self, path: str) -> Any:
            return pyarrow.PythonFile(self.fs.open(path, mode="rb"), mode="r")

        def get_file_info_selector(self, selector: Any) -> list[Any]:
            return list(self._under(selector.base_dir, selector))

        def _under(self, path: str, selector: Any) -> Iterator[Any]:
            try:
                found = self.fs.ls(path, detail=True)
            except FileNotFoundError:
                if selector.allow_not_found:
                    return
                raise
            for info in found:
                name = info["name"].rstrip("/")
                if name == path:
                    continue
                yield self._create_file_info(name, info)
                if selector.recursive and info["type"] == "directory":
                    yield from self._under(name, selector)

    return Handler(driver)


def _fsspec_schemes() -> list[str]:
    try:
        import fsspec
    except ImportError:
        return []
    return [*fsspec.available_protocols(), *fsspec.registry]


@contextmanager
def _told(place: RemotePath, what: str) -> Iterator[None]:
    """Say what went wrong in one line; drivers raise errors of many types and lengths."""
    try:
        yield
    except (FileNotFoundError, RemoteError, UsageError):
        raise
    except Exception as error:
        why = _first_line(error)
        for pattern, cure in _REFUSALS:
            if isinstance(error, PermissionError) or re.search(pattern, why):
                text = f"{place}: cannot be {what}: {why}. Hint: {cure}"
                raise RemoteError(text, transient=False) from error
        never = isinstance(error, NotImplementedError | TypeError)
        raise RemoteError(f"{place}: cannot be {what}: {why}", transient=not never) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    text = re.sub(r" ?\(Request ID: [^)]*\)", "", lines[0]) if lines else ""
    return text.rstrip(".") or type(error).__name__
