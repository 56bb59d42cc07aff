"""How well performance is known: losses found by labels, accuracy without labels, the negative share by EM.

    python -m bench.performance_rows

On real reviews that the champion never saw (shifts.py), parted by chance anew in each trial into its test and the
reviews that windows are drawn from without replacement. A loss of 7 points is made by another truth: of each review
with the same chance, or of one class alone, such that expected macro-F1 is .07 lower. A window in which the negative
share moved has 10 to 60% negatives, all others as they were among each other.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from bench.gate import wilson
from bench.results import Row, goal_row, goals, markdown
from bench.shifts import NAMES, SHARED_DATA, make_pool
from mobile_sentiment_ops.data.predictions import PROBABILITIES
from mobile_sentiment_ops.monitoring.performance import (
    Confidence,
    confidence_counts,
    estimated_performance,
    live_performance,
    macro_f1,
)
from mobile_sentiment_ops.monitoring.rows import DIMENSIONS
from mobile_sentiment_ops.monitoring.shares import GRID, Cells, class_shares, difference, grid_cells

AREA = "monitoring"
SOURCES = ("fintech", "idea")
TRIALS = 600
TEST = 0.4
LOSS = 0.07
NEGATIVES = (0.1, 0.6)
QUEUE_SHARE = 0.5
"""Of the labels of a biased window, those that a queue chose by how unsure the champion was."""

Places = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Reviews:
    """Scored reviews: a frame of DIMENSIONS, `truth` and `predicted`, both as arrays too, and probabilities (n, 3)."""

    frame: pl.DataFrame
    truth: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    p: Floats

    @classmethod
    def of(cls, source: str) -> Reviews:
        held_out = make_pool(source, SHARED_DATA).held_out
        numbers = held_out["label"].replace_strict(NAMES, range(3), return_dtype=pl.Int64()).alias("predicted")
        frame = held_out.select(*DIMENSIONS, pl.col("truth").cast(pl.Int64()), numbers)
        p = held_out.select(PROBABILITIES).to_numpy()
        return cls(frame, frame["truth"].to_numpy(), frame["predicted"].to_numpy(), p)

    def parted(self, trial: int) -> tuple[Places, Places]:
        """The champion's test, and what windows are drawn from."""
        order = np.random.default_rng([0, trial]).permutation(len(self.truth))
        cut = round(TEST * len(order))
        return order[:cut], order[cut:]

    def moved(self, places: Places, rows: int, chance: np.random.Generator) -> tuple[Places, float]:
        """Rows of these with a negative share of NEGATIVES, and that share."""
        negative = self.truth[places] == 0
        share = chance.uniform(*NEGATIVES)
        count = int(chance.binomial(rows, share))
        parts = [
            chance.choice(places[of], size, replace=False)
            for of, size in ((negative, count), (~negative, rows - count))
        ]
        return np.concatenate(parts), share

    def table(self, places: Places) -> Floats:
        """Shares by truth and prediction."""
        found = np.bincount(self.truth[places] * 3 + self.predicted[places], minlength=9).reshape(3, 3)
        return np.asarray(found / found.sum())


def other_truth(table: Floats, kind: int | None) -> Floats:
    """(3, 3) how likely each truth is to become which, such that macro-F1 is LOSS lower: of all, or of one class."""
    low, high = 0.0, 1.0
    changes = np.eye(3)
    for _ in range(40):
        middle = (low + high) / 2
        changes = (1 - middle) * np.eye(3) + middle / 2 * (1 - np.eye(3))
        if kind is not None:
            changes = np.where(np.arange(3)[:, None] == kind, changes, np.eye(3))
        lost = macro_f1(table)[0] - macro_f1(changes.T @ table)[0]
        low, high = (middle, high) if lost < LOSS else (low, middle)
    return changes


Tally = dict[str, list[float]]


