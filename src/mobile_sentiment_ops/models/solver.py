"""Four linear problems at once: descent in the dual, and the sums that score with what it found.

`_solver.c` does the work when it was built; else the same steps are made here, some hundred times slower.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
import numpy.typing as npt

from mobile_sentiment_ops.models.features import Weighed

_solver: ModuleType | None
try:
    from mobile_sentiment_ops.models import _solver
except ImportError:
    _solver = None

Fours = npt.NDArray[np.float32]
PROBLEMS = 4
_RANDOM_FACTOR, _RANDOM_STEP, _WORD = 6364136223846793005, 1442695040888963407, 2**64


def descend(
    rows: Weighed,
    signs: Fours,
    weights: Fours,
    *,
    freedom: Fours | None,
    cost: float,
    logistic: bool,
    epochs: int,
    tolerance: float,
    seed: int,
) -> int:
    """Move `weights` (k + 1, 4), in place, to where each problem's loss and length of weights are least.

    Minimises |w|^2 / 2 + cost * sum of losses, where the loss of a row is log(1 + exp(-m)) or
    max(0, 1 - m)^2 of its margin m = sign * (row . w + constant). `signs` (n, 4) are 1, -1 or 0 (no say);
    `freedom` (k, 4) divides the length of a weight, so that it may move further. Ends when an epoch moves
    the dual by less than `tolerance` of what the first did. Returns the epochs made.
    """
    if _solver is not None:
        arguments = rows.starts, rows.columns, rows.values, signs, weights, freedom
        return int(_solver.descend(*arguments, cost, logistic, epochs, tolerance, seed))
    starts, columns, values = rows.starts, rows.columns, rows.values  # from here on the names and steps of _solver.c
    count = len(starts) - 1
    parts = [slice(starts[row], starts[row + 1]) for row in range(count)]
    reach = np.ones((weights.shape[0] - 1, PROBLEMS), np.float32) if freedom is None else freedom
    squares = np.array([1 + values[part] ** 2 @ reach[columns[part]] for part in parts], np.float32)
    duals, order, first, moved, epoch = np.zeros((count, PROBLEMS), np.float32), list(range(count)), 0.0, 0.0, 0
    soft = 0.5 / cost
    while epoch < epochs and (epoch < 2 or moved >= tolerance * first):
        moved = 0.0
        for left in range(count - 1, 0, -1):
            seed = (seed * _RANDOM_FACTOR + _RANDOM_STEP) % _WORD
            other = (seed >> 33) % (left + 1)
            order[left], order[other] = order[other], order[left]
        for row in order:
            part, sign, square = parts[row], signs[row], squares[row]
            margin = sign * _sum(rows, row, weights)
            if logistic:
                logit = duals[row] if epoch else -margin
                before = cost / (1 + np.exp(-logit)) if epoch else np.float32(0)
                for _ in range(2):
                    dual = cost / (1 + np.exp(-logit))
                    slope = 1 + square * dual * (1 - dual / cost)
                    logit = np.clip(logit - (logit + square * (dual - before) + margin) / slope, -15, 15)
                duals[row], step = logit, cost / (1 + np.exp(-logit)) - before
            else:
                dual = np.maximum(duals[row] - (margin - 1 + soft * duals[row]) / (square + soft), 0)
                step, duals[row] = dual - duals[row], dual
            step = step * sign
            moved += float(np.abs(step).sum())
            weights[-1] += step
            weights[columns[part]] += values[part, None] * step * reach[columns[part]]
        first, epoch = moved if not epoch else first, epoch + 1
    return epoch


def margins(rows: Weighed, weights: Fours) -> npt.NDArray[np.float64]:
    """The sums (n, 4) of each row's features times their weights, and the constant's."""
    sums = np.empty((rows.starts.size - 1, PROBLEMS), np.float32)
    if _solver is not None:
        _solver.margins(rows.starts, rows.columns, rows.values, weights, sums)
    else:
        for row in range(len(sums)):
            sums[row] = _sum(rows, row, weights)
    return sums.astype(np.float64)


def _sum(rows: Weighed, row: int, weights: Fours) -> Fours:
    part = slice(rows.starts[row], rows.starts[row + 1])
    return np.asarray(weights[-1] + rows.values[part] @ weights[rows.columns[part]])
