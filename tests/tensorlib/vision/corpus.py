"""Odd and hostile image files, each with the verdict that it should get, and for good ones the
pixels, computed from what was written into them.
"""

from __future__ import annotations

import os
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from .encoders import blank_png, bmp, chunk, encode, exif, png, png_header, segment, tiff

RNG = np.random.default_rng(5)
PIXELS = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
GRAY = PIXELS[..., 0]
DEEP = RNG.integers(0, 65536, (40, 60, 4), dtype=np.uint16)
# Flat squares and slopes, which a JPEG keeps nearly
SMOOTH = np.zeros((48, 64, 3), np.uint8)
SMOOTH[..., 0] = np.linspace(20, 220, 64)
SMOOTH[..., 1] = np.linspace(200, 40, 48)[:, None]
SMOOTH[..., 2] = 90
LOSSY = 8  # how far a JPEG or WebP of good quality is from what it was made of
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


@dataclass(frozen=True)
class Case:
    """A file. `make` is its bytes, or makes it at a path; `refused` is found in the reason (a
    regular expression), None for a good image; `pixels` are gray or RGB, where they are known.
    """

    name: str
    make: bytes | Callable[[Path], None]
    refused: str | None = None
    pixels: np.ndarray | None = None
    within: int = 0
    rotated: bool = False

    def write(self, folder: Path) -> Path:
        """The file in a folder."""
        path = folder / self.name
        if callable(self.make):
            self.make(path)
        else:
            path.write_bytes(self.make)
        return path


