"""Datasets: which labelled reviews train, validate and judge a model.

build_dataset    the newest reviews judge, those before them validate, the rest train
rebuild          a kept dataset again from its manifest, and what is missing of it
check_leakage    what both end with: no text is in two parts
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import blake2b
from itertools import chain

import numpy as np
import polars as pl

from mobile_sentiment_ops.data.manifest import MANIFEST_FORMAT, MANIFEST_SCHEMA, SPLITS, Manifest
from mobile_sentiment_ops.data.reviews import TIME, labelled
from mobile_sentiment_ops.data.splits import text_keys
from mobile_sentiment_ops.errors import LeakageError, TooFewRows
from mobile_sentiment_ops.types import LABELS

MIN_ROWS = 30
"""Distinct labelled texts below which nothing is built."""

MAX_FURTHER, MAX_GONE = 0.3, 0.02

COLUMNS = (
    *("review_id", "content_hash", "app", "version", "language", "submitted_at", "rating"),
    *("review_text", "label", "label_source"),
)


@dataclass(frozen=True, slots=True)
class Dataset:
    """Three parts with the columns of COLUMNS, ordered by `submitted_at` (unknown first), then
    `review_id`. `label` is an index into LABELS; `fingerprint` is that of the manifest; `repeats` labelled
    reviews were left out as a later one has their text (None: not known any more)."""

    train: pl.DataFrame
    validation: pl.DataFrame
    test: pl.DataFrame
    fingerprint: str
    manifest: bytes
    source: str
    repeats: int | None = None

    @property
    def test_fingerprint(self) -> str:
        """What names the test rows, whatever trains: a hash of their ids."""
        return blake2b("\0".join(sorted(self.test["review_id"])).encode(), digest_size=16).hexdigest()

    def summary(self) -> dict[str, object]:
        """The figures that runs and model cards record; times are ISO text, None where there are none."""
        parts = {name: getattr(self, name) for name in SPLITS}
        times = {
            f"{name}_{end}": time and time.isoformat()
            for name in ("train", "test")
            for end, time in zip(("from", "to"), _span(parts[name]), strict=True)
        }
        return {
            "fingerprint": self.fingerprint,
            "source": self.source,
            "format": MANIFEST_FORMAT,
            "rows": {name: part.height for name, part in parts.items()},
            "labels": {
                name: {label.value: int((part["label"] == index).sum()) for index, label in enumerate(LABELS)}
                for name, part in parts.items()
            },
            **times,
        }


def _span(part: pl.DataFrame) -> tuple[datetime | None, datetime | None]:
    first, last = part.select(pl.col("submitted_at").min().alias("a"), pl.col("submitted_at").max().alias("b")).row(0)
    return first, last


def build_dataset(
    reviews: pl.DataFrame,
    *,
    test_share: float,
    validation_share: float,
    max_test_rows: int,
    seed: int,
    not_before: datetime | None,
    source: str,
    min_test_rows: int = 1,
    judged: Manifest | None = None,
) -> Dataset:
    """The labelled ones among stored reviews, split by time so that no text is in two parts.

    A text that several reviews share is kept once, as its latest review; so what occurs in the test
    rows is in no other part, and no score is raised by an answer learned by heart. Of the distinct
    texts the newest `test_share` judge the model, at least `min_test_rows` but at most half of all; the
    newest `validation_share` of those before them validate, the others train. Reviews of one moment stay
    together where that keeps a part within half of the size asked for; else, and where no review has a time,
    chance decides by `seed`. A review without a time is older than all others.

    The test rows of `judged`, the dataset of the last verdict, judge again until `min_test_rows` (or half of all)
    newer ones have come: rows that change with every training would let the luckiest rows choose the model. What
    is newer than the first of them trains nothing.

    Nothing that the champion may have learned judges it: the test rows begin at `not_before` at the earliest
    (where the champion's own test rows began). Beyond `max_test_rows` a sample by `seed` judges, over the whole
    period; the reviews left out of it train nothing, as they are not earlier than those that judge.

    The same current reviews in any order make the same dataset. Raises TooFewRows for fewer than MIN_ROWS
    distinct texts, or when a part would be empty.
    """
    known = labelled(reviews)
    draws = [_draw(review_id, seed) for review_id in known["review_id"]]
    before = judged.rows if judged is not None else pl.DataFrame(schema=MANIFEST_SCHEMA)
    rows = (
        known.with_columns(
            text_keys(known["review_text"]),
            pl.Series("draw", draws, dtype=pl.UInt64()),
            known["review_id"].is_in(before.filter(pl.col("split") == "test")["review_id"].implode()).alias("judged"),
        )
        .sort("judged", "submitted_at", "draw", nulls_last=False)
        .unique("text_key", keep="last", maintain_order=True)
        .sort("submitted_at", "draw", nulls_last=False)
    )
    if rows.height < MIN_ROWS:
        raise TooFewRows(
            f"{source}: {reviews.height} reviews hold {rows.height} distinct texts with a label, expected at least "
            f"{MIN_ROWS}; take in more with `mso ingest`, with a rating or a sentiment each"
        )
    fewest = min(min_test_rows, rows.height // 2)
    if (kept := _kept_rows(rows, before, not_before)) is not None and kept[1] < fewest:
        earlier, test = rows[: kept[0]], rows.filter("judged")
    else:
        begin = _begin(rows["submitted_at"], max(test_share, fewest / rows.height))
        if not_before is not None:
            begin = max(begin, rows.height - int((rows["submitted_at"] >= not_before).sum()))
        earlier, test = rows[:begin], rows[begin:].sort("draw").head(max_test_rows)
    middle = _begin(earlier["submitted_at"], validation_share)
    parts = {"train": earlier[:middle], "validation": earlier[middle:], "test": test}
    if empty := [name for name, part in parts.items() if not part.height]:
        raise TooFewRows(
            f"{source}: of {rows.height} distinct labelled texts none is left for the part {empty[0]!r}; expected a "
            f"training.test_share and a training.validation_share between 0 and 1 that leave some for each part"
            + ("" if not_before is None else f", and labelled reviews from {not_before:%Y-%m-%d} on, which judge")
        )
    return replace(_dataset(parts, source), repeats=known.height - rows.height)


def _kept_rows(rows: pl.DataFrame, before: pl.DataFrame, not_before: datetime | None) -> tuple[int, int] | None:
    """Where rows that judged before begin among all rows, and how many have come that are newer than they; None
    when no row judged before, or when the champion may have learned from some of them."""
    at = np.flatnonzero(rows["judged"].to_numpy())
    if not at.size:
        return None
    first, last = (rows["submitted_at"][int(row)] for row in at[[0, -1]])
    if not_before is not None and (first is None or first < not_before):
        return None
    came = ~pl.col("review_id").is_in(before["review_id"].implode())
    newer = came if last is None else came & (pl.col("submitted_at") > last)
    return int(at[0]), rows.filter(newer).height


def _draw(review_id: str, seed: int) -> int:
    """A review's place in a random order that no library's generator and no other review changes."""
    return int.from_bytes(blake2b(f"{seed} {review_id}".encode(), digest_size=8).digest(), "little")


def _begin(times: pl.Series, share: float) -> int:
    """Where the newest `share` of rows begins, at the nearest change of time if there is one near."""
    wanted = round(share * times.len())
    at = times.len() - wanted
    changes = np.flatnonzero(times.ne_missing(times.shift(1)).to_numpy()[1:]) + 1
    if changes.size:
        nearest = int(changes[np.abs(changes - at).argmin()])
        if abs(nearest - at) <= wanted / 2:
            return nearest
    return at


def _dataset(parts: Mapping[str, pl.DataFrame], source: str) -> Dataset:
    frames = {name: parts[name].select(COLUMNS).sort("submitted_at", "review_id", nulls_last=False) for name in SPLITS}
    check_leakage(frames)
    manifest = Manifest.of(frames, source)
    train, validation, test = (frames[name] for name in SPLITS)
    return Dataset(train, validation, test, manifest.fingerprint, manifest.to_bytes(), source)


def further_rows(before: Manifest, dataset: Dataset) -> pl.DataFrame | None:
    """What a model that learned from `before` has not seen of this dataset's training and validation rows.

    None when it cannot go on from there: nothing is new or more than MAX_FURTHER of what it knows, it learned
    from a row that judges now, or rows have other labels or texts since. (Of rows that went only those whose
    text came again are let be: at most MAX_GONE.)
    """
    learned = before.rows.filter(pl.col("split") != "test")
    rows = pl.concat([dataset.train, dataset.validation])
    further = rows.join(learned, on="review_id", how="anti", maintain_order="left")
    same = rows.join(learned, on=["review_id", "content_hash", "label"], how="semi").height
    gone = learned.height - (rows.height - further.height)
    possible = (
        0 < further.height <= MAX_FURTHER * learned.height
        and same == rows.height - further.height
        and gone <= MAX_GONE * learned.height
        and not dataset.test.join(learned, on="review_id", how="semi").height
    )
    return further if possible else None


def check_leakage(parts: Mapping[str, pl.DataFrame]) -> None:
    """Return when no text is in two of the named frames of `review_id` and `review_text`.

    Raises LeakageError otherwise.

    >>> train = pl.DataFrame({"review_id": ["r1"], "review_text": ["Great app"]})
    >>> test = pl.DataFrame({"review_id": ["r2"], "review_text": ["great app!"]})
    >>> check_leakage({"train": train, "test": test})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    mobile_sentiment_ops.errors.LeakageError: 1 text is in two parts of a dataset, ... r1 (train) and r2 (test); ...
    """
    texts = list(chain.from_iterable(frame["review_text"] for frame in parts.values()))
    rows = pl.concat([frame.select("review_id", split=pl.lit(name)) for name, frame in parts.items()])
    twice = (
        rows.with_columns(text_keys(texts))
        .unique(["text_key", "split"], keep="first", maintain_order=True)
        .group_by("text_key", maintain_order=True)
        .agg("review_id", "split")
        .filter(pl.col("split").list.len() > 1)
    )
    if twice.height:
        _, ids, names = twice.row(0)
        where = " and ".join(f"{review_id} ({name})" for review_id, name in zip(ids, names, strict=True))
        raise LeakageError(
            f"{twice.height} text{' is' if twice.height == 1 else 's are'} in two parts of a dataset, the first as "
            f"reviews {where}; expected each text in one part, or scores are of what was learned by heart; keep the "
            f"test's texts out of the others, as build_dataset does"
        )


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What could be rebuilt of a dataset, and the `review_id` of each row that could not."""

    dataset: Dataset
    missing: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether it is the same dataset, row by row."""
        return not self.missing


def rebuild(manifest: Manifest, reviews: pl.DataFrame) -> Rebuilt:
    """The dataset of a manifest from stored reviews, with the labels and parts that the manifest says.

    `reviews` may hold other reviews and later contents of the same ones; a row is missing when its
    content as of then is not among them. Raises LeakageError when the manifest has a text twice.
    """
    contents = reviews.drop("label", "label_source", strict=False).unique(["review_id", "content_hash"])
    found = manifest.rows.join(contents, on=["review_id", "content_hash"], how="left", maintain_order="left")
    there = found.filter(pl.col("review_text").is_not_null()).cast({"submitted_at": TIME})
    parts = {name: there.filter(pl.col("split") == name) for name in SPLITS}
    missing = found.filter(pl.col("review_text").is_null())["review_id"]
    return Rebuilt(_dataset(parts, manifest.source), tuple(missing))
