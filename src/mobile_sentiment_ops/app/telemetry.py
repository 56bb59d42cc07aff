"""OpenTelemetry for servers that have a collector: a span for each request, sent by OTLP over HTTP.

Off, and free, unless OTEL_EXPORTER_OTLP_ENDPOINT names a collector and the extra `telemetry` is installed. Health
and figures get no spans, the hot paths a share of them (`api.trace_share`). A caller's traceparent is continued.
Names and attributes are those of OpenTelemetry's conventions for HTTP; texts, queries and keys are in none of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from random import random
from typing import TYPE_CHECKING

import structlog
from anyio import move_on_after, to_thread
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

import mobile_sentiment_ops
from mobile_sentiment_ops.app.edge import QUIET
from mobile_sentiment_ops.app.guard import host_name
from mobile_sentiment_ops.app.hot import Dispatcher
from mobile_sentiment_ops.app.metrics import METHODS
from mobile_sentiment_ops.app.parts import Parts

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

log = structlog.get_logger()

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PARENT = ("traceparent", "tracestate")
LAST_SECONDS = 2.0
"""So long a server that ends waits for its last spans to be taken."""


def dispatcher(app: FastAPI, parts: Parts) -> Dispatcher:
    """`app` behind the hot paths, with spans where the environment names a collector for them."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return Dispatcher(app, parts)
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as err:
        log.warning("no traces; pip install 'mobile-sentiment-ops[telemetry]' has what they need", error=str(err))
        return Dispatcher(app, parts)
    named = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "mobile-sentiment-ops")}
    resource = Resource.create({**named, "service.version": mobile_sentiment_ops.__version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(processor := BatchSpanProcessor(OTLPSpanExporter()))
    return Traced(app, parts, provider, end=processor.shutdown)


class Traced(Dispatcher):
    """Requests with spans; `end` is called when the server ends."""

    def __init__(self, app: FastAPI, parts: Parts, provider: TracerProvider, *, end: Callable[[], object]) -> None:
        super().__init__(app, parts)
        self._tracer = provider.get_tracer("mobile_sentiment_ops", mobile_sentiment_ops.__version__)
        self._share = parts.platform.settings.api.trace_share
        self._end = end

    def respond(self, path: str, headers: Mapping[bytes, bytes], body: bytes, date: bytes, *, close: bool) -> bytes:
        if random() >= self._share:  # noqa: S311
            return super().respond(path, headers, body, date, close=close)
        with self._span("POST", path, headers) as span:
            told = super().respond(path, headers, body, date, close=close)
            _routed(span, "POST", path)
            request_id = told.partition(b"\r\nx-request-id: ")[2].partition(b"\r\n")[0]
            _answered(span, int(told[9:12]), request_id)
        return told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, self._ending(send))
            return
        method, path, headers = scope["method"], scope["path"], dict(scope["headers"])
        hot = method == "POST" and self.is_hot(path, headers)
        if path in QUIET or (hot and random() >= self._share):  # noqa: S311
            await super().__call__(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                _answered(span, message["status"], dict(message["headers"]).get(b"x-request-id", b""))
            await send(message)

        with self._span(method, path, headers) as span:
            try:
                await super().__call__(scope, receive, answer)
            except Exception as err:
                _failed(span, type(err).__qualname__)
                raise
            finally:
                if route := path if hot else getattr(scope.get("route"), "path", None):
                    _routed(span, method, route)

    def _span(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> AbstractContextManager[Span]:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        known = method if method in METHODS else "_OTHER"
        told = {name: headers[name.encode()].decode("latin-1") for name in PARENT if name.encode() in headers}
        asked = {"http.request.method": known, "url.path": path, "url.scheme": "http"}
        if host := host_name(headers.get(b"host", b"").decode("latin-1")):
            asked["server.address"] = host
        return self._tracer.start_as_current_span(
            known if known == method else "HTTP",
            TraceContextTextMapPropagator().extract(told),
            SpanKind.SERVER,
            asked,
            record_exception=False,  # their messages may hold what the caller sent
            set_status_on_exception=False,
        )

    def _ending(self, send: Send) -> Send:
        async def ending(message: Message) -> None:
            if message["type"].startswith("lifespan.shutdown."):
                with move_on_after(LAST_SECONDS):
                    await to_thread.run_sync(self._end, abandon_on_cancel=True)
            await send(message)

        return ending


def _answered(span: Span, status: int, request_id: bytes) -> None:
    span.set_attribute("http.response.status_code", status)
    span.set_attribute("http.response.header.x-request-id", [request_id.decode("latin-1")])
    if status >= 500:
        _failed(span, str(status))


def _failed(span: Span, kind: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_status(StatusCode.ERROR)
    span.set_attribute("error.type", kind)


def _routed(span: Span, method: str, route: str) -> None:
    span.update_name(f"{method} {route}")
    span.set_attribute("http.route", route)
