"""The CSV contract of POST /predict: a file of reviews in, the same rows with their sentiment out.

In: a column `review_text`; comma, semicolon, tab or bar; UTF-8, UTF-16 or cp1252. Other columns are
kept, and where they are an app, a version, a language, a rating, an id or a date by their usual names
(data/columns.py) the prediction log knows them too. Out: UTF-8, commas, the caller's columns in their
order, then `ADDED`. A caller's column with one of those names comes back as `given_...`.

A file is read twice: `check_csv` finds what is wrong with it as a whole before `answer_csv` predicts
anything, so a refused file leaves no predictions. Memory is bounded by the chunk.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import BinaryIO, TextIO

from mobile_sentiment_ops.app.prediction import Answer, Review
from mobile_sentiment_ops.app.problems import MAX_ERRORS, Problem
from mobile_sentiment_ops.data.columns import recognise
from mobile_sentiment_ops.data.lines import DELIMITERS, Lines, encodable, find_encoding
from mobile_sentiment_ops.data.predictions import text_fault
from mobile_sentiment_ops.errors import UnreadableFile
from mobile_sentiment_ops.settings import Api

TEXT_COLUMN = "review_text"
ADDED = ("sentiment", "confidence", "prediction_id", "error")
TOLD = ("review_id", "app", "version", "language", "rating", "submitted_at")
CHUNK_ROWS = 1_000
MAX_COLUMNS = 256
"""Short rows are filled up to the header, so a hostile header would make a small file's answer endless."""

MAX_ROW_LINES = 2_000
MAX_LINES_READ_AGAIN = 200_000
"""A quote out of place makes the lines that it swallowed be read again; hostile files would do so for ever."""

Predict = Callable[[Sequence[Review]], list[Answer]]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the file: the line it starts on, as many cells as the header, and its fault if any."""

    line: int
    cells: list[str]
    fault: str | None = None


def check_csv(stream: BinaryIO, name: str, api: Api) -> None:
    """Read the whole file and refuse it for what is wrong with all of it.

    Raises UnreadableFile or a Problem that says what was found, where, and what was expected.
    """
    rows, usable = 0, False
    faults: list[dict[str, object]] = []
    with _open_csv(stream, name) as file:
        for row in file.rows:
            rows += 1
            if rows > api.max_csv_rows:
                raise Problem(413, f"{name} has more than {api.max_csv_rows:,} rows; send it in parts")
            if not usable:
                fault = row.fault or text_fault(row.cells[file.text_at], api.max_text_chars)
                usable = fault is None
                if len(faults) < MAX_ERRORS:
                    faults.append({"line": row.line, "problem": fault})
    if not rows:
        raise UnreadableFile(f"{name} holds a header and no review; expected at least one row after it")
    if not usable:
        raise Problem(422, f"{name}: none of its {rows:,} rows can be predicted", errors=faults)


def answer_csv(stream: BinaryIO, name: str, predict: Predict, out: TextIO) -> None:
    """Write the answer to a file that `check_csv` has passed, chunk by chunk.

    `predict` gets the reviews of a chunk and gives an answer for each.
    """
    with _open_csv(stream, name) as file:
        parts = recognise(file.header)
        picks = {part: file.header.index(column) for column, part in parts.items() if part in TOLD}
        # Python 3.11 quotes a bare carriage return only when it is part of the line's end
        writer = csv.writer(SimpleNamespace(write=lambda line: out.write(f"{line[:-2]}\n")), lineterminator="\r\n")
        writer.writerow(map(without_formula, (*_kept_names(file.header), *ADDED)))
        while chunk := list(itertools.islice(file.rows, CHUNK_ROWS)):
            sound = [row for row in chunk if row.fault is None]
            answers = iter(predict(_reviews(sound, file.text_at, picks)))
            for row in chunk:
                added = next(answers) if row.fault is None else Answer(None, fault=row.fault)
                writer.writerow([*map(without_formula, row.cells), *_added_cells(added)])


def without_formula(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula: an apostrophe goes before = + - @, tab and line ends.

    Plain numbers stay as they are.

    >>> without_formula("=HYPERLINK(A1)"), without_formula("- slow"), without_formula("-12.5")
    ("'=HYPERLINK(A1)", "'- slow", '-12.5')
    """
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


_FORMULA = re.compile(r"\s*[=+\-@＝＋－＠]|[\t\r\n]")
_NUMBER = re.compile(r"[+-]?\d+(?:[.,]\d+)?", re.ASCII)


# --- reading


@dataclass(frozen=True, slots=True)
class _File:
    header: list[str]
    text_at: int
    rows: Iterator[Row]


@contextmanager
def _open_csv(stream: BinaryIO, name: str) -> Iterator[_File]:
    """The file from its start; the stream stays open."""
    stream.seek(0)
    try:
        encoding = find_encoding(stream, name)
    except UnreadableFile as err:
        raise UnreadableFile(
            f"{name} is no text in UTF-8, UTF-16 or a Western European encoding; expected a CSV file "
            f"(an archive: unpack it; a workbook: save the sheet as CSV)"
        ) from err
    lines = Lines(stream, encoding, name)
    try:
        if not (first := lines.peek(1)):
            raise UnreadableFile(f"{name} is empty; expected a CSV file with a column {TEXT_COLUMN}")
        delimiter = _find_delimiter(first[0])
        reader = csv.reader(_bounded(lines, name), delimiter=delimiter, strict=True)
        header = _read_header(reader, lines, name)
        yield _File(header, header.index(TEXT_COLUMN), _rows(reader, lines, header, delimiter, name))
    finally:
        lines.detach()