def white(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """8-bit values over white."""
    share = alpha[..., None] / 255
    return np.rint(values * share + 255 * (1 - share)).astype(np.uint8)


def cases() -> list[Case]:
    """All of them; names are unique."""
    groups = (pngs, jpegs, oriented, tiffs, others, strangers, sizes, special_files)
    return [case for group in groups for case in group()]


def pngs() -> Iterator[Case]:
    """PNG in all its types, and damaged."""
    plain = png(PIXELS, 8, 2)
    yield Case("rgb.png", plain, pixels=PIXELS)
    yield Case("rgb-interlaced.png", png(PIXELS, 8, 2, interlaced=True), pixels=PIXELS)
    yield Case("gray.png", png(GRAY, 8, 0), pixels=GRAY)
    for depth in (1, 2, 4):
        values = GRAY >> (8 - depth)
        scaled = values * (255 // ((1 << depth) - 1))
        yield Case(f"gray-{depth}.png", png(values, depth, 0), pixels=scaled)
    colors = RNG.integers(0, 256, (16, 3), dtype=np.uint8)
    places = GRAY >> 4
    palette = chunk(b"PLTE", colors.tobytes())
    yield Case("palette.png", png(places, 4, 3, palette), pixels=colors[places])
    alpha = np.linspace(0, 255, 16).astype(np.uint8)
    seen = white(colors[places], alpha[places])
    clear = palette + chunk(b"tRNS", alpha.tobytes())
    yield Case("palette-alpha.png", png(places, 8, 3, clear), pixels=seen, within=1)
    key = chunk(b"tRNS", struct.pack(">H", int(GRAY[3, 4])))
    keyed = np.where(GRAY[3, 4] == GRAY, 255, GRAY).astype(np.uint8)
    yield Case("gray-key.png", png(GRAY, 8, 0, key), pixels=keyed)
    key = chunk(b"tRNS", struct.pack(">3H", *map(int, PIXELS[3, 4])))
    keyed = np.where((PIXELS[3, 4] == PIXELS).all(2, keepdims=True), 255, PIXELS).astype(np.uint8)
    yield Case("rgb-key.png", png(PIXELS, 8, 2, key), pixels=keyed)
    la = np.stack([GRAY, PIXELS[..., 1]], 2)
    yield Case("la.png", png(la, 8, 4), pixels=white(la[..., :1], la[..., 1])[..., 0], within=1)
    rgba = np.concatenate([PIXELS, GRAY[..., None]], 2)
    yield Case("rgba.png", png(rgba, 8, 6), pixels=white(PIXELS, GRAY), within=1)
    deep = np.rint(DEEP[..., 0] / 257)
    yield Case("gray-16.png", png(DEEP[..., 0], 16, 0), pixels=deep)
    key = chunk(b"tRNS", struct.pack(">H", int(DEEP[0, 0, 0])))
    deep_keyed = np.where(DEEP[..., 0] == DEEP[0, 0, 0], 255, deep)
    yield Case("gray-16-key.png", png(DEEP[..., 0], 16, 0, key), pixels=deep_keyed)
    yield Case("rgb-16.png", png(DEEP[..., :3], 16, 2), pixels=DEEP[..., :3] / 257, within=1)
    over = white(DEEP[..., :1] / 257, DEEP[..., 1] / 257)[..., 0]
    yield Case("la-16.png", png(DEEP[..., :2], 16, 4), pixels=over, within=2)
    over = white(DEEP[..., :3] / 257, DEEP[..., 3] / 257)
    yield Case("rgba-16.png", png(DEEP, 16, 6), pixels=over, within=2)
    yield Case("corrupt-icc.png", png(PIXELS, 8, 2, chunk(b"iCCP", b"x\0\0junk")), pixels=PIXELS)
    bad = chunk(b"tEXt", b"a\0b", crc=1)
    yield Case("bad-crc-of-a-text.png", png(PIXELS, 8, 2, bad), "PNG with a damaged header")
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * (8 << 20)))
    yield Case("text-bomb.png", png(PIXELS, 8, 2, text), "cannot be decoded: .*too large")
    icc = chunk(b"iCCP", b"x\0\0" + zlib.compress(b"\0" * (8 << 20)))
    yield Case("icc-bomb.png", png(PIXELS, 8, 2, icc), "cannot be decoded: .*too large")
    yield Case("more-data-than-pixels.png", _overfull(), pixels=np.zeros((10, 10), np.uint8))
    yield Case("junk-behind.png", plain + b"junk" * 99, pixels=PIXELS)
    at = plain.index(b"IDAT") + 200
    damaged = plain[:at] + bytes([plain[at] ^ 255]) + plain[at + 1 :]
    yield Case("bad-crc.png", damaged, "cannot be decoded")
    yield Case("cut.png", plain[: len(plain) // 2], "cannot be decoded")
    yield Case("without-end.png", plain[:-12], "truncated")
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in PIXELS))
    half = plain[:33] + chunk(b"IDAT", packed[: len(packed) // 2]) + chunk(b"IEND", b"")
    yield Case("half-with-end.png", half, "cannot be decoded")
    yield Case("no-data.png", plain[:33] + chunk(b"IEND", b""), "cannot be decoded")
    yield Case("no-palette.png", png(places, 4, 3))  # Pillow takes a gray one
    animated = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    moving = encode(animated[0], "PNG", save_all=True, append_images=animated[1:])
    yield Case("animated.png", moving, pixels=PIXELS)


def _overfull() -> bytes:
    full = blank_png(10, 10, 8, 0, 1)
    data = chunk(b"IDAT", zlib.compress(b"\0" * (32 << 20), 1))
    return full[:33] + data + chunk(b"IEND", b"")


def jpegs() -> Iterator[Case]:
    """JPEG in its kinds, and damaged."""
    for name, options in {
        "jpeg-444.jpg": {"subsampling": 0},
        "jpeg-420.jpg": {"subsampling": 2},
        "jpeg-progressive.jpg": {"progressive": True},
        "jpeg-restarts.jpg": {"restart_marker_blocks": 1},
        "jpeg-optimized.JPEG": {"optimize": True},
    }.items():
        data = encode(SMOOTH, "JPEG", quality=95, **options)
        yield Case(name, data, pixels=SMOOTH, within=LOSSY)
    plain = encode(SMOOTH, "JPEG", quality=95)
    gray = encode(SMOOTH[..., 1], "JPEG", quality=95)
    yield Case("jpeg-gray.jpg", gray, pixels=SMOOTH[..., 1], within=LOSSY)
    inks = np.full((32, 48, 4), (255, 60, 0, 30), np.uint8)
    inks[:, 24:] = 10, 200, 90, 120
    cmyk = encode(Image.fromarray(inks, "CMYK"), "JPEG", quality=95)
    seen = (255 - inks[..., :3].astype(int)) * (255 - inks[..., 3:].astype(int)) / 255
    yield Case("cmyk.jpg", cmyk, pixels=seen, within=LOSSY)
    adobe = cmyk.index(b"Adobe") + 11
    assert cmyk[adobe] == 0
    ycck = cmyk[:adobe] + b"\2" + cmyk[adobe + 1 :]
    y, cb, cr, k = (255.0 - inks[..., i] for i in range(4))  # stored inverted, now read so
    light = (y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128),
             y + 1.772 * (cb - 128))  # fmt: skip
    seen = (255 - np.clip(np.stack(light, 2), 0, 255)) * k[..., None] / 255
    yield Case("ycck.jpg", ycck, pixels=seen, within=LOSSY)
    yield Case("junk-behind.jpg", plain + b"\xff\xd9 \xff\xd8 junk", pixels=SMOOTH, within=LOSSY)
    twice = encode(Image.fromarray(SMOOTH), "MPO", save_all=True, quality=95,
                   append_images=[Image.fromarray(255 - SMOOTH)])  # fmt: skip
    yield Case("two-pictures.mpo", twice, pixels=SMOOTH, within=LOSSY)
    for name, block in {
        "corrupt-exif.jpg": segment(0xE1, b"Exif\0\0II*\0garbage garbage"),
        "exif-loop.jpg": segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\x01\0" + b"\x69\x87\4\0\1\0\0\0"
                                 b"\x08\0\0\0" + b"\x08\0\0\0"),
        "corrupt-icc.jpg": segment(0xE2, b"ICC_PROFILE\0\1\1" + b"junk" * 50),
        "exif-that-turns-to-nowhere.jpg": segment(0xE1, exif(9)),
        "comment.jpg": segment(0xFE, b"\xff\xd9 \0 \xff\xda" * 9),
    }.items():  # fmt: skip
        yield Case(name, plain[:2] + block + plain[2:], pixels=SMOOTH, within=LOSSY)
    scan = plain.index(b"\xff\xda")
    middle = (scan + len(plain)) // 2
    yield Case("cut.jpg", plain[:middle], "truncated")
    yield Case("half-with-end.jpg", plain[:middle] + b"\xff\xd9", "truncated")
    yield Case("without-end.jpg", plain[:-2], "truncated")
    yield Case("no-data.jpg", plain[: scan + 14] + b"\xff\xd9", "truncated")
    yield Case("only-a-header.jpg", plain[:scan], "cannot be decoded")
    yield Case("two-bytes.jpg", plain[:2], "not an image|cannot be decoded")
    slow = encode(SMOOTH, "JPEG", progressive=True)
    last = slow.rindex(b"\xff\xda")
    many = slow[:-2] + slow[last:-2] * 100 + slow[-2:]
    yield Case("scan-bomb.jpg", many, "more than 100 scans")
    yield Case("progressive-cut.jpg", slow[:last] + b"\xff\xd9", "ends after")
    frame = plain.index(b"\xff\xc0")

    def framed(code: int = 0xC0, bits: int = 8, high: int = 48, wide: int = 64) -> bytes:
        head = bytes((0xFF, code)) + plain[frame + 2 : frame + 4]
        return plain[:frame] + head + struct.pack(">BHH", bits, high, wide) + plain[frame + 9 :]

    yield Case("arithmetic.jpg", framed(0xC9), "arithmetic-coded")
    yield Case("lossless.jpg", framed(0xC3), "cannot be decoded")
    yield Case("12-bit.jpg", framed(bits=12), "cannot be decoded|not an image")
    yield Case("no-width.jpg", framed(wide=0), "JPEG with a damaged header")
    yield Case("bomb.jpg", framed(high=65000, wide=65000), "at most 50000000")
    yield Case("larger-than-it-is.jpg", framed(high=4800, wide=640), "truncated")


