"""What every `Files` does."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobile_sentiment_ops.adapters.files import FsspecFiles
from mobile_sentiment_ops.adapters.memory import MemoryFiles
from mobile_sentiment_ops.errors import NotFound, StoreError
from mobile_sentiment_ops.ports import Files


@pytest.fixture(params=["memory", "folder", "object store"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    if request.param == "memory":
        return MemoryFiles()
    address = str(tmp_path / "bucket") if request.param == "folder" else f"memory://{tmp_path.name}/bucket"
    return FsspecFiles(address)


def test_a_file_reads_as_it_was_written(files: Files) -> None:
    data = bytes(range(256)) * 10
    address = files.write("data_label/labeled_1.csv", data)
    assert address.endswith("/data_label/labeled_1.csv")
    assert files.read("data_label/labeled_1.csv") == data


def test_a_second_write_replaces_the_first(files: Files) -> None:
    files.write("report.html", b"a long first report")
    files.write("report.html", b"short")
    assert files.read("report.html") == b"short"
    files.write("report.html", b"")
    assert files.read("report.html") == b""


def test_names_are_listed_by_prefix_and_sorted(files: Files) -> None:
    assert files.list() == []
    for name in ("b.txt", "reports/drift_2.html", "reports/drift_1.html", "reports/eda/x.png", "reportsold/y"):
        files.write(name, b"x")
    assert files.list() == [
        "b.txt",
        "reports/drift_1.html",
        "reports/drift_2.html",
        "reports/eda/x.png",
        "reportsold/y",
    ]
    assert files.list("reports/") == ["reports/drift_1.html", "reports/drift_2.html", "reports/eda/x.png"]
    assert files.list("reports/dr") == ["reports/drift_1.html", "reports/drift_2.html"]
    assert files.list("nothing/here") == []


def test_what_is_not_there_is_not_found(files: Files) -> None:
    files.write("reports/drift_1.html", b"x")
    for name in ("reports/drift_2.html", "reports", "other/drift_1.html", "reports/drift_1.html/below"):
        with pytest.raises(NotFound, match=name):
            files.read(name)


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../outside", "a/../../outside", "a//b", "a/./b", "a\\b", "a\0b", "gs://x/y", "a/"]
)
def test_a_name_that_leads_elsewhere_is_refused(files: Files, name: str) -> None:
    with pytest.raises(StoreError, match="no file name"):
        files.write(name, b"x")
    with pytest.raises(StoreError, match="no file name"):
        files.read(name)
