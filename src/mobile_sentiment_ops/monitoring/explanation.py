"""What moved between two sets of scored reviews, and in whose: as figures, and as sentences to forward.

    explain         all of it
    Word            what is said more, or less, than apps, labels and lengths of the reviews let expect
    Contribution    what an app, a version or a language adds to the change of the negative share
    Finding         one sentence on one thing that moved

A review counts as negative by its calibrated probability. Its mean over a part errs by .02 (IDEA) and .05 (fintech
reviews) on real apps, versions and weeks, where EM errs by .14 and .16: who writes otherwise says otherwise, and the
text tells. EM is right where negatives were drawn more often and nothing else moved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.special import betainc

from mobile_sentiment_ops.models.kernel import Counted, Grams, counted, tokens
from mobile_sentiment_ops.types import LABELS, Interval

Floats = npt.NDArray[np.float64]
Part = Mapping[str, str | None]

LEVEL = 0.05
"""Of each family of tests; divided by how many tests it has."""
MIN_REVIEWS = 10
"""Reviews of an app or version in a window below which nothing is said of it."""
MIN_CELL = 30
"""Reviews before of one app, label and length that tell what is usual for such."""
MIN_LANGUAGE_RISE, MIN_APP_RISE, MIN_REPEATED = 0.02, 0.05, 0.02
"""Shares of the reviews below which a change that is no chance is too small to speak of."""
MIN_WITH = 4
"""Reviews that a word must be in."""
LIKELIEST, SHOWN, EXAMPLES, EXAMPLE_CHARS = 80, 8, 3, 240

_GRAMS = Grams(words=2, bits=20)
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, slots=True)
class Word:
    """A word or pair with others that stand in the same reviews (`also`). `reviews` have it after; `before` and
    `after` are its shares of the reviews, `usual` the one that as many negative and long reviews of the same apps
    would have; `negative` is the share of negatives among those that have it."""

    words: str
    also: tuple[str, ...]
    reviews: int
    before: float
    after: float
    usual: float
    z: float
    negative: float
    examples: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Contribution:
    """What the reviews of `part` add to the change of the negative share: `mix` by being more or fewer, `rate` by
    being negative more often (Kitagawa 1955). All of a dimension sum to the whole change. Shares may leave 0..1 by
    chance where reviews are few; None without reviews."""

    part: Part
    reviews_before: int
    reviews_after: int
    negative_before: float | None
    negative_after: float | None
    mix: float
    rate: float
    total: Interval


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that moved. `kind`: release, version, app or overall for the negative share; language, app_share,
    repeated or unknown_words for the rest. `size` is a share of the reviews, or of the change in negative ones."""

    kind: str
    part: Part
    size: float
    sentence: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """`summary` is the paragraph to forward; `findings` on the negative share come first, then others, each the
    largest first; `notes` say what could not be looked at."""

    reviews_before: int
    reviews_after: int
    negative_before: Interval
    negative_after: Interval
    change: Interval
    findings: tuple[Finding, ...]
    rose: tuple[Word, ...]
    fell: tuple[Word, ...]
    contributions: Mapping[str, tuple[Contribution, ...]]
    summary: str
    notes: tuple[str, ...] = field(default=())


