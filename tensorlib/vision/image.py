"""The decoding policy: which files are images, and which pixels they mean. It stands only here.

- **Formats**: JPEG (arithmetic coding excepted), PNG, WebP, GIF, BMP, TIFF, recognised by content,
  whatever the name. No other decoder of Pillow is tried.
- **Before any pixel is decoded**: a regular file (a FIFO or device is never opened), not empty, at
  most `MAX_FILE_BYTES`; by its header at most `MAX_PIXELS` and sides of at most `MAX_SIDE_RATIO`;
  a JPEG of at most `jpeg.MAX_SCANS` scans.
- **Orientation**: EXIF orientation is applied, or ignored with `exif="ignore"` (torchvision's
  loader ignores it, so ImageNet numbers are compared that way).
- **Animations and multi-page files**: the first frame.
- **Truncated data** is refused, never filled with gray, with an end marker or without. PNG has
  checksums, so that damage is found too; a JPEG with changed bytes inside is decoded as it is.
- **Size**: decoded in full, or with `draft` a JPEG at 1/2, 1/4 or 1/8 (libjpeg's own scaling), no
  smaller than asked for. Width and height are the file's all the same.
- **Transparency** (alpha channel, palette or color-key transparency) is laid over white.
- **16-bit, 32-bit and float gray** are scaled to 8 bits: unsigned 16-bit by 257 (65535 is white);
  32-bit integers as 16-bit ones when they fit, else by their own range; floats within [0, 1] by
  255, other finite floats by their own range. Pillow's own conversion would clip them to white.
- **CMYK, YCbCr, Lab, palette, 1-bit** are converted by Pillow; `mode="RGB"` repeats gray.

Every refusal is an `ImageError` whose message is one line, made to stand in a table.
"""

from __future__ import annotations

import io
import os
import re
import stat
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tensorlib.vision import jpeg

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_FILE_BYTES = 64 << 20
MAX_PIXELS = 50_000_000
MAX_SIDE_RATIO = 100
NO_MEMORY = "not enough memory to decode the image"
_BEGINNINGS = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF....WEBP",
    "GIF": rb"GIF8[79]a",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
}
_ORIENTATION, _PHOTOMETRIC = 0x0112, 0x0106
# EXIF orientation to the PIL transpose that undoes it (TIFF 6.0, tag 274)
_UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


class ImageError(ValueError):
    """An input that is not a usable image; the message is the one-line reason."""


@dataclass(frozen=True)
class Decoded:
    """A decoded image: 8-bit pixels, its size as seen, and whether EXIF turned or mirrored it."""

    image: Image.Image
    width: int
    height: int
    rotated: bool


def decode(
    source: str | os.PathLike[str] | bytes,
    mode: Literal["RGB", "L"] = "RGB",
    exif: Literal["apply", "ignore"] = "apply",
    draft: int | None = None,
) -> Decoded:
    """Decode a file, or the bytes of one, by the policy of this module.

    Args:
        source: a path, or the encoded bytes.
        mode: "RGB" or "L" (8-bit gray).
        exif: "ignore" leaves the orientation as stored.
        draft: the short side that is enough: a JPEG of at least twice that is decoded smaller.

    Raises:
        ImageError: the input is not an image that the policy accepts.
    """
    if mode not in ("RGB", "L"):
        raise ValueError(f"decode: mode={mode!r}; expected 'RGB' or 'L'")
    if exif not in ("apply", "ignore"):
        raise ValueError(f"decode: exif={exif!r}; expected 'apply' or 'ignore'")
    data = source if isinstance(source, bytes) else read(source)
    if not data:
        raise ImageError("empty file (0 bytes)")
    if len(data) > MAX_FILE_BYTES:
        raise ImageError(f"file of {len(data)} bytes; at most {MAX_FILE_BYTES} are accepted")
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about odd metadata; pixels are checked
            whole = jpeg.complete(data) if data.startswith(jpeg.SOI) else data
            with Image.open(io.BytesIO(whole), formats=FORMATS) as opened:
                width, height = opened.size
                _check_header(width, height)
                is_tiff = opened.format == "TIFF"
                orientation = _orientation(opened) if is_tiff else 1  # loading removes it there
                if draft is not None:
                    opened.draft(None, (draft, draft))
                drafted = opened.size != (width, height)
                opened.load()
                if opened.format == "PNG" and b"IEND" not in data:
                    raise ImageError("cannot be decoded: PNG file is truncated (no end chunk)")
                orientation = orientation if is_tiff else _orientation(opened)
                image = _to_8bit(opened, mode)
            turn = orientation if exif == "apply" else 1
            if is_tiff:  # Pillow has turned it: nothing to do, or back
                turn = 1 if exif == "apply" else {6: 8, 8: 6}.get(orientation, orientation)
            if turn in _UPRIGHT:
                image = image.transpose(Image.Transpose[_UPRIGHT[turn]])
    except ImageError:
        raise
    except jpeg.Incomplete as error:
        raise ImageError(f"cannot be decoded: {error}") from None
    except UnidentifiedImageError:
        name = _format_of(data)
        if name:
            raise ImageError(f"cannot be decoded: {name} with a damaged header") from None
        raise ImageError(
            f"not an image: no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} header "
            f"(starts with {data[:8].hex(' ')})"
        ) from None
    except MemoryError:
        raise ImageError(NO_MEMORY) from None
    except Image.DecompressionBombError as error:  # Pillow's limit; ours is the lower one
        pixels = re.search(r"\d+", str(error))
        raise ImageError(
            f"image of {pixels[0] if pixels else 'too many'} pixels; at most {MAX_PIXELS} are "
            "accepted"
        ) from None
    except Exception as error:  # decoders raise anything: OSError, SyntaxError, struct.error, ...
        raise ImageError(f"cannot be decoded: {_one_line(error)}") from error
    rotated = exif == "apply" and orientation in _UPRIGHT
    if not drafted:
        width, height = image.size
    elif rotated and orientation >= 5:
        width, height = height, width
    return Decoded(image, width, height, rotated)


