"""What the OpenAPI document says of each route: bodies and answers, with examples.

Each constant is the documentation part of one route's decorator; the routes themselves read raw
bodies and write raw answers.
"""

from __future__ import annotations

from typing import Any

from mobile_sentiment_ops.app.bodies import ReviewBody, TextBody
from mobile_sentiment_ops.types import JobState

Entry = dict[str, Any]


def _like(example: Any, **known: Entry) -> Entry:
    """The schema of values like this one; `known` says more about some of its fields.

    >>> _like({"model_version": "3", "changed": True})["properties"]
    {'model_version': {'type': 'string'}, 'changed': {'type': 'boolean'}}
    """
    if isinstance(example, dict):
        fields = {name: known.get(name) or _like(value) for name, value in example.items()}
        return {"type": "object", "required": list(fields), "properties": fields}
    if isinstance(example, list):
        return {"type": "array", "items": _like(example[0], **known)}
    return {"type": {str: "string", bool: "boolean", int: "integer", float: "number"}[type(example)]}


def _answer(
    description: str, example: Any, *, status: int = 200, headers: Entry | None = None, **known: Entry
) -> Entry:
    content = {"application/json": {"schema": _like(example, **known), "example": example}}
    return {"responses": {status: {"description": description, "content": content, "headers": headers or {}}}}


def _or_null(kind: str) -> Entry:
    return {"type": [kind, "null"]}


def _list_of(name: str, items: Entry) -> Entry:
    return {
        "type": "object",
        "required": [name],
        "properties": {name: {"type": "array", "minItems": 1, "items": items}},
    }


_TEXT: Entry = {"type": "string"}
_SHARE: Entry = {"type": "number", "minimum": 0, "maximum": 1}
_LABEL: Entry = {"type": "string", "enum": ["Negative", "Neutral", "Positive"]}
_DRIFT = {
    "X-Drift-Detected": {"schema": {"type": "string", "enum": ["true", "false"]}},
    "X-Drift-Status": {"schema": _TEXT, "description": "no-reference: nothing to compare with yet"},
    "X-Request-ID": {"schema": _TEXT},
}

_PROBLEM_EXAMPLE = {
    "type": "about:blank",
    "title": "Unprocessable Entity",
    "status": 422,
    "detail": "reviews[3].rating: input should be less than or equal to 5",
    "instance": "/predict",
    "request_id": "6f1c",
    "errors": [{"field": "reviews[3].rating", "problem": "input should be less than or equal to 5"}],
}
_PROBLEM_SCHEMA = _like({name: value for name, value in _PROBLEM_EXAMPLE.items() if name != "errors"})
PROBLEM: Entry = {
    "description": "A problem: what is wrong, and with which field or line",
    "content": {"application/problem+json": {"schema": _PROBLEM_SCHEMA, "example": _PROBLEM_EXAMPLE}},
}

_CSV = "review_text,app\nLove it,shop\nCrashes since the update,shop\n"
_CSV_ANSWER = (
    "review_text,app,sentiment,confidence,prediction_id,error\n"
    "Love it,shop,Positive,0.973141,6f1c-1,\nCrashes since the update,shop,Negative,0.911202,6f1c-2,\n"
)
_PROBABLE = {"Negative": 0.01, "Neutral": 0.02, "Positive": 0.97}
_PREDICTION = {
    "review_id": "r-1",
    "prediction_id": "9ab2-1",
    "sentiment": "Positive",
    "confidence": 0.97,
    "probabilities": _PROBABLE,
}
_PREDICTION_SCHEMA = _like(
    _PREDICTION,
    review_id=_or_null("string"),
    prediction_id=_or_null("string"),
    sentiment={"enum": [*_LABEL["enum"], None]},
    confidence=_or_null("number"),
    probabilities={"anyOf": [_like(_PROBABLE), {"type": "null"}]},
)
_PREDICTION_SCHEMA["properties"]["error"] = _or_null("string")  # null in the example, where FastAPI drops nulls
_JSON_ANSWER = {"model_version": "3", "request_id": "6f1c", "predictions": [_PREDICTION]}

