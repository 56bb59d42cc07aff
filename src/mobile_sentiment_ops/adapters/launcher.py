"""Long work in processes of their own, that outlive the one that starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from mobile_sentiment_ops.errors import StoreError

COMMAND = (sys.executable, "-m", "mobile_sentiment_ops", "retrain", "--job")
NICENESS = 10


class ProcessLauncher:
    """Runs `command JOB_ID` in a session of its own at low priority, its output in `logs`.

    `environment` is added to this process's own.
    """

    def __init__(
        self, logs: Path, *, command: Sequence[str] = COMMAND, environment: Mapping[str, str] | None = None
    ) -> None:
        self._logs = logs
        self._command = tuple(command)
        self._environment = dict(environment or {})
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, job_id: str) -> int:
        self._logs.mkdir(parents=True, exist_ok=True)
        with (self._logs / f"{job_id}.log").open("ab") as output:
            try:
                child = subprocess.Popen(
                    [*self._command, job_id],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self._environment},
                    start_new_session=True,
                )
            except OSError as err:
                raise StoreError(f"the job {job_id} cannot be started with {self._command[0]}: {err}") from err
        with suppress(ProcessLookupError):  # it has ended already
            os.setpriority(os.PRIO_PROCESS, child.pid, NICENESS)
        self._children[child.pid] = child
        return child.pid

    def alive(self, pid: int) -> bool:
        """Whether that process runs and is one of ours: a pid may have gone to another program."""
        for child in list(self._children.values()):
            if child.poll() is not None:  # reaps it: an ended child would stay as a zombie
                self._children.pop(child.pid, None)
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            words = process.cmdline()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            return False
        except psutil.AccessDenied:  # somebody else's process
            return False
        return any(tuple(words[at : at + len(self._command) - 1]) == self._command[1:] for at in range(len(words)))