def read(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a regular file within the size limit; anything else is an `ImageError`."""
    try:
        _check_file(os.stat(path))
        # O_NONBLOCK: should a FIFO take the file's place now, opening it would wait for a writer
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        link = os.path.islink(path)
        raise ImageError("link to a file that does not exist" if link else "no such file") from None
    except OSError as error:
        raise ImageError(f"cannot be opened: {error.strerror}") from None
    except ImageError:
        raise
    except ValueError as error:
        raise ImageError(f"cannot be opened: {error}") from None
    try:
        _check_file(os.fstat(descriptor))
    except ImageError:
        os.close(descriptor)
        raise
    with open(descriptor, "rb") as file:
        try:
            return file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror}") from None


def write(path: str | os.PathLike[str], pixels: np.ndarray, quality: int = 95) -> None:
    """Write uint8 [H, W], [H, W, 1] or [H, W, 3] in the format that the path's ending names.

    Args:
        quality: of JPEG and WebP.
    """
    from PIL import Image

    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)):
        raise ValueError(
            f"write: {path}: pixels of {pixels.dtype} {pixels.shape}; expected uint8 [H, W], "
            "[H, W, 1] or [H, W, 3]"
        )
    Image.fromarray(pixels).save(path, quality=quality)  # other formats have no quality


def policy(exif: Literal["apply", "ignore"] = "apply", draft: bool = False) -> dict[str, Any]:
    """The policy of this module as a record for reports."""
    return {
        "formats": list(FORMATS),
        "recognised_by": "content",
        "max_file_bytes": MAX_FILE_BYTES,
        "max_pixels": MAX_PIXELS,
        "max_side_ratio": MAX_SIDE_RATIO,
        "max_jpeg_scans": jpeg.MAX_SCANS,
        "files": "regular",
        "orientation": "from EXIF" if exif == "apply" else "as stored",
        "frames": "first",
        "truncated": "refused",
        "alpha": "on white",
        "deep_gray": "scaled to 8 bits",
        "jpeg_scaling": "draft" if draft else "none",
    }


def _check_file(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"not a regular file but a {_kind(status.st_mode)}")
    if status.st_size > MAX_FILE_BYTES:
        raise ImageError(f"file of {status.st_size} bytes; at most {MAX_FILE_BYTES} are accepted")


def _check_header(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"image of {width}x{height} pixels; expected at least 1x1")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"image of {width}x{height} = {width * height} pixels; "
            f"at most {MAX_PIXELS} are accepted"
        )
    if max(width, height) > MAX_SIDE_RATIO * min(width, height):
        raise ImageError(
            f"image of {width}x{height} pixels; sides of at most 1:{MAX_SIDE_RATIO} are accepted"
        )


def _format_of(data: bytes) -> str:
    """The format that a file begins like; "" for none."""
    return next((n for n, head in _BEGINNINGS.items() if re.match(head, data, re.DOTALL)), "")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none or the block is damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block is not a damaged picture
        return 1


def _to_8bit(image: Image.Image, mode: str) -> Image.Image:
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_scale(image))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = _on_white(image)
    return image if image.mode == mode else image.convert(mode)


def _on_white(image: Image.Image) -> Image.Image:
    """RGB without transparency, made in strips: whole images of each step would be a gigabyte."""
    from PIL import Image

    laid = Image.new("RGB", image.size)
    for top in range(0, image.height, 256):
        box = (0, top, image.width, min(top + 256, image.height))
        strip = image.crop(box).convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        laid.paste(Image.alpha_composite(white, strip).convert("RGB"), box)
    return laid


def _scale(image: Image.Image) -> np.ndarray:
    """16-bit, 32-bit and float gray as uint8, the transparent value (of PNG) as white."""
    values = np.asarray(image)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ImageError("float image with NaN or infinite pixels")
    full = 1.0 if values.dtype.kind == "f" else 65535.0
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= full:
        low, high = 0.0, full
    scaled = np.zeros(values.shape, np.uint8)
    if high > low:
        for top in range(0, len(values), 256):  # in strips: no float64 copy of a large image
            strip = values[top : top + 256].astype(np.float64)
            scaled[top : top + 256] = np.rint((strip - low) * (255.0 / (high - low)))
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:  # white is zero; Pillow leaves it so
        np.subtract(255, scaled, out=scaled)
    if "transparency" in image.info:
        scaled[values == image.info["transparency"]] = 255
    return scaled


def _kind(mode: int) -> str:
    names = {
        stat.S_IFDIR: "directory",
        stat.S_IFIFO: "FIFO",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "character device",
        stat.S_IFBLK: "block device",
    }
    return names.get(stat.S_IFMT(mode), "special file")


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
