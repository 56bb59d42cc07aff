"""The page of a check: what it says, and what it can never do."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser

import polars as pl

from mobile_sentiment_ops.monitoring.explanation import explain
from mobile_sentiment_ops.monitoring.page import MAX_BYTES, report_page
from mobile_sentiment_ops.types import Action, DriftStatus, Interval, Measurement, RetrainDecision
from tests.monitoring.test_explanation import BEFORE, reviews

AT = datetime(2026, 3, 9, 6, tzinfo=UTC)
EVIL = "<script>alert('x')</script>"
DECISION = RetrainDecision(
    Action.LABEL,
    AT,
    "12",
    "Label 400 reviews of lamp.",
    ("Drift was found.",),
    (
        Measurement("negative share", 0.31, 0.25, True, "above what is usual", 400, 0.28, 0.34, {"app": "lamp"}),
        Measurement("macro-F1", None, 0.55, False, "not measured: only 37 of 100 labels"),
    ),
    DriftStatus.DRIFT,
)
FOUND = explain(BEFORE, pl.concat([BEFORE[::5], reviews("lamp", "1.1", 90, 0.8, 9, extra=["flickerz"])]))
SERIES = [(AT + timedelta(days=day), Interval(0.2 + day / 50, 0.15 + day / 50, 0.25 + day / 50)) for day in range(7)]


class Parts(HTMLParser):
    """Elements that were opened, and whether all were closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.attributes: set[str] = set()
        self.stack: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in ("meta", "br"):
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag


def test_the_page_says_what_the_explanation_and_the_decision_say() -> None:
    html = report_page(DECISION, FOUND, SERIES).decode()
    assert FOUND.findings[0].sentence in html
    for told in (
        "LABEL",
        "Label 400 reviews of lamp.",
        "only 37 of 100 labels",
        "<b>flickerz</b>",
        "0.28 to 0.34",
        "32%",
    ):
        assert told in html
    parts = Parts(html)
    assert not parts.stack
    assert parts.opened.count("polygon") == 1


def test_nothing_runs_and_nothing_is_fetched() -> None:
    page = report_page(DECISION, FOUND, SERIES).decode()
    parts = Parts(page)
    assert not {"script", "link", "img", "iframe"} & set(parts.opened)
    assert not {name for name in parts.attributes if name.startswith("on") or name in ("style", "src", "href")}
    style = re.search("<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in page


def test_every_text_is_escaped() -> None:
    word = replace(FOUND.rose[0], words=EVIL, also=(EVIL,), examples=(EVIL, EVIL), part={"app": EVIL})
    finding = replace(FOUND.findings[0], sentence=EVIL)
    parts = tuple(replace(one, part={"app": EVIL}) for one in FOUND.contributions["app"])
    found = replace(
        FOUND,
        summary=EVIL,
        rose=(word,),
        fell=(word,),
        findings=(finding,) * 9,
        notes=(EVIL,),
        contributions={"app": parts},
    )
    measured = (Measurement(EVIL, 1.0, 1.0, True, EVIL, part={"app": EVIL}),)
    decision = replace(DECISION, summary=EVIL, reasons=(EVIL,), model_version=EVIL, measured=measured)
    page = report_page(decision, found, SERIES).decode()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 14


def test_a_page_stays_small_whatever_is_in_it() -> None:
    word = replace(FOUND.rose[0], also=("flickering" * 6,) * 8, examples=("ไฟกะพริบ" * 30,) * 3)
    parts = FOUND.contributions["version"] * 500
    found = replace(FOUND, rose=(word,) * 8, fell=(word,) * 8, contributions=dict.fromkeys(("app", "version"), parts))
    decision = replace(DECISION, measured=DECISION.measured * 500)
    series = [(AT + timedelta(hours=at), Interval(0.2, 0.1, 0.3)) for at in range(24 * 28)]
    assert len(report_page(decision, found, series)) <= MAX_BYTES


def test_a_page_without_anything_to_show_is_still_one() -> None:
    calm = explain(BEFORE, BEFORE[:0])
    page = report_page(replace(DECISION, reasons=(), measured=(), model_version=None), calm).decode()
    assert not Parts(page).stack
    assert "nothing can be compared" in page
    assert "<svg" not in page
