"""The same predictor in protocols that other software speaks.

    /v2/...         the Open Inference Protocol (KServe, Triton), JSON or tensors in bytes behind a JSON head
    /invocations    what `mlflow models serve` answers, with /ping and /version

A text goes in and what the model says comes out, in the log and the figures like any other prediction. Errors
under /v2 have that protocol's form ({"error": ...}); `problems.py` knows it.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version as version_of
from typing import Annotated, Any, TypeAlias

import numpy as np
from anyio import to_thread
from fastapi import APIRouter, Request
from msgspec import Meta, Struct
from starlette.responses import Response

import mobile_sentiment_ops
from mobile_sentiment_ops.app.bodies import read_json
from mobile_sentiment_ops.app.edge import too_large
from mobile_sentiment_ops.app.openapi import DOCUMENTED
from mobile_sentiment_ops.app.parts import (
    Parts,
    answers_of,
    as_json,
    batch_of,
    media_type,
    parts_of,
    read_as,
    unsupported,
)
from mobile_sentiment_ops.app.prediction import Answer, Batch, LiveModel
from mobile_sentiment_ops.app.problems import Problem
from mobile_sentiment_ops.data.predictions import Review, text_fault
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
async def model_metadata(request: Request) -> Response:
    """What the model takes and gives.

    Here and below, `/versions/{version}` after the name asks for one version: the live one answers, others are 404.
    """
    name, version = _found(request, parts_of(request).predictions.live())
    told = {"name": name, "versions": [version], "platform": "mobile_sentiment_ops"}
    text = {"name": "text", "datatype": "BYTES", "shape": [-1]}
    return as_json({**told, "inputs": [text], "outputs": [_tensor(output, -1) for output in OUTPUTS]})


@routes.get("/v2/models/{model}/versions/{version}/ready", include_in_schema=False)
@routes.get("/v2/models/{model}/ready", **DOCUMENTED["/v2/models/{model}/ready"])
async def model_ready(request: Request) -> Response:
    """Whether that model can answer."""
    name, _ = _found(request, parts_of(request).predictions.live())
    return as_json({"name": name, "ready": True})


@routes.post("/v2/models/{model}/versions/{version}/infer", include_in_schema=False)
@routes.post("/v2/models/{model}/infer", **DOCUMENTED["/v2/models/{model}/infer"])
async def infer(request: Request) -> Response:
    """Sentiment of the texts of a BYTES tensor `text` of shape [n] or [n, 1].

    Tensors come and go as JSON, or as bytes behind a JSON head whose length is told by the header
    `Inference-Header-Content-Length` (the extension binary_tensor_data). The protocol has no error for a single
    text, so one that cannot be judged refuses the request and is named.
    """
    parts = parts_of(request)
    batch = batch_of(request)
    name, _ = _found(request, batch.live)
    body = await _body(request)
    return await to_thread.run_sync(_infer, parts, batch, name, body, request.headers.get(HEAD_BYTES))


def _found(request: Request, live: LiveModel) -> tuple[str, str]:
    """Name and version of the live model, if it is the one that the path asks for."""
    name, asked = parts_of(request).platform.settings.mlflow.registered_model, request.path_params
    if asked["model"] != name:
        raise Problem(404, f"there is no model {asked['model']!r} here; {name} answers")
    if (version := asked.get("version", live.version)) != live.version:
        raise Problem(404, f"version {version!r} of {name} does not answer here; version {live.version} does")
    return name, live.version


async def _body(request: Request) -> bytes:
    """The body within the limit of JSON, whatever its media type: it is held whole."""
    body = await request.body()
    if len(body) > (limit := parts_of(request).platform.settings.api.max_json_bytes):
        raise too_large(limit)
    return body


class _Parameters(Struct, frozen=True, forbid_unknown_fields=True):
    """Those of the extension binary_tensor_data, of an input, an output and a whole request."""

    binary_data_size: Annotated[int, Meta(ge=0)] | None = None
    binary_data: bool | None = None
    binary_data_output: bool = False


class _Tensor(Struct):
    name: str
    datatype: str = ""
    shape: list[int] = []
    data: list[str | list[str]] | None = None
    parameters: _Parameters = _Parameters()


class _Request(Struct):
    inputs: list[_Tensor]
    id: str | None = None
    outputs: list[_Tensor] = []
    parameters: _Parameters = _Parameters()


def _infer(parts: Parts, batch: Batch, model: str, body: bytes, head_bytes: str | None) -> Response:
    size, api = len(body), parts.platform.settings.api
    if head_bytes is not None:
        if not (head_bytes.isascii() and head_bytes.isdecimal() and int(head_bytes[:18]) <= size):
            raise Problem(400, f"{HEAD_BYTES} is {head_bytes[:40]!r}, expected at most the body's {size:,} bytes")
        size = int(head_bytes)
    asked = read_as(_Request, body[:size], status=400)
    wanted = {output.name: output.parameters.binary_data for output in asked.outputs} or dict.fromkeys(OUTPUTS)
    if unknown := [name for name in wanted if name not in OUTPUTS]:
        raise Problem(400, f"there is no output {unknown[0]!r}; expected {', '.join(OUTPUTS)}")
    texts = _texts(asked.inputs, body[size:], api.max_json_rows)
    for row, text in enumerate(texts):
        if fault := text_fault(text, api.max_text_chars):
            raise Problem(400, f"text[{row}]: {fault}")
    answers = answers_of(parts, batch, [Review(text) for text in texts])
    outputs, tail = [], b""
    for name, binary in wanted.items():
        values = _values(name, [answer.prediction for answer in answers if answer.prediction])
        tensor = _tensor(name, len(texts))
        if asked.parameters.binary_data_output if binary is None else binary:
            data = b"".join(map(_prefixed, values)) if name == "label" else np.array(values, "<f4").tobytes()
            outputs.append({**tensor, "parameters": {"binary_data_size": len(data)}})
            tail += data
        else:
            outputs.append({**tensor, "data": values})
    told = {"model_name": model, "model_version": batch.live.version, "outputs": outputs}
    answer = as_json(told if asked.id is None else {**told, "id": asked.id})
    if not tail:
        return answer
    headers = {HEAD_BYTES: str(len(answer.body))}
    return Response(bytes(answer.body) + tail, 200, headers, media_type="application/octet-stream")


def _texts(inputs: Sequence[_Tensor], rest: bytes, max_rows: int) -> list[str]:
    match [(one.name, one.datatype, one.shape) for one in inputs]:
        case [("text", "BYTES", [rows] | [rows, 1])] if rows > 0:
            (given,) = inputs
        case found:
            raise Problem(
                400, f"inputs are {found!s:.200}, expected one: text, BYTES, of shape [n] or [n, 1] from n = 1"
            )
    if rows > max_rows:
        raise Problem(413, f"text has {rows:,} rows, expected at most {max_rows:,}; send them in parts")
    size = given.parameters.binary_data_size
    if (given.data is None) == (size is None) or len(rest) != (size or 0):
        held = f"{'no ' * (given.data is None)}data, binary_data_size {size} and {len(rest):,} bytes behind the head"
        raise Problem(400, f"text has {held}, expected data, or as many bytes as binary_data_size says")
    nested = given.data if given.data is not None else _strings(rest)
    texts = [text for row in nested for text in ([row] if isinstance(row, str) else row)]
    if len(texts) != rows:
        raise Problem(400, f"text holds {len(texts):,} texts, expected {rows:,} for its shape {given.shape}")
    return texts


def _strings(data: bytes) -> Iterator[str]:
    """The texts of a BYTES tensor: each with its length (4 bytes, little endian) before it.

    >>> list(_strings(_prefixed("ok") + _prefixed("")))
    ['ok', '']
    """
    at = row = 0
    while at < len(data):
        start = at + 4
        at = start + int.from_bytes(data[at:start], "little")
        if at > len(data):
            raise Problem(400, f"text[{row}] ends behind the bytes of its tensor")
        try:
            yield data[start:at].decode()
        except UnicodeDecodeError as err:
            raise Problem(400, f"text[{row}] is no UTF-8: {err.reason} at its byte {err.start}") from err
        row += 1


def _prefixed(text: str) -> bytes:
    return len(data := text.encode()).to_bytes(4, "little") + data


def _tensor(name: str, rows: int) -> dict[str, object]:
    datatype, more = OUTPUTS[name]
    return {"name": name, "datatype": datatype, "shape": [rows, *more]}


def _values(name: str, found: Sequence[Prediction]) -> list[Any]:
    if name == "probabilities":
        return [share for one in found for share in one.probabilities]
    return [getattr(one, name) for one in found]


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
    return await to_thread.run_sync(_invocations, parts, batch_of(request), kind, await _body(request))


def _invocations(parts: Parts, batch: Batch, kind: str, body: bytes) -> Response:
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
    form, rows, columns = given[0], body[given[0]], ["text"]
    try:
        if form == "dataframe_split":
            columns, rows = rows["columns"], rows["data"]
        elif isinstance(rows, dict):
            columns, rows = list(rows), list(zip(*rows.values(), strict=True))
        if isinstance(rows, str):
            raise TypeError("a text is no list")
        cells = ([row] if isinstance(row, str | int | float | None) else row for row in rows)
        return [row if isinstance(row, dict) else dict(zip(columns, row, strict=True)) for row in cells]
    except (TypeError, LookupError, ValueError) as err:
        raise Problem(400, f"{form} is no frame, whose rows have as many values as there are columns: {err}") from err


def _review(row: Row, number: int) -> Review:
    name = "review_text" if "review_text" in row else "text"
    if name not in row or not isinstance(text := row[name], str | None):
        found = type(row[name]).__name__ if name in row else ", ".join(map(str, row))[:200]
        raise Problem(400, f"row {number} has {found or 'nothing'}, expected a text in a column review_text")
    review_id, app, version, language = (
        value[:256] if isinstance(value := row.get(name), str) else None
        for name in ("review_id", "app", "version", "language")
    )
    return Review(text or "", review_id, app, version, language)
