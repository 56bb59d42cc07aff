"""Who is called silent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError

from mobile_sentiment_ops.monitoring.watch import watch
from mobile_sentiment_ops.settings import SILENCE_HOURS, Monitoring
from mobile_sentiment_ops.types import Beat

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
LONG_AGO = NOON - timedelta(days=90)


def ago(**how: float) -> datetime:
    return NOON - timedelta(**how)


def fired(*beats: Beat, started_at: datetime = LONG_AGO, **limits: float) -> set[str]:
    found = watch(beats, NOON, {name.replace("_", "/"): hours for name, hours in limits.items()}, started_at)
    assert all(one.name == "silence_hours" and one.value is not None and one.limit is not None for one in found)
    return {one.part["part"] for one in found if one.fired}


OURS = (Beat("drain", NOON), Beat("spool", NOON))


@pytest.mark.parametrize("part", sorted(SILENCE_HOURS))
def test_a_part_that_was_seen_is_watched_by_its_usual_limit(part: str) -> None:
    others = [beat for beat in OURS if beat.name != part]
    within, beyond = (ago(hours=SILENCE_HOURS[part], seconds=seconds) for seconds in (-1, 1))
    assert fired(*others, Beat(part, within)) == set()
    assert fired(*others, Beat(part, beyond)) == {part}


def test_only_the_servers_own_parts_are_watched_before_they_were_seen() -> None:
    assert fired() == {"drain", "spool"}
    assert fired(*OURS) == set()
    assert fired(*OURS, labels=24) == {"labels"}


def test_a_store_has_the_limit_of_ingest_unless_it_has_its_own() -> None:
    store = Beat("ingest/google-play", ago(hours=40))
    assert fired(*OURS, store) == set()
    assert fired(*OURS, store, ingest=30) == {"ingest", "ingest/google-play"}
    limits = {"ingest": 30.0, "ingest/google-play": 50.0}
    found = {one.part["part"]: one for one in watch([*OURS, store], NOON, limits, LONG_AGO)}
    assert not found["ingest/google-play"].fired
    assert found["ingest"].fired


def test_a_server_that_has_just_started_calls_nobody_silent() -> None:
    old = (Beat("drain", ago(days=3)), Beat("spool", ago(days=3)), Beat("reviews", ago(days=3)))
    assert fired(*old, started_at=ago(minutes=14)) == set()
    assert fired(*old, started_at=ago(minutes=16)) == {"drain", "spool", "reviews"}


def test_a_part_that_only_ever_failed_is_silent_and_says_why() -> None:
    beats = [*OURS, Beat("retrain", None, ago(hours=1), "no rows")]
    (found,) = (one for one in watch(beats, NOON, {}, LONG_AGO) if one.fired)
    assert found.reason.endswith("last failure 2025-03-01 11:00 UTC: no rows")


def test_a_failure_before_the_last_success_is_not_told() -> None:
    beats = [*OURS, Beat("retrain", ago(days=40), ago(days=41), "no rows")]
    (found,) = (one for one in watch(beats, NOON, {}, LONG_AGO) if one.fired)
    assert "no rows" not in found.reason


def test_a_clock_that_was_set_back_is_no_silence() -> None:
    assert fired(Beat("drain", NOON + timedelta(hours=3)), OURS[1]) == set()


def test_what_is_no_part_of_the_pipeline_is_not_watched() -> None:
    assert fired(*OURS, Beat("alerts/mail", ago(days=60))) == set()


@pytest.mark.parametrize("given", [{"coffee": 1}, {"ingest": -1}, {"ingest": float("inf")}, {"drain": float("nan")}])
def test_limits_of_unknown_parts_and_odd_hours_are_refused(given: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="expected hours, 0 or more, of one of drain, spool"):
        Monitoring(silence_hours=given)
    assert Monitoring(silence_hours={"ingest/app-store": 0, "labels": 24.5}).silence_hours["labels"] == 24.5
