"""The figures that are kept: one JSON file for each area in `bench/results/`, all in one shape.

A row is a figure with its goal, if it has one. `met` follows from the value and is never written by
hand; a row that could not be measured has no value, and its note says why. `faults` finds what is
wrong with a kept file; a test runs it on all of them, so a row cannot go missing because it looks bad.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

import psutil

ROOT = Path(__file__).parents[1]
GOALS = ROOT / "bench" / "goals.json"
RESULTS = ROOT / "bench" / "results"

Better: TypeAlias = Literal["lower", "higher"]
File: TypeAlias = dict[str, Any]
"""A results file as JSON holds it."""

STRICTLY_ABOVE = "gain_over_sklearn_lr_low/"
"""Rows of this family meet their goal above it, not at it."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a row of an area is measured against."""

    area: str
    name: str
    goal: float
    better: Better
    unit: str


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. `spread` holds its least and largest value over `n` repetitions, or its interval."""

    name: str
    value: float | None
    unit: str
    better: Better
    goal: float | None = None
    spread: tuple[float, float] | None = None
    n: int = 1
    peers: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    def as_json(self) -> File:
        """The row as it is kept, with `met`."""
        return {**asdict(self), "met": met(self.name, self.value, self.goal, self.better)}


def met(name: str, value: float | None, goal: float | None, better: Better) -> bool | None:
    """Whether the goal is reached; None without a value or without a goal.

    >>> met("up/second_s", 15.0, 15, "lower"), met("up/second_s", None, 15, "lower")
    (True, None)
    >>> met("gain_over_sklearn_lr_low/idea/apps/chosen", 0.0, 0, "higher")
    False
    """
    if value is None or goal is None:
        return None
    if name.startswith(STRICTLY_ABOVE):
        return value > goal
    return value <= goal if better == "lower" else value >= goal


def goals() -> list[Goal]:
    """All goals, of every area."""
    return [Goal(**entry) for entry in json.loads(GOALS.read_text("utf-8"))]


def goal_row(area: str, name: str, value: float | None, **more: Any) -> Row:
    """A row that `goals.json` names, with the goal it has there."""
    goal = next(goal for goal in goals() if (goal.area, goal.name) == (area, name))
    return Row(name, value, goal.unit, goal.better, goal.goal, **more)


def timing_row(area: str, name: str, seconds: Sequence[float], **more: Any) -> Row:
    """The median of repeated timings, with the fastest and the slowest."""
    values = sorted(seconds)
    middle = values[len(values) // 2]
    return goal_row(
        area, name, round(middle, 2), spread=(round(values[0], 2), round(values[-1], 2)), n=len(values), **more
    )


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is measured and where, as it was before anything was measured."""

    commit: str
    machine: File
    command: str

    @classmethod
    def now(cls, command: str) -> Conditions:
        """The revision and the machine of this moment."""
        return cls(_commit(), _machine(), command)


def _machine() -> File:
    """The facts about this machine that figures depend on, and how busy it is now."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def keep(area: str, rows: Iterable[Row], conditions: Conditions, folder: Path = RESULTS) -> Path:
    """Write an area's file. Rows of the file before that were not measured again stay, with a note
    that says at which commit they were; a goal row that was never measured is there without a value."""
    path = folder / f"{area}.json"
    before = json.loads(path.read_text("utf-8")) if path.exists() else {"rows": []}
    stated = {**_unmeasured(area), **_kept(before), **{row.name: row for row in rows}}
    file = {
        "area": area,
        "commit": conditions.commit,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": conditions.machine,
        "command": conditions.command,
        "rows": [row.as_json() for row in stated.values()],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(file, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return path


def _unmeasured(area: str) -> dict[str, Row]:
    rows = [goal_row(area, goal.name, None, n=0, note="not measured yet") for goal in goals() if goal.area == area]
    return {row.name: row for row in rows}


def _kept(before: File) -> dict[str, Row]:
    rows = {}
    for entry in before["rows"]:
        row = Row(**{key: value for key, value in entry.items() if key != "met"})
        if row.value is not None and "measured at commit" not in row.note:
            at = f"measured at commit {before['commit'][:12]} on {before['date'][:10]}"
            row = replace(row, note=f"{row.note}; {at}" if row.note else at)
        rows[row.name] = row
    return rows


def _commit() -> str:
    """The revision that is measured, marked when files differ from it."""
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def faults(file: File) -> list[str]:
    """What is wrong with a kept file, in words; nothing when it is sound."""
    found = [f"{key} is missing" for key in ("area", "commit", "date", "machine", "command", "rows") if key not in file]
    keys = {name.name for name in fields(Row)} | {"met"}
    found += [
        f"{row.get('name')}: {', '.join(sorted(set(row) ^ keys))} is missing or unknown"
        for row in file.get("rows", [])
        if set(row) != keys
    ]
    if found:
        return found
    expected = {goal.name: goal for goal in goals() if goal.area == file["area"]}
    rows = {row["name"]: row for row in file["rows"]}
    if len(rows) < len(file["rows"]):
        found.append("a name stands twice")
    found += [f"{name} is missing" for name in expected if name not in rows]
    for name, row in rows.items():
        goal = expected.get(name)
        if goal and (row["goal"], row["better"], row["unit"]) != (goal.goal, goal.better, goal.unit):
            found.append(f"{name}: its goal differs from goals.json")
        if row["met"] is not met(name, row["value"], row["goal"], row["better"]):
            found.append(f"{name}: met is {row['met']}, which does not follow from {row['value']}")
        if row["value"] is None and not row["note"]:
            found.append(f"{name}: has no value and no note that says why")
        if row["unit"] == "s" and row["value"] is not None and row["n"] < 5 and not row["note"]:
            found.append(f"{name}: timed {row['n']} times, expected 5 or a note that says why not")
    return found


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is also readable as text; the first row is its head.

    >>> print(markdown([["split", "lr"], ["fintech random", "0.58"]]))
    | split          | lr   |
    |----------------|------|
    | fintech random | 0.58 |
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def figures_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of a file as a Markdown table: what was measured, the goal, and the note of each."""
    table = [["figure", "measured", "spread", "goal", ""]]
    for row in rows:
        value = "not measured" if row["value"] is None else f"{row['value']:g} {row['unit']}"
        spread = f"{row['spread'][0]:g} to {row['spread'][1]:g}" if row["spread"] else ""
        missed = ", missed" if row["met"] is False else ""
        goal = "" if row["goal"] is None else f"{row['goal']:g}{missed}"
        beside = ", ".join(f"{peer} {figure:g}" for peer, figure in row["peers"].items())
        table.append([f"`{row['name']}`", value, spread, goal, "; ".join(filter(None, (beside, row["note"])))])
    return markdown(table)
