"""IncidentHandler, what is not well and who is told of it: opened once, told by every channel, closed once.

Who finds something says so with `report` and `well`, which only write it down. The keeper tells the channels,
each in a thread of its own, what they were not told yet: a channel that is away holds up nobody and is told
later. A channel that took an alert and lost its answer gets it twice, with the same id.
"""

from __future__ import annotations

from collections import Counter, defaultdict
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

SEVERITIES = list(Severity)
MOST = 200
LEASE_SECONDS = 120.0
LONGEST_PAUSE = timedelta(minutes=15)
UNTOLD_FOR_AT_MOST = timedelta(days=7)
"""A closed incident that a channel was never told of is told so long, as it may have been away all the time."""

Told = tuple[str, datetime]
"""The severity that a channel was told, or `closed`; and when."""


What = Literal["", "opened", "raised", "again", "closed"]


def due(incident: Incident, told: Told | None, before: datetime | None, *, now: datetime, alerts: Alerts) -> What:
    """What a channel is to hear of an incident now, if anything.

    `told` is what it heard of this one, `before` when it last heard of another one of the same key that was as
    severe: what comes and goes is told once a cool-down.

    >>> from datetime import UTC
    >>> noon = datetime(2025, 3, 1, 12, tzinfo=UTC)
    >>> found = Incident("i1", "drift", Severity.WARNING, "Reviews moved", "", noon, noon + timedelta(hours=5))
    >>> due(found, None, None, now=noon, alerts=Alerts())
    'opened'
    >>> [due(found, ("warning", noon), None, now=noon + timedelta(hours=hours), alerts=Alerts()) for hours in (1, 5)]
    ['', 'again']
    """
    cooldown, closed = timedelta(minutes=alerts.cooldown_minutes), incident.closed_at
    if told is None:
        late = closed is not None and now - closed > UNTOLD_FOR_AT_MOST
        quiet = _level(incident.severity) < _level(alerts.min_severity)
        if late or quiet or (before is not None and now - before < cooldown):
            return ""
        return "closed" if closed else "opened"
    what, at = told
    if what == "closed" or closed:
        return "" if what == "closed" else "closed"
    if _level(incident.severity) > _level(what):
        return "raised"
    return "again" if incident.seen_at > at and now - at >= cooldown else ""


def _level(severity: str) -> int:
    return SEVERITIES.index(Severity(severity))


def _alert(what: What, incident: Incident, told: Told | None) -> Alert:
    """The alert with an id that is the same in every try, also of another keeper."""
    more = {"raised": f".{incident.severity}", "again": f".{told[1].timestamp():.0f}" if told else ""}.get(what, "")
    return Alert(f"{incident.incident_id}.{what}{more}", what or "opened", incident)


