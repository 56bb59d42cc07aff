"""The serving entry point: every route of the API, in one file.

    POST /predict          a CSV file or a JSON batch of reviews -> their sentiment
    POST /predict_json     one text, as the first version asked for it
    GET  /model            the model that answers; /model/metrics its figures
    POST /loadmodel        follow the champion now
    POST /retrain          train in a process of its own; GET /jobs, /jobs/{id} how it goes
    GET  /readyz           can it answer, and what is away; /healthcheck the same, /livez is it alive
    GET  /metrics          figures for Prometheus
    GET  /incidents        what was not well, and still is not
    GET  /reports          the reports; /docs and /openapi.json this API

A route parses, calls one handler method and renders. Work that computes or waits runs in threads, so
that no request holds up another. JSON for /predict and /predict_json is answered before it comes here
(app/hot.py); app/workers.py runs it all in several processes.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Annotated, BinaryIO, cast
from urllib.parse import quote

import anyio
import structlog
from anyio import to_thread
from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

import mobile_sentiment_ops
from mobile_sentiment_ops.app import explain, monitoring_routes, pages, protocols
from mobile_sentiment_ops.app.csv_answers import answer_csv, check_csv
from mobile_sentiment_ops.app.edge import Edge, too_large
from mobile_sentiment_ops.app.group_commit import GroupCommit
from mobile_sentiment_ops.app.guard import METERS, Guard
from mobile_sentiment_ops.app.hot import DRIFT_HEADERS, Dispatcher
from mobile_sentiment_ops.app.long_work import schedule_retrain
from mobile_sentiment_ops.app.metrics import CONTENT_TYPE, Metrics, shared_cells
from mobile_sentiment_ops.app.openapi import DOCUMENTED
from mobile_sentiment_ops.app.outbox import Outbox
from mobile_sentiment_ops.app.parts import Parts, answers_of, as_json, batch_of, media_type, parts_of, unsupported
from mobile_sentiment_ops.app.prediction import NOT_YET
from mobile_sentiment_ops.app.problems import RETRY, Problem
from mobile_sentiment_ops.app.telemetry import dispatcher
from mobile_sentiment_ops.app.upkeep import DEPTH_SECONDS, Task, Upkeep, keeper_tasks
from mobile_sentiment_ops.bootstrap import Platform
from mobile_sentiment_ops.errors import MsoError, NoModel
from mobile_sentiment_ops.ports import KeeperReport
from mobile_sentiment_ops.types import Job

log = structlog.get_logger()

FOLLOW_SECONDS, FIRST_LOAD_SECONDS = 0.1, 3.0
ROTATE_SECONDS = 60.0
"""So long predictions wait for their table; also the keeper's rhythm."""

LARGE_CSV_AT_ONCE = 2
UPLOAD_IN_MEMORY_BYTES = 2**20
CHUNK_BYTES = 2**18
KEPT_LOG_CHARS = 4_000

routes = APIRouter()


@dataclass(frozen=True, slots=True)
class Shared:
    """Memory that the processes of a server share: what they count, and when the requests of a key are due."""

    cells: memoryview
    meters: memoryview[float]

    @classmethod
    def by(cls, processes: int) -> Shared:
        """Memory for so many processes, seen by all that are forked after it is made."""
        return cls(shared_cells(processes), memoryview(mmap.mmap(-1, 8 * METERS)).cast("d"))


def create_app(
    platform: Platform,
    *,
    keep: bool = True,
    train_if_missing: bool = True,
    shared: Shared | None = None,
    slot: int = 0,
) -> Dispatcher:
    """The application over a platform; its lifespan starts and stops what it does beside answering.

    Alone it is its own keeper (`keep`), and with `train_if_missing` schedules a training when there is no
    champion. Of several processes (app/workers.py) each has a `slot` of what they share.
    """
    api, predictions = platform.settings.api, platform.predictions
    shared = shared or Shared.by(1)
    every = [
        (method, route.path)
        for router in (routes, protocols.routes, explain.routes, monitoring_routes.routes)
        for route in router.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    ]
    limit = api.spool_max_mb * 2**20
    metrics = Metrics(predictions, platform.live, every, cells=shared.cells, slot=slot, spool_limit_bytes=limit)
    guard = Guard(api, platform.keys, shared.meters, clock=platform.clock)
    outbox = Outbox(platform.workspace / "answers", lambda: platform.files)
    committed = GroupCommit(platform.spool.sync).committed
    parts = Parts(platform, predictions, metrics, guard, outbox, committed, anyio.CapacityLimiter(LARGE_CSV_AT_ONCE))
    loaded = threading.Event()

    def follow() -> None:
        predictions.reload()
        metrics.tell()
        if predictions.reason != NOT_YET:
            loaded.set()

    tasks = [
        Task("follow", follow, FOLLOW_SECONDS),
        Task("rotate", partial(predictions.rotate, ROTATE_SECONDS), DEPTH_SECONDS),
    ]
    upkeep = Upkeep([*keeper_tasks(platform, train_if_missing=train_if_missing), *tasks] if keep else tasks)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await to_thread.run_sync(upkeep.start)
        await to_thread.run_sync(loaded.wait, FIRST_LOAD_SECONDS)  # so that a server opens ready if it can
        try:
            yield
        finally:
            predictions.close()
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
    app.state.parts = parts
    app.include_router(routes)
    app.include_router(protocols.routes)
    app.include_router(explain.routes)
    app.include_router(monitoring_routes.routes)
    app.add_middleware(Edge, parts=parts)
    return dispatcher(app, parts)


