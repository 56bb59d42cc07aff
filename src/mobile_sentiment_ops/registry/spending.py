"""What test rows may still decide: the same ones for three rounds, and a chance of error that is spent.

Each verdict on the same test rows is another chance to be fooled by them. So the chance of a wrong
promotion is fixed for the rows, not for the verdict: a round of candidates may use the part of it that
ROUND_SHARES gives, shared by its candidates; the first round has most, as rows are at their best then.
A promotion gives back what it used, as only wrong ones count. After the last round the rows are
spent, and newer ones are waited for. What was spent stands in the ledger's verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mobile_sentiment_ops.types import LedgerEntry

ROUND_SHARES = (0.6, 0.25, 0.15)
"""Of the chance of a wrong promotion, for the first, second and third round on the same test rows."""

FIRST_SHARE = ROUND_SHARES[0] / 3
"""Of that chance, for one of three candidates on test rows that judged nothing yet."""


@dataclass(frozen=True, slots=True)
class JudgedRows:
    """Test rows by the fingerprint of their ids, the newest dataset they are in, the rounds that they
    judged and what these used of the chance of a wrong promotion."""

    fingerprint: str
    dataset: str
    rounds: int
    spent: float


@dataclass(frozen=True, slots=True)
class Look:
    """One verdict's turn: it may promote wrongly with a chance of `level`, 0 when the rows are spent."""

    fingerprint: str
    round: int
    level: float
    spent: float

    def figures(self, *, promoted: bool) -> dict[str, object]:
        """What the ledger keeps of it."""
        return {**asdict(self), "spent": self.spent + (0.0 if promoted else self.level)}


def judged_rows(entries: Sequence[LedgerEntry], fingerprint: str | None = None) -> JudgedRows | None:
    """The test rows of the newest verdict, or of the newest one on the rows of that fingerprint, as the ledger's
    entries tell; None where there is no such verdict."""
    for entry in reversed(entries):
        figures: Any = entry.decision.figures
        if entry.decision.actor == "gate" and "test" in figures:
            test = figures["test"]
            if fingerprint in (None, test["fingerprint"]):
                return JudgedRows(test["fingerprint"], figures["dataset"], test["round"], test["spent"])
    return None


def first_look(before: JudgedRows | None, fingerprint: str, *, alpha: float, candidates: int) -> Look:
    """The turn of the first of a round's `candidates` on the test rows of that fingerprint.

    >>> look = first_look(None, "1f", alpha=0.03, candidates=3)
    >>> look.round, round(look.level, 4)
    (1, 0.006)
    """
    rounds, spent = (before.rounds, before.spent) if before and before.fingerprint == fingerprint else (0, 0.0)
    return Look(fingerprint, rounds + 1, _level(rounds + 1, spent, alpha, candidates), spent)


def next_look(look: Look, *, promoted: bool, alpha: float, candidates: int) -> Look:
    """The turn after that one in the same round, with so many candidates left.

    >>> first = first_look(None, "1f", alpha=0.03, candidates=2)
    >>> [round(next_look(first, promoted=promoted, alpha=0.03, candidates=1).level, 4) for promoted in (False, True)]
    [0.009, 0.018]
    """
    spent = look.spent + (0.0 if promoted else look.level)
    return Look(look.fingerprint, look.round, _level(look.round, spent, alpha, candidates), spent)


def _level(round_: int, spent: float, alpha: float, candidates: int) -> float:
    if round_ > len(ROUND_SHARES):
        return 0.0
    return max(alpha * sum(ROUND_SHARES[:round_]) - spent, 0.0) / candidates
