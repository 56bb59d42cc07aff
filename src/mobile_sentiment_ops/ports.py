"""The doors to the world. Handlers reach everything outside the process through these.

    Clock      what time it is
    Files      the bucket: small files by name (reports, CSV contract of the first version)
    Tables     append-only tables: reviews, rejects, predictions
    Bundles    model files by hash, on the local disk
    Live       what the processes of a server share: compiled models, which one answers, how the keeper is
    Datasets   immutable dataset manifests by fingerprint
    Registry   the tracking server and model registry (a projection of the champion row)
    State      champion, ledger, jobs, leases, incidents, beats and training batches in one transactional store
    Spool      predictions that are acknowledged and not yet in their table
    Keys       the API keys, as hashes
    Launcher   a process of its own for long work
    Notifier   a channel by which people are told of incidents

Those that need a server or much time have an adapter in `adapters/memory.py` beside the real one;
`tests/contracts` runs the same suite on both. Only `bootstrap.py` chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict, Unpack

from mobile_sentiment_ops.errors import StoreError
from mobile_sentiment_ops.types import (
    Admission,
    ApiKey,
    Beat,
    Champion,
    Decision,
    DriftStatus,
    Incident,
    Job,
    JobState,
    Lease,
    LedgerEntry,
    ModelVersion,
    Severity,
    TrainingBatch,
)

if TYPE_CHECKING:
    import pyarrow as pa  # what answers does without it


class Clock(Protocol):
    """Time as a dependency, so that a test or a simulation can set it."""

    def now(self) -> datetime:
        """The current time, timezone-aware UTC."""


class Files(Protocol):
    """Small files by a relative name with forward slashes; a write is all or nothing."""

    def write(self, name: str, data: bytes) -> str:
        """Store `data` whole or not at all, replacing what was there; returns the full address."""

    def read(self, name: str) -> bytes:
        """The content of one file; NotFound when there is none."""

    def list(self, prefix: str = "") -> list[str]:
        """Names that start with `prefix`, sorted."""


def checked_name(name: str, *, flat: bool = False) -> str:
    """The name itself when `Files` may use it: relative, forward slashes, inside its folder; or, `flat`, without any.

    >>> checked_name("reports/eda/index.html")
    'reports/eda/index.html'
    >>> checked_name("../secrets")
    Traceback (most recent call last):
    mobile_sentiment_ops.errors.StoreError: '../secrets' is no file name here: expected parts with / between them
    """
    unsafe = any(char in name for char in "\\\0:") or any(part in ("", ".", "..") for part in name.split("/"))
    if unsafe or (flat and ("/" in name or name.startswith("."))):
        raise StoreError(f"{name!r} is no file name here: expected parts with / between them")
    return name


class Which(TypedDict, total=False):
    """Which rows: those whose text columns have these values; those at or after a time in a column."""

    equals: Mapping[str, str] | None
    since: tuple[str, datetime] | None


class Tables(Protocol):
    """Append-only tables by name. A table is made by its first append, with that schema."""

    def append(self, table: str, rows: pa.Table, *, key: tuple[str, int] | None = None) -> bool:
        """Commit `rows` atomically.

        With `key = (writer, number)` the append happens once: numbers of one writer must grow, and
        an append whose number is not above the last committed one is skipped (returns False).
        A column that the table does not have yet is added; a missing one is filled with nulls.
        """

    def batches(
        self, table: str, columns: Sequence[str] | None = None, **which: Unpack[Which]
    ) -> Iterator[pa.RecordBatch]:
        """Rows in commit order as record batches of bounded size; nothing for an absent table."""

    def read(self, table: str, columns: Sequence[str] | None = None, **which: Unpack[Which]) -> pa.Table:
        """All such rows in one table; an absent table has no rows and no columns."""

    def version(self, table: str) -> int:
        """The number of the latest commit, -1 for an absent table."""

    def compact(self, table: str) -> None:
        """Merge small files; rows and their order do not change."""

    def drop(self, table: str) -> None:
        """Remove a table that can be made again; harmless for an absent one."""


class Bundles(Protocol):
    """Model files on the local disk, named by the hash of their manifest."""

    def put(self, files: Mapping[str, bytes], bundle_hash: str) -> None:
        """Store all files under that hash, whole or not at all; doing it twice is harmless."""

    def get(self, bundle_hash: str) -> dict[str, bytes]:
        """All files of a bundle, unchecked; NotFound when it is not on this disk."""

    def path(self, bundle_hash: str) -> Path | None:
        """The folder of a bundle on this disk, or None."""

    def list(self) -> list[str]:
        """The hashes of the bundles on this disk, sorted."""


@dataclass(frozen=True, slots=True)
class Published:
    """What servers answer with, as their keeper tells them: a champion with its card and the hash of its
    compiled form, or None; `note` says why there is none, or why an earlier model answers."""

    champion: Champion | None
    note: str = ""
    sha256: str = ""
    card: Mapping[str, Any] = field(default_factory=dict)
    drift: DriftStatus = DriftStatus.NO_REFERENCE
    """What the last finished check found of this champion."""


@dataclass(frozen=True, slots=True)
class KeeperReport:
    """How the keeper is; what is not well is told in words."""

    at: datetime
    mlflow: str = "not asked yet"
    predictions_table: str = "ok"
    bucket: str = "ok"
    beats: tuple[Beat, ...] = ()
    incidents: Mapping[Severity, int] = field(default_factory=dict)
    """How many are open, by severity."""


class Live(Protocol):
    """What the processes of a server share."""

    def keep(self, bundle_hash: str, compiled: bytes) -> None:
        """Store the compiled form of a bundle, whole or not at all; the oldest few of many make way."""

    def compiled(self, bundle_hash: str) -> bytes | mmap:
        """The compiled form of a bundle, unchecked, mapped where it is a file; NotFound when there is none."""

    def publish(self, published: Published) -> None:
        """Tell all servers what to answer with."""

    def published(self) -> Published | None:
        """What they were told, the same object until something else is; None before.
        Cheap: it is asked ten times a second."""

    def report(self, report: KeeperReport) -> None:
        """Tell how the keeper is."""

    def reported(self) -> KeeperReport | None:
        """What it told last."""


class Datasets(Protocol):
    """Immutable manifests of datasets by fingerprint."""

    def put(self, fingerprint: str, manifest: bytes) -> None:
        """Store a manifest; the same fingerprint twice is harmless."""

    def get(self, fingerprint: str) -> bytes:
        """The manifest whose fingerprint starts with this text; NotFound for none or several."""

    def list(self) -> list[str]:
        """Fingerprints, oldest first."""


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """One finished training run, ready to be recorded whole.

    `artifacts` are files by name (plots, report); `bundle` are the model's files; `dataset` is a
    dictionary with at least `fingerprint`, `source` and the counts of rows per split and label.
    """

    name: str
    kind: str
    started_at: datetime
    finished_at: datetime
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    dataset: Mapping[str, object]
    artifacts: Mapping[str, bytes]
    bundle: Mapping[str, bytes]
    bundle_hash: str


class Registry(Protocol):
    """Experiment tracking and the registry of model versions."""

    def record(self, run: TrainingRun) -> ModelVersion:
        """Log the run with all it carries and register its model; Unavailable when away."""

    def versions(self) -> list[ModelVersion]:
        """Registered versions, newest first."""

    def download(self, version: str) -> dict[str, bytes]:
        """The files of a version's bundle, unchecked; NotFound for an unknown version."""

    def aliases(self) -> dict[str, str]:
        """Alias -> version."""

    def set_aliases(self, aliases: Mapping[str, str | None]) -> None:
        """Point each alias at a version, or remove it (None); others stay."""

    def attach(self, version: str, tags: Mapping[str, str]) -> None:
        """Add tags to a version (its verdict, its ledger hash)."""

    def close_lost(self) -> int:
        """Mark as failed the recordings that a killed process left open; how many there were."""

    def reachable(self) -> bool:
        """Whether it answers within a second."""


