"""In front of everything: it answers the JSON paths that are asked most, and hands all else on.

    POST /predict_json                          one text
    POST /predict with application/json         many reviews

FastAPI documents these two and does not see their requests: its layers cost several times what is done here.
What a request is held to here (`Guard`, limits, strict JSON) is what `Edge` holds the others to.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from struct import Struct as Packing

import msgspec
from anyio import to_thread
from fastapi import FastAPI
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from mobile_sentiment_ops.app.bodies import read_reviews, read_text
from mobile_sentiment_ops.app.edge import GONE, NOSNIFF, caller_went_away, logged, problem_of, request_id_of, too_large
from mobile_sentiment_ops.app.guard import Caller
from mobile_sentiment_ops.app.parts import Parts, unsupported
from mobile_sentiment_ops.app.prediction import Batch
from mobile_sentiment_ops.app.problems import Problem
from mobile_sentiment_ops.data.predictions import Review
from mobile_sentiment_ops.types import LABELS, DriftStatus

JSON = b"application/json"
DRIFT_HEADERS = {
    status: {"X-Drift-Detected": str(status is DriftStatus.DRIFT).lower(), "X-Drift-Status": status.value}
    for status in DriftStatus
}
"""By what the last finished check found; nothing is looked at while a request waits."""

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

Answer = Callable[[bytes, Batch], bytes]
Headers = Mapping[bytes, bytes]
Header = tuple[bytes, bytes]


def _lines(headers: Iterable[Header]) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)


def _head(drift: Mapping[str, str]) -> bytes:
    same = [(b"content-type", JSON), NOSNIFF, *((name.lower().encode(), told.encode()) for name, told in drift.items())]
    return b"HTTP/1.1 200 OK\r\ndate: %b\r\n" + _lines(same) + b"x-request-id: %b\r\ncontent-length: %d\r\n%b\r\n"


HEADS = {status: _head(headers) for status, headers in DRIFT_HEADERS.items()}
"""Of an answer: the date, the id of the request, the length of the content, and more headers."""


class Dispatcher:
    """The application that the server runs: `app` behind the hot paths.

    Its hot answers are one function of headers and body. app/plain_http.py calls it for small requests when their
    last byte is there; as an ASGI application it reads larger ones, and waits for the disk where that is asked for.
    """

    def __init__(self, app: FastAPI, parts: Parts) -> None:
        self.app = app
        self._parts = parts
        self._api = parts.platform.settings.api
        self.closing = False
        """Whether each connection is to be closed after its answer."""
        self.waits = self._api.durability == "disk"
        """Whether an answer has to wait for the disk."""
        self.at_once = min(BODY_AT_ONCE, self._api.max_json_bytes)
        """The largest body that `respond` takes."""
        self._paths: dict[str, tuple[Answer, int]] = {
            "/predict_json": (self._text, parts.metrics.at("POST", "/predict_json")),
            "/predict": (self._reviews, parts.metrics.at("POST", "/predict")),
        }

    # --- as an ASGI application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.closing:
            send = _closing(send)
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._paths:
            headers: dict[bytes, bytes] = dict(scope["headers"])
            if scope["path"] == "/predict_json" or _is_json(headers):
                await self._answer(scope, headers, receive, send)
                return
        await self.app(scope, receive, send)

    async def _answer(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        began, path = time.perf_counter(), scope["path"]
        prefix, request_id = self._ids(headers)
        try:
            caller = self._admitted(path, headers)
            body = await _body(receive, headers, self._api.max_json_bytes)
            if len(body) > BODY_AT_ONCE:
                content = await to_thread.run_sync(self._content, path, headers, body, caller, prefix, request_id)
            else:
                content = self._content(path, headers, body, caller, prefix, request_id)
            if self.waits:
                await self._parts.committed()
        except ConnectionResetError:
            self._parts.metrics.answered(self._paths[path][1], GONE, time.perf_counter() - began)
            caller_went_away(request_id)
            return
        except Exception as err:
            response = problem_of(err, request_id).response(path, request_id)
        else:
            response = Response(
                content, media_type="application/json", headers=DRIFT_HEADERS[self._parts.predictions.drift]
            )
        response.raw_headers += self._common_headers(headers, request_id)
        await response(scope, receive, send)
        self._tell(path, response.status_code, began, request_id)

    # --- as a function

    def respond(self, path: str, headers: Headers, body: bytes, date: bytes, *, close: bool) -> bytes:
        """The whole HTTP/1.1 response to a POST of this body to a hot path; never raises."""
        began = time.perf_counter()
        prefix, request_id = self._ids(headers)
        try:
            content = self._content(path, headers, body, self._admitted(path, headers), prefix, request_id)
        except Exception as err:
            response = problem_of(err, request_id).response(path, request_id)
            response.raw_headers += [(b"date", date), *self._common_headers(headers, request_id)]
            if close:
                response.raw_headers.append((b"connection", b"close"))
            status = response.status_code
            reason, head = HTTPStatus(status).phrase.encode(), _lines(response.raw_headers)
            told = b"HTTP/1.1 %d %b\r\n%b\r\n%b" % (status, reason, head, bytes(response.body))
        else:
            status, more = 200, b"connection: close\r\n" if close else b""
            if (origin := headers.get(b"origin")) is not None:
                more += _lines(self._parts.guard.cors_headers(origin))
            told = HEADS[self._parts.predictions.drift] % (date, request_id.encode(), len(content), more) + content
        self._tell(path, status, began, request_id)
        return told

    def is_hot(self, path: str, headers: Headers) -> bool:
        """Whether `respond` answers a POST to this path."""
        return path == "/predict_json" or (path == "/predict" and _is_json(headers))

    def _ids(self, headers: Headers) -> tuple[str, str]:
        """What the ids of the predictions begin with, and the id of the request: the caller's, or the same."""
        prefix = self._parts.predictions.new_id()
        return prefix, request_id_of(headers, prefix)

    def _admitted(self, path: str, headers: Headers) -> Caller:
        caller = self._parts.guard.admit("POST", path, headers)
        if not _is_json(headers):
            raise unsupported(headers.get(b"content-type", b"").decode("latin-1"), "application/json")
        return caller

    def _content(self, path: str, headers: Headers, body: bytes, caller: Caller, prefix: str, request_id: str) -> bytes:
        predictions = self._parts.predictions
        if (key := headers.get(b"idempotency-key")) is not None:
            prefix = predictions.repeated_id(b" ".join((caller.name.encode(), path.encode(), key, body)))
        return self._paths[path][0](body, predictions.batch(request_id, prefix, caller.app_of if caller.apps else None))

    def _common_headers(self, headers: Headers, request_id: str) -> tuple[Header, ...]:
        cors = self._parts.guard.cors_headers(headers.get(b"origin"))
        return ((b"x-request-id", request_id.encode()), NOSNIFF, *cors)

    def _tell(self, path: str, status: int, began: float, request_id: str) -> None:
        seconds = time.perf_counter() - began
        self._parts.metrics.answered(self._paths[path][1], status, seconds)
        if status >= 400 or self._api.log_requests == "all":
            logged("POST", path, status, seconds, request_id)

    def _text(self, body: bytes, batch: Batch) -> bytes:
        text = read_text(body)
        if (fault := self._parts.predictions.fault(text)) is not None:
            raise Problem.at("text", fault)
        live = batch.live
        label, *found = live.model.one(text)
        number = batch.keep(batch.allowed((Review(text),)), bytes((label,)), PROBABILITIES.pack(*found))
        self._parts.metrics.predicted(live.version, label)
        return _encode(
            TextAnswer(
                text, NAMES[label], found[label], Probabilities(*found), f"{batch.prefix}-{number}", live.version
            )
        )

    def _reviews(self, body: bytes, batch: Batch) -> bytes:
        reviews = batch.allowed(read_reviews(body, max_rows=self._api.max_json_rows))
        texts = [review.text for review in reviews]
        good: Sequence[Review] = reviews
        if faults := self._parts.predictions.faults(texts):
            good = [review for at, review in enumerate(reviews) if at not in faults]
            texts = [review.text for review in good]
        if not good:
            errors = [{"field": f"reviews[{at}]", "problem": fault} for at, fault in faults.items()]
            raise Problem(422, f"none of the {len(reviews)} reviews can be predicted: {faults[0]}", errors=errors)
        live, metrics = batch.live, self._parts.metrics
        scored = live.model.scored(texts)
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


def _is_json(headers: Headers) -> bool:
    kind = headers.get(b"content-type", b"")
    return kind == JSON or kind.partition(b";")[0].strip().lower() == JSON


async def _body(receive: Receive, headers: Headers, limit: int) -> bytes:
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
