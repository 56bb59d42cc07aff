"""The server as a process of its own, over the real local adapters, with an MLflow server that is away."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from mobile_sentiment_ops.bootstrap import Platform
from mobile_sentiment_ops.data.predictions import PREDICTIONS_TABLE
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.settings import Settings
from mobile_sentiment_ops.types import Champion

from .test_telemetry import collecting

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    client: httpx.Client

    def children(self) -> dict[str, psutil.Process]:
        """The worker and the keeper: the keeper is forked last."""
        found = sorted(psutil.Process(self.process.pid).children(), key=lambda child: child.pid)
        return {"worker": found[0], "keeper": found[-1]}

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def kill(self) -> None:
        """End all of its processes at once."""
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process.pid)
            for process in [parent, *parent.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait()


@pytest.fixture
def platform(tmp_path: Path, free_port: int) -> Platform:
    """What the server will stand on, seen from the test."""
    tree = {
        "api": {"port": free_port},
        "mlflow": {"tracking_uri": "http://127.0.0.1:9"},
        "storage": {"workspace": tmp_path / "workspace"},
    }
    return Platform(Settings.model_validate(tree))


@pytest.fixture
def start_server(platform: Platform, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts `mso serve` and waits until it answers at all: `start_server("mlflow.tracking_uri=...")`."""
    started: list[Server] = []

    def start(*settings: str) -> Server:
        given = [
            f"api.port={platform.settings.api.port}",
            f"storage.workspace={platform.workspace}",
            f"mlflow.tracking_uri={platform.settings.mlflow.tracking_uri}",
            *settings,
        ]
        command = [sys.executable, "-m", "mobile_sentiment_ops", *(word for one in given for word in ("--set", one))]
        with (tmp_path / "server.log").open("ab") as output:
            process = subprocess.Popen([*command, "serve", "--no-train"], stdout=output, stderr=subprocess.STDOUT)
        client = httpx.Client(base_url=f"http://127.0.0.1:{platform.settings.api.port}", timeout=60)
        deadline = time.monotonic() + 60
        while True:
            try:
                client.get("/livez")
                break
            except httpx.TransportError:
                assert process.poll() is None, (tmp_path / "server.log").read_text()
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.02)
        started.append(Server(process, client))
        return started[-1]

    yield start
    for server in started:
        server.kill()
        server.client.close()


def test_a_server_starts_from_its_local_copy_while_mlflow_is_away(
    platform: Platform, promote: Callable[..., Champion], start_server: Callable[..., Server]
) -> None:
    promote(platform)
    server = start_server()
    ready = server.client.get("/readyz").json()
    assert (ready["status"], ready["model"]) == ("ready", "the champion")
    assert server.client.post("/predict_json", json={"text": "Love to cook with it"}).json()["prediction"] == "Positive"
    while (mlflow := server.client.get("/readyz").json()["mlflow"]) == "not asked yet":
        time.sleep(0.05)
    assert mlflow == "unreachable"


