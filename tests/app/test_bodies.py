from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mobile_sentiment_ops.app.bodies import (
    _any_reviews,
    _any_text,
    _plain_reviews,
    _plain_text,
    read_json,
    read_reviews,
    read_text,
)
from mobile_sentiment_ops.app.problems import Problem
from mobile_sentiment_ops.data.predictions import Review


def reviews(body: bytes | str) -> list[Review]:
    return read_reviews(body if isinstance(body, bytes) else body.encode(), max_rows=5)


def refusal(body: bytes | str) -> tuple[int, str]:
    with pytest.raises(Problem) as err:
        reviews(body)
    return err.value.status, err.value.detail


# --- what is understood


def test_a_review_comes_with_all_that_is_told_about_it() -> None:
    body = {
        "review_text": "Love it",
        "review_id": "r-1",
        "app": "lamp",
        "version": "2.1",
        "language": "th",
        "rating": 5,
        "submitted_at": "2026-11-02T18:05:00+02:00",
        "mood": "sunny",
    }
    expected = Review("Love it", "r-1", "lamp", "2.1", "th", 5, datetime(2026, 11, 2, 16, 5, tzinfo=UTC))
    assert reviews(json.dumps({"reviews": [body]})) == [expected]
    assert reviews(json.dumps(body)) == [expected]


@pytest.mark.parametrize(
    "body",
    [
        '{"texts": ["Love it 👍"]}',
        '{"text": "Love it 👍"}',
        '{"review_text": "Love it 👍", "text": "not this"}',
        '{"reviews": [{"text": "Love it \\ud83d\\udc4d", "rating": null}]}',
        '\ufeff{"texts": ["Love it 👍"]}',
    ],
)
def test_every_form_of_a_body_is_understood(body: str) -> None:
    assert reviews(body) == [Review("Love it 👍")]


def test_a_time_without_a_zone_is_utc() -> None:
    (review,) = reviews('{"text": "ok", "submitted_at": "2026-11-02T18:05:00"}')
    assert review.submitted_at == datetime(2026, 11, 2, 18, 5, tzinfo=UTC)
    assert isinstance(review.submitted_at, datetime)
    assert review.submitted_at.utcoffset() == timedelta(0)


def test_the_text_of_the_first_versions_body() -> None:
    assert read_text('{"text": "ดีมาก", "user": "x"}'.encode()) == "ดีมาก"


