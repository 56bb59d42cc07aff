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
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import BinaryIO, TextIO

from mobile_sentiment_ops.app.prediction import Answer
from mobile_sentiment_ops.app.problems import MAX_ERRORS, Problem
from mobile_sentiment_ops.data.columns import kept_names, recognise, shown
from mobile_sentiment_ops.data.csv_rows import Row, full_rows, read_csv, writable
from mobile_sentiment_ops.data.lines import open_lines
from mobile_sentiment_ops.data.predictions import Review, text_fault
from mobile_sentiment_ops.errors import UnreadableFile
from mobile_sentiment_ops.settings import Api

TEXT_COLUMN = "review_text"
ADDED = ("sentiment", "confidence", "prediction_id", "error")
TOLD = ("review_id", "app", "version", "language", "submitted_at")
CHUNK_ROWS = 1_000
PAUSE_SECONDS = 50e-6
"""After so many rows others run. A thread that reads a file gives the interpreter away so often and so briefly
that a waiting thread hardly ever gets it: single texts waited up to 0.3 s beside a file of 80 MB."""

MAX_COLUMNS = 256
"""Short rows are filled up to the header, so a hostile header would make a small file's answer endless."""

Predict = Callable[[Sequence[Review]], list[Answer]]


def check_csv(stream: BinaryIO, name: str, api: Api) -> None:
    """Read the whole file and refuse it for what is wrong with all of it.

    Raises UnreadableFile or a Problem that says what was found, where, and what was expected.
    """
    rows, usable = 0, False
    faults: list[dict[str, object]] = []
    with _open_csv(stream, name) as (header, file):
        text_at = header.index(TEXT_COLUMN)
        for row in file:
            rows += 1
            if rows % CHUNK_ROWS == 0:
                time.sleep(PAUSE_SECONDS)
            if rows > api.max_csv_rows:
                raise Problem(413, f"{name} has more than {api.max_csv_rows:,} rows; send it in parts")
            if not usable:
                fault = row.fault or text_fault(row.cells[text_at], api.max_text_chars)
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
    with _open_csv(stream, name) as (header, file):
        text_at = header.index(TEXT_COLUMN)
        picks = {part: header.index(column) for column, part in recognise(header).items() if part in TOLD}
        # Python 3.11 quotes a bare carriage return only when it is part of the line's end
        writer = csv.writer(SimpleNamespace(write=lambda line: out.write(f"{line[:-2]}\n")), lineterminator="\r\n")
        writer.writerow(map(without_formula, (*kept_names(header, ADDED), *ADDED)))
        while chunk := list(itertools.islice(file, CHUNK_ROWS)):
            time.sleep(PAUSE_SECONDS)
            sound = [row for row in chunk if row.fault is None]
            answers = iter(predict(_reviews(sound, text_at, picks)))
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


@contextmanager
def _open_csv(stream: BinaryIO, name: str) -> Iterator[tuple[list[str], Iterator[Row]]]:
    """The header, which has one TEXT_COLUMN, and the rows of a file from its start; the stream stays open."""
    with open_lines(stream, name) as lines:
        if not lines.peek(1):
            raise UnreadableFile(f"{name} is empty; expected a CSV file with a column {TEXT_COLUMN}")
        names, rows = read_csv(lines, lambda names: TEXT_COLUMN in names)
        header = [writable(cell) for cell in names]
        found = header.count(TEXT_COLUMN)
        if found != 1:
            wrong = f"{found} columns are named {TEXT_COLUMN}" if found else f"there is no column {TEXT_COLUMN}"
            raise UnreadableFile(f"{name} line {lines.number}: {wrong}; found {shown(header)}, expected exactly one")
        if len(header) > MAX_COLUMNS:
            raise UnreadableFile(f"{name} has {len(header):,} columns, expected at most {MAX_COLUMNS}")
        yield header, full_rows(rows, len(header))


# --- answering


def _reviews(rows: Sequence[Row], text_at: int, picks: Mapping[str, int]) -> list[Review]:
    """Rows as reviews with what they tell of themselves, as it stands there: it is read when it is kept."""
    return [
        Review(row.cells[text_at], **{part: row.cells[at].strip() or None for part, at in picks.items()})  # type: ignore[arg-type]
        for row in rows
    ]


def _added_cells(answer: Answer) -> tuple[object, ...]:
    if answer.prediction is None:
        return "", "", "", answer.fault
    return answer.prediction.label.value, round(answer.prediction.confidence, 6), answer.prediction_id, ""
