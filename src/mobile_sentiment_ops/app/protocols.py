"""The same predictor in protocols that other software speaks.

    /v2/...         the Open Inference Protocol (KServe, Triton), JSON or tensors in bytes behind a JSON head
    /invocations    what `mlflow models serve` answers, with /ping and /version

A text goes in and what the model says comes out, in the log and the figures like any other prediction. Errors
under /v2 have that protocol's form ({"error": ...}); `problems.py` knows it.
"""

from __future__ import annotations

import csv
import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version as version_of
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np
from anyio import to_thread
from fastapi import APIRouter, Request
from msgspec import Meta, Struct
from starlette.responses import Response

import mobile_sentiment_ops
from mobile_sentiment_ops.app.bodies import read_json
from mobile_sentiment_ops.app.edge import too_large
from mobile_sentiment_ops.app.openapi import DOCUMENTED
from mobile_sentiment_ops.app.parts import Parts, answers_of, as_json, media_type, parts_of, read_as, unsupported
from mobile_sentiment_ops.app.prediction import Answer, Batch, Review
from mobile_sentiment_ops.app.problems import Problem
from mobile_sentiment_ops.data.predictions import text_fault
from mobile_sentiment_ops.types import LABELS, Prediction

routes = APIRouter()

HEAD_BYTES = "Inference-Header-Content-Length"
OUTPUTS: Mapping[str, tuple[str, list[int]]] = {
    "label": ("BYTES", []),
    "probabilities": ("FP32", [len(LABELS)]),
    "confidence": ("FP32", []),
}
"""Name -> data type and shape of one text's part; in the order they are answered in."""

Row: TypeAlias = Mapping[str, object]


# --- the Open Inference Protocol


@routes.get("/v2", **DOCUMENTED["/v2"])
async def server() -> Response:
    """Which server this is, and which extensions of the protocol it has."""
    told = {"name": "mobile_sentiment_ops", "version": mobile_sentiment_ops.__version__}
    return as_json({**told, "extensions": ["binary_tensor_data"]})


@routes.get("/v2/health/live", **DOCUMENTED["/v2/health/live"])
async def live() -> Response:
    """Whether the process answers at all."""
    return as_json({"live": True})


@routes.get("/v2/health/ready", **DOCUMENTED["/v2/health/ready"])
async def ready(request: Request) -> Response:
    """Whether it can predict; 503 with the reason if it cannot."""
    parts_of(request).predictions.live()
    return as_json({"ready": True})


