"""What the OpenAPI document says of each route: bodies and answers, with examples.

Each constant is the documentation part of one route's decorator; the routes themselves read raw
bodies and write raw answers.
"""

from __future__ import annotations

from typing import Any

from mobile_sentiment_ops.app.bodies import ReviewBody, TextBody

Entry = dict[str, Any]


def _object(**properties: Any) -> Entry:
    return {"type": "object", "required": list(properties), "properties": properties}


def _or_null(kind: str) -> Entry:
    return {"type": [kind, "null"]}


_TEXT: Entry = {"type": "string"}
_SHARE: Entry = {"type": "number", "minimum": 0, "maximum": 1}
_LABEL: Entry = {"type": "string", "enum": ["Negative", "Neutral", "Positive"]}
_PROBABILITIES = _object(Negative=_SHARE, Neutral=_SHARE, Positive=_SHARE)
_DRIFT = {
    "X-Drift-Detected": {"schema": {"type": "string", "enum": ["true", "false"]}},
    "X-Drift-Status": {"schema": {"type": "string"}, "description": "no-reference: nothing to compare with yet"},
    "X-Request-ID": {"schema": _TEXT},
}


def _answer(description: str, schema: Entry, example: Any, headers: Entry | None = None) -> Entry:
    content = {"application/json": {"schema": schema, "example": example}}
    return {"description": description, "content": content, "headers": headers or {}}


def _schema_of(body: type[ReviewBody] | type[TextBody]) -> Entry:
    return body.model_json_schema()


PROBLEM: Entry = {
    "description": "A problem: what is wrong, and with which field or line",
    "content": {
        "application/problem+json": {
            "schema": {
                **_object(type=_TEXT, title=_TEXT, status={"type": "integer"}, detail=_TEXT, request_id=_TEXT),
                "additionalProperties": True,
            },
            "example": {
                "type": "about:blank",
                "title": "Unprocessable Entity",
                "status": 422,
                "detail": "reviews[3].rating: input should be less than or equal to 5",
                "instance": "/predict",
                "request_id": "6f1c",
                "errors": [{"field": "reviews[3].rating", "problem": "input should be less than or equal to 5"}],
            },
        }
    },
}

_CSV = "review_text,app\nLove it,shop\nCrashes since the update,shop\n"
_CSV_ANSWER = (
    "review_text,app,sentiment,confidence,prediction_id,error\n"
    "Love it,shop,Positive,0.973141,6f1c-1,\nCrashes since the update,shop,Negative,0.911202,6f1c-2,\n"
)
_PROBABLE = {"Negative": 0.01, "Neutral": 0.02, "Positive": 0.97}
_PREDICTION = _object(
    review_id=_or_null("string"),
    prediction_id=_or_null("string"),
    sentiment={"enum": [*_LABEL["enum"], None]},
    confidence=_or_null("number"),
    probabilities={"anyOf": [_PROBABILITIES, {"type": "null"}]},
)
_PREDICTION["properties"]["error"] = _or_null("string")  # not required: FastAPI drops nulls from examples

PREDICT: Entry = {
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": _object(file={"type": "string", "contentMediaType": "text/csv"}),
                    "example": _CSV,
                },
                "text/csv": {"schema": _TEXT, "example": _CSV},
                "application/json": {
                    "schema": {
                        "anyOf": [
                            _object(reviews={"type": "array", "minItems": 1, "items": _schema_of(ReviewBody)}),
                            _object(texts={"type": "array", "minItems": 1, "items": _TEXT}),
                            _schema_of(ReviewBody),
                            _schema_of(TextBody),
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
                    "schema": _object(
                        model_version=_TEXT, request_id=_TEXT, predictions={"type": "array", "items": _PREDICTION}
                    ),
                    "example": {
                        "model_version": "3",
                        "request_id": "6f1c",
                        "predictions": [
                            {
                                "review_id": "r-1",
                                "prediction_id": "9ab2-1",
                                "sentiment": "Positive",
                                "confidence": 0.97,
                                "probabilities": _PROBABLE,
                                "error": None,
                            }
                        ],
                    },
                },
            },
        }
    },
}

