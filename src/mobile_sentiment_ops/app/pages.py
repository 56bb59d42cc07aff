"""The few HTML pages of the API, made here: nothing on them comes from another host, nothing runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from starlette.responses import HTMLResponse

POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color-scheme: light dark }
body { max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font-family: ui-monospace, monospace; font-size: .9em }
pre { overflow-x: auto; padding: .7rem; border: 1px solid #8886; border-radius: .3rem }
h2 { margin-top: 2rem; border-top: 1px solid #8886; padding-top: 1rem }
"""


def page(title: str, body: str, status: int = 200) -> HTMLResponse:
    """A whole page; `body` is HTML whose texts are escaped already."""
    html = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1>{body}</body></html>"
    )
    return HTMLResponse(html, status, {"Content-Security-Policy": POLICY})


def index_page(status: str, address: str) -> HTMLResponse:
    """The first page: how the server at `address` is, and where things are."""
    curl = f"curl -s {address}predict_json -H 'Content-Type: application/json' -d '{{\"text\": \"Love it\"}}'"
    places = (("/docs", "every call"), ("/model", "the model that answers"), ("/reports", "reports"), ("/jobs", "jobs"))
    links = "".join(f'<li><a href="{place}">{place}</a> {text}</li>' for place, text in places)
    return page("MobileSentimentOps", f"<p>{escape(status)}</p><pre>{escape(curl)}</pre><ul>{links}</ul>")


def reports_page(names: Sequence[str]) -> HTMLResponse:
    """Links to all reports."""
    items = "".join(f'<li><a href="/reports/{quote(name)}">{escape(name)}</a></li>' for name in names)
    return page("Reports", f"<ul>{items}</ul>" if names else "<p>There are no reports yet.</p>")


def docs_page(openapi: Mapping[str, Any]) -> HTMLResponse:
    """The OpenAPI document for a person to read."""
    calls = [
        _call(method.upper(), path, call)
        for path, methods in openapi["paths"].items()
        for method, call in methods.items()
    ]
    intro = f'<p>{escape(openapi["info"]["description"])} As a document: <a href="/openapi.json">/openapi.json</a></p>'
    return page(openapi["info"]["title"], intro + "".join(calls))


def _call(method: str, path: str, call: Mapping[str, Any]) -> str:
    paragraphs = escape(call.get("description", call["summary"])).split("\n\n")
    description = "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs)
    bodies = [
        f"<p>Body <code>{escape(media)}</code></p>{_examples(content)}"
        for media, content in call.get("requestBody", {}).get("content", {}).items()
    ]
    answers = [
        f"<p>Answer <code>{escape(code)}</code> {escape(answer['description'])}</p>"
        + "".join(_examples(content) for content in answer.get("content", {}).values())
        for code, answer in call["responses"].items()
        if code != "default"
    ]
    return f"<h2><code>{method} {escape(path)}</code></h2>{description}{''.join(bodies + answers)}"


def _examples(content: Mapping[str, Any]) -> str:
    examples = [example["value"] for example in content.get("examples", {}).values()]
    if "example" in content:
        examples.append(content["example"])
    shown = (found if isinstance(found, str) else json.dumps(found, indent=2, ensure_ascii=False) for found in examples)
    return "".join(f"<pre>{escape(example)}</pre>" for example in shown)
