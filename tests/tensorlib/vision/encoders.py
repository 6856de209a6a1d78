"""Image files written byte by byte, so that what they mean is known without an image library."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

# rows and columns of Adam7's seven passes: first and step (PNG 1.2, section 8.2)
_ADAM7 = (
    (0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2),
    (1, 2, 0, 1),
)  # fmt: skip


def chunk(kind: bytes, body: bytes, crc: int | None = None) -> bytes:
    """A chunk of a PNG file."""
    found = zlib.crc32(kind + body) if crc is None else crc
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", found)


def png(
    values: np.ndarray,
    depth: int,
    color: int,
    before: bytes = b"",
    interlaced: bool = False,
    after: bytes = b"",
) -> bytes:
    """PNG of [H, W] or [H, W, C] samples of `depth` bits; `before` are chunks between header and
    data. Colors: 0 gray, 2 RGB, 3 palette, 4 gray and alpha, 6 RGBA.
    """
    height, width = values.shape[:2]
    passes = _ADAM7 if interlaced else ((0, 1, 0, 1),)
    data = b""
    for top, down, left, across in passes:
        part = values[top::down, left::across]
        if not part.size:
            continue
        for row in part.reshape(len(part), -1):
            if depth == 16:
                line = row.astype(">u2").tobytes()
            elif depth == 8:
                line = row.astype(np.uint8).tobytes()
            else:
                bits = row[:, None] >> np.arange(depth - 1, -1, -1) & 1
                line = np.packbits(bits.astype(np.uint8)).tobytes()
            data += b"\0" + line
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before
        + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"") + after
    )  # fmt: skip


def png_header(width: int, height: int, depth: int = 8, color: int = 0) -> bytes:
    """A PNG file of this size without its pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 100))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def blank_png(width: int, height: int, depth: int, color: int, channels: int) -> bytes:
    """A whole PNG file of zeros, however large."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    packer, line = zlib.compressobj(1), b"\0" * (1 + (width * depth * channels + 7) // 8)
    block = line * 100
    data = b"".join(packer.compress(block) for _ in range(height // 100))
    data += packer.compress(line * (height % 100)) + packer.flush()
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def tiff(
    values: np.ndarray,
    photometric: int,
    order: str = "<",
    orientation: int = 1,
    endless: bool = False,
    **more: int,
) -> bytes:
    """Uncompressed TIFF of [H, W] or [H, W, C], unsigned, signed or float as their dtype. `more`
    are tags `t<number>` with a short value; `endless` is followed by itself as the next page.
    """
    height, width = values.shape[:2]
    channels = values.shape[2] if values.ndim == 3 else 1
    raw = values.astype(values.dtype.newbyteorder(order)).tobytes()
    bits, kind = values.dtype.itemsize * 8, {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags: dict[int, list[int]] = {
        256: [width], 257: [height], 258: [bits] * channels, 259: [1], 262: [photometric],
        273: [8], 274: [orientation], 277: [channels], 278: [height], 279: [len(raw)],
        284: [1], 339: [kind] * channels,
    }  # fmt: skip
    tags |= {int(name[1:]): [value] for name, value in more.items()}
    entries, extra = b"", b""
    start = 8 + len(raw) + len(raw) % 2
    after = start + 2 + 12 * len(tags) + 4
    for tag, numbers in sorted(tags.items()):
        wide = tag in (273, 279)
        packed = b"".join(struct.pack(order + ("I" if wide else "H"), n) for n in numbers)
        if len(packed) > 4:
            where = struct.pack(order + "I", after + len(extra))
            extra += packed + b"\0" * (len(packed) % 2)
        else:
            where = packed.ljust(4, b"\0")
        entries += struct.pack(order + "HHI", tag, 4 if wide else 3, len(numbers)) + where
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, start)
    table = struct.pack(order + "H", len(tags)) + entries
    table += struct.pack(order + "I", start if endless else 0)
    return head + raw + b"\0" * (len(raw) % 2) + table + extra


def bmp(pixels: np.ndarray, top_down: bool = False) -> bytes:
    """BMP of 24 bits from RGB [H, W, 3]."""
    height, width = pixels.shape[:2]
    rows = pixels[..., ::-1] if top_down else pixels[::-1, :, ::-1]
    gap = b"\0" * (-3 * width % 4)
    raw = b"".join(row.tobytes() + gap for row in rows)
    info = struct.pack(
        "<IiiHHIIiiII", 40, width, -height if top_down else height, 1, 24, 0, len(raw), 0, 0, 0, 0
    )
    return struct.pack("<2sIHHI", b"BM", 54 + len(raw), 0, 0, 54) + info + raw


def encode(image: Image.Image | np.ndarray, format: str, **options: object) -> bytes:
    """By Pillow, for what needs a compressor."""
    file = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, format, **options)
    return file.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    """A segment of a JPEG file."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


def exif(orientation: int, order: str = "II") -> bytes:
    """An EXIF block with this orientation alone."""
    code = "<" if order == "II" else ">"
    entry = struct.pack(code + "HHIHH", 0x0112, 3, 1, orientation, 0)
    return (
        b"Exif\0\0" + order.encode() + struct.pack(code + "HI", 42, 8)
        + struct.pack(code + "H", 1) + entry + struct.pack(code + "I", 0)
    )  # fmt: skip
