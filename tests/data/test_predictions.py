from __future__ import annotations

import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from unicodedata import category

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mobile_sentiment_ops.data.predictions import (
    LOGGED_TEXT,
    PROBABILITIES,
    Answered,
    Review,
    masked,
    packed,
    prediction_schema,
    predictions_table,
    text_fault,
    text_hash,
)
from mobile_sentiment_ops.types import LABELS

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
    text = piece * (200_000 // len(piece))
    began = time.process_time()
    masked(text)
    assert time.process_time() - began < 10  # quadratic time takes minutes


def test_the_log_keeps_what_the_setting_allows() -> None:
    text = "Mail ann@shop.example"
    assert {name: keep(text) for name, keep in LOGGED_TEXT.items()} == {
        "masked": "Mail <email>",
        "hash": text_hash(text),
        "off": None,
    }
    assert len(text_hash(text)) == 32


@pytest.mark.parametrize(
    "texts", [st.text(st.characters()), st.text(st.sampled_from("a \0\ud83d\u3164\x01~!\x7fé"), max_size=5)]
)
def test_plain_texts_have_no_fault_and_the_others_the_one_told(texts: st.SearchStrategy[str]) -> None:
    """The slow way, written down once more."""

    @settings(max_examples=300)
    @example("~" * 6)
    @given(texts)
    def check(text: str) -> None:
        seen = any(not (c.isspace() or c in "\u115f\u1160\u2800\u3164" or category(c) in "Cc Cf Co Cs") for c in text)
        faults = {
            "too_long": len(text) > 5,
            "blank": not seen,
            "nul": "\0" in text,
            "undecodable": any("\ud800" <= char <= "\udfff" for char in text),
        }
        expected = next((name for name, found in faults.items() if found), None)
        fault = text_fault(text, 5)
        assert (fault and fault.partition(":")[0]) == expected

    check()


# --- the table


NOON = datetime(2025, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


def answered(*reviews: Review, prefix: str = "a", first: int = 1, request_id: str = "request") -> Answered:
    """Reviews that all got the same answer."""
    probabilities = np.tile([0.1, 0.2, 0.7], len(reviews)).tobytes()
    labels = bytes([2]) * len(reviews)
    return Answered(request_id, prefix, first, NOON, "3", reviews, labels, probabilities)


def rows(*answers: Answered, log_text: str = "masked") -> list[dict[str, Any]]:
    table = predictions_table(map(packed, answers), log_text)
    assert table.schema == prediction_schema()
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def test_an_answer_becomes_rows_of_the_table() -> None:
    written = datetime(2025, 2, 28, 8, tzinfo=timezone(timedelta(hours=7)))
    full = Review("Great, ask @ann", "r-1", "lamp", "1.0", "th", 5, written)
    first, second = rows(answered(full, Review("Slow"), first=7))
    assert first == {
        "prediction_id": "a-7",
        "request_id": "request",
        "review_id": "r-1",
        "event_time": datetime(2025, 2, 28, 1, tzinfo=UTC),
        "received_at": NOON,
        "model_version": "3",
        "label": "Positive",
        "p_negative": 0.1,
        "p_neutral": 0.2,
        "p_positive": 0.7,
        "app": "lamp",
        "version": "1.0",
        "language": "th",
        "text": "Great, ask <handle>",
        "format": 1,
    }
    assert second == first | {
        "prediction_id": "a-8",
        "review_id": f"text-{text_hash('Slow')}",
        "event_time": NOON,
        "app": None,
        "version": None,
        "language": None,
        "text": "Slow",
    }


def test_answers_keep_their_order_labels_and_probabilities() -> None:
    noise = np.random.default_rng(3)
    answers, expected = [], []
    for number, size in enumerate((1, 3, 0, 2, 1)):
        probabilities = noise.dirichlet([1, 1, 1], size)
        labels = noise.integers(0, 3, size).astype(np.uint8)
        reviews = [Review(f"text {number} {row}", version=f"{row}" if number == 1 else None) for row in range(size)]
        head = (f"q{number}", f"p{number}", number + 1, NOON + timedelta(seconds=number), f"{number}")
        answers.append(Answered(*head, reviews, labels.tobytes(), probabilities.tobytes()))
        for row in range(size):
            ids = (f"p{number}-{number + 1 + row}", f"q{number}", f"{number}", NOON + timedelta(seconds=number))
            told = (reviews[row].text, reviews[row].version, LABELS[labels[row]], *probabilities[row])
            expected.append((*ids, *told))
    names = ("prediction_id", "request_id", "model_version", "received_at", "text", "version", "label", *PROBABILITIES)
    assert [tuple(row[name] for name in names) for row in rows(*answers)] == expected


@pytest.mark.parametrize("log_text", ["masked", "hash", "off"])
def test_of_a_text_the_table_has_what_the_setting_allows(log_text: str) -> None:
    texts = ["Mail ann@shop.example", "plain", "call 0812345678", "ดีมาก 😀", "see SHOP.İn"]
    found = rows(answered(*map(Review, texts)), log_text=log_text)
    assert [row["text"] for row in found] == [LOGGED_TEXT[log_text](text) for text in texts]
    assert [row["review_id"] for row in found] == [f"text-{text_hash(text)}" for text in texts]


@settings(max_examples=500)
@given(st.lists(st.text(st.sampled_from("a1.@+-( /:wx่ıoİnſ\u0663cm")), min_size=1, max_size=20))
def test_no_private_text_is_passed_over(texts: list[str]) -> None:
    texts = [f"a{text}" for text in texts]
    assert [row["text"] for row in rows(answered(*map(Review, texts)))] == [masked(text) for text in texts]


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
        (" 2026-01-31T18:05:00+07:00", datetime(2026, 1, 31, 11, 5, tzinfo=UTC)),
        ("1769882400000", datetime(2026, 1, 31, 18, tzinfo=UTC)),
        ("31.01.2026", datetime(2026, 1, 31, tzinfo=UTC)),
        ("31/01/2026", datetime(2026, 1, 31, tzinfo=UTC)),
        ("01/02/2026", NOON),  # nobody tells the day from the month
        ("n/a", NOON),
        ("0026-01-31", NOON),
        ("", NOON),
        (datetime(1970, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)),
        (datetime(1, 1, 1, tzinfo=UTC), datetime(1, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_date_is_read_as_ingest_reads_it(told: datetime | str, read: datetime) -> None:
    (row,) = rows(answered(Review("Ok", submitted_at=told)))
    assert row["event_time"] == read


def test_the_day_is_told_from_the_month_within_a_request_only() -> None:
    def request(name: str, *dates: str) -> list[Answered]:
        """In parts, as a file is answered."""
        told = [answered(Review("Ok", submitted_at=date), prefix=f"{name}{date}", request_id=name) for date in dates]
        return [*told, answered(Review("Ok"), prefix=name, request_id=name)]

    answers = [
        *request("day first", "01/02/2026", "2026-03-04", "31/01/2026"),
        *request("month first", "01/02/2026", "01/31/2026"),
        *request("unknown", "01/02/2026"),
    ]
    found: dict[str, list[str]] = {}
    for row in rows(*answers):
        found.setdefault(row["request_id"], []).append(f"{row['event_time']:%m-%d}")
    assert found == {
        "day first": ["02-01", "03-04", "01-31", "03-01"],
        "month first": ["01-02", "01-31", "03-01"],
        "unknown": ["03-01", "03-01"],
    }


def test_a_repeated_request_is_kept_once() -> None:
    first = answered(Review("Ok"), Review("Slow"), prefix="key")
    again = answered(Review("Ok now"), Review("Slow now"), prefix="key")
    other = answered(Review("Other"), prefix="other")
    assert [row["text"] for row in rows(first, other, again)] == ["Ok", "Slow", "Other"]


def test_payloads_of_earlier_releases_stay_as_they_are() -> None:
    fixture = Path(__file__).parents[1] / "fixtures" / "spool_format_1.spool"
    data = fixture.read_bytes()
    payloads = [data[start : data.index(b"]]", start) + 2] for start in (28, data.index(b'[["p3"'))]
    table = predictions_table([*payloads, packed(answered(Review("New")))], "off")
    assert table.schema == prediction_schema()
    found = {row["prediction_id"]: row for row in table.to_pylist()}
    assert sorted(found) == ["a-1", "p1", "p2", "p3"]
    first = found["p1"]
    assert (first["app"], first["language"], first["text"], first["label"]) == ("lamp", "th", "ดีมาก 😀", "Positive")
    assert (first["event_time"], first["received_at"]) == (NOON.replace(microsecond=0), NOON)
    assert (first["p_negative"], first["p_neutral"], first["p_positive"], first["format"]) == (0.1, 0.2, 0.7, 1)
    assert (found["p2"]["app"], found["p2"]["text"]) == (None, None)
    assert predictions_table(payloads, "masked").num_rows == 3


def test_nothing_is_a_table_of_no_rows() -> None:
    table = predictions_table([], "masked")
    assert (table.num_rows, table.schema) == (0, prediction_schema())


def test_a_server_packs_without_the_libraries_of_tables() -> None:
    source = """
import sys
from datetime import UTC, datetime
from mobile_sentiment_ops.data.predictions import Answered, Review, packed, text_fault
assert text_fault("ok", 9) is None
packed(Answered("q", "p", 1, datetime.now(UTC), "3", [Review("ok")], b"\\2", bytes(24)))
print({"polars", "pandas", "pyarrow", "sklearn", "scipy"} & set(sys.modules))
"""
    ran = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"
