"""The gate: may a candidate replace the champion?

Both answer the same labelled rows now. A paired bootstrap says how sure the difference of their macro-F1
is, at the level that is left for these test rows (`spending.py`), and nothing may get worse behind it.

    REJECT    worse for sure; one label to everything; an app, language, version or label that surely
              loses more than `max_slice_loss`; less calibrated, slower, larger or worse behaved than allowed
    HOLD      not sure, too few or spent test rows, a part that looks worse, more answers spoiled than mended
    PROMOTE   the whole interval of the gain is above `min_gain`, and none of these

While there is no champion, the rival is chance: the candidate's own answers, dealt to the rows in another
order. (One answer to everything is no rival, as guesses have a better macro-F1.) Few rows are enough then,
and nothing else is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mobile_sentiment_ops.models.evaluation import Floats, Indices, reliability
from mobile_sentiment_ops.models.intervals import paired_intervals
from mobile_sentiment_ops.registry.comparison import NORMAL, Loss, Part, mcnemar, part_losses, rows_to_tell
from mobile_sentiment_ops.registry.spending import FIRST_SHARE
from mobile_sentiment_ops.settings import Gate
from mobile_sentiment_ops.types import LABELS, Interval, Outcome, Verdict

FIRST_MODEL_ROWS = 30
"""Fewest rows to judge the first model on; the interval is wide then, and still decides."""

SURE, SUSPECT = 0.025, 0.2
"""The chance that any of the parts looks as much worse though none is: below it the candidate is refused, or waits."""

POWER = 0.8
"""How probably a better candidate is promoted once the labelled reviews that a HOLD asks for are there."""

CHEAPER = 0.8
"""A candidate at this share of the champion's time or size brings something."""

