"""Writes that are whole or not at all."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mobile_sentiment_ops.disk import sweep, write_file, write_folder


def test_a_file_that_cannot_be_completed_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, b"old")
    with pytest.raises(TypeError):
        write_file(path, "text is no bytes")  # type: ignore[arg-type]
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("file", b"old")]


def test_a_folder_that_cannot_be_completed_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    write_folder(path, {"a": b"1", "b/c": b"2"})
    with pytest.raises(TypeError):
        write_folder(path, {"a": b"3", "d": None})  # type: ignore[dict-item]
    found = {file.relative_to(tmp_path).as_posix(): file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert found == {"bundle/a": b"1", "bundle/b/c": b"2"}


def test_a_new_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    write_folder(path, {"a": b"1", "b": b"2"})
    write_folder(path, {"a": b"3"})
    assert [(found.name, found.read_bytes()) for found in path.iterdir()] == [("a", b"3")]
    assert [found.name for found in tmp_path.iterdir()] == ["bundle"]


def test_only_what_was_left_behind_long_ago_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".part-old").mkdir()
    for name in (".part-old/file", ".part-older", ".part-fresh", "kept"):
        (tmp_path / name).write_bytes(b"x")
    two_hours_ago = time.time() - 7200
    for name in (".part-old", ".part-older", "kept"):
        os.utime(tmp_path / name, (two_hours_ago, two_hours_ago))
    sweep(tmp_path)
    assert sorted(found.name for found in tmp_path.iterdir()) == [".part-fresh", "kept"]
