"""The spool on the disk: what survives what."""

from __future__ import annotations

import os
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
from mobile_sentiment_ops.errors import FormatTooNew, SpoolFull, StoreError

FIXTURES = Path(__file__).parents[1] / "fixtures"
FIRST_LINE = b"mso-spool 2\n"
NAME = "1-a.00000001.spool"
StartPython = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
def spool(folder: Path) -> Iterator[FileSpool]:
    opened = FileSpool(folder)
    yield opened
    opened.close()


def drained(spool: FileSpool) -> list[bytes]:
    return [payload for segment in spool.drain() for payload in segment.payloads]


def only_file(folder: Path) -> Path:
    (path,) = folder.glob("*.spool")
    return path


def frame(payload: bytes, count: int = 1) -> bytes:
    numbers = struct.pack("<III", len(payload), count, zlib.crc32(payload))
    return numbers + struct.pack("<I", zlib.crc32(numbers)) + payload


def put(folder: Path, data: bytes) -> Path:
    """A segment that its writer left behind."""
    folder.mkdir(exist_ok=True)
    path = folder / NAME
    path.write_bytes(data)
    return path


# --- what is written


def test_nothing_is_written_before_the_first_append(folder: Path, spool: FileSpool) -> None:
    assert list(spool.drain()) == []
    spool.sync()
    assert (spool.depth(), spool.size()) == (0, 0)
    assert not folder.exists()


def test_the_frames_are_as_the_docstring_says(folder: Path, spool: FileSpool) -> None:
    spool.append(b"one", 1)
    spool.append(b"three", 3)
    written = FIRST_LINE + frame(b"one", 1) + frame(b"three", 3)
    data = only_file(folder).read_bytes()
    assert (len(data), data.rstrip(b"\0")) == (8 * 2**20, written)
    assert only_file(folder).stat().st_blocks * 512 >= len(data)  # reserved
    spool.close()
    assert only_file(folder).read_bytes() == written


def test_only_the_owner_may_read_the_texts(folder: Path, spool: FileSpool) -> None:
    spool.append(b"1", 1)
    spool.close()
    path = only_file(folder)
    path.write_bytes(path.read_bytes() + b"damage")
    with capture_logs():
        assert drained(spool) == [b"1"]
    assert {found.stat().st_mode & 0o777 for found in folder.iterdir()} == {0o600}
    assert len(list(folder.iterdir())) == 2


def test_what_another_process_still_writes_is_left_to_it(folder: Path, spool: FileSpool) -> None:
    other = FileSpool(folder)
    other.append(b"theirs", 1)
    spool.append(b"ours", 1)
    assert spool.depth() == 2
    assert drained(spool) == [b"ours"]
    other.append(b"theirs too", 3)
    assert spool.depth() == 5
    other.rotate(3600.0)
    assert drained(spool) == [b"ours"]
    other.rotate(0.0)
    assert sorted(drained(spool)) == [b"ours", b"theirs", b"theirs too"]
    other.close()


def test_a_large_segment_is_finished_by_itself(folder: Path, spool: FileSpool) -> None:
    for number in range(10):
        spool.append(bytes([number]) * 2_000_000, 1)
    segments = list(FileSpool(folder).drain())
    assert [len(segment.payloads) for segment in segments] == [4, 4]
    assert segments[0].key < segments[1].key
    assert [payload[0] for payload in drained(spool)] == list(range(10))


def test_a_payload_larger_than_a_segment_gets_one_that_fits(folder: Path, spool: FileSpool) -> None:
    spool.append(b"small", 1)
    spool.append(b"x" * 20_000_000, 9)
    spool.append(b"small again", 1)
    assert spool.depth() == 11
    assert [len(payload) for payload in drained(spool)] == [5, 20_000_000, 11]


