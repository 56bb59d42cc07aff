from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from mobile_sentiment_ops.data.duplicates import KeySet, SeenReviews, identify
from mobile_sentiment_ops.data.reviews import REVIEW_SCHEMA

AT = datetime(2026, 1, 31, 18, 5, tzinfo=UTC)


def reviews(*rows: dict[str, object]) -> pl.DataFrame:
    return identify(pl.DataFrame([{**dict.fromkeys(REVIEW_SCHEMA), **row} for row in rows], schema=REVIEW_SCHEMA))


def test_hashes_and_made_ids_are_those_of_format_1() -> None:
    """Stored rows are known by these: another value would take every stored review in again."""
    row = {"app": "lamp", "submitted_at": AT, "rating": 5, "review_text": "ดีมาก 👍", "sentiment": "Positive"}
    found = reviews(row)
    assert found["review_id"].to_list() == ["text-c2a036dd9887c28420213c8e098fcf60"]
    assert found["content_hash"].to_list() == ["03466f2c5260f361ed3072711cdf725c"]


def test_every_part_but_the_language_makes_another_content() -> None:
    base: dict[str, object] = {"review_id": "r", "review_text": "Slow"}
    others: dict[str, object] = {
        "review_id": "s",
        **dict.fromkeys(("app", "version", "store", "country", "title", "review_text"), "other"),
        **dict.fromkeys(("submitted_at", "updated_at"), AT),
        "rating": 1,
        "sentiment": "Negative",
        "label_source": "human",
    }
    assert set(others) == set(REVIEW_SCHEMA) - {"language"}
    rows = [base, *({**base, name: value} for name, value in others.items())]
    assert reviews(*rows)["content_hash"].n_unique() == len(rows)
    assert reviews(base, {**base, "language": "th"})["content_hash"].n_unique() == 1


def test_made_ids_tell_reviews_apart_and_not_their_labels() -> None:
    found = reviews(
        {"review_text": "Slow", "rating": 1},
        {"review_text": "Slow", "rating": 2},
        {"review_text": "Slow", "rating": 1, "sentiment": "Negative"},
        {"review_id": "given", "review_text": "Slow"},
    )["review_id"].to_list()
    assert found[0] == found[2] != found[1]
    assert found[3] == "given"


def test_fields_do_not_run_into_each_other() -> None:
    found = reviews(
        {"app": "ab", "version": "c", "review_text": "x"}, {"app": "a", "version": "bc", "review_text": "x"}
    )
    assert found["content_hash"].n_unique() == 2


def test_new_updated_and_known_reviews_are_sorted_out_across_batches() -> None:
    seen = SeenReviews()
    first = seen.sort_out(reviews({"review_id": "a", "review_text": "one"}, {"review_id": "b", "review_text": "two"}))
    assert (first.new, first.updated, first.duplicate) == (2, 0, 0)
    second = seen.sort_out(
        reviews(
            {"review_id": "a", "review_text": "one"},
            {"review_id": "b", "review_text": "two, edited"},
            {"review_id": "c", "review_text": "three"},
            {"review_id": "c", "review_text": "three"},
            {"review_id": "c", "review_text": "three, edited"},
        )
    )
    assert (second.new, second.updated, second.duplicate) == (1, 2, 2)
    assert second.reviews["review_text"].to_list() == ["two, edited", "three", "three, edited"]


def test_an_edit_that_is_taken_back_is_known() -> None:
    seen = SeenReviews()
    for text in ("one", "two"):
        seen.sort_out(reviews({"review_id": "a", "review_text": text}))
    assert seen.sort_out(reviews({"review_id": "a", "review_text": "one"})).duplicate == 1


@given(st.lists(st.lists(st.integers(0, 50), max_size=20), max_size=12), st.lists(st.integers(0, 50)))
@settings(max_examples=80, deadline=None)
def test_a_key_set_holds_what_was_added(added: list[list[int]], asked: list[int]) -> None:
    known = KeySet()
    for keys in added:
        known.add(np.array(keys, dtype=np.uint64))
    everything = {key for keys in added for key in keys}
    assert known.holds(np.array(asked, dtype=np.uint64)).tolist() == [key in everything for key in asked]


def test_a_key_set_keeps_few_runs() -> None:
    known = KeySet()
    for start in range(0, 100_000, 500):
        known.add(np.arange(start, start + 500, dtype=np.uint64))
    assert len(known._runs) <= 10
    assert known.holds(np.array([0, 99_999, 100_000], dtype=np.uint64)).tolist() == [True, True, False]
