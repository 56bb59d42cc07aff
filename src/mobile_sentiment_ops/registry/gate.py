"""The gate: may a candidate replace the champion?

Both answer the same labelled rows, and a paired bootstrap says how sure the difference of their
macro-F1 is.

    PROMOTE   the whole interval of the gain is above `min_gain`
    REJECT    the whole interval is below it, or the candidate answers one label to everything
    HOLD      neither is sure, or the rows cannot tell

While there is no champion, the rival is chance: the candidate's own answers, dealt to the rows in another
order. (One answer to everything is no rival, as guesses have a better macro-F1.) Few rows are enough then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from mobile_sentiment_ops.models.evaluation import Indices
from mobile_sentiment_ops.models.intervals import gain_interval, macro_f1_interval
from mobile_sentiment_ops.settings import Gate
from mobile_sentiment_ops.types import LABELS, Outcome, Verdict

FIRST_MODEL_ROWS = 30
"""Fewest rows to judge the first model on; the interval is wide then, and still decides."""


@dataclass(frozen=True, slots=True)
class GateLimits:
    """What a verdict is held to."""

    min_gain: float
    confidence: float
    bootstrap_samples: int
    min_test_rows: int

    @classmethod
    def of(cls, gate: Gate) -> GateLimits:
        """The limits that the settings give."""
        return cls(gate.min_gain, gate.confidence, gate.bootstrap_samples, gate.min_test_rows)


def compare(
    labels: Indices,
    candidate_decisions: Indices,
    champion_decisions: Indices | None,
    *,
    candidate: str,
    champion: str | None,
    limits: GateLimits,
    seed: int,
) -> Verdict:
    """The verdict on a candidate: its decisions (n,) and the champion's on the rows of `labels` (n,).

    >>> labels = np.array([0, 1, 2] * 100)
    >>> limits = GateLimits(min_gain=0.0, confidence=0.95, bootstrap_samples=200, min_test_rows=200)
    >>> champion = np.where(np.arange(300) < 150, labels, 2)
    >>> verdict = compare(labels, labels, champion, candidate="new", champion="old", limits=limits, seed=0)
    >>> verdict.outcome.value, round(verdict.measured["gain"], 3)
    ('PROMOTE', 0.333)
    """
    dealt = np.random.default_rng(seed).permutation(candidate_decisions)
    rival = dealt if champion_decisions is None else champion_decisions
    rival_name = champion or "the same answers dealt by chance"
    measured = _measure(labels, candidate_decisions, rival, limits, seed) if len(labels) else {"test_rows": 0.0}
    needed = limits.min_test_rows if champion else min(limits.min_test_rows, FIRST_MODEL_ROWS)
    outcome, reason = _decide(labels, candidate_decisions, measured, limits, needed)
    return Verdict(
        outcome=outcome,
        candidate=candidate,
        champion=champion,
        measured=measured,
        limits=asdict(limits),
        reasons=(reason,),
        summary=_summary(outcome, candidate, champion, rival_name, measured, reason),
    )


def _measure(labels: Indices, candidate: Indices, rival: Indices, limits: GateLimits, seed: int) -> dict[str, float]:
    samples, confidence = limits.bootstrap_samples, limits.confidence
    intervals = {
        "candidate_macro_f1": macro_f1_interval(labels, candidate, seed=seed, samples=samples, confidence=confidence),
        "rival_macro_f1": macro_f1_interval(labels, rival, seed=seed, samples=samples, confidence=confidence),
        "gain": gain_interval(labels, candidate, rival, seed=seed, samples=samples, confidence=confidence),
    }
    right, rival_right = candidate == labels, rival == labels
    measured = {"test_rows": float(len(labels))}
    for name, found in intervals.items():
        measured |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return measured | {
        "changed_rows": float((candidate != rival).sum()),
        "mended_rows": float((right & ~rival_right).sum()),
        "spoiled_rows": float((~right & rival_right).sum()),
    }


def _decide(
    labels: Indices, candidate: Indices, measured: Mapping[str, float], limits: GateLimits, needed: int
) -> tuple[Outcome, str]:
    """The outcome, and the sentence that it rests on."""
    rows = len(labels)
    if rows < needed:
        return Outcome.HOLD, (
            f"Only {rows:,} labelled reviews are there to judge it on, a verdict needs {needed:,} "
            f"(gate.min_test_rows): take in more, or ask for fewer."
        )
    if len(np.unique(candidate)) == 1:
        return Outcome.REJECT, f"It answers {LABELS[int(candidate[0])]} to every review, whatever it says."
    if len(np.unique(labels)) == 1:
        return Outcome.HOLD, f"All reviews to judge it on are {LABELS[int(labels[0])]}: they cannot tell who is better."
    gain, low, high = (measured[name] for name in ("gain", "gain_low", "gain_high"))
    found = f"The gain of {gain:+.3f} lies between {low:+.3f} and {high:+.3f} with {limits.confidence:.0%} confidence"
    asked = f"the {limits.min_gain:+.3f} asked for (gate.min_gain)" if limits.min_gain else "zero"
    if low > limits.min_gain:
        return Outcome.PROMOTE, f"{found}, all of it above {asked}."
    if high < limits.min_gain:
        return Outcome.REJECT, f"{found}, all of it below {asked}."
    return Outcome.HOLD, f"{found}, which is not sure to be above {asked}."


def _summary(
    outcome: Outcome, candidate: str, champion: str | None, rival: str, measured: Mapping[str, float], reason: str
) -> str:
    """The paragraph for a person who decides about the product."""
    head = {
        Outcome.PROMOTE: f"{candidate} replaces {champion}." if champion else f"{candidate} is the first to answer.",
        Outcome.HOLD: f"{candidate} is not shown to be better than {rival}.",
        Outcome.REJECT: f"{candidate} is refused.",
    }[outcome]
    if not measured["test_rows"]:
        return f"{head} {reason}"
    return (
        f"{head} On the same {measured['test_rows']:,.0f} reviews it has a macro-F1 (how well each label is "
        f"found, 1 at best) of {measured['candidate_macro_f1']:.3f}, {rival} {measured['rival_macro_f1']:.3f}. "
        f"{measured['changed_rows']:,.0f} answers differ: {measured['mended_rows']:,.0f} turn from wrong to right, "
        f"{measured['spoiled_rows']:,.0f} from right to wrong. {reason}"
    )