def test_segments_of_a_writer_come_by_number_whatever_their_times(folder: Path, spool: FileSpool) -> None:
    """A table skips a number below the last one that it took, so another order would lose predictions."""
    for number in range(3):
        spool.append(str(number).encode(), 1)
        spool.close()
    other = FileSpool(folder)
    other.append(b"other", 1)
    other.close()
    for path in folder.iterdir():
        number = int(path.name.split(".")[1])
        os.utime(path, (1_000 - number, 1_000 - number))
    keys = [segment.key for segment in spool.drain()]
    assert [number for _, number in keys] == [1, 2, 3, 1]
    assert len({writer for writer, _ in keys[:3]}) == 1


def test_what_was_synced_is_not_dirty_any_more(folder: Path, spool: FileSpool) -> None:
    found = subprocess.run(
        ["stat", "-f", "-c", "%T", str(folder.parent)], capture_output=True, text=True
    ).stdout.strip()
    if not Path("/proc/self/smaps").exists() or found in ("tmpfs", "ramfs"):
        pytest.skip("a disk and Linux's list of memory maps are needed")

    def dirty_kb() -> int:
        _, _, maps = Path("/proc/self/smaps").read_text().partition(str(folder))
        lines = [line for line in maps.split("VmFlags")[0].splitlines() if "_Dirty:" in line]
        assert lines
        return sum(int(line.split()[1]) for line in lines)

    spool.append(b"x" * 10_000, 1)
    assert dirty_kb() >= 8
    spool.sync()
    assert dirty_kb() == 0


# --- what is found after a kill


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=st.integers(0, 12), payload=st.integers(0, 300), reserved=st.integers(0, 100))
def test_a_torn_append_is_dropped(
    tmp_path_factory: pytest.TempPathFactory, numbers: int, payload: int, reserved: int
) -> None:
    torn = frame(b"x" * 300)
    begun = torn[:numbers] + bytes(16 - numbers) + (torn[16 : 16 + payload] if numbers == 12 else b"")
    folder = tmp_path_factory.mktemp("spool")
    whole = [b"1", b"2" * 50]
    put(folder, FIRST_LINE + b"".join(map(frame, whole)) + begun + bytes(300 - payload + reserved))
    spool = FileSpool(folder)
    with capture_logs() as logs:
        assert spool.depth() == 2
        assert drained(spool) == whole
    assert logs == []
    assert [path.name for path in folder.iterdir()] == [NAME]


@pytest.mark.parametrize("data", [b"", b"mso-sp", FIRST_LINE, FIRST_LINE + bytes(5_000)])
def test_a_segment_without_an_append_goes_away(folder: Path, spool: FileSpool, data: bytes) -> None:
    put(folder, data)
    assert spool.depth() == 0
    with capture_logs() as logs:
        assert drained(spool) == []
    assert logs == []
    assert list(folder.iterdir()) == []


APPEND_UNTIL_KILLED = """
import sys
from pathlib import Path
from mobile_sentiment_ops.adapters.spool import FileSpool
spool, me, number = FileSpool(Path(sys.argv[1])), sys.argv[2], 0
while True:
    ids = [f"{me}-{number}-{i}" for i in range(number % 4 + 1)]
    spool.append(" ".join(ids).encode() + b" " * (number % 997), len(ids))
    sys.stdout.write("".join(i + "\\n" for i in ids))
    sys.stdout.flush()
    number += 1
    if number % 1000 == 0:
        spool.rotate(0.0)
    if number % 1700 == 0:
        list(spool.drain())
    if number % 2300 == 0:
        spool.sync()
"""


@pytest.mark.integration
def test_no_kill_loses_doubles_or_tears_what_was_acknowledged(folder: Path, start_python: StartPython) -> None:
    noise = random.Random(7)  # noqa: S311 - moments of the kills
    tables, spool = MemoryTables(), FileSpool(folder)
    acknowledged: list[str] = []
    for round_ in range(30):
        child = start_python(APPEND_UNTIL_KILLED, str(folder), f"c{round_}")
        assert child.stdout is not None
        acknowledged.append(child.stdout.readline().strip())
        time.sleep(noise.uniform(0.0, 0.1))
        child.send_signal(signal.SIGKILL)
        rest = child.communicate()[0]
        acknowledged += rest[: rest.rfind("\n") + 1].splitlines()
        for segment in spool.drain():
            rows = pa.table({"prediction_id": b" ".join(segment.payloads).decode().split()})
            for _ in range(2):  # as if the process had died before it could forget
                tables.append("predictions", rows, key=segment.key)
            if noise.random() < 0.7:
                spool.forget(segment)
    for segment in spool.drain():
        assert not tables.append("predictions", pa.table({"prediction_id": ["again"]}), key=segment.key)
    stored = tables.read("predictions")["prediction_id"].to_pylist()
    assert len(acknowledged) > 10_000
    assert len(stored) == len(set(stored))
    assert set(acknowledged) <= set(stored)
    assert len(stored) - len(acknowledged) <= 30 * 8  # written, and killed before it was told
    assert not list(folder.glob("*.damaged"))