PREDICT_JSON: Entry = {
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _schema_of(TextBody), "example": {"text": "Love it"}}},
        }
    },
    "responses": {
        200: _answer(
            "Its sentiment",
            _object(
                text=_TEXT,
                prediction=_LABEL,
                confidence=_SHARE,
                probabilities=_PROBABILITIES,
                prediction_id=_TEXT,
                model_version=_TEXT,
            ),
            {
                "text": "Love it",
                "prediction": "Positive",
                "confidence": 0.97,
                "probabilities": _PROBABLE,
                "prediction_id": "9ab2-1",
                "model_version": "3",
            },
            _DRIFT,
        )
    },
}

MODEL: Entry = {
    "responses": {
        200: _answer(
            "The live model",
            _object(version=_TEXT, kind=_TEXT, promoted_at=_TEXT, reason=_TEXT),
            {
                "version": "3",
                "kind": "lr",
                "promoted_at": "2026-11-02T18:05:00+00:00",
                "reason": "macro-F1 .74 against .71 on 2,000 newer reviews",
            },
        )
    }
}

MODEL_METRICS: Entry = {
    "responses": {
        200: _answer(
            "Figures by name",
            {"type": "object", "additionalProperties": _or_null("number")},
            {"macro_f1": 0.74, "accuracy": 0.79, "log_loss": 0.55},
        )
    }
}

LOADMODEL: Entry = {
    "responses": {
        200: _answer(
            "The champion answers",
            _object(model_version=_TEXT, changed={"type": "boolean"}),
            {"model_version": "3", "changed": True},
        )
    }
}

_JOB_ID = "retrain-0f1e2d3c4b5a"
_JOB = _object(
    job_id=_TEXT,
    kind=_TEXT,
    state={"type": "string", "enum": ["queued", "running", "done", "failed", "cancelled"]},
    progress=_SHARE,
    step=_TEXT,
    log=_TEXT,
    status_url=_TEXT,
)
_JOB_EXAMPLE = {
    "job_id": _JOB_ID,
    "kind": "retrain",
    "state": "running",
    "progress": 0.35,
    "step": "training rf on 41,000 reviews",
    "log": "18:05:00 building the dataset\n",
    "status_url": f"/jobs/{_JOB_ID}",
}

RETRAIN: Entry = {
    "responses": {
        202: _answer(
            "The job, new or already on its way",
            _object(status=_TEXT, job_id=_TEXT, status_url=_TEXT),
            {"status": "Retraining scheduled", "job_id": _JOB_ID, "status_url": f"/jobs/{_JOB_ID}"},
        )
    }
}

JOBS: Entry = {
    "responses": {
        200: _answer(
            "Jobs without their logs", _object(jobs={"type": "array", "items": _JOB}), {"jobs": [_JOB_EXAMPLE]}
        )
    }
}

JOB: Entry = {"responses": {200: _answer("The job", _JOB, _JOB_EXAMPLE)}}

LIVEZ: Entry = {"responses": {200: _answer("Alive", _object(status=_TEXT), {"status": "alive"})}}

READYZ: Entry = {
    "responses": {
        200: _answer(
            "Ready",
            _object(
                status=_TEXT,
                model_version=_TEXT,
                model=_TEXT,
                mlflow=_TEXT,
                spool_depth={"type": "integer"},
                predictions_table=_TEXT,
                bucket=_TEXT,
            ),
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
    }
}

METRICS: Entry = {"responses": {200: {"description": "Figures", "content": {"text/plain": {"schema": _TEXT}}}}}

REPORTS: Entry = {
    "responses": {
        200: _answer(
            "Reports",
            _object(reports={"type": "array", "items": _object(name=_TEXT, url=_TEXT)}),
            {"reports": [{"name": "eda/2026-11/index.html", "url": "/reports/eda/2026-11/index.html"}]},
        )
    }
}

REPORT: Entry = {"responses": {200: {"description": "The file", "content": {"*/*": {"schema": {}}}}}}
