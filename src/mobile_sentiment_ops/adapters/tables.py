"""Append-only tables as Delta tables: on a local folder, or `s3://` and the like by the same address.

Delta keeps no order among files, and rewriting may shuffle rows, so each row carries its place in
a column of its own, `_position`: the number of the commit its writer aimed at, a random part that
keeps concurrent writers apart, and the row's number within the append. An append that began after
another had returned aims higher, so reading by position is reading in commit order. Compaction
replaces runs of neighbouring small files by one, so files hardly ever overlap and a reader holds
one file at a time.
"""

from __future__ import annotations

import operator
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Unpack
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from mobile_sentiment_ops.data.arrow import choice, fit_schema
from mobile_sentiment_ops.errors import FormatTooNew, StoreError, Unavailable
from mobile_sentiment_ops.ports import Which, checked_name

if TYPE_CHECKING:
    import pyarrow.dataset as ds  # brings pandas with it: two seconds that a server's start would lose
    from pyarrow import fs

log = structlog.get_logger()

TABLE_FORMAT = 1
POSITION = "_position"
BATCH_ROWS = 65_536
COMPACT_BYTES = 8 * 2**20  # about 150,000 reviews: 32 MiB files cost a reader 600 MB of memory
ATTEMPTS = 20
WRITER = WriterProperties(compression="ZSTD")
CONFIGURATION = {"delta.checkpointInterval": "50"}  # opening reads at most so many commits one by one
COMMIT_BITS, SALT_BITS = 37, 24  # position: commit << 37 | 13 random bits << 24 | row


class DeltaTables:
    """One Delta table per name below `address`; `options` go to the object store as they are."""

    def __init__(self, address: str, options: Mapping[str, str] | None = None) -> None:
        self._address = address.rstrip("/")
        self._options = dict(options or {})

    def append(self, table: str, rows: pa.Table, *, key: tuple[str, int] | None = None) -> bool:
        for attempt in range(ATTEMPTS):
            with self._speaking_of(table):
                try:
                    return self._append_once(table, rows, key)
                except CommitFailedError as err:  # another writer made or widened the table, or used this key
                    log.debug("append repeated", table=table, attempt=attempt, error=_first_line(err))
            time.sleep(random.uniform(0.0, 0.02 * (attempt + 1)))  # noqa: S311 - only spreads the writers
        raise Unavailable(f"table {table}: {ATTEMPTS} attempts to append lost against other writers; try again")

    def batches(
        self, table: str, columns: Sequence[str] | None = None, **which: Unpack[Which]
    ) -> Iterator[pa.RecordBatch]:
        for rows in self._files(table, columns, which):
            yield from rows.to_batches(max_chunksize=BATCH_ROWS)

    def read(self, table: str, columns: Sequence[str] | None = None, **which: Unpack[Which]) -> pa.Table:
        found = list(self._files(table, columns, which))
        return pa.concat_tables(found) if found else pa.table({})

    def version(self, table: str) -> int:
        with self._speaking_of(table):
            found = self._open(table)
            return -1 if found is None else int(found.version())

    def compact(self, table: str) -> None:
        """Rewrite runs of neighbouring small files as one each. Appends go on meanwhile; when
        another process rewrites the same files, that one wins. Replaced files stay a week for
        readers that still hold them."""
        with self._speaking_of(table):
            found = self._open(table)
            runs = _small_runs(_file_spans(found)) if found is not None else []
            try:
                for run in runs:
                    self._rewrite(table, run)
                if runs:
                    self._table(table).vacuum(dry_run=False)
            except CommitFailedError as err:
                log.info("compaction left to another process", table=table, error=_first_line(err))

    def drop(self, table: str) -> None:
        import fsspec

        with self._speaking_of(table), suppress(FileNotFoundError):
            files, path = fsspec.core.url_to_fs(self._at(table))
            files.rm(path, recursive=True)

    def _append_once(self, table: str, rows: pa.Table, key: tuple[str, int] | None) -> bool:
        found = self._open(table)
        if found is not None and key is not None:
            committed = found.transaction_version(key[0])
            if committed is not None and key[1] <= committed:
                return False
        fitted = fit_schema(rows, _columns(found) if found is not None else None)
        first = (found.version() + 1 if found is not None else 0) << COMMIT_BITS
        first |= random.getrandbits(COMMIT_BITS - SALT_BITS) << SALT_BITS
        numbers = np.arange(first, first + rows.num_rows, dtype=np.int64)
        positions = pa.Array.from_buffers(pa.int64(), rows.num_rows, [None, pa.py_buffer(numbers)])  # pa.array: pandas
        transactions = [Transaction(*key)] if key is not None else None
        try:
            write_deltalake(
                self._at(table) if found is None else found,
                fitted.add_column(0, POSITION, positions).combine_chunks(),
                mode="error" if found is None else "append",
                schema_mode=None if found is None else "merge",
                description=f"mobile-sentiment-ops table, format {TABLE_FORMAT}" if found is None else None,
                configuration=CONFIGURATION if found is None else None,
                storage_options=self._options,
                writer_properties=WRITER,
                commit_properties=CommitProperties(app_transactions=transactions),
            )
        except DeltaError as err:
            if "already exists" in str(err):
                raise CommitFailedError(str(err)) from err
            raise
        return True

    def _files(self, table: str, columns: Sequence[str] | None, which: Which) -> Iterator[pa.Table]:
        """The wanted rows of one data file after another, in commit order; empty ones too."""
        with self._speaking_of(table):
            found = self._open(table)
            if found is None:
                return
            known = _columns(found)
            wanted, condition = choice(table, known, columns, which)
            yield pa.schema([known.field(name) for name in wanted]).empty_table()
            dataset, fragments = _in_order(found, condition)
            for fragment in fragments:
                rows = fragment.to_table(schema=dataset.schema, columns=[*wanted, POSITION], filter=condition)
                yield _sorted(rows).select(wanted)

    def _rewrite(self, table: str, run: Span) -> None:
        """Replace the files of the run by one with the same rows, unless other files came between."""
        found = self._table(table)
        between = [span.paths for span in _file_spans(found) if span.first <= run.last and run.first <= span.last]
        if frozenset().union(*between) != run.paths:
            return
        dataset, fragments = _in_order(found)
        chosen = [fragment for fragment in fragments if fragment.path in run.paths]
        batches = (batch for fragment in chosen for batch in fragment.to_batches(schema=dataset.schema))
        write_deltalake(
            found,
            pa.RecordBatchReader.from_batches(dataset.schema, batches),
            mode="overwrite",
            predicate=f"{POSITION} >= {run.first} AND {POSITION} <= {run.last}",
            storage_options=self._options,
            writer_properties=WRITER,
        )
        log.debug("compacted", table=table, files=len(run.paths))

    def _at(self, table: str) -> str:
        return f"{self._address}/{checked_name(table)}"

    def _open(self, table: str) -> DeltaTable | None:
        """The table as it is now, or None when nothing was appended yet."""
        try:
            return self._table(table)
        except TableNotFoundError:
            return None

    def _table(self, table: str) -> DeltaTable:
        found = DeltaTable(self._at(table), storage_options=self._options)
        written = re.search(r"format (\d+)$", found.metadata().description or "")
        if written and int(written[1]) > TABLE_FORMAT:
            raise FormatTooNew(
                f"table {table} has format {written[1]}, this release reads up to {TABLE_FORMAT}; update it"
            )
        return found

    @contextmanager
    def _speaking_of(self, table: str) -> Iterator[None]:
        """Errors of the library as ours, in one line."""
        try:
            yield
        except DeltaError as err:
            said = _first_line(err)
            if re.search(r"[Uu]nsupported.*(version|feature)", said):
                raise FormatTooNew(f"table {table} was written by something newer: {said}") from err
            raise StoreError(f"table {table} at {self._at(table)} cannot be used: {said}") from err
        except FileNotFoundError as err:
            raise StoreError(f"table {table} misses a data file: {_first_line(err)}") from err
        except OSError as err:
            raise Unavailable(f"table {table} at {self._at(table)} did not answer: {_first_line(err)}") from err


