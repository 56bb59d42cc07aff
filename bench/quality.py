"""How good the models are on the six splits of real reviews, beside what else could be used.

    python -m bench --only quality                      everything
    python -m bench --only quality --rows 2000 --dry    on few rows, to try it out

Before any test row is read one kind is chosen: the one with the best mean macro-F1 on the validation
rows of all splits, which are a tenth of the training rows (the newest where the split is by time, else
drawn by chance) and which no fit saw then. Beside ours, on the same rows: the majority label, plain
scikit-learn (TF-IDF of words and pairs, balanced LogisticRegression) and the pipelines of the first
version in their earlier and their last state. At the end every kind by language, on the demo world.
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

from bench.results import Better, Row, goal_row, goals, markdown
from bench.splits import BenchmarkSplit, benchmark_splits
from mobile_sentiment_ops.data.dataset import build_dataset
from mobile_sentiment_ops.data.demo_world import generate
from mobile_sentiment_ops.data.duplicates import identify
from mobile_sentiment_ops.data.splits import random_split
from mobile_sentiment_ops.models.evaluation import evaluate, reliability
from mobile_sentiment_ops.models.intervals import gain_interval, macro_f1_interval
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.models.training import train
from mobile_sentiment_ops.settings import Demo
from mobile_sentiment_ops.types import Interval

AREA = "quality"
KINDS = ("lr", "svc", "nbsvm", "rf", "xgb")
SEED = 0
CHOSEN = "chosen"
MIN_LANGUAGE_ROWS = 50
VALIDATION_SHARE = 0.1
SKLEARN = "scikit-learn lr"
FIRST = "first version, "

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
    decisions: npt.NDArray[Any]
    seconds: float

    def figure(self, name: str) -> float:
        """The figure of that name as a number."""
        value = getattr(self, name)
        return value.value if isinstance(value, Interval) else float(value)


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
    splits = [found if rows is None else _smaller(found, rows) for found in benchmark_splits(folder)]
    chosen, by_kind = choose(splits)
    told = ", ".join(f"{kind} {score:.4f}" for kind, score in by_kind.items())
    why = f"{chosen}, by the mean macro-F1 on validation rows ({told})"
    for split in splits:
        yield measure_split(split, chosen, why)
    yield measure_languages(None if rows is None else 4 * rows)


def choose(splits: Sequence[BenchmarkSplit]) -> tuple[str, dict[str, float]]:
    """The kind with the best mean macro-F1 on the validation rows of these splits, and that of each kind."""
    scores: dict[str, float] = {}
    for kind in KINDS:
        found = []
        for split in splits:
            training, validation = _validation(split)
            model = train(kind, training, training.clear(), seed=SEED)
            found.append(_scored(validation, *_answers(model, validation), 0.0).macro_f1.value)
        scores[kind] = float(np.mean(found))
    return max(scores, key=lambda kind: scores[kind]), scores


def measure_split(split: BenchmarkSplit, chosen: str, why: str) -> list[Row]:
    """All models on one split: their figures as rows, those of the peers beside ours."""
    return _rows(split, dict(_score_all(split)), chosen, why)


def measure_languages(reviews: int | None = None) -> list[Row]:
    """Macro-F1 of each kind by language on the newest fifth of the demo world, with the gap to English."""
    world = Demo() if reviews is None else Demo(reviews=reviews)
    dataset = build_dataset(
        identify(generate(world).reviews),
        test_share=0.2,
        validation_share=VALIDATION_SHARE,
        max_test_rows=20_000,
        seed=SEED,
        not_before=None,
        source="the demo world",
    )
    rows = []
    for kind in KINDS:
        model = train(kind, dataset.train, dataset.validation, seed=SEED)
        found = {
            language: _scored(part, *_answers(model, part), 0.0).macro_f1
            for (language,), part in dataset.test.group_by("language", maintain_order=True)
            if part.height >= MIN_LANGUAGE_ROWS
        }
        rows += [
            Row(
                f"macro_f1/demo/{language}/{kind}",
                round(score.value, 4),
                "macro-F1",
                "higher",
                spread=(round(score.low, 4), round(score.high, 4)),
                note=f"{score.value - found['en'].value:+.3f} beside English" if "en" in found else "",
            )
            for language, score in found.items()
        ]
    return rows


def _smaller(split: BenchmarkSplit, rows: int) -> BenchmarkSplit:
    train, test = (part.sample(min(rows, part.height), seed=SEED) for part in (split.train, split.test))
    return BenchmarkSplit(split.dataset, split.split, train, test)


def _score_all(split: BenchmarkSplit) -> Iterator[tuple[str, Scored]]:
    texts, labels = split.train["review_text"].to_list(), split.train["label"].to_numpy()
    asked = split.test["review_text"].to_list()
    for name, peer in PEERS.items():
        began = time.perf_counter()
        probabilities = peer(texts, labels, asked)
        yield name, _scored(split.test, probabilities, probabilities.argmax(axis=1), time.perf_counter() - began)
    for kind in KINDS:
        began = time.perf_counter()
        model = train(kind, split.train, split.train.clear(), seed=SEED)
        yield kind, _scored(split.test, *_answers(model, split.test), time.perf_counter() - began)


def _answers(model: SentimentModel, rows: pl.DataFrame) -> tuple[Probabilities, npt.NDArray[np.intp]]:
    probabilities = model.probabilities(rows["review_text"].to_list(), rows["rating"].to_list())
    return probabilities, model.decide(probabilities)


def _validation(split: BenchmarkSplit) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Training and validation rows among the training rows."""
    if split.split != "temporal":
        return random_split(split.train, test_share=VALIDATION_SHARE, seed=SEED)
    by_time = split.train.sort("submitted_at", maintain_order=True)
    first = round(by_time.height * (1 - VALIDATION_SHARE))
    return by_time[:first], by_time[first:]


