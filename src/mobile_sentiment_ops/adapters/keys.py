"""API keys in one JSON file that its owner alone may read; it holds hashes, never a key."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from mobile_sentiment_ops.disk import write_file
from mobile_sentiment_ops.errors import FormatTooNew, StoreError
from mobile_sentiment_ops.types import ApiKey

FORMAT = 1


class FileKeys:
    """Without the file there are no keys; it is replaced whole, so that a reader finds the old or the new ones."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def list(self) -> Sequence[ApiKey]:
        try:
            content = msgspec.json.decode(self._path.read_bytes(), type=dict[str, msgspec.Raw])
            found = msgspec.json.decode(content["format"], type=int)
            if found == FORMAT:
                return msgspec.json.decode(content["keys"], type=tuple[ApiKey, ...])
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, KeyError) as err:
            raise StoreError(
                f"{self._path.name} cannot be read: {err}; put a good copy there, or remove it and make new keys"
            ) from err
        raise FormatTooNew(f"{self._path.name} has format {found}, this release reads {FORMAT}: use a later one")

    def change(self, change: Callable[[Sequence[ApiKey]], Sequence[ApiKey]]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self._path.parent, os.O_RDONLY)  # locked in place of the file, which is replaced
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            content = msgspec.json.encode({"format": FORMAT, "keys": change(self.list())})
            write_file(self._path, msgspec.json.format(content, indent=1) + b"\n", mode=0o600)
        finally:
            os.close(folder)

    def stamp(self) -> object:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        except OSError as err:
            raise StoreError(f"{self._path.name} cannot be looked at: {err}; let this user read its folder") from err
        return found.st_ino, found.st_mtime_ns, found.st_size
