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
import importlib.util
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, TypeVar
from unittest.mock import patch

from scipy.stats import beta

from bench import events, sketches
from bench.detectors import DETECTORS, OURS, Evidently
from bench.gate import wilson
from bench.results import Row, goal_row, goals, markdown
from bench.shifts import SHARED_DATA, SHIFTS, World, make_pool

AREA = "monitoring"
SIZES = (100, 500, 2000)
SOURCES = ("fintech", "idea")


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
    """All tasks, on both cores."""
    found: Found = {}
    for task, judged in spread(judge, tasks):
        known = found.setdefault((task.source, task.detector), Judged(Counter(), Counter(), Counter()))
        for name in ("windows", "fired", "names"):
            getattr(known, name).update(getattr(judged, name))
    return found


Given = TypeVar("Given")
Made = TypeVar("Made")


def spread(work: Callable[[Given], Made], over: Sequence[Given]) -> Iterator[Made]:
    """What the work makes of each, in whatever order, on all cores, with a line of progress for each."""
    began = time.monotonic()
    one_core = dict.fromkeys(("POLARS_MAX_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with (
        patch.dict(os.environ, one_core),
        get_context("spawn").Pool(min(os.cpu_count() or 1, len(over)), _quiet) as pool,
    ):
        for done, made in enumerate(pool.imap_unordered(work, over), 1):
            print(f"{work.__name__} {done}/{len(over)} {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
            yield made


def _quiet() -> None:
    """Peers warn of what is no concern of ours."""
    warnings.simplefilter("ignore")


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
        peers = _peers({detector: of for (where, detector), of in found.items() if where == source})
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


def _peers(judged: Mapping[str, Judged]) -> dict[str, Judged]:
    """All but ours; Evidently's variants one by one."""
    found = {name: of for name, of in judged.items() if name not in (OURS, "Evidently")}
    if every := judged.get("Evidently"):
        for name in Evidently.VARIANTS:
            hits = {(rows, shift): count for (rows, shift, of), count in every.names.items() if of == name}
            found[name] = Judged(every.windows, Counter(hits), Counter())
    return found


def other_rows(module: str) -> list[Row]:
    """The rows of another part of the area."""
    return list(importlib.import_module(f"bench.{module}").rows())


def measure(*, small: bool = False) -> Iterator[Row]:
    """All rows of the area; a small run has a twentieth of the windows."""
    part = 20 if small else 1
    plan = {
        (OURS, SOURCES[0]): (2_000, 300, 20, SIZES),
        (OURS, SOURCES[1]): (1_000, 100, 10, SIZES),
        ("C2ST", SOURCES[0]): (400, 100, 4, SIZES),
        ("Evidently", SOURCES[0]): (160, 20, 2, (500,)),
        **{(name, SOURCES[0]): (2_000, 300, 2, SIZES) for name in events.PEERS},
    }
    tasks: list[Task] = []
    for (detector, source), (windows, shifted, worlds, sizes) in plan.items():
        fewer = (max(windows // part, 1), max(shifted // part, 1), min(worlds, 20 // part + 1))
        tasks += tasks_of(detector, source, *fewer, sizes)
    yield from figures(judge_all(tasks))
    yield from events.rows(list(spread(events.watch, events.STORIES[: 9 if small else None])))
    streams = range(2 if small else sketches.STREAM_WORLDS)
    yield from sketches.stream_rows(list(spread(sketches.follow_streams, streams)))
    yield from sketches.rows()
    others = [f"{name}_rows" for name in ("performance", "poisoning", "explanation")]
    for rows in spread(other_rows, [name for name in others if importlib.util.find_spec(f"bench.{name}")]):
        yield from rows


def power_table(rows: Sequence[Row]) -> str:
    """False alarms and power as a Markdown table: a line a window, ours and each peer beside the goal."""
    named = {f"power/{size}/{shift}" for size in SIZES for shift in SHIFTS} | {f"false_alarms/{size}" for size in SIZES}
    shown = [row for row in rows if {row.name, row.name.partition("/")[2]} & named]
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
