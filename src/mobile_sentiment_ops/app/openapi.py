"""What the OpenAPI document says of each route: bodies and answers, from the examples in openapi.json.

That file has the documentation part of each route's decorator as OpenAPI writes it, but for two things:
a content without a schema gets that of values like its example, of which `known` says more about some
fields, and `{"is": ...}` stands for one of `NAMED`. What a route `refuses` is a problem.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from mobile_sentiment_ops.app.bodies import ReviewBody, TextBody
from mobile_sentiment_ops.types import LABELS, Action, DriftStatus, JobState, Severity

Entry = dict[str, Any]


def like(example: Any, known: Entry) -> Entry:
    """The schema of values like this one; `known` says more about some of its fields.

    >>> like({"model_version": "3", "changed": True}, {})["properties"]
    {'model_version': {'type': 'string'}, 'changed': {'type': 'boolean'}}
    """
    if isinstance(example, dict):
        fields = {name: known.get(name) or like(value, known) for name, value in example.items()}
        return {"type": "object", "required": list(fields), "properties": fields}
    if isinstance(example, list):
        return {"type": "array", "items": like(example[0], known)}
    return {"type": {str: "string", bool: "boolean", int: "integer", float: "number"}[type(example)]}


NAMED: dict[str, Entry] = {
    "review": ReviewBody.model_json_schema(),
    "text": TextBody.model_json_schema(),
    "label": {"type": "string", "enum": list(LABELS)},
    "job state": {"type": "string", "enum": list(JobState)},
    "drift": {"type": "string", "enum": list(DriftStatus)},
    "action": {"type": "string", "enum": list(Action)},
    "severity": {"type": "string", "enum": list(Severity)},
    "share": {"type": "number", "minimum": 0, "maximum": 1},
    "told": {"required": True, "schema": {"type": "string"}},
    "told or not": {"type": ["string", "null"]},
    "v2 error": {
        "description": "What is wrong, in the protocol's form",
        "content": {"application/json": {"schema": like({"error": ""}, {})}},
    },
}


def _filled(entry: Entry) -> Entry:
    if "example" in entry and "schema" not in entry:
        entry["schema"] = like(entry["example"], entry.pop("known", {}))
    return NAMED.get(entry.get("is", ""), entry)


def _read() -> dict[str, Entry]:
    found: dict[str, Entry] = json.loads(
        files(__package__).joinpath("openapi.json").read_text("utf-8"), object_hook=_filled
    )
    refusals, problem = found.pop("refusals"), found["problem"]
    for entry in found.values():
        responses = entry.get("responses", {})
        ((media, content),) = responses.get("default", problem)["content"].items()
        for status in entry.pop("refuses", ()):
            responses[status] = {**refusals[status], "content": {media: {"schema": content["schema"]}}}
        for response in responses.values():
            response["headers"] = {**response.get("headers", {}), "X-Request-ID": NAMED["told"]}
    return found


DOCUMENTED = _read()
"""By path; and `problem`, which any of them may answer."""
