from __future__ import annotations

import importlib.util
from pathlib import Path

import polars as pl
import pytest

from bench.splits import benchmark_splits

COLUMNS = ["review_id", "app", "submitted_at", "rating", "review_text", "label"]


def test_the_rows_are_those_of_the_reference(shared_data: Path) -> None:
    file = shared_data.parent / "splits.py"
    if not file.is_file():
        pytest.skip(f"no {file}")
    spec = importlib.util.spec_from_file_location("reference_splits", file)
    assert spec is not None
    assert spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)

    expected = {(dataset, split): parts for dataset, split, *parts in reference.splits(shared_data)}
    found = {(split.dataset, split.split): split for split in benchmark_splits(shared_data)}
    assert list(found) == list(expected)
    for name, split in found.items():
        for ours, theirs in zip((split.train, split.test), expected[name], strict=True):
            rows = pl.from_pandas(theirs[COLUMNS]).cast({"label": pl.Int8})
            assert ours.select(COLUMNS).equals(rows.cast({"submitted_at": pl.Datetime("us", "UTC")})), name
