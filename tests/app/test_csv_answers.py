from __future__ import annotations

import csv
import gzip
import io
import itertools
from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mobile_sentiment_ops.app.csv_answers import ADDED, MAX_COLUMNS, answer_csv, check_csv, without_formula
from mobile_sentiment_ops.app.prediction import Answer
from mobile_sentiment_ops.app.problems import Problem
from mobile_sentiment_ops.data.predictions import Review, text_fault
from mobile_sentiment_ops.errors import MsoError
from mobile_sentiment_ops.settings import Api
from mobile_sentiment_ops.types import Label, Prediction

API = Api()
FOUND = Prediction(Label.POSITIVE, 0.7, (0.1, 0.2, 0.7))


def answered(data: bytes, seen: list[Review] | None = None) -> list[list[str]]:
    """The answer's rows, the header first; `seen` gets the reviews that were predicted."""
    stream, out, ids = io.BytesIO(data), io.StringIO(), itertools.count(1)

    def predict(reviews: Sequence[Review]) -> list[Answer]:
        if seen is not None:
            seen.extend(reviews)
        faults = [text_fault(review.text, API.max_text_chars) for review in reviews]
        return [Answer(None, fault=fault) if fault else Answer(None, f"p-{next(ids)}", FOUND) for fault in faults]

    check_csv(stream, "reviews.csv", API)
    answer_csv(stream, "reviews.csv", predict, out)
    return list(csv.reader(io.StringIO(out.getvalue(), newline="")))


def refusal(data: bytes, api: Api = API) -> str:
    with pytest.raises((MsoError, Problem)) as err:
        check_csv(io.BytesIO(data), "reviews.csv", api)
    return str(err.value)


def faults_of(data: bytes) -> list[str]:
    """The `error` of every row."""
    return [row[-1] for row in answered(data)[1:]]


# --- what comes back


def test_the_rows_come_back_in_order_with_their_columns_and_an_answer() -> None:
    assert answered(b"id,review_text,note\n7,Love it,x\n8,Crashes,\n") == [
        ["id", "review_text", "note", "sentiment", "confidence", "prediction_id", "error"],
        ["7", "Love it", "x", "Positive", "0.7", "p-1", ""],
        ["8", "Crashes", "", "Positive", "0.7", "p-2", ""],
    ]


def test_a_file_can_be_checked_answered_and_used_on() -> None:
    stream = io.BytesIO(b"review_text\nLove it\n")
    check_csv(stream, "reviews.csv", API)
    answer_csv(stream, "reviews.csv", lambda reviews: [Answer(None, "p", FOUND) for _ in reviews], io.StringIO())
    assert not stream.closed


@pytest.mark.parametrize(
    "data",
    [
        "review_text;app\nça va;boutique\n".encode(),
        "\ufeffreview_text;app\nça va;boutique\n".encode(),
        "review_text\tapp\nça va\tboutique\n".encode("utf-16"),
        "review_text|app\r\nça va|boutique\r\n".encode("utf-16-le"),
        "review_text,app\rça va,boutique\r".encode("latin-1"),
        '\n \n"review_text", app \n"ça va",boutique'.encode(),
    ],
    ids=["semicolon", "byte-order-mark", "utf-16-tab", "utf-16-bar", "latin-1-mac", "quoted-header"],
)
def test_any_usual_encoding_delimiter_and_line_end_is_read(data: bytes) -> None:
    assert answered(data) == [["review_text", "app", *ADDED], ["ça va", "boutique", "Positive", "0.7", "p-1", ""]]


def test_texts_with_delimiters_quotes_and_lines_stay_one_cell() -> None:
    text = 'He said "no",\nthen\r\nit crashed;\rtwice'
    out = io.StringIO(newline="")
    csv.writer(out).writerows([["review_text"], [text]])
    assert answered(out.getvalue().encode())[1][0] == text


def test_a_list_of_texts_needs_no_quotes() -> None:
    assert [row[0] for row in answered(b"review_text\nGood, but slow; really\n")] == [
        "review_text",
        "Good, but slow; really",
    ]


def test_columns_that_we_add_are_told_from_the_callers() -> None:
    rows = answered(b"review_text,sentiment,given_sentiment,error\nLove it,Neutral,a,b\n")
    assert rows[0][:4] == ["review_text", "given_given_sentiment", "given_sentiment", "given_error"]
    assert rows[1][:5] == ["Love it", "Neutral", "a", "b", "Positive"]


