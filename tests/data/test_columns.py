from __future__ import annotations

import pytest

from mobile_sentiment_ops.data.columns import READ_ONLY, USUAL_NAMES, known_store, recognise
from mobile_sentiment_ops.data.reviews import REVIEW_SCHEMA
from mobile_sentiment_ops.errors import SettingsError

PLAY_CONSOLE = [
    *("Package Name", "App Version Code", "App Version Name", "Reviewer Language", "Device"),
    *("Review Submit Date and Time", "Review Submit Millis Since Epoch"),
    *("Review Last Update Date and Time", "Review Last Update Millis Since Epoch"),
    *("Star Rating", "Review Title", "Review Text"),
    *("Developer Reply Date and Time", "Developer Reply Millis Since Epoch", "Developer Reply Text", "Review Link"),
]


def test_every_part_of_a_review_has_usual_names() -> None:
    assert set(USUAL_NAMES) == {*REVIEW_SCHEMA, *READ_ONLY}


def test_no_usual_name_stands_for_two_parts() -> None:
    names = [name for usual in USUAL_NAMES.values() for name in usual]
    assert len(names) == len(set(names))


def test_a_play_console_report_is_recognised() -> None:
    assert recognise(PLAY_CONSOLE) == {
        "Package Name": "app",
        "App Version Name": "version",
        "Reviewer Language": "language",
        "Review Submit Millis Since Epoch": "submitted_at",
        "Review Last Update Millis Since Epoch": "updated_at",
        "Star Rating": "rating",
        "Review Title": "title",
        "Review Text": "review_text",
        "Review Link": "review_link",
    }
    assert known_store(PLAY_CONSOLE) == "google_play"


def test_the_first_versions_columns_are_recognised() -> None:
    found = recognise(["review_text", "sentiment", "brand", "rating"])
    assert found == {"review_text": "review_text", "sentiment": "sentiment", "brand": "app", "rating": "rating"}
    assert known_store(list(found)) is None


def test_case_blanks_and_signs_of_a_name_do_not_matter() -> None:
    assert recognise(["reviewId", "APP-VERSION", " Created At "]) == {
        "reviewId": "review_id",
        "APP-VERSION": "version",
        " Created At ": "submitted_at",
    }


def test_the_users_mapping_goes_before_usual_names() -> None:
    assert recognise(["text", "note"], {"note": "review_text"}) == {"note": "review_text"}


def test_a_column_can_be_left_out() -> None:
    assert recognise(["text", "label", "sentiment"], {"sentiment": ""}) == {"text": "review_text", "label": "sentiment"}


def test_a_repeated_name_counts_once() -> None:
    assert recognise(["text", "text", "rating"]) == {"text": "review_text", "rating": "rating"}


def test_an_unknown_part_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match="'note' cannot become 'txt'; expected one of review_id"):
        recognise(["note"], {"note": "txt"})
