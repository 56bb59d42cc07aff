"""Days from a dated event to the alarm, when windows of 1, 7 and 28 days are checked every day.

The events are those of the demo world (one kind in each world, several seeds; one world has none) and two of the IDEA
reviews: Viber 5.3.0.2274, withdrawn after three days, and SwiftKey 5.3.0.124, after which the share of negative reviews
rose from .11 to .37. The champion is trained two weeks before; its reference are the reviews of the time of its test
rows, repeats and all, which it did not learn from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import get_args

import numpy as np
import polars as pl

from bench.detectors import DETECTORS, OURS, Detector, Ours
from bench.results import Row, goal_row
from bench.shifts import SHARED_DATA, real_reviews, scored, train_champion, with_keys
from mobile_sentiment_ops.data.demo_world import generate
from mobile_sentiment_ops.data.demo_world.events import midnight
from mobile_sentiment_ops.data.reviews import labelled
from mobile_sentiment_ops.settings import Demo, DemoEventKind, Monitoring

AREA = "monitoring"
REAL = {
    "viber": (date(2015, 3, 31), "5.3.0.2274"),
    "swiftkey": (date(2015, 5, 28), "5.3.0.124"),
}
"""When the events of IDEA began, and in which version of the app."""
KINDS: tuple[DemoEventKind, ...] = get_args(DemoEventKind)
QUIET = "none"
SEEDS = tuple(range(101, 105))
WAIT, WATCHED = 14, 28
"""Days between training and the event, and days after its start that an alarm is waited for."""
QUIET_FROM, QUIET_DAYS = 150, 120
TEST_SHARE = 0.2
WINDOWS = Monitoring().window_days
PEERS = ("PSI > 0.2", "JS > 0.1")


@dataclass(frozen=True, slots=True)
class Story:
    """An event in one of `worlds`: a seed of the demo world, or 0 for IDEA."""

    name: str
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What fired, by detector and day, counted from the start of the event."""

    story: Story
    days: Mapping[str, Mapping[int, Sequence[str]]]

    def first(self, detector: str, naming: str = "") -> int | None:
        """Days until an alarm that did not ring on the day before, 1 on the first day; of those that have the word."""
        days = self.days[detector]
        told = (
            day + 1 for day in sorted(days) if day >= 0 and any(naming in name for name in {*days[day]} - {*days[-1]})
        )
        return next(told, None)

    def quiet(self, detector: str) -> list[bool]:
        """Whether it fired on each of the days on which nothing happened."""
        return [bool(names) for day, names in self.days[detector].items() if day < 0 or self.story.name == QUIET]


def watch(story: Story) -> Told:
    """What the detectors say day by day."""
    if story.name in REAL:
        begin = REAL[story.name][0]
        reviews = real_reviews("idea", SHARED_DATA)
    else:
        world = generate(Demo(seed=story.seed, events=tuple(kind for kind in KINDS if kind == story.name)))
        event = next(iter(world.events), None)
        begin = event.start.date() if event else Demo().start + timedelta(QUIET_FROM)
        reviews = with_keys(labelled(world.reviews))
    trained = begin - timedelta(WAIT)
    known = reviews.filter(pl.col("submitted_at") < midnight(trained)).sort("submitted_at")
    distinct = known.unique("text_key", keep="last", maintain_order=True)
    tested = distinct["submitted_at"][-round(TEST_SHARE * distinct.height)].replace(hour=0, minute=0, second=0)
    later = pl.col("submitted_at") >= tested
    learned = known.filter(~later).join(known.filter(later), on="text_key", how="anti", maintain_order="left")
    champion = train_champion(learned)
    stream = scored(champion, reviews.filter(later))
    reference = stream.filter(pl.col("event_time") < midnight(trained))
    detectors: dict[str, Detector] = {OURS: Ours(Monitoring().false_alarms / len(WINDOWS))}
    detectors |= {name: DETECTORS[name]() for name in PEERS}
    for detector in detectors.values():
        detector.fit(reference, learned["review_text"].to_list(), story.seed)
    last = QUIET_DAYS if story.name == QUIET else WATCHED
    days = range(-WAIT, last)
    found = {
        name: {day: list(_fired(detector, stream, midnight(begin + timedelta(day + 1)))) for day in days}
        for name, detector in detectors.items()
    }
    return Told(story, found)


def _fired(detector: Detector, stream: pl.DataFrame, now: datetime) -> Iterator[str]:
    for length in WINDOWS:
        window = stream.filter(pl.col("event_time").is_between(now - timedelta(length), now, closed="left"))
        if window.height >= Monitoring().min_reviews:
            yield from (f"{length} d {name}" for name in detector.fires(window))


STORIES = (*(Story(name) for name in REAL), *(Story(name, seed) for seed in SEEDS for name in (*KINDS, QUIET)))


def rows(told: Sequence[Told]) -> Iterator[Row]:
    """Days to the alarm of each kind of event, alarms on quiet days, and the real events."""
    real = [one for one in told if one.story.name in REAL]
    found = {one: one.first(OURS, " ".join([one.story.name, REAL[one.story.name][1]])) for one in real}
    days = [day for day in found.values() if day is not None]
    notes = [
        f"{one.story.name} {REAL[one.story.name][1]} named on day {day}, "
        f"something fired on {sum(one.quiet(OURS))} of the {WAIT} days before"
        for one, day in found.items()
    ]
    value = max(days) if len(days) == len(REAL) else None
    yield goal_row(AREA, "real_events/found_within_days", value, n=len(found), note="; ".join(notes) or "not measured")
    demo = [one for one in told if one not in real]
    for kind in KINDS:
        same = [one for one in demo if one.story.name == kind]
        if same:
            yield _days_row(kind, same)
    quiet = {name: [day for one in demo for day in one.quiet(name)] for name in (OURS, *PEERS)}
    if quiet[OURS]:
        share, *peers = (round(float(np.mean(days)), 4) for days in quiet.values())
        note = f"days of the demo world without an event; windows of {', '.join(map(str, WINDOWS))} days together"
        yield Row(
            "events/quiet_days_alarmed",
            share,
            "share",
            "lower",
            n=len(quiet[OURS]),
            peers=dict(zip(PEERS, peers, strict=True)),
            note=note,
        )


def _days_row(kind: str, told: Sequence[Told]) -> Row:
    """The median over worlds; an event that is not found within WATCHED days counts as that many and one more."""
    days = {name: [one.first(name) or WATCHED + 1 for one in told] for name in (OURS, *PEERS)}
    names = Counter(name for one in told for name in one.days[OURS].get((one.first(OURS) or 0) - 1, ()))
    found = sum(day <= WATCHED for day in days[OURS])
    note = f"median; found in {found} of {len(told)} worlds" + (
        f", first by {', '.join(name for name, _ in names.most_common(3))}" if found else ""
    )
    median, *peers = (float(np.median(of)) for of in days.values())
    spread = (float(min(days[OURS])), float(max(days[OURS])))
    return Row(
        f"events/{kind}/days",
        median,
        "days",
        "lower",
        spread=spread,
        n=len(told),
        peers=dict(zip(PEERS, peers, strict=True)),
        note=note,
    )
