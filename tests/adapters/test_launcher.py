"""Processes of their own: what is special to the operating system."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mobile_sentiment_ops.adapters.launcher import COMMAND, ProcessLauncher
from mobile_sentiment_ops.errors import StoreError

pytestmark = pytest.mark.integration

TELL = """
import json, os, sys, time
time.sleep(0.2)
alone = os.getsid(0) == os.getpid()
print(json.dumps([sys.argv[1:], os.nice(0), alone, os.environ.get("MSO_CONFIG"), sys.stdin.read()]), flush=True)
print("and a complaint", file=sys.stderr)
"""


def wait_for_end(launcher: ProcessLauncher, pid: int) -> None:
    deadline = time.monotonic() + 10
    while launcher.alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not launcher.alive(pid)


def test_a_job_runs_alone_at_low_priority_and_its_output_is_kept(tmp_path: Path) -> None:
    launcher = ProcessLauncher(
        tmp_path / "logs", command=(sys.executable, "-c", TELL), environment={"MSO_CONFIG": "here.toml"}
    )
    wait_for_end(launcher, launcher.start("retrain-1"))
    told, complaint = (tmp_path / "logs" / "retrain-1.log").read_text().splitlines()
    assert json.loads(told) == [["retrain-1"], min(os.nice(0) + 10, 19), True, "here.toml", ""]
    assert complaint == "and a complaint"


def test_the_kinds_asked_for_follow_the_job(tmp_path: Path) -> None:
    launcher = ProcessLauncher(tmp_path, command=(sys.executable, "-c", "import sys; print(sys.argv[1:])"))
    wait_for_end(launcher, launcher.start("retrain-1", ["rf", "xgb"]))
    assert (tmp_path / "retrain-1.log").read_text() == "['retrain-1', '--kinds', 'rf,xgb']\n"


FAMILY = """
import os, signal, subprocess, sys, time
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", deaf])
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("manner", ["hears", "deaf"])
def test_a_stopped_job_takes_along_whom_it_started(tmp_path: Path, manner: str) -> None:
    launcher = ProcessLauncher(tmp_path, command=(sys.executable, "-c", FAMILY), stop_seconds=0.5)
    pid, output = launcher.start(manner), tmp_path / f"{manner}.log"
    deadline = time.monotonic() + 10
    while not output.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    child = psutil.Process(int(output.read_text()))
    launcher.stop(pid)
    assert not launcher.alive(pid)
    _, alive = psutil.wait_procs([child], timeout=5)
    assert not alive


def test_another_program_is_not_stopped(tmp_path: Path, start_python: Callable[..., subprocess.Popen[str]]) -> None:
    other = start_python("import time; time.sleep(60)")
    ProcessLauncher(tmp_path).stop(other.pid)
    assert other.poll() is None


def test_the_command_is_this_programs_retrain() -> None:
    assert COMMAND[0] == sys.executable
    assert COMMAND[1:] == ("-m", "mobile_sentiment_ops", "retrain", "--job")


def test_an_ended_job_leaves_no_zombie(tmp_path: Path) -> None:
    launcher = ProcessLauncher(tmp_path, command=(sys.executable, "-c", "pass"))
    pid = launcher.start("retrain-1")
    wait_for_end(launcher, pid)
    assert not psutil.pid_exists(pid)


def test_a_job_of_another_process_that_ended_unreaped_is_not_alive(
    tmp_path: Path, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    launcher = ProcessLauncher(tmp_path, command=(sys.executable, "-c", "pass"))
    child = start_python("pass")
    deadline = time.monotonic() + 10
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not launcher.alive(child.pid)


def test_a_pid_that_went_to_another_program_is_not_alive(tmp_path: Path) -> None:
    assert not ProcessLauncher(tmp_path).alive(os.getpid())


def test_a_job_outlives_the_process_that_started_it(
    tmp_path: Path, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    sleep = "import time; time.sleep(60)"
    source = f"""
import sys
from pathlib import Path
from mobile_sentiment_ops.adapters.launcher import ProcessLauncher
launcher = ProcessLauncher(Path(sys.argv[1]), command=(sys.executable, "-c", {sleep!r}))
print(launcher.start("retrain-1"))
"""
    starter = start_python(source, str(tmp_path))
    pid = int(starter.communicate(timeout=30)[0])
    try:
        assert ProcessLauncher(tmp_path, command=(sys.executable, "-c", sleep)).alive(pid)
    finally:
        psutil.Process(pid).kill()


def test_a_command_that_cannot_be_started_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no-such-program"):
        ProcessLauncher(tmp_path, command=("no-such-program",)).start("retrain-1")
