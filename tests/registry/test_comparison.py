from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from mobile_sentiment_ops.models.evaluation import MAX_SLICES, MIN_SLICE_ROWS, confusion_matrix, macro_f1
from mobile_sentiment_ops.models.intervals import paired_intervals
from mobile_sentiment_ops.registry.comparison import (
    NORMAL,
    Part,
    answer_cells,
    answer_tables,
    f1_gains,
    find_parts,
    mcnemar,
    part_losses,
    rows_to_tell,
)


def models(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and two models that know most of them."""
    draw = np.random.default_rng(seed)
    labels = draw.choice(3, count, p=[0.3, 0.15, 0.55])
    guesses = (np.where(draw.random(count) < share, labels, draw.integers(0, 3, count)) for share in (0.6, 0.55))
    return (labels, *guesses)  # type: ignore[return-value]


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_exact_binomial_test(mended: int, spoiled: int) -> None:
    expected = binomtest(mended, mended + spoiled).pvalue if mended + spoiled else 1.0
    assert mcnemar(mended, spoiled) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_bears_many_rows() -> None:
    assert mcnemar(1_000_000, 1_000_000) == pytest.approx(1.0, abs=0.01)
    assert mcnemar(0, 5_000) == 0.0


@given(st.integers(0, 10_000), st.integers(3, 60))
def test_gains_are_differences_of_macro_f1(seed: int, count: int) -> None:
    labels, candidate, champion = models(count, seed)
    gains, errors = f1_gains(answer_tables(answer_cells(labels, candidate, champion), [np.arange(count)])[0])
    ours, theirs = (float(macro_f1(confusion_matrix(labels, decided))) for decided in (candidate, champion))
    assert gains[-1] == pytest.approx(ours - theirs)
    assert (errors >= 0).all()
    assert not f1_gains(answer_tables(answer_cells(labels, champion, champion), [np.arange(count)])[0])[1].any()


def test_standard_errors_are_those_of_drawing_again() -> None:
    labels, candidate, champion = models(3_000)
    _, errors = f1_gains(answer_tables(answer_cells(labels, candidate, champion), [np.arange(3_000)])[0])
    gain = paired_intervals(labels, candidate, champion, seed=0, samples=4_000, confidence=0.9)[2]
    assert (gain.high - gain.low) / 2 / NORMAL.inv_cdf(0.95) == pytest.approx(errors[-1], rel=0.05)


def test_losses_of_parts_are_of_their_rows_alone() -> None:
    labels, candidate, champion = models(900)
    rows = np.arange(300, 600)
    *by_label, loss = part_losses(labels, candidate, champion, [Part("app torch", rows)])
    alone = part_losses(labels[rows], candidate[rows], champion[rows], [Part("app torch", np.arange(300))])[-1]
    assert loss.rows == 300
    assert (loss.loss, loss.error) == pytest.approx((alone.loss, alone.error))
    assert [found.name for found in by_label] == ["label Negative", "label Neutral", "label Positive"]
    assert sum(found.rows for found in by_label) == 900


def test_parts_are_the_largest_with_enough_rows() -> None:
    apps = [f"app{n}" for n in range(MAX_SLICES + 10) for _ in range(MIN_SLICE_ROWS + n)]
    versions = ["1.0"] * (MIN_SLICE_ROWS - 1) + [None] * (len(apps) - MIN_SLICE_ROWS + 1)
    parts = find_parts({"app": apps, "version": versions})
    assert len(parts) == MAX_SLICES
    assert parts[0].name == f"app app{MAX_SLICES + 9}"
    assert {apps[at] for at in parts[0].rows} == {f"app{MAX_SLICES + 9}"}
    assert len(find_parts({"app": [None] * 100 + ["lamp"] * 100, "language": ["en"] * 200})) == 2


@given(st.floats(0.002, 0.02), st.floats(0.004, 0.02), st.sampled_from([0.005, 0.025]), st.sampled_from([0.5, 0.8]))
def test_with_the_rows_to_tell_a_gain_it_is_told_with_that_power(
    gain: float, error: float, level: float, power: float
) -> None:
    rows = rows_to_tell(gain, error, 2_000, level=level, power=power)
    then = error * (2_000 / rows) ** 0.5
    assert NORMAL.cdf(gain / then - NORMAL.inv_cdf(1 - level)) == pytest.approx(power, abs=0.02)
