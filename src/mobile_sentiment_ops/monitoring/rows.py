"""What monitoring looks at in a review: integers alone, so that sums over reviews are exact in any order.

Vocabulary   the words that the champion learned from
Rows         figures of n scored reviews, one row each
rows_of      a scored frame as Rows
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mobile_sentiment_ops.data.predictions import PROBABILITIES
from mobile_sentiment_ops.errors import DataError
from mobile_sentiment_ops.models.kernel import Counted, Grams, counted
from mobile_sentiment_ops.types import LABELS

Ints = npt.NDArray[np.int64]

DIMENSIONS = ("app", "version", "language")

UNIT = 1 << 20
"""Probabilities are kept in 2^-20, with an error below 5e-7."""
SHARE = 1 << 10
"""Shares of a text are kept in 2^-10."""

MOMENTS = ("length", "unknown", "non_ascii", "density", "empty", "broken")
"""Of a text: log2 of its characters in 2^-8; words that the champion did not learn from, characters beyond ASCII and
punctuation as shares of it in 2^-10; whether it has no word; whether it was decoded wrongly. All 0 for a review
whose text is not kept."""

TOKEN_BITS, TEXT_BITS = 12, 11
REPEATABLE_WORDS = 4
"""A text of fewer different words is often written twice without a campaign."""

_WORDS = Grams(words=1, bits=20)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The words of many texts as a set of 2^20 hashed buckets: a word that was not among them is taken for known
    by chance in (words / 2^20) of cases."""

    known: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Vocabulary:
        """Of all words of these texts."""
        known = np.zeros(1 << _WORDS.bits, bool)
        known[counted(texts, _WORDS).buckets] = True
        return cls(known)

    def to_array(self) -> npt.NDArray[np.uint8]:
        """(131072,) packed into bits."""
        return np.packbits(self.known)

    @classmethod
    def from_array(cls, packed: npt.NDArray[np.uint8]) -> Vocabulary:
        """What `to_array` packed."""
        return cls(np.unpackbits(packed).astype(bool))


@dataclass(frozen=True, slots=True)
class Rows:
    """Figures of n reviews. `tokens` holds the token buckets (0 to 4,095) of all reviews one after the other, each
    bucket once a review, from `starts[i]` to `starts[i + 1]`; `keys` is 0 for a text that is too short to be called
    repeated; `draws` are numbers that decide who is in a sample."""

    frame: pl.DataFrame
    """The columns KEPT of each review."""
    labels: npt.NDArray[np.uint8]
    scores: Ints
    """(n, 3) probabilities in units of UNIT."""
    moments: Ints
    """(n, 6) by MOMENTS."""
    starts: Ints
    tokens: npt.NDArray[np.int32]
    keys: npt.NDArray[np.uint64]
    draws: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, at: npt.NDArray[np.intp]) -> Rows:
        """The rows at these places, in that order; a place may come again."""
        sizes = np.diff(self.starts)[at]
        starts = np.concatenate([[0], sizes.cumsum()])
        within = np.arange(starts[-1]) - np.repeat(starts[:-1], sizes)
        tokens = self.tokens[np.repeat(self.starts[at], sizes) + within]
        kept = {name: getattr(self, name)[at] for name in ("labels", "scores", "moments", "keys", "draws")}
        return Rows(frame=self.frame[at], starts=starts, tokens=tokens, **kept)


def rows_of(scored: pl.DataFrame, vocabulary: Vocabulary | None) -> Rows:
    """The figures of scored reviews: a frame with `label`, PROBABILITIES, DIMENSIONS, `event_time` and `text` (null
    where it is not kept). Without a `vocabulary` no word counts as unknown.

    >>> frame = pl.DataFrame({"text": ["Love it", "It crashs!!", ""], "label": ["Positive", "Negative", "Neutral"]})
    >>> frame = frame.with_columns(p_negative=0.3, p_neutral=0.4, p_positive=0.3)
    >>> found = rows_of(frame, Vocabulary.of(["love it"]))
    >>> found.moments[:, MOMENTS.index("unknown")].tolist(), found.moments[:, MOMENTS.index("empty")].tolist()
    ([0, 512, 0], [0, 0, 1])
    """
    # plain columns rather than expressions: each of these starts threads, which cost more than the work on a batch
    missing = [name for name in KEPT if name not in scored.columns]
    frame = scored.with_columns(pl.lit(None, _KEPT[name]).alias(name) for name in missing) if missing else scored
    given = frame["text"].to_arrow()
    told = given.is_valid().to_numpy(zero_copy_only=False)
    texts = given.cast("large_string")
    words = counted(texts, _WORDS)
    sizes = np.diff(words.starts)
    moments = np.zeros((frame.height, len(MOMENTS)), np.int64)
    moments[:, 0], moments[:, 2], moments[:, 3], moments[:, 5] = _letters(texts)
    moments[:, 1] = _unknown(words, vocabulary)
    moments[:, 4] = sizes == 0
    moments[~told] = 0
    starts, tokens = _distinct(words)
    keys = _keys(words, sizes)
    times = frame["event_time"].to_physical().to_arrow().fill_null(0).to_numpy().astype(np.uint64)
    scores = np.rint(np.stack([frame[name].to_numpy() for name in PROBABILITIES], axis=1) * UNIT).astype(np.int64)
    labels = pc.index_in(frame["label"].to_arrow().cast("string"), _LABELS)
    if labels.null_count:
        odd = frame["label"].filter(pl.Series(labels.is_null())).unique().to_list()
        raise DataError(f"label holds {odd[0]!r}, expected one of {', '.join(label.value for label in LABELS)}")
    return Rows(
        frame=frame[list(KEPT)],
        labels=labels.to_numpy().astype(np.uint8),
        scores=scores,
        moments=moments,
        starts=starts,
        tokens=tokens,
        keys=np.where(sizes >= REPEATABLE_WORDS, keys, 0),
        draws=_mixed(keys ^ _mixed(times)),
    )