Finding = tuple[Outcome, str]


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model did on the test rows (n,), (n, 3), what it costs, and the share of each behaviour
    test that it passed."""

    name: str
    decisions: Indices
    probabilities: Floats
    cpu_us_per_review: float = 0.0
    model_mb: float = 0.0
    behaviour: Mapping[str, float] = field(default_factory=dict)


def compare(
    labels: Indices,
    candidate: Answers,
    champion: Answers | None,
    *,
    gate: Gate,
    seed: int,
    level: float | None = None,
    needed_rows: int | None = None,
    parts: Sequence[Part] = (),
    behaviour_floors: Mapping[str, float] | None = None,
) -> Verdict:
    """The verdict on a candidate, on the rows of `labels` (n,).

    A champion that is no worse is replaced with a chance of at most `level` (by default that of one look).
    `parts` are looked at alone; `behaviour_floors` are the shares that behaviour tests ask for.

    >>> labels = np.array([0, 1, 2] * 100)
    >>> new, old = (Answers(name, rows, np.eye(3)[rows]) for name, rows in
    ...     (("new", labels), ("old", np.where(np.arange(300) < 150, labels, 2))))
    >>> verdict = compare(labels, new, old, gate=Gate(min_test_rows=200), seed=0)
    >>> verdict.outcome.value, round(verdict.measured["gain"], 3)
    ('PROMOTE', 0.333)
    """
    level = (1 - gate.confidence) / 2 if level is None else level
    needed = gate.min_test_rows if needed_rows is None else needed_rows
    if champion is None:
        needed = min(needed, FIRST_MODEL_ROWS)
    if unjudgeable := _unjudgeable(labels, candidate, needed, level):
        return _verdict(candidate, champion, {"test_rows": float(len(labels))}, gate, [unjudgeable])
    dealt = np.random.default_rng(seed).permutation(candidate.decisions)
    rival = dealt if champion is None else champion.decisions
    intervals = paired_intervals(
        labels, candidate.decisions, rival, seed=seed, samples=gate.bootstrap_samples, confidence=1 - 2 * level
    )
    measured = _measured(labels, candidate.decisions, rival, intervals) | {"level": level}
    gain = intervals[2]
    if champion is None:
        return _verdict(candidate, None, measured, gate, [_on_interval(gain, gate)])
    losses = part_losses(labels, candidate.decisions, rival, parts)
    measured |= {f"loss_{loss.name.replace(' ', '_', 1)}": loss.loss for loss in losses}
    floors = behaviour_floors or {}
    for name, model in (("candidate", candidate), ("champion", champion)):
        measured[f"{name}_ece"] = reliability(labels, model.probabilities, model.decisions).ece
        measured |= {f"{name}_cpu_us_per_review": model.cpu_us_per_review, f"{name}_mb": model.model_mb}
        measured |= {f"{name}_behaviour_{test}": share for test, share in model.behaviour.items()}
    findings = [
        _on_gain(gain, gate, level, _brings(candidate, champion, floors), measured),
        *_on_answers(measured, gate),
        *_on_parts(losses, gate),
        *_on_budgets(measured, gate),
        *_on_behaviour(candidate, champion, floors, gate),
    ]
    return _verdict(candidate, champion, measured, gate, findings)


def _unjudgeable(labels: Indices, candidate: Answers, needed: int, level: float) -> Finding | None:
    rows = len(labels)
    if rows < needed:
        return Outcome.HOLD, (
            f"Only {rows:,} labelled reviews are there to judge it on, a verdict needs {needed:,} "
            f"(gate.min_test_rows): about {needed - rows:,} more labelled reviews, newer than what the champion "
            f"learned from, or ask for fewer."
        )
    if len(np.unique(candidate.decisions)) == 1:
        return Outcome.REJECT, f"It answers {LABELS[int(candidate.decisions[0])]} to every review, whatever it says."
    if len(np.unique(labels)) == 1:
        return Outcome.HOLD, f"All reviews to judge it on are {LABELS[int(labels[0])]}: they cannot tell who is better."
    if level <= 0:
        return Outcome.HOLD, (
            "The test rows have judged as many rounds as they can without being learned by heart: about "
            f"{needed:,} labelled reviews newer than them are needed to decide."
        )
    return None


def _measured(
    labels: Indices, candidate: Indices, rival: Indices, intervals: tuple[Interval, Interval, Interval]
) -> dict[str, float]:
    right, rival_right = candidate == labels, rival == labels
    mended, spoiled = int((right & ~rival_right).sum()), int((~right & rival_right).sum())
    measured = {"test_rows": float(len(labels)), "changed_rows": float((candidate != rival).sum())}
    for name, found in zip(("candidate_macro_f1", "rival_macro_f1", "gain"), intervals, strict=True):
        measured |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    changes = {"mended_rows": float(mended), "spoiled_rows": float(spoiled)}
    return {**measured, **changes, "mcnemar_p": mcnemar(mended, spoiled)}


def _on_interval(gain: Interval, gate: Gate) -> Finding:
    found = f"The gain of {gain.value:+.3f} lies between {gain.low:+.3f} and {gain.high:+.3f}"
    asked = f"the {gate.min_gain:+.3f} asked for (gate.min_gain)" if gate.min_gain else "zero"
    if gain.low > gate.min_gain:
        return Outcome.PROMOTE, f"{found}, all of it above {asked}."
    if gain.high < gate.min_gain:
        return Outcome.REJECT, f"{found}, all of it below {asked}."
    return Outcome.HOLD, f"{found}, which is not sure to be above {asked}."


def _on_gain(gain: Interval, gate: Gate, level: float, brings: str | None, measured: dict[str, float]) -> Finding:
    """What the interval says; on a HOLD also what would decide, added to `measured` too."""
    outcome, reason = _on_interval(gain, gate)
    if outcome is not Outcome.HOLD:
        return outcome, reason
    if brings and gain.low > -gate.margin:
        reason += f" It {brings}, and is not worse by {gate.margin:g} (gate.margin)"
        if gate.equal_may_replace:
            return Outcome.PROMOTE, f"{reason}."
        reason += ": gate.equal_may_replace would promote it."
    error = (gain.high - gain.low) / (2 * NORMAL.inv_cdf(1 - level))
    more = labels_needed(gain.value - gate.min_gain, error, int(measured["test_rows"]), gate=gate)
    if more is None:
        return outcome, f"{reason} More labelled reviews are not expected to change that."
    measured["labels_needed"] = float(more)
    told = f"It needs about {_rounded(more):,} more labelled reviews to decide"
    return outcome, f"{reason} {told}, if it is better by {gate.expected_gain:g} (gate.expected_gain)."


def labels_needed(gain: float, error: float, rows: int, *, gate: Gate) -> int | None:
    """How many more labelled reviews would promote a candidate that gains `expected_gain` with a chance of POWER,
    by the standard error of the gain on `rows` rows.

    What was gained on these rows says less than it seems to: twice its standard error away from the truth is
    usual, and the rows needed go with its square. None when nothing was gained.

    >>> labels_needed(0.01, 0.007, 2500, gate=Gate()), labels_needed(-0.004, 0.007, 2500, gate=Gate())
    (6657, None)
    """
    if gain <= 0 or not error:
        return None
    level = FIRST_SHARE * (1 - gate.confidence) / 2
    total = rows_to_tell(gate.expected_gain, error, rows, level=level, power=POWER)
    return max(total - rows, 1)


def _rounded(count: int) -> int:
    """Two leading digits, as no more are known.

    >>> [_rounded(count) for count in (7, 913, 12_345)]
    [7, 910, 12000]
    """
    return int(float(f"{count:.1e}"))


def _on_answers(measured: Mapping[str, float], gate: Gate) -> Iterator[Finding]:
    lost = (measured["spoiled_rows"] - measured["mended_rows"]) / measured["test_rows"]
    if lost > gate.margin and measured["mcnemar_p"] < 1 - gate.confidence:
        found = f"{lost:.1%} of all, beyond {gate.margin:.1%} (gate.margin), McNemar's p {measured['mcnemar_p']:.2g}"
        told = f"It spoils more answers than it mends: {found}; a person may say that macro-F1 is worth it."
        yield Outcome.HOLD, told


def _on_parts(losses: Sequence[Loss], gate: Gate) -> Iterator[Finding]:
    """Parts that lose more than allowed: for sure, or perhaps."""
    sure, perhaps = (NORMAL.inv_cdf(1 - chance / len(losses)) for chance in (SURE, SUSPECT))
    for loss in sorted(losses, key=lambda loss: -loss.loss):
        told = f"{loss.name}: {loss.loss:.3f} F1 lost on {loss.rows:,} reviews, {gate.max_slice_loss:g} is allowed"
        if loss.loss <= gate.max_slice_loss or loss.errors_above_zero <= perhaps:
            continue
        if loss.errors_above_zero > sure:
            yield Outcome.REJECT, f"{told} (gate.max_slice_loss), and it is no chance."
        else:
            more = _rounded(max(round(loss.rows * ((sure / loss.errors_above_zero) ** 2 - 1)), 1))
            yield Outcome.HOLD, f"{told}; it may be chance: about {more:,} more labelled reviews there would tell."


def _on_budgets(measured: Mapping[str, float], gate: Gate) -> Iterator[Finding]:
    ece, allowed = measured["candidate_ece"], max(gate.max_ece, measured["champion_ece"] + gate.max_ece_rise)
    if ece > allowed:
        yield Outcome.REJECT, f"Its confidence is off by {ece:.3f} (ECE), {allowed:.3f} is allowed (gate.max_ece)."
    if (found := measured["candidate_cpu_us_per_review"]) > (most := gate.max_us_per_review):
        told = f"It takes {found:,.1f} us of CPU a review, {most:,g} are allowed (gate.max_us_per_review)."
        yield Outcome.REJECT, told
    if (found := measured["candidate_mb"]) > (most := gate.max_model_mb):
        yield Outcome.REJECT, f"It takes {found:,.1f} MB, {most:,g} are allowed (gate.max_model_mb)."


def _on_behaviour(candidate: Answers, champion: Answers, floors: Mapping[str, float], gate: Gate) -> Iterator[Finding]:
    """A test's floor binds as far as the champion keeps it; and no test may lose too much."""
    for test, floor in floors.items() if gate.max_behaviour_loss < 1 else ():
        found, before = candidate.behaviour[test], champion.behaviour[test]
        asked = max(before - gate.max_behaviour_loss, min(floor, before))
        if found < asked:
            told = f"It passes {found:.0%} of the behaviour test {test!r}, the champion {before:.0%}"
            yield Outcome.REJECT, f"{told}; {asked:.0%} is asked for (its floor {floor:.0%}, gate.max_behaviour_loss)."


