"""Around every request: its id, its limits, its figures and log line, and an answer to what nobody caught."""

from __future__ import annotations

import re
import time
import uuid

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mobile_sentiment_ops.app.metrics import Metrics
from mobile_sentiment_ops.app.problems import Problem
from mobile_sentiment_ops.settings import Api

log = structlog.get_logger()

REQUEST_ID = "x-request-id"
FORM_BYTES = 65_536
"""What a form may hold beside its file."""

GONE = 499
"""What the log and the figures call a request whose caller went away before its answer."""

QUIET = ("/livez", "/readyz", "/healthcheck", "/metrics")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

_WELL_FORMED = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Edge:
    """The outermost layer. `request.state` gets `request_id`, the caller's or ours, and `own_id`,
    which is ours and unique."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, api: Api) -> None:
        self._app = app
        self._metrics = metrics
        self._api = api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        headers = Headers(scope=scope)
        own_id = uuid.uuid4().hex
        given = headers.get(REQUEST_ID, "")
        request_id = given if _WELL_FORMED.fullmatch(given) else own_id
        scope.setdefault("state", {}).update(request_id=request_id, own_id=own_id)
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = MutableHeaders(scope=message)
                added[REQUEST_ID] = request_id
                added.setdefault("x-content-type-options", "nosniff")
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                limit = self._limit(headers)
                announced = headers.get("content-length", "")
                if announced.isdecimal() and int(announced) > limit:
                    raise too_large(limit)
                await self._app(scope, _counted(receive, limit), answer)
            except ClientDisconnect:
                log.info("caller went away")
            except Exception as err:
                if status:
                    raise
                if isinstance(err, Problem):
                    problem = err
                else:
                    log.exception("request failed")
                    problem = Problem(500, "this is a fault of the server; its log names the request id")
                await problem.response(scope["path"], request_id)(scope, receive, answer)
            finally:
                self._tell(scope, status or GONE, time.perf_counter() - began)

    def _limit(self, headers: Headers) -> int:
        """The largest body of this media type."""
        if headers.get("content-type", "").lower().startswith(("multipart/", "text/csv")):
            return self._api.max_csv_bytes + FORM_BYTES
        return self._api.max_json_bytes

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "other"
        route = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.request(method, route, status, seconds)
        tell = log.debug if route in QUIET else log.info
        tell("answered", method=method, path=scope["path"], status=status, ms=round(seconds * 1e3, 2))


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
