"""What is said more or less than before, and by whom: words, pairs of words, and texts that are nearly one.

compare_words     Words that rose and fell from one set of reviews to another
find_wave         texts that are nearly the same
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import sqrt

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import bdtrc, betainc

from mobile_sentiment_ops.models.kernel import Counted, Grams, counted, tokens

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]
Part = Mapping[str, str | None]

LEVEL = 0.05
MIN_WITH = 4
"""Reviews that a word must be in."""
MIN_CELL = 30
"""Reviews before of one app, label and length that tell what is usual for such."""
LIKELIEST, SHOWN, EXAMPLES, EXAMPLE_CHARS = 80, 8, 3, 240
GRAMS = Grams(words=2, bits=20)


@dataclass(frozen=True, slots=True)
class Word:
    """A word or pair with others that stand in the same reviews (`also`). `reviews` have it after; `before` and
    `after` are its shares of the reviews, `usual` the one that as many negative and long reviews of the same apps
    would have; `negative` is the share of negatives among those that have it, and `part` whose most of these are,
    as {"app": "lamp"} or with a version, if they are of one far more often than others are."""

    words: str
    also: tuple[str, ...]
    reviews: int
    before: float
    after: float
    usual: float
    z: float
    negative: float
    part: Part
    examples: tuple[str, ...]


def compare_words(before: pl.DataFrame, after: pl.DataFrame) -> tuple[tuple[Word, ...], tuple[Word, ...]]:
    """Words and pairs that rose and fell, those first that are least by chance. Frames with `text` (no nulls), app,
    version, label and p_negative.

    Poisson rates are compared by the signed root of the likelihood ratio (Dunning 1993), which rare words do not upset
    as they do the z of log-odds (Monroe, Colaresi & Quinn 2008: with a prior in proportion to the words, one that was
    never there before cannot stand out). What is usual is a weighted sum over reviews before of the same apps, labels
    and lengths, and also the plain rate before: the lesser difference counts. A word is kept if the exact binomial
    chance of its count, times the number of words, is below LEVEL over both sides.

    >>> reviews = pl.DataFrame({"text": ["Love it", "Slow to open"] * 40}).with_columns(
    ...     app=pl.lit("lamp"), version=pl.lit("1.0"), label=pl.lit("Neutral"), p_negative=0.4)
    >>> later = reviews.with_columns(pl.Series("text", ["Love it", "It flickers a lot"] * 40))
    >>> [word.words for side in compare_words(reviews, later) for word in side]
    ['flickers', 'slow']
    """
    sides = (before, after)
    found = [counted(frame["text"].to_arrow(), GRAMS) for frame in sides]
    every = [np.bincount(one.buckets, minlength=1 << GRAMS.bits) for one in found]
    seen = np.flatnonzero(every[0] + every[1] >= MIN_WITH)
    have = [count[seen].astype(np.float64) for count in every]
    weights = _standing_for(before, after, *(np.diff(one.starts) for one in found))
    each = weights[found[0].rows]
    usual, squares = (np.bincount(found[0].buckets, each**power, 1 << GRAMS.bits)[seen] for power in (1, 2))
    times = np.divide(usual, squares, out=np.full(seen.size, weights.sum() / (weights**2).sum()), where=usual > 0)
    compared = ((usual * times, times), (have[0], np.full(seen.size, before.height / after.height)))
    roots = np.stack([_root(have[1], *theirs) for theirs in compared])
    told = []
    for side, sign in ((1, 1), (0, -1)):
        z = np.maximum((sign * roots).min(axis=0), 0)
        top = np.argsort(-z, kind="stable")[:LIKELIEST]
        top = top[(z[top] > 0) & (have[side][top] >= MIN_WITH)]
        chances = [_chance(side, have[1][top], theirs[top], often[top]) for theirs, often in compared]
        kept = top[np.maximum(*chances) * seen.size < LEVEL / 2].tolist()
        frame, rows, buckets = sides[side], found[side].rows, found[side].buckets
        groups = _grouped(frame, {int(seen[at]): rows[buckets == seen[at]] for at in kept})
        places = dict(zip(seen[kept].tolist(), kept, strict=True))
        told.append(
            tuple(
                Word(
                    words=names[0],
                    also=tuple(names[1 : SHOWN + 1]),
                    reviews=int(have[1][places[bucket]]),
                    before=float(have[0][places[bucket]] / before.height),
                    after=float(have[1][places[bucket]] / after.height),
                    usual=float(usual[places[bucket]] / after.height),
                    z=float(sign * z[places[bucket]]),
                    negative=float(frame["p_negative"].gather(where).mean()),  # type: ignore[arg-type]
                    part=_part(frame, where),
                    examples=_examples(frame["text"].gather(where[:500]).to_list()),
                )
                for bucket, (where, names) in groups.items()
            )
        )
    return told[0], told[1]


def _root(ours: Floats, theirs: Floats, times: Floats) -> Floats:
    """The signed root of the likelihood ratio of two Poisson counts, the second with `times` the exposure."""
    rate = (ours + theirs) / (1 + times)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.nan_to_num(ours * np.log(ours / rate)) + np.nan_to_num(theirs * np.log(theirs / (rate * times)))
    return np.asarray(np.sign(ours - rate) * np.sqrt(np.maximum(2 * logs, 0)))


def _chance(rose: int, ours: Floats, theirs: Floats, times: Floats) -> Floats:
    """How likely it is that so many or more (fewer) of all are ours when rates are equal; counts may be broken."""
    if rose:
        return np.asarray(betainc(ours, theirs + 1, 1 / (1 + times)))
    return np.asarray(betainc(np.maximum(theirs, 1e-9), ours + 1, times / (1 + times)))


def _standing_for(before: pl.DataFrame, after: pl.DataFrame, *sizes: npt.NDArray[np.int64]) -> Floats:
    """How many reviews after each review before stands for: those of the same app, label and third of lengths; where
    fewer than MIN_CELL of such were before, those of the same label and length, of the same label, or all."""
    ends = np.quantile(sizes[0], [1 / 3, 2 / 3])
    old, left = (
        frame.select("app", "label", pl.Series("third", np.searchsorted(ends, size)), every=pl.lit(1))
        for frame, size in zip((before, after), sizes, strict=True)
    )
    weights = np.zeros(old.height)
    for keys in (["app", "label", "third"], ["label", "third"], ["label"], ["every"]):
        there = old.group_by(keys).agg(pl.len().alias("there"))
        there = there.filter(pl.col("there") >= (1 if keys == ["every"] else MIN_CELL))
        told = there.join(left.group_by(keys).agg(pl.len().alias("asked")), on=keys, nulls_equal=True)
        told = told.select(*keys, (pl.col("asked") / pl.col("there")).alias("weight"))
        own = old.join(told, on=keys, how="left", nulls_equal=True, maintain_order="left")
        weights += own["weight"].fill_null(0.0).to_numpy()
        left = left.join(told, on=keys, how="anti", nulls_equal=True)
    return weights


def _grouped(frame: pl.DataFrame, rows: Mapping[int, Places]) -> dict[int, tuple[Places, list[str]]]:
    """The first SHOWN buckets that say different things: their rows, their name and those of others that stand in
    the same reviews, have a part in common or begin alike (vibrate, vibration). Of those that stand in just the same,
    the longest word gives the name."""
    groups: dict[int, tuple[Places, list[str]]] = {}
    for bucket, where in rows.items():
        if not (name := _name(bucket, frame["text"].gather(where[:5]).to_list())):
            continue
        like = (one for one in groups.values() if _alike(one[0], where, one[1][0], name, frame.height))
        if (one := next(like, None)) is not None:
            head, names = one
            first = np.array_equal(head, where) and (" " in name, -len(name)) < (" " in names[0], -len(names[0]))
            names.insert(0 if first else len(names), name)
        elif len(groups) < SHOWN:
            groups[bucket] = where, [name]
    return groups


def _alike(a: Places, b: Places, name: str, other: str, size: int) -> bool:
    both = np.intersect1d(a, b, assume_unique=True).size
    ours, theirs = name.split(), other.split()
    if {word[:5] for word in ours if len(word) > 4} & {word[:5] for word in theirs if len(word) > 4}:
        return True
    if set(ours) & set(theirs) and both >= min(a.size, b.size) / 2:
        return True
    spread = sqrt(a.size * b.size * max(size - a.size, 1) * max(size - b.size, 1))
    return bool((both * size - a.size * b.size) / spread >= 0.3)


def _name(bucket: int, texts: Sequence[str]) -> str:
    """The word or pair that is in the bucket in most of these texts."""
    grams: Counter[str] = Counter()
    for words in map(tokens, texts):
        grams.update({*words, *map(" ".join, pairwise(words))})
    likely = sorted(grams, key=lambda gram: (-grams[gram], gram.count(" "), gram))
    found = counted(likely, GRAMS)
    at = found.rows[found.buckets == bucket]
    return likely[int(at[0])] if at.size else ""


def _part(frame: pl.DataFrame, where: Places) -> Part:
    """The app or version that three fifths of these rows are of, if that is no chance; a version if it also is none
    among the reviews of its app."""
    found: Part = {}
    every = frame.height
    for keys, limit in ((["app"], 1.0), (["app", "version"], LEVEL)):
        own = frame[where].drop_nulls(keys).group_by(keys).len().sort("len", *keys, descending=True)
        if not own.height or own["len"][0] < 0.6 * where.size:
            break
        part, count = own.drop("len").row(0, named=True), own["len"][0] - 1
        size = frame.filter(*(pl.col(name) == value for name, value in part.items())).height
        if (
            bdtrc(count, where.size, size / frame.height) < LEVEL / 50
            and bdtrc(count, where.size, size / every) <= limit
        ):
            found = part
        every = size
    return found


def _examples(texts: Sequence[str]) -> tuple[str, ...]:
    """Different short texts of these that say a sentence, if there are any."""
    ordered = sorted(dict.fromkeys(text.strip() for text in texts), key=lambda text: (text.count(" ") < 4, len(text)))
    shown = (text if len(text) <= EXAMPLE_CHARS else f"{text[: EXAMPLE_CHARS - 1]}…" for text in ordered[:EXAMPLES])
    return tuple(shown)


@dataclass(frozen=True, slots=True)
class Wave:
    """Nearly identical texts: how many, their shares of the reviews, and one of them."""

    reviews: int
    before: float
    after: float
    example: str


def find_wave(before: Sequence[str], after: Sequence[str], *, min_rise: float = 0.02) -> Wave | None:
    """Texts that are nearly one and the same, if their share rose beyond chance and by `min_rise`.

    Two texts share their smallest number under a random order of their grams with a chance that is their Jaccard
    index (Broder 1997); a wave is who shares two, as the core that rose most, or one of these. Of texts that are alike
    by .7 half share two and nine tenths one: a wave with less of a core has a phrase in common and no more.

    >>> usual = [f"{word} is what I use it for" for word in ("Music", "Mail", "Books", "Games") for at in range(20)]
    >>> adverts = [f"Get rich with code Z{at}X at the best casino there is online" for at in range(9)]
    >>> find_wave(usual, usual + adverts).reviews
    9
    """
    keys = [_smallest(counted(texts, GRAMS)) for texts in (before, after)]
    pairs, of = np.unique(np.concatenate(keys), axis=0, return_inverse=True)
    counts = [np.bincount(side, minlength=len(pairs)) for side in np.split(of.ravel(), [len(before)])]
    rise = np.where(pairs.min(axis=1) > 0, counts[1] / len(after) - counts[0] / len(before), -1.0)
    core = pairs[int(np.argmax(rise))]
    if rise.max() <= 0 or counts[1][rise.argmax()] < MIN_WITH:
        return None
    members = [(key == core).any(axis=1) for key in keys]
    old, new = (float(one.mean()) for one in members)
    theirs, ours = (np.array([float(one.sum())]) for one in members)
    chance = _chance(1, ours, theirs, np.array([len(before) / len(after)])) * (counts[1] > 0).sum()
    if new - old < min_rise or chance[0] > LEVEL or counts[1][rise.argmax()] < 0.4 * ours[0]:
        return None
    first = after[int(np.flatnonzero((keys[1] == core).all(axis=1))[0])]
    return Wave(int(ours[0]), old, new, _examples([first])[0])


def _smallest(found: Counted) -> npt.NDArray[np.uint64]:
    """The smallest numbers (n, 2) of each text's grams under two random orders; 0 for a text of few grams."""
    keys = np.zeros((found.starts.size - 1, 2), np.uint64)
    enough = np.diff(found.starts) >= 8
    for at, factor in enumerate((0x9E3779B97F4A7C15, 0xD1342543DE82EF95)):
        mixed = (found.buckets.astype(np.uint64) + np.uint64(1)) * np.uint64(factor)
        mixed = (mixed ^ mixed >> np.uint64(29)) * np.uint64(0xBF58476D1CE4E5B9) | np.uint64(1)
        if enough.any():
            starts = np.minimum(found.starts[:-1], mixed.size - 1)
            keys[enough, at] = np.minimum.reduceat(mixed, starts)[enough]
    return keys
