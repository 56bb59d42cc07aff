"""IncidentHandler, what is not well and who is told of it: opened once, told by every channel, closed once.

Who finds something says so with `report` and `well`, which only write it down. The keeper tells the channels,
each in a thread of its own, what they were not told yet: a channel that is away holds up nobody and is told
later. A channel that took an alert and lost its answer gets it twice, with the same id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

import structlog

from mobile_sentiment_ops.errors import MsoError, StoreError, Unavailable
from mobile_sentiment_ops.monitoring.watch import ALWAYS, watch
from mobile_sentiment_ops.ports import Alert, Clock, Notifier, State
from mobile_sentiment_ops.settings import Alerts
from mobile_sentiment_ops.types import Beat, Incident, Severity

log = structlog.get_logger()

MOST = 200
LEASE_SECONDS = 120.0
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=10), timedelta(minutes=15)
UNTOLD_FOR_AT_MOST = timedelta(days=7)
"""A closed incident that a channel was never told of is told so long, as it may have been away all the time."""

Figures = Mapping[str, object] | None
Told = tuple[str, datetime] | None
"""The severity that a channel was told, or `closed`; and when."""

What = Literal["opened", "raised", "again", "closed"]


def due(incident: Incident, told: Told, before: datetime | None, *, now: datetime, alerts: Alerts) -> What | None:
    """What a channel is to hear of an incident now, if anything.

    `told` is what it heard of this one, `before` when it last heard of another one of the same key that was as
    severe: what comes and goes is told once a cool-down.

    >>> from datetime import UTC
    >>> noon = datetime(2025, 3, 1, 12, tzinfo=UTC)
    >>> found = Incident("i1", "drift", Severity.WARNING, "Reviews moved", "", noon, noon + timedelta(hours=5))
    >>> due(found, None, None, now=noon, alerts=Alerts())
    'opened'
    >>> [due(found, ("warning", noon), None, now=noon + timedelta(hours=hours), alerts=Alerts()) for hours in (1, 5)]
    [None, 'again']
    """
    cooldown, closed = timedelta(minutes=alerts.cooldown_minutes), incident.closed_at
    if told is None:
        late = closed is not None and now - closed > UNTOLD_FOR_AT_MOST
        quiet = _level(incident.severity) < _level(alerts.min_severity)
        if late or quiet or (before is not None and (closed or now) - before < cooldown):
            return None
        return "closed" if closed else "opened"
    what, at = told
    if what == "closed" or closed:
        return None if what == "closed" else "closed"
    if _level(incident.severity) > _level(what):
        return "raised"
    return "again" if incident.seen_at > at and now - at >= cooldown else None


def _level(severity: str) -> int:
    return list(Severity).index(Severity(severity))


@dataclass(frozen=True, kw_only=True)
class IncidentHandler:
    """Incidents over the ports it is given; every method may be called from any thread."""

    state: State
    clock: Clock
    alerts: Alerts
    channels: Sequence[Notifier] = ()
    holder: str = "keeper"
    _waits: dict[str, tuple[datetime, timedelta]] = field(default_factory=dict, init=False)

    def report(self, key: str, severity: Severity, title: str, detail: str = "", figures: Figures = None) -> Incident:
        """Say that something is not well: an incident is opened, or the open one of this key seen again.
        The part of `key` before a slash says what it is about; no text of a review belongs here."""
        incident, new = self.state.open_incident(key, severity, title, detail, figures)
        if new:
            log.info("incident opened", key=key, severity=incident.severity.value, title=title)
        return incident

    def well(self, key: str, detail: str = "") -> Incident | None:
        """Say that it is well: the open incident of this key, if any, is closed."""
        incident = self.state.close_incident(key, detail)
        if incident is not None:
            log.info("incident closed", key=key)
        return incident

    def watch(self, silence_hours: Mapping[str, float], started_at: datetime) -> None:
        """Open an incident for each part of the pipeline that is silent for too long, and close what goes on."""
        judged = watch(self.state.beats(), self.clock.now(), silence_hours, started_at)
        silent = {f"silence/{found.part['part']}": found for found in judged if found.fired}
        for key, found in silent.items():
            part = found.part["part"]
            severity = Severity.CRITICAL if part in ALWAYS else Severity.WARNING
            figures = {"silence_hours": round(found.value or 0.0, 2), "limit": found.limit}
            self.report(key, severity, f"{part} has been silent for too long", found.reason, figures)
        for incident in self.state.incidents(open_only=True, limit=MOST):
            if incident.key.startswith("silence/") and incident.key not in silent:
                self.well(incident.key)

    def figures(self) -> tuple[tuple[Beat, ...], dict[Severity, int]]:
        """The last of every part, and how many incidents are open by severity."""
        found = self.state.incidents(open_only=True, limit=MOST)
        return tuple(self.state.beats()), dict(Counter(incident.severity for incident in found))

    # --- telling

    def tell(self, channel: Notifier) -> int:
        """Tell a channel what it was not told yet; how many alerts it took. What fails is tried again later, after
        a pause that doubles, and is an incident that the other channels tell."""
        until, pause = self._waits.get(channel.name, (self.clock.now(), timedelta(0)))
        name = f"alerts/{channel.name}"
        if self.clock.now() < until or not self._due(channel):
            return 0
        if (lease := self.state.acquire(name, self.holder, seconds=LEASE_SECONDS)) is None:
            return 0  # another server's keeper tells it
        sent, fault = 0, ""
        try:
            for alert in self._due(channel):  # again: that one may just have done so
                try:
                    channel.send(alert)
                except Exception as err:  # whatever it is, other alerts and channels go on
                    fault = str(err) if isinstance(err, MsoError) else f"unexpected {type(err).__name__}"
                    if isinstance(err, Unavailable):
                        break
                else:
                    done = "closed" if alert.incident.closed_at else alert.incident.severity.value
                    self.state.tell(alert.incident.incident_id, channel.name, done)
                    sent += 1
        finally:
            self.state.release(lease)
        beat(self.state, name, ok=not fault, note=fault)
        if fault:
            pause = min(LONGEST_PAUSE, pause * 2 or FIRST_PAUSE)
            self._waits[channel.name] = (self.clock.now() + pause, pause)
            log.warning("alerts not sent", channel=channel.name, error=fault, next_try_seconds=pause.total_seconds())
            self.report(name, Severity.WARNING, f"Alerts by {channel.name} do not arrive", fault)
        else:
            self._waits.pop(channel.name, None)
            self.well(name)
        return sent

    def _due(self, channel: Notifier) -> list[Alert]:
        """What a channel is to be told now, oldest first; of what came and went unheard, the last time."""
        recent, still = self.state.incidents(limit=MOST), self.state.incidents(open_only=True, limit=MOST)
        known = {found.incident_id: found for found in (*recent, *still)}  # newest first
        told, now = self.state.told(channel.name, list(known)), self.clock.now()
        alerts, seen = list[Alert](), {f"alerts/{channel.name}"}
        for incident_id, incident in known.items():
            mine, before = told.get(incident_id), list[datetime]()
            if mine is None:
                if incident.key in seen:
                    continue
                heard, least = ((known[other], at) for other, (_, at) in told.items()), _level(incident.severity)
                before = [at for was, at in heard if was.key == incident.key and _level(was.severity) >= least]
            seen.add(incident.key)
            what = due(incident, mine, max(before, default=None), now=now, alerts=self.alerts)
            if what is not None:  # the id is the same in every try, also of another keeper
                more = {"raised": f".{incident.severity}", "again": f".{mine[1]:%Y%m%d%H%M%S}" if mine else ""}
                alerts.append(Alert(f"{incident_id}.{what}{more.get(what, '')}", what, incident))
        return alerts[::-1]

    def test(self) -> dict[str, str]:
        """Send a test by every channel: why it failed, by channel, and nothing where it was taken."""
        now, found = self.clock.now(), dict.fromkeys((channel.name for channel in self.channels), "")
        incident = Incident("test", "test", Severity.INFO, "A test of the alerts", "All is well.", now, now)
        for channel in self.channels:
            try:
                channel.send(Alert(f"test.{now:%Y%m%d%H%M%S}", "test", incident))
            except MsoError as err:
                found[channel.name] = str(err)
        return found


def beat(state: State, name: str, *, ok: bool = True, note: str = "") -> None:
    """Keep that a part went well or failed; what it did is done, also when that cannot be kept."""
    try:
        state.beat(name, ok=ok, note=note)
    except StoreError as err:
        log.warning("not kept that a part went on", part=name, ok=ok, error=str(err))