class JobChanges(TypedDict, total=False):
    """What may change about a job."""

    state: JobState
    progress: float
    step: str
    pid: int
    log: str
    result: Mapping[str, object]
    error: str


class State(Protocol):
    """Champion, ledger, jobs, leases and what monitoring keeps: one store, one transaction a call."""

    # --- the champion, one row
    def champion(self) -> Champion | None:
        """Who answers now."""

    def change_champion(
        self, new: ModelVersion, decision: Decision, *, expected_token: int, fence: Lease | None = None
    ) -> Champion:
        """Replace the champion and write the decision in one transaction.

        `expected_token` is the token seen when the decision was taken (0 for no champion); another
        change in between, or a `fence` lease that someone else took over, raises StaleToken.
        """

    # --- the ledger, append-only and hash-chained
    def decide(self, decision: Decision) -> LedgerEntry:
        """Append a decision."""

    def ledger(self, *, after: int = 0, limit: int | None = None) -> list[LedgerEntry]:
        """Entries with seq > `after`, oldest first; StoreError for one that was not written so."""

    def anchors(self) -> list[tuple[int, str]]:
        """The seq and hash of every entry as kept outside the store, oldest first; StoreError when that
        was changed. Empty when nothing is kept."""

    # --- jobs
    def submit(self, kind: str) -> tuple[Job, bool]:
        """Queue a job, or return the one of that kind that is queued or running (and False)."""

    def job(self, job_id: str) -> Job:
        """One job; NotFound for an unknown id."""

    def jobs(self, *, state: JobState | None = None, limit: int = 50) -> list[Job]:
        """Jobs, newest first."""

    def update_job(self, job_id: str, **changes: Unpack[JobChanges]) -> Job:
        """Change what is given; `log` is appended (the last 100 kB are kept). A job that has ended
        stays as it ended. RUNNING sets started_at, an end sets finished_at."""

    # --- leases
    def acquire(self, name: str, holder: str, *, seconds: float) -> Lease | None:
        """The lease, with a token above every earlier one, or None while another holder has it."""

    def renew(self, lease: Lease, *, seconds: float) -> Lease | None:
        """The same lease with a later end, or None when it was lost."""

    def release(self, lease: Lease) -> None:
        """Give it back; harmless when it was lost."""

    # --- monitoring; no text of a review is kept here
    def open_incident(
        self, key: str, severity: Severity, title: str, detail: str = "", figures: Mapping[str, object] | None = None
    ) -> tuple[Incident, bool]:
        """A new incident, or the open one of that key (and False): seen again with this detail and these
        figures, and with the greater severity."""

    def close_incident(self, key: str, detail: str = "") -> Incident | None:
        """Close the open one of that key; None when there is none."""

    def incidents(self, *, open_only: bool = False, limit: int = 100) -> list[Incident]:
        """Incidents, newest first."""

    def tell(self, incident_id: str, channel: str, what: str) -> None:
        """Keep that a channel was told this of an incident now, in place of what it was told before."""

    def told(self, channel: str, incident_ids: Sequence[str]) -> dict[str, tuple[str, datetime]]:
        """What a channel was told last of each of these incidents, and when; nothing for the untold."""

    def beat(self, name: str, *, ok: bool = True, note: str = "") -> None:
        """Keep that a recurring part of the pipeline went well now, or that it failed."""

    def beats(self) -> list[Beat]:
        """The last of every part, by name."""

    def add_batch(self, batch: TrainingBatch) -> None:
        """Keep a training batch; StoreError for an id that is taken."""

    def batches(self, limit: int = 100) -> list[TrainingBatch]:
        """Training batches, the one added last first."""

    def rule_on_batch(self, batch_id: str, admission: Admission, actor: str, reason: str) -> TrainingBatch:
        """Admit, hold or refuse a kept batch; the reason is added to the others. NotFound for an unknown id."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A closed piece of the spool: `key` makes its append to a table happen once."""

    key: tuple[str, int]
    payloads: tuple[bytes, ...]


