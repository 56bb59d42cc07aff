from __future__ import annotations

from datetime import UTC, date, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobile_sentiment_ops.data.readers import Batch
from mobile_sentiment_ops.data.reviews import REVIEW_SCHEMA
from mobile_sentiment_ops.data.validation import canonical, check, read_times
from mobile_sentiment_ops.types import Rejected

NAIVE = datetime.fromisoformat("2026-01-31")
FIRST, LAST = datetime.fromisoformat("1991-01-01"), datetime.fromisoformat("2099-01-01")


def checked(
    *rows: dict[str, object], rejected: tuple[Rejected, ...] = (), **more: object
) -> tuple[list[str], list[str]]:
    """The texts that pass, and the reasons of those that do not."""
    frame = pl.DataFrame(rows, infer_schema_length=None)
    batch = Batch(frame, range(2, frame.height + 2), {}, rejected)
    found = check(batch, "may.csv", **more)  # type: ignore[arg-type]
    assert found.reviews.schema == REVIEW_SCHEMA
    reasons = [f"{line} {reason}" for line, reason in found.rejects.select("line", "reason").iter_rows()]
    return found.reviews["review_text"].to_list(), reasons


def test_good_rows_pass_untouched() -> None:
    assert checked({"review_text": "  Love it\n"}, {"review_text": "👍"}, {"review_text": "ดี"}) == (
        ["  Love it\n", "👍", "ดี"],
        [],
    )


@pytest.mark.parametrize("text", ["", " ", "\t\n", "\u200b", "\u3164", "\u00a0\u2800", None])
def test_a_blank_text_is_rejected(text: str | None) -> None:
    assert checked({"review_text": "ok"}, {"review_text": text})[1][0].startswith("3 blank_text")


def test_nul_is_rejected_and_shown_escaped() -> None:
    _, reasons = checked({"review_text": "a\0b", "title": None}, {"review_text": "ok", "title": "\0"})
    assert reasons == [
        r"2 nul: review_text is 'a\0b', expected no NUL character",
        r"3 nul: title is '\0', expected no NUL character",
    ]


def test_the_longest_review_is_a_setting() -> None:
    texts, reasons = checked({"review_text": "ก" * 10}, {"review_text": "ก" * 11}, max_text_chars=10)
    assert texts == ["ก" * 10]
    assert reasons == [f"3 too_long: review_text is '{'ก' * 11}', expected at most 10 characters"]


@pytest.mark.parametrize(
    ("given", "stars"), [("5", 5), (" 4.0 ", 4), ("3,0", 3), ("", None), ("N/A", None), ("nan", None)]
)
def test_ratings_are_read(given: str, stars: int | None) -> None:
    assert canonical(pl.DataFrame({"review_text": "ok", "rating": given}))["rating"].to_list() == [stars]


@pytest.mark.parametrize("given", ["0", "6", "4.5", "five", "-1", "1e9", "inf", "★★★"])
def test_other_ratings_are_rejected(given: str) -> None:
    _, reasons = checked({"review_text": "ok", "rating": given})
    assert reasons == [f"2 rating: rating is '{given}', expected a whole number from 1 to 5"]


@pytest.mark.parametrize(
    ("given", "label"),
    [("Positive", "Positive"), ("NEG", "Negative"), (" neutral ", "Neutral"), ("mixed", "Neutral"), ("", None)],
)
def test_labels_are_read_in_any_case(given: str, label: str | None) -> None:
    row = canonical(pl.DataFrame({"review_text": "ok", "sentiment": given})).row(0, named=True)
    assert row["sentiment"] == label
    assert row["label_source"] == ("imported" if label else None)


def test_labels_that_mean_different_things_in_different_files_are_rejected() -> None:
    _, reasons = checked({"review_text": "ok", "sentiment": "1"})
    assert reasons == ["2 sentiment: sentiment is '1', expected Positive, Neutral or Negative"]


def test_a_persons_label_stays_a_persons_label() -> None:
    frame = pl.DataFrame({"review_text": ["a", "b"], "sentiment": ["pos", None], "label_source": ["Human", "human"]})
    assert canonical(frame)["label_source"].to_list() == ["human", None]


