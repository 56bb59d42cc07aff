"""What training costs: CPU seconds and memory, beside plain scikit-learn in the same run.

    python -m bench --only training

Each figure is that of processes of their own, in turn, of which Python's start and imports are not
counted: from the file of reviews to a model that was evaluated on the test rows. Synthetic rows draw
words by Zipf's law, some of which lean to a label.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.results import ROOT, Row, goal_row
from bench.splits import benchmark_splits

AREA = "training"
SEED = 0
REPETITIONS = 5
GROWTH = (10_000, 30_000, 100_000, 300_000, 1_000_000)
STREAMED = (1_000_000, 2_000_000)
STREAM_BLOCK = 10_000
VOCABULARY = 50_000
FURTHER_SHARE = 1 / 11
"""A tenth of the rows there were before is an eleventh of all."""

Result = Mapping[str, float]


# --- what one process does


def ours(train_file: str, test_file: str, *kinds: str) -> Result:
    """Train kinds and evaluate them."""
    from mobile_sentiment_ops.models.training import train

    scores = {}
    rows = pl.read_parquet(train_file)
    for kind in kinds:
        model = train(kind, rows, rows.clear(), seed=SEED)
        scores[kind] = _evaluated(model, test_file)
    return scores


def peer(train_file: str, test_file: str) -> Result:
    """Plain scikit-learn: TF-IDF of words and pairs, balanced LogisticRegression by saga."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    from mobile_sentiment_ops.models.evaluation import evaluate

    rows, test = pl.read_parquet(train_file), pl.read_parquet(test_file)
    learner = LogisticRegression(C=3, class_weight="balanced", solver="saga", tol=1e-2, random_state=SEED)
    model = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), learner)
    model.fit(rows["review_text"].to_list(), rows["label"].to_numpy())
    probabilities = model.predict_proba(test["review_text"].to_list())
    found = evaluate(test["label"].to_numpy(), probabilities, probabilities.argmax(axis=1), {})
    return {"macro_f1": found.macro_f1}


def synthetic(rows: str) -> Result:
    """Train lr on so many synthetic rows that are all there at once."""
    from mobile_sentiment_ops.models.training import train

    frame = synthetic_reviews(int(rows), SEED)
    began = time.process_time()
    train("lr", frame, frame.clear(), seed=SEED)
    return {"fit_cpu_s": time.process_time() - began}


