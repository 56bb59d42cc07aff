from __future__ import annotations

import numpy as np
import pytest

from mobile_sentiment_ops.models.evaluation import confusion_matrix, macro_f1
from mobile_sentiment_ops.models.intervals import gain_interval, macro_f1_interval

Answers = tuple[np.ndarray, np.ndarray, np.ndarray]


def answers(rows: int, seed: int, *, candidate: float = 0.7, champion: float = 0.6) -> Answers:
    """Labels, and two models that know them so often and guess the others."""
    draw = np.random.default_rng(seed)
    labels = draw.choice(3, size=rows, p=[0.3, 0.15, 0.55])
    given = (np.where(draw.random(rows) < share, labels, draw.integers(0, 3, rows)) for share in (candidate, champion))
    return labels, *given  # type: ignore[return-value]


def score(labels: np.ndarray, decisions: np.ndarray) -> float:
    return float(macro_f1(confusion_matrix(labels, decisions)))


def test_intervals_are_those_of_drawing_rows_again() -> None:
    labels, candidate, champion = answers(300, 1)
    draw = np.random.default_rng(2)
    scores = []
    for _ in range(4000):
        rows = draw.integers(0, 300, 300)
        scores.append([score(labels[rows], given[rows]) for given in (candidate, champion)])
    one, two = np.array(scores).T
    macro = macro_f1_interval(labels, candidate, seed=0, samples=20_000)
    gain = gain_interval(labels, candidate, champion, seed=0, samples=20_000)
    assert macro.value == pytest.approx(score(labels, candidate))
    assert gain.value == pytest.approx(macro.value - score(labels, champion))
    for found, drawn in ((macro, one), (gain, one - two)):
        low, high = np.quantile(drawn, [0.025, 0.975])
        assert found.low == pytest.approx(low, abs=0.006)
        assert found.high == pytest.approx(high, abs=0.006)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    everything = answers(200_000, 3)
    truth = gain_interval(*everything, seed=0, samples=1).value
    held = 0
    for seed in range(200):
        rows = np.random.default_rng(seed).integers(0, 200_000, 500)
        found = gain_interval(*(given[rows] for given in everything), seed=seed, samples=500, confidence=0.9)
        held += found.low <= truth <= found.high
    assert 0.84 < held / 200 < 0.96


def test_the_same_answers_gain_nothing_for_sure() -> None:
    labels, candidate, _ = answers(300, 0)
    gain = gain_interval(labels, candidate, candidate, seed=0)
    assert (gain.value, gain.low, gain.high) == (0.0, 0.0, 0.0)


def test_pairing_makes_a_small_difference_sure() -> None:
    labels, champion, _ = answers(2000, 0)
    candidate = champion.copy()
    wrong = np.flatnonzero(champion != labels)[:40]
    candidate[wrong] = labels[wrong]
    gain = gain_interval(labels, candidate, champion, seed=0)
    alone = macro_f1_interval(labels, champion, seed=0)
    assert 0 < gain.low < gain.value < gain.high
    assert gain.high - gain.low < (alone.high - alone.low) / 2


def test_more_rows_and_less_confidence_make_a_shorter_interval() -> None:
    def length(rows: int, confidence: float) -> float:
        found = gain_interval(*answers(rows, 0), seed=0, confidence=confidence)
        return found.high - found.low

    assert length(8000, 0.95) < length(500, 0.95) / 3
    assert length(500, 0.5) < length(500, 0.95) / 2


def test_the_seed_decides_the_draws() -> None:
    found = [gain_interval(*answers(300, 0), seed=seed) for seed in (0, 0, 1)]
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert found[0].value == found[2].value
