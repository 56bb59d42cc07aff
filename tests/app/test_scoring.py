"""Batch scoring: all formats, rows that cannot be judged, and runs that are cut off anywhere."""

from __future__ import annotations

import fcntl
import gzip
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mobile_sentiment_ops.adapters.memory import MemoryTables
from mobile_sentiment_ops.app import score_files
from mobile_sentiment_ops.app.score_files import open_source
from mobile_sentiment_ops.app.scoring import ADDED, Judge, Scores, score, text_faults
from mobile_sentiment_ops.data.predictions import text_fault
from mobile_sentiment_ops.errors import Busy, DataError, StoreError, UnreadableFile
from mobile_sentiment_ops.models.compiled import CompiledModel, compile_model
from mobile_sentiment_ops.models.model import SentimentModel

TEXTS = ["Love to pay with it", " ", None, "It crashes when I scan it", "So slow to open\nawful, awful", "x" * 61]
SENTIMENTS = ["Positive", None, None, "Negative", "Negative", None]
Run = Callable[..., Scores]


class Killed(BaseException):
    """What ends a run in the middle."""


@dataclass
class Counting:
    """A compiled model that counts the texts it is asked about."""

    model: CompiledModel
    rows: list[int] = field(default_factory=list)

    def scored(self, texts: Any) -> Any:
        self.rows.append(len(texts))
        return self.model.scored(texts)


@pytest.fixture
def model(tiny_model: SentimentModel) -> Counting:
    return Counting(CompiledModel.of(compile_model(tiny_model, "")))


@pytest.fixture
def run(model: Any, tmp_path: Path) -> Run:
    """`run("in.csv", "out.csv", stop_after=3)` scores in the folder of the test."""

    def run(source: str, out: str, *, stop_after: int = 0, version: str = "3", **more: Any) -> Scores:
        pieces: list[int] = []

        def progress(rows: int, share: float | None) -> None:
            assert share is None or 0 <= share <= 1
            pieces.append(rows)
            if len(pieces) == stop_after:
                raise Killed

        name = source if source.startswith("table:") else str(tmp_path / source)
        copy = ADDED.names if out.endswith(".parquet") else None
        opened = open_source(name, more.pop("column", "review_text"), more.pop("tables", MemoryTables), copy=copy)
        options = {"model_hash": "aa", "threads": 2, "force": False, **more}
        return score(opened, tmp_path / out, Judge(model, version, 60), progress=progress, **options)

    return run


def _write(path: Path, frame: pl.DataFrame) -> None:
    if path.name.endswith(".gz"):
        _write(path.with_suffix(""), frame)
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    elif path.suffix == ".parquet":
        frame.write_parquet(path, row_group_size=4)
    else:
        (frame.write_csv if path.suffix == ".csv" else frame.write_ndjson)(path)


def _read(path: Path) -> pl.DataFrame:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    if ".parquet" in path.suffixes:
        return pl.read_parquet(path)
    return pl.read_csv(data) if ".csv" in path.suffixes else pl.read_ndjson(data)


@pytest.mark.parametrize("out", ["out.parquet", "out.csv", "out.csv.gz", "out.jsonl"])
@pytest.mark.parametrize("source", ["in.parquet", "in.csv", "in.csv.gz", "in.jsonl", "in.ndjson.gz"])
def test_every_format_becomes_every_other_with_rows_and_columns_in_order(
    run: Run, tmp_path: Path, source: str, out: str
) -> None:
    frame = pl.DataFrame({"id": range(6), "review_text": TEXTS, "error": ["e"] * 6, "given_error": ["g"] * 6})
    _write(tmp_path / source, frame)
    told = run(source, out)
    found = _read(tmp_path / out)
    assert found.columns == ["id", "review_text", "given_given_error", "given_error", *ADDED.names] or (
        found.columns == ["id", "review_text", "given_error", "given_given_error", *ADDED.names]
    )
    assert found["id"].cast(pl.Int64).to_list() == list(range(6))
    assert found["sentiment"].to_list() == SENTIMENTS
    assert found["model_version"].cast(pl.Utf8).to_list() == ["3"] * 6
    assert [reason and reason.partition(":")[0] for reason in found["error"]] == [
        None, "blank", "blank", None, None, "too_long",
    ]  # fmt: skip
    sums = found.select(pl.sum_horizontal("p_negative", "p_neutral", "p_positive"), pl.col("confidence")).drop_nulls()
    assert sums.height == 3
    assert np.allclose(sums.to_series(0).to_numpy(), 1, atol=1e-6)
    assert (told.rows, told.faulty, told.labels) == (6, 3, {"Negative": 2, "Neutral": 0, "Positive": 1})
    assert not list(tmp_path.glob("*.part")) + list(tmp_path.glob("*.progress"))


