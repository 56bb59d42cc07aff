"""How much memory and time an ingest takes on a file far larger than its batches.

    python bench/ingest.py --rows 5000000

writes a synthetic CSV into a temporary folder, takes it in twice in a process of its own (Delta
tables on the local disk), and prints the peak memory of that process, the seconds of both runs,
and what validation cost beside reading.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

WORDS = """
    the app keeps crashing after update love it so much easy fast slow login screen never works again please fix this
    money payment failed twice support answered great design simple useless battery drains notifications late sync lost
    my data since last version really good but ads everywhere dark mode missing best ever worst experience would not
    recommend anyone happy with service opens quickly freezes phone
"""
SIGNS = ("", "!", " 👍", " 😡", "...", ", thanks", ' ("why?")')


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: the file, the first ingest, the second one that finds nothing new."""

    rows: int
    csv_mb: float
    peak_mb: float
    seconds: float
    cpu_seconds: float
    again_seconds: float
    validation_share_of_reading: float


def measure(rows: int) -> Measured:
    """Generate `rows` reviews and ingest them in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "reviews.csv"
        with file.open("w", encoding="utf-8") as output:
            output.writelines(_csv_lines(rows))
        command = [sys.executable, __file__, "--child", str(file), str(Path(folder) / "tables")]
        answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=3600).stdout
        figures = json.loads(answer.splitlines()[-1])
        return Measured(rows=rows, csv_mb=round(file.stat().st_size / 2**20, 1), **figures)


def _csv_lines(rows: int) -> Iterator[str]:
    """Nearly all texts differ, as ids and times do: nothing is saved by repetition."""
    draw, words = random.Random(0), WORDS.split()  # noqa: S311 - a benchmark
    start = datetime(2024, 1, 1, tzinfo=UTC)
    yield "review_id,app,version,country,submitted_at,rating,title,review_text\n"
    for number in range(rows):
        text = " ".join(draw.choices(words, k=draw.randint(2, 22))) + draw.choice(SIGNS).replace('"', '""')
        at = (start + timedelta(seconds=number * 10)).isoformat()
        app, version = f"com.example.app{number % 17}", f"{number // 100_000}.{number % 7}"
        yield f'r{number:08x},{app},{version},IN,{at},{draw.randint(1, 5)},,"{text}"\n'


def _ingest(file: str, tables: str) -> dict[str, float]:
    from mobile_sentiment_ops.adapters.clock import SystemClock
    from mobile_sentiment_ops.adapters.datasets import FolderDatasets
    from mobile_sentiment_ops.adapters.memory import MemoryFiles
    from mobile_sentiment_ops.adapters.tables import DeltaTables
    from mobile_sentiment_ops.app.data_pipeline import DataHandler
    from mobile_sentiment_ops.settings import Ingest

    datasets = FolderDatasets(Path(tables) / "datasets")
    handler = DataHandler(
        tables=DeltaTables(tables), files=MemoryFiles(), manifests=datasets, clock=SystemClock(), settings=Ingest()
    )
    cpu = time.process_time()
    first = handler.ingest([file])
    cpu = time.process_time() - cpu
    again = handler.ingest([file])
    assert (first.new, first.rejected, again.duplicate) == (first.read, 0, first.read), (first, again)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return {
        "peak_mb": round(peak, 1),
        "seconds": round(first.seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "again_seconds": round(again.seconds, 2),
        "validation_share_of_reading": round(_validation_share(file), 3),
    }


def _validation_share(file: str, batches: int = 4) -> float:
    """CPU time of the rules over the time of reading and typing the same rows."""
    import polars as pl

    from mobile_sentiment_ops.data.columns import recognise
    from mobile_sentiment_ops.data.readers import read_batches
    from mobile_sentiment_ops.data.validation import canonical, rules

    broken = pl.any_horizontal(rule.broken for rule in rules(20_000))
    reading = checking = 0.0
    with Path(file).open("rb") as stream:
        found = read_batches(stream, file, partial(recognise), batch_rows=50_000)
        next(found)  # the first batch pays for finding the encoding of the whole file
        for _ in range(batches):
            at = time.process_time()
            if (batch := next(found, None)) is None:
                break
            frame = canonical(batch.rows)
            between = time.process_time()
            frame.select(broken)
            reading, checking = reading + between - at, checking + time.process_time() - between
    return checking / reading


def main() -> None:
    """Run the benchmark, or the child process of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--child", nargs=2, metavar=("FILE", "TABLES"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    print(json.dumps(_ingest(*given.child) if given.child else asdict(measure(given.rows)), indent=None))


if __name__ == "__main__":
    main()
