"""How good a model's answers are on labelled rows: scores by class, by slice, and of its probabilities.

Classes are in the order of LABELS everywhere. A figure that the rows cannot tell (the precision of a
class that was never answered) is NaN, which is not zero.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mobile_sentiment_ops.errors import TooFewRows
from mobile_sentiment_ops.types import LABELS

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Indices = npt.NDArray[np.integer]
"""A class for each row, as an index into LABELS."""

MIN_SLICE_ROWS = 50
MAX_SLICES = 50
"""At most so many apps or languages are scored, those with most rows."""

RELIABILITY_BINS = 15


@dataclass(frozen=True, slots=True)
class Bins:
    """Rows in the order of their confidence in bins of about equal size: for each bin its rows, their
    mean confidence, and the share of them that was answered right. Equal confidences share a bin."""

    rows: Counts
    confidence: Floats
    accuracy: Floats

    @property
    def ece(self) -> float:
        """Expected calibration error: how far confidence and accuracy are apart, over all rows."""
        return float(np.average(np.abs(self.confidence - self.accuracy), weights=self.rows))


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores on `confusion.sum()` rows; `confusion[i, j]` counts rows of class i answered as j."""

    confusion: Counts
    log_loss: float
    ece: float
    slices: Mapping[str, Mapping[str, float]]
    """Macro-F1 by kind of slice, then by value."""

    @property
    def macro_f1(self) -> float:
        return float(macro_f1(self.confusion))

    @property
    def accuracy(self) -> float:
        return float(np.trace(self.confusion) / self.confusion.sum())

    @property
    def precision(self) -> Floats:
        return _ratio(np.diagonal(self.confusion), self.confusion.sum(axis=0))

    @property
    def recall(self) -> Floats:
        return _ratio(np.diagonal(self.confusion), self.confusion.sum(axis=1))

    @property
    def f1(self) -> Floats:
        f1, measurable = class_f1(self.confusion)
        return np.where(measurable, f1, math.nan)

    def metrics(self) -> dict[str, float]:
        """All figures by flat names: `macro_f1`, `f1_neutral`, `macro_f1_app_<app>`, ..."""
        found = {
            "macro_f1": self.macro_f1,
            "accuracy": self.accuracy,
            "log_loss": self.log_loss,
            "ece": self.ece,
            "test_rows": float(self.confusion.sum()),
        }
        for name in ("precision", "recall", "f1"):
            found |= {f"{name}_{label.lower()}": float(x) for label, x in zip(LABELS, getattr(self, name), strict=True)}
        for kind, scores in self.slices.items():
            found |= {f"macro_f1_{kind}_{value}": score for value, score in scores.items()}
        return found


def evaluate(
    labels: Indices, probabilities: Floats, decisions: Indices, slices: Mapping[str, Sequence[str | None]]
) -> Evaluation:
    """Scores of `decisions` (n,) and `probabilities` (n, 3) against `labels` (n,).

    `slices` gives each row a value by kind of slice (app, language) or None; a value is scored when it
    has at least MIN_SLICE_ROWS rows. Raises TooFewRows without any row.

    >>> labels, decisions = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])
    >>> found = evaluate(labels, np.eye(3)[decisions], decisions, {"app": ["lamp"] * 4})
    >>> round(found.macro_f1, 3), found.accuracy, found.ece
    (0.778, 0.75, 0.25)
    """
    if not len(labels):
        raise TooFewRows("there is no row to evaluate a model on; expected labelled reviews that it was not trained on")
    return Evaluation(
        confusion=confusion_matrix(labels, decisions),
        log_loss=log_loss(labels, probabilities),
        ece=reliability(labels, probabilities, decisions).ece,
        slices={kind: _slice_scores(labels, decisions, values) for kind, values in slices.items()},
    )


def confusion_matrix(labels: Indices, decisions: Indices) -> Counts:
    """Counts (3, 3): rows of class i that were answered as class j.

    >>> confusion_matrix(np.array([0, 0, 2]), np.array([0, 1, 2])).tolist()
    [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    """
    size = len(LABELS)
    cells = labels.astype(np.int64) * size + decisions
    return np.bincount(cells, minlength=size * size).reshape(size, size).astype(np.int64)


def class_f1(confusions: Counts) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """F1 of each class (..., 3) of confusion matrices (..., 3, 3), and where rows of it exist."""
    of_class, answered = confusions.sum(axis=-1), confusions.sum(axis=-2)
    hits = np.diagonal(confusions, axis1=-2, axis2=-1)
    return 2 * hits / np.maximum(of_class + answered, 1), of_class > 0


def macro_f1(confusions: Counts) -> Floats:
    """Macro-F1 (...) of confusion matrices (..., 3, 3): the mean F1 of the classes that have rows.

    A class that is never answered has an F1 of 0. A class without rows counts by the answers it took
    from the others.

    >>> float(macro_f1(np.array([[2, 0, 0], [1, 0, 0], [0, 0, 0]])))
    0.4
    """
    f1, exists = class_f1(confusions)
    return np.asarray((f1 * exists).sum(axis=-1) / np.maximum(exists.sum(axis=-1), 1))


def log_loss(labels: Indices, probabilities: Floats) -> float:
    """Mean negative logarithm of the probability that each row's class was given.

    >>> round(log_loss(np.array([0, 2]), np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])), 4)
    0.6931
    """
    given = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(given, np.finfo(np.float64).eps, 1.0)).mean())


def reliability(labels: Indices, probabilities: Floats, decisions: Indices, bins: int = RELIABILITY_BINS) -> Bins:
    """How often rows of a like confidence are right, where confidence is the probability of the
    decided class: the one that is shown, which decision offsets may make smaller than the largest.

    >>> even = np.tile([0.6, 0.3, 0.1], (5, 1))
    >>> found = reliability(np.array([0, 0, 0, 1, 2]), even, np.zeros(5, dtype=int))
    >>> found.rows.tolist(), found.accuracy.tolist(), round(found.ece, 6)
    ([5], [0.6], 0.0)
    """
    confidence = probabilities[np.arange(len(labels)), decisions]
    edges = np.quantile(confidence, np.linspace(0, 1, bins + 1)[1:-1])
    place = np.searchsorted(edges, confidence, side="right")
    rows = np.bincount(place, minlength=bins)
    used = rows > 0
    sums = (np.bincount(place, weights=values, minlength=bins) for values in (confidence, decisions == labels))
    mean_confidence, accuracy = (total[used] / rows[used] for total in sums)
    return Bins(rows[used], mean_confidence, accuracy)


def _ratio(part: Counts, whole: Counts) -> Floats:
    return np.where(whole > 0, part / np.maximum(whole, 1), math.nan)


def _slice_scores(labels: Indices, decisions: Indices, values: Sequence[str | None]) -> dict[str, float]:
    places = np.array(values, dtype=object)
    return {
        value: float(macro_f1(confusion_matrix(labels[places == value], decisions[places == value])))
        for value, _ in common_values(values)
    }


def common_values(values: Sequence[str | None], most: int = MAX_SLICES) -> list[tuple[str, int]]:
    """The values of at least MIN_SLICE_ROWS rows, at most so many, with their rows: the commonest first.

    >>> common_values(["lamp"] * 60 + ["torch", None])
    [('lamp', 60)]
    """
    counted = sorted(Counter(filter(None, values)).items(), key=lambda found: (-found[1], found[0]))
    return [(value, rows) for value, rows in counted[:most] if rows >= MIN_SLICE_ROWS]
