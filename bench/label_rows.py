"""How well performance is known: losses found by labels, accuracy without labels, the negative share by EM.

    python -m bench.label_rows

On windows of real reviews (shifts.py), which are disjoint from the champion's reference. A loss of 7 points is made by
giving reviews another true label until macro-F1 of the whole stream is .07 lower: what they say means otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from bench.results import Row, goal_row, markdown
from bench.shifts import SHARED_DATA, World, make_pool
from mobile_sentiment_ops.monitoring.em import cell_probabilities, negative_shares
from mobile_sentiment_ops.monitoring.labels import (
    confidence_of,
    confusion,
    estimated_accuracy,
    live_performance,
    macro_f1,
    numbered,
)
from mobile_sentiment_ops.monitoring.rows import UNIT
from mobile_sentiment_ops.monitoring.sketch import CONFIDENCE_BINS
from mobile_sentiment_ops.settings import Monitoring

AREA = "monitoring"
TRIALS = 400
SOURCES = ("fintech", "idea")
LOSS = 0.07

Places = npt.NDArray[np.intp]


def told(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with `predicted`."""
    return frame.with_columns(numbered(frame["label"]))


def other_labels(stream: pl.DataFrame, chance: np.random.Generator) -> npt.NDArray[np.int8]:
    """The truth of the stream, of which so much is another label that macro-F1 is LOSS lower."""
    truth, predicted = stream["truth"].to_numpy(), stream["predicted"].to_numpy()
    draws, others = chance.random(len(truth)), (truth + chance.integers(1, 3, len(truth))) % 3
    whole, low, high = macro_f1(confusion(truth, predicted)).item(), 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        found = macro_f1(confusion(np.where(draws < middle, others, truth), predicted)).item()
        low, high = (middle, high) if whole - found < LOSS else (low, middle)
    return np.where(draws < low, others, truth).astype(np.int8)


