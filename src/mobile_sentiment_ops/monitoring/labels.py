"""How good the champion still is.

    live_performance     macro-F1 by the labels that came, whole and by slice, and the loss since the champion's test
    Confidence           P(right) by predicted label and confidence, from the champion's test rows
    estimated_accuracy   accuracy without any label, from the confidence of its predictions

Labels come late, few, and of reviews that a queue chose: each counts by the inverse of its chance to be chosen (Hajek
1971), and as many labels as they are worth (Kish 1965) give the interval. Without labels a review that means otherwise
than it used to (a word that was praise) is counted right: only labels show that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import stats
from sklearn.isotonic import IsotonicRegression

from mobile_sentiment_ops.monitoring.rows import UNIT, Ints
from mobile_sentiment_ops.monitoring.sketch import CONFIDENCE_BINS
from mobile_sentiment_ops.types import Measurement

Floats = npt.NDArray[np.float64]

RESAMPLES = 2_000
ALL_SHARE = 0.8
"""Of the 5% of false alarms, what all reviews together may raise; slices share the rest."""
MOST_SLICES = 20


@dataclass(frozen=True, slots=True)
class Performance:
    """`measured` begins with macro-F1 of all labels; `loss` is what was lost since the champion's test."""

    measured: tuple[Measurement, ...]
    loss: Measurement


