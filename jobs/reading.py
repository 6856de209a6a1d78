"""The bytes of an input of a manifest, wherever they are: a file, an object, a tar, a table."""

from __future__ import annotations

import http.client
import io
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection, Mapping
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import IO, TYPE_CHECKING, Any

from orchestrator.errors import UsageError
from orchestrator.remote import RemotePath
from tensorlib.vision import image
from tensorlib.vision.image import MAX_FILE_BYTES, ImageError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyarrow import fs

_TIMEOUT_S = 30.0  # without a byte from a server
_WHOLE_S = 300.0


def scheme(text: str) -> str | None:
    """The scheme of a URI, None for a path."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    return found[1].lower() if found else None


def open_uri(uri: str) -> tuple[fs.FileSystem, str]:
    """pyarrow's file system for a path or URI, and the path in it. Raises UsageError.

    A URI may end in options for its store: `s3://bucket/key?endpoint_override=...`. They follow the
    last question mark, so that a name with one in it ends in another: `s3://bucket/what?.png?`.
    """
    from pyarrow import fs

    where = scheme(uri)
    if where is None:
        return fs.LocalFileSystem(), uri
    if where in ("http", "https"):
        raise UsageError(
            f"{uri}: cannot be listed; expected a path, or a URI such as s3:// or gs://"
        )
    if where == "file":
        return fs.LocalFileSystem(), urllib.parse.unquote(urllib.parse.urlsplit(uri).path)
    if where not in ("s3", "gs"):
        place = RemotePath.of(uri)
        return place.filesystem, place.key
    name, options = split_options(uri)
    bucket, _, key = name.partition("://")[2].partition("/")
    return _store(f"{where}://{bucket}{options and '?'}{options}"), f"{bucket}/{key}"


def split_options(uri: str) -> tuple[str, str]:
    """A URI without the options of its store, and these."""
    name, mark, options = uri.rpartition("?")
    return (name, options) if mark else (uri, "")


def with_options(name: str, options: str) -> str:
    """What `split_options` splits so."""
    literal = "?" in name and scheme(name) in ("s3", "gs")
    return f"{name}?{options}" if options or literal else name


@lru_cache(maxsize=16)  # a connection for each store, not for each image
def _store(root: str) -> Any:
    return RemotePath.of(root).filesystem


def read_input(row: Mapping[str, Any], hosts: Collection[str], column: str | None = None) -> bytes:
    """The bytes of one input. Raises ImageError, whose message is the reason in the table.

    Args:
        row: `kind`, `source`, `offset` and `size` of the manifest.
        hosts: from which http(s) may be read.
        column: of a Parquet file of images.
    """
    kind, source = row["kind"], os.fsdecode(row["source"])
    if kind == "missing":
        raise ImageError("no path in this row")
    try:
        if kind == "file":
            return image.read(source)
        if kind == "uri":
            return _read_uri(source, hosts)
        if kind == "tar":
            return _read_range(source, int(row["offset"]), int(row["size"]))
        return _read_row(source, column, int(row["offset"]))
    except ImageError:
        raise
    except (OSError, ValueError, UsageError) as error:
        raise ImageError(f"cannot be read: {' '.join(str(error).split())}") from None


def _limited(file: IO[bytes] | Any) -> bytes:
    data: bytes = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"more than {MAX_FILE_BYTES} bytes; at most as many are accepted")
    return data


def _read_uri(uri: str, hosts: Collection[str]) -> bytes:
    if scheme(uri) in ("http", "https"):
        return _read_http(uri, hosts)
    filesystem, path = open_uri(uri)
    if scheme(uri) == "file":
        return image.read(path)
    with filesystem.open_input_stream(path) as file:
        return _limited(file)


def _expect_host(uri: str, hosts: Collection[str]) -> None:
    host = urllib.parse.urlsplit(uri).hostname
    if host not in {name.lower() for name in hosts}:
        allowed = ", ".join(hosts) or "none"
        raise ImageError(
            f"host {host} is not among params.hosts, which are {allowed}. Hint: --host {host}"
        )


class _AllowedRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect leads nowhere that could not be asked for directly."""

    def __init__(self, hosts: Collection[str]) -> None:
        self.hosts = hosts

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> Any:
        if scheme(newurl) not in ("http", "https"):
            raise ImageError(f"redirected to {newurl}; expected http or https")
        _expect_host(newurl, self.hosts)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _read_http(uri: str, hosts: Collection[str]) -> bytes:
    _expect_host(uri, hosts)
    opener = urllib.request.build_opener(_AllowedRedirects(hosts))
    try:
        with opener.open(uri, timeout=_TIMEOUT_S) as answer:
            return _in_time(answer)
    except urllib.error.HTTPError as error:
        raise ImageError(f"cannot be read: the server answered {error.code}") from None
    except http.client.HTTPException as error:  # no OSError: an odd URL or answer
        raise ImageError(f"cannot be read: {' '.join(str(error).split())}") from None


