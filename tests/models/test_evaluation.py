from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from mobile_sentiment_ops.errors import TooFewRows
from mobile_sentiment_ops.models.evaluation import (
    MAX_SLICES,
    confusion_matrix,
    evaluate,
    log_loss,
    macro_f1,
    reliability,
)

CLASSES = [0, 1, 2]

pairs = st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from(CLASSES)), min_size=1, max_size=60).map(
    lambda rows: np.array(rows, dtype=np.int8).T
)


def random_rows(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels drawn from their probabilities (perfectly calibrated), those, and the likeliest classes."""
    draw = np.random.default_rng(seed)
    probabilities = draw.dirichlet([1.0, 0.5, 1.5], size=rows)
    labels = (draw.random((rows, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    return labels.clip(0, 2), probabilities, probabilities.argmax(axis=1)


@given(pairs)
def test_scores_by_class_are_those_of_scikit_learn(pair: np.ndarray) -> None:
    labels, decisions = pair
    found = evaluate(labels, np.full((len(labels), 3), 1 / 3), decisions, {})
    expected = reference.precision_recall_fscore_support(labels, decisions, labels=CLASSES, zero_division=np.nan)
    np.testing.assert_allclose(found.precision, expected[0])
    np.testing.assert_allclose(found.recall, expected[1])
    exists = expected[3] > 0
    np.testing.assert_allclose(found.f1[exists], expected[2][exists])
    assert np.isnan(found.f1[~exists]).all()
    assert found.accuracy == pytest.approx(reference.accuracy_score(labels, decisions))
    assert (found.confusion == reference.confusion_matrix(labels, decisions, labels=CLASSES)).all()


@given(pairs)
def test_macro_f1_is_that_of_scikit_learn_over_the_classes_that_exist(pair: np.ndarray) -> None:
    labels, decisions = pair
    there = np.unique(labels)
    expected = reference.f1_score(labels, decisions, labels=there, average="macro", zero_division=0)
    assert macro_f1(confusion_matrix(labels, decisions)) == pytest.approx(expected)


def test_macro_f1_of_many_matrices_is_that_of_each() -> None:
    matrices = np.random.default_rng(0).integers(0, 5, size=(40, 3, 3))
    assert macro_f1(matrices).tolist() == [float(macro_f1(matrix)) for matrix in matrices]


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(0, 99))
def test_log_loss_is_that_of_scikit_learn(rows: int, seed: int) -> None:
    labels, probabilities, _ = random_rows(rows, seed)
    assert log_loss(labels, probabilities) == pytest.approx(reference.log_loss(labels, probabilities, labels=CLASSES))


def test_a_probability_of_zero_costs_much_and_not_everything() -> None:
    assert 30 < log_loss(np.array([0]), np.array([[0.0, 0.5, 0.5]])) < 40


def test_what_the_rows_cannot_tell_is_not_a_number() -> None:
    labels = np.array([0, 0, 1])
    found = evaluate(labels, np.full((3, 3), 1 / 3), np.array([0, 0, 0]), {}).metrics()
    assert [found[f"f1_{name}"] for name in ("negative", "neutral")] == [pytest.approx(0.8), 0.0]
    for name in ("precision_neutral", "precision_positive", "recall_positive", "f1_positive"):
        assert math.isnan(found[name]), name
    assert found["recall_neutral"] == 0.0
    assert found["test_rows"] == 3


def test_there_must_be_rows() -> None:
    with pytest.raises(TooFewRows, match="no row to evaluate"):
        evaluate(np.array([], dtype=int), np.empty((0, 3)), np.array([], dtype=int), {})


# --- slices


def test_slices_of_fifty_rows_or_more_are_scored() -> None:
    labels = np.tile([0, 1, 2], 60)
    decisions = np.concatenate([labels[:60], np.zeros(120, dtype=int)])
    apps = ["lamp"] * 60 + ["torch"] * 50 + ["radio"] * 49 + [None] * 21
    found = evaluate(labels, np.eye(3)[decisions], decisions, {"app": apps, "language": ["th"] * 180}).metrics()
    torch = reference.f1_score(labels[60:110], decisions[60:110], average="macro")
    assert found["macro_f1_app_lamp"] == 1.0
    assert found["macro_f1_app_torch"] == pytest.approx(torch)
    assert found["macro_f1_language_th"] == found["macro_f1"]
    assert [name for name in found if "_app_" in name] == ["macro_f1_app_lamp", "macro_f1_app_torch"]


def test_the_largest_slices_are_scored_when_there_are_many() -> None:
    labels = np.zeros(50 * 61, dtype=int)
    apps = [f"app{n}" for n in range(60) for _ in range(50)] + ["app59"] * 50
    scores = evaluate(labels, np.eye(3)[labels], labels, {"app": apps}).slices["app"]
    assert len(scores) == MAX_SLICES
    assert "app59" in scores


# --- calibration


def test_probabilities_that_come_true_have_a_small_calibration_error() -> None:
    labels, probabilities, decisions = random_rows(20_000)
    bins = reliability(labels, probabilities, decisions)
    assert bins.ece < 0.015
    assert bins.rows.sum() == 20_000
    assert len(bins.rows) == 15
    assert bins.rows.max() - bins.rows.min() <= 1
    assert (np.diff(bins.confidence) > 0).all()


def test_sharpened_probabilities_have_a_large_one() -> None:
    labels, probabilities, decisions = random_rows(20_000)
    sharp = probabilities**3 / (probabilities**3).sum(axis=1, keepdims=True)
    bins = reliability(labels, sharp, decisions)
    assert bins.ece > 0.1
    assert bins.ece == pytest.approx(float((bins.confidence - bins.accuracy) @ bins.rows / 20_000))


def test_confidence_is_that_of_the_decided_class() -> None:
    probabilities = np.tile([0.5, 0.3, 0.2], (10, 1))
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 0, 2, 2])
    bins = reliability(labels, probabilities, np.ones(10, dtype=int))
    assert (bins.confidence.tolist(), bins.accuracy.tolist()) == ([pytest.approx(0.3)], [0.3])
    assert bins.ece == pytest.approx(0.0)


def test_one_confidence_for_all_rows_is_one_bin() -> None:
    labels, _, _ = random_rows(1000)
    prior = np.bincount(labels, minlength=3) / 1000
    majority = np.full(1000, prior.argmax())
    assert reliability(labels, np.tile(prior, (1000, 1)), majority).ece == pytest.approx(0.0)
