"""What every `Datasets` does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mobile_sentiment_ops.adapters.datasets import FolderDatasets
from mobile_sentiment_ops.errors import NotFound
from mobile_sentiment_ops.ports import Datasets


@pytest.fixture
def datasets(tmp_path: Path) -> Datasets:
    return FolderDatasets(tmp_path / "datasets")


def test_manifests_are_listed_oldest_first(datasets: Datasets) -> None:
    assert datasets.list() == []
    for fingerprint in ("cc01", "aa02", "bb03"):
        datasets.put(fingerprint, b"PAR1" + fingerprint.encode())
        time.sleep(0.01)
    assert datasets.list() == ["cc01", "aa02", "bb03"]
    assert datasets.get("aa02") == b"PAR1aa02"


def test_what_is_there_is_never_changed(datasets: Datasets) -> None:
    datasets.put("aa02", b"first")
    datasets.put("aa02", b"first")
    datasets.put("aa02", b"other")
    assert datasets.get("aa02") == b"first"
    assert datasets.list() == ["aa02"]


def test_the_beginning_of_a_fingerprint_is_enough(datasets: Datasets) -> None:
    for fingerprint in ("aa01", "aa02", "bb03"):
        datasets.put(fingerprint, fingerprint.encode())
    assert datasets.get("b") == b"bb03"
    assert datasets.get("aa01") == b"aa01"
    for unclear in ("aa", "cc", ""):
        with pytest.raises(NotFound, match="fingerprint"):
            datasets.get(unclear)
