"""Champion, ledger, jobs, leases and what monitoring keeps in one database: SQLite in a file, or Postgres by
its address.

Both work the same way: a writing transaction waits for the one before it (SQLite's write lock;
an advisory lock on Postgres), so what it reads cannot change until it commits, and the pure rules
of registry/transitions.py are all there is to decide. SQLite runs in WAL mode, where readers never
wait, with every commit flushed to the disk. Times are UTC as ISO text with microseconds, which sorts.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, Unpack

import sqlalchemy as sa
import structlog
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from mobile_sentiment_ops.errors import FormatTooNew, NotFound, StaleToken, StoreError, Unavailable
from mobile_sentiment_ops.ports import Clock, JobChanges
from mobile_sentiment_ops.registry.ledger import GENESIS, Anchor, chain_entry, first_broken
from mobile_sentiment_ops.registry.transitions import ENDED, as_stored, changed_job, next_champion
from mobile_sentiment_ops.types import (
    Admission,
    Beat,
    Champion,
    Decision,
    Incident,
    Job,
    JobState,
    Lease,
    LedgerEntry,
    Measurement,
    ModelVersion,
    Severity,
    TrainingBatch,
)

log = structlog.get_logger()

Found = TypeVar("Found")

WAIT_SECONDS = 10.0
POSTGRES_LOCK = 0x6D736F  # "mso"


class Time(sa.TypeDecorator[datetime]):
    """An aware time as fixed-width ISO text in UTC."""

    impl = sa.String(32)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> datetime | None:
        if value is None:
            return None
        return _as_written(value, datetime.fromisoformat, lambda found: self.process_bind_param(found, dialect))


class Json(sa.TypeDecorator[object]):
    """A value of JSON as its text; `make` makes what it was of what is read."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, make: Callable[[Any], object] = lambda found: found) -> None:
        super().__init__()
        self.make = make

    def process_bind_param(self, value: object, dialect: sa.Dialect) -> str:  # noqa: ARG002
        return json.dumps(value, ensure_ascii=False)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> object:  # noqa: ARG002
        return self.make(_as_written(value or "null", json.loads, lambda found: json.dumps(found, ensure_ascii=False)))


def _as_written(text: str, read: Callable[[str], Found], write: Callable[[Found], str | None]) -> Found:
    """What a text says; StoreError when this program would have written that otherwise. Another blank
    in JSON says the same, and was put there by someone."""
    try:
        found = read(text)
        if write(found) == text:
            return found
    except (ValueError, TypeError, RecursionError):
        pass
    raise StoreError(f"the state database holds {text[:60]!r}, which this program did not write so; it was changed")


COLUMN_TYPES: Mapping[str, sa.types.TypeEngine[Any]] = {
    "str": sa.String(),
    "int": sa.BigInteger(),
    "float": sa.Float(),
    "datetime": Time(),
    **{of.__name__: sa.Enum(of, native_enum=False, values_callable=list) for of in (JobState, Severity, Admission)},
    "Mapping[str, object]": Json(),
    "tuple[str, ...]": Json(tuple),
    "tuple[Measurement, ...]": Json(lambda found: tuple(Measurement(**one) for one in found)),
}


def _columns(shape: type) -> Iterator[sa.Column[Any]]:
    """A column for each field of a dataclass, by its name and type."""
    for found in fields(shape):
        of, _, nothing = str(found.type).partition(" | ")
        yield sa.Column(found.name, COLUMN_TYPES[of], nullable=bool(nothing))


