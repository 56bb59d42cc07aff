"""Columns copied as bytes: what comes out is what went in, whoever wrote it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobile_sentiment_ops.data.row_groups import (
    MAGIC,
    Struct,
    copy_group,
    copyable,
    footer_bytes,
    groups_of,
    packed,
    parsed,
    read_footer,
    widened,
)
from mobile_sentiment_ops.errors import UnreadableFile

NUMBERS = st.integers(-(2**63), 2**63 - 1)
KINDS: dict[int, st.SearchStrategy[Any]] = {
    1: st.none(), 2: st.none(), 4: st.integers(-(2**15), 2**15 - 1), 5: NUMBERS, 6: NUMBERS,
    7: st.binary(min_size=8, max_size=8), 8: st.binary(max_size=40),
}  # fmt: skip


def _fields(structs: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.sampled_from([5, 6, 8]).flatmap(
        lambda kind: st.tuples(st.just(9), st.tuples(st.just(kind), st.lists(KINDS[kind], max_size=20)))
    )
    plain = [st.tuples(st.just(kind), values) for kind, values in KINDS.items()]
    field = st.one_of(*plain, lists, st.tuples(st.just(12), structs))
    return st.dictionaries(st.integers(1, 2**14), field, max_size=8)


@given(st.recursive(st.just({}), _fields, max_leaves=8))
def test_a_struct_comes_back_from_its_bytes(struct: Struct) -> None:
    assert parsed(packed(struct)) == struct


@given(st.binary(max_size=60))
def test_bytes_that_are_no_struct_are_refused_or_read(data: bytes) -> None:
    try:
        found = parsed(data)
    except UnreadableFile:
        return
    assert parsed(packed(found)) == found


TABLE = pa.table(
    {
        "review_text": ["Love it", None, "It crashes 👍", ""] * 50,
        "rating": pa.array([1, 2, None, 5] * 50, pa.int8()),
        "tags": [["a", "b"], [], None, ["c"]] * 50,
        "device": [{"name": "x", "sizes": [1, 2]}, None, {"name": None, "sizes": []}, {"name": "y", "sizes": None}]
        * 50,
        "at": pa.array([0, 1, 2, None] * 50, pa.timestamp("ns", tz="Asia/Kolkata")),
        "app": pa.array(["shop", "lamp", "shop", None] * 50).dictionary_encode(),
        "price": pa.array([1, None, 3, 4] * 50).cast(pa.decimal128(24, 2)),
        "raw": pa.array([b"\xff\x00", b"", None, b"x"] * 50, pa.binary()),
    }
)
OPTIONS: dict[str, dict[str, Any]] = {
    "usual": {},
    "small pages with an index": {"write_page_index": True, "data_page_size": 64, "data_page_version": "2.0"},
    "old times and no dictionaries": {"use_deprecated_int96_timestamps": True, "use_dictionary": False},
    "uncompressed, checksums": {"compression": "none", "write_page_checksum": True},
    "sorted": {"sorting_columns": [pq.SortingColumn(1)]},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_copied_columns_are_equal_and_keep_their_types_and_statistics(tmp_path: Path, options: dict[str, Any]) -> None:
    pq.write_table(TABLE, tmp_path / "in.parquet", row_group_size=70, **options)
    before = pq.ParquetFile(tmp_path / "in.parquet", page_checksum_verification=True)
    _copied(tmp_path / "in.parquet", tmp_path / "out.parquet")
    after = pq.ParquetFile(tmp_path / "out.parquet", page_checksum_verification=True)
    found = after.read()
    found.validate(full=True)
    assert found.schema.names == [*TABLE.schema.names, "sentiment", "score"]
    assert found.select(TABLE.schema.names).equals(before.read())
    assert found["sentiment"].to_pylist() == [str(at % 3) for at in range(200)]
    assert [after.metadata.row_group(at).num_rows for at in range(3)] == [70, 70, 60]
    assert after.metadata.row_group(2).column(1).statistics == before.metadata.row_group(2).column(1).statistics
    assert after.metadata.row_group(0).sorting_columns == before.metadata.row_group(0).sorting_columns
    assert pl.read_parquet(tmp_path / "out.parquet", columns=["rating", "score"]).height == 200


def test_files_of_another_writer_are_copied_too(tmp_path: Path) -> None:
    frame = pl.DataFrame({"review_text": ["Love it", None] * 100, "at": pl.Series([1, None] * 100, dtype=pl.Date)})
    frame.write_parquet(tmp_path / "in.parquet", row_group_size=50, compression="lz4")
    _copied(tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert pl.read_parquet(tmp_path / "out.parquet").select("review_text", "at").equals(frame)


def test_what_cannot_be_copied_is_known(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "in.parquet")
    with (tmp_path / "in.parquet").open("rb") as file:
        footer = read_footer(file)
    assert copyable(footer)
    groups_of(footer)[0][1][1][1][0][1] = (8, b"elsewhere.parquet")
    assert not copyable(footer)
    with pytest.raises(UnreadableFile, match="encrypted or cut off"):
        read_footer(io.BytesIO(b"PAR1" + bytes(8) + b"PARE"))


def _copied(source: Path, target: Path) -> None:
    """The file with two more columns."""
    file = pq.ParquetFile(source)
    added = pa.schema([("sentiment", pa.string()), ("score", pa.float32())])
    wide = io.BytesIO()
    pq.write_table(pa.schema([*file.schema_arrow, *added], file.schema_arrow.metadata).empty_table(), wide)
    first = 0
    with source.open("rb") as stream, target.open("wb") as out:
        footer, groups = read_footer(stream), []
        assert packed(parsed(packed(footer))) == packed(footer)
        out.write(MAGIC)
        for own in groups_of(footer):
            rows = range(first, first := first + own[3][1])
            more = io.BytesIO()
            pq.write_table(pa.table([[str(at % 3) for at in rows], [float(at) for at in rows]], schema=added), more)
            groups.append(copy_group([(own, stream), (groups_of(read_footer(more))[0], more)], out))
        out.write(footer_bytes(widened(footer, read_footer(wide), 2), groups))
