"""Batch scoring: a file or table of reviews in, the same rows with their sentiment out.

Threads score pieces (the kernel, Arrow and zstd let go of the interpreter) and one writes them in their order to
`OUT.part`, then a line about each to the journal `OUT.progress`. What a killed run has journalled is not scored
again: the next one cuts both files after the last whole piece and goes on. A finished file takes its name in one step.
"""

from __future__ import annotations

import base64
import fcntl
import itertools
import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mobile_sentiment_ops.app.score_files import Piece, Source, Target, batches_of, open_target
from mobile_sentiment_ops.data.lines import encodable, undecodable
from mobile_sentiment_ops.data.predictions import text_fault
from mobile_sentiment_ops.data.row_groups import packed, parsed
from mobile_sentiment_ops.errors import Busy, DataError, StoreError, UnreadableFile
from mobile_sentiment_ops.models.compiled import CompiledModel, Scored
from mobile_sentiment_ops.models.kernel import batches
from mobile_sentiment_ops.types import LABELS, Label

JOURNAL_FORMAT = 1
_PROBABILITIES = ("p_negative", "p_neutral", "p_positive")
ADDED = pa.schema(
    [
        ("sentiment", pa.string()),
        *((name, pa.float32()) for name in ("confidence", *_PROBABILITIES)),
        ("model_version", pa.string()),
        ("error", pa.string()),
    ]
)
"""The columns that are added. All but the last two are null where `error` says why."""

Numbers = npt.NDArray[Any]
Judged = tuple[pa.Table, Numbers]
"""The columns ADDED, and how many rows have each label or, at the end, none."""

Progress = Callable[[int, float | None], None]
"""Told the rows that are done, and the share, 0..1, where it is known."""


@dataclass(frozen=True, slots=True)
class Judge:
    """A model as batch scoring uses it: what it is called, and the longest text it is asked about."""

    model: CompiledModel
    version: str
    max_chars: int

    def __call__(self, texts: pa.Array, faults: Mapping[int, str] | None = None) -> Judged:
        """The columns ADDED for texts, those of text and few values as dictionaries; `faults` are known before."""
        if pa.types.is_dictionary(texts.type):
            texts = texts.dictionary_decode()
        if str(texts.type) not in ("string", "large_string"):
            texts = texts.cast(pa.string())
        known = dict(faults or {})
        try:
            found, scored = self._scored(texts, known)
        except (DataError, UnicodeDecodeError):  # only then is each text looked at: that would cost a fiftieth of all
            known |= {at: undecodable("utf-8") for at in _undecodable(texts)}
            found, scored = self._scored(_without(texts, _at(known, texts)), known)
        wrong = _at(found, texts)
        single = np.ascontiguousarray(scored.probabilities.T, np.float32)
        of_label = single[scored.labels, np.arange(len(texts))]
        reasons = {reason: at for at, reason in enumerate(dict.fromkeys(found.values()))}
        which = np.zeros(len(texts), np.int32)
        which[list(found)] = [reasons[reason] for reason in found.values()]
        columns = [
            _named(scored.labels.astype(np.int32), LABELS, wrong),
            *(_array(number, pa.float32(), wrong) for number in (of_label, *single)),
            _named(np.zeros(len(texts), np.int32), [self.version]),
            _named(which, list(reasons), ~wrong),
        ]
        counts = np.bincount(scored.labels[~wrong], minlength=len(LABELS))
        return pa.table(columns, names=ADDED.names), np.append(counts, wrong.sum())

    def _scored(self, texts: pa.Array, known: dict[int, str]) -> tuple[dict[int, str], Scored]:
        found = text_faults(texts, self.max_chars) | known
        return found, self.model.scored(_without(texts, _at(found, texts)) if found else texts)


def _at(faults: Mapping[int, str], texts: pa.Array) -> Numbers:
    wrong = np.zeros(len(texts), bool)
    wrong[list(faults)] = True
    return wrong


def _undecodable(texts: pa.Array) -> list[int]:
    given = enumerate(texts.cast(pa.large_binary()).to_pylist())
    return [at for at, data in given if not encodable((data or b"").decode("utf-8", "surrogateescape"))]


