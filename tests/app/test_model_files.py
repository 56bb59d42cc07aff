from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from mobile_sentiment_ops.adapters.bundles import FolderBundles
from mobile_sentiment_ops.adapters.memory import MemoryPorts
from mobile_sentiment_ops.app.model_files import open_bundle
from mobile_sentiment_ops.disk import read_folder
from mobile_sentiment_ops.errors import BundleError, NotFound, StoreError, Unavailable
from mobile_sentiment_ops.ports import TrainingRun

FILES = read_folder(Path(__file__).parents[1] / "fixtures" / "bundle_format_1")
HASH = sha256(FILES["manifest.json"]).hexdigest()
DAMAGED = {**FILES, "card.json": b"{}"}


@pytest.fixture
def registered(memory: MemoryPorts, training_run: Callable[..., TrainingRun]) -> MemoryPorts:
    """Ports whose registry has the bundle as version 1."""
    memory.registry.record(replace(training_run("lr"), bundle=FILES, bundle_hash=HASH))
    return memory


def test_the_local_disk_is_enough(memory: MemoryPorts) -> None:
    memory.bundles.put(FILES, HASH)
    assert open_bundle(memory.bundles, memory.registry, "1", HASH).model.kind == "lr"


@pytest.mark.parametrize("local", [None, DAMAGED])
def test_what_the_local_disk_lacks_or_spoiled_comes_from_the_registry(
    registered: MemoryPorts, local: Mapping[str, bytes] | None
) -> None:
    if local is not None:
        registered.bundles.put(local, HASH)
    assert open_bundle(registered.bundles, registered.registry, "1", HASH).model.kind == "lr"
    assert registered.bundles.get(HASH) == FILES


def test_a_registry_that_is_away_is_told_beside_the_local_fault(registered: MemoryPorts) -> None:
    registered.bundles.put(DAMAGED, HASH)
    registered.registry.away = True
    with pytest.raises(
        Unavailable, match=r"version 1: the registry is away \(on the local disk: .*card.json was changed"
    ):
        open_bundle(registered.bundles, registered.registry, "1", HASH)


def test_files_that_were_changed_in_the_registry_are_refused_and_not_kept(registered: MemoryPorts) -> None:
    registered.registry.runs[0] = replace(registered.registry.runs[0], bundle=DAMAGED)
    with pytest.raises(BundleError, match=r"card\.json was changed"):
        open_bundle(registered.bundles, registered.registry, "1", HASH)
    with pytest.raises(NotFound):
        registered.bundles.get(HASH)


def test_an_unknown_version_is_not_found(memory: MemoryPorts) -> None:
    with pytest.raises(NotFound, match="model version 1"):
        open_bundle(memory.bundles, memory.registry, "1", HASH)


class BrokenDisk(FolderBundles):
    def put(self, files: Mapping[str, bytes], bundle_hash: str) -> None:
        raise StoreError("no space left")

    def get(self, bundle_hash: str) -> dict[str, bytes]:
        raise StoreError("cannot be read")


def test_a_local_disk_that_fails_keeps_no_model_from_opening(registered: MemoryPorts, tmp_path: Path) -> None:
    assert open_bundle(BrokenDisk(tmp_path), registered.registry, "1", HASH).model.kind == "lr"
