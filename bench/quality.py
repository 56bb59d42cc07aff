"""How good the models are on the six splits of real reviews, beside what else could be used.

    python -m bench --only quality                      everything
    python -m bench --only quality --rows 2000 --dry    on few rows, to try it out

Kinds of this project are trained as the application does, with a tenth of the training rows for
calibration: the newest where the split is by time, else drawn by chance. Beside them, on the same
rows: the majority label, plain scikit-learn (TF-IDF of words and pairs, balanced LogisticRegression)
and the pipelines of the first version in their earlier and their last state. Peers learn from all
training rows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline
from xgboost import XGBClassifier

from bench.results import Row, markdown
from bench.splits import BenchmarkSplit, benchmark_splits
from mobile_sentiment_ops.data.splits import random_split
from mobile_sentiment_ops.models.evaluation import evaluate
from mobile_sentiment_ops.models.intervals import gain_interval, macro_f1_interval
from mobile_sentiment_ops.models.training import train
from mobile_sentiment_ops.types import Interval

KINDS = ("lr", "rf", "xgb")
SEED = 0
VALIDATION_SHARE = 0.1
SKLEARN = "scikit-learn lr"
FIRST = "first version, "

TO_REACH = {
    ("fintech", "random"): 0.584,
    ("fintech", "temporal"): 0.557,
    ("fintech", "apps"): 0.500,
    ("idea", "random"): 0.598,
    ("idea", "temporal"): 0.632,
    ("idea", "apps"): 0.524,
}
"""Macro-F1 that plain scikit-learn was measured to reach when this project was planned: goals of `lr`."""

Probabilities = npt.NDArray[np.float64]
Texts = Sequence[str]
Peer = Callable[[Texts, npt.NDArray[np.int8], Texts], Probabilities]
"""From training texts, their labels and test texts to a probability of each label for each test text."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What one model did on the test rows of one split."""

    macro_f1: Interval
    f1_neutral: float
    ece: float
    decisions: npt.NDArray[np.int64]
    seconds: float


# --- the peers


def _pipeline(estimator: Callable[[], Any], features: Mapping[str, Any] | None = None, *, clean: bool = False) -> Peer:
    def fitted(texts: Texts, labels: npt.NDArray[np.int8], test: Texts) -> Probabilities:
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), **(features or {}))
        prepared = [without_stop_words(text) for text in texts] if clean else texts
        asked = [without_stop_words(text) for text in test] if clean else test
        found: Probabilities = make_pipeline(vectorizer, estimator()).fit(prepared, labels).predict_proba(asked)
        return found.astype(np.float64)

    return fitted


def without_stop_words(text: str) -> str:
    """The text as the first version's last state trained on it: lower case, whole words of letters
    alone, no English stop word. It took the list from NLTK, this one is scikit-learn's.

    >>> without_stop_words("This is not good, it crashes A LOT")
    'lot'
    """
    return " ".join(word for word in text.lower().split() if word.isalpha() and word not in ENGLISH_STOP_WORDS)


def _majority(_texts: Texts, labels: npt.NDArray[np.int8], test: Texts) -> Probabilities:
    return np.tile(np.bincount(labels, minlength=3) / len(labels), (len(test), 1))


_FEW = {"strip_accents": "unicode", "min_df": 2}
EARLIER = {**_FEW, "max_features": 300}
LAST = {**_FEW, "max_features": 100}

PEERS: Mapping[str, Peer] = {
    "majority": _majority,
    f"{FIRST}earlier LR": _pipeline(lambda: LogisticRegression(C=2, max_iter=100), EARLIER),
    f"{FIRST}earlier RF": _pipeline(lambda: RandomForestClassifier(100, max_depth=6, random_state=42), EARLIER),
    f"{FIRST}earlier XGB": _pipeline(
        lambda: XGBClassifier(learning_rate=0.01, n_estimators=100, subsample=0.5, random_state=42), EARLIER
    ),
    f"{FIRST}last NB": _pipeline(lambda: MultinomialNB(alpha=4), LAST, clean=True),
    f"{FIRST}last RF": _pipeline(lambda: RandomForestClassifier(10, max_depth=3, random_state=42), LAST, clean=True),
    f"{FIRST}last XGB": _pipeline(
        lambda: XGBClassifier(n_estimators=10, learning_rate=0.01, max_depth=6, subsample=0.5), LAST, clean=True
    ),
    SKLEARN: _pipeline(lambda: LogisticRegression(C=3, class_weight="balanced", max_iter=1_000)),
}
"""Everything is as its makers set it; `ngram_range` is (1, 2) everywhere."""


# --- measuring


def measure(folder: Path, *, rows: int | None = None) -> Iterator[list[Row]]:
    """The rows of one split after the other, from the folder of real reviews; `rows` bounds both parts."""
    for found in benchmark_splits(folder):
        yield measure_split(found if rows is None else _smaller(found, rows))


def measure_split(split: BenchmarkSplit) -> list[Row]:
    """All models on one split: their figures as rows, those of the peers beside ours."""
    return _rows(split, dict(_score_all(split)))


def _smaller(split: BenchmarkSplit, rows: int) -> BenchmarkSplit:
    train, test = (part.sample(min(rows, part.height), seed=SEED) for part in (split.train, split.test))
    return BenchmarkSplit(split.dataset, split.split, train, test)


