"""What a review is: its columns, which of its rows is current, and which label it carries.

Reviews travel as polars frames. A frame that a reader has validated has the columns of
`REVIEW_SCHEMA`; a stored one those of `STORED_SCHEMA`. The reviews table is append-only: an edited
review is a later row of the same `review_id`, and what counts is decided here, when it is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import polars as pl

from mobile_sentiment_ops.types import LABELS, Admission, LabelSource, TrainingBatch

REVIEWS_TABLE = "reviews"
REJECTS_TABLE = "rejects"
STORED_FORMAT = 1
"""Version of the stored row: its columns, and how `content_hash` and derived ids are made."""

TIME = pl.Datetime("us", "UTC")

REVIEW_SCHEMA = pl.Schema(
    {
        **dict.fromkeys(("review_id", "app", "version", "store", "country", "language"), pl.Utf8()),
        **dict.fromkeys(("submitted_at", "updated_at"), TIME),
        "rating": pl.Int8(),
        **dict.fromkeys(("title", "review_text", "sentiment", "label_source"), pl.Utf8()),
    }
)
"""The canonical review. All but `review_id` and `review_text` may be null; `sentiment` is a given
label (Negative, Neutral, Positive) and `label_source` says whose it is."""

_STORED = {"received_at": TIME, "format": pl.Int16()}
STORED_SCHEMA = pl.Schema({**REVIEW_SCHEMA, "content_hash": pl.Utf8(), **_STORED})
REJECTS_SCHEMA = pl.Schema({"source": pl.Utf8(), "line": pl.Int64(), "reason": pl.Utf8(), "row": pl.Utf8(), **_STORED})

_STARS_TO_LABEL = {1: 0, 2: 0, 3: 1, 4: 2, 5: 2}
_NAME_TO_LABEL = {label.value: index for index, label in enumerate(LABELS)}


def current_reviews(frame: pl.DataFrame) -> pl.DataFrame:
    """The latest row of each review: by `updated_at`, else `submitted_at`, then commit order.

    `frame` holds rows in commit order, and so does the answer. A row without any time is older
    than one with a time.

    >>> rows = pl.DataFrame({"review_id": ["r1", "r2", "r1"], "review_text": ["Good", "Slow", "Now it crashes"]})
    >>> current_reviews(rows)["review_text"].to_list()
    ['Slow', 'Now it crashes']
    """
    times = [pl.col(name) for name in ("updated_at", "submitted_at") if name in frame.columns]
    when = pl.coalesce(times) if times else pl.lit(None)
    latest = (
        frame.select("review_id", when.alias("_when"))
        .with_row_index("_row")
        .sort("_when", nulls_last=False, maintain_order=True)
        .unique("review_id", keep="last")["_row"]
        .sort()
    )
    return frame[latest]


def admitted(frame: pl.DataFrame, batches: Sequence[TrainingBatch]) -> pl.DataFrame:
    """Stored rows, superseded ones too, that may train: not those of held and refused batches, nor what came after
    all of them, which nobody has judged yet. Without any batch, all rows.

    >>> from datetime import UTC, datetime
    >>> first, second, third = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3))
    >>> held = TrainingBatch("7f01", first, second, Admission.HELD, ("lamp",), 1, (), third, "admission")
    >>> came = {"received_at": [first, second, second, third], "app": ["lamp", "lamp", "bell", "bell"]}
    >>> admitted(pl.DataFrame(came), [held]).rows() == [(first, "lamp"), (second, "bell")]
    True
    """
    if not batches:
        return frame
    at = pl.col("received_at")
    allowed = at <= max(batch.until for batch in batches)
    for batch in batches:
        if batch.admission is not Admission.ADMITTED:
            inside = at <= batch.until if batch.after is None else (at > batch.after) & (at <= batch.until)
            of_apps = pl.col("app").fill_null("").is_in(batch.apps) if batch.apps else pl.lit(value=True)
            allowed &= ~(inside & of_apps)
    return frame.filter(allowed)


def labelled(frame: pl.DataFrame) -> pl.DataFrame:
    """Current rows that have a label, with `label` (index into LABELS) and `label_source` filled.

    A person's label outranks an imported one, which outranks stars (1-2 Negative, 3 Neutral,
    4-5 Positive).

    >>> rows = [("Great, it ate my money", 5, "Negative", "human"), ("Fine", 3, None, None), ("Hm", None, None, None)]
    >>> frame = pl.DataFrame(rows, ["review_id", "rating", "sentiment", "label_source"], orient="row")
    >>> labelled(frame).select("review_id", "label", "label_source").rows()
    [('Great, it ate my money', 0, 'human'), ('Fine', 1, 'stars')]
    """
    given = pl.col("sentiment").replace_strict(_NAME_TO_LABEL, default=None, return_dtype=pl.Int8)
    stars = pl.col("rating").replace_strict(_STARS_TO_LABEL, default=None, return_dtype=pl.Int8)
    return (
        current_reviews(frame)
        .with_columns(
            given.fill_null(stars).alias("label"),
            pl.when(given.is_null())
            .then(pl.lit(LabelSource.STARS.value))
            .otherwise(pl.col("label_source").fill_null(LabelSource.IMPORTED.value))
            .alias("label_source"),
        )
        .filter(pl.col("label").is_not_null())
    )


def duplicate_key(text: str) -> str:
    """What two texts must share to count as the same: letters and digits in lower case.

    >>> duplicate_key("  GREAT app!!! 10/10 👍")
    'great app 10 10'
    >>> duplicate_key("👍👍")
    ''
    """
    return _NO_WORD.sub(" ", text.lower()).strip()


_NO_WORD = re.compile(r"\W+")
