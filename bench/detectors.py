"""Detectors of drift: the product's, and what else is used. Each learns a reference, then says what moved in a window.

ours          the product's check, with all its statistics and slices
PSI, JS       the population stability index and the Jensen-Shannon distance, by the usual constants
C2ST          a classifier that is to tell window from reference (Lopez-Paz and Oquab 2017), with a threshold from
              windows without drift
Evidently     its presets of drift for texts and for descriptors, as they are and with thresholds like that
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from mobile_sentiment_ops.models.kernel import Grams, counted
from mobile_sentiment_ops.monitoring.drift import check_drift, draw_limits
from mobile_sentiment_ops.monitoring.reference import make_reference
from mobile_sentiment_ops.monitoring.rows import rows_of
from mobile_sentiment_ops.monitoring.sketch import Window
from mobile_sentiment_ops.settings import Monitoring
from mobile_sentiment_ops.types import LABELS

LEVEL = 0.05
"""False alarms that calibrated peers may raise."""

Floats = npt.NDArray[np.float64]


class Detector(Protocol):
    """What is compared."""

    def fit(self, reference: pl.DataFrame, learned: Sequence[str], seed: int) -> None:
        """Learn from scored reviews with `truth`, of a champion that learned from these texts."""
        ...

    def fires(self, window: pl.DataFrame) -> Sequence[str]:
        """What moved, none for nothing."""
        ...


class FixedRules:
    """The usual constants, on the predicted classes and on tenths of length and of p(negative)."""

    def __init__(self, name: str, most: float) -> None:
        self.distance, self.most = {"JS": jensen_shannon, "PSI": stability_index}[name], most

    def fit(self, reference: pl.DataFrame, learned: Sequence[str], seed: int) -> None:  # noqa: ARG002
        figures = self._figures(reference)
        self.edges = {
            name: np.unique(np.quantile(figures[name], np.arange(0.1, 1, 0.1))) for name in figures if name != "classes"
        }
        self.shares = self._shares(reference)

    def fires(self, window: pl.DataFrame) -> Sequence[str]:
        found = self._shares(window)
        return [name for name in found if self.distance(self.shares[name], found[name]) > self.most]

    @staticmethod
    def _figures(rows: pl.DataFrame) -> dict[str, npt.NDArray[Any]]:
        classes = (
            rows["label"]
            .replace_strict([label.value for label in LABELS], range(3), return_dtype=pl.Int64())
            .to_numpy()
        )
        return {
            "classes": classes,
            "length": rows["text"].str.len_chars().to_numpy(),
            "p_negative": rows["p_negative"].to_numpy(),
        }

    def _shares(self, rows: pl.DataFrame) -> dict[str, Floats]:
        figures = self._figures(rows)
        classes = np.bincount(figures.pop("classes"), minlength=3)
        counts = {
            name: np.bincount(np.searchsorted(self.edges[name], values), minlength=len(self.edges[name]) + 1)
            for name, values in figures.items()
        }
        return {name: np.maximum(count, 0.5) / len(rows) for name, count in {"classes": classes, **counts}.items()}


def jensen_shannon(p: Floats, q: Floats) -> float:
    """The distance of two distributions, natural logarithm.

    >>> round(jensen_shannon(np.array([0.25, 0.75]), np.array([0.5, 0.5])), 3)
    0.184
    """
    middle = (p + q) / 2
    return float(np.sqrt(max((p * np.log(p / middle) + q * np.log(q / middle)).sum() / 2, 0.0)))


def stability_index(p: Floats, q: Floats) -> float:
    """The population stability index.

    >>> round(stability_index(np.array([0.25, 0.75]), np.array([0.5, 0.5])), 3)
    0.275
    """
    return float(((q - p) * np.log(q / p)).sum())


class TwoSampleClassifier:
    """A logistic regression on hashed words that is to tell a window from as many reviews of the reference."""

    def fit(self, reference: pl.DataFrame, learned: Sequence[str], seed: int) -> None:  # noqa: ARG002
        self.texts, self.chance, self.most = (
            reference["text"].to_numpy(),
            np.random.default_rng(seed),
            dict[int, float](),
        )

    def fires(self, window: pl.DataFrame) -> Sequence[str]:
        rows = window.height
        if rows not in self.most:
            pairs = (self.chance.permutation(len(self.texts))[: 2 * rows].reshape(2, rows) for _ in range(200))
            self.most[rows] = float(np.quantile([self._auc(*self.texts[pair]) for pair in pairs], 1 - LEVEL))
        drawn = self.texts[self.chance.permutation(len(self.texts))[:rows]]
        return ["texts"] if self._auc(drawn, window["text"].to_numpy()) > self.most[rows] else []

    @staticmethod
    def _auc(before: Iterable[str], after: Iterable[str]) -> float:
        """The mean area under the curve of two folds."""
        parts = [list(before), list(after)]
        found = counted(parts[0] + parts[1], Grams(words=1, bits=14))
        words = csr_matrix((np.minimum(found.counts, 1), found.buckets, found.starts), (len(found.starts) - 1, 1 << 14))
        new, fold = np.repeat([0, 1], [len(part) for part in parts]), np.arange(words.shape[0]) % 2
        areas = []
        for out in (0, 1):
            model = LogisticRegression(solver="liblinear").fit(words[fold != out], new[fold != out])
            areas.append(roc_auc_score(new[fold == out], model.decision_function(words[fold == out])))
        return float(np.mean(areas))


class Ours:
    """The product's check of drift, with all its statistics and slices."""

    def __init__(self, false_alarms: float = Monitoring().false_alarms) -> None:
        self.false_alarms = false_alarms

    def fit(self, reference: pl.DataFrame, learned: Sequence[str], seed: int) -> None:
        self.reference = make_reference(learned, reference)
        self.limits = draw_limits(self.reference, seed=seed)

    def fires(self, window: pl.DataFrame) -> Sequence[str]:
        rows = Window.of_rows(rows_of(window, self.reference.vocabulary))
        _, measured = check_drift(rows, self.reference, self.limits, false_alarms=self.false_alarms)
        return [" ".join([one.name, *one.part.values()]) for one in measured if one.fired]


