"""What every `Keys` does."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mobile_sentiment_ops.adapters.keys import FileKeys
from mobile_sentiment_ops.ports import Keys
from mobile_sentiment_ops.types import ApiKey

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
SHOP = ApiKey("1f09a2c4", "shop", "predict", (), "ab" * 32, "wXyZ", 1, NOON, NOON.replace(microsecond=5))
BANK = ApiKey("2f09a2c4", "bank", "operate", ("bank", "vault"), "cd" * 32, "aBcD", 2, NOON)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return FileKeys(tmp_path / "new" / "keys.json")


def test_what_a_change_makes_is_there_in_its_order(keys: Keys) -> None:
    assert list(keys.list()) == []
    keys.change(lambda known: [*known, SHOP])
    keys.change(lambda known: [*known, BANK])
    assert list(keys.list()) == [SHOP, BANK]
    keys.change(lambda known: [key for key in known if key != SHOP])
    assert list(keys.list()) == [BANK]


def test_a_change_that_fails_changes_nothing(keys: Keys) -> None:
    keys.change(lambda known: [*known, SHOP])
    before = keys.stamp()

    def fail(known: Sequence[ApiKey]) -> Sequence[ApiKey]:
        raise LookupError(len(known))

    with pytest.raises(LookupError):
        keys.change(fail)
    assert (list(keys.list()), keys.stamp()) == ([SHOP], before)
    keys.change(lambda known: [*known, BANK])
    assert list(keys.list()) == [SHOP, BANK]


def test_the_stamp_is_another_one_after_every_change(keys: Keys) -> None:
    seen = [keys.stamp()]
    for kept in ([SHOP], [BANK], []):
        keys.change(lambda _, kept=kept: kept)  # type: ignore[misc]
        seen.append(keys.stamp())
        assert keys.stamp() == seen[-1]
    assert len(set(seen)) == 4
