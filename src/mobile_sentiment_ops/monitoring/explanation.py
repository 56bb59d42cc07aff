"""What moved between two sets of scored reviews, and in whose: as figures, and as sentences to forward.

    explain         all of it
    Contribution    what an app, a version or a language adds to the change of the negative share
    Finding         one sentence on one thing that moved

A review counts as negative by its calibrated probability. Its mean over a part errs by .02 (IDEA) and .05 (fintech
reviews) on real apps, versions and weeks, where EM errs by .14 and .16: who writes otherwise says otherwise, and the
text tells. EM is right where negatives were drawn more often and nothing else moved.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import polars as pl

from mobile_sentiment_ops.monitoring.words import LEVEL, Part, Word, compare_words, find_wave
from mobile_sentiment_ops.types import Interval

Floats = npt.NDArray[np.float64]

MIN_REVIEWS = 20
"""Reviews of an app or version in a window below which nothing is said of it."""
MIN_LANGUAGE_RISE, MIN_APP_RISE = 0.02, 0.05
"""Shares of the reviews below which a rise that is no chance is too little to speak of."""

SUMMED = 5
"""Findings that are in the summary."""

_Z = NormalDist().inv_cdf(0.975)
_DIMENSIONS = {"app": ("app",), "version": ("app", "version"), "language": ("language",)}


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
    repeated or words for the rest. `size` is by how much the share moved, of negatives or of those reviews, in all."""

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
    notes: tuple[str, ...] = ()


def explain(before: pl.DataFrame, after: pl.DataFrame) -> Explanation:
    """What moved from `before` to `after`: frames with `label`, p_negative and, where they are known, app, version,
    language and text.

    >>> def made(version: str, bad: int, good: int) -> pl.DataFrame:
    ...     texts = ["It logs me out each day"] * bad + ["Love it"] * good
    ...     return pl.DataFrame({"text": texts, "p_negative": [0.9] * bad + [0.1] * good}).with_columns(
    ...         app=pl.lit("lamp"), version=pl.lit(version), label=pl.lit("Neutral"))
    >>> print(explain(made("1.0", 40, 160), made("1.1", 60, 40)).findings[0].sentence)  # doctest: +ELLIPSIS
    Likely a bad release of lamp 1.1: 58% of its 100 reviews are negative, 26% of those of version 1.0 before; ...
    """
    old, new = _filled(before), _filled(after)
    p = [frame["p_negative"].to_numpy() for frame in (old, new)]
    (share_old, error_old), (share_new, error_new) = map(_share, p)
    change = _interval(share_new.value - share_old.value, sqrt(error_old**2 + error_new**2))
    findings: list[Finding] = []
    contributions: Mapping[str, tuple[Contribution, ...]] = {}
    rose: tuple[Word, ...] = ()
    fell: tuple[Word, ...] = ()
    notes: tuple[str, ...] = ()
    summary: list[str] = []
    if not (before.height and after.height):
        notes = (f"{before.height} reviews before and {after.height} after: nothing can be compared.",)
    else:
        groups = {name: _groups(old, new, keys) for name, keys in _DIMENSIONS.items()}
        contributions = {name: _contributions(found) for name, found in groups.items()}
        told = [frame.filter(pl.col("text").is_not_null()) for frame in (old, new)]
        others = _arrivals(groups)
        if all(frame.height for frame in told):
            rose, fell = compare_words(*told)
            others += [*_repeated(*told), *_said(rose)]
        else:
            notes = ("Texts are not kept on both sides: words are not compared.",)
        said = {(word.part.get("app"), word.part["version"]) for word in rose if "version" in word.part}
        moved = _movements(groups["app"], groups["version"], change, said)
        findings = [*sorted(moved, key=lambda one: -abs(one.size)), *sorted(others, key=lambda one: -one.size)]
        summary = [_summary(share_old, share_new, change, after.height, findings)]
    return Explanation(
        reviews_before=before.height,
        reviews_after=after.height,
        negative_before=share_old,
        negative_after=share_new,
        change=change,
        findings=tuple(findings),
        rose=rose,
        fell=fell,
        contributions=contributions,
        summary=" ".join([*summary, *notes]),
        notes=notes,
    )