@dataclass(frozen=True, kw_only=True)
class IncidentHandler:
    """Incidents over the ports it is given; every method may be called from any thread."""

    state: State
    clock: Clock
    alerts: Alerts
    channels: Sequence[Notifier] = ()
    holder: str = "keeper"
    _waits: dict[str, tuple[datetime, timedelta]] = field(default_factory=dict, init=False)

    def report(
        self,
        key: str,
        severity: Severity,
        title: str,
        detail: str = "",
        figures: Mapping[str, object] | None = None,
    ) -> Incident:
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
        beats = self.state.beats()
        unwell = {found.key for found in self.state.incidents(open_only=True, limit=MOST)}
        judged = watch(beats, self.clock.now(), silence_hours, started_at)
        for found in judged:
            part = found.part["part"]
            if found.fired:
                severity = Severity.CRITICAL if part in ALWAYS else Severity.WARNING
                figures = {"silence_hours": round(found.value or 0.0, 2), "limit": found.limit}
                title = f"{part}: nothing went well for too long"
                self.report(f"silence/{part}", severity, title, found.reason, figures)
        still = {f"silence/{found.part['part']}" for found in judged if found.fired}
        for key in unwell - still:
            if key.startswith("silence/"):
                self.well(key, "it goes on, or is not watched any more")

    def figures(self) -> tuple[tuple[Beat, ...], dict[Severity, int]]:
        """The last of every part, and how many incidents are open by severity."""
        found = self.state.incidents(open_only=True, limit=MOST)
        return tuple(self.state.beats()), dict(Counter(incident.severity for incident in found))

    # --- telling

    def tell(self, channel: Notifier) -> int:
        """Tell a channel what it was not told yet; how many alerts it took. What fails is tried again later, after
        a pause that doubles, and is an incident that the other channels tell."""
        until, pause = self._waits.get(channel.name, (self.clock.now(), timedelta(0)))
        if self.clock.now() < until or not self._due(channel):
            return 0
        lease = self.state.acquire(f"alerts/{channel.name}", self.holder, seconds=LEASE_SECONDS)
        if lease is None:  # another server's keeper tells it
            return 0
        sent, fault = 0, ""
        try:
            for alert in self._due(channel):  # again: that one may just have done so
                try:
                    channel.send(alert)
                except Exception as err:  # whatever it is, other alerts and channels go on
                    fault = str(err) if isinstance(err, MsoError) else f"unexpected {type(err).__name__}"
                    if isinstance(err, Unavailable):
                        break
                    continue
                done = "closed" if alert.incident.closed_at else alert.incident.severity.value
                self.state.tell(alert.incident.incident_id, channel.name, done)
                sent += 1
        finally:
            self.state.release(lease)
        self._judge(channel.name, fault, pause)
        return sent

    def _judge(self, name: str, fault: str, pause: timedelta) -> None:
        beat(self.state, f"alerts/{name}", ok=not fault, note=fault)
        if not fault:
            self._waits.pop(name, None)
            self.well(f"alerts/{name}")
            return
        pause = min(LONGEST_PAUSE, pause * 2 or timedelta(seconds=10))
        self._waits[name] = (self.clock.now() + pause, pause)
        log.warning("alerts not sent", channel=name, error=fault, next_try_seconds=pause.total_seconds())
        self.report(f"alerts/{name}", Severity.WARNING, f"Alerts by {name} do not arrive", fault)

    def _due(self, channel: Notifier) -> list[Alert]:
        """What a channel is to be told now, oldest first."""
        recent, still = self.state.incidents(limit=MOST), self.state.incidents(open_only=True, limit=MOST)
        known = {found.incident_id: found for found in (*still, *recent)}
        told, now, found = self.state.told(channel.name, list(known)), self.clock.now(), list[Alert]()
        heard: dict[str, list[tuple[str, Incident, datetime]]] = defaultdict(list)
        for incident_id, (_, at) in told.items():
            heard[known[incident_id].key].append((incident_id, known[incident_id], at))
        newest: dict[str, Incident] = {}
        for incident in sorted(known.values(), key=lambda incident: incident.opened_at):
            newest[incident.key] = incident
        for incident_id, incident in known.items():
            mine = told.get(incident_id)
            if incident.key == f"alerts/{channel.name}" or (mine is None and newest[incident.key] is not incident):
                continue  # of what came and went unheard, the last time is told
            level = _level(incident.severity)
            before = [
                at for other, was, at in heard[incident.key] if other != incident_id and _level(was.severity) >= level
            ]
            if what := due(incident, mine, max(before, default=None), now=now, alerts=self.alerts):
                found.append(_alert(what, incident, mine))
        return sorted(found, key=lambda alert: alert.incident.opened_at)

    def test(self) -> dict[str, str]:
        """Send a test by every channel: why it failed, by channel, and nothing where it was taken."""
        now = self.clock.now()
        incident = Incident("test", "test", Severity.INFO, "A test of the alerts", "All is well.", now, now)
        found = {}
        for channel in self.channels:
            try:
                channel.send(Alert(f"test.{now.timestamp():.0f}", "test", incident))
                found[channel.name] = ""
            except MsoError as err:
                found[channel.name] = str(err)
        return found


def beat(state: State, name: str, *, ok: bool = True, note: str = "") -> None:
    """Keep that a part went well or failed; what it did is done, also when that cannot be kept."""
    try:
        state.beat(name, ok=ok, note=note)
    except StoreError as err:
        log.warning("not kept that a part went on", part=name, ok=ok, error=str(err))
