"""How sure a score is: bootstrap intervals of macro-F1 and of the gain of one model over another.

Drawing n rows again is drawing the counts of their cells (label, answer, other answer) from a
multinomial distribution: exact, and a thousand resamples take milliseconds for any number of rows.
The gain is paired: both models answer the same rows in every resample.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from mobile_sentiment_ops.models.evaluation import Counts, Floats, Indices, class_f1, macro_f1
from mobile_sentiment_ops.types import LABELS, Interval

SAMPLES = 1_000
CONFIDENCE = 0.95
MIN_BEYOND = 20
"""Resamples beyond each end that a percentile needs; with fewer the end is that of a normal distribution."""


def macro_f1_interval(
    labels: Indices, decisions: Indices, *, seed: int, samples: int = SAMPLES, confidence: float = CONFIDENCE
) -> Interval:
    """Macro-F1 of `decisions` (n,) with its percentile interval.

    >>> labels = np.array([0, 1, 2] * 50)
    >>> macro_f1_interval(labels, labels, seed=0)
    Interval(value=1.0, low=1.0, high=1.0)
    """
    scores = macro_f1(_resampled(labels, decisions, seed=seed, samples=samples))
    return _interval(scores, confidence)


def score_intervals(labels: Indices, decisions: Indices, *, seed: int) -> dict[str, Interval]:
    """Macro-F1, accuracy and the F1 of each class that has rows, by the names that `Evaluation.metrics` gives them.

    >>> labels = np.array([0, 2] * 50)
    >>> list(score_intervals(labels, labels, seed=0))
    ['macro_f1', 'accuracy', 'f1_negative', 'f1_positive']
    """
    drawn = _resampled(labels, decisions, seed=seed, samples=SAMPLES)
    f1, _ = class_f1(drawn)
    scores = {"macro_f1": macro_f1(drawn), "accuracy": np.trace(drawn, axis1=1, axis2=2) / len(labels)}
    scores |= {f"f1_{LABELS[at].value.lower()}": f1[:, at] for at in np.unique(labels)}
    return {name: _interval(values, CONFIDENCE) for name, values in scores.items()}


def gain_interval(
    labels: Indices,
    candidate: Indices,
    champion: Indices,
    *,
    seed: int,
    samples: int = SAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval:
    """Macro-F1 of the candidate's decisions (n,) less the champion's, with its percentile interval.

    >>> labels = np.array([0, 1, 2] * 50)
    >>> gain_interval(labels, labels, labels, seed=0)
    Interval(value=0.0, low=0.0, high=0.0)
    """
    return paired_intervals(labels, candidate, champion, seed=seed, samples=samples, confidence=confidence)[2]


def paired_intervals(
    labels: Indices, candidate: Indices, champion: Indices, *, seed: int, samples: int, confidence: float
) -> tuple[Interval, Interval, Interval]:
    """Macro-F1 of the candidate and of the champion with their CONFIDENCE, and the gain with `confidence`.

    >>> labels = np.array([0, 1, 2] * 50)
    >>> paired_intervals(labels, labels, labels, seed=0, samples=100, confidence=0.99)[2]
    Interval(value=0.0, low=0.0, high=0.0)
    """
    drawn = _resampled(labels, candidate, champion, seed=seed, samples=samples)
    ours, theirs = macro_f1(drawn.sum(axis=3)), macro_f1(drawn.sum(axis=2))
    return _interval(ours, CONFIDENCE), _interval(theirs, CONFIDENCE), _interval(ours - theirs, confidence)


def _resampled(labels: Indices, *answers: Indices, seed: int, samples: int) -> Counts:
    """Counts (1 + samples, 3, 3[, 3]) of label and answers: as they are first, then resampled."""
    shape = (len(LABELS),) * (1 + len(answers))
    cells = np.ravel_multi_index([values.astype(np.int64) for values in (labels, *answers)], shape)
    counts = np.bincount(cells, minlength=int(np.prod(shape)))
    drawn = np.random.default_rng(seed).multinomial(len(labels), counts / len(labels), size=samples)
    return np.concatenate([counts[None], drawn]).reshape(-1, *shape)


def _interval(scores: Floats, confidence: float) -> Interval:
    value, drawn = float(scores[0]), scores[1:]
    beyond = (1 - confidence) / 2
    if beyond * len(drawn) >= MIN_BEYOND:
        low, high = np.quantile(drawn, [beyond, 1 - beyond])
        return Interval(value, float(low), float(high))
    reach = float(drawn.std()) * NormalDist().inv_cdf(1 - beyond)
    return Interval(value, value - reach, value + reach)
