"""The server as a process of its own, over the real local adapters, with an MLflow server that is away."""

from __future__ import annotations

import csv
import io
import json
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
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import pytest

from mobile_sentiment_ops.bootstrap import Platform
from mobile_sentiment_ops.data.predictions import PREDICTIONS_TABLE
from mobile_sentiment_ops.settings import Settings
from mobile_sentiment_ops.types import Champion

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Server:
    """A running server; `cpu_seconds` is what its start took."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    cpu_seconds: float

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


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
        used = psutil.Process(process.pid).cpu_times()
        started.append(Server(process, client, used.user + used.system))
        return started[-1]

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()
        server.client.close()


def test_a_server_starts_from_its_local_copy_while_mlflow_is_away(
    platform: Platform, promote: Callable[..., Champion], start_server: Callable[..., Server]
) -> None:
    promote(platform)
    server = start_server()
    assert server.cpu_seconds < 3.0  # of the processor, as other work on the machine stretches the clock's
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
    source = """
import json, sys
from mobile_sentiment_ops.app.ml_server import create_app
from mobile_sentiment_ops.app.prediction import Review
from mobile_sentiment_ops.bootstrap import Platform
from mobile_sentiment_ops.settings import Settings

platform = Platform(Settings.model_validate_json(sys.argv[1]))
create_app(platform)
platform.predictions.load()
platform.predictions.batch("r").predict([Review("Love it")])
heavy = ("mlflow", "pandas", "sklearn", "scipy", "xgboost", "matplotlib", "polars")
at_start = [name for name in heavy if name in sys.modules]
platform.predictions.drain()
print(json.dumps([at_start, [name for name in heavy if name in sys.modules]]))
"""
    process = start_python(source, platform.settings.model_dump_json())
    assert process.stdout is not None
    assert json.loads(process.stdout.read().splitlines()[-1]) == [[], ["polars"]]


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
        assert time.monotonic() - began < 20
        answer = server.client.get("/readyz")
        assert answer.status_code == 503
        assert answer.json()["detail"] == "the champion is not loaded yet"


def test_an_address_that_is_taken_ends_with_a_sentence(platform: Platform, start_server: Callable[..., Server]) -> None:
    start_server()
    port = platform.settings.api.port
    command = [sys.executable, "-m", "mobile_sentiment_ops", "--set", f"api.port={port}", "serve", "--no-train"]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=platform.workspace)
    assert second.returncode == 2
    assert second.stderr.splitlines()[-1].startswith(f"error: the API cannot listen on 127.0.0.1 port {port}: ")


def test_a_large_file_holds_up_no_other_request(
    platform: Platform, promote: Callable[..., Champion], start_server: Callable[..., Server]
) -> None:
    promote(platform)
    server = start_server()
    line = "{},Love to cook with it although it crashes when I pay," + "a long note of the caller " * 12 + "\n"
    rows = 40_000_000 // len(line)
    data = ("id,review_text,note\n" + "".join(line.format(number) for number in range(rows))).encode()
    memory = psutil.Process(server.process.pid).memory_info
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
    assert statistics.median(waits["/livez"]) < 0.1
    for path, waited in waits.items():
        print(path, f"median {statistics.median(waited):.3f} s, worst {max(waited):.3f} s of {len(waited)}")
        assert statistics.median(waited) < 0.5
        assert max(waited) < 3.0
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
        server.process.kill()
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
    assert reached < 5.0
    assert max(at for at, _, version in answers if version == "1") - changed < 5.0


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
    assert (reached - decided.at).total_seconds() < 5.0


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
        assert time.monotonic() - changed < 5.0
        time.sleep(0.05)
    print(f"followed again after {time.monotonic() - changed:.2f} s")
