"""What labels say of performance, and confidence without them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest

from mobile_sentiment_ops.errors import TooFewRows
from mobile_sentiment_ops.models.evaluation import macro_f1 as macro_f1_of_counts
from mobile_sentiment_ops.models.intervals import macro_f1_interval
from mobile_sentiment_ops.monitoring.performance import (
    Confidence,
    confidence_counts,
    estimated_performance,
    live_performance,
    macro_f1,
)
from mobile_sentiment_ops.monitoring.shares import GRID, Cells, Shares, class_shares, grid_cells

Floats = npt.NDArray[np.float64]
MIX = np.array([0.3, 0.15, 0.55])
CHANCES = np.array([[0.75, 0.15, 0.10], [0.3, 0.4, 0.3], [0.05, 0.1, 0.85]])
"""What is answered, by what is true."""
MACRO_F1 = macro_f1(MIX[:, None] * CHANCES)[0]


def labelled(rows: int, seed: int, *, mix: Floats = MIX, chances: Floats = CHANCES, **names: str) -> pl.DataFrame:
    chance = np.random.default_rng(seed)
    truth = chance.choice(3, rows, p=mix)
    predicted = (chance.random(rows)[:, None] > chances[truth].cumsum(axis=1)).sum(axis=1).clip(max=2)
    return pl.DataFrame({"truth": truth, "predicted": predicted}).with_columns(
        **{name: pl.lit(value) for name, value in names.items()}
    )


TESTED = labelled(8_000, 0)
WORSE = 0.75 * CHANCES + 0.25 / 3


def test_macro_f1_is_that_of_the_evaluation_and_its_slope_that_of_small_steps() -> None:
    counts = np.array([[40, 5, 3], [8, 20, 6], [2, 7, 60]])
    shares = counts / counts.sum()
    value, slope = macro_f1(shares)
    assert value == pytest.approx(float(macro_f1_of_counts(counts)))
    for at in np.ndindex(3, 3):
        step = np.zeros((3, 3))
        step[at] = 1e-6
        assert (macro_f1(shares + step)[0] - macro_f1(shares - step)[0]) / 2e-6 == pytest.approx(slope[at], abs=1e-5)


def test_the_interval_is_that_of_resamples() -> None:
    rows = labelled(400, 3)
    first = live_performance(rows, TESTED).measured[0]
    drawn = macro_f1_interval(rows["truth"].to_numpy(), rows["predicted"].to_numpy(), seed=0)
    assert first.value == pytest.approx(drawn.value)
    assert first.low == pytest.approx(drawn.low, abs=0.01)
    assert first.high == pytest.approx(drawn.high, abs=0.01)


def chosen(rows: int, seed: int) -> pl.DataFrame:
    """Labels of which a queue chose most: those that were answered wrongly are three times as likely to be there."""
    chance = np.random.default_rng([1, seed])
    pool = labelled(8 * rows, seed)
    likely = np.where(pool["truth"] == pool["predicted"], 1.0, 3.0)
    at = chance.choice(pool.height, rows, p=likely / likely.sum())
    return pool[at].with_columns(weight=pl.Series(1 / likely[at]))


def test_labels_that_a_queue_chose_count_by_the_inverse_of_their_chance() -> None:
    weighted = [live_performance(chosen(300, seed), TESTED).measured[0] for seed in range(200)]
    held = sum(one.low <= MACRO_F1 <= one.high for one in weighted if one.low is not None and one.high is not None)
    assert 180 <= held <= 199
    blind = [live_performance(chosen(300, seed).drop("weight"), TESTED).measured[0] for seed in range(20)]
    assert all(one.high is not None and one.high < MACRO_F1 for one in blind)


def test_uneven_weights_make_labels_worth_less_and_say_so() -> None:
    rows = labelled(200, 5).with_columns(weight=pl.Series([1.0] * 190 + [60.0] * 10))
    said = live_performance(rows, TESTED)
    assert said.loss.value is None
    assert said.loss.reason == "not measured: only 200, worth 17 drawn evenly, of 100 labels"
    alike = live_performance(rows.with_columns(weight=pl.lit(7.0)), TESTED).measured[0]
    plain = live_performance(rows.drop("weight"), TESTED).measured[0]
    assert alike.value == pytest.approx(plain.value)
    assert alike.low == pytest.approx(plain.low)


def share_fired(windows: int, rows: int, **how: Any) -> float:
    return (
        sum(live_performance(labelled(rows, 100 + seed, **how), TESTED).loss.fired for seed in range(windows)) / windows
    )


def test_a_loss_is_found_with_500_labels_and_chance_is_none() -> None:
    lost = MACRO_F1 - macro_f1(MIX[:, None] * WORSE)[0]
    assert lost == pytest.approx(0.09, abs=0.01)
    assert share_fired(100, 500, chances=WORSE) >= 0.9
    assert share_fired(400, 500) <= 0.07
    assert share_fired(400, 100) <= 0.07


def test_people_who_feel_otherwise_are_no_loss() -> None:
    mix = np.array([0.7, 0.15, 0.15])
    assert abs(MACRO_F1 - macro_f1(mix[:, None] * CHANCES)[0]) > 0.02
    assert share_fired(200, 2_000, mix=mix) <= 0.07


def test_a_trifle_that_many_labels_prove_is_none() -> None:
    trifle = 0.97 * CHANCES + 0.03 / 3
    loss = live_performance(labelled(60_000, 1, chances=trifle), labelled(60_000, 2)).loss
    assert loss.low is not None
    assert loss.low > 0
    assert not loss.fired
    assert loss.reason.endswith("which is surely less than the 0.05 that may be lost")


def test_a_loss_says_from_what_to_what_and_its_limit() -> None:
    loss = live_performance(labelled(2_000, 7, chances=WORSE), TESTED).loss
    assert loss.value is not None
    assert loss.limit is not None
    assert loss.fired is (loss.value > loss.limit)
    assert loss.fired
    assert loss.reason.startswith("macro-F1 fell from 0.6")
    assert loss.reason.endswith("by 2,000 labels, which is no chance")


def test_a_target_is_missed_when_macro_f1_is_surely_below_it() -> None:
    rows = labelled(1_000, 4)
    assert live_performance(rows, TESTED, target=MACRO_F1 + 0.1).loss.fired
    assert not live_performance(rows, TESTED, target=MACRO_F1).loss.fired
    assert not live_performance(labelled(1_000, 4, chances=WORSE), TESTED, target=0.4).loss.fired


def window(bad: str) -> pl.DataFrame:
    """Two versions of two apps, one of which went bad."""
    parts = []
    for at, (app, version) in enumerate((app, version) for app in ("lamp", "bell") for version in ("1.0", "1.1")):
        chances = 0.5 * CHANCES + 0.5 / 3 if f"{app} {version}" == bad else CHANCES
        parts.append(labelled(400, 10 * at, chances=chances, app=app, version=version, language="en"))
    return pl.concat(parts)


def test_the_version_that_lost_is_named_and_no_other() -> None:
    tested = TESTED.with_columns(app=pl.Series(["lamp", "bell"] * 4_000), version=pl.lit("0.9"), language=pl.lit("en"))
    said = live_performance(window("bell 1.1"), tested)
    fired = [dict(one.part) for one in said.measured if one.fired and one.part]
    assert {"app": "bell", "version": "1.1"} in fired
    assert all(part["app"] == "bell" for part in fired)
    assert {"app": "lamp", "version": "1.0"} in [dict(one.part) for one in said.measured]
    assert all("language" not in one.part for one in said.measured)  # it is all there is
    quiet = live_performance(window("none"), tested)
    assert not quiet.loss.fired
    assert quiet.loss.part == {}


def test_a_slice_is_compared_with_its_own_app() -> None:
    hard = 0.5 * CHANCES + 0.5 / 3
    tested = pl.concat([labelled(3_000, 1, app="lamp"), labelled(3_000, 2, app="bell", chances=hard)])
    now = pl.concat([labelled(1_000, 3, app="lamp"), labelled(1_000, 4, app="bell", chances=hard)])
    assert not any(one.fired for one in live_performance(now, tested).measured)
    assert live_performance(now, tested.with_columns(app=pl.lit(None, pl.Utf8()))).loss.part == {"app": "bell"}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (labelled(0, 0), "0 of 100 labels"),
        (labelled(99, 0), "99 of 100 labels"),
        (labelled(300, 0, mix=np.array([0.4, 0.0, 0.6])), "0 of 5 labels Neutral"),
    ],
)
def test_too_few_labels_are_no_figure(rows: pl.DataFrame, reason: str) -> None:
    said = live_performance(rows, TESTED)
    assert [one.value for one in said.measured] == [None, None, None]
    assert {one.reason for one in said.measured} == {f"not measured: only {reason}"}
    assert not said.loss.fired


def test_a_test_without_a_class_is_refused() -> None:
    with pytest.raises(TooFewRows, match="only 0 of 5 labels Positive; expected 5 of each"):
        live_performance(labelled(200, 1), TESTED.filter(pl.col("truth") < 2))


# --- without labels


def scored(rows: int, seed: int, *, mix: Floats = MIX, boast: float = 1.6) -> tuple[Floats, Any, Any]:
    """Probabilities that boast, what is answered, and what is true."""
    chance = np.random.default_rng(seed)
    truth = chance.choice(3, rows, p=mix)
    likely = MIX * np.exp(boast * 1.5 * chance.normal(1.5 * np.eye(3)[truth]))
    p = likely / likely.sum(axis=1, keepdims=True)
    return p, p.argmax(axis=1), truth


KNOWN = Confidence.of(*scored(8_000, 0))


def test_accuracy_without_labels_is_near_where_confidence_boasts() -> None:
    errors, boasts, held = [], [], 0
    for seed in range(100):
        p, predicted, truth = scored(2_000, 10 + seed)
        accuracy, macro = estimated_performance(confidence_counts(p, predicted), KNOWN)
        right = (predicted == truth).mean()
        assert accuracy.value is not None
        assert macro.value is not None
        errors.append(abs(accuracy.value - right))
        boasts.append(abs(p.max(axis=1).mean() - right))
        held += (accuracy.low or 0) <= right <= (accuracy.high or 0)
    assert np.mean(errors) < 0.015
    assert np.mean(boasts) > 3 * np.mean(errors)
    assert held >= 90


def test_shares_that_moved_bias_it_unless_they_are_given() -> None:
    mix = np.array([0.2, 0.7, 0.1])
    p, predicted, truth = scored(6_000, 3, mix=mix)
    counts, right = confidence_counts(p, predicted), (predicted == truth).mean()
    known = Shares(mix, np.zeros((3, 3)))
    (blind, _), (told, macro) = estimated_performance(counts, KNOWN), estimated_performance(counts, KNOWN, shares=known)
    assert abs((blind.value or 0) - right) > 0.02
    assert told.value == pytest.approx(right, abs=0.01)
    table = np.bincount(truth * 3 + predicted, minlength=9).reshape(3, 3)
    assert macro.value == pytest.approx(float(macro_f1_of_counts(table)), abs=0.03)
    assert "bias it" in blind.reason
    assert "bias it" not in told.reason


def test_its_interval_holds_the_error_of_shares_that_were_found() -> None:
    p, _, truth = scored(8_000, 0)
    cells, held, narrow = Cells.of(grid_cells(p), p, truth, GRID * GRID), 0, 0
    for seed in range(200):
        p, predicted, truth = scored(1_000, 100 + seed, mix=np.array([0.3, 0.5, 0.2]))
        found = class_shares(np.bincount(grid_cells(p), minlength=GRID * GRID), cells)
        for shares in (found, Shares(found.values, np.zeros((3, 3)))):
            one, _ = estimated_performance(confidence_counts(p, predicted), KNOWN, shares=shares)
            holds = (one.low or 0) <= (predicted == truth).mean() <= (one.high or 0)
            held, narrow = (held + holds, narrow) if shares is found else (held, narrow + holds)
    assert held >= 180
    assert narrow < held


def test_it_fires_when_reviews_are_much_harder_and_not_when_they_are_like_the_tests() -> None:
    p, predicted, _ = scored(2_000, 4)
    sure = p.max(axis=1)
    alike, harder = (
        estimated_performance(confidence_counts(p[of], predicted[of]), KNOWN) for of in (sure > 0, sure < 0.8)
    )
    assert [one.fired for one in alike] == [False, False]
    assert [one.fired for one in harder] == [True, True]


def test_too_few_reviews_are_no_figure() -> None:
    p, predicted, _ = scored(49, 5)
    said = estimated_performance(confidence_counts(p, predicted), KNOWN)
    assert [one.value for one in said] == [None, None]
    assert said[0].reason == "not measured: only 49 of 50 reviews"


def test_a_bin_that_the_test_had_none_of_is_taken_at_its_word() -> None:
    few = Confidence.of(np.array([[0.9, 0.05, 0.05]]), np.array([0]), np.array([0]))
    assert few.chances.sum(axis=2) == pytest.approx(np.ones((3, 20)))
    assert few.chances[2, 10, 2] == pytest.approx(0.525)


def test_counts_are_those_of_a_sketch() -> None:
    p, predicted, truth = scored(500, 6)
    counts = confidence_counts(p, predicted)
    assert counts.sum() == 500
    assert Confidence.of(p, predicted, truth).counts.sum(axis=2).tolist() == counts.tolist()
    assert confidence_counts(np.array([[0.0, 0.0, 1.0]]), np.array([2]))[2, 19] == 1