def _summary(before: Interval, after: Interval, change: Interval, reviews: int, findings: Sequence[Finding]) -> str:
    moved = change.low * change.high > 0
    verb = ("rose" if change.value > 0 else "fell") if moved else "did not clearly move"
    told = f"The share of negative reviews {verb}: {percent(after.value)} ({percent(after.low)} to "
    told += f"{percent(after.high)}) of {reviews:,} reviews, {percent(before.value)} before."
    rest = [finding.sentence for finding in findings[:SUMMED]]
    nothing = f"No app, version, language or word {'stands out' if moved else 'moved more than chance does'}."
    return " ".join([told, *(rest or [nothing])])


def percent(share: float) -> str:
    """
    >>> percent(0.568), percent(0.0123), percent(-0.1)
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


def _filled(frame: pl.DataFrame) -> pl.DataFrame:
    """With nulls for the columns that are not there."""
    names = [name for name in ("app", "version", "language", "text") if name not in frame.columns]
    made = frame.with_columns(pl.lit(None, pl.Utf8()).alias(name) for name in names)
    return made.with_columns(pl.col("app", "version", "language", "text").cast(pl.Utf8()))


def _share(p: Floats) -> tuple[Interval, float]:
    """The mean probability of Negative with its standard error."""
    share, error = (float(p.mean()), float(p.std()) / sqrt(p.size)) if p.size > 1 else (float(p.sum()), 0.5)
    found = _interval(share, error)
    return Interval(share, max(found.low, 0.0), min(found.high, 1.0)), error


def _interval(value: float, error: float) -> Interval:
    return Interval(value, value - _Z * error, value + _Z * error)


@dataclass(frozen=True, slots=True)
class _Groups:
    """Counts and sums of `y` and of its squares (2, g), before and after, of g parts."""

    parts: Sequence[Part]
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
    error = np.sqrt(variance)
    return tuple(
        Contribution(
            part=groups.parts[at],
            reviews_before=int(groups.n[0, at]),
            reviews_after=int(groups.n[1, at]),
            negative_before=float(rates[0, at]) if groups.n[0, at] else None,
            negative_after=float(rates[1, at]) if groups.n[1, at] else None,
            mix=float(mix[at]),
            rate=float(total[at] - mix[at]),
            total=_interval(float(total[at]), float(error[at])),
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

    def apart(self, other: _Move) -> float:
        """How far the two moves are from each other, in standard errors."""
        return abs(self.size - other.size) / sqrt(self.error**2 + other.error**2)

    def alike(self, other: _Move | None) -> bool:
        """Whether the other moved the same way, beyond chance, and at least half as far or not clearly less far."""
        if other is None or other.size * self.size <= 0 or abs(other.z) < _Z:
            return False
        return abs(other.size) >= abs(self.size) / 2 or self.apart(other) < _Z


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

    def alone(self, said: bool) -> bool:
        if self.others is None:
            return True
        further = self.move.size - self.others.size
        clear = said or self.move.apart(self.others) >= _limit(1)
        return clear and further * self.move.size > 0


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
            against = [place == first for place in range(len(own))] if groups.n[0, first] >= MIN_REVIEWS else rest
        if move := _move(groups, this, against):
            found.append(_Version(part["version"], move, previous, _move(groups, rest)))
    return found


def _movements(
    apps: _Groups, versions: _Groups, change: Interval, said: Collection[tuple[str | None, str | None]]
) -> list[Finding]:
    """Apps and versions whose negative share moved beyond chance (Bonferroni) while others did not move alike.

    It is a version's doing, and a new one's release, if its app's other versions moved clearly less (less, if words
    that rose are `said` of it) and it makes most of what moved in the app; else the app's.
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
            and one.alone((name, one.name) in said)
            and not one.move.alike(elsewhere)
            and abs(one.move.size) * one.move.n >= abs(whole.size) * whole.n / 2
        ]
        if alone:
            found.append(_of_version(name, max(alone, key=lambda one: abs(one.move.z)), reviews, change))
        elif moved and not whole.alike(elsewhere):
            count = sum(one.move.size * whole.size > 0 for one in by_app[name])
            found.append(_of_app(name, whole, count, reviews, change))
    told = {one.part["app"] for one in found}
    rest = _move(apps, [name not in told for name in names])
    carried = sum(one.size for one in found if one.size * change.value > 0)
    clear = change.low * change.high > 0 and abs(carried) < abs(change.value) / 2
    if clear and rest is not None and abs(rest.z) > _limit(4) and rest.size * change.value > 0:
        what = "In the other apps, too," if found else "No app or version stands out:"
        sentence = f"{what} reviews are negative {_more(rest.size)} often: {percent(rest.after)}, "
        size = rest.size * rest.n / reviews
        found.append(Finding("overall", {}, size, f"{sentence}{percent(rest.before)} before."))
    return found