_KEPT = {
    **dict.fromkeys((*DIMENSIONS, "model_version"), pl.Utf8()),
    "event_time": pl.Datetime("us", "UTC"),
    "text": pl.Utf8(),
}
KEPT = tuple(_KEPT)
"""Columns of a frame that stay with its rows."""
_LABELS = pa.array([label.value for label in LABELS])


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts in turn."""
    told: dict[str, Any] = {field.name: [getattr(part, field.name) for part in parts] for field in fields(Rows)}
    sizes = np.concatenate([np.diff(starts) for starts in told.pop("starts")])
    frame = pl.concat(told.pop("frame"))
    return Rows(
        frame=frame,
        starts=np.concatenate([[0], sizes.cumsum()]),
        **{name: np.concatenate(arrays) for name, arrays in told.items()},
    )


def _mixed(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Numbers whose every bit hangs on every bit (the finisher of MurmurHash3)."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        numbers = (numbers ^ numbers >> np.uint64(33)) * np.uint64(factor)
    return numbers ^ numbers >> np.uint64(33)


def _keys(words: Counted, sizes: Ints) -> npt.NDArray[np.uint64]:
    """The same number for texts of the same words, in whatever order."""
    mixed = _mixed(words.buckets.astype(np.uint64) + (words.counts.astype(np.uint64) << np.uint64(32)))
    return _sums(mixed, words.starts, sizes)


def _unknown(words: Counted, vocabulary: Vocabulary | None) -> Ints:
    if vocabulary is None:
        return np.zeros(len(words.starts) - 1, np.int64)
    counts = words.counts.astype(np.int64)
    unknown = np.where(vocabulary.known[words.buckets], 0, counts)
    sizes = np.diff(words.starts)
    every = np.maximum(_sums(counts, words.starts, sizes), 1)
    shares: Ints = _sums(unknown, words.starts, sizes) * SHARE // every
    return shares


def _distinct(words: Counted) -> tuple[Ints, npt.NDArray[np.int32]]:
    """Token buckets, each once a review: the first bits of word buckets, which rise within a review."""
    tokens, rows = words.buckets >> (_WORDS.bits - TOKEN_BITS), words.rows
    new = np.ones(tokens.size, bool)
    new[1:] = (tokens[1:] != tokens[:-1]) | (rows[1:] != rows[:-1])
    sizes = np.bincount(rows[new], minlength=len(words.starts) - 1)
    return np.concatenate([[0], sizes.cumsum()]), tokens[new]


def _sums(values: npt.NDArray[Any], starts: Ints, sizes: Ints) -> npt.NDArray[Any]:
    """The sum of each review's values."""
    sums, filled = np.zeros(sizes.size, values.dtype), sizes > 0
    if values.size:  # reduceat takes the next value for the sum of none
        sums[filled] = np.add.reduceat(values, starts[:-1][filled])
    return sums


# --- letters, counted over the bytes of all texts at once


def _bytes(*ranges: tuple[int, int]) -> npt.NDArray[np.bool_]:
    of = np.zeros(256, bool)
    for first, last in ranges:
        of[first : last + 1] = True
    return of


_STARTS = _bytes((0x00, 0x7F), (0xC0, 0xFF))
_BEYOND_ASCII = _bytes((0xC0, 0xFF))
_PUNCTUATION = _bytes((0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E))


def _letters(texts: Any) -> tuple[Ints, Ints, Ints, Ints]:
    """Length, non_ascii, density and broken of each text of an Arrow array without nulls."""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int64, len(texts) + 1, texts.offset * 8)
    octets = np.frombuffer(data or b"", np.uint8)[ends[0] : ends[-1]] if len(texts) else np.empty(0, np.uint8)
    starts, sizes = ends - ends[0], np.diff(ends)

    def count(of: npt.NDArray[np.bool_]) -> Ints:
        return _sums(of.astype(np.int64), starts, sizes)

    length = count(_STARTS[octets])
    beyond, marks = count(_BEYOND_ASCII[octets]), count(_PUNCTUATION[octets])
    broken = count(_misread(octets)) > 0
    every = np.maximum(length, 1)
    in_bits = np.rint(256 * np.log2(1 + length)).astype(np.int64)
    return in_bits, beyond * SHARE // every, marks * SHARE // every, broken.astype(np.int64)


_LEADS = _bytes((0x82, 0x83), (0x90, 0x91), (0xA0, 0xA0), (0xA2, 0xA2), (0xB0, 0xB0))  # A^ A~ D- N~ a` a^ d-


def _misread(octets: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Where the replacement character stands, or one of the letters that common leading bytes of UTF-8 are in Latin-1
    and Windows-1252, with what the next byte is in them. A blank of French before its marks is none."""
    found = np.zeros(octets.size, bool)
    if octets.size < 4 or octets.max() < 0x80:
        return found
    first, second, third, fourth = (octets[at : octets.size - 3 + at] for at in range(4))
    behind = ((third == 0xC2) & ((fourth != 0xA0) | (second <= 0x83))) | (third == 0xC5) | (third == 0xCB)
    behind |= (third == 0xE2) & (fourth == 0x82)
    found[: octets.size - 3] = (first == 0xC3) & _LEADS[second] & behind
    found[: octets.size - 3] |= (first == 0xEF) & (second == 0xBF) & (third == 0xBD)
    tail = octets[-3:]
    found[-3] |= (tail[0] == 0xEF) & (tail[1] == 0xBF) & (tail[2] == 0xBD)
    return found
