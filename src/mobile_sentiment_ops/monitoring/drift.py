"""Whether a window of reviews differs from the champion's reference, beyond what chance makes of such a window.

    Limits        what each statistic reaches by chance in windows of several sizes, drawn from the reference
    check_drift   one window against the reference: a value, a limit and a sentence for each statistic

No limit is a constant: windows in which nothing moved are drawn from the reference, in runs of rows that follow each
other in time, and compared with its other rows. Each statistic has its share of the false alarms, the negative share
most, and all shares are scaled so that the whole of them fires in `false_alarms` of such windows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse, stats

from mobile_sentiment_ops.errors import BundleError
from mobile_sentiment_ops.monitoring.reference import MIN_ROWS, Reference
from mobile_sentiment_ops.monitoring.rows import MOMENTS, TOKEN_BITS, UNIT, Rows
from mobile_sentiment_ops.monitoring.sketch import CLASSES, Part, Sketch, Window, text_places
from mobile_sentiment_ops.types import DriftStatus, Measurement

Floats = npt.NDArray[np.float64]

STATISTICS = {
    "negative share, more": 40.0,
    "negative share, less": 4.0,
    "negative share of a slice": 2.0,
    "predicted labels": 1.0,
    "rate of a word": 1.5,
    "length": 1.0,
    "unknown words": 1.0,
    "letters beyond ASCII": 1.0,
    "punctuation": 1.0,
    "empty texts": 1.0,
    "wrongly decoded texts": 1.0,
    "one text again and again": 1.0,
    "repeated texts": 1.0,
    "new apps": 1.0,
    "new languages": 1.0,
}
"""What is compared, and its weight in the false alarms: a worse mood is to be found first, all else shows clearly."""

COUNTS = (*("empty texts", "wrongly decoded texts", "one text again and again", "new apps", "new languages"),)
"""Statistics of counts that are mostly 0: their tail is what was drawn, as none fits it."""

SIZES = (50, 100, 200, 500, 1_000, 2_000, 5_000)
DRAWS = 2_000
TAIL = 0.02
"""The largest share of drawn windows that a limit's tail is fitted to."""
MIN_SLICE, MOST_VERSIONS = 30, 50
RUN_SHARE, MAX_RUN = 1 / 125, 16
"""Windows are drawn in runs of such a part of their size: a longer one spans more of what moves by itself from day to
day. Longer runs make limits wider and cost power (20 rows instead of 6 in a window of 500: .65 instead of .80 for
negatives of 25 to 35%)."""
LIMITS_FORMAT = 1
_TEXTS_FROM = 1 << TOKEN_BITS


@dataclass(frozen=True)
class Limits:
    """By the size of a window: the centre of each statistic, its limit above the centre, and how the largest ratio of
    statistic to limit is distributed beyond its quantile of 1 - TAIL (that quantile, and the mean excess)."""

    sizes: tuple[int, ...]
    centres: Floats
    limits: Floats
    tails: Floats

    def to_json(self) -> bytes:
        """Kept as JSON; `from_json` reads it."""
        arrays = {name: getattr(self, name).tolist() for name in ("centres", "limits", "tails")}
        told = {"format": LIMITS_FORMAT, "statistics": list(STATISTICS), "sizes": self.sizes, **arrays}
        return json.dumps(told).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Limits:
        """What `to_json` wrote; BundleError when it is of another format or release."""
        try:
            told = json.loads(data)
            if told["format"] != LIMITS_FORMAT or told["statistics"] != list(STATISTICS):
                raise BundleError("the limits of drift are those of another release; they are drawn anew")
            arrays = {name: np.array(told[name]) for name in ("centres", "limits", "tails")}
            return cls(tuple(told["sizes"]), **arrays)
        except (ValueError, KeyError, TypeError) as err:
            raise BundleError(f"the limits of drift cannot be read: {err!r}; they are drawn anew") from err

    def at(self, n: int, false_alarms: float) -> tuple[Floats, Floats]:
        """The centre and the limit of each statistic for a window of n reviews; between two sizes on the line
        over the logarithm of n."""
        weights = np.array([np.interp(np.log(n), np.log(self.sizes), column) for column in np.eye(len(self.sizes))])
        tail, excess = weights @ self.tails
        scale = tail + excess * np.log(TAIL / false_alarms)
        centres: Floats = weights @ self.centres
        limits: Floats = weights @ self.limits
        return centres, centres + limits * max(scale, 0.1)


