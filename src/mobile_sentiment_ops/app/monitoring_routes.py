"""GET /incidents: what was not well, and still is not."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from mobile_sentiment_ops.app.openapi import DOCUMENTED
from mobile_sentiment_ops.app.parts import as_json, parts_of

routes = APIRouter()


@routes.get("/incidents", **DOCUMENTED["/incidents"])
def incidents(
    request: Request,
    open_only: Annotated[bool, Query(alias="open")] = False,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
) -> Response:
    """Incidents, newest first; with `open=1` only what is not over."""
    found = parts_of(request).platform.state.incidents(open_only=open_only, limit=limit)
    return as_json({"incidents": [asdict(incident) for incident in found]})