def losses(reviews: Reviews, labels: int, trials: int) -> Tally:
    """Of windows with so many labels: whether a loss fired, and whether intervals held macro-F1 of all reviews."""
    found: Tally = defaultdict(list)
    whole = reviews.table(np.arange(len(reviews.truth)))
    kinds: dict[str, int | None] = {"loss7": None, **{f"loss7_{NAMES[at].lower()}": at for at in range(3)}}
    changes = {name: other_truth(whole, kind) for name, kind in kinds.items()}
    unsure = 0.1 + 1 - reviews.p.max(axis=1)
    for trial in range(trials):
        chance = np.random.default_rng([1, labels, trial])
        test, stream = reviews.parted(trial)
        drawn = chance.choice(stream, labels, replace=False)
        given = {"nothing": drawn, "nothing_but_mood": reviews.moved(stream, labels, chance)[0]}
        given |= dict.fromkeys(changes, drawn) if labels >= 500 else {}
        for name, places in given.items():
            frame = reviews.frame[places]
            if name in changes:
                draws = chance.random(labels)[:, None] > changes[name][reviews.truth[places]].cumsum(axis=1)
                frame = frame.with_columns(truth=pl.Series(draws.sum(axis=1).clip(max=2)))
            said = live_performance(frame, reviews.frame[test])
            found[name].append(said.loss.fired)
            if name == "nothing":
                found["coverage"].append(_holds(said.measured[0], macro_f1(whole)[0]))
        if labels < 500:
            continue  # they would be worth too few
        likely = (1 - QUEUE_SHARE) / len(stream) + QUEUE_SHARE * unsure[stream] / unsure[stream].sum()
        at = chance.choice(len(stream), labels, p=likely)
        weighted = reviews.frame[stream[at]].with_columns(weight=pl.Series(1 / likely[at]))
        said = live_performance(weighted, reviews.frame[test])
        found["nothing, queue"].append(said.loss.fired)
        found["coverage, queue"].append(_holds(said.measured[0], macro_f1(whole)[0]))
    return found


def estimates(reviews: Reviews, rows: int, trials: int) -> Tally:
    """Errors of what is said without labels of windows of so many reviews."""
    found: Tally = defaultdict(list)
    for trial in range(trials):
        chance = np.random.default_rng([2, rows, trial])
        test, stream = reviews.parted(trial)
        p, predicted, truth = reviews.p[test], reviews.predicted[test], reviews.truth[test]
        known = Confidence.of(p, predicted, truth)
        cells = Cells.of(grid_cells(p), p, truth, GRID * GRID)
        same = chance.choice(stream, rows, replace=False)
        (before, was), (after, share) = reviews.moved(stream, rows, chance), reviews.moved(stream, rows, chance)
        shares = {}
        for name, places in (("before", before), ("after", after)):
            counted = np.bincount(grid_cells(reviews.p[places]), minlength=GRID * GRID)
            shares[name] = class_shares(counted, cells)
        for name, places, by in (
            ("", same, None),
            ("moved, ", after, None),
            ("moved, by shares, ", after, shares["after"]),
        ):
            counts = confidence_counts(reviews.p[places], reviews.predicted[places])
            said = estimated_performance(counts, known, shares=by)
            right = (reviews.truth[places] == reviews.predicted[places]).mean()
            for what, one, true in zip(
                ("accuracy", "macro_f1"), said, (right, macro_f1(reviews.table(places))[0]), strict=True
            ):
                found[f"{name}{what}"].append(abs((one.value or 0.0) - true))
                found[f"{name}{what}, coverage"].append(_holds(one, true))
                found[f"{name}{what}, fired"].append(one.fired)
            sure = reviews.p[places, reviews.predicted[places]].mean()
            found[f"{name}mean confidence"].append(abs(sure - right))
        negative = (reviews.truth[after] == 0).mean()
        share_now = shares["after"].interval()
        by_row = class_shares(np.ones(rows), Cells(reviews.p[after], cells.prior)).values[0]
        for name, value in {
            "EM": share_now.value,
            "EM by row": by_row,
            "counting": (reviews.predicted[after] == 0).mean(),
            "mean probability": reviews.p[after, 0].mean(),
        }.items():
            found[name].append(abs(value - negative))
        found["EM, coverage"].append(_holds(share_now, share))
        found["difference, coverage"].append(_holds(difference(shares["before"], shares["after"]), share - was))
    return found


def _holds(said: Any, true: float) -> bool:
    """Whether an interval holds it; one of a measurement may be missing."""
    return said.low is not None and bool(said.low <= true <= said.high)


# --- rows


def rows(trials: int = TRIALS) -> list[Row]:
    """All rows of this part of the area: goals are of the first source."""
    found: list[Row] = []
    for source in SOURCES:
        prefix = "" if source == SOURCES[0] else f"{source}/"
        reviews = Reviews.of(source)
        found += [*_loss_rows(reviews, prefix, trials), *_estimate_rows(reviews, prefix, trials)]
    return [*found, *_costs(Reviews.of(SOURCES[0]))]


