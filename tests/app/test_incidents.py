"""Incidents are told once by every channel, whoever is away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from mobile_sentiment_ops.adapters.memory import FixedClock, MemoryPorts
from mobile_sentiment_ops.app.incidents import IncidentHandler, beat
from mobile_sentiment_ops.errors import StoreError, Unavailable
from mobile_sentiment_ops.ports import Alert
from mobile_sentiment_ops.settings import Alerts
from mobile_sentiment_ops.types import Severity

INFO, WARNING, CRITICAL = Severity


@dataclass
class Channel:
    """Keeps what it is told, unless something is wrong with it."""

    name: str = "mail"
    fault: Exception | None = None
    refuses: str = ""
    got: list[Alert] = field(default_factory=list)

    def send(self, alert: Alert) -> None:
        if self.fault is not None:
            raise self.fault
        if alert.incident.key == self.refuses:
            raise StoreError("too large")
        self.got.append(alert)

    @property
    def told(self) -> list[str]:
        """What it was told since it was asked last."""
        found = [f"{alert.incident.key} {alert.what}" for alert in self.got]
        self.got.clear()
        return found


Make = Callable[..., IncidentHandler]


@pytest.fixture
def mail() -> Channel:
    return Channel()


@pytest.fixture
def make(memory: MemoryPorts) -> Make:
    """Handlers over one memory: `make(cooldown_minutes=5)`."""

    def make(*channels: Channel, holder: str = "keeper", **alerts: object) -> IncidentHandler:
        given = Alerts.model_validate(alerts)
        return IncidentHandler(state=memory.state, clock=memory.clock, alerts=given, channels=channels, holder=holder)

    return make


def test_an_incident_is_told_once_when_it_opens_and_once_when_it_is_over(
    make: Make, mail: Channel, clock: FixedClock
) -> None:
    incidents = make(mail)
    for _ in range(3):
        incidents.report("drift", WARNING, "Reviews moved", "p .01")
        incidents.tell(mail)
        clock.advance(60)
    assert mail.told == ["drift opened"]
    for _ in range(3):
        incidents.well("drift")
        incidents.tell(mail)
        clock.advance(60)
    assert mail.told == ["drift closed"]


def test_what_lasts_is_told_again_after_the_cool_down_if_it_was_seen_again(
    make: Make, mail: Channel, clock: FixedClock
) -> None:
    incidents = make(mail, cooldown_minutes=60)
    incidents.report("drift", WARNING, "Reviews moved")
    incidents.tell(mail)
    clock.advance(timedelta(hours=2))
    incidents.tell(mail)
    assert mail.told == ["drift opened"]
    ids = set()
    for _ in range(9):
        incidents.report("drift", WARNING, "Reviews moved")
        incidents.tell(mail)
        ids |= {alert.alert_id for alert in mail.got}
        clock.advance(timedelta(minutes=20))
    assert mail.told == ["drift again"] * 3
    assert len(ids) == 3


def test_what_gets_worse_is_told_at_once_and_what_gets_better_is_not(
    make: Make, mail: Channel, clock: FixedClock
) -> None:
    incidents = make(mail)
    for severity in (WARNING, CRITICAL, WARNING, CRITICAL):
        incidents.report("drift", severity, "Reviews moved")
        clock.advance(1)
        incidents.tell(mail)
    assert mail.told == ["drift opened", "drift raised"]


def test_what_is_not_severe_enough_is_told_when_it_becomes_so(make: Make, mail: Channel) -> None:
    incidents = make(mail, min_severity="critical")
    incidents.report("drift", WARNING, "Reviews moved")
    incidents.report("labels", INFO, "Few labels")
    incidents.tell(mail)
    incidents.well("labels")
    incidents.tell(mail)
    assert mail.told == []
    incidents.report("drift", CRITICAL, "Reviews moved")
    incidents.tell(mail)
    incidents.well("drift")
    incidents.tell(mail)
    assert mail.told == ["drift opened", "drift closed"]


def test_what_comes_and_goes_is_told_once_in_a_cool_down(make: Make, mail: Channel, clock: FixedClock) -> None:
    incidents = make(mail, cooldown_minutes=60)
    for _ in range(10):
        incidents.report("drift", WARNING, "Reviews moved")
        incidents.tell(mail)
        incidents.well("drift")
        incidents.tell(mail)
        clock.advance(timedelta(minutes=5))
    assert mail.told == ["drift opened", "drift closed"]
    incidents.report("drift", CRITICAL, "Reviews moved")
    incidents.tell(mail)
    assert mail.told == ["drift opened"]  # it was never as bad
    incidents.well("drift")
    clock.advance(timedelta(hours=2))
    incidents.tell(mail)
    assert mail.told == ["drift closed"]
    incidents.report("drift", WARNING, "Reviews moved")
    incidents.tell(mail)
    clock.advance(timedelta(minutes=61))
    incidents.tell(mail)
    assert mail.told == ["drift opened"]


def test_what_opened_and_closed_while_a_channel_was_away_is_told_later_the_last_time_alone(
    make: Make, mail: Channel, clock: FixedClock
) -> None:
    incidents = make(mail)
    mail.fault = Unavailable("the mail server did not answer")
    for _ in range(3):
        incidents.report("drift", WARNING, "Reviews moved")
        incidents.tell(mail)
        incidents.well("drift")
        clock.advance(timedelta(hours=1))
    incidents.report("labels", WARNING, "No labels")
    mail.fault = None
    incidents.tell(mail)
    assert mail.told == ["drift closed", "labels opened"]
    incidents.report("old", WARNING, "Long ago")
    incidents.well("old")
    clock.advance(timedelta(days=8))
    incidents.tell(mail)
    assert mail.told == []


def test_a_channel_that_is_away_keeps_nothing_from_others_and_they_tell_of_it(
    make: Make, mail: Channel, memory: MemoryPorts, clock: FixedClock
) -> None:
    webhook = Channel("webhook")
    incidents = make(mail, webhook)
    mail.fault = Unavailable("the mail server did not answer")
    incidents.report("drift", WARNING, "Reviews moved")
    with capture_logs() as logged:
        for channel in (mail, webhook):
            incidents.tell(channel)
    assert webhook.told == ["drift opened", "alerts/mail opened"]
    assert [entry["error"] for entry in logged if entry["event"] == "alerts not sent"] == [str(mail.fault)]
    by_name = {found.name: found for found in memory.state.beats()}
    assert by_name["alerts/mail"].failed_at == clock.now()
    assert by_name["alerts/mail"].note == "the mail server did not answer"
    assert by_name["alerts/webhook"].succeeded_at == clock.now()
    mail.fault = None
    clock.advance(11)
    for channel in (mail, webhook):
        incidents.tell(channel)
    assert mail.told == ["drift opened"]  # that it was away it need not hear
    assert webhook.told == ["alerts/mail closed"]


def test_a_channel_that_stays_away_is_asked_less_and_less_often(make: Make, mail: Channel, clock: FixedClock) -> None:
    incidents = make(mail)
    mail.fault = Unavailable("away")
    incidents.report("drift", WARNING, "Reviews moved")
    with capture_logs() as logged:
        for _ in range(3600):
            incidents.tell(mail)
            clock.advance(1)
    waits = [entry["next_try_seconds"] for entry in logged if entry["event"] == "alerts not sent"]
    assert waits == [10, 20, 40, 80, 160, 320, 640, 900, 900, 900]
    mail.fault = None
    clock.advance(900)
    assert incidents.tell(mail) == 1


def test_an_alert_that_is_refused_keeps_no_other_back(make: Make, mail: Channel, clock: FixedClock) -> None:
    incidents = make(mail)
    mail.refuses = "drift"
    incidents.report("drift", WARNING, "Reviews moved")
    incidents.report("labels", WARNING, "No labels")
    assert incidents.tell(mail) == 1
    clock.advance(60)
    incidents.tell(mail)
    assert mail.told == ["labels opened"]
    mail.refuses = ""
    clock.advance(60)
    incidents.tell(mail)
    assert mail.told == ["drift opened"]


def test_a_fault_of_a_channel_shows_its_kind_alone(make: Make, mail: Channel, memory: MemoryPorts) -> None:
    incidents = make(mail)
    mail.fault = ValueError("password hush is no text")
    incidents.report("drift", WARNING, "Reviews moved")
    with capture_logs() as logged:
        incidents.tell(mail)
    assert "hush" not in f"{logged}{memory.state.beats()}{memory.state.incidents()}"
    assert "unexpected ValueError" in str(memory.state.beats())


def test_who_was_killed_after_sending_sends_the_same_id_again(
    make: Make, mail: Channel, memory: MemoryPorts, monkeypatch: pytest.MonkeyPatch
) -> None:
    incidents = make(mail)
    incidents.report("drift", WARNING, "Reviews moved")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(memory.state, "tell", killed)
        with pytest.raises(KeyboardInterrupt):
            incidents.tell(mail)
    make(mail, holder="another").tell(mail)
    assert len({alert.alert_id for alert in mail.got}) == 1
    assert mail.told == ["drift opened"] * 2


def test_of_two_keepers_one_tells(make: Make, memory: MemoryPorts) -> None:
    second = make(holder="second")

    class Slow(Channel):
        def send(self, alert: Alert) -> None:
            assert second.tell(self) == 0  # while the first one is at it
            super().send(alert)

    channel = Slow()
    first = make(holder="first")
    first.report("drift", WARNING, "Reviews moved")
    assert first.tell(channel) == 1
    assert second.tell(channel) == 0
    assert channel.told == ["drift opened"]


def test_many_closed_incidents_do_not_hide_an_open_one(make: Make, mail: Channel, clock: FixedClock) -> None:
    incidents = make(mail, cooldown_minutes=60)
    incidents.report("old", WARNING, "It lasts")
    incidents.tell(mail)
    for number in range(250):
        incidents.report(f"k{number}", INFO, "It came")
        incidents.well(f"k{number}")
    incidents.tell(mail)
    assert mail.told == ["old opened"]
    clock.advance(timedelta(hours=2))
    incidents.report("old", WARNING, "It lasts")
    incidents.tell(mail)
    assert mail.told == ["old again"]


def test_a_test_goes_to_every_channel_and_leaves_no_trace(make: Make, mail: Channel, memory: MemoryPorts) -> None:
    incidents = make(mail, Channel("webhook", Unavailable("away")), Channel("log"))
    assert incidents.test() == {"mail": "", "webhook": "away", "log": ""}
    assert mail.told == ["test test"]
    assert memory.state.incidents() == []


# --- the pipeline itself


def test_silence_is_an_incident_until_it_ends(
    make: Make, mail: Channel, memory: MemoryPorts, clock: FixedClock
) -> None:
    incidents, started_at = make(mail), clock.now()
    for part in ("drain", "spool", "ingest"):
        memory.state.beat(part)
    incidents.watch({"ingest": 1}, started_at)
    assert memory.state.incidents() == []
    clock.advance(timedelta(minutes=61))
    memory.state.beat("drain")
    memory.state.beat("spool")
    incidents.watch({"ingest": 1}, started_at)
    (found,) = memory.state.incidents(open_only=True)
    assert (found.key, found.severity) == ("silence/ingest", WARNING)
    assert found.detail == "no success for 1.0 h, limit 1 h"
    assert found.figures == {"silence_hours": 1.02, "limit": 1}
    assert incidents.figures()[1] == {WARNING: 1}
    clock.advance(timedelta(minutes=30))
    memory.state.beat("ingest")
    incidents.watch({"ingest": 1}, started_at)
    assert {(one.key, one.severity) for one in memory.state.incidents(open_only=True)} == {
        ("silence/drain", CRITICAL),
        ("silence/spool", CRITICAL),
    }


def test_silence_that_is_not_watched_any_more_is_over(make: Make, memory: MemoryPorts, clock: FixedClock) -> None:
    incidents, started_at = make(), clock.now()
    clock.advance(timedelta(hours=2))
    incidents.report("drift", WARNING, "Reviews moved")
    incidents.watch({"labels": 1}, started_at)
    assert "silence/labels" in {found.key for found in memory.state.incidents(open_only=True)}
    incidents.watch({"labels": 0, "drain": 0, "spool": 0}, started_at)
    assert [found.key for found in memory.state.incidents(open_only=True)] == ["drift"]


def test_work_goes_on_when_its_beat_cannot_be_kept(memory: MemoryPorts, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise Unavailable("the state database did not answer")

    monkeypatch.setattr(memory.state, "beat", away)
    with capture_logs() as logged:
        beat(memory.state, "drain")
    assert logged[0]["error"] == "the state database did not answer"