def _scored(rows: pl.DataFrame, probabilities: Probabilities, decisions: npt.NDArray[Any], seconds: float) -> Scored:
    """The figures of these answers; calibration is that of the likeliest label, before offsets decide."""
    labels = rows["label"].to_numpy()
    metrics = evaluate(labels, probabilities, decisions, {}).metrics()
    interval = macro_f1_interval(labels, decisions, seed=SEED)
    ece = reliability(labels, probabilities, probabilities.argmax(axis=1)).ece
    return Scored(interval, metrics["f1_neutral"], ece, decisions, seconds)


def _rows(split: BenchmarkSplit, scored: Mapping[str, Scored], chosen: str, why: str) -> list[Row]:
    where = f"{split.dataset}/{split.split}"
    labels = split.test["label"].to_numpy()
    rows = []
    for kind in (CHOSEN, *KINDS):
        ours = scored[chosen if kind == CHOSEN else kind]
        gain = gain_interval(labels, ours.decisions, scored[SKLEARN].decisions, seed=SEED)
        figures: Mapping[str, tuple[float, tuple[float, float] | None, str, Better]] = {
            "macro_f1": (ours.macro_f1.value, (ours.macro_f1.low, ours.macro_f1.high), "macro-F1", "higher"),
            "gain_over_sklearn_lr_low": (gain.low, (gain.low, gain.high), "macro-F1, lower end", "higher"),
            "f1_neutral": (ours.f1_neutral, None, "F1", "higher"),
            "ece": (ours.ece, None, "ECE, 15 equal-mass bins", "lower"),
        }
        notes = {
            "macro_f1": f"spread is the 95% bootstrap interval; {split.test.height:,} test rows"
            + (f"; {why}" if kind == CHOSEN else ""),
            "gain_over_sklearn_lr_low": f"{gain.value:+.4f}",
        }
        for figure, (value, spread, unit, better) in figures.items():
            name = f"{figure}/{where}/{kind}"
            more: dict[str, Any] = {
                "spread": None if spread is None else (round(spread[0], 4), round(spread[1], 4)),
                "note": notes.get(figure, ""),
                "peers": {
                    peer: round(scored[peer].figure(figure), 4)
                    for peer in PEERS
                    if kind == CHOSEN and figure != "gain_over_sklearn_lr_low"
                },
            }
            if any((goal.area, goal.name) == (AREA, name) for goal in goals()):
                rows.append(goal_row(AREA, name, round(value, 4), **more))
            else:
                rows.append(Row(name, round(value, 4), unit, better, **more))
    return rows


# --- showing


def quality_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of a quality file as Markdown tables: macro-F1, gain, neutral F1, calibration, languages."""
    known = {row["name"]: row for row in rows if row["value"] is not None}
    splits = [name.split("/", 1)[1].removesuffix("/lr") for name in known if re.fullmatch("macro_f1/.*/.*/lr", name)]
    splits = [split for split in splits if not split.startswith("demo/")]
    if not splits:
        return "Not measured yet: `make bench` needs the real reviews."
    peers = list(known[f"macro_f1/{splits[0]}/{CHOSEN}"]["peers"])

    def table(figure: str) -> str:
        head = ["split", f"**{CHOSEN}**", *KINDS, *(peer.removeprefix(FIRST) for peer in peers)]
        body = [
            [
                split.replace("/", " "),
                *(_value(known[f"{figure}/{split}/{kind}"], bold=kind == CHOSEN) for kind in (CHOSEN, *KINDS)),
                *(_short(known[f"{figure}/{split}/{CHOSEN}"]["peers"][peer]) for peer in peers),
            ]
            for split in splits
        ]
        return markdown([head, *body])

    gains = [(split, known[f"gain_over_sklearn_lr_low/{split}/{CHOSEN}"]) for split in splits]
    gain = [[split.replace("/", " "), row["note"], _span(row["spread"], _signed)] for split, row in gains]
    languages = list(dict.fromkeys(name.split("/")[2] for name in known if name.startswith("macro_f1/demo/")))
    spoken = [[kind, *(_short(known[f"macro_f1/demo/{one}/{kind}"]["value"]) for one in languages)] for kind in KINDS]
    why = (
        known[f"macro_f1/{splits[0]}/{CHOSEN}"]["note"].partition("; ")[2].partition("; ")[2] or "chosen on validation"
    )
    return "\n\n".join(
        (
            f"Macro-F1. *Chosen* is one kind for all splits: {why}; its 95% bootstrap interval stands beside it. "
            f"*Earlier* and *last* are the {FIRST.strip(', ')}'s pipelines:",
            table("macro_f1"),
            f"The chosen kind less {SKLEARN}, paired on the same test rows:",
            markdown([["split", "gain", "95% interval"], *gain]),
            "F1 of the neutral label:",
            table("f1_neutral"),
            "Expected calibration error of the likeliest label, 15 bins of equal mass:",
            table("ece"),
            "Macro-F1 by language, on the newest fifth of the demo world:",
            markdown([["kind", *languages], *spoken]),
        )
    )


def _value(row: Mapping[str, Any], *, bold: bool) -> str:
    if not bold:
        return _short(row["value"])
    return f"**{_short(row['value'])}**" + (f" {_span(row['spread'], _short)}" if row["spread"] else "")


def _short(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("0.", ".", 1)


def _span(ends: Sequence[float], shown: Callable[[float], str]) -> str:
    return " to ".join(shown(end) for end in ends)
