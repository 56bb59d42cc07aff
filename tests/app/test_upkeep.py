"""What a keeper does again and again, over memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mobile_sentiment_ops.adapters.memory import MemoryPorts
from mobile_sentiment_ops.app import upkeep as upkeep_module
from mobile_sentiment_ops.app.upkeep import Upkeep, keeper_tasks
from mobile_sentiment_ops.bootstrap import Platform
from mobile_sentiment_ops.data.predictions import PREDICTIONS_TABLE
from mobile_sentiment_ops.errors import StoreError
from mobile_sentiment_ops.settings import Settings
from mobile_sentiment_ops.types import Champion, JobState, Severity

from ..conftest import Serving

Make = Callable[..., Upkeep]


@pytest.fixture
def platform(memory: MemoryPorts, tmp_path: Path) -> Platform:
    found = Platform(Settings.model_validate({"storage": {"workspace": tmp_path}}))
    found.__dict__.update(vars(memory))
    return found


@pytest.fixture
def make(platform: Platform) -> Iterator[Make]:
    """Starts a keeper's upkeep over memory; it is stopped at the end."""
    started: list[Upkeep] = []

    def make(*, train_if_missing: bool = False) -> Upkeep:
        started.append(Upkeep(keeper_tasks(platform, train_if_missing=train_if_missing)))
        started[-1].start()
        return started[-1]

    yield make
    for upkeep in started:
        upkeep.stop()


@pytest.fixture
def spooled(memory: MemoryPorts, promote: Callable[..., Champion], serve: Callable[..., Serving]) -> Callable[[], str]:
    """Answers one text, whose prediction waits in the spool then; its id."""
    promote(memory)
    serving = serve(memory)
    serving.follow()
    return lambda: str(serving.ask("Love it")[0].prediction_id)


