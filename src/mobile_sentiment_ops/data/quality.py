"""What is odd about a set of reviews before anything is learned from it.

`quality` measures and says; it changes nothing. Each finding stands beside its limit and reads as a
sentence. What cannot be measured has no value, which is not the same as nothing found. Texts are
compared on the newest `MAX_TEXTS` reviews, so the cost is bounded.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import numpy.typing as npt
import polars as pl

from mobile_sentiment_ops.data.reviews import duplicate_key
from mobile_sentiment_ops.types import Label

MAX_TEXTS = 100_000

MAX_MISSING = {"app": 0.5, "version": 0.5, "submitted_at": 0.1, "rating": 0.5, "language": 0.3}
MAX_DUPLICATE_SHARE = 0.5
MAX_NEAR_DUPLICATE_SHARE = 0.15
MAX_CONTRADICTION_SHARE = 0.1
MAX_TEXT_BURST = 20
MAX_AUTHOR_BURST = 10

BURST_WORDS = 4
"""Shorter texts ("nice app") are written by many people on any day."""

STRONG_WORDS: Mapping[str, list[str]] = tomllib.loads(
    files(__package__).joinpath("strong_words.toml").read_text("utf-8")
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One measurement beside its limit; `value` is None where it could not be measured."""

    name: str
    value: float | None
    limit: float
    sentence: str

    @property
    def exceeded(self) -> bool:
        """Whether a person should look."""
        return self.value is not None and self.value > self.limit


@dataclass(frozen=True, slots=True)
class QualityReport:
    """All findings on `rows` reviews, and the share of each language ("unknown" where it is not known)."""

    rows: int
    findings: tuple[Finding, ...]
    languages: Mapping[str, float]


def quality(reviews: pl.DataFrame) -> QualityReport:
    """The quality of current reviews.

    >>> from mobile_sentiment_ops.data.validation import canonical
    >>> texts = ["The app keeps crashing on start", "the app keeps crashing on start!!", "Lovely"]
    >>> reviews = pl.DataFrame({"review_text": texts, "rating": [1, 1, 5]})
    >>> found = {finding.name: finding.value for finding in quality(canonical(reviews)).findings}
    >>> round(found["duplicate_share"], 2), found["missing/rating"], found["burst/author"]
    (0.33, 0.0, None)
    """
    texts = reviews.tail(MAX_TEXTS)
    texts = texts.with_columns(pl.Series("key", [duplicate_key(text) for text in texts["review_text"]], pl.Utf8()))
    findings = (
        *(
            _share(f"missing/{column}", reviews[column].is_null(), limit, f"the reviews have no {column}")
            for column, limit in MAX_MISSING.items()
        ),
        _share(
            "duplicate_share",
            ~texts["key"].is_first_distinct(),
            MAX_DUPLICATE_SHARE,
            "the texts repeat an earlier one, case and signs aside",
        ),
        _near_duplicates(texts["key"]),
        _contradicting_labels(texts),
        _contradicting_words(texts),
        _text_burst(texts),
        AuthorDays().finding(),
    )
    return QualityReport(reviews.height, findings, _languages(reviews["language"]))


def _share(name: str, odd: pl.Series, limit: float, of_what: str, *, nothing: str = "there are no reviews") -> Finding:
    """The share of what is odd; it has no value where there is nothing to look at."""
    if not odd.len():
        return Finding(name, None, limit, nothing)
    share = float(odd.fill_null(False).mean())  # type: ignore[arg-type]
    return Finding(name, share, limit, f"{share:.1%} of {of_what}")


# --- near duplicates

_BANDS, _BAND_ROWS = 8, 5  # texts that share 7 of 10 word pairs meet with probability 0.77, 1 of 3 with 0.03


def _near_duplicates(keys: pl.Series) -> Finding:
    """MinHash over pairs of neighbouring words of the distinct texts that have at least 5 words."""
    words = keys.unique(maintain_order=True).str.split(" ")
    words = words.filter(words.list.len() > BURST_WORDS)
    near = pl.Series(_has_near_duplicate(words)) if words.len() else pl.Series([], dtype=pl.Boolean())
    of_what, nothing = "the distinct longer texts are nearly the same as another", "there are no longer texts"
    return _share("near_duplicate_share", near, MAX_NEAR_DUPLICATE_SHARE, of_what, nothing=nothing)


