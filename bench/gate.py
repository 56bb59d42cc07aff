"""How often the gate is right, by simulation on real pairs of models.

    python -m bench --only gate

Two kinds are trained twice on the fintech reviews, each time without another fifth of the training rows, as a
model and its retraining are. Their answers on the test rows are the pool. A trial draws test rows from the pool
with their app, language and version, and makes models of the answers:

equal         each row's champion and candidate are two of the pool's models, drawn anew for each row: whichever
              model is better, the drawn ones are equally good, and differ as real ones do
better        an equal one, of whose wrong answers some are mended, as many as make the gain in the whole pool
hidden loss   one that loses 8 points of macro-F1 in one app and gains 2 points overall

The whole verdict is asked for, with all parts, labels, levels and budgets; costs and behaviour are those of
models that keep them. Shares have Wilson limits with 95% confidence.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from bench.results import Better, Row, goal_row, goals
from bench.splits import SOURCES, distinct_reviews
from mobile_sentiment_ops.data.language import detect_languages
from mobile_sentiment_ops.data.splits import random_split
from mobile_sentiment_ops.models.evaluation import MIN_SLICE_ROWS, confusion_matrix, macro_f1
from mobile_sentiment_ops.models.training import train
from mobile_sentiment_ops.registry.behaviour import load_suite
from mobile_sentiment_ops.registry.comparison import Part
from mobile_sentiment_ops.registry.gate import POWER, Answers, compare
from mobile_sentiment_ops.registry.spending import FIRST_SHARE, ROUND_SHARES, JudgedRows, first_look, next_look
from mobile_sentiment_ops.settings import Gate
from mobile_sentiment_ops.types import Outcome, Verdict

AREA = "gate"
TRIALS = 2_000
GATE = Gate()
ALPHA = (1 - GATE.confidence) / 2
CANDIDATES = 3
SEED = 0
FLOORS = {test.name: test.min_pass for test in load_suite()}
KEPT = {"cpu_us_per_review": 20.0, "model_mb": 2.0, "behaviour": dict.fromkeys(FLOORS, 0.95)}

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pool:
    """What models (m,) answered to rows (n,): labels (n,), decisions (m, n), probabilities (m, n, 3), and the
    place of each row's value among the values of a column (app, language, version), -1 for none."""

    labels: Ints
    decisions: Ints
    probabilities: Floats
    columns: dict[str, tuple[list[str], Ints]]

    def parts(self, rows: Ints) -> list[Part]:
        """As `find_parts` finds them, on drawn rows."""
        return [
            Part(f"{column} {names[value]}", np.flatnonzero(places[rows] == value))
            for column, (names, places) in self.columns.items()
            for value, count in enumerate(np.bincount(places[rows] + 1, minlength=len(names) + 1)[1:])
            if count >= MIN_SLICE_ROWS
        ]


