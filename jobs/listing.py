"""The inputs of a classification as a stream, in order: what each form of `inputs` gives."""

from __future__ import annotations

import csv
import fnmatch
import hashlib
import io
import os
import posixpath
import re
import tarfile
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from jobs.reading import (
    encoded,
    holds_images,
    image_column,
    open_uri,
    scheme,
    split_options,
    with_options,
)
from orchestrator.errors import UsageError
from tensorlib.vision.datasets import IMAGE_EXTENSIONS
from tensorlib.vision.image import MAX_FILE_BYTES

if TYPE_CHECKING:
    import pyarrow.parquet as pq

    from jobs.inputs import InputsConfig

TABLES = (".csv", ".tsv", ".parquet")
_WILD = re.compile(r"[*?\[]")
_WILD_IN_URI = re.compile(r"[*\[]")  # a question mark begins the options of its store
_ROWS = 4096
_IMAGE_BYTES = 16 << 20  # of images of a table that are in memory at a time


class Entry(NamedTuple):
    """An input before it has an id. `offset` is a place in a tar file, or a row of a table."""

    path: bytes
    kind: str = "file"
    source: bytes | None = None  # where `path` only names it
    offset: int | None = None
    size: int | None = None
    inode: int | None = None
    truth: str | None = None
    digest: bytes | None = None  # of its content, where that was at hand


@dataclass
class LeftOut:
    """Names that are no inputs, and inputs that are not compared with others; counted."""

    hidden: int = 0
    beside: int = 0  # members of tar shards that are no images
    http: int = 0  # whose size nobody knows before they are read


def kind_of(inputs: str) -> str:
    """`folder`, `pattern`, `file`, `.txt`, `.csv`, `.tsv`, `.parquet` or `.tar`."""
    path = (split_options(inputs)[0] if scheme(inputs) else inputs).lower()
    for ending in (".txt", *TABLES, ".tar"):
        if path.endswith(ending) and (ending == ".tar" or not _is_pattern(inputs)):
            return ending
    if _is_pattern(inputs):
        return "pattern"
    where = scheme(inputs)
    if where is None:
        return "folder" if os.path.isdir(inputs) else "file"
    if where in ("http", "https"):
        return "file"
    return "file" if path.endswith(IMAGE_EXTENSIONS) else "folder"


def _is_pattern(inputs: str) -> bool:
    return bool(_wild(inputs).search(inputs)) and not os.path.exists(inputs)


def _wild(inputs: str) -> re.Pattern[str]:
    return _WILD_IN_URI if scheme(inputs) else _WILD


def entries(config: InputsConfig, out: LeftOut) -> Iterator[Entry]:
    """Every input in order, as a stream. Raises UsageError where there is nothing to list."""
    inputs, kind = config.inputs, kind_of(config.inputs)
    if kind == ".tar":
        yield from _tar_members(config, out)
    elif kind == ".txt":
        yield from _text_list(config)
    elif kind in (".csv", ".tsv"):
        yield from _csv_column(config, "\t" if kind == ".tsv" else ",")
    elif kind == ".parquet":
        yield from _parquet_column(config)
    elif kind == "file":
        if scheme(inputs) is None and not os.path.lexists(inputs):
            raise UsageError(f"{inputs}: no such folder or file; expected a folder with images")
        yield _referred(inputs, inputs, None)
    elif scheme(inputs) not in (None, "file"):
        yield from _uri_files(config, out)
    else:
        base, matches = _pattern(inputs) if kind == "pattern" else (inputs, None)
        root = base
        if scheme(base):
            base = base.rstrip("/")
            root = open_uri(base)[1]
        for path, size, inode in walk(root, out):
            name = os.fsencode(base) + path[len(os.fsencode(root)) :]
            if matches is None or matches(os.fsdecode(name)):
                truth = _folder_name(name, base) if config.truth == "folder" else None
                yield Entry(name, source=path, size=size, inode=inode, truth=truth)


def _inode(status: os.stat_result) -> int:
    """A number for what several names may link to; of 63 bits, so that an array holds it."""
    return (status.st_ino ^ status.st_dev << 40) & (1 << 63) - 1


