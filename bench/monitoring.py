"""Which detectors of drift find what: false alarms on windows in which nothing moved, power on shifted ones.

    python -m bench --only monitoring                                      everything, in about 25 minutes
    python -m bench.monitoring --detector ours --windows 400 --shifted 100     a candidate alone

The windows are those of shifts.py, on real reviews. Each detector learns one reference at a time and then judges
windows of it; there are several references, because what a threshold does depends on the one it was made of.
Beside ours stand fixed rules on Jensen-Shannon distance and the population stability index, and a classifier that
is to tell window from reference (Lopez-Paz and Oquab, 2017), with its threshold from windows without drift.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csr_matrix
from scipy.stats import beta
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from bench.gate import wilson
from bench.results import ROOT, Row, goal_row, goals, markdown
from bench.shifts import SHIFTS, World, make_pool
from mobile_sentiment_ops.models.kernel import Grams, counted
from mobile_sentiment_ops.monitoring.drift import Window, check_drift, draw_limits
from mobile_sentiment_ops.monitoring.reference import make_reference
from mobile_sentiment_ops.monitoring.rows import rows_of
from mobile_sentiment_ops.settings import Monitoring

AREA = "monitoring"
SHARED_DATA = Path(os.environ.get("MSO_SHARED_DATA", ROOT.parent / "shared" / "data"))
SIZES = (100, 500, 2000)
SOURCES = ("fintech", "idea")
LEVEL = 0.05
"""False alarms that calibrated peers may raise."""

Floats = npt.NDArray[np.float64]


class Detector(Protocol):
    """What is compared."""

    def fit(self, reference: pl.DataFrame, learned: Sequence[str], seed: int) -> None:
        """Learn from scored reviews with `truth`, of a champion that learned from these texts."""
        ...

    def fires(self, window: pl.DataFrame) -> Sequence[str]:
        """What moved, none for nothing."""
        ...


# --- the peers


class FixedRules:
    """The usual constants, on the predicted classes and on tenths of length and of p(negative)."""

    def __init__(self, name: str, most: float) -> None:
        self.distance, self.most = {"JS": jensen_shannon, "PSI": stability_index}[name], most

    def fit(self, reference: pl.DataFrame, learned: Sequence[str], seed: int) -> None:  # noqa: ARG002
        figures = self._figures(reference)
        self.edges = {
            name: np.unique(np.quantile(figures[name], np.arange(0.1, 1, 0.1))) for name in figures if name != "classes"
        }
        self.shares = self._shares(reference)

    def fires(self, window: pl.DataFrame) -> Sequence[str]:
        found = self._shares(window)
        return [name for name in found if self.distance(self.shares[name], found[name]) > self.most]

    @staticmethod
    def _figures(rows: pl.DataFrame) -> dict[str, npt.NDArray[Any]]:
        classes = (
            rows["label"]
            .replace_strict({"Negative": 0, "Neutral": 1, "Positive": 2}, return_dtype=pl.Int64())
            .to_numpy()
        )
        return {
            "classes": classes,
            "length": rows["text"].str.len_chars().to_numpy(),
            "p_negative": rows["p_negative"].to_numpy(),
        }

    def _shares(self, rows: pl.DataFrame) -> dict[str, Floats]:
        figures = self._figures(rows)
        classes = np.bincount(figures.pop("classes"), minlength=3)
        counts = {
            name: np.bincount(np.searchsorted(self.edges[name], values), minlength=len(self.edges[name]) + 1)
            for name, values in figures.items()
        }
        return {name: np.maximum(count, 0.5) / len(rows) for name, count in {"classes": classes, **counts}.items()}


def jensen_shannon(p: Floats, q: Floats) -> float:
    """The distance of two distributions, natural logarithm.

    >>> round(jensen_shannon(np.array([0.25, 0.75]), np.array([0.5, 0.5])), 3)
    0.183
    """
    middle = (p + q) / 2
    return float(np.sqrt(max((p * np.log(p / middle) + q * np.log(q / middle)).sum() / 2, 0.0)))


def stability_index(p: Floats, q: Floats) -> float:
    """The population stability index.

    >>> round(stability_index(np.array([0.25, 0.75]), np.array([0.5, 0.5])), 3)
    0.275
    """
    return float(((q - p) * np.log(q / p)).sum())


class TwoSampleClassifier:
    """A logistic regression on hashed words that is to tell a window from as many reviews of the reference."""

    def fit(self, reference: pl.DataFrame, learned: Sequence[str], seed: int) -> None:  # noqa: ARG002
        self.texts, self.chance, self.most = (
            reference["text"].to_numpy(),
            np.random.default_rng(seed),
            dict[int, float](),
        )

    def fires(self, window: pl.DataFrame) -> Sequence[str]:
        rows = window.height
        if rows not in self.most:
            pairs = (self.chance.permutation(len(self.texts))[: 2 * rows].reshape(2, rows) for _ in range(200))
            self.most[rows] = float(np.quantile([self._auc(*self.texts[pair]) for pair in pairs], 1 - LEVEL))
        drawn = self.texts[self.chance.permutation(len(self.texts))[:rows]]
        return ["texts"] if self._auc(drawn, window["text"].to_numpy()) > self.most[rows] else []

    @staticmethod
    def _auc(before: Iterable[str], after: Iterable[str]) -> float:
        """The mean area under the curve of two folds."""
        parts = [list(before), list(after)]
        found = counted(parts[0] + parts[1], Grams(words=1, bits=14))
        words = csr_matrix((np.minimum(found.counts, 1), found.buckets, found.starts), (len(found.starts) - 1, 1 << 14))
        new, fold = np.repeat([0, 1], [len(part) for part in parts]), np.arange(words.shape[0]) % 2
        areas = []
        for out in (0, 1):
            model = LogisticRegression(solver="liblinear").fit(words[fold != out], new[fold != out])
            areas.append(roc_auc_score(new[fold == out], model.decision_function(words[fold == out])))
        return float(np.mean(areas))


class Ours:
    """The product's check of drift, with all its statistics and slices."""

    def __init__(self, false_alarms: float = Monitoring().false_alarms) -> None:
        self.false_alarms = false_alarms

    def fit(self, reference: pl.DataFrame, learned: Sequence[str], seed: int) -> None:
        self.reference = make_reference(learned, reference)
        self.limits = draw_limits(self.reference, seed=seed)

    def fires(self, window: pl.DataFrame) -> Sequence[str]:
        rows = Window.of_rows(rows_of(window, self.reference.vocabulary))
        _, measured = check_drift(rows, self.reference, self.limits, false_alarms=self.false_alarms)
        return [" ".join([one.name, *one.part.values()]) for one in measured if one.fired]


