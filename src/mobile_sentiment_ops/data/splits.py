"""Splits of a frame of reviews into training and test rows, so that no text is on both sides.

    random_split     a share of the texts
    temporal_split   what was submitted at or after a moment
    apps_split       what some apps were given, the others being for training

Texts are the same when their `text_key` is. A text that is on both sides of a moment or a set of
apps stays in the test rows and leaves the training rows. Rows keep their order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime

import polars as pl

from mobile_sentiment_ops.data.reviews import duplicate_key

Split = tuple[pl.DataFrame, pl.DataFrame]
"""Training rows and test rows."""


def text_key(text: str) -> str:
    """What two texts must share to be the same: their `duplicate_key`, or where it is empty (there
    is no letter and no digit, as in an answer by emoji) the text without blanks.

    >>> text_key("Great app!!!") == text_key(" great APP"), text_key("👍 👍"), text_key("😡")
    (True, '👍👍', '😡')
    """
    return duplicate_key(text) or "".join(text.split())


def text_keys(texts: Iterable[str]) -> pl.Series:
    """The `text_key` of each text."""
    return pl.Series("text_key", [text_key(text) for text in texts], dtype=pl.Utf8())


def random_split(reviews: pl.DataFrame, *, test_share: float, seed: int) -> Split:
    """Training and test rows by chance: `test_share` of the distinct `review_text`, rounded up.

    >>> reviews = pl.DataFrame({"review_text": ["Good", "good!", "Slow", "Fine", "Bad"]})
    >>> train, test = random_split(reviews, test_share=0.25, seed=0)
    >>> train["review_text"].to_list(), test["review_text"].to_list()
    (['Slow', 'Fine', 'Bad'], ['Good', 'good!'])
    """
    keys = text_keys(reviews["review_text"]).to_numpy()
    from sklearn.model_selection import GroupShuffleSplit  # seconds to import, and only benchmarks split so

    drawn = GroupShuffleSplit(1, test_size=test_share, random_state=seed)
    train, test = next(drawn.split(keys, groups=keys))
    return reviews[train], reviews[test]


def temporal_split(reviews: pl.DataFrame, *, test_from: datetime) -> Split:
    """Training and test rows by `submitted_at`: from `test_from` on, and before or at an unknown time.

    >>> from datetime import UTC
    >>> days = [None, datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)]
    >>> reviews = pl.DataFrame({"review_text": ["Good", "Slow", "slow"], "submitted_at": days})
    >>> [part["review_text"].to_list() for part in temporal_split(reviews, test_from=days[2])]
    [['Good'], ['slow']]
    """
    return _apart(reviews, pl.col("submitted_at") >= test_from)


def apps_split(reviews: pl.DataFrame, *, test_apps: Collection[str]) -> Split:
    """Training and test rows by `app`: the named apps are held out of training.

    >>> reviews = pl.DataFrame({"review_text": ["Good", "Slow", "good"], "app": ["lamp", "torch", "torch"]})
    >>> [part["review_text"].to_list() for part in apps_split(reviews, test_apps=["lamp"])]
    [['Slow'], ['Good']]
    """
    return _apart(reviews, pl.col("app").is_in(list(test_apps)))


def _apart(reviews: pl.DataFrame, held: pl.Expr) -> Split:
    keyed = reviews.with_columns(text_keys(reviews["review_text"]), held.fill_null(value=False).alias("_held"))
    test = keyed.filter("_held")
    train = keyed.filter(~pl.col("_held")).join(test, on="text_key", how="anti", maintain_order="left")
    return train.drop("text_key", "_held"), test.drop("text_key", "_held")
