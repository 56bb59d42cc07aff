"""The words everyone shares: frozen values without behaviour, built from the standard library alone.

Stages, handlers, adapters and shells speak to each other in these. A share is 0..1, a time is
timezone-aware UTC, and the three labels are always in the order of `LABELS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal


class Label(StrEnum):
    """What a reviewer feels, spelled as the first version's files spell it."""

    NEGATIVE = "Negative"
    NEUTRAL = "Neutral"
    POSITIVE = "Positive"


LABELS = (Label.NEGATIVE, Label.NEUTRAL, Label.POSITIVE)
"""The fixed order of classes: index 0, 1, 2 in every array, confusion matrix and bundle."""


class LabelSource(StrEnum):
    """Where a label came from; a person outranks an imported file, which outranks stars."""

    HUMAN = "human"
    IMPORTED = "imported"
    STARS = "stars"


@dataclass(frozen=True, slots=True)
class Interval:
    """A measured value with the ends of its confidence interval (95% unless said otherwise)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer for one text. `confidence` is the probability of the chosen label, which the
    published decision offsets may make smaller than the largest probability."""

    label: Label
    confidence: float
    probabilities: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Rejected:
    """One input row that could not be taken in: where it stood and why."""

    source: str
    line: int
    reason: str
    row: str


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What one ingest did with what it read. `read` is the sum of the other four counts; `notes` are
    sentences for a person, on what was odd in the file."""

    sources: tuple[str, ...]
    read: int
    new: int
    updated: int
    duplicate: int
    rejected: int
    reasons: Mapping[str, int]
    mapping: Mapping[str, str]
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One registered model. `bundle_hash` names its files wherever they are kept."""

    version: str
    kind: str
    bundle_hash: str
    run_id: str
    dataset: str
    created_at: datetime
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Champion:
    """The one row that says which model answers. `token` grows by one at every change."""

    version: str
    kind: str
    bundle_hash: str
    previous_version: str | None
    previous_bundle_hash: str | None
    promoted_at: datetime
    actor: str
    reason: str
    token: int


class Outcome(StrEnum):
    """What the gate says of a candidate."""

    PROMOTE = "PROMOTE"
    HOLD = "HOLD"
    REJECT = "REJECT"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's answer with everything it was decided on.

    `measured` and `limits` share no name; `reasons` read as sentences; `summary` is the paragraph
    a person reads.
    """

    outcome: Outcome
    candidate: str
    champion: str | None
    measured: Mapping[str, float]
    limits: Mapping[str, float]
    reasons: tuple[str, ...]
    summary: str


class JobState(StrEnum):
    """A job's way: queued, running, then one of three ends."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of long work that can be asked for by id."""

    job_id: str
    kind: str
    state: JobState
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: float = 0.0
    step: str = ""
    pid: int | None = None
    log: str = ""
    result: Mapping[str, object] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to do one thing alone until `expires_at`; `token` fences off stale holders."""

    name: str
    holder: str
    token: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Decision:
    """What is written to the ledger: who decided what about which thing, on which figures."""

    action: str
    subject: str
    actor: str
    reason: str
    figures: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """A decision as it stands in the append-only, hash-chained ledger."""

    seq: int
    at: datetime
    decision: Decision
    previous_hash: str
    entry_hash: str


Role = Literal["predict", "operate"]
"""What an API key is for: reading and predicting, or everything."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key as it is kept: `digest` is the SHA-256 of the key in hex, `last4` its end for people to know it by.

    No `apps` means all; `meter` is its place among the rate meters, which no other key has.
    """

    key_id: str
    name: str
    role: Role
    apps: tuple[str, ...]
    digest: str
    last4: str
    meter: int
    created_at: datetime
    expires_at: datetime | None = None


# --- monitoring


class DriftStatus(StrEnum):
    """How the newest window of reviews compares with what the champion learned from."""

    OK = "ok"
    DRIFT = "drift"
    NO_REFERENCE = "no-reference"
    TOO_FEW = "too-few"


@dataclass(frozen=True, slots=True)
class Measurement:
    """One figure that a decision rests on, beside its limit. `value` None: it could not be measured, and
    `reason` says why. `part` is the slice it was taken on, such as {"app": "lamp"}; empty for all reviews.
    `fired`: the value is beyond the limit."""

    name: str
    value: float | None
    limit: float | None
    fired: bool
    reason: str
    n: int = 0
    low: float | None = None
    high: float | None = None
    part: Mapping[str, str] = field(default_factory=dict)


class Action(StrEnum):
    """What monitoring asks for."""

    NOTHING = "NOTHING"
    WATCH = "WATCH"
    LABEL = "LABEL"
    RETRAIN = "RETRAIN"
    ROLLBACK = "ROLLBACK"
    HOLD = "HOLD"


@dataclass(frozen=True, slots=True)
class RetrainDecision:
    """What is to be done about the model, with all that it rests on: the same value in the ledger, the
    command line, the API and the page. `labels_wanted` counts for LABEL; `label_where` says of which reviews."""

    action: Action
    at: datetime
    model_version: str | None
    summary: str
    reasons: tuple[str, ...]
    measured: tuple[Measurement, ...]
    drift: DriftStatus
    labels_wanted: int = 0
    label_where: Mapping[str, str] = field(default_factory=dict)


class Severity(StrEnum):
    """How much an incident presses, least first."""

    INFO = "info"
    WARNING = "warning"
    CRITICAL = "critical"


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that is not well from `opened_at` until `closed_at`. At most one of a `key` is open."""

    incident_id: str
    key: str
    severity: Severity
    title: str
    detail: str
    opened_at: datetime
    seen_at: datetime
    closed_at: datetime | None = None
    figures: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Beat:
    """When a recurring part of the pipeline (a source, a drain, a job, a schedule) last went well and last failed."""

    name: str
    succeeded_at: datetime | None
    failed_at: datetime | None = None
    note: str = ""


class Admission(StrEnum):
    """Whether reviews may train: admitted, held for a person, or refused by one."""

    ADMITTED = "admitted"
    HELD = "held"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """The reviews received after `after` (None: from the beginning) up to `until`, as they were let into training
    or not. `apps`: the hold counts for reviews of these apps alone; empty for all of the batch."""

    batch_id: str
    after: datetime | None
    until: datetime
    admission: Admission
    apps: tuple[str, ...]
    rows: int
    reasons: tuple[str, ...]
    decided_at: datetime
    actor: str
    measured: tuple[Measurement, ...] = ()
