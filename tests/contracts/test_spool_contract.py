"""What every `Spool` does."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mobile_sentiment_ops.adapters.spool import FileSpool
from mobile_sentiment_ops.ports import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened: Spool = FileSpool(tmp_path / "spool")
    yield opened
    opened.close()


def test_an_empty_spool_has_no_segments(spool: Spool) -> None:
    spool.sync()
    spool.rotate(0.0)
    spool.close()
    assert list(spool.drain()) == []
    assert (spool.depth(), spool.size()) == (0, 0)


def test_payloads_come_back_as_they_were(spool: Spool) -> None:
    given = (b"one", b"", bytes(range(256)) * 50, b"\0\0\0\0")
    for payload in given:
        spool.append(payload, 1)
    (segment,) = spool.drain()
    assert segment.payloads == given


def test_a_drain_closes_what_came_since_the_last_one(spool: Spool) -> None:
    spool.append(b"1", 1)
    spool.append(b"2", 2)
    (first,) = spool.drain()
    spool.append(b"3", 1)
    again, second = spool.drain()
    assert again == first
    assert second.payloads == (b"3",)
    assert second.key[0] == first.key[0]
    assert second.key[1] > first.key[1]


def test_a_forgotten_segment_is_gone(spool: Spool) -> None:
    spool.append(b"1", 1)
    (first,) = spool.drain()
    spool.append(b"2", 1)
    spool.forget(first)
    spool.forget(first)
    (second,) = spool.drain()
    assert second.key > first.key
    spool.forget(second)
    assert list(spool.drain()) == []
    assert spool.size() == 0


def test_depth_counts_what_waits(spool: Spool) -> None:
    spool.append(b"1", 2)
    assert spool.depth() == 2
    spool.append(b"2", 5)
    assert spool.depth() == 7
    (segment,) = spool.drain()
    assert spool.depth() == 7
    spool.append(b"3", 1)
    assert spool.depth() == 8
    spool.forget(segment)
    assert spool.depth() == 1


def test_size_grows_and_shrinks_with_what_waits(spool: Spool) -> None:
    spool.append(b"x" * 1000, 1)
    (segment,) = spool.drain()
    assert 1000 <= spool.size() < 1100
    spool.append(b"x" * 500, 1)
    spool.close()
    assert 1500 <= spool.size() < 1700
    spool.forget(segment)
    assert 500 <= spool.size() < 600


def test_a_segment_is_finished_when_it_is_old_enough(spool: Spool) -> None:
    spool.append(b"1", 1)
    spool.rotate(3600.0)
    spool.append(b"2", 1)
    spool.rotate(0.0)
    spool.rotate(0.0)
    spool.append(b"3", 1)
    spool.sync()
    assert [segment.payloads for segment in spool.drain()] == [(b"1", b"2"), (b"3",)]


def test_threads_append_and_drain_at_once_without_a_loss(spool: Spool) -> None:
    def write(worker: int) -> None:
        for number in range(200):
            spool.append(f"{worker}-{number}".encode(), 1)
            if number % 50 == 0:
                spool.sync()
                spool.rotate(0.0)

    found: list[str] = []

    def drain() -> None:
        for segment in spool.drain():
            found.extend(payload.decode() for payload in segment.payloads)
            spool.forget(segment)

    with ThreadPoolExecutor(5) as pool:
        writers = [pool.submit(write, worker) for worker in range(4)]
        while not all(writer.done() for writer in writers):
            drain()
            assert spool.depth() >= 0
        for writer in writers:
            writer.result()
    drain()
    assert sorted(found) == sorted(f"{worker}-{number}" for worker in range(4) for number in range(200))
    assert spool.depth() == 0


def test_a_segment_that_was_set_aside_is_in_nobodys_way(spool: Spool) -> None:
    spool.append(b"odd", 1)
    (segment,) = spool.drain()
    spool.set_aside(segment)
    spool.append(b"next", 1)
    (left,) = spool.drain()
    assert left.payloads == (b"next",)
    assert spool.depth() == 1