def draw_limits(reference: Reference, *, seed: int = 0, draws: int = DRAWS, sizes: Sequence[int] = SIZES) -> Limits:
    """Limits from windows in which nothing moved. A window has at most half of the reference's rows."""
    rows, rng = reference.rows, np.random.default_rng(seed)
    order = np.argsort(rows.frame["event_time"].cast(pl.Int64()).fill_null(0).to_numpy(), kind="stable")
    table = _Table.of(rows.take(order))
    fitting = tuple(size for size in sizes if 2 * size <= len(rows)) or (max(len(rows) // 2, 1),)
    found = [_limits_at(table, size, draws if size < 5_000 else draws // 2, rng) for size in fitting]
    centres, limits, tails = (np.stack(part) for part in zip(*found, strict=True))
    return Limits(fitting, centres, limits, tails)


def check_drift(
    window: Window, reference: Reference | None, limits: Limits | None, *, false_alarms: float, min_reviews: int = 50
) -> tuple[DriftStatus, tuple[Measurement, ...]]:
    """How a window compares: the status, and each statistic beside the limit that chance exceeds in `false_alarms`
    of such windows, all statistics together."""
    n = window.sketch.n
    if reference is None or limits is None or len(reference.rows) < MIN_ROWS:
        why = "no reference" if reference is None else f"the reference has {len(reference.rows)} of {MIN_ROWS} rows"
        return DriftStatus.NO_REFERENCE, (Measurement("drift", None, None, False, f"{why}; `mso retrain` makes one"),)
    if n < min_reviews:
        why = f"{n} reviews, expected at least {min_reviews} (monitoring.min_reviews)"
        return DriftStatus.TOO_FEW, (Measurement("drift", None, None, False, why, n),)
    base = reference.window
    parts = _parts(base, window)
    sums = _sums(window, parts)
    if n > limits.sizes[-1]:
        sums = _thinned(sums, limits.sizes[-1] / n)
    values, worst = _statistics(sums, _sums(base, parts), parts)
    _, bounds = limits.at(n, false_alarms)
    measured = []
    for at, name in enumerate(STATISTICS):
        value, limit = float(values[0, at]), float(bounds[at])
        fired = value > limit
        part = _named(parts[worst[0]]) if name == "negative share of a slice" and parts else {}
        reason = _reason(name, value, limit, window.sketch, reference.sketch, part)
        measured.append(Measurement(name, round(value, 3), round(limit, 3), fired, reason, n, part=part))
    status = DriftStatus.DRIFT if any(one.fired for one in measured) else DriftStatus.OK
    return status, tuple(measured)


# --- sums of windows


@dataclass(frozen=True)
class _Sums:
    """Sums of w windows; `slices` (w, 3, s): reviews, p_negative and its square of each part."""

    n: Floats
    told: Floats
    negative: Floats
    negative_squared: Floats
    classes: Floats
    moments: Floats
    squares: Floats
    words: Floats
    texts: Floats
    slices: Floats


def _parts(base: Window, window: Window) -> list[Part]:
    """The slices that are looked at: apps and languages of either side, and versions of the window."""
    found = {part: None for side in (base, window) for part in side.parts if part[0] != "version"}
    versions = [(-figures[0], part) for part, figures in window.parts.items() if part[0] == "version"]
    return [*found, *(part for less, part in sorted(versions)[:MOST_VERSIONS] if -less >= MIN_SLICE)]


def _sums(window: Window, parts: Sequence[Part]) -> _Sums:
    sums, sketch = window.sketch.sums, window.sketch
    slices = np.zeros((1, 3, len(parts)))
    for at, part in enumerate(parts):
        if (figures := window.parts.get(part)) is not None:
            slices[0, :, at] = figures
    slices[:, 1:] /= UNIT
    return _Sums(
        n=np.array([float(sums["n"])]),
        told=np.array([float(sums["told"])]),
        negative=np.array([sums["p_negative"] / UNIT]),
        negative_squared=np.array([sums["p_negative_squared"] / UNIT]),
        classes=np.array([[sums[name] for name in CLASSES]], float),
        moments=np.array([[sums[name] for name in MOMENTS]], float),
        squares=np.array([[sums[f"{name}_squared"] for name in MOMENTS[:4]]], float),
        words=sketch.buckets[None].astype(float),
        texts=sketch.texts[None].astype(float),
        slices=slices,
    )


def _thinned(sums: _Sums, share: float) -> _Sums:
    """The sums of so large a part of a window, drawn by chance where they are counts: limits are known up to half of
    the reference's rows, and what is measured must be what they are of."""
    chance = np.random.default_rng(0)

    def drawn(counts: Floats) -> Floats:
        return chance.binomial(counts.astype(np.int64), share).astype(float)

    flags = drawn(sums.moments[:, 4:])
    moments = np.concatenate([sums.moments[:, :4] * share, flags], axis=1)
    means = {
        name: getattr(sums, name) * share for name in ("n", "told", "negative", "negative_squared", "squares", "slices")
    }
    counts = {name: drawn(getattr(sums, name)) for name in ("classes", "words", "texts")}
    return _Sums(**means, **counts, moments=moments)


@dataclass(frozen=True)
class _Table:
    """All rows of a reference as a sparse matrix whose sums over windows are what `_Sums` holds."""

    matrix: sparse.csr_matrix
    parts: list[Part]
    filled: tuple[int, int]
    """How many buckets of words and of texts occur at all: the others count nothing."""

    @classmethod
    def of(cls, rows: Rows) -> _Table:
        window = Window.of_rows(rows)
        parts = _parts(window, window)
        n = len(rows)
        negative = rows.scores[:, 0] / UNIT
        told = rows.frame["text"].is_not_null().to_numpy()
        of_class = (rows.labels == at for at in range(3))
        columns = (np.ones(n), told, negative, negative**2, *of_class, *rows.moments.T, *(rows.moments.T[:4] ** 2))
        dense = np.column_stack([np.asarray(column, float) for column in columns])
        repeatable = np.flatnonzero(rows.keys)
        of_text = text_places(rows)[repeatable] + _TEXTS_FROM
        of_row = np.concatenate([np.repeat(np.arange(n), np.diff(rows.starts)), repeatable])
        places = np.concatenate([rows.tokens, of_text])
        filled, at = np.unique(places, return_inverse=True)
        tokens = sparse.csr_matrix((np.ones(places.size), (of_row, at)), shape=(n, filled.size))
        member = _membership(rows.frame, parts)
        slices = [member, member.multiply(negative[:, None]), member.multiply(negative[:, None] ** 2)]
        sizes = (int((filled < _TEXTS_FROM).sum()), int((filled >= _TEXTS_FROM).sum()))
        return cls(sparse.hstack([sparse.csr_matrix(dense), tokens, *slices], format="csr"), parts, sizes)

    def sums(self, chosen: sparse.csr_matrix) -> Floats:
        """(w, columns) of windows (w, rows)."""
        found: Floats = (chosen @ self.matrix).toarray()
        return found

    def unpacked(self, found: Floats) -> _Sums:
        """The columns by their names."""
        ends = np.cumsum([1, 1, 1, 1, 3, 6, 4, *self.filled])
        n, told, negative, squared, classes, moments, squares, words, texts, rest = np.split(found, ends, axis=1)
        slices = rest.reshape(len(found), 3, len(self.parts))
        of_all = (n[:, 0], told[:, 0], negative[:, 0], squared[:, 0])
        return _Sums(*of_all, classes, moments, squares, words, texts, slices)


def _membership(frame: pl.DataFrame, parts: Sequence[Part]) -> sparse.csr_matrix:
    columns = []
    for dimension, app, value in parts:
        inside = frame[dimension].eq_missing(value)
        if dimension == "version":
            inside &= frame["app"].eq_missing(app)
        columns.append(inside.to_numpy())
    return sparse.csr_matrix(np.column_stack(columns).astype(float) if columns else np.zeros((frame.height, 0)))


# --- statistics


def _statistics(window: _Sums, base: _Sums, parts: Sequence[Part]) -> tuple[Floats, npt.NDArray[np.intp]]:
    """(w, len(STATISTICS)) of windows against their bases (w or 1 of them), and the part that moved most (w,)."""
    told, base_told = np.maximum(window.told, 1), np.maximum(base.told, 1)
    slices, worst = _of_slices(window, base, parts)
    of_word = _deviance(window.words, base.words, told[:, None], base_told[:, None])
    of_text = _deviance(window.texts, base.texts, told[:, None], base_told[:, None])
    flags = _deviance(window.moments[:, 4:], base.moments[:, 4:], told[:, None], base_told[:, None])
    pairs, base_pairs = ((texts * (texts - 1)).sum(axis=1) for texts in (window.texts, base.texts))
    expected = base_pairs * (told / base_told) ** 2
    labels = _deviance(window.classes, base.classes, window.n[:, None], base.n[:, None])
    shapes = _standardised(window.moments[:, :4], told[:, None], base.moments[:, :4], base.squares, base_told[:, None])
    negative = _standardised(window.negative, window.n, base.negative, base.negative_squared, base.n)
    texts = (
        np.abs(of_word).max(axis=1, initial=0),
        *np.abs(shapes).T,
        *np.maximum(flags, 0).T,
        *(of_text.max(axis=1, initial=0), np.maximum(_signed_deviance(pairs, expected + 0.5), 0)),
    )
    columns = (
        *(np.maximum(negative, 0), np.maximum(-negative, 0), slices, np.abs(labels).max(axis=1)),
        *(np.where(window.told >= MIN_SLICE, column, 0.0) for column in texts),  # where texts are not kept
        *_newcomers(window, base, parts).T,
    )
    return np.stack(np.broadcast_arrays(*columns), axis=1), worst


def _signed_deviance(found: Floats, expected: Floats) -> Floats:
    """The square root of a Poisson count's deviance, with the sign of its distance: near to a standard normal for
    counts large and small (McCullagh and Nelder 1989, section 2.4)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.where(found > 0, found * np.log(np.maximum(found, 1e-300) / expected), 0.0)
    signed: Floats = np.sign(found - expected) * np.sqrt(np.maximum(2 * (log - found + expected), 0))
    return signed


def _deviance(found: Floats, base: Floats, n: Floats, m: Floats) -> Floats:
    """Counts among n reviews against those among m others, half a one added to these."""
    return _signed_deviance(found, n * (base + 0.5) / (m + 1)) / np.sqrt(1 + n / m)


def _standardised(sums: Floats, n: Floats, base: Floats, base_squares: Floats, m: Floats) -> Floats:
    """How many standard errors two means are apart, by the variance of the base."""
    mean, other = sums / n, base / m
    variance = np.maximum(base_squares / m - other**2, 0.0)
    scale = np.maximum(variance, 1e-12)
    apart: Floats = (mean - other) / np.sqrt(scale * (1 / n + 1 / m))
    return apart


def _of_slices(window: _Sums, base: _Sums, parts: Sequence[Part]) -> tuple[Floats, npt.NDArray[np.intp]]:
    """The largest distance of a slice's negative share from that of the same app or language (a version's from that
    of its app), and which slice that is."""
    if not parts:
        return np.zeros(len(window.n)), np.zeros(len(window.n), np.intp)
    at = {part: number for number, part in enumerate(parts)}
    home = [
        at[("app", app, app)] if dimension == "version" else number for number, (dimension, app, _) in enumerate(parts)
    ]
    n, negative = (window.slices[:, of] for of in range(2))
    m, other, other_squared = (base.slices[:, of][:, home] for of in range(3))
    enough = (n >= MIN_SLICE) & (m >= MIN_SLICE)
    apart = np.abs(_standardised(negative, np.maximum(n, 1), other, other_squared, np.maximum(m, 1)))
    apart = np.where(enough, apart, 0.0)
    return apart.max(axis=1), apart.argmax(axis=1)


def _newcomers(window: _Sums, base: _Sums, parts: Sequence[Part]) -> Floats:
    """Reviews of apps and of languages that the base has none of, as `_deviance` has counts: as many are to be expected
    as the base has of those it has one of (Good 1953)."""
    found = np.zeros((len(window.n), 2))
    for column, dimension in enumerate(("app", "language")):
        of = np.array([part[0] == dimension for part in parts], bool)
        if of.any():
            known, here = base.slices[:, 0, of], window.slices[:, 0, of]
            new, rare = np.where(known > 0, 0.0, here).sum(axis=1), (known == 1).sum(axis=1)
            apart = np.maximum(_deviance(new, rare, window.n, base.n), 0)
            found[:, column] = np.where(known.sum(axis=1) > 0, apart, 0)
    return found


# --- limits


def _limits_at(table: _Table, size: int, draws: int, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """The centres, limits and tail for windows of one size."""
    rows = table.matrix.shape[0]
    total = np.asarray(table.matrix.sum(axis=0))
    values = []
    for first in range(0, draws, 250):
        chosen = _drawn(rows, size, min(250, draws - first), rng)
        found = table.sums(chosen)
        values.append(_statistics(table.unpacked(found), table.unpacked(total - found), table.parts)[0])
    every = np.concatenate(values)
    centres = np.median(every, axis=0)
    above = every - centres
    weights = np.array(list(STATISTICS.values()))
    shares = 0.03 * weights / weights.sum()
    drawn = np.array([np.quantile(column, 1 - share) for column, share in zip(above.T, shares, strict=True)])
    tails = np.where([name in COUNTS for name in STATISTICS], drawn, _tail(above, shares))
    limits = np.maximum(tails, stats.norm.isf(shares) - centres)
    worst = (above / limits).max(axis=1)
    edge = np.quantile(worst, 1 - TAIL)
    beyond = worst[worst > edge] - edge
    return centres, limits, np.array([edge, beyond.mean() if beyond.size else 0.0])


def _tail(above: Floats, shares: Floats) -> Floats:
    """What is exceeded in these shares, each of its own column: beyond the quantile of 1 - TAIL excesses are taken for
    exponential (a generalised Pareto tail of shape 0; Coles 2001, chapter 4)."""
    edges = np.quantile(above, 1 - TAIL, axis=0)
    beyond = np.where(above > edges, above - edges, np.nan)
    excess = np.array([np.nanmean(column) if np.isfinite(column).any() else 0.0 for column in beyond.T])
    found: Floats = edges + excess * np.log(np.maximum(TAIL / shares, 1.0))
    return found


def _drawn(rows: int, size: int, windows: int, rng: np.random.Generator) -> sparse.csr_matrix:
    """(windows, rows) of 0 and 1: `size` rows each, in runs that follow each other (Kuensch 1989)."""
    run = int(np.clip(size * RUN_SHARE, 1, MAX_RUN))
    starts = rows // run
    at = np.stack([rng.permutation(starts)[: -(-size // run)] for _ in range(windows)]) * run + rng.integers(
        0, rows % run + 1, (windows, 1)
    )
    places = (at[:, :, None] + np.arange(run)).reshape(windows, -1)[:, :size]
    of = np.repeat(np.arange(windows), size)
    return sparse.csr_matrix((np.ones(places.size), (of, places.ravel())), shape=(windows, rows))


# --- words


def _named(part: Part) -> dict[str, str]:
    dimension, app, value = part
    return (
        {"language": value}
        if dimension == "language"
        else {"app": app, **({"version": value} if dimension == "version" else {})}
    )


def _reason(name: str, value: float, limit: float, window: Sketch, base: Sketch, part: Mapping[str, str]) -> str:
    """The measurement as a sentence, with figures of both sides where they are shares."""
    sides = {
        "negative": [sketch.negative_share for sketch in (base, window)],
        "empty": [sketch.sums["empty"] / max(sketch.sums["told"], 1) for sketch in (base, window)],
        "wrongly": [sketch.sums["broken"] / max(sketch.sums["told"], 1) for sketch in (base, window)],
    }.get(name.partition(" ")[0] if not part else "")
    where = f" ({', '.join(f'{key} {of}' for key, of in part.items())})" if part else ""
    told = f", {sides[0]:.1%} before and {sides[1]:.1%} now" if sides else ""
    beyond = "beyond" if value > limit else "within"
    return f"{name}{where}: off by {value:.1f}{told}, {beyond} the {limit:.1f} of chance"
