"""The measurement of flipped bits, on a bundle that a training packed."""

from __future__ import annotations

from bench.bundle import flip_rows


def test_every_bundle_with_a_flipped_bit_counts_as_refused() -> None:
    (row,) = flip_rows(30)
    assert (row.name, row.value, row.goal, row.n) == ("bit_flips_refused", 1.0, 1.0, 30)
    assert "30 of 30 bundles" in row.note
