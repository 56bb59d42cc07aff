"""What turns texts into scores, one number a class: the learned heart of each kind.

    LinearScorer   weights of word features (lr)
    TreeScorer     trees on the commonest word features (xgb, rf)
    PriorScorer    the same for every text (majority)
    StarsScorer    by the stars the reviewer gave (stars)

Scores are logits: `model.py` makes probabilities and decisions of them. Every fit sees each class at
the same total weight, so that the rare ones count. Fits use one thread: a second one that waits for its
turn beside a busy server cost 20 times the CPU (measured), and sums taken in one order come out the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from mobile_sentiment_ops.models.arrays import read_array, write_array
from mobile_sentiment_ops.models.features import WordFeatures, counted
from mobile_sentiment_ops.models.trees import Trees
from mobile_sentiment_ops.types import LABELS

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Ratings = Sequence[int | None]
Parameters = Mapping[str, int | float | str]

CLASSES = len(LABELS)


class Scorer(Protocol):
    """Scores for texts, and the files they are kept in."""

    def scores(self, texts: Sequence[str], ratings: Ratings) -> Floats:
        """Logits (n, 3), each class as likely as another beforehand."""
        ...

    def files(self) -> dict[str, bytes]:
        """Everything the scorer is, by file name."""
        ...


@dataclass(frozen=True, slots=True)
class LinearScorer:
    """Logits from word features: `weights` (k, 3) and `intercept` (3,)."""

    features: WordFeatures
    weights: npt.NDArray[np.float32]
    intercept: Floats

    @classmethod
    def fit(cls, texts: Sequence[str], ratings: Ratings, labels: Labels, parameters: Parameters, seed: int) -> Scorer:
        """Multinomial logistic regression with balanced classes."""
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        found = counted(texts)
        features = WordFeatures.learn(found)
        rows, classes, weights = _with_every_class(features.matrix(features.weighed(found)), labels)
        learner = LogisticRegression(**parameters, random_state=seed)
        with threadpool_limits(1):
            learner.fit(rows, classes, sample_weight=weights)
        return cls(features, learner.coef_.T.astype(np.float32), learner.intercept_.astype(np.float64))

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Scorer:
        features = WordFeatures.from_files(files)
        weights = read_array(files, "weights.npy", np.float32, (features.buckets.size, CLASSES))
        return cls(features, weights, read_array(files, "intercept.npy", np.float64, (CLASSES,)))

    def scores(self, texts: Sequence[str], ratings: Ratings) -> Floats:
        weighed = self.features.weighed(counted(texts))
        terms = weighed.counts[:, None].astype(np.float64) * self.weights[weighed.buckets]
        rows = weighed.rows
        sums = [np.bincount(rows, weights=terms[:, label], minlength=len(texts)) for label in range(CLASSES)]
        return np.stack(sums, axis=1) + self.intercept

    def files(self) -> dict[str, bytes]:
        own = {"weights.npy": write_array(self.weights), "intercept.npy": write_array(self.intercept)}
        return {**self.features.files(), **own}


@dataclass(frozen=True, slots=True)
class TreeScorer:
    """Logits from trees over counts of words.

    Counts and not weights: whole numbers make few distinct splits, which cost a tenth to search.
    """

    features: WordFeatures
    trees: Trees

    @classmethod
    def fit(cls, texts: Sequence[str], ratings: Ratings, labels: Labels, parameters: Parameters, seed: int) -> Scorer:
        """`rounds` of boosting on the `words` commonest features; one round of many trees is a forest."""
        import xgboost

        more = dict(parameters)
        rounds, words = int(more.pop("rounds")), int(more.pop("words"))
        found = counted(texts)
        features = WordFeatures.learn(found, most=words)
        rows, classes, weights = _with_every_class(features.matrix(features.kept(found)), labels)
        fixed = {"objective": "multi:softprob", "num_class": CLASSES, "tree_method": "hist", "nthread": 1}
        data = xgboost.DMatrix(rows, label=classes, weight=weights, nthread=1)
        booster = xgboost.train({**fixed, **more, "seed": seed, "verbosity": 0}, data, num_boost_round=rounds)
        return cls(features, Trees.of_xgboost(bytes(booster.save_raw("json"))))

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Scorer:
        features = WordFeatures.from_files(files)
        return cls(features, Trees.from_files(files, features.buckets.size))

    def scores(self, texts: Sequence[str], ratings: Ratings) -> Floats:
        return self.trees.scores(self.features.kept(counted(texts)), self.features.buckets.size)

    def files(self) -> dict[str, bytes]:
        return {**self.features.files(), **self.trees.files()}


@dataclass(frozen=True, slots=True)
class PriorScorer:
    """The logarithm of each class's share in training, whatever the text."""

    shares: Floats

    @classmethod
    def fit(cls, texts: Sequence[str], ratings: Ratings, labels: Labels, parameters: Parameters, seed: int) -> Scorer:
        return cls(class_shares(labels))

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Scorer:
        return cls(read_array(files, "shares.npy", np.float64, (CLASSES,)))

    def scores(self, texts: Sequence[str], ratings: Ratings) -> Floats:
        return np.tile(np.log(self.shares), (len(texts), 1))

    def files(self) -> dict[str, bytes]:
        return {"shares.npy": write_array(self.shares)}


@dataclass(frozen=True, slots=True)
class StarsScorer:
    """The label that the stars stand for (1-2 Negative, 3 Neutral, 4-5 Positive); none without stars."""

    table: Floats = field(default_factory=lambda: 4.0 * np.eye(CLASSES)[[0, 0, 1, 2, 2]])

    @classmethod
    def fit(cls, texts: Sequence[str], ratings: Ratings, labels: Labels, parameters: Parameters, seed: int) -> Scorer:
        return cls()

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> Scorer:
        return cls(read_array(files, "stars.npy", np.float64, (5, CLASSES)))

    def scores(self, texts: Sequence[str], ratings: Ratings) -> Floats:
        with_none = np.vstack([np.zeros(CLASSES), self.table])
        return with_none[[rating or 0 for rating in ratings]].reshape(len(texts), CLASSES)

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
