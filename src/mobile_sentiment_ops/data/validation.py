"""Raw rows in, canonical reviews out, and each row that breaks a rule with its line and reason.

`canonical` brings every column to its type; what cannot be read becomes null beside the text that
was given. `rules` then say, as expressions over the whole batch, which rows cannot be taken in.
"""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass
from datetime import UTC, datetime

import polars as pl

from mobile_sentiment_ops.data.columns import READ_ONLY
from mobile_sentiment_ops.data.readers import MAX_ROW_CHARS, Batch
from mobile_sentiment_ops.data.reviews import REVIEW_SCHEMA, TIME
from mobile_sentiment_ops.types import Label, LabelSource

MISSING = ("", "-", "na", "n/a", "nan", "nat", "none", "null")
"""What stands for "not given" in a column of dates, numbers or labels, in any case."""

SENTIMENTS = {
    **dict.fromkeys(("negative", "neg"), Label.NEGATIVE.value),
    **dict.fromkeys(("neutral", "neu", "mixed"), Label.NEUTRAL.value),
    **dict.fromkeys(("positive", "pos"), Label.POSITIVE.value),
}
"""Labels as they are met, in any case. Numbers are refused: 1 means positive in one file and
neutral in the next."""

_PARSED = ("rating", "submitted_at", "updated_at", "sentiment")


@dataclass(frozen=True, slots=True)
class Rule:
    """A row is rejected when `broken` holds; `column` is what its reason shows, beside `expected`."""

    name: str
    column: str
    broken: pl.Expr
    expected: str

    @property
    def reason(self) -> pl.Expr:
        """What is said of a row that breaks it."""
        given = pl.col(f"given_{self.column}" if self.column in _PARSED else self.column).fill_null("")
        return pl.format(f"{self.name}: {self.column} is '{{}}', expected {self.expected}", given.str.slice(0, 40))


def rules(max_text_chars: int) -> tuple[Rule, ...]:
    """What every review must satisfy, in the order in which a broken row is explained."""
    text, title = pl.col("review_text"), pl.col("title").fill_null("")
    return (
        Rule("blank_text", "review_text", ~text.str.contains(r"[^\s\pC\u{115F}\u{1160}\u{2800}\u{3164}]"), "some text"),
        Rule("nul", "review_text", text.str.contains("\0", literal=True), "no NUL character"),
        Rule("nul", "title", title.str.contains("\0", literal=True), "no NUL character"),
        Rule("too_long", "review_text", text.str.len_chars() > max_text_chars, f"at most {max_text_chars} characters"),
        Rule("rating", "rating", _unread("rating"), "a whole number from 1 to 5"),
        Rule("date", "submitted_at", _unread("submitted_at"), "a date such as 2026-01-31 or 2026-01-31T18:05:00Z"),
        Rule("date", "updated_at", _unread("updated_at"), "a date such as 2026-01-31 or 2026-01-31T18:05:00Z"),
        Rule("sentiment", "sentiment", _unread("sentiment"), "Positive, Neutral or Negative"),
    )


def _unread(column: str) -> pl.Expr:
    return pl.col(column).is_null() & pl.col(f"given_{column}").is_not_null()


@dataclass(frozen=True, slots=True)
class Checked:
    """A batch after validation: `reviews` in REVIEW_SCHEMA (the language as far as it was given),
    `authors` of the same rows where the file names them, and every row that was rejected, also by
    its reader, as source, line, rule, reason and row."""

    reviews: pl.DataFrame
    authors: pl.Series | None
    rejects: pl.DataFrame