def _has_near_duplicate(words: pl.Series) -> npt.NDArray[np.bool_]:
    """For each text, given as its words, whether it shares a band of MinHashes with another."""
    ends = words.list.len().cast(pl.Int64()).cum_sum().to_numpy()
    hashes = words.explode().hash(seed=0).to_numpy()
    with np.errstate(over="ignore"):
        pairs = hashes[:-1] * np.uint64(0x9E3779B97F4A7C15) ^ hashes[1:]
    keep = np.ones(pairs.size, dtype=np.bool_)
    keep[ends[:-1] - 1] = False  # a pair of the last word of one text and the first of the next
    pairs, starts = pairs[keep], np.concatenate([[0], ends[:-1] - np.arange(1, ends.size)])
    random = np.random.default_rng(0)
    found = np.zeros(words.len(), dtype=np.bool_)
    for _ in range(_BANDS):
        band = np.zeros(words.len(), dtype=np.uint64)
        for factor, shift in random.integers(1, 2**63, (_BAND_ROWS, 2), dtype=np.uint64) | np.uint64(1):
            least = np.minimum.reduceat(pairs * factor + shift, starts)
            band = band * np.uint64(0xC2B2AE3D27D4EB4F) ^ least
        _, inverse, counts = np.unique(band, return_inverse=True, return_counts=True)
        found |= counts[inverse] > 1
    return found


# --- texts against their labels


def _contradicting_labels(reviews: pl.DataFrame) -> Finding:
    both = reviews.filter(pl.col("sentiment").is_not_null(), pl.col("rating").is_not_null())
    against = _opposite(both["sentiment"] == Label.POSITIVE.value, both["sentiment"] == Label.NEGATIVE.value, both)
    of_what, nothing = "the given labels contradict their stars", "no review has both a given label and stars"
    return _share("contradiction/labels", against, MAX_CONTRADICTION_SHARE, of_what, nothing=nothing)


def _contradicting_words(reviews: pl.DataFrame) -> Finding:
    """Only of texts with strong words of one side; a part of a word counts, as Thai has no blanks."""
    texts = reviews["review_text"].str.to_lowercase()
    positive, negative = (texts.str.contains_any(STRONG_WORDS[label]) for label in (Label.POSITIVE, Label.NEGATIVE))
    clear = (positive != negative) & reviews["rating"].is_not_null()
    against = _opposite(positive.filter(clear), negative.filter(clear), reviews.filter(clear))
    of_what, nothing = "the texts with strong words contradict their stars", "no review has both strong words and stars"
    return _share("contradiction/words", against, MAX_CONTRADICTION_SHARE, of_what, nothing=nothing)


def _opposite(positive: pl.Series, negative: pl.Series, reviews: pl.DataFrame) -> pl.Series:
    return (positive & (reviews["rating"] <= 2)) | (negative & (reviews["rating"] >= 4))


# --- bursts and languages


def _text_burst(reviews: pl.DataFrame) -> Finding:
    if reviews["submitted_at"].is_null().all():
        return Finding("burst/text", None, MAX_TEXT_BURST, "no review has a date")
    longer = reviews.filter(pl.col("key").str.count_matches(" ") >= BURST_WORDS, pl.col("submitted_at").is_not_null())
    groups = longer.group_by("app", pl.col("submitted_at").dt.date().alias("day"), "key")
    counts = groups.agg(pl.len().alias("count"), pl.col("review_text").first().alias("text"))
    worst = counts.sort("count", "day", "key", descending=[True, False, False]).head(1).to_dicts()
    sentence = "no longer text came twice"
    for found in worst:
        sentence = "one text came {count} times on {day} for {app}: '{text:.60}'".format_map(found)
    return Finding("burst/text", worst[0]["count"] if worst else 0, MAX_TEXT_BURST, sentence)


class AuthorDays:
    """How many reviews one author wrote on one day. Authors are hashed, and forgotten with this object.

    >>> days = AuthorDays()
    >>> days.add(pl.Series(["ann", "bob", "ann"]), pl.Series(["2026-01-31"] * 3).str.to_date())
    >>> days.finding().sentence
    'one author wrote 2 reviews on 2026-01-31'
    """

    def __init__(self) -> None:
        self._counts = pl.DataFrame(schema={"author": pl.UInt64, "day": pl.Date, "len": pl.UInt32})

    def add(self, authors: pl.Series, days: pl.Series) -> None:
        """Count a batch: an author and a day (or time) a review."""
        seen = pl.DataFrame({"author": authors.hash(seed=0), "day": days.cast(pl.Date())}).filter(authors.is_not_null())
        grown = [self._counts, seen.drop_nulls().group_by("author", "day").len()]
        self._counts = pl.concat(grown).group_by("author", "day").agg(pl.col("len").sum())
        if self._counts.height > MAX_TEXTS:
            self._counts = self._counts.top_k(MAX_TEXTS // 2, by="len")

    def finding(self) -> Finding:
        """The largest count; not measured when no authors were seen."""
        if not self._counts.height:
            return Finding("burst/author", None, MAX_AUTHOR_BURST, "authors are looked at while a file is read only")
        _, day, count = self._counts.sort("len", "day", descending=[True, False]).row(0)
        return Finding("burst/author", count, MAX_AUTHOR_BURST, f"one author wrote {count} reviews on {day}")


def _languages(languages: pl.Series) -> dict[str, float]:
    counts = languages.fill_null("unknown").value_counts(sort=True, normalize=True)
    return {str(language): float(share) for language, share in counts.iter_rows()}
