"""Every kept results file holds all rows of its area, with the goals as they are, and `met` as it follows."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.results import GOALS, RESULTS, Conditions, Row, faults, goal_row, goals, keep

KEPT_AREAS = ("main",)
"""The areas whose figures this release keeps."""

HERE = Conditions.now("make bench")


def test_goals_are_named_once_and_say_which_way_is_better() -> None:
    names = [(goal.area, goal.name) for goal in goals()]
    assert len(names) == len(set(names))
    assert {goal.better for goal in goals()} == {"lower", "higher"}


@pytest.mark.parametrize("area", KEPT_AREAS)
def test_the_area_is_kept(area: str) -> None:
    assert (RESULTS / f"{area}.json").is_file()


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_kept_file_is_sound(path: Path) -> None:
    file = json.loads(path.read_text("utf-8"))
    assert file["area"] == path.stem
    assert faults(file) == []


@pytest.fixture
def sound(tmp_path: Path) -> dict[str, Any]:
    """A file as `keep` writes it, with one measured row and one of its own."""
    rows = [goal_row("main", "up/second_s", 9.0, spread=(8.0, 10.0), n=5), Row("extra", 0.5, "F1", "higher")]
    path = keep("main", rows, HERE, tmp_path)
    file: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return file


def test_a_written_file_is_sound_and_names_what_was_not_measured(sound: dict[str, Any]) -> None:
    assert faults(sound) == []
    rows = {row["name"]: row for row in sound["rows"]}
    assert rows["up/second_s"]["met"] is True
    assert rows["check/s"] | {"value": None, "met": None, "note": "not measured yet"} == rows["check/s"]


def _drop(file: dict[str, Any], name: str) -> None:
    file["rows"] = [row for row in file["rows"] if row["name"] != name]


def _change(file: dict[str, Any], name: str, **values: object) -> None:
    next(row for row in file["rows"] if row["name"] == name).update(values)


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda file: _drop(file, "check/s"), "check/s is missing"),
        (lambda file: _change(file, "up/second_s", goal=16), "up/second_s: its goal differs from goals.json"),
        (lambda file: _change(file, "up/second_s", better="higher", met=False), "differs from goals.json"),
        (lambda file: _change(file, "up/second_s", value=15.1), "met is True, which does not follow from 15.1"),
        (lambda file: _change(file, "up/second_s", met=None), "met is None, which does not follow from 9.0"),
        (lambda file: _change(file, "check/s", note=""), "check/s: has no value and no note"),
        (lambda file: _change(file, "up/second_s", n=1), "timed 1 times"),
        (lambda file: file["rows"].append(file["rows"][0]), "a name stands twice"),
        (lambda file: file["rows"][0].pop("peers"), "peers is missing"),
        (lambda file: file.pop("machine"), "machine is missing"),
    ],
)
def test_a_spoiled_file_is_found(sound: dict[str, Any], spoil: Callable[[dict[str, Any]], None], fault: str) -> None:
    spoiled = copy.deepcopy(sound)
    spoil(spoiled)
    assert any(fault in found for found in faults(spoiled))


def test_measuring_one_part_again_keeps_the_others_and_says_when_they_were(tmp_path: Path) -> None:
    keep("main", [Row("first", 1.0, "F1", "higher")], HERE, tmp_path)
    for _ in range(2):
        path = keep("main", [Row("second", 2.0, "F1", "higher")], HERE, tmp_path)
    rows = {row["name"]: row for row in json.loads(path.read_text("utf-8"))["rows"]}
    assert rows["first"]["value"] == 1.0
    assert rows["first"]["note"].count("measured at commit") == 1
    assert rows["second"]["note"] == ""


def test_the_goals_are_the_ones_that_were_set(shared_data: Path) -> None:
    original = shared_data.parent / "goals.json"
    if not original.is_file():
        pytest.skip(f"no {original} to compare with")
    assert json.loads(GOALS.read_text("utf-8")) == json.loads(original.read_text("utf-8"))
