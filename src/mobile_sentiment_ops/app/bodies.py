"""JSON bodies as they come in: strictly parsed, checked, and every fault named by its place.

JSON is refused where readers of it differ: NaN and Infinity, half surrogate pairs, a key given
twice. Fields that nobody knows are ignored.

Plain bodies are read by msgspec in a twentieth of the time. What it does not take, or could take
otherwise, is read by pydantic, which also finds the words for what is wrong.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import UNSET, Meta, UnsetType
from pydantic import AfterValidator, AliasChoices, BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from mobile_sentiment_ops.app.problems import Problem
from mobile_sentiment_ops.data.predictions import Review

Body = TypeVar("Body")


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError as err:
        raise ValueError("the year is out of range") from err


Name = Annotated[str | None, Field(max_length=256)]


class ReviewBody(BaseModel):
    """One review, with as much about it as is known."""

    text: str = Field(
        validation_alias=AliasChoices("review_text", "text"), description="the text to judge; `text` is understood too"
    )
    review_id: Name = Field(None, description="your id of the review; null in the answer when absent")
    app: Name = Field(None, description="the app")
    version: Name = Field(None, description="the version of the app")
    language: Name = Field(None, description="language tag")
    rating: Annotated[int | None, Field(ge=1, le=5, strict=True)] = Field(None, description="stars")
    submitted_at: Annotated[datetime, AfterValidator(_in_utc)] | None = Field(
        None, description="when it was written, ISO 8601; UTC where no zone is given"
    )

    def review(self) -> Review:
        return Review(**dict(self))


class TextBody(BaseModel):
    """The first version's body."""

    text: str = Field(description="the text to judge")


_REVIEW = TypeAdapter(ReviewBody)
_REVIEWS = TypeAdapter(list[ReviewBody])
_TEXTS = TypeAdapter(list[str])
_TEXT = TypeAdapter(TextBody)


def read_reviews(body: bytes, *, max_rows: int) -> list[Review]:
    """The reviews of a JSON body: `{"reviews": [...]}`, `{"texts": [...]}`, or one review itself.

    >>> read_reviews(b'{"texts": ["Love it", "Crashes"]}', max_rows=10)[1].text
    'Crashes'
    >>> read_reviews(b'{"reviews": [{"review_text": "Slow", "rating": 9}]}', max_rows=10)
    Traceback (most recent call last):
    mobile_sentiment_ops.app.problems.Problem: reviews[0].rating: input should be less than or equal to 5
    """
    plain = _plain_reviews(body, max_rows)
    return _any_reviews(body, max_rows) if plain is None else plain


def _any_reviews(body: bytes, max_rows: int) -> list[Review]:
    value = _read_object(body)
    given = [form for form in ("reviews", "texts") if form in value]
    if not given:
        return [_checked(_REVIEW, value, "").review()]
    if len(given) > 1:
        raise _faulty("texts", "is given beside reviews, expected one of them")
    form, rows = given[0], value[given[0]]
    if isinstance(rows, list) and len(rows) > max_rows:
        raise Problem(413, f"{form} has {len(rows):,} rows, expected at most {max_rows:,}; send them in parts")
    if rows == []:
        raise _faulty(form, "is empty, expected at least one review")
    if form == "texts":
        return [Review(text) for text in _checked(_TEXTS, rows, form)]
    return [review.review() for review in _checked(_REVIEWS, rows, form)]


def read_text(body: bytes) -> str:
    """The text of the first version's body, `{"text": ...}`."""
    plain = _plain_text(body)
    return _any_text(body) if plain is None else plain


def _any_text(body: bytes) -> str:
    return _checked(_TEXT, _read_object(body), "").text


# --- the fast way


class _PlainText(msgspec.Struct, gc=False):
    text: str


_Short = Annotated[str, Meta(max_length=256)] | None


class _PlainReview(msgspec.Struct, gc=False):
    text: str | UnsetType = UNSET
    review_text: str | UnsetType = UNSET
    review_id: _Short | UnsetType = UNSET
    app: _Short | UnsetType = UNSET
    version: _Short | UnsetType = UNSET
    language: _Short | UnsetType = UNSET
    rating: Annotated[int, Meta(ge=1, le=5)] | UnsetType | None = UNSET


class _PlainBody(msgspec.Struct, gc=False):
    texts: list[str] | UnsetType = UNSET
    reviews: list[_PlainReview] | UnsetType = UNSET


_decode_text = msgspec.json.Decoder(_PlainText).decode
_decode_body = msgspec.json.Decoder(_PlainBody).decode
_NOT_PLAIN = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_FIELDS = tuple(name for name in _PlainReview.__struct_fields__ if name not in ("text", "review_text"))
_ODD_KEY = re.compile(rb'\\[^"\\]*"\s*:')
"""A key that is written with an escape, or a text that looks like one."""


def _odd_key(body: bytes) -> bool:
    return b"\\" in body and _ODD_KEY.search(body) is not None


def _plain_text(body: bytes) -> str | None:
    """The text of a body without anything odd in it; None for others."""
    if body.count(b'"text"') == 1 and not _odd_key(body):
        with suppress(*_NOT_PLAIN):
            return _decode_text(body).text
    return None


