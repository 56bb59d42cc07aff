"""What every `Launcher` does."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import psutil
import pytest

from mobile_sentiment_ops.adapters.launcher import ProcessLauncher
from mobile_sentiment_ops.adapters.memory import MemoryLauncher
from mobile_sentiment_ops.ports import Launcher


@pytest.fixture(params=["memory", pytest.param("processes", marks=pytest.mark.integration)])
def launcher(request: pytest.FixtureRequest, tmp_path: Path) -> Launcher:
    if request.param == "memory":
        return MemoryLauncher()
    return ProcessLauncher(tmp_path / "logs", command=(sys.executable, "-c", "import time; time.sleep(60)"))


def end(launcher: Launcher, pid: int) -> None:
    if isinstance(launcher, MemoryLauncher):
        launcher.finish(pid)
    else:
        psutil.Process(pid).kill()


def test_a_started_job_is_alive_until_it_ends(launcher: Launcher) -> None:
    first, second = launcher.start("retrain-1"), launcher.start("retrain-2")
    try:
        assert first != second
        assert launcher.alive(first)
        assert launcher.alive(second)
    finally:
        end(launcher, first)
        end(launcher, second)
    deadline = time.monotonic() + 5
    while launcher.alive(first) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not launcher.alive(first)


def test_a_job_can_be_stopped_once_and_again(launcher: Launcher) -> None:
    first, second = launcher.start("retrain-1", ["rf", "xgb"]), launcher.start("retrain-2")
    try:
        launcher.stop(first)
        launcher.stop(first)
        assert not launcher.alive(first)
        assert launcher.alive(second)
    finally:
        end(launcher, second)


def test_a_pid_of_nobody_is_not_alive(launcher: Launcher) -> None:
    launcher.stop(2**22 + 1)
    assert not launcher.alive(2**22 + 1)