OURS = "ours"
DETECTORS: Mapping[str, Callable[[], Detector]] = {
    OURS: Ours,
    "PSI > 0.2": lambda: FixedRules("PSI", 0.2),
    "JS > 0.1": lambda: FixedRules("JS", 0.1),
    "C2ST": TwoSampleClassifier,
}


# --- false alarms and power


@dataclass(frozen=True, slots=True)
class Task:
    """Windows of one reference that one detector is to judge: so many without drift and shifted, of each size."""

    detector: str
    source: str
    world: int
    windows: int
    shifted: int
    sizes: tuple[int, ...] = SIZES


@dataclass(frozen=True, slots=True)
class Judged:
    """Of each size and shift ("" for none), how many windows there were, how many fired, and of what."""

    windows: Counter[tuple[int, str]]
    fired: Counter[tuple[int, str]]
    names: Counter[tuple[int, str, str]]


def judge(task: Task) -> tuple[Task, Judged]:
    """What a detector says of the windows of one reference. It learns it anew: tasks run in any process."""
    world = World(make_pool(task.source, SHARED_DATA), task.world)
    detector = DETECTORS[task.detector]()
    detector.fit(world.reference, world.pool.learned, task.world)
    judged = Judged(Counter(), Counter(), Counter())
    for rows in task.sizes:
        for shift in ("", *SHIFTS):
            for seed in range(task.shifted if shift else task.windows):
                found = detector.fires(world.window(rows, shift or None, seed))
                judged.windows[rows, shift] += 1
                judged.fired[rows, shift] += bool(found)
                judged.names.update((rows, shift, name) for name in set(found))
    return task, judged


Found = dict[tuple[str, str], Judged]
"""By source and detector."""


def judge_all(tasks: Sequence[Task]) -> Found:
    """All tasks, on both cores, with a line of progress for each."""
    found: Found = {}
    began = time.monotonic()
    with get_context("spawn").Pool(min(os.cpu_count() or 1, len(tasks)), _alone) as pool:
        for done, (task, judged) in enumerate(pool.imap_unordered(judge, tasks), 1):
            known = found.setdefault((task.source, task.detector), Judged(Counter(), Counter(), Counter()))
            for name in ("windows", "fired", "names"):
                getattr(known, name).update(getattr(judged, name))
            told = f"{done}/{len(tasks)} {task.source} {task.detector} {time.monotonic() - began:.0f} s"
            print(told, file=sys.stderr, flush=True)
    return found


def _alone() -> None:
    """Each process uses one core."""
    os.environ.update(dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))