def _in_time(answer: Any) -> bytes:
    """The body of an answer whose server may send it byte by byte."""
    data, began = bytearray(), time.monotonic()
    while len(data) <= MAX_FILE_BYTES and (piece := answer.read1(1 << 16)):
        data += piece
        if time.monotonic() - began > _WHOLE_S:
            raise ImageError(f"cannot be read: {len(data)} bytes in {_WHOLE_S:g} s, and no end")
    if answer.length:
        raise ImageError(f"cannot be read: ends after {len(data)} bytes, {answer.length} early")
    return _limited(io.BytesIO(data))


def _read_range(path: str, offset: int, size: int) -> bytes:
    if size > MAX_FILE_BYTES:
        raise ImageError(f"file of {size} bytes; at most {MAX_FILE_BYTES} are accepted")
    filesystem, inside = open_uri(path)
    with filesystem.open_input_file(inside) as file:
        data: bytes = file.read_at(size, offset)
    if len(data) != size:
        raise ImageError(f"{path} ends after {len(data)} of {size} bytes at {offset}")
    return data


def _read_row(path: str, column: str | None, row: int) -> bytes:
    values, start = _row_group(path, column, row)
    data = encoded(values[row - start])
    if data is None:
        raise ImageError("no image in this row")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"image of {len(data)} bytes; at most {MAX_FILE_BYTES} are accepted")
    return data


def encoded(value: pa.Scalar) -> bytes | None:
    """The image in a row of a column that `holds_images`, None where there is none."""
    found = value.as_py()
    data: bytes | None = found.get("bytes") if isinstance(found, dict) else found
    return data


def size_of(uri: str) -> int | None:
    """Bytes of an object of a store; None where nothing tells without reading it, as of http(s)."""
    from pyarrow import fs

    if scheme(uri) in ("http", "https"):
        return None
    try:
        filesystem, path = open_uri(uri)
        info = filesystem.get_file_info(path)
    except (OSError, ValueError, UsageError):  # its row says why, when it is read
        return None
    return int(info.size) if info.type == fs.FileType.File and info.size is not None else None


def holds_images(kind: pa.DataType) -> bool:
    """Whether a column of this type holds encoded images: bytes, or a struct with `bytes`."""
    import pyarrow as pa

    types = pa.types
    if types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def image_column(inputs: str, column: str | None, schema: pa.Schema) -> str:
    """The column of a Parquet file that is meant: as said, or the only one that holds images."""
    likely = [field.name for field in schema if holds_images(field.type)]
    if column is not None or len(likely) == 1:
        return str(column or likely[0])
    raise UsageError(
        f"{inputs}: column is not said; expected one of {', '.join(schema.names)}. "
        "Hint: --column NAME"
    )


def _row_group(path: str, column: str | None, row: int) -> tuple[Any, int]:
    for number, (start, stop) in enumerate(_row_groups(path)):
        if start <= row < stop:
            return _column(path, column, number), start
    raise ImageError(f"{path} has no row {row}; expected it unchanged since it was listed")


def _open_table(path: str) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    filesystem, inside = open_uri(path)
    return pq.ParquetFile(filesystem.open_input_file(inside))


@lru_cache(maxsize=4)
def _row_groups(path: str) -> list[tuple[int, int]]:
    with _open_table(path) as file:
        counts = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    ends = list(accumulate(counts, initial=0))
    return list(pairwise(ends))


@lru_cache(maxsize=2)  # inputs come in order, so one group serves all of its rows
def _column(path: str, column: str | None, number: int) -> Any:
    with _open_table(path) as file:
        name = image_column(path, column, file.schema_arrow)
        return file.read_row_group(number, columns=[name]).column(name).combine_chunks()
