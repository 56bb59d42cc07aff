from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobile_sentiment_ops.data.predictions import (
    LOGGED_TEXT,
    PREDICTION_SCHEMA,
    masked,
    predictions_table,
    text_fault,
    text_hash,
)
from mobile_sentiment_ops.types import PredictionRecord

# --- which texts get a prediction


@pytest.mark.parametrize(
    "text", ["ok", "👍", "ใช้ดี", "5", "?!", "\u202eok", " \n x", "é" * 20_000, "👨\u200d👩\u200d👧"]
)
def test_every_text_that_shows_something_gets_a_prediction(text: str) -> None:
    assert text_fault(text, 20_000) is None


@pytest.mark.parametrize(
    "text", ["", " ", "\t\r\n", "\u200b", "\ufeff", "\u3164\u2800", "\u00a0\u3000", "\ue000", "\0"]
)
def test_a_text_that_shows_nothing_is_blank(text: str) -> None:
    assert text_fault(text, 20_000) == "blank: expected some text"


def test_a_text_that_cannot_be_kept_or_is_too_long_says_so() -> None:
    assert text_fault("a\0b", 20_000) == "nul: holds a NUL character, expected text"
    assert text_fault("a\ud83d", 20_000) == "undecodable: holds half of a surrogate pair, expected valid Unicode"
    assert text_fault("a" * 20_001, 20_000) == "too_long: has 20,001 characters, expected at most 20,000"


@given(st.text(st.characters()))
def test_a_text_without_a_fault_can_be_hashed_masked_and_stored(text: str) -> None:
    if text_fault(text, 20_000) is None:
        assert all(keep(text) is None or keep(text).encode() for keep in LOGGED_TEXT.values())  # type: ignore[union-attr]


# --- what is kept of a text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Mail ann.lee+x@shop.co.in now", "Mail <email> now"),
        ("see HTTPS://Shop.Example/a?b=c d", "see <link> d"),
        ("www.shop.example and t.me/ann_b", "<link> and <link>"),
        ("ask @ann_b.", "ask <handle>"),
        ("call +66 (0)81-234 5678!", "call <number>!"),
        ("UPI 98765 43210, PIN 123", "UPI <number>, PIN <number>"),
        ("โทร 0812345678 ด่วน", "โทร <number> ด่วน"),
        ("5 stars, 24/7, v4.2, 10%", "5 stars, 24/7, v4.2, 10%"),
        ("Works.Great, i.e. fine", "Works.Great, i.e. fine"),
        ("", ""),
    ],
)
def test_what_may_name_a_person_is_masked(text: str, kept: str) -> None:
    assert masked(text) == kept


@given(st.text(st.sampled_from("a1.@+-( /:wx่"), max_size=60))
def test_masking_leaves_no_address_and_no_long_number(text: str) -> None:
    assert not re.search(r"\d{3}|a@a\.a", masked(text))


@pytest.mark.parametrize(
    "piece", ["a.", "a@", "1 ", "1(", "+(1", "@a.", "www.", "http://", "a-", "a@a.", "1.", "....", "%a"]
)
def test_a_hostile_text_is_masked_as_fast_as_a_plain_one(piece: str) -> None:
    text = piece * (20_000 // len(piece))
    began = time.process_time()
    masked(text)
    assert time.process_time() - began < 0.25


def test_the_log_keeps_what_the_setting_allows() -> None:
    text = "Mail ann@shop.example"
    assert {name: keep(text) for name, keep in LOGGED_TEXT.items()} == {
        "masked": "Mail <email>",
        "hash": text_hash(text),
        "off": None,
    }
    assert len(text_hash(text)) == 32


# --- the table


def test_records_become_rows_of_the_table(record: Callable[..., PredictionRecord]) -> None:
    table = predictions_table([record("a-1", text="Great", app="lamp"), record("a-2")])
    assert table.schema == PREDICTION_SCHEMA
    assert table.to_pylist()[0] == {
        "prediction_id": "a-1",
        "request_id": "request",
        "review_id": "r-a-1",
        "event_time": datetime(2025, 3, 1, 12, tzinfo=UTC),
        "received_at": datetime(2025, 3, 1, 12, 0, 0, 123456, tzinfo=UTC),
        "model_version": "3",
        "label": "Positive",
        "p_negative": 0.1,
        "p_neutral": 0.2,
        "p_positive": 0.7,
        "app": "lamp",
        "version": None,
        "language": None,
        "text": "Great",
        "format": 1,
    }
    assert table["text"].to_pylist() == ["Great", None]


def test_no_records_are_a_table_of_no_rows() -> None:
    assert predictions_table([]).num_rows == 0
    assert predictions_table([]).schema == PREDICTION_SCHEMA
