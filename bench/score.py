"""What `mso score` costs from Parquet to Parquet, beside scikit-learn with pandas.

    python -m bench.score --reviews FOLDER          the three rows, on five million reviews

The real reviews are repeated with a number behind each, so that all texts differ. `mso score` runs as a user runs it,
in a process of its own; the rate counts its start. The peer is a loaded pipeline (TF-IDF of words and pairs, logistic
regression) between pandas' reading and writing, on the first rows of the same file. The ratio is of CPU time without
what either takes to start and load: for `mso score`, without what one review costs. The note has ours with the start.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.results import Row, goal_row

ROWS = 5_000_000
PEER_ROWS = 250_000
REPETITIONS = 3
GROUP_ROWS = 100_000
AREA = "serving"

PEER = """
import json, sys, time
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

real, source, out, repetitions = *sys.argv[1:4], int(sys.argv[4])
known = pd.read_parquet(real, columns=["review_text", "rating"])
regression = LogisticRegression(C=3, class_weight="balanced", tol=1e-3)
pipeline = make_pipeline(TfidfVectorizer(ngram_range=(1, 2)), regression)
pipeline.fit(known["review_text"], known["rating"].map({1: 0, 2: 0, 3: 1, 4: 2, 5: 2}))
with threadpool_limits(1):
    for _ in range(repetitions):
        began = time.process_time()
        frame = pd.read_parquet(source)
        found = pipeline.predict_proba(frame["review_text"])
        frame[["p_negative", "p_neutral", "p_positive"]] = found
        frame["confidence"] = found.max(axis=1)
        frame["sentiment"] = found.argmax(axis=1)
        frame.to_parquet(out)
        print(json.dumps((time.process_time() - began) / len(frame)), flush=True)
"""


def measure(folder: Path, rows: int = ROWS, repetitions: int = REPETITIONS) -> list[Row]:
    """The rows of `mso score`, on so many reviews made of the real ones in `folder`."""
    real = folder / "play_fintech_reviews.parquet"
    with tempfile.TemporaryDirectory() as made:
        here = Path(made)
        write_reviews(real, here / "in.parquet", rows)
        write_reviews(real, here / "few.parquet", min(rows, PEER_ROWS))
        _train(real, here)
        command = [sys.executable, "-c", PEER, str(real), str(here / "few.parquet"), str(here / "peer.parquet")]
        peer = subprocess.run([*command, str(repetitions)], check=True, capture_output=True, text=True).stdout
        theirs = [json.loads(line) for line in peer.splitlines()]
        runs = [_score(here, "in.parquet") for _ in range(repetitions)]
        write_reviews(real, here / "one.parquet", 1)
        start = min(_score(here, "one.parquet")[1] for _ in range(repetitions))
    seconds, cpu, peaks = zip(*runs, strict=True)
    ours, whole = [(value - start) / rows for value in cpu], min(cpu) / rows
    spread = (round(rows / max(seconds)), round(rows / min(seconds)))
    what = f"{rows:,} reviews, 2 threads, from the command to its end; {whole * 1e6:.2f} CPU us a review"
    load = f"load {os.getloadavg()[0]:.1f} at the end"
    rate = round(rows / median(seconds))
    ratio = min(theirs) / min(ours)
    ratios = (round(min(theirs) / max(ours), 1), round(max(theirs) / min(ours), 1))
    told = f"CPU us a review: scikit-learn and pandas {min(theirs) * 1e6:.1f}, ours {min(ours) * 1e6:.2f}, "
    told += f"{whole * 1e6:.2f} with its start ({start:.1f} CPU s), which is a ratio of {min(theirs) / whole:.1f}"
    return [
        goal_row(
            AREA, "score/parquet_to_parquet_per_s", rate, n=repetitions, spread=spread, note=f"{what}; {load}"
        ),
        goal_row(AREA, "score/peak_mb", round(max(peaks), 1), n=repetitions, note=f"{rows:,} reviews, all processes"),
        goal_row(
            AREA, "score/ratio_sklearn_pandas", round(ratio, 1), n=repetitions, spread=ratios,
            peers={"sklearn_pandas_cpu_us": round(min(theirs) * 1e6, 2)}, note=told,
        ),
    ]  # fmt: skip


def write_reviews(real: Path, out: Path, rows: int) -> None:
    """So many reviews with distinct texts, in row groups of GROUP_ROWS."""
    source = pq.read_table(real).replace_schema_metadata(None)
    at = source.schema.get_field_index("review_text")
    with pq.ParquetWriter(out, source.schema, compression="zstd") as writer:
        for part in _parts(rows, source.num_rows):
            some = source.slice(0, len(part))
            kind = some.schema.field(at).type
            numbers = pa.array([f"n{number}" for number in part], kind)
            texts = pc.binary_join_element_wise(some.column(at), numbers, pa.scalar(" ", kind))
            writer.write_table(some.set_column(at, some.schema.field(at), texts), row_group_size=GROUP_ROWS)


def _parts(rows: int, most: int) -> Iterator[range]:
    for first in range(0, rows, most):
        yield range(first, min(first + most, rows))


def _train(real: Path, folder: Path) -> None:
    """A champion of kind `lr` in the workspace of this folder; the registry is in memory, as no server is needed."""
    from mobile_sentiment_ops.adapters.memory import FixedClock, MemoryPorts
    from mobile_sentiment_ops.bootstrap import Platform
    from mobile_sentiment_ops.settings import resolve_settings

    flags = {"storage.workspace": str(folder / "workspace"), "training.kinds": ["lr"]}
    platform = Platform(resolve_settings(environment={}, flags=flags).settings)
    vars(platform)["registry"] = MemoryPorts(FixedClock(datetime.now(UTC))).registry
    platform.data.ingest([str(real)])
    platform.models.train_startup_model()


def _score(folder: Path, source: str) -> tuple[float, float, float]:
    """Seconds, CPU seconds and peak MB of one run."""
    command = [sys.executable, "-m", "mobile_sentiment_ops", "score", source, "out.parquet", "--force"]
    environment = {**os.environ, "MSO_STORAGE__WORKSPACE": str(folder / "workspace")}
    began = time.monotonic()
    with subprocess.Popen([*command, "--threads", "2"], cwd=folder, env=environment, stdout=subprocess.DEVNULL) as run:
        peak = [0.0]
        watcher = threading.Thread(target=_watch, args=(psutil.Process(run.pid), peak))
        watcher.start()
        _, status, usage = os.wait4(run.pid, 0)
        seconds = time.monotonic() - began
        run.returncode = os.waitstatus_to_exitcode(status)
        watcher.join()
    if run.returncode:
        raise SystemExit(f"`mso score` ended with {run.returncode}")
    return seconds, usage.ru_utime + usage.ru_stime, peak[0]  # ru_maxrss begins at the memory of this process


def _watch(process: psutil.Process, peak: list[float]) -> None:
    """The largest memory of a process and its children together, seen now and then."""
    while True:
        try:
            every = [process, *process.children(recursive=True)]
            peak[0] = max(peak[0], sum(one.memory_info().rss for one in every) / 2**20)
        except psutil.NoSuchProcess:
            return
        time.sleep(0.02)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What `mso score` costs.")
    parser.add_argument("--reviews", type=Path, required=True, help="the folder of real reviews")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    given = parser.parse_args()
    for row in measure(given.reviews, given.rows, given.repetitions):
        print(json.dumps(row.as_json()))


if __name__ == "__main__":
    main()
