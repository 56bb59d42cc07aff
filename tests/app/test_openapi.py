"""The document keeps its word: whatever is asked, status, media type, headers and body are those it tells."""

from __future__ import annotations

import copy
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import polars as pl
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from pydantic_core import to_json

from mobile_sentiment_ops.adapters.memory import MemoryPorts
from mobile_sentiment_ops.adapters.spool import FileSpool
from mobile_sentiment_ops.app.api_keys import add_key, new_key
from mobile_sentiment_ops.app.plain_http import PlainHttp
from mobile_sentiment_ops.errors import SpoolFull
from mobile_sentiment_ops.monitoring import DECISION_FILE
from mobile_sentiment_ops.monitoring.decision import Findings, decide
from mobile_sentiment_ops.monitoring.explanation import explain

from .conftest import World

MakeWorld = Callable[..., World]
Promote = Callable[..., object]
Document = dict[str, Any]

COMMON = {
    *("content-length", "content-type", "x-content-type-options", "vary", "content-security-policy", "allow"),
    *("accept-ranges", "etag", "date", "connection", "last-modified"),
    *("access-control-allow-origin", "access-control-expose-headers"),
}
"""Headers whose meaning is that of HTTP itself."""

SMALL = {"max_json_rows": 6, "max_csv_rows": 6, "max_json_bytes": 3_000, "max_csv_bytes": 4_000, "max_text_chars": 300}


WRITTEN = "drift_20261102T180500"
_ROWS = pl.DataFrame(
    {"label": ["Positive"] * 3, "p_negative": [0.1] * 3, "p_neutral": [0.1] * 3, "p_positive": [0.8] * 3}
)


@pytest.fixture
def reports(tmp_path: Path, memory: MemoryPorts) -> None:
    decision = decide(Findings(memory.clock.now(), "1"))
    memory.files.write(DECISION_FILE, to_json(decision))
    told = {"decision": decision, "explanation": explain(_ROWS, _ROWS)}
    memory.files.write(f"reports/{WRITTEN}.json", to_json(told))
    memory.files.write(f"reports/{WRITTEN}.html", b"<p>drawn</p>")
    folder = tmp_path / "workspace" / "reports" / "eda"
    folder.mkdir(parents=True)
    (folder / "index.html").write_text("<p>drawn</p>")
    (folder / "figures é.json").write_text("{}")


def document_of(world: World) -> Document:
    found: Document = world.client.get("/openapi.json").json()
    return found


# --- what is documented works


@pytest.mark.usefixtures("reports")
def test_every_documented_request_works(world: World) -> None:
    document = document_of(world)
    job_id = world.client.post("/retrain").json()["job_id"]
    tried = 0
    for path, methods in document["paths"].items():
        place = path.replace("{job_id}", job_id).replace(
            "monitoring/reports/{name}", f"monitoring/reports/{WRITTEN}.html"
        )
        place = place.replace("{name}", "eda/index.html")
        place = place.replace("{model}", "MobileSentimentModel")
        for method, call in methods.items():
            for parts in documented_requests(call) or [{}]:
                answer = world.client.request(method, place, **parts)
                assert answer.status_code in (200, 202), (path, parts, answer.text)
                check(call, answer)
                tried += 1
    assert tried >= len(document["paths"]) + 4


def test_every_documented_example_is_of_its_schema(world: World) -> None:
    for methods in document_of(world)["paths"].values():
        for call in methods.values():
            for documented in call["responses"].values():
                for content in documented["content"].values():
                    Draft202012Validator.check_schema(content["schema"])
                    if "example" in content:
                        Draft202012Validator(closed(content["schema"])).validate(content["example"])


def test_a_documented_problem_is_one_that_is_answered(world: World) -> None:
    call = document_of(world)["paths"]["/predict"]["post"]
    documented = call["responses"]["default"]["content"]["application/problem+json"]
    reviews = [{"text": "ok"}] * 3 + [{"text": "ok", "rating": 6}]
    answer = world.client.post("/predict", json={"reviews": reviews})
    check(call, answer)
    assert {**answer.json(), "request_id": documented["example"]["request_id"]} == documented["example"]


