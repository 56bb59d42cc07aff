"""Dataset manifests as local Parquet files, each named by its fingerprint."""

from __future__ import annotations

from pathlib import Path

from mobile_sentiment_ops.disk import sweep, write_file
from mobile_sentiment_ops.errors import NotFound
from mobile_sentiment_ops.ports import checked_name

SUFFIX = ".parquet"


class FolderDatasets:
    """One file a manifest; what is there is never written again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, fingerprint: str, manifest: bytes) -> None:
        path = self._folder / f"{checked_name(fingerprint, flat=True)}{SUFFIX}"
        sweep(self._folder)
        if not path.exists():
            write_file(path, manifest)

    def get(self, fingerprint: str) -> bytes:
        found = [name for name in self.list() if fingerprint and name.startswith(fingerprint)]
        if len(found) != 1:
            there = ", ".join(found or self.list()) or "none"
            raise NotFound(
                f"{len(found) or 'no'} datasets have a fingerprint that starts with {fingerprint!r}; there are: {there}"
            )
        return (self._folder / f"{found[0]}{SUFFIX}").read_bytes()

    def list(self) -> list[str]:
        oldest_first = sorted(self._folder.glob(f"*{SUFFIX}"), key=lambda path: (path.stat().st_mtime_ns, path.name))
        return [path.name.removesuffix(SUFFIX) for path in oldest_first]