TABLES = sa.MetaData()
FORMAT = sa.Table("format", TABLES, sa.Column("version", sa.Integer, nullable=False))
ONE_ROW = sa.Column("row_id", sa.Integer, sa.CheckConstraint("row_id = 1"), primary_key=True, autoincrement=False)
CHAMPION = sa.Table("champion", TABLES, ONE_ROW, *_columns(Champion))
LEDGER = sa.Table(
    "ledger",
    TABLES,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("at", Time, nullable=False),
    *_columns(Decision),
    sa.Column("previous_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("entry_hash", sa.String(64), nullable=False, unique=True),
)
JOB_ORDER = sa.Column("seq", sa.Integer, primary_key=True)
JOBS = sa.Table(
    "jobs", TABLES, JOB_ORDER, *_columns(Job), sa.UniqueConstraint("job_id"), sa.Index("ix_jobs_state", "state")
)
LEASES = sa.Table("leases", TABLES, *_columns(Lease), sa.PrimaryKeyConstraint("name"))

INCIDENT_ORDER = sa.Column("seq", sa.Integer, primary_key=True)
INCIDENT_ID = sa.UniqueConstraint("incident_id")
INCIDENTS = sa.Table("incidents", TABLES, INCIDENT_ORDER, *_columns(Incident), INCIDENT_ID)
TOLD = sa.Table(
    "told",
    TABLES,
    *(sa.Column(name, sa.String(), primary_key=True) for name in ("incident_id", "channel")),
    sa.Column("what", sa.String(), nullable=False),
    sa.Column("at", Time, nullable=False),
)
BEATS = sa.Table("beats", TABLES, *_columns(Beat), sa.PrimaryKeyConstraint("name"))
BATCH_ORDER = sa.Column("seq", sa.Integer, primary_key=True)
BATCHES = sa.Table("batches", TABLES, BATCH_ORDER, *_columns(TrainingBatch), sa.UniqueConstraint("batch_id"))


def _first_tables(connection: sa.Connection) -> None:
    TABLES.create_all(connection, [CHAMPION, LEDGER, JOBS, LEASES])


def _tables_of_monitoring(connection: sa.Connection) -> None:
    TABLES.create_all(connection, [INCIDENTS, TOLD, BEATS, BATCHES])


STEPS: tuple[Callable[[sa.Connection], None], ...] = (_first_tables, _tables_of_monitoring)
"""Step n brings a database of format n to n + 1, so their number is this release's format. A new
step alters what is there and makes the one before it spell out the tables of its time."""


class Anchors:
    """A file of lines `seq hash`, one for every entry of the ledger, which is only ever appended to."""

    HEAD = b"mso ledger anchors, format 1\n"

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[Anchor]:
        """All of them; StoreError for a line that was not written so. A torn end is no line."""
        try:
            lines = self._path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        anchors = []
        for seq, line in enumerate(lines):
            found = re.fullmatch(rb"%d ([0-9a-f]{64})\n" % seq, line)
            if seq and found:
                anchors.append((seq, found[1].decode()))
            elif seq or line != self.HEAD:
                expected = f"{seq} and a hash" if seq else repr(self.HEAD)
                raise StoreError(
                    f"{self._path.name} line {seq + 1} is {line[:80]!r}, expected {expected}: it was changed"
                )
        return anchors

    def follow(self, after: Callable[[int], list[LedgerEntry]]) -> None:
        """Write down the entries that came since, if they go on from the last line. Nothing is ever taken
        back: a ledger that goes on otherwise was changed, and stays found out."""
        try:
            with self._path.open("a+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                anchors = self.read()
                last = anchors[-1] if anchors else (0, GENESIS)
                entries = after(last[0])
                if (broken := first_broken(entries, last)) is not None:
                    raise StoreError(
                        f"entry {broken} of the ledger does not follow from entry {last[0]} as it was kept"
                    )
                if entries:
                    file.truncate(sum(len(f"{seq} {kept}\n") for seq, kept in anchors) + len(self.HEAD) * bool(anchors))
                    lines = [f"{entry.seq} {entry.entry_hash}\n".encode() for entry in entries]
                    file.write(b"".join(lines if anchors else [self.HEAD, *lines]))
                    file.flush()
                    os.fsync(file.fileno())
        except (StoreError, OSError) as err:  # the entries are committed: what asked for them goes on
            log.warning("the ledger's anchors do not follow it; `mso verify` tells more", error=str(err))


class SqlState:
    """The state database at `url`, brought to this release's format at first use; `options` are its engine's.
    `anchors` is a file for the ledger's hashes, outside the database."""

    def __init__(self, url: str, clock: Clock, *, anchors: Path | None = None, **options: Any) -> None:
        self._url = url
        self._anchors = Anchors(anchors) if anchors else None
        self._clock = clock
        self._options = options

    # --- the champion

    def champion(self) -> Champion | None:
        with self._reading() as connection:
            return _champion(connection)

    def change_champion(
        self, new: ModelVersion, decision: Decision, *, expected_token: int, fence: Lease | None = None
    ) -> Champion:
        with self._writing() as connection:
            if fence is not None and not _is_latest(fence, _lease(connection, fence.name)):
                raise StaleToken(f"the lease {fence.name} was taken over; the holder that has it now decides")
            now = self._clock.now()
            champion = next_champion(_champion(connection), new, decision, expected_token=expected_token, at=now)
            connection.execute(CHAMPION.delete())
            connection.execute(CHAMPION.insert().values(row_id=1, **asdict(champion)))
            _chain(connection, now, decision)
        self._anchor(self._engine)
        return champion

    # --- the ledger

    def decide(self, decision: Decision) -> LedgerEntry:
        with self._writing() as connection:
            entry = _chain(connection, self._clock.now(), decision)
        self._anchor(self._engine)
        return entry

    def ledger(self, *, after: int = 0, limit: int | None = None) -> list[LedgerEntry]:
        with self._reading() as connection:
            return _entries(connection, after, limit)

    def anchors(self) -> list[Anchor]:
        return self._anchors.read() if self._anchors else []

    def _anchor(self, engine: sa.Engine) -> None:
        if self._anchors is not None:
            with engine.connect() as connection:
                self._anchors.follow(lambda seq: _entries(connection, seq))

    # --- jobs

    def submit(self, kind: str) -> tuple[Job, bool]:
        with self._writing() as connection:
            under_way = JOBS.select().where(JOBS.c.kind == kind, JOBS.c.state.not_in(ENDED))
            if (row := connection.execute(under_way).mappings().first()) is not None:
                return _as(Job, row), False
            job = Job(f"{kind}-{secrets.token_hex(6)}", kind, JobState.QUEUED, self._clock.now())
            connection.execute(JOBS.insert().values(asdict(job)))
            return job, True

    def job(self, job_id: str) -> Job:
        with self._reading() as connection:
            return _job_named(connection, job_id)

    def jobs(self, *, state: JobState | None = None, limit: int = 50) -> list[Job]:
        asked = JOBS.select().order_by(JOBS.c.seq.desc()).limit(limit)
        with self._reading() as connection:
            rows = connection.execute(asked if state is None else asked.where(JOBS.c.state == state))
            return [_as(Job, row) for row in rows.mappings()]

    def update_job(self, job_id: str, **changes: Unpack[JobChanges]) -> Job:
        with self._writing() as connection:
            job = _job_named(connection, job_id)
            changed = changed_job(job, self._clock.now(), **changes)
            if changed is not job:
                connection.execute(JOBS.update().where(JOBS.c.job_id == job_id).values(asdict(changed)))
            return changed

    # --- leases

    def acquire(self, name: str, holder: str, *, seconds: float) -> Lease | None:
        with self._writing() as connection:
            held, now = _lease(connection, name), self._clock.now()
            if held is not None and held.expires_at > now and held.holder != holder:
                return None
            lease = Lease(name, holder, held.token + 1 if held else 1, now + timedelta(seconds=seconds))
            _keep_lease(connection, lease)
            return lease

    def renew(self, lease: Lease, *, seconds: float) -> Lease | None:
        with self._writing() as connection:
            held, now = _lease(connection, lease.name), self._clock.now()
            if held is None or not _is_latest(lease, held) or held.expires_at <= now:
                return None
            renewed = replace(lease, expires_at=now + timedelta(seconds=seconds))
            _keep_lease(connection, renewed)
            return renewed

    def release(self, lease: Lease) -> None:
        with self._writing() as connection:
            if _is_latest(lease, _lease(connection, lease.name)):  # the row stays: tokens only ever grow
                _keep_lease(connection, replace(lease, expires_at=self._clock.now()))

    # --- monitoring

    def open_incident(
        self, key: str, severity: Severity, title: str, detail: str = "", figures: Mapping[str, object] | None = None
    ) -> tuple[Incident, bool]:
        with self._writing() as connection:
            now, found, given = self._clock.now(), _open_incident(connection, key), as_stored(figures or {})
            if found is None:
                incident_id = f"incident-{secrets.token_hex(6)}"
                new = Incident(incident_id, key, severity, title, detail, now, now, figures=given)
                connection.execute(INCIDENTS.insert().values(asdict(new)))
                return new, True
            severity = max(found.severity, severity, key=list(Severity).index)
            seen = replace(found, severity=severity, detail=detail, seen_at=now, figures=given)
            return _keep_incident(connection, seen), False

    def close_incident(self, key: str, detail: str = "") -> Incident | None:
        with self._writing() as connection:
            if (found := _open_incident(connection, key)) is None:
                return None
            return _keep_incident(
                connection, replace(found, closed_at=self._clock.now(), detail=detail or found.detail)
            )

    def incidents(self, *, open_only: bool = False, limit: int = 100) -> list[Incident]:
        asked = INCIDENTS.select().order_by(INCIDENTS.c.seq.desc()).limit(limit)
        with self._reading() as connection:
            rows = connection.execute(asked.where(INCIDENTS.c.closed_at.is_(None)) if open_only else asked)
            return [_as(Incident, row) for row in rows.mappings()]

    def tell(self, incident_id: str, channel: str, what: str) -> None:
        with self._writing() as connection:
            connection.execute(TOLD.delete().where(TOLD.c.incident_id == incident_id, TOLD.c.channel == channel))
            row = {"incident_id": incident_id, "channel": channel, "what": what, "at": self._clock.now()}
            connection.execute(TOLD.insert().values(row))

    def told(self, channel: str, incident_ids: Sequence[str]) -> dict[str, tuple[str, datetime]]:
        asked = TOLD.select().where(TOLD.c.channel == channel, TOLD.c.incident_id.in_(incident_ids))
        with self._reading() as connection:
            return {row.incident_id: (row.what, row.at) for row in connection.execute(asked)}

    def beat(self, name: str, *, ok: bool = True, note: str = "") -> None:
        with self._writing() as connection:
            row = connection.execute(BEATS.select().where(BEATS.c.name == name)).mappings().first()
            at = {"succeeded_at" if ok else "failed_at": self._clock.now(), "note": note}
            connection.execute(BEATS.delete().where(BEATS.c.name == name))
            connection.execute(BEATS.insert().values({**asdict(_as(Beat, row) if row else Beat(name, None)), **at}))

    def beats(self) -> list[Beat]:
        with self._reading() as connection:
            return [_as(Beat, row) for row in connection.execute(BEATS.select().order_by(BEATS.c.name)).mappings()]

    def add_batch(self, batch: TrainingBatch) -> None:
        with self._writing() as connection:
            connection.execute(BATCHES.insert().values(asdict(batch)))

    def batches(self, limit: int = 100) -> list[TrainingBatch]:
        with self._reading() as connection:
            rows = connection.execute(BATCHES.select().order_by(BATCHES.c.seq.desc()).limit(limit))
            return [_as(TrainingBatch, row) for row in rows.mappings()]

    def rule_on_batch(self, batch_id: str, admission: Admission, actor: str, reason: str) -> TrainingBatch:
        with self._writing() as connection:
            named = BATCHES.c.batch_id == batch_id
            if (row := connection.execute(BATCHES.select().where(named)).mappings().first()) is None:
                raise NotFound(f"there is no training batch {batch_id!r}; look for its id among the kept ones")
            was = _as(TrainingBatch, row)
            made = {"admission": admission, "actor": actor, "decided_at": self._clock.now()}
            ruled = replace(was, reasons=(*was.reasons, reason), **made)  # type: ignore[arg-type]
            connection.execute(BATCHES.update().where(named).values(asdict(ruled)))
            return ruled

    # --- connections

    def close(self) -> None:
        """Give back what is open; the next call opens it again."""
        if "_engine" in self.__dict__:
            self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[sa.Connection]:
        with self._speaking_plainly(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[sa.Connection]:
        with self._speaking_plainly(), _write(self._engine) as connection:
            yield connection

    @cached_property
    def _engine(self) -> sa.Engine:
        if self._url.startswith("sqlite"):
            engine = sa.create_engine(self._url, **{"connect_args": {"timeout": WAIT_SECONDS}, **self._options})
            sa.event.listen(engine, "connect", _set_up_sqlite)
        else:
            engine = sa.create_engine(self._url, pool_pre_ping=True)
        try:
            if engine.dialect.name == "sqlite":
                _use_write_ahead_log(engine)
            with _write(engine) as connection:
                self._bring_to_format(connection)
            self._anchor(engine)
        except BaseException:
            engine.dispose()
            raise
        return engine

    def _bring_to_format(self, connection: sa.Connection) -> None:
        FORMAT.create(connection, checkfirst=True)
        found = connection.scalar(sa.select(FORMAT.c.version))
        if found is None:
            connection.execute(FORMAT.insert().values(version=0))
        if (found or 0) > len(STEPS):
            raise FormatTooNew(
                f"the state database {self._place} has format {found}, this release reads up to {len(STEPS)}; update it"
            )
        for step in STEPS[found or 0 :]:
            step(connection)
        if found != len(STEPS):
            connection.execute(FORMAT.update().values(version=len(STEPS)))

    @property
    def _place(self) -> str:
        return sa.make_url(self._url).render_as_string(hide_password=True)

    @contextmanager
    def _speaking_plainly(self) -> Iterator[None]:
        """Errors of the database as ours."""
        try:
            yield
        except OperationalError as err:
            if "Could not decode" in str(err.orig):  # bytes that are no text: it was not written so
                raise StoreError(f"the state database {self._place} was changed: {err.orig}") from err
            raise Unavailable(f"the state database {self._place} did not answer: {err.orig}") from err
        except DBAPIError as err:
            raise StoreError(f"the state database {self._place} refused: {err.orig}") from err
        except (ArgumentError, ImportError) as err:
            raise StoreError(f"the state database cannot be opened, see `storage.state_url`: {err}") from err


def _set_up_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # a transaction begins where `_write` says so
    connection.execute("PRAGMA synchronous = FULL")


def _use_write_ahead_log(engine: sa.Engine) -> None:
    """Once for a file; while processes open a new one together, SQLite refuses instead of waiting."""
    for _ in range(100):
        with engine.connect() as connection, suppress(OperationalError):
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            return
        time.sleep(WAIT_SECONDS / 100)


@contextmanager
def _write(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that no other writer overlaps."""
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(POSTGRES_LOCK)))
        yield connection
        connection.commit()


def _champion(connection: sa.Connection) -> Champion | None:
    row = connection.execute(CHAMPION.select()).mappings().first()
    return None if row is None else Champion(**{name: value for name, value in row.items() if name != "row_id"})


def _chain(connection: sa.Connection, at: datetime, decision: Decision) -> LedgerEntry:
    last = connection.execute(LEDGER.select().order_by(LEDGER.c.seq.desc()).limit(1)).mappings().first()
    stored = replace(decision, figures=as_stored(decision.figures))
    entry = chain_entry(last["seq"] + 1 if last else 1, at, stored, last["entry_hash"] if last else GENESIS)
    hashes = {"previous_hash": entry.previous_hash, "entry_hash": entry.entry_hash}
    connection.execute(LEDGER.insert().values(seq=entry.seq, at=at, **asdict(stored), **hashes))
    return entry


def _entries(connection: sa.Connection, after: int, limit: int | None = None) -> list[LedgerEntry]:
    asked = LEDGER.select().where(LEDGER.c.seq > after).order_by(LEDGER.c.seq).limit(limit)
    return [_entry(row) for row in connection.execute(asked).mappings()]


def _entry(row: sa.RowMapping) -> LedgerEntry:
    decision = Decision(*(row[found.name] for found in fields(Decision)))
    return LedgerEntry(row["seq"], row["at"], decision, row["previous_hash"], row["entry_hash"])


def _job_named(connection: sa.Connection, job_id: str) -> Job:
    row = connection.execute(JOBS.select().where(JOBS.c.job_id == job_id)).mappings().first()
    if row is None:
        raise NotFound(f"there is no job {job_id}; GET /jobs and `mso status` list them")
    return _as(Job, row)


def _open_incident(connection: sa.Connection, key: str) -> Incident | None:
    asked = INCIDENTS.select().where(INCIDENTS.c.key == key, INCIDENTS.c.closed_at.is_(None))
    row = connection.execute(asked).mappings().first()
    return None if row is None else _as(Incident, row)


def _keep_incident(connection: sa.Connection, incident: Incident) -> Incident:
    of = INCIDENTS.c.incident_id == incident.incident_id
    connection.execute(INCIDENTS.update().where(of).values(asdict(incident)))
    return incident


def _as(shape: type[Found], row: sa.RowMapping) -> Found:
    """A row as its dataclass, without the number that orders the rows."""
    return shape(**{name: value for name, value in row.items() if name != "seq"})


def _lease(connection: sa.Connection, name: str) -> Lease | None:
    row = connection.execute(LEASES.select().where(LEASES.c.name == name)).mappings().first()
    return None if row is None else Lease(**row)


def _is_latest(lease: Lease, held: Lease | None) -> bool:
    return held is not None and held.token == lease.token


def _keep_lease(connection: sa.Connection, lease: Lease) -> None:
    connection.execute(LEASES.delete().where(LEASES.c.name == lease.name))
    connection.execute(LEASES.insert().values(asdict(lease)))
