"""The predictor in the protocols of others: the Open Inference Protocol and MLflow's scoring server."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mobile_sentiment_ops
from mobile_sentiment_ops.adapters.memory import MemoryPorts
from mobile_sentiment_ops.data.predictions import PREDICTIONS_TABLE
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.registry.pyfunc import FrameModel

from .conftest import World

TEXTS = ["Love to cook with it", "It crashes when I pay it", "How do I scan?", "ดีมาก 👍"]
INFER = "/v2/models/MobileSentimentModel/infer"
TEXT = {"name": "text", "shape": [4], "datatype": "BYTES", "data": TEXTS}


def infer(world: World, **body: Any) -> httpx.Response:
    return world.client.post(INFER, json={"inputs": [TEXT], **body})


def outputs_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    return {output["name"]: output for output in answer.json()["outputs"]}


def error_of(answer: httpx.Response) -> str:
    """The protocol's error, whose form is checked."""
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    return str(answer.json()["error"])


def strings(texts: list[str]) -> bytes:
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)


def send_bytes(world: World, tail: bytes, *, size: int | None = None, rows: int = 4, **more: Any) -> httpx.Response:
    parameters = {"binary_data_size": len(tail) if size is None else size}
    text = {"name": "text", "shape": [rows], "datatype": "BYTES", "parameters": parameters}
    head = json.dumps({"inputs": [text], **more}).encode()
    return world.client.post(INFER, content=head + tail, headers={"Inference-Header-Content-Length": str(len(head))})


# --- the Open Inference Protocol


def test_the_server_and_the_model_say_what_they_are(world: World) -> None:
    assert world.client.get("/v2").json() == {
        "name": "mobile_sentiment_ops",
        "version": mobile_sentiment_ops.__version__,
        "extensions": ["binary_tensor_data"],
    }
    assert world.client.get("/v2/health/live").json() == {"live": True}
    assert world.client.get("/v2/health/ready").json() == {"ready": True}
    found = world.client.get("/v2/models/MobileSentimentModel").json()
    assert (found["name"], found["versions"]) == ("MobileSentimentModel", ["1"])
    assert found["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert [(output["name"], output["shape"]) for output in found["outputs"]] == [
        ("label", [-1]),
        ("probabilities", [-1, 3]),
        ("confidence", [-1]),
    ]
    assert world.client.get("/v2/models/MobileSentimentModel/versions/1").json() == found
    assert world.client.get("/v2/models/MobileSentimentModel/versions/1/ready").json()["ready"]


@pytest.mark.parametrize("shape", [[4], [4, 1]])
@pytest.mark.parametrize("path", [INFER, INFER.replace("/infer", "/versions/1/infer")])
def test_texts_get_the_models_answers(world: World, tiny_model: SentimentModel, path: str, shape: list[int]) -> None:
    data = TEXTS if len(shape) == 1 else [[text] for text in TEXTS]
    answer = world.client.post(path, json={"id": "mine", "inputs": [{**TEXT, "shape": shape, "data": data}]})
    found, expected = outputs_of(answer), tiny_model.predict(TEXTS)
    assert [found[name]["shape"] for name in ("label", "probabilities", "confidence")] == [[4], [4, 3], [4]]
    assert found["label"]["data"] == [one.label.value for one in expected]
    assert found["confidence"]["data"] == pytest.approx([one.confidence for one in expected], abs=1e-6)
    assert found["probabilities"]["data"] == pytest.approx(
        [share for one in expected for share in one.probabilities], abs=1e-6
    )
    told = answer.json()
    assert (told["id"], told["model_name"], told["model_version"]) == ("mine", "MobileSentimentModel", "1")


def test_only_the_outputs_asked_for_are_answered(world: World) -> None:
    answer = infer(world, outputs=[{"name": "confidence"}, {"name": "label", "parameters": {"binary_data": False}}])
    assert list(outputs_of(answer)) == ["confidence", "label"]
    assert "id" not in answer.json()