def oriented() -> Iterator[Case]:
    """EXIF orientation 1 to 8 in each format that has it."""
    for n, turned in UPRIGHT.items():
        data = encode(SMOOTH, "JPEG", quality=95)
        data = data[:2] + segment(0xE1, exif(n, "II" if n % 2 else "MM")) + data[2:]
        yield Case(f"turned-{n}.jpg", data, None, turned(SMOOTH), LOSSY, n > 1)
    data = png(PIXELS, 8, 2, chunk(b"eXIf", exif(6)[6:]))
    yield Case("turned.png", data, None, UPRIGHT[6](PIXELS), 0, True)
    yield Case("turned.tif", tiff(PIXELS, 2, orientation=8), None, UPRIGHT[8](PIXELS), 0, True)
    data = encode(PIXELS, "WEBP", lossless=True, exif=exif(5)[6:])
    yield Case("turned.webp", data, None, UPRIGHT[5](PIXELS), 0, True)


def tiffs() -> Iterator[Case]:
    """TIFF with numbers of all kinds."""
    for order in "<>":
        kind = {"<": "little", ">": "big"}[order]
        yield Case(f"rgb-{kind}.tif", tiff(PIXELS, 2, order), pixels=PIXELS)
        deep = np.rint(DEEP[..., 0] / 257)
        yield Case(f"gray-16-{kind}.tif", tiff(DEEP[..., 0], 1, order), pixels=deep)
    yield Case("gray-16-inverted.tif", tiff(DEEP[..., 0], 0), pixels=255 - deep)
    yield Case("gray-inverted.tif", tiff(GRAY, 0), pixels=255 - GRAY)
    yield Case("rgb-16.tif", tiff(DEEP[..., :3], 2), pixels=DEEP[..., :3] / 257, within=1)
    share = np.linspace(0, 1, 2400, dtype=np.float32).reshape(40, 60)
    yield Case("float.tif", tiff(share, 1), pixels=np.rint(share * 255.0), within=1)
    yield Case(
        "float-wide.tif", tiff(share * 900 - 500, 1), pixels=np.rint(share * 255.0), within=1
    )
    hole = share.copy()
    hole[3, 3] = np.nan
    yield Case("float-nan.tif", tiff(hole, 1), "NaN")
    whole = (np.arange(2400, dtype=np.int32) * 1000).reshape(40, 60)
    yield Case("int-32.tif", tiff(whole, 1), pixels=np.rint(whole * (255 / whole.max())))
    yield Case("float-64.tif", tiff(share.astype(np.float64), 1), "not an image|cannot be decoded")
    rgba = np.concatenate([PIXELS, GRAY[..., None]], 2)
    yield Case("rgba.tif", tiff(rgba, 2, t338=2), pixels=white(PIXELS, GRAY), within=1)
    for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits"):
        yield Case(f"{name}.tif", encode(PIXELS, "TIFF", compression=name), pixels=PIXELS)
    bits = GRAY > 127
    fax = encode(Image.fromarray(bits), "TIFF", compression="group4")
    yield Case("fax.tif", fax, pixels=bits * np.uint8(255))
    pages = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    many = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    yield Case("pages.tif", many, pixels=PIXELS)
    inks = np.concatenate([PIXELS, GRAY[..., None]], 2)
    seen = (255 - inks[..., :3].astype(int)) * (255 - inks[..., 3:].astype(int)) / 255
    yield Case("cmyk.tif", tiff(inks, 5), pixels=seen, within=1)
    yield Case("cut.tif", encode(PIXELS, "TIFF")[:2000], "cannot be decoded")
    yield Case("bomb.tif", tiff(GRAY, 1, t256=60000, t257=60000), "at most 50000000")
    yield Case("endless-pages.tif", tiff(PIXELS, 2, endless=True), pixels=PIXELS)


