"""The load that measures servers, on small real ones; what is made of its figures."""

from __future__ import annotations

import asyncio
import doctest
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import polars as pl
import psutil
import pytest

from bench import load, serving
from bench.load import NUMBER, RunningLoad, Server, requests_file, spent
from bench.results import ROOT, Row, goals

ANSWER = b'{"prediction": "Positive"}'
Answer = Callable[[bytes, bytes], Awaitable[bytes]]
"""From the head and the body of a request to all bytes of its answer; none to hang up."""


@pytest.fixture
def answering() -> Iterator[Callable[[Answer], int]]:
    """Starts servers that answer so, in threads: `answering(answer)` is the port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    servers: list[asyncio.Server] = []
    writers: set[asyncio.StreamWriter] = set()

    def start(answer: Answer) -> int:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writers.add(writer)
            try:
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    found = re.search(rb"Content-Length: (\d+)", head)
                    assert found
                    body = await reader.readexactly(int(found[1]))
                    if not (said := await answer(head, body)):
                        break
                    writer.write(said)
                    if b"close" in said:
                        break
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writers.discard(writer)
                writer.close()

        server = asyncio.run_coroutine_threadsafe(asyncio.start_server(talk, "127.0.0.1", 0), loop).result()
        servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    yield start

    async def end() -> None:
        for server in servers:
            server.close()
        for writer in list(writers):
            writer.close()
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.01)

    asyncio.run_coroutine_threadsafe(end(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    bodies = [json.dumps({"text": f"Bon débarras {word} {NUMBER}"}, ensure_ascii=False) for word in "abc"]
    return requests_file(tmp_path / "requests", bodies, target="/predict_json", headers={"X-API-Key": "secret"})


def http(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\n{more}content-length: {len(body)}\r\n\r\n".encode() + body


async def positive(_head: bytes, _body: bytes) -> bytes:
    return http(ANSWER)


@pytest.mark.integration
def test_every_body_is_distinct_and_carries_the_key(answering: Callable[[Answer], int], requests: Path) -> None:
    heads, bodies = set(), []

    async def echo(head: bytes, body: bytes) -> bytes:
        heads.add(b"X-API-Key: secret" in head and head.startswith(b"POST /predict_json HTTP/1.1\r\nHost: 127.0.0.1"))
        bodies.append(json.loads(body)["text"])
        return http(json.dumps({"echo": bodies[-1], "prediction": "Neutral"}).encode())

    running = RunningLoad(answering(echo), requests, seconds=0.3, connections=3, keep_answers=True)
    found = running.finish()
    assert found.answered == len(bodies) == len(set(bodies)) == len(found.answers) == found.latencies_ms.size > 10
    assert (found.lost, heads) == (0, {True})
    for number, body in found.answers:
        word = "abc"[(number - running.first) % 3]
        assert json.loads(body)["echo"] == f"Bon débarras {word} {number:08d}"
    again = RunningLoad(answering(echo), requests, seconds=0.1, connections=1).finish()
    assert again.answered > 0
    assert len(bodies) == len(set(bodies))


@pytest.mark.integration
@pytest.mark.parametrize("said", [http(ANSWER, "500 Oh"), http(b'{"detail": "no"}')])
def test_other_answers_are_failures(answering: Callable[[Answer], int], requests: Path, said: bytes) -> None:
    async def answer(_head: bytes, _body: bytes) -> bytes:
        await asyncio.sleep(0.01)
        return said

    found = RunningLoad(answering(answer), requests, seconds=0.2, connections=2).finish()
    assert found.answered == 0
    assert found.failed > 0


@pytest.mark.integration
def test_each_review_of_a_batch_needs_its_label(answering: Callable[[Answer], int], requests: Path) -> None:
    port = answering(positive)
    assert RunningLoad(port, requests, seconds=0.1, labels=2).finish().answered == 0
    assert RunningLoad(port, requests, seconds=0.1, labels=1).finish().failed == 0


@pytest.mark.integration
def test_a_connection_that_ends_before_its_answer_is_told_and_made_again(
    answering: Callable[[Answer], int], requests: Path
) -> None:
    count = 0

    async def answer(_head: bytes, _body: bytes) -> bytes:
        nonlocal count
        count += 1
        return b"" if count % 10 == 0 else http(ANSWER)

    found = RunningLoad(answering(answer), requests, seconds=0.3, connections=2).finish()
    assert found.broken == count // 10 > 0
    assert found.answered == count - found.broken


@pytest.mark.integration
@pytest.mark.parametrize(
    "said",
    [
        http(ANSWER, more="Connection: close\r\n"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1a\r\n" + ANSWER + b"\r\n0\r\n\r\n",
    ],
)
def test_both_ends_of_an_answer_are_found(answering: Callable[[Answer], int], requests: Path, said: bytes) -> None:
    async def answer(_head: bytes, _body: bytes) -> bytes:
        return said

    found = RunningLoad(answering(answer), requests, seconds=0.2, connections=2).finish()
    assert found.lost == 0
    assert found.answered > 5


@pytest.mark.integration
def test_who_waits_behind_a_slow_answer_counts_from_when_he_was_due(
    answering: Callable[[Answer], int], requests: Path
) -> None:
    count = 0

    async def answer(_head: bytes, _body: bytes) -> bytes:
        nonlocal count
        count += 1
        if count == 10:
            await asyncio.sleep(0.5)
        return http(ANSWER)

    found = RunningLoad(answering(answer), requests, seconds=1, rate=100, connections=1).finish()
    assert found.answered == count == 100
    assert 450 < found.percentile_ms(1.0) < 1_500
    assert (found.latencies_ms > 100).sum() > 30


@pytest.mark.integration
def test_the_load_ends_when_told_and_counts_what_nobody_took(requests: Path, free_port: int) -> None:
    running = RunningLoad(free_port, requests, seconds=60, rate=100)
    time.sleep(0.5)
    began = time.monotonic()
    found = running.stop()
    assert time.monotonic() - began < 5
    assert (found.answered, found.broken) == (0, 0)
    assert found.unsent > 20


FAMILY = """
import subprocess, sys, time
burn = "import time\\nwhile time.process_time() < {}: pass\\ntime.sleep({})"
subprocess.run([sys.executable, "-c", burn.format(0.4, 0)])
subprocess.Popen([sys.executable, "-c", burn.format(0.6, 600)])
time.sleep(600)
"""


@pytest.mark.integration
def test_cpu_time_is_that_of_all_processes_ended_ones_too(tmp_path: Path, free_port: int) -> None:
    server = Server("family", [sys.executable, "-c", FAMILY], free_port, {}, tmp_path / "log")
    try:
        before = server.accounts()
        server.wait(lambda: spent(before, server.accounts()) >= 0.95, within_seconds=30)
        time.sleep(0.3)
        members = server.processes()
        accounts = server.accounts()
        assert 0.95 <= spent(before, accounts) < 1.6
        assert server.keeper() is None
        assert [one.pid for one in server.workers()] == [members[1].pid]
        assert 0.55 <= accounts[members[1].pid] < 0.9
        assert load.private_mb(members[1].pid) > 1
    finally:
        server.stop()
    assert not any(member.is_running() and member.status() != psutil.STATUS_ZOMBIE for member in members)


@pytest.mark.integration
def test_a_server_that_ends_says_its_last_words(tmp_path: Path, free_port: int) -> None:
    server = Server("broken", [sys.executable, "-c", "raise SystemExit('no model')"], free_port, {}, tmp_path / "log")
    with pytest.raises(load.NotMeasured, match=r"broken did not start here: \.\.\.no model"):
        server.wait(lambda: False)


@pytest.mark.integration
def test_the_constant_answer_is_read_and_sent(tmp_path: Path, free_port: int, requests: Path) -> None:
    (tmp_path / "answer.json").write_bytes(ANSWER)
    script = str(ROOT / "bench" / "peers" / "constant.py")
    server = Server(
        "constant", [sys.executable, script, str(free_port), str(tmp_path)], free_port, {}, tmp_path / "log"
    )
    try:
        server.wait(lambda: load.answers(free_port, "/predict_json", "{}", {}) == ANSWER)
        before = server.accounts()
        found = RunningLoad(free_port, requests, seconds=1, connections=8).finish()
        cpu_us = spent(before, server.accounts()) * 1e6 / found.answered
        assert found.lost == 0
        assert 5 < cpu_us < 500
    finally:
        server.stop()


def test_examples_of_the_benchmark_hold() -> None:
    for module in (load, serving):
        found = doctest.testmod(module)
        assert found.attempted > 2
        assert found.failed == 0


def test_every_goal_of_the_area_belongs_to_a_part() -> None:
    begins = tuple(word for _, names in serving.PARTS.values() for word in names.split())
    names = [goal.name for goal in goals() if goal.area == serving.AREA]
    assert [name for name in names if not name.startswith(begins)] == []
    assert {peer.row for peer in serving.PEERS.values() if peer.row} == {
        name for name in names if name.startswith("ratio/")
    }


def test_a_part_that_cannot_be_measured_says_why_in_all_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(bench: serving.Bench) -> Iterator[Row]:
        if bench is nothing:
            raise load.NotMeasured("nobody answered")
        yield from ()

    nothing = serving.Bench(tmp_path, tmp_path, serving.SMALL, pl.DataFrame(), [])
    monkeypatch.setattr(serving.Bench, "prepared", lambda *_: nothing)
    monkeypatch.setitem(vars(serving)["PARTS"], "kills", (away, "kill9/"))
    rows = list(serving.measure(tmp_path, parts=["kills"]))
    assert {(row.name, row.value, row.note) for row in rows} == {
        (f"kill9/{what}", None, "nobody answered") for what in ("acknowledged_missing", "duplicated", "torn")
    }


def test_each_peer_has_a_lock_without_addresses() -> None:
    declared = re.search(r"^PEERS := (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert declared
    environments = {peer.environment for peer in serving.PEERS.values() if peer.environment}
    assert set(declared[1].split()) == environments
    for name in environments:
        lock = (ROOT / "requirements" / "peers" / f"{name}.txt").read_text("utf-8")
        assert f"\n{name}==" in lock
        assert "--hash=sha256:" in lock
        assert "://" not in lock


def test_the_load_builds_without_a_warning(tmp_path: Path) -> None:
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Wshadow", "-Werror", "-fsyntax-only"]
    subprocess.run(["cc", *flags, str(ROOT / "bench" / "load.c")], cwd=tmp_path, check=True)
