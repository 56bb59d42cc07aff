"""The descent in C, against its steps in Python and against scikit-learn's optimum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix, hstack, random_array
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from mobile_sentiment_ops.models import solver
from mobile_sentiment_ops.models.features import Weighed
from mobile_sentiment_ops.models.solver import Fours, descend, margins

FEATURES = 40


def problem(rows: int = 300, seed: int = 0) -> tuple[csr_matrix, Weighed, Fours]:
    random = np.random.default_rng(seed)
    matrix = csr_matrix(random_array((rows, FEATURES), density=0.15, rng=random, dtype=np.float32))
    truth = random.normal(size=(FEATURES, 4))
    signs = np.sign(matrix @ truth + random.normal(size=(rows, 4))).astype(np.float32)
    rows_of = Weighed(matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data)
    return matrix, rows_of, np.ascontiguousarray(signs)


def solve(rows: Weighed, signs: Fours, *, logistic: bool = False, **changed: object) -> Fours:
    weights = np.zeros((FEATURES + 1, 4), np.float32)
    settings = {"freedom": None, "cost": 1.0, "logistic": logistic, "epochs": 500, "tolerance": 1e-6, "seed": 1}
    descend(rows, signs, weights, **{**settings, **changed})  # type: ignore[arg-type]
    return weights


@pytest.mark.parametrize("logistic", [False, True])
def test_it_finds_the_optimum_that_scikit_learn_finds(logistic: bool) -> None:
    matrix, rows, signs = problem()
    with_constant = hstack([matrix, np.ones((matrix.shape[0], 1), np.float32)], format="csr")
    found = solve(rows, signs, logistic=logistic)
    for at in range(4):
        if logistic:
            learner = LogisticRegression(C=1.0, fit_intercept=False, tol=1e-8, max_iter=1_000)
        else:
            learner = LinearSVC(C=1.0, fit_intercept=False, tol=1e-8, max_iter=100_000)
        learner.fit(with_constant, signs[:, at])
        assert found[:, at] == pytest.approx(learner.coef_[0], abs=2e-3)


@pytest.mark.parametrize("logistic", [False, True])
@pytest.mark.parametrize("free", [False, True])
def test_python_makes_the_same_steps(monkeypatch: pytest.MonkeyPatch, logistic: bool, free: bool) -> None:
    _, rows, signs = problem(80)
    signs[::7, 1] = 0
    freedom = np.random.default_rng(0).random((FEATURES, 4), np.float32) if free else None
    in_c = solve(rows, signs, logistic=logistic, freedom=freedom, epochs=5, tolerance=0.0)
    in_c_margins = margins(rows, in_c)
    monkeypatch.setattr(solver, "_solver", None)
    assert solve(rows, signs, logistic=logistic, freedom=freedom, epochs=5, tolerance=0.0) == pytest.approx(
        in_c, abs=1e-4
    )
    assert margins(rows, in_c) == pytest.approx(in_c_margins, abs=1e-5)


def test_freedom_is_a_scale_of_the_features() -> None:
    """|w|^2 / freedom is the length of weights for features times the root of freedom."""
    _matrix, rows, signs = problem()
    freedom = np.full((FEATURES, 4), 4.0, np.float32)
    doubled = Weighed(rows.starts, rows.columns, rows.values * 2)
    assert solve(rows, signs, freedom=freedom)[:-1] == pytest.approx(2 * solve(doubled, signs)[:-1], abs=1e-2)


def test_rows_without_a_say_change_nothing() -> None:
    _, rows, signs = problem()
    signs[:, 2] = 0
    assert not solve(rows, signs)[:, 2].any()


def test_further_rows_go_on_from_the_weights_that_are_there() -> None:
    """Weights that already answer to the rows stay nearly as they are."""
    _, rows, signs = problem()
    weights = solve(rows, signs)
    begun = weights.copy()
    settings = {"freedom": None, "cost": 1e-3, "logistic": False, "epochs": 50, "tolerance": 1e-4, "seed": 1}
    descend(rows, signs, weights, **settings)  # type: ignore[arg-type]
    assert 0 < np.abs(weights - begun).max() < 0.1 * np.abs(begun).max()


def test_no_rows_leave_the_weights() -> None:
    nothing = Weighed(np.zeros(1, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
    assert not solve(nothing, np.zeros((0, 4), np.float32)).any()


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"starts": np.array([0, 9], np.int64)}, "starts do not rise"),
        ({"starts": np.array([2, 1], np.int64)}, "starts do not rise"),
        ({"columns": np.array([FEATURES, 0], np.int32)}, "no feature"),
        ({"columns": np.array([-1, 0], np.int32)}, "no feature"),
        ({"values": np.ones(3, np.float32)}, "values as many as columns"),
    ],
)
def test_buffers_that_do_not_fit_together_are_refused(broken: dict[str, Any], said: str) -> None:
    sound: dict[str, Any] = {
        "starts": np.array([0, 2], np.int64),
        "columns": np.zeros(2, np.int32),
        "values": np.ones(2, np.float32),
    }
    rows = Weighed(**{**sound, **broken})
    with pytest.raises(ValueError, match=said):
        solve(rows, np.ones((1, 4), np.float32))
    with pytest.raises(ValueError, match=said):
        margins(rows, np.zeros((FEATURES + 1, 4), np.float32))
    with pytest.raises(ValueError, match="signs are four a row"):
        solve(Weighed(**sound), np.ones((2, 4), np.float32))
