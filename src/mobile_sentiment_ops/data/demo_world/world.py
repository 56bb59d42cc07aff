"""The demo world, day by day: who writes what about which app, and with how many stars."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cache, reduce
from itertools import accumulate
from operator import getitem
from typing import Any

import polars as pl

from mobile_sentiment_ops.data.demo_world.events import Calendar, DemoEvent, Release, calendar, midnight
from mobile_sentiment_ops.data.demo_world.lexicon import WORLD, Phrase, parse
from mobile_sentiment_ops.data.demo_world.voice import Dice, Voice
from mobile_sentiment_ops.data.reviews import REVIEW_SCHEMA
from mobile_sentiment_ops.settings import Demo
from mobile_sentiment_ops.types import Label

TRUTH_SCHEMA = pl.Schema({"review_id": pl.Utf8(), "label": pl.Utf8(), "event": pl.Utf8()})

_Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DemoDay:
    """One day's reviews in the order they came, and the truth about them."""

    day: date
    reviews: pl.DataFrame
    truth: pl.DataFrame


@dataclass(frozen=True, slots=True)
class DemoWorld:
    """Synthetic reviews in time order (canonical columns, `sentiment` left null), what is true of
    each (the feeling of its writer, and the event it belongs to or null), and the dated events."""

    reviews: pl.DataFrame
    truth: pl.DataFrame
    events: tuple[DemoEvent, ...]


def generate(demo: Demo) -> DemoWorld:
    """The whole world of these settings; the same on every machine.

    >>> made = generate(Demo(seed=3, reviews=300))
    >>> made.reviews["review_id"][0], made.events[1].name
    ('demo-3-001-00', 'new-language')
    """
    plan = calendar(demo)
    rows = [row for _, found in _days(demo, plan) for row in found]
    return DemoWorld(pl.DataFrame(rows, REVIEW_SCHEMA), pl.DataFrame(rows, TRUTH_SCHEMA), plan.events)


def stream(demo: Demo) -> Iterator[DemoDay]:
    """The rows of `generate`, one day at a time, each made when it is asked for."""
    for day, rows in _days(demo, calendar(demo)):
        yield DemoDay(day, pl.DataFrame(rows, REVIEW_SCHEMA), pl.DataFrame(rows, TRUTH_SCHEMA))


def _days(demo: Demo, plan: Calendar) -> Iterator[tuple[date, list[_Row]]]:
    flows = [_flows(demo, plan, day) for day in range(plan.days)]
    scale = demo.reviews / sum(flow.weight for found in flows for flow in found)
    for day, found in enumerate(flows):
        dice = Dice(demo.seed, plan.days, 1, day)
        rows = [
            _review(demo, plan, day, flow, dice)
            for flow in found
            for _ in range(int(flow.weight * scale * (0.75 + 0.5 * dice.roll()) + dice.roll()))
        ]
        rows.sort(key=lambda row: row["submitted_at"])
        for at, row in enumerate(rows):
            row["review_id"] = f"demo-{demo.seed}-{day:03}-{at:02}"
        yield plan.first + timedelta(day), rows


@dataclass(frozen=True, slots=True)
class _Flow:
    """What makes reviews of one app arrive on one day: its daily life, or an event that adds some."""

    app: str
    weight: float
    newest: Release
    older: Release
    event: DemoEvent | None = None


def _flows(demo: Demo, plan: Calendar, day: int) -> list[_Flow]:
    """Daily life of all apps has weight 1; an event adds what gives it its share of the whole."""
    weekday = 1.12 if (plan.first + timedelta(day)).weekday() >= 5 else 0.95
    extra = {
        "new_language": demo.language_share / (1 - demo.language_share),
        "spam": demo.spam_share / (1 - demo.spam_share),
        "bombing": demo.bombing_share / (1 - demo.bombing_share),
    }
    flows = []
    for app, facts in WORLD["apps"].items():
        out = [release for release in plan.releases[app] if release.day <= day]
        newest, older = out[-1], [release for release in out[:-1] if not release.withdrawn][-1]
        flows.append(_Flow(app, facts["share"] * weekday, newest, older))
        for kind, times in (extra | {"bad_release": facts["share"] * (demo.bad_release_surge - 1)}).items():
            event = plan.running(kind, day)
            if event and event.app == app:
                flows.append(_Flow(app, times * weekday, newest, newest, event))
    return flows


