from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobile_sentiment_ops.data.splits import Split, apps_split, random_split, temporal_split, text_key

MAY = datetime(2026, 5, 1, tzinfo=UTC)

texts = st.sampled_from(["Good", "good!", "Slow", "slow...", "ดีมาก", "👍", "👍 👍", "😡", "Crashes", "It crashes"])
times = st.sampled_from([None, datetime(2026, 4, 1, tzinfo=UTC), MAY, datetime(2026, 6, 1, tzinfo=UTC)])
apps = st.sampled_from([None, "lamp", "torch", "radio"])
frames = st.lists(st.tuples(texts, times, apps), min_size=1, max_size=30).map(
    lambda rows: pl.DataFrame(
        rows,
        schema={"review_text": pl.Utf8(), "submitted_at": pl.Datetime("us", "UTC"), "app": pl.Utf8()},
        orient="row",
    ).with_row_index("row")
)


def keys(rows: pl.DataFrame) -> set[str]:
    return {text_key(text) for text in rows["review_text"]}


def assert_apart(reviews: pl.DataFrame, split: Split) -> None:
    train, test = split
    assert not keys(train) & keys(test)
    for part in split:
        assert part.equals(reviews[part["row"]])
        assert part["row"].is_sorted()


@given(frames)
def test_no_text_is_before_and_after_a_moment(reviews: pl.DataFrame) -> None:
    train, test = temporal_split(reviews, test_from=MAY)
    assert_apart(reviews, (train, test))
    assert test.equals(reviews.filter(pl.col("submitted_at") >= MAY))
    assert keys(train) | keys(test) == keys(reviews)


@given(frames)
def test_no_text_is_in_held_out_apps_and_in_others(reviews: pl.DataFrame) -> None:
    train, test = apps_split(reviews, test_apps={"lamp", "radio"})
    assert_apart(reviews, (train, test))
    assert test.equals(reviews.filter(pl.col("app").is_in(["lamp", "radio"])))
    assert keys(train) | keys(test) == keys(reviews)


@given(frames.filter(lambda reviews: len(keys(reviews)) > 1), st.integers(0, 99))
def test_chance_keeps_all_reviews_of_a_text_on_one_side(reviews: pl.DataFrame, seed: int) -> None:
    train, test = random_split(reviews, test_share=0.3, seed=seed)
    assert_apart(reviews, (train, test))
    assert train.height + test.height == reviews.height
    assert random_split(reviews, test_share=0.3, seed=seed)[1].equals(test)


def test_the_seed_decides_who_is_drawn() -> None:
    reviews = pl.DataFrame({"review_text": [f"Review number {n}" for n in range(100)]})
    drawn = {tuple(random_split(reviews, test_share=0.2, seed=seed)[1]["review_text"]) for seed in range(5)}
    assert len(drawn) == 5
    assert {len(texts) for texts in drawn} == {20}


@pytest.mark.parametrize(("one", "other"), [("👍", "👍👍"), ("👍", "😡"), ("ดี", "ดีมาก"), ("!", "?")])
def test_texts_without_letters_are_told_apart_by_their_signs(one: str, other: str) -> None:
    assert text_key(one) != text_key(other)