def _named(at: Numbers, names: Sequence[str], absent: Numbers | None = None) -> pa.DictionaryArray:
    data = [name.encode() for name in names]
    ends = pa.py_buffer(np.cumsum([0, *map(len, data)], dtype=np.int32))
    values = pa.Array.from_buffers(pa.string(), len(data), [None, ends, pa.py_buffer(b"".join(data))])
    return pa.DictionaryArray.from_arrays(_array(at, pa.int32(), absent), values)


def _array(values: Numbers, kind: pa.DataType, absent: Numbers | None = None) -> pa.Array:
    """What `pa.array` makes of them; that imports pandas, which takes a third of a second."""
    bits = None if absent is None else pa.py_buffer(np.packbits(~absent, bitorder="little"))
    if pa.types.is_boolean(kind):
        return pa.Array.from_buffers(kind, len(values), [bits, pa.py_buffer(np.packbits(values, bitorder="little"))])
    return pa.Array.from_buffers(kind, len(values), [bits, pa.py_buffer(np.ascontiguousarray(values))])


def _without(texts: pa.Array, wrong: Numbers) -> pa.Array:
    return pc.if_else(_array(wrong, pa.bool_()), pa.nulls(len(texts), texts.type), texts)


def text_faults(texts: pa.Array, max_chars: int) -> dict[int, str]:
    """The faults of texts that get no prediction, by position: those of `text_fault`; null counts as blank. All
    must be valid Unicode.

    Short texts that begin with a sign of ASCII and hold no NUL are sound; only the others are looked at one by one.

    >>> text_faults(pa.array(["Love it", None, " \\u200b", " ok"]), 20_000)
    {1: 'blank: expected some text', 2: 'blank: expected some text'}
    """
    found: dict[int, str] = {}
    for bounds, data, begin in batches(texts):
        chars = np.frombuffer(data or b"\0", np.uint8)
        first, size = chars[np.minimum(bounds[:, 0], chars.size - 1)], bounds[:, 1] - bounds[:, 0]
        sure = (first > 32) & (first < 127) & (size > 0) & (size <= max_chars) & (chars.min() > 0)
        rest = begin + np.flatnonzero(~sure)
        for at, text in zip(rest.tolist(), texts.take(_array(rest, pa.int64())).to_pylist(), strict=True):
            if fault := text_fault(text or "", max_chars):
                found[at] = fault
    return found


# --- the flow


@dataclass(frozen=True, slots=True)
class Scores:
    """What came of it. `resumed_rows` were scored by a run before; `faulty` ones have an error."""

    output: str
    model_version: str
    rows: int
    resumed_rows: int
    labels: Mapping[Label, int]
    faulty: int
    seconds: float
    per_second: float
    note: str


@dataclass(frozen=True, slots=True)
class _Scored:
    """A scored piece: the rows of each label, then those without one, and what is to be written."""

    counts: list[int]
    data: list[bytes]
    piece: Piece


def score(
    source: Source, out: Path, judge: Judge, *, model_hash: str, threads: int, force: bool, progress: Progress
) -> Scores:
    """Score all pieces that no earlier run has scored, and give the file its name when all are there.

    Raises StoreError when `out` exists (unless `force`) or cannot be written, Busy while another run writes it, and
    UnreadableFile for a damaged source or one that changes meanwhile.
    """
    began = time.monotonic()
    if out.is_dir() or (out.exists() and not force):
        raise StoreError(f"{out} exists; name another file, or let --force replace it when the new one is complete")
    target = open_target(source, out, ADDED)
    model = {"version": judge.version, "sha256": model_hash, "max_text_chars": judge.max_chars}
    head = {"format": JOURNAL_FORMAT, "input": source.identity, "column": source.text_column, "model": model}
    total = np.zeros(4, np.int64)
    try:  # around the journal: a full disk refuses also what closing it would write
        with _journal(out, head) as (part, log, entries, note):
            total += np.sum([[0] * 4, *(entry["counts"] for entry in entries)], axis=0)
            resumed = int(total.sum())
            groups = [parsed(base64.b64decode(group)) for entry in entries for group in entry["groups"]]
            pieces = itertools.islice(source.pieces(), len(entries), None)
            if not entries:
                part.write(target.begin)
            for done in _in_turn((partial(_score, source, piece, judge, target) for piece in pieces), threads):
                made = target.place(done.data, done.piece, part)
                part.flush()
                encoded = [base64.b64encode(packed(group)).decode() for group in made]
                log.write(json.dumps({"end": part.tell(), "counts": done.counts, "groups": encoded}).encode() + b"\n")
                log.flush()
                groups, total = groups + made, total + done.counts
                rows = int(total.sum())
                progress(rows, source.share() if source.rows is None else rows / source.rows)
            source.require_unchanged()
            part.write(target.end(groups))
            part.flush()
            os.fsync(part.fileno())
            _part_of(out).replace(out)
    except OSError as err:
        kept = f"{int(total.sum()):,} scored rows are kept, and the same command goes on after them"
        raise StoreError(f"{out} cannot be written: {_why(err)}; make room: {kept}") from err
    rows, seconds = int(total.sum()), time.monotonic() - began
    labels = dict(zip(LABELS, total.tolist(), strict=False))
    rate = (rows - resumed) / max(seconds, 1e-9)
    return Scores(str(out), judge.version, rows, resumed, labels, int(total[3]), seconds, rate, note)


