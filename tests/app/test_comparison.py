"""What the gate is told of two trained models."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from mobile_sentiment_ops.app.comparison import SMALL_TEST_ROWS, answers, judge, needed_rows
from mobile_sentiment_ops.data.dataset import Dataset, build_dataset
from mobile_sentiment_ops.data.duplicates import identify
from mobile_sentiment_ops.data.reviews import REVIEW_SCHEMA
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.models.training import train
from mobile_sentiment_ops.registry.behaviour import BehaviourTest, load_suite
from mobile_sentiment_ops.registry.spending import Look, first_look
from mobile_sentiment_ops.settings import Gate
from mobile_sentiment_ops.types import Outcome, Verdict

SUITE = load_suite()
WORDS = {1: ("terrible", "broken", "slow", "useless"), 3: ("okay", "average"), 5: ("great", "lovely", "quick")}
SPENT = Look("rows", 4, 0.0, 0.025)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """A thousand distinct reviews in two languages, of which half judge."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    rows = []
    for number in range(1_000):
        stars = (1, 3, 5)[number % 3]
        word = WORDS[stars][number // 3 % len(WORDS[stars])]
        rows.append(
            {
                **dict.fromkeys(REVIEW_SCHEMA),
                "review_id": f"r{number:04}",
                "app": ("lamp", "torch")[number % 2],
                "language": "es" if number % 20 == 0 else "en",
                "submitted_at": start + timedelta(hours=number),
                "rating": stars,
                "review_text": f"{word} app {number}",
            }
        )
    return build_dataset(
        identify(pl.DataFrame(rows, schema=REVIEW_SCHEMA)),
        test_share=0.2,
        validation_share=0.1,
        min_test_rows=2_000,
        max_test_rows=20_000,
        seed=0,
        not_before=None,
        source="reviews",
    )


@pytest.fixture(scope="module")
def good(dataset: Dataset) -> SentimentModel:
    return train("lr", dataset.train, dataset.validation, seed=0)


@pytest.fixture(scope="module")
def baseline(dataset: Dataset) -> SentimentModel:
    return train("stars", dataset.train, dataset.validation, seed=0)


def verdict(
    candidate: SentimentModel,
    champion: SentimentModel | None,
    dataset: Dataset,
    look: Look | None = None,
    **more: object,
) -> Verdict:
    given: dict[str, object] = {"suite": SUITE, "champion_version": "3" if champion else None, **more}
    look = look or first_look(None, dataset.test_fingerprint, alpha=0.025, candidates=1)
    return judge(candidate, champion, dataset, gate=Gate(), look=look, seed=0, **given)  # type: ignore[arg-type]


def test_answers_tell_cost_size_and_behaviour(good: SentimentModel, dataset: Dataset) -> None:
    found = answers("lr", good, dataset, SUITE)
    assert found.decisions.shape == (dataset.test.height,)
    assert found.probabilities.shape == (dataset.test.height, 3)
    assert 0 < found.cpu_us_per_review < 1_000
    assert found.model_mb == pytest.approx(sum(map(len, good.files().values())) / 2**20)
    assert found.behaviour.keys() == {test.name for test in SUITE}


def test_both_models_are_measured_on_everything_the_gate_limits(good: SentimentModel, dataset: Dataset) -> None:
    found = verdict(good, good, dataset)
    assert (found.outcome, found.champion) == (Outcome.HOLD, "version 3 (LogisticRegression)")
    assert found.measured["gain"] == 0
    assert found.measured["candidate_mb"] == found.measured["champion_mb"] > 0
    assert {"loss_app_lamp", "loss_app_torch", "loss_language_en", "loss_label_Neutral"} <= found.measured.keys()
    assert "loss_language_es" not in found.measured  # 25 test rows
    assert "candidate_behaviour_plain praise" in found.measured


def test_a_behaviour_test_counts_in_languages_that_are_spoken(
    good: SentimentModel, baseline: SentimentModel, dataset: Dataset
) -> None:
    """The champion passes both tests for it has one answer to texts without stars; the candidate fails them."""
    texts = {"texts": [["terrible app"], ["broken app"]], "label": baseline.predict(["terrible app"])[0].label}
    assert texts["label"] != good.predict(["terrible app"])[0].label
    tests = [
        BehaviourTest.model_validate({"name": name, "kind": "minimum", "min_pass": 1, "language": name, **texts})
        for name in ("en", "es")
    ]
    told = " ".join(verdict(good, baseline, dataset, suite=tuple(tests)).reasons)
    assert "behaviour test 'en'" in told
    assert "behaviour test 'es'" not in told


def test_spent_rows_hold_whatever_the_gain(good: SentimentModel, baseline: SentimentModel, dataset: Dataset) -> None:
    assert verdict(good, good, dataset, SPENT).outcome is Outcome.HOLD
    assert verdict(good, None, dataset, SPENT).outcome is Outcome.PROMOTE  # chance is a rival that spends nothing


def test_a_baseline_is_refused_and_a_lost_champion_is_told(
    good: SentimentModel, baseline: SentimentModel, dataset: Dataset
) -> None:
    assert verdict(baseline, good, dataset).outcome is Outcome.REJECT
    lost = verdict(good, None, dataset, champion_version="3")
    assert (lost.outcome, lost.champion) == (Outcome.PROMOTE, None)
    assert lost.summary.startswith("Version 3, the champion, cannot be opened any more.")


def test_half_of_few_reviews_is_enough_for_a_verdict(dataset: Dataset) -> None:
    assert dataset.test.height == 500
    assert needed_rows(dataset, Gate()) == 500
    assert needed_rows(dataset, Gate(min_test_rows=300)) == 300
    assert SMALL_TEST_ROWS < 500
