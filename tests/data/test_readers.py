from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobile_sentiment_ops.data.columns import recognise
from mobile_sentiment_ops.data.readers import Batch, read_batches
from mobile_sentiment_ops.errors import UnreadableFile


def batches(data: bytes | str, batch_rows: int = 1000) -> Iterator[Batch]:
    stream = io.BytesIO(data.encode() if isinstance(data, str) else data)
    return read_batches(stream, "reviews.csv", recognise, batch_rows=batch_rows)


def read(data: bytes | str) -> Batch:
    """All of a small file in one batch."""
    found = list(batches(data))
    assert len(found) == 1
    return found[0]


def texts(batch: Batch) -> list[str]:
    return batch.rows["review_text"].to_list()


def rejected(batch: Batch) -> dict[int, str]:
    return {found.line: found.reason.partition(":")[0] for found in batch.rejected}


# --- delimiters, encodings, packing


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_any_usual_delimiter_is_found(delimiter: str) -> None:
    header, row = ["id", "Review Text", "stars"], ["r1", '"Slow, again; and | again"', "2"]
    batch = read(delimiter.join(header) + "\n" + delimiter.join(row) + "\n")
    assert texts(batch) == ["Slow, again; and | again"]
    assert batch.mapping == {"id": "review_id", "Review Text": "review_text", "stars": "rating"}


