"""What every `Tables` does."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mobile_sentiment_ops.adapters.memory import MemoryTables
from mobile_sentiment_ops.adapters.tables import DeltaTables
from mobile_sentiment_ops.errors import StoreError
from mobile_sentiment_ops.ports import Tables

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(params=["memory", "delta"])
def tables(request: pytest.FixtureRequest, tmp_path: Path) -> Tables:
    return MemoryTables() if request.param == "memory" else DeltaTables(str(tmp_path / "tables"))


def reviews(*ids: str, app: str = "lamp", at: datetime = NOON) -> pa.Table:
    times = pa.array([at] * len(ids), pa.timestamp("us", "UTC"))
    return pa.table({"review_id": list(ids), "app": [app] * len(ids), "received_at": times})


def ids(tables: Tables, table: str = "reviews") -> list[str]:
    rows = tables.read(table, ["review_id"])
    return [str(row) for row in rows["review_id"].to_pylist()] if rows.column_names else []


def test_an_absent_table_has_nothing(tables: Tables) -> None:
    assert tables.version("reviews") == -1
    assert list(tables.batches("reviews")) == []
    assert tables.read("reviews", ["review_id"], equals={"app": "lamp"}).num_columns == 0
    tables.compact("reviews")
    assert tables.version("reviews") == -1


def test_rows_come_back_in_the_order_they_were_committed(tables: Tables) -> None:
    for start in range(0, 30, 3):
        assert tables.append("reviews", reviews(*(f"r{start + i}" for i in range(3))))
    expected = [f"r{i}" for i in range(30)]
    assert ids(tables) == expected
    assert [row for batch in tables.batches("reviews") for row in batch["review_id"].to_pylist()] == expected


def test_compaction_changes_neither_rows_nor_order(tables: Tables) -> None:
    expected = []
    for number in range(12):
        names = [f"{number}-{i}" for i in range(7)]
        tables.append("reviews", reviews(*names), key=("writer", number))
        expected += names
        if number in (4, 9):
            tables.compact("reviews")
            assert ids(tables) == expected
    assert not tables.append("reviews", reviews("again"), key=("writer", 11))
    assert ids(tables) == expected


def test_versions_grow_with_commits(tables: Tables) -> None:
    tables.append("reviews", reviews("r1"))
    first = tables.version("reviews")
    tables.append("reviews", reviews("r2"))
    assert tables.version("reviews") > first >= 0


def test_an_append_with_a_key_happens_once(tables: Tables) -> None:
    assert tables.append("reviews", reviews("r1"), key=("w1", 0))
    assert not tables.append("reviews", reviews("r1"), key=("w1", 0))
    assert tables.append("reviews", reviews("r2"), key=("w2", 0))
    assert tables.append("reviews", reviews("r3"), key=("w1", 7))
    assert not tables.append("reviews", reviews("r4"), key=("w1", 5))
    assert tables.append("other", reviews("r1"), key=("w1", 0))
    assert ids(tables) == ["r1", "r2", "r3"]


def test_a_dropped_table_begins_anew(tables: Tables) -> None:
    tables.drop("reviews")  # none yet
    tables.append("reviews", reviews("a", "b"), key=("keeper", 7))
    tables.append("rejects", reviews("c"))
    tables.drop("reviews")
    assert tables.version("reviews") == -1
    assert tables.append("reviews", reviews("d"), key=("keeper", 7))
    assert (ids(tables), ids(tables, "rejects")) == (["d"], ["c"])


def test_a_new_column_is_added_and_a_missing_one_is_filled(tables: Tables) -> None:
    tables.append("reviews", reviews("r1"))
    tables.append("reviews", reviews("r2").append_column("rating", pa.array([5], pa.int8())))
    tables.append("reviews", pa.table({"review_id": ["r3"]}))
    for _ in range(2):
        rows = tables.read("reviews")
        assert rows.column_names == ["review_id", "app", "received_at", "rating"]
        assert rows["rating"].to_pylist() == [None, 5, None]
        assert rows["app"].to_pylist() == ["lamp", "lamp", None]
        tables.compact("reviews")


def test_types_are_the_tables_own(tables: Tables) -> None:
    frame = pl.DataFrame(
        {"id": ["r1"], "rating": [5], "at": [NOON], "nothing": [None], "kind": ["a"]},
        schema_overrides={"rating": pl.Int8, "kind": pl.Categorical},
    )
    tables.append("reviews", frame.to_arrow())
    tables.append("reviews", pa.table({"rating": pa.array([4], pa.int64()), "nothing": ["text"]}))
    rows = tables.read("reviews")
    assert rows.schema.types == [pa.string(), pa.int8(), pa.timestamp("us", "UTC"), pa.string(), pa.string()]
    assert rows["rating"].to_pylist() == [5, 4]
    with pytest.raises(StoreError, match="rating"):
        tables.append("reviews", pa.table({"rating": ["five"]}))
    with pytest.raises(StoreError, match="rating"):
        tables.append("reviews", pa.table({"rating": [4_000]}))
    assert rows.num_rows == tables.read("reviews").num_rows


def test_an_append_without_rows_makes_the_table(tables: Tables) -> None:
    tables.append("reviews", reviews())
    assert tables.version("reviews") >= 0
    rows = tables.read("reviews", ["app", "review_id"])
    assert (rows.column_names, rows.num_rows) == (["app", "review_id"], 0)
    tables.append("reviews", reviews("r1"))
    tables.append("reviews", reviews(), key=("w", 1))
    tables.compact("reviews")
    assert ids(tables) == ["r1"]


def test_rows_are_chosen_by_text_and_time(tables: Tables) -> None:
    for number in range(5):
        at = NOON + timedelta(hours=number)
        tables.append("reviews", reviews(f"a{number}", app="lamp", at=at))
        tables.append("reviews", reviews(f"b{number}", app="cup", at=at))
    tables.append("reviews", pa.table({"review_id": ["without app and time"]}))

    def chosen(equals: Mapping[str, str] | None = None, since: tuple[str, datetime] | None = None) -> list[object]:
        rows = tables.read("reviews", ["review_id"], equals=equals, since=since)
        return list(rows["review_id"].to_pylist())

    for _ in range(2):
        assert chosen(equals={"app": "cup"}) == ["b0", "b1", "b2", "b3", "b4"]
        assert chosen(since=("received_at", NOON + timedelta(hours=3))) == ["a3", "b3", "a4", "b4"]
        assert chosen(equals={"app": "lamp"}, since=("received_at", NOON + timedelta(hours=4))) == ["a4"]
        assert chosen(equals={"app": "none"}) == []
        tables.compact("reviews")


def test_batches_are_bounded(tables: Tables) -> None:
    tables.append("reviews", pa.table({"n": list(range(200_000))}))
    sizes = [batch.num_rows for batch in tables.batches("reviews")]
    assert sum(sizes) == 200_000
    assert max(sizes) <= 65_536


def test_an_unknown_column_is_named(tables: Tables) -> None:
    tables.append("reviews", reviews("r1"))
    for asked in ({"columns": ["stars"]}, {"equals": {"stars": "5"}}, {"since": ("stars", NOON)}):
        with pytest.raises(StoreError, match="no column stars; it has review_id, app, received_at"):
            tables.read("reviews", **asked)


def test_concurrent_appends_all_arrive_once_and_each_writer_in_order(tables: Tables) -> None:
    def write(writer: int) -> None:
        for number in range(6):
            for _ in range(2):
                tables.append("reviews", reviews(f"{writer}-{number}"), key=(f"w{writer}", number))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    found = ids(tables)
    assert sorted(found) == sorted(f"{w}-{n}" for w, n in itertools.product(range(4), range(6)))
    for writer in range(4):
        own = [row for row in found if row.startswith(f"{writer}-")]
        assert own == [f"{writer}-{n}" for n in range(6)]


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 5), st.integers(0, 4), st.booleans()), min_size=1, max_size=8
    )
)
def test_any_sequence_of_appends_reads_as_a_list_would(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int, bool]]
) -> None:
    stores: list[Tables] = [MemoryTables(), DeltaTables(str(tmp_path_factory.mktemp("tables")))]
    expected: list[str] = []
    latest: dict[str, int] = {}
    for step, (writer, number, count, compact) in enumerate(steps):
        names = [f"{step}-{i}" for i in range(count)]
        if number > latest.get(writer, -1):
            latest[writer] = number
            expected += names
            new = True
        else:
            new = False
        for store in stores:
            assert store.append("reviews", reviews(*names), key=(writer, number)) is new
            if compact:
                store.compact("reviews")
    for store in stores:
        assert ids(store) == expected
