"""The bucket in a local folder: what is special to a disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobile_sentiment_ops.adapters.files import FsspecFiles
from mobile_sentiment_ops.errors import StoreError


def test_what_a_crash_left_half_written_is_not_listed(tmp_path: Path) -> None:
    files = FsspecFiles(str(tmp_path))
    files.write("reports/drift_1.html", b"x")
    (tmp_path / "reports" / ".part-0123").write_bytes(b"half")
    assert files.list() == ["reports/drift_1.html"]
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == [".part-0123", "drift_1.html"]


def test_a_write_that_cannot_be_made_says_where(tmp_path: Path) -> None:
    files = FsspecFiles(str(tmp_path))
    files.write("reports", b"a file where a folder is needed")
    with pytest.raises(StoreError, match=r"reports/drift_1\.html"):
        files.write("reports/drift_1.html", b"x")
    assert files.list() == ["reports"]


def test_an_address_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(StoreError, match="carrier-pigeon"):
        FsspecFiles("carrier-pigeon://coop").read("x")