def wait_until(true: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_a_stop_drains_and_sends_what_is_left(
    make: Make, memory: MemoryPorts, tmp_path: Path, spooled: Callable[[], str]
) -> None:
    others = set(threading.enumerate())
    upkeep = make()
    wait_until(lambda: memory.live.reported())
    said = spooled()
    (tmp_path / "answers").mkdir(exist_ok=True)
    (tmp_path / "answers" / "predicted_1.csv").write_text("x")
    upkeep.stop()
    assert memory.tables.read(PREDICTIONS_TABLE)["prediction_id"].to_pylist() == [said]
    assert memory.files.list("data_prediction") == ["data_prediction/predicted_1.csv"]
    assert not [thread for thread in set(threading.enumerate()) - others if thread.name.startswith("upkeep-")]


def test_the_first_training_is_asked_for_once(make: Make, memory: MemoryPorts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep_module, "CHAMPION_SECONDS", 0.01)
    make(train_if_missing=True)
    wait_until(lambda: "trains the first one" in getattr(memory.live.published(), "note", ""))
    time.sleep(0.1)
    assert len(memory.launcher.started) == 1


def test_the_keeper_tells_how_it_is(make: Make, memory: MemoryPorts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep_module, "MLFLOW_SECONDS", 0.01)
    monkeypatch.setattr(upkeep_module, "REPORT_SECONDS", 0.01)
    make()

    def mlflow() -> str | None:
        report = memory.live.reported()
        return report.mlflow if report else None

    wait_until(lambda: mlflow() == "reachable")
    memory.registry.away = True
    wait_until(lambda: mlflow() == "unreachable")


def test_a_job_whose_process_was_killed_is_not_called_running_for_long(
    make: Make, memory: MemoryPorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep_module, "JOBS_SECONDS", 0.01)
    job, _ = memory.state.submit("retrain")
    pid = memory.launcher.start(job.job_id)
    memory.state.update_job(job.job_id, state=JobState.RUNNING, pid=pid)
    make()
    time.sleep(0.1)
    assert memory.state.job(job.job_id).state is JobState.RUNNING
    memory.launcher.finish(pid)
    wait_until(lambda: memory.state.job(job.job_id).state is JobState.FAILED)
    wait_until(lambda: [beat for beat in memory.state.beats() if beat.name == "retrain" and beat.failed_at])


def test_a_failing_task_is_told_once_and_tried_again(
    make: Make, memory: MemoryPorts, spooled: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DEPTH_SECONDS", "PAUSE_SECONDS", "REPORT_SECONDS"):
        monkeypatch.setattr(upkeep_module, name, 0.01)
    monkeypatch.setattr(upkeep_module, "DRAIN_DEPTH", 1)
    tries: list[int] = []
    append = memory.tables.append

    def away(*arguments: object, **more: object) -> bool:
        tries.append(1)
        raise StoreError("the tables are away")

    monkeypatch.setattr(memory.tables, "append", away)
    spooled()
    with capture_logs() as told:
        make()
        wait_until(lambda: len(tries) > 3)
        wait_until(lambda: getattr(memory.live.reported(), "predictions_table", "") == "the tables are away")
        monkeypatch.setattr(memory.tables, "append", append)
        wait_until(lambda: memory.spool.depth() == 0)
        wait_until(lambda: getattr(memory.live.reported(), "predictions_table", "") == "ok")
    assert [entry["task"] for entry in told if entry["event"] == "upkeep failed"] == ["drain"]
    assert memory.tables.read(PREDICTIONS_TABLE).num_rows == 1


def test_the_keeper_tells_when_each_part_last_went_well_and_what_is_open(
    make: Make, memory: MemoryPorts, spooled: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIGURES_SECONDS", "REPORT_SECONDS"):
        monkeypatch.setattr(upkeep_module, name, 0.01)
    spooled()
    memory.state.open_incident("drift", Severity.CRITICAL, "Reviews moved")
    make()

    def well() -> dict[str, object]:
        report = memory.live.reported()
        found = {beat.name: beat.succeeded_at for beat in report.beats} if report and report.incidents else {}
        return {name: at for name, at in found.items() if not name.startswith("alerts/")}

    wait_until(lambda: well() == dict.fromkeys(("drain", "reviews", "spool"), memory.clock.now()))
    report = memory.live.reported()
    assert report is not None
    assert report.incidents == {Severity.CRITICAL: 1}


def test_a_drain_that_hangs_is_an_incident_that_is_told_and_over_when_it_goes_on(
    make: Make, memory: MemoryPorts, spooled: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DEPTH_SECONDS", "PAUSE_SECONDS", "WATCH_SECONDS", "FIGURES_SECONDS", "ALERTS_SECONDS"):
        monkeypatch.setattr(upkeep_module, name, 0.01)
    monkeypatch.setattr(upkeep_module, "DRAIN_SECONDS", 0.01)
    append = memory.tables.append

    def away(*arguments: object, **more: object) -> bool:
        raise StoreError("the tables are away")

    monkeypatch.setattr(memory.tables, "append", away)
    spooled()

    def still() -> bool:
        return "silence/drain" in {incident.key for incident in memory.state.incidents(open_only=True)}

    def alerts() -> list[Mapping[str, Any]]:
        return [entry for entry in told if entry["event"] == "incident" and entry["key"] == "silence/drain"]

    with capture_logs() as told:
        make()
        wait_until(lambda: any(beat.name == "drain" and beat.failed_at for beat in memory.state.beats()))
        assert not still()
        memory.clock.advance(1_000)
        wait_until(still)
        wait_until(alerts)
        monkeypatch.setattr(memory.tables, "append", append)
        wait_until(lambda: not still())
        wait_until(lambda: len(alerts()) == 2)
    opened, closed = alerts()
    assert (opened["what"], opened["severity"], closed["what"]) == ("opened", "critical", "closed")
    assert "the tables are away" in opened["detail"]


def test_a_spool_that_fills_is_no_sign_of_life(
    platform: Platform, memory: MemoryPorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    platform.keeper.spooled()
    well = memory.clock.now()
    memory.clock.advance(60)
    monkeypatch.setattr(memory.spool, "size", lambda: 900 * 2**20)
    platform.keeper.spooled()
    (found,) = memory.state.beats()
    assert (found.name, found.succeeded_at, found.failed_at) == ("spool", well, memory.clock.now())
    assert found.note == "88% of api.spool_max_mb is taken"
