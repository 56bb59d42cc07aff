"""How keys are made, replaced and revoked, and what the ledger says of it."""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256

import pytest

from mobile_sentiment_ops.adapters.memory import FixedClock, MemoryPorts
from mobile_sentiment_ops.app.api_keys import add_key, new_key, revoke_key
from mobile_sentiment_ops.errors import NotFound, SettingsError, StoreError
from mobile_sentiment_ops.types import ApiKey


def _add(ports: MemoryPorts, name: str, **more: object) -> tuple[str, ApiKey]:
    text, new = new_key(name, now=ports.clock.now(), **{"role": "predict", "apps": (), "days": None} | more)  # type: ignore[arg-type]
    add_key(ports.keys, ports.state, new, actor="ann")
    return text, new


def test_keys_are_long_random_and_kept_as_a_hash(memory: MemoryPorts) -> None:
    made = [_add(memory, f"caller-{number}") for number in range(20)]
    assert len({text for text, _ in made}) == 20
    for (text, key), kept in zip(made, memory.keys.list(), strict=True):
        assert len(text.removeprefix("mso_")) == 43  # 256 bits, six a character
        assert (kept.digest, kept.last4, kept.key_id) == (sha256(text.encode()).hexdigest(), text[-4:], key.key_id)


def test_a_name_has_two_live_keys_so_that_one_can_replace_the_other(memory: MemoryPorts) -> None:
    (_, old), (_, new) = _add(memory, "shop"), _add(memory, "shop")
    with pytest.raises(StoreError, match=f"mso keys revoke {old.key_id}` or {new.key_id}"):
        _add(memory, "shop")
    _add(memory, "bank")
    revoke_key(memory.keys, memory.state, old.key_id, actor="ann")
    _, third = _add(memory, "shop")
    assert [key.key_id for key in memory.keys.list() if key.name == "shop"] == [new.key_id, third.key_id]


def test_a_key_that_has_ended_makes_way(memory: MemoryPorts, clock: FixedClock) -> None:
    _add(memory, "shop", days=1)
    _, lasting = _add(memory, "shop")
    clock.advance(timedelta(days=1))
    _, new = _add(memory, "shop", days=1)
    assert [key.key_id for key in memory.keys.list()] == [lasting.key_id, new.key_id]


def test_no_two_keys_have_one_meter_and_a_free_one_is_taken_again(memory: MemoryPorts) -> None:
    made = [_add(memory, name)[1] for name in ("a", "b", "c")]
    revoke_key(memory.keys, memory.state, made[1].key_id, actor="ann")
    _add(memory, "d")
    _add(memory, "e")
    assert [(key.name, key.meter) for key in memory.keys.list()] == [("a", 1), ("c", 3), ("d", 2), ("e", 4)]


def test_the_ledger_knows_of_every_key_and_holds_none(memory: MemoryPorts) -> None:
    text, key = _add(memory, "shop", apps=["shop", "bank", "shop"], role="operate", days=3)
    revoke_key(memory.keys, memory.state, key.key_id, actor="bob")
    made, gone = (entry.decision for entry in memory.state.ledger())
    assert (made.action, made.subject, made.actor) == ("key", f"key {key.key_id}", "ann")
    assert made.reason == "made for shop, to operate, bank, shop, until 2025-03-04 12:00"
    assert made.figures == {"name": "shop", "role": "operate", "apps": ["bank", "shop"]}
    assert (gone.action, gone.actor, gone.reason) == ("key", "bob", "revoked, was of shop")
    for secret in (text, key.digest, key.last4):
        assert secret not in repr((made, gone))


def test_what_is_refused_leaves_no_trace(memory: MemoryPorts) -> None:
    for name, apps in (("", ()), ("a b", ()), ("-a", ()), ("a" * 65, ()), ("é", ()), ("shop\n", ()), ("shop", ("",))):
        with pytest.raises(SettingsError, match="letters, digits"):
            _add(memory, name, apps=apps)
    with pytest.raises(NotFound, match="there is no key 1f09a2c4"):
        revoke_key(memory.keys, memory.state, "1f09a2c4", actor="ann")
    assert memory.state.ledger() == []
    assert list(memory.keys.list()) == []