def check(batch: Batch, source: str, *, app: str | None = None, max_text_chars: int = 20_000) -> Checked:
    """Keep the rows of a batch that break no rule; `app` is the app of rows that name none.

    >>> rows = pl.DataFrame({"review_text": ["Love it", " ", "Slow"], "rating": ["5", "1", "7"]})
    >>> checked = check(Batch(rows, [2, 3, 4], {"text": "review_text", "stars": "rating"}), "may.csv")
    >>> checked.reviews.select("review_text", "rating").rows()
    [('Love it', 5)]
    >>> checked.rejects.select("line", "reason").row(1)
    (4, "rating: rating is '7', expected a whole number from 1 to 5")
    """
    every = rules(max_text_chars)
    frame = canonical(batch.rows, app=app).with_columns(pl.Series("line", batch.lines, dtype=pl.Int64()))
    broken = frame.select(pl.any_horizontal(rule.broken for rule in every)).to_series()
    kept, shown = frame.filter(~broken), pl.exclude(READ_ONLY).cast(pl.Utf8(), strict=False)
    rows = batch.rows.filter(broken).select(pl.concat_str(shown, separator=", ", ignore_nulls=True).alias("row"))
    reason = pl.coalesce(pl.when(rule.broken).then(rule.reason) for rule in every).alias("reason")
    rejects = (
        frame.filter(broken)
        .select(pl.lit(source).alias("source"), "line", reason, rows["row"].str.slice(0, MAX_ROW_CHARS))
        .with_columns(pl.col("reason", "row").str.replace_all("\0", r"\0", literal=True))
    )
    unread = [astuple(found) for found in batch.rejected]
    every_reject = pl.concat([pl.DataFrame(unread, schema=rejects.schema, orient="row"), rejects]).sort("line")
    authors = kept["author"] if "author" in kept.columns else None
    rule = pl.col("reason").str.extract(r"^(\w+)").alias("rule")
    return Checked(kept.select(REVIEW_SCHEMA.names()), authors, every_reject.with_columns(rule))


# --- every column to its type


def canonical(rows: pl.DataFrame, *, app: str | None = None) -> pl.DataFrame:
    """Rows with every column of REVIEW_SCHEMA, typed; `given_*` keep the text of parsed columns.

    >>> raw = pl.DataFrame({"review_text": ["Ok"], "language": ["pt-BR"], "rating": ["4.0"], "sentiment": ["POS"]})
    >>> canonical(raw, app="lamp").select("app", "language", "rating", "sentiment", "label_source").row(0)
    ('lamp', 'pt', 4, 'Positive', 'imported')
    """
    absent = [
        pl.lit(None, pl.Utf8()).alias(name) for name in (*REVIEW_SCHEMA, "review_link") if name not in rows.columns
    ]
    times = [
        _read_column(rows[name]) if name in rows.columns else pl.lit(None, TIME).alias(name)
        for name in ("submitted_at", "updated_at")
    ]
    return (
        rows.with_columns(pl.all().cast(pl.Utf8(), strict=False))
        .with_columns(absent)
        .with_columns(
            *(_given(name, missing=("",)) for name in ("review_id", "app", "version", "store", "country", "title")),
            *(_given(name).alias(f"given_{name}") for name in _PARSED),
            pl.col("review_text").fill_null(""),
        )
        .with_columns(
            *times,
            pl.col("review_id").fill_null(pl.col("review_link").str.extract(r"(?i)review_?id=([^&#]+)")),
            pl.col("app").fill_null(pl.lit(app, pl.Utf8())),
            pl.col("country").str.to_uppercase(),
            _language(),
            _rating(),
            _sentiment(),
        )
        .with_columns(_label_source())
    )


def _given(name: str, *, missing: tuple[str, ...] = MISSING) -> pl.Expr:
    """Trimmed text, null where it says in any case that nothing is given."""
    text = pl.col(name).str.strip_chars()
    return pl.when(~text.str.to_lowercase().is_in(missing)).then(text).alias(name)


def _language() -> pl.Expr:
    """The language, and its script where that is told (`hi-Latn`), of a tag such as `pt_BR`."""
    tag = _given("language").str.to_lowercase().str.replace_all("_", "-", literal=True)
    return tag.str.extract("^([a-z]{2,3}(?:-[a-z]{4})?)(?:-.*)?$").str.replace_many(_SCRIPTS)


_SCRIPTS = {f"-{script.lower()}": f"-{script}" for script in ("Latn", "Cyrl", "Hans", "Hant")}


def _rating() -> pl.Expr:
    stars = pl.col("given_rating").str.replace(",", ".", literal=True).cast(pl.Float64(), strict=False)
    whole = (stars == stars.floor()) & stars.is_between(1, 5)
    return pl.when(whole).then(stars).cast(pl.Int8()).alias("rating")


def _sentiment() -> pl.Expr:
    word = pl.col("given_sentiment").str.to_lowercase()
    return word.replace_strict(SENTIMENTS, default=None, return_dtype=pl.Utf8()).alias("sentiment")


