"""Manifests in a folder: what is special to a disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobile_sentiment_ops.adapters.datasets import FolderDatasets
from mobile_sentiment_ops.errors import NotFound, StoreError


def test_a_manifest_is_a_parquet_file_by_its_name(tmp_path: Path) -> None:
    FolderDatasets(tmp_path).put("aa01", b"PAR1")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("aa01.parquet", b"PAR1")]


def test_what_a_crash_left_half_written_does_not_count(tmp_path: Path) -> None:
    datasets = FolderDatasets(tmp_path)
    (tmp_path / ".part-0123").write_bytes(b"PA")
    assert datasets.list() == []
    with pytest.raises(NotFound, match=r"no datasets .*; there are: none$"):
        datasets.get("aa01")


@pytest.mark.parametrize("fingerprint", ["", "../aa01", "aa/01", ".part-0123"])
def test_a_fingerprint_that_leads_elsewhere_is_refused(tmp_path: Path, fingerprint: str) -> None:
    with pytest.raises(StoreError):
        FolderDatasets(tmp_path / "datasets").put(fingerprint, b"PAR1")
    assert not list(tmp_path.iterdir())
