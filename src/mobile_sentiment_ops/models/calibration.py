"""From a scorer's scores to probabilities at the classes' natural shares, and to decisions.

    p = softmax(scores @ weights + bias)     multinomial logistic regression on scores of rows that were
                                             not fitted, held near a start (Platt scaling for three classes)
    decided = argmax(log p + offsets)        offsets tuned for macro-F1 on the same held-out rows

Probabilities say how likely a label is; offsets are kept apart from them, because the class that is
commonest beforehand should not win for that alone (argmax of p costs 4 to 5 points of macro-F1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mobile_sentiment_ops.types import LABELS

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Offsets = tuple[float, float, float]

START_ROWS = 10.0
"""How much evidence it takes to move weights and bias from what they mean beforehand."""

OFFSET_ROWS = 500.0
"""So many rows are worth as much as the offsets to begin with."""

LEAST_PROBABILITY = 1e-12
STEPS = np.arange(-2.5, 2.51, 0.1)
"""How far from its start the offset of a class is looked for."""

CLASSES = len(LABELS)


@dataclass(frozen=True, slots=True)
class Calibration:
    """`weights` (k, 3) turn k scores into class scores, to which `bias` (3,) is added."""

    weights: Floats
    bias: Floats

    def probabilities(self, scores: Floats) -> Floats:
        """Probabilities (n, 3) of scores (n, k); each row sums to 1.

        >>> Calibration(np.eye(3), np.zeros(3)).probabilities(np.zeros((1, 3))).round(3).tolist()
        [[0.333, 0.333, 0.333]]
        """
        found = np.clip(np.exp(_log_softmax(scores @ self.weights + self.bias)), LEAST_PROBABILITY, 1.0)
        return np.asarray(found / found.sum(axis=1, keepdims=True))

    @property
    def balancing(self) -> Offsets:
        """Offsets that leave the bias out of the decision: where tuning begins.

        >>> natural(np.eye(3), np.array([0.25, 0.25, 0.5])).balancing[2] < 0
        True
        """
        negative, neutral, positive = (-self.bias).tolist()
        return negative, neutral, positive


def natural(start: Floats, shares: Floats) -> Calibration:
    """The calibration before any row has been seen: weights `start` (k, 3) and the natural shares (3,)."""
    logs = np.log(shares)
    return Calibration(start, logs - logs.mean())


def fit_calibration(scores: Floats, labels: Labels, start: Calibration) -> Calibration:
    """The calibration that makes the labels (n,) of these scores (n, k) likeliest; few rows leave `start`.

    >>> start = natural(np.eye(3), np.array([0.25, 0.25, 0.5]))
    >>> fit_calibration(np.zeros((0, 3)), np.zeros(0, int), start).bias.round(2).tolist()
    [-0.23, -0.23, 0.46]
    """
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    usual = np.vstack([start.weights, start.bias])
    rows = np.column_stack([scores, np.ones(len(scores))])
    own = np.arange(labels.size)

    def cost(numbers: Floats) -> tuple[float, Floats]:
        log_probabilities = _log_softmax(rows @ numbers.reshape(usual.shape))
        wrong = np.exp(log_probabilities)
        wrong[own, labels] -= 1.0
        away = numbers - usual.ravel()
        loss = -log_probabilities[own, labels].sum() + START_ROWS / 2 * (away @ away)
        return float(loss), (rows.T @ wrong).ravel() + START_ROWS * away

    with threadpool_limits(1):  # a second thread of BLAS waits longer for its turn than it works
        found = minimize(cost, usual.ravel(), jac=True, method="L-BFGS-B").x.reshape(usual.shape)
    return Calibration(found[:-1], found[-1] - found[-1].mean())


def tune_offsets(probabilities: Floats, labels: Labels, start: Offsets, *, start_rows: float = OFFSET_ROWS) -> Offsets:
    """Offsets summing to 0 under which the decisions on these rows have the best macro-F1.

    One class after the other, over a smoothed grid around `start`, which counts as much as `start_rows` rows.

    >>> tune_offsets(np.zeros((0, 3)), np.zeros(0, int), (0.5, 0.5, -1.0))
    (0.5, 0.5, -1.0)
    """
    begun, logs = np.array(start), np.log(probabilities)
    offsets = begun.copy()
    if labels.size:
        for tuned in (1, 0, 1, 0, 1, 0):  # the third class is what the others are measured against
            scores = _macro_f1_by_offset(logs, labels, offsets, tuned, begun[tuned] + STEPS)
            smooth = np.convolve(np.pad(scores, 2, mode="edge"), np.full(5, 0.2), "valid")
            offsets[tuned] = begun[tuned] + STEPS[smooth.argmax()]
    trust = labels.size / (labels.size + start_rows)
    mixed = trust * offsets + (1 - trust) * begun
    negative, neutral, positive = (mixed - mixed.mean()).tolist()
    return negative, neutral, positive


def _macro_f1_by_offset(logs: Floats, labels: Labels, offsets: Floats, tuned: int, grid: Floats) -> Floats:
    """Macro-F1 (g,) for every offset of class `tuned` in the rising `grid` (g,), the others being fixed.

    A row goes to that class from some offset on, and else to the better one of the other two: rows are
    counted once by that offset, label and other class, and sums of the counts give every confusion matrix.
    """
    others = [label for label in range(CLASSES) if label != tuned]
    rivals = logs[:, others] + offsets[others]
    other = np.array(others)[rivals.argmax(axis=1)]
    turns = np.searchsorted(grid, rivals.max(axis=1) - logs[:, tuned], side="right")
    cells = (turns * CLASSES + labels) * CLASSES + other
    shape = (len(grid) + 1, CLASSES, CLASSES)
    counts = np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape)
    taken = counts.cumsum(axis=0)[:-1]
    left = counts.sum(axis=0) - taken
    hits = np.diagonal(left, axis1=1, axis2=2) + taken.sum(axis=2) * (np.arange(CLASSES) == tuned)
    answered = left.sum(axis=1) + taken.sum(axis=(1, 2))[:, None] * (np.arange(CLASSES) == tuned)
    of_class = counts.sum(axis=(0, 2))
    return np.asarray((2 * hits / np.maximum(of_class + answered, 1)).sum(axis=1) / max(np.count_nonzero(of_class), 1))


def _log_softmax(scores: Floats) -> Floats:
    shifted = scores - scores.max(axis=1, keepdims=True, initial=-np.inf)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