class Evidently:
    """Evidently's presets of drift, as they are and with thresholds from windows without drift: of the text, and of
    the predicted label and four descriptors that need no download. `fires` says which of VARIANTS did."""

    VARIANTS = tuple(f"Evidently {part}{how}" for part in ("text", "descriptors") for how in ("", ", calibrated"))
    ROWS, DRAWS = 5_000, 100

    def fit(self, reference: pl.DataFrame, learned: Sequence[str], seed: int) -> None:  # noqa: ARG002
        shuffled = reference.sample(fraction=1.0, shuffle=True, seed=seed)
        self.reference, self.others, self.seed = evidently_data(shuffled[: self.ROWS]), shuffled[self.ROWS :], seed
        self.known: dict[int, tuple[dict[str, float], dict[str, float]]] = {}

    def fires(self, window: pl.DataFrame) -> Sequence[str]:
        rows = window.height
        if rows not in self.known:
            drawn = [self.judged(self.others.sample(rows, seed=self.seed + at))[0] for at in range(self.DRAWS)]
            scales = {
                column: float(np.quantile([one[column] for one in drawn], 1 - LEVEL)) or 1e-9 for column in drawn[0]
            }
            worst = [self._worst(one, scales) for one in drawn]
            self.known[rows] = (
                scales,
                {part: float(np.quantile([one[part] for one in worst], 1 - LEVEL)) for part in worst[0]},
            )
        scales, most = self.known[rows]
        values, drifted = self.judged(window)
        calibrated = [part for part, worst in self._worst(values, scales).items() if worst > most[part]]
        return [*(f"Evidently {part}" for part in drifted), *(f"Evidently {part}, calibrated" for part in calibrated)]

    @staticmethod
    def _worst(values: Mapping[str, float], scales: Mapping[str, float]) -> dict[str, float]:
        parts = {"text": ["text"], "descriptors": [column for column in values if column != "text"]}
        return {part: max(values[column] / scales[column] for column in columns) for part, columns in parts.items()}

    def judged(self, window: pl.DataFrame) -> tuple[dict[str, float], list[str]]:
        """The distance of each column, and the parts that drifted by default."""
        from evidently import Report
        from evidently.presets import DataDriftPreset

        values, drifted, data = {}, [], evidently_data(window)
        for part, columns in {"text": ["text"], "descriptors": ["label", *EVIDENTLY_DESCRIPTORS]}.items():
            metrics = Report([DataDriftPreset(columns=columns)]).run(data, self.reference).dict()["metrics"]
            if metrics[0]["value"]["share"] >= metrics[0]["config"]["drift_share"]:
                drifted.append(part)
            for one in metrics[1:]:
                assert "p_value" not in one["metric_name"], one  # with so large a reference all are distances
                values[one["config"]["column"]] = float(one["value"])
        return values, drifted


EVIDENTLY_DESCRIPTORS = {
    "length": "TextLength",
    "words": "WordCount",
    "sentences": "SentenceCount",
    "marks": "NonLetterCharacterPercentage",
}


def evidently_data(rows: pl.DataFrame) -> Any:
    """The text, the predicted label and descriptors of scored reviews, as Evidently takes them."""
    from evidently import DataDefinition, Dataset, descriptors

    definition = DataDefinition(text_columns=["text"], categorical_columns=["label"])
    made = [getattr(descriptors, of)("text", alias=name) for name, of in EVIDENTLY_DESCRIPTORS.items()]
    spaced = pl.col("text").replace("", " ")  # of a text without characters it cannot tell the share of marks
    return Dataset.from_pandas(rows.select(spaced, "label").to_pandas(), data_definition=definition, descriptors=made)


OURS = "ours"
DETECTORS: Mapping[str, Callable[[], Detector]] = {
    OURS: Ours,
    "PSI > 0.2": lambda: FixedRules("PSI", 0.2),
    "JS > 0.1": lambda: FixedRules("JS", 0.1),
    "C2ST": TwoSampleClassifier,
    "Evidently": Evidently,
}
