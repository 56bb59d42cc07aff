"""What turns counted texts into scores: the learned heart of each kind.

    LinearScorer   weights of words and runs of characters (lr, svc, nbsvm; `linear.py`)
    TreeScorer     trees on the commonest words (xgb, rf)
    PriorScorer    the same for every text (majority)
    StarsScorer    by the stars the reviewer gave (stars)

`calibration.py` makes probabilities and decisions of scores. Fits use one thread: a second one that waits
for its turn beside a busy server cost 20 times the CPU (measured), and sums taken in one order come out
the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mobile_sentiment_ops.models.arrays import read_array, write_array
from mobile_sentiment_ops.models.features import Features
from mobile_sentiment_ops.models.kernel import Counted
from mobile_sentiment_ops.models.rows import Floats, Labels, Parameters, Ratings, Rows
from mobile_sentiment_ops.models.trees import Trees
from mobile_sentiment_ops.types import LABELS

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

CLASSES = len(LABELS)
START: Floats = np.eye(CLASSES)


class Scorer(Protocol):
    """Scores for texts, and the files they are kept in."""

    @property
    def start(self) -> Floats:
        """What k scores mean for the labels (k, 3) before held-out rows have said so."""
        ...

    def scores(self, found: Counted, ratings: Ratings) -> Floats:
        """Scores (n, k)."""
        ...

    def files(self) -> dict[str, bytes]:
        """Everything the scorer is, by file name."""
        ...


@dataclass(frozen=True, slots=True)
class TreeScorer:
    """Logits from trees over counts of words.

    Counts and not weights: whole numbers make few distinct splits, which cost a tenth to search.
    """

    features: Features
    trees: Trees
    start: Floats = field(default_factory=START.copy)

    @classmethod
    def fit(cls, rows: Rows, parameters: Parameters, seed: int) -> Scorer:
        """`rounds` of boosting on the `words` commonest features; one round of many trees is a forest."""
        import xgboost

        more = dict(parameters)
        rounds, words = int(more.pop("rounds")), int(more.pop("words"))
        features = Features.learn(rows.found, most=words)
        matrix, classes, weights = _with_every_class(features.matrix(features.kept(rows.found)), rows.labels)
        fixed = {"objective": "multi:softprob", "num_class": CLASSES, "tree_method": "hist", "nthread": 1}
        data = xgboost.DMatrix(matrix, label=classes, weight=weights, nthread=1)
        booster = xgboost.train({**fixed, **more, "seed": seed, "verbosity": 0}, data, num_boost_round=rounds)
        return cls(features, Trees.of_xgboost(bytes(booster.save_raw("json"))))

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Scorer:
        features = Features.from_files(files)
        return cls(features, Trees.from_files(files, features.buckets.size))

    def scores(self, found: Counted, ratings: Ratings) -> Floats:
        return self.trees.scores(self.features.kept(found), self.features.buckets.size)

    def files(self) -> dict[str, bytes]:
        return {**self.features.files(), **self.trees.files()}


@dataclass(frozen=True, slots=True)
class PriorScorer:
    """The logarithm of each class's share in training, whatever the text."""

    shares: Floats
    start: Floats = field(default_factory=START.copy)

    @classmethod
    def fit(cls, rows: Rows, parameters: Parameters, seed: int) -> Scorer:
        return cls(class_shares(rows.labels))

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Scorer:
        return cls(read_array(files, "shares.npy", np.float64, (CLASSES,)))

    def scores(self, found: Counted, ratings: Ratings) -> Floats:
        return np.tile(np.log(self.shares), (len(ratings), 1))

    def files(self) -> dict[str, bytes]:
        return {"shares.npy": write_array(self.shares)}


@dataclass(frozen=True, slots=True)
class StarsScorer:
    """The label that the stars stand for (1-2 Negative, 3 Neutral, 4-5 Positive); none without stars."""

    table: Floats = field(default_factory=lambda: 4.0 * np.eye(CLASSES)[[0, 0, 1, 2, 2]])
    start: Floats = field(default_factory=START.copy)

    @classmethod
    def fit(cls, rows: Rows, parameters: Parameters, seed: int) -> Scorer:
        return cls()

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Scorer:
        return cls(read_array(files, "stars.npy", np.float64, (5, CLASSES)))

    def scores(self, found: Counted, ratings: Ratings) -> Floats:
        return np.asarray(np.vstack([np.zeros(CLASSES), self.table])[ratings])

    def files(self) -> dict[str, bytes]:
        return {"stars.npy": write_array(self.table)}


def class_shares(labels: Labels) -> Floats:
    """The share of each class (3,), never 0 and summing to 1.

    >>> class_shares(np.array([0, 0, 2])).round(2).tolist()
    [0.5, 0.17, 0.33]
    """
    counts = np.bincount(labels, minlength=CLASSES) + 1.0
    return np.asarray(counts / counts.sum())


def _with_every_class(rows: csr_matrix, labels: Labels) -> tuple[csr_matrix, Labels, Floats]:
    """Rows, classes and weights that balance the classes; an empty row of hardly any weight a class lets
    learners see all three of them."""
    from scipy.sparse import csr_matrix, vstack

    counts = np.bincount(labels, minlength=CLASSES)
    weights = labels.size / (np.count_nonzero(counts) * counts[labels])
    empty = csr_matrix((CLASSES, rows.shape[1]), dtype=rows.dtype)
    classes = np.concatenate([labels, np.arange(CLASSES)])
    return vstack([rows, empty], format="csr"), classes, np.concatenate([weights, np.full(CLASSES, 1e-3)])
