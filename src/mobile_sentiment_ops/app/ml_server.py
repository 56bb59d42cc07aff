"""The serving entry point: every route of the API, in one file.

    POST /predict          a CSV file or a JSON batch of reviews -> their sentiment
    POST /predict_json     one text, as the first version asked for it
    GET  /model            the model that answers; /model/metrics its figures
    POST /loadmodel        follow the champion now
    POST /retrain          train in a process of its own; GET /jobs, /jobs/{id} how it goes
    GET  /readyz           can it answer, and what is away; /healthcheck the same, /livez is it alive
    GET  /metrics          figures for Prometheus
    GET  /reports          the reports; /docs and /openapi.json this API

A route parses, calls one handler method and renders. Work that computes or waits runs in threads, so
that no request holds up another.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Annotated, BinaryIO, cast
from urllib.parse import quote

import anyio
import structlog
import uvicorn
from anyio import to_thread
from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

import mobile_sentiment_ops
from mobile_sentiment_ops.app import explain, pages, protocols
from mobile_sentiment_ops.app.bodies import read_reviews, read_text
from mobile_sentiment_ops.app.csv_answers import answer_csv, check_csv
from mobile_sentiment_ops.app.edge import Edge, too_large
from mobile_sentiment_ops.app.long_work import close_lost_jobs
from mobile_sentiment_ops.app.metrics import CONTENT_TYPE, Metrics
from mobile_sentiment_ops.app.openapi import DOCUMENTED
from mobile_sentiment_ops.app.outbox import Outbox
from mobile_sentiment_ops.app.parts import Parts, answers_of, as_json, media_type, parts_of, unsupported
from mobile_sentiment_ops.app.prediction import Review
from mobile_sentiment_ops.app.problems import RETRY, Problem
from mobile_sentiment_ops.app.upkeep import Upkeep
from mobile_sentiment_ops.bootstrap import Platform
from mobile_sentiment_ops.errors import MsoError, NoModel, SettingsError
from mobile_sentiment_ops.settings import Api
from mobile_sentiment_ops.types import LABELS, Job, Prediction

log = structlog.get_logger()

DRIFT_HEADERS = {"X-Drift-Detected": "false", "X-Drift-Status": "no-reference"}
"""Until a reference window exists there is nothing to compare with."""

LARGE_CSV_AT_ONCE = 2
UPLOAD_IN_MEMORY_BYTES = 2**20
CHUNK_BYTES = 2**18
KEPT_LOG_CHARS = 4_000
REPORT_POLICY = "sandbox allow-scripts"  # a report may draw with scripts, and may not act as this site

routes = APIRouter()


def create_app(platform: Platform, *, train_if_missing: bool = True) -> FastAPI:
    """The application over a platform; its lifespan starts and stops the upkeep.

    With `train_if_missing`, a server that finds no champion schedules the training of one.
    """
    predictions = platform.predictions
    outbox = Outbox(platform.workspace / "answers", platform.files)
    metrics = Metrics(predictions)

    def train_first() -> None:
        if train_if_missing and platform.state.champion() is None:
            platform.models.schedule_retrain()

    close_lost = partial(close_lost_jobs, platform.state, platform.launcher, platform.clock)
    upkeep = Upkeep(predictions, outbox, platform.registry, train_first, close_lost)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await to_thread.run_sync(upkeep.start)
        try:
            yield
        finally:
            await to_thread.run_sync(upkeep.stop)

    app = FastAPI(
        title="MobileSentimentOps",
        description="Sentiment of app reviews, from a model that keeps itself trustworthy.",
        version=mobile_sentiment_ops.__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses={"default": DOCUMENTED["problem"]},
        exception_handlers=dict.fromkeys((Problem, MsoError, HTTPException, RequestValidationError), _answer_problem),
    )
    app.state.parts = Parts(platform, predictions, metrics, outbox, upkeep, anyio.CapacityLimiter(LARGE_CSV_AT_ONCE))
    app.include_router(routes)
    app.include_router(protocols.routes)
    app.include_router(explain.routes)
    app.add_middleware(Edge, metrics=metrics, api=platform.settings.api)
    return app


def serve(platform: Platform, *, train_if_missing: bool = True) -> None:
    """Answer at the configured address until SIGTERM or Ctrl-C; requests in flight are finished.

    Raises SettingsError when that address cannot be listened on.
    """
    listener = _listen(platform.settings.api)
    config = uvicorn.Config(
        create_app(platform, train_if_missing=train_if_missing),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=30,
    )
    log.info("listening", host=platform.settings.api.host, port=platform.settings.api.port)
    uvicorn.Server(config).run(sockets=[listener])


def _listen(api: Api) -> socket.socket:
    family = socket.AF_INET6 if ":" in api.host else socket.AF_INET
    try:
        return socket.create_server((api.host, api.port), family=family, backlog=2048)
    except OSError as err:
        why = (err.strerror or str(err)).partition(" (")[0]
        raise SettingsError(
            f"the API cannot listen on {api.host} port {api.port}: {why}; "
            f"stop what listens there, or set api.port (MSO_API__PORT)"
        ) from err


# --- predict


@routes.post("/predict", **DOCUMENTED["/predict"])
async def predict(request: Request) -> Response:
    """Sentiment of many reviews.

    Send a CSV file with a column `review_text` as the form field `file` (or as the body, `text/csv`) and get
    the same rows back, or send JSON and get JSON. A row that cannot be judged says why in `error` and
    spoils no other.
    """
    kind = media_type(request)
    if kind == "application/json":
        body = await request.body()
        return await to_thread.run_sync(_predict_json, parts_of(request), body, request.state.request_id)
    if kind in ("multipart/form-data", "text/csv"):
        async with _upload(request, kind) as upload:
            parts = parts_of(request)
            slots = parts.large_csv_slots if (upload.size or 0) > UPLOAD_IN_MEMORY_BYTES else None
            work = partial(_predict_csv, parts, upload, request.state.request_id, request.state.own_id)
            return await to_thread.run_sync(work, limiter=slots)
    raise unsupported(kind, "multipart/form-data with a CSV file, text/csv or application/json")


def _predict_json(parts: Parts, body: bytes, request_id: str) -> Response:
    batch = parts.predictions.batch(request_id)
    answers = answers_of(parts, batch, read_reviews(body, max_rows=parts.platform.settings.api.max_json_rows))
    if all(answer.fault for answer in answers):
        errors = [{"field": f"reviews[{row}]", "problem": answer.fault} for row, answer in enumerate(answers)]
        raise Problem(422, f"none of the {len(answers)} reviews can be predicted: {answers[0].fault}", errors=errors)
    shown = [
        {
            "review_id": answer.review_id,
            "prediction_id": answer.prediction_id,
            "sentiment": answer.prediction and answer.prediction.label,
            **_figures(answer.prediction),
            "error": answer.fault,
        }
        for answer in answers
    ]
    told = {"model_version": batch.live.version, "request_id": request_id, "predictions": shown}
    return as_json(told, headers=DRIFT_HEADERS)


def _figures(found: Prediction | None) -> dict[str, object]:
    if found is None:
        return {"confidence": None, "probabilities": None}
    return {"confidence": found.confidence, "probabilities": dict(zip(LABELS, found.probabilities, strict=True))}


def _predict_csv(parts: Parts, upload: UploadFile, request_id: str, own_id: str) -> Response:
    """The answer as a file: kept for the bucket, and sent from there."""
    api = parts.platform.settings.api
    if (upload.size or 0) > api.max_csv_bytes:
        raise too_large(api.max_csv_bytes)
    batch = parts.predictions.batch(request_id)
    stream, name = upload.file, (upload.filename or "the file")[:100]
    check_csv(stream, name, api)
    file_name = f"predicted_{own_id}.csv"
    answered = parts.outbox.keep(
        file_name, lambda out: answer_csv(stream, name, partial(answers_of, parts, batch), out)
    )
    disposition = f'attachment; filename="{file_name}"'
    headers = {"Content-Disposition": disposition, "X-Model-Version": batch.live.version, **DRIFT_HEADERS}
    return _CsvAnswer(answered, headers)


class _CsvAnswer(StreamingResponse):
    """An open file as the answer; it is closed however the sending ends."""

    def __init__(self, file: BinaryIO, headers: Mapping[str, str]) -> None:
        headers = {**headers, "Content-Length": str(file.seek(0, 2))}
        file.seek(0)
        super().__init__(iter(partial(file.read, CHUNK_BYTES), b""), headers=headers, media_type="text/csv")
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await super().__call__(scope, receive, send)


@asynccontextmanager
async def _upload(request: Request, kind: str) -> AsyncIterator[UploadFile]:
    """The CSV file of a request, on the disk as soon as it is large."""
    if kind == "text/csv":
        file = cast(BinaryIO, SpooledTemporaryFile(max_size=UPLOAD_IN_MEMORY_BYTES))  # noqa: SIM115 - closed below
        upload = UploadFile(file, size=0, filename="the body")
        try:
            async for part in request.stream():
                await upload.write(part)
            await upload.seek(0)
            yield upload
        finally:
            await upload.close()
        return
    try:
        form = await request.form(max_files=1, max_fields=16)
    except UnicodeError as err:  # Starlette trusts the name of any codec
        raise Problem(400, "Content-Type names a charset that is none; leave it out, or say utf-8") from err
    try:
        found = form.get("file")
        if not isinstance(found, UploadFile):
            shown = ", ".join(form) or "nothing"
            raise Problem.at("file", f"is no file; the form holds {shown}, expected a CSV file in the field file")
        yield found
    finally:
        await form.close()


@routes.post("/predict_json", **DOCUMENTED["/predict_json"])
async def predict_json(request: Request) -> Response:
    """Sentiment of one text."""
    if (kind := media_type(request)) != "application/json":
        raise unsupported(kind, "application/json")
    body = await request.body()
    return await to_thread.run_sync(_predict_text, parts_of(request), body, request.state.request_id)


def _predict_text(parts: Parts, body: bytes, request_id: str) -> Response:
    batch = parts.predictions.batch(request_id)
    text = read_text(body)
    (answer,) = answers_of(parts, batch, [Review(text)])
    if answer.prediction is None:
        raise Problem.at("text", str(answer.fault))
    told = {
        "text": text,
        "prediction": answer.prediction.label,
        **_figures(answer.prediction),
        "prediction_id": answer.prediction_id,
        "model_version": batch.live.version,
    }
    return as_json(told, headers=DRIFT_HEADERS)


# --- the model


@routes.get("/model", **DOCUMENTED["/model"])
def model(request: Request) -> Response:
    """The model that answers now, and why it does."""
    live = parts_of(request).predictions.live()
    told = {
        **asdict(live.champion),
        "promoted_by": live.champion.actor,
        "trained_at": live.card.get("trained_at"),
        "dataset": live.card.get("dataset"),
        "loaded_at": live.loaded_at,
    }
    return as_json(told)


@routes.get("/model/metrics", **DOCUMENTED["/model/metrics"])
def model_metrics(request: Request) -> Response:
    """Figures of the live model on its own test rows."""
    return as_json(parts_of(request).predictions.live().card["metrics"])


@routes.post("/loadmodel", **DOCUMENTED["/loadmodel"])
def load_model(request: Request) -> Response:
    """Look for another champion now; a running server does so every second by itself."""
    predictions = parts_of(request).predictions
    before = predictions.swaps
    live = predictions.load()
    return as_json({"model_version": live.version, "changed": predictions.swaps > before})


@routes.get("/loadmodel", include_in_schema=False)
def load_model_by_get() -> Response:
    """The first version loaded by GET."""
    raise Problem(405, "loading a model changes the server: use POST /loadmodel", headers={"Allow": "POST"})


# --- training


@routes.post("/retrain", status_code=202, **DOCUMENTED["/retrain"])
def retrain(request: Request) -> Response:
    """Train every configured kind on the newest reviews and promote what is better.

    It runs in a process of its own, one at a time: while one is on its way its job is answered again.
    """
    job = parts_of(request).platform.models.schedule_retrain()
    status_url = f"/jobs/{job.job_id}"
    body = {"status": "Retraining scheduled", "job_id": job.job_id, "status_url": status_url}
    return as_json(body, status=202, headers={"Location": status_url})


@routes.get("/jobs", **DOCUMENTED["/jobs"])
def jobs(request: Request, limit: Annotated[int, Query(ge=1, le=500)] = 50) -> Response:
    """Jobs, newest first."""
    found = parts_of(request).platform.state.jobs(limit=limit)
    return as_json({"jobs": [{**_job(job), "log": ""} for job in found]})


@routes.get("/jobs/{job_id}", **DOCUMENTED["/jobs/{job_id}"])
def job(request: Request, job_id: str) -> Response:
    """How one job goes: its state, progress, the end of its log, and its result."""
    return as_json(_job(parts_of(request).platform.state.job(job_id)))


def _job(job: Job) -> dict[str, object]:
    return {**asdict(job), "log": job.log[-KEPT_LOG_CHARS:], "status_url": f"/jobs/{job.job_id}"}


# --- health


@routes.get("/livez", **DOCUMENTED["/livez"])
async def livez() -> Response:
    """Whether the process answers at all."""
    return as_json({"status": "alive"})


@routes.get("/healthcheck", **DOCUMENTED["/readyz"])
@routes.get("/readyz", **DOCUMENTED["/readyz"])
def readyz(request: Request) -> Response:
    """Whether it can predict, with what, and what is away meanwhile. 503 with the reason if it cannot."""
    parts = parts_of(request)
    predictions = parts.predictions
    away = {
        "mlflow": {True: "reachable", False: "unreachable", None: "not asked yet"}[parts.upkeep.mlflow_reachable],
        "spool_depth": predictions.spool_depth(),
        "predictions_table": predictions.drain_fault or "ok",
        "bucket": parts.outbox.fault or "ok",
    }
    try:
        version = predictions.live().version
    except NoModel as err:
        raise Problem(503, str(err), headers=RETRY, more=away) from err
    model = predictions.reason or "the champion"
    return as_json({"status": "ready", "model_version": version, "model": model, **away})


@routes.get("/metrics", **DOCUMENTED["/metrics"])
def metrics(request: Request) -> Response:
    """Figures of this process in Prometheus' text format."""
    return Response(parts_of(request).metrics.text(), media_type=CONTENT_TYPE)


