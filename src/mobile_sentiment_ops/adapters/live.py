"""What the processes of a server share, as files in a folder: `HASH.model`, `published.json`, `keeper.json`."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from mobile_sentiment_ops.disk import sweep, write_file
from mobile_sentiment_ops.errors import NotFound, StoreError
from mobile_sentiment_ops.ports import KeeperReport, Published, checked_name

SUFFIX = ".model"
KEPT_MODELS = 8
MAPPED = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)

Told = TypeVar("Told")


class _Told(Generic[Told]):
    """A value in a JSON file that is replaced whole; read again only when the file is another one."""

    def __init__(self, path: Path, kind: type[Told]) -> None:
        self._path = path
        self._decoder = msgspec.json.Decoder(kind)
        self._seen: tuple[object, Told | None] = (None, None)

    def write(self, value: Told) -> None:
        try:
            write_file(self._path, msgspec.json.encode(value))
        except OSError as err:
            raise StoreError(f"{self._path} cannot be written: {err}") from err

    def read(self) -> Told | None:
        try:
            found = self._path.stat()
            if (seen := (found.st_ino, found.st_mtime_ns)) != self._seen[0]:
                self._seen = (seen, self._decoder.decode(self._path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as err:
            raise StoreError(f"{self._path} cannot be read: {err}; the keeper of `mso serve` writes it anew") from err
        return self._seen[1]


class FolderLive:
    """The folder may be used by any number of processes; one of them, the keeper, writes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._published = _Told(folder / "published.json", Published)
        self._report = _Told(folder / "keeper.json", KeeperReport)

    def keep(self, bundle_hash: str, compiled: bytes) -> None:
        try:
            write_file(self._at(bundle_hash), compiled)
            sweep(self._folder)
            newest = sorted(self._folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
            for path in newest[KEPT_MODELS:]:  # one that is mapped stays as long as it is
                path.unlink(missing_ok=True)
        except OSError as err:
            raise StoreError(f"a compiled model cannot be written to {self._folder}: {err}") from err

    def compiled(self, bundle_hash: str) -> mmap.mmap:
        path = self._at(bundle_hash)
        try:
            with path.open("rb") as file:
                return mmap.mmap(file.fileno(), 0, MAPPED, mmap.PROT_READ)
        except FileNotFoundError as err:
            raise NotFound(f"there is no compiled model {path}") from err
        except (OSError, ValueError) as err:  # ValueError: it is empty
            raise StoreError(f"{path} cannot be mapped: {err}") from err

    def publish(self, published: Published) -> None:
        self._published.write(published)

    def published(self) -> Published | None:
        return self._published.read()

    def report(self, report: KeeperReport) -> None:
        self._report.write(report)

    def reported(self) -> KeeperReport | None:
        return self._report.read()

    def _at(self, bundle_hash: str) -> Path:
        return self._folder / f"{checked_name(bundle_hash, flat=True)}{SUFFIX}"
