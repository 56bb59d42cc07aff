"""How good the champion still is: by the labels that came, and without any.

    live_performance        macro-F1 and accuracy by labels, whole and by slice, and the loss since the champion's test
    Confidence              what was true in the champion's test, by what it answered and how sure it was
    estimated_performance   accuracy and macro-F1 of reviews without labels, by Confidence

Labels come late, few, and of reviews that a queue chose: each counts by the inverse of its chance to be chosen,
normalised (Hajek 1971). Without labels, a review that means otherwise than it used to is counted right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import polars as pl

from mobile_sentiment_ops.errors import TooFewRows
from mobile_sentiment_ops.models.evaluation import MIN_SLICE_ROWS
from mobile_sentiment_ops.monitoring.shares import Z95, Shares, inside
from mobile_sentiment_ops.types import LABELS, Measurement

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Part = Mapping[str, str]

WHOLE_SHARE, SLICES_SHARE = 0.7, 0.15
"""Of the false alarms, what all reviews together may raise, and all slices. The rest is kept back: macro-F1 of some
hundred labels has a longer tail than the normal distribution's (5 to 6% fire where 5% are meant)."""
MAX_SLICES = 20
"""At most so many are judged, those with most labels: each more makes the others' limits wider."""
MIN_CLASS = 5
"""Fewest labels of each class that macro-F1 is measured by."""
BINS = 20
BEFORE = 1.0
"""In a bin of confidence, the champion's own confidence counts as much as so many test rows."""

_SLICES = (("app",), ("app", "version"), ("language",))
_SUMS = ("weights", "squares", "counts")
_TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Performance:
    """`measured` begins with macro-F1 of all labels. `loss` is the first that fired, of all reviews or of a slice, else
    that of all."""

    measured: tuple[Measurement, ...]
    loss: Measurement


@dataclass(frozen=True, slots=True)
class Table:
    """Labelled rows by truth and prediction (3, 3): sums of their weights and of the squares of those, and counts."""

    weights: Floats
    squares: Floats
    counts: Floats

    @property
    def n(self) -> int:
        """How many labels."""
        return int(self.counts.sum())

    @property
    def shares(self) -> Floats:
        """Of all weights."""
        return np.asarray(self.weights / self.weights.sum())

    @property
    def worth(self) -> float:
        """So many labels that were drawn evenly say as much (Kish 1965)."""
        return float(self.weights.sum() ** 2 / max(self.squares.sum(), _TINY))

    def error(self, slope: Floats) -> float:
        """The standard error of a figure that rises so (3, 3) with the shares: that of its linear part. Its intervals
        hold as often as those of 1,000 resamples."""
        spread = (slope - (self.shares * slope).sum()) ** 2
        return float(math.sqrt((self.squares * spread).sum()) / self.weights.sum())

    def lacks(self, least: int) -> str:
        """What is missing for macro-F1, if anything."""
        if self.worth < least:
            worth = f", worth {self.worth:.0f} drawn evenly," if self.worth < 0.95 * self.n else ""
            return f"{self.n}{worth} of {least} labels"
        few = self.counts.sum(axis=1)
        return f"{few.min():.0f} of {MIN_CLASS} labels {LABELS[few.argmin()]}" if few.min() < MIN_CLASS else ""


def macro_f1(shares: Floats) -> tuple[float, Floats]:
    """Macro-F1 of shares by truth and prediction (3, 3), and how it rises with each of them (3, 3).

    >>> value, slope = macro_f1(np.diag([0.2, 0.3, 0.5]))
    >>> value, slope[0].round(2).tolist()
    (1.0, [0.0, -1.39, -1.17])
    """
    both = np.maximum(shares.sum(axis=0) + shares.sum(axis=1), _TINY)
    f1 = 2 * np.diagonal(shares) / both
    slope = np.diag(2 / both) - (f1 / both)[:, None] - (f1 / both)[None, :]
    return float(f1.mean()), slope / len(LABELS)


def accuracy(shares: Floats) -> tuple[float, Floats]:
    """The same for the share that is right.

    >>> accuracy(np.diag([0.2, 0.3, 0.5]))[0]
    1.0
    """
    return float(np.trace(shares)), np.eye(3)


