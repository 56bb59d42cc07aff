"""What a server does beside answering, each in a thread of its own: at once, then again and again.

champion   follow the champion row
drain      predictions from the spool into their table: every minute, when many wait, and at the end
answers    CSV answers from the local disk into the bucket, and at the end
mlflow     look whether MLflow answers
jobs       close those whose process was killed
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import structlog

from mobile_sentiment_ops.app.outbox import Outbox
from mobile_sentiment_ops.app.prediction import PredictionHandler
from mobile_sentiment_ops.errors import MsoError
from mobile_sentiment_ops.ports import Registry

log = structlog.get_logger()

CHAMPION_SECONDS = 1.0
DRAIN_SECONDS, DRAIN_DEPTH, DEPTH_SECONDS = 60.0, 50_000, 5.0
ANSWERS_SECONDS = 1.0
MLFLOW_SECONDS = 10.0
JOBS_SECONDS = 5.0
PAUSE_SECONDS = 10.0
"""After a failure nothing is tried again sooner."""

FIRST_LOAD_SECONDS, STOP_SECONDS = 3.0, 20.0


class Upkeep:
    """The threads of one server. `train_first` is called once, after the first load was tried, and
    `close_lost` again and again."""

    def __init__(
        self,
        predictions: PredictionHandler,
        outbox: Outbox,
        registry: Registry,
        train_first: Callable[[], object],
        close_lost: Callable[[], object],
    ) -> None:
        self._predictions = predictions
        self._registry = registry
        self._train_first = train_first
        self._stop = threading.Event()
        self._tried_to_load = threading.Event()
        self._drained_at = 0.0
        self._threads = [
            threading.Thread(target=self._keep, args=task, name=f"upkeep-{task[0]}", daemon=True)
            for task in (
                ("champion", self._follow, CHAMPION_SECONDS, False),
                ("drain", self._drain_when_due, DEPTH_SECONDS, True),
                ("answers", outbox.send, ANSWERS_SECONDS, True),
                ("mlflow", self._look_for_mlflow, MLFLOW_SECONDS, False),
                ("jobs", close_lost, JOBS_SECONDS, False),
            )
        ]
        self.mlflow_reachable: bool | None = None
        """Whether MLflow answered when it was last asked; None before."""

    def start(self) -> None:
        """Start the threads, and give the first load a moment, so that a server opens ready if it can."""
        for thread in self._threads:
            thread.start()
        self._tried_to_load.wait(FIRST_LOAD_SECONDS)

    def stop(self) -> None:
        """Stop the threads after a last drain; what a store that hangs keeps from ending is left."""
        self._stop.set()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _keep(self, name: str, task: Callable[[], object], every_seconds: float, at_the_end: bool) -> None:
        fault = _guarded(name, task)
        while not self._stop.wait(max(every_seconds, PAUSE_SECONDS) if fault else every_seconds):
            fault = _guarded(name, task, told=fault)
        if at_the_end:
            _guarded(name, task, told=fault)

    def _follow(self) -> None:
        self._predictions.reload()
        if not self._tried_to_load.is_set():
            self._tried_to_load.set()
            self._train_first()

    def _drain_when_due(self) -> None:
        due = self._stop.is_set() or time.monotonic() - self._drained_at >= DRAIN_SECONDS
        if due or self._predictions.spool_depth() >= DRAIN_DEPTH:
            self._drained_at = time.monotonic()
            self._predictions.drain()

    def _look_for_mlflow(self) -> None:
        self.mlflow_reachable = self._registry.reachable()


def _guarded(name: str, task: Callable[[], object], *, told: str = "") -> str:
    """Do it and say what went wrong, as a thread of the server outlives everything; logged unless `told`."""
    try:
        task()
    except Exception as err:
        fault = str(err) or repr(err)
        if fault != told:
            log.warning("upkeep failed", task=name, error=fault, exc_info=not isinstance(err, MsoError))
        return fault
    return ""
