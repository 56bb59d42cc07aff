"""The demo world: what it promises about its words, its reviews and its events."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import f1_score
from sklearn.svm import LinearSVC

from docs.write import entries, templates
from mobile_sentiment_ops.data.demo_world import TRUTH_SCHEMA, DemoEvent, DemoWorld, generate, stream
from mobile_sentiment_ops.data.demo_world.events import calendar
from mobile_sentiment_ops.data.demo_world.lexicon import LANGUAGES, WORLD, forms, lexicon, phrases
from mobile_sentiment_ops.data.demo_world.voice import Dice, misspell
from mobile_sentiment_ops.data.reviews import REVIEW_SCHEMA, duplicate_key, labelled
from mobile_sentiment_ops.settings import Demo, DemoEventKind

DOCS = Path(__file__).parents[2] / "docs" / "demo-world.md"


@pytest.fixture(scope="module")
def made() -> DemoWorld:
    """The world of the default settings."""
    return generate(Demo())


@pytest.fixture(scope="module")
def rows(made: DemoWorld) -> pl.DataFrame:
    """Its reviews with the truth about them."""
    return made.reviews.join(made.truth, on="review_id", maintain_order="left")


def event_of(made: DemoWorld, kind: str) -> DemoEvent:
    return next(event for event in made.events if event.kind == kind)


# --- the same world


def test_the_defaults_are_frozen() -> None:
    small = generate(Demo(seed=7, reviews=1_000))
    lines = [json.dumps(row, default=str) for row in (*small.reviews.rows(), *small.truth.rows())]
    told = json.dumps([[event.name, str(event.start), str(event.end), event.parameters] for event in small.events])
    assert hashlib.sha256("\n".join([*lines, told]).encode()).hexdigest() == (
        "1cb0869990800e3261e888bafbc4bb3842b74db38f9c7545a27e99e832047c47"
    ), "figures measured on the demo world are no longer comparable: change its words and rates only on purpose"


def test_another_seed_is_another_world() -> None:
    one, same, other = (generate(Demo(seed=seed, reviews=400)) for seed in (1, 1, 2))
    assert one.reviews.equals(same.reviews)
    assert one.truth.equals(same.truth)
    assert one.events == same.events != other.events
    assert not one.reviews["review_text"].equals(other.reviews["review_text"])


def test_the_stream_has_the_same_rows_day_by_day() -> None:
    demo = Demo(seed=5, reviews=1_500)
    whole, days = generate(demo), list(stream(demo))
    assert pl.concat([day.reviews for day in days]).equals(whole.reviews)
    assert pl.concat([day.truth for day in days]).equals(whole.truth)
    assert all(set(day.reviews["submitted_at"].dt.date()) <= {day.day} for day in days)
    assert days[0].day == demo.start
    assert len(days) == 548


# --- its reviews


def test_reviews_are_canonical_synthetic_and_in_time_order(made: DemoWorld) -> None:
    assert made.reviews.schema == REVIEW_SCHEMA
    assert made.truth.schema == TRUTH_SCHEMA
    assert made.reviews["review_id"].n_unique() == len(made.reviews) >= 25_000
    assert made.reviews["review_id"].str.starts_with("demo-7-").all()
    assert made.reviews["app"].str.starts_with("demo.").all()
    assert made.reviews["submitted_at"].is_sorted()
    assert made.reviews["sentiment"].null_count() == len(made.reviews)
    assert set(labelled(made.reviews)["label_source"]) == {"stars"}


def test_nine_of_ten_reviews_are_distinct(made: DemoWorld) -> None:
    keys = Counter(map(duplicate_key, made.reviews["review_text"]))
    assert len(keys) >= 0.9 * len(made.reviews)
    assert max(keys.values()) < 0.002 * len(made.reviews)


def test_every_slot_and_bracket_is_resolved(made: DemoWorld) -> None:
    assert not made.reviews["review_text"].str.contains(r"[\[\]{}|]").any()
    assert (made.reviews["review_text"].str.strip_chars() != "").all()


def test_languages_and_feelings_have_their_shares(rows: pl.DataFrame) -> None:
    languages = rows["language"].value_counts(normalize=True)
    shares = dict(languages.rows())
    assert set(shares) == set(LANGUAGES)
    assert all(share > 0.12 for language, share in shares.items() if language != "id")
    assert len(rows.filter(language="id")) >= 1_200
    feelings = dict(rows.filter(pl.col("event").is_null())["label"].value_counts(normalize=True).rows())
    assert 0.55 < feelings["Positive"] < 0.64
    assert 0.23 < feelings["Negative"] < 0.30
    assert 0.10 < feelings["Neutral"] < 0.16


def test_stars_contradict_the_feeling_now_and_then(rows: pl.DataFrame) -> None:
    ordinary = labelled(rows.filter(pl.col("event").is_null()).drop("label")).join(
        rows.select("review_id", meant="label"), on="review_id"
    )
    names = ordinary["label"].replace_strict({0: "Negative", 1: "Neutral", 2: "Positive"}, return_dtype=pl.Utf8())
    assert 0.04 < (names != ordinary["meant"]).mean() < 0.12  # type: ignore[operator]


@pytest.mark.parametrize("split", ["temporal", "random"])
def test_it_is_hard_and_can_be_learned(made: DemoWorld, split: str) -> None:
    texts = labelled(made.reviews).with_columns(
        pl.col("review_text").map_elements(duplicate_key, return_dtype=pl.Utf8()).alias("key")
    )
    texts = texts.unique("key", keep="first", maintain_order=True)
    order = np.arange(len(texts)) if split == "temporal" else np.random.default_rng(0).permutation(len(texts))
    train, test = texts[order[: int(0.8 * len(order))]], texts[order[int(0.8 * len(order)) :]]
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = LinearSVC(C=0.2, class_weight="balanced").fit(words.fit_transform(train["review_text"]), train["label"])
    found = f1_score(test["label"], model.predict(words.transform(test["review_text"])), average="macro")
    assert 0.70 < found < 0.90


@pytest.mark.parametrize("kind", ["spam", "bombing", "bad_release", "new_slang", "new_language", "new_meaning"])
def test_an_event_left_out_leaves_no_trace_and_moves_no_other(kind: DemoEventKind) -> None:
    every = Demo(seed=4, reviews=1_200)
    others = tuple(name for name in every.events if name != kind)
    without = generate(every.model_copy(update={"events": others}))
    assert without.events == tuple(event for event in generate(every).events if event.kind != kind)
    assert kind.replace("_", "-") not in set(without.truth["event"])
    assert kind != "new_language" or "id" not in set(without.reviews["language"])


# --- its events


@pytest.mark.parametrize("seed", range(1, 21))
def test_events_lie_inside_the_months_with_quiet_weeks_between(seed: int) -> None:
    demo = Demo(seed=seed)
    plan = calendar(demo)
    spans = list(plan.spans.values())
    assert sorted(plan.spans) == sorted(demo.events)
    assert spans[0][1] > 100, "a first model needs months without events"
    assert spans[-1][2] <= plan.days
    for (event, begin, end), (_, next_begin, _) in pairwise(spans):
        over = begin if end == plan.days else end
        assert next_begin - over >= 14, event.name
    assert all(plan.days - begin >= 60 for _, begin, _ in spans)
    assert all(event.start.date() == demo.start + timedelta(begin) for event, begin, _ in spans)


def test_the_bad_release_turns_its_app_negative_and_is_repaired(made: DemoWorld, rows: pl.DataFrame) -> None:
    event = event_of(made, "bad_release")
    app = rows.filter(app=event.app)
    during = app.filter(pl.col("submitted_at").is_between(event.start, event.end, closed="left"))
    before = app.filter(pl.col("submitted_at").is_between(event.start - timedelta(60), event.start, closed="left"))
    assert (before["rating"] <= 2).mean() < 0.4  # type: ignore[operator]
    assert 0.45 < (during["rating"] <= 2).mean() < 0.75  # type: ignore[operator]
    bad = app.filter(version=event.parameters["version"])
    assert bad["submitted_at"].is_between(event.start, event.end, closed="left").all()
    assert set(rows.filter(event="bad-release")["label"]) == {"Negative"}


def test_a_language_arrives_in_one_app_and_stays(made: DemoWorld, rows: pl.DataFrame) -> None:
    event = event_of(made, "new_language")
    arrived = rows.filter(language="id")
    assert set(arrived["app"]) == {event.app}
    assert arrived["submitted_at"].min() >= event.start  # type: ignore[operator]
    assert arrived["submitted_at"].max() > event.end - timedelta(3)  # type: ignore[operator]


def test_slang_was_never_heard_before_and_decides_after(made: DemoWorld, rows: pl.DataFrame) -> None:
    event = event_of(made, "new_slang")
    slang = rows.filter(event="new-slang")
    assert slang["submitted_at"].min() >= event.start  # type: ignore[operator]
    assert 0.08 < len(slang) / len(rows.filter(pl.col("submitted_at") >= event.start)) < 0.15
    early = rows.filter(pl.col("submitted_at") < event.start)["review_text"].str.to_lowercase()
    assert not early.str.contains(r"\b(goated|bussin|chetad[oa]s?|gacor|jhand)\b").any()
    assert 0.4 < (slang["label"] == "Positive").mean() < 0.6  # type: ignore[operator]


def test_a_word_turns_from_praise_to_blame(made: DemoWorld, rows: pl.DataFrame) -> None:
    event = event_of(made, "new_meaning")
    used = rows.filter(
        pl.col("review_text").str.to_lowercase().str.contains(r"\binsane\b|\bbrutal(es)?\b|\bkhatarnak\b")
    )
    before, after = (
        used.filter(pl.col("submitted_at") < event.start),
        used.filter(pl.col("submitted_at") >= event.start),
    )
    assert set(before["label"]) == {"Positive"}
    assert set(after["label"]) == {"Negative"}
    assert (before["rating"] >= 4).mean() > 0.9  # type: ignore[operator]
    assert (after["rating"] <= 2).mean() > 0.9  # type: ignore[operator]
    assert (
        0.06
        < (rows.filter(pl.col("submitted_at") >= event.start)["event"] == "new-meaning").sum()
        / len(rows.filter(pl.col("submitted_at") >= event.start))
        < 0.10
    )


def test_spam_is_near_identical_and_bombing_is_one_star(made: DemoWorld, rows: pl.DataFrame) -> None:
    for kind, stars in (("spam", 5), ("bombing", 1)):
        event = event_of(made, kind)
        wave = rows.filter(event=event.name)
        assert set(wave["rating"]) == {stars}
        assert set(wave["app"]) == {event.app}
        assert wave["submitted_at"].is_between(event.start, event.end, closed="left").all()
        day = rows.filter(pl.col("submitted_at").is_between(event.start, event.end, closed="left"))
        assert 0.1 < len(wave) / len(day) < 0.45
    ads = rows.filter(event="spam")["review_text"]
    assert len({re.sub(r"[2-9a-z]{5}|\d+", "", text) for text in ads}) < 5


# --- its words


def test_the_words_are_many_and_every_language_has_the_same_lists() -> None:
    assert len(set().union(*map(entries, LANGUAGES))) >= 1_500
    english = lexicon("en")
    for language in LANGUAGES:
        raw = lexicon(language)
        assert len(entries(language)) >= 300
        assert set(raw["templates"]) == set(english["templates"]), language
        assert set(raw["words"]) >= set(english["words"]), language
        assert set(raw["apps"]) == {app.removeprefix("demo.") for app in WORLD["apps"]}


def test_every_plan_and_slot_can_be_spoken() -> None:
    plans = [plan for table in WORLD["plans"].values() for part in table.values() for plan in _keys(part, table)]
    clauses = {word for plan in plans for word in plan.split()}
    for language in LANGUAGES:
        for app in WORLD["apps"]:
            said = phrases(language, app)
            known = {*said, "app", "version", "word", "code"}
            for name, found in said.items():
                for phrase in found:
                    unknown = {slot for slot in phrase.slots if isinstance(slot, str)} - known
                    assert not unknown, f"{language} {app} {name}: {unknown}"
            assert {word for word in clauses if word.islower()} <= set(said)
        assert {word.lower() for word in clauses if word.isupper()} <= set(lexicon(language)["style"])


def _keys(part: object, table: dict[str, object]) -> list[str]:
    return list(part) if isinstance(part, dict) else list(table)


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_of_events_stand_nowhere_else(language: str) -> None:
    raw = lexicon(language)
    own = [
        word for name in ("slang_good", "slang_bad", "flip") for entry in raw["words"][name] for word in forms(entry)
    ]
    others = entries(language) - {entry for name in ("slang_good", "slang_bad", "flip") for entry in raw["words"][name]}
    edge = r"\b" if language != "th" else ""
    for word in own:
        assert not [entry for entry in others if re.search(f"{edge}{re.escape(word)}{edge}", entry)], word


def test_the_document_shows_every_template() -> None:
    page = DOCS.read_text("utf-8")
    assert templates().rstrip() in page, "docs/demo-world.md is behind the lexicon: `make docs` writes it anew"
    for language in LANGUAGES:
        for group in lexicon(language)["templates"].values():
            assert all(f"`{template}`" in page for template in group)


@given(st.text(max_size=60), st.integers(0, 1_000))
@hypothesis_settings(max_examples=100, deadline=None)
def test_a_misspelt_text_keeps_its_words_and_almost_its_length(text: str, seed: int) -> None:
    typed = misspell(text, Dice(seed))
    assert typed.count(" ") == text.count(" ")
    assert abs(len(typed) - len(text)) <= 1
