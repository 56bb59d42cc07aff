"""Measure, and keep the figures in bench/results/, a file an area.

python -m bench                          everything: about an hour and a half on a quiet machine
python -m bench --only up,check          parts of it; the other rows stay as they are
python -m bench --only quality --rows 2000 --dry      a small try that keeps nothing

quality    macro-F1 and calibration on the six splits of real reviews, beside peers; by language
training   what features, fits, warm starts and streams cost, beside scikit-learn
gate       how often the gate is right, in simulations; flipped bits of a bundle
monitoring false alarms and power of detectors of drift, days to the alarm, performance, poisoning, explanations
serving    what a prediction costs over HTTP, beside other servers; crashes, swaps and long files under load
ingest     peak memory of taking in five million reviews
up         from the command to the first answer: demo world, 90,000 real reviews, and a second time
check      `make check` on a warm tree
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import polars as pl

from bench import bundle, features, gate, ingest, monitoring, quality, serving, training
from bench.results import ROOT, Conditions, Row, figures_table, goal_row, keep, timing_row

MAIN = "main"
OF_REAL_REVIEWS = ("quality", "training", "gate", "monitoring", "serving")
"""Parts that need the real reviews; each has a file of its own."""
REPETITIONS = 5
UP_WITHIN_SECONDS = 300.0
SHARED_DATA = Path(os.environ.get("MSO_SHARED_DATA", ROOT.parent / "shared" / "data"))
NO_DATA = f"the real reviews are not on this machine (MSO_SHARED_DATA, {SHARED_DATA.name}/)"


# --- up


def measure_up(repetitions: int) -> Iterator[Row]:
    """Seconds from `mso up` to the first answered prediction, in an environment that is set up."""
    with tempfile.TemporaryDirectory() as folder:
        workspaces = [Path(folder) / f"demo-{number}" for number in range(repetitions)]
        yield timing_row(MAIN, "up/first_serving_demo_s", [first_serving(workspace) for workspace in workspaces])
        seconds = [first_serving(workspaces[0]) for _ in range(repetitions)]
        yield timing_row(MAIN, "up/second_s", seconds)
        reviews = SHARED_DATA / "play_fintech_reviews.parquet"
        if not reviews.is_file():
            yield goal_row(MAIN, "up/first_serving_90k_s", None, n=0, note=NO_DATA)
            return
        file = Path(folder) / "reviews.csv"
        rows = pl.read_parquet(reviews)
        rows.write_csv(file)
        seconds = [first_serving(Path(folder) / f"own-{number}", "--data", str(file)) for number in range(repetitions)]
        note = f"{rows.height:,} reviews of 15 apps as CSV"
        yield timing_row(MAIN, "up/first_serving_90k_s", seconds, note=note)


def first_serving(workspace: Path, *arguments: str) -> float:
    """Seconds until `mso up` answers in this workspace; it is stopped again, and must leave no child."""
    api, mlflow = _free_ports(2)
    environment = {
        **_like_a_user(),
        "MSO_STORAGE__WORKSPACE": str(workspace),
        "MSO_API__PORT": str(api),
        "MSO_MLFLOW__TRACKING_URI": f"http://127.0.0.1:{mlflow}",
    }
    command = [sys.executable, "-m", "mobile_sentiment_ops", "up", *arguments]
    began = time.monotonic()
    with _running(command, environment) as process:
        while True:
            if (seconds := time.monotonic() - began) > UP_WITHIN_SECONDS or process.poll() is not None:
                raise SystemExit(f"`{' '.join(command[2:])}` did not serve within {seconds:.0f} s")
            if _answers(f"http://127.0.0.1:{api}/predict_json"):
                return time.monotonic() - began
            time.sleep(0.05)


def _like_a_user() -> dict[str, str]:
    """This environment without what makes every start compile all modules anew."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


