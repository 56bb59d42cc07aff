"""Ports in memory, where the real ones need a server or much time: for tests and simulations. Each behaves as
the real one does (the suites in tests/contracts run on both) and forgets everything with the process. Safe to
share by threads."""

from __future__ import annotations

import secrets
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Unpack

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from mobile_sentiment_ops.adapters.bundles import FolderBundles
from mobile_sentiment_ops.adapters.datasets import FolderDatasets
from mobile_sentiment_ops.adapters.files import FsspecFiles
from mobile_sentiment_ops.adapters.keys import FileKeys
from mobile_sentiment_ops.adapters.live import FolderLive
from mobile_sentiment_ops.adapters.spool import FileSpool
from mobile_sentiment_ops.adapters.state_sql import SqlState
from mobile_sentiment_ops.data.arrow import choice, fit_schema
from mobile_sentiment_ops.errors import NotFound, Unavailable
from mobile_sentiment_ops.ports import Clock, TrainingRun, Which
from mobile_sentiment_ops.types import ModelVersion

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

    def drop(self, table: str) -> None:
        with self._lock:
            self._commits.pop(table, None)
            self._numbers = {key: number for key, number in self._numbers.items() if key[0] != table}


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
        number, told = str(len(self.runs)), (dict(run.metrics), dict(run.tags))
        dataset = str(run.dataset["fingerprint"])
        version = ModelVersion(number, run.kind, run.bundle_hash, f"run-{number}", dataset, self._clock.now(), *told)
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
    """All of them together, on one clock. What needs no more than a folder is the real adapter over one that
    goes with this object."""

    def __init__(self, clock: FixedClock) -> None:
        folder = Path(tempfile.mkdtemp(prefix="mso-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.clock = clock
        self.files = MemoryFiles()
        self.tables = MemoryTables()
        self.bundles = FolderBundles(folder / "bundles")
        self.live = FolderLive(folder / "live")
        self.datasets = FolderDatasets(folder / "datasets")
        self.registry = MemoryRegistry(clock)
        self.state = MemoryState(clock)
        self.spool = FileSpool(folder / "spool")
        self.keys = FileKeys(folder / "keys.json")
        self.launcher = MemoryLauncher()