@pytest.mark.parametrize(
    ("given", "moment"),
    [
        ("2026-01-31", "2026-01-31T00:00:00"),
        ("2026-01-31T18:05:00Z", "2026-01-31T18:05:00"),
        ("2026-01-31 18:05:00", "2026-01-31T18:05:00"),
        ("2026-01-31 18:05", "2026-01-31T18:05:00"),
        ("2026-01-31 18:05:00.250000+07:00", "2026-01-31T11:05:00.250000"),
        ("2026-01-31 18:05:00 UTC", "2026-01-31T18:05:00"),
        ("20260131", "2026-01-31T00:00:00"),
        ("1769882700", "2026-01-31T18:05:00"),
        ("1769882700000", "2026-01-31T18:05:00"),
        ("1769882700000000", "2026-01-31T18:05:00"),
        ("31.01.2026", "2026-01-31T00:00:00"),
        ("31/01/2026 18:05", "2026-01-31T18:05:00"),
        ("01/31/2026, 18:05:09", "2026-01-31T18:05:09"),
        ("Jan 31, 2026", "2026-01-31T00:00:00"),
        ("31 January 2026", "2026-01-31T00:00:00"),
    ],
)
def test_dates_are_read_as_people_write_them(given: str, moment: str) -> None:
    found = read_times(pl.Series(["2025-12-01", given, None])).to_list()
    assert found[1] == datetime.fromisoformat(moment).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "given", ["01/02/2026", "2026-02-30", "32.01.2026", "yesterday", "12", "1066-10-14", "9999-01-01"]
)
def test_a_date_that_is_none_or_could_be_two_is_rejected(given: str) -> None:
    _, reasons = checked({"review_text": "ok", "submitted_at": given})
    assert reasons == [f"2 date: submitted_at is '{given}', expected a date such as 2026-01-31 or 2026-01-31T18:05:00Z"]


def test_another_row_tells_the_day_from_the_month() -> None:
    found = read_times(pl.Series(["01/02/2026", "31/01/2026"])).to_list()
    assert found == [datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 1, 31, tzinfo=UTC)]


@pytest.mark.parametrize("given", [date(2026, 1, 31), NAIVE, NAIVE.replace(tzinfo=UTC)])
def test_typed_dates_are_taken_as_they_are(given: date) -> None:
    frame = canonical(pl.DataFrame({"review_text": ["ok"], "submitted_at": [given]}))
    assert frame["submitted_at"].to_list() == [datetime(2026, 1, 31, tzinfo=UTC)]


@given(st.datetimes(FIRST, LAST, timezones=st.timezones()))
@settings(max_examples=60, deadline=None)
def test_iso_dates_with_a_zone_come_back_in_utc(moment: datetime) -> None:
    assert read_times(pl.Series([moment.isoformat()])).to_list() == [moment.astimezone(UTC)]


@pytest.mark.parametrize(
    ("given", "language"),
    [("pt-BR", "pt"), ("EN_us", "en"), ("hi-Latn", "hi-Latn"), ("zh_Hant_TW", "zh-Hant"), ("Thai", None), ("", None)],
)
def test_language_tags_are_cut_to_the_language(given: str, language: str | None) -> None:
    assert canonical(pl.DataFrame({"review_text": "ok", "language": given}))["language"].to_list() == [language]


def test_the_id_of_a_play_console_review_is_in_its_link() -> None:
    link = "http://play.google.com/console/developers/1/app/2/user-feedback/review-details?reviewId=ab-12&corpus=PUBLIC"
    assert canonical(pl.DataFrame({"review_text": "ok", "review_link": link}))["review_id"].to_list() == ["ab-12"]


def test_the_given_app_is_for_rows_that_name_none() -> None:
    frame = canonical(pl.DataFrame({"review_text": ["a", "b"], "app": [" ", "lamp"]}), app="torch")
    assert frame["app"].to_list() == ["torch", "lamp"]


def test_the_first_broken_rule_is_the_reason_and_one_bad_row_spoils_no_other() -> None:
    texts, reasons = checked(
        {"review_text": "good", "rating": "5"},
        {"review_text": "", "rating": "9"},
        {"review_text": "fine", "rating": "3"},
    )
    assert texts == ["good", "fine"]
    assert reasons == ["3 blank_text: review_text is '', expected some text"]


def test_rejects_of_the_reader_and_of_the_rules_come_by_line() -> None:
    unread = Rejected("may.csv", 1, "ragged: has 2 fields, the header has 3", "a,b")
    _, reasons = checked({"review_text": ""}, rejected=(unread,))
    assert [reason.split(":")[0] for reason in reasons] == ["1 ragged", "2 blank_text"]


any_text = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=12))


@given(st.lists(st.fixed_dictionaries(dict.fromkeys(["review_text", *REVIEW_SCHEMA, "author"], any_text)), min_size=1))
@settings(max_examples=60, deadline=None)
def test_every_row_is_kept_or_rejected_once(rows: list[dict[str, str | None]]) -> None:
    frame = pl.DataFrame(rows, schema=dict.fromkeys(rows[0], pl.Utf8))
    found = check(Batch(frame, range(frame.height), {}), "may.csv")
    assert found.reviews.height + found.rejects.height == frame.height
    assert found.rejects["rule"].null_count() == found.rejects["line"].is_duplicated().sum() == 0


def test_a_rejected_row_never_shows_its_author() -> None:
    frame = pl.DataFrame({"review_text": ["bad"], "author": ["Ann"], "rating": ["9"]})
    found = check(Batch(frame, [2], {}), "may.csv")
    assert found.rejects["row"].to_list() == ["bad, 9"]
