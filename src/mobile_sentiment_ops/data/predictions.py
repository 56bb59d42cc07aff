"""What is kept of a prediction, and which texts get none.

A text that gets no prediction has a fault, told in the words of the ingest rules. The rest is kept in
two steps: `packed` is all that an answer waits for and keeps texts as they came, as masking one costs
more than judging it; `predictions_table` makes rows of PREDICTION_SCHEMA of many answers at once, off
the request path, and of a text they hold what the setting `api.log_text` allows: masked, its hash, or
nothing.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mobile_sentiment_ops.data.lines import encodable
from mobile_sentiment_ops.types import LABELS

if TYPE_CHECKING:
    import numpy.typing as npt
    import polars as pl
    import pyarrow as pa

PREDICTIONS_TABLE = "predictions"
PREDICTIONS_FORMAT = 1
PROBABILITIES = ("p_negative", "p_neutral", "p_positive")


class Review(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A text to judge, and what the caller tells about it; a date may be told as the text it came as.

    No dataclass: this is made in 0.1 us, a frozen dataclass in 1.
    """

    text: str
    review_id: str | None = None
    app: str | None = None
    version: str | None = None
    language: str | None = None
    rating: int | None = None
    submitted_at: datetime | str | None = None


class Answered(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Reviews that got a prediction, in one answer or a part of one; it is packed as it stands here. The
    prediction of row i has the id `<prefix>-<first + i>`; `labels` are indices into LABELS as bytes,
    `probabilities` three float64 a row."""

    request_id: str
    prefix: str
    first: int
    received_at: datetime
    model_version: str
    reviews: Sequence[Review]
    labels: bytes
    probabilities: bytes


@cache
def prediction_schema() -> pa.Schema:
    """A stored prediction. `event_time` is when the review was submitted, as far as that was told, else
    when it came in; app, version, language and text may be null."""
    import pyarrow as pa  # a server's workers do without

    return pa.schema(
        {
            **dict.fromkeys(("prediction_id", "request_id", "review_id"), pa.string()),
            **dict.fromkeys(("event_time", "received_at"), pa.timestamp("us", tz="UTC")),
            **dict.fromkeys(("model_version", "label"), pa.string()),
            **dict.fromkeys(PROBABILITIES, pa.float64()),
            **dict.fromkeys(("app", "version", "language", "text"), pa.string()),
            "format": pa.int16(),
        }
    )


def text_fault(text: str, max_chars: int) -> str | None:
    """Why a text gets no prediction; None for one that does.

    >>> text_fault("Love it", 20_000), text_fault(" \\u200b ", 20_000)
    (None, 'blank: expected some text')
    >>> text_fault("so " * 10, 20)
    'too_long: has 30 characters, expected at most 20'
    """
    if "!" <= text[:1] <= "~" and len(text) <= max_chars and "\0" not in text and (text.isascii() or encodable(text)):
        return None  # as nearly every text
    if len(text) > max_chars:
        return f"too_long: has {len(text):,} characters, expected at most {max_chars:,}"
    if not any(map(_is_visible, text)):
        return "blank: expected some text"
    if "\0" in text:
        return "nul: holds a NUL character, expected text"
    if not encodable(text):
        return "undecodable: holds half of a surrogate pair, expected valid Unicode"
    return None


def _is_visible(char: str) -> bool:
    return not (char.isspace() or char in _FILLERS or unicodedata.category(char) in _UNSEEN)


_FILLERS = "\u115f\u1160\u2800\u3164"  # letters and symbols that show nothing
_UNSEEN = ("Cc", "Cf", "Co", "Cs")


def text_hash(text: str) -> str:
    """A name for a text: the same text has the same one, and it does not tell the text.

    >>> text_hash("Love it") == text_hash("Love it") != text_hash("Love it!")
    True
    """
    return blake2b(text.encode(), digest_size=16).hexdigest()


def masked(text: str) -> str:
    """A text without what may name a person: addresses, links, handles and numbers of three or more digits.

    >>> masked("Paid 4500 on 12.05., mail ann@shop.example or @ann_b, see https://pay.example/x?id=7. 5 stars, v4.2")
    'Paid <number> on 12.05., mail <email> or <handle>, see <link> 5 stars, v4.2'
    >>> masked("call +49 (170) 123-45 67")
    'call <number>'
    """
    return _PRIVATE.sub(lambda found: f"<{found.lastgroup}>", text)


_PRIVATE = re.compile(
    r"""
    (?P<email> (?<![\w.+%-]) [\w.+%-]++ @ [\w-]+ (?:\.[\w-]+)+ )
    | (?P<link> (?:https?://|\bwww\.) \S+
              | (?<![\w.-]) (?:[a-z0-9-]++\.)+ (?:com|net|org|io|in|co|app|me|ly|info)\b (?:/\S*)? )
    | (?P<handle> (?<!\w) @\w[\w.-]* )
    | (?P<number> \+?\(?\d (?:[ ().-]{0,3}\d){5,} | \d{3,} )
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Each alternative starts at the start of its word only and gives nothing back, so that a hostile
text costs no more than a plain one."""

_MAY_BE_PRIVATE = r"@|://|\d{3}|\d(?:[ ().-]{0,3}\d){5}|(?i:www\.|\.(?:com|net|org|[iİı][on]|app|me|ly|co))"
"""In whatever `_PRIVATE` matches, and in few other texts; for the regular expressions of polars, which
look at a text thirty times as fast, and know no look-behind. Python takes the letters in brackets for an i."""


LOGGED_TEXT: Mapping[str, Callable[[str], str | None]] = {"masked": masked, "hash": text_hash, "off": lambda _: None}
"""By the setting `api.log_text`: what the log keeps of a text."""


# --- what waits in the spool


def packed(answered: Answered) -> bytes:
    """The payload that keeps an answer in the spool, with its texts as they came.

    >>> reviews = [Review("Love it", app="lamp"), Review("Crashes")]
    >>> now, probabilities = datetime(2026, 1, 31, tzinfo=UTC), np.array([0.1, 0.2, 0.7, 0.8, 0.1, 0.1]).tobytes()
    >>> payload = packed(Answered("q1", "a1", 1, now, "3", reviews, bytes([2, 0]), probabilities))
    >>> predictions_table([payload], "masked").select(["prediction_id", "label", "app", "text"]).to_pylist()[0]
    {'prediction_id': 'a1-1', 'label': 'Positive', 'app': 'lamp', 'text': 'Love it'}
    """
    return _ENCODE(answered)


_ENCODE, _DECODE = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode


# --- the table


def predictions_table(payloads: Iterable[bytes], log_text: str) -> pa.Table:
    """Packed predictions as rows of the predictions table, in `prediction_schema()`, with as much of the
    texts as `log_text` (masked, hash or off) allows. An id that comes again is a repeated request's: the
    first one stays. Payloads of format 1 (JSON) hold texts that are masked already and stay as they are."""
    import polars as pl  # half a second that a server's start does not wait for; pa.array would load pandas

    heads: list[Any] = []  # of all answers one after the other, and so the cells of all reviews: lists of
    cells: list[Any] = []  # plain values, as the garbage collector goes through lists of lists again and again
    labels, probabilities = bytearray(), bytearray()
    old: list[list[Any]] = []
    for payload in payloads:
        if payload.startswith(b"["):
            old += json.loads(payload)
            continue
        request_id, prefix, first, received_at, version, reviews, label, three = _DECODE(payload)
        heads += (len(reviews), prefix, first, request_id, received_at, version)
        for review in reviews:
            cells += review
        labels += label
        probabilities += three
    frames = [_frame(heads, cells, labels, probabilities, log_text), _frame_of_format_1(old)]
    rows = pl.concat(frames).unique("prediction_id", keep="first", maintain_order=True)
    return rows.to_arrow().cast(prediction_schema())


def _frame(
    heads: list[Any], cells: list[Any], labels: bytearray, probabilities: bytearray, log_text: str
) -> pl.DataFrame:
    import polars as pl

    def texts(name: str, values: Sequence[str | None]) -> pl.Series:
        return pl.Series(name, values, pl.Utf8())

    counts, prefix, first, request_id, received_at, model_version = (heads[at::6] for at in range(6))
    text, review_id, app, version, language, _, submitted_at = (cells[at::7] for at in range(7))
    of, ends = np.repeat(np.arange(len(counts)), counts), np.cumsum(counts, dtype=np.int64)
    numbers = pl.Series(np.arange(len(text)) + (np.array(first, np.int64) + counts - ends)[of])
    request, received = texts("request_id", request_id)[of], _times(received_at)[of]
    scores = np.frombuffer(probabilities).reshape(-1, 3)
    named = [given or f"text-{text_hash(of_text)}" for given, of_text in zip(review_id, text, strict=True)]
    return pl.DataFrame(
        {
            "prediction_id": texts("", prefix)[of] + "-" + numbers.cast(pl.Utf8()),
            "request_id": request,
            "review_id": texts("", named),
            "event_time": _submitted(submitted_at, request).fill_null(received),
            "received_at": received,
            "model_version": texts("", model_version)[of],
            "label": texts("", LABELS)[np.frombuffer(labels, np.uint8)],
            **{name: scores[:, column] for column, name in enumerate(PROBABILITIES)},
            "app": texts("", app),
            "version": texts("", version),
            "language": texts("", language),
            "text": _logged(text, log_text),
            "format": pl.repeat(PREDICTIONS_FORMAT, len(text), dtype=pl.Int16(), eager=True),
        }
    )


def _times(times: Sequence[datetime | None]) -> pl.Series:
    import polars as pl

    since_1970 = [None if time is None else (time - _EPOCH) // _MICROSECOND for time in times]  # polars takes 1 us more
    return pl.Series(since_1970, dtype=pl.Int64()).cast(pl.Datetime("us", "UTC"))


_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def _submitted(told: Sequence[datetime | str | None], requests: pl.Series) -> pl.Series:
    """Times as they were told or as ingest reads their texts, null for what is none. Whether 01/02/2026
    begins with its day is asked of the dates of its own request alone."""
    import polars as pl

    times = _times([time if isinstance(time, datetime) else None for time in told])
    raw = pl.Series("submitted_at", [time if isinstance(time, str) else None for time in told], pl.Utf8())
    if raw.null_count() == raw.len():
        return times
    from mobile_sentiment_ops.data.validation import canonical

    undecided = pl.when(raw.str.contains(r"^\s*\d{1,2}[/-]")).then(requests).alias("request")
    parts = pl.DataFrame({"row": np.arange(len(told))}).with_columns(raw, undecided).partition_by("request")
    read = pl.concat([part.select("row", canonical(part.select("submitted_at"))["submitted_at"]) for part in parts])
    return times.fill_null(read.sort("row")["submitted_at"])


def with_answers(
    rows: pl.DataFrame, labels: npt.NDArray[np.integer], probabilities: npt.NDArray[np.floating]
) -> pl.DataFrame:
    """The rows with a prediction each: `label` of indices into LABELS (n,), and PROBABILITIES of (n, 3).

    >>> import polars as pl
    >>> with_answers(pl.DataFrame({"text": ["Love it"]}), np.array([2]), np.array([[0.1, 0.2, 0.7]])).row(0)
    ('Love it', 'Positive', 0.1, 0.2, 0.7)
    """
    import polars as pl

    names = pl.Series("label", [label.value for label in LABELS])[np.asarray(labels, np.uint32)]
    columns = np.ascontiguousarray(probabilities.reshape(-1, len(PROBABILITIES)).T)
    return rows.with_columns(names, *map(pl.Series, PROBABILITIES, columns))


def masked_texts(texts: Sequence[str]) -> pl.Series:
    """Each text as `masked` leaves it, thirty times as fast where few hold what is masked."""
    import polars as pl

    kept = pl.Series(texts, dtype=pl.Utf8())
    at = kept.str.contains(_MAY_BE_PRIVATE).arg_true()
    return kept.scatter(at, [masked(texts[row]) for row in at])


def _logged(texts: list[str], log_text: str) -> pl.Series:
    import polars as pl

    if log_text == "masked":
        return masked_texts(texts)
    return pl.Series([LOGGED_TEXT[log_text](text) for text in texts], dtype=pl.Utf8())


def _frame_of_format_1(rows: Sequence[Sequence[Any]]) -> pl.DataFrame:
    import polars as pl

    flat = [
        (*row[:3], *map(datetime.fromisoformat, row[3:5]), *row[5:7], *row[7], *row[8:], PREDICTIONS_FORMAT)
        for row in rows
    ]
    return pl.DataFrame(flat, pl.Schema(prediction_schema()), orient="row")