def _label_source() -> pl.Expr:
    """Whose the given label is: a person's where the file says so, else imported."""
    human = pl.col("label_source").str.to_lowercase() == LabelSource.HUMAN.value
    source = pl.when(human).then(pl.lit(LabelSource.HUMAN.value)).otherwise(pl.lit(LabelSource.IMPORTED.value))
    return pl.when(pl.col("sentiment").is_not_null()).then(source).alias("label_source")


# --- dates


def _read_column(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone is not None:
        found = column.dt.convert_time_zone("UTC").cast(TIME)
    elif column.dtype in (pl.Datetime, pl.Date):
        found = column.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    else:
        texts = column.cast(pl.Utf8(), strict=False).to_frame()
        found = read_times(texts.select(_given(column.name)).to_series())
    return found.set(~found.dt.year().is_between(*_YEARS), None).alias(column.name)


_YEARS = (1990, 2100)


def read_times(texts: pl.Series) -> pl.Series:
    """Dates as people and stores write them, in UTC; null for what is none.

    ISO 8601 with or without zone (UTC then), seconds or milliseconds since 1970, `Jan 31, 2026`,
    `31.01.2026`. `01/02/2026` is read only when another row tells the day from the month.

    >>> read_times(pl.Series(["2026-01-31", "1769882400000", "31/01/2026 18:05", "soon"])).dt.to_string().to_list()
    ['2026-01-31 00:00:00.000000+00:00', '2026-01-31 18:00:00.000000+00:00', '2026-01-31 18:05:00.000000+00:00', None]
    """
    texts = texts.str.strip_chars()
    found = pl.Series([None], dtype=TIME).new_from_index(0, texts.len())
    for left_out in ("", "Z", "T00:00:00Z"):  # "%+" is ISO 8601 with nothing left out
        if found.null_count() > texts.null_count():
            found = found.fill_null((texts + left_out).str.to_datetime("%+", strict=False, time_unit="us"))
    if found.null_count() > texts.null_count():
        found = found.fill_null(_since_1970(texts))
    if found.null_count() > texts.null_count():
        rest = texts.set(found.is_not_null(), None).to_list()
        day_first = _day_first(rest)
        found = found.fill_null(pl.Series([_read_time(text, day_first) if text else None for text in rest], dtype=TIME))
    return found


def _since_1970(texts: pl.Series) -> pl.Series:
    """Seconds, milliseconds or microseconds, told apart by their size."""
    number = pl.col("text").str.extract(r"^(\d{9,16})(?:\.0+)?$").cast(pl.Int64())
    factor = pl.when(number < 10**11).then(10**6).when(number < 10**14).then(10**3).otherwise(1)
    return (
        texts.to_frame("text").select((number * factor).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")).to_series()
    )


_NUMBERS = re.compile(r"(\d{1,2})([/.-])(\d{1,2})\2(\d{4})(?:,?[ T](\d{1,2}):(\d{2})(?::(\d{2}))?)?")
_NAMED_MONTH = ("%b %d, %Y", "%B %d, %Y", "%d %b %Y", "%d %B %Y", "%b %d, %Y %I:%M:%S %p", "%a %b %d %H:%M:%S UTC %Y")


def _day_first(texts: list[str | None]) -> bool | None:
    """Whether 01/02/2026 is the first of February here; None when no row tells, or rows disagree."""
    dates = [found for text in texts if text and (found := _NUMBERS.fullmatch(text)) and found[2] != "."]
    days, months = any(int(date[1]) > 12 for date in dates), any(int(date[3]) > 12 for date in dates)
    return days if days != months else None


def _read_time(text: str, day_first: bool | None) -> datetime | None:
    if numbers := _NUMBERS.fullmatch(text):
        first, sign, second, year, *clock = numbers.groups(default="0")
        if sign != "." and day_first is None:
            return None
        day, month = (first, second) if sign == "." or day_first else (second, first)
        text = f"{year}-{month:0>2}-{day:0>2}T" + ":".join(part.zfill(2) for part in clock)
    for form in (None, *_NAMED_MONTH):
        try:
            found = datetime.fromisoformat(text.removesuffix(" UTC")) if form is None else datetime.strptime(text, form)  # noqa: DTZ007
        except ValueError:
            continue
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    return None
