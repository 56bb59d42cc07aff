from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobile_sentiment_ops.registry.ledger import GENESIS, chain_entry
from mobile_sentiment_ops.registry.spending import JudgedRows, Look, first_look, judged_rows, next_look
from mobile_sentiment_ops.types import Decision, LedgerEntry

ALPHA = 0.025
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def ledger(*decisions: Decision) -> list[LedgerEntry]:
    entries: list[LedgerEntry] = []
    for seq, decision in enumerate(decisions, start=1):
        entries.append(chain_entry(seq, NOON, decision, entries[-1].entry_hash if entries else GENESIS))
    return entries


def verdict(look: Look, *, promoted: bool = False) -> Decision:
    return Decision("verdict", "3", "gate", "so", {"dataset": "d1", "test": look.figures(promoted=promoted)})


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=5), min_size=1, max_size=6))
def test_wrong_promotions_never_have_more_than_the_whole_chance(rounds: list[list[bool]]) -> None:
    """Whatever is promoted on the way: what the verdicts that did not promote had sums to ALPHA at most."""
    before, lost = None, 0.0
    for outcomes in rounds:
        look = first_look(before, "rows", alpha=ALPHA, candidates=len(outcomes))
        for left, promoted in zip(range(len(outcomes) - 1, -1, -1), outcomes, strict=True):
            assert lost + look.level <= ALPHA * (1 + 1e-9)
            lost += 0.0 if promoted else look.level
            (last,) = ledger(verdict(look, promoted=promoted))
            before = judged_rows([last])
            look = next_look(look, promoted=promoted, alpha=ALPHA, candidates=max(left, 1))
    assert before is not None
    assert before.spent == pytest.approx(lost)
    assert before.rounds == len(rounds)


def test_the_first_round_has_most_and_the_fourth_nothing() -> None:
    before, levels = None, []
    for _ in range(4):
        look = first_look(before, "rows", alpha=ALPHA, candidates=1)
        levels.append(look.level)
        before = judged_rows(ledger(verdict(look)))
    assert levels == pytest.approx([0.015, 0.00625, 0.00375, 0])


def test_other_rows_have_the_whole_chance_again() -> None:
    spent = JudgedRows("old", "d1", 3, ALPHA)
    assert (
        first_look(spent, "new", alpha=ALPHA, candidates=1).level
        == first_look(None, "new", alpha=ALPHA, candidates=1).level
    )


def test_rows_that_come_back_remember_what_was_spent() -> None:
    old, new = (first_look(None, name, alpha=ALPHA, candidates=1) for name in ("old", "new"))
    entries = ledger(verdict(old), verdict(new), Decision("override", "3", "ann", "known", {}))
    newest, again = judged_rows(entries), judged_rows(entries, "old")
    assert (newest and newest.fingerprint, again and again.fingerprint) == ("new", "old")
    assert judged_rows(entries, "other") is None
    assert judged_rows(ledger(Decision("promote", "1", "gate", "first", {"dataset": "d1"}))) is None