def live_performance(
    labelled: pl.DataFrame,
    tested: pl.DataFrame,
    *,
    min_labels: int = 100,
    max_loss: float = 0.05,
    target: float = 0.0,
    false_alarms: float = 0.05,
) -> Performance:
    """Performance by labelled reviews, against the champion's test: frames of `truth` and `predicted` (indices into
    LABELS), and of `app`, `version` and `language` where they are known. `weight` is the inverse of a label's chance
    to be there, 1 where it is not told; `min_labels` is what they are to be worth.

    The loss is the macro-F1 that the test has at the live mix of true labels, less the live one: people who feel
    otherwise are no loss. It fires when it is beyond chance, and may be as large as `max_loss` by its 95% interval: a
    trifle that many labels prove does not. A version is compared with its app's test rows, a slice that the test has
    too few of with all. With a `target`, macro-F1 surely below that fires, and slices are measured alone.

    >>> rows = pl.DataFrame({"truth": [0, 1, 2] * 100, "predicted": [0, 1, 2] * 100})
    >>> found = live_performance(rows.with_columns(predicted=pl.Series([0, 1, 1] * 60 + [0, 1, 2] * 40)), rows)
    >>> found.loss.reason
    'macro-F1 fell from 1.000, in the test at this mix of labels, to 0.780 by 300 labels, which is no chance'
    >>> live_performance(rows[:37], rows).loss.reason
    'not measured: only 37 of 100 labels'
    """
    labelled, tested = _cells(labelled), _cells(tested)
    before = _tables(tested, (), 0).get((), _NOTHING)
    if before.lacks(0):
        raise TooFewRows(
            f"the champion's test has only {before.lacks(0)}; expected {MIN_CLASS} of each to compare with"
        )
    whole = _tables(labelled, (), 0).get((), _NOTHING)
    slices: list[tuple[Part, Table, Table]] = []
    for names in (names for names in _SLICES if {*names} <= {*labelled.columns}):
        homes = _tables(tested, names[:1], MIN_SLICE_ROWS) if names[0] in tested.columns else {}
        for key, table in _tables(labelled, names, MIN_SLICE_ROWS).items():
            home = homes.get(key[:1], before)
            if table.n < whole.n and not table.lacks(MIN_SLICE_ROWS):
                slices.append((dict(zip(names, key, strict=True)), table, before if home.lacks(0) else home))
    slices = sorted(slices, key=lambda one: (-one[1].n, *one[0].values()))[:MAX_SLICES]
    normal = NormalDist()
    z = normal.inv_cdf(1 - WHOLE_SHARE * false_alarms)
    losses = [_loss(whole, before, {}, min_labels, max_loss, target, z)]
    figures = {"macro-F1": macro_f1, "accuracy": accuracy}
    measured = [*(_figure(name, of, whole, {}, min_labels) for name, of in figures.items()), losses[0]]
    z = normal.inv_cdf(1 - SLICES_SHARE * false_alarms / max(len(slices), 1))
    for part, table, home in slices:
        measured.append(_figure("macro-F1", macro_f1, table, part, MIN_SLICE_ROWS))
        loss = _loss(table, home, part, MIN_SLICE_ROWS, max_loss, 0.0, z)
        if loss.fired and not target:
            losses.append(loss)
            measured.append(loss)
    return Performance(tuple(measured), next((one for one in losses if one.fired), losses[0]))


_NOTHING = Table(*np.zeros((3, 3, 3)))


def _cells(frame: pl.DataFrame) -> pl.DataFrame:
    """Rows of like names, truth and prediction as one: their weights, the squares of those, and how many they are."""
    weight = pl.col("weight") if "weight" in frame.columns else pl.lit(1.0)
    names = [name for name in ("app", "version", "language") if name in frame.columns]
    one = frame.select(*names, "truth", "predicted", weights=weight, squares=weight**2, counts=pl.lit(1.0))
    return one.group_by(*names, "truth", "predicted", maintain_order=True).agg(pl.col(_SUMS).sum())


