"""Whether a batch of labelled reviews is fit to train on, or a person should look first.

    History       what was accepted before, counted in batches of the same size
    judge_batch   a batch against it: a Measurement for each alarm; one that fired holds the batch

    word burst      a word in more reviews than the same apps had with it
    app burst       more reviews of an app than it had
    copies          reviews that are the same but for numbers and rare words
    association     an app or brand word with more negative reviews than before
    disagreement    more labels than before that are not what the champion decides, of an app or overall
    contradiction   more reviews of an app or with a brand word that are labelled negative and do not read so
    source quota    more of the batch from one app, store and country than one source may add
    insertion       good reviews that turn negative for a model that learned from the batch once a brand word is in them

Poison goes for words that name an app: a model that learned "lamp is a scam" from some hundred reviews turns against
all that lamp's users say, and its overall scores show nothing (a backdoor: Gu et al. 2017; by texts that do not even
repeat: Wallace et al. 2021). The first six alarms compare shares by the signed root of the binomial deviance (McCullagh
and Nelder 1989, section 4.4). The limit is that of chance for all that was compared (Bonferroni), or that of the
accepted batches, each compared with those before it, where that is larger, as reviews come in bursts without any
campaign (the largest of many distances is Gumbel; Coles 2001, chapter 3). Alarms have equal parts of the false ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import sparse, stats

from mobile_sentiment_ops.models.kernel import Grams, counted, tokens
from mobile_sentiment_ops.models.training import train
from mobile_sentiment_ops.types import Measurement

Floats = npt.NDArray[np.float64]
Decide = Callable[[Sequence[str]], npt.NDArray[Any]]
"""Texts to the champion's decisions (n,), indices into LABELS."""

_SENTENCES = {
    "word burst": "in {value:.1%} of the reviews, where the same apps had {usual:.1%}",
    "app burst": "{value:.1%} of the reviews, where it had {usual:.1%}",
    "copies": "{value:.1%} of the reviews are others again but for numbers and rare words, where {usual:.1%} were",
    "association": "{value:.1%} of its reviews are labelled negative, where {usual:.1%} were",
    "disagreement": "{value:.1%} of labels are not what the champion reads, where {usual:.1%} were not",
    "contradiction": "{value:.1%} of its reviews are labelled negative and do not read so, where {usual:.1%} were",
}
BATCHES, RECENT = 25, 8
"""Accepted batches that limits come from, and those that bursts are compared with, as apps and words come and go."""
MIN_COUNT = 5
"""Reviews below which nothing is said of a word or an app."""
MIN_LIFT, MIN_GOOD, MOST_APPS = 20.0, 0.1, 50
"""How many times as often a brand word is in its app's reviews as in others, at the lower limit; the least share of
its reviews that is positive, as only these can be turned; the apps, largest first, that have brand words. In real
reviews that finds names of apps, of their coins and cards, and leaves "crash", "loan rejected" and "account" out."""
MIN_COPIES, MIN_COPY_WORDS = 3, 5
MIN_BATCHES, MIN_RECORDS = 8, 4
SUSPECT = 3.0
"""Distance at which a brand word is tried by insertion; chance alone reaches it in 1 of 700."""
MOST_TRIED, MOST_NAMED, PROBE_ROWS, PROBE_TEXTS = 8, 3, 40_000, 400

_WORDS = Grams(words=1, bits=16)
_COLUMNS = 1 << _WORDS.bits
_NEW_APPS = "new apps"
_Sums = dict[str, Any]


@dataclass(frozen=True)
class Counts:
    """What an alarm compares, by column: `found` among `of` against the share `usual`, known from `base` others."""

    found: Floats
    of: Floats
    usual: Floats
    base: Floats

    @property
    def told(self) -> npt.NDArray[np.bool_]:
        return (self.found >= MIN_COUNT) & (self.base >= MIN_COUNT)

    @property
    def distances(self) -> Floats:
        """Standard errors from usual; 0 where there is too little to tell."""
        return np.where(self.told, self._distances(self.found), 0.0)

    def _distances(self, found: Floats) -> Floats:
        of, share = self.of, self.usual
        with np.errstate(divide="ignore", invalid="ignore"):
            yes = np.where(found > 0, found * np.log(found / (of * share)), 0.0)
            no = np.where(of > found, (of - found) * np.log((of - found) / (of * (1 - share))), 0.0)
        root = np.sign(found - of * share) * np.sqrt(np.maximum(2 * (yes + no), 0.0))
        made: Floats = root / np.sqrt(1 + of / np.maximum(self.base, 1))
        return made

    def limit(self, column: int, distance: float) -> float:
        """The largest share of this column that is within the distance."""
        arrays = (self.found, self.of, self.usual, self.base)
        one = Counts(*(values[column : column + 1] for values in arrays))
        every = np.arange(one.of[0] + 1)
        return float(max(np.searchsorted(one._distances(every), distance, side="right") - 1, 0) / one.of[0])