def walk(root: str, out: LeftOut) -> Iterator[tuple[bytes, int | None, int | None]]:
    """(path, size, inode) of every name below a folder, ordered by path, hidden ones left out.

    Links to folders are not followed, and like folders that cannot be listed they are given as
    inputs, to end in the quarantine instead of nowhere. Raises UsageError for the root itself.
    """
    top = os.fsencode(root)
    if not os.path.isdir(top):
        raise UsageError(f"{root}: no such folder; expected a folder with images")

    def below(folder: bytes) -> Iterator[tuple[bytes, int | None, int | None]]:
        names: list[bytes] = []
        try:
            with os.scandir(folder) as found:
                for item in found:
                    if item.name.startswith(b"."):
                        out.hidden += 1
                    elif item.is_dir(follow_symlinks=False):
                        names.append(item.name + b"/")  # so that paths come out in order
                    else:
                        names.append(item.name)
        except OSError as error:
            if folder == top:
                raise UsageError(f"{root}: cannot be listed: {error.strerror}") from error
            yield folder, None, None
            return
        names.sort()
        for name in names:
            path = os.path.join(folder, name)
            if name.endswith(b"/"):
                yield from below(path[:-1])
                continue
            try:
                status = os.stat(path)
            except OSError:
                yield path, None, None
            else:
                yield path, status.st_size, _inode(status)

    yield from below(top)


def _pattern(inputs: str) -> tuple[str, Any]:
    """The folder that a pattern starts in, and what tells whether a path matches."""
    fixed = inputs[: _wild(inputs).search(inputs).start()]  # type: ignore[union-attr]
    matcher = re.compile(_expression(inputs), re.DOTALL)
    return fixed.rpartition("/")[0] or "/", lambda path: matcher.fullmatch(path) is not None


def _expression(pattern: str) -> str:
    """A regular expression of a path pattern: `**` crosses folders, `*` and `?` do not."""
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]/]+\])", pattern)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]", "": ""}
    return "".join(
        known[piece]
        if piece in known
        else fnmatch.translate(piece).removeprefix("(?s:").removesuffix(r")\Z")
        if piece.startswith("[") and piece.endswith("]")
        else re.escape(piece)
        for piece in pieces
    )


def _folder_name(path: bytes, root: str) -> str | None:
    below = path[len(os.fsencode(root.rstrip("/"))) + 1 :]
    return shown(below.partition(b"/")[0]) if b"/" in below else None


def _uri_files(config: InputsConfig, out: LeftOut) -> Iterator[Entry]:
    """The files below a URI of an object store, or those that match one; ordered by name."""
    from pyarrow import fs

    base, options = split_options(config.inputs)
    matches = None
    if _is_pattern(base):
        base, matches = _pattern(base)
    filesystem, root = open_uri(with_options(base, options))
    root = root.rstrip("/")
    try:
        found = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    except OSError as error:
        raise UsageError(f"{base}: cannot be listed: {error}") from error
    for info in sorted(found, key=lambda info: os.fsencode(info.path)):
        if info.type != fs.FileType.File:
            continue
        name = info.path[len(root) :].lstrip("/")
        uri = f"{base.rstrip('/')}/{name}"
        if name.startswith(".") or "/." in name:
            out.hidden += 1
        elif matches is None or matches(uri):
            truth = _folder_name(os.fsencode(uri), base) if config.truth == "folder" else None
            source = os.fsencode(with_options(uri, options))
            yield Entry(os.fsencode(uri), "uri", source, size=info.size, truth=truth)


def _below(base: str, name: str) -> str:
    """The URI of a name below another; of a file's alone parts may be escaped."""
    name = urllib.parse.quote(os.fsencode(name)) if scheme(base) == "file" else name
    return f"{base.rstrip('/')}/{name}"


