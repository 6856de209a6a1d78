"""What `inputs` may name, and the manifest that becomes of it."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pydantic import ValidationError

from jobs import inputs, listing, reading
from jobs.inputs import InputsConfig, check, part_size, write_manifest
from jobs.listing import LeftOut, entries
from jobs.reading import open_uri, read_input, split_options, with_options
from orchestrator.errors import UsageError
from orchestrator.remote import RemotePath
from tensorlib.vision.decoding import DecoderPool
from tensorlib.vision.image import ImageError
from tensorlib.vision.transforms import ImageClassification
from tests.orchestrator import stores


def listed(tmp_path: Path, where: Path | str, **more: Any) -> list[dict[str, Any]]:
    """The rows of the manifest of `where`."""
    path = tmp_path / "manifest.parquet"
    write_manifest(InputsConfig(inputs=str(where), **more), path)
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    assert [row["id"] for row in rows] == list(range(len(rows)))
    return rows


def paths(rows: list[dict[str, Any]], below: Path) -> list[str]:
    return [os.path.relpath(row["path"], below) for row in rows]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files in folders whose names sort otherwise by component than as text."""
    root = tmp_path / "photos"
    for name in ("b.jpg", "a/1.png", "a/.hidden.png", "a.d/2.png", ".git/x.png", "a/c/3.txt"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def test_a_folder_gives_every_file_in_order_and_counts_the_hidden(
    tmp_path: Path, folder: Path
) -> None:
    odd = os.fsencode(folder) + b"/a/n\xff\n=.png"
    Path(os.fsdecode(odd)).write_bytes(b"odd")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "away").symlink_to(tmp_path / "nowhere")
    (folder / "link").symlink_to(folder / "a")
    rows = listed(tmp_path, folder)
    assert paths(rows, folder) == [
        *("a.d/2.png", "a/1.png", "a/c/3.txt", "a/n\\xff\n=.png"),
        *("away", "b.jpg", "link", "pipe.jpg"),
    ]
    assert rows[3]["source"] == odd
    facts = pq.read_metadata(tmp_path / "manifest.parquet").metadata
    assert facts[b"hidden_left_out"] == b"2"
    for number, what in ((4, "link to a file that"), (6, "a directory"), (7, "a FIFO")):
        with pytest.raises(ImageError, match=what):
            read_input(rows[number], ())


def test_truth_is_the_folder_below_the_root(tmp_path: Path, folder: Path) -> None:
    rows = listed(tmp_path, folder, truth="folder")
    assert [row["truth"] for row in rows] == ["a.d", "a", "a", None]


def test_patterns(tmp_path: Path, folder: Path) -> None:
    assert paths(listed(tmp_path, f"{folder}/*.jpg"), folder) == ["b.jpg"]
    assert paths(listed(tmp_path, f"{folder}/a*/[12].png"), folder) == ["a.d/2.png", "a/1.png"]
    assert len(listed(tmp_path, f"{folder}/**/*.png")) == 2
    assert paths(listed(tmp_path, f"{folder}/**/?.*"), folder)[-1] == "b.jpg"
    assert paths(listed(tmp_path, folder.as_uri() + "/**/*.png"), folder.parent) != []


def test_lists_and_tables_of_paths(tmp_path: Path, folder: Path) -> None:
    (folder / "list.txt").write_text(f"b.jpg\r\n\n{folder}/a/1.png\nno such.png\n")
    rows = listed(tmp_path, folder / "list.txt")
    assert paths(rows, folder) == ["b.jpg", "a/1.png", "no such.png"]
    (folder / "table.csv").write_text('kind,file\nx,"a/1.png"\n,b.jpg\n')
    rows = listed(tmp_path, folder / "table.csv", column="file", truth="kind")
    assert [(Path(r["path"]).name, r["truth"]) for r in rows] == [("1.png", "x"), ("b.jpg", None)]
    pq.write_table(pa.table({"file": ["b.jpg"], "n": [1]}), folder / "t.parquet")
    assert paths(listed(tmp_path, folder / "t.parquet", column="file"), folder) == ["b.jpg"]
    for name, column, what in (
        ("table.csv", "files", "no column 'files'; expected one of kind, file"),
        ("t.parquet", None, "column is not said; expected one of file, n"),
    ):
        with pytest.raises(UsageError, match=what):
            check(InputsConfig(inputs=str(folder / name), column=column))