def documented_requests(call: Document) -> list[dict[str, Any]]:
    return [
        {"files": {"file": ("reviews.csv", example)}}
        if media == "multipart/form-data"
        else {
            "content": example if isinstance(example, str) else json.dumps(example),
            "headers": {"Content-Type": media},
        }
        for media, content in call.get("requestBody", {}).get("content", {}).items()
        for example in examples(content)
    ]


def examples(content: Document) -> list[Any]:
    found = [*(example["value"] for example in content.get("examples", {}).values()), content.get("example")]
    return [example for example in found if example is not None]


# --- whatever is asked, the answer is one that is documented


def check(call: Document, answer: httpx.Response) -> None:
    """Fail for an answer whose status, media type, headers or body the document does not tell of this call."""
    assert str(answer.status_code) in call["responses"], (answer.status_code, answer.text)
    documented = call["responses"][str(answer.status_code)]
    media = answer.headers["content-type"].partition(";")[0]
    content = documented["content"].get(media) or documented["content"].get("*/*")
    assert content is not None, f"{answer.status_code} is not documented as {media}"
    schema = closed(content["schema"])
    if media.endswith("json"):
        Draft202012Validator(schema).validate(answer.json())
    elif media.startswith("text/"):
        Draft202012Validator(schema).validate(answer.text)
    if media == "application/problem+json":
        body = answer.json()
        assert body["status"] == answer.status_code
        assert body["instance"] == answer.request.url.path
        assert body["request_id"] == answer.headers["x-request-id"]
        assert body["detail"].strip()
    told = {name.lower(): header for name, header in documented["headers"].items()}
    for name, header in told.items():
        if name in answer.headers:
            Draft202012Validator(header["schema"]).validate(answer.headers[name])
        else:
            assert not header.get("required"), f"{answer.status_code} came without {name}"
    assert {*answer.headers} <= {*told} | COMMON