@dataclass(frozen=True, slots=True)
class Span:
    """Data files whose rows have positions `first` to `last`, and no other file has one of these."""

    first: int
    last: int
    size: int
    paths: frozenset[str]


def _columns(found: DeltaTable) -> pa.Schema:
    """The table's columns without the position."""
    schema = pa.schema(found.schema())
    if POSITION not in schema.names:
        raise StoreError(f"the Delta table at {found.table_uri} was not made by this program: it has no {POSITION}")
    return schema.remove(schema.get_field_index(POSITION))


def _in_order(
    found: DeltaTable, condition: pc.Expression | None = None
) -> tuple[ds.Dataset, list[ds.ParquetFileFragment]]:
    """The table's files in commit order, without those whose statistics rule the condition out."""
    start = {path: span.first for span in _file_spans(found) for path in span.paths}
    dataset = found.to_pyarrow_dataset(filesystem=_local_files(found))
    return dataset, sorted(dataset.get_fragments(condition), key=lambda fragment: start[fragment.path])


def _local_files(found: DeltaTable) -> fs.FileSystem | None:
    """Arrow's own reader of a local folder: a thread that still lets go of a file that Delta opened through
    Python while the interpreter ends aborts the whole process (one run in ten that ends right after reading)."""
    if not found.table_uri.startswith("file://"):
        return None
    from pyarrow import fs

    return fs.SubTreeFileSystem(unquote(found.table_uri.removeprefix("file://")), fs.LocalFileSystem())


def _sorted(rows: pa.Table) -> pa.Table:
    """Rows by position; a file written by an append already is."""
    positions = rows[POSITION].to_numpy()
    return rows if bool((positions[1:] >= positions[:-1]).all()) else rows.take(np.argsort(positions, kind="stable"))


def _file_spans(found: DeltaTable) -> list[Span]:
    """One span a file, by first position."""
    actions = pa.table(found.get_add_actions(flatten=True))
    if actions.num_rows == 0:
        return []
    columns = [f"min.{POSITION}", f"max.{POSITION}", "size_bytes", "path"]
    rows = zip(*(actions[name].to_pylist() for name in columns), strict=True)
    spans = (Span(first, last, size, frozenset([path])) for first, last, size, path in rows)
    return sorted(spans, key=operator.attrgetter("first"))


def _small_runs(files: Sequence[Span]) -> list[Span]:
    """Runs of two or more neighbouring files (by first position) that are worth one file.

    Files that overlap go together: a rewrite covers every row between two positions.
    """
    runs: list[Span] = []
    for file in files:
        fits = runs and (file.first <= runs[-1].last or runs[-1].size + file.size <= COMPACT_BYTES)
        if fits:
            run = runs.pop()
            file = Span(run.first, max(run.last, file.last), run.size + file.size, run.paths | file.paths)
        runs.append(file)
    return [run for run in runs if len(run.paths) > 1]


def _first_line(err: Exception) -> str:
    return str(err).strip().partition("\n")[0]