def _loss_rows(reviews: Reviews, prefix: str, trials: int) -> Iterator[Row]:
    for labels in (100, 500, 2_000):
        tally = losses(reviews, labels, trials)
        for name, hits in tally.items():
            share, spread = _share(hits)
            after = f"/labels{labels}"
            if name.startswith("nothing"):
                note = "whole and slices; " + {
                    "nothing": "labels drawn evenly",
                    "nothing_but_mood": "10 to 60% negative",
                }.get(name, "half the labels chosen by a queue, and weighted")
                name = f"false_alarms{after}" + name.removeprefix("nothing").replace(", ", "_").replace("_but", "")
                yield _row(prefix, name, share, "share", "lower", spread=spread, n=len(hits), note=note)
            elif name.startswith("coverage"):
                name = "coverage/macro_f1" + after + name.removeprefix("coverage").replace(", ", "_")
                yield _row(prefix, name, share, "share", "higher", spread=spread, n=len(hits))
            else:
                yield _row(prefix, f"power{after}/{name}", share, "share", "higher", spread=spread, n=len(hits))


def _estimate_rows(reviews: Reviews, prefix: str, trials: int) -> Iterator[Row]:
    for size in (500, 2_000):
        found = estimates(reviews, size, trials)
        mean = {name: round(float(np.mean(values)), 4) for name, values in found.items()}

        def error(name: str, of: str, peers: dict[str, str], unit: str, note: str = "") -> Row:
            spread = (0.0, round(float(np.quantile(found[of], 0.95)), 4))  # noqa: B023
            beside = {peer: mean[key] for peer, key in peers.items()}  # noqa: B023
            more = {"spread": spread, "n": trials, "peers": beside, "note": note}
            return _row(prefix, f"{name}/mae_{size}", mean[of], unit, "lower", **more)  # noqa: B023

        yield error("label_free", "accuracy", {"mean confidence": "mean confidence"}, "accuracy")
        yield error("label_free_macro_f1", "macro_f1", {}, "macro-F1")
        for what in ("accuracy", "macro_f1"):
            peers = {"without shares": f"moved, {what}"}
            peers |= {"mean confidence": "moved, mean confidence"} if what == "accuracy" else {}
            note = "10 to 60% negative, with the shares by EM"
            yield error(f"label_free_moved_{what}", f"moved, by shares, {what}", peers, what, note)
        beside = {name: name for name in ("counting", "mean probability", "EM by row")}
        yield error("em_negative_share", "EM", beside, "share", "10 to 60% negative")
        held = {
            "label_free": "accuracy, coverage",
            "label_free_macro_f1": "macro_f1, coverage",
            "label_free_moved_accuracy": "moved, by shares, accuracy, coverage",
            "em_negative_share": "EM, coverage",
            "em_difference": "difference, coverage",
        }
        for name, key in held.items():
            share, spread = _share(found[key])
            yield _row(prefix, f"coverage/{name}/{size}", share, "share", "higher", spread=spread, n=trials)


def _costs(reviews: Reviews) -> Iterator[Row]:
    test, stream = reviews.parted(0)
    labelled, tested = reviews.frame[stream[:10_000]], reviews.frame[test]
    yield _cost("live_performance_10k/cpu_ms", lambda: live_performance(labelled, tested))
    cells = Cells.of(grid_cells(reviews.p[test]), reviews.p[test], reviews.truth[test], GRID * GRID)
    chance, places = np.random.default_rng(0), grid_cells(reviews.p[stream])
    windows = [np.bincount(chance.choice(places, 100), minlength=GRID * GRID) for _ in range(52 * 50)]
    counts = np.stack(windows).reshape(52, 50, -1)
    yield _cost("em_year_of_weeks_50_apps/cpu_ms", lambda: class_shares(counts, cells))


def _cost(name: str, work: Callable[[], object]) -> Row:
    work()
    taken = []
    for _ in range(7):
        began = time.process_time()
        work()
        taken.append(round(1e3 * (time.process_time() - began), 1))
    return Row(name, sorted(taken)[3], "ms", "lower", spread=(min(taken), max(taken)), n=len(taken))


def _share(hits: list[float]) -> tuple[float, tuple[float, float]]:
    return round(float(np.mean(hits)), 4), wilson(int(sum(hits)), len(hits))


def _row(prefix: str, name: str, value: float, unit: str, better: Any, **more: Any) -> Row:
    if not prefix and name in {goal.name for goal in goals() if goal.area == AREA}:
        return goal_row(AREA, name, value, **more)
    return Row(prefix + name, value, unit, better, **more)


if __name__ == "__main__":
    table = [["figure", "measured", "95%", "goal", "peers"]]
    for row in rows():
        spread = "" if row.spread is None else f"{row.spread[0]:g} to {row.spread[1]:g}"
        beside = ", ".join(f"{peer} {value:g}" for peer, value in row.peers.items())
        table.append([row.name, f"{row.value:g}", spread, "" if row.goal is None else f"{row.goal:g}", beside])
    print(markdown(table))