def test_answers_are_those_of_the_model(run: Run, tmp_path: Path, tiny_model: SentimentModel) -> None:
    texts = [f"Love to {'pay' if at % 2 else 'crash'} with it {at}" for at in range(50)]
    pl.DataFrame({"review_text": texts}).write_parquet(tmp_path / "in.parquet")
    run("in.parquet", "out.parquet")
    found = pl.read_parquet(tmp_path / "out.parquet")
    expected = tiny_model.predict(texts)
    assert found["sentiment"].to_list() == [one.label for one in expected]
    assert np.allclose(found["confidence"], [one.confidence for one in expected], atol=1e-6)
    assert np.allclose(found.select("^p_.*$").to_numpy(), [one.probabilities for one in expected], atol=1e-6)


def test_odd_columns_of_parquet_are_passed_on_as_they_are(run: Run, tmp_path: Path) -> None:
    table = pa.table(
        {
            "tags": [["a"], None, []],
            "map": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int32())),
            "review_text": pa.array(["Love to pay", "It crashes", None]).dictionary_encode(),
            "month": pa.array([1, 2, None], pa.duration("s")),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=2)
    run("in.parquet", "copied.parquet")
    assert pq.read_table(tmp_path / "copied.parquet").select(table.column_names).equals(table)
    pq.write_table(table.append_column("sentiment", pa.array([1, 2, 3])), tmp_path / "in.parquet", row_group_size=2)
    run("in.parquet", "written.parquet")
    found = pq.read_table(tmp_path / "written.parquet")
    assert found.select(table.column_names).to_pylist() == table.to_pylist()
    assert found["given_sentiment"].to_pylist() == [1, 2, 3]
    with pytest.raises(DataError, match="column tags holds list"):
        run("in.parquet", "out.csv")


def test_the_reviews_table_is_scored_in_commit_order(run: Run, tmp_path: Path) -> None:
    tables = MemoryTables()
    for day in ("1", "2"):
        tables.append("reviews", pa.table({"review_id": [day], "review_text": ["Love to pay"]}))
    assert run("table:reviews", "out.parquet", tables=lambda: tables).rows == 2
    assert pl.read_parquet(tmp_path / "out.parquet")["review_id"].to_list() == ["1", "2"]
    with pytest.raises(UnreadableFile, match="no table rejects"):
        run("table:rejects", "other.parquet", tables=lambda: tables)


def test_odd_csv_costs_only_its_own_rows(run: Run, tmp_path: Path) -> None:
    text = 'id;opinion\n1;"Love to ""pay"", now"\n2;a;b\n3;très bien\n4;"x" y\n'
    (tmp_path / "in.csv").write_bytes(text.encode("cp1252"))
    assert run("in.csv", "out.csv", column="opinion").faulty == 2
    found = pl.read_csv(tmp_path / "out.csv")
    assert found["opinion"].to_list() == ['Love to "pay", now', "a", "très bien", '"x" y']
    assert [reason and reason.partition(":")[0] for reason in found["error"]] == [None, "ragged", None, "quote"]


def test_json_lines_keep_types_and_nested_values(run: Run, tmp_path: Path) -> None:
    lines = ['{"review_text": "Love to pay", "n": 1, "tags": ["a"]}', "no json", '{"n": 2.5, "more": {"x": [1]}}']
    lines += [
        '{"review_text": 5, "mixed": 1}',
        '{"review_text": "half \\ud800", "mixed": "one", "big": 36893488147419103232}',
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines), "utf-8")
    assert run("in.jsonl", "out.jsonl").faulty == 3
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    assert [row["n"] for row in found] == [1.0, None, 2.5, None, None]
    assert (found[0]["tags"], found[2]["more"], found[3]["review_text"]) == (["a"], {"x": [1]}, "5")
    assert [row["mixed"] for row in found] == [None, None, None, "1", "one"]
    assert found[4]["big"] == "36893488147419103232"
    reasons = [row["error"] and row["error"].partition(":")[0] for row in found]
    assert reasons == [None, "json", "blank", None, "undecodable"]


