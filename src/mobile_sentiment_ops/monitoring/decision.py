"""From what was measured to what is to be done: the retrain decision.

    HOLD       reviews wait for a person before they may train
    ROLLBACK   labels show a loss, and only since the champion was promoted
    RETRAIN    labels show a loss, or something new arrived and enough of it has labels
    LABEL      something new arrived and too little of it has labels; how many, and of which reviews
    WATCH      people feel otherwise, a source sends broken texts, or the stream raised an alarm: the model is sound
    NOTHING    nothing moved beyond chance

The first that applies is the action; all that apply are told as reasons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from mobile_sentiment_ops.types import Action, DriftStatus, Measurement, RetrainDecision, TrainingBatch

NEW_KNOWLEDGE = ("unknown words", "new apps", "new languages")
"""Statistics that say that texts hold what the model did not learn; of words that it knows, other rates are a mood."""
BROKEN_SOURCE = ("empty texts", "wrongly decoded texts", "one text again and again", "repeated texts")
FRESH = timedelta(days=14)
"""So long after a promotion a loss is laid at its door."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What a decision is taken on. `drift` is by the length of the window in days; `performance` holds what labels
    say, of which `loss` fires when the champion lost more than it may; `labels` counts those of the longest window,
    and `new_labels` those of its new part `new_part`."""

    at: datetime
    model_version: str | None
    promoted_at: datetime | None = None
    previous_version: str | None = None
    drift: Mapping[int, tuple[DriftStatus, Sequence[Measurement]]] = field(default_factory=dict)
    performance: Sequence[Measurement] = ()
    loss: Measurement | None = None
    estimate: Measurement | None = None
    """Accuracy without labels; fires when it is so low that labels are worth asking for."""
    alarms: Sequence[str] = ()
    held: Sequence[TrainingBatch] = ()
    new_part: Mapping[str, str] = field(default_factory=dict)
    labels: int = 0
    new_labels: int = 0
    min_labels: int = 100


def decide(found: Findings) -> RetrainDecision:
    """The decision on these findings.

    >>> now = datetime(2026, 3, 2, 12)
    >>> moved = Measurement("new languages", 9.0, 3.0, True, "new languages: off by 9.0", 500)
    >>> part, drift = {"language": "id"}, {7: (DriftStatus.DRIFT, [moved])}
    >>> made = decide(Findings(now, "3", drift=drift, new_part=part, new_labels=20))
    >>> made.action, made.labels_wanted, made.label_where
    (<Action.LABEL: 'LABEL'>, 80, {'language': 'id'})
    """
    fired = _fired(found.drift)
    reasons: dict[Action, list[str]] = {}

    def because(action: Action, *sentences: str) -> None:
        reasons.setdefault(action, []).extend(sentences)

    for batch in found.held:
        apps = f" of {', '.join(batch.apps)}" if batch.apps else ""
        because(Action.HOLD, f"batch {batch.batch_id}: {batch.rows:,} reviews{apps} wait: {'; '.join(batch.reasons)}")
    if found.loss is not None and found.loss.fired:
        recent = found.promoted_at is not None and found.at - found.promoted_at <= FRESH
        if recent and found.previous_version is not None:
            because(Action.ROLLBACK, f"{found.loss.reason}; version {found.previous_version} answered before")
        because(Action.RETRAIN, found.loss.reason)
    new = [sentence for name, sentence in fired if name in NEW_KNOWLEDGE]
    wanted = max(found.min_labels - found.new_labels, 0) if new else 0
    if new and wanted:
        where = _part(found.new_part)
        because(Action.LABEL, *new, f"{found.new_labels} of {found.min_labels} labels{where} are there")
    elif new:
        because(Action.RETRAIN, *new, f"{found.new_labels} reviews{_part(found.new_part)} have labels to learn from")
    if found.estimate is not None and found.estimate.fired and not (found.loss and found.loss.fired):
        wanted = wanted or found.min_labels
        because(Action.LABEL, f"{found.estimate.reason}; labels tell whether it is so")
    because(Action.WATCH, *(told for name, told in fired if name not in (*NEW_KNOWLEDGE, *BROKEN_SOURCE)))
    if broken := [told for name, told in fired if name in BROKEN_SOURCE]:
        because(Action.WATCH, *broken, "mend the source of these reviews: no training helps")
    because(Action.WATCH, *(f"the stream raised an alarm on {name}" for name in found.alarms))
    action = next((one for one in ORDER if reasons.get(one)), Action.NOTHING)
    status = _status(found)
    told = tuple(dict.fromkeys(sentence for one in ORDER for sentence in reasons.get(one, []))) or (
        _quiet(status, found),
    )
    return RetrainDecision(
        action=action,
        at=found.at,
        model_version=found.model_version,
        summary=_summary(action, told, wanted, found.new_part),
        reasons=told,
        measured=(
            *found.performance,
            *(_dated(one, days) for days, (_, of) in sorted(found.drift.items()) for one in of),
        ),
        drift=status,
        labels_wanted=wanted if action is Action.LABEL else 0,
        label_where=dict(found.new_part) if action is Action.LABEL else {},
    )


ORDER = (Action.HOLD, Action.ROLLBACK, Action.RETRAIN, Action.LABEL, Action.WATCH)


def _fired(drift: Mapping[int, tuple[DriftStatus, Sequence[Measurement]]]) -> list[tuple[str, str]]:
    """The name and a sentence of each statistic that fired: of the window in which it is furthest beyond its limit,
    with all windows in which it fired."""
    found: dict[str, list[tuple[float, int, Measurement]]] = {}
    for days, (_, measured) in sorted(drift.items()):
        for one in measured:
            if one.fired and one.value is not None:
                found.setdefault(one.name, []).append((one.value / max(one.limit or 0, 1e-9), days, one))
    told = []
    for name, times in found.items():
        _, _, worst = max(times, key=lambda time: time[0])
        told.append((name, f"{worst.reason} (last {', '.join(_days(days) for _, days, _ in times)})"))
    return told


def _dated(one: Measurement, days: int) -> Measurement:
    return replace(one, name=f"{one.name}, {_days(days)}")


def _days(days: int) -> str:
    return "day" if days == 1 else f"{days} days"


def _part(part: Mapping[str, str]) -> str:
    return f" of {', '.join(f'{name} {value}' for name, value in part.items())}" if part else ""


def _status(found: Findings) -> DriftStatus:
    """Drift when any window drifted, ok when one could be judged, else why none could."""
    statuses = [status for status, _ in found.drift.values()]
    for status in (DriftStatus.DRIFT, DriftStatus.OK, DriftStatus.TOO_FEW):
        if status in statuses:
            return status
    return DriftStatus.NO_REFERENCE


def _quiet(status: DriftStatus, found: Findings) -> str:
    if status is DriftStatus.OK:
        return "nothing moved beyond chance in any window"
    reasons = [one.reason for _, measured in found.drift.values() for one in measured]
    return f"nothing could be judged: {reasons[-1] if reasons else 'no window was looked at'}"


def _summary(action: Action, reasons: Sequence[str], wanted: int, part: Mapping[str, str]) -> str:
    """The paragraph that a person reads first."""
    what = {
        Action.HOLD: "Reviews are held back from training until a person looks at them",
        Action.ROLLBACK: "Go back to the version before: this one lost accuracy since it was promoted",
        Action.RETRAIN: "Train again",
        Action.LABEL: f"Label {wanted:,} reviews{_part(part)}, then train again",
        Action.WATCH: "Look at what moved; the model needs nothing",
        Action.NOTHING: "Nothing is to be done",
    }[action]
    more = f", and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    return f"{what}: {reasons[0]}{more}."
