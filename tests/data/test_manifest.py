from __future__ import annotations

import json
import secrets
from io import BytesIO

import polars as pl
import pyarrow.parquet as pq
import pytest

from mobile_sentiment_ops.data.manifest import MANIFEST_SCHEMA, Manifest, diff_manifests, read_manifest
from mobile_sentiment_ops.errors import FormatTooNew, UnreadableFile

Row = tuple[str, str, int, str, str]
ROWS: tuple[Row, ...] = (
    ("a", "h1", 0, "stars", "train"),
    ("b", "h2", 1, "human", "validation"),
    ("c", "h3", 2, "imported", "test"),
)


def manifest(*rows: Row, source: str = "reviews, version 3") -> Manifest:
    return Manifest(pl.DataFrame(rows, schema=MANIFEST_SCHEMA, orient="row"), source)


def rewritten(data: bytes, *, rows: pl.DataFrame | None = None, **about: object) -> bytes:
    """The file again with other rows or another description."""
    table = pq.read_table(BytesIO(data))
    [(key, kept)] = table.schema.metadata.items()
    other = table if rows is None else rows.to_arrow()
    file = BytesIO()
    described = json.dumps(json.loads(kept) | about).encode()
    pq.write_table(other.replace_schema_metadata({key: described}), file)
    return file.getvalue()


def test_what_is_written_is_read_back() -> None:
    written = manifest(*ROWS)
    read = read_manifest(written.to_bytes())
    assert read.rows.equals(written.rows)
    assert read.rows.schema == MANIFEST_SCHEMA
    assert (read.source, read.fingerprint) == (written.source, written.fingerprint)
    assert manifest(*ROWS).to_bytes() == written.to_bytes()


def test_the_fingerprint_covers_the_rows_and_nothing_else() -> None:
    base = manifest(*ROWS)
    assert base.fingerprint == manifest(*ROWS, source="reviews, version 4").fingerprint
    changed: list[Row] = [
        ("A", "h1", 0, "stars", "train"),
        ("a", "h9", 0, "stars", "train"),
        ("a", "h1", 2, "stars", "train"),
        ("a", "h1", 0, "human", "train"),
        ("a", "h1", 0, "stars", "test"),
    ]
    others = [manifest(*ROWS[1:]), *(manifest(row, *ROWS[1:]) for row in changed)]
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)
    moved_border = manifest(("ab", "c", 0, "stars", "train")), manifest(("a", "bc", 0, "stars", "train"))
    assert moved_border[0].fingerprint != moved_border[1].fingerprint


def test_another_writer_changes_the_bytes_and_not_the_fingerprint() -> None:
    data = manifest(*ROWS).to_bytes()
    other = rewritten(data)
    assert other != data
    assert read_manifest(other).fingerprint == manifest(*ROWS).fingerprint


def test_parts_are_put_in_the_order_of_their_ids() -> None:
    parts = {name: manifest(row).rows.drop("split") for row in reversed(ROWS) for name in [row[-1]]}
    assert Manifest.of(parts, "reviews").rows.equals(manifest(*ROWS).rows)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"review_id,label\n", secrets.token_bytes(200)])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(UnreadableFile, match=r"cannot be read .* expected a Parquet file that this program wrote"):
        read_manifest(data)


def test_another_parquet_file_is_refused() -> None:
    file = BytesIO()
    manifest(*ROWS).rows.write_parquet(file)
    with pytest.raises(UnreadableFile, match="cannot be read"):
        read_manifest(file.getvalue())
    with pytest.raises(UnreadableFile, match="cannot be read"):
        read_manifest(rewritten(manifest(*ROWS).to_bytes(), rows=pl.DataFrame({"review_id": ["a"]})))
    with pytest.raises(UnreadableFile, match="cannot be read"):
        read_manifest(rewritten(manifest(*ROWS).to_bytes(), format="one"))


def test_changed_rows_are_refused() -> None:
    data = rewritten(manifest(*ROWS).to_bytes(), rows=manifest(*ROWS[:2]).rows)
    with pytest.raises(UnreadableFile, match="was changed: its rows have the fingerprint"):
        read_manifest(data)


def test_a_later_format_is_refused() -> None:
    with pytest.raises(FormatTooNew, match="format 2, this release reads up to 1; update it"):
        read_manifest(rewritten(manifest(*ROWS).to_bytes(), format=2))


def test_ninety_thousand_rows_take_three_megabytes() -> None:
    rows = [(secrets.token_hex(16), secrets.token_hex(16), n % 3, "stars", "train") for n in range(90_000)]
    assert len(manifest(*rows).to_bytes()) < 3.3e6


def test_a_diff_says_who_came_went_moved_and_changed() -> None:
    before = manifest(*ROWS, ("d", "h4", 0, "stars", "train"), ("e", "h5", 0, "stars", "train"))
    after = manifest(
        *ROWS[1:], ("d", "h9", 2, "human", "test"), ("e", "h5", 0, "imported", "train"), ("f", "h6", 0, "stars", "test")
    )
    diff = diff_manifests(before, after)
    assert diff.counts() == {"added": 1, "removed": 1, "relabelled": 1, "moved": 1, "edited": 1}
    assert diff.added.rows() == [("f", "test")]
    assert diff.removed.rows() == [("a", "train")]
    assert diff.relabelled.rows() == [("d", 0, 2)]
    assert diff.moved.rows() == [("d", "train", "test")]
    assert diff.edited.rows() == [("d", "h4", "h9")]
    assert set(diff_manifests(after, after).counts().values()) == {0}
