"""An evaluation as files to look at: a confusion matrix, how far probabilities can be trusted, what
each class costs to find, and a report in text.

Figures are made by themselves, without pyplot and its global state, so threads may draw at once.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from mobile_sentiment_ops.models.evaluation import Bins, Evaluation, Floats, Indices, evaluate, reliability
from mobile_sentiment_ops.types import LABELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 120
COLORS = ("#c8502f", "#8a8a8a", "#1f77a8")
"""One for each label, told apart with any colour vision."""

NAMES = tuple(label.value for label in LABELS)


def evaluation_artifacts(labels: Indices, probabilities: Floats, decisions: Indices) -> dict[str, bytes]:
    """Three PNG files and a text file by their names, for `labels` (n,) and what a model made of them:
    `probabilities` (n, 3) and `decisions` (n,)."""
    found = evaluate(labels, probabilities, decisions, {})
    return {
        "confusion_matrix.png": _png((5.6, 5.0), lambda figure: _confusion(figure, found)),
        "reliability.png": _png((5.6, 6.2), lambda figure: _reliability(figure, labels, probabilities, decisions)),
        "precision_recall.png": _png((6.4, 5.2), lambda shown: _precision_recall(shown, labels, probabilities, found)),
        "classification_report.txt": classification_report(found).encode(),
    }


def classification_report(found: Evaluation) -> str:
    """The scores by class and in all, as aligned text. A dash stands where the rows cannot tell.

    >>> labels = np.array([0, 0, 1, 2])
    >>> print(classification_report(evaluate(labels, np.eye(3)[labels], labels, {})))  # doctest: +ELLIPSIS
              precision  recall      f1    rows
    Negative      1.000   1.000   1.000       2
    ...
    """
    lines = [f"{'':10}{'precision':>9}{'recall':>8}{'f1':>8}{'rows':>8}"]
    rows = found.confusion.sum(axis=1)
    for name, *scores, count in zip(NAMES, found.precision, found.recall, found.f1, rows, strict=True):
        precision, recall, f1 = ("-" if np.isnan(score) else f"{score:.3f}" for score in scores)
        lines.append(f"{name:10}{precision:>9}{recall:>8}{f1:>8}{count:>8}")
    total = found.confusion.sum()
    lines.append("")
    for name, score in (("macro-F1", found.macro_f1), ("accuracy", found.accuracy)):
        lines.append(f"{name:26}{score:>9.3f}{total:>8}")
    for name, score in (("log-loss", found.log_loss), ("calibration error (ECE)", found.ece)):
        lines.append(f"{name:26}{score:>9.3f}")
    return "\n".join(lines) + "\n"


def _png(size: tuple[float, float], draw: Callable[[Figure], None]) -> bytes:
    from matplotlib.figure import Figure  # over a CPU second, as scikit-learn below: only who draws pays

    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    draw(figure)
    file = BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _confusion(figure: Figure, found: Evaluation) -> None:
    """Counts, coloured by the share of their row."""
    axes = figure.add_subplot()
    rows = found.confusion.sum(axis=1, keepdims=True)
    shares = found.confusion / np.maximum(rows, 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (i, j), count in np.ndenumerate(found.confusion):
        ink = "white" if shares[i, j] > 0.6 else "black"
        axes.text(j, i - 0.06, f"{count:,}", ha="center", va="center", color=ink, fontsize=14)
        axes.text(j, i + 0.17, f"{shares[i, j]:.0%} of row", ha="center", va="center", color=ink, fontsize=9)
    axes.set(xlabel="Answer of the model", ylabel="Label, with its reviews", xticks=range(3), xticklabels=NAMES)
    axes.set_yticks(range(3), [f"{name}\n{count:,}" for name, count in zip(NAMES, rows[:, 0], strict=True)])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    scores = f"macro-F1 {found.macro_f1:.3f}, accuracy {found.accuracy:.1%}, {rows.sum():,} reviews"
    _title(axes, "Confusion matrix", scores)


def _reliability(figure: Figure, labels: Indices, probabilities: Floats, decisions: Indices) -> None:
    """Accuracy by confidence in bins of equal size, above how often each confidence occurs."""
    bins = reliability(labels, probabilities, decisions)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color="#b0b0b0", linestyle="--", linewidth=1, label="right as often as said")
    upper.vlines(bins.confidence, *_wilson(bins), color=COLORS[2], linewidth=1)
    answers = "the answers, with 95% intervals"
    upper.plot(bins.confidence, bins.accuracy, "o-", color=COLORS[2], markersize=4, linewidth=1.2, label=answers)
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="Share that is right")
    least, most = bins.rows.min(), bins.rows.max()
    size = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    count = "1 bin" if len(bins.rows) == 1 else f"{len(bins.rows)} bins"
    _title(upper, "Reliability", f"calibration error {bins.ece:.3f}, {count} of {size} reviews")

    confidence = probabilities[np.arange(len(labels)), decisions]
    right = decisions == labels
    colors = [COLORS[2], COLORS[0]]
    parts = [confidence[right], confidence[~right]]
    lower.hist(parts, np.linspace(0, 1, 41), stacked=True, color=colors, label=["right", "wrong"])
    lower.set(xlabel="Confidence: the probability of the chosen label", ylabel="Reviews")
    for axes in (upper, lower):
        axes.legend(loc="upper left", frameon=False)
        axes.spines[["top", "right"]].set_visible(False)


def _wilson(bins: Bins) -> tuple[Floats, Floats]:
    """The ends of each bin's 95% interval; they hold for few rows and for all right, too."""
    z, n, share = 1.96, bins.rows, bins.accuracy
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    return middle - half, middle + half


def _precision_recall(figure: Figure, labels: Indices, probabilities: Floats, found: Evaluation) -> None:
    """A curve for each class that has rows; the dot is where the model's answers lie."""
    from sklearn.metrics import average_precision_score, precision_recall_curve

    axes = figure.add_subplot()
    for index, (name, color) in enumerate(zip(NAMES, COLORS, strict=True)):
        is_class = labels == index
        if not is_class.any():
            axes.plot([], [], color=color, label=f"{name}: no reviews")
            continue
        score = probabilities[:, index]
        precision, recall, _ = precision_recall_curve(is_class, score)
        average = f"average precision {average_precision_score(is_class, score):.3f}"
        axes.plot(recall, precision, color=color, label=f"{name}: {average}, {is_class.mean():.0%} of reviews")
        axes.axhline(is_class.mean(), color=color, linestyle=":", linewidth=1)
        axes.plot(found.recall[index], found.precision[index], "o", color=color, markeredgecolor="white")
    axes.set(xlim=(0, 1.01), xlabel="Recall: share of a label's reviews that is found")
    axes.set(ylim=(0, 1.02), ylabel="Precision: share of answers that is right")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", framealpha=0.9, edgecolor="white")
    _title(axes, "Precision and recall", "dots: the answers given, dotted: answering by chance")


def _title(axes: Axes, title: str, subtitle: str) -> None:
    axes.set_title(f"{title}\n", loc="left", fontweight="bold")
    axes.text(0, 1.02, subtitle, transform=axes.transAxes, fontsize=9, color="#555555", va="bottom")
