"""What share of reviews is negative: by expectation and maximisation, never by counting predictions.

A classifier that was trained where 25% were negative calls too few negative where 60% are. What it says of each review
is right up to the prior, and the priors that make all of it most likely are the shares (Saerens, Latinne and
Decaestecker 2002). It holds where the shares moved and what the texts of each feeling look like did not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from mobile_sentiment_ops.types import Interval

Floats = npt.NDArray[np.float64]

ROUNDS = 60
LEAST = 1e-6
CELLS = 10


def em_shares(counts: npt.ArrayLike, probabilities: Floats, prior: npt.ArrayLike) -> Floats:
    """Class shares (w, 3) of w windows: `counts` (w, k) of k kinds of reviews with these `probabilities` (k, 3), as a
    model gives them that was calibrated at the shares `prior` (3,). NaN for a window of no reviews.

    >>> p = np.array([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
    >>> em_shares([[70, 30], [25, 75]], p, [0.3, 0.1, 0.6])[:, 0].round(2).tolist()
    [0.9, 0.25]
    """
    found = np.atleast_2d(np.asarray(counts, float))
    start = np.asarray(prior, float) + LEAST
    start /= start.sum()
    likelihood = np.clip(probabilities, LEAST, 1.0) / start
    sizes = found.sum(axis=1)
    shares = np.tile(start, (len(found), 1))
    weights = found / np.where(sizes > 0, sizes, np.nan)[:, None]
    for _ in range(ROUNDS):
        shares = shares * ((weights / (shares @ likelihood.T)) @ likelihood)
    return shares


def share_errors(counts: npt.ArrayLike, probabilities: Floats, prior: npt.ArrayLike, shares: Floats) -> Floats:
    """Standard errors (w,) of the negative share, from the observed information of `em_shares`' likelihood."""
    found = np.atleast_2d(np.asarray(counts, float))
    start = np.asarray(prior, float) + LEAST
    likelihood = np.clip(probabilities, LEAST, 1.0) / (start / start.sum())
    mixture = shares @ likelihood.T
    first, second = ((likelihood[:, at] - likelihood[:, 2]) / mixture for at in (0, 1))
    a, b, c = (found * first**2).sum(axis=1), (found * first * second).sum(axis=1), (found * second**2).sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors: Floats = np.sqrt(c / (a * c - b * b))
    return np.where(np.isfinite(errors), errors, 0.5)


def negative_shares(
    counts: npt.ArrayLike, probabilities: Floats, prior: npt.ArrayLike, *, confidence: float = 0.95
) -> list[Interval]:
    """The negative share of each window with its interval."""
    shares = em_shares(counts, probabilities, prior)
    errors = share_errors(counts, probabilities, prior, shares) * stats.norm.isf((1 - confidence) / 2)
    return [
        Interval(value, max(value - error, 0.0), min(value + error, 1.0))
        for value, error in zip(shares[:, 0].tolist(), errors.tolist(), strict=True)
    ]


def cell_probabilities(probabilities: Floats) -> Floats:
    """(100, 3) of each cell of a sketch (p_negative and p_positive in tenths): the mean of reference rows (n, 3) in
    it, its centre where there is none."""
    at = np.minimum((probabilities[:, [0, 2]] * CELLS).astype(int), CELLS - 1) @ np.array([CELLS, 1])
    centres = (np.arange(CELLS) + 0.5) / CELLS
    negative, positive = np.repeat(centres, CELLS), np.tile(centres, CELLS)
    every = np.column_stack([negative, np.maximum(1 - negative - positive, 0.02), positive])
    every /= every.sum(axis=1, keepdims=True)
    counts = np.bincount(at, minlength=CELLS * CELLS)
    sums = np.column_stack([np.bincount(at, probabilities[:, of], CELLS * CELLS) for of in range(3)])
    means = sums / np.maximum(counts, 1)[:, None]
    return np.where(counts[:, None] > 0, means, every)


def difference(before: Interval, after: Interval) -> Interval:
    """How much more the share is, with the interval of two independent estimates (Newcombe 1998, method 10).

    >>> difference(Interval(0.25, 0.20, 0.30), Interval(0.40, 0.35, 0.45)).value.__round__(2)
    0.15
    """
    value = after.value - before.value
    below = np.hypot(after.value - after.low, before.high - before.value)
    above = np.hypot(after.high - after.value, before.value - before.low)
    return Interval(value, value - float(below), value + float(above))


def of_rows(probabilities: Floats, prior: Sequence[float] | Floats) -> Interval:
    """The negative share of reviews one by one."""
    return negative_shares(np.ones((1, len(probabilities))), probabilities, prior)[0]
