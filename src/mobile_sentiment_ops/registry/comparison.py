"""Statistics of two models that answered the same labelled rows.

    mcnemar          could the changed answers be right and wrong by chance?
    f1_gains         the gain in F1 of each label and in macro-F1, with standard errors
    find_parts       the apps, languages and versions that have enough rows to be looked at alone
    part_losses      what the candidate loses on each label and in each of these parts
    rows_to_tell     rows at which a gain of a given size is found

A table counts rows by label, candidate's answer and champion's answer, in the order of LABELS. Standard
errors are of paired differences, by the delta method: how far one row moves the figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from mobile_sentiment_ops.models.evaluation import Counts, Floats, Indices, common_values
from mobile_sentiment_ops.types import LABELS

NORMAL = NormalDist()
SIZE = len(LABELS)


def mcnemar(mended: int, spoiled: int) -> float:
    """The exact two-sided p-value of McNemar's test: answers that turned from wrong to right, and from
    right to wrong, if each of them could as well have been the other.

    >>> mcnemar(0, 0), mcnemar(5, 5), round(mcnemar(3, 12), 4)
    (1.0, 1.0, 0.0352)
    """
    count, fewer = mended + spoiled, min(mended, spoiled)
    steps = np.arange(1, fewer + 1, dtype=np.float64)
    logs = np.concatenate([[0.0], np.cumsum(np.log((count - steps + 1) / steps))]) - count * math.log(2)
    return min(1.0, 2.0 * float(np.exp(logs).sum()))


def answer_tables(cells: Indices, parts: Sequence[Indices]) -> Counts:
    """A table (k, 3, 3, 3) for each part, a part being its row numbers; `cells` (n,) as of `answer_cells`."""
    counts = [np.bincount(cells[rows], minlength=SIZE**3) for rows in parts]
    return np.array(counts, dtype=np.int64).reshape(-1, SIZE, SIZE, SIZE)


def answer_cells(labels: Indices, candidate: Indices, champion: Indices) -> Indices:
    """Each row's cell (n,) in a flattened table."""
    return (labels.astype(np.int64) * SIZE + candidate) * SIZE + champion


def f1_gains(tables: Counts) -> tuple[Floats, Floats]:
    """The candidate's gain (..., 4) over the champion in F1 of each label and, last, in macro-F1, and the
    standard error of each. Labels without rows have no part in macro-F1.

    >>> labels, candidate, champion = np.array([[0, 0, 1, 1, 2, 2], [0, 0, 1, 0, 2, 2], [0, 1, 1, 0, 2, 2]])
    >>> cells = answer_cells(labels, candidate, champion)
    >>> gains, errors = f1_gains(answer_tables(cells, [np.arange(6)])[0])
    >>> gains.round(2).tolist(), errors.round(2).tolist()
    ([0.3, 0.17, 0.0, 0.16], [0.27, 0.16, 0.0, 0.13])
    """
    ours, our_pull = _f1(tables.sum(axis=-1))
    theirs, their_pull = _f1(tables.sum(axis=-2))
    exists = tables.sum(axis=(-1, -2)) > 0
    weights = (exists / np.maximum(exists.sum(axis=-1, keepdims=True), 1))[..., None, None, None]
    pull = our_pull[..., None] - their_pull[..., None, :]
    pulls = np.concatenate([pull, (pull * weights).sum(axis=-4, keepdims=True)], axis=-4)
    errors = np.sqrt((tables[..., None, :, :, :] * pulls**2).sum(axis=(-1, -2, -3)))
    gain = ours - theirs
    return np.concatenate([gain, (gain * weights[..., 0, 0, 0]).sum(axis=-1, keepdims=True)], axis=-1), errors


def _f1(confusions: Counts) -> tuple[Floats, Floats]:
    """F1 (..., 3) of each label, and how far a row of each cell pulls it: (..., 3, 3, 3)."""
    one = np.eye(SIZE)
    size = np.maximum(confusions.sum(axis=-1) + confusions.sum(axis=-2), 1)
    f1 = 2 * np.diagonal(confusions, axis1=-2, axis2=-1) / size
    labelled, answered = one[:, :, None], one[:, None, :]
    pull = 2 * labelled * answered - f1[..., None, None] * (labelled + answered)
    return f1, pull / size[..., None, None]


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the test rows: those of an app, a language or a version."""

    name: str
    rows: npt.NDArray[np.intp]


def find_parts(columns: Mapping[str, Sequence[str | None]]) -> list[Part]:
    """The parts of enough rows, at most some of each column, those with most rows (`common_values`).

    >>> [(part.name, len(part.rows)) for part in find_parts({"app": ["lamp"] * 60 + ["torch", None]})]
    [('app lamp', 60)]
    """
    return [
        Part(f"{column} {value}", np.flatnonzero(np.array(values, dtype=object) == value))
        for column, values in columns.items()
        for value, _ in common_values(values)
    ]


@dataclass(frozen=True, slots=True)
class Loss:
    """What the candidate loses on one label (in its F1) or in one part (in macro-F1); negative: it gains."""

    name: str
    rows: int
    loss: float
    error: float

    @property
    def errors_above_zero(self) -> float:
        """The loss in standard errors; 0 where nothing changed."""
        return self.loss / self.error if self.error else 0.0


def part_losses(labels: Indices, candidate: Indices, champion: Indices, parts: Sequence[Part]) -> list[Loss]:
    """The losses on each label that has rows, and in each part.

    >>> labels = np.array([0, 1, 2] * 50)
    >>> worse = np.where(np.arange(150) < 30, 0, labels)
    >>> [(found.name, found.rows, round(found.loss, 2)) for found in part_losses(labels, worse, labels, [])]
    [('label Negative', 50, 0.17), ('label Neutral', 50, 0.11), ('label Positive', 50, 0.11)]
    """
    cells = answer_cells(labels, candidate, champion)
    everything = np.arange(len(labels))
    tables = answer_tables(cells, [everything, *(part.rows for part in parts)])
    gains, errors = f1_gains(tables)
    rows = tables[0].sum(axis=(-1, -2))
    return [
        Loss(f"label {label.value}", int(rows[at]), float(-gains[0, at]), float(errors[0, at]))
        for at, label in enumerate(LABELS)
        if rows[at]
    ] + [
        Loss(part.name, len(part.rows), float(-gain[-1]), float(error[-1]))
        for part, gain, error in zip(parts, gains[1:], errors[1:], strict=True)
    ]


def rows_to_tell(gain: float, error: float, rows: int, *, level: float, power: float) -> int:
    """Rows at which a true `gain` is found above zero with probability `power`, when its standard error on
    `rows` rows is `error` and chance may find one with probability `level`.

    >>> rows_to_tell(0.01, 0.005, 2000, level=0.025, power=0.5)
    1921
    """
    return math.ceil(rows * ((NORMAL.inv_cdf(1 - level) + NORMAL.inv_cdf(power)) * error / gain) ** 2)
