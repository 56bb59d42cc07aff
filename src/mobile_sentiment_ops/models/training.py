"""From labelled rows to a model.

    train       a new model: held-out scores, calibration and offsets on them, a fit on all rows
    go_on       a trained model and further rows: they are scored first, then learned from
    train_on    a stream of blocks of rows, of which only one is in memory

Calibration and decision offsets only ever see scores of rows that the scorer had not seen: cross-fitted
where a fit is cheap, the validation rows where it is not, and the scores of further rows before they are
learned from. The scorer that is kept has seen all rows, as the newest teach most about the next ones
(IDEA reviews by time: macro-F1 .62 instead of .60).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from mobile_sentiment_ops.errors import ModelError, TooFewRows
from mobile_sentiment_ops.models.calibration import fit_calibration, natural, tune_offsets
from mobile_sentiment_ops.models.kinds import Kind, grams_of, kind_named
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.models.rows import Floats, Parameters, Rows
from mobile_sentiment_ops.models.scorers import class_shares

if TYPE_CHECKING:
    import polars as pl

BLOCK_ROWS = 200_000
"""Rows that are counted and fitted together: more come one block after the other, in bounded memory."""

KNOWN_ROWS = 5_000.0
"""What offsets that were tuned before count for beside further rows."""


def train(
    kind: str,
    train: pl.DataFrame,
    validation: pl.DataFrame,
    *,
    seed: int,
    parameters: Parameters | None = None,
) -> SentimentModel:
    """A model of `kind` from frames with review_text, rating and label (an index into LABELS).

    `parameters` stand in the place of the kind's own. Raises ModelError for an unknown kind or
    parameter and TooFewRows without training rows.
    """
    made = kind_named(kind)
    merged = made.with_parameters(parameters or {})
    if not train.height:
        raise TooFewRows(f"there is no labelled review to train {kind} on; ingest reviews with stars or labels")
    if made.more is not None and train.height + validation.height > BLOCK_ROWS:
        shuffled = train.vstack(validation.select(train.columns)).sample(fraction=1.0, shuffle=True, seed=seed)
        blocks = (shuffled[at : at + BLOCK_ROWS] for at in range(0, shuffled.height, BLOCK_ROWS))
        return train_on(kind, blocks, seed=seed, parameters=merged)
    if made.most_rows is not None and train.height > made.most_rows:
        train = stratified_sample(train, made.most_rows, seed=seed)
    grams = grams_of(merged)
    return _train(made, Rows.of(train, grams), Rows.of(validation, grams), merged, seed)


def _train(kind: Kind, rows: Rows, held: Rows, parameters: Parameters, seed: int) -> SentimentModel:
    together = rows.followed_by(held)
    if kind.folds:
        scores, labels = _cross_fitted(kind, together, parameters, seed), together.labels
        scorer = kind.fit(together, parameters, seed)
    else:
        scorer = kind.fit(rows, parameters, seed)
        scores, labels = scorer.scores(held.found, held.ratings), held.labels
        scorer = kind.fit(together, parameters, seed) if len(held) else scorer
    start = natural(scorer.start, class_shares(together.labels))
    calibration = fit_calibration(scores, labels, start)
    offsets = (0.0, 0.0, 0.0)
    if kind.candidate:
        negative, neutral, positive = (-start.bias).tolist()
        offsets = tune_offsets(calibration.probabilities(scores), labels, (negative, neutral, positive))
    return SentimentModel(kind.name, parameters, scorer, calibration, offsets)


def _cross_fitted(kind: Kind, rows: Rows, parameters: Parameters, seed: int) -> Floats:
    """Scores (n, k) of all rows, each by a fit on the other folds."""
    fold = np.random.default_rng(seed).permutation(len(rows)) % kind.folds
    scores: list[Floats] = []
    places = []
    for out in range(min(kind.folds, len(rows))):
        inside, outside = np.flatnonzero(fold != out), np.flatnonzero(fold == out)
        if not inside.size:
            continue
        left = rows.take(outside)
        scores.append(kind.fit(rows.take(inside), parameters, seed).scores(left.found, left.ratings))
        places.append(outside)
    if not scores:  # one row: nothing is known of it without it
        return np.zeros((len(rows), kind.fit(rows, parameters, seed).start.shape[0]))
    together = np.empty((len(rows), scores[0].shape[1]))
    together[np.concatenate(places)] = np.concatenate(scores)
    return together


def go_on(model: SentimentModel, further: pl.DataFrame, *, seed: int) -> SentimentModel:
    """The model after `further` rows that it has not seen: its offsets are tuned on its scores of them,
    and then it learns from them alone. Its calibration stays: one fitted on the newest tenth alone cost
    up to .03 macro-F1.

    Raises ModelError for a kind that cannot go on.
    """
    kind = kind_named(model.kind)
    if kind.more is None:
        raise ModelError(f"{kind.name} cannot go on from where it was; train it on all rows")
    if not further.height:
        return model
    rows = Rows.of(further, grams_of(model.parameters))
    found = model.calibration.probabilities(model.scorer.scores(rows.found, rows.ratings))
    offsets = tune_offsets(found, rows.labels, model.offsets, start_rows=KNOWN_ROWS)
    return replace(model, scorer=kind.more(model.scorer, rows, model.parameters, seed), offsets=offsets)


def train_on(
    kind: str, blocks: Iterable[pl.DataFrame], *, seed: int, parameters: Parameters | None = None
) -> SentimentModel:
    """A model of a stream of frames, each small enough to be in memory, in an order that means nothing:
    the first is trained on, and the model goes on with each further one."""
    model = None
    for block in blocks:
        if model is None:
            model = train(kind, block, block.clear(), seed=seed, parameters=parameters)
        else:
            model = go_on(model, block, seed=seed)
    if model is None:
        raise TooFewRows(f"there is no block of reviews to train {kind} on; ingest reviews with stars or labels")
    return model


def stratified_sample(frame: pl.DataFrame, rows: int, *, seed: int) -> pl.DataFrame:
    """About `rows` rows of a frame, with every label's share as it was."""
    import polars as pl

    parts = frame.partition_by("label", maintain_order=True)
    return pl.concat([part.sample(round(part.height * rows / frame.height), seed=seed) for part in parts])
