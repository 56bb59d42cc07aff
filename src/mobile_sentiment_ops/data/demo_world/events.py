"""What happens in the demo world, when, and what a good system should make of it.

Six kinds of events, one of each, two months apart with quiet weeks between. Three pass (a bad
release, a spam wave, a review bombing) and three stay (a new language, new slang, a word changing its
meaning). The seed decides which comes when, in which app, with which words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from mobile_sentiment_ops.data.demo_world.lexicon import LANGUAGES, WORLD, forms, lexicon
from mobile_sentiment_ops.data.demo_world.voice import Dice
from mobile_sentiment_ops.settings import Demo

ARRIVING_LANGUAGE = "id"

_FIRST, _APART, _JITTER = 0.20, 0.115, 0.035
"""Where the first of six slots begins, how far they are apart, and how far an event may move in its
own: shares of the whole time. With 18 months: day 110, 63 days, 19 days."""


@dataclass(frozen=True, slots=True)
class DemoEvent:
    """Something that happened from `start` until before `end`; `app` is None where it is in all.

    `parameters` say how: `share` (its setting), `version`, `language`, `words` by language, `text`.
    `expected` is the decision it should lead to. What stays ends with the world.
    """

    name: str
    kind: str
    app: str | None
    start: datetime
    end: datetime
    parameters: Mapping[str, object]
    expected: str


@dataclass(frozen=True, slots=True)
class Release:
    """A version of an app: out from a day on, and withdrawn on another when it was a bad one."""

    day: int
    version: str
    withdrawn: int | None = None


@dataclass(frozen=True, slots=True)
class Calendar:
    """The days of a demo world, counted from 0: when its events run (by kind: event, first day, day
    after the last) and when its apps have releases."""

    first: date
    days: int
    spans: Mapping[str, tuple[DemoEvent, int, int]]
    releases: Mapping[str, tuple[Release, ...]]

    @property
    def events(self) -> tuple[DemoEvent, ...]:
        """All events, first things first."""
        return tuple(event for event, _, _ in self.spans.values())

    def running(self, kind: str, day: int) -> DemoEvent | None:
        """The event of that kind if it goes on that day."""
        event, begin, end = self.spans.get(kind, (None, 0, 0))
        return event if begin <= day < end else None


def midnight(day: date) -> datetime:
    """The start of a day, UTC."""
    return datetime.combine(day, time(), UTC)


def calendar(demo: Demo) -> Calendar:
    """All that is decided before the first review. Leaving an event out does not move the others."""
    months = demo.start.month - 1 + demo.months
    days = (date(demo.start.year + months // 12, months % 12 + 1, 1) - demo.start).days
    dice = Dice(demo.seed, days, 0)
    apps, kinds = list(WORLD["apps"]), WORLD["events"]
    passing = _shuffled([kind for kind, facts in kinds.items() if "days" in facts], dice)
    staying = _shuffled(["new_slang", "new_meaning"], dice)
    releases = {app: _releases(app, days, None, dice) for app in apps}
    spans: dict[str, tuple[DemoEvent, int, int]] = {}
    for slot, kind in enumerate((passing[0], "new_language", passing[1], *staying, passing[2])):
        begin = int(days * (_FIRST + slot * _APART + dice.roll() * _JITTER))
        least, most = kinds[kind].get("days", (days, days))
        end = min(begin + least + int(dice.roll() * (most - least + 1)), days)
        app, language = dice.pick(apps), dice.pick([name for name in LANGUAGES if name != ARRIVING_LANGUAGE])
        repaired = _releases(app, days, (begin, end), dice)
        parameters = {"share": getattr(demo, kinds[kind]["share"]), **_parameters(kind, language, repaired, dice)}
        if kind not in demo.events:
            continue
        if kind == "bad_release":
            releases[app] = repaired
        start, stop = (midnight(demo.start + timedelta(day)) for day in (begin, end))
        expected = kinds[kind]["expected"].format(app=app, **parameters)
        where = None if kind in staying else app
        spans[kind] = DemoEvent(kind.replace("_", "-"), kind, where, start, stop, parameters, expected), begin, end
    return Calendar(demo.start, days, spans, releases)


def _parameters(kind: str, language: str, releases: Sequence[Release], dice: Dice) -> dict[str, object]:
    roll = dice.roll()
    if kind == "bad_release":
        bad = next(release for release in releases if release.withdrawn)
        return {"version": bad.version, "words": _words("crash", "crash_short")}
    if kind == "new_language":
        return {"language": ARRIVING_LANGUAGE}
    if kind in ("new_slang", "new_meaning"):
        return {"words": _words("slang_good", "slang_bad") if kind == "new_slang" else _words("flip")}
    texts = lexicon(language)["templates"]["ad"] if kind == "spam" else _words("cause")[language]
    return {"language": language, "text": texts[int(roll * len(texts))]}


def _words(*lists: str) -> dict[str, list[str]]:
    words = {name: lexicon(name)["words"] for name in LANGUAGES}
    return {name: [form for found in lists for entry in words[name][found] for form in forms(entry)] for name in words}


def _shuffled(kinds: Sequence[str], dice: Dice) -> list[str]:
    return sorted(kinds, key=lambda _: dice.roll())


def _releases(app: str, days: int, bad: tuple[int, int] | None, dice: Dice) -> tuple[Release, ...]:
    """A new minor version every four to six weeks; a bad one on its day, repaired after its last."""
    major, minor = map(int, WORLD["apps"][app]["version"].split("."))
    found, day = [-90], -30 - int(dice.roll() * 28)
    while day < days:
        found.append(day)
        day += 28 + int(dice.roll() * 15)
    if bad:
        found = sorted([bad[0], *(day for day in found if not bad[0] - 14 < day < bad[1] + 14)])
    releases = []
    for at, day in enumerate(found, minor):
        if bad and day == bad[0]:
            releases += [Release(day, f"{major}.{at}.0", bad[1]), Release(bad[1], f"{major}.{at}.1")]
        else:
            releases.append(Release(day, f"{major}.{at}.0"))
    return tuple(releases)
