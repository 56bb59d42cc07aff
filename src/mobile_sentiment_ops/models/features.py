"""From counted buckets to the columns that learners see, and their weights.

    Features    the buckets worth keeping, each with how much it weighs
    weighed     (1 + log count) * weight, rows of length 1

A weight is the square root of idf (no idf is best on one set of reviews, whole idf on another), times a
factor for runs of characters, which stand in the odd buckets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mobile_sentiment_ops.errors import BundleError
from mobile_sentiment_ops.models.arrays import read_array, write_array
from mobile_sentiment_ops.models.kernel import Counted, weighed

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

COMMON_FROM_TEXTS = 1_000
"""From so many texts on, a feature must be in two of them: what is in one alone teaches nothing general."""

BITS, MAX_BITS = 20, 24

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Weighed:
    """Sparse rows: row i has `columns` and `values` from `starts[i]` to `starts[i + 1]`."""

    starts: npt.NDArray[np.int64]
    columns: Integers
    values: Floats

    @property
    def rows(self) -> npt.NDArray[np.intp]:
        """The row of each value."""
        return np.repeat(np.arange(self.starts.size - 1), np.diff(self.starts))


@dataclass(frozen=True, slots=True)
class Features:
    """The kept buckets as columns: `buckets` (k,) rising, `weights` (k,) of each; `columns` (2^bits,) is the
    column of every bucket, -1 for one that is not kept."""

    buckets: Integers
    weights: Floats
    columns: Integers

    @classmethod
    def of(cls, buckets: Integers, weights: Floats) -> Features:
        columns = np.full(1 << max(BITS, int(buckets[-1]).bit_length()), -1, np.int32)
        columns[buckets] = np.arange(buckets.size)
        return cls(buckets, weights, columns)

    @classmethod
    def learn(cls, found: Counted, *, most: int | None = None, character_weight: float = 1.0) -> Features:
        """The buckets that are in texts of `found`, or the `most` that are in most of them."""
        kept, weights = _worth_keeping(found, most, character_weight)
        if not kept.size:  # nothing but empty texts: learners want a column
            kept, weights = np.zeros(1, np.int32), np.ones(1, np.float32)
        return cls.of(kept, weights)

    def grown(self, found: Counted, *, character_weight: float = 1.0) -> tuple[Features, npt.NDArray[np.intp]]:
        """These features and those that are new in `found`, and where the old ones stand among them (k,)."""
        kept, weights = _worth_keeping(found, None, character_weight)
        new = ~np.isin(kept, self.buckets)
        buckets = np.concatenate([self.buckets, kept[new]])
        order = np.argsort(buckets, kind="stable")
        together = Features.of(buckets[order], np.concatenate([self.weights, weights[new]])[order])
        return together, np.searchsorted(together.buckets, self.buckets)

    def kept(self, found: Counted) -> Weighed:
        """The kept buckets of each text with their counts, by column."""
        columns = np.where(found.buckets < self.columns.size, self.columns.take(found.buckets, mode="clip"), -1)
        kept = columns >= 0
        ends = np.concatenate([[0], np.cumsum(kept)])[found.starts]
        return Weighed(ends.astype(np.int64), columns[kept].astype(np.int32), found.counts[kept])

    def weighed(self, found: Counted) -> Weighed:
        """The same with weights in the place of counts, each row of length 1 (or empty)."""
        made = weighed(found, self.columns, self.weights)
        return Weighed(made.starts, made.buckets, made.counts)

    def matrix(self, rows: Weighed) -> csr_matrix:
        """What `kept` or `weighed` gave, as a sparse matrix (n, k) for learners."""
        from scipy.sparse import csr_matrix  # XGBoost knows no csr_array

        shape = (rows.starts.size - 1, self.buckets.size)
        return csr_matrix((rows.values, rows.columns, rows.starts.astype(np.int32)), shape=shape)

    def files(self) -> dict[str, bytes]:
        """What `from_files` reads."""
        return {"buckets.npy": write_array(self.buckets), "feature_weights.npy": write_array(self.weights)}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Features:
        """The features of these files; BundleError when they do not fit together."""
        buckets = read_array(files, "buckets.npy", np.int32, (None,))
        if (buckets < 0).any() or (buckets >= 2**MAX_BITS).any() or (np.diff(buckets) <= 0).any():
            raise BundleError(f"buckets.npy does not hold rising numbers below {2**MAX_BITS:,}")
        return cls.of(buckets, read_array(files, "feature_weights.npy", np.float32, (buckets.size,)))


def _worth_keeping(found: Counted, most: int | None, character_weight: float) -> tuple[Integers, Floats]:
    texts = found.starts.size - 1
    seen_in = np.bincount(found.buckets)
    kept = np.flatnonzero(seen_in >= (2 if texts >= COMMON_FROM_TEXTS else 1))
    if most is not None and kept.size > most:
        kept = np.sort(kept[np.argsort(-seen_in[kept], kind="stable")[:most]])
    weights = np.sqrt(np.log((1 + texts) / (1 + seen_in[kept])) + 1)
    weights[kept % 2 == 1] *= character_weight
    return kept.astype(np.int32), weights.astype(np.float32)
