"""Clocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mobile_sentiment_ops.adapters.clock import SystemClock
from mobile_sentiment_ops.adapters.memory import FixedClock


def test_the_time_of_this_machine_is_in_utc() -> None:
    now = SystemClock().now()
    assert now.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - now) < timedelta(minutes=1)


def test_a_fixed_clock_moves_when_told(clock: FixedClock) -> None:
    before = clock.now()
    assert clock.now() == before
    assert clock.advance(1.5) == before + timedelta(seconds=1.5)
    assert clock.advance(timedelta(days=1)) == clock.now() == before + timedelta(days=1, seconds=1.5)
