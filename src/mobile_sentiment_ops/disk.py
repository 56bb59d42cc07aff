"""Writes to the local disk that are there whole or not at all, also after a crash in the middle.

What is being written has a name that starts with `.part-` until it is complete; readers skip such
names, and `sweep` removes those that a crash left behind.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

PART = ".part-"
LEFT_BEHIND_AFTER_SECONDS = 3600.0


def write_file(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Put `data` at `path`, replacing what was there in one step; folders are made as needed.

    `mode` is who may use the file, less what the umask forbids.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = _part_of(path)
    try:
        _write_through(part, data, mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    flush(path.parent)


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Put a folder with exactly these files at `path`, written in their order; another one there makes way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part, old = _part_of(path), _part_of(path)
    try:
        for name, data in files.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            _write_through(part / name, data)
        for folder in {part, *((part / name).parent for name in files)}:
            flush(folder)
        try:
            part.rename(path)
        except OSError:  # there is one
            if read_folder(path) == files:
                return
            path.rename(old)
            part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    flush(path.parent)


def read_folder(path: Path) -> dict[str, bytes]:
    """Every file below `path` by its relative name."""
    found = (file for file in sorted(path.rglob("*")) if file.is_file())
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in found}


def sweep(folder: Path) -> None:
    """Remove what writers that crashed left half-written in this folder an hour ago or more."""
    for part in folder.glob(f"{PART}*"):
        with suppress(FileNotFoundError):  # its writer has just finished
            if time.time() - part.stat().st_mtime > LEFT_BEHIND_AFTER_SECONDS:
                shutil.rmtree(part, ignore_errors=True) if part.is_dir() else part.unlink()


def _part_of(path: Path) -> Path:
    return path.with_name(f"{PART}{secrets.token_hex(8)}")


def _write_through(path: Path, data: bytes, mode: int = 0o666) -> None:
    with open(path, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def flush(path: Path) -> None:
    """Return when what was written to a file, or which files a folder holds, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
