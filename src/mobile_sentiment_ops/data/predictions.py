"""What is kept of a prediction, and which texts get none.

A text that gets no prediction has a fault, told in the words of the ingest rules. The predictions
table is append-only; its rows have the columns of `PREDICTION_SCHEMA`, and of the text they hold
what the setting `api.log_text` allows: masked, its hash, or nothing.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from operator import attrgetter

import pyarrow as pa

from mobile_sentiment_ops.data.lines import encodable
from mobile_sentiment_ops.types import PredictionRecord

PREDICTIONS_TABLE = "predictions"
PREDICTIONS_FORMAT = 1

_IDS, _TIMES = ("prediction_id", "request_id", "review_id"), ("event_time", "received_at")
_TOLD = ("app", "version", "language", "text")
PREDICTION_SCHEMA = pa.schema(
    {
        **dict.fromkeys(_IDS, pa.string()),
        **dict.fromkeys(_TIMES, pa.timestamp("us", tz="UTC")),
        **dict.fromkeys(("model_version", "label"), pa.string()),
        **dict.fromkeys(("p_negative", "p_neutral", "p_positive"), pa.float64()),
        **dict.fromkeys(_TOLD, pa.string()),
        "format": pa.int16(),
    }
)
"""A stored prediction. `event_time` is when the review was submitted, as far as that was told; app,
version, language and text may be null."""


def text_fault(text: str, max_chars: int) -> str | None:
    """Why a text gets no prediction; None for one that does.

    >>> text_fault("Love it", 20_000), text_fault(" \\u200b ", 20_000)
    (None, 'blank: expected some text')
    >>> text_fault("so " * 10, 20)
    'too_long: has 30 characters, expected at most 20'
    """
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


LOGGED_TEXT: Mapping[str, Callable[[str], str | None]] = {"masked": masked, "hash": text_hash, "off": lambda _: None}
"""By the setting `api.log_text`: what the log keeps of a text."""


def predictions_table(records: Sequence[PredictionRecord]) -> pa.Table:
    """Logged predictions as rows of the predictions table, in PREDICTION_SCHEMA."""
    import polars as pl  # half a second that a server's start does not wait for; pa.array would load pandas

    first, last = attrgetter(*_IDS, *_TIMES, "model_version", "label.value"), attrgetter(*_TOLD)
    rows = [(*first(record), *record.probabilities, *last(record), PREDICTIONS_FORMAT) for record in records]
    frame = pl.DataFrame(rows, pl.Schema(PREDICTION_SCHEMA), orient="row")
    return frame.to_arrow().cast(PREDICTION_SCHEMA)