def _score(source: Source, piece: Piece, judge: Judge, target: Target) -> _Scored:
    try:
        judged = [_judged(source, piece, judge, group) for group in piece.groups or [0]]
    except (pa.ArrowException, OSError) as err:
        raise UnreadableFile(f"{source.name} is damaged ({err}); write or fetch it again") from err
    tables = [table for table, _ in judged]
    if piece.table is not None:
        columns = [*piece.table.columns, *tables[0].columns]
        tables = [pa.Table.from_arrays(columns, names=target.schema.names)]
    counts = np.sum([counts for _, counts in judged], axis=0)
    return _Scored(counts.tolist(), [target.encode(table) for table in tables], piece)


def _judged(source: Source, piece: Piece, judge: Judge, group: int) -> Judged:
    """What is said of the rows of a piece, or of one of its row groups."""
    if piece.table is not None:
        return judge(piece.table.column(source.text_column).combine_chunks(), piece.faults)
    texts = [batch.column(0) for batch in batches_of(source.reopened(), [source.text_column], [group])]
    tables, counts = zip(*map(judge, texts or [pa.nulls(0, pa.string())]), strict=True)
    return pa.concat_tables(tables), np.sum(counts, axis=0)


def _in_turn(tasks: Iterable[Callable[[], _Scored]], threads: int) -> Iterator[_Scored]:
    """What the tasks give, in their order; so many are under way, and as many wait to be taken."""
    pool, waiting = ThreadPoolExecutor(threads), deque[Future[_Scored]]()
    try:
        for task in tasks:
            waiting.append(pool.submit(task))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


# --- the journal

Entry = dict[str, Any]


@contextmanager
def _journal(out: Path, head: Mapping[str, object]) -> Iterator[tuple[BinaryIO, BinaryIO, Sequence[Entry], str]]:
    """The unfinished output at the end of its last whole piece, the journal, its entries, and what is to be said of
    an earlier run. The journal goes when the output has its name."""
    path = out.with_name(f"{out.name}.progress")
    with path.open("a+b") as log, _part_of(out).open("a+b") as part:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as err:
            raise Busy(f"another `mso score` writes {out} now; wait for it, or name another file") from err
        log.seek(0)
        before, *lines = log.read().splitlines(keepends=True) or [b""]
        first = json.dumps(head).encode() + b"\n"
        entries: list[Entry] = []
        note, size = "", part.seek(0, os.SEEK_END)
        if before == first:
            read = list(itertools.takewhile(lambda entry: entry and entry["end"] <= size, map(_entry, lines)))
            entries = [entry for entry in read if entry]
            note = f"went on after {len(entries):,} pieces of an earlier run" if entries else ""
        elif known := _entry(before):
            changed = " and ".join(name for name in head if known.get(name) != head[name])
            note = f"began anew, as the {changed} changed since an earlier run"
        log.truncate(sum(map(len, [before, *lines[: len(entries)]])) if before == first else 0)
        part.truncate(entries[-1]["end"] if entries else 0)
        part.seek(0, os.SEEK_END)
        if before != first:
            log.write(first)
            log.flush()
        yield part, log, entries, note
        path.unlink()


def _entry(line: bytes) -> Entry | None:
    """A line of the journal, or None for one that a crash cut off."""
    try:
        found: Entry = json.loads(line)
    except ValueError:
        return None
    return found if line.endswith(b"\n") else None


def _part_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.part")


def _why(err: OSError) -> str:
    return (err.strerror or str(err)).lower()
