"""Acknowledged predictions in segment files on the local disk, until they are in their table.

A segment file belongs to the process that writes it, which holds a lock on it for as long: a file
whose lock is free is closed, be it that its writer drained, that it ended or that it was killed.
After a first line with the format, frames follow each other:

    length of the payload, number of records, CRC-32 of the payload, CRC-32 of these three numbers
    payload: JSON, a list of records, each a list of the fields of `PredictionRecord` in order

One append is one frame and one `write`, so a kill leaves it whole or without an acknowledgement.
A frame that its file is too short for is such a torn end and is dropped; anything else that does
not check is kept in a `.damaged` file beside the segment and reported.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import struct
import threading
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import fields
from datetime import datetime
from operator import attrgetter
from pathlib import Path
from typing import Any

import structlog

from mobile_sentiment_ops.errors import FormatTooNew, StoreError
from mobile_sentiment_ops.ports import Segment
from mobile_sentiment_ops.types import Label, PredictionRecord

log = structlog.get_logger()

SPOOL_FORMAT = 1
SIGNATURE = b"mso-spool "
FIRST_LINE = SIGNATURE + b"%d\n" % SPOOL_FORMAT
SUFFIX = ".spool"
SEGMENT_BYTES = 8 * 2**20
NUMBERS = struct.Struct("<III")
CHECK = struct.Struct("<I")
HEADER_BYTES = NUMBERS.size + CHECK.size
VALUES = attrgetter(*(field.name for field in fields(PredictionRecord)))


class FileSpool:
    """The spool in `folder`, shared by any number of processes; each may drain for all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._writer = ""
        self._number = 0
        self._file: int | None = None
        self._size = 0
        self._counts: dict[tuple[str, int], int] = {}

    def append(self, records: Sequence[PredictionRecord]) -> None:
        frame = _frame(records)
        with self._lock:
            file = self._open_segment() if self._file is None else self._file
            self._write(file, frame if self._size else FIRST_LINE + frame)
            if self._size >= SEGMENT_BYTES:
                self._close_segment()

    def drain(self) -> Iterator[Segment]:
        with self._lock:
            self._close_segment()
        too_new: FormatTooNew | None = None
        for path in self._segments():
            try:
                segment = _closed_segment(path)
            except FormatTooNew as err:  # says so after the rest is out
                too_new = err
                continue
            if segment is not None:
                yield segment
        if too_new is not None:
            raise too_new

    def forget(self, segment: Segment) -> None:
        writer, number = segment.key
        self._path(writer, number).unlink(missing_ok=True)

    def depth(self) -> int:
        """Records in all segments; a segment is counted again only when it has grown."""
        counts: dict[tuple[str, int], int] = {}
        for path in self._segments():
            try:
                known = (path.name, path.stat().st_size)
                counts[known] = self._counts[known] if known in self._counts else _count(path)
            except (FileNotFoundError, FormatTooNew):  # forgotten meanwhile, or not for this release
                continue
        self._counts = counts
        return sum(counts.values())

    def close(self) -> None:
        """Close this process's segment; the next append opens another."""
        with self._lock:
            self._close_segment()

    def _segments(self) -> list[Path]:
        """Oldest first, those of one writer by number."""
        found = []
        for path in self._folder.glob(f"*{SUFFIX}"):
            try:
                found.append((path.stat().st_mtime_ns, path))
            except FileNotFoundError:
                continue
        return [path for _, path in sorted(found, key=lambda entry: (entry[0], entry[1].name))]

    def _path(self, writer: str, number: int) -> Path:
        return self._folder / f"{writer}.{number:08d}{SUFFIX}"

    def _open_segment(self) -> int:
        """A new segment, locked by this process."""
        if not self._writer:  # not earlier: the process may be forked before it appends anything
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer = f"{os.getpid()}-{secrets.token_hex(6)}"
        while True:
            self._number += 1
            path = self._path(self._writer, self._number)
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o600)
            fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file).st_nlink:  # else a drain took it for an abandoned one before it was locked
                self._file, self._size = file, 0
                return file
            os.close(file)

    def _write(self, file: int, data: bytes) -> None:
        """All of `data` at the end of the segment, or none of it and StoreError."""
        try:
            written = os.write(file, data)
            while written < len(data):
                written += os.write(file, data[written:])
        except OSError as err:
            os.ftruncate(file, self._size)
            raise StoreError(f"predictions cannot be kept in {self._folder}: {err}") from err
        self._size += len(data)

    def _close_segment(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _frame(records: Sequence[PredictionRecord]) -> bytes:
    rows = [VALUES(record) for record in records]
    payload = json.dumps(rows, ensure_ascii=False, separators=(",", ":"), default=datetime.isoformat).encode()
    numbers = NUMBERS.pack(len(payload), len(records), zlib.crc32(payload))
    return numbers + CHECK.pack(zlib.crc32(numbers)) + payload


def _record(fields: Sequence[Any]) -> PredictionRecord:
    prediction_id, request_id, review_id, event_time, received_at, version, label, probabilities, *rest = fields
    times = datetime.fromisoformat(event_time), datetime.fromisoformat(received_at)
    answer = Label(label), tuple(probabilities)
    return PredictionRecord(prediction_id, request_id, review_id, *times, version, *answer, *rest)


def _closed_segment(path: Path) -> Segment | None:
    """The segment at `path`, or None while its writer holds it or when nothing was acknowledged."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            frames, damaged = _frames(file.read(), path)
            if damaged:
                aside = path.with_name(f"{path.name}.damaged")
                aside.write_bytes(damaged)
                log.warning("spool damaged", kept_in=str(aside), damaged_bytes=len(damaged), read=len(frames))
            if not frames:
                path.unlink(missing_ok=True)  # with the lock held: its writer may be about to take it
                return None
    except (BlockingIOError, FileNotFoundError):
        return None
    writer, number, _ = path.name.split(".")
    records = (_record(fields) for _, payload in frames for fields in json.loads(payload))
    return Segment((writer, int(number)), tuple(records))


def _count(path: Path) -> int:
    return sum(count for count, _ in _frames(path.read_bytes(), path)[0])


def _frames(data: bytes, path: Path) -> tuple[list[tuple[int, bytes]], bytes]:
    """Each whole frame as (records, payload), and what is left if it is more than a torn end."""
    if len(data) < len(FIRST_LINE):
        return [], b"" if FIRST_LINE.startswith(data) else data
    if not data.startswith(FIRST_LINE):
        first_line = data[:64].partition(b"\n")[0]
        found = first_line.removeprefix(SIGNATURE)
        if found != first_line and found.isdigit():
            raise FormatTooNew(f"{path} has spool format {int(found)}, this release reads {SPOOL_FORMAT}; update it")
        return [], data
    frames: list[tuple[int, bytes]] = []
    start = len(FIRST_LINE)
    while len(data) - start >= HEADER_BYTES:
        length, count, payload_check = NUMBERS.unpack_from(data, start)
        (header_check,) = CHECK.unpack_from(data, start + NUMBERS.size)
        if zlib.crc32(data[start : start + NUMBERS.size]) != header_check:
            return frames, data[start:]
        payload = data[start + HEADER_BYTES : start + HEADER_BYTES + length]
        if len(payload) < length:
            break
        if zlib.crc32(payload) != payload_check:
            return frames, data[start:]
        frames.append((count, payload))
        start += HEADER_BYTES + length
    return frames, b""
