"""Model bundles in local folders, each named by the hash of its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mobile_sentiment_ops.disk import PART, read_folder, sweep, write_folder
from mobile_sentiment_ops.errors import NotFound, StoreError
from mobile_sentiment_ops.ports import checked_name


class FolderBundles:
    """One folder a bundle. Storing a bundle again mends a copy whose files were changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, files: Mapping[str, bytes], bundle_hash: str) -> None:
        path = self._at(bundle_hash)
        for name in files:
            checked_name(name)
        sweep(self._folder)
        try:
            write_folder(path, files)
        except OSError as err:
            raise StoreError(f"bundle {bundle_hash} cannot be written to {self._folder}: {err}") from err

    def get(self, bundle_hash: str) -> dict[str, bytes]:
        path = self._at(bundle_hash)
        if not path.is_dir():
            there = ", ".join(self.list()) or "none"
            raise NotFound(f"there is no bundle {bundle_hash} in {self._folder}; there are: {there}")
        try:
            return read_folder(path)
        except OSError as err:
            raise StoreError(f"bundle {bundle_hash} cannot be read from {self._folder}: {err}") from err

    def path(self, bundle_hash: str) -> Path | None:
        path = self._at(bundle_hash)
        return path if path.is_dir() else None

    def list(self) -> list[str]:
        return sorted(found.name for found in self._folder.glob("*") if not found.name.startswith(PART))

    def _at(self, bundle_hash: str) -> Path:
        return self._folder / checked_name(bundle_hash, flat=True)