def test_a_file_of_one_column_may_use_every_delimiter_in_its_texts() -> None:
    assert texts(read("review_text\nGreat, really\nBad; so bad\n")) == ["Great, really", "Bad; so bad"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_unicode_encodings_are_told_apart(encoding: str) -> None:
    assert texts(read("text,stars\nแอปดีมาก 👍,5\nça marche,4\n".encode(encoding))) == ["แอปดีมาก 👍", "ça marche"]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_western_european_text_is_read_as_such(encoding: str) -> None:
    assert texts(read("text,stars\nça a été très bien,5\nNaïve Größe,4\n".encode(encoding)))[1] == "Naïve Größe"


def test_an_accent_late_in_a_large_file_still_counts() -> None:
    data = b"text,stars\n" + b"fine,3\n" * 300_000 + "déçu,1\n".encode("latin-1")
    *_, last = batches(data, 100_000)
    assert texts(last)[-1] == "déçu"


def test_broken_bytes_in_a_utf8_file_cost_one_line() -> None:
    batch = read("text,stars\nนี่ดี,5\n".encode() + b"caf\xe9,4\nfine,3\n")
    assert texts(batch) == ["นี่ดี", "fine"]
    assert batch.lines == [2, 4]
    assert rejected(batch) == {3: "undecodable"}
    assert batch.rejected[0].row == "caf\\udce9,4"


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_line_numbers_survive_line_breaks_in_quotes_and_blank_lines(line_end: str) -> None:
    lines = ["text,stars", "one,1", '"two', "", 'lines",2', "", "three,3"]
    batch = read(line_end.join(lines))
    assert batch.lines == [2, 3, 7]
    assert texts(batch)[1] == f"two{line_end}{line_end}lines"


def test_gzip_of_any_format_is_unpacked() -> None:
    assert texts(read(gzip.compress(b"text,stars\ngood,5\n"))) == ["good"]
    packed = io.BytesIO()
    pl.DataFrame({"review": ["good"]}).write_parquet(packed)
    assert texts(read(gzip.compress(packed.getvalue()))) == ["good"]


def test_batches_are_bounded_and_number_their_rows() -> None:
    found = list(batches("text\n" + "".join(f"review {n}\n" for n in range(25)), batch_rows=10))
    assert [batch.rows.height for batch in found] == [10, 10, 5]
    assert [line for batch in found for line in batch.lines] == list(range(2, 27))


# --- rows that cannot be read


def test_a_ragged_row_is_rejected_with_its_line() -> None:
    batch = read("id,text,stars\n1,good,5\n2,too,many,5\n3,few\n4,fine,3\n")
    assert texts(batch) == ["good", "fine"]
    assert [(found.line, found.reason) for found in batch.rejected] == [
        (3, "ragged: has 4 fields, the header has 3"),
        (4, "ragged: has 2 fields, the header has 3"),
    ]
    assert batch.rejected[0].row == "2,too,many,5"


def test_an_unread_row_leaves_no_text_when_the_file_names_authors() -> None:
    batch = read("text,author,stars\nfine,Ann,5\nBob,1\n")
    assert batch.rejected[0].row == ""


def test_a_quote_left_open_costs_one_line_and_not_the_lines_it_swallows() -> None:
    batch = read('text,stars\n"never closed,1\nok,3\nfine,4\n"nice",5\n')
    assert texts(batch) == ["ok", "fine", "nice"]
    assert batch.lines == [3, 4, 5]
    assert rejected(batch) == {2: "quote"}


def test_a_field_beyond_the_parsers_limit_costs_one_line() -> None:
    batch = read(f"text,stars\n{'a' * 200_000},1\nok,3\n")
    assert texts(batch) == ["ok"]
    assert rejected(batch) == {2: "too_long"}


def test_batches_are_bounded_when_every_row_is_bad() -> None:
    found = list(batches("text,stars\n" + "ragged\n" * 25, batch_rows=10))
    assert [len(batch.rejected) for batch in found] == [10, 10, 5]


def test_blank_lines_before_the_header_are_passed_over() -> None:
    batch = read("\n  \n,\ntext,stars\ngood,5\n")
    assert (texts(batch), batch.lines) == (["good"], [5])


def test_rejected_rows_are_kept_bounded() -> None:
    batch = read(f"text,stars\n{'a' * 90_000},1,2\nok,3\n")
    assert len(batch.rejected[0].row) == 500


# --- JSON


def test_json_lines_are_read_and_bad_ones_rejected() -> None:
    lines = [
        '{"review": "good", "stars": 5, "at": "2026-01-31"}',
        "",
        "no json",
        '{"stars": 4, "review": "fine", "version": 1.5}',
        '"text"',
        '{"review": "\\ud83d half"}',
    ]
    batch = read("\n".join(lines))
    assert batch.rows.rows(named=True) == [
        {"review_text": "good", "rating": "5", "submitted_at": "2026-01-31", "version": None},
        {"review_text": "fine", "rating": "4", "submitted_at": None, "version": "1.5"},
    ]
    assert batch.lines == [1, 4]
    assert rejected(batch) == {3: "json", 5: "json", 6: "undecodable"}


@pytest.mark.parametrize("indent", [None, 2])
def test_app_store_connect_reviews_are_read(indent: int | None) -> None:
    attributes = {
        "rating": 2,
        "title": "Hm",
        "body": "It forgets my city",
        "reviewerNickname": "Zed",
        "createdDate": "2025-11-15T08:10:34-08:00",
        "territory": "THA",
    }
    page = {
        "data": [{"type": "customerReviews", "id": "00000028-b08c", "attributes": attributes}],
        "links": {"self": "https://api.appstoreconnect.apple.com/v1/apps/42/customerReviews?limit=1"},
        "meta": {"paging": {"total": 1, "limit": 1}},
    }
    batch = read(json.dumps(page, indent=indent))
    assert batch.rows.row(0, named=True) == {
        "app": "42",
        "store": "app_store",
        "review_id": "00000028-b08c",
        "rating": "2",
        "title": "Hm",
        "review_text": "It forgets my city",
        "author": "Zed",
        "submitted_at": "2025-11-15T08:10:34-08:00",
        "country": "THA",
    }


def test_a_list_of_objects_is_one_document() -> None:
    assert texts(read('[\n{"text": "good"},\n{"text": "bad"}\n]\n')) == ["good", "bad"]


def test_an_empty_page_holds_nothing() -> None:
    assert list(batches('{"data": [], "links": {}}')) == []


# --- Parquet


def test_parquet_keeps_its_types_and_numbers_its_rows() -> None:
    file = io.BytesIO()
    day = datetime(2026, 1, 31, tzinfo=UTC)
    rows = {"Text": ["good", None], "stars": [5.0, 1.0], "date": [day, day], "thumbs_up": [1, 2]}
    pl.DataFrame(rows).write_parquet(file)
    batch = read(file.getvalue())
    assert batch.rows.columns == ["review_text", "rating", "submitted_at"]
    assert batch.rows["submitted_at"].to_list() == [day, day]
    assert list(batch.lines) == [1, 2]


def test_nested_columns_of_parquet_are_not_taken_for_text() -> None:
    file = io.BytesIO()
    pl.DataFrame({"review": [{"stars": 1}], "body": ["good"], "raw": [b"x"]}).write_parquet(file)
    assert read(file.getvalue()).mapping == {"body": "review_text"}


# --- files that cannot be read at all


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "reviews.csv is empty"),
        (b"\n \n" * 100, "reviews.csv is empty"),
        (b"a,b\n1,2\n", "no column holds the review's text; found 'a', 'b', expected one of review_text, text"),
        (bytes(range(256)) * 20, "is no text in UTF-8, UTF-16 or"),
        (b"PK\x03\x04" + b"\0" * 99, "unpack an archive, save the sheet of a workbook as CSV"),
        (b"PAR1 but no more", "damaged Parquet"),
        (gzip.compress(b"text\n" * 1000, mtime=0)[:-9], "gzip data is damaged or cut off"),
        (
            "text,stars\nотличное приложение,5\nне работает,1\n".encode("cp1251"),
            "is no text in UTF-8, UTF-16 or",
        ),
        ("text,stars\nfine,5\n".encode("utf-16")[:-1], "damaged utf-16 text after line"),
        (b'text,stars\ngood,5\n"never closed,1\nok,3\n', "line 3: a quote is opened and not closed by line"),
        (b'"text,stars\ngood,5\n', "line 1: the header is no CSV: unexpected end of data"),
        (b",,\n,,\n", "reviews.csv is empty"),
        (b'{\n "data": [\n', "starts as JSON and is none"),
        (b'{"stars": 1}\n', "no column holds the review's text; found 'stars'"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(data: bytes, says: str) -> None:
    with pytest.raises(UnreadableFile) as raised:
        list(batches(data))
    assert says in str(raised.value)
    assert str(raised.value).startswith("reviews.csv")


def test_an_open_quote_over_a_large_rest_is_found_without_reading_it_all() -> None:
    with pytest.raises(UnreadableFile, match="line 2: a quote is opened and not closed by line"):
        list(batches('text,stars\n"never closed,1\n' + "fine,3\n" * 100_000))


def test_the_stream_stays_open_for_its_owner() -> None:
    stream = io.BytesIO(b"text\ngood\n")
    list(read_batches(stream, "reviews.csv", recognise, batch_rows=10))
    assert not stream.closed


# --- properties


field = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t"), max_size=30)


@given(st.lists(st.tuples(field, field), max_size=8), st.sampled_from([",", ";", "\t", "|"]))
@settings(max_examples=80, deadline=None)
def test_what_a_csv_writer_writes_is_read_back(rows: list[tuple[str, str]], delimiter: str) -> None:
    import csv

    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("text", "title"), *rows])
    found = list(batches(text.getvalue()))
    assert [row for batch in found for row in batch.rows.select("review_text", "title").rows()] == rows
    assert not any(batch.rejected for batch in found)


@given(st.binary(max_size=300))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for start in (b"text,stars\n", b'{"text": "a"}\n', b""):
        try:
            for batch in batches(start + data):
                assert len(batch.lines) == batch.rows.height
        except UnreadableFile:
            pass