DRAIN_WHILE_OTHERS_DO = """
import sys, time
from pathlib import Path
from mobile_sentiment_ops.adapters.spool import FileSpool
spool, until = FileSpool(Path(sys.argv[1])), time.monotonic() + 3
while time.monotonic() < until:
    for segment in spool.drain():
        print(*segment.key, b" ".join(segment.payloads).decode())
        spool.forget(segment)
"""


@pytest.mark.integration
def test_two_processes_may_drain_at_once(folder: Path, spool: FileSpool, start_python: StartPython) -> None:
    drains = [start_python(DRAIN_WHILE_OTHERS_DO, str(folder)) for _ in range(2)]
    number, until = 0, time.monotonic() + 2
    while time.monotonic() < until:
        spool.append(str(number).encode(), 1)
        number += 1
        if number % 100 == 0:
            spool.rotate(0.0)
    spool.close()
    outputs = [drain.communicate()[0] for drain in drains]
    assert [drain.returncode for drain in drains] == [0, 0]
    found: dict[str, str] = {}
    for output in outputs:
        numbers = []
        for line in output.splitlines():
            writer, segment, ids = line.split(" ", 2)
            assert found.setdefault(f"{writer} {segment}", ids) == ids
            numbers.append(int(segment))
        assert numbers == sorted(numbers)
    assert sorted(int(one) for ids in found.values() for one in ids.split()) == list(range(number))


FORK_AFTER_AN_APPEND = """
import os, sys
from pathlib import Path
from mobile_sentiment_ops.adapters.spool import FileSpool
early, late = FileSpool(Path(sys.argv[1])), FileSpool(Path(sys.argv[1]))
late.append(b"before", 1)
child = os.fork()
for spool, name in ((early, b"early"), (late, b"late")):
    for number in range(50):
        spool.append(b"%s %s %d" % (b"parent" if child else b"child", name, number), 1)
if child:
    os.kill(os.getpid(), 9)
print("ready", flush=True)
sys.stdin.read()
"""


