"""Whether the pipeline itself goes on: which of its recurring parts is silent for longer than it should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from mobile_sentiment_ops.settings import SILENCE_HOURS
from mobile_sentiment_ops.types import Beat, Measurement

START_HOURS = 0.25
"""So long after its start a server judges no part: its own have hardly begun then."""

ALWAYS = ("drain", "spool")
"""The server's own parts; others are watched from their first sign of life, or when their limit was set."""


def watch(beats: Sequence[Beat], now: datetime, limits: Mapping[str, float], started_at: datetime) -> list[Measurement]:
    """How many hours each watched part went without success, beside its limit: that of `limits`, which are in
    hours and 0 for never, else the usual one; `ingest/google-play` takes that of `ingest` unless it has its own.
    A part that never went well is silent since `started_at`, when the server began.

    >>> from datetime import UTC, timedelta
    >>> noon = datetime(2025, 3, 1, 12, tzinfo=UTC)
    >>> seen = [Beat("drain", noon), Beat("ingest/app-store", noon - timedelta(hours=50), noon, "it did not answer")]
    >>> for found in watch(seen, noon, {"ingest": 48}, noon - timedelta(days=3)):
    ...     print(found.part["part"], found.fired, found.reason)
    drain False no success for 0.0 h, limit 0.25 h
    ingest True no success for 72.0 h, limit 48 h
    ingest/app-store True no success for 50.0 h, limit 48 h; last failure 2025-03-01 12:00 UTC: it did not answer
    spool True no success for 72.0 h, limit 0.25 h
    """
    last = {beat.name: beat for beat in beats if beat.name.partition("/")[0] in SILENCE_HOURS}
    running, found = _hours(started_at, now), []
    for part in sorted({*last, *limits, *ALWAYS}):
        beat, base = last.get(part, Beat(part, None)), part.partition("/")[0]
        limit = limits.get(part, limits.get(base, SILENCE_HOURS[base]))
        if limit == 0:
            continue
        silent = _hours(beat.succeeded_at or started_at, now)
        reason = f"no success for {silent:.1f} h, limit {limit:g} h"
        if beat.failed_at is not None and (beat.succeeded_at is None or beat.failed_at > beat.succeeded_at):
            reason += f"; last failure {beat.failed_at:%Y-%m-%d %H:%M} UTC: {beat.note}"
        fired = silent > limit and running > min(limit, START_HOURS)
        found.append(Measurement("silence_hours", silent, limit, fired, reason, part={"part": part}))
    return found


def _hours(since: datetime, now: datetime) -> float:
    return max(0.0, (now - since).total_seconds() / 3600)