def explain(before: pl.DataFrame, after: pl.DataFrame) -> Explanation:
    """What moved from `before` to `after`: frames with `label`, p_negative, p_neutral, p_positive and, where they
    are known, app, version, language and text.

    >>> said = {"Negative": ["Cannot log in since the update", "It logs me out each day"], "Positive": ["Love it"] * 2}
    >>> def made(*labels): return pl.DataFrame([
    ...     {"label": label, "text": said[label][at % 2], "app": "lamp", "version": version,
    ...      **{f"p_{name.lower()}": .9 if name == label else .05 for name in LABELS}}
    ...     for version, label, count in labels for at in range(count)])
    >>> found = explain(made(("1.0", "Negative", 40), ("1.0", "Positive", 160)),
    ...                 made(("1.1", "Negative", 60), ("1.1", "Positive", 40)))
    >>> found.findings[0].kind, dict(found.findings[0].part)
    ('release', {'app': 'lamp', 'version': '1.1'})
    """
    old, new = _filled(before), _filled(after)
    notes = [] if before.height and after.height else ["There are no reviews on one side: nothing can be compared."]
    share_old, share_new = _share(old), _share(new)
    reach = sqrt(sum((share.high - share.low) ** 2 for share in (share_old, share_new))) / 2
    difference = share_new.value - share_old.value
    change = Interval(difference, difference - reach, difference + reach)
    groups = {name: _groups(old, new, keys) for name, keys in _DIMENSIONS.items()} if not notes else {}
    findings: list[Finding] = []
    rose: tuple[Word, ...] = ()
    fell: tuple[Word, ...] = ()
    if groups:
        moved = _movements(groups["app"], groups["version"], change)
        findings += sorted(moved, key=lambda one: -abs(one.size))
    texts = [frame["text"].drop_nulls().len() for frame in (old, new)]
    if not notes and all(texts):
        read = _Read.of(old.filter(pl.col("text").is_not_null()), new.filter(pl.col("text").is_not_null()))
        rose, fell = read.words()
        others = [*_arrivals(groups), *read.repeated(), *read.unknown(rose)]
    else:
        others = [*_arrivals(groups)] if groups else []
        notes += ["No texts are kept on one side: words are not compared."] if not notes else []
    findings += sorted(others, key=lambda one: -one.size)
    return Explanation(
        reviews_before=before.height,
        reviews_after=after.height,
        negative_before=share_old,
        negative_after=share_new,
        change=change,
        findings=tuple(findings),
        rose=rose,
        fell=fell,
        contributions={name: _contributions(found) for name, found in groups.items()},
        summary=_summary(share_old, share_new, change, after.height, findings, rose),
        notes=tuple(notes),
    )


def _summary(
    before: Interval, after: Interval, change: Interval, reviews: int, findings: Sequence[Finding], rose: Sequence[Word]
) -> str:
    moved = change.low > 0 or change.high < 0
    verb = ("rose" if change.value > 0 else "fell") if moved else "did not clearly move"
    told = [
        f"Negative reviews {verb}: {_percent(after.value)} ({_percent(after.low)} to {_percent(after.high)}) of "
        f"{reviews:,} reviews, {_percent(before.value)} before."
    ]
    told += [finding.sentence for finding in findings[:4]]
    if rose:
        told.append(f"Said more often: {_listed(f'“{word.words}”' for word in rose[:5])}.")
    if not findings and not rose:
        told.append("No app, version, language or word moved more than chance does." if not moved else "")
    return " ".join(filter(None, told))


def _percent(share: float) -> str:
    """
    >>> _percent(0.568), _percent(0.0123), _percent(-0.1)
    ('57%', '1.2%', '0%')
    """
    share = min(max(share, 0.0), 1.0)
    return f"{100 * share:.0f}%" if share >= 0.1 or share == 0 else f"{100 * share:.1f}%"


def _listed(parts: Iterable[str]) -> str:
    """
    >>> _listed(["a", "b", "c"]), _listed(["a"])
    ('a, b and c', 'a')
    """
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


# --- negative shares

_DIMENSIONS = {"app": ("app",), "version": ("app", "version"), "language": ("language",)}


def _filled(frame: pl.DataFrame) -> pl.DataFrame:
    """With nulls for the columns that are not there."""
    names = [name for name in ("app", "version", "language", "text") if name not in frame.columns]
    made = frame.with_columns(pl.lit(None, pl.Utf8()).alias(name) for name in names)
    return made.with_columns(pl.col("app", "version", "language", "text").cast(pl.Utf8()))