def test_parent_and_child_of_a_fork_write_segments_of_their_own(
    folder: Path, spool: FileSpool, start_python: StartPython
) -> None:
    parent = start_python(FORK_AFTER_AN_APPEND, str(folder), stdin=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdin is not None
    assert parent.stdout.readline() == "ready\n"
    parent.wait()
    theirs = sorted(
        f"{who} {name} {number}" for who in ("parent",) for name in ("early", "late") for number in range(50)
    )
    assert sorted(payload.decode() for payload in drained(spool)) == ["before", *theirs]  # the child still lives
    parent.stdin.close()
    parent.stdout.read()  # until it has ended
    found = sorted(payload.decode() for payload in drained(spool))
    assert found == sorted(["before", *theirs, *(line.replace("parent", "child") for line in theirs)])


# --- damage


def test_of_damaged_frames_the_others_are_read_and_the_bytes_kept(folder: Path, spool: FileSpool) -> None:
    first, second, third = frame(b"1" * 30), frame(b"2" * 30), frame(b"3" * 30)
    start = len(FIRST_LINE + first)
    for at, read, kept in (
        (start, [b"1" * 30], second + third),  # where the next frame begins is not known
        (start + 5, [b"1" * 30], second + third),
        (start + 14, [b"1" * 30], second + third),
        (start + 20, [b"1" * 30, b"3" * 30], second),
        (start + len(second) + 20, [b"1" * 30, b"2" * 30], third),
    ):
        data = bytearray(FIRST_LINE + first + second + third + bytes(100))
        data[at] ^= 0x10
        path = put(folder, bytes(data))
        with capture_logs() as logs:
            assert drained(spool) == read
        damaged = path.with_name(f"{NAME}.damaged").read_bytes()
        assert len(damaged) == len(kept)
        assert sum(one != other for one, other in zip(damaged, kept, strict=True)) == 1
        assert [(entry["log_level"], entry["damaged_bytes"]) for entry in logs] == [("warning", len(kept))]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    payloads=st.lists(st.binary(max_size=40), min_size=1, max_size=5),
    at=st.floats(0, 1),
    damage=st.binary(min_size=1, max_size=60),
    cut=st.booleans(),
)
def test_no_damage_changes_a_payload_or_stops_the_drain(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], at: float, damage: bytes, cut: bool
) -> None:
    whole = FIRST_LINE + b"".join(map(frame, payloads)) + bytes(20)
    start = int(at * len(whole))
    broken = whole[:start] + damage + (b"" if cut else whole[start + len(damage) :])
    folder = tmp_path_factory.mktemp("spool")
    path = put(folder, broken)
    spool = FileSpool(folder)
    found: list[bytes] = []
    with capture_logs() as logs:
        assert spool.depth() >= 0
        try:
            found = drained(spool)
        except FormatTooNew:  # the first line says so now
            assert path.read_bytes() == broken
            return
    rest = iter(payloads)
    assert all(payload in rest for payload in found)  # in their order, none twice
    if len(found) < len(payloads) and not (cut or b"\0" in damage):  # zeros may look like a torn end
        assert [entry["event"] for entry in logs] == ["spool damaged"]
        assert path.with_name(f"{NAME}.damaged").read_bytes() in broken


def test_a_file_that_is_no_segment_is_kept_aside(folder: Path, spool: FileSpool) -> None:
    put(folder, b"\0" * 4096)
    (folder / "notes.spool").write_text("of someone else")
    spool.append(b"1", 1)
    assert drained(spool) == [b"1"]
    assert (folder / f"{NAME}.damaged").read_bytes() == b"\0" * 4096
    assert (folder / "notes.spool").read_text() == "of someone else"


def test_segments_that_cannot_be_read_are_named_after_the_others(folder: Path, spool: FileSpool) -> None:
    folder.mkdir()
    (folder / NAME).mkdir()
    (folder / "1-a.00000002.spool").write_bytes(FIRST_LINE + frame(b"waits for the first of its writer"))
    spool.append(b"1", 1)
    segments = spool.drain()
    assert next(segments).payloads == (b"1",)
    with pytest.raises(StoreError, match=f"{NAME} cannot be read: .*directory"):
        next(segments)


# --- formats


def test_a_segment_of_a_later_format_is_named_after_the_others(folder: Path, spool: FileSpool) -> None:
    later = put(folder, b"mso-spool 3\nwho knows")
    spool.append(b"1", 1)
    segments = spool.drain()
    assert next(segments).payloads == (b"1",)
    with pytest.raises(FormatTooNew, match="format 3, this release reads 2"):
        next(segments)
    assert later.read_bytes() == b"mso-spool 3\nwho knows"
    assert spool.depth() == 1


@pytest.mark.parametrize(("number", "predictions", "payloads"), [(1, 3, 2), (2, 4, 3)])
def test_a_segment_of_each_format_is_read(
    folder: Path, spool: FileSpool, number: int, predictions: int, payloads: int
) -> None:
    data = (FIXTURES / f"spool_format_{number}.spool").read_bytes()
    put(folder, data)
    assert spool.depth() == predictions
    with capture_logs() as logs:
        (segment,) = spool.drain()
    assert (segment.key, len(segment.payloads), logs) == (("1-a", 1), payloads, [])
    assert all(payload in data for payload in segment.payloads)