# --- reports and pages


@routes.get("/reports", **DOCUMENTED["/reports"])
def reports(request: Request) -> Response:
    """All reports, as a page, or as JSON for `Accept: application/json`."""
    names = [name for name, _ in _reports(request)]
    if "text/html" in request.headers.get("accept", ""):
        return pages.reports_page(names)
    return as_json({"reports": [{"name": name, "url": f"/reports/{quote(name)}"} for name in names]})


@routes.get("/reports/{name:path}", **DOCUMENTED["/reports/{name:path}"])
def report(request: Request, name: str) -> Response:
    """One report."""
    if not name:
        return reports(request)
    path = dict(_reports(request)).get(name)
    if path is None:
        raise Problem(404, f"there is no report {name!r}; GET /reports lists them")
    return FileResponse(path, headers={"Content-Security-Policy": REPORT_POLICY})


def _reports(request: Request) -> list[tuple[str, Path]]:
    """Reports by name: the visible files that are really inside the folder, wherever links point."""
    storage = parts_of(request).platform.settings.storage
    root = storage.folder(storage.reports_dir).resolve()
    found = ((path.relative_to(root), path.resolve()) for path in sorted(root.rglob("*")))
    return [
        (name.as_posix(), path)
        for name, path in found
        if path.is_file() and path.is_relative_to(root) and not any(part.startswith(".") for part in name.parts)
    ]