def _plain_reviews(body: bytes, max_rows: int) -> list[Review] | None:
    """The reviews of a body without anything odd in it; None for others.

    msgspec keeps the last of two equal keys, so a key must stand in the bytes as often as it has a value.
    """
    if _odd_key(body):
        return None
    try:
        found = _decode_body(body)
    except _NOT_PLAIN:
        return None
    if isinstance(found.texts, list):
        alone = body.count(b'"texts"') == 1 and found.reviews is UNSET and 0 < len(found.texts) <= max_rows
        return list(map(Review, found.texts)) if alone else None
    if not isinstance(found.reviews, list) or body.count(b'"reviews"') != 1 or not 0 < len(found.reviews) <= max_rows:
        return None
    if b'"submitted_at"' in body:
        return None
    rows = found.reviews
    own = [row.review_text if row.text is UNSET else row.text for row in rows]
    named = body.count(b'"text"') + body.count(b'"review_text"')
    if named != len(rows) or not all(type(text) is str for text in own):
        return None
    told = [name for name in _FIELDS if f'"{name}"'.encode() in body]
    if not told:
        return [Review(str(text)) for text in own]
    for name in told:
        if sum(getattr(row, name) is not UNSET for row in rows) != body.count(f'"{name}"'.encode()):
            return None
    return [
        Review(str(text), **{name: value for name in told if (value := getattr(row, name)) is not UNSET})
        for text, row in zip(own, rows, strict=True)
    ]


def _read_object(body: bytes) -> dict[str, Any]:
    value = read_json(body)
    if not isinstance(value, dict):
        raise Problem(422, f"the body is {_named(value)}, expected a JSON object")
    return value


def _named(value: object) -> str:
    names: dict[type, str] = {list: "a list", str: "a string", type(None): "null", bool: "a boolean"}
    return names.get(type(value), "a number")


def _checked(expected: TypeAdapter[Body], value: object, place: str) -> Body:
    try:
        return expected.validate_python(value)
    except ValidationError as err:
        found = err.errors(include_url=False, include_input=False, include_context=False)
        faults = [(_place(place, fault["loc"]), _in_words(fault)) for fault in found]
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise Problem(
            422,
            f"{faults[0][0]}: {faults[0][1]}{more}",
            errors=[{"field": field, "problem": problem} for field, problem in faults],
        ) from err


def _in_words(fault: ErrorDetails) -> str:
    if fault["type"] == "model_type":  # speaks of Python's classes
        return "input should be a valid object"
    text = fault["msg"].removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _place(start: str, parts: Sequence[int | str]) -> str:
    """
    >>> _place("reviews", (3, "rating"))
    'reviews[3].rating'
    """
    for part in parts:
        start += f"[{part}]" if isinstance(part, int) else f".{part}"
    return start.lstrip(".")


# --- strict JSON


def read_json(body: bytes) -> Any:
    """The value of a JSON text; a Problem that says what is wrong and where.

    >>> read_json(b'{"rating": [4, NaN]}')
    Traceback (most recent call last):
    mobile_sentiment_ops.app.problems.Problem: rating[1]: NaN is no JSON value
    """
    try:
        value = json.loads(body.decode("utf-8-sig"), parse_constant=_Constant, object_pairs_hook=_object)
        if _SUSPECT.search(body):
            _refuse_unreadable(value, "")
    except UnicodeDecodeError as err:
        raise Problem(400, f"the body is no UTF-8 text: {err.reason} at byte {err.start}") from err
    except json.JSONDecodeError as err:
        where = {"line": err.lineno, "column": err.colno, "problem": err.msg}
        raise Problem(400, f"the body is no JSON: {err}", errors=[where]) from err
    except RecursionError as err:
        raise Problem(400, "the body is nested too deeply") from err
    except ValueError as err:  # a number of thousands of digits
        raise Problem(400, f"the body holds a number that cannot be read: {err}") from err
    return value


class _Constant(str):
    """NaN or Infinity, where it stood."""


_SUSPECT = re.compile(rb"\\u[dD][89a-fA-F]|NaN|Infinity")
_SURROGATE = re.compile("[\ud800-\udfff]")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise _faulty(twice, "is given twice in one object", status=400)
    return found


def _refuse_unreadable(value: object, place: str) -> None:
    """What Python's reader lets through in a value at `place`, its keys included."""
    if isinstance(value, dict):
        for key, item in value.items():
            inside = _place(place, [key])
            _refuse_unreadable(key, inside)
            _refuse_unreadable(item, inside)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _refuse_unreadable(item, _place(place, [index]))
    elif isinstance(value, _Constant):
        raise _faulty(place or "the body", f"{value} is no JSON value", status=400)
    elif isinstance(value, str) and _SURROGATE.search(value):
        raise _faulty(place or "the body", "holds half of a surrogate pair, expected valid Unicode", status=400)


def _faulty(place: str, problem: str, *, status: int = 422) -> Problem:
    place = place.encode("utf-8", "backslashreplace").decode()[:200]
    return Problem.at(place, problem, status=status)
