"""Why a version is what it is, in words: from the card of its bundle and the ledger's entries about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mobile_sentiment_ops.registry.ledger import CHANGES
from mobile_sentiment_ops.types import LedgerEntry

GIVERS = {"human": "people", "imported": "imported files", "stars": "stars"}


@dataclass(frozen=True, slots=True)
class Story:
    """All that is known of a version; `card` is that of its bundle, `entries` are those about it, and
    `verdict` the one of them in which the gate spoke."""

    version: str
    bundle_hash: str
    serving: bool
    card: Mapping[str, Any]
    entries: Sequence[LedgerEntry]
    verdict: LedgerEntry | None


FIGURES = (
    ("reviews it was judged on", "test_rows", "at least", "min_test_rows"),
    ("macro-F1", "candidate_macro_f1", "", ""),
    ("macro-F1 of its rival", "rival_macro_f1", "", ""),
    ("gain in macro-F1", "gain", "all above", "min_gain"),
    ("answers mended", "mended_rows", "", ""),
    ("answers spoiled", "spoiled_rows", "", ""),
    ("chance of such a difference among equals (McNemar)", "mcnemar_p", "", ""),
    ("calibration error (ECE)", "candidate_ece", "at most", "max_ece"),
    ("CPU time a review, us", "candidate_cpu_us_per_review", "at most", "max_us_per_review"),
    ("size, MB", "candidate_mb", "at most", "max_model_mb"),
)
"""What a verdict measured, in words: name, figure, and how its limit binds."""


def measured_rows(verdict: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """The figures of a verdict for a table: name, value, interval, limit.

    >>> measured_rows({"measured": {"gain": 0.02, "gain_low": 0.01, "gain_high": 0.03}, "limits": {"min_gain": 0.0}})
    [('gain in macro-F1', '0.02', '0.01 to 0.03', 'all above 0')]
    """
    found, limits = verdict.get("measured", {}), verdict.get("limits", {})
    rows = []
    for name, key, binds, limit in FIGURES:
        if key in found:
            ends = f"{found[f'{key}_low']:.4g} to {found[f'{key}_high']:.4g}" if f"{key}_low" in found else ""
            rows.append((name, _number(found[key]), ends, f"{binds} {limits[limit]:g}" if limit in limits else ""))
    losses = {name: loss for name, loss in found.items() if name.startswith("loss_")}
    if losses:
        worst = max(losses, key=lambda name: losses[name])
        part = worst.removeprefix("loss_").replace("_", " ", 1)
        limit = f"at most {limits['max_slice_loss']:g}, if it is no chance" if "max_slice_loss" in limits else ""
        rows.append((f"F1 lost in the worst part ({part})", f"{losses[worst]:.4g}", "", limit))
    return rows


def _number(value: float) -> str:
    """
    >>> _number(11283.0), _number(0.57671), _number(2.5e-8)
    ('11,283', '0.5767', '2.5e-08')
    """
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 1 else f"{value:.4g}"


def tell(story: Story) -> list[str]:
    """What a story says, as paragraphs for a person."""
    card = story.card
    data, cost, made = card["dataset"], card.get("metrics", {}), card.get("provenance", {})
    rows, fingerprint = data.get("rows", {}), data["fingerprint"][:12]
    set_to = _listed(f"{name} {value}" for name, value in card.get("parameters", {}).items())
    labels = _listed(f"{count:,} {name}" for name, count in data.get("labels", {}).get("train", {}).items())
    sources = data.get("counts", {}).get("label_source", {})
    given = _listed(f"{sum(parts.values()):,} by {GIVERS.get(name, name)}" for name, parts in sources.items())
    serving = " It is the champion: it answers now." if story.serving else ""
    told = [
        f"Version {story.version} is of the kind {card['kind']}, trained at {card['trained_at'][:16]} UTC with the "
        f"parameters {set_to} and the seed {card.get('seed', 'not recorded')}.{serving}",
        f"It learned from {rows.get('train', 0):,} reviews{_period(data, 'train')} and from the "
        f"{rows.get('validation', 0):,} after them: dataset {fingerprint}, from "
        f"{data['source']}. Labels it learned from: {labels}. Who gave the labels of all parts: {given}. It was judged "
        f"on {rows.get('test', 0):,} reviews that it had not seen{_period(data, 'test')}.",
    ]
    if "train_cpu_seconds" in cost:
        cpu, seconds, peak = (cost[name] for name in ("train_cpu_seconds", "train_seconds", "peak_memory_mb"))
        told.append(f"Training took {cpu:.2f} s of CPU time in {seconds:.2f} s, and at most {peak:,.0f} MB of memory.")
    if made:
        told.append(
            f"Made with {_listed(f'{name.replace(chr(95), chr(32))} {value}' for name, value in made.items())}."
        )
    told.append(_spoken(story.verdict) if story.verdict else "The ledger has no verdict of the gate on it.")
    changes = [entry for entry in story.entries if entry.decision.action in CHANGES]
    return [*told, *(f"{entry.at:%Y-%m-%d %H:%M} UTC: {entry.decision.actor} {_deed(entry)}" for entry in changes)]


def _spoken(verdict: LedgerEntry) -> str:
    figures = verdict.decision.figures
    before, outcome = figures.get("champion"), figures.get("outcome", verdict.decision.action.upper())
    rival = f"version {before}, the champion then" if before else "answers dealt by chance"
    said = f"The gate compared it with {rival}, at {verdict.at:%Y-%m-%d %H:%M} UTC, and said {outcome}"
    return f"{said}: {verdict.decision.reason}"


def _listed(parts: Iterable[str]) -> str:
    return ", ".join(parts) or "not recorded"


def _period(data: Mapping[str, Any], part: str) -> str:
    first, last = data.get(f"{part}_from"), data.get(f"{part}_to")
    return f" from {first[:10]} to {last[:10]}" if first and last else ""


def _deed(entry: LedgerEntry) -> str:
    """A change of champion in words.

    >>> from datetime import UTC, datetime
    >>> from mobile_sentiment_ops.types import Decision
    >>> decision = Decision("override", "2", "ann", "known from the pilot", {"from": "1", "verdict": "HOLD"})
    >>> _deed(LedgerEntry(4, datetime(2025, 3, 1, tzinfo=UTC), decision, "", ""))
    'made it the champion instead of version 1, although the gate said HOLD: known from the pilot'
    """
    decision = entry.decision
    before = decision.figures.get("from", decision.figures.get("champion"))
    instead = f" instead of version {before}" if before else ""
    if decision.actor == "gate":
        return f"made it the champion{instead}, for the reason above"
    if decision.action == "rollback":
        return f"went back to it from version {before}: {decision.reason}"
    said = decision.figures.get("verdict")
    against = f", although the gate said {said}" if decision.action == "override" and said else ""
    return f"made it the champion{instead}{against}: {decision.reason}"
