from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from mobile_sentiment_ops.data.quality import AuthorDays, Finding, quality
from mobile_sentiment_ops.data.reviews import REVIEW_SCHEMA
from mobile_sentiment_ops.data.validation import canonical

WORDS = "sync battery login music photo export widget theme backup search folder share cloud alarm badge"


def finding(reviews: pl.DataFrame, name: str) -> Finding:
    return next(found for found in quality(reviews).findings if found.name == name)


def reviews(texts: list[str], **columns: object) -> pl.DataFrame:
    return canonical(pl.DataFrame({"review_text": texts, **columns}))


def different(count: int) -> list[str]:
    """Texts of five words, no two alike."""
    words, numbers = WORDS.split(), range(count)
    return [" ".join(f"{words[(n * step + step) % 15]}{n % 97}" for step in range(1, 6)) for n in numbers]


def test_ordinary_reviews_exceed_no_limit() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    frame = reviews(
        different(200),
        app="lamp",
        version="1.0",
        language="en",
        rating=["4"] * 200,
        submitted_at=[start + timedelta(hours=number) for number in range(200)],
    )
    report = quality(frame)
    assert [found for found in report.findings if found.exceeded] == []
    assert report.rows == 200
    assert report.languages == {"en": 1.0}


def test_missing_parts_are_counted() -> None:
    found = finding(
        reviews(["a", "b", "c", "d"], submitted_at=["2026-01-01", None, None, None]), "missing/submitted_at"
    )
    assert found.value == 0.75
    assert found.exceeded
    assert found.sentence == "75.0% of the reviews have no submitted_at"


def test_duplicates_ignore_case_and_signs() -> None:
    assert finding(reviews(["Good app!", "good  APP", "bad app"]), "duplicate_share").value == pytest.approx(1 / 3)


def test_texts_that_differ_in_one_word_are_near_duplicates() -> None:
    spam = [
        f"install the free coins tool today from site{number} and get rich without any work" for number in range(40)
    ]
    found = finding(reviews([*different(60), *spam]), "near_duplicate_share")
    assert found.value is not None
    assert 0.35 <= found.value <= 0.45
    assert found.exceeded


def test_near_duplicates_of_short_texts_alone_are_not_measured() -> None:
    found = finding(reviews(["good", "nice app"]), "near_duplicate_share")
    assert found.value is None
    assert not found.exceeded


def test_given_labels_that_contradict_the_stars_are_found() -> None:
    frame = reviews(["a"] * 4, sentiment=["Positive", "Negative", "Neutral", "Positive"], rating=["1", "5", "1", "5"])
    assert finding(frame, "contradiction/labels").value == 0.5


def test_strong_words_against_the_stars_are_found_in_several_languages() -> None:
    frame = reviews(["Excellent", "ดีมาก", "bakwas app", "une arnaque", "so so"], rating=["1", "1", "5", "1", "1"])
    assert finding(frame, "contradiction/words").value == 0.75


def test_contradictions_without_stars_are_not_measured() -> None:
    for name in ("contradiction/labels", "contradiction/words"):
        assert finding(reviews(["Excellent"]), name).value is None


def test_a_text_posted_all_day_is_a_burst() -> None:
    frame = reviews(
        ["win free coins on this site", *different(5)] * 25, submitted_at=["2026-01-01"] * 150, app=["lamp"] * 150
    )
    found = finding(frame, "burst/text")
    assert (found.value, found.exceeded) == (25, True)
    assert "25 times on 2026-01-01 for lamp" in found.sentence


def test_short_praise_is_no_burst() -> None:
    found = finding(reviews(["nice app"] * 100, submitted_at=["2026-01-01"] * 100), "burst/text")
    assert (found.value, found.exceeded) == (0, False)


def test_author_bursts_add_up_over_batches_and_days() -> None:
    days = AuthorDays()
    for day in ("2026-01-01", "2026-01-02", "2026-01-01"):
        days.add(pl.Series(["bot"] * 6 + ["ann", None]), pl.Series([day] * 8).str.to_date())
    found = days.finding()
    assert (found.value, found.exceeded) == (12, True)
    assert found.sentence == "one author wrote 12 reviews on 2026-01-01"


def test_nothing_is_measured_on_no_reviews() -> None:
    report = quality(pl.DataFrame(schema=REVIEW_SCHEMA))
    assert {found.value for found in report.findings} == {None}
    assert report.languages == {}


def test_real_reviews_repeat_their_texts_as_described(shared_data: Path) -> None:
    frame = canonical(pl.read_parquet(shared_data / "play_fintech_reviews.parquet").gather_every(8))
    assert 0.2 < (finding(frame, "duplicate_share").value or 0) < 0.4
