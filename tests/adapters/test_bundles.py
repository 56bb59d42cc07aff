"""Bundles in folders: what is special to a disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mobile_sentiment_ops.adapters.bundles import FolderBundles
from mobile_sentiment_ops.errors import NotFound, StoreError

FILES = {"manifest.json": b"{}", "parts/card.json": b'{"kind": "lr"}'}


def test_a_bundle_has_a_folder_that_libraries_can_map(tmp_path: Path) -> None:
    bundles = FolderBundles(tmp_path)
    bundles.put(FILES, "aa11")
    path = bundles.path("aa11")
    assert path is not None
    assert (path / "parts" / "card.json").read_bytes() == FILES["parts/card.json"]


def test_storing_a_bundle_again_mends_what_was_changed(tmp_path: Path) -> None:
    bundles = FolderBundles(tmp_path)
    bundles.put(FILES, "aa11")
    (tmp_path / "aa11" / "manifest.json").write_bytes(b"changed")
    (tmp_path / "aa11" / "parts" / "card.json").unlink()
    bundles.put(FILES, "aa11")
    assert bundles.get("aa11") == FILES


def test_processes_that_store_the_same_bundle_agree(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: FolderBundles(tmp_path).put(FILES, "aa11"), range(12)))
    assert FolderBundles(tmp_path).get("aa11") == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["aa11"]


def test_the_error_names_the_bundles_that_are_there(tmp_path: Path) -> None:
    bundles = FolderBundles(tmp_path)
    bundles.put(FILES, "aa11")
    (tmp_path / ".part-0123").mkdir()
    with pytest.raises(NotFound, match=r"no bundle bb22 .*; there are: aa11$"):
        bundles.get("bb22")


@pytest.mark.parametrize("bundle_hash", ["", "../aa11", "aa/11", ".part-0123", ".."])
def test_a_hash_that_leads_elsewhere_is_refused(tmp_path: Path, bundle_hash: str) -> None:
    with pytest.raises(StoreError):
        FolderBundles(tmp_path).put(FILES, bundle_hash)
    with pytest.raises(StoreError):
        FolderBundles(tmp_path).get(bundle_hash)


def test_a_file_name_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="outside"):
        FolderBundles(tmp_path / "bundles").put({"../outside": b"x"}, "aa11")
    assert not list(tmp_path.iterdir())