def _share(frame: pl.DataFrame) -> Interval:
    """The mean probability of Negative."""
    p = frame["p_negative"].to_numpy()
    if not p.size:
        return Interval(0.0, 0.0, 1.0)
    share = float(p.mean())
    reach = _Z * float(p.std(ddof=1)) / sqrt(p.size) if p.size > 1 else 1.0
    return Interval(share, max(share - reach, 0.0), min(share + reach, 1.0))


@dataclass(frozen=True, slots=True)
class _Groups:
    """Counts and sums of `y` and of its squares (2, g), before and after, of g parts."""

    parts: list[Part]
    n: Floats
    sums: Floats
    squares: Floats

    @property
    def rates(self) -> Floats:
        """Means (2, g), nan without reviews."""
        return np.divide(self.sums, self.n, out=np.full_like(self.n, np.nan), where=self.n > 0)

    @property
    def errors(self) -> Floats:
        """Squared errors of the means (2, g), by the variance of a part's reviews and, as ten more, of all; after by
        that before too, if it is larger: few reviews that chance made alike vary little."""
        n = np.maximum(self.n, 1)
        own = np.maximum(self.squares - self.sums**2 / n, 0)
        every = self.n.sum(axis=1, keepdims=True)
        mean = self.sums.sum(axis=1, keepdims=True) / every
        variance = (own + 10 * (self.squares.sum(axis=1, keepdims=True) / every - mean**2)) / (self.n + 10)
        variance[1] = np.maximum(variance[1], variance[0])
        return np.asarray(variance / n)


def _groups(before: pl.DataFrame, after: pl.DataFrame, keys: Sequence[str]) -> _Groups:
    y = pl.col("p_negative")
    sides = [
        frame.group_by(keys).agg(pl.len().cast(pl.Float64()).alias("n"), y.sum().alias("s"), (y**2).sum().alias("q"))
        for frame in (before, after)
    ]
    joined = sides[0].join(sides[1], on=keys, how="full", coalesce=True, nulls_equal=True, suffix="1").sort(keys)
    n, sums, squares = (joined.select(pl.col(name, f"{name}1").fill_null(0)).to_numpy().T for name in "nsq")
    return _Groups(joined.select(keys).to_dicts(), n, sums, squares)


def _contributions(groups: _Groups) -> tuple[Contribution, ...]:
    """Of all parts, the largest first. What a part adds is a smooth function of means, whose error is found from
    the derivative by each review (delta method)."""
    every = groups.n.sum(axis=1, keepdims=True)
    weights, parts_of_mean = groups.n / every, groups.sums / every
    middle = parts_of_mean.sum(axis=1).mean()
    total = parts_of_mean[1] - parts_of_mean[0] - middle * (weights[1] - weights[0])
    half = (weights[1] - weights[0]) / 2
    variance = np.zeros(len(groups.parts))
    for side, sign in ((0, 1), (1, -1)):
        own, rest = 1 + sign * half, sign * half
        square = own**2 * groups.squares[side] - 2 * own * middle * groups.sums[side] + middle**2 * groups.n[side]
        square += rest**2 * (groups.squares[side].sum() - groups.squares[side])
        mean = parts_of_mean[side] - middle * weights[side] + rest * parts_of_mean[side].sum()
        variance += np.maximum(square / every[side] - mean**2, 0) / every[side]
    rates = groups.rates
    known = np.where(np.isnan(rates), rates[::-1], rates)
    mix = (weights[1] - weights[0]) * (known.mean(axis=0) - middle)
    reach = _Z * np.sqrt(variance)
    return tuple(
        Contribution(
            part=groups.parts[at],
            reviews_before=int(groups.n[0, at]),
            reviews_after=int(groups.n[1, at]),
            negative_before=float(rates[0, at]) if groups.n[0, at] else None,
            negative_after=float(rates[1, at]) if groups.n[1, at] else None,
            mix=float(mix[at]),
            rate=float(total[at] - mix[at]),
            total=Interval(*(float(total[at] + way * reach[at]) for way in (0, -1, 1))),
        )
        for at in np.argsort(-np.abs(total), kind="stable")
    )