def closed(schema: Any) -> Any:
    """The schema with no room for fields that it does not name."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    inside = {name: closed(one) if name != "example" else one for name, one in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        inside.setdefault("additionalProperties", False)
    return inside


class Callers:
    """Makes requests, good and bad, from what the document tells of a call."""

    def __init__(self, document: Document, seed: int, keys: Mapping[str, str], job_id: str) -> None:
        self.random = random.Random(seed)  # noqa: S311
        self.document = document
        self.keys = keys
        self.job_id = job_id

    def one(self) -> tuple[Document, str, str, dict[str, Any]]:
        """The documentation of a call, and the method, the path and the rest of a request to it."""
        path, methods = self.random.choice([*self.document["paths"].items()])
        method, call = self.random.choice([*methods.items()])
        headers = self.headers(method)
        more: dict[str, Any] = {"headers": headers}
        if "requestBody" in call:
            media, content = self.random.choice([*call["requestBody"]["content"].items()])
            given = self.random.choice(examples(content) or [b"\x02\0\0\0ok"])
            more |= self.body(media, given, headers)
        elif method == "post" and self.chance(0.2):
            more["content"] = b"w" * self.random.choice([10, 5_000])
        if call.get("parameters") and self.chance(0.5):
            more["params"] = {"limit": self.random.choice(["1", "500", "0", "501", "many", "", "1e3", "9" * 30])}
        return call, method.upper(), self.place(path), more

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def place(self, path: str) -> str:
        odd = ["", "none", "é", "%00", "..%2f..", "a b", "x" * 300, quote('"<&>')]
        for name, good in (
            ("{job_id}", [self.job_id]),
            ("{model}", ["MobileSentimentModel"]),
            ("monitoring/reports/{name}", [f"monitoring/reports/{WRITTEN}.{kind}" for kind in ("html", "json")]),
            ("{name}", ["eda/index.html", quote("eda/figures é.json")]),
        ):
            # an empty name is another path
            usual = good if self.chance(0.6) else odd[1:]
            path = path.replace(name, self.random.choice(usual))
        return path

    def headers(self, method: str) -> dict[str, str]:
        found = {}
        for share, name, values in (
            (0.3, "X-Request-ID", ["mine-7", "a b", "x" * 129, ""]),
            (0.3, "Accept", ["text/html", "application/json", "*/*", "image/png", ""]),
            (0.05, "Host", ["evil.example", "localhost:1", "[::1]", "a@b", "127.0.0.1"]),
            (0.1, "Origin", ["http://localhost", "https://evil.example", "null", "https://shop.example"]),
            (0.05, "Sec-Fetch-Site", ["cross-site", "same-origin", "none"]),
            (0.1, "Idempotency-Key", ["7", "a b", ""]),
            (0.1, "Range", ["bytes=0-3", "bytes=0-1,4-5", "bytes=900-", "lines=1", "bytes=x"]),
            (0.1, "Inference-Header-Content-Length", ["0", "10", "-1", "9" * 30, "ten"]),
        ):
            if self.chance(share):
                found[name] = self.random.choice(values)
        if self.keys and self.chance(0.9):
            key = self.random.choice([*self.keys.values()])
            found |= self.random.choice([{"X-API-Key": key}, {"Authorization": f"Bearer {key}"}])
        return found

    def body(self, media: str, given: Any, headers: dict[str, str]) -> dict[str, Any]:
        """A body like the one given, or broken in one of many ways."""
        if self.chance(0.5) and not isinstance(given, str | bytes):
            given = self.altered(given)
        data = given if isinstance(given, bytes) else given.encode() if isinstance(given, str) else b""
        data = data or json.dumps(given).encode()
        if self.chance(0.3):
            data = self.damaged(data)
        if media == "multipart/form-data" and self.chance(0.7):
            return {"files": {self.random.choice(["file"] * 4 + ["other"]): ("reviews.csv", data, "text/csv")}}
        broken = ["", "text/plain", "multipart/form-data", "multipart/form-data; boundary=x", "x/" * 40, media.upper()]
        headers["Content-Type"] = media if self.chance(0.85) else self.random.choice(broken)
        return {"content": data}

    def altered(self, given: Any) -> Any:
        """A JSON value with some value in it replaced, removed, repeated or named otherwise."""
        found = copy.deepcopy(given)
        inside = [*containers(found)]
        place = self.random.choice(inside) if inside else None
        odd = [
            None,
            True,
            -1,
            6,
            1e400,
            "",
            " ",
            "w" * 400,
            "\ud800",
            "ok\0",
            [],
            {},
            ["ok"] * 7,
            {"text": "ok"},
            "é👍",
        ]
        if isinstance(place, dict) and place:
            name = self.random.choice([*place])
            match self.random.randrange(4):
                case 0:
                    del place[name]
                case 1:
                    place["unknown"] = place[name]
                case _:
                    place[name] = self.random.choice(odd)
        elif isinstance(place, list) and place:
            at = self.random.randrange(len(place))
            place[at : at + 1] = self.random.choice([[], [place[at]] * 7, [self.random.choice(odd)]])
        return found

    def damaged(self, data: bytes) -> bytes:
        at = self.random.randrange(len(data) + 1)
        piece = self.random.choice(
            [b"", b"\0", b"\xff", b'"', b"\n", b"}", b"NaN,", self.random.randbytes(5), b"w" * 9_000]
        )
        return self.random.choice([data[:at], data[:at] + piece + data[at:], piece, data + piece])


def containers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield value
        for inside in value.values() if isinstance(value, dict) else value:
            yield from containers(inside)


def ask(world: World, seed: int, requests: int, keys: Mapping[str, str] | None = None) -> set[tuple[int, str]]:
    """Check so many answers against the document: the statuses that there were, each with its call."""
    operator = {"X-API-Key": keys["operate"]} if keys else {}
    document: Document = world.client.get("/openapi.json", headers=operator).json()
    job = world.client.post("/retrain", headers=operator)
    callers = Callers(document, seed, keys or {}, job.json()["job_id"])
    seen: set[tuple[int, str]] = set()
    for number in range(requests):
        call, method, path, more = callers.one()
        answer = world.client.request(method, path, **more)
        try:
            check(call, answer)
        except Exception as err:
            err.add_note(f"request {number} of seed {seed}: {method} {path} {more}; answered {answer.text[:500]}")
            raise
        seen.add((answer.status_code, call["operationId"]))
    return seen


def statuses(seen: set[tuple[int, str]]) -> set[int]:
    return {status for status, _ in seen}


broken_forms = pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")
"""Starlette leaves the file of a form that is cut off."""


@broken_forms
@pytest.mark.usefixtures("reports")
def test_a_thousand_answers_are_as_documented(make_world: MakeWorld, memory: MemoryPorts, promote: Promote) -> None:
    promote(memory)
    world = make_world({"api": SMALL})
    seen = ask(world, 1, 1_000)
    assert statuses(seen) == {200, 202, 400, 403, 404, 413, 415, 421, 422}
    calls = {call["operationId"] for methods in document_of(world)["paths"].values() for call in methods.values()}
    assert {call for status, call in seen if status < 300} == calls


@broken_forms
@pytest.mark.usefixtures("reports")
def test_answers_to_callers_with_keys_are_as_documented(
    make_world: MakeWorld, memory: MemoryPorts, promote: Promote
) -> None:
    promote(memory)
    limits = {"require_keys": True, "requests_per_second": 5.0, "cors_origins": ["https://shop.example"]}
    world = make_world({"api": {**SMALL, **limits}})
    keys = {"none": "mso_made_up"}
    for name, role, apps in (("predict", "predict", []), ("lamp", "predict", ["lamp"]), ("operate", "operate", [])):
        keys[name], kept = new_key(name, role, apps, days=None, now=memory.clock.now())  # type: ignore[arg-type]
        add_key(memory.keys, memory.state, kept, actor="ann")
    time.sleep(1.1)  # a server sees new keys within a second
    assert {200, 400, 401, 403, 421, 429} <= statuses(ask(world, 2, 500, keys))


@broken_forms
def test_answers_without_a_model_are_as_documented(make_world: MakeWorld) -> None:
    seen = ask(make_world({"api": SMALL}), 3, 250)
    assert not {call for status, call in seen if status == 200 and "predict" in call}
    assert {call.partition("_")[0] for status, call in seen if status == 503} >= {"predict", "model", "readyz", "ping"}


@broken_forms
def test_answers_of_a_server_that_cannot_keep_predictions_are_as_documented(
    make_world: MakeWorld, memory: MemoryPorts, promote: Promote, tmp_path: Path
) -> None:
    class FullSpool(FileSpool):
        def append(self, payload: bytes, count: int) -> None:
            raise SpoolFull("the spool is full; the table's store is away")

    promote(memory)
    memory.spool = FullSpool(tmp_path)
    seen = ask(make_world({"api": SMALL}), 4, 500)
    assert {call.partition("_")[0] for status, call in seen if status == 503} == {"predict", "infer", "invocations"}


@pytest.mark.usefixtures("reports")
def test_answers_over_the_wire_are_as_documented(
    make_world: MakeWorld, memory: MemoryPorts, promote: Promote, free_port: int
) -> None:
    """Small hot requests are answered by the protocol itself (app/plain_http.py), which alone writes these answers."""
    promote(memory)
    world = make_world({"api": SMALL})
    document = document_of(world)
    document["paths"] = {path: document["paths"][path] for path in ("/predict", "/predict_json")}
    callers = Callers(document, 5, {}, "")
    config = uvicorn.Config(
        world.client.app,
        http=PlainHttp,
        ws="none",
        lifespan="off",
        log_config=None,
        port=free_port,
        server_header=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        world.wait_until(lambda: server.started)
        with httpx.Client(base_url=f"http://127.0.0.1:{free_port}") as client:
            seen = set()
            for _ in range(500):
                call, method, path, more = callers.one()
                answer = client.request(method, path, **more)
                check(call, answer)
                seen.add(answer.status_code)
            padded = b'{"text": "ok"}' + b" " * SMALL["max_json_bytes"]
            answer = client.post("/predict_json", content=padded, headers={"Content-Type": "application/json"})
            assert answer.status_code == 413
    finally:
        server.should_exit = True
        thread.join()
    assert seen == {200, 400, 403, 413, 415, 421, 422}


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.sampled_from(["/", "/reports/", "/jobs/", "/jobs?limit=", "/v2/models/", "/v2/models/MobileSentimentModel/"]),
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "BREW"]),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_address_is_a_fault_of_the_server(world: World, path: str, start: str, method: str) -> None:
    answer = world.client.request(method, start + quote(path))
    assert answer.status_code < 500
    if answer.status_code >= 400:
        told = answer.json() if method != "HEAD" else {"error": "", "request_id": answer.headers["x-request-id"]}
        assert "error" in told or told["request_id"] == answer.headers["x-request-id"]
