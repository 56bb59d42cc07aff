"""Long work is done alone, ends in order whoever ends it, and is not called running when it is not."""

from __future__ import annotations

import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType

import structlog

from mobile_sentiment_ops.app.incidents import beat
from mobile_sentiment_ops.errors import Busy, StoreError
from mobile_sentiment_ops.models.kinds import kind_named
from mobile_sentiment_ops.ports import Clock, Launcher, State
from mobile_sentiment_ops.types import Job, JobState, Lease

log = structlog.get_logger()

LEASE_SECONDS = 30.0
QUEUED_FOR_AT_MOST = timedelta(minutes=1)


@contextmanager
def alone(
    state: State, name: str, holder: str, *, patience_seconds: float, waiting: Callable[[], object]
) -> Iterator[Lease]:
    """Hold the lease `name`, renewed in the background, for as long as the block runs.

    While somebody else has it, `waiting` is called once and the lease waited for; Busy after
    `patience_seconds`. A holder that was killed keeps it for LEASE_SECONDS.
    """
    holder = f"{holder}:{secrets.token_hex(4)}"  # two threads of a process are two holders
    deadline, told = time.monotonic() + patience_seconds, False
    while (lease := state.acquire(name, holder, seconds=LEASE_SECONDS)) is None:
        if time.monotonic() >= deadline:
            raise Busy(
                f"another process is {name}: see `mso status` and GET /jobs, and wait for it; if it was "
                f"killed, ask again in {LEASE_SECONDS:.0f} seconds"
            )
        if not told:
            waiting()
            told = True
        time.sleep(min(1.0, patience_seconds))
    stop = threading.Event()

    def keep() -> None:
        held: Lease | None = lease
        while held is not None and not stop.wait(LEASE_SECONDS / 6):
            try:
                held = state.renew(held, seconds=LEASE_SECONDS)
            except StoreError as err:
                log.warning("lease not renewed", lease=name, error=str(err))

    keeper = threading.Thread(target=keep, name=f"{name}-lease", daemon=True)
    keeper.start()
    try:
        yield lease
    finally:
        stop.set()
        keeper.join()
        state.release(lease)


def close_lost_jobs(state: State, launcher: Launcher, clock: Clock, *, but: str | None = None) -> list[str]:
    """End as FAILED the jobs whose process is gone or never came, and say so; the job `but` is left alone."""
    found = []
    for was in (JobState.RUNNING, JobState.QUEUED):
        for job in state.jobs(state=was):
            if job.pid is None:
                under_way = clock.now() - job.created_at < QUEUED_FOR_AT_MOST
            else:
                under_way = launcher.alive(job.pid)
            if under_way or job.job_id == but:
                continue
            error = "its process ended without finishing; ask for it again"
            state.update_job(job.job_id, state=JobState.FAILED, error=error)
            beat(state, job.kind, ok=False, note=error)
            found.append(f"job {job.job_id} was {was.value} and {error}")
    return found


def schedule_retrain(state: State, launcher: Launcher, clock: Clock, kinds: Sequence[str] | None = None) -> Job:
    """A job that trains in a process of its own; the one that is already on its way, if any."""
    for name in kinds or ():
        kind_named(name)
    close_lost_jobs(state, launcher, clock)
    job, created = state.submit("retrain")
    if not created:
        return job
    try:
        return state.update_job(job.job_id, pid=launcher.start(job.job_id, tuple(kinds or ())))
    except StoreError as err:
        state.update_job(job.job_id, state=JobState.FAILED, error=str(err))
        raise


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Let SIGTERM end the block by KeyboardInterrupt, as Ctrl-C does; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(_sign: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # told once is enough: the work is being closed
        raise KeyboardInterrupt("it was told to end by SIGTERM")

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
