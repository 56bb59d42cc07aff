from __future__ import annotations

import importlib.util
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobile_sentiment_ops.data.reviews import REVIEW_SCHEMA, STORED_SCHEMA, current_reviews, duplicate_key, labelled


def reviews(*rows: dict[str, object]) -> pl.DataFrame:
    return pl.DataFrame([{**dict.fromkeys(REVIEW_SCHEMA), **row} for row in rows], schema=REVIEW_SCHEMA)


def day(number: int) -> datetime:
    return datetime(2026, 1, number, tzinfo=UTC)


def test_current_is_the_latest_edit_even_when_it_was_committed_first() -> None:
    frame = reviews(
        {"review_id": "r", "submitted_at": day(1), "updated_at": day(9), "review_text": "edited"},
        {"review_id": "r", "submitted_at": day(1), "review_text": "first"},
        {"review_id": "s", "submitted_at": day(2), "review_text": "other"},
    )
    assert current_reviews(frame)["review_text"].to_list() == ["edited", "other"]


def test_current_is_the_last_commit_when_times_are_equal_or_absent() -> None:
    frame = reviews(
        {"review_id": "r", "submitted_at": day(1), "review_text": "a"},
        {"review_id": "r", "submitted_at": day(1), "review_text": "b"},
        {"review_id": "s", "review_text": "c"},
        {"review_id": "s", "review_text": "d"},
    )
    assert current_reviews(frame)["review_text"].to_list() == ["b", "d"]


def test_a_row_with_a_time_is_newer_than_one_without() -> None:
    frame = reviews(
        {"review_id": "r", "submitted_at": day(1), "review_text": "dated"}, {"review_id": "r", "review_text": "undated"}
    )
    assert current_reviews(frame)["review_text"].to_list() == ["dated"]


def test_current_of_nothing_is_nothing() -> None:
    assert current_reviews(pl.DataFrame(schema=STORED_SCHEMA)).height == 0


def test_labels_come_from_a_person_then_the_file_then_the_stars() -> None:
    frame = reviews(
        {"review_id": "1", "rating": 5, "sentiment": "Negative", "label_source": "human"},
        {"review_id": "2", "rating": 5, "sentiment": "Neutral", "label_source": "imported"},
        *({"review_id": f"s{stars}", "rating": stars} for stars in range(1, 6)),
        {"review_id": "none"},
    )
    found = labelled(frame)
    assert dict(found.select("review_id", "label").iter_rows()) == {
        "1": 0,
        "2": 1,
        "s1": 0,
        "s2": 0,
        "s3": 1,
        "s4": 2,
        "s5": 2,
    }
    assert found["label_source"].to_list() == ["human", "imported", *["stars"] * 5]


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_a_duplicate_key_is_its_own_key(text: str) -> None:
    key = duplicate_key(text)
    assert duplicate_key(key) == key


def test_the_duplicate_key_is_the_one_of_the_benchmark_splits(shared_data: Path) -> None:
    file = shared_data.parent / "splits.py"
    if not file.is_file():
        pytest.skip(f"no {file}")
    spec = importlib.util.spec_from_file_location("shared_splits", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    normalise: Callable[[str], str] = module.normalise
    for text in pl.read_parquet(shared_data / "play_fintech_reviews.parquet")["review_text"].gather_every(50):
        assert duplicate_key(text) == normalise(text)
