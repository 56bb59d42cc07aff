"""Sketches: what is kept of the reviews of one app, version, language and hour, at most 64 KB of integers.

    sketched     Rows as partial sketches, one a group: rows of the table `sketches`
    Sketch       their sum over any groups
    Window       the same with the negative share of each slice

Partial sketches of the same group are added when they are read, so a table of them is only ever appended to, and sums
over any division of the same reviews are equal bit by bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from mobile_sentiment_ops.data.predictions import PROBABILITIES
from mobile_sentiment_ops.models.kernel import Grams, counted, tokens
from mobile_sentiment_ops.monitoring.rows import (
    DIMENSIONS,
    MOMENTS,
    TEXT_BITS,
    TOKEN_BITS,
    UNIT,
    Ints,
    Rows,
)

SKETCH_FORMAT = 1

CLASSES = ("negative", "neutral", "positive")
CONFIDENCE_BINS, CELLS = 20, 10
SAMPLE = 32
"""Reviews of a group of which the beginning is kept: those with the smallest draws, so that samples can be merged."""
SAMPLE_CHARS = 160

KEYS = ("model_version", *DIMENSIONS, "hour")
SUMS = (
    *("n", "told", *CLASSES, *PROBABILITIES, "p_negative_squared"),
    *MOMENTS,
    *(f"{name}_squared" for name in MOMENTS[:4]),
)
"""`told` counts reviews whose text is kept. Probabilities are in units of 2^-20, moments as rows.py has them."""

SKETCH_SCHEMA = pl.Schema(
    {
        **dict.fromkeys(KEYS[:-1], pl.Utf8()),
        "hour": pl.Datetime("us", "UTC"),
        **dict.fromkeys(SUMS, pl.Int64()),
        **dict.fromkeys(("score_at", "token_at"), pl.List(pl.Int16())),
        **dict.fromkeys(("score_count", "token_count"), pl.List(pl.Int32())),
        "sample_draw": pl.List(pl.Int64()),
        "sample_text": pl.List(pl.Utf8()),
        "format": pl.Int16(),
    }
)
"""Counters are kept as places and counts. Scores: 60 bins of confidence (by the chosen label, in twentieths), then
100 cells (by p_negative and p_positive, in tenths). Tokens: 4,096 buckets, then 2,048 of repeatable texts."""

_CELLS_FROM = 3 * CONFIDENCE_BINS
SCORES = _CELLS_FROM + CELLS * CELLS
_TEXTS_FROM = 1 << TOKEN_BITS
TOKENS = _TEXTS_FROM + (1 << TEXT_BITS)


@dataclass(frozen=True)
class Sketch:
    """One window. `sums` is by the names of SUMS; `sample` holds (draw, text) of its SAMPLE smallest draws."""

    sums: dict[str, int]
    scores: Ints
    tokens: Ints
    sample: tuple[tuple[int, str], ...] = ()

    @property
    def n(self) -> int:
        """How many reviews it holds."""
        return self.sums["n"]

    @property
    def classes(self) -> Ints:
        """(3,) predicted labels."""
        return np.array([self.sums[name] for name in CLASSES])

    @property
    def confidence(self) -> Ints:
        """(3, 20) counts by the predicted label and the confidence in twentieths."""
        return self.scores[:_CELLS_FROM].reshape(3, CONFIDENCE_BINS)

    @property
    def cells(self) -> Ints:
        """(10, 10) counts by p_negative and p_positive in tenths."""
        return self.scores[_CELLS_FROM:].reshape(CELLS, CELLS)

    @property
    def buckets(self) -> Ints:
        """(4096,) reviews that have a token of that bucket."""
        return self.tokens[:_TEXTS_FROM]

    @property
    def texts(self) -> Ints:
        """(2048,) reviews by the hash of their whole text, of repeatable ones."""
        return self.tokens[_TEXTS_FROM:]

    @property
    def negative_share(self) -> float:
        """The mean of p_negative, NaN for no reviews."""
        return self.sums["p_negative"] / UNIT / self.n if self.n else float("nan")

    @classmethod
    def of(cls, sketches: pl.DataFrame) -> Sketch:
        """The sum of partial sketches, rows of SKETCH_SCHEMA; the sample may be left out of them.

        >>> Sketch.of(pl.DataFrame(schema=SKETCH_SCHEMA)).n
        0
        """
        sums = {name: int(sketches[name].sum()) for name in SUMS}
        scores = _counted(sketches, "score", SCORES)
        buckets = _counted(sketches, "token", TOKENS)
        sample: tuple[tuple[int, str], ...] = ()
        if "sample_draw" in sketches.columns:
            drawn = sketches.select("sample_draw", "sample_text").explode("sample_draw", "sample_text").drop_nulls()
            sample = tuple(drawn.unique().sort("sample_draw", "sample_text").head(SAMPLE).rows())
        return cls(sums, scores, buckets, sample)

    @classmethod
    def of_rows(cls, rows: Rows) -> Sketch:
        """The same from the reviews themselves, without a sample.

        >>> from mobile_sentiment_ops.monitoring.rows import rows_of
        >>> scored = pl.DataFrame({"text": ["Love it"], "label": ["Positive"]})
        >>> scored = scored.with_columns(p_negative=0.1, p_neutral=0.1, p_positive=0.8)
        >>> Sketch.of_rows(rows_of(scored, None)).classes.tolist()
        [0, 0, 1]
        """
        sums = dict(zip(SUMS, _figures(rows).sum(axis=0).tolist(), strict=True))
        scores = np.bincount(_score_places(rows).ravel(), minlength=SCORES)
        texts = _TEXTS_FROM + text_places(rows)[rows.keys != 0]
        return cls(sums, scores, np.bincount(np.concatenate([rows.tokens, texts]), minlength=TOKENS))

    def __add__(self, other: Sketch) -> Sketch:
        sums = {name: self.sums[name] + other.sums[name] for name in SUMS}
        sample = tuple(sorted({*self.sample, *other.sample})[:SAMPLE])
        return Sketch(sums, self.scores + other.scores, self.tokens + other.tokens, sample)


@dataclass(frozen=True)
class Window:
    """One window: the sum of its sketches, and (app, version, language, n, p_negative, p_negative_squared) of each
    combination that occurs in it."""

    sketch: Sketch
    slices: pl.DataFrame

    @classmethod
    def of(cls, sketches: pl.DataFrame) -> Window:
        """From partial sketches, rows of SKETCH_SCHEMA."""
        sums = [pl.col("n", "p_negative", "p_negative_squared").sum()]
        return cls(Sketch.of(sketches), sketches.group_by(*DIMENSIONS, maintain_order=True).agg(*sums))

    @classmethod
    def of_rows(cls, rows: Rows) -> Window:
        """From the reviews themselves."""
        return cls(Sketch.of_rows(rows), slices_of(rows))

    @cached_property
    def parts(self) -> dict[Part, Ints]:
        """Reviews, p_negative and its square, in units of UNIT, of each app, version of an app, and language."""
        found: dict[Part, Ints] = {}
        columns = [self.slices[name].to_list() for name in DIMENSIONS]
        figures = np.stack([self.slices[name].to_numpy() for name in self.slices.columns[len(DIMENSIONS) :]], axis=1)
        for app, version, language, of in zip(*columns, figures, strict=True):
            for part in (("app", app, app), ("version", app, version), ("language", "", language)):
                if None not in part:
                    found[part] = found[part] + of if part in found else of
        return found


Part = tuple[str, str, str]
"""A slice: dimension, app (empty for a language) and value."""


def slices_of(rows: Rows) -> pl.DataFrame:
    """Reviews and sums of p_negative, in units of UNIT, by app, version and language."""
    negative = rows.scores[:, 0]
    frame = rows.frame.select(DIMENSIONS).with_columns(
        n=pl.lit(1, pl.Int64()),
        p_negative=pl.Series(negative),
        p_negative_squared=pl.Series(negative * negative // UNIT),
    )
    return frame.group_by(*DIMENSIONS, maintain_order=True).agg(pl.col("n", "p_negative", "p_negative_squared").sum())


def sketched(rows: Rows) -> pl.DataFrame:
    """Partial sketches of reviews, one a group of KEYS, in the columns of SKETCH_SCHEMA.

    >>> from mobile_sentiment_ops.monitoring.rows import rows_of
    >>> scored = pl.DataFrame({"app": ["lamp", "lamp", "bell"], "text": ["Love it"] * 3, "label": ["Positive"] * 3})
    >>> scored = scored.with_columns(p_negative=0.1, p_neutral=0.1, p_positive=0.8)
    >>> sketched(rows_of(scored, None)).select("app", "n", "positive").rows()
    [('lamp', 2, 2), ('bell', 1, 1)]
    """
    if not len(rows):
        return pl.DataFrame(schema=SKETCH_SCHEMA)
    hour = pl.col("event_time").dt.truncate("1h").alias("hour")
    keyed = rows.frame.lazy().with_columns(hour).with_row_index("row")
    groups = keyed.group_by(KEYS, maintain_order=True).agg("row").collect()
    members = groups["row"].to_arrow()
    order = members.flatten().to_numpy().astype(np.intp)
    sizes = np.diff(members.offsets.to_numpy())
    firsts = np.concatenate([[0], sizes.cumsum()[:-1]]).astype(np.intp)
    group = np.empty(len(rows), np.int64)
    group[order] = np.repeat(np.arange(groups.height), sizes)
    figures = np.add.reduceat(_figures(rows)[order], firsts, axis=0)
    of_token = np.repeat(group, np.diff(rows.starts))
    repeatable = rows.keys != 0
    scores = np.concatenate([group * SCORES + places for places in _score_places(rows)])
    words = np.concatenate(
        [of_token * TOKENS + rows.tokens, group[repeatable] * TOKENS + _TEXTS_FROM + text_places(rows)[repeatable]]
    )
    columns = [
        *(groups[name] for name in KEYS),
        *(pl.Series(name, figures[:, at]) for at, name in enumerate(SUMS)),
        *_sparse("score", scores, SCORES, groups.height),
        *_sparse("token", words, TOKENS, groups.height),
        *_samples(rows, group, groups.height),
        pl.Series("format", np.full(groups.height, SKETCH_FORMAT, np.int16)),
    ]
    return pl.DataFrame({column.name: column for column in columns})[SKETCH_SCHEMA.names()]


def _figures(rows: Rows) -> Ints:
    """(n, len(SUMS)) what each review adds."""
    told = _told(rows)
    negative = rows.scores[:, 0]
    columns = (
        *(np.ones(len(rows), np.int64), told, *(rows.labels == at for at in range(3)), *rows.scores.T),
        *(negative * negative // UNIT, *rows.moments.T),
        *(rows.moments.T[:4] ** 2),
    )
    return np.stack(columns, axis=1).astype(np.int64)


def _score_places(rows: Rows) -> Ints:
    """(2, n) the bin of confidence and the cell of each review."""
    chosen = rows.scores[np.arange(len(rows)), rows.labels]
    confidence = np.minimum(chosen * CONFIDENCE_BINS // UNIT, CONFIDENCE_BINS - 1)
    cells = np.minimum(rows.scores[:, [0, 2]] * CELLS // UNIT, CELLS - 1)
    return np.stack(
        [rows.labels.astype(np.int64) * CONFIDENCE_BINS + confidence, _CELLS_FROM + cells[:, 0] * CELLS + cells[:, 1]]
    )


def text_places(rows: Rows) -> Ints:
    """(n,) the bucket of each review's whole text, 0 to 2,047."""
    return (rows.keys >> np.uint64(64 - TEXT_BITS)).astype(np.int64)