def tasks_of(
    detector: str, source: str, windows: int, shifted: int, worlds: int, sizes: tuple[int, ...] = SIZES
) -> list[Task]:
    """So many windows in all, over so many references."""
    each = -(-windows // worlds), -(-shifted // worlds)
    return [Task(detector, source, world, *each, sizes) for world in range(worlds)]


def upper_limit(hits: int, trials: int) -> float:
    """The upper 95% limit of a share (Clopper and Pearson 1934, one side of the two).

    >>> round(upper_limit(0, 2000), 4), round(upper_limit(60, 2000), 4)
    (0.0018, 0.0384)
    """
    return 1.0 if hits == trials else float(beta.ppf(0.975, hits + 1, trials - hits))


def figures(found: Found) -> Iterator[Row]:
    """The rows of false alarms and power: those of the first of SOURCES are the ones with goals."""
    named = {goal.name for goal in goals() if goal.area == AREA}
    for source in SOURCES:
        judged = found.get((source, OURS))
        if judged is None:
            continue
        peers = {detector: of for (where, detector), of in found.items() if where == source and detector != OURS}
        prefix = "" if source == SOURCES[0] else f"{source}/"
        for (rows, shift), trials in judged.windows.items():
            hits = judged.fired[rows, shift]
            beside = {name: (of.fired[rows, shift], of.windows[rows, shift]) for name, of in peers.items()}
            shares = {name: round(fired / windows, 3) for name, (fired, windows) in beside.items() if windows}
            parts = sorted(
                ((count, name) for (size, of, name), count in judged.names.items() if (size, of) == (rows, shift)),
                reverse=True,
            )
            most = ", ".join(f"{name} {count / trials:.2f}" for count, name in parts[:3])
            counts = ", ".join(f"{name} {windows}" for name, (_, windows) in beside.items() if windows)
            note = (
                f"{hits} of {trials:,} fired"
                + (f": {most}" if most else "")
                + (f"; windows of {counts}" if counts else "")
            )
            if shift:
                name, value, unit, better = f"power/{rows}/{shift}", hits / trials, "share", "higher"
            else:
                name, value, unit, better = (
                    f"false_alarms/{rows}",
                    upper_limit(hits, trials),
                    "upper 95% limit",
                    "lower",
                )
                shares = {name: round(upper_limit(*counted), 3) for name, counted in beside.items() if counted[1]}
            more: dict[str, Any] = {"spread": wilson(hits, trials), "n": trials, "peers": shares, "note": note}
            if prefix or name not in named:
                yield Row(prefix + name, round(value, 4), unit, better, **more)  # type: ignore[arg-type]
            else:
                yield goal_row(AREA, name, round(value, 4), **more)


def power_table(rows: Sequence[Row]) -> str:
    """False alarms and power as a Markdown table: a line a window, ours and each peer beside the goal."""
    shown = [
        row for row in rows if row.name.split("/")[-2].startswith("false_alarms") or "power" in row.name.split("/")
    ]
    peers = list(dict.fromkeys(name for row in shown for name in row.peers))
    table = [["", OURS, "95%", "goal", *peers, "fired"]]
    for row in shown:
        met = row.as_json()["met"]
        goal = "" if row.goal is None else f"{row.goal:g}{'' if met else ', missed'}"
        spread = "" if row.spread is None else f"{row.spread[0]:.3f} to {row.spread[1]:.3f}"
        told = [f"{row.peers[peer]:.3f}" if peer in row.peers else "" for peer in peers]
        table.append([row.name, f"{row.value:.3f}", spread, goal, *told, row.note.partition(": ")[2].partition(";")[0]])
    return markdown(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Judge windows by one detector and print its table."""
    parser = argparse.ArgumentParser(prog="python -m bench.monitoring", description="Try a detector.")
    parser.add_argument("--detector", default=OURS, help=f"one of {', '.join(DETECTORS)}, or all")
    parser.add_argument("--source", default=SOURCES[0], help=f"one of {', '.join(SOURCES)}, or all")
    parser.add_argument("--windows", type=int, default=400, help="windows without drift of each size")
    parser.add_argument("--shifted", type=int, default=100, help="windows of each shift and size")
    parser.add_argument("--worlds", type=int, default=8, help="references they are of")
    given = parser.parse_args(arguments)
    detectors = list(DETECTORS) if given.detector == "all" else [given.detector]
    sources = SOURCES if given.source == "all" else (given.source,)
    found = judge_all(
        [
            task
            for detector in detectors
            for source in sources
            for task in tasks_of(detector, source, given.windows, given.shifted, given.worlds)
        ]
    )
    if OURS not in detectors:
        found = {(source, OURS): judged for (source, _), judged in found.items()}
    print(power_table(list(figures(found))))


if __name__ == "__main__":
    main()
