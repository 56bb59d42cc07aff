"""What only keys in a file do: who may read them, and what a damaged file says."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mobile_sentiment_ops.adapters.keys import FileKeys
from mobile_sentiment_ops.app.api_keys import new_key, with_key
from mobile_sentiment_ops.errors import FormatTooNew, StoreError

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "workspace" / "keys.json"


def _add(file: Path, name: str) -> str:
    text, new = new_key(name, "predict", ["shop"], days=1.5, now=NOON)
    FileKeys(file).change(lambda keys: with_key(keys, new))
    return text


def test_the_file_is_its_owners_alone_and_holds_no_key(file: Path) -> None:
    before = os.umask(0)
    try:
        text = _add(file, "shop")
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert text not in file.read_text()
    assert text[8:-4] not in file.read_text()
    assert [path.name for path in file.parent.iterdir()] == ["keys.json"]


def test_changes_at_the_same_time_are_all_kept(file: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: _add(file, f"caller-{number}"), range(24)))
    kept = FileKeys(file).list()
    assert sorted(key.name for key in kept) == sorted(f"caller-{number}" for number in range(24))
    assert sorted(key.meter for key in kept) == list(range(1, 25))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"keys": []}', b'{"format": 1}', b'{"format": 1, "keys": [{"name": "shop"}]}', b"\xff"]
)
def test_a_damaged_file_says_what_to_do(file: Path, content: bytes) -> None:
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"keys\.json cannot be read: .*; put a good copy there"):
        FileKeys(file).list()
    with pytest.raises(StoreError):
        _add(file, "shop")
    assert file.read_bytes() == content


def test_a_later_format_is_left_to_later_releases(file: Path) -> None:
    _add(file, "shop")
    later = json.loads(file.read_text()) | {"format": 2, "keys": "elsewhere"}
    file.write_text(json.dumps(later))
    with pytest.raises(FormatTooNew, match="format 2"):
        FileKeys(file).list()


def test_the_file_of_format_1_is_read_as_it_was_written(file: Path) -> None:
    file.parent.mkdir()
    file.write_text(
        '{"format": 1, "keys": [{"key_id": "1f09a2c4", "name": "shop", "role": "operate", "apps": ["shop"], "digest": '
        f'"{"ab" * 32}", "last4": "wXyZ", "meter": 3, "created_at": "2025-03-01T12:00:00Z", "expires_at": null}}]}}'
    )
    (key,) = FileKeys(file).list()
    assert (key.key_id, key.role, key.apps, key.meter) == ("1f09a2c4", "operate", ("shop",), 3)
    assert (key.digest, key.created_at, key.expires_at) == ("ab" * 32, NOON, None)