def test_of_format_1_every_whole_append_is_read_wherever_its_file_ends(folder: Path, spool: FileSpool) -> None:
    data = (FIXTURES / "spool_format_1.spool").read_bytes()
    put(folder, data)
    payloads = drained(spool)
    ends = [data.index(payload) + len(payload) for payload in payloads]
    for cut in range(len(data)):
        put(folder, data[:cut])
        with capture_logs() as logs:
            assert drained(spool) == [payload for payload, end in zip(payloads, ends, strict=True) if end <= cut]
        assert logs == []


# --- a disk that is full


def append_until_full(spool: FileSpool, payload_bytes: int) -> tuple[list[bytes], str]:
    """What was kept, and how the rest was refused."""
    kept: list[bytes] = []
    while True:
        payload = len(kept).to_bytes(4) * (payload_bytes // 4)
        try:
            spool.append(payload, 1)
        except SpoolFull as err:
            return kept, str(err)
        kept.append(payload)


def test_a_spool_that_is_full_refuses_and_goes_on_when_there_is_room(folder: Path) -> None:
    spool = FileSpool(folder, max_bytes=2**20)
    kept, refusal = append_until_full(spool, 4_000)
    assert str(folder) in refusal
    assert "at most 1,048,576 may" in refusal
    assert "api.spool_max_mb" in refusal
    assert 900_000 < spool.size() <= 2**20
    with pytest.raises(SpoolFull):
        spool.append(b"x" * 4_000, 1)
    segments = list(spool.drain())
    for segment in segments:
        spool.forget(segment)
    with pytest.raises(SpoolFull):  # it looks again only after a second
        spool.append(b"x" * 4_000, 1)
    time.sleep(1.05)
    spool.append(b"on", 1)
    assert [payload for segment in segments for payload in segment.payloads] == kept
    assert drained(spool) == [b"on"]
    spool.close()


def test_what_fits_into_the_open_segment_is_kept_when_a_large_payload_is_refused(folder: Path) -> None:
    spool = FileSpool(folder, max_bytes=2**20)
    spool.append(b"1", 1)
    with pytest.raises(SpoolFull):
        spool.append(b"x" * 2**20, 1)
    spool.append(b"2", 1)
    assert drained(spool) == [b"1", b"2"]


def test_a_refused_append_costs_little(folder: Path) -> None:
    spool = FileSpool(folder, max_bytes=10)
    with pytest.raises(SpoolFull):
        spool.append(b"x", 1)
    began = time.process_time()
    for _ in range(1_000):
        with pytest.raises(SpoolFull):
            spool.append(b"x", 1)
    assert time.process_time() - began < 5
    assert not folder.exists()


def test_a_limit_of_the_system_refuses_and_spoils_nothing(folder: Path, spool: FileSpool) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(SpoolFull, match=r"cannot be kept in .*: File too large"):
            spool.append(b"lost", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(folder.iterdir()) == []
    time.sleep(1.05)
    spool.append(b"1", 1)
    assert drained(spool) == [b"1"]


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    spool = FileSpool(tmp_path / "file" / "spool")
    with pytest.raises(StoreError, match=r"cannot be kept in .*: Not a directory; make it a folder") as refused:
        spool.append(b"1", 1)
    assert not isinstance(refused.value, SpoolFull)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(path)], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_full_disk_loses_nothing_that_was_acknowledged(small_disk: Path) -> None:
    folder = small_disk / "spool"
    spool, other = FileSpool(folder), FileSpool(folder)
    (small_disk / "ballast").write_bytes(bytes(2 * 2**20))
    other.append(b"other", 1)
    kept, refusal = append_until_full(spool, 100_000)
    assert "No space left on device" in refusal
    assert len(kept) > 80
    (small_disk / "ballast").write_bytes(bytes(3 * 2**20))  # the rest of the disk
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "rest").write_bytes(bytes(20 * 2**20))
    spool.append(b"fits", 1)  # into what is reserved
    other.close()
    segments = list(spool.drain())
    payloads = sorted(payload for segment in segments for payload in segment.payloads)
    assert payloads == sorted([*kept, b"other", b"fits"])
    for segment in segments:
        spool.forget(segment)
    time.sleep(1.05)
    spool.append(b"on", 1)
    assert drained(spool) == [b"on"]
