"""Windows of scored reviews in which nothing moved, or one thing did: what detectors of drift are measured on.

A champion is trained as the product does. The rows that no training saw are scored by it once; a `World` parts them
by chance into its reference and the stream that windows are drawn from, so without a shift nothing differs between
the two. Rows and not texts are parted: "good" is a tenth of the fintech reviews, and if it were on one side alone that
would be drift. No text of a held-out row is among the training rows. Reviews of two apps are in neither.

Each window is independently drawn: its count of negatives (by stars) is binomial around 25%, as is the reference's.
The shifts, each in a share of a window's reviews:

    neg60, neg35   60 or 35% of the reviews are negative
    new_app30      30% are about an app that neither training nor reference have
    language10     10% are in a language that arrives (Spanish, Thai or Indonesian, one a window)
    slang          in 12.5% the feeling is in an invented word, four words a window
    typos30        30% have slips of the keyboard in about a quarter of their words
    encoding10     10% were decoded wrongly: UTF-8 as cp1252 or latin-1, or cp1252 as UTF-8
    spam10         10% are one advertisement with varying codes
    bombing15      15% are one-star reviews of one app on one matter that is not about it
    empty5         5% have no text
"""

from __future__ import annotations

import os
import re
import string
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TypeAlias
from zlib import crc32

import numpy as np
import numpy.typing as npt
import polars as pl

from bench.results import ROOT
from bench.splits import SOURCES
from mobile_sentiment_ops.data.demo_world import generate
from mobile_sentiment_ops.data.demo_world.voice import Dice
from mobile_sentiment_ops.data.language import detect_languages
from mobile_sentiment_ops.data.predictions import PROBABILITIES, with_answers
from mobile_sentiment_ops.data.reviews import labelled
from mobile_sentiment_ops.data.splits import text_keys
from mobile_sentiment_ops.models.compiled import CompiledModel, compile_model
from mobile_sentiment_ops.models.training import train
from mobile_sentiment_ops.settings import Demo
from mobile_sentiment_ops.types import LABELS

SHARED_DATA = Path(os.environ.get("MSO_SHARED_DATA", ROOT.parent / "shared" / "data"))
KIND = "nbsvm"
SEED = 0
NEGATIVES = 0.25
HELD_OUT = 0.5
REFERENCE = 0.4
"""Share of the held-out rows that are the reference; windows are drawn from the others."""
NEW_APPS = {"fintech": ("money.jupiter", "com.phonepe.app"), "idea": ("noaa-radar-pro",)}
NAMES = tuple(label.value for label in LABELS)
SCORED = (
    *("prediction_id", "review_id", "event_time", "received_at", "model_version", "label", *PROBABILITIES),
    *("app", "version", "language", "text"),
)
"""Columns of a window; a reference also has `truth`, the label by stars as an index into LABELS."""

Places: TypeAlias = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Pool:
    """Texts that the champion learned from; rows that it never saw, scored by it; those of new apps; texts of
    languages that may arrive."""

    name: str
    champion: CompiledModel
    learned: Sequence[str]
    held_out: pl.DataFrame
    new_app: pl.DataFrame
    foreign: Mapping[str, Sequence[str]]


@cache
def make_pool(source: str, folder: Path) -> Pool:
    """The pool of one of SOURCES in the folder of real reviews."""
    reviews = real_reviews(source, folder)
    new = pl.col("app").is_in(NEW_APPS[source])
    known, held = reviews.filter(~new), pl.col("held")
    known = known.with_columns(pl.Series("held", np.random.default_rng(SEED).random(known.height) < HELD_OUT))
    learned = known.filter(~held).join(known.filter(held), on="text_key", how="anti", maintain_order="left")
    champion = train_champion(learned)
    held_out, new_app = (scored(champion, part) for part in (known.filter(held), reviews.filter(new)))
    return Pool(source, champion, learned["review_text"].to_list(), held_out, new_app, foreign_texts())


def real_reviews(source: str, folder: Path) -> pl.DataFrame:
    """All reviews of one of SOURCES with what the product adds: `label` by stars, `language`, and `text_key`."""
    missing = (pl.lit(None, pl.Utf8()).alias(name) for name in ("sentiment", "label_source"))
    numbered = pl.int_range(pl.len()).cast(pl.Utf8()).alias("review_id")
    return with_keys(labelled(pl.read_parquet(folder / SOURCES[source].file).with_columns(numbered, *missing)))


