"""What the gate is told of two models: their answers on the same test rows, their cost, their behaviour."""

from __future__ import annotations

import time
from dataclasses import replace

import polars as pl

from mobile_sentiment_ops.data.dataset import Dataset
from mobile_sentiment_ops.models.evaluation import Indices, evaluate
from mobile_sentiment_ops.models.kinds import Kind, kind_named
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.models.rows import Floats
from mobile_sentiment_ops.registry.behaviour import Suite, pass_shares
from mobile_sentiment_ops.registry.comparison import find_parts
from mobile_sentiment_ops.registry.gate import Answers, compare
from mobile_sentiment_ops.registry.spending import Look
from mobile_sentiment_ops.settings import Gate
from mobile_sentiment_ops.types import Outcome, Verdict

TIMED_ROWS = 1_000
TIMED_TWICE = 3
"""The fastest of so many batches counts: others share the machine."""

SMALL_TEST_ROWS = 200
"""Where half of all labelled reviews are fewer than `gate.min_test_rows`, a verdict needs that half, and these."""


def answers(
    name: str, model: SentimentModel, dataset: Dataset, suite: Suite, probabilities: Floats | None = None
) -> Answers:
    """What a model does on the test rows now, and what it costs; `probabilities` (n, 3) where it has just answered."""
    texts, ratings = dataset.test["review_text"].to_list(), dataset.test["rating"].to_list()
    if probabilities is None:
        probabilities = model.probabilities(texts, ratings)
    timed = min(len(texts), TIMED_ROWS)
    seconds = []
    for _ in range(TIMED_TWICE):
        began = time.process_time()
        model.probabilities(texts[:timed], ratings[:timed])
        seconds.append(time.process_time() - began)
    us_per_review, mb = min(seconds) / max(timed, 1) * 1e6, sum(map(len, model.files().values())) / 2**20
    return Answers(name, model.decide(probabilities), probabilities, us_per_review, mb, pass_shares(model, suite))


def tested(model: SentimentModel, test: pl.DataFrame) -> tuple[Floats, Indices, dict[str, float]]:
    """Probabilities (n, 3), decisions (n,) and figures of a model on a dataset's test rows."""
    probabilities = model.probabilities(test["review_text"].to_list(), test["rating"].to_list())
    decisions = model.decide(probabilities)
    slices = {name: test[name].to_list() for name in ("app", "language")}
    return probabilities, decisions, evaluate(test["label"].to_numpy(), probabilities, decisions, slices).metrics()


def judge(
    candidate: SentimentModel,
    champion: SentimentModel | None,
    dataset: Dataset,
    *,
    champion_version: str | None,
    suite: Suite,
    gate: Gate,
    look: Look,
    seed: int,
    probabilities: Floats | None = None,
) -> Verdict:
    """The gate's verdict on a candidate, both models answering the dataset's test rows now; `probabilities` (n, 3)
    where the candidate has just done so."""
    kind = kind_named(candidate.kind)
    parts = find_parts({name: dataset.test[name].to_list() for name in ("app", "language", "version")})
    spoken = {part.name for part in parts}  # a test in a language that few reviews are written in says little
    rival = None
    if champion is not None:
        name = f"version {champion_version} ({kind_named(champion.kind).title})"
        rival = answers(name, champion, dataset, suite)
    verdict = compare(
        dataset.test["label"].to_numpy(),
        answers(kind.title, candidate, dataset, suite, probabilities),
        rival,
        gate=gate,
        seed=seed,
        level=look.level if rival else None,
        needed_rows=needed_rows(dataset, gate),
        parts=parts,
        behaviour_floors={
            test.name: test.min_pass for test in suite if test.language is None or f"language {test.language}" in spoken
        },
    )
    if not kind.candidate:
        return replace(verdict, outcome=Outcome.REJECT, reasons=(baseline(kind),), summary=baseline(kind))
    if champion is None and champion_version is not None:
        lost = f"Version {champion_version}, the champion, cannot be opened any more."
        return replace(verdict, reasons=(lost, *verdict.reasons), summary=f"{lost} {verdict.summary}")
    return verdict


def baseline(kind: Kind) -> str:
    """Why a kind that is no candidate is never promoted."""
    return f"{kind.title} is a baseline, there to be beaten."


def needed_rows(dataset: Dataset, gate: Gate) -> int:
    """The fewest test rows for a verdict against a champion."""
    labelled = dataset.train.height + dataset.validation.height + dataset.test.height
    return min(gate.min_test_rows, max(labelled // 2, SMALL_TEST_ROWS))
