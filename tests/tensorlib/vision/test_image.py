"""The decoding policy, one verdict per kind of file."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from tensorlib.vision.image import MAX_FILE_BYTES, ImageError, decode, policy, write

RGB = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def encode(image, format, **options):
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(
        buffer, format, **options
    )
    return buffer.getvalue()


def pixels(data, mode="RGB", **options):
    return np.asarray(decode(data, mode, **options).image)


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "JPEG"])
def test_each_format_gives_its_pixels(format):
    options = {"lossless": True} if format == "WEBP" else {}
    data = encode(RGB, format, **options)
    decoded = decode(data)
    assert (decoded.width, decoded.height, decoded.rotated) == (60, 40, False)
    expected = RGB if format in ("PNG", "BMP", "TIFF", "WEBP") else Image.open(io.BytesIO(data))
    np.testing.assert_array_equal(np.asarray(decoded.image), np.asarray(_rgb(expected)))


def _rgb(image):
    return image if isinstance(image, np.ndarray) else image.convert("RGB")


def test_formats_are_known_by_content_not_by_name(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encode(RGB, "PNG"))
    np.testing.assert_array_equal(pixels(path), RGB)


@pytest.mark.parametrize("format", ["PPM", "EPS", "ICO", "TGA", "PDF", "JPEG2000", "AVIF"])
def test_other_formats_are_not_even_tried(format):
    with pytest.raises(ImageError, match="not an image: no JPEG"):
        decode(encode(RGB, format))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
def test_truncated_files_are_refused(format, share):
    data = encode(RGB, format)
    with pytest.raises(ImageError):
        decode(data[: int(len(data) * share)])


def test_png_without_its_end_and_with_a_wrong_checksum():
    data = encode(RGB, "PNG")
    with pytest.raises(ImageError, match="truncated"):
        decode(data[:-12])
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode(data[:100] + bytes([data[100] ^ 255]) + data[101:])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(RGB, "PNG", exif=exif)
    upright = decode(data)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(np.asarray(upright.image), expected)
    assert upright.rotated == (orientation != 1)
    assert (upright.width, upright.height) == ((40, 60) if orientation >= 5 else (60, 40))
    ignored = decode(data, exif="ignore")
    np.testing.assert_array_equal(np.asarray(ignored.image), RGB)
    assert not ignored.rotated


def test_damaged_exif_leaves_the_picture():
    data = encode(RGB, "JPEG", exif=b"Exif\0\0II*\0garbage garbage")
    assert decode(data).width == 60


def test_16_bit_gray_is_scaled_not_clipped():
    ramp = np.array([[0, 257 * 10, 300, 65535]], np.uint16)
    for format in ("PNG", "TIFF"):
        np.testing.assert_array_equal(pixels(encode(ramp, format), "L"), [[0, 10, 1, 255]])
        assert pixels(encode(ramp, format)).shape == (1, 4, 3)


def test_32_bit_and_float_gray():
    floats = np.array([[0, 0.5, 1]], np.float32)
    np.testing.assert_array_equal(pixels(encode(floats, "TIFF"), "L"), [[0, 128, 255]])
    np.testing.assert_array_equal(pixels(encode(floats * 4 - 2, "TIFF"), "L"), [[0, 128, 255]])
    wide = np.array([[0, 1 << 20]], np.int32)
    np.testing.assert_array_equal(pixels(encode(wide, "TIFF"), "L"), [[0, 255]])
    flat = np.full((2, 3), 7.0, np.float32)
    np.testing.assert_array_equal(pixels(encode(flat, "TIFF"), "L"), np.zeros((2, 3)))
    with pytest.raises(ImageError, match="NaN"):
        decode(encode(floats * np.float32("nan"), "TIFF"))


def test_transparency_lies_on_white():
    for image in (
        Image.new("RGBA", (3, 2), (255, 0, 0, 0)),
        Image.new("LA", (3, 2), (0, 0)),
    ):
        np.testing.assert_array_equal(pixels(encode(image, "PNG")), np.full((2, 3, 3), 255))
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    np.testing.assert_array_equal(pixels(encode(half, "PNG"), "L"), [[127]])
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([1, 2, 3, 200, 100, 50])
    np.testing.assert_array_equal(pixels(encode(palette, "PNG")), [[[200, 100, 50]] * 2])
    np.testing.assert_array_equal(
        pixels(encode(palette, "PNG", transparency=1)), [[[255, 255, 255]] * 2]
    )


def test_cmyk_and_bilevel():
    cmyk = Image.fromarray(RGB).convert("CMYK")
    np.testing.assert_array_equal(pixels(encode(cmyk, "TIFF")), RGB)
    assert decode(encode(cmyk, "JPEG")).image.mode == "RGB"
    bilevel = Image.new("1", (3, 1), 1)
    np.testing.assert_array_equal(pixels(encode(bilevel, "PNG"), "L"), [[255] * 3])


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    for format in ("GIF", "WEBP", "PNG", "TIFF"):
        data = encode(frames[0], format, save_all=True, append_images=frames[1:])
        red = pixels(data)[4, 4]
        assert red[0] > 240, format
        assert red[2] < 15, format


def _png_header(width, height):
    def chunk(kind, body):
        body = kind + body
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels)


def test_bombs_are_refused_by_their_header():
    with pytest.raises(ImageError, match="10000x10000 = 100000000 pixels; at most 50000000"):
        decode(_png_header(10_000, 10_000))
    with pytest.raises(ImageError, match="sides of at most 1:100"):
        decode(_png_header(1010, 10))
    with pytest.raises(ImageError):
        decode(_png_header(2_000_000_000, 2_000_000_000))


def test_only_regular_files_within_the_limit(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(ImageError, match="not a regular file but a FIFO"):
        decode(fifo)
    with pytest.raises(ImageError, match="not a regular file but a directory"):
        decode(tmp_path)
    with pytest.raises(ImageError, match="character device"):
        decode("/dev/zero")
    with pytest.raises(ImageError, match="no such file"):
        decode(tmp_path / "missing.png")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(ImageError, match="link to a file that does not exist"):
        decode(tmp_path / "dangling")
    with pytest.raises(ImageError, match="null"):
        decode("a\0b")
    with open(tmp_path / "huge.png", "wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(ImageError, match="67108865 bytes; at most 67108864"):
        decode(tmp_path / "huge.png")


def test_empty_and_text(tmp_path):
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(ImageError, match="empty file"):
        decode(tmp_path / "empty.png")
    with pytest.raises(ImageError, match=r"starts with 68 65 6c 6c 6f\)"):
        decode(b"hello")


def test_messages_are_one_line():
    for data in (b"", b"\n\n\n", encode(RGB, "PNG")[:50], encode(RGB, "GIF")[:40]):
        with pytest.raises(ImageError) as caught:
            decode(data)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="mode='RGBA'"):
        decode(b"", mode="RGBA")
    with pytest.raises(ValueError, match="exif='maybe'"):
        decode(b"", exif="maybe")


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
def test_what_is_written_is_read_back(tmp_path, shape):
    values = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    write(tmp_path / "a.png", values)
    mode = "RGB" if shape[2:] == (3,) else "L"
    np.testing.assert_array_equal(pixels(tmp_path / "a.png", mode).reshape(shape), values)
    write(tmp_path / "small.jpg", values, quality=10)
    write(tmp_path / "large.jpg", values, quality=100)
    sizes = [(tmp_path / name).stat().st_size for name in ("small.jpg", "large.jpg")]
    assert sizes[0] < sizes[1]
    with pytest.raises(ValueError, match="expected uint8"):
        write(tmp_path / "b.png", values.astype(float))


def test_the_policy_can_be_printed():
    assert policy()["max_pixels"] == 50_000_000
    assert policy()["formats"] == ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]


def _jpeg(**options):
    ramp = np.linspace(0, 255, 96 * 80 * 3).reshape(96, 80, 3).astype(np.uint8) ^ (RGB[0, 0, 0] & 7)
    return encode(Image.fromarray(ramp), "JPEG", **options)


@pytest.mark.parametrize("subsampling", [0, 2])
@pytest.mark.parametrize("restarts", [0, 1])
def test_half_a_jpeg_with_an_end_marker_is_not_filled_with_gray(subsampling, restarts):
    data = _jpeg(subsampling=subsampling, restart_marker_rows=restarts, quality=90)
    whole = pixels(data)
    np.testing.assert_array_equal(whole, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    scan = data.index(b"\xff\xda") + 14
    for share in np.linspace(0, 0.97, 30):
        cut = data[: scan + int(share * (len(data) - scan))] + b"\xff\xd9"
        with pytest.raises(ImageError, match="truncated"):
            decode(cut)
    np.testing.assert_array_equal(pixels(data + b"\xff\xd9 and more \xff\xd8"), whole)


def test_a_progressive_jpeg_needs_its_last_scan():
    data = _jpeg(progressive=True)
    whole = pixels(data)
    np.testing.assert_array_equal(whole, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    scans = [i for i in range(len(data)) if data.startswith(b"\xff\xda", i)]
    assert len(scans) > 5
    for count, start in enumerate(scans):
        with pytest.raises(ImageError, match=f"ends after {count} scans" if count else "decoded"):
            decode(data[:start] + b"\xff\xd9")
    with pytest.raises(ImageError, match="truncated"):
        decode(data[: scans[-1] + 20])


def test_arithmetic_coding_is_refused():
    data = _jpeg()
    frame = data.index(b"\xff\xc0")
    with pytest.raises(ImageError, match="arithmetic-coded"):
        decode(data[: frame + 1] + b"\xc9" + data[frame + 2 :])
