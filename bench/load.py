"""Load for servers on this machine, and what it costs them: CPU time of all their processes, latencies.

The load itself comes from load.c, which is built when it is first needed; it runs on the same cores, so
only the CPU time of the server counts.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx
import numpy as np
import psutil

from bench.results import ROOT

NUMBER = "00000000"
"""Stands in a request where load.c writes its number."""

Accounts = Mapping[int, float]
"""CPU seconds by process id."""


class NotMeasured(Exception):
    """Why a figure could not be had here."""


# --- requests


def requests_file(path: Path, bodies: Sequence[str], *, target: str, headers: Mapping[str, str]) -> Path:
    """POST requests with these JSON bodies, for load.c; each NUMBER in a body is to be replaced."""
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with path.open("wb") as out:
        for body in bodies:
            content = body.encode()
            start = f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{head}"
            request = f"{start}Content-Length: {len(content)}\r\n\r\n".encode() + content
            slots = []
            at = len(request) - len(content)
            while (at := request.find(NUMBER.encode(), at)) >= 0:
                slots.append(at)
                at += len(NUMBER)
            out.write(struct.pack(f"<{2 + len(slots)}I", len(request), len(slots), *slots) + request)
    return path


# --- the load


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it: answers that were as expected, others, and connections lost with a request on its way."""

    answered: int
    failed: int
    broken: int
    unsent: int
    seconds: float
    latencies_ms: np.ndarray
    answers: Sequence[tuple[int, bytes]]
    """The number and the body of each expected answer, if they were to be kept."""

    @property
    def lost(self) -> int:
        return self.failed + self.broken + self.unsent

    def percentile_ms(self, share: float) -> float:
        """The latency that so many of all answers did not exceed."""
        return percentile(self.latencies_ms, share)


def percentile(values: np.ndarray, share: float) -> float:
    """The least value that at least `share` of all values do not exceed.

    >>> percentile(np.arange(1, 101), 0.99)
    99.0
    >>> percentile(np.array([7.0]), 0.5)
    7.0
    """
    return float(np.sort(values)[max(int(np.ceil(share * values.size)) - 1, 0)])


