"""Which reviews were seen before: content hashes, ids for reviews that have none, and the set of
all that is known, in 16 bytes a review.

A review is known by its `content_hash`, which covers its id and all that was given of it. A known
one is a duplicate; an unknown one is new when its id is new, else an update. The language is left
out of the hash: where the store does not tell it, it is detected, and a better detector is no edit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from mobile_sentiment_ops.data.predictions import text_hash
from mobile_sentiment_ops.data.reviews import REVIEW_SCHEMA

Keys = npt.NDArray[np.uint64]

_CONTENT = [name for name in REVIEW_SCHEMA if name != "language"]
_IDENTITY = [name for name in _CONTENT if name not in ("review_id", "updated_at", "sentiment", "label_source")]


def identify(reviews: pl.DataFrame) -> pl.DataFrame:
    """Reviews with `content_hash`, and with a `review_id` made from the content where none was given.

    Equal reviews without an id are one review; a corrected label is an update of it.

    >>> row = {**dict.fromkeys(REVIEW_SCHEMA), "review_text": "Slow", "sentiment": "Neutral"}
    >>> reviews = pl.DataFrame([row, {**row, "sentiment": "Negative"}], schema=REVIEW_SCHEMA)
    >>> found = identify(reviews)
    >>> found["review_id"].n_unique(), found["content_hash"].n_unique()
    (1, 2)
    """
    nameless = reviews["review_id"].is_null()
    if nameless.any():
        made = pl.Series([f"text-{text_hash(text)}" for text in _joined(reviews.filter(nameless), _IDENTITY)])
        ids = reviews["review_id"].scatter(nameless.arg_true(), made)
        reviews = reviews.with_columns(ids)
    hashes = [text_hash(text) for text in _joined(reviews, _CONTENT)]
    return reviews.with_columns(pl.Series("content_hash", hashes, dtype=pl.Utf8()))


def _joined(reviews: pl.DataFrame, columns: list[str]) -> list[str]:
    """One text a row. NUL parts the fields, as no review holds one; times count as microseconds."""
    parts = [
        (pl.col(name).cast(pl.Int64()) if dtype.is_temporal() else pl.col(name)).cast(pl.Utf8()).fill_null("")
        for name, dtype in REVIEW_SCHEMA.items()
        if name in columns
    ]
    return reviews.select(pl.concat_str(parts, separator="\0")).to_series().to_list()


class KeySet:
    """A growing set of 64-bit keys: sorted runs, each at least twice as long as the next.

    >>> known = KeySet()
    >>> known.add(np.array([7, 3], dtype=np.uint64))
    >>> known.holds(np.array([3, 4], dtype=np.uint64)).tolist()
    [True, False]
    """

    def __init__(self) -> None:
        self._runs: list[Keys] = []

    def add(self, keys: Keys) -> None:
        """Take keys in, known ones or not."""
        run = np.unique(keys)
        while self._runs and self._runs[-1].size < 2 * run.size:
            run = np.union1d(self._runs.pop(), run)
        self._runs.append(run)

    def holds(self, keys: Keys) -> npt.NDArray[np.bool_]:
        """For each key, whether it was added."""
        found = np.zeros(keys.size, dtype=np.bool_)
        for run in self._runs:
            if run.size:
                at = np.minimum(np.searchsorted(run, keys), run.size - 1)
                found |= run[at] == keys
        return found


@dataclass(frozen=True, slots=True)
class Fresh:
    """What was not known of a batch, and how much of it was what."""

    reviews: pl.DataFrame
    new: int
    updated: int
    duplicate: int


class SeenReviews:
    """All reviews that were ever taken in."""

    def __init__(self) -> None:
        self._ids = KeySet()
        self._contents = KeySet()

    def add(self, ids: pl.Series, content_hashes: pl.Series) -> None:
        """Remember stored reviews."""
        self._ids.add(_keys(ids))
        self._contents.add(_keys(content_hashes))

    def sort_out(self, reviews: pl.DataFrame) -> Fresh:
        """The identified reviews that were never seen, in their order; from now on they are seen."""
        contents = _keys(reviews["content_hash"])
        fresh = reviews.filter(pl.Series(contents).is_first_distinct().to_numpy() & ~self._contents.holds(contents))
        ids = _keys(fresh["review_id"])
        new = np.unique(ids[~self._ids.holds(ids)]).size
        self.add(fresh["review_id"], fresh["content_hash"])
        return Fresh(fresh, new, fresh.height - new, reviews.height - fresh.height)


def _keys(texts: pl.Series) -> Keys:
    """64-bit keys, equal for equal texts within this process; they are never stored. Two of five
    million different texts share one with a probability below one in a million."""
    return texts.hash(seed=0).to_numpy()


def row_keys(rows: pl.DataFrame) -> Keys:
    """One such key a row, of all its columns."""
    return rows.hash_rows(seed=0).to_numpy()
