"""The client against real servers: the API over a small demo world, and small ones that misbehave."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobile_sentiment_ops.client import AsyncClient, Call, Client, Lost, Reply, asked_pause, chunks
from mobile_sentiment_ops.errors import CallFailed, DataError, MsoError, SettingsError, Unavailable
from mobile_sentiment_ops.types import LABELS, JobState, Label

KEY = "mso_not-a-real-key"
ONE = {
    "review_id": None,
    "prediction_id": "p-1",
    "sentiment": "Positive",
    "confidence": 0.9,
    "probabilities": {"Negative": 0.04, "Neutral": 0.06, "Positive": 0.9},
    "error": None,
}
JOB = {"job_id": "retrain-1", "kind": "retrain", "created_at": "2025-03-01T12:00:00+00:00", "progress": 0.5}


def answer(status: int, body: object, *, length: int | None = None, **headers: str) -> bytes:
    """An answer as it goes over the wire; `length` is what it says of its body's length."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {"content-type": "application/json", **headers, "content-length": str(length or len(data))}
    lines = [f"HTTP/1.1 {status} Status", *(f"{name.replace('_', '-')}: {value}" for name, value in named.items())]
    return "\r\n".join([*lines, "", ""]).encode() + data


def predictions(*rows: object) -> bytes:
    return answer(200, {"model_version": "3", "request_id": "r", "predictions": rows})


def problem(status: int, detail: str, **more: Any) -> bytes:
    headers = more.pop("headers", {})
    return answer(status, {"status": status, "detail": detail, "request_id": "r-7", **more}, **headers)