def _sparse(name: str, places: Ints, room: int, groups: int) -> tuple[pl.Series, pl.Series]:
    """Places, numbered over all groups, as two list columns of the filled ones of each group and their counts."""
    if groups * room <= 8 * places.size:
        dense = np.bincount(places, minlength=groups * room)
        filled = np.flatnonzero(dense)
        counts = dense[filled]
    else:
        filled, counts = np.unique(places, return_counts=True)
    ends = np.searchsorted(filled, np.arange(groups + 1) * room)
    at = list_column(filled % room, ends, np.int16)
    return at.alias(f"{name}_at"), list_column(counts, ends, np.int32).alias(f"{name}_count")


def list_column(values: npt.NDArray[Any], ends: npt.NDArray[Any], dtype: type[np.generic]) -> pl.Series:
    """A column of lists: list i is `values` from ends[i] to ends[i + 1].

    >>> list_column(np.array([7, 8, 9]), np.array([0, 2, 3]), np.int16).to_list()
    [[7, 8], [9]]
    """
    made = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), pa.array(values.astype(dtype)))
    return pl.Series(pl.from_arrow(made))


def _samples(rows: Rows, group: Ints, groups: int) -> tuple[pl.Series, pl.Series]:
    """For each group, the smallest draws of reviews whose text is kept, and the beginnings of these texts."""
    known = np.flatnonzero(_told(rows))
    draws = (rows.draws >> np.uint64(1)).astype(np.int64)
    order = known[np.lexsort((draws[known], group[known]))]
    firsts = np.searchsorted(group[order], np.arange(groups + 1))
    order = order[np.arange(order.size) - firsts[group[order]] < SAMPLE]
    ends = np.searchsorted(group[order], np.arange(groups + 1))
    texts = rows.frame["text"].to_arrow().cast("large_string").take(order)
    begin = pc.utf8_lower(pc.utf8_slice_codeunits(texts, 0, SAMPLE_CHARS))
    lists = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), begin)
    drawn = list_column(draws[order], ends, np.int64).alias("sample_draw")
    return drawn, pl.Series("sample_text", pl.from_arrow(lists))