def _referred(text: str, inputs: str, truth: str | None) -> Entry:
    """The input that a line of the list `inputs` names."""
    if scheme(text) is None and scheme(inputs) and not text.startswith("/"):
        place, options = split_options(inputs)
        folder, up = place.rpartition("/")[0], posixpath.normpath(text)
        while up.startswith("../"):
            folder, up = folder.rpartition("/")[0], up[3:]
        text = with_options(_below(folder, up), options)
    name = os.fsencode(text)
    if scheme(text) == "file":  # its size is known, so that equal ones are recognised
        path = os.fsencode(open_uri(text)[1])
    elif scheme(text):
        return Entry(name, "uri", truth=truth)
    else:
        name = path = os.fsencode(Path(inputs).parent / os.path.expanduser(text))
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return Entry(name, source=path, truth=truth)
    return Entry(name, source=path, size=status.st_size, inode=_inode(status), truth=truth)


def _in_row(text: str, config: InputsConfig, number: int, truth: str | None) -> Entry:
    """The input that a row of a table names."""
    if text:
        return _referred(text, config.inputs, truth)
    return Entry(os.fsencode(f"{config.inputs}/{number}"), "missing", truth=truth)


def _text(config: InputsConfig) -> IO[str]:
    """The list itself, local or not."""
    if scheme(config.inputs) is None:
        return open(config.inputs, encoding="utf-8-sig", errors="surrogateescape", newline="")
    filesystem, path = open_uri(config.inputs)
    return io.TextIOWrapper(filesystem.open_input_stream(path), "utf-8-sig", "surrogateescape", "")


def _text_list(config: InputsConfig) -> Iterator[Entry]:
    try:
        with _text(config) as lines:
            for line in lines:
                if text := line.rstrip("\r\n"):
                    yield _referred(text, config.inputs, None)
    except OSError as error:
        raise UsageError(f"{config.inputs}: cannot be read: {error.strerror or error}") from error


def _csv_column(config: InputsConfig, separator: str) -> Iterator[Entry]:
    column = str(config.column)
    try:
        with _text(config) as file:
            rows = csv.DictReader(file, delimiter=separator, strict=True)
            _expect_columns(config, rows.fieldnames or ())
            for number, row in enumerate(rows):
                yield _in_row(row[column] or "", config, number, _truth_of(config, row))
    except csv.Error as error:
        raise UsageError(f"{config.inputs}:{rows.line_num}: {error}; expected CSV") from error
    except OSError as error:
        raise UsageError(f"{config.inputs}: cannot be read: {error.strerror or error}") from error


def _truth_of(config: InputsConfig, row: Any) -> str | None:
    value = row[config.truth] if config.truth else None
    return None if value is None or value == "" else str(value)


def _expect_columns(config: InputsConfig, names: Any) -> None:
    for name in (config.column, config.truth):
        if name is not None and name not in names:
            raise UsageError(
                f"{config.inputs}: no column {name!r}; expected one of {', '.join(names)}"
            )


def _parquet_column(config: InputsConfig) -> Iterator[Entry]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    filesystem, path = open_uri(config.inputs)
    try:
        # page by page: a row group of images may be larger than memory
        file = pq.ParquetFile(
            filesystem.open_input_file(path), buffer_size=_IMAGE_BYTES // 2, pre_buffer=False
        )
    except (OSError, pa.ArrowInvalid) as error:
        raise UsageError(f"{config.inputs}: cannot be read: {error}") from error
    with file:
        schema = file.schema_arrow
        _expect_columns(config, schema.names)
        column = image_column(config.inputs, config.column, schema)
        if holds_images(schema.field(column).type):
            yield from _images_in(config, file, column)
            return
        names = list(dict.fromkeys([column, *([config.truth] if config.truth else [])]))
        batches = file.iter_batches(_ROWS, columns=names)
        for number, row in enumerate(row for batch in batches for row in batch.to_pylist()):
            yield _in_row(str(row[column] or ""), config, number, _truth_of(config, row))


def _images_in(config: InputsConfig, file: pq.ParquetFile, column: str) -> Iterator[Entry]:
    """The rows of a column of encoded images, which are decoded when it is their turn."""
    import pyarrow as pa

    kind, source = file.schema_arrow.field(column).type, os.fsencode(config.inputs)
    named = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
    names = [f"{column}.path"] * named + [name for name in (config.truth,) if name]
    rows: Iterator[dict[str, Any]] = ({} for _ in range(file.metadata.num_rows))
    if names:
        batches = file.iter_batches(_ROWS, columns=names)
        rows = (row for batch in batches for row in batch.to_pylist())
    contents = _contents(file, f"{column}.bytes" if pa.types.is_struct(kind) else column)
    for number, (row, (size, digest)) in enumerate(zip(rows, contents, strict=True)):
        name = (row[column] or {}).get("path") if named else None
        path = os.fsencode(f"{config.inputs}/{name or number}")
        truth = _truth_of(config, row)
        yield Entry(path, "parquet", source, number, size, truth=truth, digest=digest)


