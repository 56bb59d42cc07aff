"""The kinds of model, by name. A new kind is one entry here; `registry/checks.py` holds it to the contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from mobile_sentiment_ops.errors import ModelError
from mobile_sentiment_ops.models.scorers import (
    Labels,
    LinearScorer,
    Parameters,
    PriorScorer,
    Ratings,
    Scorer,
    StarsScorer,
    TreeScorer,
)


@dataclass(frozen=True, slots=True)
class Kind:
    """How models of a kind are made and read. A kind that is no `candidate` is measured, never promoted."""

    name: str
    title: str
    fit: Callable[[Sequence[str], Ratings, Labels, Parameters, int], Scorer]
    from_files: Callable[[Mapping[str, bytes]], Scorer]
    parameters: Parameters = field(default_factory=dict)
    candidate: bool = True


_FOREST: Parameters = {
    # one round of many deep trees, each on its own rows, with its own few words at every split
    **{"rounds": 1, "eta": 1.0, "num_parallel_tree": 60, "words": 2_000, "subsample": 0.632, "colsample_bynode": 0.05},
    **{"grow_policy": "lossguide", "max_depth": 0, "max_leaves": 400, "reg_lambda": 1e-3},
}
_BOOSTED: Parameters = {
    **{"rounds": 150, "eta": 0.25, "words": 5_000, "subsample": 0.8, "colsample_bynode": 0.2, "max_depth": 8}
}
_LINEAR: Parameters = {"C": 2.0, "tol": 1e-3, "max_iter": 300}

_KINDS = (
    Kind("lr", "LogisticRegression", LinearScorer.fit, LinearScorer.from_files, _LINEAR),
    Kind("rf", "RandomForest", TreeScorer.fit, TreeScorer.from_files, _FOREST),
    Kind("xgb", "XGBoost", TreeScorer.fit, TreeScorer.from_files, _BOOSTED),
    Kind("majority", "Majority", PriorScorer.fit, PriorScorer.from_files, candidate=False),
    Kind("stars", "Stars", StarsScorer.fit, StarsScorer.from_files, candidate=False),
)

KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _KINDS}


def kind_named(name: str) -> Kind:
    """The kind of that name; ModelError that lists them all when there is none.

    >>> kind_named("lr").title
    'LogisticRegression'
    """
    try:
        return KINDS[name]
    except KeyError:
        raise ModelError(f"there is no kind of model named {name!r}; expected one of {', '.join(KINDS)}") from None
