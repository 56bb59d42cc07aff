from __future__ import annotations

import csv
import gzip
import io
import json
import re
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from mobile_sentiment_ops.adapters.memory import MemoryPorts
from mobile_sentiment_ops.adapters.spool import FileSpool
from mobile_sentiment_ops.app import hot
from mobile_sentiment_ops.app.api_keys import add_key, new_key
from mobile_sentiment_ops.data.predictions import PREDICTIONS_TABLE
from mobile_sentiment_ops.errors import StoreError
from mobile_sentiment_ops.logs import configure_logs
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.settings import Logs
from mobile_sentiment_ops.types import LABELS, JobState, Role

from .conftest import World

MakeWorld = Callable[..., World]
Promote = Callable[..., object]
IN_JSON = {"Content-Type": "application/json"}
HELLO = b"review_text\nLove it\n"
PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'


def rows_of(answer: httpx.Response) -> list[list[str]]:
    assert answer.status_code == 200, answer.text
    return list(csv.reader(io.StringIO(answer.text, newline="")))


def problem_of(answer: httpx.Response) -> dict[str, Any]:
    """The problem that an answer tells, whose form is checked."""
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == answer.status_code
    assert found["request_id"] == answer.headers["x-request-id"]
    assert found["type"] == "about:blank"
    return found


# --- POST /predict with a file


def test_a_csv_file_comes_back_with_sentiment(world: World, tiny_model: SentimentModel) -> None:
    texts = ["Love to cook with it", "It crashes when I pay it", "How do I scan?", "ดีมาก"]
    data = "id,review_text\n" + "".join(f"{number},{text}\n" for number, text in enumerate(texts))
    answer = world.client.send_csv(data)
    header, *rows = rows_of(answer)
    assert header == ["id", "review_text", "sentiment", "confidence", "prediction_id", "error"]
    assert [row[:2] for row in rows] == [[str(number), text] for number, text in enumerate(texts)]
    expected = tiny_model.predict(texts)
    assert [row[2] for row in rows] == [found.label.value for found in expected]
    assert [float(row[3]) for row in rows] == [round(found.confidence, 6) for found in expected]
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["x-model-version"] == "1"


def test_the_headers_of_the_first_version_are_kept(world: World) -> None:
    answer = world.client.send_csv(HELLO)
    request_id = answer.headers["x-request-id"]
    assert answer.headers["content-disposition"] == f'attachment; filename="predicted_{request_id}.csv"'
    assert answer.headers["x-drift-detected"] == "false"
    assert answer.headers["x-drift-status"] == "no-reference"


def test_a_callers_request_id_is_echoed_and_names_no_file(world: World) -> None:
    answers = [
        world.client.post("/predict", headers={"X-Request-ID": "mine-7"}, files={"file": HELLO}) for _ in range(2)
    ]
    assert [answer.headers["x-request-id"] for answer in answers] == ["mine-7", "mine-7"]
    assert len({answer.headers["content-disposition"] for answer in answers}) == 2
    assert len({rows_of(answer)[1][3] for answer in answers}) == 2


@pytest.mark.parametrize("given_id", ["", "a b", "x" * 129, "../../etc", 'x"; y'])
def test_a_malformed_request_id_is_replaced(world: World, given_id: str) -> None:
    answer = world.client.get("/livez", headers={"X-Request-ID": given_id})
    assert re.fullmatch("[0-9a-f]{25,}", answer.headers["x-request-id"])


def test_a_csv_body_needs_no_form(world: World) -> None:
    answer = world.client.post("/predict", content=HELLO, headers={"Content-Type": "text/csv; charset=utf-8"})
    assert rows_of(answer)[1][1] == "Positive"


def test_the_answer_and_its_predictions_are_kept(make_world: MakeWorld, memory: MemoryPorts, promote: Promote) -> None:
    promote(memory)
    world = make_world()
    answer = world.client.send_csv(
        b"id,app,lang,review_text\nr-1,lamp,th,Love it, mail a@b.example\n".replace(b"it,", b"it")
    )
    world.stop()
    name = answer.headers["content-disposition"].split('"')[1]
    assert world.ports.files.read(f"data_prediction/{name}") == answer.content
    (row,) = world.ports.tables.read(PREDICTIONS_TABLE).to_pylist()
    assert row["prediction_id"] == rows_of(answer)[1][-2]
    assert row["request_id"] == answer.headers["x-request-id"]
    assert (row["review_id"], row["app"], row["language"], row["model_version"]) == ("r-1", "lamp", "th", "1")
    assert row["text"] == "Love it mail <email>"


