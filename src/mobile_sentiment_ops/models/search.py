"""What `mso tune` searches: the range of each parameter of a kind, and how good a set of them is.

A set is judged on validation rows alone: the scorer learns from the training rows, and calibration and
decision offsets are fitted on the other folds of the validation rows, so that no row decides for itself.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mobile_sentiment_ops.errors import ModelError, TooFewRows
from mobile_sentiment_ops.models.calibration import Calibration, fit_calibration, natural, tune_offsets
from mobile_sentiment_ops.models.evaluation import Indices, confusion_matrix, macro_f1
from mobile_sentiment_ops.models.kernel import Grams
from mobile_sentiment_ops.models.kinds import grams_of, kind_named
from mobile_sentiment_ops.models.rows import Floats, Labels, Parameters, Rows
from mobile_sentiment_ops.models.scorers import class_shares

if TYPE_CHECKING:
    import polars as pl

FOLDS = 5
MOST_ROWS = 200_000
"""The newest training rows that a search learns from: what parameters do is told by these."""


class Range(NamedTuple):
    """A parameter from `low` to `high`, both included; with `scale` "log" a factor counts the same everywhere."""

    low: float
    high: float
    scale: str = "linear"


Space = Mapping[str, Range]

_TABLE = tomllib.loads(files(__package__).joinpath("search.toml").read_text("utf-8"))
SPACE_VERSION: int = _TABLE["version"]
SPACES: Mapping[str, Space] = {
    kind: {name: Range(*values) for name, values in space.items()} for kind, space in _TABLE["spaces"].items()
}


def space_of(kind: str) -> Space:
    """The ranges of a kind's parameters; ModelError for a kind that has none to search.

    >>> sorted(space_of("lr"))
    ['C', 'word_run']
    """
    kind_named(kind)
    if kind not in SPACES:
        raise ModelError(f"{kind} has no parameters to search; expected some of {', '.join(SPACES)}")
    return SPACES[kind]


def is_inside(parameters: Parameters, space: Space) -> bool:
    """Whether the search could have come upon these parameters itself.

    >>> is_inside({"C": 2.0, "word_run": 2, "loss": "logistic"}, SPACES["lr"]), is_inside({"C": 99.0}, SPACES["svc"])
    (True, False)
    """
    values = {name: parameters.get(name) for name in space}
    return all(isinstance(at, int | float) and space[name].low <= at <= space[name].high for name, at in values.items())


@dataclass(frozen=True)
class Objective:
    """How well `kind` answers the rows of `validation` after learning those of `train`."""

    kind: str
    train: pl.DataFrame
    validation: pl.DataFrame
    seed: int
    _counted: dict[Grams, tuple[Rows, Rows]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, part in (("training", self.train), ("validation", self.validation)):
            if part.height < FOLDS:
                raise TooFewRows(f"{part.height} {name} rows for {self.kind}, a search needs at least {FOLDS}")

    @property
    def labels(self) -> Labels:
        """The labels (n,) of the validation rows."""
        return self.validation["label"].to_numpy().astype(np.int64)

    def decisions(self, parameters: Parameters) -> Indices:
        """The decided class (n,) of each validation row, under the kind's parameters with these in their place."""
        kind = kind_named(self.kind)
        merged = kind.with_parameters(parameters)
        rows, held = self._rows(grams_of(merged))
        scorer = kind.fit(rows, merged, self.seed)
        scores = scorer.scores(held.found, held.ratings)
        return _cross_decided(scores, held.labels, natural(scorer.start, class_shares(rows.labels)), self.seed)

    def macro_f1(self, decisions: Indices) -> float:
        """How good decisions (n,) on the validation rows are."""
        return float(macro_f1(confusion_matrix(self.labels, decisions)))

    def _rows(self, grams: Grams) -> tuple[Rows, Rows]:
        """Both parts, counted once for the same features."""
        if grams not in self._counted:
            self._counted.clear()  # one at a time: memory stays that of a training
            self._counted[grams] = (Rows.of(self.train.tail(MOST_ROWS), grams), Rows.of(self.validation, grams))
        return self._counted[grams]


def _cross_decided(scores: Floats, labels: Labels, start: Calibration, seed: int) -> Indices:
    """Decisions (n,) on scores (n, k), each with the calibration and offsets of the other folds."""
    fold = np.random.default_rng(seed).permutation(len(labels)) % FOLDS
    decided = np.empty(len(labels), np.int64)
    for out in range(FOLDS):
        inside, outside = fold != out, fold == out
        calibration = fit_calibration(scores[inside], labels[inside], start)
        found = calibration.probabilities(scores[inside])
        offsets = tune_offsets(found, labels[inside], start.balancing)
        decided[outside] = (np.log(calibration.probabilities(scores[outside])) + offsets).argmax(axis=1)
    return decided
