"""Every kind of model keeps the contract of registry/checks.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mobile_sentiment_ops.models.kinds import KINDS
from mobile_sentiment_ops.registry.checks import CHECKS


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_the_contract(kind: str, check: Callable[[str], None]) -> None:
    check(kind)
