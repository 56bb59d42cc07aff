from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobile_sentiment_ops.registry.gate import GateLimits, compare
from mobile_sentiment_ops.settings import Gate
from mobile_sentiment_ops.types import Outcome, Verdict

LIMITS = GateLimits.of(Gate())


def rows(count: int = 1000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(3, size=count, p=[0.3, 0.15, 0.55]).astype(np.int8)


def knowing(labels: np.ndarray, share: float, seed: int = 1) -> np.ndarray:
    """Decisions of a model that knows this share of the labels and guesses the others."""
    draw = np.random.default_rng(seed)
    return np.where(draw.random(len(labels)) < share, labels, draw.integers(0, 3, len(labels)))


def judge(
    labels: np.ndarray, candidate: np.ndarray, champion: np.ndarray | None, limits: GateLimits = LIMITS
) -> Verdict:
    return compare(
        labels,
        candidate,
        champion,
        candidate="XGBoost",
        champion=None if champion is None else "version 3 (LogisticRegression)",
        limits=limits,
        seed=0,
    )


def test_a_candidate_that_is_surely_better_is_promoted_and_the_figures_are_told() -> None:
    labels = rows()
    verdict = judge(labels, knowing(labels, 0.9), knowing(labels, 0.7))
    assert verdict.outcome is Outcome.PROMOTE
    assert 0 < verdict.measured["gain_low"] < verdict.measured["gain"] < verdict.measured["gain_high"]
    gain = verdict.measured["candidate_macro_f1"] - verdict.measured["rival_macro_f1"]
    assert gain == pytest.approx(verdict.measured["gain"])
    assert verdict.limits == asdict(LIMITS)
    assert not set(verdict.limits) & set(verdict.measured)
    assert verdict.summary.startswith("XGBoost replaces version 3 (LogisticRegression). On the same 1,000 reviews")
    assert verdict.summary.endswith(verdict.reasons[0])
    assert verdict.reasons[0].endswith("with 95% confidence, all of it above zero.")
    json.dumps(asdict(verdict), allow_nan=False)


def test_answers_that_changed_are_counted() -> None:
    labels = np.array([0, 1, 2] * 100)
    candidate, champion = labels.copy(), labels.copy()
    champion[:30] = (labels[:30] + 1) % 3
    candidate[90:100] = (labels[90:100] + 1) % 3
    champion[200:205], candidate[200:205] = (labels[200:205] + 1) % 3, (labels[200:205] + 2) % 3
    verdict = judge(labels, candidate, champion)
    counted = {name: verdict.measured[name] for name in ("changed_rows", "mended_rows", "spoiled_rows")}
    assert counted == {"changed_rows": 45, "mended_rows": 30, "spoiled_rows": 10}
    assert "45 answers differ: 30 turn from wrong to right, 10 from right to wrong." in verdict.summary


def test_a_worse_candidate_is_rejected() -> None:
    labels = rows()
    verdict = judge(labels, knowing(labels, 0.7), knowing(labels, 0.9))
    assert verdict.outcome is Outcome.REJECT
    assert "all of it below zero" in verdict.summary


def test_what_may_be_chance_is_held() -> None:
    labels = rows()
    verdict = judge(labels, knowing(labels, 0.8, seed=1), knowing(labels, 0.8, seed=2))
    assert verdict.outcome is Outcome.HOLD
    assert verdict.reasons[0].endswith("which is not sure to be above zero.")
    assert judge(labels, labels, labels).outcome is Outcome.HOLD


def test_a_gain_must_exceed_the_least_one_asked_for() -> None:
    labels = rows(5000)
    candidate, champion = knowing(labels, 0.85), knowing(labels, 0.8)
    gain = judge(labels, candidate, champion).measured["gain"]
    asked = [
        judge(labels, candidate, champion, replace(LIMITS, min_gain=least)) for least in (gain / 3, gain, 3 * gain)
    ]
    assert [verdict.outcome for verdict in asked] == [Outcome.PROMOTE, Outcome.HOLD, Outcome.REJECT]
    assert f"not sure to be above the {gain:+.3f} asked for (gate.min_gain)" in asked[1].summary


def test_too_few_rows_give_no_verdict() -> None:
    labels = rows(199)
    verdict = judge(labels, labels, knowing(labels, 0.2))
    assert verdict.outcome is Outcome.HOLD
    assert "Only 199 labelled reviews" in verdict.summary
    assert "needs 200 (gate.min_test_rows)" in verdict.summary
    assert judge(rows(200), rows(200), knowing(rows(200), 0.2)).outcome is Outcome.PROMOTE
    nothing = judge(rows(0), rows(0), rows(0))
    assert (nothing.outcome, nothing.measured) == (Outcome.HOLD, {"test_rows": 0.0})


def test_the_first_model_is_judged_on_few_rows_by_a_wide_interval() -> None:
    labels = rows(60)
    assert judge(labels, labels, None).outcome is Outcome.PROMOTE
    assert judge(labels, knowing(labels, 0.1), None).outcome is not Outcome.PROMOTE
    assert "needs 30" in judge(labels[:29], labels[:29], None).summary


@pytest.mark.parametrize("answer", [0, 1, 2])
def test_one_answer_to_everything_is_rejected(answer: int) -> None:
    labels = rows()
    verdict = judge(labels, np.full(1000, answer), np.full(1000, (answer + 1) % 3))
    assert verdict.outcome is Outcome.REJECT
    assert "to every review, whatever it says" in verdict.reasons[0]
    assert judge(labels, np.full(1000, answer), None).outcome is Outcome.REJECT


def test_rows_of_one_label_cannot_tell() -> None:
    labels = np.full(500, 2)
    verdict = judge(labels, knowing(labels, 0.9), knowing(labels, 0.1))
    assert verdict.outcome is Outcome.HOLD
    assert "All reviews to judge it on are Positive" in verdict.summary


def test_the_first_model_must_be_better_than_chance() -> None:
    labels = rows()
    verdict = judge(labels, knowing(labels, 0.6), None)
    assert (verdict.outcome, verdict.champion) == (Outcome.PROMOTE, None)
    assert verdict.summary.startswith("XGBoost is the first to answer.")
    assert "the same answers dealt by chance 0.3" in verdict.summary
    guesses = [judge(labels, knowing(labels, 0.0, seed), None) for seed in range(20)]
    assert sum(guess.outcome is Outcome.PROMOTE for guess in guesses) <= 2
    assert guesses[0].summary.startswith("XGBoost is not shown to be better than the same answers dealt by chance.")


@settings(deadline=None, max_examples=60)
@given(st.floats(0.2, 1), st.floats(0.2, 1), st.integers(0, 50), st.sampled_from([-0.05, 0.0, 0.05]))
def test_two_models_never_replace_each_other(one: float, other: float, seed: int, min_gain: float) -> None:
    labels = rows(400, seed)
    limits = replace(LIMITS, bootstrap_samples=200, min_gain=min_gain)
    first, second = knowing(labels, one, seed), knowing(labels, other, seed + 1)
    there, back = judge(labels, first, second, limits), judge(labels, second, first, limits)
    assert judge(labels, first, second, limits) == there
    assert there.measured["gain"] == pytest.approx(-back.measured["gain"])
    assert [there.outcome, back.outcome].count(Outcome.PROMOTE) < 2 or min_gain < 0
    assert (there.outcome is Outcome.PROMOTE) == (there.measured["gain_low"] > min_gain)
