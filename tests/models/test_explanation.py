"""What moved a prediction: its parts sum to the model's own answer, and stand where they are in the text."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mobile_sentiment_ops.errors import DataError
from mobile_sentiment_ops.models.compiled import CompiledModel, compile_model
from mobile_sentiment_ops.models.explanation import LEFT_OUT_CHARS, Effect, explained, towards
from mobile_sentiment_ops.models.kernel import Grams, counted, tokens
from mobile_sentiment_ops.models.training import train
from mobile_sentiment_ops.types import LABELS, Label

FORMS = (
    ("{} crashes, awful", "cannot {} at all", "so slow so slow to {} 👎🏽"),
    ("it is ok to {}", "you can {} with it", "how do I {}? ไม่รู้"),
    ("love to {} with it", "great, I {} every day", "best app to {} ดีมาก 👍"),
)
DEEDS = ("open", "pay", "scan", "read", "log in", "travel", "cook")
ROWS = pl.DataFrame(
    [
        (form.format(deed), 1 + 2 * label, label)
        for label, forms in enumerate(FORMS)
        for form in forms
        for deed in DEEDS
    ],
    {"review_text": pl.Utf8(), "rating": pl.Int8(), "label": pl.Int8()},
    orient="row",
)
WORDS = [*sorted({word for text in ROWS["review_text"] for word in text.split()}), "İyi", "ﬁne", "é", "don't", "!?", ""]
TEXTS = st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=30).map(" ".join)


def opened(kind: str) -> CompiledModel:
    return CompiledModel.of(compile_model(train(kind, ROWS, ROWS.gather_every(5), seed=0), "hash"))


LINEAR = {kind: opened(kind) for kind in ("lr", "nbsvm")}
each_linear = pytest.mark.parametrize("model", LINEAR.values(), ids=LINEAR)


@pytest.fixture(scope="module")
def trees() -> CompiledModel:
    return opened("xgb")


@each_linear
@given(text=TEXTS.filter(lambda text: text.isprintable()))
@example("")
@example("so so so slow 👎🏽 İyi e\u0301 ดีมากมาก")
@example("crashes " * 2_500)
def test_bias_and_effects_sum_to_the_probabilities(model: CompiledModel, text: str) -> None:
    found = explained(model, text)
    assert found.exact
    assert found.difference < 1e-6
    logits = np.array(found.bias) + np.sum([(0.0, 0.0, 0.0), *(effect.effects for effect in found.effects)], axis=0)
    shares = np.exp(logits) / np.exp(logits).sum()
    assert shares == pytest.approx(found.probabilities, abs=1e-6)
    assert found.decided == LABELS[int((np.log(found.probabilities) + found.offsets).argmax())]


@each_linear
@given(text=TEXTS)
def test_spans_are_where_the_words_are(model: CompiledModel, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    for effect in explained(model, text).effects:
        first, *others = effect.spans
        assert effect.words == text[slice(*first)]
        assert len(set(effect.spans)) == len(effect.spans)
        for start, end in others:
            if text.isascii():  # where one character is a part of several tokens, a span holds more than its own
                assert tokens(text[start:end]) == tokens(effect.words)


def effect_of(words: str, text: str, model: CompiledModel = LINEAR["lr"]) -> Effect:
    (found,) = (effect for effect in explained(model, text).effects if effect.words == words)
    return found


@each_linear
def test_words_speak_for_the_class_they_were_seen_in(model: CompiledModel) -> None:
    text = "Love it, but it crashes"
    assert towards(Label.POSITIVE, effect_of("Love", text, model).effects) > 0
    crashes = effect_of("crashes", text, model)
    assert towards(Label.NEGATIVE, crashes.effects) > 0 > towards(Label.POSITIVE, crashes.effects)
    assert crashes.spans == ((16, 23),)


def test_a_phrase_has_an_effect_of_its_own() -> None:
    found = {effect.words for effect in explained(LINEAR["lr"], "you cannot pay at all").effects}
    assert {"cannot", "cannot pay", "at all"} <= found


def test_a_repeated_word_is_told_once_with_all_its_places() -> None:
    assert effect_of("so", "so slow, SO slow").spans == ((0, 2), (9, 11))


def test_two_words_in_one_bucket_share_its_part_and_say_so() -> None:
    strange = [f"zq{number}" for number in range(400_000)]
    buckets = counted(strange, Grams(words=1)).buckets
    known = ["crashes", "love", "slow", "great", "best", "awful", "cook", "pay", "every", "day", "open", "scan"]
    (word, other), *_ = [
        (word, strange[place])
        for word, bucket in zip(known, counted(known, Grams(words=1)).buckets, strict=True)
        for place in np.flatnonzero(buckets == bucket)
    ]
    text = f"{word} {other} {word}"
    twice, once = effect_of(word, text), effect_of(other, text)
    assert twice.shared
    assert once.shared
    assert np.array(twice.effects) == pytest.approx(2 * np.array(once.effects))
    assert not effect_of(word, word).shared


def test_trees_tell_what_a_word_left_out_changes(trees: CompiledModel) -> None:
    text = "crashes crashes when I pay"
    found = explained(trees, text)
    assert not found.exact
    assert found.difference == 0.0
    (crashes,) = (effect for effect in found.effects if effect.words == "crashes")
    with_it, without = (trees.scored([one]).probabilities[0] for one in (text, "  when I pay"))
    assert crashes.effects == pytest.approx(np.log(with_it) - np.log(without))
    assert crashes.spans == ((0, 7), (8, 15))


def test_trees_explain_a_long_text_by_its_first_words(trees: CompiledModel) -> None:
    text = "crashes " + " ".join(f"w{number}" for number in range(3_300))
    assert len(text) > LEFT_OUT_CHARS / 200
    assert [effect.words for effect in explained(trees, text).effects] == ["crashes"]


def test_a_text_of_no_words_has_no_effects(trees: CompiledModel) -> None:
    for model in (*LINEAR.values(), trees):
        assert explained(model, " ?! ").effects == ()


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(DataError, match="lone surrogate"):
        explained(LINEAR["lr"], "bad \ud83d")
