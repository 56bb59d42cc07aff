"""Hot requests as bytes on a connection, to a real server over memory."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from mobile_sentiment_ops.adapters.memory import MemoryPorts
from mobile_sentiment_ops.app.plain_http import PlainHttp

from .conftest import World

BODY = b'{"text": "Love to cook with it"}'


@pytest.fixture
def address(world: World) -> Iterator[tuple[str, int]]:
    config = uvicorn.Config(
        world.client.app, http=PlainHttp, ws="none", lifespan="off", log_config=None, server_header=False
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield listener.getsockname()
        server.should_exit = True
        thread.join(30)


def request(body: bytes = BODY, *headers: bytes, path: bytes = b"/predict_json", version: bytes = b"1.1") -> bytes:
    own = (b"Host: localhost", b"Content-Type: application/json", *headers)
    if not any(header.lower().startswith(b"transfer-encoding") for header in headers):
        own += (b"Content-Length: %d" % len(body),)
    return b"POST %b HTTP/%b\r\n%b\r\n\r\n%b" % (path, version, b"\r\n".join(own), body)


def speak(address: tuple[str, int], *sent: bytes, answers: int = 1) -> list[tuple[int, dict[str, str], bytes]]:
    """What comes back after these bytes, piece by piece."""
    found: list[tuple[int, dict[str, str], bytes]] = []
    with socket.create_connection(address, timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in sent:
            connection.sendall(piece)
            time.sleep(0.02)
        file = connection.makefile("rb")
        while len(found) < answers and (line := file.readline()):
            status = int(line.split()[1])
            headers = {}
            while (header := file.readline().strip()) != b"":
                name, _, value = header.decode().partition(": ")
                headers[name.lower()] = value
            if status != 100:
                found.append((status, headers, file.read(int(headers["content-length"]))))
    return found


def told(body: bytes) -> object:
    """An answer without what differs each time."""
    return json.loads(re.sub(rb'"(prediction_id|request_id)": ?"[^"]*"', rb'"id":""', body))


CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)


@pytest.mark.parametrize(
    "sent",
    [
        (request(),),
        tuple(bytes([byte]) for byte in request()[-12:]),
        (request()[:30], request()[30:-5], request()[-5:]),
        (request(CHUNKED, b"Transfer-Encoding: chunked"),),
        (request(version=b"1.0"),),
        (request(BODY, b"Expect: 100-continue"),),
        (request(path=b"/predict_json?x=1"),),
    ],
)
def test_one_answer_however_a_request_comes(address: tuple[str, int], sent: tuple[bytes, ...]) -> None:
    if len(sent) == 12:
        sent = (request()[:-12], *sent)
    ((status, headers, body),) = speak(address, *sent)
    ((_, usual, plain),) = speak(address, request())
    assert status == 200
    assert told(body) == told(plain)
    kept = {"content-type", "x-content-type-options", "x-drift-detected", "x-drift-status", "date"}
    assert {name: headers[name] for name in kept - {"date"}} == {name: usual[name] for name in kept - {"date"}}
    assert kept <= headers.keys()
    assert re.fullmatch("[0-9a-f]{25,}", headers["x-request-id"])


def test_requests_behind_each_other_are_answered_in_turn(address: tuple[str, int]) -> None:
    texts = ["one", "two", "three", "four"]
    bodies = [json.dumps({"text": text}).encode() for text in texts]
    live = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    sent = request(bodies[0]) + live + request(bodies[1]) + request(bodies[2]) + live + request(bodies[3])
    found = speak(address, sent, answers=6)
    assert [status for status, _, _ in found] == [200] * 6
    assert [json.loads(body).get("text", "alive") for _, _, body in found] == [
        "one",
        "alive",
        "two",
        "three",
        "alive",
        "four",
    ]


def test_a_connection_is_closed_when_that_is_asked_for(address: tuple[str, int], world: World) -> None:
    ((_, headers, _),) = speak(address, request(BODY, b"Connection: close") + request(), answers=2)
    assert headers["connection"] == "close"
    world.client.app.closing = True
    ((_, headers, _),) = speak(address, request() + request(), answers=2)
    assert headers["connection"] == "close"


@pytest.mark.parametrize(
    ("sent", "status", "detail"),
    [
        (request(b"{"), 400, "the body is no JSON"),
        (request(b'{"text": ""}'), 422, "text: blank"),
        (request().replace(b"application/json", b"text/plain"), 415, "Content-Type: is text/plain"),
        (request().replace(b"Host: localhost", b"Host: evil.example"), 421, "Host: 'evil.example'"),
        (request(BODY, b"Origin: https://evil.example"), 403, "Origin: a page of"),
        (request(b" " * 1_100_000), 413, "the body is larger than"),
        (request(b"[1]", path=b"/predict"), 422, "the body is a list"),
    ],
)
def test_a_refusal_is_a_problem_with_its_request_id(
    address: tuple[str, int], sent: bytes, status: int, detail: str
) -> None:
    sent = sent.replace(b"\r\n\r\n", b"\r\nX-Request-ID: mine-1\r\n\r\n", 1)
    ((found, headers, body),) = speak(address, sent)
    assert (found, headers["content-type"], headers["x-request-id"]) == (status, "application/problem+json", "mine-1")
    assert json.loads(body)["detail"].startswith(detail)
    assert json.loads(body)["request_id"] == "mine-1"


def test_hot_answers_are_counted_and_kept(address: tuple[str, int], world: World, memory: MemoryPorts) -> None:
    speak(address, request() + request(b'{"texts": ["ok", " "]}', path=b"/predict"), answers=2)
    figures = world.client.get("/metrics").text
    assert 'http_requests_total{method="POST",route="/predict_json",status="200"} 1.0' in figures
    assert 'http_requests_total{method="POST",route="/predict",status="200"} 1.0' in figures
    assert memory.spool.depth() == 2


def test_garbage_is_refused_and_others_are_answered(address: tuple[str, int]) -> None:
    for garbage in (
        b"\x00\x01\r\n\r\n",
        b"POST /predict_json HTTP/9.9\r\n\r\n",
        b"POST /predict_json HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    ):
        with socket.create_connection(address, timeout=20) as connection:
            connection.sendall(garbage)
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
    ((status, _, _),) = speak(address, request())
    assert status == 200
