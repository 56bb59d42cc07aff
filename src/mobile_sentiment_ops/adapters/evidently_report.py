"""Evidently's own report of two sets of scored reviews, made in a process of its own: it takes seconds, hundreds of
megabytes and a hundred modules, of which nothing stays. `python -m` this module is that process."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import polars as pl

from mobile_sentiment_ops.errors import MsoError, SettingsError, TooFewRows

MAX_ROWS = 5_000
"""Of each side: drawn evenly from more, as time and page grow with them."""
MIN_ROWS = 10
SIDES = ("before", "after")
NUMBERS, CATEGORIES = ("p_negative", "p_neutral", "p_positive"), ("label", "app", "version", "language")


def evidently_html(before: pl.DataFrame, after: pl.DataFrame, *, max_seconds: float = 600.0) -> bytes:
    """The drift and summary presets over labels, probabilities, app, version, language and text, as one HTML page of
    some megabytes that draws with scripts. Columns that are null throughout on one side are left out, and texts are
    also told by their length, words and letters. SettingsError without the extra `evidently`."""
    if importlib.util.find_spec("evidently") is None:
        raise SettingsError("Evidently is not installed; pip install 'mobile-sentiment-ops[evidently]' has it")
    if (fewest := min(before.height, after.height)) < MIN_ROWS:
        raise TooFewRows(f"{fewest} reviews on one side, expected at least {MIN_ROWS}; take a longer window")
    frames = dict(zip(SIDES, (before, after), strict=True))
    names = [name for name in (*NUMBERS, *CATEGORIES, "text") if all(_told(frame, name) for frame in frames.values())]
    with tempfile.TemporaryDirectory() as folder:
        for side, frame in frames.items():
            every = -(-frame.height // MAX_ROWS)
            frame.select(names).gather_every(every).write_parquet(Path(folder, f"{side}.parquet"))
        environment = {**os.environ, "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", "-m", __name__, folder]
        try:
            subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=max_seconds, check=True, cwd=folder
            )
        except subprocess.TimeoutExpired as err:
            raise MsoError(f"Evidently's report was not there after {max_seconds:.0f} s; take fewer reviews") from err
        except subprocess.CalledProcessError as err:
            last = (err.stderr.strip().splitlines() or [f"exit code {err.returncode}"])[-1]
            raise MsoError(f"Evidently made no report: {last}") from err
        return Path(folder, "report.html").read_bytes()


def _told(frame: pl.DataFrame, name: str) -> bool:
    return name in frame.columns and frame[name].null_count() < frame.height


def _write(folder: Path) -> None:
    from evidently import DataDefinition, Dataset, Report
    from evidently.descriptors import NonLetterCharacterPercentage, TextLength, WordCount
    from evidently.presets import DataDriftPreset, DataSummaryPreset

    sides = []
    for side in SIDES:
        frame = pl.read_parquet(folder / f"{side}.parquet")
        has_text = "text" in frame.columns
        definition = DataDefinition(
            text_columns=["text"] if has_text else [],
            numerical_columns=[name for name in NUMBERS if name in frame.columns],
            categorical_columns=[name for name in CATEGORIES if name in frame.columns],
        )
        made = (TextLength, WordCount, NonLetterCharacterPercentage) if has_text else ()
        rows = frame.with_columns(pl.col(pl.Utf8()).fill_null("").replace("", " "))  # it divides by the length
        sides.append(Dataset.from_pandas(rows.to_pandas(), definition, descriptors=[one("text") for one in made]))
    Report([DataDriftPreset(), DataSummaryPreset()]).run(sides[1], sides[0]).save_html(str(folder / "report.html"))


if __name__ == "__main__":
    _write(Path(sys.argv[1]))