def others() -> Iterator[Case]:
    """GIF, WebP, BMP."""
    frames = [Image.fromarray(np.full((20, 30, 3), c, np.uint8)) for c in ((200, 10, 10), 30)]
    first = np.full((20, 30, 3), (200, 10, 10), np.uint8)
    more = {"save_all": True, "append_images": frames[1:]}
    yield Case("animated.gif", encode(frames[0], "GIF", **more), pixels=first)
    yield Case("animated.webp", encode(frames[0], "WEBP", lossless=True, **more), pixels=first)
    yield Case("lossless.webp", encode(PIXELS, "WEBP", lossless=True), pixels=PIXELS)
    yield Case("lossy.webp", encode(SMOOTH, "WEBP", quality=95), pixels=SMOOTH, within=LOSSY)
    rgba = Image.fromarray(np.concatenate([PIXELS, GRAY[..., None]], 2))
    data = encode(rgba, "WEBP", lossless=True, exact=True)
    yield Case("alpha.webp", data, pixels=white(PIXELS, GRAY), within=1)
    small = Image.fromarray(GRAY // 16).convert("P")
    clear = encode(small, "GIF", transparency=3)
    yield Case("clear.gif", clear, pixels=np.where(GRAY // 16 == 3, 255, GRAY // 16))
    gif = encode(small, "GIF")
    yield Case("cut.gif", gif[:-200], "cannot be decoded")
    yield Case("half-with-end.gif", gif[:-200] + b"\0;", "cannot be decoded")
    huge = gif[:6] + struct.pack("<HH", 65535, 65535) + gif[10:]
    yield Case("bomb.gif", huge, "at most 50000000")
    webp = encode(PIXELS, "WEBP", lossless=True)
    yield Case("cut.webp", webp[: len(webp) // 2], "cannot be decoded|not an image")
    yield Case("plain.bmp", bmp(PIXELS), pixels=PIXELS)
    yield Case("top-down.bmp", bmp(PIXELS, top_down=True), pixels=PIXELS)
    yield Case("bits.bmp", encode(Image.fromarray(GRAY > 127), "BMP"),
               pixels=(GRAY > 127) * np.uint8(255))  # fmt: skip
    yield Case("cut.bmp", bmp(PIXELS)[:-200], "truncated")
    data = bmp(PIXELS)
    yield Case("bomb.bmp", data[:18] + struct.pack("<ii", 1 << 30, 1 << 30) + data[26:],
               "pixels|cannot be decoded|not an image")  # fmt: skip


def strangers() -> Iterator[Case]:
    """What is no image of the policy, whatever its name, and images under other names."""
    yield Case("wrong-name.jpg", png(PIXELS, 8, 2), pixels=PIXELS)
    yield Case("no-name", bmp(PIXELS), pixels=PIXELS)
    yield Case("line\nbreak = 'a\".png", png(PIXELS, 8, 2), pixels=PIXELS)
    yield Case("label=cat,x.png", png(PIXELS, 8, 2), pixels=PIXELS)
    yield Case(os.fsdecode(b"latin-\xe9.png"), png(PIXELS, 8, 2), pixels=PIXELS)
    yield Case("-rf --json.png", png(PIXELS, 8, 2), pixels=PIXELS)
    for name, data in {
        "text.png": b"hello world",
        "page.jpg": b"<!DOCTYPE html><html>404</html>",
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>',
        "paper.pdf": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\n%%EOF",
        "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) run\n",
        "icon.ico": encode(PIXELS, "ICO"),
        "plain.ppm": encode(PIXELS, "PPM"),
        "targa.tga": encode(PIXELS, "TGA"),
        "jpeg-2000.jp2": encode(PIXELS, "JPEG2000"),
        "layers.psd": b"8BPS\0\1" + b"\0" * 6 + struct.pack(">HIIHH", 3, 40, 60, 8, 3) + b"\0" * 99,
        "photo.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 99,
        "archive.zip": b"PK\3\4" + b"\0" * 99,
        "program.png": b"\x7fELF" + b"\0" * 99,
        "zeros.png": b"\0" * 4096,
        "only-a-signature.png": b"\x89PNG\r\n\x1a\n",
    }.items():
        yield Case(name, data, "not an image|cannot be decoded")
    yield Case("empty.png", b"", r"empty file \(0 bytes\)")


def sizes() -> Iterator[Case]:
    """Small, long and large ones."""
    for width, height in ((1, 1), (1, 100), (100, 1), (3, 2)):
        values = PIXELS.reshape(-1)[: 3 * width * height].reshape(height, width, 3)
        yield Case(f"{width}x{height}.png", png(values, 8, 2), pixels=values)
    yield Case("101x1.png", png_header(101, 1), "sides of at most 1:100")
    yield Case("2000000x20000.png", png_header(2_000_000, 20_000), "at most 50000000|decoded")
    yield Case("50-megapixels-and-one-row.png", png_header(8000, 6251), "at most 50000000")
    yield Case("0x5.png", png_header(0, 5), "pixels|cannot be decoded|not an image")
    zeros = np.broadcast_to(np.uint8(0), (6250, 8000))
    for name, shown, kind in (
        ("50-megapixels.png", zeros, (1, 0, 1)),
        ("50-megapixels-alpha.png", np.broadcast_to(np.uint8(255), zeros.shape), (8, 6, 4)),
        ("50-megapixels-deep.png", zeros, (16, 0, 1)),
    ):
        yield Case(name, partial(_blank, kind), pixels=shown)


def _blank(kind: tuple[int, int, int], path: Path) -> None:
    path.write_bytes(blank_png(8000, 6250, *kind))


def special_files() -> Iterator[Case]:
    """Names that are no regular files of at most 64 MiB."""

    def sparse(size: int) -> Callable[[Path], None]:
        def make(path: Path) -> None:
            with open(path, "wb") as file:
                file.truncate(size)

        return make

    def unix_socket(path: Path) -> None:
        before = os.getcwd()
        os.chdir(path.parent)  # a socket's path is short
        try:
            with socket.socket(socket.AF_UNIX) as made:
                made.bind(path.name)
        finally:
            os.chdir(before)

    def linked(path: Path) -> None:
        (path.parent / ".target").write_bytes(png(PIXELS, 8, 2))
        path.symlink_to(".target")

    yield Case("folder.png", lambda path: path.mkdir(), "not a regular file but a directory")
    yield Case("pipe.png", os.mkfifo, "not a regular file but a FIFO")
    yield Case("socket.png", unix_socket, "not a regular file but a socket")
    yield Case("device.png", lambda p: p.symlink_to("/dev/zero"), "but a character device")
    yield Case("dangling.png", lambda p: p.symlink_to("nowhere"), "link to a file that does not")
    yield Case("circle.png", lambda p: p.symlink_to(p.name), "symbolic links|cannot be opened")
    yield Case("link.png", linked, pixels=PIXELS)
    yield Case("too-large.png", sparse((64 << 20) + 1), "67108865 bytes; at most 67108864")
    yield Case("just-small-enough.png", sparse(64 << 20), "not an image")