class Spool(Protocol):
    """Acknowledged predictions on the local disk until they are in their table.

    A payload is one answer's predictions as `data/predictions.py` packs them; the spool does not look
    into it. May be called from any thread.
    """

    def append(self, payload: bytes, count: int) -> None:
        """Return only when the payload, of `count` predictions, survives a kill of this process;
        SpoolFull when there is no room for it, StoreError when it cannot be kept otherwise."""

    def sync(self) -> None:
        """Return only when what was appended before survives a loss of power too."""

    def drain(self) -> Iterator[Segment]:
        """Closed segments, oldest first, those of one writer in their order; this process's open one
        is finished first. Raises StoreError at the end when some cannot be read."""

    def forget(self, segment: Segment) -> None:
        """Delete a segment whose rows are safe elsewhere; harmless twice."""

    def set_aside(self, segment: Segment) -> None:
        """Keep a segment that cannot be read where no drain finds it."""

    def rotate(self, seconds: float) -> None:
        """Finish this process's open segment when it was begun so long ago, so that others may drain it."""

    def depth(self) -> int:
        """How many predictions wait, about."""

    def size(self) -> int:
        """How many bytes they take on the disk."""

    def close(self) -> None:
        """Finish this process's open segment; the next append begins another."""


class Keys(Protocol):
    """API keys as hashes, where every server sees them."""

    def list(self) -> Sequence[ApiKey]:
        """All of them, in the order they were made; StoreError when they cannot be read."""

    def change(self, change: Callable[[Sequence[ApiKey]], Sequence[ApiKey]]) -> None:
        """Replace all keys by what `change` makes of them, one change at a time; what it
        raises leaves them as they are."""

    def stamp(self) -> object:
        """Another value after every change, at the cost of a look at the disk."""


class Launcher(Protocol):
    """Starts long work in a process of its own, at low priority, that outlives its caller."""

    def start(self, job_id: str, kinds: Sequence[str] = ()) -> int:
        """Run `mso retrain --job JOB_ID [--kinds rf,xgb]`; returns the process id."""

    def alive(self, pid: int) -> bool:
        """Whether that process still runs."""

    def stop(self, pid: int) -> None:
        """End that process and what it started: asked first, after a while made to; harmless when it has ended."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing to tell of an incident. `alert_id` is the same whenever the same is told again."""

    alert_id: str
    what: Literal["opened", "raised", "again", "closed", "test"]
    incident: Incident


class Notifier(Protocol):
    """A channel by which people are told of incidents."""

    @property
    def name(self) -> str:
        """What people know it by."""

    def send(self, alert: Alert) -> None:
        """Return only when it was taken. Unavailable when it did not answer; StoreError when it was refused,
        SettingsError when the settings cannot work. None of these shows a secret."""