def train_pool(folder: Path) -> Pool:
    """The pool of the real reviews in that folder."""
    reviews = distinct_reviews(folder / SOURCES["fintech"].file)
    reviews = reviews.with_columns(pl.Series("language", detect_languages(reviews["review_text"])))
    training, test = random_split(reviews, test_share=0.4, seed=SEED)
    training = training.sample(fraction=1.0, shuffle=True, seed=SEED)
    fifth = training.height // 5
    texts, ratings = test["review_text"].to_list(), test["rating"].to_list()
    decisions, probabilities = [], []
    for kind in ("lr", "xgb"):
        for part in (training[:-fifth], training[fifth:]):
            model = train(kind, part[fifth // 2 :], part[: fifth // 2], seed=SEED)
            probabilities.append(model.probabilities(texts, ratings))
            decisions.append(model.decide(probabilities[-1]))
    columns = {}
    for column in ("app", "language", "version"):
        names = test[column].drop_nulls().unique(maintain_order=True).to_list()
        place = {name: at for at, name in enumerate(names)}
        columns[column] = (names, np.array([place.get(value, -1) for value in test[column]]))
    return Pool(test["label"].to_numpy().astype(np.int64), np.array(decisions), np.array(probabilities), columns)


@dataclass(frozen=True, slots=True)
class Change:
    """What makes an equal model another: the share of its right answers that are spoiled in the rows `inside`, and
    of its wrong ones that are mended in all others."""

    inside: npt.NDArray[np.bool_]
    spoiled: float = 0.0
    mended: float = 0.0


class World:
    """Trials over a pool; each has a generator of its own."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def changed(self, gain: float, *, loss: float = 0.0, inside: npt.NDArray[np.bool_] | None = None) -> Change:
        """The change that gains so much macro-F1 in the whole pool, though it loses `loss` in the rows `inside`."""
        inside = np.zeros(len(self.pool.labels), dtype=bool) if inside is None else inside
        worse, outside = self._confusion(inside), self._confusion(~inside)
        before, wanted = _macro(worse), _macro(worse + outside) + gain
        spoiled = _solve(lambda share: before - loss - _macro(_changed(worse, 0.0, share))) if loss else 0.0
        worse = _changed(worse, 0.0, spoiled)
        mended = _solve(lambda share: _macro(worse + _changed(outside, share)) - wanted)
        return Change(inside, spoiled, mended)

    def _confusion(self, rows: npt.NDArray[np.bool_]) -> Floats:
        found = [confusion_matrix(self.pool.labels[rows], decided[rows]) for decided in self.pool.decisions]
        return np.asarray(np.mean(found, axis=0))

    def app(self, share: float) -> npt.NDArray[np.bool_]:
        """The rows of the app that is nearest to that share of them."""
        names, places = self.pool.columns["app"]
        shares = np.bincount(places[places >= 0], minlength=len(names)) / len(places)
        return np.asarray(places == np.abs(shares - share).argmin())

    def draw(self, rows: int, chance: np.random.Generator) -> tuple[Ints, Ints, Answers]:
        """Test rows, which pool model is the champion on each, and the champion."""
        at = chance.integers(0, len(self.pool.labels), rows)
        who = chance.integers(0, len(self.pool.decisions), rows)
        return at, who, self.answers("champion", at, who)

    def answers(self, name: str, at: Ints, who: Ints) -> Answers:
        return Answers(name, self.pool.decisions[who, at], self.pool.probabilities[who, at], **KEPT)  # type: ignore[arg-type]

    def candidate(self, at: Ints, champion: Ints, chance: np.random.Generator, change: Change | None) -> Answers:
        """Another model than the champion on each row, changed."""
        models = len(self.pool.decisions)
        equal = self.answers("candidate", at, (champion + chance.integers(1, models, len(at))) % models)
        if change is None:
            return equal
        labels, inside, draw = self.pool.labels[at], change.inside[at], chance.random(len(at))
        wrong = equal.decisions != labels
        mended = wrong & ~inside & (draw < change.mended)
        spoiled = ~wrong & inside & (draw < change.spoiled)
        elsewhere = (labels + chance.integers(1, 3, len(at))) % 3
        decided = np.where(mended, labels, np.where(spoiled, elsewhere, equal.decisions))
        probabilities = equal.probabilities.copy()
        every = np.arange(len(at))
        probabilities[every, decided] = equal.probabilities[every, equal.decisions]
        probabilities[every, equal.decisions] = equal.probabilities[every, decided]
        return replace(equal, decisions=decided, probabilities=probabilities)

    def verdict(self, at: Ints, candidate: Answers, champion: Answers, level: float, seed: int) -> Verdict:
        return compare(
            self.pool.labels[at],
            candidate,
            champion,
            gate=GATE,
            seed=seed,
            level=level,
            parts=self.pool.parts(at),
            behaviour_floors=FLOORS,
        )

    def promoted(self, rows: int, seed: int, change: Change | None, *, changed: int = CANDIDATES) -> int | None:
        """The round (1..) in which a candidate is promoted that `change` was made to; None when none is.

        Each round has CANDIDATES of which `changed`, at random places, are not merely equal. The champion stays, and
        all rounds have the same test rows.
        """
        chance = np.random.default_rng([SEED, seed])
        at, who, champion = self.draw(rows, chance)
        before: JudgedRows | None = None
        for round_ in range(1, len(ROUND_SHARES) + 1):
            look = first_look(before, "rows", alpha=ALPHA, candidates=CANDIDATES)
            chosen = chance.permutation(CANDIDATES) < changed
            for left in range(CANDIDATES - 1, -1, -1):
                candidate = self.candidate(at, who, chance, change if chosen[left] else None)
                verdict = self.verdict(at, candidate, champion, look.level, seed)
                if chosen[left] and verdict.outcome is Outcome.PROMOTE:
                    return round_
                look = next_look(look, promoted=False, alpha=ALPHA, candidates=max(left, 1))
            before = JudgedRows("rows", "", round_, look.spent)
        return None

    def first(self, rows: int, seed: int, change: Change) -> Verdict:
        """The verdict on one of three candidates in the first round, alone."""
        chance = np.random.default_rng([SEED, 1, seed])
        at, who, champion = self.draw(rows, chance)
        return self.verdict(at, self.candidate(at, who, chance, change), champion, ALPHA * FIRST_SHARE, seed)


def _macro(confusion: Floats) -> float:
    return float(macro_f1(confusion))  # type: ignore[arg-type]  # expected counts are no whole numbers


def _changed(confusion: Floats, mended: float, spoiled: float = 0.0) -> Floats:
    """The expected counts once these shares of wrong and right answers are changed."""
    right = np.diag(np.diag(confusion))
    wrong = confusion - right
    moved = np.diag(right)[:, None] * spoiled * (1 - np.eye(3)) / 2
    return wrong * (1 - mended) + np.diag(wrong.sum(axis=1) * mended) + right * (1 - spoiled) + moved


def _solve(rises: Callable[[float], float]) -> float:
    """Where a function that rises over 0..1 is zero."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if rises(middle) < 0 else (low, middle)
    return low


# --- measuring


def measure(folder: Path, *, trials: int | None = None, others: Sequence[Callable[[], Row]] = ()) -> list[Row]:
    """The rows of the area `gate`, from the folder of real reviews; `others` measure what is no simulation."""
    found = list(simulate(World(train_pool(folder)), TRIALS if trials is None else trials))
    return [*found, *(other() for other in others)]


def simulate(world: World, trials: int) -> Iterator[Row]:
    """The rows of all simulations, each as soon as it is there."""
    yield from _wrong_promotions(world, trials)
    yield from _true_gains(world, trials)
    yield from _hidden_losses(world, trials // 2)
    yield from _labels_needed(world, trials)
    yield _speed(world)


def _wrong_promotions(world: World, trials: int) -> Iterator[Row]:
    for rows, count, name in ((5_000, trials, ""), (2_000, trials // 2, "/2000_rows")):
        wrong = sum(world.promoted(rows, seed, world.changed(0.0)) is not None for seed in range(count))
        note = f"any of 3 candidates in 3 rounds on the same {rows:,} test rows, all as good as the champion"
        yield _share("wrong_promotions_equal_models" + name, wrong, count, note, better="lower")


def _true_gains(world: World, trials: int) -> Iterator[Row]:
    change = world.changed(0.03)
    found = [world.promoted(5_000, seed, change, changed=1) for seed in range(trials)]
    ever = trials - found.count(None)
    note = f"in the first round, as one of 3 candidates, on 5,000 test rows; in one of 3 rounds {ever / trials:.3f}"
    yield _share("promotions_true_gain_3_points", found.count(1), trials, note)


def _hidden_losses(world: World, trials: int) -> Iterator[Row]:
    for rows in (1_500, 750, 300):
        inside = world.app(rows / 6_000)
        total = math.ceil(rows / inside.mean())
        change = world.changed(0.02, loss=0.08, inside=inside)
        note = f"8 points lost in an app of about {rows:,} of {total:,} test rows, 2 gained overall"
        first = [world.first(total, seed, change).outcome for seed in range(trials)]
        stopped = trials - first.count(Outcome.PROMOTE)
        name, told = (
            f"slice_regression_stopped/{rows}_rows",
            f"{first.count(Outcome.HOLD) / trials:.2f} HOLD, else REJECT",
        )
        if rows == 1_500:
            one = stopped / trials
            name, told = (
                "slice_regression_stopped",
                f"none of 9 such candidates is promoted, 3 in each of 3 rounds (of one {one:.3f})",
            )
            stopped = sum(world.promoted(total, seed, change) is None for seed in range(trials))
        yield _share(name, stopped, trials, f"{note}; {told}")


def _labels_needed(world: World, trials: int) -> Iterator[Row]:
    """How near the stated number is to the one with which POWER of all candidates of that gain are promoted.

    The latter is found on growing test rows: promotions go with the gain times the square root of the rows.
    """
    expected = world.changed(GATE.expected_gain)
    rows = np.geomspace(4_000, 32_000, trials).astype(int)
    grown = [world.first(int(count), seed, expected).outcome is Outcome.PROMOTE for seed, count in enumerate(rows)]
    reach = _reach(GATE.expected_gain * np.sqrt(rows), np.array(grown))
    expectations = {"": (GATE.expected_gain,), "/true_0.010_to_0.015": tuple(np.linspace(0.01, 0.015, 11).tolist())}
    for name, gains in (expectations | {f"/true_{gain}": (gain,) for gain in (0.01, 0.015, 0.02)}).items():
        near, by_observed, stated, held = 0, 0, 0, 0
        changes = [world.changed(gain) for gain in gains]
        for seed in range(trials, trials + (trials if not name else trials // 3)):
            test_rows, gain = 2_000 + seed % 1_001, gains[seed % len(gains)]
            verdict = world.first(test_rows, seed, changes[seed % len(gains)])
            held += verdict.outcome is Outcome.HOLD
            if verdict.outcome is Outcome.HOLD and (said := verdict.measured.get("labels_needed")):
                stated += 1
                needed = (reach / gain) ** 2 - test_rows
                near += max(said / needed, needed / said) <= 1.5
                raw = (said + test_rows) * (GATE.expected_gain / verdict.measured["gain"]) ** 2 - test_rows
                by_observed += raw > 0 and max(raw / needed, needed / raw) <= 1.5
        note = (
            f"of {stated} numbers stated in {held} HOLDs on 2,000 to 3,000 test rows at a true gain of "
            f"{' to '.join(f'{gain:g}' for gain in sorted({gains[0], gains[-1]}))}; the gate counts for "
            f"{GATE.expected_gain:g} (gate.expected_gain) and says so; needed is what promotes {POWER:.0%} of such "
            f"candidates by the whole verdict (at that gain {(reach / GATE.expected_gain) ** 2:,.0f} "
            f"rows); counted by the observed gain it would be {by_observed / max(stated, 1):.2f}"
        )
        yield _share(f"labels_needed_within_1_5x{name}", near, stated, note)


def _reach(signal: Floats, promoted: npt.NDArray[np.bool_]) -> float:
    """The signal at which POWER of the trials promote: between the means of 12 groups of equal size."""
    order = np.array_split(np.argsort(signal), 12)
    shares = np.maximum.accumulate([promoted[group].mean() for group in order])
    return float(np.interp(POWER, shares, [signal[group].mean() for group in order]))


def _speed(world: World) -> Row:
    chance = np.random.default_rng(SEED)
    at, who, champion = world.draw(20_000, chance)
    candidate, parts = world.candidate(at, who, chance, None), world.pool.parts(at)
    seconds = []
    for _ in range(5):
        began = time.process_time()
        compare(world.pool.labels[at], candidate, champion, gate=GATE, seed=SEED, parts=parts, behaviour_floors=FLOORS)
        seconds.append(time.process_time() - began)
    return Row("compare_20k/cpu_ms", round(min(seconds) * 1e3, 1), "ms", "lower", n=5, note=f"{len(parts)} parts")


def _share(name: str, hits: int, trials: int, note: str, *, better: Better = "higher") -> Row:
    """A share of trials with its Wilson limits; one of goals.json where it is named there."""
    value = round(hits / trials, 4) if trials else None
    limits, told = wilson(hits, trials), f"{note}; spread is the 95% Wilson limits"
    if name in {goal.name for goal in goals() if goal.area == AREA}:
        return goal_row(AREA, name, value, spread=limits, n=trials, note=told)
    return Row(name, value, "share", better, spread=limits, n=trials, note=told)


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """The 95% Wilson limits of a share.

    >>> wilson(50, 2000)
    (0.019, 0.0328)
    """
    if not trials:
        return 0.0, 1.0
    z, share = 1.959964, hits / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    reach = z * math.sqrt(share * (1 - share) / trials + (z / (2 * trials)) ** 2) / (1 + z * z / trials)
    return float(round(max(middle - reach, 0.0), 4)), float(round(min(middle + reach, 1.0), 4))
