"""A trained model: texts in, calibrated probabilities and decisions out; and its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from mobile_sentiment_ops.errors import BundleError, ModelError
from mobile_sentiment_ops.models.calibration import Calibration, Offsets
from mobile_sentiment_ops.models.kernel import UNICODE_VERSION, Texts, counted
from mobile_sentiment_ops.models.kinds import grams_of, kind_named
from mobile_sentiment_ops.models.rows import Floats, Parameters, as_ratings
from mobile_sentiment_ops.models.scorers import Scorer
from mobile_sentiment_ops.types import LABELS, Prediction

MODEL_FORMAT: Final = 2
MODEL_FILE = "model.json"


@dataclass(frozen=True, slots=True)
class SentimentModel:
    """A scorer with its calibration. `offsets` (3,) are added to log-probabilities before the largest
    decides, so the decided class need not be the likeliest one."""

    kind: str
    parameters: Parameters
    scorer: Scorer
    calibration: Calibration
    offsets: Offsets

    def probabilities(self, texts: Texts, ratings: Sequence[int | None] | None = None) -> Floats:
        """Probabilities (n, 3) in the order of LABELS, each row summing to 1. Most kinds ignore the stars."""
        found = counted(texts, grams_of(self.parameters))
        return self.calibration.probabilities(self.scorer.scores(found, as_ratings(ratings, len(texts))))

    def decide(self, probabilities: Floats) -> npt.NDArray[np.intp]:
        """The decided class (n,) of probabilities (n, 3), as an index into LABELS."""
        return np.asarray((np.log(probabilities) + np.array(self.offsets)).argmax(axis=1))

    def predict(self, texts: Texts, ratings: Sequence[int | None] | None = None) -> list[Prediction]:
        """An answer for each text, in order."""
        found = self.probabilities(texts, ratings)
        return [
            Prediction(LABELS[decided], row[decided], (row[0], row[1], row[2]))
            for decided, row in zip(self.decide(found).tolist(), found.tolist(), strict=True)
        ]

    def files(self) -> dict[str, bytes]:
        """Everything the model is, by file name; `from_files` reads it back."""
        described = _Described(
            format=MODEL_FORMAT,
            kind=self.kind,
            parameters=dict(self.parameters),
            unicode=UNICODE_VERSION,
            calibration=[tuple(row) for row in self.calibration.weights.tolist()],
            bias=tuple(self.calibration.bias.tolist()),
            offsets=self.offsets,
        )
        return {MODEL_FILE: described.model_dump_json(indent=1).encode(), **self.scorer.files()}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> SentimentModel:
        """The model of these files; BundleError that says what is missing, odd or of a later format."""
        if MODEL_FILE not in files:
            raise BundleError(f"the model has no file {MODEL_FILE}")
        try:
            found = _Described.model_validate_json(files[MODEL_FILE])
            kind = kind_named(found.kind)
            scorer = kind.from_files(files)
            parameters = kind.with_parameters(found.parameters)
        except ValidationError as err:
            fault = err.errors()[0]
            place = ".".join(map(str, fault["loc"])) or "it"
            raise BundleError(
                f"{MODEL_FILE}: {place} is not as this release reads it: {fault['msg'].lower()}; "
                "`mso retrain` makes a new model"
            ) from err
        except ModelError as err:
            raise BundleError(f"{MODEL_FILE} says kind {found.kind}: {err}") from err
        if unknown := sorted(files.keys() - {MODEL_FILE} - scorer.files().keys()):
            raise BundleError(f"{unknown[0]} is no file of a model of kind {found.kind}")
        if found.unicode != UNICODE_VERSION:
            raise BundleError(f"{MODEL_FILE}: texts are read by Unicode {found.unicode}, here by {UNICODE_VERSION}")
        weights = np.array(found.calibration)
        if weights.shape != scorer.start.shape:
            raise BundleError(f"{MODEL_FILE}: calibration has the shape {weights.shape}, expected {scorer.start.shape}")
        return cls(found.kind, parameters, scorer, Calibration(weights, np.array(found.bias)), found.offsets)


class _Described(BaseModel):
    """The content of MODEL_FILE."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    format: Literal[2]
    kind: str
    parameters: dict[str, int | float | str]
    unicode: str
    calibration: list[tuple[float, float, float]]
    bias: tuple[float, float, float]
    offsets: tuple[float, float, float]
