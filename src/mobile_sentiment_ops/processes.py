"""Processes of a workspace: started with their output in a file, found again, ended.

`run/NAME.json` records what was started under a name, by process id and time of creation, so that it is
found after whoever started it was killed. Each is the leader of a session of its own: a Ctrl-C at the
terminal does not reach it, and whatever it starts in turn is ended with it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from mobile_sentiment_ops.disk import write_file
from mobile_sentiment_ops.errors import Busy, MsoError, SettingsError

CLOCK_SLACK_SECONDS = 5.0  # a clock that is set moves the time of creation that the system tells
KILLED_WITHIN_SECONDS = 10.0
TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class Started:
    """A process by its id and its time of creation, as an id may go to another program."""

    name: str
    pid: int
    created: float

    def alive(self) -> bool:
        """Whether it still runs."""
        return any(member.pid == self.pid for member in self.members())

    def members(self) -> list[psutil.Process]:
        """It, if it runs, and all that live in its session; nothing when its id is another program's."""
        try:
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.created) > CLOCK_SLACK_SECONDS:
                return []
            found = {self.pid: process}
        except psutil.NoSuchProcess:  # its session may live on
            found = {}
        found |= {other.pid: other for other in psutil.process_iter() if _session(other.pid) == self.pid}
        return [member for member in found.values() if _runs(member)]


class Processes:
    """What one workspace has running; at most one process is in charge of it at a time."""

    def __init__(self, workspace: Path) -> None:
        self._run = workspace / "run"
        self._logs = workspace / "logs"
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self.hurry = False
        """Set to end processes without waiting for them."""

    @contextmanager
    def in_charge(self) -> Iterator[None]:
        """Be the one in charge, until the end of this process at the latest; Busy when another is."""
        self._run.mkdir(parents=True, exist_ok=True)
        with (self._run / "up.lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as err:
                other = self.charged()
                raise Busy(
                    f"`mso up` runs here already (pid {other.pid if other else 'unknown'}, {self._run.parent}); "
                    f"`mso status` shows it and `mso down` stops it"
                ) from err
            self._keep(Started("up", os.getpid(), psutil.Process().create_time()))
            try:
                yield
            finally:
                (self._run / "up.json").unlink(missing_ok=True)

    def charged(self) -> Started | None:
        """The process that is in charge, if one is."""
        found = _read_record(self._run / "up.json")
        return found if found is not None and found.alive() else None

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start a child with its output in `logs/NAME.log`; the last one's is kept beside it."""
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self.log(name)
        with suppress(FileNotFoundError):
            log.replace(log.with_suffix(".before.log"))
        with log.open("wb") as output:
            child = subprocess.Popen(
                command,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children[name] = child
        with suppress(psutil.NoSuchProcess):  # it has ended already; `check` will tell
            self._keep(Started(name, child.pid, psutil.Process(child.pid).create_time()))

    def _keep(self, started: Started) -> None:
        write_file(self._run / f"{started.name}.json", json.dumps({"format": 1, **asdict(started)}).encode())

    def log(self, name: str) -> Path:
        """Where the output of a child goes."""
        return self._logs / f"{name}.log"

    def check(self) -> None:
        """Raise MsoError with the end of its output when a child has ended by itself."""
        for name, child in self._children.items():
            if (code := child.poll()) is not None:
                lines = self.log(name).read_text("utf-8", "replace").splitlines()[-TAIL_LINES:]
                raise MsoError(
                    f"{name} ended with exit code {code}, so everything is stopped. The end of {self.log(name)}:\n"
                    + "\n".join(f"    {line}" for line in lines)
                )

    def running(self) -> list[Started]:
        """What was started here, by this process or an earlier one, and still has processes."""
        found = (_read_record(file) for file in self._records())
        return [started for started in found if started is not None and started.members()]

    def end(self, *, seconds: float) -> list[Started]:
        """End all of it: asked first, killed after `seconds` or in a hurry; what was there."""
        ended = self.running()
        for started in ended:
            _tell(started, psutil.Process.terminate)
        until = time.monotonic() + seconds
        while left := [started for started in ended if started.members()]:
            if (over := time.monotonic() - until) > 0 or self.hurry:
                for started in left:
                    _tell(started, psutil.Process.kill)
            if over > KILLED_WITHIN_SECONDS:
                raise MsoError(f"{left[0].name} (pid {left[0].pid}) cannot be ended; try `kill -9 {left[0].pid}`")
            time.sleep(0.1)
        for child in self._children.values():
            child.wait()
        self._children.clear()
        for file in self._records():
            file.unlink(missing_ok=True)
        return ended

    def _records(self) -> list[Path]:
        return sorted(file for file in self._run.glob("*.json") if file.name != "up.json")


def require_free(host: str, port: int, key: str) -> None:
    """Raise Busy, with who is there and the setting to change, unless `port` can be listened on."""
    taken = False
    with suppress(OSError), socket.create_connection((host, port), timeout=0.5):
        taken = True
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as err:
            if err.errno != errno.EADDRINUSE:
                raise SettingsError(f"{key}: cannot listen on {host} port {port}: {err.strerror}") from err
            taken = True
    if taken:
        raise Busy(f"port {port} ({key}) is in use by {_listener(port)}; stop that, or set {key} to a free one")


def _listener(port: int) -> str:
    """Who listens on a port, in words, as far as this user may see."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in process.net_connections("tcp")):
                return f"process {process.pid} ({' '.join(process.cmdline())[:100] or process.name()})"
    return "another program"


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:  # gone, or not ours to ask
        return None


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _tell(started: Started, what: Callable[[psutil.Process], None]) -> None:
    for member in started.members():
        with suppress(psutil.NoSuchProcess):
            what(member)


def _read_record(file: Path) -> Started | None:
    """What a record says; None for one that is gone or not readable, as nothing can be done about it."""
    try:
        found = json.loads(file.read_bytes())
        return Started(str(found["name"]), int(found["pid"]), float(found["created"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