def digest_of(data: bytes) -> bytes:
    """16 bytes that tell contents apart."""
    return hashlib.sha256(data).digest()[:16]


def _contents(file: pq.ParquetFile, name: str) -> Iterator[tuple[int | None, bytes | None]]:
    """Size and digest of the image in each row, None where there is none or it is too large."""
    import pyarrow as pa

    for number in range(file.num_row_groups):
        group = file.metadata.row_group(number)
        left = group.num_rows
        rows = _IMAGE_BYTES * left // max(group.total_byte_size, 1)
        batches = file.iter_batches(min(max(rows, 1), _ROWS), row_groups=[number], columns=[name])
        try:
            for batch in batches:
                for value in batch.column(0):
                    data = encoded(value)
                    left -= 1
                    if data is None:
                        yield None, None
                    else:
                        yield len(data), digest_of(data) if len(data) <= MAX_FILE_BYTES else None
        except (OSError, pa.ArrowInvalid):
            pass  # each of its rows says so when it is its turn
        yield from repeat((None, None), left)


def _tar_members(config: InputsConfig, out: LeftOut) -> Iterator[Entry]:
    shards = [config.inputs]
    bare, options = split_options(config.inputs) if scheme(config.inputs) else (config.inputs, "")
    if _is_pattern(bare):
        base, matches = _pattern(bare)
        inputs = with_options(base, options)
        plain = config.model_copy(update={"inputs": inputs, "truth": None})
        found = [entry for entry in entries(plain, out) if matches(os.fsdecode(entry.path))]
        shards = [os.fsdecode(entry.source or entry.path) for entry in found]
    for shard in shards:
        filesystem, path = open_uri(shard)
        try:
            with (
                filesystem.open_input_file(path) as file,
                tarfile.open(fileobj=file, mode="r:") as tar,
            ):
                yield from _members(config, shard, tar, out)
        except (OSError, tarfile.TarError) as error:
            raise UsageError(
                f"{shard}: cannot be read as an uncompressed tar: {error}; expected a whole one"
            ) from error


def _members(
    config: InputsConfig, shard: str, tar: tarfile.TarFile, out: LeftOut
) -> Iterator[Entry]:
    """The images of a shard; a sample's class is the member of its name with another ending."""
    source = os.fsencode(shard)
    waiting: list[Entry] = []
    key, truth = None, None

    def sample() -> Iterator[Entry]:
        for entry in waiting:
            yield entry._replace(truth=truth)
        waiting.clear()

    for member in tar:
        name = member.name
        folder, _, last = name.rpartition("/")
        own = folder, last.partition(".")[0]
        if own != key:
            yield from sample()
            key, truth = own, None
        if member.isreg() and looks_like_image(name.encode(errors="surrogateescape")):
            shown = os.fsencode(f"{shard}/{name}")
            waiting.append(Entry(shown, "tar", source, member.offset_data, member.size))
        elif member.isreg() and config.truth and name.endswith(f".{config.truth}"):
            data = tar.extractfile(member)
            truth = data.read(1000).decode(errors="replace").strip() if data else None
        elif not member.isdir():
            out.beside += 1
        tar.members = []  # type: ignore[attr-defined]  # it would remember all of them
    yield from sample()
    # tarfile takes a broken header, and a file cut between members, for the end.
    end: Any = tar.fileobj
    end.seek(tar.offset)
    if end.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"neither a member nor the end mark at byte {tar.offset}")


def looks_like_image(path: bytes) -> bool:
    return os.fsdecode(path).lower().endswith(IMAGE_EXTENSIONS)


def shown(path: bytes) -> str:
    """A path as a table can hold it: bytes that are no UTF-8 become escapes."""
    return path.decode(errors="backslashreplace")
