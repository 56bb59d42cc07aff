"""Spans of requests: which there are, whose trace they continue, what they tell, and that a collector gets them."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import anyio
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from structlog.testing import capture_logs

from mobile_sentiment_ops.adapters.memory import MemoryPorts
from mobile_sentiment_ops.app import telemetry
from mobile_sentiment_ops.app.hot import Dispatcher
from mobile_sentiment_ops.app.telemetry import Traced

from .conftest import Client, World

MakeWorld = Callable[..., World]
Promote = Callable[..., object]

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Tracing:
    """The API with spans kept in memory."""

    def __init__(self, world: World) -> None:
        provider, self.exporter = TracerProvider(), InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.world, self.ends = world, 0
        inner = world.client.app.app
        self.app = Traced(inner, inner.state.parts, provider, end=self.end)
        http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app, raise_app_exceptions=False))
        http.base_url = httpx.URL("http://localhost:5001")
        self.client = Client(self.app, world.client.portal, http)

    def end(self) -> None:
        self.ends += 1

    def spans(self) -> list[ReadableSpan]:
        found = [*self.exporter.get_finished_spans()]
        self.exporter.clear()
        return found


@pytest.fixture
def trace(make_world: MakeWorld, memory: MemoryPorts, promote: Promote) -> Callable[[float], Tracing]:
    def start(share: float) -> Tracing:
        promote(memory)
        return Tracing(make_world({"api": {"trace_share": share}}))

    return start


def test_a_request_has_a_span_by_the_conventions(trace: Callable[[float], Tracing]) -> None:
    tracing = trace(0.0)
    answer = tracing.client.get("/jobs/none?key=secret", headers={"X-Request-ID": "mine-7"})
    assert answer.status_code == 404
    (span,) = tracing.spans()
    assert (span.name, span.kind, span.status.status_code) == ("GET /jobs/{job_id}", SpanKind.SERVER, StatusCode.UNSET)
    assert span.attributes == {
        "http.request.method": "GET",
        "url.path": "/jobs/none",
        "url.scheme": "http",
        "server.address": "localhost",
        "http.route": "/jobs/{job_id}",
        "http.response.status_code": 404,
        "http.response.header.x-request-id": ("mine-7",),
    }


def test_a_trace_of_the_caller_goes_on(trace: Callable[[float], Tracing]) -> None:
    tracing = trace(1.0)
    for path, body in (("/model", None), ("/predict_json", {"text": "Love it"})):
        for sampled, spans in (("01", 1), ("00", 0)):
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-{sampled}", "tracestate": "shop=1"}
            answer = tracing.client.request("POST" if body else "GET", path, json=body, headers=headers)
            assert answer.status_code == 200
            found = tracing.spans()
            assert len(found) == spans
            for span in found:
                assert span.parent is not None
                assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
                assert span.context.trace_state.get("shop") == "1"
    tracing.client.get("/model", headers={"traceparent": "made up"})
    (span,) = tracing.spans()
    assert span.parent is None


def test_hot_requests_have_spans_as_often_as_the_setting_says(trace: Callable[[float], Tracing]) -> None:
    tracing = trace(0.3)
    for _ in range(300):
        tracing.client.post("/predict_json", json={"text": "Love it"})
    assert 50 < len(tracing.spans()) < 130


@pytest.mark.parametrize(("share", "spans"), [(0.0, 0), (1.0, 3)])
def test_answers_that_are_one_call_have_spans_too(trace: Callable[[float], Tracing], share: float, spans: int) -> None:
    tracing = trace(share)
    headers = {b"host": b"localhost", b"content-type": b"application/json", b"x-request-id": b"mine-7"}
    for body, status in ((b'{"text": "Love it"}', b"200"), (b"{", b"400"), (b'{"text": " "}', b"422")):
        assert tracing.app.respond("/predict_json", headers, body, b"now", close=False)[9:12] == status
    found = tracing.spans()
    assert [span.attributes["http.response.status_code"] for span in found if span.attributes] == [200, 400, 422][
        :spans
    ]
    for span in found:
        assert span.name == "POST /predict_json"
        assert span.attributes is not None
        assert span.attributes["http.response.header.x-request-id"] == ("mine-7",)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/v2/health/ready"])
def test_who_watches_the_server_leaves_no_spans(trace: Callable[[float], Tracing], path: str) -> None:
    tracing = trace(1.0)
    assert tracing.client.get(path).status_code == 200
    assert tracing.spans() == []


def test_what_is_at_no_route_does_not_name_spans(trace: Callable[[float], Tracing]) -> None:
    tracing = trace(0.0)
    tracing.client.get("/made/up")
    tracing.client.request("BREW", "/model")
    first, second = tracing.spans()
    assert (first.name, first.attributes and first.attributes["http.request.method"]) == ("GET", "GET")
    assert second.attributes is not None
    assert second.attributes["http.request.method"] == "_OTHER"


def test_a_fault_is_an_error_and_its_message_stays_here(
    trace: Callable[[float], Tracing], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracing = trace(1.0)

    def broken(*_: object) -> None:
        raise RuntimeError("Love it, says the text")

    monkeypatch.setattr("mobile_sentiment_ops.app.hot.read_text", broken)
    monkeypatch.setattr("mobile_sentiment_ops.app.explain.explained", broken)
    for path in ("/predict_json", "/explain"):
        assert tracing.client.post(path, json={"text": "Love it"}).status_code == 500
        (span,) = tracing.spans()
        assert span.status.status_code == StatusCode.ERROR
        assert span.attributes is not None
        assert span.attributes["error.type"] == "500"
        assert "Love it" not in span.to_json()


def test_what_ends_an_answer_midway_is_named(trace: Callable[[float], Tracing]) -> None:
    tracing = trace(0.0)

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def gone(_: object) -> None:
        raise OSError("gone with the text")

    headers = [(b"host", b"localhost")]
    scope: dict[str, Any] = {"type": "http", "method": "GET", "path": "/model", "headers": headers, "query_string": b""}
    with pytest.raises(OSError, match="gone"):
        tracing.client.portal.call(tracing.app.__call__, scope, receive, gone)
    (span,) = tracing.spans()
    assert span.attributes is not None
    assert (span.name, span.attributes["error.type"]) == ("GET /model", "OSError")
    assert "gone" not in span.to_json()


# --- off, and on


def test_without_a_collector_the_server_is_the_plain_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in telemetry.ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    app = world.client.app.app
    assert type(telemetry.dispatcher(app, app.state.parts)) is Dispatcher


def test_without_the_extra_it_says_what_to_install(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(telemetry.ENDPOINTS[0], "http://127.0.0.1:9")
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    app = world.client.app.app
    with capture_logs() as told:
        assert type(telemetry.dispatcher(app, app.state.parts)) is Dispatcher
    assert [line["log_level"] for line in told] == ["warning"]
    assert "mobile-sentiment-ops[telemetry]" in told[0]["event"]


class Collector:
    """A real receiver of OTLP over HTTP."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
                requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"


