"""A check of monitoring as one HTML page: what is to be done, what moved, in whose reviews, in which words.

The page needs nothing else and runs nothing. Its policy allows its own style by hash and nothing more; every text is
escaped, and shown in its own direction.
"""

from __future__ import annotations

import hashlib
import tomllib
from base64 import b64encode
from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from importlib.resources import files
from string import Template

from mobile_sentiment_ops.monitoring.explanation import SUMMED, Contribution, Explanation, percent
from mobile_sentiment_ops.monitoring.words import Word
from mobile_sentiment_ops.types import Interval, Measurement, RetrainDecision

MAX_BYTES = 300_000
ROWS, BARS = 60, 8
"""Measurements and parts of a dimension that are shown."""

Series = Sequence[tuple[datetime, Interval]]
"""The negative share by time, oldest first."""


def report_page(decision: RetrainDecision, explanation: Explanation, series: Series = ()) -> bytes:
    """The page in UTF-8, at most MAX_BYTES: examples are cut to 240 characters, and lists to their first entries."""
    told = tomllib.loads(files(__package__).joinpath("page.toml").read_text("utf-8"))
    title = f"Reviews on {decision.at:%-d %B %Y}"
    body = [
        f"<h1>{title}</h1>",
        f'<p class="lead" dir="auto">{escape(explanation.summary)}</p>',
        f'<p><span class="action {decision.action}">{decision.action}</span> {escape(decision.summary)}</p>',
        _list(decision.reasons),
        f'<p class="small">{_facts(decision, explanation)}</p>',
        *_titled("Negative reviews over time", _chart(series)),
        *_titled("What else moved", _list(finding.sentence for finding in explanation.findings[SUMMED:])),
        *_titled("Said more often", _words(explanation.rose)),
        *_titled("Said less often", _words(explanation.fell)),
        *_titled("Whose reviews moved the negative share", _contributions(explanation)),
        *_titled("Measured", _measurements(decision.measured)),
    ]
    digest = b64encode(hashlib.sha256(told["style"].encode()).digest()).decode()
    page = Template(told["page"]).substitute(
        digest=digest, title=title, style=told["style"], body="\n".join(filter(None, body))
    )
    return page.lstrip().encode()


def _facts(decision: RetrainDecision, explanation: Explanation) -> str:
    model = f"Model {escape(decision.model_version)}. " if decision.model_version else ""
    compared = f"{explanation.reviews_after:,} reviews compared with {explanation.reviews_before:,} before."
    notes = " ".join(map(escape, explanation.notes))
    return f"{model}{compared} Drift: {decision.drift}. {notes} Checked {decision.at:%Y-%m-%d %H:%M} UTC."


def _titled(title: str, html: str) -> Iterable[str]:
    return (f"<h2>{title}</h2>", html) if html else ()


def _list(sentences: Iterable[str]) -> str:
    items = "".join(f'<li dir="auto">{escape(sentence)}</li>' for sentence in sentences)
    return f"<ul>{items}</ul>" if items else ""


def _chart(series: Series) -> str:
    """A line with its band; the last point is marked and written out."""
    if len(series) < 2:
        return ""
    width, height, left, foot = 720, 240, 64, 34
    first, last = series[0][0], series[-1][0]
    top = min(1.0, max(0.1, *(share.high for _, share in series)) * 1.1)
    span = (last - first).total_seconds() or 1.0

    def at(when: datetime, share: float) -> str:
        x = left + (width - left - 64) * (when - first).total_seconds() / span
        return f"{x:.1f},{height - foot - (height - foot - 20) * min(max(share, 0.0), top) / top:.1f}"

    ups = [at(when, share.high) for when, share in series]
    downs = [at(when, share.low) for when, share in series]
    middle = [at(when, share.value) for when, share in series]
    x, y = middle[-1].split(",")
    lines = []
    for step in range(3):
        level = top * step / 2
        down = at(first, level).split(",")[1]
        lines.append(f'<line class="axis" x1="{left}" x2="{width - 64}" y1="{down}" y2="{down}"/>')
        lines.append(f'<text x="{left - 6}" y="{float(down) + 4:.1f}" text-anchor="end">{100 * level:.0f}%</text>')
    days = (
        f'<text x="{left}" y="{height - 6}">{first:%-d %b %Y}</text>'
        f'<text x="{width - 64}" y="{height - 6}" text-anchor="end">{last:%-d %b %Y}</text>'
    )
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img">'
        "<title>Share of negative reviews with its 95% interval</title>"
        f"{''.join(lines)}{days}"
        f'<polygon class="band" points="{" ".join([*ups, *reversed(downs)])}"/>'
        f'<polyline class="curve" points="{" ".join(middle)}"/><circle class="dot" cx="{x}" cy="{y}" r="4"/>'
        f'<text x="{float(x) + 8:.1f}" y="{float(y) + 4:.1f}">{percent(series[-1][1].value)}</text></svg>'
    )


