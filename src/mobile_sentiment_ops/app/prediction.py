"""PredictionHandler, the live model: it follows the champion, predicts, and keeps what it said.

    reload    the champion's files, checked and tried, replace the live model in one step
    batch     one request's predictions: one model, unique ids, in the spool before they are answered
    drain     predictions move from the spool into their table, each once

A champion that cannot be opened leaves the last good model answering, which at the start is the
champion before it; `reason` says so.
"""

from __future__ import annotations

import itertools
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import structlog

from mobile_sentiment_ops.app.model_files import open_bundle
from mobile_sentiment_ops.data.predictions import (
    LOGGED_TEXT,
    PREDICTIONS_TABLE,
    predictions_table,
    text_fault,
    text_hash,
)
from mobile_sentiment_ops.errors import BundleError, MsoError, NoModel, StoreError
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.ports import Bundles, Clock, Registry, Spool, State, Tables
from mobile_sentiment_ops.registry.checks import check_model
from mobile_sentiment_ops.settings import Api
from mobile_sentiment_ops.types import Champion, JobState, Prediction, PredictionRecord

log = structlog.get_logger()

RETRY_BROKEN = timedelta(seconds=10)
COMPACT_EVERY = 100


@dataclass(frozen=True, slots=True)
class Review:
    """A text to judge, and what the caller tells about it."""

    text: str
    review_id: str | None = None
    app: str | None = None
    version: str | None = None
    language: str | None = None
    rating: int | None = None
    submitted_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One review's answer: a prediction with its id, or the `fault` that kept it from getting one."""

    review_id: str | None
    prediction_id: str | None = None
    prediction: Prediction | None = None
    fault: str | None = None


@dataclass(frozen=True, slots=True)
class LiveModel:
    """The model that answers, and the champion row that named it."""

    champion: Champion
    model: SentimentModel
    card: Mapping[str, Any]
    loaded_at: datetime

    @property
    def version(self) -> str:
        return self.champion.version


class PredictionHandler:
    """The live model over the ports it is given; every method may be called from any thread."""

    def __init__(
        self,
        *,
        state: State,
        bundles: Bundles,
        registry: Registry,
        spool: Spool,
        tables: Tables,
        clock: Clock,
        api: Api,
    ) -> None:
        self._state = state
        self._bundles = bundles
        self._registry = registry
        self._spool = spool
        self._tables = tables
        self._clock = clock
        self._api = api
        self._loading = threading.Lock()
        self._draining = threading.Lock()
        self._live: LiveModel | None = None
        self._broken = (-1, clock.now())  # the token of a champion that was not opened, and how long it is left alone
        self._appends = 0
        self.swaps = 0
        self.reason = "the champion is not loaded yet"
        """Why there is no live model, or why it is not the champion; empty when all is well."""
        self.drain_fault = ""
        """Why predictions wait in the spool; empty when they do not."""

    # --- who answers

    def live(self) -> LiveModel:
        """The model that answers now; NoModel with the reason when there is none."""
        if (live := self._live) is None:
            raise NoModel(self.reason)
        return live

    def load(self) -> LiveModel:
        """Let the champion answer, if it does not yet.

        Raises NoModel when nothing is promoted, BundleError or StoreError when the champion cannot be
        opened; a model that was live before stays so.
        """
        with self._loading:
            try:
                self._load()
            except MsoError as err:
                self.reason = str(err)
                raise
            self.reason = ""
            return self.live()

    def reload(self) -> bool:
        """Follow the champion: whether another model answers now. What fails is told by `reason`; a
        champion that cannot be opened is tried again every ten seconds."""
        before, told = self._live, self.reason
        try:
            champion = self._state.champion()
            token, until = self._broken
            if champion is not None and champion.token == token and self._clock.now() < until:
                return False
            self.load()
        except MsoError as err:
            self.reason = str(err)
        if self.reason not in ("", told):
            log.warning("champion not loaded", reason=self.reason, answering=before.version if before else None)
        return self._live is not before

    def _load(self) -> None:
        champion = self._state.champion()
        if champion is None:
            raise NoModel(self._why_no_champion())
        if self._live is not None and self._live.champion == champion:
            return
        try:
            self._live = self._opened(champion)
        except Exception as err:
            self._broken = (champion.token, self._clock.now() + RETRY_BROKEN)
            self._live = self._live or self._stand_in(champion)
            kind = type(err) if isinstance(err, MsoError) else BundleError
            still = f"; version {self._live.version} still answers" if self._live else ""
            raise kind(f"version {champion.version}, the champion, cannot be loaded: {err}{still}") from err

    def _opened(self, champion: Champion) -> LiveModel:
        bundle = open_bundle(self._bundles, self._registry, champion.version, champion.bundle_hash)
        check_model(bundle.model)  # which also warms it
        self.swaps += 1
        log.info("model loaded", version=champion.version, kind=champion.kind, token=champion.token)
        return LiveModel(champion, bundle.model, bundle.card, self._clock.now())

    def _stand_in(self, champion: Champion) -> LiveModel | None:
        """The model before the champion, for a server that starts while the champion cannot be opened."""
        version, bundle_hash = champion.previous_version, champion.previous_bundle_hash
        if version is None or bundle_hash is None:
            return None
        reason = f"it answers while version {champion.version} cannot be loaded"
        row = replace(champion, version=version, bundle_hash=bundle_hash, reason=reason, previous_version=None)
        try:
            live = self._opened(row)
        except Exception as err:
            log.warning("previous model not loaded", version=version, error=str(err))
            return None
        return replace(live, champion=replace(row, kind=live.model.kind))

    def _why_no_champion(self) -> str:
        why = "no model is promoted yet"
        for job in self._state.jobs(limit=1):
            if job.state in (JobState.QUEUED, JobState.RUNNING):
                return f"{why}; job {job.job_id} trains the first one ({job.step or job.state}, {job.progress:.0%})"
            ended = f"{job.state}: {job.error or 'no candidate was good enough'}"
            return f"{why}; job {job.job_id} ended {ended}. Mend that and POST /retrain"
        return f"{why}; POST /retrain trains the first one"

    # --- predict

    def batch(self, request_id: str) -> Batch:
        """What one request needs to predict; NoModel when there is nothing to do it with."""
        return Batch(self.live(), request_id, self._spool, self._clock, self._api)

    # --- what was said

    def spool_depth(self) -> int:
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
                    rows = predictions_table(segment.records)
                    if self._tables.append(PREDICTIONS_TABLE, rows, key=segment.key):
                        moved += rows.num_rows
                        self._appends += 1
                    self._spool.forget(segment)
                if self._appends >= COMPACT_EVERY:
                    self._tables.compact(PREDICTIONS_TABLE)
                    self._appends = 0
            except StoreError as err:
                self.drain_fault = str(err)
                raise
            self.drain_fault = ""
        if moved:
            log.info("drained", rows=moved)
        return moved


