"""The files that batch scoring reads and writes: reviews in pieces, and the same pieces with more columns.

    Parquet       columns are copied as bytes into another Parquet file; else values are read in batches
    CSV           as `mso ingest` reads it (encodings, separators, rows out of shape)
    JSON lines    a first pass finds the columns and their types, as every piece must have the same ones
    a table       all stored rows in commit order

A `Piece` is what one thread scores at once; a file is cut into the same pieces whenever it is opened.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq

from mobile_sentiment_ops.data.columns import kept_names, shown
from mobile_sentiment_ops.data.csv_rows import full_rows, read_csv, writable
from mobile_sentiment_ops.data.lines import Lines, encodable, open_lines, undecodable
from mobile_sentiment_ops.data.row_groups import (
    MAGIC,
    Struct,
    copy_group,
    copyable,
    footer_bytes,
    groups_of,
    read_footer,
    widened,
)
from mobile_sentiment_ops.errors import DataError, UnreadableFile
from mobile_sentiment_ops.ports import Tables

PIECE_ROWS, PIECE_BYTES = 65_536, 8 * 2**20
MAX_COPIED_ROWS = 2**21
"""Scores of a row group are kept until it is written; a larger one is read and written anew in pieces."""
BATCH_ROWS, BATCH_BYTES = 16_384, 16 * 2**20
KINDS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows that are scored at once: `table` holds them, and the faults of those that could not be read; or they are
    these row `groups` of the Parquet file."""

    table: pa.Table | None = None
    faults: Mapping[int, str] = field(default_factory=dict)
    groups: tuple[int, ...] = ()


@dataclass(frozen=True)
class Source:
    """Reviews to score. `identity` changes with what is in it; `share` is how much of it was read, 0..1. A file whose
    columns can be copied has its `footer`."""

    name: str
    text_column: str
    identity: Mapping[str, object]
    schema: pa.Schema
    pieces: Callable[[], Iterator[Piece]]
    rows: int | None = None
    parquet: pq.FileMetaData | None = None
    footer: Struct | None = None
    share: Callable[[], float | None] = lambda: None

    def __post_init__(self) -> None:
        names = self.schema.names
        if names.count(self.text_column) != 1:
            wrong = f"{names.count(self.text_column) or 'no'} columns are named {self.text_column}"
            raise UnreadableFile(f"{self.name}: {wrong}; found {shown(names)}; --text-column names the one with texts")
        kind = self.schema.field(self.text_column).type
        if not _is_text(kind.value_type if pa.types.is_dictionary(kind) else kind):
            raise UnreadableFile(f"{self.name}: column {self.text_column} holds {kind}, expected text")

    def reopened(self) -> pq.ParquetFile:
        """The Parquet file for one thread; its footer is not read again."""
        return pq.ParquetFile(self.name, metadata=self.parquet, buffer_size=2**20, pre_buffer=False)

    def require_unchanged(self) -> None:
        """Refuse a file that is not the one that was opened."""
        if "path" in self.identity and not _identity(Path(self.name)).items() <= self.identity.items():
            raise UnreadableFile(f"{self.name} changed while it was read; the same command begins anew")


