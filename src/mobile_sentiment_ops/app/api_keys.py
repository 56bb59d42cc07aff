"""Making and revoking API keys: checked, written to the ledger, then kept as a hash."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256

from mobile_sentiment_ops.errors import NotFound, SettingsError, StoreError
from mobile_sentiment_ops.ports import Keys, State
from mobile_sentiment_ops.types import ApiKey, Decision, Role

LIVE_KEYS = 2
"""Most keys of a name at a time: the one in use, and the one that replaces it."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def new_key(name: str, role: Role, apps: Sequence[str], *, days: float | None, now: datetime) -> tuple[str, ApiKey]:
    """A random key and what is kept of it.

    >>> from datetime import UTC
    >>> text, kept = new_key("shop", "predict", ["shop"], days=None, now=datetime(2025, 3, 1, tzinfo=UTC))
    >>> len(text), text.startswith("mso_"), kept.last4 == text[-4:], text in repr(kept)
    (47, True, True, False)
    """
    if not _NAME.fullmatch(name) or not all(app.strip() for app in apps):
        raise SettingsError(
            f"a key for {name!r} and apps {list(apps)}: expected a name of up to 64 letters, digits, . _ and -, "
            "and apps that are not blank"
        )
    text, ends = f"mso_{secrets.token_urlsafe(32)}", None if days is None else now + timedelta(days=days)
    kept = sha256(text.encode()).hexdigest(), text[-4:]
    return text, ApiKey(secrets.token_hex(4), name, role, tuple(sorted(set(apps))), *kept, 0, now, ends)


def with_key(keys: Sequence[ApiKey], new: ApiKey) -> list[ApiKey]:
    """The keys and a new one, which takes the first free meter; expired ones of its name go.

    A third live key of a name is refused.
    """
    kept = [key for key in keys if key.name != new.name or not key.expires_at or key.expires_at > new.created_at]
    same = [key.key_id for key in kept if key.name == new.name]
    if len(same) >= LIVE_KEYS:
        raise StoreError(
            f"{new.name} has {len(same)} live keys, expected at most {LIVE_KEYS} with a new one: "
            f"revoke the one that is not used any more, `mso keys revoke {same[0]}` or {' or '.join(same[1:])}"
        )
    free = set(range(1, len(kept) + 2)) - {key.meter for key in kept}
    return [*kept, replace(new, meter=min(free))]


def add_key(keys: Keys, state: State, new: ApiKey, *, actor: str) -> None:
    """Keep a new key. The ledger knows of it before it opens anything."""

    def change(known: Sequence[ApiKey]) -> Sequence[ApiKey]:
        changed = with_key(known, new)
        until = f"until {new.expires_at:%Y-%m-%d %H:%M}" if new.expires_at else "until it is revoked"
        _record(state, new, actor, f"made for {new.name}, to {new.role}, {', '.join(new.apps) or 'all apps'}, {until}")
        return changed

    keys.change(change)


def revoke_key(keys: Keys, state: State, key_id: str, *, actor: str) -> ApiKey:
    """Take a key away; servers refuse it within a second. NotFound when there is none of that id."""
    gone: list[ApiKey] = []

    def change(known: Sequence[ApiKey]) -> Sequence[ApiKey]:
        gone[:] = [key for key in known if key.key_id == key_id]
        if not gone:
            there = ", ".join(key.key_id for key in known) or "none"
            raise NotFound(f"there is no key {key_id}; `mso keys list` shows {there}")
        _record(state, gone[0], actor, f"revoked, was of {gone[0].name}")
        return [key for key in known if key.key_id != key_id]

    keys.change(change)
    return gone[0]


def _record(state: State, key: ApiKey, actor: str, reason: str) -> None:
    figures = {"name": key.name, "role": key.role, "apps": list(key.apps)}
    state.decide(Decision("key", f"key {key.key_id}", actor, reason, figures))
