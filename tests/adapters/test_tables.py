"""Delta tables: what is special to them."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path

import deltalake
import polars as pl
import pyarrow as pa
import pytest

from mobile_sentiment_ops.adapters.tables import DeltaTables
from mobile_sentiment_ops.errors import FormatTooNew, StoreError


def rows(*names: str) -> pa.Table:
    return pa.table({"review_id": list(names)})


def ids(tables: DeltaTables) -> list[str]:
    rows = tables.read("reviews")
    return [str(row) for row in rows["review_id"].to_pylist()] if rows.column_names else []


def data_files(folder: Path) -> int:
    return len(deltalake.DeltaTable(str(folder / "reviews")).file_uris())


def test_small_files_become_one_and_large_ones_stay(tmp_path: Path) -> None:
    tables = DeltaTables(str(tmp_path))
    for number in range(6):
        tables.append("reviews", rows(*(secrets.token_hex(16) for _ in range(100_000 if number in (0, 3) else 10))))
    expected = ids(tables)
    for _ in range(2):
        tables.compact("reviews")
        assert ids(tables) == expected
        assert data_files(tmp_path) <= 3


def test_a_compacted_table_takes_appends_and_is_compacted_again(tmp_path: Path) -> None:
    tables = DeltaTables(str(tmp_path))
    expected = []
    for number in range(30):
        names = [f"{number:02}-{i:04}" for i in range(3_000)]
        tables.append("reviews", rows(*names))
        expected += names
        if number % 7 == 0:
            tables.compact("reviews")
    assert ids(tables) == expected
    tables.compact("reviews")
    assert data_files(tmp_path) == 1
    assert ids(tables) == expected


def test_other_programs_read_the_table(tmp_path: Path) -> None:
    DeltaTables(str(tmp_path)).append("reviews", rows("r1", "r2"))
    frame = pl.from_arrow(deltalake.DeltaTable(str(tmp_path / "reviews")).to_pyarrow_table())
    assert isinstance(frame, pl.DataFrame)
    assert frame["review_id"].to_list() == ["r1", "r2"]


def test_a_table_of_a_later_format_is_refused(tmp_path: Path) -> None:
    tables = DeltaTables(str(tmp_path))
    tables.append("reviews", rows("r1"))
    first = tmp_path / "reviews" / "_delta_log" / f"{0:020}.json"
    written = first.read_text()
    first.write_text(written.replace("table, format 1", "table, format 2"))
    with pytest.raises(FormatTooNew, match="format 2, this release reads up to 1"):
        tables.read("reviews")
    with pytest.raises(FormatTooNew):
        tables.append("reviews", rows("r2"))
    first.write_text(written.replace('"minReaderVersion":1', '"minReaderVersion":99'))
    with pytest.raises(FormatTooNew, match="something newer"):
        tables.read("reviews")


def test_a_broken_table_says_so_in_one_line(tmp_path: Path) -> None:
    tables = DeltaTables(str(tmp_path))
    tables.append("reviews", rows("r1"))
    (data,) = (tmp_path / "reviews").glob("*.parquet")
    data.unlink()
    with pytest.raises(StoreError, match="reviews misses a data file") as caught:
        tables.read("reviews")
    assert "\n" not in str(caught.value)
    (tmp_path / "reviews" / "_delta_log" / f"{0:020}.json").write_text("{")
    with pytest.raises(StoreError, match="cannot be used"):
        tables.append("reviews", rows("r2"))


def test_a_delta_table_of_another_program_is_left_alone(tmp_path: Path) -> None:
    deltalake.write_deltalake(str(tmp_path / "reviews"), rows("r1"))
    tables = DeltaTables(str(tmp_path))
    with pytest.raises(StoreError, match="not made by this program"):
        tables.read("reviews")
    with pytest.raises(StoreError, match="not made by this program"):
        tables.append("reviews", rows("r2"))


@pytest.mark.parametrize("table", ["../reviews", "/reviews", ""])
def test_a_table_name_that_leads_elsewhere_is_refused(tmp_path: Path, table: str) -> None:
    with pytest.raises(StoreError, match="no file name"):
        DeltaTables(str(tmp_path)).append(table, rows("r1"))


def test_the_log_is_summed_up_before_it_grows_long(tmp_path: Path) -> None:
    tables = DeltaTables(str(tmp_path))
    for number in range(52):
        tables.append("reviews", rows(f"r{number}"), key=("w", number))
    assert list((tmp_path / "reviews" / "_delta_log").glob("*.checkpoint.parquet"))
    last = json.loads((tmp_path / "reviews" / "_delta_log" / "_last_checkpoint").read_text())
    assert last["version"] >= 49
    assert not tables.append("reviews", rows("again"), key=("w", 51))


APPEND_EACH_TWICE = """
import sys
import pyarrow as pa
from mobile_sentiment_ops.adapters.tables import DeltaTables
folder, writer = sys.argv[1:]
tables = DeltaTables(folder)
for number in range(25):
    for _ in range(2):
        names = [f"{writer}-{number}-{i}" for i in range(5)]
        tables.append("reviews", pa.table({"review_id": names}), key=(writer, number))
"""
COMPACT_OFTEN = """
import sys
from mobile_sentiment_ops.adapters.tables import DeltaTables
for _ in range(25):
    DeltaTables(sys.argv[1]).compact("reviews")
"""


@pytest.mark.integration
def test_processes_append_while_others_compact_and_nothing_is_lost(
    tmp_path: Path, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    work = [start_python(APPEND_EACH_TWICE, str(tmp_path), f"w{writer}") for writer in range(3)]
    work += [start_python(COMPACT_OFTEN, str(tmp_path)) for _ in range(2)]
    expected = {f"w{w}": [f"w{w}-{number}-{i}" for number in range(25) for i in range(5)] for w in range(3)}
    while any(process.poll() is None for process in work):
        seen = ids(DeltaTables(str(tmp_path)))
        for writer, names in expected.items():
            own = [name for name in seen if name.startswith(f"{writer}-")]
            assert own == names[: len(own)]
    assert [process.wait(120) for process in work] == [0] * 5
    assert sorted(ids(DeltaTables(str(tmp_path)))) == sorted(name for names in expected.values() for name in names)
