"""What a person reads of a model: README.md, its model card, and DATA.md, the card of its dataset.

    describe_run     the facts of a training run, as card.json keeps them
    model_card       those facts as Markdown, with Hugging Face's keys in front
    data_card        the same of the dataset

Both are made from card.json alone, so that they can be had of every bundle. No review is quoted and no author named.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from importlib.resources import files
from typing import Any, cast

import numpy as np
import polars as pl

from mobile_sentiment_ops.data.dataset import Dataset
from mobile_sentiment_ops.data.manifest import SPLITS
from mobile_sentiment_ops.models.evaluation import Indices, common_values
from mobile_sentiment_ops.models.intervals import macro_f1_interval, score_intervals
from mobile_sentiment_ops.models.kinds import KINDS
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.registry.bundle import strict
from mobile_sentiment_ops.types import LABELS, LedgerEntry, Verdict

Card = Mapping[str, Any]

README, DATA = "README.md", "DATA.md"

MOST_VALUES = 30
"""Apps, languages or versions that are counted by name, those with most reviews; the others are counted together."""

UNKNOWN, OTHERS = "not known", "others"
COUNTED = ("label_source", "language", "app")
HEADS = {"label": "label", "label_source": "labelled by", "language": "language", "app": "app"}
WORDS: dict[str, Any] = tomllib.loads(files(__package__).joinpath("cards.toml").read_text("utf-8"))
WEAKER = 0.05
"""Macro-F1 below the whole from which a part is named among the limits."""


# --- the facts


def describe_run(
    model: SentimentModel,
    dataset: Dataset,
    decisions: Indices,
    verdict: Verdict,
    *,
    metrics: Mapping[str, float],
    trained_at: datetime,
    provenance: Mapping[str, str],
    seed: int,
    ledger: Sequence[LedgerEntry],
    rejected_rows: int | None = None,
    parent: str | None = None,
) -> dict[str, Any]:
    """All that a card tells of a run; `decisions` (n,) are the answers on the dataset's test rows, `parent` is
    the version that the training went on from, if it did."""
    labels = dataset.test["label"].to_numpy()
    intervals = score_intervals(labels, decisions, seed=seed)
    head = {"seq": ledger[-1].seq, "hash": ledger[-1].entry_hash} if ledger else None
    card = {
        "kind": model.kind,
        "labels": [label.value for label in LABELS],
        "parameters": dict(model.parameters),
        "trained_at": trained_at.isoformat(),
        "dataset": {**dataset.summary(), **_counts(dataset), "rejected": rejected_rows},
        "metrics": dict(metrics),
        "intervals": {name: (found.low, found.high) for name, found in intervals.items()},
        "slices": {name: _slices(dataset.test[name], labels, decisions, seed) for name in ("language", "app")},
        "labels_decided": sorted({LABELS[at].value for at in decisions.tolist()}),
        "verdict": asdict(verdict),
        "provenance": dict(provenance),
        "seed": seed,
        "ledger_head": head,
        "lineage": {
            "parent_version": parent,
            "dataset": dataset.fingerprint,
            "commit": provenance.get("git_revision"),
            "lock_hash": provenance.get("lock_hash"),
        },
    }
    return cast(dict[str, Any], strict(card))


def _counts(dataset: Dataset) -> dict[str, object]:
    """Reviews by column, value and part, and the labelled ones that were left out as repeats."""
    rows = pl.concat(
        getattr(dataset, part).select(pl.col(COUNTED).cast(pl.Utf8), split=pl.lit(part)) for part in SPLITS
    )
    return {"repeats": dataset.repeats, "counts": {name: _counted(rows, name) for name in COUNTED}}


def _counted(rows: pl.DataFrame, column: str) -> dict[str, dict[str, int]]:
    values = rows[column].fill_null(UNKNOWN)
    common = values.value_counts(sort=True).sort("count", column, descending=[True, False])[column].head(MOST_VALUES)
    named = rows.select("split", value=pl.when(values.is_in(common.implode())).then(values).otherwise(pl.lit(OTHERS)))
    found = {name: dict.fromkeys(SPLITS, 0) for name in [*common, OTHERS] if (named["value"] == name).any()}
    for value, split, count in named.group_by("value", "split").len().iter_rows():
        found[value][split] = count
    return found


def _slices(values: pl.Series, labels: Indices, decisions: Indices, seed: int) -> dict[str, dict[str, float]]:
    """Macro-F1 with its interval for each value of a column with rows enough."""
    given, found = np.array(values.to_list(), dtype=object), {}
    for value, rows in common_values(given.tolist(), MOST_VALUES):
        score = macro_f1_interval(labels[given == value], decisions[given == value], seed=seed)
        found[value] = {"rows": rows, "macro_f1": score.value, "low": score.low, "high": score.high}
    return found


# --- the cards


def model_card(card: Card) -> str:
    """README.md of a bundle with this card.json; a dash stands for what an older card does not tell."""
    kind, metrics, verdict = card["kind"], card["metrics"], card.get("verdict", {})
    measured = {name.removeprefix("candidate_"): value for name, value in verdict.get("measured", {}).items()}
    facts = {
        "kind": kind,
        "title": KINDS[kind].title if kind in KINDS else kind,
        "labels": ", ".join(card.get("labels", LABELS)),
        "trained": _day(card.get("trained_at")),
        "scores": _figures(("", "value", "95% interval"), "scores", metrics, card.get("intervals", {})),
        "cost": _figures(("", ""), "cost", {**metrics, **measured, "model_mb": measured.get("mb")}),
        "limits": "\n".join(f"- {limit}" for limit in _limits(card)),
        "verdict": f"{verdict.get('outcome', '-')}: {_cell(verdict.get('summary', '-'))}",
        "origin": _table(("", ""), _origin(card)),
        **{name: json.dumps(_rounded(metrics.get(name))) for name in ("macro_f1", "accuracy", "ece")},
    }
    for name in COUNTED:
        learned = [(value, n["train"] + n["validation"]) for value, n in _counts_of(card, name)]
        facts[f"learned_{name}"] = _table((HEADS[name], "reviews"), learned)
        parts = sorted(card.get("slices", {}).get(name, {}).items(), key=lambda part: -part[1]["rows"])
        scored = [(at, n["rows"], f"{n['macro_f1']:.3f}", f"{n['low']:.3f} to {n['high']:.3f}") for at, n in parts]
        facts[f"{name}_scores"] = _table((HEADS[name], "reviews", "macro-F1", "95% interval"), scored)
    return _page("model", card, facts)


def data_card(card: Card) -> str:
    """DATA.md of a bundle with this card.json."""
    labels = card["dataset"].get("labels", {})
    of_label = [(label.value, {part: counts[label.value] for part, counts in labels.items()}) for label in LABELS]
    tables = {"label": of_label, **{name: _counts_of(card, name) for name in COUNTED}}
    facts = {
        f"{name}_parts": _table((HEADS[name], *SPLITS), [(value, *map(n.get, SPLITS)) for value, n in found])
        for name, found in tables.items()
    }
    return _page("data", card, facts)


def _page(name: str, card: Card, facts: Mapping[str, str]) -> str:
    """A template with the facts in it; a paragraph that is nothing but an empty fact is left out."""
    dataset = card["dataset"]
    rows, known = dataset.get("rows", {}), {"fingerprint": dataset["fingerprint"]}
    known["name"] = f"reviews-{dataset['fingerprint'][:12]}"
    known["languages"] = json.dumps(_languages(card), ensure_ascii=False)
    known["all"] = _cell(sum(rows.values()))
    known |= {part: _cell(rows.get(part)) for part in SPLITS}
    known |= {name: _cell(dataset.get(name)) for name in ("source", "repeats", "rejected")}
    for part in ("train", "test"):
        first, last = (dataset.get(f"{part}_{end}") for end in ("from", "to"))
        known[f"{part}_period"] = f"from {_day(first)} to {_day(last)}" if first else "of unknown times"
    paragraphs = (paragraph.format(**known, **facts) for paragraph in WORDS[name].strip().split("\n\n"))
    return "\n\n".join(filter(None, paragraphs)) + "\n"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _languages(card: Card) -> list[str]:
    return [name for name, _ in _counts_of(card, "language") if name not in (UNKNOWN, OTHERS)]


def _counts_of(card: Card, column: str) -> list[tuple[str, dict[str, int]]]:
    """Counts by part of each value, the commonest first."""
    found = card["dataset"].get("counts", {}).get(column, {})
    order = sorted(found, key=lambda name: (name == OTHERS, -sum(found[name].values()), name))
    words = WORDS["sources"] if column == "label_source" else {}
    return [(words.get(name, name), found[name]) for name in order]


def _day(time: str | None) -> str:
    return time[:10] if time else "-"


def _figures(head: Sequence[str], named: str, found: Card, intervals: Card | None = None) -> str:
    rows = []
    for name, title in WORDS[named].items():
        if (value := found.get(name)) is not None:
            ends = (intervals or {}).get(name)
            more = [] if intervals is None else [f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else ""]
            rows.append((title, f"{value:.3f}" if value < 10 else _cell(round(value)), *more))
    return _table(head, rows)


def _limits(card: Card) -> Iterator[str]:
    metrics, words, slices = card["metrics"], WORDS["limits"], card.get("slices", {})
    f1 = {label: metrics.get(f"f1_{label.lower()}") for label in LABELS}
    known = {label: value for label, value in f1.items() if value is not None}
    if known:
        worst = min(known, key=lambda label: known[label])
        yield words["label"].format(label=worst, f1=known[worst])
    for column, parts in sorted(slices.items()):
        for value, found in sorted(parts.items()):
            if found["macro_f1"] < metrics["macro_f1"] - WEAKER:
                part = f"{HEADS[column]} {_cell(value)}"
                yield words["part"].format(part=part, f1=found["macro_f1"], all=metrics["macro_f1"])
    if unjudged := [name for name in _languages(card) if name not in slices.get("language", {})]:
        yield words["unjudged"].format(languages=", ".join(map(_cell, unjudged)))
    by_source = {name: sum(n.values()) for name, n in card["dataset"].get("counts", {}).get("label_source", {}).items()}
    if by_source.get("stars"):
        yield words["stars"].format(share=by_source["stars"] / sum(by_source.values()))
    yield words["irony"]
    yield words["change"]


def _origin(card: Card) -> Iterator[tuple[str, object]]:
    head = card.get("ledger_head")
    lineage = {**card.get("lineage", {}), "seed": card.get("seed"), "ledger": head and f"{head['seq']} {head['hash']}"}
    lineage |= {f"parameter {name}": value for name, value in card.get("parameters", {}).items()}
    yield from ((name.replace("_", " "), str(value)) for name, value in sorted(lineage.items()) if value is not None)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [f"| {' | '.join(map(_cell, row))} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]]) if lines[1:] else ""


def _cell(value: object) -> str:
    r"""A value inside a line of Markdown, whatever it holds; a dash for nothing.

    >>> print(_cell("an|app <b>\n"), _cell(1234), _cell(None))
    an\|app \<b> 1,234 -
    """
    text = "-" if value is None else f"{value:,}" if isinstance(value, int) else " ".join(str(value).split())
    return "".join(f"\\{char}" if char in "\\|`*[]<#" else char for char in text)