PREDICT: Entry = {
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": _like({"file": _CSV}, file={"type": "string", "contentMediaType": "text/csv"}),
                    "example": _CSV,
                },
                "text/csv": {"schema": _TEXT, "example": _CSV},
                "application/json": {
                    "schema": {
                        "anyOf": [
                            _list_of("reviews", ReviewBody.model_json_schema()),
                            _list_of("texts", _TEXT),
                            ReviewBody.model_json_schema(),
                            TextBody.model_json_schema(),
                        ]
                    },
                    "examples": {
                        "reviews": {
                            "value": {
                                "reviews": [
                                    {"review_text": "Love it", "app": "shop", "version": "2.1", "review_id": "r-1"},
                                    {"review_text": "Crashes", "submitted_at": "2026-11-02T18:05:00Z", "rating": 1},
                                ]
                            }
                        },
                        "texts": {"value": {"texts": ["Love it", "Crashes"]}},
                        "text": {"value": {"text": "Love it"}},
                    },
                },
            },
        }
    },
    "responses": {
        200: {
            "description": "The same rows in the same order with their sentiment; CSV for CSV, JSON for JSON",
            "headers": _DRIFT,
            "content": {
                "text/csv": {"schema": _TEXT, "example": _CSV_ANSWER},
                "application/json": {
                    "schema": _like(_JSON_ANSWER, predictions={"type": "array", "items": _PREDICTION_SCHEMA}),
                    "example": _JSON_ANSWER,
                },
            },
        }
    },
}

PREDICT_JSON: Entry = {
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": TextBody.model_json_schema(), "example": {"text": "Love it"}}},
        }
    },
    **_answer(
        "Its sentiment",
        {
            "text": "Love it",
            "prediction": "Positive",
            "confidence": 0.97,
            "probabilities": _PROBABLE,
            "prediction_id": "9ab2-1",
            "model_version": "3",
        },
        headers=_DRIFT,
        prediction=_LABEL,
        confidence=_SHARE,
    ),
}

MODEL = _answer(
    "The live model",
    {
        "version": "3",
        "kind": "lr",
        "promoted_at": "2026-11-02T18:05:00+00:00",
        "reason": "macro-F1 .74 against .71 on 2,000 newer reviews",
    },
)

MODEL_METRICS = _answer(
    "Figures by name; null for one that could not be measured", {"macro_f1": 0.74, "accuracy": 0.79}
)

LOADMODEL = _answer("The champion answers", {"model_version": "3", "changed": True})

_JOB = {
    "job_id": "retrain-0f1e2d3c4b5a",
    "kind": "retrain",
    "state": "running",
    "progress": 0.35,
    "step": "training rf on 41,000 reviews",
    "log": "18:05:00 building the dataset\n",
    "status_url": "/jobs/retrain-0f1e2d3c4b5a",
}
_STATE = {"type": "string", "enum": [state.value for state in JobState]}

RETRAIN = _answer(
    "The job, new or already on its way",
    {"status": "Retraining scheduled", "job_id": _JOB["job_id"], "status_url": _JOB["status_url"]},
    status=202,
)

JOBS = _answer("Jobs without their logs", {"jobs": [_JOB]}, jobs={"type": "array", "items": _like(_JOB, state=_STATE)})

JOB = _answer("The job", _JOB, state=_STATE, progress=_SHARE)

LIVEZ = _answer("Alive", {"status": "alive"})

READYZ = _answer(
    "Ready",
    {
        "status": "ready",
        "model_version": "3",
        "model": "the champion",
        "mlflow": "unreachable",
        "spool_depth": 42,
        "predictions_table": "ok",
        "bucket": "ok",
    },
)

METRICS: Entry = {"responses": {200: {"description": "Figures", "content": {"text/plain": {"schema": _TEXT}}}}}

REPORTS = _answer("Reports", {"reports": [{"name": "eda/2026-11/a.html", "url": "/reports/eda/2026-11/a.html"}]})

REPORT: Entry = {"responses": {200: {"description": "The file", "content": {"*/*": {"schema": {}}}}}}
