"""torch's format before 1.6: five pickles (magic number, version, facts of the machine, the object,
the keys of its storages), then for each key the number of items and their bytes.
"""

from __future__ import annotations

import os
import warnings
from typing import IO, Any

import numpy as np

from tensorlib.pth import LoadError
from tensorlib.pth.unpickler import BadPickle, unpickle

__all__ = ["MAGIC", "Legacy"]

MAGIC = b"\x80\x02\x8a\nl\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
_PROTOCOL = 1001


class Legacy:
    """Such a file in the form of the zip: `data.pkl` and members `data/<key>`, which `find` places
    once the types of the storages are known. There are no checksums in it.
    """

    def __init__(self, file: IO[bytes], where: str) -> None:
        self.file, self.where = file, where
        self.size = file.seek(0, os.SEEK_END)
        file.seek(0)
        self._pickle()  # the magic number
        if unpickle(self._pickle(), {}) != _PROTOCOL:
            raise LoadError(f"{where}: torch's legacy format of another version than {_PROTOCOL}.")
        facts = unpickle(self._pickle(), {})
        if not isinstance(facts, dict) or facts.get("little_endian") is not True:
            raise LoadError(
                f"{where}: torch's legacy format from a machine that is not little-endian."
                " Hint: with torch, torch.save(torch.load(old, weights_only=True), new)."
            )
        self.pickled = self._pickle()
        self.keys = unpickle(self._pickle(), {})
        if not isinstance(self.keys, list):
            raise BadPickle("its list of storages is damaged")
        self.start = file.tell()
        self.members: dict[str, tuple[int, int]] = {}  # offset and bytes

    def _pickle(self) -> bytes:
        """The bytes of the pickle that begins here; the file then stands behind it."""
        import pickletools

        start = self.file.tell()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # odd escapes in its text
                for _ in pickletools.genops(self.file):
                    pass
        except (ValueError, IndexError, OverflowError) as error:
            raise BadPickle(f"the file is truncated or damaged ({error})") from None
        end = self.file.tell()
        self.file.seek(start)
        return self.file.read(end - start)

    def find(self, widths: dict[str, int]) -> None:
        """Place the storages, whose items have these bytes."""
        at = self.start
        for key in self.keys:
            if key not in widths:
                raise BadPickle(f"no tensor has storage {key!r:.40}")
            self.file.seek(at)
            count = int.from_bytes(self.file.read(8), "little", signed=True)
            size = count * widths[key]
            at += 8
            if count < 0 or at + size > self.size:
                raise LoadError(
                    f"{self.where}: storage {key!r:.40} has {count} items of {widths[key]} bytes"
                    f" from byte {at} of {self.size} on; the file is truncated or damaged."
                    " Hint: copy or download it again and compare its sha256."
                )
            self.members[f"data/{key}"] = at, size
            at += size

    def read(self, name: str) -> bytes:
        assert name == "data.pkl"
        return self.pickled

    def read_into(self, name: str) -> np.ndarray:
        """The member as uint8."""
        if name not in self.members:
            raise LoadError(f"{self.where}: the file has no storage {name[5:]!r:.40}; damaged.")
        offset, size = self.members[name]
        self.file.seek(offset)
        return np.frombuffer(bytearray(self.file.read(size)), np.uint8)

    def __enter__(self) -> Legacy:
        return self

    def __exit__(self, *exc: Any) -> None:
        pass
