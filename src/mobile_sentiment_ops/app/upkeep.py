"""What a process does beside answering: tasks, each in a thread of its own, at once and then again and again.

The keeper's are these, of which the marked ones are done once more at the end:

    champion   publish the champion when it is another one
    drain *    predictions from the spools into their table: every minute, and when many wait
    answers *  CSV answers from the local disk into the bucket
    mlflow     look whether MLflow answers
    jobs       close those whose process was killed
    watch      open an incident for what is silent for too long
    alerts-*   tell a channel of incidents
    monitor    check for drift when it is time to
    report     tell how all of this is
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from mobile_sentiment_ops.app.long_work import close_lost_jobs, schedule_retrain
from mobile_sentiment_ops.app.outbox import Outbox
from mobile_sentiment_ops.bootstrap import Platform
from mobile_sentiment_ops.errors import MsoError
from mobile_sentiment_ops.types import Beat, Severity

log = structlog.get_logger()

PAUSE_SECONDS = 10.0
"""After a failure nothing is tried again sooner."""

STOP_SECONDS = 20.0
CHAMPION_SECONDS = ANSWERS_SECONDS = REPORT_SECONDS = 1.0
DRAIN_SECONDS, DRAIN_DEPTH, DEPTH_SECONDS = 60.0, 50_000, 5.0
MLFLOW_SECONDS, JOBS_SECONDS = 10.0, 5.0
WATCH_SECONDS, FIGURES_SECONDS, ALERTS_SECONDS = 60.0, 5.0, 5.0
MONITOR_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Task:
    """Something to do every so many seconds, and what is to be done `last`."""

    name: str
    do: Callable[[], object]
    every_seconds: float
    last: Callable[[], object] | None = None


class Upkeep:
    """The threads of one process."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._keep, args=(task,), name=f"upkeep-{task.name}", daemon=True) for task in tasks
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop the threads after what is to be done at the end; what hangs is left."""
        self._stop.set()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _keep(self, task: Task) -> None:
        fault = _guarded(task.name, task.do)
        while not self._stop.wait(max(task.every_seconds, PAUSE_SECONDS) if fault else task.every_seconds):
            fault = _guarded(task.name, task.do, told=fault)
        if task.last is not None:
            _guarded(task.name, task.last, told=fault)


def keeper_tasks(platform: Platform, *, train_if_missing: bool) -> list[Task]:
    """What the keeper of a platform does. With `train_if_missing` it schedules a training, once, when there is
    no champion."""
    keeper, state = platform.keeper, platform.state
    outbox = Outbox(platform.workspace / "answers", lambda: platform.files)
    incidents, silence, started_at = (
        platform.incidents,
        platform.settings.monitoring.silence_hours,
        platform.clock.now(),
    )
    mlflow, tried, drained_at, watched_at, began = "not asked yet", False, 0.0, 0.0, time.monotonic()
    figures: tuple[tuple[Beat, ...], dict[Severity, int]] = (), {}

    def champion() -> None:
        nonlocal tried
        published = keeper.follow()
        if not tried and train_if_missing and published.champion is None and state.champion() is None:
            schedule_retrain(state, platform.launcher, platform.clock)
        tried = True

    def drain() -> None:
        nonlocal drained_at
        if time.monotonic() - drained_at >= DRAIN_SECONDS or keeper.depth() >= DRAIN_DEPTH:
            drained_at = time.monotonic()
            keeper.spooled()
            keeper.drain()

    def ask_mlflow() -> None:
        nonlocal mlflow
        mlflow = "reachable" if platform.registry.reachable() else "unreachable"

    def watch() -> None:
        nonlocal watched_at, figures
        if time.monotonic() - watched_at >= WATCH_SECONDS:
            watched_at = time.monotonic()
            incidents.watch(silence, started_at)
        figures = incidents.figures()

    def monitor() -> None:
        if time.monotonic() - began >= MONITOR_SECONDS:  # a start has more to do
            keeper.check()

    def report() -> None:
        beats, counts = figures
        keeper.report(mlflow=mlflow, bucket=outbox.fault, beats=beats, incidents=counts)

    return [
        Task("champion", champion, CHAMPION_SECONDS),
        Task("drain", drain, DEPTH_SECONDS, last=keeper.drain),
        Task("answers", outbox.send, ANSWERS_SECONDS, last=outbox.send),
        Task("mlflow", ask_mlflow, MLFLOW_SECONDS),
        Task("jobs", lambda: close_lost_jobs(state, platform.launcher, platform.clock), JOBS_SECONDS),
        Task("watch", watch, FIGURES_SECONDS),
        Task("monitor", monitor, MONITOR_SECONDS),
        *(Task(f"alerts-{to.name}", partial(incidents.tell, to), ALERTS_SECONDS) for to in incidents.channels),
        Task("report", report, REPORT_SECONDS),
    ]


def _guarded(name: str, do: Callable[[], object], *, told: str = "") -> str:
    """Do it and say what went wrong, as a thread of the server outlives everything; logged unless `told`."""
    try:
        do()
    except Exception as err:
        fault = str(err) or repr(err)
        if fault != told:
            log.warning("upkeep failed", task=name, error=fault, exc_info=not isinstance(err, MsoError))
        return fault
    return ""