def _of_version(app: str | None, one: _Version, reviews: float, change: Interval) -> Finding:
    move, size = one.move, one.move.size * one.move.n / reviews
    name = f"{app or 'an unnamed app'} {one.name}"
    if one.previous is None:
        head, against = f"Reviews of {name} are negative {_more(size)} often than before", "before"
    else:
        head = f"Likely a {'bad' if size > 0 else 'good'} release of {name}"
        against = f"of those of version {one.previous} before"
    told = f"{head}: {percent(move.after)} of its {move.n:,.0f} reviews are negative, {percent(move.before)} {against}"
    kind = "version" if one.previous is None else "release"
    return Finding(kind, {"app": app, "version": one.name}, size, f"{told}{_carried(size, change)}.")


def _of_app(app: str | None, move: _Move, versions: int, reviews: float, change: Interval) -> Finding:
    size = move.size * move.n / reviews
    told = f"Reviews of {app or 'no named app'} are negative {_more(size)} often than before: "
    told += f"{percent(move.after)} of {move.n:,.0f}, {percent(move.before)} before"
    told += f", in {versions} of its versions" if versions > 1 else ""
    return Finding("app", {"app": app}, size, f"{told}{_carried(size, change)}.")


def _carried(size: float, change: Interval) -> str:
    """What that adds to a clear change, in points."""
    if change.low * change.high <= 0 or size * change.value <= 0:
        return ""
    return f"; this alone moves the whole share by {100 * size:+.1f} points, of {100 * change.value:+.1f} in all"


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
            if (value := parts[int(at)][name]) is None:
                continue
            new = shares[0, at] < shares[1, at] / 5
            what = f"Reviews in the language {value}" if name == "language" else f"Reviews of {value}"
            told = f"{what} {'arrived' if new else 'became more'}: {percent(shares[1, at])} of all, "
            told += f"{percent(shares[0, at])} before."
            found.append(Finding(kind, {name: value}, float(rise[at]), told))
    return found


def _limit(tests: int) -> float:
    return NormalDist().inv_cdf(1 - LEVEL / max(tests, 1))


def _repeated(before: pl.DataFrame, after: pl.DataFrame) -> list[Finding]:
    wave = find_wave(before["text"].to_list(), after["text"].to_list())
    if wave is None:
        return []
    told = f"{wave.reviews:,} nearly identical texts are {percent(wave.after)} of all, {percent(wave.before)} before: "
    return [Finding("repeated", {}, wave.after - wave.before, f"{told}“{wave.example[:120]}”.")]


def _said(rose: Sequence[Word]) -> list[Finding]:
    """What the first five words that rose say, together where they are of the same app or version."""
    parts: dict[tuple[str | None, ...], list[Word]] = {}
    for word in rose[:5]:
        parts.setdefault(tuple(word.part.values()), []).append(word)
    found = []
    for words in parts.values():
        first, many = words[0], "s" if len(words) > 1 else ""
        head = f"Word{many} that came up more often" if any(word.before for word in words) else f"New word{many}"
        whose = f", most of them of {' '.join(map(str, first.part.values()))}" if first.part else ""
        names = _listed(f"“{word.words}” ({percent(word.after)}, {percent(word.before)} before)" for word in words)
        told = f"{head}{whose}: {names.replace(', ', ' of all reviews, ', 1)}."
        found.append(Finding("words", first.part, first.after - first.before, told))
    return found
