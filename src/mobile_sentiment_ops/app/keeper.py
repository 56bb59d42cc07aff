"""What one process does for all that answer: it says which model is live and takes their predictions away.

follow   compile the champion, mend its compiled form where that is missing or changed, publish it
drain    predictions from every spool into their table, those of ended processes too
report   tell the others how MLflow, the table and the bucket are
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

import structlog

from mobile_sentiment_ops.app.incidents import beat
from mobile_sentiment_ops.app.model_files import compiled_form, open_bundle
from mobile_sentiment_ops.app.prediction import REPEATED
from mobile_sentiment_ops.data.predictions import PREDICTIONS_TABLE, predictions_table
from mobile_sentiment_ops.errors import MsoError, NotFound, StoreError
from mobile_sentiment_ops.monitoring import DECISION_FILE, SKETCHES_TABLE
from mobile_sentiment_ops.ports import (
    Bundles,
    Clock,
    Files,
    KeeperReport,
    Live,
    Published,
    Registry,
    Spool,
    State,
    Tables,
)
from mobile_sentiment_ops.settings import Api
from mobile_sentiment_ops.types import Beat, Champion, DriftStatus, JobState, RetrainDecision, Severity

if TYPE_CHECKING:
    import pyarrow as pa

    from mobile_sentiment_ops.app.monitoring import MonitoringHandler

log = structlog.get_logger()

RETRY_BROKEN = timedelta(seconds=10)
COMPACT_EVERY = 100
DRIFT_EVERY = timedelta(seconds=10)
SPOOL_ROOM = 0.8
REPEATED_WITHIN = timedelta(hours=1)
"""So long after its first try a repeated request is known as one."""


class Keeper:
    """The keeper over the ports it is given; every method may be called from any thread."""

    def __init__(
        self,
        *,
        state: State,
        bundles: Bundles,
        registry: Registry,
        live: Live,
        spool: Spool,
        tables: Tables,
        clock: Clock,
        api: Api,
        files: Files,
        monitoring: Callable[[], MonitoringHandler],
    ) -> None:
        self._state = state
        self._bundles = bundles
        self._registry = registry
        self._live = live
        self._spool = spool
        self._tables = tables
        self._clock = clock
        self._api = api
        self._files = files
        self._monitoring = monitoring  # seconds to import, which a start does not wait for
        self._following = threading.Lock()
        self._draining = threading.Lock()
        self._published: Published | None = None
        # the token of a champion that could not be served, and until when it is left alone
        self._broken: tuple[int, datetime] | None = None
        self._appends = 0
        self._checked: tuple[datetime, str, DriftStatus] | None = None
        self.drain_fault = ""
        """Why predictions wait in the spool; empty when they do not."""

    # --- who answers

    def follow(self) -> Published:
        """Publish the champion if it is another one, or why there is none; a champion that cannot be served is
        tried again every ten seconds and leaves the one before in its place."""
        with self._following:
            found = self._to_publish()
            if found.champion is not None:
                found = replace(found, drift=self._drift(found.champion))
            if found != self._published:
                self._live.publish(found)
                if found.note:
                    log.warning("champion not published", reason=found.note)
                self._published = found
            return found

    def _to_publish(self) -> Published:
        before = self._published or Published(None)
        try:
            champion = self._state.champion()
        except StoreError as err:
            return replace(before, note=str(err))
        if champion is None:
            return Published(None, self._why_no_champion())
        if before.champion == champion:
            return replace(before, note="")
        if self._broken is not None and self._broken[0] == champion.token and self._clock.now() < self._broken[1]:
            return before
        try:
            return self._servable(champion)
        except Exception as err:
            self._broken = (champion.token, self._clock.now() + RETRY_BROKEN)
            stays = before if before.champion else self._stand_in(champion)
            still = f"; version {stays.champion.version} still answers" if stays.champion else ""
            return replace(stays, note=f"version {champion.version}, the champion, cannot be loaded: {err}{still}")

    def _drift(self, champion: Champion) -> DriftStatus:
        """What the last finished check found, of this champion; its file is looked at every ten seconds."""
        now = self._clock.now()
        if self._checked is None or now - self._checked[0] >= DRIFT_EVERY:
            try:
                told = json.loads(self._files.read(DECISION_FILE))
                self._checked = (now, str(told["model_version"]), DriftStatus(told["drift"]))
            except (StoreError, NotFound, ValueError, KeyError, TypeError) as err:
                if not isinstance(err, NotFound):
                    log.warning("the last check cannot be read", error=str(err))
                self._checked = (now, "", DriftStatus.NO_REFERENCE)
        return self._checked[2] if self._checked[1] == champion.version else DriftStatus.NO_REFERENCE

    def check(self) -> RetrainDecision | None:
        """Let monitoring look at the newest windows when it is time to, with sketches of all that is logged."""
        if not self._monitoring().due():
            return None
        with self._draining:
            self._monitoring().mend()
        decision = self._monitoring().check()
        self._checked = None
        return decision

    def _servable(self, champion: Champion) -> Published:
        """The champion with its compiled form, which answers as the trained model does."""
        bundle = open_bundle(self._bundles, self._registry, champion.version, champion.bundle_hash)
        compiled = compiled_form(bundle.model, champion.bundle_hash)
        if self._kept(champion.bundle_hash) != compiled:  # also when it was changed since it was promoted
            self._live.keep(champion.bundle_hash, compiled)
        return Published(champion, "", sha256(compiled).hexdigest(), bundle.card)

    def _kept(self, bundle_hash: str) -> bytes | None:
        try:
            return bytes(self._live.compiled(bundle_hash))
        except (NotFound, StoreError):
            return None

    def _stand_in(self, champion: Champion) -> Published:
        """The model before the champion, for a server that starts while the champion cannot be opened."""
        version, bundle_hash = champion.previous_version, champion.previous_bundle_hash
        if version is None or bundle_hash is None:
            return Published(None)
        reason = f"it answers while version {champion.version} cannot be loaded"
        row = replace(champion, version=version, bundle_hash=bundle_hash, reason=reason, previous_version=None)
        try:
            found = self._servable(row)
        except Exception as err:
            log.warning("previous model not loaded", version=version, error=str(err))
            return Published(None)
        return replace(found, champion=replace(row, kind=str(found.card.get("kind", row.kind))))

    def _why_no_champion(self) -> str:
        why = "no model is promoted yet"
        for job in self._state.jobs(limit=1):
            if job.state in (JobState.QUEUED, JobState.RUNNING):
                return f"{why}; job {job.job_id} trains the first one ({job.step or job.state}, {job.progress:.0%})"
            ended = f"{job.state}: {job.error or 'no candidate was good enough'}"
            return f"{why}; job {job.job_id} ended {ended}. Mend that and POST /retrain"
        return f"{why}; POST /retrain trains the first one"

    # --- what was said

    def depth(self) -> int:
        """How many predictions wait for their table, about."""
        return self._spool.depth()

    def drain(self) -> int:
        """Move what waits in the spool into the predictions table; how many rows that were.

        Raises StoreError when the table's store is away: what is left waits for the next drain.
        """
        moved = 0
        with self._draining:
            try:
                for segment in self._spool.drain():
                    try:
                        rows = predictions_table(segment.payloads, self._api.log_text)
                    except Exception:  # what cannot be read now cannot be read later, and others wait behind it
                        log.exception("a segment of the spool is set aside", segment=segment.key)
                        self._spool.set_aside(segment)
                        continue
                    rows = self._new(rows)
                    if self._tables.append(PREDICTIONS_TABLE, rows, key=segment.key):
                        moved += rows.num_rows
                        self._appends += 1
                    self._observe(rows, segment.key)
                    self._spool.forget(segment)
                if self._appends >= COMPACT_EVERY:
                    for table in (PREDICTIONS_TABLE, SKETCHES_TABLE):
                        self._tables.compact(table)
                    self._appends = 0
            except StoreError as err:
                self.drain_fault = str(err)
                beat(self._state, "drain", ok=False, note=str(err))
                raise
            self.drain_fault = ""
        beat(self._state, "drain")
        if moved:
            beat(self._state, "reviews")
            log.info("drained", rows=moved)
        return moved

    def _observe(self, rows: pa.Table, key: tuple[str, int]) -> None:
        """Sketches of what was kept; what fails here is made good from the log by the next check."""
        try:
            self._monitoring().observe(rows, key)
        except Exception as err:  # whatever it is, the predictions are safe and the drain goes on
            log.warning("no sketches of a segment", segment=key, error=str(err), exc_info=not isinstance(err, MsoError))

    def _new(self, rows: pa.Table) -> pa.Table:
        """The rows without those that the table has from an earlier try of the same request."""
        import pyarrow.compute as pc

        repeatable = pc.starts_with(rows["prediction_id"], REPEATED)
        if not pc.any(repeatable).as_py():
            return rows
        since = pc.min(rows["received_at"]).as_py() - REPEATED_WITHIN
        known = self._tables.read(PREDICTIONS_TABLE, ["prediction_id"], since=("received_at", since))
        if not known.num_rows:
            return rows
        return rows.filter(pc.invert(pc.is_in(rows["prediction_id"], known["prediction_id"])))

    def spooled(self) -> None:
        """Keep whether the spool has room."""
        taken = self._spool.size() / (self._api.spool_max_mb * 2**20)
        beat(self._state, "spool", ok=taken < SPOOL_ROOM, note=f"{taken:.0%} of api.spool_max_mb is taken")

    def report(self, *, mlflow: str, bucket: str, beats: tuple[Beat, ...], incidents: Mapping[Severity, int]) -> None:
        """Tell the processes that answer how the keeper is."""
        told = KeeperReport(self._clock.now(), mlflow, self.drain_fault or "ok", bucket or "ok", beats, incidents)
        self._live.report(told)