def _brings(candidate: Answers, champion: Answers, floors: Mapping[str, float]) -> str | None:
    """What speaks for a candidate that is merely as good, in words."""
    mended = [test for test, floor in floors.items() if champion.behaviour[test] < floor <= candidate.behaviour[test]]
    if mended:
        return f"passes {mended[0]!r}, which the champion fails"
    if candidate.cpu_us_per_review < CHEAPER * champion.cpu_us_per_review:
        return f"takes {candidate.cpu_us_per_review:.1f} us a review instead of {champion.cpu_us_per_review:.1f}"
    if candidate.model_mb < CHEAPER * champion.model_mb:
        return f"takes {candidate.model_mb:.1f} MB instead of {champion.model_mb:.1f}"
    return None


def _verdict(
    candidate: Answers,
    champion: Answers | None,
    measured: Mapping[str, float],
    gate: Gate,
    findings: Sequence[Finding],
) -> Verdict:
    """The gravest finding decides and is told first; with the paragraph for a person who decides about the product."""
    outcome = next(one for one in (Outcome.REJECT, Outcome.HOLD, Outcome.PROMOTE) if one in dict(findings))
    graver_first = sorted(findings, key=lambda finding: finding[0] is not outcome)
    reasons = tuple(reason for found, reason in graver_first if found in (outcome, Outcome.HOLD))
    rival = champion.name if champion else "the same answers dealt by chance"
    head = {
        Outcome.PROMOTE: f"{candidate.name} {f'replaces {rival}' if champion else 'is the first to answer'}.",
        Outcome.HOLD: f"{candidate.name} is not shown to be better than {rival}.",
        Outcome.REJECT: f"{candidate.name} is refused.",
    }[outcome]
    scores = ""
    if "gain" in measured:
        scores = (
            f" On the same {measured['test_rows']:,.0f} reviews it has a macro-F1 (how well each label is "
            f"found, 1 at best) of {measured['candidate_macro_f1']:.3f}, {rival} {measured['rival_macro_f1']:.3f}. "
            f"{measured['changed_rows']:,.0f} answers differ: {measured['mended_rows']:,.0f} turn from wrong to right, "
            f"{measured['spoiled_rows']:,.0f} from right to wrong."
        )
    limits = {name: float(value) for name, value in gate.model_dump().items() if isinstance(value, int | float)}
    names, summary = (candidate.name, champion.name if champion else None), f"{head}{scores} {' '.join(reasons)}"
    return Verdict(outcome, *names, measured, limits, reasons, summary)