def _read_header(reader: Iterator[list[str]], lines: Lines, name: str) -> list[str]:
    """The names of the columns, one of which is the text's."""
    try:
        cells = next((cells for cells in reader if any(map(str.strip, cells))), [])
    except csv.Error as err:
        raise UnreadableFile(f"{name} line {lines.start}: the header is no CSV: {err}") from err
    header = [_writable(cell.strip()) for cell in cells]
    found = header.count(TEXT_COLUMN)
    if found != 1:
        shown = ", ".join(repr(cell[:40]) for cell in header[:12]) + (", ..." if len(header) > 12 else "")
        wrong = f"{found} columns are named {TEXT_COLUMN}" if found else f"there is no column {TEXT_COLUMN}"
        raise UnreadableFile(f"{name} line {lines.number}: {wrong}; found {shown or 'nothing'}, expected exactly one")
    if len(header) > MAX_COLUMNS:
        raise UnreadableFile(f"{name} has {len(header):,} columns, expected at most {MAX_COLUMNS}")
    return header


def _find_delimiter(first_line: str) -> str:
    """The delimiter that names the text column and parts the header most; one column alone has none, so
    that its texts need no quotes around their commas."""

    def fields(delimiter: str) -> list[str]:
        return [cell.strip().strip('"') for cell in first_line.split(delimiter)]

    best = max(DELIMITERS, key=lambda sign: (TEXT_COLUMN in fields(sign), len(fields(sign))))
    return best if len(fields(best)) > 1 else "\x1f"


def _bounded(lines: Lines, name: str) -> Iterator[str]:
    """The lines, as long as no row holds too many of them."""
    for line in lines:
        if len(lines.held) > MAX_ROW_LINES:
            raise _unclosed(lines, name)
        yield line


def _rows(reader: Iterator[list[str]], lines: Lines, header: list[str], delimiter: str, name: str) -> Iterator[Row]:
    """Every row with its cells brought to the header's number. A line without anything on it is no row,
    except in a file of one column, where it is a blank review unless nothing follows it."""
    width, blank_lines, read_again = len(header), 0, 0
    while True:
        lines.held.clear()
        fault = None
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as err:
            cells, fault = _misquoted(err, lines, delimiter, name)
            read_again += len(lines.held) - 1
            if read_again > MAX_LINES_READ_AGAIN:
                raise UnreadableFile(f"{name}: too many quotes are out of place up to line {lines.start}") from err
            lines.give_back(keep=1)
        start = lines.start
        if not cells and fault is None:
            blank_lines += width == 1
            continue
        yield from (Row(line, [""]) for line in range(start - blank_lines, start))
        blank_lines = 0
        if len(cells) != width:
            fault = fault or f"ragged: has {len(cells)} fields, the header has {width}"
            cells = (cells + [""] * width)[:width]
        whole = "".join(cells)
        if "\0" in whole:
            fault = fault or "nul: holds a NUL character, expected text"
        elif not encodable(whole):
            fault = fault or f"undecodable: a part of it is no {lines.encoding.upper()} text"
        yield Row(start, [_writable(cell) for cell in cells] if fault else cells, fault)


def _writable(cell: str) -> str:
    """The cell with a mark for every character that is none."""
    return cell.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _misquoted(err: csv.Error, lines: Lines, delimiter: str, name: str) -> tuple[list[str], str]:
    """The cells, as they stand but no longer than readers take, and the fault of the first line in hand, which
    the reader stumbled over; UnreadableFile when it cannot be told where its row ends."""
    too_long = "larger than field limit" in str(err)
    if "end of data" in str(err) or (too_long and len(lines.held) > 1):
        raise _unclosed(lines, name) from err
    limit = csv.field_size_limit()
    cells = [cell[: limit - 1] for cell in lines.held[0].rstrip("\r\n").split(delimiter)]
    if too_long:
        return cells, f"too_long: a field has more than {limit:,} characters"
    return cells, "quote: a quote inside a field must be doubled"


def _unclosed(lines: Lines, name: str) -> UnreadableFile:
    return UnreadableFile(
        f"{name} line {lines.start}: a quote is opened and not closed by line {lines.number}; "
        f'expected another " after the text'
    )


# --- answering


def _kept_names(header: Sequence[str]) -> list[str]:
    """The caller's column names; those that we add ourselves get `given_` before them.

    >>> _kept_names(["review_text", "sentiment", "app"])
    ['review_text', 'given_sentiment', 'app']
    """
    kept = []
    for name in header:
        if name in ADDED:
            name = f"given_{name}"
            while name in header:
                name = f"given_{name}"
        kept.append(name)
    return kept


def _reviews(rows: Sequence[Row], text_at: int, picks: dict[str, int]) -> list[Review]:
    """Rows as reviews; what they tell of themselves is read as ingest reads it."""
    texts = [row.cells[text_at] for row in rows]
    if not picks or not rows:
        return [Review(text) for text in texts]
    import polars as pl  # half a second that a server's start does not wait for

    from mobile_sentiment_ops.data.validation import canonical

    told = pl.DataFrame({part: [row.cells[at] for row in rows] for part, at in picks.items()})
    read = canonical(told.with_columns(pl.lit("").alias(TEXT_COLUMN))).select(TOLD)
    return [Review(text, **values) for text, values in zip(texts, read.iter_rows(named=True), strict=True)]


def _added_cells(answer: Answer) -> tuple[object, ...]:
    if answer.prediction is None:
        return "", "", "", answer.fault
    return answer.prediction.label.value, round(answer.prediction.confidence, 6), answer.prediction_id, ""
