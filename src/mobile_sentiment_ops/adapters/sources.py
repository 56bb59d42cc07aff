"""Files at an address: http(s) through httpx, and whatever else fsspec knows (`gs://`, `s3://`)."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import fsspec
import httpx

from mobile_sentiment_ops.errors import Unavailable, UnreadableFile

TIMEOUT_SECONDS = 30.0
ATTEMPTS = 3


@contextmanager
def open_url(address: str) -> Iterator[BinaryIO]:
    """The file at that address, copied to a temporary file first: readers go back in it.

    Raises UnreadableFile when there is no such file and Unavailable when nobody answers.
    """
    with tempfile.TemporaryFile() as copy:
        local = cast(BinaryIO, copy)
        fetch = _fetch_http if address.startswith(("http://", "https://")) else _fetch_fsspec
        fetch(address, local)
        local.seek(0)
        yield local


def _fetch_http(address: str, copy: BinaryIO) -> None:
    for _ in range(ATTEMPTS):
        copy.seek(0)
        copy.truncate()
        try:
            with httpx.stream("GET", address, timeout=TIMEOUT_SECONDS, follow_redirects=True) as answer:
                answer.raise_for_status()
                for chunk in answer.iter_bytes():
                    copy.write(chunk)
            return
        except httpx.HTTPStatusError as err:
            status = err.response.status_code
            if status < 500:
                raise UnreadableFile(f"{address} answered {status}; expected a file of reviews") from err
            failed: httpx.HTTPError = err
        except httpx.TransportError as err:
            failed = err
        except (httpx.HTTPError, httpx.InvalidURL) as err:
            raise UnreadableFile(f"{address} cannot be fetched: {err}") from err
    raise Unavailable(f"{address} cannot be fetched after {ATTEMPTS} attempts ({failed}); try again later") from failed


def _fetch_fsspec(address: str, copy: BinaryIO) -> None:
    try:
        with fsspec.open(address, "rb") as remote:
            shutil.copyfileobj(remote, copy, 2**20)
    except (FileNotFoundError, ValueError, ImportError) as err:
        raise UnreadableFile(f"{address} cannot be opened: {err}") from err
    except OSError as err:
        raise Unavailable(f"{address} did not answer: {err}; try again later") from err