def _told(rows: Rows) -> npt.NDArray[np.bool_]:
    """(n,) whether the text of a review is kept."""
    kept: npt.NDArray[np.bool_] = rows.frame["text"].to_arrow().is_valid().to_numpy(zero_copy_only=False)
    return kept


def _counted(sketches: pl.DataFrame, name: str, room: int) -> Ints:
    at, counts = (sketches[f"{name}_{of}"].to_arrow().flatten().to_numpy() for of in ("at", "count"))
    return np.bincount(at, counts, minlength=room).astype(np.int64) if at.size else np.zeros(room, np.int64)


def words_of(sketches: pl.DataFrame, buckets: Sequence[int]) -> dict[int, str]:
    """The commonest sampled word of each token bucket, of those that have one: for logs that keep no text.

    >>> from mobile_sentiment_ops.monitoring.rows import rows_of
    >>> scored = pl.DataFrame({"text": ["crashes"], "label": ["Negative"]})
    >>> rows = rows_of(scored.with_columns(p_negative=0.8, p_neutral=0.1, p_positive=0.1), None)
    >>> list(words_of(sketched(rows), rows.tokens.tolist()).values())
    ['crashes']
    """
    sampled = sketches["sample_text"].explode().drop_nulls()
    counts = Counter(word for text in sampled for word in tokens(text))
    words = sorted(counts, key=lambda word: (-counts[word], word))
    found: dict[int, str] = {}
    wanted = set(buckets)
    for word, bucket in zip(words, counted(words, Grams(words=1, bits=TOKEN_BITS)).buckets.tolist(), strict=True):
        if bucket in wanted:
            found.setdefault(bucket, word)
    return found