# --- predict


@routes.post("/predict", **DOCUMENTED["/predict"])
async def predict(request: Request) -> Response:
    """Sentiment of many reviews.

    Send a CSV file with a column `review_text` as the form field `file` (or as the body, `text/csv`) and get
    the same rows back, or send JSON and get JSON. A row that cannot be judged says why in `error` and
    spoils no other.
    """
    kind = media_type(request)
    if kind not in ("multipart/form-data", "text/csv"):
        raise unsupported(kind, "multipart/form-data with a CSV file, text/csv or application/json")
    async with _upload(request, kind) as upload:
        slots = parts_of(request).large_csv_slots if (upload.size or 0) > UPLOAD_IN_MEMORY_BYTES else None
        return await to_thread.run_sync(partial(_predict_csv, request, upload), limiter=slots)


def _predict_csv(request: Request, upload: UploadFile) -> Response:
    """The answer as a file: kept for the bucket, and sent from there."""
    parts, api = parts_of(request), parts_of(request).platform.settings.api
    if (upload.size or 0) > api.max_csv_bytes:
        raise too_large(api.max_csv_bytes)
    batch = batch_of(request)
    stream, name = upload.file, (upload.filename or "the file")[:100]
    check_csv(stream, name, api)
    file_name = f"predicted_{batch.prefix}.csv"
    predict = partial(answers_of, parts, batch)
    answered = parts.outbox.keep(file_name, lambda out: answer_csv(stream, name, predict, out))
    disposition = f'attachment; filename="{file_name}"'
    headers = {
        "Content-Disposition": disposition,
        "X-Model-Version": batch.live.version,
        **DRIFT_HEADERS[parts.predictions.drift],
    }
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
def predict_json() -> Response:
    """Sentiment of one text."""
    raise AssertionError("app/hot.py answers this before it comes here")


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
    """Wait until the champion answers, for some seconds; a running server follows it by itself."""
    parts = parts_of(request)
    predictions, champion = parts.predictions, parts.platform.state.champion()
    before, deadline = predictions.swaps, time.monotonic() + FIRST_LOAD_SECONDS
    while champion is not None and time.monotonic() < deadline:
        predictions.reload()
        if predictions.reason or predictions.live().champion == champion:
            break
        time.sleep(FOLLOW_SECONDS / 2)
    version = predictions.live().version
    if champion is None or version != champion.version:
        raise NoModel(predictions.reason or "the keeper has not published the champion yet; ask again")
    return as_json({"model_version": version, "changed": predictions.swaps > before})


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
    platform = parts_of(request).platform
    job = schedule_retrain(platform.state, platform.launcher, platform.clock)
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
    predictions, report = parts.predictions, parts.platform.live.reported() or KeeperReport(parts.platform.clock.now())
    away = {
        "mlflow": report.mlflow,
        "spool_depth": predictions.spool_depth(),
        "spool_bytes": predictions.spool_bytes(),
        "predictions_shed": parts.metrics.shed(),
        "predictions_table": report.predictions_table,
        "bucket": report.bucket,
        "keeper_report": report.at.isoformat(),
    }
    try:
        version = predictions.live().version
    except NoModel as err:
        raise Problem(503, str(err), headers=RETRY, more=away) from err
    model = predictions.reason or "the champion"
    return as_json({"status": "ready", "model_version": version, "model": model, **away})


@routes.get("/metrics", **DOCUMENTED["/metrics"])
def metrics(request: Request) -> Response:
    """Figures of all processes in Prometheus' text format."""
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
    # whole, as the file's own answers to a faulty Range would be no problems
    request.scope["headers"] = [header for header in request.scope["headers"] if header[0] != b"range"]
    return FileResponse(path, headers={"Content-Security-Policy": pages.REPORT_POLICY, "Accept-Ranges": "none"})


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