def streamed(rows: str) -> Result:
    """Train lr on a stream of so many synthetic rows."""
    from mobile_sentiment_ops.models.training import BLOCK_ROWS, train_on

    blocks = range(int(rows) // BLOCK_ROWS)
    train_on("lr", (synthetic_reviews(BLOCK_ROWS, SEED + block) for block in blocks), seed=SEED)
    return {}


def warm(train_file: str, test_file: str, kind: str, further_rows: str) -> Result:
    """Train on all rows, and on the first of them and then on the further ones."""
    from mobile_sentiment_ops.models.training import go_on, train

    rows = pl.read_parquet(train_file)
    before, further = rows[: -int(further_rows)], rows[-int(further_rows) :]
    seconds: dict[str, list[float]] = {"full": [], "warm": []}
    begun = train(kind, before, rows.clear(), seed=SEED)
    for _ in range(REPETITIONS + 1):
        began = time.process_time()
        full = train(kind, rows, rows.clear(), seed=SEED)
        seconds["full"].append(time.process_time() - began)
        began = time.process_time()
        gone_on = go_on(begun, further, seed=SEED)
        seconds["warm"].append(time.process_time() - began)
    shares = sorted(one / other for one, other in zip(seconds["warm"][1:], seconds["full"][1:], strict=True))
    return {
        "share": shares[len(shares) // 2],
        "least_share": shares[0],
        "greatest_share": shares[-1],
        "full": _evaluated(full, test_file),
        "warm": _evaluated(gone_on, test_file),
        "before": _evaluated(begun, test_file),
    }


def blocks(train_file: str, test_file: str, kind: str) -> Result:
    """Train on all rows at once and on a stream of small blocks of them."""
    from mobile_sentiment_ops.models.training import train, train_on

    rows = pl.read_parquet(train_file).sample(fraction=1.0, shuffle=True, seed=SEED)
    full = train(kind, rows, rows.clear(), seed=SEED)
    parts = (rows[at : at + STREAM_BLOCK] for at in range(0, rows.height, STREAM_BLOCK))
    return {"full": _evaluated(full, test_file), "streamed": _evaluated(train_on(kind, parts, seed=SEED), test_file)}


def _evaluated(model: Any, test_file: str) -> float:
    from mobile_sentiment_ops.models.evaluation import evaluate

    test = pl.read_parquet(test_file)
    probabilities = model.probabilities(test["review_text"].to_list())
    return float(evaluate(test["label"].to_numpy(), probabilities, model.decide(probabilities), {}).macro_f1)


def synthetic_reviews(rows: int, seed: int) -> pl.DataFrame:
    """Reviews of about a dozen words, every twentieth of which is of the review's own label."""
    random = np.random.default_rng(seed)
    ratings = random.choice([1, 2, 3, 4, 5], rows, p=[0.2, 0.08, 0.1, 0.17, 0.45])
    lengths = random.poisson(12, rows) + 1
    words = np.minimum(random.zipf(1.3, lengths.sum()), VOCABULARY)
    own = random.random(words.size) < 0.05
    words[own] = VOCABULARY + np.repeat(ratings, lengths)[own] * 100 + random.integers(0, 100, own.sum())
    ends = np.cumsum(lengths)
    texts = [" ".join(map(str, words[end - length : end].tolist())) for end, length in zip(ends, lengths, strict=True)]
    labels = np.array([0, 0, 0, 1, 2, 2])[ratings]
    return pl.DataFrame(
        {"review_text": texts, "rating": ratings, "label": labels}, schema_overrides={"rating": pl.Int8}
    )


CASES: Mapping[str, Callable[..., Result]] = {
    made.__name__: made for made in (ours, peer, synthetic, streamed, warm, blocks)
}


def _process(case: str, *arguments: str) -> dict[str, float]:
    """Run a case in a process of its own: its result, with cpu_s and peak_mb."""
    command = [sys.executable, "-m", "bench.training", case, *arguments]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"{' '.join(command[2:])} failed:\n{ran.stderr[-2000:]}")
    return dict(json.loads(ran.stdout.splitlines()[-1]))


def _main(case: str, *arguments: str) -> None:
    _warm_up(case)
    began = time.process_time()
    found = dict(CASES[case](*arguments))
    found["cpu_s"] = time.process_time() - began
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(json.dumps(found))


def _warm_up(case: str) -> None:
    """What both sides import, so that its seconds are nobody's."""
    if case == "peer":
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression  # noqa: F401

        TfidfVectorizer().fit_transform(["warm"])
    else:
        small = synthetic_reviews(60, SEED)
        from mobile_sentiment_ops.models.training import train

        train("lr", small, small.clear(), seed=SEED)


# --- measuring


def measure(folder: Path, *, repetitions: int = REPETITIONS, rows: int | None = None) -> Iterator[Row]:
    """The rows of the area; `rows` bounds the synthetic ones, to try it."""
    splits = {(found.dataset, found.split): found for found in benchmark_splits(folder)}
    with tempfile.TemporaryDirectory() as made:
        files = {}
        for (dataset, split), found in splits.items():
            names = [f"{made}/{dataset}-{split}-{part}.parquet" for part in ("train", "test")]
            training = found.train.sample(fraction=1.0, shuffle=True, seed=SEED)
            if split == "temporal":
                training = found.train.sort("submitted_at", maintain_order=True)
            for name, frame in zip(names, (training, found.test), strict=True):
                frame.select("review_text", "rating", "label").write_parquet(name)
            files[dataset, split] = (names[0], names[1], found.train.height)
        yield from _cost(files["fintech", "random"], repetitions)
        yield from _warm_starts(files)
        yield from _streams(files)
    yield from _growth([size for size in GROWTH if rows is None or size <= rows], repetitions)
    yield from _memory([size for size in STREAMED if rows is None or size <= rows])


def _cost(files: tuple[str, str, int], repetitions: int) -> Iterator[Row]:
    train_file, test_file, rows = files
    lr, saga, three = [], [], []
    for _ in range(repetitions):
        lr.append(_process("ours", train_file, test_file, "lr"))
        saga.append(_process("peer", train_file, test_file))
        three.append(_process("ours", train_file, test_file, "lr", "rf", "xgb"))
    ratios = sorted(one["cpu_s"] / other["cpu_s"] for one, other in zip(lr, saga, strict=True))
    yield goal_row(
        AREA,
        "lr/cpu_vs_sklearn_saga",
        round(_middle(ratios), 3),
        spread=(round(ratios[0], 3), round(ratios[-1], 3)),
        n=repetitions,
        peers={"scikit-learn, CPU s": round(_middle([one["cpu_s"] for one in saga]), 2)},
        note=f"lr {_middle([one['cpu_s'] for one in lr]):.2f} CPU s from the file of {rows:,} reviews to an evaluated "
        f"model, four fits; macro-F1 {lr[0]['lr']:.4f}, scikit-learn's {saga[0]['macro_f1']:.4f}",
    )
    for figure, name in (("cpu_s", "lr_rf_xgb/cpu_s"), ("peak_mb", "lr_rf_xgb/peak_mb")):
        values = sorted(one[figure] for one in three)
        told = ", ".join(f"{kind} {three[0][kind]:.3f}" for kind in ("lr", "rf", "xgb"))
        spread = (round(values[0], 1), round(values[-1], 1))
        note = f"{rows:,} rows; macro-F1 {told}"
        yield goal_row(AREA, name, round(_middle(values), 1), spread=spread, n=repetitions, note=note)


def _warm_starts(files: Mapping[tuple[str, str], tuple[str, str, int]]) -> Iterator[Row]:
    for kind in ("lr", "nbsvm"):
        for (dataset, split), (train_file, test_file, rows) in files.items():
            if split == "apps":
                continue
            found = _process("warm", train_file, test_file, kind, str(round(rows * FURTHER_SHARE)))
            loss = round(found["full"] - found["warm"], 4)
            spread = (round(found["least_share"], 3), round(found["greatest_share"], 3))
            note = f"{kind}, the last {rows * FURTHER_SHARE:,.0f} of {rows:,} rows of {dataset} {split}"
            scores = f"macro-F1 {found['warm']:.4f}, anew {found['full']:.4f}, without them {found['before']:.4f}"
            if (kind, dataset, split) == ("lr", "fintech", "random"):
                yield goal_row(
                    AREA, "warm_start/cpu_share", round(found["share"], 3), spread=spread, n=REPETITIONS, note=note
                )
                yield goal_row(AREA, "warm_start/macro_f1_loss", loss, note=f"{note}; {scores}")
            else:
                where = f"{dataset}/{split}/{kind}"
                share = round(found["share"], 3)
                yield Row(
                    f"warm_start/cpu_share/{where}", share, "of a full fit", "lower", spread=spread, n=REPETITIONS
                )
                yield Row(f"warm_start/macro_f1_loss/{where}", loss, "macro-F1", "lower", note=scores)


def _streams(files: Mapping[tuple[str, str], tuple[str, str, int]]) -> Iterator[Row]:
    for kind in ("lr", "nbsvm"):
        for dataset in ("fintech", "idea"):
            train_file, test_file, _ = files[dataset, "random"]
            found = _process("blocks", train_file, test_file, kind)
            yield Row(
                f"streamed/macro_f1_loss/{dataset}/{kind}",
                round(found["full"] - found["streamed"], 4),
                "macro-F1",
                "lower",
                note=f"blocks of {STREAM_BLOCK:,} rows, {found['streamed']:.4f}; all at once {found['full']:.4f}",
            )


def _growth(sizes: Sequence[int], repetitions: int) -> Iterator[Row]:
    found = {size: _process("synthetic", str(size)) for size in sizes}
    small = [size for size in sizes if size <= 100_000]
    for size in small:  # short runs are noisy: the least of several
        runs = [found[size]] + [_process("synthetic", str(size)) for _ in range(repetitions - 1)]
        found[size] = min(runs, key=lambda run: run["fit_cpu_s"])
    seconds = [found[size]["fit_cpu_s"] for size in sizes]
    slope = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    told = ", ".join(f"{size:,}: {spent:.2f}" for size, spent in zip(sizes, seconds, strict=True))
    note = f"least squares over synthetic rows, CPU s of {told}"
    yield goal_row(AREA, "lr/growth_exponent_10k_1m", round(slope, 3), n=len(sizes), note=note)


def _memory(sizes: Sequence[int]) -> Iterator[Row]:
    for size in sizes:
        peak = round(_process("streamed", str(size))["peak_mb"])
        yield Row(f"lr/streamed_peak_mb/{size}", peak, "MB", "lower", note="synthetic rows in blocks, one at a time")


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    _main(*sys.argv[1:])