def _tables(cells: pl.DataFrame, names: tuple[str, ...], least: int) -> dict[tuple[str, ...], Table]:
    """The table of each value of these columns that has so many rows."""
    if names:
        cells = cells.drop_nulls(names).filter(pl.col("counts").sum().over(names) >= least)
    sums = cells.group_by(*names, "truth", "predicted", maintain_order=True).agg(pl.col(_SUMS).sum())
    found: dict[tuple[str, ...], Floats] = {}
    for *key, truth, predicted, weights, squares, counts in sums.rows():
        found.setdefault(tuple(key), np.zeros((3, 3, 3)))[:, truth, predicted] = weights, squares, counts
    return {key: Table(*tables) for key, tables in found.items()}


def _figure(
    name: str, of: Callable[[Floats], tuple[float, Floats]], live: Table, part: Part, least: int
) -> Measurement:
    """Macro-F1 or accuracy."""
    if lacks := live.lacks(least):
        return Measurement(name, None, None, False, f"not measured: only {lacks}", live.n, part=part)
    value, slope = of(live.shares)
    ends = inside(value, live.error(slope))
    reason = f"{name}{_of(part)} is {value:.3f} ({ends.low:.3f} to {ends.high:.3f}) by {_by(live)}"
    return Measurement(name, value, None, False, reason, live.n, ends.low, ends.high, part)


def _loss(live: Table, test: Table, part: Part, least: int, max_loss: float, target: float, z: float) -> Measurement:
    """What is lost, with the largest loss that does not fire as its limit.

    Its error is a score test's (Rao 1948): that which chance makes when nothing is lost and each class is answered as
    in the test. With the live rows' own, 7% fire at 100 labels where 5% are meant.
    """
    name = "loss of macro-F1"
    if lacks := live.lacks(least):
        return Measurement(name, None, None, False, f"not measured: only {lacks}", live.n, part=part)
    value, slope = macro_f1(live.shares)
    if target:
        was, error, limit, what = target, live.error(slope), 0.0, "the target"
    else:
        mix, rows = live.shares.sum(axis=1), test.weights.sum(axis=1)
        chances = test.weights / rows[:, None]
        was, slope = macro_f1(mix[:, None] * chances)
        spread = (chances * slope**2).sum(axis=1) - (chances * slope).sum(axis=1) ** 2
        drawn = live.squares.sum(axis=1) / live.weights.sum() ** 2 + mix**2 / rows
        error = math.sqrt(max((drawn * spread).sum(), 0.0))
        limit, what = max_loss - Z95 * error, "in the test at this mix of labels"
    lost, limit = was - value, max(z * error, limit)
    surely = lost > z * error
    reason = f"macro-F1{_of(part)} {'fell' if surely else 'went'} from {was:.3f}, {what}, to {value:.3f} by {_by(live)}"
    trifle = f", which is surely less than the {max_loss:g} that may be lost"
    reason += ", which is no chance" if lost > limit else trifle if surely else ", which chance makes as well"
    ends = lost - Z95 * error, lost + Z95 * error
    return Measurement(name, lost, limit, lost > limit, reason, live.n, *ends, part)


def _of(part: Part) -> str:
    return f" of {', '.join(f'{name} {value}' for name, value in part.items())}" if part else ""


def _by(live: Table) -> str:
    return f"{live.n:,} labels" + (f" worth {live.worth:,.0f} drawn evenly" if live.worth < 0.95 * live.n else "")


# --- without labels


def confidence_counts(probabilities: Floats, predicted: npt.NDArray[np.integer]) -> Ints:
    """Counts (3, 20) of predictions by their label and their confidence in twentieths, as sketches have them.

    >>> confidence_counts(np.array([[0.72, 0.18, 0.1]]), np.array([0]))[0].argmax().item()
    14
    """
    return np.asarray(np.bincount(_bins(probabilities, predicted), minlength=3 * BINS).reshape(3, BINS))


def _bins(probabilities: Floats, predicted: npt.NDArray[np.integer]) -> Ints:
    chosen = probabilities[np.arange(len(predicted)), predicted]
    return np.asarray(predicted.astype(np.int64) * BINS + np.minimum((chosen * BINS).astype(np.int64), BINS - 1))


