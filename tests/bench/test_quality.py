"""The quality table on a small split: every model is measured, and the table shows what the rows hold."""

from __future__ import annotations

import polars as pl
import pytest

from bench.quality import FIRST, KINDS, PEERS, SKLEARN, choose, measure_languages, measure_split, quality_table
from bench.splits import BenchmarkSplit
from mobile_sentiment_ops.data.demo_world import generate
from mobile_sentiment_ops.settings import Demo


@pytest.fixture(scope="module")
def split() -> BenchmarkSplit:
    """A few hundred synthetic reviews, the later ones as test rows."""
    world = generate(Demo(reviews=1_200))
    label = pl.col("rating").replace_strict({1: 0, 2: 0, 3: 1, 4: 2, 5: 2}, return_dtype=pl.Int8()).alias("label")
    reviews = world.reviews.with_columns(label)
    return BenchmarkSplit("fintech", "temporal", reviews[:900], reviews[900:])


@pytest.mark.integration  # fifteen trainings
def test_every_kind_and_peer_is_measured_on_the_same_rows(split: BenchmarkSplit) -> None:
    rows = {row.name: row for row in measure_split(split, "svc", "svc, as the test says")}
    chosen = rows["macro_f1/fintech/temporal/chosen"]
    assert set(chosen.peers) == set(PEERS)
    assert chosen.goal == 0.58
    assert (chosen.value, "svc, as the test says" in chosen.note) == (rows["macro_f1/fintech/temporal/svc"].value, True)
    for kind in KINDS:
        row = rows[f"macro_f1/fintech/temporal/{kind}"]
        assert row.value is not None
        assert row.spread is not None
        assert row.spread[0] < row.value < row.spread[1]
        assert row.value > chosen.peers["majority"]
    gain = rows["gain_over_sklearn_lr_low/fintech/temporal/chosen"]
    assert gain.goal == 0
    assert chosen.value is not None
    assert float(gain.note) == pytest.approx(chosen.value - chosen.peers[SKLEARN], abs=2e-4)

    table = quality_table([row.as_json() for row in [*rows.values(), *measure_languages(2_000)]])
    assert "| fintech temporal |" in table
    assert "| nbsvm |" in table
    for peer in PEERS:
        assert peer.removeprefix(FIRST) in table


@pytest.mark.integration
def test_the_kind_is_chosen_without_a_look_at_test_rows(split: BenchmarkSplit) -> None:
    """Test rows with the labels turned round choose the same kind by the same figures."""
    spoiled = BenchmarkSplit(split.dataset, split.split, split.train, split.test.with_columns(2 - pl.col("label")))
    assert choose([split]) == choose([spoiled])


def test_without_measurements_the_table_says_so() -> None:
    assert "Not measured yet" in quality_table([])
