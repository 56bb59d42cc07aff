"""Labelled rows as scorers see them: features counted once, stars and labels as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mobile_sentiment_ops.models.kernel import Counted, Grams, counted

if TYPE_CHECKING:
    import polars as pl

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Ratings = npt.NDArray[np.int8]
"""Stars 1 to 5, 0 where there are none."""
Parameters = Mapping[str, int | float | str]


@dataclass(frozen=True, slots=True)
class Rows:
    """n texts by their counted features, with stars (n,) and labels (n,), indices into LABELS."""

    found: Counted
    ratings: Ratings
    labels: Labels

    def __len__(self) -> int:
        return self.labels.size

    @classmethod
    def of(cls, frame: pl.DataFrame, grams: Grams) -> Rows:
        """The rows of a frame with review_text, rating and label."""
        ratings = frame["rating"].fill_null(0).to_numpy().astype(np.int8)
        found = counted(frame["review_text"].to_arrow(), grams)
        return cls(found, ratings, frame["label"].to_numpy().astype(np.int64))

    def take(self, places: npt.NDArray[np.intp]) -> Rows:
        """The rows at these places, in this order."""
        sizes = np.diff(self.found.starts)[places]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        entries = np.repeat(self.found.starts[places] - starts[:-1], sizes) + np.arange(starts[-1])
        found = Counted(starts, self.found.buckets[entries], self.found.counts[entries])
        return Rows(found, self.ratings[places], self.labels[places])


def as_ratings(given: Sequence[int | None] | None, count: int) -> Ratings:
    """Stars as numbers, 0 for none.

    >>> as_ratings([5, None], 2).tolist(), as_ratings(None, 1).tolist()
    ([5, 0], [0])
    """
    return np.zeros(count, np.int8) if given is None else np.array([stars or 0 for stars in given], np.int8)
