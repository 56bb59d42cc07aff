from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from bench.results import goals
from bench.shifts import (
    ADS,
    BOMBING,
    NEW_APPS,
    SCORED,
    SHIFTS,
    SLANG,
    Pool,
    World,
    garbled,
    mistyped,
    scored,
    with_keys,
)
from bench.shifts import train_champion as trained
from mobile_sentiment_ops.data.demo_world import generate
from mobile_sentiment_ops.data.demo_world.voice import Dice
from mobile_sentiment_ops.data.reviews import labelled
from mobile_sentiment_ops.settings import Demo

ROWS = 200


@pytest.fixture(scope="module")
def world() -> World:
    """Reviews of the demo world in English; the app of bikes is new."""
    reviews = with_keys(labelled(generate(Demo(reviews=9_000, events=())).reviews))
    english = reviews.filter(pl.col("language") == "en")
    known, new = english.filter(pl.col("app") != "demo.bikes"), english.filter(pl.col("app") == "demo.bikes")
    champion = trained(known[:600])
    foreign = {"es": ["no sirve para nada", "me encanta"], "th": ["ใช้ดีมาก"]}
    pool = Pool(
        "demo",
        champion,
        known[:600]["review_text"].to_list(),
        scored(champion, known[600:]),
        scored(champion, new),
        foreign,
    )
    return World(pool, 0)


def changed(world: World, shift: str, seed: int = 0) -> pl.DataFrame:
    """The rows of a window whose text is none of the pool's."""
    known = set(world.pool.held_out["text"].to_list())
    return world.window(ROWS, shift, seed).filter(~pl.col("text").is_in(known))


def test_a_window_is_scored_rows_of_the_stream_and_none_of_the_reference(world: World) -> None:
    window = world.window(ROWS)
    assert window.columns == list(SCORED)
    assert window.height == ROWS
    sums = window.select(pl.sum_horizontal("p_negative", "p_neutral", "p_positive")).to_series()
    assert sums.to_numpy() == pytest.approx(np.ones(ROWS))
    assert not set(world.reference["review_id"]) & set(world.stream["review_id"])
    assert world.window(ROWS).equals(window)
    assert not world.window(ROWS, seed=1)["text"].equals(window["text"])


def test_a_quarter_is_negative_and_more_where_that_is_the_shift(world: World) -> None:
    felt = dict(world.pool.held_out.select("text", "truth").rows())

    def share(shift: str | None) -> float:
        windows = pl.concat([world.window(ROWS, shift, seed) for seed in range(20)])
        return float(np.mean([felt[text] == 0 for text in windows["text"]]))

    assert (world.reference["truth"] == 0).mean() == pytest.approx(0.25, abs=0.04)
    assert share(None) == pytest.approx(0.25, abs=0.03)
    assert share("neg35") == pytest.approx(0.35, abs=0.03)
    assert share("neg60") == pytest.approx(0.60, abs=0.03)


def test_a_reference_can_be_drawn_whatever_the_seed(world: World) -> None:
    assert all(World(world.pool, seed).reference.height > 500 for seed in range(100))


def test_counts_of_negatives_vary_as_chance_has_it(world: World) -> None:
    felt = dict(world.pool.held_out.select("text", "truth").rows())
    counts = [sum(felt[text] == 0 for text in world.window(100, None, seed)["text"]) for seed in range(200)]
    assert np.std(counts) == pytest.approx(np.sqrt(100 * 0.25 * 0.75), rel=0.2)


@pytest.mark.parametrize("shift", sorted(SHIFTS))
def test_a_shift_is_the_same_for_the_same_seed_alone(world: World, shift: str) -> None:
    window = world.window(60, shift, 3)
    assert window.equals(world.window(60, shift, 3))
    assert not window["text"].equals(world.window(60, shift, 4)["text"])


def test_new_app30_is_an_app_that_the_reference_has_not(world: World) -> None:
    assert "demo.bikes" not in world.reference["app"].to_list()
    assert (world.window(ROWS, "new_app30")["app"] == "demo.bikes").mean() == pytest.approx(0.30)
    assert NEW_APPS["fintech"]


def test_language10_is_in_one_language_that_arrives(world: World) -> None:
    rows = world.window(ROWS, "language10").filter(pl.col("language") != "en")
    assert rows.height == ROWS * 0.10
    language = rows["language"].unique().item()
    assert set(rows["text"]) <= set(world.pool.foreign[language])
    assert {world.window(ROWS, "language10", seed)["language"].unique().sort().to_list()[-1] for seed in range(8)} == {
        "es",
        "th",
    }


def test_slang_puts_few_invented_words_into_an_eighth(world: World) -> None:
    words = {*SLANG["good"], *SLANG["bad"]}
    found = [
        words & set(text.lower().replace(",", " ").replace(".", " ").replace("!", " ").split())
        for text in changed(world, "slang")["text"]
    ]
    assert len(found) == ROWS * 0.125
    assert np.mean([len(one) > 0 for one in found]) > 0.9
    assert len(set.union(*found)) <= 4


def test_typos30_changes_letters_of_some_words(world: World) -> None:
    assert changed(world, "typos30").height == pytest.approx(ROWS * 0.30, abs=2)
    text = "this application never lets me transfer money between my accounts anymore"
    before = text.split()
    shares = []
    for seed in range(200):
        after = mistyped(text, Dice(seed)).split()
        assert len(after) == len(before)
        differing = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
        assert differing
        assert all(abs(len(old) - len(new)) <= 1 for old, new in differing)
        shares.append(len(differing) / len(before))
    assert np.mean(shares) == pytest.approx(0.25, abs=0.05)
    assert mistyped("", Dice(0)) == ""
    assert mistyped("ok", Dice(0)) != "ok"


def test_encoding10_can_be_seen_and_mostly_undone(world: World) -> None:
    assert changed(world, "encoding10").height == ROWS * 0.10
    undone = 0
    for seed in range(300):
        found = garbled("It's not the app's fault, I'd say", Dice(seed))
        assert not found.isascii()
        if "\ufffd" in found:
            continue
        typed = next(found.encode(codec).decode() for codec in ("latin-1", "cp1252") if _fits(found, codec))
        assert "It’s not the app’s fault" in typed
        undone += 1
    assert 0.6 < undone / 300 < 0.9


def _fits(text: str, codec: str) -> bool:
    try:
        text.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def test_spam10_is_one_advertisement_with_a_code_each(world: World) -> None:
    texts = changed(world, "spam10")["text"]
    assert len(texts) == texts.n_unique() == ROWS * 0.10
    assert sum(all(text.startswith(ad.partition("{")[0]) for text in texts) for ad in ADS) == 1


def test_bombing15_is_one_matter_in_one_app_in_varied_words(world: World) -> None:
    rows = changed(world, "bombing15")
    assert rows.height == ROWS * 0.15
    assert rows["app"].n_unique() == 1
    assert rows["text"].n_unique() > 20
    assert sum(all(any(core in text for core in matter) for text in rows["text"]) for matter in BOMBING["matters"]) == 1


def test_empty5_has_no_text_in_a_twentieth(world: World) -> None:
    window = world.window(ROWS, "empty5")
    assert (window["text"].str.strip_chars() == "").mean() == pytest.approx(0.05)


def test_every_shift_of_the_goals_is_made() -> None:
    parts = [goal.name.split("/") for goal in goals() if goal.area == "monitoring" and goal.name.startswith("power/")]
    assert {shift for _, size, shift in parts if size.isdigit()} <= SHIFTS.keys()