@routes.get("/", include_in_schema=False)
def index(request: Request) -> Response:
    """The first page."""
    try:
        live = parts_of(request).predictions.live()
        status = f"Model version {live.version} ({live.champion.kind}) answers."
    except NoModel as err:
        status = f"Not ready: {err}."
    return pages.index_page(status, str(request.base_url))


@routes.get("/docs", include_in_schema=False)
def api_docs(request: Request) -> Response:
    """This API for a person to read."""
    return pages.docs_page(request.app.openapi())


# --- problems


async def _answer_problem(request: Request, err: Exception) -> Response:
    """Whatever a route raised, as a problem."""
    path = request.scope["path"]
    if isinstance(err, Problem):
        problem = err
    elif isinstance(err, MsoError):
        problem = Problem.of(err)
    elif isinstance(err, RequestValidationError):
        errors = [{"field": str(fault["loc"][-1]), "problem": fault["msg"]} for fault in err.errors()]
        problem = Problem(422, f"{errors[0]['field']}: {errors[0]['problem']}", errors=errors)
    elif isinstance(err, HTTPException):
        detail = {
            404: f"there is nothing at {path}; GET /openapi.json lists what there is",
            405: f"{path} does not take {request.method}",
        }.get(err.status_code, err.detail)
        problem = Problem(err.status_code, detail, headers=err.headers)
    else:
        raise err
    return problem.response(path, request.state.request_id)
