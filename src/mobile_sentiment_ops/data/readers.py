"""A stream of bytes in, batches of reviews with their line numbers out.

    Parquet          by its first bytes
    JSON             lines of objects, or one document: a list, or App Store Connect's customer reviews
    CSV              comma, semicolon, tab or bar; UTF-8, UTF-16, or Western European (cp1252)
    gzip             of any of these

What a file is, is told by its bytes and never by its name. A file that cannot be read at all raises
UnreadableFile; a line that cannot be read becomes a Rejected and spoils no other. Memory stays
bounded by the batch, whatever the size of the file.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mobile_sentiment_ops.data.columns import known_store, require_text
from mobile_sentiment_ops.data.csv_rows import read_csv
from mobile_sentiment_ops.data.lines import Lines, encodable, open_lines, undecodable
from mobile_sentiment_ops.errors import UnreadableFile
from mobile_sentiment_ops.types import Rejected

MAX_DOCUMENT_CHARS = 256 * 2**20
MAX_ROW_CHARS = 500
"""How much of a rejected row is kept."""

Recogniser = Callable[[Sequence[str]], Mapping[str, str]]
"""From the columns of a file to the ones that are used, as `columns.recognise` does."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one file, not yet validated.

    `rows` has the recognised columns under their canonical names, as text or as the file types
    them; `lines` has one line number a row (a row number where the format has no lines);
    `mapping` says which column became which.
    """

    rows: pl.DataFrame
    lines: Sequence[int]
    mapping: Mapping[str, str]
    rejected: tuple[Rejected, ...] = ()


def read_batches(stream: BinaryIO, name: str, recognise: Recogniser, *, batch_rows: int) -> Iterator[Batch]:
    """The reviews of one file; `stream` is seekable and `name` is what messages call it."""
    head = stream.read(4)
    stream.seek(0)
    if head.startswith(b"\x1f\x8b"):
        yield from _read_gzip(stream, name, recognise, batch_rows)
    elif head.startswith(b"PAR1"):
        yield from _read_parquet(stream, name, recognise, batch_rows)
    else:
        with open_lines(stream, name) as lines:
            if not (first := lines.peek(1)):
                raise _empty(name)
            read = _read_json if first[0].lstrip().startswith(("{", "[")) else _read_csv
            yield from read(lines, recognise, batch_rows)


def bounded(text: str) -> str:
    """The start of a rejected row, safe to store: no NUL, no half of a surrogate pair."""
    kept = text[:MAX_ROW_CHARS].rstrip("\r\n").replace("\0", "\\0")
    return kept.encode("utf-8", "backslashreplace").decode("utf-8")


def _empty(name: str) -> UnreadableFile:
    return UnreadableFile(f"{name} is empty; expected a CSV, Parquet or JSON file of reviews")


# --- gzip and Parquet


def _read_gzip(stream: BinaryIO, name: str, recognise: Recogniser, batch_rows: int) -> Iterator[Batch]:
    """Unpack into a temporary file first: reading needs to go back, and Parquet to jump."""
    with tempfile.TemporaryFile() as unpacked:
        try:
            with gzip.GzipFile(fileobj=stream) as packed:
                shutil.copyfileobj(packed, unpacked, 2**20)
        except (OSError, EOFError, zlib.error) as err:
            raise UnreadableFile(f"{name}: the gzip data is damaged or cut off ({err}); fetch the file again") from err
        unpacked.seek(0)
        yield from read_batches(cast(BinaryIO, unpacked), name, recognise, batch_rows=batch_rows)


def _read_parquet(stream: BinaryIO, name: str, recognise: Recogniser, batch_rows: int) -> Iterator[Batch]:
    row = 1
    try:
        file = pq.ParquetFile(stream)
        names = [column.name for column in file.schema_arrow if not pa.types.is_nested(column.type)]
        mapping = recognise(names)
        require_text(name, names, mapping)
        for found in file.iter_batches(batch_size=batch_rows, columns=list(mapping)):
            found.validate(full=True)
            rows = cast(pl.DataFrame, pl.from_arrow(found)).select(
                pl.col(mine).alias(part) for mine, part in mapping.items()
            )
            yield Batch(rows, range(row, row + rows.height), mapping)
            row += rows.height
    except (pa.ArrowException, OSError) as err:
        raise UnreadableFile(f"{name}: damaged Parquet at row {row} or later ({err}); write the file again") from err


# --- rows of text


_Found = tuple[int, Sequence[str | None], str | None, str]
"""A `Row` whose cells may be null."""


def _batches(
    rows: Iterator[_Found], lines: Lines, mapping: Mapping[str, str], picks: Sequence[int], batch_rows: int
) -> Iterator[Batch]:
    """Rows as batches; `picks` are the used cells of a row, in the mapping's order. A row that is rejected
    leaves no text behind when the file names authors: they are never stored."""
    private = "author" in mapping.values()
    parts = list(zip(mapping.values(), picks, strict=True))
    while True:
        numbers: list[int] = []
        sound: list[Sequence[str | None]] = []
        rejected: list[Rejected] = []
        for line, cells, fault, text in itertools.islice(rows, batch_rows):
            if fault is None:
                numbers.append(line)
                sound.append(cells)
            else:
                rejected.append(Rejected(lines.name, line, fault, "" if private else bounded(text)))
        if not numbers and not rejected:
            return
        frame = pl.DataFrame([pl.Series(part, [cells[i] for cells in sound], dtype=pl.Utf8()) for part, i in parts])
        yield Batch(frame, numbers, mapping, tuple(rejected))


def _read_csv(lines: Lines, recognise: Recogniser, batch_rows: int) -> Iterator[Batch]:
    header, rows = read_csv(lines, lambda names: len(recognise(names)))
    if not header:
        raise _empty(lines.name)
    mapping = recognise(header)
    require_text(lines.name, header, mapping)
    used, store = [header.index(column) for column in mapping], known_store(header)
    found = (row for row in rows if row.cells and not row.text.isspace())
    for batch in _batches(found, lines, mapping, used, batch_rows):
        if store and "store" not in mapping.values():
            batch = replace(batch, rows=batch.rows.with_columns(pl.lit(store).alias("store")))
        yield batch


# --- JSON


def _read_json(lines: Lines, recognise: Recogniser, batch_rows: int) -> Iterator[Batch]:
    records = _document(lines) if is_document(lines.peek(2)) else json_lines(lines)
    first = list(itertools.islice(records, batch_rows))
    if not first:
        return
    names = list(dict.fromkeys(key for _, record, _ in first for key in record or ()))
    mapping = recognise(names)
    require_text(lines.name, names, mapping)

    def rows() -> Iterator[_Found]:
        for line, record, text in itertools.chain(first, records):
            cells = [] if record is None else [_as_text(record.get(column)) for column in mapping]
            fault = "json: is no complete JSON object" if record is None else None
            if not encodable("".join(cell or "" for cell in cells)):
                fault = undecodable(lines.encoding)
            yield line, cells, fault, text

    yield from _batches(rows(), lines, mapping, range(len(mapping)), batch_rows)


Record = tuple[int, dict[str, object] | None, str]
"""A line number, the review found there (None for something else) and, of something else, the text."""


def is_document(first: Sequence[str]) -> bool:
    """Whether a JSON text is one document over several lines; else each line is an object."""
    return first[0].strip() in ("{", "[") or not any(_parsed(line) is not None for line in first)


def json_lines(lines: Lines) -> Iterator[Record]:
    """The reviews of a text with one JSON value a line."""
    for line in lines:
        if not line.isspace():
            yield from ((lines.number, record, line) for record in _reviews_in(_parsed(line)))
        lines.held.clear()


def _document(lines: Lines) -> Iterator[Record]:
    """The reviews of one document, which is read whole; they count as lines 1, 2, 3, ..."""
    parts, size = [], 0
    for line in lines:
        parts.append(line)
        size += len(line)
        if size > MAX_DOCUMENT_CHARS:
            raise UnreadableFile(f"{lines.name} is one JSON document, and too large for one; write one object a line")
    try:
        value = json.loads("".join(parts))
    except (ValueError, RecursionError) as err:
        raise UnreadableFile(
            f"{lines.name} starts as JSON and is none: {err}; expected one object a line, or one list of objects"
        ) from err
    for number, record in enumerate(_reviews_in(value), 1):
        yield number, record, ""


def _parsed(line: str) -> object:
    try:
        return cast(object, json.loads(line))
    except (ValueError, RecursionError):
        return None


def _reviews_in(value: object) -> list[dict[str, object] | None]:
    """The reviews in a JSON value; those of App Store Connect (JSON:API) laid flat.

    >>> page = {
    ...     "data": [{"type": "customerReviews", "id": "7", "attributes": {"rating": 2, "body": "Slow"}}],
    ...     "links": {"self": "https://api.appstoreconnect.apple.com/v1/apps/42/customerReviews"},
    ... }
    >>> _reviews_in(page)
    [{'app': '42', 'store': 'app_store', 'id': '7', 'rating': 2, 'body': 'Slow'}]
    """
    if isinstance(value, list):
        return [review for item in value for review in _reviews_in(item)]
    if not isinstance(value, dict):
        return [None]
    if isinstance(value.get("data"), list):
        links = value.get("links")
        app = _APP_IN_LINK.search(str(links.get("self"))) if isinstance(links, dict) else None
        known: dict[str, object] = {"app": app[1]} if app else {}
        return [None if found is None else known | found for found in _reviews_in(value["data"])]
    if value.get("type") == "customerReviews" and isinstance(value.get("attributes"), dict):
        return [{"store": "app_store", "id": value.get("id"), **value["attributes"]}]
    return [value]


_APP_IN_LINK = re.compile(r"/apps/(\d+)/")


def _as_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value) if isinstance(value, bool | dict | list) else str(value)