def _is_text(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    return any(test(kind) for test in tests)


def kind_of(path: Path) -> tuple[str, bool]:
    """The format of a file by its name, and whether it is gzipped.

    >>> kind_of(Path("reviews.jsonl.gz"))
    ('jsonl', True)
    """
    packed = path.suffix == ".gz"
    kind = KINDS.get(path.with_suffix("").suffix if packed else path.suffix)
    if kind is None or (packed and kind == "parquet"):
        raise DataError(f"{path}: expected a name that ends with {', '.join(KINDS)}, or .gz after all but the first")
    return kind, packed


def open_source(
    name: str, text_column: str, tables: Callable[[], Tables], *, copy: Collection[str] | None = None
) -> Source:
    """The reviews of a file, or of `table:NAME`. With `copy`, pieces of a Parquet file are whole row groups where
    they can be copied and get columns of these names.

    Raises UnreadableFile for what is no such file, or has no such column of text.
    """
    if name.startswith("table:"):
        return _table(name, text_column, tables())
    path = Path(name)
    kind, packed = kind_of(path)
    try:
        identity = _identity(path)
    except OSError as err:
        raise UnreadableFile(f"{name} cannot be opened: {(err.strerror or str(err)).lower()}") from err
    if kind == "parquet":
        return _parquet(path, text_column, identity, copy)
    return _text(path, kind, packed, text_column, identity)


def _identity(path: Path) -> dict[str, object]:
    """What tells a file from another, or from itself after a change, without reading all of it."""
    facts = path.stat()
    with path.open("rb") as file:
        ends = file.read(2**20)
        file.seek(max(facts.st_size - 2**20, 0))
        digest = blake2b(ends + file.read(), digest_size=16).hexdigest()
    return {"path": str(path.resolve()), "size": facts.st_size, "changed_ns": facts.st_mtime_ns, "ends": digest}


T = TypeVar("T")


def _grouped(parts: Iterable[tuple[T, int, int]]) -> Iterator[list[T]]:
    """Parts, each with its rows and bytes, in groups of PIECE_ROWS or PIECE_BYTES at most, or of one that is larger."""
    held: list[T] = []
    rows = size = 0
    for part, more, larger in parts:
        if held and (rows + more > PIECE_ROWS or size + larger > PIECE_BYTES):
            yield held
            held, rows, size = [], 0, 0
        held.append(part)
        rows, size = rows + more, size + larger
    if held:
        yield held


def _cut(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[Piece]:
    for held in _grouped((batch, batch.num_rows, batch.nbytes) for batch in batches):
        yield Piece(pa.Table.from_batches(held, schema))


# --- Parquet and tables


def _parquet(path: Path, text_column: str, identity: Mapping[str, object], copy: Collection[str] | None) -> Source:
    try:
        file = pq.ParquetFile(path, buffer_size=2**20, pre_buffer=False)
        with path.open("rb") as stream:
            footer = read_footer(stream)
    except (pa.ArrowException, OSError, UnreadableFile) as err:
        raise UnreadableFile(f"{path} is no Parquet file that can be read: {str(err).splitlines()[0]}") from err
    facts = file.metadata
    heights = [facts.row_group(at).num_rows for at in range(facts.num_row_groups)]
    fits = max(heights, default=0) <= MAX_COPIED_ROWS and copyable(footer)
    copied = copy is not None and fits and not set(file.schema_arrow.names) & set(copy)

    def pieces() -> Iterator[Piece]:
        if copied:
            yield from (Piece(groups=tuple(held)) for held in _grouped((*one, 0) for one in enumerate(heights)))
        else:
            yield from _cut(batches_of(file), file.schema_arrow)

    own, schema = {**identity, "copied": copied}, file.schema_arrow
    return Source(str(path), text_column, own, schema, pieces, facts.num_rows, facts, footer if copied else None)


def batches_of(
    file: pq.ParquetFile, columns: Sequence[str] | None = None, groups: Sequence[int] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows of a Parquet file, or of some of its row groups, in batches of bounded size."""
    sizes = [file.metadata.row_group(at) for at in (range(file.metadata.num_row_groups) if groups is None else groups)]
    average = max((one.total_byte_size // max(one.num_rows, 1) for one in sizes), default=1)
    rows = min(max(BATCH_BYTES // max(average, 1), 64), BATCH_ROWS)
    yield from file.iter_batches(rows, row_groups=groups, columns=columns, use_threads=False)


def _table(name: str, text_column: str, tables: Tables) -> Source:
    table = name.removeprefix("table:")
    if (version := tables.version(table)) < 0:
        raise UnreadableFile(f"there is no table {table} yet, or it is empty; `mso ingest` fills the table reviews")
    schema = next(tables.batches(table)).schema

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in tables.batches(table):
            yield from (batch.slice(at, BATCH_ROWS) for at in range(0, batch.num_rows, BATCH_ROWS))

    return Source(name, text_column, {"table": table, "version": version}, schema, lambda: _cut(batches(), schema))


# --- text

Row = tuple[tuple[Sequence[object], str | None], int, int]
"""The cells of a row and its fault; that it is one; and about how large it is."""


def _text(path: Path, kind: str, packed: bool, text_column: str, identity: Mapping[str, object]) -> Source:
    raw: list[BinaryIO] = []
    columns, rows = {"csv": (_csv_columns, _csv_rows), "jsonl": (_json_columns, _json_rows)}[kind]

    @contextmanager
    def lines() -> Iterator[Lines]:
        with path.open("rb") as file, gzip.GzipFile(fileobj=file) if packed else file as stream:
            raw[:] = [file]
            try:
                with open_lines(cast(BinaryIO, stream), str(path)) as found:
                    if not found.peek(1):
                        raise UnreadableFile(f"{path} is empty; expected a header or an object, and reviews")
                    yield found
            except (gzip.BadGzipFile, EOFError, zlib.error) as err:
                raise UnreadableFile(f"{path}: the gzip data is damaged or cut off ({err}); fetch it again") from err

    def pieces() -> Iterator[Piece]:
        with lines() as found:
            for part in _grouped(rows(found, schema, text_column)):
                cells, faults = zip(*part, strict=True)
                columns = zip(zip(*cells, strict=True), schema, strict=True)
                table = pa.table([pa.array(column, field.type) for column, field in columns], schema=schema)
                yield Piece(table, {at: fault for at, fault in enumerate(faults) if fault})

    with lines() as found:
        schema = columns(found, text_column)
    size = max(path.stat().st_size, 1)
    return Source(
        str(path), text_column, identity, schema, pieces, share=lambda: None if raw[0].closed else raw[0].tell() / size
    )


def _csv_columns(lines: Lines, text_column: str) -> pa.Schema:
    header = [writable(name) for name in read_csv(lines, lambda names: text_column in names)[0]]
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise UnreadableFile(f"{lines.name}: several columns are named {twice[0]!r}; give each a name of its own")
    return pa.schema([(name, pa.string()) for name in header])


def _csv_rows(lines: Lines, schema: pa.Schema, text_column: str) -> Iterator[Row]:
    _, rows = read_csv(lines, lambda names: text_column in names)
    for row in full_rows(rows, len(schema.names)):
        yield (row.cells, row.fault), 1, sum(map(len, row.cells))


def _json_columns(lines: Lines, text_column: str) -> pa.Schema:
    """The columns by first appearance, with types that hold all their values; text where no other does."""
    from mobile_sentiment_ops.data.readers import is_document, json_lines  # with polars: a third of all imports

    if is_document(lines.peek(2)):
        raise UnreadableFile(f"{lines.name} is one JSON document, or none; expected one object a line")
    kinds: dict[str, pa.DataType] = {}
    records = (_sound(record)[0] for _, record, _ in json_lines(lines) if record is not None)
    while part := list(itertools.islice(records, 10_000)):
        for name in dict.fromkeys(key for record in part for key in record):
            kinds[name] = _common(kinds.get(name, pa.null()), [record.get(name) for record in part])
    if text_column in kinds:
        kinds[text_column] = pa.string()
    return pa.schema([(name, pa.string() if kind == pa.null() else kind) for name, kind in kinds.items()])


def _common(kind: pa.DataType, values: Sequence[object]) -> pa.DataType:
    try:
        schemas = [pa.schema([("", kind)]), pa.schema([("", pa.array(values).type)])]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowException, OverflowError):
        return pa.string()


def _json_rows(lines: Lines, schema: pa.Schema, _: str) -> Iterator[Row]:
    from mobile_sentiment_ops.data.readers import json_lines

    text = [(part.name, pa.types.is_string(part.type)) for part in schema]
    for _number, record, line in json_lines(lines):
        fault = "json: is no complete JSON object" if record is None else None
        if record is not None:
            record, fault = _sound(record)
        given = (record or {}).get
        cells = [_as_text(given(name)) if is_text else given(name) for name, is_text in text]
        yield (cells, fault), 1, len(line)


def _sound(record: dict[str, object]) -> tuple[dict[str, object], str | None]:
    """The record with a mark for every half of a surrogate pair, and what is wrong with it then."""
    if encodable(text := json.dumps(record, ensure_ascii=False)):
        return record, None
    return json.loads(writable(text)), undecodable("utf-8")


def _as_text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- what is written


@dataclass(frozen=True, slots=True)
class Target:
    """A file of rows in `schema`: what it begins with, a table of rows as bytes, how the bytes of a piece are put at
    its end, and what the file ends with. Of Parquet, `place` gives the row groups that `end` then lists."""

    schema: pa.Schema
    begin: bytes
    encode: Callable[[pa.Table], bytes]
    place: Callable[[Sequence[bytes], Piece, BinaryIO], list[Struct]]
    end: Callable[[Sequence[Struct]], bytes]


def open_target(source: Source, path: Path, added: pa.Schema) -> Target:
    """How the rows of a source are written with more columns, in the format that the name of the file says."""
    kind, packed = kind_of(path)
    names = kept_names(source.schema.names, added.names)
    kept = [part.with_name(name) for part, name in zip(source.schema, names, strict=True)]
    schema = pa.schema([*kept, *added], source.schema.metadata)
    return _parquet_target(source, schema, added) if kind == "parquet" else _text_target(schema, kind, packed)


def _parquet_target(source: Source, schema: pa.Schema, added: pa.Schema) -> Target:
    options: dict[str, object] = {"compression": "zstd"}
    if source.footer:  # columns of their own: packing probabilities saves an eighth of them and costs two thirds more
        numbers = [part.name for part in added if pa.types.is_floating(part.type)]
        options["compression"] = {name: "none" if name in numbers else "zstd" for name in added.names}
        options["use_dictionary"] = [name for name in added.names if name not in numbers]
        options["write_statistics"] = False
    footer = read_footer(io.BytesIO(_parquet_bytes(pa.Table.from_batches([], schema), {}, store_schema=True)))
    encode, own = partial(_parquet_bytes, options=options), list[Struct]()
    if source.footer:
        own, footer = groups_of(source.footer), widened(source.footer, footer, len(added))

    def place(data: Sequence[bytes], piece: Piece, out: BinaryIO) -> list[Struct]:
        files = [io.BytesIO(part) for part in data]
        made = [group for file in files for group in groups_of(read_footer(file))]
        if not piece.groups:
            return [copy_group([(group, file)], out) for group, file in zip(made, files, strict=True)]
        with Path(source.name).open("rb") as given:
            parts = zip(piece.groups, made, files, strict=True)
            return [copy_group([(own[at], given), (group, file)], out) for at, group, file in parts]

    return Target(schema, MAGIC, encode, place, lambda groups: footer_bytes(footer, groups))


def _parquet_bytes(table: pa.Table, options: Mapping[str, object], store_schema: bool = False) -> bytes:
    """One row group. Its schema is in the footer of the whole file alone."""
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=max(table.num_rows, 1), store_schema=store_schema, **options)
    return file.getvalue()


def _text_target(schema: pa.Schema, kind: str, packed: bool) -> Target:
    zipped = partial(gzip.compress, compresslevel=6, mtime=0) if packed else bytes
    if kind == "csv":
        for part in schema:
            if pa.types.is_nested(part.type) or pa.types.is_binary(part.type) or pa.types.is_large_binary(part.type):
                raise DataError(f"column {part.name} holds {part.type}, which CSV cannot; write .parquet or .jsonl")

    def encode(table: pa.Table) -> bytes:
        import polars as pl

        try:
            frame, lines = cast(pl.DataFrame, pl.from_arrow(table)), io.BytesIO()
            frame.write_csv(lines, include_header=False) if kind == "csv" else frame.write_ndjson(lines)
        except (pl.exceptions.PolarsError, pa.ArrowException) as err:
            raise DataError(f"these columns cannot be written as {kind} ({err}); write .parquet") from err
        return zipped(lines.getvalue())

    def place(data: Sequence[bytes], _: Piece, out: BinaryIO) -> list[Struct]:
        out.writelines(data)
        return []

    header = io.StringIO()
    csv.writer(header, lineterminator="\n").writerow(schema.names)
    return Target(schema, zipped(header.getvalue().encode()) if kind == "csv" else b"", encode, place, lambda _: b"")
