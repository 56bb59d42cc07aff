"""The live model: which one answers, its answers, and a record of each before it leaves.

A process that answers follows what the keeper publishes (app/keeper.py): it maps the compiled champion,
checks its hash and swaps one reference. So one model answers all of a request, and no request waits.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any

import msgspec
import structlog

from mobile_sentiment_ops.data.predictions import Answered, Review, packed, text_fault
from mobile_sentiment_ops.errors import MsoError, NoModel, StoreError
from mobile_sentiment_ops.models.compiled import CompiledModel, suspects
from mobile_sentiment_ops.ports import Clock, Live, Published, Spool
from mobile_sentiment_ops.settings import Api
from mobile_sentiment_ops.types import LABELS, Champion, DriftStatus, Prediction

log = structlog.get_logger()

RETRY_BROKEN = timedelta(seconds=10)
REPEATED = "r"
"""Ids of requests that may be repeated begin with this, which no other id does: they are hexadecimal."""

NOT_YET = "the champion is not loaded yet"


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
    model: CompiledModel
    sha256: str
    card: Mapping[str, Any]
    loaded_at: datetime

    @property
    def version(self) -> str:
        return self.champion.version


class PredictionHandler:
    """The live model over the ports it is given; every method may be called from any thread."""

    def __init__(self, *, live: Live, spool: Spool, clock: Clock, api: Api) -> None:
        self._shared = live
        self._spool = spool
        self._clock = clock
        self._api = api
        self._live: LiveModel | None = None
        self._followed: Published | None = None
        self._retry_at: datetime | None = None
        self._process = ""
        self._requests = itertools.count(1)
        self.swaps = 0
        self.shed = 0
        """How many predictions were answered and not kept, as `api.spool_full` allows."""
        self.drift = DriftStatus.NO_REFERENCE
        """What the last finished check of drift found."""
        self.reason = NOT_YET
        """Why there is no live model, or why it is not the champion; empty when all is well."""

    # --- who answers

    def live(self) -> LiveModel:
        """The model that answers now; NoModel with the reason when there is none."""
        if (live := self._live) is None:
            raise NoModel(self.reason)
        return live

    def reload(self) -> bool:
        """Follow what is published: whether another model answers now. What fails is told by `reason`; a
        model that cannot be opened is tried again every ten seconds, and the one before answers meanwhile."""
        before, told = self._live, self.reason
        try:
            published = self._shared.published()
            again = self._retry_at is not None and self._clock.now() >= self._retry_at
            if published is not None and (published is not self._followed or again):
                self._follow(published)
        except MsoError as err:
            self.reason = str(err)
        if self.reason not in ("", told):
            log.warning("champion not loaded", reason=self.reason, answering=before.version if before else None)
        return self._live is not before

    def _follow(self, published: Published) -> None:
        champion, live = published.champion, self._live
        self._followed, self._retry_at = published, None
        if champion is not None and (live is None or live.champion != champion or live.sha256 != published.sha256):
            try:
                model = CompiledModel.of(self._shared.compiled(champion.bundle_hash), published.sha256)
            except MsoError as err:
                self._retry_at = self._clock.now() + RETRY_BROKEN
                still = f"; version {live.version} still answers" if live else ""
                raise type(err)(f"version {champion.version} cannot be loaded: {err}{still}") from err
            self._live = LiveModel(champion, model, published.sha256, published.card, self._clock.now())
            self.swaps += 1
            log.info("model loaded", version=champion.version, kind=champion.kind, token=champion.token)
        self.reason, self.drift = published.note, published.drift

    # --- predict

    def new_id(self) -> str:
        """An id for a request, which no other request of any process has."""
        self._process = self._process or secrets.token_hex(12)  # not earlier: processes are forked
        return f"{self._process}{next(self._requests):x}"

    @staticmethod
    def repeated_id(repeats: bytes) -> str:
        """The same id for the same caller, path, key and body: a request that is sent again is logged once.

        >>> PredictionHandler.repeated_id(b"shop /predict 7") == PredictionHandler.repeated_id(b"shop /predict 7")
        True
        """
        return f"{REPEATED}{blake2b(repeats, digest_size=16).hexdigest()}"

    def batch(self, request_id: str, prefix: str, app_of: Callable[[str | None], str | None] | None = None) -> Batch:
        """What one request needs to predict; the ids of its predictions begin with `prefix`. `app_of` gives the
        app that a review is logged with, where not every app is the caller's. NoModel when there is no model."""
        return Batch(self.live(), request_id, prefix, self, app_of)

    def keep(self, answered: Answered) -> None:
        """Put answered predictions into the spool; StoreError when that cannot be, unless they may be shed."""
        try:
            self._spool.append(packed(answered), len(answered.labels))
        except StoreError:
            if self._api.spool_full == "refuse":
                raise
            self.shed += len(answered.labels)

    def sync(self) -> None:
        """Wait until what was kept survives a power loss, where the settings ask for that."""
        if self._api.durability == "disk":
            self._spool.sync()

    def fault(self, text: str) -> str | None:
        """Why a text gets no prediction; None for one that does."""
        return text_fault(text, self._api.max_text_chars)

    def faults(self, texts: list[str]) -> dict[int, str]:
        """Why some of these texts get no prediction, by their place."""
        odd = ((at, self.fault(texts[at])) for at in suspects(texts, self._api.max_text_chars))
        return {at: fault for at, fault in odd if fault is not None}

    def now(self) -> datetime:
        return self._clock.now()

    def spool_depth(self) -> int:
        """How many predictions wait for their table, about."""
        return self._spool.depth()

    def spool_bytes(self) -> int:
        """How much disk they take."""
        return self._spool.size()

    def rotate(self, seconds: float) -> None:
        """Hand predictions over to the keeper that have waited for so long."""
        self._spool.rotate(seconds)

    def close(self) -> None:
        """Hand all of them over; the process ends."""
        self._spool.close()


