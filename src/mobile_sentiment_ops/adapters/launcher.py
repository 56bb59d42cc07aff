"""Long work in processes of their own, that outlive the one that starts them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from mobile_sentiment_ops.errors import StoreError

COMMAND = (sys.executable, "-m", "mobile_sentiment_ops", "retrain", "--job")
NICENESS = 10
START_SECONDS, STOP_SECONDS = 10.0, 10.0


class ProcessLauncher:
    """Runs `command JOB_ID [--kinds ...]` in a session of its own at low priority, its output in `logs`.

    `environment` is added to this process's own.
    """

    def __init__(
        self,
        logs: Path,
        *,
        command: Sequence[str] = COMMAND,
        environment: Mapping[str, str] | None = None,
        stop_seconds: float = STOP_SECONDS,
    ) -> None:
        self._logs = logs
        self._command = tuple(command)
        self._environment = dict(environment or {})
        self._stop_seconds = stop_seconds
        self._children: set[int] = set()

    def start(self, job_id: str, kinds: Sequence[str] = ()) -> int:
        self._reap()
        self._logs.mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{job_id}.log").open("ab") as output:
            files = [
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
                (os.POSIX_SPAWN_DUP2, output.fileno(), 2),
            ]
            words = [*self._command, job_id, *(["--kinds", ",".join(kinds)] if kinds else [])]
            environment = {**os.environ, **self._environment}
            try:
                pid = os.posix_spawnp(words[0], words, environment, file_actions=files, setsid=True)
            except OSError as err:
                raise StoreError(f"the job {job_id} cannot be started with {words[0]}: {err}") from err
        self._children.add(pid)
        with suppress(ProcessLookupError):  # it has ended already
            os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
        return pid

    def alive(self, pid: int) -> bool:
        """Whether that process runs and is one of ours: a pid may have gone to another program."""
        self._reap()
        if pid in self._children:
            return True
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            words, age = tuple(process.cmdline()), time.time() - process.create_time()
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # denied: somebody else's
            return False
        if not words:  # a process that is starting has no command line for a moment, a kernel's thread never has
            return age < START_SECONDS
        ours = self._command[1:]
        return any(words[at : at + len(ours)] == ours for at in range(len(words)))

    def stop(self, pid: int) -> None:
        """End the process with its session's group: SIGTERM, and SIGKILL for who is left after `stop_seconds`."""
        if not self.alive(pid):
            return
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, PermissionError):  # nobody is left; macOS says so by EPERM
                os.killpg(pid, sign)
            deadline = time.monotonic() + self._stop_seconds
            while self.alive(pid) and time.monotonic() < deadline:
                time.sleep(0.05)

    def _reap(self) -> None:
        """Take the exit codes of ended children, which would stay as zombies."""
        for pid in list(self._children):
            with suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG) == (0, 0):
                    continue
            self._children.discard(pid)
