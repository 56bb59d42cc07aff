"""From scores to probabilities that are right as often as they say, at the classes' natural shares.

p = softmax(scale * scores + bias), three free numbers fitted on rows the scorer has not seen. Training
weighs all classes alike, so `bias` mostly brings their natural shares back; the decision leaves it out
(`offsets` = -bias), as the class that is likeliest beforehand should not win for that alone.
Source of the form: temperature scaling, Guo et al. 2017, with a bias a class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

PRIOR_ROWS = 20.0
"""How many rows of evidence it takes to move half the way from the natural shares."""

LEAST_PROBABILITY = 1e-12


@dataclass(frozen=True, slots=True)
class Calibration:
    """The fitted numbers: `scale` above 0 and `bias` (3,) summing to 0."""

    scale: float
    bias: tuple[float, float, float]

    def probabilities(self, scores: Floats) -> Floats:
        """Probabilities (n, 3) of scores (n, 3); each row sums to 1.

        >>> Calibration(1.0, (0.0, 0.0, 0.0)).probabilities(np.zeros((1, 3))).round(3).tolist()
        [[0.333, 0.333, 0.333]]
        """
        found = np.clip(np.exp(_log_softmax(self.scale * scores + np.array(self.bias))), LEAST_PROBABILITY, 1.0)
        return np.asarray(found / found.sum(axis=1, keepdims=True))


def fit_calibration(scores: Floats, labels: npt.NDArray[np.int64], shares: Floats) -> Calibration:
    """The calibration that makes the labels (n,) of these scores (n, 3) likeliest.

    `shares` (3,) are the classes' natural shares, which few rows leave unchanged.

    >>> fit_calibration(np.zeros((0, 3)), np.zeros(0, int), np.array([0.25, 0.25, 0.5])).scale
    1.0
    """
    from scipy.optimize import minimize

    usual = np.log(shares) - np.log(shares).mean()

    def cost(numbers: Floats) -> tuple[float, Floats]:
        log_scale, bias = numbers[0], numbers[1:]
        scaled = np.exp(log_scale) * scores
        log_probabilities = _log_softmax(scaled + bias)
        wrong = np.exp(log_probabilities)
        wrong[np.arange(labels.size), labels] -= 1.0
        away = np.concatenate([[log_scale], bias - usual])
        loss = -log_probabilities[np.arange(labels.size), labels].sum() + PRIOR_ROWS / 2 * (away @ away)
        return float(loss), np.concatenate([[(wrong * scaled).sum()], wrong.sum(axis=0)]) + PRIOR_ROWS * away

    found = minimize(cost, np.concatenate([[0.0], usual]), jac=True, method="L-BFGS-B", bounds=[(-5, 5)] * 4).x
    negative, neutral, positive = found[1:] - found[1:].mean()
    return Calibration(float(np.exp(found[0])), (float(negative), float(neutral), float(positive)))


def _log_softmax(scores: Floats) -> Floats:
    shifted = scores - scores.max(axis=1, keepdims=True, initial=-np.inf)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
