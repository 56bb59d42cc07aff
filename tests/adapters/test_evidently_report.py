"""Evidently's report, made for real from invented reviews."""

from __future__ import annotations

import importlib.util
import sys

import polars as pl
import pytest

from mobile_sentiment_ops.adapters.evidently_report import evidently_html
from mobile_sentiment_ops.errors import MsoError, SettingsError, TooFewRows

SAYINGS = ("Love the new lamp", "It flickers since the update", "Cannot pair it", "ใช้งานง่ายมาก", "Fine, I guess", "")


def reviews(bad: float, count: int = 60) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "label": ["Negative" if at % 10 < 10 * bad else "Positive" for at in range(count)],
            "p_negative": [0.8 if at % 10 < 10 * bad else 0.1 + at % 7 / 50 for at in range(count)],
            "p_positive": [0.1 if at % 10 < 10 * bad else 0.8 - at % 5 / 50 for at in range(count)],
            "app": ["lamp" if at % 3 else "chat" for at in range(count)],
            "version": pl.Series([None] * count, dtype=pl.Utf8),
            "text": [f"{SAYINGS[at % len(SAYINGS)]} {at}" if at % 11 else None for at in range(count)],
        }
    )


@pytest.mark.integration
def test_a_report_is_one_page_that_tells_which_columns_moved() -> None:
    html = evidently_html(reviews(0.2), reviews(0.7)).decode()
    assert html.lstrip().startswith("<")
    assert "p_negative" in html
    assert "Word Count" in html or "WordCount" in html
    assert 'src="http' not in html  # nothing of it comes from another host
    assert "evidently" not in sys.modules  # it was another process


def test_without_evidently_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"mobile-sentiment-ops\[evidently\]"):
        evidently_html(reviews(0.2), reviews(0.7))


def test_too_few_reviews_are_refused() -> None:
    with pytest.raises(TooFewRows, match="3 reviews on one side"):
        evidently_html(reviews(0.2), reviews(0.7, 3))


@pytest.mark.integration
def test_a_report_that_takes_too_long_is_given_up() -> None:
    with pytest.raises(MsoError, match="not there after 0 s"):
        evidently_html(reviews(0.2), reviews(0.7), max_seconds=0.01)