def with_keys(reviews: pl.DataFrame) -> pl.DataFrame:
    """The reviews with `text_key`, and with `language` where they have none."""
    texts = reviews["review_text"]
    languages = pl.Series("language", detect_languages(texts), dtype=pl.Utf8())
    return reviews.with_columns(text_keys(texts), *([] if "language" in reviews.columns else [languages]))


def train_champion(learned: pl.DataFrame) -> CompiledModel:
    """A champion of rows with review_text, rating, label and text_key; of each text the first is kept."""
    rows = learned.unique("text_key", keep="first", maintain_order=True)
    return CompiledModel.of(compile_model(train(KIND, rows, rows.clear(), seed=SEED), "bench"))


def foreign_texts() -> dict[str, list[str]]:
    """Texts of the demo world by language, of those that a window can be given."""
    reviews = generate(Demo(events=("new_language",))).reviews
    return {name: reviews.filter(pl.col("language") == name)["review_text"].to_list() for name in ("es", "th", "id")}


def scored(champion: CompiledModel, reviews: pl.DataFrame) -> pl.DataFrame:
    """Labelled reviews as the log of predictions holds them, with `truth`."""
    time = pl.col("submitted_at")
    rows = reviews.select(
        (pl.lit("p-") + pl.col("review_id")).alias("prediction_id"),
        "review_id",
        time.alias("event_time"),
        (time + pl.duration(seconds=2)).alias("received_at"),
        pl.lit("1").alias("model_version"),
        "app",
        "version",
        "language",
        pl.col("review_text").alias("text"),
        pl.col("label").cast(pl.Int8).alias("truth"),
    )
    return answered(champion, rows).select(*SCORED, "truth")


