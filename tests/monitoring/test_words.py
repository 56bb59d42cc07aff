"""Words that rose and fell between invented sets of reviews."""

from __future__ import annotations

import numpy as np
import polars as pl

from mobile_sentiment_ops.monitoring.words import compare_words, find_wave
from tests.monitoring.test_explanation import BEFORE, WORDS, reviews


def test_planted_words_come_first_and_under_one_another() -> None:
    after = pl.concat([BEFORE[::4], reviews("lamp", "1.0", 12, 1.0, 9, extra=["zorble", "quenvik"])])
    first = compare_words(BEFORE, after)[0][0]
    assert {"zorble", "quenvik"} <= {first.words, *first.also}
    assert (first.reviews, first.before) == (12, 0)
    assert first.part == {"app": "lamp"} or first.part == {"app": "lamp", "version": "1.0"}
    assert all("zorble" in example for example in first.examples)


def test_words_of_more_negative_reviews_are_usual() -> None:
    old = pl.concat([reviews("lamp", "1", 1000, 0.2, seed, extra=["awful"]) for seed in (1, 2)])
    new = reviews("lamp", "1", 400, 0.6, 3, extra=["awful"])
    assert not compare_words(old, new)[0]
    assert compare_words(old.with_columns(label=pl.lit("Neutral")), new.with_columns(label=pl.lit("Neutral")))[0]


def test_different_things_are_different_words() -> None:
    parts = [
        reviews("lamp", "1.0", 20, 1.0, seed, extra=[word]) for seed, word in enumerate(("zorble", "quenvik", "flumpo"))
    ]
    rose, _ = compare_words(BEFORE, pl.concat([BEFORE[::4], *parts]))
    assert {word.words for word in rose[:3]} == {"zorble", "quenvik", "flumpo"}


def test_forms_of_one_word_are_one_thing() -> None:
    parts = [reviews("lamp", "1.0", 20, 1.0, seed, extra=[word]) for seed, word in enumerate(("vibrate", "vibration"))]
    rose, _ = compare_words(BEFORE, pl.concat([BEFORE[::4], *parts]))
    assert {rose[0].words, *rose[0].also} >= {"vibrate", "vibration"}


def test_a_word_that_went_away_fell() -> None:
    old = pl.concat([BEFORE, reviews("lamp", "1.0", 300, 0.9, 8, extra=["captcha"])])
    _, fell = compare_words(old, BEFORE[::4])
    assert fell[0].words == "captcha"
    assert (fell[0].reviews, fell[0].after) == (0, 0)


def test_texts_without_blanks_and_from_right_to_left_have_words() -> None:
    for saying in ("แอปค้างตลอดเลย", "التطبيق يتوقف دائما"):
        told = reviews("lamp", "1.0", 30, 0.9, 8).with_columns(text=pl.lit(saying))
        rose, _ = compare_words(BEFORE, pl.concat([BEFORE[::4], told]))
        assert rose[0].words.split()[0] in saying
        assert rose[0].examples == (saying,)


def test_no_wave_among_random_texts() -> None:
    chance = np.random.default_rng(0)
    texts = [" ".join(chance.choice(WORDS, 9)) for _ in range(600)]
    assert find_wave(texts[:400], texts[400:]) is None
    assert find_wave(texts[:400], ["", "ok"] * 20) is None