def test_faulty_rows_spoil_no_other(world: World) -> None:
    rows = rows_of(world.client.send_csv(b"review_text,app\nLove it,a\n ,b\nx\nLove it,=1+1\n"))
    assert [row[-1] for row in rows[1:]] == [
        "",
        "blank: expected some text",
        "ragged: has 1 fields, the header has 2",
        "",
    ]
    assert [row[2] for row in rows[1:]] == ["Positive", "", "", "Positive"]
    assert rows[4][1] == "'=1+1"


@pytest.mark.parametrize(
    ("data", "status", "detail"),
    [
        (b"", 422, "reviews.csv is empty; expected a CSV file with a column review_text"),
        (
            b"text\nLove it\n",
            422,
            "reviews.csv line 1: there is no column review_text; found 'text', expected exactly one",
        ),
        (b"review_text\n\n", 422, "reviews.csv holds a header and no review; expected at least one row after it"),
        (
            b'review_text,app\n"Love it,a\n',
            422,
            'reviews.csv line 2: a quote is opened and not closed by line 2; expected another " after the text',
        ),
        (
            gzip.compress(HELLO, mtime=0),
            422,
            "reviews.csv is no text in UTF-8, UTF-16 or a Western European encoding; unpack an archive, "
            "save the sheet of a workbook as CSV, and save text as UTF-8",
        ),
        (b"review_text\n \n\0\n", 422, "reviews.csv: none of its 2 rows can be predicted"),
        (b"review_text\n" + b"ok\n" * 6, 413, "reviews.csv has more than 5 rows; send it in parts"),
        (b"review_text\n" + b"w" * 100_000, 413, "the body is larger than 100,000 bytes; send it in parts"),
        (b"review_text\n" + b"w" * 200_000, 413, "the body is larger than 165,536 bytes; send it in parts"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_and_leaves_nothing(
    make_world: MakeWorld, memory: MemoryPorts, promote: Promote, data: bytes, status: int, detail: str
) -> None:
    promote(memory)
    world = make_world({"api": {"max_csv_rows": 5, "max_csv_bytes": 100_000}})
    answer = world.client.send_csv(data)
    assert (answer.status_code, problem_of(answer)["detail"]) == (status, detail)
    world.stop()
    assert world.ports.files.list("data_prediction") == []
    assert world.ports.tables.version(PREDICTIONS_TABLE) == -1


@pytest.mark.parametrize(
    ("data", "cell"),
    [
        ("review_text;app\nça va;é\n".encode(), "é"),
        ("review_text\tapp\nça va\té\n".encode("utf-16"), "é"),
        ("review_text,app\nça va,é\n".encode("latin-1"), "é"),
        ("\ufeffreview_text,app\nça va,é\n".encode(), "é"),
    ],
    ids=["semicolon", "utf-16", "latin-1", "byte-order-mark"],
)
def test_files_that_people_have_are_read(world: World, data: bytes, cell: str) -> None:
    assert rows_of(world.client.send_csv(data))[1][:2] == ["ça va", cell]


def test_all_bad_rows_are_named_by_line(world: World) -> None:
    problem = problem_of(world.client.send_csv(b"review_text,app\n ,a\nx\n"))
    assert problem["errors"] == [
        {"line": 2, "problem": "blank: expected some text"},
        {"line": 3, "problem": "ragged: has 1 fields, the header has 2"},
    ]


@pytest.mark.parametrize(
    ("request_parts", "status", "detail"),
    [
        (
            {"files": {"upload": HELLO}},
            422,
            "file: is no file; the form holds upload, expected a CSV file in the field file",
        ),
        (
            {"files": {"a": (None, "x"), "file": (None, "y")}},
            422,
            "file: is no file; the form holds a, file, expected a CSV file in the field file",
        ),
        ({"files": [("file", HELLO), ("file", HELLO)]}, 400, "Too many files. Maximum number of files is 1."),
        (
            {"data": {"file": "x"}},
            415,
            "Content-Type: is application/x-www-form-urlencoded, expected multipart/form-data with a CSV file, "
            "text/csv or application/json",
        ),
        (
            {"content": HELLO},
            415,
            "Content-Type: is missing, expected multipart/form-data with a CSV file, text/csv or application/json",
        ),
        (
            {"content": b"--x", "headers": {"Content-Type": "multipart/form-data"}},
            400,
            "Missing boundary in multipart.",
        ),
        (
            {"content": b"junk", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
            400,
            "Invalid multipart data.",
        ),
        (
            {
                "content": PART + b"review_text\nok\n\r\n--x--",
                "headers": {"Content-Type": "multipart/form-data; boundary=x; charset=undefined"},
            },
            400,
            "Content-Type names a charset that is none; leave it out, or say utf-8",
        ),
    ],
)
def test_a_form_that_cannot_be_used_is_refused(
    world: World, request_parts: dict[str, Any], status: int, detail: str
) -> None:
    answer = world.client.post("/predict", **request_parts)
    assert (answer.status_code, problem_of(answer)["detail"]) == (status, detail)


# --- POST /predict and /predict_json with JSON


def test_a_json_batch_is_answered_in_order(world: World, tiny_model: SentimentModel) -> None:
    reviews = [{"review_text": "Love to cook with it", "review_id": "r-1", "rating": 5}, {"text": " "}, {"text": "meh"}]
    answer = world.client.post("/predict", json={"reviews": reviews})
    body = answer.json()
    assert body["model_version"] == "1"
    assert body["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["x-drift-status"] == "no-reference"
    good, blank, unnamed = body["predictions"]
    found = tiny_model.predict(["Love to cook with it"], [5])[0]
    assert good == {
        "review_id": "r-1",
        "prediction_id": good["prediction_id"],
        "sentiment": found.label.value,
        "confidence": pytest.approx(found.confidence, abs=1e-6),
        "probabilities": pytest.approx(dict(zip(LABELS, found.probabilities, strict=True)), abs=1e-6),
        "error": None,
    }
    assert {name for name, value in blank.items() if value is not None} == {"error"}
    assert blank["error"] == "blank: expected some text"
    assert unnamed["review_id"] is None
    assert sum(unnamed["probabilities"].values()) == pytest.approx(1.0)


def test_rows_are_written_alike_with_ids_and_without(world: World) -> None:
    texts = ["Love to cook with it", "It crashes when I pay it", "ok", "\u0130\u0307 \U0001f600 ดี", 'say "no"']
    plain = world.client.post("/predict", json={"texts": texts}).json()["predictions"]
    named = [{"text": text, "review_id": str(at)} for at, text in enumerate(texts)]
    rows = world.client.post("/predict", json={"reviews": named}).json()["predictions"]
    assert [row.pop("review_id") for row in rows] == ["0", "1", "2", "3", "4"]
    assert [row.pop("review_id") for row in plain] == [None] * 5
    for number, (one, other) in enumerate(zip(plain, rows, strict=True), 1):
        assert one.pop("prediction_id").endswith(f"-{number}")
        assert other.pop("prediction_id").endswith(f"-{number}")
        assert one == other


def test_one_text_is_answered_as_the_first_version_did(world: World) -> None:
    answer = world.client.post("/predict_json", json={"text": "Love it 👍"})
    body = answer.json()
    assert body["text"] == "Love it 👍"
    assert body["prediction"] in body["probabilities"]
    assert body["confidence"] == body["probabilities"][body["prediction"]]
    assert answer.headers["x-drift-detected"] == "false"


def test_reviews_that_are_all_bad_are_a_422_that_names_them(world: World) -> None:
    problem = problem_of(world.client.post("/predict", json={"texts": [" ", "w" * 20_001]}))
    assert problem["detail"] == "none of the 2 reviews can be predicted: blank: expected some text"
    assert problem["errors"] == [
        {"field": "reviews[0]", "problem": "blank: expected some text"},
        {"field": "reviews[1]", "problem": "too_long: has 20,001 characters, expected at most 20,000"},
    ]


@pytest.mark.parametrize(
    ("path", "body", "status", "detail"),
    [
        (
            "/predict",
            b'{"texts": ["a\\ud83d"]}',
            400,
            "texts[0]: holds half of a surrogate pair, expected valid Unicode",
        ),
        ("/predict", b'{"reviews": [{"text": "a", "rating": NaN}]}', 400, "reviews[0].rating: NaN is no JSON value"),
        (
            "/predict",
            b'{"reviews": [{"text": "a", "rating": "5"}]}',
            422,
            "reviews[0].rating: input should be a valid integer",
        ),
        ("/predict", b"[" * 9_000, 400, "the body is nested too deeply"),
        ("/predict", b'{"text": 1, "text": 2}', 400, "text: is given twice in one object"),
        ("/predict", b'{"text": "a", "rating": 1e400}', 422, "rating: input should be a valid integer"),
        (
            "/predict",
            b'{"texts": ["' + b"a" * 2**20 + b'"]}',
            413,
            "the body is larger than 1,048,576 bytes; send it in parts",
        ),
        ("/predict_json", b'{"txt": "a"}', 422, "text: field required"),
        ("/predict_json", b'{"text": " "}', 422, "text: blank: expected some text"),
        ("/predict_json", b'"a"', 422, "the body is a string, expected a JSON object"),
        ("/predict_json", b"", 400, "the body is no JSON: Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_a_faulty_json_body_is_refused(world: World, path: str, body: bytes, status: int, detail: str) -> None:
    answer = world.client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, problem_of(answer)["detail"]) == (status, detail)
    assert problem_of(answer)["instance"] == path


def test_predict_json_takes_json_alone(world: World) -> None:
    answer = world.client.post("/predict_json", data={"text": "Love it"})
    assert (
        problem_of(answer)["detail"] == "Content-Type: is application/x-www-form-urlencoded, expected application/json"
    )


@pytest.mark.parametrize("kind", ["application/json", "text/csv", "multipart/form-data; boundary=x"])
def test_a_body_of_untold_length_is_bounded_too(
    make_world: MakeWorld, memory: MemoryPorts, promote: Promote, kind: str
) -> None:
    promote(memory)
    world = make_world({"api": {"max_csv_bytes": 50_000, "max_json_bytes": 50_000}})

    async def endless() -> AsyncIterator[bytes]:
        yield PART
        for _ in range(1_000):
            yield b"w" * 10_000

    answer = world.client.post("/predict", content=endless(), headers={"Content-Type": kind})
    assert answer.status_code == 413
    assert problem_of(answer)["detail"].startswith("the body is larger than ")


# --- no answer is made up


def test_without_a_model_it_says_why_and_when_to_ask_again(make_world: MakeWorld) -> None:
    world = make_world()
    for answer in (
        world.client.send_csv(HELLO),
        world.client.post("/predict", json={"texts": ["Love it"]}),
        world.client.post("/predict_json", json={"text": "Love it"}),
        world.client.get("/model"),
        world.client.get("/model/metrics"),
        world.client.get("/readyz"),
        world.client.get("/healthcheck"),
        world.client.post("/loadmodel"),
    ):
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "5"
        assert problem_of(answer)["detail"] == "no model is promoted yet; POST /retrain trains the first one"
    assert world.client.get("/livez").json() == {"status": "alive"}
    assert "Not ready: no model is promoted yet" in world.client.get("/").text


def test_a_server_without_a_champion_asks_for_the_first_training_once(make_world: MakeWorld) -> None:
    world = make_world(train_if_missing=True)
    world.wait_until(lambda: world.ports.launcher.started)
    (job,) = world.ports.state.jobs()
    world.wait_until(lambda: f"job {job.job_id} trains the first one" in world.client.get("/readyz").text)
    assert world.client.post("/retrain").json()["job_id"] == job.job_id
    assert world.ports.launcher.started == [(job.job_id,)]


def test_a_prediction_that_cannot_be_kept_is_not_given(
    make_world: MakeWorld, memory: MemoryPorts, promote: Promote, tmp_path: Path
) -> None:
    class FullSpool(FileSpool):
        def append(self, payload: bytes, count: int) -> None:
            raise StoreError("predictions cannot be kept in spool: No space left on device")

    promote(memory)
    memory.spool = FullSpool(tmp_path)
    world = make_world()
    for answer in (world.client.send_csv(HELLO), world.client.post("/predict_json", json={"text": "Love it"})):
        assert answer.status_code == 503
        assert problem_of(answer)["detail"] == "predictions cannot be kept in spool: No space left on device"
    world.stop()
    assert world.ports.files.list("data_prediction") == []


def test_a_fault_of_the_server_tells_no_secrets(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(hot, "read_text", broken)
    with capture_logs() as told:
        answer = world.client.post("/predict_json", json={"text": "a"})
    assert "request failed" in [entry["event"] for entry in told]
    assert answer.status_code == 500
    assert problem_of(answer)["detail"] == "this is a fault of the server; its log names the request id"
    assert "hunter2" not in answer.text


# --- the model and training


def test_the_live_model_is_shown_with_its_figures(world: World) -> None:
    shown = world.client.get("/model").json()
    assert (shown["version"], shown["kind"], shown["reason"]) == ("1", "lr", "macro-F1 .74 against .71")
    assert world.client.get("/model/metrics").json() == {"macro_f1": 0.74, "accuracy": 0.79, "f1_neutral": None}


def test_a_promotion_is_followed_without_a_call(world: World, promote: Promote) -> None:
    promote(world.ports, note="second")
    world.wait_until(lambda: world.client.get("/model").json()["version"] == "2", seconds=5.0)
    assert world.client.post("/loadmodel").json() == {"model_version": "2", "changed": False}


def test_loading_by_get_is_answered_with_a_hint(world: World) -> None:
    answer = world.client.get("/loadmodel")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert problem_of(answer)["detail"] == "loading a model changes the server: use POST /loadmodel"


def test_a_retrain_is_one_job_that_can_be_asked_for(world: World) -> None:
    answer = world.client.post("/retrain")
    body = answer.json()
    assert answer.status_code == 202
    assert body == {
        "status": "Retraining scheduled",
        "job_id": body["job_id"],
        "status_url": f"/jobs/{body['job_id']}",
    }
    assert answer.headers["location"] == body["status_url"]
    assert world.client.post("/retrain").json() == body
    assert world.ports.launcher.started == [(body["job_id"],)]

    world.ports.state.update_job(
        body["job_id"], state=JobState.RUNNING, progress=0.5, step="training rf", log="x" * 9_000
    )
    job = world.client.get(body["status_url"]).json()
    assert (job["state"], job["progress"], job["step"], len(job["log"])) == ("running", 0.5, "training rf", 4_000)
    assert [job["job_id"] for job in world.client.get("/jobs").json()["jobs"]] == [body["job_id"]]

    world.ports.state.update_job(body["job_id"], state=JobState.DONE, result={"macro_f1": float("nan")})
    assert world.client.get(body["status_url"]).json()["result"] == {"macro_f1": None}
    assert world.client.post("/retrain").json()["job_id"] != body["job_id"]


@pytest.mark.parametrize(
    ("method", "path", "status", "detail"),
    [
        ("GET", "/jobs/none", 404, "there is no job none; GET /jobs and `mso status` list them"),
        ("GET", "/jobs?limit=0", 422, "limit: Input should be greater than or equal to 1"),
        (
            "GET",
            "/jobs?limit=many",
            422,
            "limit: Input should be a valid integer, unable to parse string as an integer",
        ),
        ("GET", "/nothing", 404, "there is nothing at /nothing; GET /openapi.json lists what there is"),
        ("GET", "/predict", 405, "/predict does not take GET"),
        ("DELETE", "/jobs", 405, "/jobs does not take DELETE"),
        ("BREW", "/livez", 405, "/livez does not take BREW"),
    ],
)
def test_what_is_not_there_is_said(world: World, method: str, path: str, status: int, detail: str) -> None:
    answer = world.client.request(method, path)
    assert (answer.status_code, problem_of(answer)["detail"]) == (status, detail)


# --- health and figures


def test_readiness_tells_what_is_away(world: World) -> None:
    world.wait_until(lambda: world.client.get("/readyz").json()["mlflow"] == "reachable")
    world.client.post("/predict_json", json={"text": "Love it"})
    found = world.client.get("/readyz").json()
    assert found == {
        "status": "ready",
        "model_version": "1",
        "model": "the champion",
        "mlflow": "reachable",
        "spool_depth": 1,
        "spool_bytes": found["spool_bytes"],
        "predictions_shed": 0,
        "predictions_table": "ok",
        "bucket": "ok",
        "keeper_report": world.ports.clock.now().isoformat(),
    }
    assert found["spool_bytes"] > 0
    assert world.client.get("/healthcheck").json() == found


def test_figures_count_answers_by_route_and_label(world: World) -> None:
    world.client.post("/predict", json={"texts": ["Love it", " "]})
    world.client.get("/jobs/none")
    world.client.get("/made/up/path")
    world.client.request("BREW", "/")
    answer = world.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    figures = answer.text
    assert 'http_requests_total{method="POST",route="/predict",status="200"} 1.0' in figures
    assert 'http_requests_total{method="GET",route="/jobs/{job_id}",status="404"} 1.0' in figures
    assert 'http_requests_total{method="GET",route="unmatched",status="404"} 1.0' in figures
    assert 'http_requests_total{method="other",route="unmatched",status="405"} 1.0' in figures
    assert 'mso_predictions_total{label="Positive",model_version="1"} 1.0' in figures
    assert 'mso_predictions_total{label="none",model_version="1"} 1.0' in figures
    assert 'mso_model_info{kind="lr",version="1"} 1.0' in figures
    assert "mso_spool_depth 1.0" in figures
    assert "made" not in figures


# --- reports


@pytest.fixture
def reports(world: World) -> Path:
    folder = world.folder / "reports"
    (folder / "eda" / "2026").mkdir(parents=True)
    (folder / "eda" / "2026" / "index.html").write_text("<script>draw()</script>")
    (folder / 'drift_<b>&".json').write_text("{}")
    (folder / ".hidden").write_text("secret")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    (world.folder / "secret.txt").write_text("secret")
    (folder / "link-out.txt").symlink_to(world.folder / "secret.txt")
    (folder / "folder-out").symlink_to(world.folder)
    (folder / "link-in.html").symlink_to(folder / "eda" / "2026" / "index.html")
    (folder / "broken").symlink_to(folder / "gone")
    return folder


def test_reports_are_listed_and_served(world: World, reports: Path) -> None:
    listed = world.client.get("/reports").json()["reports"]
    assert [report["name"] for report in listed] == ['drift_<b>&".json', "eda/2026/index.html", "link-in.html"]
    for report in listed:
        assert world.client.get(report["url"]).status_code == 200
    answer = world.client.get("/reports/eda/2026/index.html")
    assert answer.text == "<script>draw()</script>"
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"] == "sandbox allow-scripts"
    page = world.client.get("/reports/", headers={"Accept": "text/html"})
    assert '<a href="/reports/drift_%3Cb%3E%26%22.json">drift_&lt;b&gt;&amp;&quot;.json</a>' in page.text


@pytest.mark.usefixtures("reports")
@pytest.mark.parametrize(
    "name",
    [
        "%2e%2e/secret.txt",
        "..%2fsecret.txt",
        "eda/%2e%2e/%2e%2e/secret.txt",
        "%2fetc/passwd",
        "/etc/passwd",
        ".hidden",
        ".git/config",
        "link-out.txt",
        "folder-out/secret.txt",
        "broken",
        "eda",
        "eda/2026/",
        "eda/2026/index.html%00",
        "eda%5c2026%5cindex.html",
        "%ff",
        "x" * 5_000,
    ],
)
def test_nothing_but_reports_is_served(world: World, name: str) -> None:
    answer = world.client.get(f"/reports/{name}")
    assert answer.status_code == 404
    assert problem_of(answer)["detail"].endswith("GET /reports lists them")
    assert "secret" not in answer.text.replace("secret.txt", "")


# --- the documentation


def test_the_documentation_is_a_page_of_its_own(world: World) -> None:
    answer = world.client.get("/docs")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    for path in world.client.get("/openapi.json").json()["paths"]:
        assert path in answer.text


@pytest.mark.parametrize("path", ["/", "/docs", "/reports"])
def test_pages_are_well_formed_and_load_nothing_from_elsewhere(world: World, reports: Path, path: str) -> None:
    class Page(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []
            self.links: list[str] = []
            self.ids: set[str] = set()

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("meta", "link", "br"):
                self.open.append(tag)
            self.ids |= {value or "" for name, value in attrs if name == "id"}
            self.links += [value or "" for name, value in attrs if name in ("src", "href")]

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    page = Page()
    page.feed(world.client.get(path, headers={"Accept": "text/html"}).text)
    assert page.open == []
    assert page.links
    assert all(link.startswith(("/", "#")) and not link.startswith("//") for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} == page.ids
    for link in filter(lambda link: link.startswith("/"), page.links):
        assert world.client.get(link, headers={"Accept": "text/html"}).status_code == 200


def test_the_first_page_shows_a_call_that_works(world: World) -> None:
    page = world.client.get("/")
    assert page.status_code == 200
    assert "Model version 1 (lr) answers." in page.text


# --- who calls


def test_each_route_asks_who_calls_and_lets_a_key_do_what_it_may(
    make_world: MakeWorld, memory: MemoryPorts, promote: Promote
) -> None:
    promote(memory)
    world = make_world({"api": {"require_keys": True, "cors_origins": ["https://shop.example"]}})
    shown = {}
    roles: tuple[tuple[str, Role, list[str]], ...] = (("shop", "predict", ["lamp"]), ("ops", "operate", []))
    for name, role, apps in roles:
        shown[name], kept = new_key(name, role, apps, days=None, now=memory.clock.now())
        add_key(memory.keys, memory.state, kept, actor="ann")
    text, csv_file = {"json": {"text": "Love it"}}, {"files": {"file": HELLO}}
    asked: tuple[tuple[str, str, Any], ...] = (
        *(("POST", "/predict_json", text), ("POST", "/predict", {"json": {"texts": ["ok"]}})),
        *(("POST", "/predict", csv_file), ("POST", "/retrain", {}), ("GET", "/model", {}), ("GET", "/metrics", {})),
        *(("POST", "/invocations", {"json": {"inputs": ["ok"]}}), ("POST", "/explain", text)),
    )

    def statuses(**headers: str) -> list[int]:
        return [world.client.request(*call, **more, headers=headers).status_code for *call, more in asked]

    assert statuses() == statuses(**{"X-API-Key": "mso_guessed"}) == [401] * len(asked)
    assert statuses(**{"X-API-Key": shown["shop"]}) == [200, 200, 200, 403, 200, 200, 200, 200]
    assert statuses(Authorization=f"Bearer {shown['ops']}") == [200, 200, 200, 202, 200, 200, 200, 200]
    own = {"X-API-Key": shown["shop"]}
    other = world.client.post("/predict", json={"reviews": [{"text": "ok", "app": "bank"}]}, headers=own)
    assert (other.status_code, problem_of(other)["detail"]) == (
        403,
        "the key of shop is for reviews of lamp, and this one is of bank",
    )
    for path in ("/livez", "/readyz", "/healthcheck", "/ping"):
        assert world.client.get(path).status_code == 200
    world.stop()
    apps = world.ports.tables.read(PREDICTIONS_TABLE)["app"].to_pylist()
    assert apps.count("lamp") == 4  # of the shop's key alone


def test_pages_of_other_sites_and_other_names_of_the_server_are_refused(
    make_world: MakeWorld, memory: MemoryPorts, promote: Promote
) -> None:
    promote(memory)
    world = make_world({"api": {"cors_origins": ["https://shop.example"]}})
    for path, more in (("/predict_json", {"json": {"text": "Love it"}}), ("/retrain", {})):
        foreign = world.client.post(path, headers={"Origin": "https://evil.example"}, **more)
        assert foreign.status_code == 403
        assert "access-control-allow-origin" not in foreign.headers
        assert world.client.post(path, headers={"Host": "evil.example"}, **more).status_code == 421
        friend = world.client.post(path, headers={"Origin": "https://shop.example"}, **more)
        assert friend.status_code in (200, 202)
        assert friend.headers["access-control-allow-origin"] == "https://shop.example"
    asks = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
    assert world.client.request("OPTIONS", "/predict_json", headers=asks).status_code == 204


def test_who_asks_too_often_is_told_when_to_ask_again(
    make_world: MakeWorld, memory: MemoryPorts, promote: Promote
) -> None:
    promote(memory)
    world = make_world({"api": {"requests_per_second": 1}})
    answers = [world.client.post("/predict_json", json={"text": "Love it"}) for _ in range(6)]
    assert answers[0].status_code == 200
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert world.client.get("/readyz").status_code == 200


def test_a_request_that_is_sent_again_is_logged_once(world: World) -> None:
    again = {"Idempotency-Key": "the-same-1"}
    ids = [world.client.post("/predict", json={"texts": ["ok", "Love it"]}, headers=again).json() for _ in range(2)]
    first, second = ([one["prediction_id"] for one in found["predictions"]] for found in ids)
    files = [world.client.post("/predict", files={"file": HELLO}, headers=again) for _ in range(2)]
    assert first == second
    assert rows_of(files[0]) == rows_of(files[1])
    world.stop()
    logged = world.ports.tables.read(PREDICTIONS_TABLE)["prediction_id"].to_pylist()
    assert len(logged) == len(set(logged)) == 2 + len(rows_of(files[0])) - 1


# --- many at once, and callers that leave


def test_ids_are_unique_from_sixteen_threads(make_world: MakeWorld, memory: MemoryPorts, promote: Promote) -> None:
    promote(memory)
    world = make_world()
    start = threading.Barrier(16)

    def ask(_: int) -> tuple[list[str], list[str]]:
        start.wait()
        ids, files = [], []
        for _ in range(10):
            answer = world.client.send_csv(b"review_text\nLove it\nCrashes\n")
            ids += [row[-2] for row in rows_of(answer)[1:]]
            files.append(answer.headers["content-disposition"].split('"')[1])
            ids.append(world.client.post("/predict_json", json={"text": "ok"}).json()["prediction_id"])
        return ids, files

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(16)))
    world.stop()
    ids = [one for ids, _ in found for one in ids]
    files = [f"data_prediction/{one}" for _, files in found for one in files]
    assert len(ids) == len(set(ids)) == 16 * 10 * 3
    assert sorted(world.ports.tables.read(PREDICTIONS_TABLE)["prediction_id"].to_pylist()) == sorted(ids)
    assert world.ports.files.list("data_prediction") == sorted(files)
    assert len(set(files)) == 160


def speak(world: World, messages: Sequence[dict[str, Any]], send: Callable[[dict[str, Any]], None]) -> None:
    """A POST of a CSV body straight to the application."""
    waiting = iter(messages)

    async def receive() -> dict[str, Any]:
        return next(waiting, {"type": "http.disconnect"})

    async def sent(message: Any) -> None:
        send(message)

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/predict",
        "raw_path": b"/predict",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"text/csv"), (b"content-length", b"abc"), (b"host", b"localhost")],
    }
    world.client.portal.call(world.client.app, scope, receive, sent)


def test_a_caller_that_leaves_while_sending_is_no_fault(world: World) -> None:
    answers: list[dict[str, Any]] = []
    speak(world, [{"type": "http.request", "body": HELLO, "more_body": True}], answers.append)
    assert answers == []
    assert 'http_requests_total{method="POST",route="/predict",status="499"} 1.0' in world.client.get("/metrics").text


def test_a_caller_that_leaves_before_the_answer_leaves_no_open_file(world: World) -> None:
    def gone(_: dict[str, Any]) -> None:
        raise OSError("gone")

    speak(world, [{"type": "http.request", "body": HELLO, "more_body": False}], gone)
    assert world.client.get("/livez").status_code == 200


# --- every request

KINDS = (
    "application/json",
    "text/csv",
    "multipart/form-data; boundary=x",
    "multipart/form-data; boundary=x; charset=undefined",
    "multipart/form-data",
    "",
)
PIECES = st.sampled_from(
    [PART, b"review_text", b"\n", b"\r\n--x--", b'{"text": ', b'{"reviews": [', b"]}", b'"', b",", b"5"]
)


@given(
    st.sampled_from(["/predict", "/predict_json"]),
    st.sampled_from(KINDS) | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    st.lists(PIECES | st.binary(max_size=20), max_size=8).map(b"".join),
)
@example("/predict", "multipart/form-data; boundary=x; charset=idna", PART + b"review_text\n\xff\r\n--x--")
@example("/predict", 'multipart/form-data; boundary="', b"")
@example("/predict", "multipart/form-data; boundary=x", PART + b"review_text\nLove it\n")
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore:Unclosed file:ResourceWarning")  # Starlette leaves the file of a cut-off form
def test_no_body_is_a_fault_of_the_server(world: World, path: str, kind: str, body: bytes) -> None:
    answer = world.client.post(path, content=body, headers={"Content-Type": kind})
    assert answer.status_code in (200, 400, 413, 415, 422)
    if answer.status_code != 200:
        assert problem_of(answer)["detail"]


# --- what is told of a request


@pytest.mark.parametrize("path", ["/", "/docs", "/jobs", "/livez", "/metrics", "/model", "/readyz", "/reports", "/v2"])
def test_head_is_answered_as_get_is(world: World, path: str) -> None:
    head, get = world.client.request("HEAD", path), world.client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert {*head.headers} == {*get.headers}
    assert head.headers["content-type"] == get.headers["content-type"]


def test_head_is_not_taken_where_get_is_not(world: World) -> None:
    assert world.client.request("HEAD", "/predict").status_code == 405
    assert world.client.request("HEAD", "/made/up").status_code == 404


def test_texts_and_keys_are_in_no_line_of_the_log_and_in_no_error(
    make_world: MakeWorld, memory: MemoryPorts, promote: Promote, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(memory)
    key, kept = new_key("shop", "operate", [], days=None, now=memory.clock.now())
    add_key(memory.keys, memory.state, kept, actor="ann")
    configure_logs(Logs(format="json", level="debug"), output := io.StringIO())
    world = make_world({"api": {"require_keys": True, "log_requests": "all", "max_text_chars": 60}})
    secret, wrong_key = "Kumquat pie crashes", "mso_kumquat"
    odd = {"text": secret, "rating": secret, "submitted_at": secret, "app": secret * 20, "language": [secret]}
    bodies: list[tuple[str, Any]] = [
        ("/predict_json", {"text": secret}),
        ("/predict_json", {"text": secret * 9}),
        ("/predict_json", {"text": [secret]}),
        ("/predict_json", secret),
        ("/predict", {"texts": [secret, " "]}),
        ("/predict", {"texts": [secret * 9, {"text": secret}]}),
        ("/predict", {"reviews": [odd]}),
        ("/invocations", {"inputs": [secret * 9]}),
        ("/invocations", {"instances": [[secret]]}),
        ("/invocations", {"dataframe_split": {"columns": ["text"], "data": [[{"text": secret}], secret]}}),
        ("/v2/models/MobileSentimentModel/infer", {"inputs": [{"name": "text", "data": [secret]}]}),
        ("/explain", {"text": secret, "label": "Angry"}),
        ("/explain", {"text": secret * 9}),
    ]
    asked = 0

    def ask(path: str, **more: Any) -> httpx.Response:
        nonlocal asked
        asked += 1
        headers = {"X-API-Key": key, "X-Request-ID": f"r-{asked}", **more.pop("headers", {})}
        answer = world.client.post(f"{path}?text={secret}", headers=headers, **more)
        assert key not in answer.text
        assert wrong_key not in answer.text
        if answer.status_code >= 400:
            assert secret not in answer.text, answer.text
        return answer

    def everything() -> set[int]:
        found = {ask(path, json=body).status_code for path, body in bodies}
        found |= {ask(path, content=f'{{"text": "{secret}'.encode(), headers=IN_JSON).status_code for path, _ in bodies}
        found.add(ask("/predict", files={"file": f"review_text\n{secret}\n{secret * 9}\n"}).status_code)
        found.add(ask("/predict", files={"file": f'review_text\n"{secret}\n'}).status_code)
        found.add(ask("/predict_json", json={"text": secret}, headers={"X-API-Key": wrong_key}).status_code)
        return found

    def broken(*_: object, **__: object) -> None:
        raise ValueError(f"cannot read {secret} of {key}")

    assert everything() == {200, 400, 401, 422}
    for place in (
        "hot.read_text",
        "hot.read_reviews",
        "explain.explained",
        "protocols.answers_of",
        "ml_server.check_csv",
    ):
        monkeypatch.setattr(f"mobile_sentiment_ops.app.{place}", broken)
    assert 500 in everything()
    lines = [json.loads(line) for line in output.getvalue().splitlines()]
    assert {f"r-{number}" for number in range(1, asked + 1)} <= {line.get("request_id") for line in lines}
    assert all("request_id" in line for line in lines if line["event"] in ("answered", "request failed"))
    assert any("broken" in line.get("exception", "") for line in lines)
    for told in (secret, "Kumquat", key, wrong_key):
        assert told not in output.getvalue()