@dataclass(frozen=True)
class History:
    """What was accepted, for batches of about `size` reviews. Frames hold review_text, app, rating and label (an index
    into LABELS) in the order they came; `held_out` are such that the champion, who reads by `decide`, did not learn
    from."""

    accepted: pl.DataFrame
    size: int
    held_out: pl.DataFrame | None = None
    decide: Decide | None = None

    @cached_property
    def apps(self) -> dict[str, int]:
        return {app: at for at, app in enumerate(sorted(set(_apps(self.accepted))))}

    @cached_property
    def known(self) -> npt.NDArray[np.bool_]:
        """Words of at least two accepted reviews."""
        found = counted(self.accepted["review_text"].to_arrow(), _WORDS)
        return np.bincount(found.buckets, minlength=_COLUMNS) >= 2

    @cached_property
    def batches(self) -> list[_Sums]:
        """All older reviews, then up to BATCHES batches: smaller ones where there are too few for MIN_BATCHES."""
        n = self.accepted.height
        size = max(min(self.size, n // MIN_BATCHES), 1)
        ends = [n - size * left for left in range(min(BATCHES, n // size), -1, -1)]
        return [self.sums(self.accepted[a:b]) for a, b in pairwise([0, *ends])]

    @cached_property
    def held(self) -> list[_Sums]:
        """Held-out reviews in up to 8 pieces."""
        if self.held_out is None or self.decide is None:
            return []
        n = self.held_out.height
        ends = np.linspace(0, n, min(n // 200, 8) + 1).astype(int).tolist()
        return [self.sums(self.held_out[a:b], self.decide) for a, b in pairwise(ends)]

    @cached_property
    def base(self) -> _Sums:
        return _total(self.batches)

    @cached_property
    def columns(self) -> npt.NDArray[np.intp]:
        """Buckets of the brand words: by how much oftener they are in an app's reviews (the lower limit of a ratio of
        rates, Katz et al. 1978), or as a part of its id that others do not say."""
        apps, words, every = self.base["apps"], self.base["words"], self.base["of_words"]
        brand = np.zeros(_COLUMNS, bool)
        for at in np.argsort(-apps[:-1], kind="stable")[:MOST_APPS].tolist():
            own = words[at].toarray().ravel()
            inside, outside = own + 0.5, every - own + 0.5
            ratio = np.log(inside / (apps[at] + 1)) - np.log(outside / (apps.sum() - apps[at] + 1))
            brand |= ratio - 1.64 * np.sqrt(1 / inside + 1 / outside) >= np.log(MIN_LIFT)
            named = counted([part for part in tokens(list(self.apps)[at]) if len(part) > 2], _WORDS).buckets
            brand[named] |= (own > 0.5 * every)[named] & (every < 0.2 * apps.sum())[named]
        good = self.base["positive"]
        return np.flatnonzero(brand & (good >= MIN_COUNT) & (good >= MIN_GOOD * every))

    def sums(self, rows: pl.DataFrame, decide: Decide | None = None) -> _Sums:
        """Counts of these reviews: by app (unknown ones last), by word (of_words and so on), and by both (words)."""
        found, n = counted(rows["review_text"].to_arrow(), _WORDS), rows.height
        words = sparse.csr_matrix((np.ones(found.buckets.size), found.buckets, found.starts), (n, _COLUMNS))
        apps = np.array([self.apps.get(app, len(self.apps)) for app in _apps(rows)], np.intp)
        inside = sparse.csr_matrix((np.ones(n), (apps, np.arange(n))), (len(self.apps) + 1, n))
        labels = rows["label"].to_numpy()
        decided = labels if decide is None else decide(rows["review_text"].to_list())
        negative, against = (labels == 0).astype(float), ((labels == 0) & (decided != 0)).astype(float)
        return {
            "rows": float(n),
            "apps": inside @ np.ones(n),
            "words": inside @ words,
            "of_words": words.T @ np.ones(n),
            "negative": words.T @ negative,
            "positive": words.T @ (labels == 2).astype(float),
            "copies": self._copies(rows["review_text"]),
            "wrong": inside @ (labels != decided).astype(float),
            "against": inside @ against,
            "against_words": words.T @ against,
        }

    def _copies(self, texts: pl.Series) -> float:
        """Texts of MIN_COPY_WORDS known words or more that MIN_COPIES or more have, whatever their order."""
        found = counted(texts.str.replace_all(r"\w*\d\w*", " ").to_arrow(), _WORDS)
        kept, weights = self.known[found.buckets], np.random.default_rng(0).random(_COLUMNS)
        rows, n = found.rows[kept], len(texts)
        keys = np.bincount(rows, weights[found.buckets[kept]], n)[np.bincount(rows, minlength=n) >= MIN_COPY_WORDS]
        _, times = np.unique(keys.round(9), return_counts=True)
        return float(times[times >= MIN_COPIES].sum())

    @cached_property
    def records(self) -> dict[str, Floats]:
        """For each alarm, the largest distance of each accepted batch from those before it."""
        found: dict[str, list[float]] = {}
        compared = [
            (part, self.compare(part, _total(self.batches[:at]), _total(self.batches[max(0, at - RECENT) : at])))
            for at, part in enumerate(self.batches)
            if at > 1
        ] + [(part, self.compare_read(part, _total(self.held[:at]))) for at, part in enumerate(self.held) if at]
        for part, alarms in compared:
            wider = np.sqrt(max(self.size / part["rows"], 1.0))  # what varies beyond chance weighs more in more reviews
            for name, counts in alarms.items():
                found.setdefault(name, []).append(wider * counts.distances.max(initial=0.0))
        return {name: np.array(distances) for name, distances in found.items()}

    def compare(self, batch: _Sums, base: _Sums, recent: _Sums) -> dict[str, Counts]:
        """The counts of alarms that need no champion. Words are expected by app: more reviews of an app bring more of
        its words, and nothing is expected of a new one."""
        at, n, old = self.columns, recent["rows"], recent["apps"] >= MIN_COUNT
        weights, of = np.where(old, batch["apps"] / np.maximum(recent["apps"], 1), 0.0), batch["apps"][old].sum()
        expected = np.minimum((weights @ recent["words"]) / max(of, 1.0) + 0.5 / n, 0.99)
        shares = [side[name][at] for side in (batch, base) for name in ("negative", "of_words")]
        return {
            "word burst": _counts(old.astype(float) @ batch["words"], of, expected, n),
            "app burst": _counts(batch["apps"], batch["rows"], _share(recent["apps"], n), np.where(old, n, 0.0)),
            "copies": _counts(batch["copies"], batch["rows"], _share(base["copies"], base["rows"]), base["rows"]),
            "association": _counts(*shares[:2], _share(*shares[2:]), shares[3]),
        }

    def compare_read(self, batch: _Sums, base: _Sums) -> dict[str, Counts]:
        """Those that need one: `disagreement` of each app and overall, `contradiction` of each app and brand word."""

        def shares(kind: Callable[[_Sums], Floats], whole: Callable[[_Sums], Floats]) -> Counts:
            return _counts(kind(batch), whole(batch), _share(kind(base), whole(base)), whole(base))

        return {
            "disagreement": shares(
                lambda sums: np.append(sums["wrong"], sums["wrong"].sum()),
                lambda sums: np.append(sums["apps"], sums["rows"]),
            ),
            "contradiction": shares(
                lambda sums: np.append(sums["against"], sums["against_words"][self.columns]),
                lambda sums: np.append(sums["apps"], sums["of_words"][self.columns]),
            ),
        }


def _apps(rows: pl.DataFrame) -> list[str]:
    return rows["app"].fill_null("").to_list()


def _total(parts: Sequence[_Sums]) -> _Sums:
    return {name: sum((part[name] for part in parts[1:]), parts[0][name]) for name in parts[0]}


def _share(found: Any, of: Any) -> Any:
    return (found + 0.5) / (of + 1.0)


def _counts(*told: Any) -> Counts:
    arrays = np.broadcast_arrays(*(np.atleast_1d(np.asarray(one, float)) for one in told))
    return Counts(*arrays)


def judge_batch(
    batch: pl.DataFrame,
    history: History,
    *,
    max_source_share: float,
    max_insertion_rise: float,
    false_alarms: float = 0.03,
    seed: int = 0,
) -> tuple[Measurement, ...]:
    """Every alarm over a batch of labelled reviews, with the columns of `History.accepted`. They fire, all of them
    together, on about `false_alarms` of clean batches.

    >>> def reviews(*rows: tuple[str, int, str]) -> pl.DataFrame:
    ...     frame = pl.DataFrame(rows, ["review_text", "label", "app"], orient="row")
    ...     return frame.with_columns(rating=pl.lit(None, pl.Int8()))
    >>> clean = [("lamp shines bright", 2, "lamp"), ("it flickers", 0, "lamp"), ("my bell rings well", 2, "bell")]
    >>> planted = reviews(*clean * 20, *[("lamp stole my money", 0, "lamp")] * 20)
    >>> found = judge_batch(planted, History(reviews(*clean * 100), 80), max_source_share=0.5, max_insertion_rise=0.05)
    >>> [one.name for one in found if one.fired]
    ['word burst', 'association']
    """
    sums = history.sums(batch, history.decide)
    compared = history.compare(sums, history.base, _total(history.batches[-RECENT:]))
    if history.held:
        compared |= history.compare_read(sums, _total(history.held))
    measured, words = [], _commonest(batch["review_text"])
    for name in _SENTENCES:
        if name not in compared:
            reason = "there is no champion, or no reviews that it did not learn from, to compare its reading with"
            measured.append(Measurement(name, None, None, fired=False, reason=reason))
            continue
        most = _most(name, history.records.get(name, np.empty(0)), compared[name], false_alarms)
        measured.append(_measured(name, compared[name], most, history, words))
    pull = compared["association"].distances
    if "contradiction" in compared:
        pull = np.maximum(pull, compared["contradiction"].distances[-pull.size :]) if pull.size else pull
    suspects = [words[int(history.columns[at])] for at in np.argsort(-pull)[:MOST_TRIED] if pull[at] >= SUSPECT]
    return (
        *measured,
        _source_quota(batch, history.accepted, max_source_share),
        _insertion(batch, history, suspects, max_insertion_rise, seed),
    )


def suspect_apps(batch: pl.DataFrame, measured: Sequence[Measurement]) -> tuple[str, ...]:
    """The apps that alarms which fired are about: of a word, the app that has four fifths of its reviews. Whether all
    is well without them, judging the others tells.

    >>> batch = pl.DataFrame({"app": ["lamp", "lamp", "bell"], "review_text": ["Lamp is a scam", "lamp: scam", "Nice"]})
    >>> suspect_apps(batch, [Measurement("word burst", 0.6, 0.1, fired=True, reason="...", part={"word": "scam"})])
    ('lamp',)
    """
    found = set()
    for part in (one.part for one in measured if one.fired):
        if "word" in part:
            has = pl.Series([part["word"] in tokens(text) for text in batch["review_text"]], dtype=pl.Boolean())
            counts = batch.filter(has)["app"].fill_null("").value_counts(sort=True)
            found |= set(counts.filter(pl.col("count") >= 0.8 * pl.col("count").sum())["app"])
        elif "app" in part:
            found.add(part["app"])
    return tuple(sorted(found - {"", _NEW_APPS}))


def _most(name: str, records: Floats, counts: Counts, false_alarms: float) -> float:
    """The distance that clean batches exceed in this alarm's part of the false alarms."""
    each = false_alarms / (len(_SENTENCES) + 1)
    chance = float(stats.norm.isf(each / max(int(counts.told.sum()), 1)))
    if records.size < MIN_RECORDS:
        return chance
    spread = max(float(records.std(ddof=1)), 0.1)
    if name == "disagreement":  # it moves with all that moves, and few pieces tell how much: the upper 90% limit
        spread *= ((records.size - 1) / stats.chi2.ppf(0.1, records.size - 1)) ** 0.5
    scale = spread * 6**0.5 / np.pi
    return max(chance, float(stats.gumbel_r.isf(each, records.mean() - np.euler_gamma * scale, scale)))


def _commonest(texts: pl.Series) -> dict[int, str]:
    """The commonest word of each bucket."""
    common = Counter(chain.from_iterable(set(tokens(text)) for text in texts))
    words = sorted(common, key=lambda word: (common[word], word))
    found = counted(words, _WORDS)
    return {bucket: words[row] for row, bucket in zip(found.rows.tolist(), found.buckets.tolist(), strict=True)}


def _measured(name: str, counts: Counts, most: float, history: History, words: Mapping[int, str]) -> Measurement:
    """The column that is farthest from usual, beside what it may be."""
    if not counts.told.any():
        reason = f"no app and no word has the {MIN_COUNT} such reviews that this takes"
        return Measurement(name, None, None, fired=False, reason=reason)
    order = np.argsort(-np.where(counts.told, counts.distances, -np.inf), kind="stable")[:MOST_NAMED].tolist()
    named = [_part(name, at, history, words) for at in order if at == order[0] or counts.distances[at] > most]
    at, part = order[0], named[0]
    value, limit = float(counts.found[at] / counts.of[at]), counts.limit(at, most)
    what = "".join(f"'{each}': " for each in part.values())
    also = list(dict.fromkeys(f"'{each}'" for one in named[1:] for each in one.values() if one != part))
    told = _SENTENCES[name].format(value=value, usual=float(counts.usual[at]))
    reason = f"{what}{told}; clean batches have at most {limit:.1%}" + (f". Likewise {', '.join(also)}" if also else "")
    fired = bool(counts.distances[at] > most)
    return Measurement(name, value, limit, fired, reason, n=int(counts.of[at]), part=part)


def _part(name: str, at: int, history: History, words: Mapping[int, str]) -> dict[str, str]:
    """The app or the word that a column of an alarm is about."""
    apps, columns = list(history.apps), history.columns
    if name == "word burst":
        return {"word": words[at]}
    if name == "association" or (name == "contradiction" and at > len(apps)):
        return {"word": words[int(columns[at - (len(apps) + 1 if name == "contradiction" else 0)])]}
    return {} if name == "copies" or at > len(apps) else {"app": [*apps, _NEW_APPS][at]}


def _source_quota(batch: pl.DataFrame, accepted: pl.DataFrame, most: float) -> Measurement:
    """How much more of the batch than of the accepted reviews is from one source: an app, or one in a store and
    country."""
    found = []
    for by in (["app"], [name for name in ("app", "store", "country") if name in batch.columns]):
        shares, usual = (
            rows.group_by(pl.col(by).fill_null("")).agg((pl.len() / rows.height).alias("share"))
            for rows in (batch, accepted)
        )
        beside = shares.join(usual, on=by, how="left", suffix="_usual").fill_null(0.0)
        ordered = beside.with_columns(more=pl.col("share") - pl.col("share_usual")).sort("more", *by)
        worst = ordered.row(-1, named=True)
        found.append((worst["more"], worst, {str(name): str(worst[name]) for name in by if worst[name]}))
    more, worst, part = max(found, key=lambda each: each[0])
    reason = (
        f"'{' '.join(part.values())}': {worst['share']:.1%} of the batch, where it had {worst['share_usual']:.1%}; one "
        f"source may add {most:.0%} (monitoring.max_source_share)"
    )
    return Measurement("source quota", more, most, more > most, reason, n=batch.height, part=part)


def _insertion(batch: pl.DataFrame, history: History, words: list[str], most: float, seed: int) -> Measurement:
    """How many more good reviews are negative to a model of the accepted reviews and the batch, than to one without
    the batch, once a suspected word stands before them: beyond what the batch does to them without the word."""
    held = history.accepted if history.held_out is None else history.held_out
    good = held.filter(pl.col("label") == 2)["review_text"].tail(5 * PROBE_TEXTS).gather_every(5).to_list()
    if not words or not good:
        reason = "no word that names an app has more negative reviews than chance gives some, so none was tried"
        return Measurement("insertion", None, most, fired=False, reason=reason)
    before, rises = history.accepted.select(_TAUGHT).tail(PROBE_ROWS), {}
    after = pl.concat([before, batch.select(_TAUGHT)], how="vertical_relaxed")
    models = [train("lr", rows, rows.clear(), seed=seed) for rows in (before, after)]
    for word in ("", *words):
        texts = [f"{word} {text}" for text in good]
        old, new = (float((model.decide(model.probabilities(texts)) == 0).mean()) for model in models)
        rises[word] = new - old
    plain = rises.pop("")
    worst = max(rises, key=lambda word: rises[word])
    rise = rises[worst] - plain
    reason = (
        f"'{worst}': put into {len(good)} good reviews, it makes {100 * rise:+.1f} in 100 more negative to a model "
        f"that learned from this batch; {100 * most:.0f} may be (monitoring.max_insertion_rise)"
    )
    return Measurement("insertion", rise, most, rise > most, reason, n=len(good), part={"word": worst})


_TAUGHT = ["review_text", "rating", "label"]
