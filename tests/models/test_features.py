from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobile_sentiment_ops.errors import BundleError
from mobile_sentiment_ops.models.arrays import write_array
from mobile_sentiment_ops.models.features import BUCKETS, WordFeatures, counted, tokens

TEXTS = ("Love it 😍 so much", "do not update, it crashes", "", "ใช้งานง่าย แต่ช้า", "love it it it")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Not good, don't update!", ["not", "good", "dont", "update"]),
        ("DON\u2019T", ["dont"]),
        ("cafe\u0301 caf\u00e9", ["caf\u00e9", "caf\u00e9"]),
        ("\uff27\uff52\uff45\uff41\uff54 10/10", ["great", "10", "10"]),
        ("bahut accha 👍🏽👍", ["bahut", "accha", "👍", "👍"]),
        ("बहुत अच्छा ऐप", ["बहुत", "अच्छा", "ऐप"]),
        ("ดีมาก", ["ดีม", "ีมา", "มาก"]),
        ("ดี", ["ดี"]),
        ("很好用app", ["很好用", "app"]),
        ("مُمتاز", ["مُمتاز"]),
        ("👨\u200d👩\u200d👧 ok\ufe0f", ["👨", "👩", "👧", "ok"]),
        ("... !!! \u200b", []),
    ],
)
def test_words_negations_emoji_and_scripts_survive(text: str, expected: list[str]) -> None:
    assert tokens(text) == expected


@given(st.text())
def test_any_text_has_tokens_that_do_not_change_when_read_again(text: str) -> None:
    words = [token for token in tokens(text) if token.isascii()]
    assert tokens(" ".join(words)) == words


def test_pairs_of_neighbours_are_told_from_the_same_words_apart() -> None:
    near, apart = counted(["not good"]), counted(["good not"])
    assert near.counts.tolist() == apart.counts.tolist() == [1, 1, 1]
    assert len(set(near.buckets) & set(apart.buckets)) == 2


@given(st.lists(st.sampled_from(TEXTS), max_size=8))
def test_a_texts_features_do_not_depend_on_the_texts_beside_it(texts: list[str]) -> None:
    together = counted(texts)
    for at, text in enumerate(texts):
        alone, part = counted([text]), slice(together.starts[at], together.starts[at + 1])
        assert together.buckets[part].tolist() == alone.buckets.tolist()
        assert together.counts[part].tolist() == alone.counts.tolist()


def test_weights_have_length_one_and_unknown_words_none() -> None:
    features = WordFeatures.learn(counted(TEXTS))
    weighed = features.weighed(counted([*TEXTS, "zyzzyva"]))
    lengths = np.bincount(weighed.rows, weights=weighed.counts.astype(float) ** 2, minlength=6)
    assert lengths == pytest.approx([1, 1, 0, 1, 1, 0], abs=1e-6)


def test_rare_words_weigh_more_and_only_the_commonest_are_kept() -> None:
    texts = ["app good", "app bad", "app slow", "app"]
    features = WordFeatures.learn(counted(texts))
    assert features.idf.min() == features.idf[features.columns[counted(["app"]).buckets[0]]]
    assert WordFeatures.learn(counted(texts), most=1).buckets.tolist() == counted(["app"]).buckets.tolist()


def test_what_is_in_one_text_of_many_is_not_learned() -> None:
    texts = ["good app", "bad app"] * 500
    assert WordFeatures.learn(counted([*texts, "unheard"])).columns[counted(["unheard"]).buckets[0]] == -1


def test_empty_texts_still_give_a_column() -> None:
    features = WordFeatures.learn(counted(["", " "]))
    assert features.matrix(features.weighed(counted(["", "x"]))).shape == (2, 1)


@pytest.mark.parametrize("buckets", [[-1, 2], [2, BUCKETS], [2, 2], [3, 1]])
def test_files_that_do_not_fit_are_refused(buckets: list[int]) -> None:
    files = {"buckets.npy": write_array(np.array(buckets, np.int32)), "idf.npy": write_array(np.ones(2, np.float32))}
    with pytest.raises(BundleError, match=r"buckets\.npy"):
        WordFeatures.from_files(files)
