"""What features cost beside scikit-learn's TfidfVectorizer: CPU seconds of one thread, in turn, on the same texts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sklearn.feature_extraction.text import TfidfVectorizer

from bench.results import Row, goal_row
from bench.splits import benchmark_splits
from mobile_sentiment_ops.models.kernel import Counted, Grams, counted, weighed

REPETITIONS = 7
GRAMS = Grams(words=2)


def rows(folder: Path, *, repetitions: int = REPETITIONS) -> Iterator[Row]:
    """The figures on the training texts of fintech random, from the folder of real reviews."""
    texts = next(benchmark_splits(folder)).train["review_text"]
    given, column = texts.to_list(), texts.to_arrow(compat_level=pl.CompatLevel.oldest())
    of_peer, of_ours = _in_turn(repetitions, lambda: peer(given), lambda: ours(column))
    ratios = sorted(theirs / mine for theirs, mine in zip(of_peer, of_ours, strict=True))
    least, seen = min(of_ours), len(given)
    yield goal_row(
        "training",
        "features/speedup_vs_tfidfvectorizer",
        round(ratios[len(ratios) // 2], 1),
        spread=(round(ratios[0], 1), round(ratios[-1], 1)),
        n=repetitions,
        peers={"scikit-learn TfidfVectorizer, CPU s": round(min(of_peer), 3), "this kernel, CPU s": round(least, 4)},
        note=f"{seen:,} texts, words and pairs to weighed rows of length 1; TfidfVectorizer(ngram_range=(1, 2)) from a "
        "list, this from the Arrow column into 2^20 buckets with (1 + log count) * sqrt(idf); median ratio of runs in "
        f"turn, spread is the least and the greatest; {1e6 * least / seen:.2f} us a text",
    )


def peer(texts: Sequence[str]) -> Any:
    """Sparse rows by scikit-learn."""
    return TfidfVectorizer(ngram_range=(1, 2)).fit_transform(texts)


def ours(column: Any) -> Counted:
    """The like by the kernel: counts, in how many texts each bucket is, weights."""
    found = counted(column, GRAMS)
    seen_in = np.bincount(found.buckets, minlength=2**GRAMS.bits).astype(np.float32)
    weights = np.sqrt(np.log(np.float32(1 + len(column)) / (1 + seen_in)) + 1)
    return weighed(found, np.arange(2**GRAMS.bits, dtype=np.int32), weights)


def _in_turn(repetitions: int, *works: Callable[[], Any]) -> list[list[float]]:
    """CPU seconds of each work, one after the other so that the machine is as busy for all; once before unmeasured."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(repetitions + 1):
        for work, spent in zip(works, seconds, strict=True):
            began = time.process_time()
            work()
            spent.append(time.process_time() - began)
    return [spent[1:] for spent in seconds]
