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

import csv
import gzip
import itertools
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mobile_sentiment_ops.data.columns import known_store, require_text
from mobile_sentiment_ops.data.lines import DELIMITERS, Lines, encodable, find_encoding
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
    head = _peek(stream, name)
    if head.startswith(b"\x1f\x8b"):
        yield from _read_gzip(stream, name, recognise, batch_rows)
    elif head.startswith(b"PAR1"):
        yield from _read_parquet(stream, name, recognise, batch_rows)
    else:
        encoding = find_encoding(stream, name)
        lines = Lines(stream, encoding, name)
        try:
            first = lines.peek(1)
            if not first:
                raise _empty(name)
            read = _read_json if first[0].lstrip().startswith(("{", "[")) else _read_csv
            yield from read(lines, name, recognise, batch_rows)
        finally:
            lines.detach()


def bounded(text: str) -> str:
    """The start of a rejected row, safe to store: no NUL, no half of a surrogate pair."""
    kept = text[:MAX_ROW_CHARS].rstrip("\r\n").replace("\0", "\\0")
    return kept.encode("utf-8", "backslashreplace").decode("utf-8")


def _peek(stream: BinaryIO, name: str) -> bytes:
    head = stream.read(64)
    stream.seek(0)
    if not head.strip(b" \t\r\n\xef\xbb\xbf\xff\xfe\0"):
        raise _empty(name)
    if head.startswith(b"PK\x03\x04"):
        raise UnreadableFile(f"{name} is a zip archive or an Excel workbook; unpack it, or save the sheet as CSV UTF-8")
    return head


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


