"""What monitoring costs: sketches of reviews, a check of a window, a query over a year, and the alarm in the stream."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
from scipy.stats import chi2

from bench.detectors import Evidently, Ours
from bench.results import Row, goal_row
from bench.shifts import DAY, SHARED_DATA, World, make_pool
from mobile_sentiment_ops.monitoring.drift import check_drift
from mobile_sentiment_ops.monitoring.reference import make_reference
from mobile_sentiment_ops.monitoring.rows import Vocabulary, rows_of
from mobile_sentiment_ops.monitoring.sketch import SKETCH_SCHEMA, Window, sketched
from mobile_sentiment_ops.monitoring.stream import Stream, follow, stream_limits

AREA = "monitoring"
ROWS, SMALL = 10_000, 1_000
APPS, DAYS, AN_HOUR = 50, 30, 3
REPETITIONS = 5
STREAM_WORLDS, STREAMS = 10, 20
STREAM_SHIFTS = ("neg60", "slang", "typos30", "spam10", "bombing15")


def rows() -> Iterator[Row]:
    """The rows of costs. CPU time, the least of several runs, as other programs are on the machine."""
    world, ours = World(make_pool("fintech", SHARED_DATA), 0), Ours()
    ours.fit(world.reference, world.pool.learned, 0)
    window = world.window(ROWS)
    vocabulary = ours.reference.vocabulary
    made: list[pl.DataFrame] = []

    def sketch(batch: int) -> list[float]:
        batches = [window[at : at + batch] for at in range(0, ROWS, batch)]

        def work() -> None:
            made[:] = [sketched(rows_of(part, vocabulary)) for part in batches]

        return [second / ROWS * 1e6 for second in cpu_seconds(work)]

    times = sketch(ROWS)
    note = f"{ROWS:,} fintech reviews of one drain, which make {made[0].height:,} sketches"
    yield _cost("sketch/us_per_review", times, note)
    times = sketch(SMALL)
    kept = pl.concat(made)
    note = f"in drains of {SMALL:,}, which make {kept.height:,} sketches"
    yield Row("sketch/us_per_review/small", round(min(times), 2), "us", "lower", n=len(times), note=note)

    def check() -> None:
        check_drift(Window.of(kept), ours.reference, ours.limits, false_alarms=ours.false_alarms)

    evidently = Evidently()
    evidently.fit(world.reference, world.pool.learned, 0)
    beside = min(cpu_seconds(lambda: evidently.judged(window), 2))
    note = f"all tests and slices, from {kept.height:,} partial sketches of {ROWS:,} reviews"
    peers = {"Evidently": round(beside * 1e3, 0)}
    yield _cost("check_10k/cpu_ms", [second * 1e3 for second in cpu_seconds(check)], note, peers)
    yield _year(world, vocabulary)


def cpu_seconds(work: Callable[[], object], repetitions: int = REPETITIONS) -> list[float]:
    """The CPU seconds of each repetition, after one that is not counted."""
    found = []
    for _ in range(repetitions + 1):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return found[1:]


def _cost(name: str, values: list[float], note: str, peers: dict[str, float] | None = None) -> Row:
    least, most = round(min(values), 2), round(max(values), 2)
    return goal_row(
        AREA, name, least, spread=(least, most), n=len(values), peers=peers or {}, note=f"CPU, the least; {note}"
    )


def _year(world: World, vocabulary: Vocabulary) -> Row:
    """A month of hourly sketches, stored twelve times, and read: each app's negative share by week, and the whole
    year as one window. Seconds by the clock, as parts of it use both cores."""
    size = DAYS * 24 * APPS * AN_HOUR
    stream = world.stream[np.random.default_rng(0).integers(0, world.stream.height, size)]
    times = pl.lit(DAY) + pl.duration(minutes=pl.int_range(size) // APPS * (60 // AN_HOUR))
    apps = (pl.lit("app.") + (pl.int_range(size) % APPS).cast(pl.Utf8)).alias("app")
    same = (pl.lit("1").alias("version"), pl.lit("en").alias("language"))
    month = sketched(rows_of(stream.with_columns(times.alias("event_time"), apps, *same), vocabulary))
    with tempfile.TemporaryDirectory() as folder:
        for number in range(12):
            later = month.with_columns(pl.col("hour") + timedelta(DAYS * number))
            later.write_parquet(Path(folder) / f"{number:02}.parquet")
        seconds = []
        for _ in range(REPETITIONS):
            began = time.monotonic()
            asked = pl.scan_parquet(f"{folder}/*.parquet")
            weeks = (
                asked.group_by("app", pl.col("hour").dt.truncate("1w")).agg(pl.col("n", "p_negative").sum()).collect()
            )
            year = Window.of(asked.select(name for name in SKETCH_SCHEMA if "sample" not in name).collect())
            seconds.append(time.monotonic() - began)
            assert weeks["n"].sum() == year.sketch.n == 12 * size
    note = f"{12 * month.height:,} sketches of {12 * size:,} reviews: negative share by app and week; all as one window"
    values = sorted(round(second, 2) for second in seconds)
    return goal_row(AREA, "year_query_50_apps_s", values[2], spread=(values[0], values[-1]), n=REPETITIONS, note=note)


# --- the alarm in the stream

Followed: TypeAlias = tuple[Counter[str], int, dict[str, list[int]]]
"""Alarms by signal in so many reviews without drift; of each shift the reviews to the alarm, of several streams."""


def follow_streams(number: int) -> Followed:
    """Streams of one reference: reviews in which nothing moved, then shifted ones until the alarm."""
    world = World(make_pool("fintech", SHARED_DATA), number)
    reference = make_reference(world.pool.learned, world.reference)
    limits, vocabulary = stream_limits(reference, seed=number), reference.vocabulary
    alarms: Counter[str] = Counter()
    delays: dict[str, list[int]] = {shift: [] for shift in STREAM_SHIFTS}
    for seed in range(STREAMS):
        state, found = follow(Stream(), rows_of(world.window(ROWS, None, seed), vocabulary), limits)
        alarms.update(alarm.signal for alarm in found)
        for shift, delay in delays.items():
            shifted = rows_of(world.window(2_000, shift, seed), vocabulary)
            first = follow(state, shifted, limits)[1]
            delay.append(first[0].row + 1 if first else len(shifted) + 1)
    return alarms, STREAMS * ROWS, delays


def stream_rows(found: Sequence[Followed]) -> Iterator[Row]:
    """False alarms of the stream, and reviews to the alarm."""
    alarms = sum((one[0] for one in found), Counter())
    reviews, count = sum(one[1] for one in found), alarms.total()
    edges = [
        chi2.ppf(0.025, 2 * count) if count else 0.0,
        chi2.ppf(0.975, 2 * count + 2),
    ]  # of a Poisson count, doubled
    low, high = (round(float(edge) / 2 * 10_000 / reviews, 4) for edge in edges)
    told = ": ".join(filter(None, (f"{count} in {reviews:,} reviews without drift", _counts(alarms))))
    more: dict[str, Any] = {"spread": (low, high), "n": reviews, "note": f"{told}; spread is the 95% interval"}
    yield goal_row(AREA, "false_alarms/stream_per_10k", round(count * 10_000 / reviews, 4), **more)
    for shift in STREAM_SHIFTS:
        delays = [delay for one in found for delay in one[2][shift]]
        low, median, high = (float(delay) for delay in np.quantile(delays, (0.05, 0.5, 0.95)))
        more = {
            "spread": (low, high),
            "n": len(delays),
            "note": "median, after the shift; nine of ten are in the spread",
        }
        yield Row(f"stream/{shift}/reviews", median, "reviews", "lower", **more)


def _counts(alarms: Counter[str]) -> str:
    return ", ".join(f"{signal} {times}" for signal, times in alarms.most_common())
