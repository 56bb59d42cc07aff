"""The six splits of real reviews that every figure of quality is about.

Two sets of reviews, each split by chance, by time and by app. Reviews whose text has no letter and
no digit, and those that repeat an earlier text of their file, are left out before the split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from mobile_sentiment_ops.data.reviews import duplicate_key
from mobile_sentiment_ops.data.splits import Split, apps_split, random_split, temporal_split

TEST_SHARE = 0.2
SEED = 0


@dataclass(frozen=True, slots=True)
class Source:
    """A file of real reviews, where its later reviews begin, and words in the names of held-out apps."""

    file: str
    later_from: datetime
    held_out: tuple[str, ...]


SOURCES = {
    "fintech": Source(
        "play_fintech_reviews.parquet", datetime(2022, 7, 1, tzinfo=UTC), ("money.jupiter", "com.phonepe.app")
    ),
    "idea": Source("idea_reviews.parquet", datetime(2016, 6, 1, tzinfo=UTC), ("viber",)),
}


@dataclass(frozen=True, slots=True)
class BenchmarkSplit:
    """Training and test rows with the columns of their file and `label`, an Int8 index into LABELS."""

    dataset: str
    split: str
    train: pl.DataFrame
    test: pl.DataFrame


def benchmark_splits(folder: Path) -> Iterator[BenchmarkSplit]:
    """The splits random, temporal and apps of each source in the folder of real reviews."""
    for dataset, source in SOURCES.items():
        reviews = distinct_reviews(folder / source.file)
        apps = [app for app in reviews["app"].unique() if any(word in app for word in source.held_out)]
        parts: dict[str, Split] = {
            "random": random_split(reviews, test_share=TEST_SHARE, seed=SEED),
            "temporal": temporal_split(reviews, test_from=source.later_from),
            "apps": apps_split(reviews, test_apps=apps),
        }
        for split, (train, test) in parts.items():
            yield BenchmarkSplit(dataset, split, train, test)


def distinct_reviews(file: Path) -> pl.DataFrame:
    """The first review of each text of a file, labelled by its stars."""
    reviews = pl.read_parquet(file)
    keys = pl.Series("key", [duplicate_key(text) for text in reviews["review_text"]])
    stars = pl.col("rating")
    return (
        reviews.with_columns(
            keys, pl.when(stars < 3).then(0).when(stars == 3).then(1).otherwise(2).cast(pl.Int8()).alias("label")
        )
        .filter(pl.col("key") != "")
        .unique("key", keep="first", maintain_order=True)
        .drop("key")
    )
