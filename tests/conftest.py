"""What the tests share: pieces in memory, and real servers for the tests that are marked."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from mobile_sentiment_ops.adapters.memory import FixedClock, MemoryPorts
from mobile_sentiment_ops.app.keeper import Keeper
from mobile_sentiment_ops.app.prediction import Answer, Batch, PredictionHandler
from mobile_sentiment_ops.bootstrap import Platform
from mobile_sentiment_ops.data.predictions import Review
from mobile_sentiment_ops.ports import TrainingRun
from mobile_sentiment_ops.settings import Api, Mlflow, Settings
from mobile_sentiment_ops.types import ModelVersion

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _logs_go_where_they_are_looked_for() -> Iterator[None]:
    """A command that a test ran in this process would leave its closed output as the place of all logs."""
    yield
    structlog.reset_defaults()


@pytest.fixture
def clock() -> FixedClock:
    """A clock that stands at noon of 2025-03-01."""
    return FixedClock(NOON)


@pytest.fixture
def memory(clock: FixedClock) -> MemoryPorts:
    """Every port in memory, on that clock."""
    return MemoryPorts(clock)


@dataclass(frozen=True)
class Serving:
    """A keeper and what answers after it, over the same ports."""

    keeper: Keeper
    predictions: PredictionHandler

    def follow(self) -> bool:
        """Publish the champion and follow it: whether another model answers now."""
        self.keeper.follow()
        return self.predictions.reload()

    def batch(self, request_id: str = "request") -> Batch:
        return self.predictions.batch(request_id, self.predictions.new_id())

    def ask(self, *texts: str) -> list[Answer]:
        return self.batch().predict([Review(text) for text in texts])

    @property
    def reason(self) -> str:
        return self.predictions.reason

    @property
    def version(self) -> str:
        return self.predictions.live().version


@pytest.fixture
def serve() -> Callable[..., Serving]:
    """Makes servers over memory: `serve(memory, log_text="hash")`."""

    def make(ports: MemoryPorts, **settings: object) -> Serving:
        platform = Platform(Settings(api=Api.model_validate(settings)))
        vars(platform).update(vars(ports))
        return Serving(platform.keeper, platform.predictions)

    return make


@pytest.fixture
def version() -> Callable[..., ModelVersion]:
    """Makes registered versions: `version("2", kind="rf")`."""

    def make(number: str, *, kind: str = "lr") -> ModelVersion:
        return ModelVersion(number, kind, f"hash-{number}", f"run-{number}", "dataset", NOON)

    return make


@pytest.fixture
def training_run() -> Callable[..., TrainingRun]:
    """Makes finished runs: `training_run("rf")`."""

    def make(kind: str) -> TrainingRun:
        return TrainingRun(
            name={"lr": "LogisticRegression", "rf": "RandomForest"}[kind],
            kind=kind,
            started_at=NOON,
            finished_at=NOON.replace(minute=1),
            parameters={"kind": kind, "C": "1.5"},
            metrics={"macro_f1": 0.7125, "macro_f1_app_com.shop.app": 0.5},
            tags={"git_revision": "abc"},
            dataset={"fingerprint": "f" * 64, "source": "reviews", "rows": {"train": 80, "test": 20}},
            artifacts={"confusion_matrix.png": b"\x89PNG", "classification_report.txt": b"report"},
            bundle={"manifest.json": b"{}", "weights.npy": bytes(range(256)), "parts/card.json": b"{}"},
            bundle_hash=f"hash-{kind}",
        )

    return make


@pytest.fixture
def start_python() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python processes: `start_python(source, *arguments)`; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def start(source: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", source, *arguments]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real reviews; tests that need it are skipped where it is not there."""
    folder = Path(os.environ.get("MSO_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "play_fintech_reviews.parquet").is_file():
        pytest.skip(f"no real reviews in {folder}; set MSO_SHARED_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an empty Postgres of its own; skipped where the machine has none."""
    pytest.importorskip("psycopg", reason="no Postgres driver installed")
    if shutil.which("initdb") is None:
        pytest.skip("no Postgres on this machine")
    folder = tmp_path_factory.mktemp("postgres")
    socket_folder = Path("/tmp")
    as_user = []
    if os.getuid() == 0:  # Postgres refuses to run as root
        for path in (folder, *folder.parents[:2]):
            path.chmod(0o755)
        shutil.chown(folder, "postgres")
        as_user = ["runuser", "-u", "postgres", "--"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = str(folder / "data")
    subprocess.run([*as_user, "initdb", "-D", data, "-U", "mso", "-A", "trust"], check=True, capture_output=True)
    options = f"-p {port} -k {socket_folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    subprocess.run([*as_user, "pg_ctl", "-D", data, "-w", "-o", options, "-l", f"{data}.log", "start"], check=True)
    try:
        yield f"postgresql+psycopg://mso@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*as_user, "pg_ctl", "-D", data, "-m", "immediate", "stop"], check=True, capture_output=True)


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real MLflow server with one worker, SQLite and local artifacts."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "server.log").open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **quiet},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        address = f"http://127.0.0.1:{port}"
        try:
            _wait_until_healthy(f"{address}/health", server, folder / "server.log")
            yield address
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


@pytest.fixture
def mlflow_settings(mlflow_server: str) -> Mlflow:
    """An experiment and a registered model of its own on the server."""
    name = os.urandom(6).hex()
    return Mlflow(tracking_uri=mlflow_server, experiment=f"Experiment {name}", registered_model=f"Model{name}")


def _wait_until_healthy(address: str, server: subprocess.Popen[bytes], output: Path) -> None:
    for _ in range(120):
        if server.poll() is not None:
            break
        try:
            if httpx.get(address, timeout=1).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    pytest.fail(f"the server did not get ready: {output.read_text(errors='replace')[-2000:]}")


@pytest.fixture
def postgres_database(postgres: str) -> str:
    """The address of a new database on it."""
    import sqlalchemy as sa

    name = f"test_{os.urandom(6).hex()}"
    engine = sa.create_engine(postgres, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return postgres.removesuffix("/postgres") + f"/{name}"


@pytest.fixture(scope="session")
def demo_workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a small demo world and a trained `lr` champion, over the real local adapters.

    Only the registry is in memory, as a server would take longer than all the rest."""
    from mobile_sentiment_ops.data.demo_world import generate
    from mobile_sentiment_ops.settings import Demo, resolve_settings

    workspace = tmp_path_factory.mktemp("demo") / "workspace"
    flags = {"storage.workspace": str(workspace), "training.kinds": ["lr"]}
    platform = Platform(resolve_settings(environment={}, flags=flags).settings)
    vars(platform)["registry"] = MemoryPorts(FixedClock(NOON)).registry
    platform.data.ingest_frames("demo world", [generate(Demo(reviews=3_000)).reviews])
    platform.models.train_startup_model()
    return workspace


@pytest.fixture(scope="session")
def demo_server(demo_workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the API over a copy of that workspace."""
    import uvicorn

    from mobile_sentiment_ops.app.ml_server import create_app
    from mobile_sentiment_ops.settings import resolve_settings

    workspace = tmp_path_factory.mktemp("served") / "workspace"
    shutil.copytree(demo_workspace, workspace)
    flags = {"storage.workspace": str(workspace), "mlflow.tracking_uri": "http://127.0.0.1:9"}
    platform = Platform(resolve_settings(environment={}, flags=flags).settings)
    app = create_app(platform, train_if_missing=False)
    server = uvicorn.Server(uvicorn.Config(app, ws="none", lifespan="on", log_config=None, access_log=False))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server did not start"
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
