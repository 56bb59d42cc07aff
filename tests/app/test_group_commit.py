from __future__ import annotations

import asyncio
import threading
import time

import pytest

from mobile_sentiment_ops.app.group_commit import GroupCommit
from mobile_sentiment_ops.errors import StoreError


class Disk:
    """Syncs slowly, one at a time, and remembers when each began; it may be broken."""

    def __init__(self) -> None:
        self.began: list[float] = []
        self.broken = False
        self._busy = threading.Lock()

    def sync(self) -> None:
        assert self._busy.acquire(blocking=False)
        self.began.append(time.monotonic())
        time.sleep(0.01)
        self._busy.release()
        if self.broken:
            raise StoreError("the disk is gone")


def test_each_waits_for_a_sync_that_began_after_it_came_and_shares_it() -> None:
    disk = Disk()

    async def request(commit: GroupCommit, after: float) -> tuple[float, float]:
        await asyncio.sleep(after)
        came = time.monotonic()
        await commit.committed()
        return came, time.monotonic()

    async def requests() -> list[tuple[float, float]]:
        commit = GroupCommit(disk.sync)
        return await asyncio.gather(*(request(commit, number % 50 * 0.002) for number in range(500)))

    waits = asyncio.run(requests())
    for came, went in waits:
        assert any(came <= began <= went - 0.01 for began in disk.began)
    assert len(disk.began) <= 15  # of 500 requests in a tenth of a second


def test_one_alone_waits_for_one_sync() -> None:
    disk = Disk()

    async def one_after_the_other() -> None:
        commit = GroupCommit(disk.sync)
        for _ in range(3):
            await commit.committed()

    asyncio.run(one_after_the_other())
    assert len(disk.began) == 3


def test_every_waiter_hears_what_went_wrong_and_the_next_round_is_tried() -> None:
    disk = Disk()

    async def requests() -> list[BaseException | None]:
        commit = GroupCommit(disk.sync)
        disk.broken = True
        heard = await asyncio.gather(*(commit.committed() for _ in range(5)), return_exceptions=True)
        disk.broken = False
        await commit.committed()
        return heard

    heard = asyncio.run(requests())
    assert [str(error) for error in heard] == ["the disk is gone"] * 5


def test_a_waiter_that_goes_away_takes_nobody_with_it(caplog: pytest.LogCaptureFixture) -> None:
    disk = Disk()

    async def requests() -> None:
        commit = GroupCommit(disk.sync)
        leaves, stays = asyncio.create_task(commit.committed()), asyncio.create_task(commit.committed())
        await asyncio.sleep(0.001)
        leaves.cancel()
        await stays
        disk.broken = True
        leaves = asyncio.create_task(commit.committed())
        await asyncio.sleep(0.001)
        leaves.cancel()
        await asyncio.sleep(0.05)

    asyncio.run(requests())
    assert len(disk.began) == 2
    assert caplog.text == ""  # no error that nobody asked for
