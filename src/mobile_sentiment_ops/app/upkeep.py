"""What a server does beside answering, each in a thread of its own.

champion   follow the champion row, every second
drain      predictions from the spool into their table: every minute, when many wait, and at the end
answers    CSV answers from the local disk into the bucket
mlflow     look whether MLflow answers, every ten seconds
jobs       close those whose process was killed, every five seconds
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
        self._outbox = outbox
        self._registry = registry
        self._train_first = train_first
        self._close_lost = close_lost
        self._stop = threading.Event()
        self._tried_to_load = threading.Event()
        self._drained_at = 0.0
        self._threads = [
            threading.Thread(target=target, name=f"upkeep-{target.__name__.strip('_')}", daemon=True)
            for target in (self._champion, self._drain, self._answers, self._mlflow, self._jobs)
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

    def _champion(self) -> None:
        _guarded(self._predictions.reload)
        self._tried_to_load.set()
        _guarded(self._train_first)
        self._repeat(self._predictions.reload, every_seconds=CHAMPION_SECONDS)

    def _drain(self) -> None:
        self._repeat(self._drain_when_due, every_seconds=DEPTH_SECONDS)
        _guarded(self._predictions.drain)

    def _drain_when_due(self) -> None:
        due = time.monotonic() - self._drained_at >= DRAIN_SECONDS
        if due or self._predictions.spool_depth() >= DRAIN_DEPTH:
            self._drained_at = time.monotonic()
            self._predictions.drain()

    def _answers(self) -> None:
        self._repeat(self._outbox.send, every_seconds=ANSWERS_SECONDS)
        _guarded(self._outbox.send)

    def _mlflow(self) -> None:
        _guarded(self._look_for_mlflow)
        self._repeat(self._look_for_mlflow, every_seconds=MLFLOW_SECONDS)

    def _jobs(self) -> None:
        self._repeat(self._close_lost, every_seconds=JOBS_SECONDS)

    def _look_for_mlflow(self) -> None:
        self.mlflow_reachable = self._registry.reachable()

    def _repeat(self, task: Callable[[], object], *, every_seconds: float) -> None:
        fault = ""
        while not self._stop.wait(max(every_seconds, PAUSE_SECONDS) if fault else every_seconds):
            fault = _guarded(task, told=fault)


def _guarded(task: Callable[[], object], *, told: str = "") -> str:
    """Do it and say what went wrong, as a thread of the server outlives everything; logged unless `told`."""
    try:
        task()
    except Exception as err:
        fault = str(err) or repr(err)
        if fault != told:
            log.warning("upkeep failed", task=task.__name__, error=fault, exc_info=not isinstance(err, MsoError))
        return fault
    return ""
