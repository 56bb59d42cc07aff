"""What every `Spool` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mobile_sentiment_ops.adapters.memory import MemorySpool
from mobile_sentiment_ops.adapters.spool import FileSpool
from mobile_sentiment_ops.ports import Spool
from mobile_sentiment_ops.types import PredictionRecord

Make = Callable[..., PredictionRecord]


@pytest.fixture(params=["memory", "file"])
def spool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Spool]:
    if request.param == "memory":
        yield MemorySpool()
        return
    opened = FileSpool(tmp_path / "spool")
    yield opened
    opened.close()


def test_an_empty_spool_has_no_segments(spool: Spool) -> None:
    assert list(spool.drain()) == []
    assert spool.depth() == 0


def test_records_come_back_as_they_were(spool: Spool, record: Make) -> None:
    given = [record("1", text="ดีมาก 😀\n\u2028", app="lamp", version="1.0", language="th"), record("2")]
    spool.append(given)
    (segment,) = spool.drain()
    assert list(segment.records) == given


def test_a_drain_closes_what_came_since_the_last_one(spool: Spool, record: Make) -> None:
    spool.append([record("1")])
    spool.append([record("2"), record("3")])
    (first,) = spool.drain()
    spool.append([record("4")])
    again, second = spool.drain()
    assert again == first
    assert [found.prediction_id for found in second.records] == ["4"]
    assert second.key[0] == first.key[0]
    assert second.key[1] > first.key[1]


def test_a_forgotten_segment_is_gone(spool: Spool, record: Make) -> None:
    spool.append([record("1")])
    (first,) = spool.drain()
    spool.append([record("2")])
    spool.forget(first)
    spool.forget(first)
    (second,) = spool.drain()
    assert second.key > first.key
    spool.forget(second)
    assert list(spool.drain()) == []


def test_depth_counts_what_waits(spool: Spool, record: Make) -> None:
    spool.append([record("1"), record("2")])
    assert spool.depth() == 2
    (segment,) = spool.drain()
    spool.append([record("3")])
    assert spool.depth() == 3
    spool.forget(segment)
    assert spool.depth() == 1


def test_threads_append_and_drain_at_once_without_a_loss(spool: Spool, record: Make) -> None:
    def write(worker: int) -> None:
        for number in range(40):
            spool.append([record(f"{worker}-{number}-{i}") for i in range(3)])

    found: list[str] = []

    def drain() -> None:
        for segment in spool.drain():
            found.extend(kept.prediction_id for kept in segment.records)
            spool.forget(segment)

    with ThreadPoolExecutor(5) as pool:
        writers = [pool.submit(write, worker) for worker in range(4)]
        while not all(writer.done() for writer in writers):
            drain()
    drain()
    assert sorted(found) == sorted(f"{w}-{n}-{i}" for w in range(4) for n in range(40) for i in range(3))
