"""Acknowledged predictions in segment files on the local disk, until they are in their table.

A segment file belongs to the process that writes it, which holds a lock on it for as long: a file
whose lock is free is closed, be it that its writer finished it, that it ended or that it was killed.
After a first line with the format, frames follow each other:

    length of the payload, number of predictions in it, CRC-32 of the payload, CRC-32 of these three
    numbers, payload

A segment is reserved on the disk in full and then mapped; zeros follow its last frame. An append
copies numbers and payload into the map and the CRC of the numbers last. Until then the frame is not
there, and from then on the kernel has all of it: a kill leaves it whole or unacknowledged, and loses
nothing. Such a torn end is dropped; what does not check otherwise is kept in a `.damaged` file beside
the segment and reported. Payloads hold texts as they came, so only the owner may read the files.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import secrets
import struct
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from zlib import crc32

import structlog

from mobile_sentiment_ops.disk import flush, write_file
from mobile_sentiment_ops.errors import FormatTooNew, SpoolFull, StoreError
from mobile_sentiment_ops.ports import Segment

log = structlog.get_logger()

SPOOL_FORMAT = 2
SIGNATURE = b"mso-spool "
FIRST_LINE = SIGNATURE + b"%d\n" % SPOOL_FORMAT
NAME = re.compile(r"(.+)\.(\d{8,})\.spool")
SEGMENT_BYTES, MAX_BYTES = 8 * 2**20, 2**30
SHARES = 64
"""So many writers fit into the smallest limit: a segment takes at most this part of it."""
RETRY_SECONDS = 1.0
BLOCK_BYTES = 2**16
NUMBERS, CHECK, HEADER = struct.Struct("<III"), struct.Struct("<I"), struct.Struct("<IIII")
NUMBERS_BYTES, HEADER_BYTES = NUMBERS.size, HEADER.size
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FileSpool:
    """The spool in `folder`, shared by any number of processes; each may drain for all.

    It takes at most `max_bytes` of the disk, and one segment more where writers open one at the same
    moment. It may be made before a fork: nothing is opened before the first append, and a child
    leaves the segment of its parent alone.
    """

    def __init__(self, folder: Path, max_bytes: int = MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._writer = ""
        self._number = self._synced = self._listed = 0  # segments begun, on the disk whole, and in the folder there
        self._file: int
        self._map: mmap.mmap
        self._used = self._room = 0  # bytes of the open segment; no room: there is none
        self._opened_at = self._refused_until = 0.0
        self._refusal = StoreError()
        self._counted: dict[str, tuple[int, int]] = {}

    def append(self, payload: bytes, count: int) -> None:
        numbers = NUMBERS.pack(len(payload), count, crc32(payload))
        check = CHECK.pack(crc32(numbers) or 1)  # zero says that there is no frame
        with self._lock:
            size = HEADER_BYTES + len(payload)
            if self._used + size > self._room:
                self._open_segment(size)
            start, segment = self._used, self._map
            body, end = start + HEADER_BYTES, start + size
            segment[start : start + NUMBERS_BYTES] = numbers
            segment[body:end] = payload
            segment[start + NUMBERS_BYTES : body] = check
            self._used = end

    def sync(self) -> None:
        with self._lock:
            last = self._number
        try:
            for number in range(self._synced + 1, last + 1):
                with suppress(FileNotFoundError):  # forgotten: it is safe elsewhere
                    flush(self._path(self._writer, number))
            if self._listed < last:
                flush(self._folder)
                flush(self._folder.parent)
        except OSError as err:
            raise StoreError(f"predictions did not reach the disk in {self._folder}: {err}; see to the disk") from err
        with self._lock:  # the last one may still grow
            self._synced, self._listed = max(self._synced, last - 1), max(self._listed, last)

    def drain(self) -> Iterator[Segment]:
        self.close()
        fault: StoreError | None = None
        waiting = set()  # writers: a table skips a number that comes after a higher one of the same writer
        for writer, number, path in self._segments():
            if writer in waiting:
                continue
            try:
                payloads = _closed_segment(path)
            except FileNotFoundError:
                continue
            except (OSError, FormatTooNew) as err:
                waiting.add(writer)
                if not isinstance(err, BlockingIOError):  # said after the rest is out
                    fault = err if isinstance(err, StoreError) else StoreError(f"{path} cannot be read: {err}")
                continue
            if payloads:
                yield Segment((writer, number), payloads)
        if fault is not None:
            raise fault

    def forget(self, segment: Segment) -> None:
        self._path(*segment.key).unlink(missing_ok=True)

    def set_aside(self, segment: Segment) -> None:
        path = self._path(*segment.key)
        with suppress(FileNotFoundError):
            path.rename(path.with_name(f"{path.name}.damaged"))

    def rotate(self, seconds: float) -> None:
        with self._lock:
            if self._room and time.monotonic() - self._opened_at >= seconds:
                self._finish_segment()

    def depth(self) -> int:
        """Predictions in all segments; of each only those frames are counted that came since the last time."""
        counted: dict[str, tuple[int, int]] = {}
        for _, _, path in self._segments():
            with suppress(OSError, FormatTooNew):  # forgotten meanwhile, or not for this release
                counted[path.name] = _count(path, *self._counted.get(path.name, (0, 0)))
        self._counted = counted
        return sum(count for _, count in counted.values())

    def size(self) -> int:
        size = 0
        with suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    size += entry.stat().st_size
        return size

    def close(self) -> None:
        """Finish this process's segment; the next append opens another."""
        with self._lock:
            if self._room:
                self._finish_segment()

    def _segments(self) -> list[tuple[str, int, Path]]:
        """Writer by writer, the one with the oldest segment first, and those of one writer by number."""
        found, oldest = [], dict[str, int]()
        for path in self._folder.glob("*.spool"):
            with suppress(FileNotFoundError):
                if name := NAME.fullmatch(path.name):
                    changed = path.stat().st_mtime_ns
                    oldest[name[1]] = min(oldest.get(name[1], changed), changed)
                    found.append((name[1], int(name[2]), path))
        return sorted(found, key=lambda segment: (oldest[segment[0]], *segment[:2]))

    def _path(self, writer: str, number: int) -> Path:
        return self._folder / f"{writer}.{number:08d}.spool"

    def _open_segment(self, frame_bytes: int) -> None:
        """A new segment with room for such a frame, in the place of the open one, or else StoreError,
        which is found out again only after a second, so that a full disk costs a request nothing."""
        if time.monotonic() < self._refused_until:
            raise type(self._refusal)(str(self._refusal))
        size = max(min(SEGMENT_BYTES, self._max_bytes // SHARES), len(FIRST_LINE) + frame_bytes)
        try:
            if (taken := self.size()) + size > self._max_bytes:
                raise OSError(errno.ENOSPC, f"{taken:,} bytes wait there, at most {self._max_bytes:,} may")
            file = self._new_file(size)
            segment = mmap.mmap(file, size)
        except OSError as err:
            kind, room = (
                (SpoolFull, "make room, or raise api.spool_max_mb") if err.errno in NO_ROOM else (StoreError, "")
            )
            why = f"predictions cannot be kept in {self._folder}: {err.strerror}"
            self._refusal = kind(f"{why}; {room or 'make it a folder that can be written'}, and see /readyz")
            self._refused_until = time.monotonic() + RETRY_SECONDS
            raise self._refusal from err
        if self._room:
            self._finish_segment()
        self._file, self._map, self._used, self._room = file, segment, len(FIRST_LINE), size
        self._opened_at = time.monotonic()

    def _new_file(self, size: int) -> int:
        """Locked by this process, with its first line, and so large that a write to its map cannot fail."""
        if not self._writer:  # not earlier: the process may be forked before it appends anything
            self._folder.mkdir(parents=True, exist_ok=True)
            self._writer = f"{os.getpid()}-{secrets.token_hex(6)}"
            os.register_at_fork(after_in_child=partial(_leave_to_the_parent, weakref.ref(self)))
        while True:
            self._number += 1
            path = self._path(self._writer, self._number)
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.fstat(file).st_nlink:  # else a drain took it for an abandoned one before it was locked
                    os.write(file, FIRST_LINE)
                    _reserve(file, size)
                    return file
            except OSError:
                path.unlink(missing_ok=True)
                os.close(file)
                raise
            os.close(file)

    def _finish_segment(self) -> None:
        self._map.close()
        try:
            os.ftruncate(self._file, self._used)
        finally:
            os.close(self._file)
            self._used = self._room = 0


def _leave_to_the_parent(forked: weakref.ref[FileSpool]) -> None:
    """In a child: two processes with one segment would write over each other."""
    if (spool := forked()) is not None:
        if spool._room:
            spool._map.close()
            os.close(spool._file)
        spool.__init__(spool._folder, spool._max_bytes)  # type: ignore[misc]


def _reserve(file: int, size: int) -> None:
    try:
        os.posix_fallocate(file, 0, size)
    except (AttributeError, OSError) as err:
        if getattr(err, "errno", None) in NO_ROOM:
            raise
        while (start := os.lseek(file, 0, os.SEEK_END)) < size:  # a file system that cannot reserve
            os.write(file, bytes(min(BLOCK_BYTES, size - start)))


def _closed_segment(path: Path) -> tuple[bytes, ...]:
    """The payloads in the segment at `path`; BlockingIOError while its writer holds it."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        payloads, damaged = _frames(file.read(), path)
        if damaged:
            aside = path.with_name(f"{path.name}.damaged")
            write_file(aside, damaged, mode=0o600)
            log.warning("spool damaged", kept_in=str(aside), damaged_bytes=len(damaged), read=len(payloads))
        if not payloads:
            path.unlink(missing_ok=True)  # with the lock held: its writer may be about to take it
        return tuple(payloads)


def _count(path: Path, end: int, count: int) -> tuple[int, int]:
    """Where the frames of a segment end now and how many predictions they hold, from what it was before."""
    size = path.stat().st_size
    if end == size:
        return end, count
    with path.open("rb", buffering=0) as file:
        if not end and not _format(file.read(BLOCK_BYTES), path):
            return size, 0
        end = end or len(FIRST_LINE)
        while block := os.pread(file.fileno(), BLOCK_BYTES, end):
            start = 0
            while start + HEADER_BYTES <= len(block):
                length, more, _, check = HEADER.unpack_from(block, start)
                frame_end = start + HEADER_BYTES + length
                if check != (crc32(block[start : start + NUMBERS_BYTES]) or 1) or end + frame_end > size:
                    return end + start, count
                start, count = frame_end, count + more
            if not start:
                break
            end += start
    return end, count


def _frames(data: bytes, path: Path) -> tuple[list[bytes], bytes]:
    """The payload of each whole frame, and what else is there if it is more than a torn end."""
    written_in = _format(data, path)
    if not written_in:
        return [], b"" if FIRST_LINE.startswith(data) else data
    payloads: list[bytes] = []
    damaged, start = b"", len(FIRST_LINE)
    while start + HEADER_BYTES <= len(data):
        length, _, payload_check, check = HEADER.unpack_from(data, start)
        body = start + HEADER_BYTES
        if check != (crc32(data[start : start + NUMBERS_BYTES]) or 1):
            rest = data[start:].rstrip(b"\0")
            torn = check == 0 and written_in > 1 and len(rest) <= HEADER_BYTES + length
            return payloads, damaged + (b"" if torn else rest)
        if body + length > len(data):
            break
        payload = data[body : body + length]
        if crc32(payload) == payload_check:
            payloads.append(payload)
        else:
            damaged += data[start : body + length]
        start = body + length
    return payloads, damaged + (data[start:].rstrip(b"\0") if written_in > 1 else b"")  # format 1 reserved nothing


def _format(data: bytes, path: Path) -> int:
    """The format of a segment; 0 for what is none, FormatTooNew for one of a later release."""
    first_line = data[:64].partition(b"\n")[0]
    found = first_line.removeprefix(SIGNATURE)
    if found == first_line or not found.isdigit():
        return 0
    if int(found) > SPOOL_FORMAT:
        raise FormatTooNew(f"{path} has spool format {int(found)}, this release reads {SPOOL_FORMAT}; update it")
    return int(found)