def test_what_the_columns_tell_goes_with_the_prediction() -> None:
    seen: list[Review] = []
    answered(
        b"Review ID,brand,App Version,lang,stars,date,review_text\n"
        b"r1,lamp,2.1,pt-BR,4.0,2026-01-31,Love it\n"
        b",,,,9,soon,Crashes\n",
        seen,
    )
    assert seen == [
        Review("Love it", "r1", "lamp", "2.1", "pt-BR", submitted_at="2026-01-31"),
        Review("Crashes", submitted_at="soon"),
    ]


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        ("=1+1", "'=1+1"),
        (" @SUM(A1)", "' @SUM(A1)"),
        ("+4 stars", "'+4 stars"),
        ("\tx", "'\tx"),
        ("\rx", "'\rx"),
        ("\n=1", "'\n=1"),
        ("＝1+1", "'＝1+1"),
        ("-", "'-"),
        ("-5", "-5"),
        ("+4,5", "+4,5"),
        ("'=1", "'=1"),
        ("it = ok", "it = ok"),
        ("", ""),
    ],
)
def test_no_cell_is_taken_for_a_formula(cell: str, shown: str) -> None:
    assert without_formula(cell) == shown


def test_formulas_are_escaped_in_every_column_and_header() -> None:
    rows = answered(b"review_text,=a\n=cmd|' /C calc'!A0,@b\n")
    assert rows[0][:2] == ["review_text", "'=a"]
    assert rows[1][:2] == ["'=cmd|' /C calc'!A0", "'@b"]


# --- rows that get no prediction


def test_a_faulty_row_says_why_and_spoils_no_other() -> None:
    data = (
        b"review_text,app\nLove it,a\n  ,b\nx,y,z\nalone\nnul \0 here,c\n"
        + b"w" * 20_001
        + b",d\nbad \xff byte,e\n\xe0\xb8\x94\xe0\xb8\xb5\xe0\xb8\xa1\xe0\xb8\xb2\xe0\xb8\x81,f\n"
    )
    rows = answered(data)[1:]
    assert [row[-1] for row in rows] == [
        "",
        "blank: expected some text",
        "ragged: has 3 fields, the header has 2",
        "ragged: has 1 fields, the header has 2",
        "nul: holds a NUL character, expected text",
        "too_long: has 20,001 characters, expected at most 20,000",
        "undecodable: a part of it is no UTF-8 text",
        "",
    ]
    assert [row[1] for row in rows] == ["a", "b", "y", "", "c", "d", "e", "f"]
    assert [row[2] for row in rows] == ["Positive", *[""] * 6, "Positive"]
    assert all(len(row) == 6 for row in rows)


def test_a_blank_line_is_no_row_but_in_a_file_of_one_column_a_blank_review() -> None:
    assert len(answered(b"review_text,app\n\nLove it,a\n\n\nOk,b\n\n")) == 3
    assert [row[0] for row in answered(b"review_text\nLove it\n\nOk\n\n")] == ["review_text", "Love it", "", "Ok"]


def test_a_quote_out_of_place_costs_its_own_row() -> None:
    assert faults_of(b'review_text,app\nOk,a\n"so "good" it is",b\nFine,c\n"x" y,d\n') == [
        "",
        "quote: a quote inside a field must be doubled",
        "",
        "quote: a quote inside a field must be doubled",
    ]


def test_a_field_that_no_reader_takes_keeps_its_row() -> None:
    rows = answered(b"review_text,app\n" + b"w" * 140_000 + b',a\n"x" y,' + b"w" * 140_000 + b"\nOk,b\n")
    assert [row[-1] for row in rows[1:]] == [
        "too_long: a field has more than 131,072 characters",
        "quote: a quote inside a field must be doubled",
        "",
    ]
    assert rows[1][1] == "a"


def test_half_a_surrogate_pair_in_utf_16_costs_its_row() -> None:
    data = "review_text\nok\n".encode("utf-16-le") + b"\x3d\xd8\n\x00" + "fine\n".encode("utf-16-le")
    assert faults_of(data) == ["", "undecodable: a part of it is no UTF-16-LE text", ""]


