"""Class shares from probabilities."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from mobile_sentiment_ops.errors import TooFewRows
from mobile_sentiment_ops.monitoring.shares import (
    BEFORE,
    GRID,
    Cells,
    Shares,
    class_shares,
    difference,
    grid_cells,
    inside,
)

Floats = npt.NDArray[np.float64]
PRIOR = np.array([0.25, 0.15, 0.6])
CELLS = GRID * GRID


def reviews(shares: Floats, rows: int, seed: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Probabilities, right at the shares PRIOR, of reviews whose classes have other shares; and their classes."""
    chance = np.random.default_rng(seed)
    truth = chance.choice(3, rows, p=shares)
    seen = chance.normal(1.5 * np.eye(3)[truth])
    likely = PRIOR * np.exp(1.5 * seen)
    return likely / likely.sum(axis=1, keepdims=True), truth


def counts(p: Floats) -> npt.NDArray[np.int64]:
    return np.bincount(grid_cells(p), minlength=CELLS)


def reference(seed: int = 0, rows: int = 10_000) -> Cells:
    p, truth = reviews(PRIOR, rows, seed)
    return Cells.of(grid_cells(p), p, truth, CELLS)


@pytest.mark.parametrize("negative", [0.02, 0.25, 0.7])
def test_shares_that_moved_are_found_where_counting_sees_less(negative: float) -> None:
    p, truth = reviews(np.array([negative, 0.15, 0.85 - negative]), 4_000, 1)
    true = (truth == 0).mean()
    assert class_shares(counts(p), reference()).values[0] == pytest.approx(true, abs=0.03)
    assert class_shares(np.ones(len(p)), Cells(p, PRIOR)).values[0] == pytest.approx(true, abs=0.03)


def test_the_shares_are_those_that_expectation_and_maximisation_climbs_to() -> None:
    cells = reference()
    window = counts(reviews(np.array([0.6, 0.1, 0.3]), 500, 2)[0])
    shares, ratios = PRIOR.copy(), cells.posteriors / cells.prior
    for _ in range(5_000):
        found = ratios * shares / (ratios @ shares)[:, None]
        shares = (window @ found + BEFORE * cells.prior) / (window.sum() + BEFORE)
    assert class_shares(window, cells).values == pytest.approx(shares, abs=1e-6)


def test_windows_at_once_are_what_each_is_alone() -> None:
    cells = reference()
    sizes = [(0, 1, 7), (50, 400, 3_000)]
    windows = np.array([[counts(reviews(PRIOR, rows, rows)[0]) for rows in line] for line in sizes])
    found = class_shares(windows, cells)
    assert found.values.shape == (2, 3, 3)
    for at in np.ndindex(2, 3):
        alone = class_shares(windows[at], cells)
        assert found.values[at] == pytest.approx(alone.values, abs=1e-9)
        assert found.covariance[at] == pytest.approx(alone.covariance, rel=1e-6)
        assert found.interval(*at).value == found.values[(*at, 0)]


def test_no_review_says_what_the_reference_says_and_that_it_may_be_anything() -> None:
    cells = reference()
    found = class_shares(np.zeros(CELLS), cells)
    assert found.values == pytest.approx(cells.prior)
    ends = found.interval()
    assert 0 < ends.low < 0.1
    assert 0.7 < ends.high < 1


@pytest.mark.parametrize("row", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
def test_sure_probabilities_leave_finite_shares_within_0_and_1(row: list[float]) -> None:
    found = class_shares(np.full(1, 300), Cells(np.array([row]), PRIOR))
    assert np.isfinite(found.covariance).all()
    assert (found.values > 0).all()
    assert found.values.sum() == pytest.approx(1)
    assert found.values[np.argmax(row)] > 0.99
    ends = found.interval(label=int(np.argmax(row)))
    assert 0 < ends.low < ends.value < ends.high < 1


def test_intervals_hold_the_share_in_95_of_100_windows_though_the_reference_is_small() -> None:
    held, narrow = 0, 0
    for seed in range(300):
        cells = reference(1_000 + seed, 1_500)
        window = counts(reviews(np.array([0.5, 0.15, 0.35]), 1_500, 5_000 + seed)[0])
        found, certain = (class_shares(window, of).interval() for of in (cells, Cells(cells.posteriors, cells.prior)))
        held += found.low <= 0.5 <= found.high
        narrow += certain.low <= 0.5 <= certain.high
    assert 270 <= held <= 297
    assert narrow < held


def test_a_rise_is_told_with_an_interval_and_none_where_nothing_rose() -> None:
    cells = reference()
    before, same, after = (
        class_shares(counts(reviews(shares, 2_000, seed)[0]), cells)
        for seed, shares in ((1, PRIOR), (2, PRIOR), (3, np.array([0.4, 0.15, 0.45])))
    )
    assert difference(before, same).low < 0 < difference(before, same).high
    rise = difference(before, after)
    assert 0.08 < rise.low < 0.15 < rise.high < 0.22
    assert difference(before, after, label=2).high < 0


def test_a_rise_stays_within_what_shares_can_do() -> None:
    unsure = np.eye(3)
    none, all_ = (Shares(np.array(values), unsure) for values in ([0.01, 0.01, 0.98], [0.98, 0.01, 0.01]))
    assert (difference(none, all_).high, difference(all_, none).low) == (1.0, -1.0)


def test_a_reference_without_a_class_is_refused() -> None:
    p, _ = reviews(PRIOR, 10, 1)
    with pytest.raises(TooFewRows, match="Neutral has none of 10 test rows"):
        Cells.of(grid_cells(p), p, np.array([0, 2] * 5), CELLS)


def test_a_share_of_0_or_1_has_an_interval_too() -> None:
    assert inside(1.0, 0.1).high == 1.0
    assert inside(0.0, 0.0).low == 0.0
