from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mobile_sentiment_ops.adapters.memory import MemoryPorts
from mobile_sentiment_ops.app import upkeep as upkeep_module
from mobile_sentiment_ops.app.long_work import close_lost_jobs
from mobile_sentiment_ops.app.outbox import Outbox
from mobile_sentiment_ops.app.prediction import PredictionHandler
from mobile_sentiment_ops.app.upkeep import Upkeep
from mobile_sentiment_ops.data.predictions import PREDICTIONS_TABLE
from mobile_sentiment_ops.errors import StoreError
from mobile_sentiment_ops.types import JobState, PredictionRecord

Make = Callable[..., Upkeep]


@pytest.fixture
def predictions(memory: MemoryPorts, handler: Callable[..., PredictionHandler]) -> PredictionHandler:
    return handler(memory)


@pytest.fixture
def make(memory: MemoryPorts, predictions: PredictionHandler, tmp_path: Path) -> Iterator[Make]:
    """Makes an upkeep over memory and starts it; it is stopped at the end."""
    started: list[Upkeep] = []

    def make(
        train_first: Callable[[], object] = lambda: None, close_lost: Callable[[], object] = lambda: None
    ) -> Upkeep:
        started.append(Upkeep(predictions, Outbox(tmp_path, memory.files), memory.registry, train_first, close_lost))
        started[-1].start()
        return started[-1]

    yield make
    for upkeep in started:
        upkeep.stop()


def wait_until(true: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_a_start_waits_for_the_first_load_and_tells_why_there_is_no_model(
    make: Make, predictions: PredictionHandler
) -> None:
    make()
    assert predictions.reason == "no model is promoted yet; POST /retrain trains the first one"


def test_a_stop_drains_and_sends_what_is_left(
    make: Make, memory: MemoryPorts, tmp_path: Path, record: Callable[..., PredictionRecord]
) -> None:
    upkeep = make()
    memory.spool.append([record("a-1")])
    (tmp_path / "predicted_1.csv").write_text("x")
    upkeep.stop()
    assert memory.tables.read(PREDICTIONS_TABLE)["prediction_id"].to_pylist() == ["a-1"]
    assert memory.files.list() == ["data_prediction/predicted_1.csv"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("upkeep-")]


def test_the_first_training_is_asked_for_once(make: Make) -> None:
    asked: list[int] = []
    make(lambda: asked.append(1))
    wait_until(lambda: asked)
    assert asked == [1]


def test_mlflow_is_looked_for_all_the_time(make: Make, memory: MemoryPorts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep_module, "MLFLOW_SECONDS", 0.01)
    upkeep = make()
    wait_until(lambda: upkeep.mlflow_reachable is True)
    memory.registry.away = True
    wait_until(lambda: upkeep.mlflow_reachable is False)


def test_a_job_whose_process_was_killed_is_not_called_running_for_long(
    make: Make, memory: MemoryPorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "JOBS_SECONDS", 0.01)
    job, _ = memory.state.submit("retrain")
    pid = memory.launcher.start(job.job_id)
    memory.state.update_job(job.job_id, state=JobState.RUNNING, pid=pid)
    make(close_lost=lambda: close_lost_jobs(memory.state, memory.launcher, memory.clock))
    time.sleep(0.1)
    assert memory.state.job(job.job_id).state is JobState.RUNNING
    memory.launcher.finish(pid)
    wait_until(lambda: memory.state.job(job.job_id).state is JobState.FAILED)


def test_a_failing_task_is_told_once_and_tried_again(
    make: Make,
    predictions: PredictionHandler,
    memory: MemoryPorts,
    record: Callable[..., PredictionRecord],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upkeep_module, "DEPTH_SECONDS", 0.01)
    monkeypatch.setattr(upkeep_module, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(upkeep_module, "DRAIN_DEPTH", 1)
    tries: list[int] = []
    append = memory.tables.append

    def away(*arguments: object, **more: object) -> bool:
        tries.append(1)
        raise StoreError("the tables are away")

    monkeypatch.setattr(memory.tables, "append", away)
    memory.spool.append([record("a-1")])
    with capture_logs() as told:
        make()
        wait_until(lambda: len(tries) > 3)
        assert predictions.drain_fault == "the tables are away"
        monkeypatch.setattr(memory.tables, "append", append)
        wait_until(lambda: predictions.drain_fault == "" and predictions.spool_depth() == 0)
    assert [entry["task"] for entry in told if entry["event"] == "upkeep failed"] == ["drain"]
    assert memory.tables.read(PREDICTIONS_TABLE).num_rows == 1
