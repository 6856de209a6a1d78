"""A text file as tokens, cut into windows for a model that predicts the next one."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from jobs.config import Part
from tensorlib.utils.data import Dataset

UNKNOWN = "<unknown>"


class TextConfig(Part):
    """A text to model.

    Args:
        path: a UTF-8 file.
        level: `char`, or `word`: words, single punctuation marks and ends of lines; the space
            between them is left out.
        window: tokens of a sample. A sample begins where the one before ended.
        validation: share of the text, its end, that is held out.
        min_count: tokens that are rarer in the training part become `<unknown>`, as do those that
            only the held-out part has.
    """

    kind: Literal["text"]
    path: Path
    level: Literal["char", "word"] = "char"
    window: int = Field(default=64, ge=1)
    validation: float = Field(default=0.1, gt=0, lt=1)
    min_count: int = Field(default=1, ge=1)


@dataclass(frozen=True)
class Text:
    """A text in two parts. `tokens` are the vocabulary; `<unknown>` is number 0."""

    train: Windows
    test: Windows
    tokens: list[str]
    facts: dict[str, Any]


class Windows(Dataset[tuple[Any, Any]]):
    """Samples (tokens [window], the token after each [window]) of int64, without overlap."""

    def __init__(self, codes: NDArray[np.int64], window: int) -> None:
        self.codes, self.window = codes, window

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        part = self.codes[index * self.window : (index + 1) * self.window + 1]
        return part[:-1], part[1:]

    def __len__(self) -> int:
        return (len(self.codes) - 1) // self.window


def split(text: str, level: str) -> list[str]:
    """A text as tokens."""
    return list(text) if level == "char" else re.findall(r"\w+|[^\w\s]|\n", text)


def join(tokens: Sequence[str], level: str) -> str:
    """Tokens as a text; between words stands a space."""
    return "".join(tokens) if level == "char" else " ".join(tokens).replace(" \n ", "\n")


def load(config: TextConfig) -> Text:
    """Read and cut. ValueError for a file that will not do."""
    try:
        raw = config.path.read_bytes()
        words = split(raw.decode("utf-8"), config.level)
    except OSError as error:
        raise ValueError(
            f"{config.path}: cannot be read: {error.strerror}; expected a text file. Hint: "
            "params.data.path"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{config.path}: is not UTF-8 text: {error.reason}") from error
    cut = round(len(words) * (1 - config.validation))
    counts = Counter(words[:cut])
    tokens = [UNKNOWN, *sorted(word for word, n in counts.items() if n >= config.min_count)]
    if min(cut, len(words) - cut) <= config.window:
        raise ValueError(
            f"{config.path}: {cut} tokens to train on and {len(words) - cut} held out; expected "
            f"more than {config.window} in each part. Hint: a smaller params.data.window"
        )
    number = {token: i for i, token in enumerate(tokens)}
    codes = np.array([number.get(word, 0) for word in words], np.int64)
    train, test = (Windows(part, config.window) for part in (codes[:cut], codes[cut:]))
    facts = {
        "name": config.path.name,
        "path": str(config.path),
        "level": config.level,
        "sha256": hashlib.sha256(raw).hexdigest(),
        "vocabulary": len(tokens),
    }
    for name, part in (("train", train), ("test", test)):
        facts[f"{name}_samples"] = len(part)
        facts[f"{name}_tokens"] = len(part) * config.window
        facts[f"{name}_tokens_left_out"] = len(part.codes) - 1 - len(part) * config.window
        facts[f"{name}_tokens_unknown"] = int((part.codes == 0).sum())
    return Text(train, test, tokens, facts)
