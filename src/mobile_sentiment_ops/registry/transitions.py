"""What may follow what in the state store: one champion after another, one job state after another.

Pure rules, so that every implementation of the `State` port applies the same ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Unpack

from mobile_sentiment_ops.errors import StaleToken
from mobile_sentiment_ops.ports import JobChanges
from mobile_sentiment_ops.types import Champion, Decision, Job, JobState, ModelVersion

ENDED = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})
LOG_CHARS = 100_000


def next_champion(
    current: Champion | None, new: ModelVersion, decision: Decision, *, expected_token: int, at: datetime
) -> Champion:
    """The champion after this decision; StaleToken when it was taken on another champion.

    >>> from datetime import UTC
    >>> at = datetime(2025, 3, 1, tzinfo=UTC)
    >>> first = ModelVersion("1", "lr", "aa", "run", "dataset", at)
    >>> champion = next_champion(None, first, Decision("promote", "1", "gate", "better"), expected_token=0, at=at)
    >>> champion.token, champion.previous_version
    (1, None)
    """
    token = current.token if current else 0
    if token != expected_token:
        raise StaleToken(
            f"the champion changed meanwhile (token {token}, expected {expected_token}); "
            "look at the new champion and decide again"
        )
    before, bundle = (current.version, current.bundle_hash) if current else (None, None)
    actor, reason = decision.actor, decision.reason
    return Champion(new.version, new.kind, new.bundle_hash, before, bundle, at, actor, reason, token + 1)


def changed_job(job: Job, at: datetime, **changes: Unpack[JobChanges]) -> Job:
    """The job with what is given changed; one that has ended stays as it ended.

    >>> from datetime import UTC
    >>> at = datetime(2025, 3, 1, tzinfo=UTC)
    >>> done = changed_job(Job("j1", "retrain", JobState.RUNNING, at), at, state=JobState.DONE)
    >>> done.finished_at == at, changed_job(done, at, state=JobState.RUNNING) == done
    (True, True)
    """
    if job.state in ENDED:
        return job
    new: dict[str, object] = {**changes}
    if "log" in changes:
        new["log"] = (job.log + changes["log"])[-LOG_CHARS:]
    if "result" in changes:
        new["result"] = as_stored(changes["result"])
    state = changes.get("state")
    if state is JobState.RUNNING and job.started_at is None:
        new["started_at"] = at
    if state in ENDED:
        new["finished_at"] = at
    return replace(job, **new)  # type: ignore[arg-type]


def as_stored(figures: Mapping[str, object]) -> dict[str, object]:
    """The mapping as it will read back: values of JSON, tuples as lists.

    >>> as_stored({"limits": ("a", "b")})
    {'limits': ['a', 'b']}
    """
    read_back: dict[str, object] = json.loads(json.dumps(figures))
    return read_back
