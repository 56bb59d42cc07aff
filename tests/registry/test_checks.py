"""What a model must do: a sound one passes, and each fault is named. Kinds are in tests/models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from mobile_sentiment_ops.disk import read_folder
from mobile_sentiment_ops.errors import ModelError
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.registry.checks import check_model
from mobile_sentiment_ops.types import Prediction

KEPT = Path(__file__).parents[1] / "fixtures" / "bundle_format_1" / "model"
Texts = Sequence[str]
Stars = Sequence[int | None] | None


@pytest.fixture
def sound() -> SentimentModel:
    return SentimentModel.from_files(read_folder(KEPT))


class Faulty:
    """A model whose probabilities are spoiled on the way out."""

    kind = "lr"

    def __init__(self, model: SentimentModel, spoil: Callable[[np.ndarray, Texts], np.ndarray]) -> None:
        self._model, self._spoil = model, spoil

    def probabilities(self, texts: Texts, ratings: Stars = None) -> np.ndarray:
        return self._spoil(self._model.probabilities(texts, ratings), texts)

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        return self._model.decide(probabilities)

    def predict(self, texts: Texts, ratings: Stars = None) -> list[Prediction]:
        return self._model.predict(texts, ratings)


def test_a_sound_model_passes(sound: SentimentModel) -> None:
    check_model(sound)


def fails_on_empty_text(found: np.ndarray, texts: Texts) -> np.ndarray:
    if "" in texts:
        raise IndexError("no token")
    return found


def looks_at_its_neighbours(found: np.ndarray, texts: Texts) -> np.ndarray:
    return np.asarray((found + found.mean(axis=0)) / 2)


def looks_at_its_place(found: np.ndarray, texts: Texts) -> np.ndarray:
    return np.asarray(found + np.linspace(0, 0.5, len(found))[:, None] * (1 / 3 - found))


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (fails_on_empty_text, r"kind lr fails on plain texts: IndexError\('no token'\)"),
        (lambda found, texts: found[:1], r"answers \(1, 3\) for 9 texts"),
        (lambda found, texts: found[:, :2], r"answers \(9, 2\) for 9 texts"),
        (lambda found, texts: found * np.nan, "answers probabilities that are no numbers"),
        (lambda found, texts: found * 2, r"probabilities that sum to \[2"),
        (lambda found, texts: found + np.array([1.0, -1.0, 0.0]), "probabilities that sum to"),
        (looks_at_its_place, "answers otherwise when the texts come in another order"),
        (looks_at_its_neighbours, "answers otherwise when a text comes alone"),
    ],
)
def test_a_faulty_model_is_refused(
    sound: SentimentModel, spoil: Callable[[np.ndarray, Texts], np.ndarray], fault: str
) -> None:
    with pytest.raises(ModelError, match=fault):
        check_model(cast(SentimentModel, Faulty(sound, spoil)))
