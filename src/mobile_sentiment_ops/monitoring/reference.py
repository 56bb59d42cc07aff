"""What a champion learned from, as monitoring compares with it: kept with its bundle, and checked when read.

The vocabulary is of the texts that it learned from. All else is of its test rows, which it had not seen and which it
judged itself: their figures, and each row's own, so that windows in which nothing moved can be drawn from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mobile_sentiment_ops.errors import BundleError
from mobile_sentiment_ops.models.arrays import read_array, write_array
from mobile_sentiment_ops.monitoring.rows import DIMENSIONS, MOMENTS, Ints, Rows, Vocabulary, rows_of
from mobile_sentiment_ops.monitoring.sketch import Sketch, Window, list_column

REFERENCE_FILE, VOCABULARY_FILE = "reference.parquet", "vocabulary.npy"
REFERENCE_FORMAT = 1
MIN_ROWS = 200
"""Test rows below which there is nothing to compare with."""


@dataclass(frozen=True)
class Reference:
    """The vocabulary, the test rows, and what their writers felt: `truth` (n,) indices into LABELS."""

    vocabulary: Vocabulary
    rows: Rows
    truth: npt.NDArray[np.int8]

    @cached_property
    def window(self) -> Window:
        """All rows as one window."""
        return Window.of_rows(self.rows)

    @property
    def sketch(self) -> Sketch:
        """Their sums."""
        return self.window.sketch

    @property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """(n, 3) of the test rows."""
        shares: npt.NDArray[np.float64] = self.rows.scores / self.rows.scores.sum(axis=1, keepdims=True)
        return shares

    def files(self) -> dict[str, bytes]:
        """Both files of the bundle."""
        rows = self.rows
        frame = rows.frame.select(*DIMENSIONS, "event_time").with_columns(
            pl.Series("truth", self.truth),
            pl.Series("label", rows.labels),
            *(pl.Series(f"score_{at}", rows.scores[:, at].astype(np.int32)) for at in range(3)),
            *(pl.Series(name, rows.moments[:, at].astype(np.int32)) for at, name in enumerate(MOMENTS)),
            pl.Series("key", rows.keys),
            pl.Series("draw", rows.draws),
            list_column(rows.tokens, rows.starts, np.int16).alias("tokens"),
        )
        file = BytesIO()
        frame.write_parquet(file, compression="zstd", statistics=False, metadata={"format": str(REFERENCE_FORMAT)})
        return {REFERENCE_FILE: file.getvalue(), VOCABULARY_FILE: write_array(self.vocabulary.to_array())}


def make_reference(learned: Sequence[str], scored: pl.DataFrame) -> Reference:
    """The reference of a model that learned from these texts, masked as the log masks them, and judged the `scored`
    rows: a frame as `rows_of` takes it, with `truth`.

    >>> scored = pl.DataFrame({"text": ["Love it"], "label": ["Positive"], "truth": [2]})
    >>> made = make_reference(["love it"], scored.with_columns(p_negative=0.1, p_neutral=0.1, p_positive=0.8))
    >>> made.sketch.n, read_reference(made.files()).sketch.sums == made.sketch.sums
    (1, True)
    """
    vocabulary = Vocabulary.of(learned)
    return Reference(vocabulary, rows_of(scored, vocabulary), scored["truth"].to_numpy().astype(np.int8))


def read_reference(files: Mapping[str, bytes]) -> Reference:
    """The reference among the files of a bundle; BundleError when there is none or it is odd."""
    if REFERENCE_FILE not in files:
        raise BundleError(f"there is no {REFERENCE_FILE}: the model is of a release without monitoring; `mso retrain`")
    packed = read_array(files, VOCABULARY_FILE, np.uint8, (1 << 17,))
    try:
        version = pl.read_parquet_metadata(BytesIO(files[REFERENCE_FILE])).get("format")
        if version != str(REFERENCE_FORMAT):
            raise BundleError(f"{REFERENCE_FILE} has format {version}, this release reads {REFERENCE_FORMAT}")
        frame = pl.read_parquet(BytesIO(files[REFERENCE_FILE]))
        return Reference(Vocabulary.from_array(packed), _rows(frame), frame["truth"].to_numpy())
    except (pl.exceptions.PolarsError, OSError, ValueError) as err:
        raise BundleError(f"{REFERENCE_FILE} cannot be read: {err}") from err


def _rows(frame: pl.DataFrame) -> Rows:
    def numbers(*names: str) -> Ints:
        return np.stack([frame[name].to_numpy() for name in names], axis=1).astype(np.int64)

    told: dict[str, Any] = {
        "labels": frame["label"].to_numpy(),
        "scores": numbers("score_0", "score_1", "score_2"),
        "moments": numbers(*MOMENTS),
        "keys": frame["key"].to_numpy(),
        "draws": frame["draw"].to_numpy(),
    }
    dimensions = frame.select(
        *DIMENSIONS, pl.lit(None, pl.Utf8()).alias("model_version"), "event_time", pl.lit("").alias("text")
    )
    starts = np.concatenate([[0], frame["tokens"].list.len().to_numpy().astype(np.int64).cumsum()])
    tokens = frame["tokens"].explode().drop_nulls().to_numpy().astype(np.int32)
    return Rows(frame=dimensions, starts=starts, tokens=tokens, **told)
