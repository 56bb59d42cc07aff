"""Decision trees as arrays: grown by XGBoost, kept without it and followed by numpy.

The nodes of all trees stand in one list. A text starts at every root and moves down one node a step:
left where its count of the node's word is below the threshold, and as `absent_left` says where it
has none of that word. Leaves point at themselves. So a server reads numbers alone, needs no XGBoost,
and gives the same scores wherever it runs. (XGBoost 3.2's own prediction was seen to write outside
its memory on sparse rows; valgrind names FVecFill.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from mobile_sentiment_ops.errors import BundleError
from mobile_sentiment_ops.models.arrays import read_array, write_array
from mobile_sentiment_ops.models.features import Weighed
from mobile_sentiment_ops.types import LABELS

Integers = npt.NDArray[np.int32]

CHUNK_TEXTS = 256


@dataclass(frozen=True, slots=True)
class Trees:
    """`roots` (t,) and `classes` (t,) a tree; the other arrays (m,) a node; `base` (3,) a class."""

    roots: Integers
    classes: Integers
    left: Integers
    right: Integers
    column: Integers
    threshold: npt.NDArray[np.float32]
    absent_left: npt.NDArray[np.bool_]
    leaf: npt.NDArray[np.float32]
    base: npt.NDArray[np.float64]

    @classmethod
    def of_xgboost(cls, document: bytes) -> Trees:
        """The trees of XGBoost's JSON document of a model with three classes."""
        learner = json.loads(document)["learner"]
        model = learner["gradient_booster"]["model"]
        base = np.fromstring(learner["learner_model_param"]["base_score"].strip("[]"), sep=",")
        trees = model["trees"]
        sizes = [len(tree["left_children"]) for tree in trees]
        roots = np.concatenate([[0], np.cumsum(sizes)[:-1]])

        def joined(name: str, dtype: type) -> npt.NDArray[Any]:
            return np.concatenate([np.asarray(tree[name], dtype) for tree in trees])

        start, own = np.repeat(roots, sizes), np.arange(sum(sizes))
        left, right = (joined(name, np.int64) for name in ("left_children", "right_children"))
        is_leaf = left < 0
        values = joined("split_conditions", np.float32)
        return cls(
            roots=roots.astype(np.int32),
            classes=np.asarray(model["tree_info"], np.int32),
            left=np.where(is_leaf, own, start + left).astype(np.int32),
            right=np.where(is_leaf, own, start + right).astype(np.int32),
            column=np.where(is_leaf, 0, joined("split_indices", np.int32)).astype(np.int32),
            threshold=np.where(is_leaf, 0, values).astype(np.float32),
            absent_left=joined("default_left", np.bool_) | is_leaf,
            leaf=np.where(is_leaf, values, 0).astype(np.float32),
            base=np.broadcast_to(base, len(LABELS)).astype(np.float64),
        )

    def scores(self, found: Weighed, columns: int) -> npt.NDArray[np.float64]:
        """Sums of leaves (n, 3) for the columns of n texts, of which there are `columns` in all."""
        texts = found.starts.size - 1
        scores, rows = np.tile(self.base, (texts, 1)), found.rows
        for at in range(0, texts, CHUNK_TEXTS):
            until = min(at + CHUNK_TEXTS, texts)
            chunk = slice(found.starts[at], found.starts[until])
            counts = np.zeros((until - at, columns), np.float32)
            counts[rows[chunk] - at, found.columns[chunk]] = found.values[chunk]
            scores[at:until] += self._sums(counts)
        return scores

    def _sums(self, counts: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        nodes = np.tile(self.roots, len(counts))
        moving = np.arange(nodes.size)
        while moving.size:
            at = nodes[moving]
            count = counts[moving // self.roots.size, self.column[at]]
            goes_left = np.where(count == 0, self.absent_left[at], count < self.threshold[at])
            below = np.where(goes_left, self.left[at], self.right[at])
            nodes[moving] = below
            moving = moving[below != at]
        leaves = self.leaf[nodes].reshape(len(counts), self.roots.size)
        return leaves.astype(np.float64) @ np.eye(len(LABELS))[self.classes]

    def files(self) -> dict[str, bytes]:
        """What `from_files` reads."""
        return {f"trees_{part.name}.npy": write_array(getattr(self, part.name)) for part in fields(self)}

    @classmethod
    def from_files(cls, files: Mapping[str, bytes], columns: int) -> Trees:
        """The trees of these files over so many columns; BundleError when they lead out of bounds or in circles."""

        def read(name: str, dtype: type[np.generic], size: int | None) -> npt.NDArray[Any]:
            return read_array(files, f"trees_{name}.npy", dtype, (size,))

        roots, left = read("roots", np.int32, None), read("left", np.int32, None)
        size = left.size
        right, column = read("right", np.int32, size), read("column", np.int32, size)
        classes = read("classes", np.int32, roots.size)
        own = np.arange(size)
        within = all(
            (numbers >= low).all() and (numbers < high).all()
            for numbers, low, high in (
                (roots, 0, size),
                (classes, 0, len(LABELS)),
                (column, 0, columns),
                (left, own, size),  # a child stands behind its parent, a leaf points at itself
                (right, own, size),
            )
        )
        if not within or ((left == own) != (right == own)).any():
            raise BundleError("the files trees_*.npy lead nowhere: they are not of one model with these words")
        threshold, absent_left = read("threshold", np.float32, size), read("absent_left", np.bool_, size)
        leaf, base = read("leaf", np.float32, size), read("base", np.float64, len(LABELS))
        return cls(roots, classes, left, right, column, threshold, absent_left, leaf, base)