def test_tensors_in_bytes_come_and_go_beside_those_in_json(world: World) -> None:
    plain = outputs_of(infer(world))
    wanted = [{"name": name, "parameters": {"binary_data": name != "confidence"}} for name in plain]
    answer = send_bytes(world, strings(TEXTS), outputs=wanted)
    assert answer.status_code == 200, answer.text
    size = int(answer.headers["inference-header-content-length"])
    head, tail = json.loads(answer.content[:size]), answer.content[size:]
    label, probabilities, confidence = head["outputs"]
    assert confidence == plain["confidence"]
    at = label["parameters"]["binary_data_size"]
    assert tail[:at] == strings(plain["label"]["data"])
    assert probabilities["parameters"]["binary_data_size"] == len(tail) - at == 4 * 12
    assert np.frombuffer(tail[at:], "<f4").tolist() == np.array(plain["probabilities"]["data"], np.float32).tolist()


def test_inferences_are_in_the_log_and_in_the_figures(world: World) -> None:
    answer = infer(world)
    world.stop()
    rows = world.ports.tables.read(PREDICTIONS_TABLE).to_pylist()
    assert [row["request_id"] for row in rows] == [answer.headers["x-request-id"]] * 4
    found = outputs_of(answer)["label"]["data"]
    assert [row["label"] for row in rows] == found
    figures = world.client.get("/metrics").text
    assert f'mso_predictions_total{{label="{found[0]}",model_version="1"}} {found.count(found[0])}.0' in figures


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("other", "there is no model 'other' here; MobileSentimentModel answers"),
        ("MobileSentimentModel/versions/7", "version '7' of MobileSentimentModel does not answer here; version 1 does"),
    ],
)
def test_another_model_or_version_is_not_here(world: World, path: str, error: str) -> None:
    answers = [world.client.get(f"/v2/models/{path}{more}") for more in ("", "/ready")]
    answers.append(world.client.post(f"/v2/models/{path}/infer", json={"inputs": [TEXT]}))
    assert [answer.status_code for answer in answers] == [404] * 3
    assert {error_of(answer) for answer in answers} == {error}


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"inputs": []}, "inputs are [], expected one: text, BYTES, of shape [n] or [n, 1] from n = 1"),
        ({"inputs": [{**TEXT, "name": "body"}]}, "inputs are [('body', 'BYTES', [4])], expected one: text"),
        ({"inputs": [TEXT, TEXT]}, "('text', 'BYTES', [4])], expected one: text"),
        ({"inputs": [{**TEXT, "datatype": "FP32"}]}, "inputs are [('text', 'FP32', [4])], expected one: text, BYTES"),
        ({"inputs": [{**TEXT, "shape": [3]}]}, "text holds 4 texts, expected 3"),
        ({"inputs": [{**TEXT, "shape": [2, 2]}]}, "[2, 2])], expected one: text"),
        ({"inputs": [{**TEXT, "shape": [0], "data": []}]}, "of shape [n] or [n, 1] from n = 1"),
        ({"inputs": [{**TEXT, "shape": [-1]}]}, "[-1])], expected one"),
        ({"inputs": [{**TEXT, "data": ["a", 7, "b", "c"]}]}, "inputs[0].data[1]: Expected `str | array`, got `int`"),
        ({"inputs": [{**TEXT, "data": None}]}, "text has no data"),
        (
            {"inputs": [{**TEXT, "parameters": {"binary_data_size": 0}}]},
            "expected data, or as many bytes as binary_data_size says",
        ),
        ({"inputs": [{**TEXT, "data": ["ok", "ok", " ", "ok"]}]}, "text[2]: blank: expected some text"),
        ({"outputs": [{"name": "stars"}]}, "there is no output 'stars'; expected label, probabilities, confidence"),
        ({"outputs": [{"name": "label", "parameters": {"classification": 2}}]}, "unknown field `classification`"),
        ({"parameters": {"priority": 1}}, "parameters: Object contains unknown field `priority`"),
    ],
)
def test_a_faulty_inference_is_refused_whole_with_its_place(world: World, more: dict[str, Any], error: str) -> None:
    answer = infer(world, **more)
    assert answer.status_code == 400
    assert error in error_of(answer)
    assert world.ports.spool.depth() == 0


@pytest.mark.parametrize(
    ("tail", "more", "error"),
    [
        (strings(TEXTS)[:-1], {}, "text[3] ends behind the bytes of its tensor"),
        (strings(TEXTS)[:1], {}, "text[0] ends behind"),
        (strings(TEXTS), {"size": 9}, "binary_data_size 9 and"),
        (strings(TEXTS[:2]), {}, "text holds 2 texts, expected 4"),
        (b"\x02\0\0\0ok\x01\0\0\0\xff", {"rows": 2}, "text[1] is no UTF-8: invalid start byte at its byte 0"),
    ],
)
def test_faulty_bytes_are_refused(world: World, tail: bytes, more: dict[str, Any], error: str) -> None:
    answer = send_bytes(world, tail, **more)
    assert answer.status_code == 400
    assert error in error_of(answer)


