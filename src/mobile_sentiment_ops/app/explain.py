"""POST /explain: which words and phrases moved a prediction, as JSON or as a page.

An explanation is no prediction: it goes neither into the log of predictions nor into its figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Request
from msgspec import Meta, Struct
from starlette.responses import Response

from mobile_sentiment_ops.app import pages
from mobile_sentiment_ops.app.openapi import DOCUMENTED
from mobile_sentiment_ops.app.parts import Parts, as_json, media_type, parts_of, read_as, unsupported
from mobile_sentiment_ops.app.problems import Problem
from mobile_sentiment_ops.data.predictions import text_fault
from mobile_sentiment_ops.models.explanation import explained, towards
from mobile_sentiment_ops.types import LABELS, Label

routes = APIRouter()


class Question(Struct):
    """Why a text gets its label, or does not get another one."""

    text: str
    label: Label | None = None
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 10


@routes.post("/explain", **DOCUMENTED["/explain"])
async def explain(request: Request) -> Response:
    """The words and phrases that moved a prediction, the strongest first.

    `towards` is how much a word favours `label` (the predicted one, unless another is asked for) above the mean of
    the others. When `exact`, bias, words and rest sum to the logits; the prediction is the label with the largest of
    logit and offset. A model of trees tells what leaving a word out changes instead. `Accept: text/html` gets a page.
    """
    if (kind := media_type(request)) != "application/json":
        raise unsupported(kind, "application/json")
    as_page = "text/html" in request.headers.get("accept", "")
    return await to_thread.run_sync(_explain, parts_of(request), await request.body(), as_page)


def _explain(parts: Parts, body: bytes, as_page: bool) -> Response:
    asked, live = read_as(Question, body), parts.predictions.live()
    if fault := text_fault(asked.text, parts.platform.settings.api.max_text_chars):
        raise Problem.at("text", fault)
    found = explained(live.model, asked.text)
    label = asked.label or found.decided
    effects = sorted(found.effects, key=lambda effect: (-abs(towards(label, effect.effects)), effect.spans))
    shown, others = effects[: asked.limit], effects[asked.limit :]
    if as_page:
        return pages.explanation_page(asked.text, label, found, shown)
    rest = [sum(one.effects[at] for one in others) for at in range(len(LABELS))]
    words = [
        {"words": one.words, **_told(label, one.effects), "spans": one.spans, "shared": one.shared} for one in shown
    ]
    told = {
        "prediction": found.decided,
        "probabilities": _by_label(found.probabilities),
        "model_version": live.version,
        "label": label,
        "exact": found.exact,
        "words": words,
        "rest": {"count": len(others), **_told(label, rest)},
        "bias": _told(label, found.bias),
        "offsets": _by_label(found.offsets),
        "difference": found.difference,
    }
    return as_json(told)


def _told(label: Label, effects: Sequence[float]) -> dict[str, object]:
    return {"towards": towards(label, effects), "effects": _by_label(effects)}


def _by_label(values: Sequence[float]) -> dict[Label, float]:
    return dict(zip(LABELS, values, strict=True))
