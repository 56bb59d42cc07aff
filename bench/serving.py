"""What a prediction over HTTP costs, beside other servers in the same run, and what a server endures.

    make bench-serving        or: python -m bench --only serving [--dry]

CPU time is that of all processes of a server, ours without the keeper, which has a row of its own. Every body
is distinct, the key is sent with each request, and metrics and the prediction log are on. Peers serve
scikit-learn's TF-IDF and LogisticRegression of the same rows, each in an environment of its own
(requirements/peers); servers take turns within one run. Nothing leaves 127.0.0.1.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import psutil

from bench import load as loads
from bench import score
from bench.load import NUMBER, Load, NotMeasured, RunningLoad, Server
from bench.results import ROOT, Row, goal_row, goals, markdown
from bench.splits import SOURCES, TEST_SHARE, distinct_reviews
from mobile_sentiment_ops.bootstrap import Platform
from mobile_sentiment_ops.data.predictions import PREDICTIONS_TABLE
from mobile_sentiment_ops.data.splits import random_split
from mobile_sentiment_ops.errors import MsoError
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.models.training import train
from mobile_sentiment_ops.registry.bundle import pack_bundle
from mobile_sentiment_ops.settings import resolve_settings
from mobile_sentiment_ops.types import LABELS, Decision, ModelVersion

AREA = "serving"
SEED = 0
BATCH = 100
RATE = 2_000
CONSTANT = "constant answer"
MAX_SPREAD_MS = 5.0
DRAINED_WITHIN_SECONDS = 150
"""A worker's open segment is finished after a minute, and segments are drained once a minute."""
SAME = 2e-6
"""How far a probability may be off that travelled as JSON."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of everything."""

    repetitions: int = 5
    seconds: float = 3.0
    tail_runs: int = 10
    tail_seconds: float = 10.0
    swaps: int = 50
    rounds: int = 100
    csv_rows: int = 800_000
    score_rows: int = 5_000_000
    train_rows: int | None = None


SMALL = Plan(
    repetitions=2,
    seconds=1.0,
    tail_runs=2,
    tail_seconds=2.0,
    swaps=4,
    rounds=10,
    csv_rows=50_000,
    score_rows=200_000,
    train_rows=5_000,
)


@dataclass(frozen=True, slots=True)
class Peer:
    """Another server: its file in bench/peers, its environment, how it is asked, its row in goals.json."""

    script: str
    environment: str | None
    target: str
    body: Callable[[str], object]
    row: str = ""

    def python(self) -> str:
        """The Python that runs it: this one, or that of its environment."""
        return str(ROOT / ".peers" / self.environment / "bin" / "python") if self.environment else sys.executable


def _text(text: str) -> object:
    return {"text": text}


