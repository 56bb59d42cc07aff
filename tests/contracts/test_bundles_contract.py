"""What every `Bundles` does."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobile_sentiment_ops.adapters.bundles import FolderBundles
from mobile_sentiment_ops.errors import NotFound
from mobile_sentiment_ops.ports import Bundles

FILES = {"manifest.json": b"{}", "weights.npy": bytes(range(256)), "parts/card.json": b'{"kind": "lr"}'}


@pytest.fixture
def bundles(tmp_path: Path) -> Bundles:
    return FolderBundles(tmp_path / "bundles")


def test_a_bundle_comes_back_whole(bundles: Bundles) -> None:
    bundles.put(FILES, "aa11")
    bundles.put({"manifest.json": b"other"}, "bb22")
    assert bundles.get("aa11") == FILES
    assert bundles.get("bb22") == {"manifest.json": b"other"}


def test_storing_twice_is_harmless(bundles: Bundles) -> None:
    bundles.put(FILES, "aa11")
    bundles.put(FILES, "aa11")
    assert bundles.get("aa11") == FILES


def test_what_is_not_here_is_not_found(bundles: Bundles) -> None:
    with pytest.raises(NotFound, match="aa11"):
        bundles.get("aa11")
    assert bundles.path("aa11") is None


def test_what_a_caller_does_to_the_files_changes_nothing(bundles: Bundles) -> None:
    bundles.put(FILES, "aa11")
    bundles.get("aa11").clear()
    assert bundles.get("aa11") == FILES
