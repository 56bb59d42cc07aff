"""Errors as the API answers them: application/problem+json (RFC 9457) that name the field or the line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from http import HTTPStatus

from starlette.responses import Response

from mobile_sentiment_ops.errors import Busy, DataError, ModelError, MsoError, NotFound, StoreError

MAX_ERRORS = 20
"""How many faulty fields or lines an answer names."""

STATUS_OF: Mapping[type[MsoError], int] = {
    NotFound: 404,
    Busy: 409,
    DataError: 422,
    ModelError: 503,
    StoreError: 503,
}

RETRY = {"Retry-After": "5"}


class Problem(Exception):
    """A request that cannot be answered: its status, one sentence for a person, and what is wrong where."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        errors: Sequence[Mapping[str, object]] = (),
        headers: Mapping[str, str] | None = None,
        more: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = tuple(errors)[:MAX_ERRORS]
        self.headers = dict(headers or {})
        self.more = dict(more or {})

    @classmethod
    def at(cls, place: str, problem: str, *, status: int = 422) -> Problem:
        """What is wrong with one field of a request."""
        return cls(status, f"{place}: {problem}", errors=[{"field": place, "problem": problem}])

    @classmethod
    def of(cls, err: MsoError) -> Problem:
        """The problem that one of our errors is for a caller.

        >>> problem = Problem.of(NotFound("there is no job j-7"))
        >>> problem.status, problem.detail
        (404, 'there is no job j-7')
        """
        status = next((status for kind, status in STATUS_OF.items() if isinstance(err, kind)), 500)
        return cls(status, str(err), headers=RETRY if status == 503 else None)

    def response(self, path: str, request_id: str) -> Response:
        """The answer for a request to `path`; the Open Inference Protocol has a form of its own."""
        if f"{path}/".startswith("/v2/"):
            told = json.dumps({"error": self.detail}).encode()
            return Response(told, self.status, self.headers, media_type="application/json")
        body = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "instance": path,
            "request_id": request_id,
            **({"errors": self.errors} if self.errors else {}),
            **self.more,
        }
        return Response(
            json.dumps(body, default=str).encode(),
            self.status,
            self.headers,
            media_type="application/problem+json",
        )