# --- in whose reviews the share moved


@dataclass(frozen=True, slots=True)
class _Move:
    """How far the negative share of `n` reviews is from what it was in theirs, or in others, before."""

    n: float
    before: float
    after: float
    error: float

    @property
    def size(self) -> float:
        return self.after - self.before

    @property
    def z(self) -> float:
        return self.size / self.error

    def alike(self, other: _Move | None) -> bool:
        """Whether the other moved the same way, beyond chance, and at least half as far or not clearly less far."""
        if other is None or other.size * self.size <= 0 or abs(other.z) < _Z:
            return False
        apart = abs(self.size - other.size) / sqrt(self.error**2 + other.error**2)
        return abs(other.size) >= abs(self.size) / 2 or apart < _Z


def _move(groups: _Groups, chosen: Sequence[bool], against: Sequence[bool] | None = None) -> _Move | None:
    """The reviews of chosen parts, each part against itself, or all `against` those parts before; None when there
    are fewer than MIN_REVIEWS on a side."""
    now, was = np.array(chosen, bool), np.array(chosen if against is None else against, bool)
    if against is None:
        now &= (groups.n > 0).all(axis=0)
        was = now
    if groups.n[1, now].sum() < MIN_REVIEWS or groups.n[0, was].sum() < MIN_REVIEWS:
        return None
    weights_now = groups.n[1] * now / groups.n[1, now].sum()
    weights_was = weights_now if against is None else groups.n[0] * was / groups.n[0, was].sum()
    rates = np.nan_to_num(groups.rates)
    error = sqrt(float(weights_now**2 @ groups.errors[1] + weights_was**2 @ groups.errors[0]))
    return _Move(float(groups.n[1, now].sum()), float(weights_was @ rates[0]), float(weights_now @ rates[1]), error)


@dataclass(frozen=True, slots=True)
class _Version:
    """How a version moved: a new one against the `previous` one, another against itself; and its app's others."""

    name: str
    move: _Move
    previous: str | None
    others: _Move | None


def _versions(groups: _Groups, app: str | None) -> list[_Version]:
    own = [part["app"] == app for part in groups.parts]
    shares = groups.n * own / np.maximum(groups.n[:, own].sum(axis=1, keepdims=True), 1)
    found = []
    for at, part in enumerate(groups.parts):
        if not own[at] or part["version"] is None or groups.n[1, at] < MIN_REVIEWS:
            continue
        this = [place == at for place in range(len(own))]
        rest = [mine and not it for mine, it in zip(own, this, strict=True)]
        previous, against = None, None
        if shares[0, at] < shares[1, at] / 2 and any(rest):
            first = int(np.argmax(groups.n[0] * rest))
            previous = groups.parts[first]["version"]
            against = [place == first for place in range(len(own))] if groups.n[0, first] >= 2 * MIN_REVIEWS else rest
        if move := _move(groups, this, against):
            found.append(_Version(part["version"], move, previous, _move(groups, rest)))
    return found


