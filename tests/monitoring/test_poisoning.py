"""Alarms on reviews of the demo world: silent on what comes by itself, and each heard on what it is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import polars as pl
import pytest

from mobile_sentiment_ops.data.demo_world import generate
from mobile_sentiment_ops.data.reviews import labelled
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.models.training import train
from mobile_sentiment_ops.monitoring.poisoning import Counts, History, judge_batch, suspect_apps
from mobile_sentiment_ops.settings import Demo
from mobile_sentiment_ops.types import Measurement

BATCH, ACCEPTED, LEARNED = 500, 5_000, 4_000
BRAND, APP = "noshling", "demo.meals"


@pytest.fixture(scope="module")
def reviews() -> pl.DataFrame:
    """Reviews of five apps in which nothing happens, by time."""
    found = generate(Demo(reviews=8_000, events=(), seed=3)).reviews
    return labelled(found.sort("submitted_at", "review_id"))


@pytest.fixture(scope="module")
def champion(reviews: pl.DataFrame) -> SentimentModel:
    learned = reviews[:LEARNED]
    return train("lr", learned, learned.clear(), seed=0)


@pytest.fixture(scope="module")
def history(reviews: pl.DataFrame, champion: SentimentModel) -> History:
    def decide(texts: Sequence[str]) -> np.ndarray:
        return champion.decide(champion.probabilities(texts))

    return History(reviews[:ACCEPTED], BATCH, reviews[LEARNED:ACCEPTED], decide)


@pytest.fixture(scope="module")
def batch(reviews: pl.DataFrame) -> pl.DataFrame:
    return reviews[ACCEPTED : ACCEPTED + BATCH]


judge = partial(judge_batch, max_source_share=0.5, max_insertion_rise=0.05)


def with_planted(batch: pl.DataFrame, texts: Sequence[str], *, app: str = APP, label: int = 0) -> pl.DataFrame:
    """The batch and these reviews, by default of one star."""
    like = batch[0].clear()
    rows = pl.DataFrame({"review_text": texts}).with_columns(
        app=pl.lit(app), rating=pl.lit(1 if label == 0 else 5), label=pl.lit(label)
    )
    return pl.concat(
        [
            batch,
            pl.concat([like, rows.cast({"rating": pl.Int8, "label": like.schema["label"]})], how="diagonal_relaxed"),
        ],
        how="diagonal_relaxed",
    )


def fired(measured: Sequence[Measurement]) -> dict[str, Measurement]:
    return {one.name: one for one in measured if one.fired}


def test_clean_batches_are_let_in(reviews: pl.DataFrame, history: History) -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(60):
        drawn = reviews[ACCEPTED:][np.sort(rng.choice(reviews.height - ACCEPTED, BATCH, replace=False))]
        held += bool(fired(judge(drawn, history)))
    assert held <= 4


def test_every_alarm_has_a_value_a_limit_and_a_sentence_or_says_why_not(batch: pl.DataFrame, history: History) -> None:
    measured = judge(batch, history)
    assert [one.name for one in measured] == [
        *("word burst", "app burst", "copies", "association", "disagreement", "contradiction"),
        *("source quota", "insertion"),
    ]
    for one in measured:
        assert one.reason
        assert one.value is not None or "no app and no word" in one.reason or one.name == "insertion"
    assert sum(one.value is not None for one in measured) >= 5


def test_what_fired_is_beyond_its_limit_and_what_did_not_is_within(batch: pl.DataFrame, history: History) -> None:
    planted = with_planted(batch, [f"{BRAND} is a fraud, code {at}" for at in range(60)])
    for one in judge(planted, history):
        if one.value is not None and one.limit is not None:
            assert one.fired == (one.value > one.limit), one


def test_one_sentence_with_codes_is_copies_and_its_words_are_a_burst(batch: pl.DataFrame, history: History) -> None:
    texts = [f"{BRAND} fraud fraud it took all my money, code {at * 7919 % 10_007}" for at in range(80)]
    found = fired(judge(with_planted(batch, texts), history))
    assert {"copies", "word burst", "association"} <= found.keys()
    assert found["association"].part == {"word": BRAND}
    assert f"'{BRAND}'" in found["association"].reason


def test_good_texts_with_one_star_contradict_the_champion(
    batch: pl.DataFrame, reviews: pl.DataFrame, history: History
) -> None:
    good = reviews[:ACCEPTED].filter(pl.col("label") == 2)["review_text"].head(40)
    found = fired(judge(with_planted(batch, [f"{BRAND} {text}" for text in good]), history))
    assert found["contradiction"].part in ({"word": BRAND}, {"app": APP})
    rise = found["insertion"]
    assert rise.part == {"word": BRAND}
    assert rise.value is not None
    assert rise.value > 0.05


def test_without_the_champion_its_alarms_say_so(batch: pl.DataFrame, reviews: pl.DataFrame) -> None:
    measured = {one.name: one for one in judge(batch, History(reviews[:ACCEPTED], BATCH))}
    for name in ("disagreement", "contradiction"):
        assert measured[name].value is None
        assert not measured[name].fired
        assert "no champion" in measured[name].reason


def test_one_source_may_not_be_the_batch(batch: pl.DataFrame, history: History, reviews: pl.DataFrame) -> None:
    alone = reviews[ACCEPTED:].filter(pl.col("app") == APP)
    quota = fired(judge(alone, history, max_source_share=0.2))["source quota"]
    assert quota.part["app"] == APP
    assert "source quota" not in fired(judge(batch, history, max_source_share=0.2))


def test_an_app_that_grows_many_times_over_is_a_burst(reviews: pl.DataFrame, history: History) -> None:
    later = reviews[ACCEPTED:]
    others = later.filter(pl.col("app") != APP).head(50)
    grown = pl.concat([later.filter(pl.col("app") == APP).head(450), others])
    assert fired(judge(grown, history))["app burst"].part == {"app": APP}


def test_a_batch_is_judged_the_same_in_any_order(batch: pl.DataFrame, history: History) -> None:
    planted = with_planted(batch, [f"{BRAND} is a fraud {at}" for at in range(30)])
    again = planted.sample(fraction=1.0, shuffle=True, seed=5)
    assert set(fired(judge(planted, history))) == set(fired(judge(again, history)))


def test_brand_words_name_apps_and_occur_in_good_reviews(history: History, reviews: pl.DataFrame) -> None:
    good = reviews[:ACCEPTED].filter(
        (pl.col("label") == 2) & pl.col("review_text").str.to_lowercase().str.contains(BRAND)
    )
    assert good.height >= 10
    assert 0 < history.columns.size < 200


@pytest.mark.parametrize("rows", [6, 40])
def test_little_is_judged_without_a_warning(reviews: pl.DataFrame, rows: int) -> None:
    assert len(judge(reviews[300 : 300 + rows], History(reviews[:300], rows))) == 8


def test_rows_without_an_app_or_a_rating_are_judged(reviews: pl.DataFrame) -> None:
    bare = reviews.with_columns(app=pl.lit(None, pl.Utf8), rating=pl.lit(None, pl.Int8))
    assert not fired(judge(bare[2_000:2_500], History(bare[:2_000], 500)))


def test_a_limit_is_the_largest_share_within_the_distance() -> None:
    counts = Counts(*(np.array([value]) for value in (12.0, 100.0, 0.05, 1_000.0)))
    limit = counts.limit(0, 3.0)
    beyond = Counts(np.array([100 * limit + 1]), counts.of, counts.usual, counts.base)
    within = Counts(np.array([100 * limit]), counts.of, counts.usual, counts.base)
    assert within.distances[0] <= 3.0 < beyond.distances[0]


FiredOf = Callable[[dict[str, str]], Measurement]


@pytest.fixture
def alarm() -> FiredOf:
    return lambda part: Measurement("word burst", 0.5, 0.1, fired=True, reason="", part=part)


def test_the_apps_behind_alarms_are_named(alarm: FiredOf) -> None:
    rows = pl.DataFrame({"app": ["lamp", "lamp", "bell", None], "review_text": ["a scam", "scam!", "nice", "fine"]})
    assert suspect_apps(rows, [alarm({"word": "scam"}), alarm({"app": "bell"})]) == ("bell", "lamp")
    assert suspect_apps(rows, [alarm({"word": "scam"}), alarm({})]) == ("lamp",)
    spread = rows.with_columns(review_text=pl.lit("scam"))
    assert suspect_apps(spread, [alarm({"word": "scam"})]) == ()
