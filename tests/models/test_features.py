"""Which buckets become columns, how they weigh, and how they grow."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from mobile_sentiment_ops.errors import BundleError
from mobile_sentiment_ops.models.arrays import write_array
from mobile_sentiment_ops.models.features import Features
from mobile_sentiment_ops.models.kernel import Grams, counted

TEXTS = ["the app is good", "the app crashes", "good good app", "", "👍"]


def test_rows_have_length_one_and_common_words_weigh_less() -> None:
    features = Features.learn(counted(TEXTS))
    rows = features.weighed(counted(TEXTS))
    lengths = np.sqrt(np.bincount(rows.rows, weights=rows.values**2, minlength=len(TEXTS)))
    assert lengths == pytest.approx([1, 1, 1, 0, 1])
    weight_of = dict(zip(features.buckets.tolist(), features.weights.tolist(), strict=True))
    words = {word: weight_of[counted([word]).buckets[0]] for word in ("app", "crashes")}
    assert words["app"] < words["crashes"]


def test_what_is_in_one_of_many_texts_is_left_out() -> None:
    texts = ["app"] * 1_000 + ["unheard"]
    features = Features.learn(counted(texts))
    assert features.buckets.tolist() == counted(["app"]).buckets.tolist()
    assert features.kept(counted(["unheard app"])).columns.tolist() == [0]
    assert Features.learn(counted(["app good", "app"]), most=1).buckets.tolist() == counted(["app"]).buckets.tolist()


def test_runs_of_characters_weigh_by_their_factor() -> None:
    found = counted(["lamp", "lamps"], Grams(words=1, characters=(3, 3)))
    even, half = Features.learn(found), Features.learn(found, character_weight=0.5)
    of_characters = even.buckets % 2 == 1
    assert 0 < of_characters.sum() < of_characters.size
    assert half.weights == pytest.approx(np.where(of_characters, 0.5, 1.0) * even.weights)


def test_new_features_join_and_the_old_ones_keep_their_weights() -> None:
    before = Features.learn(counted(["app good"]))
    after, places = before.grown(counted(["app new"]))
    assert after.buckets[places].tolist() == before.buckets.tolist()
    assert after.weights[places].tolist() == before.weights.tolist()
    assert set(counted(["app new"]).buckets.tolist()) <= set(after.buckets.tolist())


def test_empty_texts_leave_a_column() -> None:
    features = Features.learn(counted(["", " "]))
    rows = features.weighed(counted(["", "new"]))
    matrix = features.matrix(rows)
    assert isinstance(matrix, csr_matrix)
    assert matrix.shape == (2, 1)
    assert matrix.nnz == 0


def test_files_read_back_and_odd_ones_are_named() -> None:
    features = Features.learn(counted(TEXTS))
    files = features.files()
    again = Features.from_files(files)
    assert (again.weights == features.weights).all()
    assert (again.columns == features.columns).all()
    falling = write_array(features.buckets[::-1])
    for changed, said in (
        ({"buckets.npy": falling}, "rising numbers"),
        ({"feature_weights.npy": write_array(np.ones(1, np.float32))}, r"feature_weights\.npy is float32"),
    ):
        with pytest.raises(BundleError, match=said):
            Features.from_files({**files, **changed})
