"""The manifest of a dataset: which review, with which content and label, is in which part of it.

It is written once as Parquet, kept with the dataset and with every model, and outlives changes of
the reviews table. Its fingerprint covers what it says, not its bytes, so that it stays the same
whichever library wrote them; where the rows were found is a hint that the fingerprint leaves out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from io import BytesIO
from typing import cast

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from mobile_sentiment_ops.errors import FormatTooNew, UnreadableFile

MANIFEST_FORMAT = 1
MANIFEST_SCHEMA = pl.Schema(
    {
        "review_id": pl.Utf8(),
        "content_hash": pl.Utf8(),
        "label": pl.Int8(),
        "label_source": pl.Utf8(),
        "split": pl.Utf8(),
    }
)
"""`label` is an index into LABELS, `split` one of SPLITS."""

SPLITS = ("train", "validation", "test")

_ABOUT = b"mobile_sentiment_ops.dataset"


@dataclass(frozen=True)
class Manifest:
    """Who is where: `rows` have the columns of MANIFEST_SCHEMA, one a review, in the order of
    `review_id`; `source` says where they were found."""

    rows: pl.DataFrame
    source: str

    @classmethod
    def of(cls, parts: Mapping[str, pl.DataFrame], source: str) -> Manifest:
        """The manifest of frames by the name of their part."""
        rows = [frame.with_columns(split=pl.lit(name)).select(MANIFEST_SCHEMA.names()) for name, frame in parts.items()]
        return cls(pl.concat(rows).cast(MANIFEST_SCHEMA).sort("review_id"), source)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all rows, in hex. NUL ends each field, as no field holds one."""
        fields = self.rows.select(pl.concat_str(pl.all().cast(pl.Utf8()), separator="\0")).to_series()
        return sha256("\0".join([f"dataset {MANIFEST_FORMAT}", *fields, ""]).encode()).hexdigest()

    def to_bytes(self) -> bytes:
        """The manifest as a Parquet file, about 33 bytes a review."""
        about = {"format": MANIFEST_FORMAT, "fingerprint": self.fingerprint, "source": self.source}
        table = self.rows.to_arrow().replace_schema_metadata({_ABOUT: json.dumps(about).encode()})
        file = BytesIO()
        repeating = ["label", "label_source", "split"]
        pq.write_table(table, file, compression="zstd", use_dictionary=repeating)
        return file.getvalue()


def read_manifest(data: bytes) -> Manifest:
    """The manifest in these bytes.

    Raises UnreadableFile when they are none or were changed, FormatTooNew for a later format.
    """
    try:
        table = pq.read_table(pa.BufferReader(data))
        about = json.loads((table.schema.metadata or {})[_ABOUT])
        if about["format"] > MANIFEST_FORMAT:
            raise FormatTooNew(
                f"a dataset manifest is of format {about['format']}, this release reads up to {MANIFEST_FORMAT}; "
                f"update it"
            )
        rows = cast(pl.DataFrame, pl.from_arrow(table)).select(MANIFEST_SCHEMA.names()).cast(MANIFEST_SCHEMA)
        manifest = Manifest(rows, about["source"])
        kept = about["fingerprint"]
    except (pa.ArrowException, pl.exceptions.PolarsError, OSError, KeyError, TypeError, ValueError) as err:
        raise UnreadableFile(
            f"a dataset manifest of {len(data)} bytes cannot be read ({err}); expected a Parquet file that this "
            f"program wrote; build the dataset again with `mso retrain`"
        ) from err
    if manifest.fingerprint != kept:
        raise UnreadableFile(
            f"a dataset manifest was changed: its rows have the fingerprint {manifest.fingerprint[:12]}, it was "
            f"written with {kept[:12]}; restore the file, or build the dataset again with `mso retrain`"
        )
    return manifest


@dataclass(frozen=True, slots=True)
class ManifestDiff:
    """What differs between two manifests, as frames of `review_id` with `before` and `after` where
    there are both: the part for added, removed and moved reviews, the label for relabelled ones, the
    content hash for edited ones."""

    added: pl.DataFrame
    removed: pl.DataFrame
    relabelled: pl.DataFrame
    moved: pl.DataFrame
    edited: pl.DataFrame

    def counts(self) -> dict[str, int]:
        """How many reviews changed in which way; one may count in several."""
        return {name: getattr(self, name).height for name in self.__slots__}


def diff_manifests(before: Manifest, after: Manifest) -> ManifestDiff:
    """What became of the reviews of one dataset in another.

    >>> def manifest(*rows):
    ...     return Manifest(pl.DataFrame(rows, schema=MANIFEST_SCHEMA, orient="row"), "reviews")
    >>> old = manifest(("a", "h1", 0, "stars", "train"), ("b", "h2", 2, "stars", "test"))
    >>> new = manifest(("a", "h1", 1, "human", "train"), ("c", "h3", 2, "stars", "test"))
    >>> diff_manifests(old, new).counts()
    {'added': 1, 'removed': 1, 'relabelled': 1, 'moved': 0, 'edited': 0}
    """
    both = before.rows.join(after.rows, on="review_id", suffix="_after", maintain_order="left")

    def changed(column: str) -> pl.DataFrame:
        pair = both.select("review_id", before=column, after=f"{column}_after")
        return pair.filter(pl.col("before") != pl.col("after"))

    def only(these: Manifest, others: Manifest) -> pl.DataFrame:
        return these.rows.join(others.rows, on="review_id", how="anti", maintain_order="left").select(
            "review_id", "split"
        )

    return ManifestDiff(
        only(after, before), only(before, after), changed("label"), changed("split"), changed("content_hash")
    )
