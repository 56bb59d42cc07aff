from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from matplotlib.image import imread

from mobile_sentiment_ops.models.plots import evaluation_artifacts

PLOTS = ("confusion_matrix.png", "reliability.png", "precision_recall.png")


def rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    probabilities = draw.dirichlet([0.6, 0.4, 0.9], size=count)
    labels = (draw.random((count, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(0, 2)
    return labels, probabilities, probabilities.argmax(axis=1)


def colours(png: bytes) -> int:
    pixels = imread(BytesIO(png), format="png")
    assert min(pixels.shape[:2]) > 500
    return len(np.unique(pixels.sum(axis=2)))


def test_an_evaluation_is_three_pictures_and_a_report() -> None:
    found = evaluation_artifacts(*rows(500))
    assert set(found) == {*PLOTS, "classification_report.txt"}
    assert all(colours(found[name]) > 20 for name in PLOTS)
    other = evaluation_artifacts(*rows(500, seed=1))
    assert all(found[name] != other[name] for name in found)


def test_the_report_says_scores_by_class_and_what_the_rows_cannot_tell() -> None:
    labels = np.array([0, 0, 0, 1])
    decisions = np.array([0, 0, 1, 1])
    report = evaluation_artifacts(labels, np.eye(3)[decisions] * 0.7 + 0.1, decisions)["classification_report.txt"]
    lines = [line.split() for line in report.decode().splitlines()]
    assert lines == [
        ["precision", "recall", "f1", "rows"],
        ["Negative", "1.000", "0.667", "0.800", "3"],
        ["Neutral", "0.500", "1.000", "0.667", "1"],
        ["Positive", "-", "-", "-", "0"],
        [],
        ["macro-F1", "0.733", "4"],
        ["accuracy", "0.750", "4"],
        ["log-loss", "0.743"],
        ["calibration", "error", "(ECE)", "0.050"],
    ]


@pytest.mark.parametrize("only", [[0, 2], [1]])
def test_rows_without_some_classes_are_drawn(only: list[int]) -> None:
    labels, probabilities, decisions = rows(300)
    kept = np.isin(labels, only)
    found = evaluation_artifacts(labels[kept], probabilities[kept], decisions[kept])
    assert all(colours(found[name]) > 20 for name in PLOTS)


def test_a_model_with_one_answer_and_a_single_row_are_drawn() -> None:
    labels, probabilities, _ = rows(100)
    assert set(PLOTS) < set(evaluation_artifacts(labels, np.tile([0.3, 0.1, 0.6], (100, 1)), np.full(100, 2)))
    assert set(PLOTS) < set(evaluation_artifacts(labels[:1], probabilities[:1], labels[:1]))


def test_threads_draw_the_same_pictures_at_once() -> None:
    alone = [evaluation_artifacts(*rows(200, seed)) for seed in range(2)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda seed: evaluation_artifacts(*rows(200, seed)), range(2))) == alone


def test_no_global_figure_is_made_and_nothing_is_loaded_before_it_is_drawn() -> None:
    source = """
import sys
import numpy as np
from mobile_sentiment_ops.models.plots import evaluation_artifacts
assert not {"matplotlib", "sklearn"} & set(sys.modules)
evaluation_artifacts(np.array([0, 1, 2]), np.full((3, 3), 1 / 3), np.array([0, 1, 1]))
assert "matplotlib.figure" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", source], check=True, timeout=120)
