"""What monitoring found: decisions, explanations and reports as they were written, and incidents.

Nothing is measured here: the keeper and `mso monitor` do that.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from pydantic_core import from_json
from starlette.responses import Response

from mobile_sentiment_ops.app.openapi import DOCUMENTED
from mobile_sentiment_ops.app.pages import REPORT_POLICY
from mobile_sentiment_ops.app.parts import as_json, parts_of
from mobile_sentiment_ops.app.problems import Problem
from mobile_sentiment_ops.errors import NotFound, StoreError
from mobile_sentiment_ops.monitoring import DECISION_FILE, OF_PERFORMANCE, REPORTS

routes = APIRouter()

MEDIA = {"html": "text/html; charset=utf-8", "json": "application/json"}


@routes.get("/monitoring", **DOCUMENTED["/monitoring"])
def decision(request: Request) -> Response:
    """What the last finished check decided, with all that it measured."""
    return as_json(_decision(request))


@routes.get("/monitoring/drift", **DOCUMENTED["/monitoring/drift"])
def drift(request: Request) -> Response:
    """Whether reviews moved, and every statistic beside the limit of chance."""
    found = _decision(request)
    measured = [one for one in found["measured"] if not _of_performance(one)]
    return as_json(
        {"at": found["at"], "model_version": found["model_version"], "drift": found["drift"], "measured": measured}
    )


@routes.get("/monitoring/performance", **DOCUMENTED["/monitoring/performance"])
def performance(request: Request) -> Response:
    """How good the model is by the labels that came, and by its confidence."""
    found = _decision(request)
    told = [one for one in found["measured"] if _of_performance(one)]
    return as_json({"at": found["at"], "model_version": found["model_version"], "measured": told})


@routes.get("/monitoring/explain", **DOCUMENTED["/monitoring/explain"])
def explain(request: Request) -> Response:
    """What moved, as the last report says it: words, apps, versions and languages."""
    newest = next((name for name in _reports(request) if name.endswith(".json")), None)
    if newest is None:
        raise NotFound("no report was written yet; `mso monitor report` writes one")
    return as_json(from_json(_read(request, REPORTS + newest))["explanation"])


@routes.get("/monitoring/reports", **DOCUMENTED["/monitoring/reports"])
def reports(request: Request) -> Response:
    """Written reports, newest first."""
    found = [{"name": name, "url": f"/monitoring/reports/{quote(name)}"} for name in _reports(request)]
    return as_json({"reports": found})


@routes.get("/monitoring/reports/{name}", **DOCUMENTED["/monitoring/reports/{name}"])
def report(request: Request, name: str) -> Response:
    """One report."""
    if name not in _reports(request):
        raise Problem(404, f"there is no report {name!r}; GET /monitoring/reports lists them")
    headers = {"Content-Security-Policy": REPORT_POLICY}
    return Response(_read(request, REPORTS + name), media_type=MEDIA[name.rpartition(".")[2]], headers=headers)


def _of_performance(one: dict[str, Any]) -> bool:
    return any(part in one["name"] for part in OF_PERFORMANCE)


def _decision(request: Request) -> dict[str, Any]:
    try:
        found: dict[str, Any] = from_json(_read(request, DECISION_FILE))
    except NotFound as err:
        raise NotFound("nothing was checked yet; a server does every hour, `mso monitor run` does at once") from err
    return found


def _reports(request: Request) -> list[str]:
    _check_apps(request)
    names = [name.removeprefix(REPORTS) for name in reversed(parts_of(request).platform.files.list(f"{REPORTS}drift_"))]
    return [name for name in names if "/" not in name and name.rpartition(".")[2] in MEDIA]


def _read(request: Request, name: str) -> bytes:
    _check_apps(request)
    try:
        return parts_of(request).platform.files.read(name)
    except StoreError as err:
        raise Problem(503, str(err), headers={"Retry-After": "10"}) from err


def _check_apps(request: Request) -> None:
    """A key of some apps may not read what is of all."""
    caller = request.state.caller
    if caller.apps is not None:
        raise Problem(
            403, f"the key of {caller.name} is for some apps, and this is of all of them: use one without `--app`"
        )


# --- incidents


@routes.get("/incidents", **DOCUMENTED["/incidents"])
def incidents(
    request: Request,
    open_only: Annotated[bool, Query(alias="open")] = False,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    """Incidents, newest first; with `open=1` only what is not over."""
    found = parts_of(request).platform.state.incidents(open_only=open_only, limit=limit)
    return as_json({"incidents": [asdict(incident) for incident in found]})