def _review(demo: Demo, plan: Calendar, day: int, flow: _Flow, dice: Dice) -> _Row:
    """One review: who writes, what they feel, in which words, with how many stars."""
    told = flow.event.parameters if flow.event else {}
    language = str(told["language"]) if "language" in told else _drawn(dice, "languages")
    age = day - flow.newest.day
    release = flow.newest if dice.below((age + 1) / (age + 3)) else flow.older
    voice = _voice(language, flow.app)
    idea = _idea(demo, plan, day, flow, release, voice, dice)
    facts = {"app": _name(flow.app), "version": Phrase((release.version,)), **idea.facts}

    text = voice.compose(idea.plan, dice, facts)
    if idea.plan != "ad":
        text = voice.scribble(text, idea.mood, dice, typos=demo.typo_share, emoji=demo.emoji_share)
    stars = idea.stars or _drawn(dice, "stars", idea.mood, idea.shape)
    if not idea.stars and dice.below(demo.contrary_stars):
        stars = 6 - stars if stars != 3 else dice.pick((1, 5))
    apple = dice.below(WORLD["markets"][language]["app_store"])
    return {
        "submitted_at": midnight(plan.first) + timedelta(day, int(86_400 * (0.8 * dice.roll() + 0.2 * dice.roll()))),
        "app": flow.app,
        "version": None if dice.below(0.08) else release.version,
        "store": "app-store" if apple else "google-play",
        "country": _drawn(dice, "markets", language, "countries"),
        "language": language,
        "rating": stars,
        "title": voice.say(_TITLES[idea.mood], dice, facts).capitalize() if apple else None,
        "review_text": text,
        "label": idea.mood.value,
        "event": idea.event,
    }


@dataclass(frozen=True, slots=True)
class _Idea:
    """What a review is about to say. `stars` is set where they do not follow from the feeling."""

    mood: Label
    plan: str
    shape: str = "plain"
    event: str | None = None
    facts: Mapping[str, Phrase] = field(default_factory=dict)
    stars: int | None = None


def _idea(demo: Demo, plan: Calendar, day: int, flow: _Flow, release: Release, voice: Voice, dice: Dice) -> _Idea:
    name = flow.event.name if flow.event else None
    if flow.event and flow.event.kind == "spam":
        code = "".join(dice.pick(_CODE) for _ in range(5))
        ad = parse(str(flow.event.parameters["text"]).replace("{code}", code))
        return _Idea(Label.NEUTRAL, "ad", event=name, facts={"ad": ad}, stars=5)
    if flow.event and flow.event.kind == "bombing":
        facts = {"cause": parse(str(flow.event.parameters["text"]))}
        return _Idea(Label.NEGATIVE, _drawn(dice, "plans", "bombing"), event=name, facts=facts, stars=1)

    bad = plan.running("bad_release", day) if release.withdrawn else None
    if not bad and dice.below(demo.meaning_share):
        turned = plan.running("new_meaning", day)
        mood = Label.NEGATIVE if turned else Label.POSITIVE
        return _verdict(mood, "flip", turned.name if turned else name, voice, dice)

    others = 1 - demo.meaning_share
    negative = demo.bad_release_negative if bad else demo.negative_share * WORLD["apps"][flow.app]["gloom"] / others
    neutral = demo.neutral_share / others * (1 - negative) / (1 - demo.negative_share)
    roll = dice.roll()
    mood = Label.NEGATIVE if roll < negative else Label.NEUTRAL if roll < negative + neutral else Label.POSITIVE
    if bad and mood is Label.NEGATIVE and dice.below(0.8):
        return _Idea(mood, _drawn(dice, "plans", "crash"), event=bad.name)
    slang = plan.running("new_slang", day)
    if slang and mood is Label.NEGATIVE and dice.below(demo.slang_share / 2 / negative):
        return _verdict(mood, "slang_bad", slang.name, voice, dice)
    if slang and mood is Label.POSITIVE and dice.below(demo.slang_share / 2 / (1 - negative - neutral)):
        return _verdict(mood, "slang_good", slang.name, voice, dice)
    roll = dice.roll()
    shape = "short" if roll < demo.short_share else "mixed" if roll < demo.short_share + demo.mixed_share else "plain"
    return _Idea(mood, _drawn(dice, "plans", mood, shape), shape, None if bad else name)


def _verdict(mood: Label, words: str, event: str | None, voice: Voice, dice: Dice) -> _Idea:
    """A review whose feeling is one word of that list."""
    facts = {"word": dice.pick(voice.phrases[words])}
    return _Idea(mood, _drawn(dice, "plans", "verdict"), event=event, facts=facts)


_TITLES = {Label.POSITIVE: "short_good", Label.NEGATIVE: "short_bad", Label.NEUTRAL: "short_meh"}
_CODE = "23456789abcdefghkmnpqrstuvwxyz"
_voice = cache(Voice)


@cache
def _name(app: str) -> Phrase:
    return parse(WORLD["apps"][app]["name"])


def _drawn(dice: Dice, *path: str) -> Any:
    """A key of that table of weights in `world.toml`, as often as its weight says; a list is of 1, 2, ... stars."""
    options, bounds = _weights(*path)
    return options[bisect(bounds, dice.roll() * bounds[-1])]


@cache
def _weights(*path: str) -> tuple[tuple[Any, ...], tuple[float, ...]]:
    table: Any = reduce(getitem, path, WORLD)
    weights: dict[Any, float] = table if isinstance(table, dict) else dict(enumerate(table, 1))
    return tuple(weights), tuple(accumulate(weights.values()))