@pytest.mark.parametrize("length", ["", "-1", "1e3", "99999", "9" * 5_000, "²"])
def test_a_head_of_impossible_length_is_refused(world: World, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length.encode()}
    answer = world.client.post(INFER, content=b"{}", headers=headers)
    assert answer.status_code == 400
    assert "expected at most the body's 2 bytes" in error_of(answer)


def test_limits_are_those_of_json(make_world: Callable[..., World], promote: Callable[..., object]) -> None:
    world = make_world({"api": {"max_json_rows": 3, "max_json_bytes": 1_024}})
    away = world.client.get("/v2/health/ready")
    assert (away.status_code, error_of(away)) == (503, "no model is promoted yet; POST /retrain trains the first one")
    assert infer(world).status_code == 503
    promote(world.ports)
    world.wait_until(lambda: world.client.get("/v2/health/ready").status_code == 200)
    answer = infer(world)
    assert (answer.status_code, error_of(answer)) == (
        413,
        "text has 4 rows, expected at most 3; send them in parts",
    )
    assert error_of(infer(world, id="7" * 1_024)) == "the body is larger than 1,024 bytes; send it in parts"
    as_csv = world.client.post(INFER, content=b" " * 2_000, headers={"Content-Type": "text/csv"})
    assert (as_csv.status_code, error_of(as_csv)[:27]) == (413, "the body is larger than 1,0")
    assert error_of(world.client.get("/v2/nothing")).startswith("there is nothing at /v2/nothing")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(head=st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from([*TEXT, "inputs", "outputs", "parameters", "id", "binary_data_size"]), inner),
    max_leaves=12,
), tail=st.binary(max_size=12))  # fmt: skip
def test_no_inference_is_a_fault_of_the_server(world: World, head: object, tail: bytes) -> None:
    data = json.dumps(head).encode()
    for content, more in ((data, {}), (data + tail, {"Inference-Header-Content-Length": str(len(data))})):
        answer = world.client.post(INFER, content=content, headers=more)
        assert answer.status_code == 400, answer.text
        assert error_of(answer)


# --- MLflow's scoring protocol

FRAMES: list[dict[str, Any]] = [
    {"dataframe_split": {"columns": ["id", "review_text"], "data": list(enumerate(TEXTS)), "index": [1, 2, 3, 4]}},
    {"dataframe_records": [{"review_text": text, "rating": 5.0} for text in TEXTS]},
    {"instances": [{"text": text} for text in TEXTS], "params": {}},
    {"instances": TEXTS},
    {"inputs": TEXTS},
    {"inputs": [[text] for text in TEXTS]},
    {"inputs": {"review_text": TEXTS}},
]


@pytest.mark.parametrize("body", FRAMES, ids=lambda body: "-".join(body))
def test_a_frame_gets_the_rows_of_the_registered_model(
    world: World, tiny_model: SentimentModel, body: dict[str, Any]
) -> None:
    answer = world.client.post("/invocations", json=body)
    expected = FrameModel(tiny_model).predict(pd.DataFrame({"review_text": TEXTS}))
    found = pd.DataFrame(answer.json()["predictions"])
    pd.testing.assert_frame_equal(found, expected, check_exact=False, atol=1e-6)