def _words(words: Sequence[Word]) -> str:
    if not words:
        return ""
    most = max(max(word.before, word.after) for word in words)
    rows = []
    for word in words:
        also = f'<br><span class="small">with {escape(", ".join(word.also[:4]))}</span>' if word.also else ""
        part = f'<br><span class="small">{escape(_name(word.part.values()))}</span>' if word.part else ""
        quotes = "".join(f'<blockquote dir="auto">{escape(text)}</blockquote>' for text in word.examples[:1])
        more = "".join(f'<blockquote dir="auto">{escape(text)}</blockquote>' for text in word.examples[1:])
        more = f"<details><summary>more</summary>{more}</details>" if more else ""
        rows.append(
            f'<tr><td dir="auto"><b>{escape(word.words)}</b>{also}{part}</td><td class="bar">{_bars(word, most)}</td>'
            f'<td class="number">{percent(word.before)}<br>{percent(word.after)}</td>'
            f'<td class="number">{percent(word.negative)}</td><td>{quotes}{more}</td></tr>'
        )
    head = (
        '<th>Word</th><th></th><th class="number">Before<br>after</th><th class="number">Negative</th><th>Such as</th>'
    )
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _bars(word: Word, most: float) -> str:
    """Its share before, above the one after."""
    old, new = (max(60 * share / most, 0.5) for share in (word.before, word.after))
    return (
        f'<svg viewBox="0 0 60 22" aria-hidden="true"><rect class="less" width="{old:.1f}" height="9"/>'
        f'<rect class="more" y="12" width="{new:.1f}" height="9"/></svg>'
    )


def _contributions(explanation: Explanation) -> str:
    parts = []
    for dimension, found in explanation.contributions.items():
        shown = [one for one in found[:BARS] if abs(one.total.value) >= 0.0005]
        if not shown or (len(found) < 2 and dimension != "app"):
            continue
        reach = max(max(abs(one.total.low), abs(one.total.high)) for one in shown)
        rest = sum(one.total.value for one in found) - sum(one.total.value for one in shown)
        left = len(found) - len(shown)
        others = f'<p class="small">{left} others: {_points(rest)} points.</p>' if left else ""
        parts.append(f"<h3>By {dimension}</h3>{''.join(_diverging(one, reach) for one in shown)}{others}")
    intro = (
        '<p class="small">Points that each part adds to the share of negative reviews, by its share of all reviews and '
        "by how often they are negative; lines are 95% intervals. All parts sum to the whole change.</p>"
    )
    return intro + "".join(parts) if parts else ""


def _diverging(one: Contribution, reach: float) -> str:
    """A part's name, figures and bar, to the right of the middle when it adds to the share."""
    low, high, least, most = (
        300 + 300 * value / reach
        for value in (min(one.total.value, 0), max(one.total.value, 0), one.total.low, one.total.high)
    )
    rates = (one.negative_before, one.negative_after)
    shares = " → ".join("–" if share is None else percent(share) for share in rates)
    kind = "more" if one.total.value > 0 else "less"
    return (
        f'<div class="part"><span dir="auto">{escape(_name(one.part.values()))}</span>'
        f'<span class="small">{one.reviews_after:,} reviews, {shares} negative</span><b>{_points(one.total.value)}</b>'
        '<svg viewBox="0 0 600 12" preserveAspectRatio="none" aria-hidden="true">'
        '<line class="axis" x1="300" x2="300" y1="0" y2="12"/>'
        f'<rect class="{kind}" x="{low:.1f}" y="1" width="{high - low:.1f}" height="10"/>'
        f'<line class="reach" x1="{least:.1f}" x2="{most:.1f}" y1="6" y2="6"/></svg></div>'
    )


def _points(share: float) -> str:
    """
    >>> _points(0.0494), _points(-0.0001)
    ('+4.9', '0.0')
    """
    return f"{100 * share:+.1f}" if abs(share) >= 0.0005 else "0.0"


def _name(values: Iterable[str | None]) -> str:
    """
    >>> _name(["lamp", None]), _name(["lamp", "1.0"]), _name([None])
    ('lamp, no version told', 'lamp 1.0', 'not told')
    """
    first, *rest = values
    name = first or "not told"
    return " ".join([name, *(value for value in rest if value)]) + (", no version told" if rest and not rest[0] else "")


def _measurements(measured: Sequence[Measurement]) -> str:
    if not measured:
        return ""
    shown = sorted(measured, key=lambda one: not one.fired)[:ROWS]
    rows = "".join(
        f"<tr{' class=fired' if one.fired else ''}><td>{escape(one.name)}{_of(one)}</td>"
        f'<td class="number">{_figure(one.value)}{_ends(one)}</td><td class="number">{_figure(one.limit)}</td>'
        f'<td class="number">{one.n:,}</td><td dir="auto">{escape(one.reason)}</td></tr>'
        for one in shown
    )
    head = "".join(f'<th class="number">{name}</th>' for name in ("Value", "Limit", "Reviews"))
    left = len(measured) - len(shown)
    more = f'<p class="small">{left} more did not fire.</p>' if left else ""
    return f"<table><tr><th>Figure</th>{head}<th>Why</th></tr>{rows}</table>{more}"


def _of(one: Measurement) -> str:
    return f'<br><span class="small">{escape(_name(one.part.values()))}</span>' if one.part else ""


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _ends(one: Measurement) -> str:
    if one.low is None or one.high is None:
        return ""
    return f'<br><span class="small">{one.low:.4g} to {one.high:.4g}</span>'