@given(st.lists(st.none() | st.text(max_size=12) | st.sampled_from([" \u200b", "ok\0", "\u3164", "\u2800 x"])))
@example(["x" * 9, "é" * 9, "é" * 8, "\U0001f44d" * 8, "", None, "\0"])
def test_faults_are_those_of_each_text(texts: list[str | None]) -> None:
    expected = {at: fault for at, text in enumerate(texts) if (fault := text_fault(text or "", 8))}
    for kind in (pa.string(), pa.large_string()):
        assert text_faults(pa.array(texts, kind), 8) == expected
        assert text_faults(pa.array(["x", *texts, "y"], kind)[1:-1], 8) == expected


def test_bytes_that_are_no_text_cost_only_their_row(run: Run, tmp_path: Path) -> None:
    broken = pa.array([b"Love to pay", b"half \xff", None], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"review_text": broken}), tmp_path / "in.parquet")
    assert run("in.parquet", "out.parquet").faulty == 2
    assert pq.read_table(tmp_path / "out.parquet", columns=["sentiment"])["sentiment"].to_pylist() == [
        "Positive", None, None,
    ]  # fmt: skip
    reasons = pq.read_table(tmp_path / "out.parquet", columns=["error"])["error"].to_pylist()
    assert reasons == [None, "undecodable: a part of it is no UTF-8 text", "blank: expected some text"]


@given(
    st.lists(
        st.binary(max_size=6) | st.text(max_size=4).map(str.encode) | st.sampled_from([b"\xed\xa0\x80", b"\xc0\xaf"])
    )
)
def test_any_bytes_are_judged_or_refused_row_by_row(tiny_model: SentimentModel, texts: list[bytes]) -> None:
    judge = Judge(CompiledModel.of(compile_model(tiny_model, "")), "3", 60)
    added, counts = judge(pa.array(texts, pa.binary()).view(pa.string()))
    for text, reason in zip(texts, added["error"].to_pylist(), strict=True):
        try:
            assert reason == text_fault(text.decode(), 60)
        except UnicodeDecodeError:
            assert reason == "undecodable: a part of it is no UTF-8 text"
    assert counts.sum() == len(texts)


# --- cut off, and again


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_files, "PIECE_ROWS", 10)
    monkeypatch.setattr(score_files, "BATCH_ROWS", 10)


def _many(path: Path, rows: int = 95) -> None:
    _write(path, pl.DataFrame({"review_text": [f"Love to pay {at}" if at % 7 else " " for at in range(rows)]}))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize(
    ("source", "out"),
    [("in.parquet", "out.parquet"), ("in.csv", "out.parquet"), ("in.parquet", "out.csv"), ("in.jsonl", "out.csv.gz")],
)
def test_a_run_goes_on_from_wherever_the_one_before_was_cut_off(
    run: Run, model: Counting, tmp_path: Path, source: str, out: str
) -> None:
    _many(tmp_path / source)
    run(source, out)
    whole = (tmp_path / out).read_bytes()
    (tmp_path / out).unlink()
    with pytest.raises(Killed):
        run(source, out, stop_after=4)
    left = {end: (tmp_path / f"{out}{end}").read_bytes() for end in (".part", ".progress")}
    journal = left[".progress"]
    ends = [at + 1 for at, byte in enumerate(journal) if byte == 10]
    cuts = {0, 1, ends[0] - 1, *ends, *(end + 5 for end in ends), ends[2] - 1}
    for cut in sorted(cuts):
        kept = max(sum(end <= cut for end in ends) - 1, 0)
        (tmp_path / f"{out}.progress").write_bytes(journal[:cut])
        (tmp_path / f"{out}.part").write_bytes(left[".part"] + b"torn")
        model.rows.clear()
        told = run(source, out)
        assert (tmp_path / out).read_bytes() == whole
        assert told.rows == 95
        assert sum(model.rows) == 95 - told.resumed_rows
        assert (told.resumed_rows > 0) == (kept > 0) == ("went on after" in told.note)
        (tmp_path / out).unlink()


