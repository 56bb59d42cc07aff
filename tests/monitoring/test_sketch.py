"""Figures of reviews, their sketches, and what a reference keeps of them."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobile_sentiment_ops.errors import BundleError
from mobile_sentiment_ops.monitoring.reference import REFERENCE_FILE, make_reference, read_reference
from mobile_sentiment_ops.monitoring.rows import MOMENTS, Rows, Vocabulary, joined, rows_of
from mobile_sentiment_ops.monitoring.sketch import KEYS, SKETCH_SCHEMA, Sketch, sketched, words_of

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
WORDS = ("love", "crashes", "app", "ใช้งาน", "naïve", "👍", "again", "pay", "login", "!!", "Â ", "é")


def scored(texts: list[str | None], *, seed: int = 0) -> pl.DataFrame:
    chance = np.random.default_rng(seed)
    p = chance.dirichlet([1, 1, 1], len(texts)) if texts else np.empty((0, 3))
    names = np.array(["Negative", "Neutral", "Positive"])
    return pl.DataFrame(
        {
            "text": pl.Series(texts, dtype=pl.Utf8),
            "label": pl.Series(names[p.argmax(axis=1)].tolist(), dtype=pl.Utf8),
            "app": pl.Series([("lamp", "bell", None)[at % 3] for at in range(len(texts))], dtype=pl.Utf8),
            "version": pl.Series([("1.0", "1.1")[at % 2] for at in range(len(texts))], dtype=pl.Utf8),
            "language": pl.Series(["en"] * len(texts), dtype=pl.Utf8),
            "model_version": pl.Series(["3"] * len(texts), dtype=pl.Utf8),
            "event_time": pl.Series(
                [NOON + timedelta(minutes=17 * at) for at in range(len(texts))], dtype=pl.Datetime("us", "UTC")
            ),
            "p_negative": p[:, 0],
            "p_neutral": p[:, 1],
            "p_positive": p[:, 2],
        }
    )


texts = st.lists(
    st.one_of(st.none(), st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join), st.text(max_size=20)), max_size=40
)
KNOWN = Vocabulary.of(["love app login"])


def same(one: Sketch, other: Sketch) -> bool:
    arrays = (one.scores == other.scores).all() and (one.tokens == other.tokens).all()
    return bool(arrays) and one.sums == other.sums and one.sample == other.sample


@settings(max_examples=60, deadline=None)
@given(texts, st.lists(st.integers(0, 40), max_size=4))
def test_sketches_of_any_parts_add_up_to_the_sketch_of_all(given_texts: list[str | None], cuts: list[int]) -> None:
    given_texts = [text and text.encode("utf-8", "ignore").decode() for text in given_texts]
    frame = scored(given_texts)
    whole = sketched(rows_of(frame, KNOWN))
    ends = sorted({0, frame.height, *(cut for cut in cuts if cut < frame.height)})
    parts = [sketched(rows_of(frame[a:b], KNOWN)) for a, b in itertools.pairwise(ends)]
    every = pl.concat(parts) if parts else whole
    assert same(Sketch.of(every), Sketch.of(whole))
    added = Sketch.of(whole.clear())
    for part in parts:
        added += Sketch.of(part)
    assert same(added, Sketch.of(whole))
    direct = Sketch.of_rows(rows_of(frame, KNOWN))
    assert (direct.sums, direct.tokens.tolist()) == (added.sums, added.tokens.tolist())


def test_a_group_is_an_app_version_language_and_hour() -> None:
    frame = scored(["Love it"] * 12)
    made = sketched(rows_of(frame, None))
    assert made.schema == SKETCH_SCHEMA
    assert made.select(KEYS).is_duplicated().sum() == 0
    assert made["n"].sum() == 12
    assert set(made["hour"].dt.minute()) == {0}
    assert made["app"].null_count() > 0  # reviews of no app are a group of their own


def test_a_sketch_is_of_at_most_64_kb_however_many_reviews_it_holds() -> None:
    frame = scored([f"review number {at} says {' '.join(WORDS)} {at * 7919 % 5000}" for at in range(8_000)])
    frame = frame.with_columns(event_time=pl.lit(NOON), app=pl.lit("lamp"), version=pl.lit("1"))
    made = sketched(rows_of(frame, KNOWN))
    assert made.height == 1
    assert made.estimated_size() <= 64 * 1024
    words = sum(len(words) for _, words in Sketch.of(made).sample)
    assert Sketch.of(made).tokens.astype(np.int32).nbytes + words < 64 * 1024


def test_what_is_not_kept_of_a_text_is_not_told_by_its_sketch() -> None:
    made = sketched(rows_of(scored(["Love it", None]).with_columns(pl.lit(None, pl.Utf8()).alias("text")), KNOWN))
    found = Sketch.of(made)
    assert (found.n, found.sums["told"], found.sums["empty"]) == (2, 0, 0)
    assert found.sample == ()
    assert found.buckets.sum() == 0


def test_words_of_the_buckets_come_from_the_sample() -> None:
    rows = rows_of(scored(["it crashes", "crashes again", "love"]), None)
    found = words_of(sketched(rows), rows.tokens.tolist())
    assert set(found.values()) == {"it", "crashes", "again", "love"}


@pytest.mark.parametrize(
    ("text", "moment", "expected"),
    [
        ("", "empty", 1),
        ("  !! ", "empty", 1),
        ("ok", "empty", 0),
        ("donâ€™t", "broken", 1),
        ("cafÃ©", "broken", 1),
        ("what\ufffd", "broken", 1),
        ("ðŸ˜\x8d nice", "broken", 1),
        ("não é ruim", "broken", 0),
        ("génial\u00a0! né\u00a0?", "broken", 0),
        ("so “naïve” – café’s", "broken", 0),
        ("love blorp", "unknown", 512),
        ("abcd", "length", round(256 * np.log2(5))),
        ("a!", "density", 512),
        ("né", "non_ascii", 512),
    ],
)
def test_moments(text: str, moment: str, expected: int) -> None:
    assert rows_of(scored([text]), KNOWN).moments[0, MOMENTS.index(moment)] == expected


def test_the_same_words_in_another_order_are_the_same_text() -> None:
    rows = rows_of(
        scored(["free coins for you now", "now for you FREE coins!", "free coins", "other words stand here"]), None
    )
    keys = rows.keys.tolist()
    assert keys[0] == keys[1] != keys[3]
    assert keys[2] == 0  # too short to be called repeated


def test_rows_are_taken_and_joined() -> None:
    frame = scored([" ".join(WORDS[: at % 5]) for at in range(20)])
    rows = rows_of(frame, KNOWN)
    order = np.random.default_rng(1).permutation(20)

    def figures(found: Rows) -> list[object]:
        return [found.tokens.tolist(), found.starts.tolist(), found.moments.tolist(), found.frame.rows()]

    assert figures(rows.take(order)) == figures(rows_of(frame[order], KNOWN))
    assert figures(joined([rows.take(order[:7]), rows.take(order[7:])])) == figures(rows.take(order))


def test_a_reference_is_kept_and_refused_when_it_is_odd() -> None:
    frame = scored(["love it", "it crashes", ""] * 5).with_columns(truth=pl.lit(2))
    made = make_reference(["love app"], frame)
    files = made.files()
    again = read_reference(files)
    assert same(again.sketch, made.sketch)
    assert again.truth.tolist() == [2] * 15
    assert (again.vocabulary.known == made.vocabulary.known).all()
    assert again.files() == files
    with pytest.raises(BundleError, match=r"no reference\.parquet.*mso retrain"):
        read_reference({})
    with pytest.raises(BundleError, match=r"cannot be read|has format None"):
        read_reference({**files, REFERENCE_FILE: b"PAR1"})