class Batch:
    """One request's predictions, in one or many parts: one model answers all of them."""

    __slots__ = ("_app_of", "_handler", "_next", "live", "prefix", "request_id")

    def __init__(
        self,
        live: LiveModel,
        request_id: str,
        prefix: str,
        handler: PredictionHandler,
        app_of: Callable[[str | None], str | None] | None,
    ) -> None:
        self.live = live
        self.request_id = request_id
        self.prefix = prefix
        """A prediction's id is this, a dash and its number in the request."""
        self._handler = handler
        self._app_of = app_of
        self._next = 1

    def allowed(self, reviews: Sequence[Review]) -> Sequence[Review]:
        """The reviews with the apps they are logged with; whoever asks for another one's app is refused."""
        if (app_of := self._app_of) is None:
            return reviews
        return [msgspec.structs.replace(review, app=app_of(review.app)) for review in reviews]

    def predict(self, reviews: Sequence[Review]) -> list[Answer]:
        """An answer for each review, in order. All predictions are in the spool when this returns;
        StoreError when they cannot be kept there."""
        reviews = self.allowed(reviews)
        faults = self._handler.faults([review.text for review in reviews])
        answers = iter(self._answers([review for at, review in enumerate(reviews) if at not in faults]))
        self._handler.sync()
        return [
            Answer(review.review_id, fault=faults[at]) if at in faults else next(answers)
            for at, review in enumerate(reviews)
        ]

    def _answers(self, reviews: Sequence[Review]) -> list[Answer]:
        if not reviews:
            return []
        scored = self.live.model.scored([review.text for review in reviews])
        first = self.keep(reviews, scored.labels.tobytes(), scored.probabilities.tobytes())
        return [
            Answer(
                review.review_id,
                f"{self.prefix}-{number}",
                Prediction(LABELS[label], row[label], (row[0], row[1], row[2])),
            )
            for number, (review, label, row) in enumerate(
                zip(reviews, scored.labels.tolist(), scored.probabilities.tolist(), strict=True), first
            )
        ]

    def keep(self, reviews: Sequence[Review], labels: bytes, probabilities: bytes) -> int:
        """Put predictions of these reviews into the spool: labels (n,) as bytes, probabilities (n, 3) as
        doubles. The number of the first one; StoreError when they cannot be kept."""
        first, handler = self._next, self._handler
        self._next += len(labels)  # before the spool, which may wait: another thread may share this batch
        handler.keep(
            Answered(
                self.request_id, self.prefix, first, handler.now(), self.live.version, reviews, labels, probabilities
            )
        )
        return first