def losses(source: str, prefix: str) -> Iterator[Row]:
    """Power and false alarms of the loss test."""
    settings = Monitoring()
    for n in (500, 2000):
        fired, covered = {"loss7": 0, "nothing": 0}, 0
        for world_at in range(4):
            world = World(make_pool(source, SHARED_DATA), world_at)
            reference, stream = told(world.reference), told(world.stream)
            stream = _alike(stream, reference)
            chance = np.random.default_rng([world_at, n])
            lost = other_labels(stream, chance)
            whole = macro_f1(confusion(stream["truth"], stream["predicted"])).item()
            for at in range(TRIALS // 4):
                drawn = stream[chance.choice(stream.height, n, replace=False)]
                changed = stream.with_columns(pl.Series("truth", lost))[chance.choice(stream.height, n, replace=False)]
                for name, rows in (("nothing", drawn), ("loss7", changed)):
                    found = live_performance(
                        rows, reference, min_labels=settings.min_labels, max_loss=settings.max_loss, seed=at
                    )
                    fired[name] += any(one.fired for one in (found.loss, *found.measured))
                    if name == "nothing":
                        first = found.measured[0]
                        covered += bool((first.low or 0) <= whole <= (first.high or 1))
        name, value = f"power/labels{n}/loss7", round(fired["loss7"] / TRIALS, 4)
        yield (
            goal_row(AREA, name, value, n=TRIALS)
            if not prefix
            else Row(f"{prefix}{name}", value, "share", "higher", n=TRIALS)
        )
        yield Row(f"{prefix}false_alarms/labels{n}", round(fired["nothing"] / TRIALS, 4), "share", "lower", n=TRIALS)
        yield Row(f"{prefix}coverage/macro_f1/labels{n}", round(covered / TRIALS, 4), "share", "higher", n=TRIALS)


def _alike(stream: pl.DataFrame, reference: pl.DataFrame) -> pl.DataFrame:
    """As much of the stream as has the reference's share of negatives, so that nothing moved."""
    wanted = _negatives(reference)
    negative, other = stream.filter(pl.col("truth") == 0), stream.filter(pl.col("truth") != 0)
    rows = int(min(negative.height / wanted, other.height / (1 - wanted)))
    return pl.concat([negative.head(int(rows * wanted)), other.head(rows - int(rows * wanted))])


def estimates(source: str, prefix: str, n: int = 2_000) -> Iterator[Row]:
    """Errors of accuracy without labels, and of the negative share by EM under prior shift."""
    accuracy, naive, covered = [], [], 0
    shares, counted, inside = [], [], 0
    for world_at in range(4):
        world = World(make_pool(source, SHARED_DATA), world_at)
        reference, stream = told(world.reference), _alike(told(world.stream), world.reference)
        known = confidence_of(*_scores(reference), reference["truth"].to_numpy())
        p = _probabilities(reference)
        cells, prior = cell_probabilities(p), p.mean(axis=0)
        chance = np.random.default_rng([world_at, n])
        for _ in range(TRIALS // 4):
            drawn = stream[chance.choice(stream.height, min(n, stream.height), replace=False)]
            labels, scores = _scores(drawn)
            chosen = scores[np.arange(len(labels)), labels]
            bins = labels.astype(int) * CONFIDENCE_BINS + np.minimum(
                chosen * CONFIDENCE_BINS // UNIT, CONFIDENCE_BINS - 1
            )
            counts = np.bincount(bins, minlength=3 * CONFIDENCE_BINS).reshape(3, -1)
            found = estimated_accuracy(counts, known, max_loss=0.05)
            right = float((labels == drawn["truth"].to_numpy()).mean())
            accuracy.append(abs((found.value or 0) - right))
            naive.append(abs(chosen.mean() / UNIT - right))
            covered += bool((found.low or 0) <= right <= (found.high or 1))
            wanted = chance.uniform(0.1, 0.7)
            moved = _at(world.stream, n, wanted, chance)
            q = _probabilities(moved)
            at = np.minimum((q[:, [0, 2]] * 10).astype(int), 9) @ np.array([10, 1])
            one = negative_shares(np.bincount(at, minlength=100), cells, prior)[0]
            truth = _negatives(moved)
            shares.append(abs(one.value - truth))
            counted.append(abs(float((moved["label"].to_numpy() == "Negative").mean()) - truth))
            inside += one.low <= truth <= one.high
    for name, errors, peer, beside in (
        ("label_free/mae_2000", accuracy, "mean confidence", naive),
        ("em_negative_share/mae_2000", shares, "counting predictions", counted),
    ):
        more: dict[str, Any] = {"n": TRIALS, "peers": {peer: round(float(np.mean(beside)), 4)}}
        value = round(float(np.mean(errors)), 4)
        unit = "accuracy" if "label" in name else "share"
        yield (
            goal_row(AREA, name, value, **more) if not prefix else Row(f"{prefix}{name}", value, unit, "lower", **more)
        )
    yield Row(f"{prefix}coverage/label_free", round(covered / TRIALS, 4), "share", "higher", n=TRIALS)
    yield Row(f"{prefix}coverage/em_negative_share", round(inside / TRIALS, 4), "share", "higher", n=TRIALS)


def _at(stream: pl.DataFrame, n: int, negatives: float, chance: np.random.Generator) -> pl.DataFrame:
    """Rows of which so many are negative."""
    negative = (stream["truth"] == 0).to_numpy()
    count = int(chance.binomial(n, negatives))
    parts = [chance.choice(np.flatnonzero(of), size) for of, size in ((negative, count), (~negative, n - count))]
    return stream[np.concatenate(parts)]


def _negatives(frame: pl.DataFrame) -> float:
    return float((frame["truth"].to_numpy() == 0).mean())


def _probabilities(frame: pl.DataFrame) -> npt.NDArray[np.float64]:
    return frame.select("p_negative", "p_neutral", "p_positive").to_numpy()


def _scores(frame: pl.DataFrame) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    return numbered(frame["label"]).to_numpy().astype(np.uint8), np.rint(_probabilities(frame) * UNIT).astype(np.int64)


def rows() -> list[Row]:
    """All of them, on both sources: the first one's are those with goals."""
    found: list[Row] = []
    for source in SOURCES:
        prefix = "" if source == SOURCES[0] else f"{source}/"
        found += [*losses(source, prefix), *estimates(source, prefix)]
    return found


if __name__ == "__main__":
    table = [[row.name, f"{row.value:g}", "" if row.goal is None else f"{row.goal:g}"] for row in rows()]
    print(markdown([["figure", "measured", "goal"], *table]))
