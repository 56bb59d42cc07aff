"""What share of reviews is negative, neutral and positive, by a model's probabilities and not by counting its answers.

    Cells          what the test rows say of each cell of probabilities: how often each class is in it
    class_shares   the shares of many windows at once, with their errors
    difference     of one share between two windows

A model leans towards the shares it was trained at: counted answers, and the mean of its probabilities too, show a
change smaller than it is. The shares under which a window's probabilities are likeliest do not, as long as reviews of
a class read as before (Saerens, Latinne and Decaestecker 2002, Neural Computation 14:21-41, who climb by EM). The
likelihood is concave, so Newton's method finds the same maximum, in some ten steps where EM takes hundreds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from mobile_sentiment_ops.errors import TooFewRows
from mobile_sentiment_ops.types import LABELS, Interval

Floats = npt.NDArray[np.float64]

GRID = 10
Z95 = NormalDist().inv_cdf(0.975)
STEPS, PRECISION = 60, 1e-5
BEFORE = 1.0
"""The reference's shares count as much as so many reviews: no share is exactly 0, and no review at all is no error."""
CELL_BEFORE = 1.0
"""In a cell, the mean of the model's probabilities counts as much as so many test rows."""

_REDUCED = np.array([[1.0, -1.0, 0.0], [0.0, -1.0, 1.0]])
"""Directions in which shares can move so that their sum stays."""


def grid_cells(probabilities: Floats) -> npt.NDArray[np.int64]:
    """The cell (n,) of each row (n, 3), 0 to 99: tenths of p_negative, then of p_positive, as sketches count them.

    >>> grid_cells(np.array([[0.72, 0.18, 0.1], [0.0, 0.0, 1.0]])).tolist()
    [71, 9]
    """
    tenths = np.minimum((probabilities[:, [0, 2]] * GRID).astype(np.int64), GRID - 1)
    return np.asarray(tenths[:, 0] * GRID + tenths[:, 1])


@dataclass(frozen=True, slots=True)
class Cells:
    """`posteriors` (c, 3) of the classes in each cell, at the shares `prior` (3,) and known from so many `rows`. The
    probabilities of a window's own rows serve as well, each row a cell that counts once."""

    posteriors: Floats
    prior: Floats
    rows: float = math.inf

    @classmethod
    def of(
        cls, places: npt.NDArray[np.int64], probabilities: Floats, truth: npt.NDArray[np.integer], size: int
    ) -> Cells:
        """From test rows: their cells (n,), probabilities (n, 3) and classes (n,); TooFewRows when a class has none.

        >>> p = np.array([[0.72, 0.18, 0.1], [0.1, 0.6, 0.3], [0.0, 0.0, 1.0]])
        >>> Cells.of(grid_cells(p), p, np.array([0, 1, 2]), GRID * GRID).posteriors[71].round(2).tolist()
        [0.86, 0.09, 0.05]
        """
        shares = np.bincount(truth, minlength=len(LABELS)) / max(truth.size, 1)
        if not shares.all():
            raise TooFewRows(f"{LABELS[shares.argmin()]} has none of {truth.size:,} test rows, so no share is known of")
        found, means = np.zeros((size, 3)), np.zeros((size, 3))
        np.add.at(found, (places, truth), 1.0)
        np.add.at(means, places, probabilities)
        rows = found.sum(axis=1, keepdims=True)
        before = np.where(rows > 0, means / np.maximum(rows, 1), shares)
        return cls((found + CELL_BEFORE * before) / (rows + CELL_BEFORE), shares, float(truth.size))


@dataclass(frozen=True, slots=True)
class Shares:
    """`values` (..., 3) of the classes and their `covariance` (..., 3, 3)."""

    values: Floats
    covariance: Floats

    def interval(self, *window: int, label: int = 0) -> Interval:
        """The share of one class in one window, with 95%."""
        value = float(self.values[(*window, label)])
        return inside(value, math.sqrt(self.covariance[(*window, label, label)]))