def _infer(text: str) -> object:
    return {"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}]}


PEERS = {
    CONSTANT: Peer("constant.py", None, "/predict_json", _text, "ratio/constant_answer"),
    "plain FastAPI": Peer("plain_fastapi.py", None, "/predict_json", _text),
    "mlflow models serve": Peer(
        "mlflow_serve.py", None, "/invocations", lambda text: {"inputs": [text]}, "ratio/mlflow_models_serve"
    ),
    "BentoML batching": Peer(
        "bentoml_batching.py", "bentoml", "/predict", lambda text: {"texts": [text]}, "ratio/bentoml_batching"
    ),
    "MLServer batching": Peer(
        "mlserver_batching.py", "mlserver", "/v2/models/sentiment/infer", _infer, "ratio/mlserver_batching"
    ),
    "LitServe batching": Peer("litserve_batching.py", "litserve", "/predict", _text, "ratio/litserve"),
}


@dataclass
class Bench:
    """What all parts work with: a folder, reviews, and a workspace in which two versions wait."""

    folder: Path
    reviews: Path
    """The folder of real reviews."""
    plan: Plan
    train: pl.DataFrame
    texts: list[str]
    """Reviews that no model saw, each with a place for a number."""
    _made: int = field(default=0, init=False)

    @classmethod
    def prepared(cls, folder: Path, reviews: Path, plan: Plan) -> Bench:
        real = distinct_reviews(reviews / SOURCES["fintech"].file)
        rows, others = random_split(real, test_share=TEST_SHARE, seed=SEED)
        rows = rows.sample(fraction=1.0, shuffle=True, seed=SEED).head(plan.train_rows or rows.height)
        return cls(folder, reviews, plan, rows, [f"{text} {NUMBER}" for text in others["review_text"]])

    @cached_property
    def models(self) -> dict[str, SentimentModel]:
        """By version: one of all rows, one of half of them."""
        parts = {"1": self.train, "2": self.train.head(self.train.height // 2)}
        return {version: train("lr", rows, rows.clear(), seed=SEED) for version, rows in parts.items()}

    @cached_property
    def rows_file(self) -> Path:
        """The rows that peers learn from."""
        path = self.folder / "rows.json"
        labels = [LABELS[label] for label in self.train["label"]]
        path.write_text(json.dumps({"texts": self.train["review_text"].to_list(), "labels": labels}), "utf-8")
        return path

    def new_folder(self) -> Path:
        self._made += 1
        path = self.folder / f"{self._made}"
        path.mkdir()
        return path

    def workspace(self) -> Workspace:
        """A new one with both versions, of which the first is champion."""
        found = Workspace(self, self.new_folder())
        for version, model in self.models.items():
            card = {
                "kind": "lr",
                "trained_at": datetime.now(UTC).isoformat(),
                "dataset": {"fingerprint": "f" * 64, "source": "reviews"},
                "metrics": {},
            }
            files, bundle_hash = pack_bundle(model, card=card, manifest=b"")
            found.platform.bundles.put(files, bundle_hash)
            found.versions[version] = ModelVersion(version, "lr", bundle_hash, "run", "f" * 64, datetime.now(UTC))
        found.promote("1")
        return found

    def requests(self, target: str, bodies: Sequence[object], headers: Mapping[str, str]) -> Path:
        told = [json.dumps(body, ensure_ascii=False, separators=(",", ":")) for body in bodies]
        return loads.requests_file(self.new_folder() / "requests", told, target=target, headers=headers)

    def singles(self, headers: Mapping[str, str]) -> Path:
        return self.requests("/predict_json", [_text(text) for text in self.texts], headers)

    def text_of(self, number: int, first: int) -> str:
        """What was sent with this number by a load that began at `first`."""
        return self.texts[(number - first) % len(self.texts)].replace(NUMBER, f"{number:0{len(NUMBER)}d}")


@dataclass
class Workspace:
    """A workspace of ours and the servers that run on it."""

    bench: Bench
    path: Path
    versions: dict[str, ModelVersion] = field(default_factory=dict)

    @cached_property
    def platform(self) -> Platform:
        return Platform(resolve_settings(environment={}, flags={"storage.workspace": str(self.path)}).settings)

    @cached_property
    def headers(self) -> dict[str, str]:
        """What every request carries: the key."""
        command = [sys.executable, "-m", "mobile_sentiment_ops", "keys", "add", "bench", "--role", "predict", "--json"]
        made = subprocess.run(command, env=self._environment(), capture_output=True, text=True, check=False)
        return {"X-API-Key": json.loads(made.stdout)["key"]} if made.returncode == 0 else {}

    def promote(self, version: str) -> None:
        state = self.platform.state
        champion = state.champion()
        decision = Decision("promote", version, "bench", "for the measurement")
        state.change_champion(self.versions[version], decision, expected_token=champion.token if champion else 0)

    def _environment(self, **settings: object) -> dict[str, str]:
        told = {name.upper().replace("_", "__", 1): str(value) for name, value in settings.items()}
        inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return {
            **inherited,
            "MSO_STORAGE__WORKSPACE": str(self.path),
            "MSO_MLFLOW__TRACKING_URI": "http://127.0.0.1:9",  # nobody is there, and serving needs nobody
            **{f"MSO_{name}": value for name, value in told.items()},
        }

    def started(self, *, workers: int = 1, **settings: object) -> Server:
        """Our server, not waited for."""
        port = loads.free_port()
        required = str(bool(self.headers)).lower()
        environment = self._environment(api_port=port, api_workers=workers, api_require_keys=required, **settings)
        command = [sys.executable, "-m", "mobile_sentiment_ops", "serve", "--no-train"]
        return Server("mso serve", command, port, environment, self.path / "server.log")

    def serving(self, **settings: Any) -> Server:
        """Our server as soon as it answers."""
        server = self.started(**settings)
        server.wait(lambda: self.answer(server.port) is not None)
        return server

    def answer(self, port: int) -> bytes | None:
        return loads.answers(port, "/predict_json", '{"text": "Love it"}', self.headers)

    def get(self, server: Server, target: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{server.port}{target}"
        found: dict[str, Any] = httpx.get(url, headers=self.headers, timeout=10, trust_env=False).json()
        return found

    def waiting(self, server: Server) -> int:
        """Predictions that wait for their table."""
        return int(self.get(server, "/readyz")["spool_depth"])


# --- CPU per request


def costs(bench: Bench) -> Iterator[Row]:
    """CPU time per request of ours and of the peers, in turns."""
    space, plan = bench.workspace(), bench.plan
    with ExitStack() as stack:
        ours = stack.enter_context(space.serving())
        batches = [{"texts": bench.texts[at : at + BATCH]} for at in range(0, len(bench.texts) - BATCH, BATCH)]
        asked = {
            "ours": (ours, bench.singles(space.headers), 1),
            "ours, 100": (ours, bench.requests("/predict", batches, space.headers), BATCH),
        }
        sample = space.answer(ours.port) or b""
        absent: dict[str, str] = {}
        for name, peer in PEERS.items():
            try:
                server = stack.enter_context(_peer(bench, name, peer, space.headers, sample))
            except NotMeasured as err:
                absent[name] = str(err)
                continue
            bodies = [peer.body(text) for text in bench.texts]
            asked[name] = (server, bench.requests(peer.target, bodies, space.headers), 1)
        figures: dict[str, list[float]] = {name: [] for name in asked}
        keeper, logged, before = ours.keeper(), 0, ours.accounts()
        for turn in range(plan.repetitions + 1):  # the first one warms
            for name, (server, requests, reviews) in asked.items():
                if name in absent:
                    continue
                cpu, load = _cost(server, requests, plan.seconds if turn else 1.0, reviews)
                logged += load.answered * reviews if server is ours else 0
                if load.lost or not load.answered:
                    absent[name] = f"{load.lost} of {load.lost + load.answered} requests failed"
                elif turn:
                    figures[name].append(cpu * 1e6 / load.answered / reviews)
        drained, end = 0, time.monotonic() + DRAINED_WITHIN_SECONDS
        while keeper and not drained and time.monotonic() < end:
            time.sleep(1)
            drained = logged - space.waiting(ours)
        kept = ours.accounts()[keeper.pid] - before.get(keeper.pid, 0.0) if keeper else 0.0
    yield from _cost_rows(figures, absent)
    name, unit = "keeper/cpu_us_per_review", "us CPU/review"
    if drained:
        note = f"all that the keeper did while {drained:,} predictions came into their table"
        yield Row(name, round(kept * 1e6 / drained, 2), unit, "lower", note=note)
    else:
        note = "nothing was drained meanwhile" if keeper else "there is no process beside those that answer"
        yield Row(name, None, unit, "lower", n=0, note=note)


def _cost_rows(figures: Mapping[str, Sequence[float]], absent: Mapping[str, str]) -> Iterator[Row]:
    """The rows that follow from CPU us per request, by turn, of all servers.

    >>> rows = list(_cost_rows({"ours": [20, 30, 25], "ours, 100": [], CONSTANT: [20, 20, 20]}, {"ours, 100": "away"}))
    >>> [(row.name, row.value, row.spread) for row in rows if row.value]
    [('predict_json/single/cpu_us', 25, (20, 30)), ('ratio/constant_answer', 1.25, (1.0, 1.5))]
    """
    middle = {name: round(statistics.median(values), 2) for name, values in figures.items() if name not in absent}
    peers = {name: value for name, value in middle.items() if name in PEERS}
    for name, row in (("ours", "predict_json/single/cpu_us"), ("ours, 100", "predict/batch100/cpu_us_per_review")):
        if name in absent:
            yield goal_row(AREA, row, None, n=0, note=absent[name])
        else:
            yield _of(row, figures[name], peers=peers if name == "ours" else {})
    for name, row in ((name, peer.row) for name, peer in PEERS.items() if peer.row):
        missing = [one for one in ("ours", name) if one in absent or one not in figures]
        if away := [f"{one}: {absent.get(one, 'not asked')}" for one in missing]:
            yield goal_row(AREA, row, None, n=0, note="; ".join(away))
            continue
        pairs = list(zip(figures[name], figures["ours"], strict=True))
        yield _of(row, [one / own if name != CONSTANT else own / one for one, own in pairs])


def _of(name: str, values: Sequence[float], **more: Any) -> Row:
    """A goal's row of the middle of repeated values."""
    spread = (round(min(values), 3), round(max(values), 3))
    return goal_row(AREA, name, round(statistics.median(values), 3), spread=spread, n=len(values), **more)


def _cost(server: Server, requests: Path, seconds: float, labels: int) -> tuple[float, Load]:
    """CPU seconds of a closed loop, without the keeper's, and the loop."""
    keeper, before = server.keeper(), server.accounts()
    load = RunningLoad(server.port, requests, seconds=seconds, labels=labels).finish()
    return loads.spent(before, server.accounts(), without=keeper.pid if keeper else None), load


def _peer(bench: Bench, name: str, peer: Peer, headers: Mapping[str, str], sample: bytes) -> Server:
    """A peer as soon as it answers; NotMeasured says why it does not. The constant answer is our `sample`."""
    if not Path(peer.python()).exists():
        raise NotMeasured(f"{name} is not installed here; `make bench-serving` does that")
    folder, port = bench.new_folder(), loads.free_port()
    (folder / "answer.json").write_bytes(sample)
    environment = {"ROWS": str(bench.rows_file), "PATH": f"{Path(peer.python()).parent}:{os.environ['PATH']}"}
    command = [peer.python(), str(ROOT / "bench" / "peers" / peer.script), str(port), str(folder)]
    server = Server(name, command, port, environment, folder / "server.log")
    body = json.dumps(peer.body("Love it"))
    server.wait(lambda: loads.answers(port, peer.target, body, headers) is not None)
    return server


# --- in process, and at the start


def inprocess(bench: Bench) -> Iterator[Row]:
    """CPU time of the compiled scorer without a server."""
    try:
        from mobile_sentiment_ops.models.compiled import CompiledModel, compile_model
    except ImportError as err:
        raise NotMeasured(str(err)) from err
    compiled = CompiledModel.of(compile_model(bench.models["1"], "f" * 64))
    texts = bench.train["review_text"].to_list()
    batches = [texts[at : at + 1_000] for at in range(0, len(texts) - 999, 1_000)]
    figures: dict[str, list[float]] = {"inprocess/batch1000/us": [], "inprocess/single/us": []}
    for turn in range(bench.plan.repetitions + 1):
        began = time.process_time()
        for batch in batches:
            compiled.scored(batch)
        middle = time.process_time()
        for text in texts:
            compiled.one(text)
        if turn:
            figures["inprocess/batch1000/us"].append((middle - began) * 1e6 / (1_000 * len(batches)))
            figures["inprocess/single/us"].append((time.process_time() - middle) * 1e6 / len(texts))
    for name, values in figures.items():
        yield _of(name, values, note=f"lr, {len(texts):,} real reviews")


def starts(bench: Bench) -> Iterator[Row]:
    """What a server takes until it answers, and each further worker."""
    space = bench.workspace()
    space.serving().stop()  # which leaves bytecode and the compiled model behind
    first: dict[str, list[float]] = {"start/first_process_cpu_s": [], "start/first_process_mb": []}
    further: dict[str, list[float]] = {"start/worker_cpu_s": [], "start/worker_private_mb": []}
    requests, alone = bench.singles(space.headers), ""
    for _ in range(bench.plan.repetitions):
        with space.serving() as server:
            accounts = server.accounts()
            keeper = server.known_keeper()
            cpu = loads.spent({}, accounts, without=keeper.pid if keeper else None)
            resident = [one.memory_info().rss / 2**20 for one in server.processes() if one != keeper]
        first["start/first_process_cpu_s"].append(cpu)
        first["start/first_process_mb"].append(max(resident))
        with space.serving(workers=2) as server:
            server.known_keeper()
            RunningLoad(server.port, requests, seconds=0.5, rate=200, connections=16).finish()
            workers = [one for one in server.workers() if one != server.root]
            alone = alone or ("" if len(workers) == 2 else f"the server has {len(workers)} own workers, expected 2")
            accounts = server.accounts()
            further["start/worker_cpu_s"] += [accounts[one.pid] for one in workers]
            further["start/worker_private_mb"] += [loads.private_mb(one.pid) for one in workers]
    for name, values in first.items():
        yield _of(name, values, note="`mso serve` to its first answer: its first process and the worker")
    for name, values in further.items():
        note = "each of two workers after some 50 requests"
        yield goal_row(AREA, name, None, n=0, note=alone) if alone else _of(name, values, note=note)


# --- latencies


def tail(bench: Bench) -> Iterator[Row]:
    """p99 at a fixed rate, ours and the constant answer in turns."""
    space, plan = bench.workspace(), bench.plan
    with ExitStack() as stack:
        ours = stack.enter_context(space.serving())
        sample = space.answer(ours.port) or b""
        constant = stack.enter_context(_peer(bench, CONSTANT, PEERS[CONSTANT], space.headers, sample))
        requests = bench.singles(space.headers)
        found: dict[str, list[float]] = {"ours": [], CONSTANT: []}
        for _ in range(plan.tail_runs):
            for name, server in (("ours", ours), (CONSTANT, constant)):
                load = RunningLoad(server.port, requests, seconds=plan.tail_seconds, rate=RATE).finish()
                if load.lost or not load.answered:
                    raise NotMeasured(f"{name} lost {load.lost} of {load.lost + load.answered} requests at {RATE:,}/s")
                found[name].append(load.percentile_ms(0.99))
    yield tail_row(found["ours"], found[CONSTANT])


def tail_row(ours: Sequence[float], constant: Sequence[float]) -> Row:
    """The row of p99 in ms, by run; without a value where the constant answer's own varies too much.

    >>> tail_row([3.0, 1.0, 2.0], [0.5, 0.5, 1.0]).value
    1.5
    >>> tail_row([3.0, 1.0, 2.0], [0.5, 9.5, 1.0]).note
    'p99 of the constant answer varies by 9.0 ms on this machine; medians: ours 2.00 ms, constant 1.00 ms'
    """
    middles = statistics.median(ours), statistics.median(constant)
    told = f"medians: ours {middles[0]:.2f} ms, constant {middles[1]:.2f} ms"
    if (varies := max(constant) - min(constant)) > MAX_SPREAD_MS:
        note = f"p99 of the constant answer varies by {varies:.1f} ms on this machine; {told}"
        return goal_row(AREA, "p99_above_constant_ms", None, n=len(ours), note=note)
    above = [own - middles[1] for own in ours]
    peers = {CONSTANT: round(middles[1], 3)}
    return _of("p99_above_constant_ms", above, peers=peers, note=f"{len(ours)} runs each; {told}")


# --- what a server endures


def swaps(bench: Bench) -> Iterator[Row]:
    """Another champion again and again under load: each answer is compared with what its version says."""
    space, plan = bench.workspace(), bench.plan
    requests = bench.singles(space.headers)
    with (
        space.serving() as server,
        RunningLoad(server.port, requests, seconds=600, rate=RATE, keep_answers=True) as load,
    ):
        for number in range(plan.swaps):
            version = "21"[number % 2]
            space.promote(version)
            end = time.monotonic() + 15
            while space.get(server, "/model")["version"] != version and time.monotonic() < end:
                time.sleep(0.02)
        first, found = load.first, load.stop()
    own = [json.loads(body) for _, body in found.answers]
    texts = [bench.text_of(number, first) for number, _ in found.answers]
    said = {version: model.probabilities(texts) for version, model in bench.models.items()}
    versions = np.array([answer["model_version"] for answer in own])
    wrong = mismatched(versions, np.array([[one["probabilities"][name] for name in LABELS] for one in own]), said)
    seen = int((versions[1:] != versions[:-1]).sum())
    apart = float((np.abs(said["1"] - said["2"]).max(axis=1) > SAME).mean())
    note = (
        f"{plan.swaps} swaps at {RATE:,}/s, {seen} of them seen by {found.answered:,} answers; the two models "
        f"differ on {apart:.1%} of the texts; p99 {found.percentile_ms(0.99):.2f} ms"
    )
    yield goal_row(AREA, "swap/worst_ms", round(found.percentile_ms(1.0), 1), n=plan.swaps, note=note)
    note = f"{found.lost} not answered, {wrong} with probabilities that its version does not give"
    if seen < plan.swaps:
        note = f"only {seen} of {plan.swaps} swaps were seen; {note}"
    yield goal_row(AREA, "swap/failed", found.lost + wrong if seen >= plan.swaps else None, n=plan.swaps, note=note)


def mismatched(versions: np.ndarray, answered: np.ndarray, said: Mapping[str, np.ndarray]) -> int:
    """How many answers are not what the version they name gives for the text.

    >>> said = {"1": np.array([[0.5, 0.5], [0.1, 0.9]]), "2": np.array([[0.2, 0.8], [0.1, 0.9]])}
    >>> mismatched(np.array(["1", "3"]), np.array([[0.5, 0.5], [0.1, 0.9]]), said)
    1
    >>> mismatched(np.array(["2", "2"]), np.array([[0.5, 0.5], [0.1, 0.9]]), said)
    1
    """
    right = np.zeros(len(versions), bool)
    for version, probabilities in said.items():
        right |= (versions == version) & (np.abs(answered - probabilities).max(axis=1) <= SAME)
    return int((~right).sum())


def kills(bench: Bench) -> Iterator[Row]:
    """kill -9 at random moments under load; in the end the table is compared with what was acknowledged."""
    space, plan = bench.workspace(), bench.plan
    requests, chance = bench.singles(space.headers), random.Random(SEED)  # noqa: S311 - which moment is no secret
    acknowledged: list[str] = []
    with ExitStack() as stack:
        server: Server | None = None
        for number in range(plan.rounds):
            server = server or stack.enter_context(space.serving(workers=2))
            load = RunningLoad(server.port, requests, seconds=60, rate=1_000, connections=16, keep_answers=True)
            time.sleep(chance.uniform(0.05, 0.5))
            workers = [one for one in server.workers() if one != server.root]
            if number % 5 == 4 or not workers:
                server.kill()
                server = None
            else:
                chance.choice(workers).kill()
            time.sleep(0.1)
            acknowledged += [json.loads(body)["prediction_id"] for _, body in load.stop().answers]
        if server:
            server.kill()
    space.serving(workers=2).stop()  # told to end, it drains what it finds
    if left := list((space.path / "spool").glob("*.spool")):
        raise NotMeasured(f"{len(left)} segments of the spool were not drained at the end")
    columns = ["prediction_id", "p_negative", "p_neutral", "p_positive"]
    rows = pl.DataFrame(pl.from_arrow(space.platform.tables.read(PREDICTIONS_TABLE, columns)))
    damaged = len(list(space.path.rglob("*.damaged*")))
    note = f"{plan.rounds} rounds, {len(acknowledged):,} acknowledged, {rows.height:,} rows in the table"
    for name, value in lost_rows(acknowledged, rows).items():
        value += damaged if name == "kill9/torn" else 0
        yield goal_row(AREA, name, value, n=plan.rounds, note=note)


def lost_rows(acknowledged: Sequence[str], rows: pl.DataFrame) -> dict[str, int]:
    """What is wrong with the rows of a predictions table, by the names of goals.

    >>> rows = pl.DataFrame({"prediction_id": ["a", "b", "b"], "p_negative": [0.5, 0.2, 0.2],
    ...                      "p_neutral": [0.25, 0.2, 0.2], "p_positive": [0.25, 0.6, 0.1]})
    >>> lost_rows(["a", "b", "c"], rows)
    {'kill9/acknowledged_missing': 1, 'kill9/duplicated': 1, 'kill9/torn': 1}
    """
    ids = rows["prediction_id"]
    sums = rows.select(pl.sum_horizontal("p_negative", "p_neutral", "p_positive")).to_series()
    whole = ((sums - 1).abs() <= SAME).fill_null(False) & ids.is_not_null()
    return {
        "kill9/acknowledged_missing": len(set(acknowledged) - set(ids)),
        "kill9/duplicated": rows.height - ids.n_unique(),
        "kill9/torn": int((~whole).sum()),
    }


def long_csv(bench: Bench) -> Iterator[Row]:
    """A long CSV file is answered while others ask for single reviews."""
    space, count = bench.workspace(), bench.plan.csv_rows
    asked, answered = space.path / "asked.csv", space.path / "answered.csv"
    lines = (bench.texts[row % len(bench.texts)].replace(NUMBER, str(row)) for row in range(count))
    pl.DataFrame({"review_text": list(lines)}).write_csv(asked)
    told: list[str] = []
    with (
        space.serving(api_max_csv_bytes=2**30, api_max_csv_rows=max(count, 1_000_000)) as server,
        RunningLoad(server.port, bench.singles(space.headers), seconds=300, rate=200) as load,
    ):
        time.sleep(1)
        sending = threading.Thread(target=lambda: told.append(_send_csv(space, server, asked, answered)))
        began = time.monotonic()
        sending.start()
        sending.join(280)
        seconds = time.monotonic() - began
        found = load.stop()
    rows = pl.read_csv(answered, columns=["sentiment"]).drop_nulls().height if told == ["200"] else 0
    note = (
        f"{count:,} rows, {asked.stat().st_size / 2**20:.0f} MB, answered in {seconds:.1f} s; 200 others a second: "
        f"p99 {found.percentile_ms(0.99):.1f} ms, worst {found.percentile_ms(1.0):.1f} ms, {found.lost} not answered"
    )
    complete = rows == count and not found.lost
    note = note if complete else f"status {told or 'none'}, {rows:,} rows came back; {note}"
    value = round(found.percentile_ms(0.99), 2) if complete else None
    yield goal_row(AREA, "csv_800k/others_p99_ms", value, n=1, note=note)


def _send_csv(space: Workspace, server: Server, asked: Path, answered: Path) -> str:
    headers = {"Content-Type": "text/csv", **space.headers}
    url = f"http://127.0.0.1:{server.port}/predict"
    with asked.open("rb") as content, answered.open("wb") as out:
        try:
            with httpx.stream("POST", url, content=content, headers=headers, timeout=270, trust_env=False) as answer:
                for part in answer.iter_bytes():
                    out.write(part)
                return str(answer.status_code)
        except httpx.HTTPError as err:
            return repr(err)


def scoring(bench: Bench) -> Iterator[Row]:
    """Files scored by `mso score`."""
    yield from score.measure(bench.reviews, rows=bench.plan.score_rows)


# --- everything


Part = Callable[[Bench], Iterator[Row]]

PARTS: Mapping[str, tuple[Part, str]] = {
    "costs": (costs, "predict_json/ predict/ ratio/"),
    "inprocess": (inprocess, "inprocess/"),
    "starts": (starts, "start/"),
    "tail": (tail, "p99_"),
    "swaps": (swaps, "swap/"),
    "kills": (kills, "kill9/"),
    "csv": (long_csv, "csv_800k/"),
    "score": (scoring, "score/"),
}
"""Each part, and how the names of its rows begin."""


def measure(reviews: Path, *, small: bool = False, parts: Sequence[str] = tuple(PARTS)) -> Iterator[Row]:
    """The rows of the area; a part that cannot be measured gives rows that say why."""
    with tempfile.TemporaryDirectory() as made:
        bench = Bench.prepared(Path(made), reviews, SMALL if small else Plan())
        for part in parts:
            measured, begins = PARTS[part]
            began = time.monotonic()
            try:
                yield from measured(bench)
            except (NotMeasured, MsoError, psutil.Error, httpx.HTTPError, SystemExit) as err:
                names = [
                    goal.name for goal in goals() if goal.area == AREA and goal.name.startswith(tuple(begins.split()))
                ]
                yield from (goal_row(AREA, name, None, n=0, note=str(err)) for name in names)
            print(f"{part}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def peers_table(rows: Sequence[Row]) -> str:
    """CPU us per request of all servers, and how many times ours that is.

    >>> print(peers_table([Row("predict_json/single/cpu_us", 20.0, "us", "lower", peers={"one": 50.0})]))
    | server    | CPU us/request | times ours |
    |-----------|----------------|------------|
    | mso serve | 20.0           | 1.0        |
    | one       | 50.0           | 2.5        |
    """
    ours = next((row for row in rows if row.name == "predict_json/single/cpu_us" and row.value), None)
    if ours is None or ours.value is None:
        return "the CPU time per request was not measured"
    servers = {"mso serve": ours.value, **dict(sorted(ours.peers.items(), key=lambda one: one[1]))}
    table = [[name, f"{us:.1f}", f"{us / ours.value:.1f}"] for name, us in servers.items()]
    return markdown([["server", "CPU us/request", "times ours"], *table])
