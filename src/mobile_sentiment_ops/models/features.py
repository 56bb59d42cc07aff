"""From texts to weighted word features, by the same code for training and serving.

    tokens      "I don't LOVE it 👍" -> i dont love it 👍
    counted     tokens and pairs of neighbours, each counted in one of 2^20 buckets by its CRC-32
    WordFeatures  the buckets worth keeping: 1 + log(count), by the square root of idf, rows of length 1

Unicode is normalised (NFKC) and lower-cased, marks stay with their letters, negations and emoji stay
tokens, and scripts written without blanks (Thai, Chinese, Japanese, ...) become overlapping triples of
characters. The square root is measured: no idf is best on one set of reviews, whole idf on another.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np
import numpy.typing as npt

from mobile_sentiment_ops.errors import BundleError
from mobile_sentiment_ops.models.arrays import read_array, write_array

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

BUCKETS = 2**20
CHUNK_TEXTS = 8_192
COMMON_FROM_TEXTS = 1_000
"""From so many texts on, a feature must be in two of them: what is in one alone teaches nothing general."""

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]


def tokens(text: str) -> list[str]:
    """The tokens of a text, in order.

    >>> tokens("I don't LOVE it!! \\U0001f44d\\U0001f3fd"), tokens("ใช้งาน ok")
    (['i', 'dont', 'love', 'it', '👍'], ['ใช้', 'ช้ง', '้งา', 'งาน', 'ok'])
    """
    found: list[str] = []
    for match in _TOKEN.finditer(unicodedata.normalize("NFKC", text).lower().translate(_DROPPED)):
        token = match[0]
        if match.lastgroup == "unspaced":
            found += [token[at : at + 3] for at in range(max(1, len(token) - 2))]
        else:
            found.append(token)
    return found


_DROPPED = dict.fromkeys([*map(ord, "'\u2019\u00ad\u200b\u200c\u200d"), *range(0xFE00, 0xFE10)])
"""Apostrophes, and what shows nothing: soft hyphens, joiners, variation selectors."""

_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
_MARKS = (
    "\u0300-\u036f\u0483-\u0487\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0900-\u0963\u0966-\u0dff"
)
_EMOJI = "\u2190-\u2bff\U0001f000-\U0001f3fa\U0001f400-\U0001faff"  # skin tones are left out
_TOKEN = re.compile(f"(?P<unspaced>[{_UNSPACED}]+)|(?:(?![{_UNSPACED}])(?:[^\\W_]|[{_MARKS}]))+|[{_EMOJI}]")


@dataclass(frozen=True, slots=True)
class Counted:
    """The filled buckets of n texts, text after text: text i has those from `starts[i]` to `starts[i + 1]`."""

    starts: npt.NDArray[np.int64]
    buckets: Integers
    counts: Floats

    @property
    def rows(self) -> npt.NDArray[np.intp]:
        """The text of each filled bucket."""
        return np.repeat(np.arange(self.starts.size - 1), np.diff(self.starts))


def counted(texts: Sequence[str]) -> Counted:
    """How often each bucket occurs in each text.

    >>> found = counted(["good good app", ""])
    >>> sorted(found.counts.tolist()), found.starts.tolist()
    ([1.0, 1.0, 1.0, 2.0], [0, 4, 4])
    """
    parts = [_counted(texts[at : at + CHUNK_TEXTS]) for at in range(0, len(texts), CHUNK_TEXTS)]
    sizes = np.concatenate([np.zeros(1, np.int64), *(np.diff(part.starts) for part in parts)])
    buckets = [np.empty(0, np.int32), *(part.buckets for part in parts)]
    counts = [np.empty(0, np.float32), *(part.counts for part in parts)]
    return Counted(np.cumsum(sizes), np.concatenate(buckets), np.concatenate(counts))


def _counted(texts: Sequence[str]) -> Counted:
    hashes: list[int] = []
    sizes = []
    for text in texts:
        words = [word.encode() for word in tokens(text)]
        hashes += map(crc32, words)
        hashes += [crc32(second, crc32(b" ", crc32(first))) for first, second in pairwise(words)]
        sizes.append(max(0, 2 * len(words) - 1))
    rows = np.repeat(np.arange(len(texts)), sizes)
    keys, counts = np.unique(rows * BUCKETS + np.array(hashes, np.int64) % BUCKETS, return_counts=True)
    starts = np.searchsorted(keys, np.arange(len(texts) + 1) * BUCKETS)
    return Counted(starts, (keys % BUCKETS).astype(np.int32), counts.astype(np.float32))


@dataclass(frozen=True, slots=True)
class WordFeatures:
    """The kept buckets as columns: `buckets` (k,) sorted, `idf` (k,) the weight of each."""

    buckets: Integers
    idf: Floats
    columns: Integers
    """The column of every bucket, -1 for one that is not kept."""

    @classmethod
    def of(cls, buckets: Integers, idf: Floats) -> WordFeatures:
        columns = np.full(BUCKETS, -1, np.int32)
        columns[buckets] = np.arange(buckets.size)
        return cls(buckets, idf, columns)

    @classmethod
    def learn(cls, found: Counted, *, most: int = BUCKETS) -> WordFeatures:
        """The `most` buckets that are in most texts of `found`."""
        texts = found.starts.size - 1
        seen_in = np.bincount(found.buckets, minlength=BUCKETS)
        kept = np.flatnonzero(seen_in >= (2 if texts >= COMMON_FROM_TEXTS else 1))
        if kept.size > most:
            kept = np.sort(kept[np.argsort(-seen_in[kept], kind="stable")[:most]])
        if not kept.size:  # nothing but empty texts: learners want a column
            kept = np.zeros(1, np.intp)
        idf = np.sqrt(np.log((1 + texts) / (1 + seen_in[kept])) + 1)
        return cls.of(kept.astype(np.int32), idf.astype(np.float32))

    def kept(self, found: Counted) -> Counted:
        """The kept buckets of each text, by column."""
        columns = self.columns[found.buckets]
        kept = columns >= 0
        sizes = np.bincount(found.rows[kept], minlength=found.starts.size - 1)
        return Counted(np.concatenate([[0], np.cumsum(sizes)]), columns[kept], found.counts[kept])

    def weighed(self, found: Counted) -> Counted:
        """The same with weights in the place of counts."""
        kept = self.kept(found)
        weights, rows = (1 + np.log(kept.counts)) * self.idf[kept.buckets], kept.rows
        lengths = np.sqrt(np.bincount(rows, weights=weights.astype(np.float64) ** 2, minlength=found.starts.size - 1))
        return Counted(kept.starts, kept.buckets, (weights / lengths[rows]).astype(np.float32))

    def matrix(self, columns: Counted) -> csr_matrix:
        """What `kept` or `weighed` gave, as a sparse matrix (n, k) for learners."""
        from scipy.sparse import csr_matrix  # XGBoost knows no csr_array

        shape = (columns.starts.size - 1, self.buckets.size)
        return csr_matrix((columns.counts, columns.buckets, columns.starts.astype(np.int32)), shape=shape)

    def files(self) -> dict[str, bytes]:
        """What `from_files` reads."""
        return {"buckets.npy": write_array(self.buckets), "idf.npy": write_array(self.idf)}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> WordFeatures:
        """The features of these files; BundleError when they do not fit together."""
        buckets = read_array(files, "buckets.npy", np.int32, (None,))
        if (buckets < 0).any() or (buckets >= BUCKETS).any() or (np.diff(buckets) <= 0).any():
            raise BundleError(f"buckets.npy does not hold rising numbers below {BUCKETS:,}")
        return cls.of(buckets, read_array(files, "idf.npy", np.float32, (buckets.size,)))