@pytest.mark.usefixtures("small_pieces")
def test_what_is_not_in_the_output_is_scored_again(run: Run, model: Counting, tmp_path: Path) -> None:
    _many(tmp_path / "in.csv")
    with pytest.raises(Killed):
        run("in.csv", "out.csv", stop_after=5)
    part = tmp_path / "out.csv.part"
    part.write_bytes(part.read_bytes()[:-10])  # the disk lost what the journal says
    model.rows.clear()
    assert run("in.csv", "out.csv").resumed_rows == 40
    assert sum(model.rows) == 55
    assert pl.read_csv(tmp_path / "out.csv").height == 95


@pytest.mark.usefixtures("small_pieces")
def test_another_input_or_model_begins_anew_and_says_so(run: Run, tmp_path: Path) -> None:
    _many(tmp_path / "in.csv")
    with pytest.raises(Killed):
        run("in.csv", "out.csv", stop_after=3)
    with pytest.raises(Killed):
        run("in.csv", "out.csv", stop_after=3, version="4", model_hash="bb")
    _many(tmp_path / "in.csv", rows=96)
    told = run("in.csv", "out.csv", version="4", model_hash="bb")
    assert (told.rows, told.resumed_rows) == (96, 0)
    assert told.note == "began anew, as the input changed since an earlier run"
    with pytest.raises(Killed):
        run("in.csv", "other.csv", stop_after=3)
    assert "the model changed" in run("in.csv", "other.csv", version="4", model_hash="bb").note


@pytest.mark.usefixtures("small_pieces")
def test_an_input_that_changes_meanwhile_gives_no_output(run: Run, tmp_path: Path) -> None:
    _many(tmp_path / "in.csv")
    opened = open_source(str(tmp_path / "in.csv"), "review_text", MemoryTables)
    _many(tmp_path / "in.csv", rows=96)
    with pytest.raises(UnreadableFile, match="changed while it was read"):
        opened.require_unchanged()


def test_one_run_writes_an_output_and_an_old_one_stays_until_the_end(run: Run, tmp_path: Path) -> None:
    _many(tmp_path / "in.csv")
    (tmp_path / "out.csv").write_text("old")
    with pytest.raises(StoreError, match="exists"):
        run("in.csv", "out.csv")
    with pytest.raises(Killed):
        run("in.csv", "out.csv", force=True, stop_after=1)
    assert (tmp_path / "out.csv").read_text() == "old"
    with (tmp_path / "out.csv.progress").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Busy, match="another `mso score`"):
            run("in.csv", "out.csv", force=True)
    assert run("in.csv", "out.csv", force=True).rows == 95
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="cannot be written"):
        run("in.csv", "nowhere/out.csv")


