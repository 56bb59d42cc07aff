"""The bucket through fsspec: a local folder, or `gs://` and the like by the same address."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from mobile_sentiment_ops.disk import PART, write_file
from mobile_sentiment_ops.errors import NotFound, StoreError, Unavailable
from mobile_sentiment_ops.ports import checked_name


class FsspecFiles:
    """Files below one address. A local write is flushed to the disk and renamed into its place;
    object stores replace whole objects by themselves."""

    def __init__(self, address: str, options: Mapping[str, object] | None = None) -> None:
        self._address = address.rstrip("/")
        self._options = dict(options or {})

    def write(self, name: str, data: bytes) -> str:
        path = self._path(name)
        with self._speaking_of(name):
            if isinstance(self._store, LocalFileSystem):
                write_file(Path(path), data)
            else:
                self._store.pipe_file(path, data)
        return f"{self._address}/{name}"

    def read(self, name: str) -> bytes:
        path = self._path(name)
        with self._speaking_of(name):
            try:
                return bytes(self._store.cat_file(path))
            except (IsADirectoryError, NotADirectoryError) as err:
                raise FileNotFoundError from err

    def list(self, prefix: str = "") -> list[str]:
        folder = prefix.rpartition("/")[0]
        try:
            with self._speaking_of(prefix):
                self._store.invalidate_cache()
                found = self._store.find(self._path(folder) if folder else self._root)
        except NotFound:
            return []
        names = (str(path)[len(self._root) + 1 :] for path in found)
        return sorted(name for name in names if name.startswith(prefix) and PART not in name)

    @cached_property
    def _store(self) -> fsspec.AbstractFileSystem:
        try:
            return fsspec.core.url_to_fs(self._address, **self._options)[0]
        except (ImportError, ValueError) as err:
            raise StoreError(f"the address {self._address} cannot be opened: {err}") from err

    @cached_property
    def _root(self) -> str:
        return str(self._store._strip_protocol(self._address)).rstrip("/")

    def _path(self, name: str) -> str:
        return f"{self._root}/{checked_name(name)}"

    @contextlib.contextmanager
    def _speaking_of(self, name: str) -> Iterator[None]:
        """Errors of the store as ours."""
        try:
            yield
        except FileNotFoundError as err:
            raise NotFound(f"there is no file {name} in {self._address}") from err
        except (PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError) as err:
            raise StoreError(f"{self._address}/{name} cannot be used: {err}") from err
        except OSError as err:
            raise Unavailable(f"{self._address}/{name} did not answer: {err}") from err
