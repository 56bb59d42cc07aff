"""Which words and phrases moved a prediction, and how far.

Of a linear kind this is exact: its logits are a bias and a part for each run of tokens or characters, and a run of
characters counts for its word. Runs that share a bucket share its part by how often each occurs. Of trees it is what
the logarithm of each probability loses when a word is left out of the text: those do not sum to anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mobile_sentiment_ops.models.compiled import CompiledModel
from mobile_sentiment_ops.models.reference import placed_hashes, placed_tokens
from mobile_sentiment_ops.types import LABELS, Label

LEFT_OUT_CHARS = 2_000_000
"""How much text is scored at most to explain one text by trees: of long texts only the first words are left out."""

Floats = npt.NDArray[np.float64]
Three = tuple[float, float, float]
Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Effect:
    """What a word or phrase adds to the classes' logits. `spans` are its places in the text, in characters;
    `shared` says that a part of it was split with others in the same bucket."""

    words: str
    spans: tuple[Span, ...]
    effects: Three
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """`decided` has the largest of log-probability and `offsets`. When `exact`, bias and effects sum to the logits,
    and `difference` is how far the probabilities of that sum are from those of the model."""

    decided: Label
    probabilities: Three
    offsets: Three
    exact: bool
    bias: Three
    effects: tuple[Effect, ...]
    difference: float


def towards(label: Label, effects: Sequence[float]) -> float:
    """How much effects on the three logits favour a label above the mean of the others.

    >>> towards(Label.POSITIVE, (-1.0, 0.0, 1.0))
    1.5
    """
    own = effects[LABELS.index(label)]
    return own - (sum(effects) - own) / (len(LABELS) - 1)


def explained(model: CompiledModel, text: str) -> Explanation:
    """Why the model says what it says of a text; DataError when that is not valid Unicode.

    All words and phrases that had an effect are there, in no order that matters.
    """
    index, *found = model.one(text)
    probabilities = np.array(found)
    words = placed_tokens(text)
    exact = model.arrays["nodes"].size == 0
    bias, difference = np.zeros(len(LABELS)), 0.0
    if exact:
        effects, bias = _parts(model, text, words), model.bias
        logits = bias + sum((np.array(effect.effects) for effect in effects), np.zeros(len(LABELS)))
        shares = np.exp(logits - logits.max())
        difference = float(np.abs(shares / shares.sum() - probabilities).max())
    else:
        effects = _left_out(model, text, words, probabilities)
    return Explanation(
        LABELS[index], _three(probabilities), model.offsets, exact, _three(bias), tuple(effects), difference
    )


def _parts(model: CompiledModel, text: str, words: Sequence[tuple[str, int, int]]) -> list[Effect]:
    runs = list(placed_hashes([word for word, _, _ in words], model.grams))
    if not runs:
        return []
    items: dict[tuple[str, ...], int] = {}
    spans: list[dict[Span, None]] = []
    item_of = np.empty(len(runs), np.intp)
    for number, (_, at, size) in enumerate(runs):
        item = items.setdefault(tuple(word for word, _, _ in words[at : at + size]), len(items))
        if item == len(spans):
            spans.append({})
        spans[item][words[at][1], words[at + size - 1][2]] = None
        item_of[number] = item
    in_bucket = np.array([found >> 32 - model.grams.bits for found, _, _ in runs])
    buckets, bucket_of, counts = np.unique(in_bucket, return_inverse=True, return_counts=True)
    rows = model.rows[buckets].astype(float)
    values = (1 + np.log(counts)) * rows[:, 0]
    parts = rows[:, 1:] * (values / (np.linalg.norm(values) or 1.0) / counts)[:, None]
    effects = np.zeros((len(items), len(LABELS)))
    np.add.at(effects, item_of, parts[bucket_of])
    pairs = np.unique(np.stack([bucket_of, item_of]), axis=1)  # which items each bucket is for
    shared = np.zeros(len(items), np.bool_)
    several = np.bincount(pairs[0])[pairs[0]] > 1
    shared[pairs[1, several & (values != 0)[pairs[0]]]] = True
    return [
        Effect(text[slice(*next(iter(places)))], tuple(places), _three(effect), bool(is_shared))
        for places, effect, is_shared in zip(spans, effects, shared, strict=True)
        if effect.any()
    ]


def _left_out(
    model: CompiledModel, text: str, words: Sequence[tuple[str, int, int]], probabilities: Floats
) -> list[Effect]:
    places: dict[str, list[Span]] = {}
    for word, start, end in words:
        places.setdefault(word, []).append((start, end))
    tried = list(places.values())[: LEFT_OUT_CHARS // max(len(text), 1)]
    found = model.scored([_without(text, spans) for spans in tried]).probabilities
    return [
        Effect(text[slice(*spans[0])], tuple(spans), _three(effect))
        for spans, effect in zip(tried, np.log(probabilities) - np.log(found), strict=True)
        if effect.any()
    ]


def _without(text: str, spans: Sequence[Span]) -> str:
    """
    >>> _without("so so good", [(0, 2), (3, 5)])
    '    good'
    """
    kept, at = "", 0
    for start, end in spans:
        kept, at = f"{kept}{text[at:start]} ", end
    return kept + text[at:]


def _three(values: Floats) -> Three:
    negative, neutral, positive = values.tolist()
    return negative, neutral, positive