@contextmanager
def collecting() -> Iterator[Collector]:
    found = Collector()
    thread = threading.Thread(target=found.server.serve_forever)
    thread.start()
    try:
        yield found
    finally:
        found.server.shutdown()
        thread.join()
        found.server.server_close()


def ended(app: Traced) -> list[str]:
    """What uvicorn is told by an application that it asks to end."""

    async def ends() -> list[str]:
        told: list[str] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            told.append(message["type"])

        await app._ending(send)({"type": "lifespan.shutdown.complete"})
        return told

    return anyio.run(ends)


def test_a_server_ends_without_its_collector(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(telemetry.ENDPOINTS[0], "http://127.0.0.1:9")
    world = make_world()
    assert isinstance(traced := world.client.app, Traced)
    world.client.get("/jobs")
    began = time.monotonic()
    assert ended(traced) == ["lifespan.shutdown.complete"]
    assert time.monotonic() - began < telemetry.LAST_SECONDS + 3


def test_a_collector_gets_the_spans_of_a_server_that_ends(
    make_world: MakeWorld,
    memory: MemoryPorts,
    promote: Promote,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with collecting() as collector:
        monkeypatch.setenv(telemetry.ENDPOINTS[0], collector.address)
        promote(memory)
        world = make_world({"api": {"trace_share": 1.0}})
        traced = world.client.app
        assert isinstance(traced, Traced)
        world.client.post("/predict_json", json={"text": "Love it"})
        world.client.get("/model")

        assert ended(traced) == ["lifespan.shutdown.complete"]
    (request,) = collector.requests
    (resource,) = request.resource_spans
    named = {one.key: one.value.string_value for one in resource.resource.attributes}
    assert named["service.name"] == "mobile-sentiment-ops"
    (scope,) = resource.scope_spans
    assert [span.name for span in scope.spans] == ["POST /predict_json", "GET /model"]
    assert b"Love it" not in request.SerializeToString()
