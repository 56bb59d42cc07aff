"""The linear kinds: how far a text is above each of the four thresholds between five stars.

    lr       logistic regression on words and pairs of words
    svc      the same with the squared hinge (linear support vectors)
    nbsvm    squared hinge on words, pairs and runs of five characters, where a feature that tells more
             of a threshold may move further (log-count ratios, after Wang and Manning 2012)

A review's stars say more than its label: "2 stars" and "1 star" are both Negative, and unlike. So four
problems are solved at once, "2 stars or more" to "5 stars" (Frank and Hall 2001), by coordinate descent
in the dual (Hsieh et al. 2008; Yu et al. 2011). A label that no stars agree with speaks where it can.
Rows are fitted in blocks: a further block starts from the weights of those before it, which is dual
descent over the new rows alone. That is how training goes on with new reviews, and how it streams.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mobile_sentiment_ops.models.arrays import read_array, write_array
from mobile_sentiment_ops.models.features import Features, Weighed
from mobile_sentiment_ops.models.kernel import Counted
from mobile_sentiment_ops.models.rows import Floats, Labels, Parameters, Ratings, Rows
from mobile_sentiment_ops.models.solver import descend, margins

THRESHOLDS = 4
START: Floats = np.array([[-0.5, 0.25, 0.25], [-1.0, 0.5, 0.5], [-0.5, -0.5, 1.0], [0.0, -0.25, 0.25]])
"""What margins mean for the three labels before any row has said so."""

MAX_EPOCHS = 60
TOLERANCE = 0.03
"""The descent ends when an epoch moves the dual by this part of what the first one did: a tenth of it
changes macro-F1 by less than .001 (measured)."""

FURTHER_COST = 0.5
"""What a further row counts for beside one that was there from the start: the earlier ones cannot answer
to it any more. Measured with a tenth of further rows: macro-F1 .004 under training anew, .010 at 1."""

_TOLD_BY_LABEL = np.array([[0, -1, -1, -1], [1, 1, -1, -1], [1, 1, 1, 0]], np.float32)
_LABEL_OF_STARS = np.array([-1, 0, 0, 1, 2, 2])

Weights = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LinearScorer:
    """`weights` (k + 1, 4) of the k features and, last, of the constant; `freedom` (k, 4) is how far a
    feature's weight may move for a threshold, or None where all may alike."""

    features: Features
    weights: Weights
    freedom: Weights | None

    @property
    def start(self) -> Floats:
        """The calibration's weights (4, 3) to begin with."""
        return START

    @classmethod
    def fit(cls, rows: Rows, parameters: Parameters, seed: int) -> LinearScorer:
        """The scorer of these rows alone."""
        features = Features.learn(rows.found, character_weight=_character_weight(parameters))
        weighed, signs = features.weighed(rows.found), threshold_signs(rows.ratings, rows.labels)
        even = float(parameters.get("even", 1.0))
        freedom = None if even == 1.0 else log_count_freedom(weighed, signs, features.buckets.size, even)
        weights = np.zeros((features.buckets.size + 1, THRESHOLDS), np.float32)
        return cls(features, weights, freedom)._fitted(weighed, signs, parameters, seed)

    def more(self, rows: Rows, parameters: Parameters, seed: int) -> LinearScorer:
        """The scorer after these further rows; features that are new in them join."""
        grown, places = self.features.grown(rows.found, character_weight=_character_weight(parameters))
        weights = np.zeros((grown.buckets.size + 1, THRESHOLDS), np.float32)
        weights[places], weights[-1] = self.weights[:-1], self.weights[-1]
        freedom = None
        if self.freedom is not None:
            freedom = np.ones((grown.buckets.size, THRESHOLDS), np.float32)
            freedom[places] = self.freedom
        started = replace(self, features=grown, weights=weights, freedom=freedom)
        signs = threshold_signs(rows.ratings, rows.labels)
        return started._fitted(grown.weighed(rows.found), signs, parameters, seed, cost=FURTHER_COST)

    def _fitted(
        self, weighed: Weighed, signs: Weights, parameters: Parameters, seed: int, cost: float = 1.0
    ) -> LinearScorer:
        weights = self.weights.copy()
        descend(
            weighed,
            signs,
            weights,
            freedom=self.freedom,
            cost=cost * float(parameters["C"]),
            logistic=parameters["loss"] == "logistic",
            epochs=MAX_EPOCHS,
            tolerance=TOLERANCE,
            seed=seed,
        )
        return replace(self, weights=weights)

    def scores(self, found: Counted, ratings: Ratings) -> Floats:
        """Margins (n, 4), about -1 to 1."""
        return margins(self.features.weighed(found), self.weights)

    def files(self) -> dict[str, bytes]:
        own = {"weights.npy": write_array(self.weights)}
        if self.freedom is not None:
            own["freedom.npy"] = write_array(self.freedom)
        return {**self.features.files(), **own}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> LinearScorer:
        features = Features.from_files(files)
        size, freedom = features.buckets.size, None
        if "freedom.npy" in files:
            freedom = read_array(files, "freedom.npy", np.float32, (size, THRESHOLDS))
        return cls(features, read_array(files, "weights.npy", np.float32, (size + 1, THRESHOLDS)), freedom)


def _character_weight(parameters: Parameters) -> float:
    return float(parameters.get("character_weight", 1.0))


def threshold_signs(ratings: Ratings, labels: Labels) -> Weights:
    """For each row and threshold (n, 4): 1 above it, -1 below it, 0 where neither stars nor label tell.

    >>> threshold_signs(np.array([2, 0, 1]), np.array([0, 1, 2])).astype(int).tolist()
    [[1, -1, -1, -1], [1, 1, -1, -1], [1, 1, 1, 0]]
    """
    signs = _TOLD_BY_LABEL[labels]
    agreeing = _LABEL_OF_STARS[ratings] == labels
    above = ratings[agreeing, None] >= np.arange(2, 6)
    signs[agreeing] = np.where(above, np.float32(1), np.float32(-1))
    return np.ascontiguousarray(signs)


def log_count_freedom(weighed: Weighed, signs: Weights, features: int, even: float) -> Weights:
    """How far each feature's weight may move for each threshold (features, 4): the square of its
    log-count ratio in units of the mean, mixed with `even` parts of 1."""
    rows = weighed.rows
    freedom = np.empty((features, THRESHOLDS), np.float32)
    for at in range(THRESHOLDS):
        of_entry = signs[rows, at]
        above = np.bincount(weighed.columns[of_entry > 0], minlength=features) + 1.0
        below = np.bincount(weighed.columns[of_entry < 0], minlength=features) + 1.0
        ratio = np.abs(np.log(above / above.sum()) - np.log(below / below.sum()))
        freedom[:, at] = ((1 - even) * ratio / max(ratio.mean(), 1e-12) + even) ** 2
    return freedom
