"""The few HTML pages of the API, made here: nothing on them comes from another host, nothing runs."""

from __future__ import annotations

import json
import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import groupby
from operator import itemgetter
from string import Template
from typing import Any
from urllib.parse import quote

from starlette.responses import HTMLResponse

from mobile_sentiment_ops.models.explanation import Effect, Explanation, towards
from mobile_sentiment_ops.types import Label

POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

_PAGE = Template(tomllib.loads(files(__package__).joinpath("pages.toml").read_text("utf-8"))["page"])

REPORT_POLICY = "sandbox allow-scripts"  # a report may draw with scripts, and may not act as this site


def page(title: str, body: str) -> HTMLResponse:
    """A whole page; `body` is HTML whose texts are escaped already."""
    html = _PAGE.substitute(title=escape(title), body=body)
    return HTMLResponse(html, headers={"Content-Security-Policy": POLICY})


def index_page(status: str, address: str) -> HTMLResponse:
    """The first page: how the server at `address` is, and where things are."""
    curl = f"curl -s {address}predict_json -H 'Content-Type: application/json' -d '{{\"text\": \"Love it\"}}'"
    return page("Sentiment of app reviews", f"<p>{escape(status)}</p><pre>{escape(curl)}</pre>")


def reports_page(names: Sequence[str]) -> HTMLResponse:
    """Links to all reports."""
    items = "".join(f'<li><a href="/reports/{quote(name)}">{escape(name)}</a></li>' for name in names)
    return page("Reports", f"<ul>{items}</ul>" if names else "<p>There are no reports yet.</p>")


def explanation_page(text: str, label: Label, found: Explanation, shown: Sequence[Effect]) -> HTMLResponse:
    """A text with what speaks for `label` and against it, and the effects in `shown` as a table."""
    rows = ((escape(one.words), f"{towards(label, one.effects):+.2f}".replace("-", "−")) for one in shown)
    table = "".join(f"<tr><td>{words}</td><td>{effect}</td></tr>" for words, effect in rows)
    effect = "Effect on the logit" if found.exact else "Log-probability lost without it"
    return page(
        f"Why {label}" if label == found.decided else f"Why not {label}",
        f"<p>The model says {found.decided}. Words marked <b>+</b> speak for {label}, words marked <b>−</b> against "
        f'it.</p><p class="why">{_marked(text, label, found)}</p>'
        f"<table><tr><th>Word or phrase</th><th>{effect}</th></tr>{table}</table>",
    )


def _marked(text: str, label: Label, found: Explanation) -> str:
    """The text in HTML, its characters marked by three steps of their part of the effects."""
    heat = [0.0] * len(text)
    for one in found.effects:
        for start, end in one.spans:
            part = towards(label, one.effects) / len(one.spans) / (end - start)
            heat[start:end] = (before + part for before in heat[start:end])
    most, steps = max(map(abs, heat), default=0.0) or 1.0, [0]
    for value, char in zip(heat, text, strict=True):
        continues = unicodedata.category(char) in ("Mn", "Mc", "Me", "Sk", "Cf")  # is drawn with what is before it
        steps.append(steps[-1] if continues else round(3 * value / most) * (not char.isspace()))
    html = ""
    for step, chars in groupby(zip(steps[1:], text, strict=True), key=itemgetter(0)):
        shown = escape("".join(char for _, char in chars))
        sign, name = ("+", "for") if step > 0 else ("−", "against")
        html += f'<mark class="{name}{abs(step)}">{shown}\u2060<sup>{sign}</sup></mark>' if step else shown
    return html


def docs_page(openapi: Mapping[str, Any]) -> HTMLResponse:
    """The OpenAPI document for a person to read."""
    calls = {
        f"{method.upper()} {path}": call
        for path, methods in openapi["paths"].items()
        for method, call in methods.items()
    }
    contents = "".join(f'<li><a href="#{quote(name)}"><code>{escape(name)}</code></a></li>' for name in calls)
    intro = f'<p>{escape(openapi["info"]["description"])} As a document: <a href="/openapi.json">openapi.json</a></p>'
    return page("API", f"{intro}<ul>{contents}</ul>{''.join(_call(name, call) for name, call in calls.items())}")


def _call(name: str, call: Mapping[str, Any]) -> str:
    paragraphs = escape(call.get("description", call["summary"])).split("\n\n")
    description = re.sub("`(.+?)`", r"<code>\1</code>", "".join(f"<p>{paragraph}</p>" for paragraph in paragraphs))
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
    return f'<h2 id="{quote(name)}"><code>{escape(name)}</code></h2>{description}{"".join(bodies + answers)}'


def _examples(content: Mapping[str, Any]) -> str:
    examples = [example["value"] for example in content.get("examples", {}).values()]
    if "example" in content:
        examples.append(content["example"])
    shown = (found if isinstance(found, str) else json.dumps(found, indent=2, ensure_ascii=False) for found in examples)
    return "".join(f"<pre>{escape(example)}</pre>" for example in shown)
