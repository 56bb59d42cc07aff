"""Every port in memory: for tests and simulations. Each behaves as the real one does (the suites in
tests/contracts run on both) and forgets everything with the process. Safe to share by threads."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Unpack

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from mobile_sentiment_ops.adapters.files import FsspecFiles
from mobile_sentiment_ops.adapters.state_sql import SqlState
from mobile_sentiment_ops.data.arrow import choice, fit_schema
from mobile_sentiment_ops.errors import NotFound, Unavailable
from mobile_sentiment_ops.ports import Clock, KeeperReport, Published, Segment, TrainingRun, Which
from mobile_sentiment_ops.types import ApiKey, ModelVersion

BATCH_ROWS = 65_536


class FixedClock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self) -> datetime:
        return self._now

    def advance(self, step: timedelta | float) -> datetime:
        """Move by a timedelta, or by so many seconds; returns the new time."""
        self._now += step if isinstance(step, timedelta) else timedelta(seconds=step)
        return self._now


class MemoryFiles(FsspecFiles):
    """Files in the memory of fsspec, each of these in a folder of its own."""

    def __init__(self) -> None:
        super().__init__(f"memory://{secrets.token_hex(8)}")


class MemoryTables:
    """Each table is the list of its commits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._commits: dict[str, list[pa.Table]] = {}
        self._numbers: dict[tuple[str, str], int] = {}

    def append(self, table: str, rows: pa.Table, *, key: tuple[str, int] | None = None) -> bool:
        with self._lock:
            if key is not None and key[1] <= self._numbers.get((table, key[0]), -1):
                return False
            commits = self._commits.get(table, [])
            self._commits[table] = [*commits, fit_schema(rows, commits[-1].schema if commits else None)]
            if key is not None:
                self._numbers[table, key[0]] = key[1]
            return True

    def batches(
        self, table: str, columns: Sequence[str] | None = None, **which: Unpack[Which]
    ) -> Iterator[pa.RecordBatch]:
        yield from self.read(table, columns, **which).to_batches(max_chunksize=BATCH_ROWS)

    def read(self, table: str, columns: Sequence[str] | None = None, **which: Unpack[Which]) -> pa.Table:
        commits = self._commits.get(table)
        if commits is None:
            return pa.table({})
        rows = pa.concat_tables([fit_schema(commit, commits[-1].schema) for commit in commits])
        wanted, condition = choice(table, rows.schema, columns, which)
        return (rows if condition is None else rows.filter(condition)).select(wanted)

    def version(self, table: str) -> int:
        return len(self._commits.get(table, [])) - 1

    def compact(self, table: str) -> None:
        """Nothing to merge: memory has no files."""


class MemoryBundles:
    """Bundles in a dictionary; none has a folder."""

    def __init__(self) -> None:
        self._bundles: dict[str, dict[str, bytes]] = {}

    def put(self, files: Mapping[str, bytes], bundle_hash: str) -> None:
        self._bundles[bundle_hash] = dict(files)

    def get(self, bundle_hash: str) -> dict[str, bytes]:
        try:
            return dict(self._bundles[bundle_hash])
        except KeyError:
            raise NotFound(f"there is no bundle {bundle_hash} here") from None

    def path(self, bundle_hash: str) -> Path | None:  # noqa: ARG002 - the port names it
        return None

    def list(self) -> list[str]:
        return sorted(self._bundles)


class MemoryDatasets:
    """Manifests in a dictionary, in the order they came."""

    def __init__(self) -> None:
        self._manifests: dict[str, bytes] = {}

    def put(self, fingerprint: str, manifest: bytes) -> None:
        self._manifests.setdefault(fingerprint, bytes(manifest))

    def get(self, fingerprint: str) -> bytes:
        found = [name for name in self._manifests if fingerprint and name.startswith(fingerprint)]
        if len(found) != 1:
            raise NotFound(f"{len(found) or 'no'} datasets have a fingerprint that starts with {fingerprint!r}")
        return self._manifests[found[0]]

    def list(self) -> list[str]:
        return list(self._manifests)


class MemoryRegistry:
    """A registry that can be made to go `away`, as a server does."""

    def __init__(self, clock: Clock) -> None:
        self.away = False
        self.runs: list[TrainingRun] = []
        self._clock = clock
        self._versions: dict[str, ModelVersion] = {}
        self._aliases: dict[str, str] = {}

    def record(self, run: TrainingRun) -> ModelVersion:
        self._answer()
        self.runs.append(run)
        version = ModelVersion(
            version=str(len(self.runs)),
            kind=run.kind,
            bundle_hash=run.bundle_hash,
            run_id=f"run-{len(self.runs)}",
            dataset=str(run.dataset["fingerprint"]),
            created_at=self._clock.now(),
            metrics=dict(run.metrics),
            tags=dict(run.tags),
        )
        self._versions[version.version] = version
        return version

    def versions(self) -> list[ModelVersion]:
        self._answer()
        return list(reversed(self._versions.values()))

    def download(self, version: str) -> dict[str, bytes]:
        self._answer()
        self._known(version)
        return dict(self.runs[int(version) - 1].bundle)

    def aliases(self) -> dict[str, str]:
        self._answer()
        return dict(self._aliases)

    def set_aliases(self, aliases: Mapping[str, str | None]) -> None:
        self._answer()
        for alias, version in aliases.items():
            if version is None:
                self._aliases.pop(alias, None)
            else:
                self._aliases[alias] = self._known(version).version

    def attach(self, version: str, tags: Mapping[str, str]) -> None:
        self._answer()
        known = self._known(version)
        self._versions[version] = replace(known, tags={**known.tags, **tags})

    def close_lost(self) -> int:
        self._answer()
        return 0

    def reachable(self) -> bool:
        return not self.away

    def _answer(self) -> None:
        if self.away:
            raise Unavailable("the registry is away")

    def _known(self, version: str) -> ModelVersion:
        try:
            return self._versions[version]
        except KeyError:
            raise NotFound(f"there is no model version {version}") from None