def test_a_csv_file_gets_rows_too_and_a_blank_text_nulls(world: World) -> None:
    data = 'review_text,app\n"Love to cook, with it",shop\n ,shop\n'.encode("utf-8-sig")
    answer = world.client.post("/invocations", content=data, headers={"Content-Type": "text/csv; charset=utf-8"})
    good, blank = answer.json()["predictions"]
    assert good["sentiment"] == "Positive"
    assert set(blank.values()) == {None}
    world.stop()
    (row,) = world.ports.tables.read(PREDICTIONS_TABLE).to_pylist()
    assert (row["app"], row["request_id"]) == ("shop", answer.headers["x-request-id"])


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ([], "the body has no frame, expected one of dataframe_split, dataframe_records, instances, inputs"),
        ({"inputs": [], "instances": []}, "the body has instances and inputs, expected one of"),
        ({"inputs": "Love it"}, "inputs is no frame"),
        ({"dataframe_split": {"data": 3}}, "dataframe_split is no frame"),
        (
            {"dataframe_split": {"columns": ["a", "b"], "data": [[1]]}},
            "dataframe_split is no frame, whose rows have as many",
        ),
        ({"inputs": {"text": ["a", "b"], "app": ["c"]}}, "inputs is no frame, whose rows have as many values"),
        ({"inputs": [{}, [7, 8]]}, "inputs is no frame"),
        ({"instances": None}, "instances is no frame"),
        ({"dataframe_split": {"columns": [[]], "data": [[1]]}}, "dataframe_split is no frame"),
        ({"dataframe_records": {"text": 5}}, "dataframe_records is no frame"),
        ({"inputs": [{"body": "a", "id": 1}]}, "row 0 has body, id, expected a text in a column review_text"),
        ({"inputs": ["a", 7]}, "row 1 has int, expected a text"),
    ],
)
def test_what_is_no_frame_is_refused(world: World, body: object, detail: str) -> None:
    answer = world.client.post("/invocations", json=body)
    assert answer.status_code == 400
    assert detail in answer.json()["detail"]


def test_a_frame_that_is_too_large_or_of_another_kind_is_refused(
    memory: MemoryPorts, promote: Callable[..., object], make_world: Callable[..., World]
) -> None:
    promote(memory)
    world = make_world({"api": {"max_json_rows": 3, "max_json_bytes": 1_024}})
    answers = [
        world.client.post("/invocations", json={"inputs": ["a"] * 4}),
        world.client.post("/invocations", content=b"text\n" + b"a" * 1_024, headers={"Content-Type": "text/csv"}),
        world.client.post("/invocations", content=b"text\n\xff", headers={"Content-Type": "text/csv"}),
        world.client.post("/invocations", content=b"a", headers={"Content-Type": "text/plain"}),
    ]
    assert [answer.status_code for answer in answers] == [413, 413, 400, 415]


def test_ping_answers_when_there_is_a_model(world: World, make_world: Callable[..., World]) -> None:
    assert world.client.get("/ping").status_code == 200
    assert world.client.get("/version").text[0].isdigit()


def test_ping_says_when_there_is_none(make_world: Callable[..., World]) -> None:
    assert make_world().client.get("/ping").status_code == 503


# --- a public client of the protocol


@pytest.fixture
def address(world: World, free_port: int) -> Iterator[str]:
    """The API over memory behind a real server."""
    server = uvicorn.Server(uvicorn.Config(world.client.app, port=free_port, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline, "the server does not answer"
        time.sleep(0.01)
    yield f"127.0.0.1:{free_port}"
    server.should_exit = True
    thread.join()


@pytest.mark.integration
def test_tritons_client_speaks_to_it(address: str, tiny_model: SentimentModel) -> None:
    triton = pytest.importorskip("tritonclient.http")
    name, expected = "MobileSentimentModel", tiny_model.predict(TEXTS)
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready(name)
        assert not client.is_model_ready("other")
        assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
        assert client.get_model_metadata(name, "1")["inputs"][0]["name"] == "text"
        for in_bytes in (True, False):
            text = triton.InferInput("text", [4, 1], "BYTES")
            text.set_data_from_numpy(np.array(TEXTS, object).reshape(4, 1), binary_data=in_bytes)
            outputs = [triton.InferRequestedOutput(one, binary_data=in_bytes) for one in ("label", "probabilities")]
            for asked in (None, outputs):  # without, the client asks for all in bytes
                found = client.infer(name, [text], outputs=asked, request_id="7", model_version="1")
                labels = [one if isinstance(one, str) else one.decode() for one in found.as_numpy("label")]
                assert labels == [one.label.value for one in expected]
                shares = found.as_numpy("probabilities")
                assert shares.shape == (4, 3)
                assert shares == pytest.approx(np.array([one.probabilities for one in expected]), abs=1e-6)
                assert found.get_response()["id"] == "7"
                assert (found.get_output("confidence") is None) == (asked is not None)
        with pytest.raises(triton.InferenceServerException, match="there is no model 'other' here") as refused:
            client.infer("other", [text])
        assert refused.value.status() == "404"
        unknown = triton.InferInput("body", [1], "BYTES")
        unknown.set_data_from_numpy(np.array(["a"], object))
        with pytest.raises(triton.InferenceServerException, match="expected one: text"):
            client.infer(name, [unknown])
