"""CSV answers on their way to the bucket: written to a local folder, sent off the request path."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TextIO

import structlog

from mobile_sentiment_ops.disk import PART, sweep
from mobile_sentiment_ops.errors import StoreError
from mobile_sentiment_ops.ports import Files

log = structlog.get_logger()

BUCKET_FOLDER = "data_prediction"
MAX_WAITING_BYTES = 2 * 2**30


class Outbox:
    """Answers in `folder` until they are in the bucket; those that an ended server left, too."""

    def __init__(self, folder: Path, files: Callable[[], Files]) -> None:
        self._folder = folder
        self._files = files
        self.fault = ""
        """Why answers wait; empty when they do not."""

    def keep(self, name: str, write: Callable[[TextIO], None]) -> BinaryIO:
        """Have `write` fill a file that will be sent as `name`; gives it back open for reading.

        While the bucket is away and two gigabytes wait, further answers are not kept for it.
        """
        part = self._folder / f"{PART}{name}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with part.open("w", encoding="utf-8", newline="") as file:
                write(file)
            opened = part.open("rb")
            if sum(map(_size, [part, *self._waiting()])) <= MAX_WAITING_BYTES:
                part.rename(self._folder / name)
            else:
                log.warning("answer not kept for the bucket", name=name, reason=self.fault or "too much waits")
            return opened
        except OSError as err:
            raise StoreError(f"the answer cannot be written in {self._folder}: {err}") from err
        finally:
            with suppress(OSError):  # it has its name, or there is no folder
                part.unlink()

    def send(self) -> None:
        """Bring what waits into the bucket. StoreError when it is away: the rest waits."""
        sweep(self._folder)
        try:
            for path in self._waiting():
                with suppress(FileNotFoundError):  # another server has just sent it
                    self._files().write(f"{BUCKET_FOLDER}/{path.name}", path.read_bytes())
                    path.unlink()
        except StoreError as err:
            self.fault = str(err)
            raise
        self.fault = ""

    def _waiting(self) -> list[Path]:
        return [path for path in self._folder.glob("*.csv") if not path.name.startswith(PART)]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # just sent
        return 0
