"""The rows of a CSV text, each with its line, and what keeps it from being read.

One column may be parted by comma, semicolon, tab or bar from the next. A row that breaks the rules
of CSV costs itself and no other; only a quote that is never closed ends the file, as nobody can tell
where its row does.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mobile_sentiment_ops.data.lines import Lines, encodable, undecodable
from mobile_sentiment_ops.errors import UnreadableFile

DELIMITERS = (",", ";", "\t", "|")
MAX_ROW_LINES = 2_000
MAX_LINES_READ_AGAIN = 200_000
"""A quote out of place makes the lines that it swallowed be read again; hostile files would do so for ever."""


class Row(NamedTuple):
    """The line a row starts on, its cells, and, of one that cannot be read, the fault and its text.

    A blank line is a row without cells; one with a fault has those that can be told.
    """

    line: int
    cells: list[str]
    fault: str | None = None
    text: str = ""


def read_csv(lines: Lines, known: Callable[[list[str]], int]) -> tuple[list[str], Iterator[Row]]:
    """The names of the columns, none where no line has any, and the rows after them.

    The delimiter is the one whose columns are `known` best, and then the one that parts them most; one
    column alone has none, so that its texts need no quotes around their commas.

    >>> import io
    >>> text = io.BytesIO(b"id;text\\n1;Slow, but fine\\n2;Ok;really\\n")
    >>> header, rows = read_csv(Lines(text, "utf-8", "may.csv"), lambda names: "text" in names)
    >>> header, [(row.line, row.fault or row.cells[1]) for row in rows]
    (['id', 'text'], [(2, 'Slow, but fine'), (3, 'ragged: has 3 fields, the header has 2')])
    """
    parted = {sign: [name.strip(' "\r\n') for name in lines.peek(1)[0].split(sign)] for sign in DELIMITERS}
    delimiter = max(DELIMITERS, key=lambda sign: (known(parted[sign]), len(parted[sign])))
    if len(parted[delimiter]) == 1:
        delimiter = "\x1f"
    reader = csv.reader(_bounded(lines), delimiter=delimiter, strict=True)
    try:
        header = next((cells for cells in reader if any(map(str.strip, cells))), [])
    except csv.Error as err:
        raise UnreadableFile(f"{lines.name} line {lines.start}: the header is no CSV: {err}") from err
    return [name.strip() for name in header], _rows(reader, lines, delimiter, len(header))


def full_rows(rows: Iterator[Row], width: int) -> Iterator[Row]:
    """Every row with its cells brought to the header's number. A line without anything on it is no row,
    except in a file of one column, where it is a blank review unless nothing follows it."""
    blank_lines = 0
    for line, cells, fault, _ in rows:
        if not cells:
            blank_lines += width == 1
            continue
        yield from (Row(blank, [""]) for blank in range(line - blank_lines, line))
        blank_lines = 0
        if fault:
            cells = [writable(cell) for cell in (cells + [""] * width)[:width]]
        yield Row(line, cells, fault)


def writable(cell: str) -> str:
    """The cell with a mark for every character that is none."""
    return cell.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _rows(reader: Iterator[list[str]], lines: Lines, delimiter: str, width: int) -> Iterator[Row]:
    read_again = 0
    while True:
        lines.held.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as err:
            cells, fault = _misquoted(err, lines, delimiter)
            read_again += len(lines.held) - 1
            if read_again > MAX_LINES_READ_AGAIN + lines.number // 10:
                raise UnreadableFile(
                    f"{lines.name}: too many quotes are out of place up to line {lines.start}"
                ) from err
            lines.give_back(keep=1)
            yield Row(lines.start, cells, fault, lines.held[0])
            continue
        if cells and (found := _fault(cells, width, lines.encoding)):
            yield Row(lines.start, cells, found, "".join(lines.held))
        else:
            yield Row(lines.start, cells)


def _fault(cells: list[str], width: int, encoding: str) -> str | None:
    if len(cells) != width:
        return f"ragged: has {len(cells)} fields, the header has {width}"
    whole = "".join(cells)
    if "\0" in whole:
        return "nul: holds a NUL character, expected text"
    return None if encodable(whole) else undecodable(encoding)


def _bounded(lines: Lines) -> Iterator[str]:
    """The lines, as long as no row holds too many of them."""
    for line in lines:
        if len(lines.held) > MAX_ROW_LINES:
            raise _unclosed(lines)
        yield line


def _misquoted(err: csv.Error, lines: Lines, delimiter: str) -> tuple[list[str], str]:
    """The cells, as they stand but no longer than readers take, and the fault of the first line in hand, which
    the reader stumbled over; UnreadableFile when it cannot be told where its row ends."""
    too_long = "larger than field limit" in str(err)
    if "end of data" in str(err) or (too_long and len(lines.held) > 1):
        raise _unclosed(lines) from err
    limit = csv.field_size_limit()
    cells = [cell[: limit - 1] for cell in lines.held[0].rstrip("\r\n").split(delimiter)]
    if too_long:
        return cells, f"too_long: a field has more than {limit:,} characters"
    return cells, "quote: a quote inside a field must be doubled"


def _unclosed(lines: Lines) -> UnreadableFile:
    return UnreadableFile(
        f"{lines.name} line {lines.start}: a quote is opened and not closed by line {lines.number}; "
        f'expected another " after the text'
    )