def class_shares(counts: npt.NDArray[np.number], cells: Cells) -> Shares:
    """The shares of windows whose reviews fall into cells so often (..., c).

    The error is that of so many reviews (the observed information) and of so many test rows: a class whose rows in
    the reference fall otherwise into cells by chance shifts the shares by what those cells shift them.

    >>> p = np.array([[0.9, 0.05, 0.05]] * 30 + [[0.1, 0.2, 0.7]] * 30)
    >>> found = class_shares(np.ones(60), Cells(p, np.array([0.25, 0.25, 0.5])))
    >>> found.values.round(2).tolist(), round(found.interval().low, 2)
    ([0.67, 0.01, 0.32], 0.48)
    """
    flat = counts.reshape(-1, counts.shape[-1]).astype(np.float64)
    ratios = cells.posteriors / cells.prior
    products = (ratios[:, :, None] * ratios[:, None, :]).reshape(len(ratios), 9)
    shares, active = np.tile(cells.prior, (len(flat), 1)), np.arange(len(flat))
    for _ in range(STEPS):
        near, (slope, bend) = shares[active], _climb(flat[active], ratios, products, cells.prior, shares[active])
        step = np.linalg.solve(bend, slope[..., None])[..., 0] @ _REDUCED
        edge = np.where(step < 0, -0.95 * near / np.minimum(step, -1e-300), np.inf).min(axis=1)
        shares[active] = near + np.minimum(edge, 1.0)[:, None] * step
        active = active[np.abs(step).max(axis=1) > PRECISION]
        if not active.size:
            break
    _, bend = _climb(flat, ratios, products, cells.prior, shares)
    inverse = _REDUCED.T @ np.linalg.inv(bend) @ _REDUCED
    covariance = inverse + _of_reference(flat, ratios, shares, inverse, cells.rows * cells.prior)
    shape = counts.shape[:-1]
    return Shares(shares.reshape(*shape, 3), covariance.reshape(*shape, 3, 3))


def _climb(counts: Floats, ratios: Floats, products: Floats, prior: Floats, shares: Floats) -> tuple[Floats, Floats]:
    """The slope (w, 2) of the log likelihood at these shares, and how it bends (w, 2, 2), upwards positive."""
    mixed = shares @ ratios.T
    weights = counts / mixed
    slope = weights @ ratios + BEFORE * prior / shares
    bend = ((weights / mixed) @ products).reshape(-1, 3, 3) + BEFORE * (prior / shares**2)[:, :, None] * np.eye(3)
    return slope @ _REDUCED.T, _REDUCED @ bend @ _REDUCED.T


def _of_reference(counts: Floats, ratios: Floats, shares: Floats, inverse: Floats, rows_of_class: Floats) -> Floats:
    """The covariance (w, 3, 3) of shares that comes of test rows being so many of each class."""
    mixed = shares @ ratios.T
    of_class = (counts / mixed)[:, :, None] * ratios * shares[:, None, :]
    moves = (ratios / mixed[:, :, None]) @ inverse
    reviews = of_class.sum(axis=1)
    weights = reviews / rows_of_class
    means = np.swapaxes(of_class, 1, 2) @ moves / np.maximum(reviews, 1e-300)[:, :, None]
    spread = np.swapaxes(moves, 1, 2) @ ((of_class @ weights[:, :, None]) * moves)
    return np.asarray(spread - np.swapaxes(means, 1, 2) @ ((weights * reviews)[:, :, None] * means))


def difference(before: Shares, after: Shares, *, label: int = 0) -> Interval:
    """How much one class's share rose from one window to another, both single, with 95%.

    >>> p, few = np.array([[0.9, 0.05, 0.05]] * 30 + [[0.1, 0.2, 0.7]] * 30), np.repeat([0, 1], 30)
    >>> cells = Cells(p, np.array([0.25, 0.25, 0.5]))
    >>> found = difference(class_shares(few, cells), class_shares(1 - few, cells))
    >>> found.value > 0.7, found.low > 0.4
    (True, True)
    """
    value = float(after.values[label] - before.values[label])
    reach = Z95 * math.sqrt(before.covariance[label, label] + after.covariance[label, label])
    return Interval(value, max(value - reach, -1.0), min(value + reach, 1.0))


def inside(share: float, error: float, *, z: float = Z95) -> Interval:
    """The interval of a share with this standard error, normal on the logit's scale so that it stays within 0 to 1.

    >>> found = inside(0.9, 0.05)
    >>> round(found.low, 3), round(found.high, 3)
    (0.752, 0.964)
    """
    if not 0 < share < 1:
        return Interval(share, max(share - z * error, 0.0), min(share + z * error, 1.0))
    logit, error = math.log(share / (1 - share)), error / (share * (1 - share))
    low, high = (1 / (1 + math.exp(-(logit + side * z * error))) for side in (-1, 1))
    return Interval(share, low, high)
