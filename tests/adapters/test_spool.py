"""The spool on the disk: what survives what."""

from __future__ import annotations

import json
import random
import resource
import signal
import struct
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mobile_sentiment_ops.adapters.memory import MemoryTables
from mobile_sentiment_ops.adapters.spool import FileSpool
from mobile_sentiment_ops.errors import FormatTooNew, StoreError
from mobile_sentiment_ops.types import Label, PredictionRecord

FIXTURES = Path(__file__).parents[1] / "fixtures"
Make = Callable[..., PredictionRecord]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(folder: Path) -> Iterator[FileSpool]:
    opened = FileSpool(folder)
    yield opened
    opened.close()


def drained(spool: FileSpool) -> list[str]:
    return [record.prediction_id for segment in spool.drain() for record in segment.records]


def only_file(folder: Path) -> Path:
    (path,) = folder.glob("*.spool")
    return path


def test_nothing_is_written_before_the_first_append(folder: Path, spool: FileSpool) -> None:
    assert list(spool.drain()) == []
    assert spool.depth() == 0
    assert not folder.exists()


def test_what_another_process_still_writes_is_left_to_it(folder: Path, spool: FileSpool, record: Make) -> None:
    other = FileSpool(folder)
    other.append([record("theirs")])
    spool.append([record("ours")])
    assert spool.depth() == 2
    assert drained(spool) == ["ours"]
    other.close()
    assert sorted(drained(spool)) == ["ours", "theirs"]


def test_a_large_segment_is_closed_by_itself(folder: Path, spool: FileSpool, record: Make) -> None:
    for number in range(10):
        spool.append([record(str(number), text="x" * 2_000_000)])
    segments = list(spool.drain())
    assert [len(segment.records) for segment in segments] == [5, 5]
    assert segments[0].key < segments[1].key
    assert drained(spool) == [str(number) for number in range(10)]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 2_000))