def _movements(apps: _Groups, versions: _Groups, change: Interval) -> list[Finding]:
    """Apps and versions whose negative share moved beyond chance (Bonferroni) while others did not move alike.

    It is a version's doing, and a new one's release, if its app's other versions did not move alike either and it
    makes most of what moved in the app; else the app's.
    """
    reviews = float(apps.n[1].sum())
    names = [part["app"] for part in apps.parts]
    by_app = {name: _versions(versions, name) for name in names}
    every_version = sum(map(len, by_app.values()))
    found = []
    for name in names:
        whole = _move(apps, [other == name for other in names])
        elsewhere = _move(apps, [other != name for other in names])
        if whole is None:
            continue
        moved = abs(whole.z) >= _limit(4 * len(names))
        limit = _limit(2 * len(by_app[name]) if moved else 8 * every_version)
        alone = [
            one
            for one in by_app[name]
            if abs(one.move.z) >= limit
            and not one.move.alike(one.others)
            and not one.move.alike(elsewhere)
            and one.move.size * one.move.n >= whole.size * whole.n / 2
        ]
        if alone:
            found.append(_of_version(name, max(alone, key=lambda one: abs(one.move.z)), reviews, change))
        elif moved and not whole.alike(elsewhere):
            count = sum(one.move.size * whole.size > 0 for one in by_app[name])
            found.append(_of_app(name, whole, count, reviews, change))
    if not found and change.low * change.high > 0:
        told = f"No app or version stands out: reviews are negative {_more(change.value)} often in all of them alike."
        every = _move(apps, [True] * len(names))
        if every is not None and abs(every.z) > _limit(4):
            found.append(Finding("overall", {}, change.value, told))
    return found


def _of_version(app: str | None, one: _Version, reviews: float, change: Interval) -> Finding:
    move, size = one.move, one.move.size * one.move.n / reviews
    name = f"{app or 'an unnamed app'} {one.name}"
    if one.previous is None:
        head, against = f"Reviews of {name} are negative {_more(size)} often than before", "before"
    else:
        head = f"Likely a {'bad' if size > 0 else 'good'} release of {name}"
        against = f"of those of version {one.previous} before"
    told = (
        f"{head}: {_percent(move.after)} of its {move.n:,.0f} reviews are negative, {_percent(move.before)} {against}"
    )
    kind = "version" if one.previous is None else "release"
    return Finding(kind, {"app": app, "version": one.name}, size, f"{told}{_carried(size, change)}.")


def _of_app(app: str | None, move: _Move, versions: int, reviews: float, change: Interval) -> Finding:
    size = move.size * move.n / reviews
    told = f"Reviews of {app or 'no named app'} are negative {_more(size)} often than before: "
    told += f"{_percent(move.after)} of {move.n:,.0f}, {_percent(move.before)} before"
    told += f", in {versions} of its versions" if versions > 1 else ""
    return Finding("app", {"app": app}, size, f"{told}{_carried(size, change)}.")


def _carried(size: float, change: Interval) -> str:
    """How much of a clear change that is, in points."""
    if change.low * change.high <= 0 or size * change.value <= 0:
        return ""
    return f"; that makes {100 * abs(size):.1f} of the {100 * abs(change.value):.1f} points of change"


def _more(size: float) -> str:
    return "more" if size > 0 else "less"


# --- what else moved


def _arrivals(groups: Mapping[str, _Groups]) -> list[Finding]:
    """Languages and apps whose share of the reviews rose beyond chance and by more than is little."""
    found = []
    for name, kind, least in (("language", "language", MIN_LANGUAGE_RISE), ("app", "app_share", MIN_APP_RISE)):
        n, parts = groups[name].n, groups[name].parts
        every = n.sum(axis=1, keepdims=True)
        shares, pooled = n / every, n.sum(axis=0) / every.sum()
        error = np.sqrt(pooled * (1 - pooled) * (1 / every).sum())
        rise = shares[1] - shares[0]
        for at in np.flatnonzero((rise >= least) & (rise > _limit(len(parts)) * error)):
            if (value := parts[at][name]) is None:
                continue
            new = shares[0, at] < shares[1, at] / 5
            what = f"Reviews in the language {value}" if name == "language" else f"Reviews of {value}"
            told = f"{what} {'arrived' if new else 'became more'}: {_percent(shares[1, at])} of all, "
            told += f"{_percent(shares[0, at])} before."
            found.append(Finding(kind, {name: value}, float(rise[at]), told))
    return found


def _limit(tests: int) -> float:
    return NormalDist().inv_cdf(1 - LEVEL / max(tests, 1))


