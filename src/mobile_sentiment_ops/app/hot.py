"""In front of everything: it answers the JSON paths that are asked most, and hands all else on.

    POST /predict_json                          one text
    POST /predict with application/json         many reviews

FastAPI documents these two and does not see their requests: of some 30 us a request takes, its layers would
be 20 more. What a request is held to here (`Guard`, limits, strict JSON) is what `Edge` holds the others to.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from struct import Struct as Packing

import msgspec
import structlog
from anyio import to_thread
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from mobile_sentiment_ops.app.bodies import read_reviews, read_text
from mobile_sentiment_ops.app.edge import GONE, NOSNIFF, caller_went_away, logged, too_large, well_formed
from mobile_sentiment_ops.app.parts import Parts, unsupported
from mobile_sentiment_ops.app.prediction import Batch
from mobile_sentiment_ops.app.problems import Problem
from mobile_sentiment_ops.data.predictions import Review
from mobile_sentiment_ops.errors import MsoError
from mobile_sentiment_ops.types import LABELS

log = structlog.get_logger()

JSON = b"application/json"
DRIFT_HEADERS = ((b"x-drift-detected", b"false"), (b"x-drift-status", b"no-reference"))
"""Until a reference window exists there is nothing to compare with."""

BODY_AT_ONCE = 2**16
"""A larger body is answered by a thread, so that it holds up nobody."""

DECIMALS = 6
"""Of the numbers in an answer to many reviews."""

NAMES = tuple(label.value for label in LABELS)
PROBABILITIES = Packing("<3d")


class Probabilities(msgspec.Struct, gc=False):
    Negative: float
    Neutral: float
    Positive: float


class TextAnswer(msgspec.Struct, gc=False):
    """The answer of POST /predict_json."""

    text: str
    prediction: str
    confidence: float
    probabilities: Probabilities
    prediction_id: str
    model_version: str


class ReviewAnswer(msgspec.Struct, gc=False):
    """One row of the answer of POST /predict."""

    review_id: str | None
    prediction_id: str | None = None
    sentiment: str | None = None
    confidence: float | None = None
    probabilities: Probabilities | None = None
    error: str | None = None


class ReviewsAnswer(msgspec.Struct, gc=False):
    """The answer of POST /predict to JSON."""

    model_version: str
    request_id: str
    predictions: Sequence[ReviewAnswer] | msgspec.Raw


_encode = msgspec.json.Encoder().encode

Hot = Callable[[bytes, Batch], Awaitable[bytes]]


class Dispatcher:
    """The application that the server runs: `app` behind the hot paths."""

    def __init__(self, app: FastAPI, parts: Parts) -> None:
        self.app = app
        self._parts = parts
        self._api = parts.platform.settings.api
        self.closing = False
        """Whether each connection is to be closed after its answer."""
        self._on_disk = self._api.durability == "disk"
        self._paths: dict[str, tuple[Hot, int, bool]] = {
            "/predict_json": (self._text, parts.metrics.at("POST", "/predict_json"), True),
            "/predict": (self._reviews, parts.metrics.at("POST", "/predict"), False),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.closing:
            send = _closing(send)
        if scope["type"] == "http" and scope["method"] == "POST" and (hot := self._paths.get(scope["path"])):
            headers: dict[bytes, bytes] = dict(scope["headers"])
            answer, at, alone = hot
            if alone or _is_json(headers):
                await self._answer(answer, at, headers, scope, receive, send)
                return
        await self.app(scope, receive, send)

    async def _answer(
        self, answer: Hot, at: int, headers: dict[bytes, bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        began = time.perf_counter()
        predictions, path = self._parts.predictions, scope["path"]
        prefix = predictions.new_id()
        given = headers.get(b"x-request-id")
        request_id = given.decode("latin-1") if given and well_formed(given) else prefix
        status = 200
        problem: Problem | None = None
        try:
            caller = self._parts.guard.admit("POST", path, headers)
            if not _is_json(headers):
                raise unsupported(headers.get(b"content-type", b"").decode("latin-1"), "application/json")
            body = await _body(receive, headers, self._api.max_json_bytes)
            if (key := headers.get(b"idempotency-key")) is not None:
                prefix = predictions.repeated_id(b" ".join((caller.name.encode(), path.encode(), key, body)))
            content = await answer(body, predictions.batch(request_id, prefix, caller.app_of if caller.apps else None))
        except (Problem, MsoError) as err:
            problem = err if isinstance(err, Problem) else Problem.of(err)
        except ConnectionResetError:
            self._parts.metrics.answered(at, GONE, time.perf_counter() - began)
            caller_went_away(request_id)
            return
        except Exception:
            log.exception("request failed", request_id=request_id)
            problem = Problem(500, "this is a fault of the server; its log names the request id")
        origin = headers.get(b"origin")
        more = self._parts.guard.cors_headers(origin) if origin else ()
        if problem is None:
            head = [
                (b"content-type", JSON),
                (b"content-length", b"%d" % len(content)),
                (b"x-request-id", request_id.encode()),
                NOSNIFF,
                *DRIFT_HEADERS,
                *more,
            ]
            await send({"type": "http.response.start", "status": 200, "headers": head})
            await send({"type": "http.response.body", "body": content})
        else:
            status = problem.status
            response = problem.response(path, request_id)
            response.raw_headers += [(b"x-request-id", request_id.encode()), NOSNIFF, *more]
            await response(scope, receive, send)
        seconds = time.perf_counter() - began
        self._parts.metrics.answered(at, status, seconds)
        if status >= 400 or self._api.log_requests == "all":
            logged("POST", path, status, seconds, request_id)

    async def _text(self, body: bytes, batch: Batch) -> bytes:
        text = read_text(body)
        if (fault := self._parts.predictions.fault(text)) is not None:
            raise Problem.at("text", fault)
        live = batch.live
        label, *found = live.model.one(text)
        number = batch.keep(batch.allowed((Review(text),)), bytes((label,)), PROBABILITIES.pack(*found))
        if self._on_disk:
            await self._parts.committed()
        self._parts.metrics.predicted(live.version, label)
        return _encode(
            TextAnswer(
                text, NAMES[label], found[label], Probabilities(*found), f"{batch.prefix}-{number}", live.version
            )
        )

    async def _reviews(self, body: bytes, batch: Batch) -> bytes:
        if len(body) > BODY_AT_ONCE:
            content = await to_thread.run_sync(self._answered, body, batch)
        else:
            content = self._answered(body, batch)
        if self._on_disk:
            await self._parts.committed()
        return content

    def _answered(self, body: bytes, batch: Batch) -> bytes:
        reviews = batch.allowed(read_reviews(body, max_rows=self._api.max_json_rows))
        fault_of = self._parts.predictions.fault
        faults = {at: fault for at, review in enumerate(reviews) if (fault := fault_of(review.text)) is not None}
        good = [review for at, review in enumerate(reviews) if at not in faults] if faults else reviews
        if not good:
            errors = [{"field": f"reviews[{at}]", "problem": fault} for at, fault in faults.items()]
            raise Problem(422, f"none of the {len(reviews)} reviews can be predicted: {faults[0]}", errors=errors)
        live, metrics = batch.live, self._parts.metrics
        scored = live.model.scored([review.text for review in good])
        labels = scored.labels.tobytes()
        first = batch.keep(good, labels, scored.probabilities.tobytes())
        for label in range(len(LABELS)):
            if count := labels.count(label):
                metrics.predicted(live.version, label, count)
        if faults:
            metrics.predicted(live.version, len(LABELS), len(faults))
        if not faults and all(review.review_id is None for review in good):
            rendered = msgspec.Raw(b"[%s]" % live.model.rendered(scored, batch.prefix, first))
            return _encode(ReviewsAnswer(live.version, batch.request_id, rendered))
        rows = zip(good, labels, scored.probabilities.round(DECIMALS).tolist(), strict=True)
        answers = [
            ReviewAnswer(
                review.review_id, f"{batch.prefix}-{number}", NAMES[label], found[label], Probabilities(*found)
            )
            for number, (review, label, found) in enumerate(rows, first)
        ]
        for at, fault in faults.items():  # rising, so each takes its place among those before it
            answers.insert(at, ReviewAnswer(reviews[at].review_id, error=fault))
        return _encode(ReviewsAnswer(live.version, batch.request_id, answers))


def _closing(send: Send) -> Send:
    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"connection", b"close")]
        await send(message)

    return closing


def _is_json(headers: dict[bytes, bytes]) -> bool:
    kind = headers.get(b"content-type", b"")
    return kind == JSON or kind.partition(b";")[0].strip().lower() == JSON


async def _body(receive: Receive, headers: dict[bytes, bytes], limit: int) -> bytes:
    """The whole body; Problem 413 for one that is or says it is larger than the limit, ConnectionResetError
    when the caller goes away before its end."""
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced) > limit:
        raise too_large(limit)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body"):
        parts, size = [body], len(body)
        while message.get("more_body"):
            message = await receive()
            parts.append(message.get("body", b""))
            if (size := size + len(parts[-1])) > limit:
                raise too_large(limit)
        body = b"".join(parts)
    if message["type"] == "http.disconnect":
        raise ConnectionResetError
    if len(body) > limit:
        raise too_large(limit)
    return body
