"""What MLflow opens a registered model with; it names this module in the model's MLmodel file.

    model = mlflow.pyfunc.load_model("models:/MobileSentimentModel@champion")
    model.predict(frame)    review_text and, where it is known, rating -> sentiment and probabilities

The labels are those of the API; a text that gets none there (blank, too long) gets none here.
"""

from __future__ import annotations

import math
from hashlib import sha256
from pathlib import Path

import pandas as pd

from mobile_sentiment_ops.data.predictions import text_fault
from mobile_sentiment_ops.disk import read_folder
from mobile_sentiment_ops.errors import DataError
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.registry.bundle import MANIFEST, unpack_bundle
from mobile_sentiment_ops.settings import Api

COLUMNS = ("sentiment", "confidence", "p_negative", "p_neutral", "p_positive")


def _load_pyfunc(path: str) -> FrameModel:
    """The model of the bundle in this folder; BundleError when its files are not what was packed."""
    files = read_folder(Path(path))
    return FrameModel(unpack_bundle(files, bundle_hash=sha256(files.get(MANIFEST, b"")).hexdigest()).model)


class FrameModel:
    """A sentiment model over pandas frames."""

    def __init__(self, model: SentimentModel) -> None:
        self._model = model

    def predict(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A row of COLUMNS for each row of `frame`, under the same index; empty where there is no text to judge.

        Raises DataError when there is no column review_text, or when it holds something else than texts.
        """
        if "review_text" not in frame.columns:
            raise DataError(f"there is no column review_text; found {', '.join(map(str, frame.columns)) or 'none'}")
        texts = [_text(value, row) for row, value in enumerate(frame["review_text"])]
        ratings = list(map(_stars, frame["rating"])) if "rating" in frame.columns else [None] * len(texts)
        at = [row for row, text in enumerate(texts) if text_fault(text, Api().max_text_chars) is None]
        answers = self._model.predict([texts[row] for row in at], [ratings[row] for row in at])
        rows: list[tuple[object, ...]] = [(None, *[math.nan] * 4)] * len(texts)
        for row, answer in zip(at, answers, strict=True):
            rows[row] = (answer.label.value, answer.confidence, *answer.probabilities)
        return pd.DataFrame(rows, columns=list(COLUMNS), index=frame.index)


def _text(value: object, row: int) -> str:
    if isinstance(value, str):
        return value
    if _is_missing(value):
        return ""
    raise DataError(f"review_text of row {row} is {value!r}, expected a text")


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _stars(value: object) -> int | None:
    """A rating as the API knows it; what is none counts as not given.

    >>> [_stars(value) for value in (4.0, "5", None, 7, "good")]
    [4, 5, None, None, None]
    """
    try:
        stars = float(value)  # type: ignore[arg-type]  # what is no number raises
    except (TypeError, ValueError):
        return None
    return int(stars) if stars in (1, 2, 3, 4, 5) else None