@dataclass(frozen=True, slots=True)
class _Read:
    """The texts of both sides (0 and 1), their filled buckets, and how many reviews have each bucket."""

    texts: tuple[list[str], list[str]]
    negative: tuple[Floats, Floats]
    found: tuple[Counted, Counted]
    rows: tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]
    have: tuple[Floats, Floats]
    weights: Floats
    """Of each review before: how many after it stands for."""

    @classmethod
    def of(cls, before: pl.DataFrame, after: pl.DataFrame) -> _Read:
        """Of frames whose texts are not null."""
        sides = (before, after)
        found = [counted(frame["text"].to_arrow(), _GRAMS) for frame in sides]
        rows = [one.rows for one in found]
        have = [np.bincount(one.buckets, minlength=1 << _GRAMS.bits).astype(np.float64) for one in found]
        return cls(
            texts=tuple(frame["text"].to_list() for frame in sides),
            negative=tuple(frame["p_negative"].to_numpy() for frame in sides),
            found=tuple(found),
            rows=tuple(rows),
            have=tuple(have),
            weights=_standing_for(before, after, *(np.diff(one.starts) for one in found)),
        )

    def words(self) -> tuple[tuple[Word, ...], tuple[Word, ...]]:
        """Words and pairs that rose and fell, those first that are least by chance.

        Poisson rates are compared by the signed root of the likelihood ratio (Dunning 1993), which rare words do not
        upset as they do the z of log-odds (Monroe, Colaresi & Quinn 2008: with a prior in proportion to the words a
        word that was never there before cannot stand out). What is usual is a weighted sum over reviews before of the
        same apps, labels and lengths, and also the plain rate before: the lesser difference counts. A word is kept if
        the exact binomial chance of its count, times the number of words, is below LEVEL.
        """
        (found, _), weights = self.found, self.weights
        each = weights[self.rows[0]]
        usual = np.bincount(found.buckets, each, 1 << _GRAMS.bits)
        squares = np.bincount(found.buckets, each**2, 1 << _GRAMS.bits)
        exposure = np.divide(
            usual, squares, out=np.full_like(usual, weights.sum() / (weights**2).sum()), where=usual > 0
        )
        plain = len(self.texts[0]) / len(self.texts[1])
        tests = max(int((self.have[0] + self.have[1] >= MIN_WITH).sum()), 1)
        ours = self.have[1]
        roots = np.stack([_root(ours, usual * exposure, exposure), _root(ours, self.have[0], plain)])
        z = np.where(
            (roots > 0).all(axis=0), roots.min(axis=0), np.where((roots < 0).all(axis=0), roots.max(axis=0), 0)
        )
        sides = []
        for side, order in ((1, np.argsort(-z)), (0, np.argsort(z))):
            top = order[:LIKELIEST]
            top = top[(z[top] > 0 if side else z[top] < 0) & (self.have[side][top] >= MIN_WITH)]
            chance = np.maximum(
                *(
                    betainc(ours[top], theirs + 1, 1 / (1 + times))
                    if side
                    else betainc(np.maximum(theirs, 1e-9), ours[top] + 1, times / (1 + times))
                    for theirs, times in ((usual[top] * exposure[top], exposure[top]), (self.have[0][top], plain))
                )
            )
            sides.append(self._told(top[chance * tests < LEVEL / 2], side, usual, z))
        return sides[0], sides[1]

    def _told(self, buckets: npt.NDArray[np.intp], side: int, usual: Floats, z: Floats) -> tuple[Word, ...]:
        """The likeliest buckets as words; what stands in the same reviews goes under the first of it."""
        rows = {int(bucket): self._rows_with(side, bucket) for bucket in buckets}
        names = {bucket: self._name(bucket, side, at) for bucket, at in rows.items()}
        heads: dict[int, list[int]] = {}
        for bucket in rows:
            like = (
                head
                for head in heads
                if _same(rows[head], rows[bucket], names[head], names[bucket], len(self.texts[side]))
            )
            if (head := next(like, None)) is not None:
                heads[head].append(bucket)
            elif len(heads) < SHOWN and names[bucket]:
                heads[bucket] = []
        sizes = [max(len(texts), 1) for texts in self.texts]
        return tuple(
            Word(
                words=names[head],
                also=tuple(names[one] for one in others[:SHOWN]),
                reviews=int(self.have[1][head]),
                before=float(self.have[0][head] / sizes[0]),
                after=float(self.have[1][head] / sizes[1]),
                usual=float(usual[head] / sizes[1]),
                z=float(z[head]),
                negative=float(self.negative[side][rows[head]].mean()),
                examples=self._examples(side, rows[head]),
            )
            for head, others in heads.items()
        )

    def _rows_with(self, side: int, bucket: int) -> npt.NDArray[np.intp]:
        return self.rows[side][self.found[side].buckets == bucket]

    def _name(self, bucket: int, side: int, rows: npt.NDArray[np.intp]) -> str:
        """The word or pair that is in the bucket in most of the first reviews."""
        grams: Counter[str] = Counter()
        for row in rows[:5].tolist():
            words = tokens(self.texts[side][row])
            grams.update({*words, *(f"{one} {two}" for one, two in pairwise(words))})
        likely = sorted(grams, key=lambda gram: (-grams[gram], gram.count(" "), gram))
        found = counted(likely, _GRAMS)
        at = found.rows[found.buckets == bucket]
        return likely[int(at[0])] if at.size else ""

    def _examples(self, side: int, rows: npt.NDArray[np.intp]) -> tuple[str, ...]:
        """Different short reviews among these that say a sentence, else the longest there are."""
        texts = dict.fromkeys(self.texts[side][row].strip() for row in rows[:500].tolist())
        ordered = sorted(texts, key=lambda text: (len(text.split()) < 5, abs(len(text) - 60)))
        return tuple(
            text if len(text) <= EXAMPLE_CHARS else f"{text[: EXAMPLE_CHARS - 1]}…" for text in ordered[:EXAMPLES]
        )

    def repeated(self) -> list[Finding]:
        """Texts that are nearly one and the same, more than before.

        Two of them share their smallest number under a random order of their grams with a chance that is the Jaccard
        index of the two (Broder 1997); a wave is who shares two with its largest core, or one of these.
        """
        keys = [_smallest(found) for found in self.found]
        pairs, counts = np.unique(keys[1][keys[1].min(axis=1) > 0], axis=0, return_counts=True)
        if not counts.size or counts.max() < 3:
            return []
        core = pairs[int(np.argmax(counts))]
        wave = [(key == core).any(axis=1) for key in keys]
        before, after = (float(side.mean()) for side in wave)
        pooled = float(np.concatenate(wave).mean())
        error = sqrt(pooled * (1 - pooled) * sum(1 / side.size for side in wave))
        if after - before < MIN_REPEATED or after - before < _limit(counts.size) * error:
            return []
        first = self.texts[1][int(np.flatnonzero((keys[1] == core).all(axis=1))[0])].strip()
        told = f"{wave[1].sum():,} nearly identical texts are {_percent(after)} of all, {_percent(before)} before: "
        return [Finding("repeated", {}, after - before, f"{told}“{first[:100]}{'…' * (len(first) > 100)}”.")]

    def unknown(self, rose: Sequence[Word]) -> list[Finding]:
        """Whether words that were never there before are more than Good (1953) lets expect: the share of words that
        were there once."""
        before, after = (counted(texts, Grams(words=1, bits=20)) for texts in self.texts)
        often = np.bincount(before.buckets, before.counts, 1 << 20)
        usual = float((often == 1).sum() / max(often.sum(), 1))
        size = after.starts.size - 1
        new = np.bincount(after.rows, after.counts * (often[after.buckets] == 0), size)
        words = np.bincount(after.rows, after.counts, size)
        share = float(new.sum() / max(words.sum(), 1))
        excess = new - usual * words
        error = float(excess.std()) * sqrt(size)
        if share < 1.5 * usual or share < 0.005 or excess.sum() < 4 * max(error, 1.0):
            return []
        named = [word.words for word in rose if not word.before][:3]
        such = f", such as {_listed(f'“{word}”' for word in named)}" if named else ""
        told = f"{_percent(share)} of all words are new{such}; {_percent(usual)} would be usual."
        return [Finding("unknown_words", {}, share - usual, told)]


