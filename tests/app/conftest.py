"""A small real model, and the API over memory with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from mobile_sentiment_ops.adapters.memory import MemoryPorts
from mobile_sentiment_ops.app.hot import Dispatcher
from mobile_sentiment_ops.app.ml_server import create_app
from mobile_sentiment_ops.bootstrap import Platform
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.models.training import train
from mobile_sentiment_ops.registry.bundle import pack_bundle
from mobile_sentiment_ops.settings import Settings
from mobile_sentiment_ops.types import Champion, Decision, ModelVersion

TEXTS = (
    ("It crashes when I {} it", "Cannot {} at all, awful", "So slow to {}, I want my money back"),
    ("It is ok to {}", "You can {} with it, nothing special", "How do I {}?"),
    ("Love to {} with it", "Great, I {} every day", "Best app to {}, thanks"),
)
DEEDS = ("open", "pay", "scan", "read", "log in", "travel", "cook")


@pytest.fixture(scope="session")
def tiny_model() -> SentimentModel:
    """A real `lr` trained on 63 short reviews."""
    rows = [
        (form.format(deed), 1 + 2 * label, label)
        for label, forms in enumerate(TEXTS)
        for form in forms
        for deed in DEEDS
    ]
    frame = pl.DataFrame(rows, {"review_text": pl.Utf8(), "rating": pl.Int8(), "label": pl.Int8()}, orient="row")
    return train("lr", frame.gather_every(7, 1).vstack(frame), frame.gather_every(5), seed=0)


@pytest.fixture
def promote(tiny_model: SentimentModel) -> Callable[..., Champion]:
    """Registers the small model as one more version and makes it the champion: `promote(platform)`."""

    def promote(ports: MemoryPorts | Platform, *, note: str = "", model: SentimentModel = tiny_model) -> Champion:
        card = {
            "kind": "lr",
            "trained_at": "2025-03-01T11:00:00+00:00",
            "dataset": {"fingerprint": "f" * 64, "source": "reviews"},
            "metrics": {"macro_f1": 0.74, "accuracy": 0.79, "f1_neutral": float("nan")},
            "note": note,
        }
        files, bundle_hash = pack_bundle(model, card=card, manifest=b"")
        ports.bundles.put(files, bundle_hash)
        champion = ports.state.champion()
        number = str(int(champion.version) + 1 if champion else 1)
        version = ModelVersion(number, "lr", bundle_hash, "run", "f" * 64, ports.clock.now())
        decision = Decision("promote", number, "gate", "macro-F1 .74 against .71")
        return ports.state.change_champion(version, decision, expected_token=champion.token if champion else 0)

    return promote


@dataclass(frozen=True)
class Client:
    """Speaks to an application that runs in a thread; may itself be used by many."""

    app: Dispatcher
    portal: BlockingPortal
    http: httpx.AsyncClient

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        return self.portal.call(partial(self.http.request, method, path, **more))

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, **more: Any) -> httpx.Response:
        return self.request("POST", path, **more)

    def send_csv(self, data: bytes | str, name: str = "reviews.csv") -> httpx.Response:
        return self.post("/predict", files={"file": (name, data, "text/csv")})


@dataclass(frozen=True)
class World:
    """The API over memory: `client` speaks to it, `ports` is what it wrote, `folder` is its workspace, and
    `stop` ends it as a signal does."""

    client: Client
    ports: MemoryPorts
    folder: Path
    stop: Callable[[], None]

    def wait_until(self, true: Callable[[], object], seconds: float = 10.0) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < deadline, "it did not happen"
            time.sleep(0.01)


@pytest.fixture
def make_world(memory: MemoryPorts, tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Starts the API over memory: `make_world({"api": {"max_csv_rows": 5}})`."""
    with start_blocking_portal() as portal, ExitStack() as running:

        def make(settings: Mapping[str, object] | None = None, *, train_if_missing: bool = False) -> World:
            folder = tmp_path / "workspace"
            tree = Settings.model_validate({"storage": {"workspace": folder}, **(settings or {})})
            platform = Platform(tree)
            platform.__dict__.update(vars(memory))
            app = create_app(platform, train_if_missing=train_if_missing)
            server = ExitStack()
            running.callback(server.close)
            server.enter_context(portal.wrap_async_context_manager(app.app.router.lifespan_context(app.app)))
            http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
            running.callback(portal.call, http.aclose)
            return World(Client(app, portal, http), memory, folder, server.close)

        yield make


@pytest.fixture
def world(memory: MemoryPorts, make_world: Callable[..., World], promote: Callable[..., Champion]) -> World:
    """The API with the small model as its champion."""
    promote(memory)
    return make_world()