def confusion(truth: npt.ArrayLike, predicted: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Floats:
    """(3, 3) sums of weights, by truth and prediction as indices into LABELS."""
    places = np.asarray(truth, int) * 3 + np.asarray(predicted, int)
    found: Floats = np.bincount(places, weights, minlength=9).astype(float).reshape(3, 3)
    return found


def macro_f1(tables: Floats) -> Floats:
    """Of confusion tables (..., 3, 3); a label that neither side has counts 0, as in models/evaluation.py.

    >>> macro_f1(np.diag([4.0, 2.0, 4.0])).item()
    1.0
    """
    right = np.diagonal(tables, axis1=-2, axis2=-1)
    sides = tables.sum(axis=-1) + tables.sum(axis=-2)
    found: Floats = (2 * right / np.maximum(sides, 1e-12)).mean(axis=-1)
    return found


def live_performance(
    labelled: pl.DataFrame,
    reference: pl.DataFrame,
    *,
    min_labels: int,
    max_loss: float,
    target: float = 0.0,
    seed: int = 0,
) -> Performance:
    """Macro-F1 by frames of `truth` and `predicted` (indices into LABELS), DIMENSIONS, and in `labelled` `weight`, the
    inverse of a label's chance to be there (1 for all where it is not told).

    The champion's test counts at the mix of true labels that the live ones have. The loss fires when it is no chance
    (5%, one-sided, all slices counted) and at least half of `max_loss`; below `target`, when the whole interval is.

    >>> rows = pl.DataFrame({"truth": [0, 1, 2] * 100, "predicted": [0, 1, 2] * 100})
    >>> wrong = pl.DataFrame({"truth": [0, 1, 2] * 100, "predicted": [2, 1, 2] * 100})
    >>> found = live_performance(wrong, rows, min_labels=100, max_loss=0.05)
    >>> found.loss.fired, round(found.measured[0].value, 2)
    (True, 0.56)
    """
    chance = np.random.default_rng(seed)
    before = confusion(reference["truth"], reference["predicted"])
    whole = _compare(labelled, before, {}, 0.05 * ALL_SHARE, min_labels, max_loss, target, chance)
    slices = _slices(labelled, min_labels)
    measured = [whole[0]]
    for part in slices:
        inside, home = _inside(labelled, part), _inside(reference, _home(part))
        base = confusion(home["truth"], home["predicted"]) if home.height >= min_labels else before
        share = 0.05 * (1 - ALL_SHARE) / len(slices)
        found, loss = _compare(inside, base, part, share, min_labels, max_loss, 0.0, chance)
        measured += [found, loss] if loss.fired else [found]
    return Performance(tuple(measured), whole[1])


def _compare(
    labelled: pl.DataFrame,
    before: Floats,
    part: Mapping[str, str],
    share: float,
    min_labels: int,
    max_loss: float,
    target: float,
    chance: np.random.Generator,
) -> tuple[Measurement, Measurement]:
    """Macro-F1 of labelled reviews, and what is lost against a table of the champion's test."""
    n, told = labelled.height, f" ({', '.join(f'{name} {value}' for name, value in part.items())})" if part else ""
    if n < min_labels:
        why = f"{n} of {min_labels} labels{told} are there (monitoring.min_labels)"
        return tuple(
            Measurement(name, None, None, False, why, n, part=part) for name in ("macro-F1", "loss of macro-F1")
        )  # type: ignore[return-value]
    weights = labelled["weight"].to_numpy() if "weight" in labelled.columns else np.ones(n)
    worth = float(weights.sum() ** 2 / (weights**2).sum())
    table = confusion(labelled["truth"], labelled["predicted"], weights)
    live = _resampled(table / table.sum(), worth, chance)
    test = _at_mix(_resampled(before / before.sum(), float(before.sum()), chance), live)
    lost_by_chance = macro_f1(test) - macro_f1(live)
    value, was = float(macro_f1(table)), float(macro_f1(_at_mix(before, table)))
    low, high = np.quantile(macro_f1(live), [0.025, 0.975]).tolist()
    under = bool(target) and high < target
    as_many = "" if worth > 0.95 * n else f", worth {worth:,.0f} drawn by chance"
    reason = f"macro-F1{told} is {value:.3f} ({low:.3f} to {high:.3f}) by {n:,} labels{as_many}"
    found = Measurement("macro-F1", value, target or None, under, reason, n, low, high, part)
    lost = was - value
    surely = float(np.quantile(lost_by_chance, share))
    upper = float(np.quantile(lost_by_chance, 0.975))
    fired = surely > 0 and lost >= max_loss / 2
    reason = (
        f"macro-F1{told} fell from {was:.3f}, expected at this mix of labels, to {value:.3f} by {n:,} labels"
        if lost > 0
        else "nothing is lost"
    )
    reason += f": no chance, at least {surely:.3f} is lost" if fired else ""
    return found, Measurement("loss of macro-F1", lost, max_loss / 2, fired or under, reason, n, surely, upper, part)


def _resampled(shares: Floats, n: float, chance: np.random.Generator) -> Floats:
    """Tables of n reviews drawn from these shares (the bootstrap of a table; Efron 1979)."""
    return chance.multinomial(max(round(n), 1), shares.ravel(), RESAMPLES).reshape(-1, 3, 3).astype(float)


def _at_mix(tables: Floats, live: Floats) -> Floats:
    """Tables of the champion's test with as much of each true label as the live ones have: people who feel otherwise
    are no loss of the model's."""
    rows = tables.sum(axis=-1, keepdims=True)
    mixed: Floats = tables / np.maximum(rows, 1e-12) * live.sum(axis=-1, keepdims=True)
    return mixed


def _slices(labelled: pl.DataFrame, least: int) -> list[dict[str, str]]:
    """Apps, versions of apps and languages with enough labels, the most labelled first."""
    found: list[tuple[int, dict[str, str]]] = []
    for names in (("app",), ("app", "version"), ("language",)):
        if set(names) <= set(labelled.columns):
            counts = (
                labelled.drop_nulls(names).group_by(names, maintain_order=True).len().filter(pl.col("len") >= least)
            )
            found += [(row[-1], dict(zip(names, row[:-1], strict=True))) for row in counts.rows()]
    found = [(count, part) for count, part in found if count < labelled.height]
    return [part for _, part in sorted(found, key=lambda one: -one[0])[:MOST_SLICES]]


def _home(part: Mapping[str, str]) -> Mapping[str, str]:
    """What a slice is compared with: a version with its app, as versions come and go."""
    return {name: value for name, value in part.items() if name != "version"}


def _inside(frame: pl.DataFrame, part: Mapping[str, str]) -> pl.DataFrame:
    return frame.filter(*(pl.col(name) == value for name, value in part.items())) if part else frame


# --- without labels


@dataclass(frozen=True, slots=True)
class Confidence:
    """By predicted label and confidence in twentieths (3, 20): P(right), rising with confidence, its standard error,
    and the accuracy on the rows it is of."""

    right: Floats
    errors: Floats
    accuracy: float


def fit_confidence(confidence: Ints, right: Ints) -> Confidence:
    """From counts (3, 20) of the champion's test rows, and how many of them were right. Isotonic regression (Zadrozny
    and Elkan 2002) for each predicted label; a bin without rows is between its neighbours."""
    centres = (np.arange(CONFIDENCE_BINS) + 0.5) / CONFIDENCE_BINS
    shares, errors = np.empty(confidence.shape), np.empty(confidence.shape)
    overall = float(right.sum() / max(confidence.sum(), 1))
    for label, (counts, hits) in enumerate(zip(confidence, right, strict=True)):
        filled = counts > 0
        if not filled.any():
            shares[label], errors[label] = overall, 0.25
            continue
        fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(
            centres[filled], hits[filled] / counts[filled], sample_weight=counts[filled]
        )
        shares[label] = fitted.predict(centres)
        pooled = np.array([counts[np.isclose(shares[label], share)].sum() for share in shares[label]])
        errors[label] = np.sqrt(
            shares[label] * (1 - shares[label]) / np.maximum(pooled, 1) + 0.25 / np.maximum(pooled, 1) ** 2
        )
    return Confidence(shares, errors, overall)


def confidence_of(labels: npt.NDArray[np.uint8], scores: Ints, truth: npt.NDArray[np.int8]) -> Confidence:
    """The same from rows: predicted labels, scores (n, 3) in units of UNIT, and truth."""
    chosen = scores[np.arange(len(labels)), labels]
    bins = labels.astype(int) * CONFIDENCE_BINS + np.minimum(chosen * CONFIDENCE_BINS // UNIT, CONFIDENCE_BINS - 1)
    size = 3 * CONFIDENCE_BINS
    counts = np.bincount(bins, minlength=size).reshape(3, -1)
    return fit_confidence(counts, np.bincount(bins[labels == truth], minlength=size).reshape(3, -1))


def estimated_accuracy(confidence: Ints, known: Confidence, *, max_loss: float, min_reviews: int = 50) -> Measurement:
    """Accuracy of predictions by their counts (3, 20) alone. Fires when it is surely more than `max_loss` below that
    of the champion's test."""
    n = int(confidence.sum())
    name, limit = "accuracy without labels", known.accuracy - max_loss
    if n < min_reviews:
        return Measurement(
            name, None, limit, False, f"{n} of {min_reviews} reviews are there (monitoring.min_reviews)", n
        )
    shares = confidence / n
    value = float((shares * known.right).sum())
    chance = (shares * known.right * (1 - known.right)).sum() / n
    error = float(np.sqrt(chance + (shares**2 * known.errors**2).sum()))
    reach = float(stats.norm.isf(0.025)) * error
    fired = value + reach < limit
    reason = f"accuracy is {value:.1%} ({value - reach:.1%} to {value + reach:.1%}) by confidence alone, and"
    reason += f" {known.accuracy:.1%} in the champion's test; without labels, words that mean otherwise now go unseen"
    return Measurement(name, value, limit, fired, reason, n, value - reach, min(value + reach, 1.0))


def numbered(labels: Sequence[str] | pl.Series) -> pl.Series:
    """Labels by name as indices into LABELS."""
    names = {"Negative": 0, "Neutral": 1, "Positive": 2}
    return pl.Series("predicted", labels).replace_strict(names, return_dtype=pl.Int8())