def _standing_for(before: pl.DataFrame, after: pl.DataFrame, *sizes: npt.NDArray[np.int64]) -> Floats:
    """How many reviews after each review before stands for: those of the same app, label and third of lengths; where
    fewer than MIN_CELL of such were before, those of the same label and length, of the same label, or all."""
    ends = np.quantile(sizes[0], [1 / 3, 2 / 3])
    cells = []
    for frame, size in zip((before, after), sizes, strict=True):
        third = pl.Series("third", np.searchsorted(ends, size))
        cells.append(frame.select("app", "label", third))
    old, left = cells
    weights = np.zeros(old.height)
    for keys in (["app", "label", "third"], ["label", "third"], ["label"], []):
        every = pl.lit(1).alias("every")
        there = old.with_columns(every).group_by("every", *keys).agg(pl.len().alias("there"))
        asked = left.with_columns(every).group_by("every", *keys).agg(pl.len().alias("asked"))
        told = there.filter(pl.col("there") >= (MIN_CELL if keys else 1)).join(
            asked, on=["every", *keys], nulls_equal=True
        )
        told = told.select(*keys, (pl.col("asked") / pl.col("there")).alias("weight"), every)
        own = old.with_columns(every).join(
            told, on=["every", *keys], how="left", nulls_equal=True, maintain_order="left"
        )
        weights += own["weight"].fill_null(0.0).to_numpy()
        left = left.with_columns(every).join(told, on=["every", *keys], how="anti", nulls_equal=True).drop("every")
        if not left.height:
            break
    return weights