# --- what is refused


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ("", 400, "the body is no JSON: Expecting value: line 1 column 1 (char 0)"),
        ('{"texts": ["a",\n]}', 400, "the body is no JSON: Expecting value: line 2 column 1 (char 16)"),
        (
            "{'texts': []}",
            400,
            "the body is no JSON: Expecting property name enclosed in double quotes: line 1 column 2",
        ),
        ('{"text": "a"} {}', 400, "the body is no JSON: Extra data: line 1 column 15 (char 14)"),
        (
            '{"text": "tab\tin it"}',
            400,
            "the body is no JSON: Invalid control character at: line 1 column 14 (char 13)",
        ),
        ('{"text": "ça"}'.encode("latin-1"), 400, "the body is no UTF-8 text: invalid continuation byte at byte 10"),
        ('{"text": "a"}'.encode("utf-16"), 400, "the body is no UTF-8 text: invalid start byte at byte 0"),
        (
            '{"text": "a\ud83d"}'.encode("utf-8", "surrogatepass"),
            400,
            "the body is no UTF-8 text: invalid continuation",
        ),
        ('{"text": "a \\ud83d b"}', 400, "text: holds half of a surrogate pair, expected valid Unicode"),
        ('{"texts": ["a", "\\udc4d\\ud83d"]}', 400, "texts[1]: holds half of a surrogate pair, expected valid Unicode"),
        ('{"te\\ud83dxt": "a"}', 400, "te\\ud83dxt: holds half of a surrogate pair, expected valid Unicode"),
        ('{"reviews": [{"text": "a", "rating": NaN}]}', 400, "reviews[0].rating: NaN is no JSON value"),
        ("-Infinity", 400, "the body: -Infinity is no JSON value"),
        ('{"text": "a", "text": "b"}', 400, "text: is given twice in one object"),
        ('{"text": "a", "more": [{"k": 1, "k": 1}]}', 400, "k: is given twice in one object"),
        ("[" * 100_000, 400, "the body is nested too deeply"),
        ('{"a":' * 100_000, 400, "the body is nested too deeply"),
        ('{"rating": ' + "9" * 5_000 + "}", 400, "the body holds a number that cannot be read: Exceeds the limit"),
        ("null", 422, "the body is null, expected a JSON object"),
        ('["Love it"]', 422, "the body is a list, expected a JSON object"),
        ('"Love it"', 422, "the body is a string, expected a JSON object"),
        ("true", 422, "the body is a boolean, expected a JSON object"),
        ("1e9", 422, "the body is a number, expected a JSON object"),
        ("{}", 422, "review_text: field required"),
        ('{"text": null}', 422, "text: input should be a valid string"),
        ('{"text": 7}', 422, "text: input should be a valid string"),
        ('{"texts": []}', 422, "texts: is empty, expected at least one review"),
        ('{"reviews": []}', 422, "reviews: is empty, expected at least one review"),
        ('{"reviews": [], "texts": []}', 422, "texts: is given beside reviews, expected one of them"),
        ('{"texts": "Love it"}', 422, "texts: input should be a valid list"),
        ('{"texts": {"0": "a"}}', 422, "texts: input should be a valid list"),
        ('{"texts": ["a", 7]}', 422, "texts[1]: input should be a valid string"),
        ('{"reviews": ["a"]}', 422, "reviews[0]: input should be a valid object"),
        ('{"reviews": [{"text": "a"}, {"rating": 9}]}', 422, "reviews[1].review_text: field required (and 1 more)"),
        ('{"text": "a", "rating": 6}', 422, "rating: input should be less than or equal to 5"),
        ('{"text": "a", "rating": true}', 422, "rating: input should be a valid integer"),
        (
            '{"text": "a", "rating": 4.5}',
            422,
            "rating: input should be a valid integer",
        ),
        ('{"text": "a", "rating": 1e999}', 422, "rating: input should be a valid integer"),
        ('{"text": "a", "submitted_at": "soon"}', 422, "submitted_at: input should be a valid datetime or date"),
        (
            '{"text": "a", "submitted_at": 1e300}',
            422,
            "submitted_at: input should be a valid datetime, dates after 9999",
        ),
        (
            '{"text": "a", "submitted_at": "9999-12-31T23:59:59-01:00"}',
            422,
            "submitted_at: the year is out of range",
        ),
        ('{"text": "a", "app": ["x"]}', 422, "app: input should be a valid string"),
        (json.dumps({"text": "a", "app": "x" * 257}), 422, "app: string should have at most 256 characters"),
        (json.dumps({"texts": ["a"] * 6}), 413, "texts has 6 rows, expected at most 5; send them in parts"),
        (json.dumps({"reviews": [{}] * 6}), 413, "reviews has 6 rows, expected at most 5; send them in parts"),
    ],
)
def test_a_faulty_body_is_refused_with_what_and_where(body: bytes | str, status: int, detail: str) -> None:
    found, said = refusal(body)
    assert (found, said[: len(detail)]) == (status, detail)


def test_every_faulty_field_is_named_up_to_twenty() -> None:
    with pytest.raises(Problem) as err:
        reviews('{"reviews": [{"rating": 0}, {"text": 1, "language": 2}]}')
    assert [fault["field"] for fault in err.value.errors] == [
        "reviews[0].review_text",
        "reviews[0].rating",
        "reviews[1].text",
        "reviews[1].language",
    ]
    with pytest.raises(Problem) as err:
        read_reviews(json.dumps({"texts": [1] * 50}).encode(), max_rows=50)
    assert len(err.value.errors) == 20


# --- every body

JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("review_text", "text", "review_id", "app", "version", "language", "rating", "submitted_at")
REVIEW_LIKE = st.dictionaries(st.sampled_from(FIELDS), JSON_VALUES, max_size=4)
BODY_LIKE = st.dictionaries(st.sampled_from(("reviews", "texts")), st.lists(REVIEW_LIKE | JSON_VALUES, max_size=3))


@given(JSON_VALUES)
@settings(max_examples=300)
def test_what_json_can_say_is_read_as_python_reads_it(value: Any) -> None:
    text = json.dumps(value)
    try:
        found, refused = read_json(text.encode()), 0
    except Problem as err:
        found, refused = None, err.status
    assert json.dumps(found) == text or (refused == 400 and re.search(r"NaN|Infinity|\\ud", text))


@given(
    st.binary(max_size=60)
    | (JSON_VALUES | REVIEW_LIKE | BODY_LIKE).map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))
)
@example(b'{"text": "a", "submitted_at": "0000-01-01"}')
@example(b'{"text": "a", "submitted_at": "0001-01-01T00:00:00+23:59"}')
@example(b'{"text": "a", "submitted_at": -1e308, "rating": -0.0}')
@settings(max_examples=400, deadline=None)
def test_any_body_is_read_or_refused_in_words(body: bytes) -> None:
    try:
        found, status = reviews(body), 200
    except Problem as err:
        found, status = [], err.response("/predict", "id").status_code
    assert status == 200 if found else status in (400, 413, 422)
    assert all(isinstance(review.text, str) for review in found)
    assert all(getattr(review.submitted_at, "tzinfo", UTC) is UTC for review in found)


PIECES = st.sampled_from(
    (
        *(f'"{name}"' for name in (*FIELDS, "reviews", "texts", "odd", "te\\u0078t")),
        *(
            '"Love it"',
            '"say \\"text\\": no"',
            '"a\\u0062 \\ud83d\\ude00"',
            '"\\ud800"',
            '"2026-01-01"',
            '""',
            '"\u0e14"',
        ),
        *(
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            " ",
            "null",
            "5",
            "5.0",
            "0",
            "true",
            "NaN",
            "1e400",
            '{"text":"b"}',
            '"text":"c",',
        ),
    )
)


@given(
    st.lists(PIECES, max_size=14).map("".join)
    | (JSON_VALUES | REVIEW_LIKE | BODY_LIKE).map(json.dumps)
    | st.builds(
        lambda texts, odd: f'{{"texts": {json.dumps(texts)}{odd}}}',
        st.lists(st.text()),
        st.sampled_from(("", ', "texts": []')),
    )
    | st.builds('{{"reviews":[{{"text":{}, {}:{}}},{{{}:{}}}]}}'.format, PIECES, PIECES, PIECES, PIECES, PIECES)
)
@example('{"text": "a", "te\\u0078t": "b"}')
@example('{"reviews": [{"text": "a", "app": "b", "app": "c"}, {"text": "d"}]}')
@example('{"reviews": [{"text": "a", "review_text": "b"}, {"rating": 5}]}')
@settings(max_examples=2_000, deadline=None)
def test_what_is_read_the_fast_way_is_what_the_careful_way_reads(text: str) -> None:
    body = text.encode("utf-8", "surrogatepass")
    if (plain := _plain_reviews(body, 5)) is not None:
        assert plain == _any_reviews(body, 5)
    if (one := _plain_text(body)) is not None:
        assert one == _any_text(body)


def test_plain_bodies_are_read_the_fast_way() -> None:
    assert _plain_text('{"text": "ดี \\\\u263a it\'s \\"ok\\""}'.encode()) is not None
    assert _plain_reviews(b'{"texts": ["Love it", "Crashes"]}', 5) == [Review("Love it"), Review("Crashes")]
    told = b'{"reviews": [{"review_text": "Love it", "app": "lamp", "rating": 5}, {"text": "ok", "app": null}]}'
    assert _plain_reviews(told, 5) == [Review("Love it", app="lamp", rating=5), Review("ok")]
