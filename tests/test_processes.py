"""Processes on record: found after their starter was killed, ended with all they started, told by name."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mobile_sentiment_ops.errors import Busy, MsoError, SettingsError
from mobile_sentiment_ops.processes import Processes, Started, require_free

pytestmark = pytest.mark.integration

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
FAMILY = "import subprocess, sys, time; subprocess.Popen(['sleep', '600']); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
)


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path)


def _wait_until(true: Callable[[], object]) -> None:
    for _ in range(200):
        if true():
            return
        time.sleep(0.05)
    pytest.fail("it did not happen within 10 s")


def test_ended_with_what_it_started_and_forgotten(processes: Processes, tmp_path: Path) -> None:
    processes.start("family", [sys.executable, "-c", FAMILY])
    _wait_until(lambda: len(processes.running()[0].members()) == 2)
    members = processes.running()[0].members()
    assert [one.name for one in processes.end(seconds=10)] == ["family"]
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in members)
    assert list((tmp_path / "run").iterdir()) == []


def test_found_after_its_starter_was_killed(tmp_path: Path, start_python: Callable[..., subprocess.Popen[str]]) -> None:
    source = f"""
import sys, time
from pathlib import Path
from mobile_sentiment_ops.processes import Processes
processes = Processes(Path(sys.argv[1]))
with processes.in_charge():
    processes.start("sleeper", {SLEEP!r})
    print("up", flush=True)
    time.sleep(600)
"""
    starter = start_python(source, str(tmp_path))
    assert starter.stdout is not None
    assert starter.stdout.readline() == "up\n"
    later = Processes(tmp_path)
    charged = later.charged()
    assert charged is not None
    assert charged.pid == starter.pid
    with pytest.raises(Busy, match=rf"pid {starter.pid}"), later.in_charge():
        pass
    starter.kill()
    starter.wait()
    assert later.charged() is None
    with later.in_charge():
        assert [one.name for one in later.running()] == ["sleeper"]
        later.end(seconds=10)
        assert later.running() == []


def test_members_of_a_session_are_found_without_their_leader(processes: Processes) -> None:
    processes.start("family", [sys.executable, "-c", FAMILY])
    _wait_until(lambda: len(processes.running()[0].members()) == 2)
    (family,) = processes.running()
    os.kill(family.pid, signal.SIGKILL)
    _wait_until(lambda: len(family.members()) == 1)
    processes.end(seconds=10)
    assert family.members() == []


def test_a_process_that_does_not_listen_is_killed(processes: Processes) -> None:
    processes.start("stubborn", [sys.executable, "-c", STUBBORN])
    _wait_until(lambda: processes.log("stubborn").read_text() == "deaf\n")
    began = time.monotonic()
    processes.end(seconds=0.5)
    assert time.monotonic() - began < 5
    assert processes.running() == []


def test_an_id_that_went_to_another_program_is_left_alone(processes: Processes, tmp_path: Path) -> None:
    here = psutil.Process()
    (tmp_path / "run").mkdir()
    record = {"format": 1, "name": "api", "pid": here.pid, "created": here.create_time() - 1000}
    (tmp_path / "run" / "api.json").write_text(json.dumps(record))
    assert processes.running() == []
    assert Started("api", here.pid, here.create_time()).alive()


@pytest.mark.parametrize("content", ["", "[]", '{"pid": "x"}', "{"])
def test_a_record_that_cannot_be_read_is_no_process(processes: Processes, tmp_path: Path, content: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "api.json").write_text(content)
    assert processes.running() == []


def test_a_child_that_ends_by_itself_is_told_with_its_last_words(processes: Processes) -> None:
    processes.start("api", [sys.executable, "-c", "print('no such table'); raise SystemExit(5)"])
    _wait_until(lambda: not processes.running())
    with pytest.raises(MsoError, match=r"(?s)api ended with exit code 5.*    no such table$"):
        processes.check()


def test_a_port_in_use_is_refused_with_who_is_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(
            Busy, match=rf"port {port} \(api.port\) is in use by process {os.getpid()} \(.*python.*\); .* api.port"
        ):
            require_free("127.0.0.1", port, "api.port")
    require_free("127.0.0.1", port, "api.port")


def test_an_address_of_another_machine_is_a_wrong_setting() -> None:
    with pytest.raises(SettingsError, match=r"api.port: cannot listen on 192.0.2.1"):
        require_free("192.0.2.1", 5001, "api.port")