@dataclass(slots=True)
class _Pending:
    """Rows read since the last batch. `picks` are the used fields of a row, in the mapping's order."""

    name: str
    encoding: str
    mapping: Mapping[str, str]
    picks: Sequence[int]
    store: str | None
    rows: list[Sequence[str | None]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def reject(self, line: int, reason: str, row: str) -> None:
        """A row that names its author leaves no text behind: authors are never stored."""
        shown = "" if "author" in self.mapping.values() else bounded(row)
        self.rejected.append(Rejected(self.name, line, reason, shown))

    def batch(self) -> Batch:
        """Everything pending as one batch; nothing is pending afterwards."""
        try:
            frame = self._frame()
        except UnicodeEncodeError:
            self._reject_undecodable()
            frame = self._frame()
        if self.store and "store" not in frame.columns:
            frame = frame.with_columns(pl.lit(self.store).alias("store"))
        found = Batch(frame, self.lines, self.mapping, tuple(self.rejected))
        self.rows, self.lines, self.rejected = [], [], []
        return found

    def _frame(self) -> pl.DataFrame:
        parts = zip(self.mapping.values(), self.picks, strict=True)
        return pl.DataFrame([pl.Series(part, [row[i] for row in self.rows], dtype=pl.Utf8()) for part, i in parts])

    def _reject_undecodable(self) -> None:
        kept: list[tuple[int, Sequence[str | None]]] = []
        for line, row in zip(self.lines, self.rows, strict=True):
            text = ", ".join(row[i] or "" for i in self.picks)
            if encodable(text):
                kept.append((line, row))
            else:
                self.reject(line, f"undecodable: a part of it is no {self.encoding.upper()} text", text)
        self.lines, self.rows = [line for line, _ in kept], [row for _, row in kept]


# --- CSV


def _read_csv(lines: Lines, name: str, recognise: Recogniser, batch_rows: int) -> Iterator[Batch]:
    reader = csv.reader(lines, delimiter=_find_delimiter(lines.peek(1)[0], recognise), strict=True)
    header = _read_header(reader, name)
    mapping = recognise(header)
    require_text(name, header, mapping)
    picks = [header.index(column) for column in mapping]
    pending = _Pending(name, lines.encoding, mapping, picks, known_store(header))
    while True:
        lines.held.clear()
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as err:
            _reject_quotes(err, lines, pending)
            continue
        if len(row) == len(header):
            pending.rows.append(row)
            pending.lines.append(lines.start)
        elif row and not (text := "".join(lines.held)).isspace():
            pending.reject(lines.start, f"ragged: has {len(row)} fields, the header has {len(header)}", text)
        if len(pending.rows) + len(pending.rejected) >= batch_rows:
            yield pending.batch()
    yield pending.batch()


def _read_header(reader: Iterator[list[str]], name: str) -> list[str]:
    try:
        for row in reader:
            header = [column.strip() for column in row]
            if any(header):
                return header
    except csv.Error as err:
        raise UnreadableFile(f"{name}: a quote is out of place in the first line, which names the columns") from err
    raise _empty(name)


def _find_delimiter(header: str, recognise: Recogniser) -> str:
    """The delimiter with which a header names most of a review; one column alone has none.

    >>> from mobile_sentiment_ops.data.columns import recognise
    >>> _find_delimiter("id;app,version;text", recognise)
    ';'
    """
    best = max(DELIMITERS, key=lambda sign: (len(recognise(_split(header, sign))), len(_split(header, sign))))
    return best if len(_split(header, best)) > 1 else "\x1f"


def _split(header: str, delimiter: str) -> list[str]:
    return [column.strip() for column in next(csv.reader([header], delimiter=delimiter))]


def _reject_quotes(err: csv.Error, lines: Lines, pending: _Pending) -> None:
    """Lose one line to a quote that is out of place, not the lines that it swallowed."""
    at_the_end, too_large = "end of data" in str(err), "larger than field limit" in str(err)
    if at_the_end or (too_large and len(lines.held) > 1):
        raise UnreadableFile(
            f'{pending.name} line {lines.start}: a quote is opened and never closed; expected another " after the '
            f"text. Earlier rows are taken in; mend that line and ingest the file again"
        ) from err
    line, text = lines.start, lines.held[0]
    lines.give_back(keep=1)
    reason = (
        f"too_long: a field has more than {csv.field_size_limit():,} characters"
        if too_large
        else "quote: a quote inside a quoted field must be doubled"
    )
    pending.reject(line, reason, text)


# --- JSON


def _read_json(lines: Lines, name: str, recognise: Recogniser, batch_rows: int) -> Iterator[Batch]:
    records = _document(lines, name) if _is_document(lines.peek(2)) else _json_lines(lines)
    pending: _Pending | None = None
    while chunk := list(itertools.islice(records, batch_rows)):
        if pending is None:
            names = list(dict.fromkeys(key for _, record, _ in chunk for key in record or ()))
            mapping = recognise(names)
            require_text(name, names, mapping)
            pending = _Pending(name, lines.encoding, mapping, range(len(mapping)), None)
        for line, record, text in chunk:
            if record is None:
                pending.reject(line, "json: is no complete JSON object", text)
            else:
                pending.rows.append([_as_text(record.get(column)) for column in pending.mapping])
                pending.lines.append(line)
        yield pending.batch()


Record = tuple[int, dict[str, object] | None, str]
"""A line number, the review found there (None for something else) and, of something else, the text."""


def _is_document(first: Sequence[str]) -> bool:
    """Whether a JSON text is one document over several lines; else each line is an object."""
    return first[0].strip() in ("{", "[") or not any(_parsed(line) is not None for line in first)


def _json_lines(lines: Lines) -> Iterator[Record]:
    for line in lines:
        if not line.isspace():
            yield from ((lines.number, record, line) for record in _reviews_in(_parsed(line)))
        lines.held.clear()


def _document(lines: Lines, name: str) -> Iterator[Record]:
    """The reviews of one document, which is read whole; they count as lines 1, 2, 3, ..."""
    parts, size = [], 0
    for line in lines:
        parts.append(line)
        size += len(line)
        if size > MAX_DOCUMENT_CHARS:
            raise UnreadableFile(f"{name} is one JSON document, and too large for one; write one object a line")
    try:
        value = json.loads("".join(parts))
    except (ValueError, RecursionError) as err:
        raise UnreadableFile(
            f"{name} starts as JSON and is none: {err}; expected one object a line, or one list of objects"
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
