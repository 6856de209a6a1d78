"""Whether all of a JPEG picture is there, which libjpeg does not tell: data that ends early with an
end marker is filled with gray, a progressive picture without its last scans is shown blurred.

Markers are those of ITU-T T.81, Annex B.
"""

from __future__ import annotations

__all__ = ["Incomplete", "complete"]

SOI = b"\xff\xd8"
MAX_SCANS = 100  # encoders write about ten; each costs a pass over all pixels, and 30 bytes
_EOI, _SOS = 0xD9, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # other codes there are tables
_ARITHMETIC = {*range(0xC9, 0xD0)}
_PROGRESSIVE = 0xC2
_DATA = {0, *range(0xD0, 0xD8)}  # behind 0xFF in the data of a scan: stuffed zeros, restarts
# 64 bits that no complete picture uses and that decode to very little: no Huffman code is all ones
_FILLER = b"\xff\x00" * 8


class Incomplete(ValueError):
    """The picture ends early, or is of a kind that is not read; the message is the reason."""


def complete(data: bytes) -> bytes:
    """The picture alone, in a form that libjpeg decodes if all of it is there and else refuses.

    A picture of one scan loses its end marker: where its data ends early, the decoder then waits
    for more instead of filling the rest with gray. Of several scans all must be there; how much of
    the last one cannot be told. What follows the end is left out. Damaged headers are left to the
    decoder.

    Raises Incomplete.
    """
    components: dict[int, list[int | None]] = {}  # 64 coefficients: lowest bit that is known
    frame, at, scans = 0, len(SOI), 0
    try:
        while True:
            at = data.index(b"\xff", at)
            while data[at] == 0xFF:
                at += 1
            marker = data[at]
            at += 1
            if marker == _EOI:
                break
            if marker == 1 or 0xD0 <= marker <= 0xD8:  # without a length
                continue
            body = data[at + 2 : at + int.from_bytes(data[at : at + 2])]
            at += 2 + len(body)
            if marker in _ARITHMETIC:
                raise Incomplete("arithmetic-coded JPEG, which few programs read")
            if marker in _FRAMES:
                frame = marker
                components = {body[6 + 3 * i]: [None] * 64 for i in range(body[5])}
            elif marker == _SOS:
                scans += 1
                if scans > MAX_SCANS:
                    raise Incomplete(f"JPEG of more than {MAX_SCANS} scans")
                count = body[0]
                first, last, bits = body[1 + 2 * count : 4 + 2 * count]
                for i in range(count):
                    known = components[body[1 + 2 * i]]
                    known[first : last + 1] = [bits & 15] * (last + 1 - first)
                at = data.index(b"\xff", at)
                while data[at + 1] in _DATA:
                    at = data.index(b"\xff", at + 2)
                end = at
                while data[at + 1] == 0xFF:
                    at += 1
                whole = frame != _PROGRESSIVE and count == len(components)
                if whole and scans == 1 and data[at + 1] == _EOI:
                    return data[:end] + _FILLER
    except (ValueError, IndexError, KeyError) as error:
        if isinstance(error, Incomplete):
            raise
        return data
    if scans and any(bit != 0 for known in components.values() for bit in known):
        raise Incomplete(f"JPEG ends after {scans} scans; more are needed for the whole picture")
    return data[:at]
