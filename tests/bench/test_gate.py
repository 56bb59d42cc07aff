from __future__ import annotations

import numpy as np
import pytest

from bench.gate import Pool, World, simulate, wilson
from bench.results import goals
from mobile_sentiment_ops.models.evaluation import confusion_matrix, macro_f1
from mobile_sentiment_ops.registry.comparison import find_parts


@pytest.fixture(scope="module")
def world() -> World:
    """Four models that know most of the labels of 20,000 rows."""
    draw, rows, models = np.random.default_rng(0), 20_000, 4
    labels = draw.choice(3, rows, p=[0.3, 0.15, 0.55])
    known = draw.random(rows) < 0.5
    decisions = np.array(
        [np.where(known | (draw.random(rows) < 0.4), labels, draw.integers(0, 3, rows)) for _ in range(models)]
    )
    probabilities = np.full((models, rows, 3), 0.1)
    np.put_along_axis(probabilities, decisions[..., None], 0.8, axis=2)
    columns = {"app": (["lamp", "torch", "map"], draw.choice(3, rows, p=[0.7, 0.25, 0.05]))}
    return World(Pool(labels, decisions, probabilities, columns))


def macro(world: World, at: np.ndarray, decisions: np.ndarray) -> float:
    return float(macro_f1(confusion_matrix(world.pool.labels[at], decisions)))


def test_a_better_candidate_gains_what_was_asked_for_and_an_equal_one_nothing(world: World) -> None:
    chance = np.random.default_rng(1)
    at, who, champion = world.draw(400_000, chance)
    before = macro(world, at, champion.decisions)
    for gain in (0.0, 0.03):
        found = world.candidate(at, who, chance, world.changed(gain))
        assert macro(world, at, found.decisions) - before == pytest.approx(gain, abs=0.003)
        assert (found.decisions != champion.decisions).mean() > 0.1


def test_a_hidden_loss_is_in_its_app_alone(world: World) -> None:
    chance = np.random.default_rng(1)
    at, who, champion = world.draw(400_000, chance)
    torch = world.app(0.25)
    found = world.candidate(at, who, chance, world.changed(0.02, loss=0.08, inside=torch))
    assert macro(world, at, found.decisions) - macro(world, at, champion.decisions) == pytest.approx(0.02, abs=0.003)
    inside = torch[at]
    gains = [
        macro(world, at[rows], found.decisions[rows]) - macro(world, at[rows], champion.decisions[rows])
        for rows in (inside, ~inside)
    ]
    assert gains[0] == pytest.approx(-0.08, abs=0.006)
    assert gains[1] > 0.02


def test_drawn_rows_have_the_parts_that_the_application_finds(world: World) -> None:
    at, _, _ = world.draw(900, np.random.default_rng(0))
    names, places = world.pool.columns["app"]
    expected = find_parts({"app": [names[place] for place in places[at]]})
    found = {part.name: part.rows.tolist() for part in world.pool.parts(at)}
    assert found == {part.name: part.rows.tolist() for part in expected}


def test_every_goal_of_the_gate_is_simulated(world: World) -> None:
    rows = {row.name: row for row in simulate(world, 12)}
    named = {goal.name for goal in goals() if goal.area == "gate"} - {"bit_flips_refused"}
    assert named <= rows.keys()
    for name in named:
        assert rows[name].goal is not None
        assert "Wilson" in rows[name].note
    assert rows["compare_20k/cpu_ms"].value


def test_wilson_limits_hold_the_share() -> None:
    assert wilson(0, 2000) == (0.0, 0.0019)
    assert wilson(12, 12) == (0.7575, 1.0)
    assert wilson(0, 0) == (0.0, 1.0)