def test_a_start_loads_no_library_that_it_can_do_without(
    platform: Platform, promote: Callable[..., Champion], start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    promote(platform)
    platform.keeper.follow()
    source = """
import asyncio, json, sys
from mobile_sentiment_ops.app.ml_server import create_app
from mobile_sentiment_ops.bootstrap import Platform
from mobile_sentiment_ops.settings import Settings

async def ask(app, path, body, kind):
    answers = []
    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}
    async def send(message):
        answers.append(message)
    headers = [(b"host", b"localhost"), (b"content-type", kind)]
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "POST",
             "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
             "headers": headers}
    await app(scope, receive, send)
    return answers[0]["status"]

platform = Platform(Settings.model_validate_json(sys.argv[1]))
app = create_app(platform, keep=False)
platform.predictions.reload()
csv = b"id,review_text,rating,date,app\\n7,Love it,5,2025-01-02,lamp\\n"
asked = [("/predict_json", b'{"text": "Love it"}', b"application/json"),
         ("/predict", b'{"reviews": [{"text": "Love it", "submitted_at": "2025-01-01"}]}', b"application/json"),
         ("/predict", csv, b"text/csv")]
statuses = [asyncio.run(ask(app, *one)) for one in asked]
heavy = ("mlflow", "pandas", "sklearn", "scipy", "xgboost", "matplotlib", "polars", "pyarrow",
         "deltalake", "sqlalchemy")
print(json.dumps([statuses, [name for name in heavy if name in sys.modules]]))
"""
    process = start_python(source, platform.settings.model_dump_json())
    assert process.stdout is not None
    assert json.loads(process.stdout.read().splitlines()[-1]) == [[200, 200, 200], []]


def test_an_mlflow_that_hangs_keeps_no_server_from_opening(
    platform: Platform, promote: Callable[..., Champion], start_server: Callable[..., Server]
) -> None:
    champion = promote(platform)
    folder = platform.bundles.path(champion.bundle_hash)
    assert folder is not None
    folder.rename(folder.with_name("lost"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        server = start_server(f"mlflow.tracking_uri=http://127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - began < 60
        answer = server.client.get("/readyz")
        assert answer.status_code == 503
        assert "not loaded yet" in answer.json()["detail"] or "cannot be loaded" in answer.json()["detail"]


def test_an_address_that_is_taken_ends_with_a_sentence(platform: Platform, start_server: Callable[..., Server]) -> None:
    start_server()
    port = platform.settings.api.port
    command = [sys.executable, "-m", "mobile_sentiment_ops", "--set", f"api.port={port}", "serve", "--no-train"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=platform.workspace)
    assert second.returncode == 2
    assert second.stderr.splitlines()[-1].startswith(f"error: the API cannot listen on 127.0.0.1 port {port}: ")


def test_a_host_that_is_none_is_named() -> None:
    command = [sys.executable, "-m", "mobile_sentiment_ops", "--set", "api.host=nowhere.invalid", "serve", "--no-train"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode == 2
    assert "error: api.host is 'nowhere.invalid': " in found.stderr.splitlines()[-1]


def test_a_large_file_holds_up_no_other_request(
    platform: Platform, promote: Callable[..., Champion], start_server: Callable[..., Server]
) -> None:
    promote(platform)
    server = start_server()
    line = "{},Love to cook with it although it crashes when I pay," + "a long note of the caller " * 12 + "\n"
    rows = 40_000_000 // len(line)
    data = ("id,review_text,note\n" + "".join(line.format(number) for number in range(rows))).encode()
    memory = server.children()["worker"].memory_info
    before = memory().rss
    waits: dict[str, list[float]] = {"/livez": [], "/predict_json": [], "/predict": []}
    peak = before
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=server.client.base_url, timeout=300) as sender:
        answer = pool.submit(sender.post, "/predict", files={"file": ("large.csv", data)})
        while not answer.done():
            for path, waited in waits.items():
                began = time.monotonic()
                if path == "/livez":
                    found = server.client.get(path)
                elif path == "/predict":
                    found = server.client.post(path, files={"file": ("small.csv", b"review_text\nLove it\n")})
                else:
                    found = server.client.post(path, json={"text": "Love it"})
                waited.append(time.monotonic() - began)
                assert found.status_code == 200
                time.sleep(0.01)
            peak = max(peak, memory().rss)
    assert len(waits["/livez"]) > 10
    for path, waited in waits.items():
        print(path, f"median {statistics.median(waited):.3f} s, worst {max(waited):.3f} s of {len(waited)}")
        assert max(waited) < 10  # the file takes as long; what others wait is measured by the benchmark
    print(f"memory {before / 2**20:.0f} MiB before, {peak / 2**20:.0f} MiB at most")
    assert peak - before < 250 * 2**20
    found = answer.result()
    ids = [row[0] for row in csv.reader(io.StringIO(found.text))]
    assert ids == ["id", *map(str, range(rows))]


def test_a_killed_server_loses_no_answer(
    platform: Platform, promote: Callable[..., Champion], start_server: Callable[..., Server]
) -> None:
    promote(platform)
    server = start_server()
    acknowledged: list[str] = []
    files: dict[str, bytes] = {}

    def ask(_: int) -> None:
        with httpx.Client(base_url=server.client.base_url, timeout=60) as client:
            try:
                while True:
                    single = client.post("/predict_json", json={"text": "Love it"})
                    acknowledged.append(single.json()["prediction_id"])
                    batch = client.post("/predict", json={"texts": ["ok", "It crashes"]})
                    acknowledged.extend(found["prediction_id"] for found in batch.json()["predictions"])
                    answer = client.post("/predict", files={"file": b"review_text\nLove it\n"})
                    files[answer.headers["content-disposition"].split('"')[1]] = answer.content
            except httpx.TransportError:
                return

    with ThreadPoolExecutor(4) as pool:
        asking = pool.map(ask, range(4))
        time.sleep(2.5)
        server.kill()
        list(asking)
    acknowledged += [answer.decode().splitlines()[1].split(",")[3] for answer in files.values()]
    assert len(acknowledged) > 100

    start_server().stop()
    kept = Counter(platform.tables.read(PREDICTIONS_TABLE, ["prediction_id"])["prediction_id"].to_pylist())
    assert set(acknowledged) <= set(kept)
    assert max(kept.values()) == 1
    assert platform.spool.depth() == 0
    for name, content in files.items():
        assert platform.files.read(f"data_prediction/{name}") == content


def test_a_promotion_reaches_a_running_server_without_a_failed_request(
    platform: Platform, promote: Callable[..., Champion], start_server: Callable[..., Server]
) -> None:
    promote(platform)
    server = start_server()
    stop = threading.Event()
    answers: list[tuple[float, int, str]] = []

    def ask(_: int) -> None:
        with httpx.Client(base_url=server.client.base_url, timeout=60) as client:
            while not stop.is_set():
                answer = client.post("/predict_json", json={"text": "Love it"})
                answers.append((time.monotonic(), answer.status_code, answer.json().get("model_version", "")))

    with ThreadPoolExecutor(2) as pool:
        asking = pool.map(ask, range(2))
        time.sleep(0.5)
        promote(platform, note="the second")
        changed = time.monotonic()
        time.sleep(6)
        stop.set()
        list(asking)
    assert {status for _, status, _ in answers} == {200}
    reached = min(at for at, _, version in answers if version == "2") - changed
    print(f"reached after {reached:.2f} s, {len(answers)} requests")
    assert reached < 15.0
    assert max(at for at, _, version in answers if version == "1") - changed < 15.0


def test_a_rollback_reaches_a_running_server_within_five_seconds(
    platform: Platform, promote: Callable[..., Champion], start_server: Callable[..., Server]
) -> None:
    promote(platform)
    promote(platform, note="the second")
    server = start_server()

    def answering() -> str:
        return str(server.client.post("/predict_json", json={"text": "Love it"}).json().get("model_version", ""))

    assert answering() == "2"
    given = [
        f"--set={key}" for key in (f"storage.workspace={platform.workspace}", "mlflow.tracking_uri=http://127.0.0.1:9")
    ]
    command = [sys.executable, "-m", "mobile_sentiment_ops", *given, "rollback", "--reason", "complaints"]
    command_line = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while answering() != "1":
        time.sleep(0.02)
    reached = datetime.now(UTC)
    said, _ = command_line.communicate(timeout=60)
    assert "version 1 (lr)" in said
    decided = platform.state.ledger()[-1]
    assert decided.decision.action == "rollback"
    print(f"reached {(reached - decided.at).total_seconds():.2f} s after the decision")
    assert (reached - decided.at).total_seconds() < 15.0


def test_a_rollback_reaches_a_server_whose_last_champion_could_not_be_opened(
    platform: Platform, promote: Callable[..., Champion], start_server: Callable[..., Server]
) -> None:
    promote(platform)
    server = start_server()
    lost = promote(platform, note="the second")
    for file in (platform.workspace / "bundles" / lost.bundle_hash).rglob("*.*"):
        file.write_bytes(b"")
    time.sleep(2)
    platform.models.rollback(actor="ann", reason="its files are lost")
    changed = time.monotonic()
    assert server.client.post("/predict_json", json={"text": "Love it"}).json()["model_version"] == "1"
    third = promote(platform, note="the third")
    while server.client.post("/predict_json", json={"text": "Love it"}).json()["model_version"] != third.version:
        assert time.monotonic() - changed < 15.0
        time.sleep(0.05)
    print(f"followed again after {time.monotonic() - changed:.2f} s")


@dataclass
class Load:
    """Requests by some threads until it is stopped: what was acknowledged, and what failed."""

    address: httpx.URL
    acknowledged: list[str] = field(default_factory=list)
    answers: list[tuple[float, float, str, float]] = field(default_factory=list)
    """When it was asked, how long it took, and which version gave which probability of Positive."""
    failures: list[str] = field(default_factory=list)
    stopped: bool = False

    def ask(self, _: int) -> None:
        with httpx.Client(base_url=self.address, timeout=60) as client:
            while not self.stopped:
                began = time.monotonic()
                try:
                    found = client.post("/predict_json", json={"text": "Love to cook with it"})
                except httpx.TransportError as err:
                    if not self.stopped:
                        self.failures.append(repr(err))
                    time.sleep(0.01)
                    continue
                if found.status_code != 200:
                    self.failures.append(f"{found.status_code}: {found.text}")
                    continue
                body = found.json()
                self.acknowledged.append(body["prediction_id"])
                took = time.monotonic() - began
                self.answers.append((began, took, body["model_version"], body["probabilities"]["Positive"]))


def test_a_killed_worker_is_replaced_and_what_it_said_is_kept(
    platform: Platform, promote: Callable[..., Champion], start_server: Callable[..., Server]
) -> None:
    promote(platform)
    server = start_server()
    load = Load(server.client.base_url)
    kills = int(os.environ.get("MSO_KILLS", "8"))
    with ThreadPoolExecutor(3) as pool:
        asking = pool.map(load.ask, range(3))
        chance = random.Random(7)  # noqa: S311 - moments, not secrets
        for _ in range(kills):
            time.sleep(chance.uniform(0.2, 1.2))
            worker, killed = server.children()["worker"], time.monotonic()
            worker.kill()
            while time.monotonic() - killed < 10:
                with contextlib.suppress(httpx.TransportError, IndexError):
                    if server.client.get("/livez").status_code == 200 and server.children()["worker"].pid != worker.pid:
                        break
                time.sleep(0.01)
            assert time.monotonic() - killed < 10
        time.sleep(0.3)
        load.stopped = True
        list(asking)
    server.stop()
    rows = platform.tables.read(PREDICTIONS_TABLE)
    kept = Counter(rows["prediction_id"].to_pylist())
    assert len(load.acknowledged) > 100
    assert not set(load.acknowledged) - set(kept)
    assert max(kept.values()) == 1
    sums = [
        sum(row)
        for row in zip(*(rows[f"p_{name}"].to_pylist() for name in ("negative", "neutral", "positive")), strict=True)
    ]
    assert all(abs(found - 1) < 1e-6 for found in sums)
    assert platform.spool.depth() == 0
    assert not list((platform.workspace / "spool").glob("*.damaged"))


def test_a_server_that_is_told_to_end_answers_all_that_it_was_asked(
    platform: Platform, promote: Callable[..., Champion], start_server: Callable[..., Server]
) -> None:
    promote(platform)
    server = start_server("api.workers=2")
    load = Load(server.client.base_url)
    line = "Love to cook with it although it crashes when I pay,a note\n"
    with ThreadPoolExecutor(5) as pool, httpx.Client(base_url=server.client.base_url, timeout=120) as sender:
        asking = pool.map(load.ask, range(4))
        time.sleep(0.7)
        answer = pool.submit(
            sender.post, "/predict", files={"file": ("large.csv", "review_text,note\n" + line * 60_000)}
        )
        time.sleep(0.5)
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        while not load.failures and server.process.poll() is None:
            time.sleep(0.01)
        load.stopped = True
        assert answer.result().status_code == 200
        list(asking)
    assert len(answer.result().text.splitlines()) == 60_001
    # once nobody listens any more connections are refused, and no request fails in another way
    assert all("refused" in failure for failure in load.failures), load.failures[:3]
    assert server.process.wait(40) == 0
    assert time.monotonic() - began < 30
    kept = set(platform.tables.read(PREDICTIONS_TABLE, ["prediction_id"])["prediction_id"].to_pylist())
    assert set(load.acknowledged) <= kept
    assert platform.spool.depth() == 0


def test_each_answer_is_of_the_model_that_it_names_while_models_change(
    platform: Platform,
    promote: Callable[..., Champion],
    start_server: Callable[..., Server],
    tiny_model: SentimentModel,
) -> None:
    promote(platform)
    server = start_server("api.workers=2")
    load = Load(server.client.base_url)
    expected = {"1": tiny_model.probabilities(["Love to cook with it"])[0, 2]}
    with ThreadPoolExecutor(2) as pool:
        asking = pool.map(load.ask, range(2))
        for number in range(6):
            bias = tiny_model.calibration.bias + np.array([number * 0.3, 0.0, 0.0])
            model = replace(tiny_model, calibration=replace(tiny_model.calibration, bias=bias))
            version = promote(platform, note=str(number), model=model).version
            expected[version] = model.probabilities(["Love to cook with it"])[0, 2]
            deadline = time.monotonic() + 10
            while not load.answers or load.answers[-1][2] != version:
                assert time.monotonic() < deadline, "the promotion was not followed"
                time.sleep(0.02)
        load.stopped = True
        list(asking)
    assert load.failures == []
    assert {version for *_, version, _ in load.answers} == set(expected)
    assert all(abs(found - expected[version]) < 1e-6 for *_, version, found in load.answers)


def test_what_workers_count_is_summed(
    platform: Platform, promote: Callable[..., Champion], start_server: Callable[..., Server]
) -> None:
    promote(platform)
    server = start_server("api.workers=2")
    for _ in range(30):
        with httpx.Client(base_url=server.client.base_url) as client:  # a connection may come to either worker
            assert client.post("/predict", json={"texts": ["Love to cook with it"] * 2}).status_code == 200
    figures = server.client.get("/metrics").text
    assert 'http_requests_total{method="POST",route="/predict",status="200"} 30.0' in figures
    assert 'mso_predictions_total{label="Positive",model_version="1"} 60.0' in figures
    assert "mso_spool_depth 60.0" in figures


def test_predictions_survive_a_power_loss_where_that_is_asked_for(
    platform: Platform, promote: Callable[..., Champion], start_server: Callable[..., Server]
) -> None:
    promote(platform)
    server = start_server("api.durability=disk")
    load = Load(server.client.base_url)
    with ThreadPoolExecutor(8) as pool:
        asking = pool.map(load.ask, range(8))
        time.sleep(1.5)
        load.stopped = True
        list(asking)
    assert load.failures == []
    assert len(load.acknowledged) > 50


def test_a_spool_that_is_full_refuses_or_sheds_as_the_settings_say(
    platform: Platform, promote: Callable[..., Champion], start_server: Callable[..., Server]
) -> None:
    promote(platform)
    folder = platform.workspace / "tables"
    folder.write_text("no folder, so that nothing can be drained")
    text = "Love to cook with it " * 900
    for policy, last in (("refuse", 503), ("shed", 200)):
        server = start_server("api.spool_max_mb=16", f"api.spool_full={policy}")
        found = [server.client.post("/predict", json={"texts": [text] * 50}).status_code for _ in range(25)]
        assert found[-1] == last
        if policy == "refuse":
            assert 200 in found
        else:
            assert server.client.get("/readyz").json()["predictions_shed"] > 0
        server.stop()


def test_a_server_tells_a_collector_of_its_requests_and_its_log_is_json(
    platform: Platform,
    promote: Callable[..., Champion],
    start_server: Callable[..., Server],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    promote(platform)
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.address)
        server = start_server("api.trace_share=1.0", "api.log_requests=all")
        assert server.client.post("/predict_json", json={"text": "Kumquat"}).status_code == 200
        assert server.client.post("/predict", content=b"review_text\nKumquat\n", headers={"Content-Type": "text/csv"})
        head = server.client.head("/model")
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) == len(server.client.get("/model").content)
        with socket.create_connection(("127.0.0.1", platform.settings.api.port)) as connection:
            connection.sendall(b"Kumquat\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
        server.stop()
        spans = [
            span.name
            for request in collector.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
    assert sorted(spans) == ["GET /model", "HEAD", "POST /predict", "POST /predict_json"]
    lines = [json.loads(line) for line in (tmp_path / "server.log").read_text().splitlines()]
    assert "Invalid HTTP request received." in [line["event"] for line in lines]
    assert len({line["request_id"] for line in lines if line["event"] == "answered"}) == 4
    assert "Kumquat" not in str(lines)


def test_a_server_that_ends_as_soon_as_it_answered_leaves_nothing_in_its_spool(
    platform: Platform, promote: Callable[..., Champion], start_server: Callable[..., Server]
) -> None:
    promote(platform)
    platform.keeper.follow()  # so that a worker can answer before its keeper has loaded what it needs
    server = start_server()
    answer = server.client.post("/predict_json", json={"text": "Love to cook with it"})
    server.stop()
    kept = platform.tables.read(PREDICTIONS_TABLE, ["prediction_id"])["prediction_id"].to_pylist()
    assert kept == [answer.json()["prediction_id"]]
    assert platform.spool.depth() == 0
