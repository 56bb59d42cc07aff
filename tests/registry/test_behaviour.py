from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from mobile_sentiment_ops.errors import SettingsError
from mobile_sentiment_ops.registry.behaviour import BehaviourTest, Suite, load_suite, pass_shares


class Rules:
    """Answers Negative as sure as its words are: 0.5 for "bad", 0.3 more for "very", none after "not"."""

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        negative = np.array([self._negative(text.lower()) for text in texts])
        return np.stack([negative, np.full(len(texts), 0.05), 0.95 - negative], axis=1)

    def _negative(self, text: str) -> float:
        return 0.1 if "bad" not in text or "not" in text else 0.8 if "very" in text else 0.5

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        return np.asarray(probabilities.argmax(axis=1))


def shares(*tests: BehaviourTest) -> dict[str, float]:
    return dict(pass_shares(Rules(), tests))  # type: ignore[arg-type]


def test(kind: str, *texts: Sequence[str], **more: object) -> BehaviourTest:
    return BehaviourTest.model_validate({"name": kind, "kind": kind, "min_pass": 0.5, "texts": texts, **more})


test.__test__ = False  # type: ignore[attr-defined]


def test_invariance_counts_variants_that_keep_the_label() -> None:
    words = {"name": ("Tavo", "Mirel", "bad")}
    assert shares(test("invariance", ("{name} is nice",), words=words)) == {"invariance": 0.5}


def test_direction_counts_changes_that_move_the_label_far_enough() -> None:
    pairs = (("bad app", "very bad app"), ("bad app", "not bad app"))
    assert shares(test("direction", *pairs, label="Negative")) == {"direction": 0.5}
    assert shares(test("direction", *pairs, label="Negative", by=0.4)) == {"direction": 0.0}
    assert shares(test("direction", *pairs, label="Negative", by=-0.5)) == {"direction": 1.0}


def test_minimum_counts_texts_with_the_label_they_ought_to_have() -> None:
    assert shares(test("minimum", ("very bad",), ("nice",), ("not bad",), ("bad",), label="Negative")) == {
        "minimum": 0.5
    }


def test_the_package_tests_cover_every_kind_and_five_languages() -> None:
    suite = load_suite()
    assert {one.kind for one in suite} == {"invariance", "direction", "minimum"}
    assert {one.language for one in suite} == {"en", "es", "th", "hi-Latn", "id"}
    found = pass_shares(Rules(), suite)  # type: ignore[arg-type]
    assert found.keys() == {one.name for one in suite}
    assert (found["plain praise"], found["plain complaints"]) == (1.0, 0.1)


OWN = """
format = 1
[[test]]
name = "typos"
kind = "minimum"
min_pass = 0.9
label = "Positive"
texts = [["nice"]]
[[test]]
name = "battery"
kind = "direction"
min_pass = 0.5
label = "Negative"
texts = [["{word} battery", "not {word} battery"]]
words.word = ["good"]
"""


def test_a_file_of_ones_own_adds_tests_and_replaces_those_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(OWN)
    found: Suite = load_suite(str(tmp_path / "own.toml"))
    assert len(found) == len(load_suite()) + 1
    kinds = {one.name: one.kind for one in found}
    assert (kinds["typos"], kinds["battery"]) == ("minimum", "direction")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("format = 1", "format = 9"), "format: input should be 1"),
        (('"direction"', '"opposite"'), "test.1.kind: input should be 'invariance', 'direction' or 'minimum'"),
        (("words.word", "words.other"), r"test.1: value error, no words for {word}"),
        (('label = "Positive"\n', ""), "test.0: value error, a label is what direction and minimum ask for"),
        (('["{word} battery", "not {word} battery"]', '["flat battery"]'), "a text to compare with is missing"),
        (("min_pass = 0.9", "min_pass = 9"), "test.0.min_pass: input should be less than or equal to 1"),
        (("[[test]]", "[[test"), "cannot be read as TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_what_is_wrong(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    (tmp_path / "own.toml").write_text(OWN.replace(*change))
    with pytest.raises(SettingsError, match=f"gate.behaviour_file: .*own.toml.*{message}"):
        load_suite(str(tmp_path / "own.toml"))
    with pytest.raises(SettingsError, match=r"there\.toml cannot be read as TOML"):
        load_suite(str(tmp_path / "there.toml"))