class Batch:
    """One request's predictions, in one or many parts: one model answers all of them."""

    def __init__(self, live: LiveModel, request_id: str, spool: Spool, clock: Clock, api: Api) -> None:
        self.live = live
        self._request_id = request_id
        self._spool = spool
        self._clock = clock
        self._max_chars = api.max_text_chars
        self._logged_text = LOGGED_TEXT[api.log_text]
        self._id = uuid.uuid4().hex  # not the request's id, which the caller may choose
        self._numbers = itertools.count(1)

    def predict(self, reviews: Sequence[Review]) -> list[Answer]:
        """An answer for each review, in order. All predictions are in the spool when this returns;
        StoreError when they cannot be kept there."""
        faults = [text_fault(review.text, self._max_chars) for review in reviews]
        good = [review for review, fault in zip(reviews, faults, strict=True) if fault is None]
        texts, ratings = [review.text for review in good], [review.rating for review in good]
        predictions = self.live.model.predict(texts, ratings) if good else []
        now = self._clock.now()
        records = [self._record(review, prediction, now) for review, prediction in zip(good, predictions, strict=True)]
        if records:
            self._spool.append(records)
        found = zip(records, predictions, strict=True)
        answers = (Answer(record.review_id, record.prediction_id, prediction) for record, prediction in found)
        return [
            next(answers) if fault is None else Answer(review.review_id, fault=fault)
            for review, fault in zip(reviews, faults, strict=True)
        ]

    def _record(self, review: Review, prediction: Prediction, now: datetime) -> PredictionRecord:
        return PredictionRecord(
            prediction_id=f"{self._id}-{next(self._numbers)}",
            request_id=self._request_id,
            review_id=review.review_id or f"text-{text_hash(review.text)}",
            event_time=review.submitted_at or now,
            received_at=now,
            model_version=self.live.version,
            label=prediction.label,
            probabilities=prediction.probabilities,
            app=review.app,
            version=review.version,
            language=review.language,
            text=self._logged_text(review.text),
        )