class RunningLoad:
    """load.c at work; `finish` waits for its end, `stop` makes it end before its time. As a context it is
    not left running."""

    _next_number = 0

    def __init__(
        self,
        port: int,
        requests: Path,
        *,
        seconds: float,
        rate: float = 0,
        connections: int = 32,
        labels: int = 1,
        keep_answers: bool = False,
    ) -> None:
        self._files = [requests.with_suffix(f".{port}.{what}") for what in ("latencies", "answers")]
        self.first = RunningLoad._next_number
        answers = str(self._files[1]) if keep_answers else "-"
        given = [port, connections, seconds, rate, labels, self.first, requests, self._files[0], answers]
        self._process = subprocess.Popen(
            [built_load(), *map(str, given)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        self._process.stdout.readline()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.kill()
            self._process.communicate()

    def stop(self) -> Load:
        self._process.send_signal(signal.SIGTERM)
        return self.finish()

    def finish(self) -> Load:
        said, complaints = self._process.communicate()
        if self._process.returncode:
            raise NotMeasured(f"the load did not run: {complaints}")
        counted = json.loads(said)
        if complaints:
            print(complaints.strip()[:600], flush=True)
        RunningLoad._next_number += counted["answered"] + counted["failed"] + counted["broken"]  # no number comes twice
        latencies = np.fromfile(self._files[0], "<f4").astype(float) / 1e3
        answers = list(_kept(self._files[1].read_bytes())) if self._files[1].exists() else []
        for file in self._files:
            file.unlink(missing_ok=True)
        return Load(**counted, latencies_ms=latencies, answers=answers)


def _kept(content: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(content):
        number, length = struct.unpack_from("<II", content, at)
        yield number, content[at + 8 : at + 8 + length]
        at += 8 + length


def built_load() -> Path:
    """The program load.c, built anew when its source is newer."""
    source, program = ROOT / "bench" / "load.c", ROOT / "build" / "load"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(exist_ok=True)
        making = program.with_suffix(f".{os.getpid()}")
        flags = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
        try:
            subprocess.run(["cc", *flags, str(source), "-o", str(making)], check=True, capture_output=True, text=True)
        except FileNotFoundError as err:
            raise NotMeasured("no C compiler (cc) is here to build bench/load.c with") from err
        except subprocess.CalledProcessError as err:
            raise NotMeasured(f"bench/load.c does not build here: {err.stderr[-500:]}") from err
        making.rename(program)
    return program


# --- servers


class Server:
    """A server in a session of its own, with all it starts; as a context it is stopped in the end."""

    def __init__(self, name: str, command: Sequence[str], port: int, environment: Mapping[str, str], log: Path) -> None:
        self.name, self.port, self._log, self._ended = name, port, log, False
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                list(command),
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.root = psutil.Process(self._process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait(self, ready: Callable[[], bool], *, within_seconds: float = 60) -> None:
        """Return when it is ready."""
        began = time.monotonic()
        try:
            while not ready():
                if self._process.poll() is not None or time.monotonic() - began > within_seconds:
                    said = self._log.read_text("utf-8", "replace").replace(f"{ROOT}/", "").strip().splitlines()
                    raise NotMeasured(f"{self.name} did not start here: ...{''.join(said[-1:])[-200:]}")
                time.sleep(0.02)
        except BaseException:
            self.stop()
            raise

    def processes(self) -> list[psutil.Process]:
        """The first process and all below it."""
        return [self.root, *self.root.children(recursive=True)]

    def keeper(self) -> psutil.Process | None:
        """The process that moves predictions into their table, if there is one beside those that answer."""
        return next((one for one in self.processes()[1:] if _is_keeper(one.pid)), None)

    def known_keeper(self, *, within_seconds: float = 3) -> psutil.Process | None:
        """The keeper, which is known by what it imports, after a while if it only just began."""
        end = time.monotonic() + within_seconds
        while (found := self.keeper()) is None and len(self.processes()) > 1 and time.monotonic() < end:
            time.sleep(0.1)
        return found

    def workers(self) -> list[psutil.Process]:
        """The processes that answer; the only one, where there is no other."""
        keeper = self.keeper()
        return [one for one in self.processes()[1:] if one != keeper] or [self.root]

    def accounts(self) -> Accounts:
        """CPU seconds so far of each process, with those of its children that have ended."""
        found = {}
        for one in self.processes():
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                found[one.pid] = float(sum(one.cpu_times()[:4]))
        return found

    def stop(self, *, within_seconds: float = 30) -> None:
        """End it as a service manager would."""
        members = self._members()
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(within_seconds)
        self._end(members)

    def kill(self) -> None:
        """End all of it without a word."""
        self._end(self._members())

    def _members(self) -> list[psutil.Process]:
        return self.processes() if self._process.poll() is None else []

    def _end(self, members: Sequence[psutil.Process]) -> None:
        """Nothing of it runs any more afterwards."""
        if self._ended:
            return
        self._ended = True
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for one in members:
            with suppress(psutil.NoSuchProcess):
                while one.status() != psutil.STATUS_ZOMBIE:
                    time.sleep(0.01)


def spent(before: Accounts, after: Accounts, *, without: int | None = None) -> float:
    """CPU seconds between two accounts of a server; all of a process that is new counts.

    >>> spent({1: 2.0, 2: 1.0}, {1: 2.5, 2: 1.0, 3: 0.25})
    0.75
    >>> spent({1: 2.0, 2: 1.0}, {1: 2.5, 2: 4.0}, without=2)
    0.5
    """
    return sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items() if pid != without)


def private_mb(pid: int) -> float:
    """Memory of a process that it shares with no other."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def _is_keeper(pid: int) -> bool:
    """Of ours, only the keeper works with tables."""
    try:
        return "deltalake" in Path(f"/proc/{pid}/maps").read_text("utf-8", "replace")
    except OSError:  # it has ended
        return False


def answers(port: int, target: str, body: str, headers: Mapping[str, str]) -> bytes | None:
    """The body of a 200 to this request; None for all else."""
    try:
        headers = {"Content-Type": "application/json", **headers}
        url = f"http://127.0.0.1:{port}{target}"
        answer = httpx.post(url, content=body.encode(), headers=headers, timeout=30, trust_env=False)
    except httpx.TransportError:
        return None
    return answer.content if answer.status_code == 200 else None


def free_port() -> int:
    """A port that is free, and so are the two after it."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = int(probe.getsockname()[1])
            if port < 65_000:
                return port
