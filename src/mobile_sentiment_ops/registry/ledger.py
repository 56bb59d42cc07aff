"""The rule that chains the ledger: each entry's hash covers its content and the hash before it,
so that a changed, removed or reordered entry is found by reading the chain once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime

from mobile_sentiment_ops.types import Decision, LedgerEntry

GENESIS = "0" * 64
"""The hash before the first entry."""


def chain_entry(seq: int, at: datetime, decision: Decision, previous_hash: str) -> LedgerEntry:
    """The entry that follows `previous_hash`.

    >>> from datetime import UTC
    >>> first = chain_entry(1, datetime(2025, 3, 1, tzinfo=UTC), Decision("promote", "3", "gate", "better"), GENESIS)
    >>> first.previous_hash == GENESIS, len(first.entry_hash)
    (True, 64)
    """
    body = [
        seq,
        at.isoformat(),
        decision.action,
        decision.subject,
        decision.actor,
        decision.reason,
        decision.figures,
        previous_hash,
    ]
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return LedgerEntry(seq, at, decision, previous_hash, hashlib.sha256(text.encode()).hexdigest())


def first_broken(entries: Sequence[LedgerEntry]) -> int | None:
    """The seq of the first entry that does not follow from those before it, or None.

    >>> first_broken([]) is None
    True
    """
    previous = GENESIS
    for position, entry in enumerate(entries, start=1):
        if entry != chain_entry(position, entry.at, entry.decision, previous):
            return entry.seq
        previous = entry.entry_hash
    return None
