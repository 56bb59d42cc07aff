"""What the files of routes share: the parts they work with, and how they read a request and write an answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TypeVar

import anyio
import msgspec
from fastapi import Request
from starlette.responses import Response

from mobile_sentiment_ops.app.bodies import read_json
from mobile_sentiment_ops.app.guard import Guard
from mobile_sentiment_ops.app.metrics import Metrics
from mobile_sentiment_ops.app.outbox import Outbox
from mobile_sentiment_ops.app.prediction import Answer, Batch, PredictionHandler
from mobile_sentiment_ops.app.problems import Problem
from mobile_sentiment_ops.bootstrap import Platform
from mobile_sentiment_ops.data.predictions import Review

Body = TypeVar("Body")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the routes work with."""

    platform: Platform
    predictions: PredictionHandler
    metrics: Metrics
    guard: Guard
    outbox: Outbox
    committed: Callable[[], Awaitable[None]]
    """Waits until every prediction kept before is on the disk."""
    large_csv_slots: anyio.CapacityLimiter


def parts_of(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


def batch_of(request: Request) -> Batch:
    """What this request predicts with."""
    state = request.state
    return parts_of(request).predictions.batch(
        state.request_id, state.own_id, state.caller.app_of if state.caller.apps else None
    )


def answers_of(parts: Parts, batch: Batch, reviews: Sequence[Review]) -> list[Answer]:
    """The batch's answers, which are in the log and the figures by then."""
    answers = batch.predict(reviews)
    parts.metrics.predictions(batch.live.version, answers)
    return answers


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def unsupported(found: str, expected: str) -> Problem:
    return Problem.at("Content-Type", f"is {found or 'missing'}, expected {expected}", status=415)


def read_as(kind: type[Body], body: bytes, *, status: int = 422) -> Body:
    """A strict JSON body as `kind`; a Problem that names the field for one that is something else."""
    try:
        return msgspec.convert(read_json(body), kind)
    except msgspec.ValidationError as err:
        problem, _, place = str(err).partition(" - at `$")
        raise Problem.at(place.rstrip("`").lstrip(".") or "the body", problem, status=status) from err


def as_json(body: object, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    try:
        text = _dumps(body)
    except ValueError:  # a figure that could not be measured is NaN inside, and null in JSON
        text = _dumps(json.loads(json.dumps(body, default=datetime.isoformat), parse_constant=lambda _: None))
    return Response(text, status, headers, media_type="application/json")


_dumps = partial(json.dumps, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=datetime.isoformat)