# --- files that are refused


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "reviews.csv is empty; expected a CSV file with a column review_text"),
        (b"\xef\xbb\xbf \r\n", "reviews.csv is empty; expected a CSV file with a column review_text"),
        (b"review_text\n\n", "reviews.csv holds a header and no review; expected at least one row after it"),
        (
            b"text,app\nLove it,a\n",
            "reviews.csv line 1: there is no column review_text; found 'text', 'app', expected exactly one",
        ),
        (
            b"\nreview_text,review_text\nLove it,a\n",
            "reviews.csv line 2: 2 columns are named review_text; found 'review_text', 'review_text', "
            "expected exactly one",
        ),
        (b",,\n,,\n", "reviews.csv line 2: there is no column review_text; found nothing, expected exactly one"),
        (
            b'review_text,app\nOk,a\n"never closed,b\nOk,c\n',
            'reviews.csv line 3: a quote is opened and not closed by line 4; expected another " after the text',
        ),
        (
            b'review_text\n"never closed' + b"\nand on" * 3_000,
            'reviews.csv line 2: a quote is opened and not closed by line 2002; expected another " after the text',
        ),
        (
            b'review_text\n"never closed' + b"\nand on" * 1_900 + b"w" * 131_072,
            'reviews.csv line 2: a quote is opened and not closed by line 1902; expected another " after the text',
        ),
        (b'"review_text"x,app\n', "reviews.csv line 1: the header is no CSV: ',' expected after '\"'"),
        (b"w" * 140_000, "reviews.csv line 1: the header is no CSV: field larger than field limit (131072)"),
        (b"review_text" + b",c" * MAX_COLUMNS + b"\n", "reviews.csv has 257 columns, expected at most 256"),
        (b"review_text\n\n \n", "reviews.csv: none of its 2 rows can be predicted"),
        ("review_text\n\u200b\n".encode(), "reviews.csv: none of its 1 rows can be predicted"),
        (
            "review_text\nok\n".encode("utf-16") + b"\x41",
            "reviews.csv: damaged utf-16 text after line 2 (truncated data); fetch it again",
        ),
        *(
            (
                data,
                "reviews.csv is no text in UTF-8, UTF-16 or a Western European encoding; unpack an archive, "
                "save the sheet of a workbook as CSV, and save text as UTF-8",
            )
            for data in (
                b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0",
                bytes(range(256)) * 40,
                gzip.compress(b"review_text\nLove it\n", mtime=0),
                b"PK\x03\x04\x14\0\0\0\x08\0",
                "отзыв,приложение\nхорошо,лампа\n".encode("koi8-r"),
            )
        ),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_is_refused_with_what_and_where(data: bytes, expected: str) -> None:
    assert refusal(data) == expected


def test_too_many_rows_are_refused() -> None:
    api = Api(max_csv_rows=2)
    assert refusal(b"review_text\na\nb\nc\n", api) == "reviews.csv has more than 2 rows; send it in parts"
    check_csv(io.BytesIO(b"review_text\na\nb\n"), "reviews.csv", api)


def test_a_file_of_bad_rows_names_the_first_twenty_by_line() -> None:
    with pytest.raises(Problem) as err:
        check_csv(io.BytesIO(b'review_text,app\n" ",a\n' + b"x\n" * 30), "reviews.csv", API)
    assert len(err.value.errors) == 20
    assert err.value.errors[:2] == (
        {"line": 2, "problem": "blank: expected some text"},
        {"line": 3, "problem": "ragged: has 1 fields, the header has 2"},
    )


def test_a_refused_file_costs_no_more_than_its_size() -> None:
    """Each line's quote swallows the lines after it, which are read again."""
    evil = b"review_text\nok\n" + (b'"a\n' * 1_500 + b'"x"y\n') * 400
    assert refusal(evil).startswith("reviews.csv: too many quotes are out of place up to line")


# --- every file


CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\t\n\r"), max_size=20)


@given(
    st.integers(0, 3).flatmap(
        lambda more: st.lists(st.lists(CELLS, min_size=more + 1, max_size=more + 1), min_size=1, max_size=8)
    ),
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
@example([["a\rb"]], ",", "\r\n", False, "utf-8")
@settings(max_examples=200, deadline=None)
def test_whatever_the_csv_module_writes_comes_back_row_by_row(
    rows: list[list[str]], delimiter: str, line_end: str, quote_all: bool, encoding: str
) -> None:
    rows.append(["good", *[""] * (len(rows[0]) - 1)])  # so that not all rows are bad
    out = io.StringIO(newline="")
    # Python 3.11 leaves a bare carriage return unquoted when lines end in \n, and cannot read that itself
    quote_all = quote_all or line_end == "\n"
    writer = csv.writer(out, delimiter=delimiter, lineterminator=line_end, quoting=csv.QUOTE_ALL if quote_all else 0)
    writer.writerow(["review_text", *(f"column {number}" for number in range(1, len(rows[0])))])
    writer.writerows(rows)
    found = answered(out.getvalue().encode(encoding))[1:]
    assert [row[: len(rows[0])] for row in found] == [[without_formula(cell) for cell in row] for row in rows]
    assert all(bool(row[-4]) != bool(row[-1]) for row in found)


@given(st.binary(max_size=300), st.sampled_from([b"", b"review_text\n", b"a,review_text,date,rating\n", b"\xff\xfe"]))
@example(b'\x80\xff,"\0\n\r\ny,z,0001-01-01T00:00:00+14:00,9\n', b"a,review_text,date,rating\n")
@example(b"x,y,9999-12-31T23:00:00-14:00,5\n", b"a,review_text,date,rating\n")
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_answered_or_refused_in_words(data: bytes, start: bytes) -> None:
    try:
        rows, refused = answered(start + data), ""
    except (MsoError, Problem) as err:
        rows, refused = [], str(err)
    assert refused.startswith("reviews.csv") or len({len(row) for row in rows}) == 1