def test_odd_lines_of_lists_end_in_rows(tmp_path: Path, folder: Path) -> None:
    (folder / "per%20cent?.jpg").write_bytes(b"b.jpg")  # as long as b.jpg, and equal
    lines = ("b.jpg", "~none here/x.png", "http://host/\udcff.png", (folder / "b.jpg").as_uri())
    (folder / "list.txt").write_text("\n".join(lines), "utf-8-sig", "surrogateescape")
    rows = listed(tmp_path, folder / "list.txt")
    assert [row["kind"] for row in rows] == ["file", "file", "uri", "file"]
    assert paths(rows, folder)[:2] == ["b.jpg", "~none here/x.png"]
    assert [row["duplicate_of"] for row in rows] == [None, None, None, 0]
    assert read_input(rows[3], ()) == b"b.jpg"
    rows = listed(tmp_path, (folder / "list.txt").as_uri())
    assert [row["duplicate_of"] for row in rows] == [None, None, None, 0]
    assert rows[0]["path"] == (folder / "b.jpg").as_uri()
    rows = listed(tmp_path, folder.as_uri())
    (odd,) = (row for row in rows if row["path"].endswith("cent?.jpg"))
    assert read_input(odd, ()) == b"b.jpg"
    (folder / "t.csv").write_text("file,n\n,1\nb.jpg,2\n", "utf-8-sig")
    rows = listed(tmp_path, folder / "t.csv", column="file")
    assert paths(rows, folder) == ["t.csv/0", "b.jpg"]
    with pytest.raises(ImageError, match="no path in this row"):
        read_input(rows[0], ())
    assert listed(tmp_path, folder / "b.jpg")[0]["path"] == str(folder / "b.jpg")


