from __future__ import annotations

import numpy as np
import pytest
import xgboost

from mobile_sentiment_ops.errors import BundleError
from mobile_sentiment_ops.models.arrays import write_array
from mobile_sentiment_ops.models.features import Weighed
from mobile_sentiment_ops.models.trees import CHUNK_TEXTS, Trees

TEXTS, COLUMNS = CHUNK_TEXTS + 44, 30
SETTINGS: dict[str, tuple[dict[str, object], int]] = {
    "boosted": ({"max_depth": 4, "eta": 0.3}, 12),
    "forest": ({"num_parallel_tree": 7, "max_leaves": 20, "grow_policy": "lossguide", "max_depth": 0, "eta": 1.0}, 1),
}


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    random = np.random.default_rng(5)
    return random.poisson(0.4, (TEXTS, COLUMNS)).astype(np.float32)


def as_counted(counts: np.ndarray) -> Weighed:
    rows, columns = np.nonzero(counts)
    starts = np.searchsorted(rows, np.arange(len(counts) + 1))
    return Weighed(starts, columns.astype(np.int32), counts[rows, columns])


def grown(counts: np.ndarray, name: str) -> tuple[xgboost.Booster, xgboost.DMatrix]:
    labels = (counts[:, 0] + 2 * counts[:, 1] + counts[:, 2]).astype(int) % 3
    data = xgboost.DMatrix(np.where(counts == 0, np.nan, counts), label=labels, nthread=1)
    settings, rounds = SETTINGS[name]
    fixed = {"objective": "multi:softprob", "num_class": 3, "tree_method": "hist", "nthread": 1, "seed": 1}
    return xgboost.train({**fixed, **settings}, data, num_boost_round=rounds), data


@pytest.mark.parametrize("name", SETTINGS)
def test_scores_are_those_of_the_library_that_grew_the_trees(counts: np.ndarray, name: str) -> None:
    booster, data = grown(counts, name)
    trees = Trees.of_xgboost(bytes(booster.save_raw("json")))
    expected = booster.predict(data, output_margin=True)
    found = trees.scores(as_counted(counts), COLUMNS)
    assert np.abs(found).max() > 0.1
    assert np.abs(found - expected).max() < 1e-5


def test_no_texts_have_no_scores_and_an_empty_text_has_some(counts: np.ndarray) -> None:
    trees = Trees.of_xgboost(bytes(grown(counts, "boosted")[0].save_raw("json")))
    assert trees.scores(as_counted(counts[:0]), COLUMNS).shape == (0, 3)
    assert np.isfinite(trees.scores(as_counted(np.zeros((1, COLUMNS))), COLUMNS)).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("left", 0), ("left", 10**6), ("right", -1), ("column", COLUMNS), ("roots", 10**6), ("classes", 3)],
)
def test_trees_that_lead_out_of_bounds_or_in_circles_are_refused(counts: np.ndarray, name: str, value: int) -> None:
    trees = Trees.of_xgboost(bytes(grown(counts, "boosted")[0].save_raw("json")))
    changed = getattr(trees, name).copy()
    changed[1] = value
    files = {**trees.files(), f"trees_{name}.npy": write_array(changed)}
    with pytest.raises(BundleError, match="lead nowhere"):
        Trees.from_files(files, COLUMNS)


def test_read_back_they_score_the_same(counts: np.ndarray) -> None:
    trees = Trees.of_xgboost(bytes(grown(counts, "forest")[0].save_raw("json")))
    again = Trees.from_files(trees.files(), COLUMNS)
    assert np.array_equal(again.scores(as_counted(counts), COLUMNS), trees.scores(as_counted(counts), COLUMNS))