class MemoryState(SqlState):
    """The state database in the memory of SQLite: one connection, and one caller at a time."""

    def __init__(self, clock: Clock) -> None:
        super().__init__("sqlite://", clock, poolclass=StaticPool, connect_args={"check_same_thread": False})
        self._lock = threading.Lock()

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._lock, super()._reading() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._lock, super()._writing() as connection:
            yield connection


class MemorySpool:
    """Payloads wait in a list; a drain closes what came since the last one."""

    def __init__(self, writer: str = "memory") -> None:
        self._writer = writer
        self._lock = threading.Lock()
        self._number = 0
        self._opened_at = 0.0
        self._open: list[bytes] = []
        self._closed: dict[tuple[str, int], Segment] = {}
        self._counts = [0]  # predictions by the number of their segment; the last is the open one's

    def append(self, payload: bytes, count: int) -> None:
        with self._lock:
            self._opened_at = self._opened_at if self._open else time.monotonic()
            self._open.append(payload)
            self._counts[-1] += count

    def sync(self) -> None:
        """Nothing is on a disk."""

    def drain(self) -> Iterator[Segment]:
        self.close()
        with self._lock:
            closed = list(self._closed.values())
        yield from closed

    def forget(self, segment: Segment) -> None:
        with self._lock:
            if self._closed.pop(segment.key, None):
                self._counts[segment.key[1]] = 0

    def rotate(self, seconds: float) -> None:
        if time.monotonic() - self._opened_at >= seconds:
            self.close()

    def depth(self) -> int:
        with self._lock:
            return sum(self._counts)

    def size(self) -> int:
        with self._lock:
            closed = (payload for segment in self._closed.values() for payload in segment.payloads)
            return sum(map(len, (*closed, *self._open)))

    def close(self) -> None:
        with self._lock:
            if self._open:
                segment = Segment((self._writer, self._number), tuple(self._open))
                self._closed[segment.key] = segment
                self._number += 1
                self._counts.append(0)
                self._open = []


class MemoryKeys:
    """Keys in a tuple."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: tuple[ApiKey, ...] = ()
        self._changes = 0

    def list(self) -> Sequence[ApiKey]:
        return self._keys

    def change(self, change: Callable[[Sequence[ApiKey]], Sequence[ApiKey]]) -> None:
        with self._lock:
            self._keys = tuple(change(self._keys))
            self._changes += 1

    def stamp(self) -> object:
        return self._changes


class MemoryLive:
    """Compiled models and what is published, as values."""

    def __init__(self) -> None:
        self._models: dict[str, bytes] = {}
        self._published: Published | None = None
        self._report: KeeperReport | None = None

    def keep(self, bundle_hash: str, compiled: bytes) -> None:
        self._models[bundle_hash] = compiled

    def compiled(self, bundle_hash: str) -> bytes:
        if bundle_hash not in self._models:
            raise NotFound(f"there is no compiled model {bundle_hash}")
        return self._models[bundle_hash]

    def publish(self, published: Published) -> None:
        self._published = published

    def published(self) -> Published | None:
        return self._published

    def report(self, report: KeeperReport) -> None:
        self._report = report

    def reported(self) -> KeeperReport | None:
        return self._report


@dataclass
class MemoryLauncher:
    """Starts nothing: remembers what it was asked, as processes that run until `finish`."""

    started: list[tuple[str, ...]] = field(default_factory=list)
    """Each job's id and the kinds it was asked for."""
    running: set[int] = field(default_factory=set)

    def start(self, job_id: str, kinds: Sequence[str] = ()) -> int:
        self.started.append((job_id, *kinds))
        pid = 1_000 + len(self.started)
        self.running.add(pid)
        return pid

    def finish(self, pid: int) -> None:
        """Let that process end."""
        self.running.discard(pid)

    def alive(self, pid: int) -> bool:
        return pid in self.running

    def stop(self, pid: int) -> None:
        self.finish(pid)


class MemoryPorts:
    """All of them together, on one clock."""

    def __init__(self, clock: FixedClock) -> None:
        self.clock = clock
        self.files = MemoryFiles()
        self.tables = MemoryTables()
        self.bundles = MemoryBundles()
        self.live = MemoryLive()
        self.datasets = MemoryDatasets()
        self.registry = MemoryRegistry(clock)
        self.state = MemoryState(clock)
        self.spool = MemorySpool()
        self.keys = MemoryKeys()
        self.launcher = MemoryLauncher()