def test_images_in_a_parquet_file(tmp_path: Path) -> None:
    image = pa.array([{"bytes": b"one", "path": "a.png"}, {"bytes": b"two", "path": None}, None])
    table = pa.table({"image": image, "label": [3, 4, 5]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=1)
    rows = listed(tmp_path, tmp_path / "t.parquet", truth="label")
    assert paths(rows, tmp_path) == ["t.parquet/a.png", "t.parquet/1", "t.parquet/2"]
    assert [row["truth"] for row in rows] == ["3", "4", "5"]
    assert [read_input(row, ()) for row in rows[:2]] == [b"one", b"two"]
    with pytest.raises(ImageError, match="no image in this row"):
        read_input(rows[2], ())


def test_equal_images_in_a_parquet_file_are_recognised_as_it_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_IMAGE_BYTES", 200)  # a few rows at a time
    data = [b"same" * 9, b"else" * 9, b"", None, b"same" * 9, b"", b"else" * 9, b"x"] * 2
    expected = [None, None, None, None, 0, None, 1, None, 0, 1, None, None, 0, None, 1, 7]
    columns = {"flat": data, "struct": [{"bytes": d, "path": None} for d in data]}
    for name, column in columns.items():
        pq.write_table(pa.table({name: column}), tmp_path / "t.parquet", row_group_size=5)
        rows = listed(tmp_path, tmp_path / "t.parquet")
        assert [row["duplicate_of"] for row in rows] == expected
        assert [row["size"] for row in rows] == [None if d is None else len(d) for d in data]
    # what cannot be read is an input all the same
    pq.write_table(pa.table({"flat": data}), tmp_path / "t.parquet", compression="zstd")
    start = pq.read_metadata(tmp_path / "t.parquet").row_group(0).column(0).dictionary_page_offset
    with open(tmp_path / "t.parquet", "r+b") as file:
        file.seek(start)
        file.write(b"\xff" * 40)
    rows = listed(tmp_path, tmp_path / "t.parquet")
    assert [row["size"] for row in rows] == [None] * 16
    with pytest.raises(ImageError, match="cannot be read"):
        read_input(rows[0], ())


def test_tar_shards_give_their_images_and_count_the_rest(tmp_path: Path) -> None:
    for shard in range(2):
        with tarfile.open(tmp_path / f"s-{shard}.tar", "w") as tar:
            for name in ("x/1.jpg", "x/1.cls", "x/2.seg.png", "x/2.json"):
                data = f"{shard}{name}".encode()
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    rows = listed(tmp_path, f"{tmp_path}/s-*.tar", truth="cls")
    assert paths(rows, tmp_path)[:2] == ["s-0.tar/x/1.jpg", "s-0.tar/x/2.seg.png"]
    assert [read_input(row, ()) for row in rows][2] == b"1x/1.jpg"
    assert [row["truth"] for row in rows] == ["0x/1.cls", None, "1x/1.cls", None]
    assert pq.read_metadata(tmp_path / "manifest.parquet").metadata[b"no_images_left_out"] == b"2"
    whole = (tmp_path / "s-1.tar").read_bytes()
    for broken in (whole[:700], whole[:1024], whole[:1100], whole[:1024] + b"y" + whole[1025:]):
        (tmp_path / "s-1.tar").write_bytes(broken)
        with pytest.raises(UsageError, match=r"s-1\.tar: cannot be read as an uncompressed tar"):
            listed(tmp_path, f"{tmp_path}/s-*.tar")


class Site(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://elsewhere.invalid/x.png")
            self.end_headers()
        else:
            self.send_response(404 if self.path == "/none.png" else 200)
            if self.path == "/short.png":
                self.send_header("Content-Length", "10")
            self.end_headers()
            self.wfile.write(b"pixels")

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_http_only_from_hosts_that_are_allowed_redirects_too(
    tmp_path: Path, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = listed(tmp_path, f"{site}/x.png")
    assert read_input(rows[0], ("127.0.0.1",)) == b"pixels"
    for name, hosts, what in (
        ("x.png", (), "host 127.0.0.1 is not among"),
        ("away", ("127.0.0.1",), "host elsewhere.invalid is not among"),
        ("none.png", ("127.0.0.1",), "the server answered 404"),
        ("short.png", ("127.0.0.1",), "ends after 6 bytes, 4 early"),
        ("a space.png", ("127.0.0.1",), "URL can't contain control characters"),
        ("\u00fc.png", ("127.0.0.1",), "'ascii' codec can't encode"),
    ):
        with pytest.raises(ImageError, match=what):
            read_input({**rows[0], "source": f"{site}/{name}".encode()}, hosts)
    monkeypatch.setattr(reading, "_WHOLE_S", -1.0)
    with pytest.raises(ImageError, match="6 bytes in -1 s, and no end"):
        read_input(rows[0], ("127.0.0.1",))


def test_hosts_are_refused_where_no_http_is_read(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "list.txt").write_text("http://host/x.png\n")
    for good in (tmp_path / "list.txt", "https://host/x.png"):
        check(InputsConfig(inputs=str(good), hosts=("host",)))
    for bad in (folder, f"{folder}/*.jpg", folder / "b.jpg", tmp_path / "x.tar", "s3://b/c"):
        with pytest.raises(ValidationError, match=r"hosts: host, but .* expected a list"):
            InputsConfig(inputs=str(bad), hosts=("host",))
    pq.write_table(pa.table({"image": [b"one"]}), tmp_path / "t.parquet")
    with pytest.raises(UsageError, match=r"t\.parquet holds the images itself; expected"):
        check(InputsConfig(inputs=str(tmp_path / "t.parquet"), hosts=("host",)))


def test_a_folder_by_its_uri(tmp_path: Path, folder: Path) -> None:
    folder = folder.rename(tmp_path / "my photos")
    Path(os.fsdecode(os.fsencode(folder) + b"/n\xff?.png")).write_bytes(b"odd")
    rows = listed(tmp_path, folder.as_uri(), truth="folder")
    names = ("a.d/2.png", "a/1.png", "a/c/3.txt", "b.jpg", "n\\xff?.png")
    assert [row["path"] for row in rows] == [f"{folder.as_uri()}/{name}" for name in names]
    assert [row["truth"] for row in rows] == ["a.d", "a", "a", None, None]
    assert read_input(rows[0], ()) == b"a.d/2.png"
    assert read_input(rows[-1], ()) == b"odd"


def test_a_bucket_is_listed_and_read(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores.set_credentials(monkeypatch)
    with stores.s3_server() as server:
        for name in ("a.png", "b/c.png", "b/.d.png"):
            place = RemotePath.of(stores.s3_uri(server, f"photos/{name}"))
            place.write_bytes(name.encode())
        rows = listed(tmp_path, stores.s3_uri(server, "photos"), truth="folder")
        assert [row["path"] for row in rows] == [
            "s3://bucket/photos/a.png",
            "s3://bucket/photos/b/c.png",
        ]
        assert [row["truth"] for row in rows] == [None, "b"]
        assert [read_input(row, ()) for row in rows] == [b"a.png", b"b/c.png"]
        assert len(listed(tmp_path, stores.s3_uri(server, "photos/*/*.png"))) == 1
        RemotePath.of(stores.s3_uri(server, "photos/b/copy.png")).write_bytes(b"a.png")
        lines = ("a.png", "none.png", "http://host/x.png", "b/copy.png", "b/c.png")
        RemotePath.of(stores.s3_uri(server, "photos/list.txt")).write_bytes(
            "\n".join(lines).encode()
        )
        rows = listed(tmp_path, stores.s3_uri(server, "photos/list.txt"))
        assert [row["size"] for row in rows] == [5, None, None, 5, 7]
        assert [row["duplicate_of"] for row in rows] == [None, None, None, 0, None]
        facts = pq.read_metadata(tmp_path / "manifest.parquet").metadata
        assert facts[b"http_not_compared"] == b"1"
        odd = stores.s3_uri(server, "photos/odd/what?region=x.png")
        filesystem, key = open_uri(odd)
        assert key == "bucket/photos/odd/what?region=x.png"
        with filesystem.open_output_stream(key) as file:
            file.write(b"odd")
        RemotePath.of(stores.s3_uri(server, "photos/odd.txt")).write_bytes(
            b"odd/what?region=x.png\n" + odd.encode()
        )
        for where in (odd, *(stores.s3_uri(server, f"photos/{n}") for n in ("odd", "odd.txt"))):
            rows = listed(tmp_path, where)
            assert read_input(rows[0], ()) == b"odd"
            assert rows[0]["size"] == 3
        assert [read_input(row, ()) for row in rows] == [b"odd", b"odd"]


def test_equal_contents_are_recognised_hard_links_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    for name, data in {
        "a": b"same",
        "b": b"else",
        "c": b"same",
        "d": b"",
        "e": b"",
        "g": b"5",
    }.items():
        (root / f"{name}.png").write_bytes(data)
    os.link(root / "a.png", root / "f.png")
    (root / "h.png").symlink_to(root / "g.png")
    read = []
    monkeypatch.setattr(
        inputs,
        "_digest",
        lambda row, config, real=inputs._digest: (
            read.append(Path(os.fsdecode(row["source"])).name),
            real(row, config),
        )[1],
    )
    rows = listed(tmp_path, root)
    assert [row["duplicate_of"] for row in rows] == [None, None, 0, None, None, 0, None, 6]
    assert sorted(read) == ["a.png", "b.png", "c.png", "g.png"]


def test_the_digest_tells_manifests_apart(tmp_path: Path, folder: Path) -> None:
    config = InputsConfig(inputs=str(folder))
    one = write_manifest(config, tmp_path / "1.parquet")
    assert (
        write_manifest(config.model_copy(update={"rows_per_part": 1}), tmp_path / "2.parquet")
        == one
    )
    (folder / "b.jpg").write_bytes(b"longer than before")
    assert write_manifest(config, tmp_path / "1.parquet")["sha256"] != one["sha256"]


def test_row_groups_are_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_PIECE", 7)
    (tmp_path / "list.txt").write_text("".join(f"{i}.png\n" for i in range(50)))
    rows = listed(tmp_path, tmp_path / "list.txt", rows_per_part=16)
    assert len(rows) == 50
    metadata = pq.read_metadata(tmp_path / "manifest.parquet")
    groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert groups == [16, 16, 16, 2]
    assert [part_size(n) for n in (1, 5000, 50_000, 1_000_000)] == [16, 48, 496, 1024]


def test_what_cannot_be_listed_is_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / ".hidden.md").write_text("no picture")
    (tmp_path / "empty.txt").write_text("\n")
    for name, what in (
        ("nowhere", "no such folder or file"),
        ("empty", "no inputs"),
        ("text", "no inputs"),
        ("empty.txt", "no inputs"),
        ("none.csv", "column: .* is a table"),
    ):
        with pytest.raises((UsageError, ValidationError), match=what):
            check(InputsConfig(inputs=str(tmp_path / name)))
    with pytest.raises(ValidationError, match="no columns"):
        InputsConfig(inputs=str(folder), column="x")
    with pytest.raises(UsageError, match="nothing here knows the scheme 's4'"):
        check(InputsConfig(inputs="s4://bucket/folder"))
    with pytest.raises(UsageError, match=r"cannot be listed; expected a path, or a URI"):
        check(InputsConfig(inputs="http://host/*.jpg"))


def test_names_of_inputs_need_no_ending(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("0001", "b.dat"):
        Image.new("RGB", (4, 4)).save(tmp_path / "photos" / name, "PNG")
    check(InputsConfig(inputs=str(tmp_path / "photos")))
    check(InputsConfig(inputs=f"{tmp_path}/photos/*.dat"))
    rows = listed(tmp_path, tmp_path / "photos")
    assert paths(rows, tmp_path / "photos") == ["0001", "b.dat"]
    with DecoderPool(ImageClassification(4, 4), 0) as pool:
        assert pool.decode([read_input(row, ()) for row in rows]).errors == [None, None]


def test_a_folder_that_cannot_be_listed_is_an_input(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def closed(path: bytes) -> Any:
        if path.endswith(b"/a"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    found = [entry.path for entry in entries(InputsConfig(inputs=str(folder)), LeftOut())]
    assert os.fsencode(folder / "a") in found


def test_a_question_mark_in_the_name_of_an_object_is_kept() -> None:
    for name in ("s3://b/a.png", "s3://b/what?.png", "gs://b/a?b?c"):
        for options in ("", "region=x"):
            assert split_options(with_options(name, options)) == (name, options)
    assert with_options("s3://b/a.png", "") == "s3://b/a.png"
    assert with_options("memory://b/what?.png", "") == "memory://b/what?.png"
