"""The contract of every kind of model, as checks that return when it is kept and raise ModelError otherwise.

check_model   what a model must do before it may be promoted or serve
CHECKS        what a kind must do: each takes a kind's name and trains it on small data
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mobile_sentiment_ops.errors import DataError, ModelError
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.types import LABELS

PROBES = (
    *("Love it, works well 😍", "Not good: it crashes since the last update!!!", "it is ok"),
    *("ใช้งานง่าย แต่ช้า", "बहुत अच्छा ऐप", "app bahut bekar hai", "...", "", "slow " * 400),
)
STARS = (5, 1, 3, None, 5, 1, None, None, 2)

Rows = Sequence[tuple[str, int]]
"""Texts to train on, each with its label as an index into LABELS."""

NEGATIVE = ("it crashes again and again", "slow and full of adverts", "cannot log in any more", "a waste of money")
NEUTRAL = ("it is ok", "does what it says", "average, nothing special", "fine for now")
POSITIVE = ("love it, works well", "great and easy to use", "very useful every day", "the best one so far")
REVIEWS = [(text, label) for label, texts in enumerate((NEGATIVE, NEUTRAL, POSITIVE)) for text in texts]
THAI = [(text, label) for text in ("ใช้งานง่าย", "ช้ามาก", "ดีมาก", "ล่มบ่อย") for label in range(3)]
EMPTY = [(text, label) for text in ("", " ", "...", "\u200b") for label in range(3)]
MEASURING_ERROR = 1e-9
"""By how much a probability may differ when sums are taken in another order."""


def check_model(model: SentimentModel) -> None:
    """Probabilities are finite and sum to 1, and each text's answer depends on no other text."""
    try:
        _check_answers(model)
    except ModelError:
        raise
    except Exception as err:
        raise ModelError(f"kind {model.kind} fails on plain texts: {err!r}") from err


def _check_answers(model: SentimentModel) -> None:
    together = model.probabilities(PROBES, STARS)
    _require(model, together.shape == (len(PROBES), len(LABELS)), f"answers {together.shape} for {len(PROBES)} texts")
    _require(model, bool(np.isfinite(together).all()), "answers probabilities that are no numbers")
    sums = together.sum(axis=1)
    _require(model, bool((together >= 0).all()) and _same(sums, 1.0), f"answers probabilities that sum to {sums}")
    decided = model.decide(together)
    _require(model, bool(np.isin(decided, range(len(LABELS))).all()), f"decides for {decided}, expected 0, 1 or 2")
    reverse = model.probabilities(PROBES[::-1], STARS[::-1])
    _require(model, _same(reverse[::-1], together), "answers otherwise when the texts come in another order")
    alone = [model.probabilities([text], [stars]) for text, stars in zip(PROBES, STARS, strict=True)]
    _require(model, _same(np.concatenate(alone), together), "answers otherwise when a text comes alone")
    model.predict(PROBES)  # stars may be unknown


def check_tiny_data(kind: str) -> None:
    """A dozen reviews are enough to train; none at all are refused in words."""
    check_model(_train(kind))
    try:
        _train(kind, (), ())
    except (ModelError, DataError):
        return
    raise ModelError(f"kind {kind} trains on no reviews at all, expected an error that says so")


def check_odd_data(kind: str) -> None:
    """Reviews that hardly teach train a sound model or are refused in words."""

    odd: dict[str, tuple[Rows, Rows]] = {
        "one label": (REVIEWS[8:], REVIEWS[8:]),
        "two labels and validated on the third": (REVIEWS[4:], REVIEWS[:4]),
        "texts of which half are empty": (REVIEWS + EMPTY, REVIEWS),
        "empty texts": (EMPTY, EMPTY),
        "a script that nothing else is in": (THAI, REVIEWS),
        "texts and validated on a script that was not in them": (REVIEWS, THAI),
    }
    for name, (rows, validation) in odd.items():
        try:
            model = _train(kind, rows, validation)
        except (ModelError, DataError):
            continue
        try:
            check_model(model)
        except ModelError as err:
            raise ModelError(f"trained on {name}: {err}") from err


def check_same_seed(kind: str) -> None:
    """The same data and seed make the same model, bit by bit."""
    first, second = (_train(kind).probabilities(PROBES, STARS) for _ in range(2))
    if not np.array_equal(first, second):
        raise ModelError(f"kind {kind} makes another model of the same data and seed")


def check_save_and_load(kind: str) -> None:
    """A loaded model answers as the saved one did, bit by bit."""
    model = _train(kind)
    loaded = SentimentModel.from_files(model.files())
    same = np.array_equal(loaded.probabilities(PROBES, STARS), model.probabilities(PROBES, STARS))
    _require(model, same and loaded.predict(PROBES) == model.predict(PROBES), "answers otherwise once it was saved")
    _require(model, (loaded.kind, dict(loaded.parameters)) == (kind, dict(model.parameters)), "forgets its parameters")


CHECKS: tuple[Callable[[str], None], ...] = (check_tiny_data, check_odd_data, check_same_seed, check_save_and_load)


def _train(kind: str, rows: Rows = REVIEWS, validation: Rows = REVIEWS) -> SentimentModel:
    import polars as pl  # a server checks the model that it opens, and starts without polars and training

    from mobile_sentiment_ops.models.training import train

    columns = {"review_text": pl.Utf8(), "rating": pl.Int8(), "label": pl.Int8()}
    frames = [
        pl.DataFrame([(text, (1, 3, 5)[label], label) for text, label in part], columns, orient="row")
        for part in (rows, validation)
    ]
    return train(kind, *frames, seed=0)


def _same(found: np.ndarray, expected: np.ndarray | float) -> bool:
    return bool(np.allclose(found, expected, rtol=0.0, atol=MEASURING_ERROR))


def _require(model: SentimentModel, kept: bool, otherwise: str) -> None:
    if not kept:
        raise ModelError(f"kind {model.kind} {otherwise}")