def answered(champion: CompiledModel, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with the champion's label and probabilities of their texts."""
    found = champion.scored(rows["text"].to_list())
    return with_answers(rows, found.labels, found.probabilities)


class World:
    """One parting of a pool into a reference and a stream, and windows of it."""

    def __init__(self, pool: Pool, seed: int) -> None:
        self.pool, self.seed = pool, seed
        chance = np.random.default_rng([SEED, seed])
        order = chance.permutation(pool.held_out.height)
        cut = round(REFERENCE * len(order))
        rows, self.stream = pool.held_out[np.sort(order[:cut])], pool.held_out[order[cut:]]
        least = min(self._by_truth(rows)[at].size / share for at, share in ((0, NEGATIVES), (1, 1 - NEGATIVES)))
        spare = 6 * np.sqrt(least * (1 - NEGATIVES) / NEGATIVES)  # six standard deviations of the count of negatives
        self.reference = rows[np.sort(_drawn(self._by_truth(rows), int(least - spare), NEGATIVES, chance))]
        self._stream, self._new = self._by_truth(self.stream), self._by_truth(pool.new_app)

    @staticmethod
    def _by_truth(rows: pl.DataFrame) -> tuple[Places, Places]:
        negative = rows["truth"].to_numpy() == 0
        return np.flatnonzero(negative), np.flatnonzero(~negative)

    def window(self, rows: int, shift: str | None = None, seed: int = 0) -> pl.DataFrame:
        """A window of so many scored reviews of one day, with one of SHIFTS or none."""
        chance = np.random.default_rng([SEED, self.seed, rows, seed, crc32((shift or "").encode())])
        made = SHIFTS[shift] if shift else Shift()
        drawn = self.stream[_drawn(self._stream, rows, made.negatives, chance)]
        count = round(made.share * rows)
        if shift == "new_app30":
            drawn = drawn[count:].vstack(self.pool.new_app[_drawn(self._new, count, NEGATIVES, chance)])
        elif made.change is not None:
            dice = Dice(SEED, self.seed, rows, seed, crc32((shift or "").encode()))
            changed = made.change(drawn[:count], dice, self)
            drawn = drawn[count:].vstack(answered(self.pool.champion, changed).select(drawn.columns))
        return _dated(drawn[chance.permutation(rows)].select(SCORED))


def _drawn(places: tuple[Places, Places], rows: int, negatives: float, chance: np.random.Generator) -> Places:
    """Places of rows in no order, of which a binomial number is negative."""
    count = int(chance.binomial(rows, negatives))
    parts = [chance.choice(part, size, replace=False) for part, size in zip(places, (count, rows - count), strict=True)]
    return chance.permutation(np.concatenate(parts))


DAY = datetime(2026, 3, 2, tzinfo=UTC)


def _dated(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows as reviews of one day, in their order."""
    times = pl.lit(DAY) + pl.duration(microseconds=pl.int_range(pl.len()) * (86_400_000_000 // max(rows.height, 1)))
    ids = pl.int_range(pl.len()).cast(pl.Utf8)
    return rows.with_columns(
        times.alias("event_time"),
        (times + timedelta(seconds=2)).alias("received_at"),
        (pl.lit("w-") + ids).alias("prediction_id"),
        (pl.lit("r-") + ids).alias("review_id"),
    )


# --- the shifts

Change: TypeAlias = Callable[[pl.DataFrame, Dice, World], pl.DataFrame]
"""From the rows that are to change to the changed ones, not scored yet."""


@dataclass(frozen=True, slots=True)
class Shift:
    """What differs from a window without drift."""

    negatives: float = NEGATIVES
    share: float = 0.0
    change: Change | None = None


def mistyped(text: str, dice: Dice) -> str:
    """The text with slips in about a quarter of its words, at least in one if there is any of two characters.

    >>> mistyped("money was deducted but not received", Dice(3))
    'mkney aas deducted but ot received'
    """
    words = text.split(" ")
    longer = [at for at, word in enumerate(words) if len(word) > 2] or [
        at for at, word in enumerate(words) if len(word) > 1
    ]
    slips = [at for at in longer if dice.below(0.25)] or ([dice.pick(longer)] if longer else [])
    for at in slips:
        words[at] = slip(words[at], dice)
    return " ".join(words)


def slip(word: str, dice: Dice) -> str:
    """A word of two characters or more as a hurried thumb writes it: a neighbouring key, a letter left out, written
    twice or in the wrong order."""
    at, roll = int(dice.roll() * (len(word) - 1)), dice.roll()
    near = _NEAR.get(word[at].lower())
    if near and roll < 0.4:
        return word[:at] + dice.pick(near) + word[at + 1 :]
    if roll < 0.6 and len(word) > 2:
        return word[:at] + word[at + 1 :]
    if roll < 0.75 or word[at] == word[at + 1]:
        return word[:at] + word[at] + word[at:]
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEAR = {
    key: "".join(
        other
        for line, keys in enumerate(_KEYS)
        for place, other in enumerate(keys)
        if other != key and abs(line - row) <= 1 and abs((place + line / 2) - (at + row / 2)) <= 1
    )
    for row, keys_of_row in enumerate(_KEYS)
    for at, key in enumerate(keys_of_row)
}


def garbled(text: str, dice: Dice) -> str:
    """The text as phones write it (curly quotes, dashes, emoji, no-break spaces), decoded wrongly.

    >>> garbled("I can't log in", Dice(1))
    'I canâ\\x80\\x99t log in'
    """
    typed = text.replace("'", "’").replace("...", "…").replace(" - ", " – ")
    typed = re.sub(r'"([^"]*)"', r"“\1”", typed)
    if typed.isascii():
        mark = dice.pick(("\u00a0", "…", "👍", "😡", "é", "’"))
        spaces = [at for at, letter in enumerate(typed) if letter == " "]
        vowels = [at for at, letter in enumerate(typed) if letter == "e"]
        if mark == "\u00a0" and spaces:
            at = dice.pick(spaces)
            typed = typed[:at] + mark + typed[at + 1 :]
        elif mark == "é" and vowels:
            at = dice.pick(vowels)
            typed = typed[:at] + mark + typed[at + 1 :]
        elif mark == "’":
            typed = f"‘{typed}’"
        else:
            typed += mark if mark in "\u00a0…é" else f" {mark}"
    if dice.below(0.25):
        return re.sub(r"[^\x00-\x7f]", "\ufffd", typed)  # what a decoder of UTF-8 makes of single bytes
    data = typed.encode()
    try:
        return data.decode("cp1252" if dice.below(0.6) else "latin-1")
    except UnicodeDecodeError:  # five bytes are none of cp1252's
        return data.decode("latin-1")


_WORDS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
SLANG, ADS, BOMBING = _WORDS["slang"], _WORDS["spam"]["ads"], _WORDS["bombing"]
_FEELING = re.compile(rf"\b({'|'.join(SLANG['feelings'])})\b", re.IGNORECASE)


def with_slang(text: str, word: str, dice: Dice) -> str:
    """The text with its first word of feeling replaced by that word, or with a phrase of it where it has none.

    >>> with_slang("Very good app", "zorpy", Dice(1)), with_slang("It opens", "zorpy", Dice(1))
    ('Very zorpy app', 'It opens zorpy fr')
    """
    changed, found = _FEELING.subn(word, text, count=1)
    return changed if found else f"{text} {dice.pick(SLANG['phrases']).format(word)}"


def advertised(template: str, dice: Dice) -> str:
    """An advertisement with a code and an amount of its own."""
    code = "".join(dice.pick(string.ascii_uppercase + string.digits) for _ in range(6))
    return template.format(code=code, big=100 * (1 + int(40 * dice.roll())))


def bombed(matter: Sequence[str], dice: Dice) -> str:
    """A review on that matter, in words of its own."""
    parts = (BOMBING["openers"], matter, BOMBING["closers"])
    return "".join(dice.pick(part) for part in parts)


def _told(texts: Iterable[str | None], name: str = "text") -> pl.Series:
    return pl.Series(name, list(texts), dtype=pl.Utf8())


def _each(changed: Callable[[str, Dice], str]) -> Change:
    return lambda rows, dice, _: rows.with_columns(_told(changed(text, dice) for text in rows["text"].to_list()))


def _slang(rows: pl.DataFrame, dice: Dice, _: World) -> pl.DataFrame:
    words = [[dice.pick(SLANG[kind]), dice.pick(SLANG[kind])] for kind in ("bad", "good")]
    felt = rows.select("text", pl.col("truth") > 0).rows()
    return rows.with_columns(_told(with_slang(text, dice.pick(words[good]), dice) for text, good in felt))


def _language(rows: pl.DataFrame, dice: Dice, world: World) -> pl.DataFrame:
    language = dice.pick(list(world.pool.foreign))
    texts = world.pool.foreign[language]
    return rows.with_columns(_told(dice.pick(texts) for _ in range(rows.height)), pl.lit(language).alias("language"))


def _spam(rows: pl.DataFrame, dice: Dice, _: World) -> pl.DataFrame:
    ad = dice.pick(ADS)
    return rows.with_columns(_told(advertised(ad, dice) for _ in range(rows.height)), pl.lit("en").alias("language"))


def _bombing(rows: pl.DataFrame, dice: Dice, world: World) -> pl.DataFrame:
    matter, app = dice.pick(BOMBING["matters"]), dice.pick(world.reference["app"].to_list())
    versions = world.reference.filter(pl.col("app") == app)["version"].to_list()
    return rows.with_columns(
        _told(bombed(matter, dice) for _ in range(rows.height)),
        _told((dice.pick(versions) for _ in range(rows.height)), "version"),
        *(pl.lit(value).alias(name) for name, value in (("app", app), ("language", "en"))),
    )


SHIFTS: Mapping[str, Shift] = {
    "neg60": Shift(negatives=0.60),
    "neg35": Shift(negatives=0.35),
    "new_app30": Shift(share=0.30),
    "language10": Shift(share=0.10, change=_language),
    "slang": Shift(share=0.125, change=_slang),
    "typos30": Shift(share=0.30, change=_each(mistyped)),
    "encoding10": Shift(share=0.10, change=_each(garbled)),
    "spam10": Shift(share=0.10, change=_spam),
    "bombing15": Shift(share=0.15, change=_bombing),
    "empty5": Shift(share=0.05, change=_each(lambda _, dice: dice.pick(("", "", "  ")))),
}
