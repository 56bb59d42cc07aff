"""Around every request that is not a hot one: who may send it, its id, its limits, its figures and its log line,
and an answer to what nobody caught."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mobile_sentiment_ops.app.metrics import UNMATCHED
from mobile_sentiment_ops.app.parts import Parts
from mobile_sentiment_ops.app.problems import Problem
from mobile_sentiment_ops.errors import MsoError

log = structlog.get_logger()

REQUEST_ID = "x-request-id"
NOSNIFF = (b"x-content-type-options", b"nosniff")
FORM_BYTES = 65_536
"""What a form may hold beside its file."""

GONE = 499
"""What the log and the figures call a request whose caller went away before its answer."""

QUIET = ("/livez", "/readyz", "/healthcheck", "/metrics", "/ping", "/v2/health/live", "/v2/health/ready")

_well_formed = re.compile(rb"[A-Za-z0-9._:-]{1,128}").fullmatch


class Edge:
    """The outermost layer of FastAPI. `request.state` gets `caller`, `request_id`, the caller's or ours, and
    `own_id`, which is ours and unique unless the request says that it repeats another."""

    def __init__(self, app: ASGIApp, *, parts: Parts) -> None:
        self._app = app
        self._parts = parts
        self._api = parts.platform.settings.api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # the same headers; uvicorn leaves the body out
            scope = {**scope, "method": "GET"}
        began = time.perf_counter()
        headers, raw = Headers(scope=scope), dict(scope["headers"])
        own_id = self._parts.predictions.new_id()
        request_id = request_id_of(raw, own_id)
        state = scope.setdefault("state", {})
        state.update(request_id=request_id, own_id=own_id)
        status = 0
        guard = self._parts.guard
        cors = guard.cors_headers(raw.get(b"origin"))

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = MutableHeaders(scope=message)
                added[REQUEST_ID] = request_id
                added.setdefault("x-content-type-options", "nosniff")
                for name, value in cors:
                    added.append(name.decode(), value.decode())
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                if scope["method"] == "OPTIONS" and (preflight := guard.preflight(raw)) is not None:
                    await preflight(scope, receive, answer)
                    return
                state["caller"] = caller = guard.admit(scope["method"], scope["path"], raw)
                if (key := raw.get(b"idempotency-key")) is not None:
                    repeats = (caller.name.encode(), scope["path"].encode(), key, raw.get(b"content-length", b""))
                    state["own_id"] = self._parts.predictions.repeated_id(b" ".join(repeats))
                limit = self._limit(headers)
                announced = headers.get("content-length", "")
                if announced.isdecimal() and int(announced) > limit:
                    raise too_large(limit)
                await self._app(scope, _counted(receive, limit), answer)
            except ClientDisconnect:
                caller_went_away(request_id)
            except Exception as err:
                if status:
                    raise
                await problem_of(err, request_id).response(scope["path"], request_id)(scope, receive, answer)
            finally:
                self._tell(scope, status or GONE, time.perf_counter() - began, request_id)

    def _limit(self, headers: Headers) -> int:
        """The largest body of this media type."""
        if headers.get("content-type", "").lower().startswith(("multipart/", "text/csv")):
            return self._api.max_csv_bytes + FORM_BYTES
        return self._api.max_json_bytes

    def _tell(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        method, route, metrics = scope["method"], getattr(scope.get("route"), "path", UNMATCHED), self._parts.metrics
        metrics.answered(metrics.at(method, route), status, seconds)
        logged(method, scope["path"], status, seconds, request_id, quiet=route in QUIET)


def request_id_of(headers: Mapping[bytes, bytes], own_id: str) -> str:
    """The id that the caller gave to its request, if it may be used as it is, else our own."""
    given = headers.get(b"x-request-id")
    return given.decode() if given and _well_formed(given) else own_id


def problem_of(err: Exception, request_id: str) -> Problem:
    """Whatever kept a request from its answer, as a problem; a fault of ours goes into the log."""
    if isinstance(err, Problem):
        return err
    if isinstance(err, MsoError):
        return Problem.of(err)
    log.error("request failed", request_id=request_id, exc_info=err)
    return Problem(500, "this is a fault of the server; its log names the request id")


def logged(method: str, path: str, status: int, seconds: float, request_id: str, *, quiet: bool = False) -> None:
    """A line about an answered request."""
    tell = log.debug if quiet else log.info
    tell("answered", method=method, path=path, status=status, ms=round(seconds * 1e3, 2), request_id=request_id)


def caller_went_away(request_id: str) -> None:
    log.info("caller went away", request_id=request_id)


def too_large(limit: int) -> Problem:
    return Problem(413, f"the body is larger than {limit:,} bytes; send it in parts")


def _counted(receive: Receive, limit: int) -> Receive:
    """`receive` until more than `limit` bytes came, told or not in a header."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise too_large(limit)
        return message

    return counted
