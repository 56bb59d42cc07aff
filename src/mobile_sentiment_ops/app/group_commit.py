"""One wait for the disk that many requests share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class GroupCommit:
    """Runs `sync` for whoever waits, one at a time and in a thread. To be used within one event loop."""

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._running: asyncio.Task[None] | None = None
        self._next: asyncio.Task[None] | None = None

    async def committed(self) -> None:
        """Return when a sync is through that began after this call; what it raises, each of its waiters gets."""
        if self._next is None:
            self._next = asyncio.create_task(self._round(self._running))
            self._next.add_done_callback(lambda task: task.cancelled() or task.exception())  # its waiters may be gone
        await asyncio.shield(self._next)  # a waiter that goes away leaves it to the others

    async def _round(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        self._running, self._next = self._next, None  # from here on it is too late to join
        await asyncio.get_running_loop().run_in_executor(None, self._sync)
