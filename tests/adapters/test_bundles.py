"""Bundles in folders: what is special to a disk."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
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


PUT_AGAIN_AND_AGAIN = """
import itertools, sys
from pathlib import Path
from mobile_sentiment_ops.adapters.bundles import FolderBundles
bundles = FolderBundles(Path(sys.argv[1]))
print("ready", flush=True)
for number in itertools.count():
    files = {f"model/{part}.npy": bytes([number % 256]) * 20_000 for part in range(12)}
    bundles.put({**files, "manifest.json": b"last"}, f"bundle-{number}")
    bundles.put({**files, "manifest.json": str(number).encode()}, "replaced")
"""


def test_a_writer_killed_at_any_moment_leaves_whole_bundles(
    tmp_path: Path, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    for delay in (0.0, 0.013, 0.05, 0.11):
        writer = start_python(PUT_AGAIN_AND_AGAIN, str(tmp_path))
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        bundles = FolderBundles(tmp_path)
        for name in bundles.list():
            files = bundles.get(name)
            assert len(files) == 13
            assert files["model/0.npy"] == files["model/11.npy"]
    assert bundles.list()


FULL = """
import resource, sys
from pathlib import Path
from mobile_sentiment_ops.adapters.bundles import FolderBundles
from mobile_sentiment_ops.errors import StoreError
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    FolderBundles(Path(sys.argv[1])).put({"model/a.npy": b"a", "model/b.npy": bytes(60_000)}, "aa11")
except StoreError as err:
    print(err)
"""


def test_a_bundle_that_the_disk_does_not_take_leaves_nothing(
    tmp_path: Path, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    told = start_python(FULL, str(tmp_path)).communicate(timeout=60)[0]
    assert told.startswith(f"bundle aa11 cannot be written to {tmp_path}: ")
    assert not list(tmp_path.iterdir())