@dataclass(frozen=True, slots=True)
class Confidence:
    """The champion's test rows: `counts` (3, 20, 3) by prediction, confidence in twentieths and truth."""

    counts: Ints

    @classmethod
    def of(
        cls, probabilities: Floats, predicted: npt.NDArray[np.integer], truth: npt.NDArray[np.integer]
    ) -> Confidence:
        """From probabilities (n, 3), predictions (n,) and what was true (n,)."""
        places = _bins(probabilities, predicted) * 3 + truth
        return cls(np.bincount(places, minlength=9 * BINS).reshape(3, BINS, 3))

    @property
    def table(self) -> Floats:
        """Test rows by truth and prediction (3, 3)."""
        return np.asarray(self.counts.sum(axis=1).T, np.float64)

    @property
    def chances(self) -> Floats:
        """(3, 20, 3) what is true for a prediction of that confidence. A bin without rows is taken at its word, and
        what is else true shared as in all wrong rows of that prediction. Isotonic regression (Zadrozny and Elkan 2002)
        in place of the bins was no better: .0073 and .0073, .0086 and .0086 of error at 2,000 reviews."""
        own, right = (np.arange(BINS) + 0.5) / BINS, np.eye(3)[:, None, :]
        wrong = (self.counts.sum(axis=1) + 1.0)[:, None, :] * (1 - right)
        usual = right * own[:, None] + wrong / wrong.sum(axis=2, keepdims=True) * (1 - own[:, None])
        return np.asarray((self.counts + BEFORE * usual) / (self.counts.sum(axis=2, keepdims=True) + BEFORE))


def estimated_performance(
    counts: npt.NDArray[np.number],
    known: Confidence,
    *,
    max_loss: float = 0.05,
    min_reviews: int = 50,
    shares: Shares | None = None,
) -> tuple[Measurement, Measurement]:
    """Accuracy and macro-F1 of reviews by their counts (3, 20) of prediction and confidence, with 95% intervals that
    hold the chance of these reviews and that of the test rows. Each fires when it is more than `max_loss` below the
    test's, and beyond chance.

    It sees reviews that are harder than the test's, and no word that changed its meaning: only labels show that. Where
    the shares of the classes moved it is biased, unless they are given, as `class_shares` finds them: the test's truths
    are then weighted to those, and their error counts.

    >>> p, truth = np.array([[0.9, 0.05, 0.05]] * 10), np.array([0] * 8 + [1, 2])
    >>> known = Confidence.of(p, truth * 0, truth)
    >>> found, _ = estimated_performance(10 * confidence_counts(p, truth * 0), known)
    >>> round(found.value, 2), found.fired
    (0.81, False)
    """
    n, test, chances = int(counts.sum()), known.table / max(known.table.sum(), 1), known.chances
    names = "accuracy without labels", "macro-F1 without labels"
    if n < min_reviews:
        why = f"not measured: only {n} of {min_reviews} reviews"
        first, second = (Measurement(name, None, None, False, why, n) for name in names)
        return first, second
    if shares is not None:
        chances = chances * (shares.values / np.maximum(test.sum(axis=1), 1 / known.table.sum()))
        chances = chances / chances.sum(axis=2, keepdims=True)
    part = counts / n
    found: list[Measurement] = []
    live = np.einsum("pb,pbt->tp", part, chances)
    for name, of in zip(names, (accuracy, macro_f1), strict=True):
        (value, slope), (was, _) = of(live), of(test)
        rises = slope.T[:, None, :]
        away = rises - (chances * rises).sum(axis=2, keepdims=True)
        spread = (chances * away**2).sum(axis=2)
        variance = (spread * (part / n + part**2 / (known.counts.sum(axis=2) + BEFORE))).sum()
        if shares is not None:
            by_share = np.einsum("pb,pbt,pbt->t", part, chances, away) / shares.values
            variance += by_share @ shares.covariance @ by_share
        error = math.sqrt(variance)
        ends, limit = inside(value, error), was - max(max_loss, Z95 * error)
        reason = (
            f"{name} is {value:.3f} ({ends.low:.3f} to {ends.high:.3f}), {was:.3f} in the test; what means otherwise"
        )
        reason += " than it did goes unseen" + (
            ", and shares of the classes that moved bias it" if shares is None else ""
        )
        found.append(Measurement(name, value, limit, value < limit, reason, n, ends.low, ends.high))
    return found[0], found[1]
