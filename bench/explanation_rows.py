"""Whether an explanation names what was made to move, on windows of real reviews.

    python -m bench.explanation_rows

A case is a window of 500, 1,000 or 2,000 fintech reviews (bench/shifts.py) after a reference in which nothing moved.
One app of it, one version of an app, or a version that was not there before, goes bad: SPOILED of its reviews that are
not negative become negative ones of the same app. One to three invented words are put into 10 to 30% of its reviews,
all of them into each. Chosen is any app or version, of the apps that have reviews of all stars, with MIN_ROWS reviews
and MIN_SHARE of the window, else the largest. Versions are cut to two numbers (2.1 for 2.1.7): in these reviews, of
four years, no whole one has more than 2% of a window.

Beside the goals are the real events of the IDEA reviews, and how often windows without any shift get a finding.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from bench.gate import wilson
from bench.results import Row, goal_row
from bench.shifts import SHARED_DATA, Pool, World, answered, make_pool
from mobile_sentiment_ops.data.predictions import PROBABILITIES
from mobile_sentiment_ops.monitoring.explanation import Explanation, explain

AREA = "monitoring"
CASES = 360
CALM = 300
WINDOWS = (500, 1_000, 2_000)
MIN_ROWS, MIN_SHARE, SPOILED = 50, 0.05, 0.6
WORDS = ("zorble", "quenvik", "flumpo", "drixel", "bantoku", "wexomy", "plurnik", "graskel", "ovintu", "mivvok")
NEW = "99.1"
ABOUT = ("release", "version", "app", "words")
FIRST = 1_000
"""The first seed: with lower ones the rules were made."""
KINDS = ("app", "version", "release")


@dataclass(frozen=True, slots=True)
class Case:
    """A window in which one thing moved: of which kind, whose, and the words that were put in."""

    kind: str
    rows: int
    window: pl.DataFrame
    app: str
    version: str | None
    words: tuple[str, ...]


def coarse(pool: Pool) -> Pool:
    """With versions of two numbers."""
    return replace(pool, held_out=pool.held_out.with_columns(pl.col("version").str.extract(r"^(\d+\.\d+)")))


def make_case(world: World, kind: str, rows: int, seed: int) -> Case:
    """The case of this number."""
    chance = np.random.default_rng([rows, seed, KINDS.index(kind)])
    window = world.window(rows, seed=seed).with_row_index("row")
    keys = ["app", "version"] if kind == "version" else ["app"]
    mixed = world.stream.group_by("app").agg((pl.col("truth") == 0).sum().alias("bad"), (pl.col("truth") > 0).sum())
    apps = mixed.filter((pl.col("bad") >= 100) & (pl.col("truth") > pl.col("bad")))["app"].to_list()
    sizes = (
        window.drop_nulls(keys)
        .filter(pl.col("app").is_in(apps))
        .group_by(keys)
        .len()
        .sort("len", *keys, descending=True)
    )
    least = min(max(MIN_ROWS, MIN_SHARE * rows), sizes["len"][0])
    chosen = sizes.filter(pl.col("len") >= least)
    part = chosen.drop("len").row(int(chance.integers(chosen.height)), named=True)
    own = window.filter(*(pl.col(name) == value for name, value in part.items()))
    if kind == "release":
        own = own.sample(fraction=0.5, seed=seed).with_columns(version=pl.lit(NEW))
    version = own["version"][0] if kind != "app" else None
    spoiled = own.filter(pl.col("label") != "Negative").sample(fraction=SPOILED, seed=seed)
    bad = world.stream.filter((pl.col("app") == part["app"]) & (pl.col("truth") == 0))
    texts = bad["text"].sample(spoiled.height, with_replacement=True, seed=seed)
    own = own.update(spoiled.select("row").with_columns(texts.alias("text")), on="row")
    words = tuple(chance.choice(WORDS, int(chance.integers(1, 4)), replace=False).tolist())
    marked = own.sample(max(round(own.height * chance.uniform(0.1, 0.3)), 1), seed=seed + 1)
    told = [_with_words(text, words, chance) for text in marked["text"].to_list()]
    own = own.update(marked.select("row").with_columns(pl.Series("text", told, pl.Utf8())), on="row")
    own = answered(world.pool.champion, own.drop("label", *PROBABILITIES)).select(window.columns)
    kept = window.join(own, on="row", how="anti", maintain_order="left").vstack(own).sort("row").drop("row")
    return Case(kind, rows, kept, part["app"], version, words)


def _with_words(text: str, words: tuple[str, ...], chance: np.random.Generator) -> str:
    parts = text.split()
    for word in words:
        parts.insert(int(chance.integers(len(parts) + 1)), word)
    return " ".join(parts)


def named_right(found: Explanation, case: Case) -> tuple[bool, bool]:
    """Whether the first finding that names an app, by its negative share or its words, names the app, and
    also the version, or no version where it was the whole app (any, if all of the app's reviews are of one)."""
    about = [one for one in found.findings if one.kind in ABOUT and one.part]
    part = about[0].part if about else {}
    app = part.get("app") == case.app
    whole = case.kind == "app" and case.window.filter(pl.col("app") == case.app)["version"].drop_nulls().n_unique() < 2
    return app, app and (part.get("version") == case.version or whole)


def words_right(found: Explanation, case: Case) -> bool:
    """Whether one of the five first words is a planted one, or has it under it."""
    said = {part for word in found.rose[:5] for part in " ".join((word.words, *word.also)).split()}
    return bool(said & set(case.words))


def rows(folder: Path | None = None, cases: int = CASES) -> list[Row]:
    """All rows, from the folder of real reviews."""
    folder = folder or SHARED_DATA
    pool = coarse(make_pool("fintech", folder))
    return [*_injected(pool, cases), *_calm(pool), *_shifts(pool), *events(make_pool("idea", folder)), _speed(pool)]


def _injected(pool: Pool, cases: int) -> Iterator[Row]:
    results = []
    world = World(pool, 0)
    for seed in range(cases):
        world = World(pool, FIRST + seed // 30) if seed % 30 == 0 else world
        case = make_case(world, KINDS[seed % 3], WINDOWS[seed // 3 % 3], FIRST + seed)
        found = explain(world.reference, case.window)
        results.append((case.kind, case.rows, *named_right(found, case), words_right(found, case)))
    table = pl.DataFrame(results, ["kind", "rows", "app", "part", "words"], orient="row")
    by = table.group_by("kind", "rows").mean().sort("kind", "rows")
    told = ", ".join(f"{row['kind']} {row['rows']}: {row['part']:.2f} and {row['words']:.2f}" for row in by.to_dicts())
    note = f"the app is right in {table['app'].sum() / table.height:.3f}; by kind and window, named and words: {told}"
    for name, column in (("right_app_or_version", "part"), ("planted_word_top5", "words")):
        hits = int(table[column].sum())
        value = round(hits / table.height, 4)
        limits = wilson(hits, table.height)
        yield goal_row(AREA, f"explain/{name}", value, spread=limits, n=table.height, note=note)


def _calm(pool: Pool) -> Iterator[Row]:
    found = {"share": 0, "other": 0, "words": 0}
    world = World(pool, 0)
    for seed in range(CALM):
        world = World(pool, 100 + seed // 30) if seed % 30 == 0 else world
        told = explain(world.reference, world.window(WINDOWS[seed % 3], seed=seed))
        kinds = {one.kind for one in told.findings}
        found["share"] += bool(kinds & {"release", "version", "app", "overall"})
        found["other"] += bool(kinds - {"release", "version", "app", "overall"})
        found["words"] += bool(told.rose or told.fell)
    for name, hits in found.items():
        note = "windows without a shift that get such a finding"
        yield Row(f"explain/calm/{name}", hits / CALM, "share", "lower", spread=wilson(hits, CALM), n=CALM, note=note)


def _shifts(pool: Pool, trials: int = 60) -> Iterator[Row]:
    """How often other shifts get the finding that is theirs."""
    kinds = {"language10": "language", "spam10": "repeated", "slang": "words", "new_app30": "app_share"}
    world = World(pool, 200)
    for shift, kind in (*kinds.items(), ("neg60", "overall"), ("bombing15", "app")):
        told = [explain(world.reference, world.window(500, shift, seed=seed)) for seed in range(trials)]
        hits = sum(any(one.kind == kind for one in found.findings) for found in told)
        note = f"windows of 500 with that shift that get a finding of kind {kind}"
        yield Row(
            f"explain/{shift}",
            round(hits / trials, 4),
            "share",
            "higher",
            spread=wilson(hits, trials),
            n=trials,
            note=note,
        )


WEEK = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Event:
    """The week from `start`, the four weeks up to `until` that it is compared with, whose it was, and the stems of
    words that tell the cause."""

    start: datetime
    until: datetime
    part: Mapping[str, str]
    stems: tuple[str, ...]


EVENTS = {
    "viber_5.3.0.2274": Event(
        datetime(2015, 3, 31, tzinfo=UTC),
        datetime(2015, 3, 31, tzinfo=UTC),
        {"app": "viber", "version": "5.3.0.2274"},
        ("vibrat",),
    ),
    "swiftkey_june_2015": Event(  # its release began to arrive on 27 May
        datetime(2015, 6, 1, tzinfo=UTC), datetime(2015, 5, 25, tzinfo=UTC), {"app": "swiftkey"}, ("lag", "freez")
    ),
}


def explain_event(pool: Pool, event: Event) -> Explanation:
    """What the reviews of that week say, of those that the champion did not learn from."""
    time = pl.col("event_time")
    before = pool.held_out.filter(time.is_between(event.until - 4 * WEEK, event.until, closed="left"))
    return explain(before, pool.held_out.filter(time.is_between(event.start, event.start + WEEK, closed="left")))


def events(pool: Pool) -> Iterator[Row]:
    """Whether the first finding names the real events, and words that rose the cause."""
    for name, event in EVENTS.items():
        found = explain_event(pool, event)
        first = found.findings[0].part if found.findings else {}
        named = all(first.get(key) == value for key, value in event.part.items())
        said = [part for word in found.rose for part in " ".join((word.words, *word.also)).split()]
        named &= any(part.startswith(event.stems) for part in said)
        yield Row(f"explain/event/{name}", float(named), "named", "higher", note=found.summary)


def _speed(pool: Pool) -> Row:
    held = pool.held_out.sample(fraction=1.0, shuffle=True, seed=0)
    seconds = []
    for _ in range(5):
        began = time.process_time()
        explain(held[:20_000], held[20_000:30_000])
        seconds.append(time.process_time() - began)
    return Row("explain/10k_after_20k/cpu_s", round(min(seconds), 3), "s", "lower", n=5, goal=1.5)


if __name__ == "__main__":
    for row in rows(Path(sys.argv[1]) if len(sys.argv) > 1 else None):
        print(row.name, row.value, row.spread, row.note)
