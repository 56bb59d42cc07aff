"""The kinds of model, by name. A new kind is one entry here; `registry/checks.py` holds it to the contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from mobile_sentiment_ops.errors import ModelError
from mobile_sentiment_ops.models.kernel import Grams
from mobile_sentiment_ops.models.linear import LinearScorer
from mobile_sentiment_ops.models.rows import Parameters, Rows
from mobile_sentiment_ops.models.scorers import PriorScorer, Scorer, StarsScorer, TreeScorer

More = Callable[[Scorer, Rows, Parameters, int], Scorer]


@dataclass(frozen=True, slots=True)
class Kind:
    """How models of a kind are made and read.

    `folds` fits on parts of the rows give every row a score from a fit that has not seen it; 0: one fit, and
    a tenth of the rows is held out. `more` goes on with further rows, for kinds that can; others learn from at
    most `most_rows`. A kind that is no `candidate` is measured, never promoted.
    """

    name: str
    title: str
    fit: Callable[[Rows, Parameters, int], Scorer]
    from_files: Callable[[Mapping[str, bytes]], Scorer]
    parameters: Parameters = field(default_factory=dict)
    folds: int = 0
    more: More | None = None
    most_rows: int | None = None
    candidate: bool = True

    def with_parameters(self, given: Parameters) -> dict[str, int | float | str]:
        """The kind's parameters with these in the place of their own; ModelError for one that it does not have.

        >>> kind_named("svc").with_parameters({"C": 0.3})["C"]
        0.3
        """
        for name, value in given.items():
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise ModelError(f"{self.name} has no parameter {name!r}; expected {known}")
            own = self.parameters[name]
            fits = isinstance(value, int | float) if isinstance(own, float) else type(value) is type(own)
            if not fits or isinstance(value, bool):
                raise ModelError(f"{self.name}.{name} is {value!r}, expected {type(own).__name__} such as {own!r}")
        return {**self.parameters, **given}


def grams_of(parameters: Parameters) -> Grams:
    """Which features a kind with these parameters looks at."""
    characters = cast(int, parameters.get("characters", 0))
    return Grams(words=cast(int, parameters.get("word_run", 2)), characters=(characters, characters))


def _more(scorer: Scorer, rows: Rows, parameters: Parameters, seed: int) -> Scorer:
    return cast(LinearScorer, scorer).more(rows, parameters, seed)


def _linear(name: str, title: str, parameters: Parameters) -> Kind:
    return Kind(name, title, LinearScorer.fit, LinearScorer.from_files, parameters, folds=3, more=_more)


def _trees(name: str, title: str, parameters: Parameters) -> Kind:
    return Kind(name, title, TreeScorer.fit, TreeScorer.from_files, parameters, most_rows=200_000)


_NB_SVM: Parameters = {
    **{"C": 0.1, "loss": "squared hinge", "word_run": 2, "characters": 5, "character_weight": 0.5, "even": 0.5}
}
_FOREST: Parameters = {
    # one round of many deep trees, each on its own rows, with its own few words at every split
    **{"rounds": 1, "eta": 1.0, "num_parallel_tree": 60, "words": 2_000, "subsample": 0.632, "colsample_bynode": 0.05},
    **{"grow_policy": "lossguide", "max_depth": 0, "max_leaves": 400, "reg_lambda": 1e-3},
}
_BOOSTED: Parameters = {
    **{"rounds": 150, "eta": 0.25, "words": 5_000, "subsample": 0.8, "colsample_bynode": 0.2, "max_depth": 6}
}

_KINDS = (
    _linear("lr", "LogisticRegression", {"C": 2.0, "loss": "logistic", "word_run": 2}),
    _linear("svc", "LinearSVC", {"C": 0.1, "loss": "squared hinge", "word_run": 2}),
    _linear("nbsvm", "NB-SVM", _NB_SVM),
    _trees("rf", "RandomForest", _FOREST),
    _trees("xgb", "XGBoost", _BOOSTED),
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