def _root(ours: Floats, theirs: Floats, times: Floats | float) -> Floats:
    """The signed root of the likelihood ratio of two Poisson counts, the second with `times` the exposure."""
    rate = (ours + theirs) / (1 + times)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.nan_to_num(ours * np.log(ours / rate)) + np.nan_to_num(theirs * np.log(theirs / (rate * times)))
    return np.asarray(np.sign(ours - rate) * np.sqrt(np.maximum(2 * logs, 0)))


def _same(a: npt.NDArray[np.intp], b: npt.NDArray[np.intp], name: str, other: str, size: int) -> bool:
    """Whether two words stand in the same reviews: correlated by .3 (phi), or one mostly where a part of it stands."""
    both = np.intersect1d(a, b, assume_unique=True).size
    if set(name.split()) & set(other.split()) and both >= min(a.size, b.size) / 2:
        return True
    spread = sqrt(a.size * b.size * max(size - a.size, 1) * max(size - b.size, 1))
    return bool((both * size - a.size * b.size) / spread >= 0.3)


def _smallest(found: Counted) -> npt.NDArray[np.uint64]:
    """The smallest numbers (n, 2) of each text's grams under two random orders; 0 for a text of few grams."""
    sizes = np.diff(found.starts)
    keys = np.zeros((sizes.size, 2), np.uint64)
    enough = sizes >= 8
    for at, factor in enumerate((0x9E3779B97F4A7C15, 0xD1342543DE82EF95)):
        mixed = (found.buckets.astype(np.uint64) + np.uint64(1)) * np.uint64(factor)
        mixed = (mixed ^ mixed >> np.uint64(29)) * np.uint64(0xBF58476D1CE4E5B9) | np.uint64(1)
        if mixed.size:
            starts = np.minimum(found.starts[:-1], mixed.size - 1)
            keys[enough, at] = np.minimum.reduceat(mixed, starts)[enough]
    return keys