@pytest.mark.usefixtures("small_pieces")
def test_a_full_disk_is_told_and_the_next_run_goes_on(run: Run, model: Counting, tmp_path: Path) -> None:
    _many(tmp_path / "in.csv", rows=400)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, usual[1]))
    try:
        with pytest.raises(StoreError, match=r"make room: [0-9]+ scored rows are kept"):
            run("in.csv", "out.csv")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    model.rows.clear()
    told = run("in.csv", "out.csv")
    assert told.resumed_rows > 0
    assert sum(model.rows) == 400 - told.resumed_rows
    assert (
        pl.read_csv(tmp_path / "out.csv")["review_text"].to_list()
        == pl.read_csv(tmp_path / "in.csv")["review_text"].to_list()
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("in.parquet", b"PAR1 no, it is not", "no Parquet file that can be read"),
        ("in.parquet", b"", "no Parquet file that can be read"),
        ("in.csv", b"", "is empty"),
        ("in.csv", b"id,text\n1,x\n", "no columns are named review_text; found 'id', 'text'"),
        ("in.csv", b"a,a,review_text\n1,2,3\n", "several columns are named 'a'"),
        ("in.csv.gz", b"review_text\nno gzip\n", "gzip data is damaged"),
        ("in.csv.gz", gzip.compress(b"review_text\nLove it\n", mtime=0)[:-12], "gzip data is damaged"),
        ("in.jsonl", b'[\n{"review_text": "x"}\n]\n', "one JSON document"),
        ("in.xls", b"x", "expected a name that ends with .parquet, .csv"),
        ("in.parquet.gz", b"x", "expected a name that ends with"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(
    run: Run, tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        run(name, "out.csv")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_numbers_folders_and_damaged_pages_are_no_reviews(run: Run, tmp_path: Path) -> None:
    pq.write_table(pa.table({"review_text": [1, 2]}), tmp_path / "in.parquet")
    with pytest.raises(UnreadableFile, match="column review_text holds int64, expected text"):
        run("in.parquet", "out.parquet")
    (tmp_path / "folder.parquet").mkdir()
    for missing in ("folder.parquet", "none.csv"):
        with pytest.raises(UnreadableFile, match="cannot be opened"):
            run(missing, "out.parquet")
    texts = [f"Love to pay {at}" for at in range(1_000)]
    pq.write_table(pa.table({"review_text": texts}), tmp_path / "in.parquet", use_dictionary=False)
    damaged = bytearray((tmp_path / "in.parquet").read_bytes())
    damaged[50:300] = bytes(250)
    (tmp_path / "in.parquet").write_bytes(damaged)
    with pytest.raises(UnreadableFile, match="is damaged"):
        run("in.parquet", "out.parquet")


def test_files_without_rows_give_files_without_rows(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,review_text\n")
    pl.DataFrame({"review_text": []}, {"review_text": pl.Utf8()}).write_parquet(tmp_path / "in.parquet")
    for source in ("in.csv", "in.parquet"):
        for out in ("out.csv", "out.parquet", "out.jsonl"):
            assert run(source, out, force=True).rows == 0
        assert pl.read_csv(tmp_path / "out.csv").columns == pl.read_parquet(tmp_path / "out.parquet").columns
        assert pl.read_parquet(tmp_path / "out.parquet").columns[-len(ADDED) :] == ADDED.names
        assert (tmp_path / "out.jsonl").read_bytes() == b""


KILLED = """
import os, signal, sys
from pathlib import Path
from mobile_sentiment_ops.adapters.memory import MemoryTables
from mobile_sentiment_ops.app import score_files, scoring
from mobile_sentiment_ops.models.compiled import CompiledModel
score_files.PIECE_ROWS = 1_000
source = score_files.open_source(sys.argv[1], "review_text", MemoryTables, copy=scoring.ADDED.names)
judge = scoring.Judge(CompiledModel.of(Path(sys.argv[3]).read_bytes()), "3", 60)
seen = []
def progress(rows, share):
    seen.append(rows)
    if len(seen) == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
told = scoring.score(source, Path(sys.argv[2]), judge, model_hash="aa", threads=2, force=False, progress=progress)
print(told.rows, told.resumed_rows)
"""


def test_killed_again_and_again_it_scores_every_piece_once(tiny_model: SentimentModel, tmp_path: Path) -> None:
    frame = pl.DataFrame({"id": range(20_000), "review_text": [f"Love to pay {at}" for at in range(20_000)]})
    frame.write_parquet(tmp_path / "in.parquet", row_group_size=1_000)
    (tmp_path / "model").write_bytes(compile_model(tiny_model, ""))
    arguments = [str(tmp_path / name) for name in ("in.parquet", "out.parquet", "model")]
    pieces = []
    for stop in (3, 5, 1, 0):
        ran = subprocess.run([sys.executable, "-c", KILLED, *arguments, str(stop)], capture_output=True, text=True)
        assert ran.returncode == (-9 if stop else 0), ran.stderr
        journal = tmp_path / "out.parquet.progress"
        pieces.append(journal.read_text().count("\n") - 1 if journal.exists() else None)
    assert pieces == [3, 8, 9, None]
    assert ran.stdout.split() == ["20000", "9000"]
    assert pl.read_parquet(tmp_path / "out.parquet", columns=["id", "review_text"]).equals(frame)