class Misbehaved:
    """Answers one request a connection: with bytes, with silence of some seconds, or by hanging up (b""); the
    last answer again and again. `requests` are what it was sent."""

    def __init__(self, answers: Sequence[bytes | float], port: int = 0) -> None:
        self.requests: list[bytes] = []
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", port))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(4)]
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                if not (request := self._read(connection)):
                    return
                self.requests.append(request)
                said = self._answers[min(len(self.requests), len(self._answers)) - 1]
                if isinstance(said, bytes):
                    connection.sendall(said)
                else:
                    time.sleep(said)

    def _read(self, connection: socket.socket) -> bytes:
        request = b""
        while data := connection.recv(65536):
            request += data
            head, end, body = request.partition(b"\r\n\r\n")
            lengths = [line.split()[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if end and len(body) >= int(lengths[0] if lengths else 0):
                break
        return request

    def headers(self, name: str) -> list[str]:
        """What each request said under that name."""
        heads = [request.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:] for request in self.requests]
        told = [dict(line.lower().split(": ", 1) for line in head) for head in heads]
        return [head.get(name.lower(), "") for head in told]

    def stop(self) -> None:
        for _ in self._threads:  # each wakes up to a caller that says nothing
            socket.create_connection(self._listener.getsockname()).close()
        for thread in self._threads:
            thread.join(10)
        self._listener.close()


@pytest.fixture
def misbehaved() -> Iterator[Callable[..., Misbehaved]]:
    """Starts servers: `misbehaved(b"", answer(200, ...))`."""
    started: list[Misbehaved] = []

    def start(*answers: bytes | float, port: int = 0) -> Misbehaved:
        started.append(Misbehaved(answers, port))
        return started[-1]

    yield start
    for server in started:
        server.stop()


Ask = Callable[..., Any]


def _ask(address: str, call: str, *given: Any, client: dict[str, Any] | None = None, **named: Any) -> Any:
    with Client(address, **client or {}) as api:
        return getattr(api, call)(*given, **named)


def _ask_async(address: str, call: str, *given: Any, client: dict[str, Any] | None = None, **named: Any) -> Any:
    async def ask() -> Any:
        async with AsyncClient(address, **client or {}) as api:
            return await getattr(api, call)(*given, **named)

    return asyncio.run(ask())


@pytest.fixture(params=[_ask, _ask_async], ids=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Makes one call with either client: `ask(address, "predict", "Love it")`."""
    found: Ask = request.param
    return found


# --- the API itself


def test_texts_are_predicted_in_their_order(demo_server: str, ask: Ask) -> None:
    good, blank, bad = ask(demo_server, "predict", ["Love it, great app", "  ", "Crashes all the time, awful"])
    assert (good.label, blank.label, bad.label) == (Label.POSITIVE, None, Label.NEGATIVE)
    assert blank.error
    assert good.error is None
    assert set(good.probabilities) == set(LABELS)
    assert good.probabilities[good.label] == good.confidence
    assert good.prediction_id != bad.prediction_id
    assert good.model_version == "1"


def test_one_text_and_one_review_are_predicted_too(demo_server: str, ask: Ask) -> None:
    (text,) = ask(demo_server, "predict", "Love it, great app")
    (review,) = ask(demo_server, "predict", {"text": "Love it, great app", "review_id": "r-1", "app": "shop"})
    first = ask(demo_server, "predict_json", "Love it, great app")
    assert text.probabilities == review.probabilities
    assert text.probabilities == pytest.approx(first.probabilities, abs=1e-6)  # of many, six digits are told
    assert (text.label, review.review_id, first.label) == (Label.POSITIVE, "r-1", Label.POSITIVE)
    assert ask(demo_server, "predict", []) == []


def test_parts_are_joined_in_order(demo_server: str, ask: Ask) -> None:
    texts = [f"{'Love it' if number % 3 else 'Crashes, awful'} {number}" for number in range(95)]
    reviews = [{"text": text, "review_id": text} for text in texts]
    whole = ask(demo_server, "predict", texts)
    for limits in ({"chunk_rows": 10}, {"chunk_bytes": 400}):
        parts = ask(demo_server, "predict", iter(reviews), client=limits)
        assert [row.review_id for row in parts] == texts
        assert [row.probabilities for row in parts] == [row.probabilities for row in whole]
        assert len({row.prediction_id.rpartition("-")[0] for row in parts}) >= 10


def test_a_part_of_faulty_rows_spoils_no_other(demo_server: str, ask: Ask) -> None:
    rows = ask(demo_server, "predict", ["Love it", *[" "] * 30, "x" * 2_000_000], client={"chunk_rows": 1})
    assert [row.label for row in rows] == [Label.POSITIVE, *[None] * 31]
    assert "larger than" in rows[-1].error
    many = ask(demo_server, "predict", [" "] * 30)
    assert all(row.error for row in many)
    assert {rows[1].error} == {row.error for row in many[:20]}


def test_what_is_no_text_is_refused_before_anything_is_sent(misbehaved: Callable[..., Misbehaved], ask: Ask) -> None:
    server = misbehaved(predictions(ONE))
    with pytest.raises(DataError, match="review 1 cannot be sent: half of a surrogate pair"):
        ask(server.address, "predict", ["Love it", "\ud83d"], client={"chunk_rows": 1})
    with pytest.raises(DataError, match=r"review 0 cannot be sent: .*object"):
        ask(server.address, "predict", [object()])
    assert server.requests == []


def test_a_csv_file_is_answered_into_a_file(demo_server: str, ask: Ask, tmp_path: Path) -> None:
    source, out = tmp_path / "reviews.csv", tmp_path / "answers.csv"
    lines = [f"Love it {number},shop" if number % 2 else "" for number in range(20_000)]
    source.write_text("\n".join(["review_text,app", *lines, ""]), "utf-8")
    found = ask(demo_server, "predict_csv", source, out)
    rows = list(csv.DictReader(io.StringIO(out.read_text("utf-8"))))
    assert [row["review_text"] for row in rows] == [f"Love it {number}" for number in range(20_000) if number % 2]
    assert {row["sentiment"] for row in rows} <= set(LABELS)
    assert len({row["prediction_id"] for row in rows}) == len(rows)
    assert (found.file, found.model_version) == (out, "1")
    assert found.request_id
    ask(demo_server, "predict_csv", b"review_text\nCrashes\n", str(out))
    assert out.read_text("utf-8").startswith("review_text,sentiment")
    assert {path.name for path in tmp_path.iterdir()} == {"reviews.csv", "answers.csv"}


def test_a_refused_file_leaves_none(demo_server: str, ask: Ask, tmp_path: Path) -> None:
    source = tmp_path / "opinions.csv"
    source.write_text("opinion\nLove it\n")
    with pytest.raises(CallFailed, match=r"answered 422: opinions.csv line 1: there is no column review_text") as err:
        ask(demo_server, "predict_csv", source, tmp_path / "answers.csv")
    assert (err.value.status, err.value.request_id != "") == (422, True)
    assert list(tmp_path.iterdir()) == [source]


def test_files_that_cannot_be_used_are_named(demo_server: str, ask: Ask, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lost\.csv: No such file"):
        ask(demo_server, "predict_csv", tmp_path / "lost.csv", tmp_path / "answers.csv")
    for out in (tmp_path / "no" / "answers.csv", tmp_path):
        with pytest.raises(DataError, match="expected a file to use"):
            ask(demo_server, "predict_csv", b"review_text\nLove it\n", out)


def test_the_model_its_figures_and_its_server_are_asked_for(demo_server: str, ask: Ask) -> None:
    model = ask(demo_server, "model")
    assert (model.version, model.kind, model.previous_version) == ("1", "lr", None)
    assert model.promoted_at.tzinfo is not None
    assert ask(demo_server, "load_model") == model
    assert 0.3 < ask(demo_server, "metrics")["macro_f1"] <= 1
    ready = ask(demo_server, "ready")
    assert (ready.ready, ready.model_version, ready.detail) == (True, "1", "")
    jobs = ask(demo_server, "jobs", limit=5)
    assert [job for job in jobs if job.state is JobState.RUNNING] == []
    with pytest.raises(CallFailed, match=r"GET /jobs/no%2Fjob was answered 404: .* \(request \w+\)") as err:
        ask(demo_server, "job", "no/job")
    assert err.value.status == 404


def test_a_prediction_is_explained(demo_server: str, ask: Ask) -> None:
    found = ask(demo_server, "explain", "Love it, great app", limit=2)
    assert found.prediction is found.label is Label.POSITIVE
    assert found.exact
    assert found.words[0].words.lower() in ("love", "love it", "great", "great app")
    assert found.words[0].towards >= found.words[1].towards > 0
    ((start, end),) = found.words[0].spans
    assert "Love it, great app"[start:end] == found.words[0].words
    assert ask(demo_server, "explain", "Love it, great app", label=Label.NEGATIVE).words[0].towards < 0


def test_fields_that_are_wrong_are_told(demo_server: str, ask: Ask) -> None:
    with pytest.raises(CallFailed, match=r"reviews\[1\].rating") as err:
        ask(demo_server, "predict", [{"text": "Love it"}, {"text": "Slow", "rating": 9}])
    assert [fault["field"] for fault in err.value.errors] == ["reviews[1].rating"]


# --- servers that are away, busy or broken


QUICK = {"retries": 2, "retry_seconds": 5.0, "timeout": 0.3}


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(b"", id="hangs up"),
        pytest.param(answer(200, {"model_version": "3"}, length=500), id="breaks off"),
        pytest.param(0.8, id="is silent"),
        pytest.param(problem(503, "no model yet"), id="503"),
        pytest.param(problem(429, "too many"), id="429"),
        pytest.param(answer(502, b"<html>", content_type="text/html"), id="502"),
    ],
)
def test_a_prediction_is_tried_again_under_one_key(
    misbehaved: Callable[..., Misbehaved], ask: Ask, first: bytes | float
) -> None:
    server = misbehaved(first, predictions(ONE))
    (row,) = ask(server.address, "predict", "Love it", client=QUICK)
    assert (row.label, row.prediction_id, row.model_version) == (Label.POSITIVE, "p-1", "3")
    first_key, second_key = server.headers("Idempotency-Key")
    assert first_key == second_key != ""
    assert [json.loads(request.partition(b"\r\n\r\n")[2]) for request in server.requests] == [
        {"texts": ["Love it"]}
    ] * 2


def test_each_call_and_each_part_has_a_key_of_its_own(misbehaved: Callable[..., Misbehaved], ask: Ask) -> None:
    server = misbehaved(predictions(ONE))
    for key in (None, None, "import-7", "import-7"):
        ask(server.address, "predict", ["a", "b"], client={"chunk_rows": 1}, idempotency_key=key)
    keys = server.headers("Idempotency-Key")
    assert len(set(keys)) == 6
    assert sorted(keys[4:]) == ["import-7-0", "import-7-0", "import-7-1", "import-7-1"]
    for key in ("", "two words", "é", "line\nline", "x" * 101):
        with pytest.raises(DataError, match=r"the idempotency key is .* expected 1 to 100 letters"):
            ask(server.address, "predict", "a", idempotency_key=key)


def test_a_repeated_call_has_the_same_prediction_ids(demo_server: str, ask: Ask) -> None:
    key = f"again-{time.time_ns()}"
    first, again, other = (
        [row.prediction_id for row in ask(demo_server, "predict", ["a", "b"], idempotency_key=given)]
        for given in (key, key, None)
    )
    assert first == again
    assert len({*first, *other}) == 4


def test_a_server_says_how_long_to_wait(misbehaved: Callable[..., Misbehaved], ask: Ask) -> None:
    server = misbehaved(problem(503, "no model yet", headers={"retry_after": "1"}), answer(200, {"macro_f1": None}))
    began = time.monotonic()
    assert ask(server.address, "metrics") == {"macro_f1": None}
    assert 1 <= time.monotonic() - began < 30


def test_a_wait_longer_than_the_caller_has_ends_the_call(misbehaved: Callable[..., Misbehaved], ask: Ask) -> None:
    server = misbehaved(problem(429, "at most 10 requests a second", headers={"retry_after": "3600"}))
    with pytest.raises(CallFailed, match="answered 429: at most 10 requests a second") as err:
        ask(server.address, "predict", "Love it")
    assert (err.value.status, err.value.request_id, len(server.requests)) == (429, "r-7", 1)


def test_tries_end(misbehaved: Callable[..., Misbehaved], ask: Ask) -> None:
    server = misbehaved(b"")
    with pytest.raises(Unavailable, match=r"did not answer GET /model: \w+ .* \(tries: 3, "):
        ask(server.address, "model", client=QUICK)
    assert len(server.requests) == 3
    slow = misbehaved(0.8)
    with pytest.raises(Unavailable, match="ReadTimeout"):
        ask(slow.address, "model", client=QUICK | {"retry_seconds": 0.2})
    assert len(slow.requests) == 1


@pytest.mark.parametrize("first", [b"", problem(503, "a store is away"), problem(429, "too many")])
def test_a_training_is_not_asked_for_twice(misbehaved: Callable[..., Misbehaved], ask: Ask, first: bytes) -> None:
    server = misbehaved(first)
    with pytest.raises((CallFailed, Unavailable)):
        ask(server.address, "retrain")
    assert len(server.requests) == 1


def test_a_server_that_starts_in_a_moment_is_waited_for(
    misbehaved: Callable[..., Misbehaved], ask: Ask, free_port: int
) -> None:
    answers = answer(202, {"job_id": "retrain-1"}), answer(200, JOB | {"state": "done"})
    start = threading.Timer(0.5, misbehaved, answers, {"port": free_port})
    start.start()
    job = ask(f"http://127.0.0.1:{free_port}", "retrain", wait=True, client={"retries": 9})
    start.join()
    assert (job.job_id, job.state, job.progress) == ("retrain-1", JobState.DONE, 0.5)


def test_a_training_is_waited_for(misbehaved: Callable[..., Misbehaved], ask: Ask) -> None:
    failed = JOB | {"state": "failed", "error": "no reviews"}
    server = misbehaved(answer(202, {"job_id": "retrain-1"}), answer(200, failed))
    job = ask(server.address, "retrain", wait=True)
    assert (job.job_id, job.state, job.error) == ("retrain-1", JobState.FAILED, "no reviews")
    on_its_way = answer(200, JOB | {"state": "running", "step": "training lr"})
    restarted = misbehaved(on_its_way, b"", on_its_way, answer(200, failed))
    assert ask(restarted.address, "wait_for", "retrain-1", every_seconds=0.01) == job
    running = misbehaved(on_its_way)
    with pytest.raises(Unavailable, match=r"retrain-1 has not ended after 0.05 s \(running, training lr, 50%\)"):
        ask(running.address, "wait_for", job, seconds=0.05, every_seconds=0.02)


def test_a_server_that_is_away_is_named(ask: Ask, free_port: int) -> None:
    with pytest.raises(Unavailable, match=rf"http://127.0.0.1:{free_port} did not answer GET /readyz: .*`mso serve`"):
        ask(f"http://127.0.0.1:{free_port}/", "ready")


def test_a_server_that_cannot_predict_says_why(misbehaved: Callable[..., Misbehaved], ask: Ask) -> None:
    server = misbehaved(problem(503, "no model is promoted yet", mlflow="unreachable", spool_depth=4))
    ready = ask(server.address, "ready")
    assert (ready.ready, ready.detail, ready.mlflow, ready.spool_depth, len(server.requests)) == (
        False,
        "no model is promoted yet",
        "unreachable",
        4,
        1,
    )


@pytest.mark.parametrize(
    "said",
    [
        answer(200, b"<html>Router</html>", content_type="text/html"),
        answer(403, b"<html>Router</html>", content_type="text/html"),
        answer(200, {"version": 3}),
        answer(404, []),
        answer(307, b"", location="http://127.0.0.1:9/"),
    ],
)
def test_what_is_no_answer_of_this_api_is_said_to_be_none(
    misbehaved: Callable[..., Misbehaved], ask: Ask, said: bytes, tmp_path: Path
) -> None:
    server = misbehaved(said)
    for call in (
        ("model",),
        ("jobs",),
        ("retrain",),
        ("predict", "Love it"),
        ("predict_csv", b"review_text\n", tmp_path / "answers.csv"),
    ):
        with pytest.raises(CallFailed, match=rf"no answer of this API .* expected this API at {server.address}"):
            ask(server.address, *call)
    assert list(tmp_path.iterdir()) == []


def test_answers_to_other_reviews_are_not_taken(misbehaved: Callable[..., Misbehaved], ask: Ask) -> None:
    server = misbehaved(predictions(ONE, ONE))
    with pytest.raises(CallFailed, match="2 answers to 1 reviews"):
        ask(server.address, "predict", "Love it")


def test_a_file_is_replaced_by_a_whole_answer_only(
    misbehaved: Callable[..., Misbehaved], ask: Ask, tmp_path: Path
) -> None:
    out = tmp_path / "answers.csv"
    out.write_text("of yesterday")
    csv_answer = partial(answer, 200, content_type="text/csv", x_model_version="3", x_request_id="r")
    torn, whole = csv_answer(b"review_te", length=500), csv_answer(b"review_text,sentiment\n")
    with pytest.raises(Unavailable, match="RemoteProtocolError"):
        ask(misbehaved(torn).address, "predict_csv", b"review_text\n", out, client=QUICK)
    assert out.read_text() == "of yesterday"
    assert list(tmp_path.iterdir()) == [out]
    server = misbehaved(torn, whole)
    ask(server.address, "predict_csv", out, out)
    assert out.read_text() == "review_text,sentiment\n"
    assert all(b"of yesterday" in request for request in server.requests)
    assert len(set(server.headers("Idempotency-Key"))) == 1


def test_parts_go_side_by_side_and_the_first_fault_ends_them(misbehaved: Callable[..., Misbehaved]) -> None:
    slow = misbehaved(2.0)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        _ask_async(slow.address, "predict", ["a"] * 4, client={"chunk_rows": 1, "retries": 0})
    assert time.monotonic() - began < 6  # one after another they take 8
    assert len(slow.requests) == 4
    server = misbehaved(problem(401, "this API needs a key"))
    with pytest.raises(CallFailed, match="this API needs a key"):
        _ask_async(server.address, "predict", ["a"] * 50, client={"chunk_rows": 1})
    assert len(server.requests) <= 8


@pytest.mark.integration
def test_a_server_that_is_killed_and_starts_again_costs_no_call(
    demo_workspace: Path, tmp_path: Path, free_port: int
) -> None:
    workspace = tmp_path / "workspace"
    shutil.copytree(demo_workspace, workspace)
    settings = (f"api.port={free_port}", f"storage.workspace={workspace}", "mlflow.tracking_uri=http://127.0.0.1:9")
    command = [sys.executable, "-m", "mobile_sentiment_ops", *(word for one in settings for word in ("--set", one))]
    answered: list[str | None] = []
    done = threading.Event()

    def call(api: Client) -> None:
        while not done.is_set():
            answered.extend(row.prediction_id for row in api.predict(["Love it", "Crashes"]))

    with (
        (tmp_path / "server.log").open("wb") as log,
        Client(f"http://127.0.0.1:{free_port}", retries=60) as api,
        ThreadPoolExecutor(4) as callers,
    ):
        start = partial(subprocess.Popen, [*command, "serve", "--no-train"], stdout=log, stderr=log, process_group=0)
        server = start()
        calls = [callers.submit(call, api) for _ in range(4)]  # they wait for the first start too
        try:
            for kills in (True, True, False):
                already = len(answered)
                while len(answered) < already + 200:
                    assert server.poll() is None
                    assert not any(call.done() for call in calls), [call.exception() for call in calls if call.done()]
                    time.sleep(0.01)
                if kills:
                    os.killpg(server.pid, signal.SIGKILL)
                    server.wait()
                    server = start()
        finally:
            done.set()
            callers.shutdown()
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
    assert [one.exception() for one in calls] == [None] * 4
    assert None not in answered
    assert len(set(answered)) == len(answered) >= 600


# --- what is kept to itself


def test_keys_and_texts_are_in_no_log_message_or_repr(
    misbehaved: Callable[..., Misbehaved], ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = misbehaved(b"", problem(422, "texts: is wrong"), b"")
    said = repr(Client(server.address, KEY)) + repr(AsyncClient(server.address, KEY))
    for call in ("predict", "predict_json"):
        with pytest.raises(MsoError) as err:
            ask(server.address, call, "a secret opinion", client={"api_key": KEY, "retries": 1})
        said += str(err.value)
    assert set(server.headers("X-API-Key")) == {KEY}
    assert KEY not in said + caplog.text
    assert "secret opinion" not in said + caplog.text


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_an_address_or_key_that_cannot_be_used_is_refused_and_not_repeated(client: type[Client | AsyncClient]) -> None:
    for address in (
        "localhost:5001",
        "ftp://shop.example",
        "http://",
        "http://ann:hush@shop.example",
        "http://[::1",
    ):
        with pytest.raises(SettingsError, match=r"not like http://127\.0\.0\.1:5001; see base_url") as err:
            client(address)
        assert "hush" not in str(err.value)
    for key in ("hush\nhush", "hush hush", "hüsh"):
        with pytest.raises(SettingsError, match="API key holds a character") as err:
            client(api_key=key)
        assert "h" + "ush" not in str(err.value)


def test_address_and_key_come_from_the_environment(
    misbehaved: Callable[..., Misbehaved], monkeypatch: pytest.MonkeyPatch, ask: Ask
) -> None:
    server, other = misbehaved(answer(200, {})), misbehaved(answer(200, {}))
    monkeypatch.setenv("MSO_API_URL", server.address)
    monkeypatch.setenv("MSO_API_KEY", f"{KEY}\n")  # as `$(cat file)` and secret files leave it
    assert ask("", "metrics") == {}
    assert ask(other.address, "metrics", client={"api_key": "mso_other"}) == {}
    assert (server.headers("X-API-Key"), other.headers("X-API-Key")) == ([KEY], ["mso_other"])


def test_the_import_is_light() -> None:
    source = """
import json, sys
import mobile_sentiment_ops.client
print(json.dumps([sorted({name.partition(".")[0] for name in sys.modules}),
    sorted(name for name in sys.modules if name.startswith("mobile_sentiment_ops."))]))
"""
    every, own = json.loads(subprocess.check_output([sys.executable, "-c", source], env=os.environ))
    heavy = {"httpx", "anyio", "polars", "pandas", "numpy", "pyarrow", "mlflow", "pydantic", "fastapi", "structlog"}
    assert heavy.isdisjoint(every)
    assert own == [f"mobile_sentiment_ops.{name}" for name in ("client", "errors", "types")]


# --- the core


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=50), st.integers(1, 20), st.integers(16, 200))
def test_parts_hold_all_rows_within_the_limits(rows: list[bytes], max_rows: int, max_bytes: int) -> None:
    parts = list(chunks(rows, max_rows, max_bytes))
    assert [row for part in parts for row in part] == rows
    for part in parts:
        assert 1 <= len(part) <= max_rows
        assert len(part) == 1 or len(b'{"reviews":[%b]}' % b",".join(part)) <= max_bytes
    for part, after in pairwise(parts):  # none is smaller than it needs to be
        assert len(part) == max_rows or len(b'{"reviews":[%b],}' % b",".join([*part, after[0]])) > max_bytes


@given(st.sampled_from([200, 202, 400, 401, 404, 409, 413, 422, 429, 500, 502, 503, 504]), st.text(max_size=8))
def test_only_what_may_pass_is_tried_again(status: int, after: str) -> None:
    call = Call("POST", "/predict", read=lambda reply: reply.body)
    once = Call("POST", "/retrain", read=lambda reply: reply.body, repeatable=False)
    pause = asked_pause(call, Reply(status, {"retry-after": after}, b""))
    assert (pause is not None) == (status in (429, 502, 503, 504))
    assert pause is None or pause >= 0
    assert asked_pause(once, Reply(status, {"retry-after": after}, b"")) is None
    assert (asked_pause(once, Lost("refused", True)), asked_pause(once, Lost("broke off", False))) == (0.0, None)
