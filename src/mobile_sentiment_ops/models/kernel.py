"""From texts to counted features, by the same code for training and serving.

    Grams     which features a text has: runs of tokens, and runs of characters inside tokens
    counted   how often each of 2^bits buckets occurs in each text
    tokens    "I don't LOVE it 👍" -> i dont love it 👍

`_kernel.c` does the work when it was built, else `reference.py` does the same slowly. Each code point is folded by
a table of one version of Unicode (docs/code_points.py writes it), whatever stands beside it: compatibility forms,
case and the accents of Latin, Greek and Cyrillic go, marks of other scripts stay with their letters, negations and
emoji stay tokens, and scripts written without blanks (Thai, Chinese, Japanese, ...) become overlapping triples.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mobile_sentiment_ops.errors import DataError

BATCH_TEXTS = 65_536

_HEAD, _BLOCKS = 32, 0x110000 // 64
_DATA = Path(__file__).with_name("code_points.bin").read_bytes()
_ENTRIES, _FOLDED = np.frombuffer(_DATA, "<u4", 2, _HEAD + 2 * _BLOCKS).tolist()
TABLE = (
    np.frombuffer(_DATA, "<u2", _BLOCKS, _HEAD).astype(np.uint16),
    np.frombuffer(_DATA, "<u2", 64 * _ENTRIES, _HEAD + 2 * _BLOCKS + 8).astype(np.uint16),
    np.frombuffer(_DATA, "<u4", _FOLDED, len(_DATA) - 4 * _FOLDED).astype(np.uint32),
)
"""Blocks, entries and folded code points."""
UNICODE_VERSION = _DATA[:_HEAD].rstrip(b"\0").decode().removeprefix("Unicode ")

_kernel: ModuleType | None
try:
    from mobile_sentiment_ops.models import _kernel
except ImportError:
    _kernel = None
if _kernel is not None:
    _kernel.load(*TABLE)

Texts: TypeAlias = "Sequence[str] | Any"
"""Strings, or an Arrow array or chunked array of them: pyarrow is not imported to look at one."""


@dataclass(frozen=True, slots=True)
class Grams:
    """Which features a text has. `words`: runs of up to so many tokens, 1..3. `characters`: runs of so many to so
    many code points inside a token with a mark at its start and its end, 1..6; (0, 0) for none. With characters,
    they are in odd buckets and words in even ones. `bits`: 2^bits buckets, 10..24."""

    words: int = 2
    characters: tuple[int, int] = (0, 0)
    bits: int = 20

    def __post_init__(self) -> None:
        shortest, longest = self.characters
        if not (1 <= self.words <= 3 and 10 <= self.bits <= 24):
            raise ValueError(f"words is {self.words} and bits {self.bits}, expected 1..3 and 10..24")
        if (shortest, longest) != (0, 0) and not 1 <= shortest <= longest <= 6:
            raise ValueError(f"characters is {self.characters}, expected two numbers of 1..6 that rise, or (0, 0)")


@dataclass(frozen=True, slots=True)
class Counted:
    """The filled buckets of n texts: text i has those from `starts[i]` to `starts[i + 1]`, rising."""

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
        return list(_reference().tokens(text))
    points: str = _kernel.tokens(text).decode(f"utf-32-{sys.byteorder[0]}e")
    return points.split("\n")[:-1]


def counted(texts: Texts, grams: Grams = Grams(), *, threads: int = 1) -> Counted:
    """How often each bucket occurs in each text. DataError names the text that is not valid Unicode; a null of an
    Arrow array is an empty text.

    >>> found = counted(["good good app", ""])
    >>> sorted(found.counts.tolist()), found.starts.tolist()
    ([1.0, 1.0, 1.0, 2.0], [0, 4, 4])
    """
    if (kernel := _kernel) is None:
        strings = [text or "" for text in texts.to_pylist()] if hasattr(texts, "to_pylist") else texts
        made: Counted = _reference().counted(strings, grams)
        return made

    def of(batch: tuple[Any, Any, int]) -> Counted:
        texts, data, first = batch
        strings = isinstance(texts, tuple)
        size = sum(map(len, texts)) if strings else min(abs(int(texts[-1, 1] - texts[0, 0])), data.size if data else 0)
        room, done = 64 + size * grams.words + 2 * size * (grams.characters[1] > 0), 0
        starts = np.zeros(len(texts) + 1, np.int64)
        buckets, counts = np.empty(room, np.int32), np.empty(room, np.float32)  # pages that stay empty cost nothing
        settings = (grams.words, *grams.characters, grams.bits)
        while (done := kernel.count(texts, data, first, done, *settings, starts, buckets, counts)) < len(texts):
            buckets, counts = np.append(buckets, np.empty_like(buckets)), np.append(counts, np.empty_like(counts))
        return Counted(starts, buckets[: starts[-1]], counts[: starts[-1]])

    try:
        if threads == 1:
            return _joined(map(of, batches(texts)))
        with ThreadPoolExecutor(threads) as pool:
            return _joined(pool.map(of, batches(texts)))
    except ValueError as err:
        raise DataError(f"{err}; leave it out or mend its encoding") from err


def weighed(found: Counted, columns: npt.NDArray[np.int32], weights: npt.NDArray[np.float32]) -> Counted:
    """The columns of those buckets that have one (`columns` holds -1 for others), with (1 + log(count)) * weight in
    the place of counts, each text of length 1.

    >>> found, columns = counted(["good good app"], Grams(words=1)), np.full(2**20, -1, np.int32)
    >>> columns[counted(["good"], Grams(words=1)).buckets] = 7
    >>> values = weighed(found, columns, np.ones(8, np.float32))
    >>> values.buckets.tolist(), values.counts.tolist()
    ([7], [1.0])
    """
    if _kernel is None:
        made: Counted = _reference().weighed(found, columns, weights)
        return made
    to = Counted(np.empty_like(found.starts), np.empty_like(found.buckets), np.empty_like(found.counts))
    filled = (to.starts, to.buckets, to.counts)
    _kernel.weigh(found.starts, found.buckets, found.counts, columns, weights, *filled)
    return Counted(to.starts, to.buckets[: to.starts[-1]], to.counts[: to.starts[-1]])


def _joined(parts: Iterable[Counted]) -> Counted:
    """The texts of all parts in turn."""
    every = list(parts)
    if len(every) == 1:
        return every[0]
    sizes = [np.zeros(1, np.int64), *(np.diff(part.starts) for part in every)]
    buckets = [np.empty(0, np.int32), *(part.buckets for part in every)]
    counts = [np.empty(0, np.float32), *(part.counts for part in every)]
    return Counted(np.concatenate(sizes).cumsum(), np.concatenate(buckets), np.concatenate(counts))


def batches(texts: Texts) -> Iterator[tuple[Any, Any, int]]:
    """What C reads at once: strings and None, or bounds and the data between them; the number of the first text."""
    first = 0
    for chunk in getattr(texts, "chunks", [texts]):
        arrow = hasattr(chunk, "buffers")
        if arrow and str(chunk.type) not in _WIDTHS:
            raise DataError(f"texts are an Arrow array of {chunk.type}, expected string or large_string; cast it")
        for at in range(0, len(chunk), BATCH_TEXTS):
            part = chunk[at : at + BATCH_TEXTS]
            if arrow:
                yield *_bounds(part), first + at
            else:
                yield tuple(part), None, first + at
        first += len(chunk)


_WIDTHS = {"string": np.int32, "large_string": np.int64}


def _bounds(array: Any) -> tuple[npt.NDArray[np.int64], Any]:
    """Where each text of an Arrow array begins and ends in its data; a null has no bytes."""
    _, offsets, data = array.buffers()
    width = np.dtype(_WIDTHS[str(array.type)])
    try:
        ends = np.frombuffer(offsets, width, len(array) + 1, array.offset * width.itemsize).astype(np.int64)
    except ValueError as err:
        raise DataError("texts are an Arrow array with too few offsets") from err
    bounds = np.stack([ends[:-1], ends[1:]], axis=1)
    if array.null_count:
        bounds[np.asarray(array.is_null())] = 0
    return bounds, data


@cache
def _reference() -> Any:
    """The same in Python, with one warning that it serves for want of the kernel."""
    from mobile_sentiment_ops.models import reference

    message = "the kernel in C is not built and texts are read a thousand times slower: install a C compiler"
    warnings.warn(f"{message} (cc), then this package again", RuntimeWarning, stacklevel=3)
    return reference
