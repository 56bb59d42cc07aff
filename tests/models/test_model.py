"""Training, calibration, decisions and files of whole models."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from mobile_sentiment_ops.errors import BundleError, ModelError, TooFewRows
from mobile_sentiment_ops.models.arrays import write_array
from mobile_sentiment_ops.models.calibration import Calibration, fit_calibration
from mobile_sentiment_ops.models.kinds import KINDS, kind_named
from mobile_sentiment_ops.models.model import MODEL_FILE, SentimentModel
from mobile_sentiment_ops.models.training import train
from mobile_sentiment_ops.types import Label

WORDS = {0: "bad slow crash refund worst", 1: "ok average fine usual so-so", 2: "love great best easy thanks"}
SHARES = (0.2, 0.1, 0.7)


def reviews(rows: int, seed: int = 0) -> pl.DataFrame:
    """Texts of three words, each one of its class's own in three cases of four."""
    random = np.random.default_rng(seed)
    labels = random.choice(3, rows, p=SHARES)
    every = " ".join(WORDS.values()).split()
    texts = [
        " ".join(random.choice(WORDS[label].split() if random.random() < 0.75 else every) for _ in range(3))
        for label in labels.tolist()
    ]
    return pl.DataFrame(
        {"review_text": texts, "rating": np.array([1, 3, 5])[labels], "label": labels},
        schema_overrides={"label": pl.Int8},
    )


@pytest.fixture(scope="module")
def linear() -> SentimentModel:
    return train("lr", reviews(1_500), reviews(500, seed=1), seed=0)


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.candidate])
def test_every_candidate_kind_learns(kind: str) -> None:
    model, test = train(kind, reviews(1_500), reviews(500, seed=1), seed=0), reviews(1_000, seed=2)
    decisions = model.decide(model.probabilities(test["review_text"].to_list()))
    recalls = [(decisions[test["label"].to_numpy() == label] == label).mean() for label in range(3)]
    assert min(recalls) > 0.7


def test_probabilities_come_true_as_often_as_they_say(linear: SentimentModel) -> None:
    test = reviews(4_000, seed=3)
    found = linear.probabilities(test["review_text"].to_list())
    shares = np.bincount(test["label"].to_numpy(), minlength=3) / test.height
    assert found.mean(axis=0) == pytest.approx(shares, abs=0.02)


def test_the_decision_leaves_out_how_common_a_class_is(linear: SentimentModel) -> None:
    """An unclear text is Neutral by its words, though Positive is likelier beforehand."""
    answer = linear.predict(["ok love"])[0]
    unknown = linear.probabilities(["zyzzyva"])[0]
    assert unknown == pytest.approx(SHARES, abs=0.1)
    assert answer.confidence == answer.probabilities[list(Label).index(answer.label)]
    assert np.array(linear.offsets) == pytest.approx(-np.array(linear.calibration.bias))


def test_the_stars_kind_answers_the_stars_and_none_of_it_is_a_candidate() -> None:
    model = train("stars", reviews(50), reviews(10, seed=1), seed=0)
    assert [p.label for p in model.predict(["", "", ""], [1, 3, 5])] == ["Negative", "Neutral", "Positive"]
    assert not kind_named("stars").candidate
    assert not kind_named("majority").candidate


def test_no_rows_and_no_such_kind_are_told() -> None:
    with pytest.raises(TooFewRows, match="no labelled review to train lr on"):
        train("lr", reviews(1).clear(), reviews(1).clear(), seed=0)
    with pytest.raises(ModelError, match="'svm'; expected one of lr, rf, xgb"):
        train("svm", reviews(10), reviews(10), seed=0)


# --- calibration


def test_overconfident_scores_are_calmed() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 5_000)
    scores = np.eye(3)[np.where(random.random(5_000) < 0.6, labels, random.integers(0, 3, 5_000))] * 10
    found = fit_calibration(scores, labels, np.full(3, 1 / 3))
    confident = found.probabilities(scores).max(axis=1)
    assert confident.mean() == pytest.approx(0.6 + 0.4 / 3, abs=0.02)


def test_without_rows_the_natural_shares_are_kept() -> None:
    shares = np.array([0.2, 0.1, 0.7])
    found = fit_calibration(np.zeros((0, 3)), np.zeros(0, np.int64), shares)
    assert found.probabilities(np.zeros((1, 3)))[0] == pytest.approx(shares)


def test_extreme_scores_stay_probabilities() -> None:
    found = Calibration(1.0, (0.0, 0.0, 0.0)).probabilities(np.array([[1e9, 0.0, -1e9]]))
    assert found.sum() == pytest.approx(1.0)
    assert (found > 0).all()


# --- files


def broken(files: dict[str, bytes], **changes: object) -> dict[str, bytes]:
    return {**files, MODEL_FILE: json.dumps({**json.loads(files[MODEL_FILE]), **changes}).encode()}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, "format"),
        ({"kind": "svm"}, "no kind of model named 'svm'"),
        ({"scale": 0}, "scale"),
        ({"bias": [0, 0]}, "bias"),
        ({"offsets": [0, 0, "x"]}, "offsets"),
        ({"more": 1}, "more"),
    ],
)
def test_an_odd_description_is_named(linear: SentimentModel, changes: dict[str, object], said: str) -> None:
    with pytest.raises(BundleError, match=said):
        SentimentModel.from_files(broken(linear.files(), **changes))


def test_odd_files_are_named(linear: SentimentModel) -> None:
    files = linear.files()
    short = write_array(np.ones((2, 3), np.float32))
    nan = write_array(np.full(3, np.nan))
    for changed, said in (
        ({"weights.npy": short}, r"weights\.npy is float32 of shape \(2, 3\)"),
        ({"weights.npy": b"no array"}, r"weights\.npy is no array"),
        ({"intercept.npy": nan}, "not finite"),
        ({"more.npy": short}, r"more\.npy is no file of a model of kind lr"),
    ):
        with pytest.raises(BundleError, match=said):
            SentimentModel.from_files({**files, **changed})
    with pytest.raises(BundleError, match=r"no file idf\.npy"):
        SentimentModel.from_files({name: content for name, content in files.items() if name != "idf.npy"})
    with pytest.raises(BundleError, match=r"no file model\.json"):
        SentimentModel.from_files({})
