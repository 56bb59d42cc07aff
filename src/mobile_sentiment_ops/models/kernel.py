"""From texts to counted features, by the same code for training and serving.

    Grams     which features a text has: runs of tokens, and runs of characters inside tokens
    counted   how often each of 2^bits buckets occurs in each text
    tokens    "I don't LOVE it 👍" -> i dont love it 👍

`_kernel.c` does the work when it was built, else `reference.py` does the same slowly. Every code point is folded by
itself by a table of one version of Unicode (docs/code_points.py writes it): compatibility forms, case and the accents of
Latin, Greek and Cyrillic go, marks of other scripts stay with their letters, negations and emoji stay tokens, and
scripts written without blanks (Thai, Chinese, Japanese, ...) become overlapping triples of characters.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mobile_sentiment_ops.errors import DataError

BATCH_TEXTS = 16_384
TABLE = Path(__file__).with_name("code_points.bin").read_bytes()
UNICODE_VERSION = TABLE[:32].rstrip(b"\0").decode().removeprefix("Unicode ")

try:
    from mobile_sentiment_ops.models import _kernel
except ImportError:
    _kernel = None  # type: ignore[assignment]
else:
    _kernel.load(TABLE)

Texts: TypeAlias = "Sequence[str] | Any"
"""Strings, or an Arrow array or chunked array of strings: pyarrow is not imported to look at one."""


@dataclass(frozen=True, slots=True)
class Grams:
    """Which features a text has. `words`: runs of up to so many tokens, 1..3. `characters`: runs of so many to so
    many code points inside a token with a mark at its start and its end, 1..6; (0, 0) for none. `bits`: 2^bits
    buckets, 10..24."""

    words: int = 2
    characters: tuple[int, int] = (0, 0)
    bits: int = 20

    def __post_init__(self) -> None:
        shortest, longest = self.characters
        if not (1 <= self.words <= 3 and 10 <= self.bits <= 24):
            raise ValueError(f"words is {self.words} and bits {self.bits}, expected 1..3 and 10..24")
        if (shortest, longest) != (0, 0) and not 1 <= shortest <= longest <= 6:
            raise ValueError(f"characters is {self.characters}, expected two rising numbers of 1..6, or (0, 0)")


@dataclass(frozen=True, slots=True)
class Counted:
    """The filled buckets of n texts, text after text: text i has those from `starts[i]` to `starts[i + 1]`,
    rising."""

    starts: npt.NDArray[np.int64]
    buckets: npt.NDArray[np.int32]
    counts: npt.NDArray[np.float32]

    @property
    def rows(self) -> npt.NDArray[np.intp]:
        """The text of each filled bucket."""
        return np.repeat(np.arange(self.starts.size - 1), np.diff(self.starts))


def tokens(text: str) -> list[str]:
    """The tokens of a text, folded and in order.

    >>> tokens("I don't LOVE it!! \\U0001f44d\\U0001f3fd"), tokens("ใช้งาน ok")
    (['i', 'dont', 'love', 'it', '👍'], ['ใช้', 'ช้ง', '้งา', 'งาน', 'ok'])
    """
    if _kernel is None:
        return _reference().tokens(text)
    return _kernel.tokens(text.encode()).decode(f"utf-32-{sys.byteorder[0]}e").split("\n")[:-1]


def counted(texts: Texts, grams: Grams = Grams(), *, threads: int = 1) -> Counted:  # noqa: B008 - frozen
    """How often each bucket occurs in each text. DataError names the text that is not valid Unicode; a null of an
    Arrow array is an empty text.

    >>> found = counted(["good good app", ""])
    >>> sorted(found.counts.tolist()), found.starts.tolist()
    ([1.0, 1.0, 1.0, 2.0], [0, 4, 4])
    """
    settings = (grams.words, *grams.characters, grams.bits)

    def of(batch: tuple[Any, ...]) -> tuple[bytes, bytes, bytes]:
        count = _kernel.count_tuple if len(batch) == 2 else _kernel.count_arrow
        return count(*batch, *settings)

    if _kernel is None:
        return _reference().counted(_strings(texts), grams)
    try:
        if threads == 1:
            parts = list(map(of, _batches(texts)))
        else:
            with ThreadPoolExecutor(threads) as pool:
                parts = list(pool.map(of, _batches(texts)))
    except ValueError as err:
        raise DataError(f"{err}; leave it out or repair its encoding") from err
    sizes = [np.zeros(1, np.int64), *(np.diff(np.frombuffer(ends, np.int64), prepend=0) for ends, _, _ in parts)]
    buckets, counts = (b"".join(part[at] for part in parts) for at in (1, 2))
    return Counted(np.concatenate(sizes).cumsum(), np.frombuffer(buckets, np.int32), np.frombuffer(counts, np.float32))


def _batches(texts: Texts) -> Iterator[tuple[Any, ...]]:
    """What the kernel takes at once, with the number of its first text."""
    chunks, first = getattr(texts, "chunks", [texts]), 0
    for chunk in chunks:
        if not hasattr(chunk, "buffers"):
            for at in range(0, len(chunk), BATCH_TEXTS):
                yield tuple(chunk[at : at + BATCH_TEXTS]), at
            return
        widths = {"string": 4, "large_string": 8}
        if str(chunk.type) not in widths:
            raise DataError(f"texts are an Arrow array of {chunk.type}, expected string or large_string; cast it")
        valid, offsets, data = chunk.buffers()
        for at in range(0, len(chunk), BATCH_TEXTS):
            count = min(BATCH_TEXTS, len(chunk) - at)
            yield data, offsets, valid, chunk.offset + at, count, widths[str(chunk.type)], first + at
        first += len(chunk)


def _strings(texts: Texts) -> Sequence[str]:
    return [text or "" for text in texts.to_pylist()] if hasattr(texts, "to_pylist") else texts


def _reference() -> Any:
    """The same in Python, with a warning when it serves for want of the kernel."""
    from mobile_sentiment_ops.models import reference

    message = "the kernel in C is not built, so texts are read about a thousand times slower; install a C compiler (cc)"
    warnings.warn(f"{message} and this package again", RuntimeWarning, stacklevel=3)
    return reference
