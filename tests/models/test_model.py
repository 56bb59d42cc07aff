"""Training, calibration, decisions and files of whole models."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

from mobile_sentiment_ops.errors import BundleError, ModelError, TooFewRows
from mobile_sentiment_ops.models import training
from mobile_sentiment_ops.models.arrays import write_array
from mobile_sentiment_ops.models.calibration import fit_calibration, natural, tune_offsets
from mobile_sentiment_ops.models.evaluation import confusion_matrix, macro_f1
from mobile_sentiment_ops.models.kinds import KINDS, kind_named
from mobile_sentiment_ops.models.model import MODEL_FILE, SentimentModel
from mobile_sentiment_ops.models.training import go_on, stratified_sample, train, train_on
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
    """An unclear text is not Positive only because most reviews are."""
    answer = linear.predict(["ok love"])[0]
    unknown = linear.probabilities(["zyzzyva"])[0]
    assert unknown.argmax() == 2
    assert answer.confidence == answer.probabilities[list(Label).index(answer.label)]
    assert linear.offsets[2] < min(linear.offsets[:2])
    assert sum(linear.offsets) == pytest.approx(0)


def test_stars_teach_more_than_labels() -> None:
    """Among Negative reviews, those of two stars are the ones that lean to Neutral."""
    texts = [f"{word} {at % 7}" for word in ("terrible", "meh", "nice", "superb", "plain") for at in range(100)]
    stars = np.repeat([1, 2, 4, 5, 3], 100)
    frame = pl.DataFrame({"review_text": texts, "rating": stars, "label": np.array([0, 0, 2, 2, 1]).repeat(100)})
    terrible, meh = train("svc", frame, frame.clear(), seed=0).probabilities(["terrible", "meh"])
    assert meh[1] > terrible[1]


# --- going on


def score(model: SentimentModel, test: pl.DataFrame) -> float:
    decisions = model.decide(model.probabilities(test["review_text"].to_list()))
    return float(macro_f1(confusion_matrix(test["label"].to_numpy(), decisions)))


@pytest.mark.parametrize("kind", ["lr", "svc", "nbsvm"])
def test_going_on_is_about_as_good_as_training_anew(kind: str) -> None:
    before, further, test = reviews(3_000), reviews(600, seed=1), reviews(3_000, seed=2)
    further = further.with_columns(pl.col("review_text") + " zing")
    warm = go_on(train(kind, before, before.clear(), seed=0), further, seed=0)
    anew = train(kind, pl.concat([before, further]), before.clear(), seed=0)
    assert score(warm, test) == pytest.approx(score(anew, test), abs=0.03)
    assert warm.scorer.files()["buckets.npy"] == anew.scorer.files()["buckets.npy"]  # new words have joined


def test_going_on_with_nothing_changes_nothing_and_trees_cannot(linear: SentimentModel) -> None:
    assert go_on(linear, reviews(1).clear(), seed=0).files() == linear.files()
    trees = train("xgb", reviews(100), reviews(50, seed=1), seed=0)
    with pytest.raises(ModelError, match="xgb cannot go on"):
        go_on(trees, reviews(10), seed=0)


def test_many_rows_are_trained_on_block_after_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, test = reviews(4_000), reviews(3_000, seed=2)
    whole = train("nbsvm", rows, rows.clear(), seed=0)
    monkeypatch.setattr(training, "BLOCK_ROWS", 1_000)
    assert score(train("nbsvm", rows, rows.clear(), seed=0), test) == pytest.approx(score(whole, test), abs=0.02)
    with pytest.raises(TooFewRows, match="no block of reviews to train lr on"):
        train_on("lr", [], seed=0)


def test_a_sample_keeps_the_shares_of_labels() -> None:
    rows = reviews(5_000)
    sample = stratified_sample(rows, 1_000, seed=0)
    assert abs(sample.height - 1_000) <= 2
    for label in range(3):
        share = (rows["label"] == label).sum() / rows.height
        assert (sample["label"] == label).sum() / sample.height == pytest.approx(share, abs=0.002)


def test_parameters_of_a_kind_can_be_given_and_odd_ones_are_refused() -> None:
    model = train("lr", reviews(100), reviews(50, seed=1), seed=0, parameters={"C": 1, "word_run": 1})
    assert model.parameters == {"C": 1, "loss": "logistic", "word_run": 1}
    for odd, said in (({"c": 1.0}, "lr has no parameter 'c'; expected C, loss"), ({"C": "1"}, "expected float")):
        with pytest.raises(ModelError, match=said):
            train("lr", reviews(100), reviews(50, seed=1), seed=0, parameters=odd)


def test_the_stars_kind_answers_the_stars_and_none_of_it_is_a_candidate() -> None:
    model = train("stars", reviews(50), reviews(10, seed=1), seed=0)
    assert [p.label for p in model.predict(["", "", ""], [1, 3, 5])] == ["Negative", "Neutral", "Positive"]
    assert not kind_named("stars").candidate
    assert not kind_named("majority").candidate


def test_no_rows_and_no_such_kind_are_told() -> None:
    with pytest.raises(TooFewRows, match="no labelled review to train lr on"):
        train("lr", reviews(1).clear(), reviews(1).clear(), seed=0)
    with pytest.raises(ModelError, match="'svm'; expected one of lr, svc, nbsvm, rf, xgb"):
        train("svm", reviews(10), reviews(10), seed=0)


# --- calibration


EVEN = natural(np.eye(3), np.full(3, 1 / 3))


def test_overconfident_scores_are_calmed() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 5_000)
    scores = np.eye(3)[np.where(random.random(5_000) < 0.6, labels, random.integers(0, 3, 5_000))] * 10
    found = fit_calibration(scores, labels, EVEN)
    confident = found.probabilities(scores).max(axis=1)
    assert confident.mean() == pytest.approx(0.6 + 0.4 / 3, abs=0.02)


def test_without_rows_the_natural_shares_are_kept() -> None:
    shares = np.array([0.2, 0.1, 0.7])
    found = fit_calibration(np.zeros((0, 3)), np.zeros(0, np.int64), natural(np.eye(3), shares))
    assert found.probabilities(np.zeros((1, 3)))[0] == pytest.approx(shares)


def test_extreme_scores_stay_probabilities() -> None:
    found = EVEN.probabilities(np.array([[1e9, 0.0, -1e9]]))
    assert found.sum() == pytest.approx(1.0)
    assert (found > 0).all()


def test_offsets_are_those_of_the_best_macro_f1() -> None:
    """Rare classes whose probability never is the largest are found all the same."""
    random = np.random.default_rng(0)
    labels = random.choice(3, 20_000, p=[0.1, 0.05, 0.85])
    scores = np.eye(3)[labels] + random.normal(size=(20_000, 3))
    start = natural(np.eye(3), np.array([0.1, 0.05, 0.85]))
    calibration = fit_calibration(scores, labels, start)
    probabilities = calibration.probabilities(scores)

    def reached(offsets: tuple[float, float, float]) -> float:
        decided = (np.log(probabilities) + np.array(offsets)).argmax(axis=1)
        return float(macro_f1(confusion_matrix(labels, decided)))

    tuned = tune_offsets(probabilities, labels, (0.0, 0.0, 0.0))
    by_hand = max(
        reached((negative, neutral, 0.0)) for negative in np.arange(0, 3, 0.25) for neutral in np.arange(0, 3, 0.25)
    )
    assert reached(tuned) > reached((0.0, 0.0, 0.0)) + 0.02
    assert reached(tuned) > by_hand - 0.005


# --- files


def broken(files: dict[str, bytes], **changes: object) -> dict[str, bytes]:
    return {**files, MODEL_FILE: json.dumps({**json.loads(files[MODEL_FILE]), **changes}).encode()}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 1}, "format is not as this release reads it.*mso retrain"),
        ({"kind": "svm"}, "no kind of model named 'svm'"),
        ({"calibration": [[1.0, 0.0, 0.0]]}, r"calibration has the shape \(1, 3\), expected \(4, 3\)"),
        ({"unicode": "9.0.0"}, "read by Unicode 9.0.0"),
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
    short = write_array(np.ones((2, 4), np.float32))
    nan = write_array(np.full(3, np.nan))
    for changed, said in (
        ({"weights.npy": short}, r"weights\.npy is float32 of shape \(2, 4\)"),
        ({"weights.npy": b"no array"}, r"weights\.npy is no array"),
        ({"feature_weights.npy": nan}, r"feature_weights\.npy is float64"),
        ({"more.npy": short}, r"more\.npy is no file of a model of kind lr"),
    ):
        with pytest.raises(BundleError, match=said):
            SentimentModel.from_files({**files, **changed})
    with pytest.raises(BundleError, match=r"no file buckets\.npy"):
        SentimentModel.from_files({name: content for name, content in files.items() if name != "buckets.npy"})
    with pytest.raises(BundleError, match=r"no file model\.json"):
        SentimentModel.from_files({})
