"""Explanations of invented windows: what is named, what is not, and what the figures sum to."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from pydantic_core import to_json

from mobile_sentiment_ops.monitoring.explanation import Explanation, explain
from mobile_sentiment_ops.types import LABELS

WORDS = ["app", "phone", "screen", "open", "close", "login", "music", "photo", "share", "save", "load", "menu"]
EMPTY = pl.DataFrame(schema={"label": pl.Utf8, "p_negative": pl.Float64, "text": pl.Utf8})


def reviews(
    app: str, version: str | None, count: int, bad: float, seed: int, language: str = "en", extra: Sequence[str] = ()
) -> pl.DataFrame:
    """So many reviews of random words, of which the share `bad` is negative; `extra` words stand in each of those."""
    chance = np.random.default_rng(seed)
    negative = chance.random(count) < bad
    said = [
        (*chance.choice(WORDS, 6 - len(extra)), *(extra if one else chance.choice(WORDS, len(extra))))
        for one in negative
    ]
    texts = [" ".join(words) for words in said]
    p = np.clip(np.where(negative, 0.75, 0.15) + chance.normal(0, 0.1, count), 0.01, 0.98)
    labels = np.where(negative, LABELS[0].value, LABELS[2].value)
    made = pl.DataFrame({"text": texts, "p_negative": p, "label": labels.tolist()})
    return made.with_columns(
        app=pl.lit(app), version=pl.lit(version, pl.Utf8()), language=pl.lit(language), p_neutral=(1 - p) / 2
    ).with_columns(p_positive="p_neutral")


def kinds(found: Explanation) -> list[tuple[str, tuple[str | None, ...]]]:
    return [(one.kind, tuple(one.part.values())) for one in found.findings if one.kind != "words"]


BEFORE = pl.concat(
    [
        reviews("lamp", "1.0", 600, 0.2, 1),
        reviews("lamp", "0.9", 300, 0.2, 2),
        reviews("chat", "5.1", 600, 0.3, 3),
        reviews("maps", "2.0", 500, 0.1, 4),
    ]
)


def test_a_bad_release_is_named_with_its_version_and_the_one_before() -> None:
    after = [
        reviews("lamp", "1.1", 120, 0.7, 5),
        reviews("lamp", "1.0", 80, 0.2, 6),
        reviews("chat", "5.1", 150, 0.3, 7),
    ]
    found = explain(BEFORE, pl.concat(after))
    assert kinds(found)[0] == ("release", ("lamp", "1.1"))
    assert found.findings[0].sentence.startswith("Likely a bad release of lamp 1.1: ")
    assert "of those of version 1.0 before" in found.findings[0].sentence
    assert found.findings[0].sentence in found.summary


def test_a_version_that_was_there_before_is_no_release() -> None:
    after = [
        reviews("lamp", "1.0", 120, 0.7, 5),
        reviews("lamp", "0.9", 60, 0.2, 6),
        reviews("chat", "5.1", 150, 0.3, 7),
    ]
    assert kinds(explain(BEFORE, pl.concat(after)))[0] == ("version", ("lamp", "1.0"))


def test_an_app_is_named_when_several_of_its_versions_moved() -> None:
    after = [
        reviews("lamp", "1.0", 100, 0.7, 5),
        reviews("lamp", "0.9", 100, 0.7, 6),
        reviews("chat", "5.1", 150, 0.3, 7),
    ]
    found = explain(BEFORE, pl.concat(after))
    assert kinds(found)[0] == ("app", ("lamp",))
    assert "in 2 of its versions" in found.findings[0].sentence


def test_no_release_is_blamed_when_all_apps_moved_alike() -> None:
    after = [
        reviews("lamp", "1.1", 200, 0.5, 5),
        reviews("chat", "5.1", 200, 0.6, 6),
        reviews("maps", "2.0", 200, 0.4, 7),
    ]
    assert kinds(explain(BEFORE, pl.concat(after)))[0] == ("overall", ())


def test_a_good_release_is_told_too() -> None:
    after = [reviews("lamp", "1.1", 200, 0.02, 5), reviews("chat", "5.1", 200, 0.3, 6)]
    assert explain(BEFORE, pl.concat(after)).findings[0].sentence.startswith("Likely a good release of lamp 1.1")


def test_nothing_is_found_where_nothing_moved_and_it_says_so() -> None:
    alarms = 0
    for seed in range(40):
        half = BEFORE.sample(fraction=1.0, shuffle=True, seed=seed)
        found = explain(half[:1500], half[1500:])
        alarms += bool(found.findings or found.rose or found.fell)
        if not found.findings:
            assert "No app, version, language or word " in found.summary
    assert alarms <= 6  # 40 windows of which 5 to 10% may have one


@pytest.mark.parametrize("dimension", ["app", "version", "language"])
def test_contributions_sum_to_the_change(dimension: str) -> None:
    after = pl.concat([reviews("lamp", "1.1", 90, 0.6, 5, "de"), reviews("new", None, 70, 0.3, 6), BEFORE[:200]])
    found = explain(BEFORE, after)
    parts = found.contributions[dimension]
    assert sum(one.total.value for one in parts) == pytest.approx(found.change.value)
    assert all(one.mix + one.rate == pytest.approx(one.total.value) for one in parts)
    assert sum(one.reviews_after for one in parts) == after.height


def test_an_app_of_more_reviews_adds_by_mix_and_one_that_got_worse_by_rate() -> None:
    more = explain(BEFORE, pl.concat([BEFORE, reviews("chat", "5.1", 600, 0.3, 8)])).contributions["app"]
    worse = explain(BEFORE, pl.concat([BEFORE.filter(pl.col("app") != "chat"), reviews("chat", "5.1", 600, 0.8, 8)]))
    chat, changed = (
        next(one for one in parts if one.part["app"] == "chat") for parts in (more, worse.contributions["app"])
    )
    assert chat.mix > 4 * abs(chat.rate)
    assert changed.rate > 4 * abs(changed.mix)


def test_intervals_of_contributions_hold_the_truth() -> None:
    held, seeds = 0, 200
    for seed in range(seeds):
        old = pl.concat([reviews("lamp", "1", 300, 0.2, 3 * seed), reviews("chat", "1", 200, 0.4, 3 * seed + 1)])
        new = pl.concat([reviews("lamp", "1", 150, 0.5, 3 * seed + 2), reviews("chat", "1", 100, 0.4, 9_000 + seed)])
        parts = explain(old.drop("text"), new.drop("text")).contributions["app"]
        lamp = next(one.total for one in parts if one.part["app"] == "lamp")
        held += lamp.low <= 0.6 * 0.3 * 0.6 <= lamp.high  # weight, rise in negatives, what one adds to the mean
    assert 0.90 <= held / seeds <= 0.99


def test_an_arriving_language_and_a_growing_app_are_told() -> None:
    found = explain(BEFORE, pl.concat([BEFORE[::10], reviews("maps", "2.0", 120, 0.1, 9, "th")]))
    assert {("language", ("th",)), ("app_share", ("maps",))} <= set(kinds(found))
    assert any("Reviews in the language th arrived" in one.sentence for one in found.findings)


def test_new_words_say_whose_they_are() -> None:
    after = pl.concat([BEFORE[::5], reviews("lamp", "1.1", 60, 0.5, 9, extra=["flickerz"])])
    found = next(one for one in explain(BEFORE, after).findings if one.kind == "words")
    assert found.part == {"app": "lamp", "version": "1.1"}
    assert found.sentence.startswith("New word, most of them of lamp 1.1: “flickerz” (")


def test_a_wave_of_nearly_identical_texts_is_told() -> None:
    adverts = reviews("lamp", "1.0", 40, 0.2, 9).with_columns(
        text=pl.Series([f"Earn money with code X{at}Z at the best casino of them all today" for at in range(40)])
    )
    found = explain(BEFORE, pl.concat([BEFORE[::5], adverts]))
    sentence = next(one.sentence for one in found.findings if one.kind == "repeated")
    assert re.match("(39|40) nearly identical texts are (8.9|9.1)% of all, 0% before: “Earn money with code", sentence)


@pytest.mark.parametrize("rows", [0, 1, 2, 7])
def test_tiny_windows_are_explained_without_a_finding(rows: int) -> None:
    for old, new in ((BEFORE, BEFORE[:rows]), (BEFORE[:rows], BEFORE[:rows]), (BEFORE[:rows], BEFORE[:50])):
        found = explain(old, new)
        assert not found.rose
        assert not any(one.kind in ("release", "version", "app") for one in found.findings)
        to_json(found)


def test_an_empty_side_is_said_to_be_so() -> None:
    assert explain(BEFORE, EMPTY).summary == "2000 reviews before and 0 after: nothing can be compared."


@pytest.mark.parametrize("column", ["app", "version", "language", "text"])
def test_a_column_may_be_null_or_missing(column: str) -> None:
    after = pl.concat([reviews("lamp", "1.1", 200, 0.7, 5), reviews("chat", "5.1", 100, 0.3, 6)])
    nothing = pl.lit(None, pl.Null()).alias(column)
    for old, new in ((BEFORE.drop(column), after.drop(column)), (BEFORE.with_columns(nothing), after)):
        found = explain(old, new)
        assert found.change.low > 0
        assert bool(found.notes) == (column == "text")


def test_it_is_json() -> None:
    found = explain(BEFORE, pl.concat([BEFORE[::5], reviews("lamp", "1.1", 60, 0.5, 9, extra=["flickerz"])]))
    assert b'"kind":"words"' in to_json(found)