def test_of_a_torn_file_every_whole_append_is_read(
    tmp_path_factory: pytest.TempPathFactory, record: Make, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    spool = FileSpool(folder)
    ends = []
    for number in range(4):
        spool.append([record(f"{number}-{i}") for i in range(2)])
        ends.append(only_file(folder).stat().st_size)
    spool.close()
    path = only_file(folder)
    path.write_bytes(path.read_bytes()[:cut])
    whole = [f"{number}-{i}" for number, end in enumerate(ends) if end <= cut for i in range(2)]
    with capture_logs() as logs:
        assert spool.depth() == len(whole)
        assert drained(spool) == whole
    assert logs == []
    assert not list(folder.glob("*.damaged"))
    assert bool(list(folder.glob("*.spool"))) == bool(whole)


def test_a_damaged_file_gives_what_is_before_and_keeps_the_rest(folder: Path, spool: FileSpool, record: Make) -> None:
    spool.append([record("1")])
    start = only_file(folder).stat().st_size
    spool.append([record("2")])
    spool.append([record("3")])
    spool.close()
    path = only_file(folder)
    data = bytearray(path.read_bytes())
    for position in (start, start + 5, start + 9, start + 14, start + 40):
        broken = bytes([*data[:position], data[position] ^ 0x10, *data[position + 1 :]])
        path.write_bytes(broken)
        with capture_logs() as logs:
            assert drained(spool) == ["1"]
        assert path.with_name(f"{path.name}.damaged").read_bytes() == broken[start:]
        assert [entry["log_level"] for entry in logs] == ["warning"]


def test_a_file_that_is_no_segment_is_kept_aside(folder: Path, spool: FileSpool, record: Make) -> None:
    folder.mkdir()
    (folder / "1-a.00000001.spool").write_bytes(b"\0" * 4096)
    spool.append([record("1")])
    assert drained(spool) == ["1"]
    assert (folder / "1-a.00000001.spool.damaged").read_bytes() == b"\0" * 4096


def test_a_segment_of_a_later_format_is_named_after_the_others(folder: Path, spool: FileSpool, record: Make) -> None:
    folder.mkdir()
    later = folder / "1-a.00000001.spool"
    later.write_bytes(b"mso-spool 2\nwho knows")
    spool.append([record("1")])
    segments = spool.drain()
    assert [kept.prediction_id for kept in next(segments).records] == ["1"]
    with pytest.raises(FormatTooNew, match="format 2, this release reads 1"):
        next(segments)
    assert later.read_bytes() == b"mso-spool 2\nwho knows"
    assert spool.depth() == 1


def test_a_disk_that_is_full_refuses_and_spoils_nothing(folder: Path, spool: FileSpool, record: Make) -> None:
    spool.append([record("1")])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (only_file(folder).stat().st_size + 30, hard))
    try:
        with pytest.raises(StoreError, match="cannot be kept"):
            spool.append([record("lost")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    spool.append([record("2")])
    assert drained(spool) == ["1", "2"]


def test_only_the_owner_may_read_the_texts(folder: Path, spool: FileSpool, record: Make) -> None:
    spool.append([record("1")])
    assert only_file(folder).stat().st_mode & 0o077 == 0


def test_a_segment_of_format_1_is_read(folder: Path, spool: FileSpool) -> None:
    folder.mkdir()
    (folder / "4711-0a1b2c3d4e5f.00000002.spool").write_bytes((FIXTURES / "spool_format_1.spool").read_bytes())
    (segment,) = spool.drain()
    assert segment.key == ("4711-0a1b2c3d4e5f", 2)
    first, second, third = segment.records
    assert (first.prediction_id, first.label, first.probabilities) == ("p1", Label.POSITIVE, (0.1, 0.2, 0.7))
    assert (first.app, first.language, first.text) == ("lamp", "th", "ดีมาก 😀")
    assert first.received_at.isoformat() == "2025-03-01T12:00:00.123456+00:00"
    assert (second.app, second.text, third.prediction_id) == (None, None, "p3")


def test_the_frames_are_as_the_docstring_says(folder: Path, spool: FileSpool, record: Make) -> None:
    spool.append([record("1"), record("2")])
    first_line, _, frame = only_file(folder).read_bytes().partition(b"\n")
    length, count, check, header_check = struct.unpack_from("<IIII", frame)
    assert first_line == b"mso-spool 1"
    assert (length, count) == (len(frame) - 16, 2)
    assert header_check == zlib.crc32(frame[:12])
    assert check == zlib.crc32(frame[16:])
    assert [fields[0] for fields in json.loads(frame[16:])] == ["1", "2"]


APPEND_UNTIL_KILLED = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from mobile_sentiment_ops.adapters.spool import FileSpool
from mobile_sentiment_ops.types import Label, PredictionRecord
spool, me, now, number = FileSpool(Path(sys.argv[1])), sys.argv[2], datetime.now(UTC), 0
while True:
    ids = [f"{me}-{number}-{i}" for i in range(number % 4 + 1)]
    record = ("q", "r", now, now, "1", Label.NEUTRAL, (0.2, 0.6, 0.2), "lamp", "1.0", "en", "x" * 300)
    spool.append([PredictionRecord(i, *record) for i in ids])
    sys.stdout.write("".join(i + "\\n" for i in ids))
    sys.stdout.flush()
    number += 1
    if number % 1000 == 0:
        list(spool.drain())
"""


@pytest.mark.integration
def test_no_kill_loses_doubles_or_tears_what_was_acknowledged(
    folder: Path, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    noise = random.Random(7)  # noqa: S311 - moments of the kills
    tables, spool = MemoryTables(), FileSpool(folder)
    acknowledged: list[str] = []
    for round_ in range(20):
        child = start_python(APPEND_UNTIL_KILLED, str(folder), f"c{round_}")
        assert child.stdout is not None
        acknowledged.append(child.stdout.readline().strip())
        time.sleep(noise.uniform(0.0, 0.1))
        child.send_signal(signal.SIGKILL)
        rest = child.communicate()[0]
        acknowledged += rest[: rest.rfind("\n") + 1].splitlines()
        for segment in spool.drain():
            rows = pa.table({"prediction_id": [record.prediction_id for record in segment.records]})
            for _ in range(2):  # as if the process had died before it could forget
                tables.append("predictions", rows, key=segment.key)
            if noise.random() < 0.7:
                spool.forget(segment)
    for segment in spool.drain():
        assert not tables.append("predictions", pa.table({"prediction_id": ["again"]}), key=segment.key)
    stored = tables.read("predictions")["prediction_id"].to_pylist()
    assert len(stored) == len(set(stored))
    assert set(acknowledged) <= set(stored)
    assert len(stored) - len(acknowledged) <= 20 * 8  # written, and killed before it was told
    assert not list(folder.glob("*.damaged"))