def _score_all(split: BenchmarkSplit) -> Iterator[tuple[str, Scored]]:
    texts, labels = split.train["review_text"].to_list(), split.train["label"].to_numpy()
    asked = split.test["review_text"].to_list()
    for name, peer in PEERS.items():
        began = time.perf_counter()
        probabilities = peer(texts, labels, asked)
        yield name, _scored(split, probabilities, probabilities.argmax(axis=1), time.perf_counter() - began)
    training, validation = _validation(split)
    for kind in KINDS:
        began = time.perf_counter()
        model = train(kind, training, validation, seed=SEED)
        probabilities = model.probabilities(asked, split.test["rating"].to_list())
        yield kind, _scored(split, probabilities, model.decide(probabilities), time.perf_counter() - began)


def _validation(split: BenchmarkSplit) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Training and validation rows among the training rows."""
    if split.split != "temporal":
        return random_split(split.train, test_share=VALIDATION_SHARE, seed=SEED)
    by_time = split.train.sort("submitted_at", maintain_order=True)
    first = round(by_time.height * (1 - VALIDATION_SHARE))
    return by_time[:first], by_time[first:]


def _scored(
    split: BenchmarkSplit, probabilities: Probabilities, decisions: npt.NDArray[np.int64], seconds: float
) -> Scored:
    labels = split.test["label"].to_numpy()
    metrics = evaluate(labels, probabilities, decisions, {}).metrics()
    interval = macro_f1_interval(labels, decisions, seed=SEED)
    return Scored(interval, metrics["f1_neutral"], metrics["ece"], decisions, seconds)


def _rows(split: BenchmarkSplit, scored: Mapping[str, Scored]) -> list[Row]:
    where = f"{split.dataset}/{split.split}"
    labels = split.test["label"].to_numpy()
    peers = {name: found for name, found in scored.items() if name in PEERS}
    rows = []
    for kind in KINDS:
        ours, goal = scored[kind], TO_REACH[split.dataset, split.split] if kind == "lr" else None
        missed = goal is not None and ours.macro_f1.value < goal <= ours.macro_f1.high
        beside = peers if kind == KINDS[0] else {}
        rows += [
            Row(
                f"macro_f1/{where}/{kind}",
                round(ours.macro_f1.value, 4),
                "macro-F1",
                "higher",
                goal,
                spread=(round(ours.macro_f1.low, 4), round(ours.macro_f1.high, 4)),
                peers={name: round(found.macro_f1.value, 4) for name, found in beside.items()},
                note=f"spread is the 95% bootstrap interval; {split.test.height:,} test rows"
                + ("; missed by less than the interval is wide" if missed else ""),
            ),
            Row(
                f"f1_neutral/{where}/{kind}",
                round(ours.f1_neutral, 4),
                "F1",
                "higher",
                peers={name: round(found.f1_neutral, 4) for name, found in beside.items()},
            ),
            Row(
                f"ece/{where}/{kind}",
                round(ours.ece, 4),
                "ECE, 15 equal-mass bins",
                "lower",
                peers={name: round(found.ece, 4) for name, found in beside.items()},
            ),
        ]
    gain = gain_interval(labels, scored["lr"].decisions, scored[SKLEARN].decisions, seed=SEED)
    rows.append(
        Row(
            f"gain_over_sklearn_lr_low/{where}/lr",
            round(gain.low, 4),
            "macro-F1, lower end of the paired 95% interval",
            "higher",
            spread=(round(gain.low, 4), round(gain.high, 4)),
            note=f"{gain.value:+.4f}",
        )
    )
    return rows


# --- showing


def quality_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The quality rows of a results file as Markdown tables: macro-F1, neutral F1, calibration."""
    known = {row["name"]: row for row in rows}
    splits = [name.split("/", 1)[1].removesuffix("/lr") for name in known if re.fullmatch("macro_f1/.*/lr", name)]
    if not splits:
        return "Not measured yet: `make bench` needs the real reviews."
    peers = list(known[f"macro_f1/{splits[0]}/lr"]["peers"])
    names = [peer.removeprefix(FIRST) for peer in peers]

    def table(figure: str, ours: Callable[[Mapping[str, Any]], str]) -> str:
        body = [
            [
                split.replace("/", " "),
                *(ours(known[f"{figure}/{split}/{kind}"]) for kind in KINDS),
                *(_short(known[f"{figure}/{split}/lr"]["peers"][peer]) for peer in peers),
            ]
            for split in splits
        ]
        return markdown([["split", *KINDS, *names], *body])

    gains = [(split, known[f"gain_over_sklearn_lr_low/{split}/lr"]) for split in splits]
    gain = [[split.replace("/", " "), row["note"], _span(row["spread"], _signed)] for split, row in gains]
    return "\n\n".join(
        (
            f"Macro-F1, with 95% bootstrap intervals. *Earlier* and *last* are the {FIRST.strip(', ')}'s pipelines:",
            table("macro_f1", lambda row: f"**{_short(row['value'])}** {_span(row['spread'], _short)}"),
            f"`lr` less {SKLEARN}, paired on the same test rows:",
            markdown([["split", "gain", "95% interval"], *gain]),
            "F1 of the neutral label:",
            table("f1_neutral", lambda row: f"**{_short(row['value'])}**"),
            "Expected calibration error, 15 bins of equal mass:",
            table("ece", lambda row: f"**{_short(row['value'])}**"),
        )
    )


def _short(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("0.", ".", 1)


def _span(ends: Sequence[float], shown: Callable[[float], str]) -> str:
    return " to ".join(shown(end) for end in ends)
