"""What parameters are searched, and how a set of them is judged."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mobile_sentiment_ops.errors import ModelError, TooFewRows
from mobile_sentiment_ops.models.kinds import KINDS
from mobile_sentiment_ops.models.search import SPACES, Objective, is_inside, space_of

WORDS = (("awful", "crashes", "useless"), ("okay", "average", "passable"), ("great", "lovely", "superb"))
TOPICS = ("login", "update", "widget", "camera", "search", "support", "payment", "design")


def frame(seed: int, *, odd: float = 0.2) -> pl.DataFrame:
    """240 rows of nine telling words, some of them with another label than the word says."""
    chance = np.random.default_rng(seed)
    rows = []
    for label, topic, at in ((label, topic, at) for label in range(3) for topic in TOPICS for at in range(10)):
        text = f"{WORDS[label][at % 3]} {topic} {at}"
        given = int(chance.integers(3)) if chance.random() < odd else label
        rows.append((text, (1, 3, 5)[given], given))
    return pl.DataFrame(rows, {"review_text": pl.Utf8, "rating": pl.Int8, "label": pl.Int8}, orient="row")


@pytest.mark.parametrize("kind", SPACES)
def test_the_usual_parameters_of_a_kind_are_in_its_space(kind: str) -> None:
    assert is_inside(KINDS[kind].parameters, SPACES[kind])


@pytest.mark.parametrize("kind", SPACES)
def test_both_ends_of_a_space_are_parameters_of_the_kind(kind: str) -> None:
    for end in ("low", "high"):
        given = {name: getattr(values, end) for name, values in SPACES[kind].items()}
        assert KINDS[kind].with_parameters(given).items() >= given.items()


def test_a_kind_without_a_space_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="stars has no parameters to search; expected some of lr, svc"):
        space_of("stars")
    with pytest.raises(ModelError, match="no kind of model named 'lstm'"):
        space_of("lstm")


def test_the_same_parameters_decide_alike_and_others_differ() -> None:
    objective = Objective("svc", frame(1), frame(2), seed=0)
    weak, usual = objective.decisions({"C": 0.01, "word_run": 1}), objective.decisions({})
    assert (objective.decisions({}) == usual).all()
    assert objective.macro_f1(usual) > 0.7
    assert (weak != usual).any()


def test_no_validation_row_decides_for_itself() -> None:
    """Turning one row's label leaves that row's own decision as it was, and may only move others."""
    train, validation = frame(1), frame(2)
    before = Objective("svc", train, validation, seed=0).decisions({})
    for row in (0, 100, 239):
        turned = validation.with_columns(
            pl.when(pl.int_range(pl.len()) == row).then((pl.col("label") + 1) % 3).otherwise("label").alias("label")
        )
        assert Objective("svc", train, turned, seed=0).decisions({})[row] == before[row]


def test_a_search_needs_rows_in_both_parts() -> None:
    with pytest.raises(TooFewRows, match="4 validation rows for lr, a search needs at least 5"):
        Objective("lr", frame(1), frame(2).head(4), seed=0)
