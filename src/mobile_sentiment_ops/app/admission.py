"""Which reviews may train: those that came since the last batch are judged, and held where an alarm fired.

    admit_reviews   a retrain's first step: judge, write down, tell
    rule            a person's word on a batch

A batch is what came between two moments of `received_at`. Judging changes nothing until its one row is written, so
what was interrupted is judged again by the next retrain, with the same id. A held batch stops no retrain on the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from hashlib import blake2b

import polars as pl
import structlog

from mobile_sentiment_ops.app.data_pipeline import DataHandler
from mobile_sentiment_ops.data.manifest import read_manifest
from mobile_sentiment_ops.data.reviews import labelled
from mobile_sentiment_ops.monitoring.poisoning import History, judge_batch, suspect_apps
from mobile_sentiment_ops.ports import Clock, State
from mobile_sentiment_ops.registry.bundle import Bundle
from mobile_sentiment_ops.settings import Monitoring
from mobile_sentiment_ops.types import Admission, Decision, Measurement, Severity, TrainingBatch

log = structlog.get_logger()

MIN_ACCEPTED, MIN_BATCH = 200, 5
"""Labelled reviews below which there is nothing to compare with, and nothing to compare."""
MOST_ACCEPTED = 200_000
EVERY = 1_000_000

Measured = tuple[Measurement, ...]


def admit_reviews(
    data: DataHandler, state: State, clock: Clock, champion: Bundle | None, settings: Monitoring, *, seed: int
) -> list[TrainingBatch]:
    """All batches, newest first, with a new one when labelled reviews came since the last.

    Its verdict goes to the ledger, and a held batch is an incident until a person rules on it. `champion` reads
    reviews that it did not learn from, beside the new ones.
    """
    batches = state.batches(EVERY)
    after = max((batch.until for batch in batches), default=None)
    came = labelled(data.reviews()).sort("submitted_at", "review_id", nulls_last=False)
    if after is not None:
        came = came.filter(pl.col("received_at") > after)
    if came.height:
        accepted = labelled(data.reviews(batches=batches)) if batches else came.clear()
        accepted = accepted.sort("submitted_at", "review_id", nulls_last=False).tail(MOST_ACCEPTED)
        batch = _judged(came, accepted, champion, settings, seed)
        batch = replace(batch, batch_id=_id(after, batch.until), after=after, decided_at=clock.now())
        action = "admit" if batch.admission is Admission.ADMITTED else "hold"
        fired = {one.name: {"value": one.value, "limit": one.limit, **one.part} for one in batch.measured if one.fired}
        figures = {"rows": batch.rows, "apps": list(batch.apps), "until": batch.until.isoformat(), "alarms": fired}
        state.decide(Decision(action, f"batch {batch.batch_id}", batch.actor, "; ".join(batch.reasons), figures))
        state.add_batch(batch)
        log.info("judged", batch=batch.batch_id, admission=batch.admission.value, rows=batch.rows, alarms=list(fired))
        batches = [batch, *batches]
    for batch in batches:  # again each time: what was interrupted is told, and what waits is seen to wait
        if batch.admission is Admission.HELD:
            title = f"{batch.rows:,} new reviews wait for a person before they may train"
            detail = f"{'; '.join(batch.reasons)}. `mso batches show {batch.batch_id}`, then admit or refuse it"
            state.open_incident(_key(batch.batch_id), Severity.WARNING, title, detail, {"rows": batch.rows})
    return batches


def rule(state: State, batch_id: str, admission: Admission, *, actor: str, reason: str) -> TrainingBatch:
    """The batch as a person ruled: admitted, it trains from the next retrain on; refused, never. NotFound for an
    unknown one."""
    batch = state.rule_on_batch(batch_id, admission, actor, reason)
    action = "release" if admission is Admission.ADMITTED else "refuse"
    state.decide(Decision(action, f"batch {batch_id}", actor, reason, {"rows": batch.rows, "apps": list(batch.apps)}))
    state.close_incident(_key(batch_id), f"{action}d by {actor}: {reason}")
    return batch


def _judged(
    came: pl.DataFrame, accepted: pl.DataFrame, champion: Bundle | None, settings: Monitoring, seed: int
) -> TrainingBatch:
    """The verdict. Where all that is odd is in some apps, and the rest is well without them, only they are held."""
    until: datetime = came["received_at"].max()  # type: ignore[assignment]
    batch = TrainingBatch("", None, until, Admission.ADMITTED, (), came.height, (), until, "admission")
    if accepted.height < MIN_ACCEPTED or came.height < MIN_BATCH:
        few = f"{came.height:,} new and {accepted.height:,} accepted labelled reviews"
        return replace(batch, reasons=(f"nothing to compare with: {few}",))

    def judge(rows: pl.DataFrame) -> Measured:
        return judge_batch(
            rows,
            _history(accepted, rows.height, champion),
            max_source_share=settings.max_source_share,
            max_insertion_rise=settings.max_insertion_rise,
            false_alarms=settings.false_alarms,
            seed=seed,
        )

    measured = judge(came)
    reasons = tuple(f"{one.name}: {one.reason}" for one in measured if one.fired)
    if not reasons:
        return replace(batch, reasons=(f"none of {len(measured)} alarms fired",), measured=measured)
    apps: Sequence[str] = suspect_apps(came, measured)
    rest = came.filter(~pl.col("app").fill_null("").is_in(apps))
    if not apps or rest.height < MIN_BATCH or any(one.fired for one in judge(rest)):
        apps, rest = (), came.clear()
    held = came.height - rest.height
    return replace(batch, admission=Admission.HELD, apps=tuple(apps), rows=held, reasons=reasons, measured=measured)


def _history(accepted: pl.DataFrame, size: int, champion: Bundle | None) -> History:
    if champion is None:
        return History(accepted, size)
    learned = read_manifest(champion.manifest).rows.filter(pl.col("split") != "test")
    held_out = accepted.join(learned, on="review_id", how="anti", maintain_order="left")
    model = champion.model
    return History(accepted, size, held_out, lambda texts: model.decide(model.probabilities(texts)))


def _id(after: datetime | None, until: datetime) -> str:
    return blake2b(f"{after} {until}".encode(), digest_size=4).hexdigest()


def _key(batch_id: str) -> str:
    return f"batch-held/{batch_id}"