@routes.get("/v2/models/{model}/versions/{version}", include_in_schema=False)
@routes.get("/v2/models/{model}", **DOCUMENTED["/v2/models/{model}"])
async def model_metadata(request: Request, model: str) -> Response:
    """What the model takes and gives.

    Here and below, `/versions/{version}` after the name asks for one version: the live one answers, others are 404.
    """
    outputs = [_tensor(name, [-1]) for name in OUTPUTS]
    told = {"name": model, "versions": [_version(request, model)], "platform": "mobile_sentiment_ops"}
    return as_json({**told, "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1]}], "outputs": outputs})


@routes.get("/v2/models/{model}/versions/{version}/ready", include_in_schema=False)
@routes.get("/v2/models/{model}/ready", **DOCUMENTED["/v2/models/{model}/ready"])
async def model_ready(request: Request, model: str) -> Response:
    """Whether that model can answer."""
    _version(request, model)
    return as_json({"name": model, "ready": True})


@routes.post("/v2/models/{model}/versions/{version}/infer", include_in_schema=False)
@routes.post("/v2/models/{model}/infer", **DOCUMENTED["/v2/models/{model}/infer"])
async def infer(request: Request, model: str) -> Response:
    """Sentiment of the texts of a BYTES tensor `text` of shape [n] or [n, 1].

    Tensors come and go as JSON, or as bytes behind a JSON head whose length is told by the header
    `Inference-Header-Content-Length` (the extension binary_tensor_data). The protocol has no error for a single
    text, so one that cannot be judged refuses the request and is named.
    """
    parts = parts_of(request)
    batch = parts.predictions.batch(request.state.request_id)
    _check_name(request, model, parts, batch.live.version)
    body = await request.body()
    return await to_thread.run_sync(_infer, parts, batch, model, body, request.headers.get(HEAD_BYTES))


def _version(request: Request, model: str) -> str:
    """The live model's version, if it is the model that the path asks for."""
    parts = parts_of(request)
    version = parts.predictions.live().version
    _check_name(request, model, parts, version)
    return version


def _check_name(request: Request, model: str, parts: Parts, version: str) -> None:
    name = parts.platform.settings.mlflow.registered_model
    if model != name:
        raise Problem(404, f"there is no model {model!r} here; {name} answers")
    if (asked := request.path_params.get("version", version)) != version:
        raise Problem(404, f"version {asked!r} of {name} does not answer here; version {version} does")


class _InputParameters(Struct, forbid_unknown_fields=True):
    binary_data_size: Annotated[int, Meta(ge=0)] | None = None


class _Input(Struct):
    name: str
    datatype: str
    shape: list[Annotated[int, Meta(ge=0)]]
    data: list[str | list[str]] | None = None
    parameters: _InputParameters = msgspec.field(default_factory=_InputParameters)


class _OutputParameters(Struct, forbid_unknown_fields=True):
    binary_data: bool | None = None


class _Output(Struct):
    name: str
    parameters: _OutputParameters = msgspec.field(default_factory=_OutputParameters)


class _RequestParameters(Struct, forbid_unknown_fields=True):
    binary_data_output: bool = False


class _Request(Struct):
    inputs: list[_Input]
    id: str | None = None
    outputs: list[_Output] = []
    parameters: _RequestParameters = msgspec.field(default_factory=_RequestParameters)


def _infer(parts: Parts, batch: Batch, model: str, body: bytes, head_bytes: str | None) -> Response:
    head, rest = _parted(body, head_bytes)
    asked = read_as(_Request, head, status=400)
    wanted = {output.name: output.parameters.binary_data for output in asked.outputs} or dict.fromkeys(OUTPUTS)
    if unknown := [name for name in wanted if name not in OUTPUTS]:
        raise Problem(400, f"there is no output {unknown[0]!r}; expected {', '.join(OUTPUTS)}")
    api = parts.platform.settings.api
    texts = _texts(asked.inputs, rest, api.max_json_rows)
    for row, text in enumerate(texts):
        if fault := text_fault(text, api.max_text_chars):
            raise Problem(400, f"text[{row}]: {fault}")
    answers = answers_of(parts, batch, [Review(text) for text in texts])
    found = [answer.prediction for answer in answers if answer.prediction]
    outputs, tail = [], []
    for name, binary in wanted.items():
        tensor = _tensor(name, [len(found)])
        if asked.parameters.binary_data_output if binary is None else binary:
            tail.append(_as_bytes(name, found))
            outputs.append({**tensor, "parameters": {"binary_data_size": len(tail[-1])}})
        else:
            outputs.append({**tensor, "data": _as_list(name, found)})
    told = {"model_name": model, "model_version": batch.live.version, "outputs": outputs}
    answer = as_json(told if asked.id is None else {**told, "id": asked.id})
    if not tail:
        return answer
    headers = {HEAD_BYTES: str(len(answer.body))}
    return Response(b"".join([bytes(answer.body), *tail]), 200, headers, media_type="application/octet-stream")


def _parted(body: bytes, head_bytes: str | None) -> tuple[bytes, bytes]:
    """The JSON head and the tensors' bytes behind it.

    >>> _parted(b'{"id": "7"}\\x00\\x01', "11"), _parted(b"{}", None)
    ((b'{"id": "7"}', b'\\x00\\x01'), (b'{}', b''))
    """
    if head_bytes is None:
        return body, b""
    if not (head_bytes.isascii() and head_bytes.isdecimal() and int(head_bytes[:18]) <= len(body)):
        raise Problem(400, f"{HEAD_BYTES} is {head_bytes[:40]!r}, expected at most the body's {len(body):,} bytes")
    return body[: int(head_bytes)], body[int(head_bytes) :]


def _texts(inputs: Sequence[_Input], rest: bytes, max_rows: int) -> list[str]:
    if len(inputs) != 1 or inputs[0].name != "text":
        names = ", ".join(repr(found.name[:100]) for found in inputs[:5])
        raise Problem(400, f"inputs are {names or 'missing'}, expected the one input 'text'")
    given, size = inputs[0], inputs[0].parameters.binary_data_size
    if given.datatype != "BYTES":
        raise Problem(400, f"text is of type {given.datatype[:40]!r}, expected BYTES")
    if len(given.shape) not in (1, 2) or given.shape[1:] not in ([], [1]) or given.shape[0] == 0:
        raise Problem(400, f"text has the shape {given.shape[:9]}, expected [n] or [n, 1] with at least one text")
    if given.shape[0] > max_rows:
        raise Problem(413, f"text has {given.shape[0]:,} rows, expected at most {max_rows:,}; send them in parts")
    if (given.data is None) == (size is None) or len(rest) != (size or 0):
        raise Problem(
            400,
            f"text has {'' if given.data else 'no '}data, binary_data_size {size} and {len(rest):,} bytes behind the "
            f"head, expected either data or as many bytes as binary_data_size says",
        )
    rows = given.data if given.data is not None else list(_strings(rest))
    texts = [text for row in rows for text in ([row] if isinstance(row, str) else row)]
    if len(texts) != given.shape[0]:
        raise Problem(400, f"text holds {len(texts):,} texts, expected {given.shape[0]:,} for its shape {given.shape}")
    return texts


def _strings(data: bytes) -> Iterator[str]:
    """The texts of a BYTES tensor: each with its length (4 bytes, little endian) before it.

    >>> list(_strings(b"\\x02\\0\\0\\0ok\\0\\0\\0\\0"))
    ['ok', '']
    """
    at = row = 0
    while at < len(data):
        start = at + 4
        at = start + int.from_bytes(data[at:start], "little")
        if at > len(data) or start > len(data):
            raise Problem(400, f"text[{row}] ends behind the bytes of its tensor")
        try:
            yield data[start:at].decode()
        except UnicodeDecodeError as err:
            raise Problem(400, f"text[{row}] is no UTF-8: {err.reason} at its byte {err.start}") from err
        row += 1


def _tensor(name: str, shape: list[int]) -> dict[str, object]:
    datatype, more = OUTPUTS[name]
    return {"name": name, "datatype": datatype, "shape": shape + more}


def _as_list(name: str, found: Sequence[Prediction]) -> list[Any]:
    if name == "probabilities":
        return [share for one in found for share in one.probabilities]
    return [getattr(one, name) for one in found]


def _as_bytes(name: str, found: Sequence[Prediction]) -> bytes:
    values = _as_list(name, found)
    if name == "label":
        return b"".join(struct.pack("<I", len(label)) + label.encode() for label in values)
    return np.array(values, "<f4").tobytes()


# --- MLflow's scoring protocol


@routes.get("/ping", **DOCUMENTED["/ping"])
async def ping(request: Request) -> Response:
    """Whether it can predict, as MLflow's server tells it; 503 with the reason if it cannot."""
    parts_of(request).predictions.live()
    return as_json({})


@routes.get("/version", **DOCUMENTED["/version"])
async def mlflow_version() -> Response:
    """The release of MLflow whose protocol this is."""
    return Response(version_of("mlflow"), media_type="text/plain")


@routes.post("/invocations", **DOCUMENTED["/invocations"])
async def invocations(request: Request) -> Response:
    """Sentiment of a frame with a column `review_text` (or `text`), or of a list of texts.

    The rows are those of the registered model: a text that cannot be judged has nulls.
    """
    parts, kind = parts_of(request), media_type(request)
    if kind not in ("application/json", "text/csv"):
        raise unsupported(kind, "application/json or text/csv")
    body = await request.body()
    if len(body) > (limit := parts.platform.settings.api.max_json_bytes):
        raise too_large(limit)
    return await to_thread.run_sync(_invocations, parts, request.state.request_id, kind, body)


def _invocations(parts: Parts, request_id: str, kind: str, body: bytes) -> Response:
    batch = parts.predictions.batch(request_id)
    rows = _csv_rows(body) if kind == "text/csv" else frame_rows(read_json(body))
    if len(rows) > (limit := parts.platform.settings.api.max_json_rows):
        raise Problem(413, f"the frame has {len(rows):,} rows, expected at most {limit:,}; send them in parts")
    answers = answers_of(parts, batch, [_review(row, number) for number, row in enumerate(rows)])
    return as_json({"predictions": [_as_row(answer) for answer in answers]})


def _as_row(answer: Answer) -> Row:
    found = answer.prediction
    figures = (found.label, found.confidence, *found.probabilities) if found else (None,) * (2 + len(LABELS))
    columns = ("sentiment", "confidence", *(f"p_{label.lower()}" for label in LABELS))
    return dict(zip(columns, figures, strict=True))


def _csv_rows(body: bytes) -> list[Row]:
    try:
        return list(csv.DictReader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as err:
        raise Problem(400, f"the body is no CSV file in UTF-8: {err}") from err


def frame_rows(body: object) -> list[Row]:
    """The rows of a frame in any of the forms that MLflow takes; a list of texts is one column `text`.

    >>> frame_rows({"dataframe_split": {"columns": ["text", "app"], "data": [["Slow", "shop"]]}})
    [{'text': 'Slow', 'app': 'shop'}]
    >>> frame_rows({"inputs": {"review_text": ["Slow", "Fine"]}})
    [{'review_text': 'Slow'}, {'review_text': 'Fine'}]
    >>> frame_rows({"instances": ["Slow"]}), frame_rows({"dataframe_records": [{"text": "Slow"}]})
    ([{'text': 'Slow'}], [{'text': 'Slow'}])
    """
    forms = ("dataframe_split", "dataframe_records", "instances", "inputs")
    given = [form for form in forms if form in body] if isinstance(body, dict) else []
    if not isinstance(body, dict) or len(given) != 1:
        raise Problem(400, f"the body has {' and '.join(given) or 'no frame'}, expected one of {', '.join(forms)}")
    form, frame = given[0], body[given[0]]
    columns, rows = None, frame
    if isinstance(frame, dict) and form == "dataframe_split":
        columns, rows = frame.get("columns"), frame.get("data")
    elif isinstance(frame, dict) and all(isinstance(column, list) for column in frame.values()):
        columns, rows = list(frame), list(map(list, zip(*frame.values(), strict=False)))
        if any(len(column) != len(rows) for column in frame.values()):
            raise Problem(400, f"{form}: its columns are of unlike lengths")
    if not isinstance(rows, list) or not (columns is None or isinstance(columns, list)):
        raise Problem(400, f"{form} is no frame: expected columns and rows in lists")
    return [_named_row(columns, row, f"{form} row {number}") for number, row in enumerate(rows)]


def _named_row(columns: list[object] | None, row: object, place: str) -> Row:
    cells = row if isinstance(row, list) else [row]
    if columns is None:
        if isinstance(row, dict):
            return row
        columns = ["text"]
    if len(cells) != len(columns):
        raise Problem(400, f"{place} has {len(cells)} values for {len(columns)} columns")
    return dict(zip(map(str, columns), cells, strict=True))


def _review(row: Row, number: int) -> Review:
    if not (named := [name for name in ("review_text", "text") if name in row]):
        raise Problem(400, f"row {number} has no column review_text; found {', '.join(map(str, row)) or 'none'}"[:400])
    text = row[named[0]]
    if not isinstance(text, str | None):
        raise Problem(400, f"{named[0]} of row {number} is a {type(text).__name__}, expected a text")
    told = {name: row.get(name) for name in ("review_id", "app", "version", "language")}
    return Review(text or "", **{name: value[:256] for name, value in told.items() if isinstance(value, str)})
