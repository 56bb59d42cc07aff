"""The rule that chains the ledger: each entry's hash covers its content and the hash before it,
so that a changed, removed or reordered entry is found by reading the chain once.

A cut tail and a chain that was written anew are whole chains, too. They are found by what was kept
elsewhere: pairs of (seq, hash), called anchors, in a file beside the database, in the card of each
bundle, and in the registry.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from datetime import datetime

from mobile_sentiment_ops.types import Decision, LedgerEntry

GENESIS = "0" * 64
"""The hash before the first entry."""

CHANGES = frozenset({"promote", "override", "rollback"})
"""Actions after which another model answers."""

LEDGER_TAG = "ledger."
"""Before the seq of a change of champion: the registry's tag of that version that holds the entry's hash."""

Anchor = tuple[int, str]
"""The seq of an entry and its hash, kept outside the ledger."""


def chain_entry(seq: int, at: datetime, decision: Decision, previous_hash: str) -> LedgerEntry:
    """The entry that follows `previous_hash`.

    >>> from datetime import UTC
    >>> first = chain_entry(1, datetime(2025, 3, 1, tzinfo=UTC), Decision("promote", "3", "gate", "better"), GENESIS)
    >>> first.previous_hash == GENESIS, len(first.entry_hash)
    (True, 64)
    """
    told = (decision.action, decision.subject, decision.actor, decision.reason, decision.figures)
    body = [seq, at.isoformat(), *told, previous_hash]
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return LedgerEntry(seq, at, decision, previous_hash, hashlib.sha256(text.encode()).hexdigest())


def first_broken(entries: Sequence[LedgerEntry], after: Anchor = (0, GENESIS)) -> int | None:
    """The seq of the first entry that does not follow from those before it, or None; the first of all
    follows `after`.

    >>> first_broken([]) is None
    True
    """
    previous = after[1]
    for position, entry in enumerate(entries, start=after[0] + 1):
        try:
            expected = chain_entry(position, entry.at, entry.decision, previous)
        except TypeError:  # bytes where a text was
            return entry.seq
        if entry != expected:
            return entry.seq
        previous = entry.entry_hash
    return None


def unanchored(entries: Sequence[LedgerEntry], anchors: Iterable[Anchor]) -> str | None:
    """What is wrong with the first anchor that the entries do not bear out, in words, or None.

    >>> unanchored([], [(3, "ab" * 32)])
    'entry 3 with the hash abababababab was written once and is gone: the ledger ends at 0'
    """
    hashes = {entry.seq: entry.entry_hash for entry in entries}
    for seq, kept in anchors:
        if seq == 0 and kept == GENESIS:
            continue
        if seq not in hashes:
            end = max(hashes, default=0)
            return f"entry {seq} with the hash {kept[:12]} was written once and is gone: the ledger ends at {end}"
        if hashes[seq] != kept:
            return f"entry {seq} was written with the hash {kept[:12]} and has {hashes[seq][:12]} now"
    return None


def reigns(entries: Sequence[LedgerEntry]) -> list[LedgerEntry]:
    """The changes of champion that stand: the last is who answers now, the one before it is where a
    rollback leads. A rollback takes back what came after its version.

    >>> from datetime import UTC
    >>> at = datetime(2025, 3, 1, tzinfo=UTC)
    >>> made = [("promote", "1"), ("promote", "2"), ("override", "3"), ("rollback", "2")]
    >>> entries = [chain_entry(1, at, Decision(action, version, "ann", ""), GENESIS) for action, version in made]
    >>> [entry.decision.subject for entry in reigns(entries)]
    ['1', '2']
    """
    standing: list[LedgerEntry] = []
    for entry in entries:
        if entry.decision.action not in CHANGES:
            continue
        subjects = [one.decision.subject for one in standing[:-1]]
        if entry.decision.action == "rollback" and entry.decision.subject in subjects:
            last = len(subjects) - 1 - subjects[::-1].index(entry.decision.subject)
            del standing[last:]
        standing.append(entry)
    return standing