@contextmanager
def _running(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            said, _ = process.communicate(timeout=120)
            if process.returncode not in (0, 130, -signal.SIGINT):
                print(said, file=sys.stderr)


def _answers(url: str) -> bool:
    try:
        return httpx.post(url, json={"text": "Love it"}, timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


# --- ingest, check, quality


def measure_ingest(rows: int) -> Iterator[Row]:
    """Peak memory of the process that takes in a CSV of so many reviews."""
    found = ingest.measure(rows)
    note = (
        f"one run of {found.rows:,} reviews ({found.csv_mb:,.0f} MB of CSV) in {found.seconds:.0f} s "
        f"({found.cpu_seconds:.0f} CPU s), again without anything new in {found.again_seconds:.0f} s; "
        f"rules cost {found.validation_share_of_reading:.0%} of the time of reading"
    )
    yield goal_row(MAIN, "ingest_5m/peak_mb", found.peak_mb, n=1, note=note)


def measure_check(repetitions: int) -> Iterator[Row]:
    """Seconds of `make check`; once before, so that caches are warm."""
    seconds = [_make_check() for _ in range(repetitions + 1)][1:]
    yield timing_row(MAIN, "check/s", seconds)


def _make_check() -> float:
    began = time.monotonic()
    found = subprocess.run(["make", "check"], cwd=ROOT, env=_like_a_user(), capture_output=True, text=True, check=False)
    if found.returncode:
        raise SystemExit(f"`make check` fails, so it is not timed:\n{found.stdout[-2000:]}{found.stderr[-2000:]}")
    return time.monotonic() - began


def measure_quality(rows: int | None) -> Iterator[Row]:
    """The quality rows of all splits, and by language."""
    for found in quality.measure(SHARED_DATA, rows=rows):
        yield from found


def measure_training(rows: int | None, repetitions: int) -> Iterator[Row]:
    """What training costs."""
    yield from features.rows(SHARED_DATA, repetitions=max(repetitions, 2))
    yield from training.measure(SHARED_DATA, repetitions=repetitions, rows=rows)


def measure_gate(trials: int | None) -> Iterator[Row]:
    """How often the gate is right, and whether a bundle is refused."""
    yield from gate.measure(SHARED_DATA, trials=trials)
    yield from bundle.flip_rows()


# --- everything


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was asked for, show it, and keep it."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure, show and keep the figures.")
    parts = (*OF_REAL_REVIEWS, "ingest", "up", "check")
    parser.add_argument("--only", default=",".join(parts), help=f"some of {','.join(parts)}")
    parser.add_argument("--repetitions", type=int, default=REPETITIONS, help="of each timing")
    parser.add_argument(
        "--rows", type=int, help="fewer reviews (for ingest at least 100,000) or trials of the gate, to try them"
    )
    parser.add_argument("--dry", action="store_true", help="show the figures and keep nothing")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what it started is ended before it ends
    asked = given.only.split(",")
    if unknown := set(asked) - set(parts):
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}; expected some of {', '.join(parts)}")
    small = given.rows is not None or given.repetitions < REPETITIONS
    if small and not given.dry:
        parser.error("figures of a small run are not kept: add --dry")
    measures: dict[str, Callable[[], Iterator[Row]]] = {
        "quality": lambda: measure_quality(given.rows),
        "training": lambda: measure_training(given.rows, given.repetitions),
        "gate": lambda: measure_gate(given.rows),
        "monitoring": lambda: monitoring.measure(small=given.dry),
        "serving": lambda: serving.measure(SHARED_DATA, small=given.dry),
        "ingest": lambda: measure_ingest(max(given.rows, 100_000) if given.rows else 5_000_000),
        "up": lambda: measure_up(given.repetitions),
        "check": lambda: measure_check(given.repetitions),
    }
    command = "make bench" if len(asked) == len(parts) else f"python -m bench --only {given.only}"
    conditions = Conditions.now(command)
    for part in parts:
        if part not in asked:
            continue
        if part in OF_REAL_REVIEWS and not SHARED_DATA.is_dir():
            print(f"no {part}: {NO_DATA}", file=sys.stderr)
            continue
        rows = []
        for row in measures[part]():
            if row.goal is not None:
                print(_shown(row), flush=True)
            rows.append(row)
        if part in OF_REAL_REVIEWS:
            shown = quality.quality_table if part == "quality" else figures_table
            print(f"\n{shown([row.as_json() for row in rows])}\n", flush=True)
            if part == "serving":
                print(f"{serving.peers_table(rows)}\n", flush=True)
            if part == "monitoring":
                print(f"{monitoring.power_table(rows)}\n", flush=True)
        if not given.dry:
            area = part if part in OF_REAL_REVIEWS else MAIN
            print(f"kept in {keep(area, rows, conditions).relative_to(ROOT)}", flush=True)


def _shown(row: Row) -> str:
    """A row as a line."""
    entry = row.as_json()
    value = "not measured" if row.value is None else f"{row.value:g}"
    goal = "" if row.goal is None else f"  goal {row.goal:g}: {'met' if entry['met'] else 'missed'}"
    spread = f"  ({row.spread[0]:g} to {row.spread[1]:g})" if row.spread else ""
    return f"{row.name:45} {value:>10} {row.unit}{spread}{goal}  {row.note}".rstrip()
