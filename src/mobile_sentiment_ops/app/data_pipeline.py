"""DataHandler, the data side: takes reviews in, keeps them, gives them back, makes datasets of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import polars as pl
import structlog

from mobile_sentiment_ops.data.columns import USUAL_NAMES, recognise, require_text
from mobile_sentiment_ops.data.dataset import Dataset, Rebuilt, build_dataset, rebuild
from mobile_sentiment_ops.data.duplicates import Fresh, KeySet, SeenReviews, identify, row_keys
from mobile_sentiment_ops.data.language import detect_languages
from mobile_sentiment_ops.data.manifest import Manifest, ManifestDiff, diff_manifests, read_manifest
from mobile_sentiment_ops.data.quality import AuthorDays, QualityReport, quality
from mobile_sentiment_ops.data.readers import Batch, read_batches
from mobile_sentiment_ops.data.reviews import (
    REJECTS_SCHEMA,
    REJECTS_TABLE,
    REVIEWS_TABLE,
    STORED_FORMAT,
    STORED_SCHEMA,
    admitted,
    current_reviews,
)
from mobile_sentiment_ops.data.validation import Checked, check
from mobile_sentiment_ops.errors import FormatTooNew, NotFound, UnreadableFile
from mobile_sentiment_ops.ports import Clock, Datasets, Files, Tables
from mobile_sentiment_ops.settings import Ingest, Training
from mobile_sentiment_ops.types import Decision, IngestReport, TrainingBatch

log = structlog.get_logger()

STORES = ("google-play", "app-store")
"""Sources that are watched each by itself."""

Opener = Callable[[str], AbstractContextManager[BinaryIO]]
Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class DataHandler:
    """Reviews over the ports it is given: tables, files and datasets."""

    tables: Tables
    files: Files
    manifests: Datasets
    clock: Clock
    settings: Ingest
    open_url: Opener | None = None
    decide: Callable[[Decision], object] = lambda _: None
    beat: Callable[..., object] = lambda _name, **_how: None
    actor: str = "unknown"

    # --- in

    def ingest(
        self,
        sources: Sequence[str],
        *,
        columns: Mapping[str, str] | None = None,
        app: str | None = None,
        progress: Progress | None = None,
    ) -> IngestReport:
        """Read each file, keep what was never seen, and say what became of every row.

        `columns` maps names in the files to parts of a review and goes before the settings; `app` is
        the app of rows that name none; `progress` hears the rows read so far. Raises UnreadableFile
        for a file that cannot be read; what was read before it stays, and is skipped next time.
        """
        extra = {**self.settings.columns, **(columns or {})}
        return self._take_in({source: self._read(source, extra) for source in sources}, app, progress)

    def ingest_frames(
        self, name: str, frames: Iterable[pl.DataFrame], *, progress: Progress | None = None
    ) -> IngestReport:
        """The same for rows that are made or fetched: frames with columns of REVIEW_SCHEMA."""
        return self._take_in({name: _numbered(name, frames, self.settings.batch_rows)}, None, progress)

    def _read(self, source: str, extra: Mapping[str, str]) -> Iterator[Batch]:
        known = partial(recognise, extra=extra)
        with self._open(source) as stream:
            yield from read_batches(stream, source, known, batch_rows=self.settings.batch_rows)

    def _open(self, source: str) -> AbstractContextManager[BinaryIO]:
        if "://" in source:
            if self.open_url is None:
                raise UnreadableFile(f"{source} is an address; expected a file of this machine here")
            return self.open_url(source)
        try:
            return Path(source).open("rb")
        except IsADirectoryError as err:
            raise UnreadableFile(f"{source} is a folder; name the files in it") from err
        except OSError as err:
            raise UnreadableFile(f"{source} cannot be opened: {(err.strerror or str(err)).lower()}") from err

    def _take_in(
        self, sources: Mapping[str, Iterator[Batch]], app: str | None, progress: Progress | None
    ) -> IngestReport:
        tally, first = _Tally(self.clock.now()), next(iter(sources), "").partition(" ")[0]
        part, labels = f"ingest/{first}" if first in STORES else "ingest", 0
        seen, seen_rejects = self._seen_reviews(), self._seen_rejects()
        try:
            for source, batches in sources.items():
                for batch in batches:
                    checked = check(batch, source, app=app, max_text_chars=self.settings.max_text_chars)
                    fresh = seen.sort_out(identify(checked.reviews))
                    self._append_reviews(fresh.reviews)
                    self._append_rejects(checked.rejects, seen_rejects)
                    tally.count(batch, checked, fresh)
                    labels += fresh.reviews["sentiment"].count() + fresh.reviews["rating"].count()
                    if progress is not None:
                        progress(tally.counts["read"])
        except Exception as err:
            self.beat(part, ok=False, note=str(err) or type(err).__name__)
            raise
        else:
            self.beat(part)
            if labels:
                self.beat("labels")
        finally:  # what was read before an error stays
            report = tally.report(tuple(sources), self.clock.now())
            if report.read:
                self.decide(self._decision(report))
        log.info("ingested", read=report.read, new=report.new, updated=report.updated, rejected=report.rejected)
        return report

    def _decision(self, report: IngestReport) -> Decision:
        """What the ledger keeps of it: counts and names of files, never a text, an author or a folder."""
        counts = {name: getattr(report, name) for name in ("read", "new", "updated", "duplicate", "rejected")}
        version = self.tables.version(REVIEWS_TABLE)
        sources = [source.partition("?")[0].rstrip("/").rpartition("/")[2] for source in report.sources]
        figures = {**counts, "reasons": dict(report.reasons), "table_version": version, "sources": sources}
        reason = f"{report.new:,} new and {report.updated:,} changed reviews among {report.read:,} rows"
        return Decision("ingest", f"{REVIEWS_TABLE} {version}", self.actor, reason, figures)

    def _seen_reviews(self) -> SeenReviews:
        seen = SeenReviews()
        for found in self.tables.batches(REVIEWS_TABLE, ["review_id", "content_hash"]):
            known = cast(pl.DataFrame, pl.from_arrow(found))
            seen.add(known["review_id"], known["content_hash"])
        return seen

    def _seen_rejects(self) -> KeySet:
        seen = KeySet()
        for found in self.tables.batches(REJECTS_TABLE, _REJECT):
            seen.add(row_keys(cast(pl.DataFrame, pl.from_arrow(found))))
        return seen

    def _append_reviews(self, reviews: pl.DataFrame) -> None:
        if not reviews.height:
            return
        untold = reviews["language"].is_null()
        detected = pl.Series(detect_languages(reviews["review_text"].filter(untold)), dtype=pl.Utf8())
        languages = reviews["language"].scatter(untold.arg_true(), detected)
        self._append(REVIEWS_TABLE, reviews.with_columns(languages), STORED_SCHEMA)

    def _append_rejects(self, rejects: pl.DataFrame, seen: KeySet) -> None:
        """A rejected row is kept once, however often its file is read."""
        keys = row_keys(rejects.select(_REJECT))
        unseen = rejects.filter(~seen.holds(keys))
        seen.add(keys)
        if unseen.height:
            self._append(REJECTS_TABLE, unseen, REJECTS_SCHEMA)

    def _append(self, table: str, rows: pl.DataFrame, schema: pl.Schema) -> None:
        received_at = pl.lit(self.clock.now()).alias("received_at")
        stored = rows.with_columns(received_at, pl.lit(STORED_FORMAT).alias("format"))
        self.tables.append(table, stored.select(schema.names()).cast(schema).to_arrow())

    # --- out

    def reviews(
        self, *, app: str | None = None, since: datetime | None = None, batches: Sequence[TrainingBatch] = ()
    ) -> pl.DataFrame:
        """Current reviews in the order they came: of one app or of all, submitted at or after `since`, and as they
        are without what these training batches keep out."""
        current = current_reviews(admitted(self._stored(app), batches))
        return current if since is None else current.filter(pl.col("submitted_at") >= since)

    def _stored(self, app: str | None = None) -> pl.DataFrame:
        """All rows in the order they came, superseded ones too."""
        found = self.tables.read(REVIEWS_TABLE, equals={"app": app} if app is not None else None)
        if not found.num_columns:
            return pl.DataFrame(schema=STORED_SCHEMA)
        rows = cast(pl.DataFrame, pl.from_arrow(found))
        if (newest := cast(int, rows["format"].max() or 0)) > STORED_FORMAT:
            raise FormatTooNew(
                f"table {REVIEWS_TABLE} holds rows of format {newest}, this release reads up to {STORED_FORMAT}; "
                f"update it"
            )
        return rows.select(STORED_SCHEMA.names())

    def build_dataset(
        self,
        training: Training,
        *,
        min_test_rows: int = 1,
        not_before: datetime | None = None,
        judged: str | None = None,
        batches: Sequence[TrainingBatch] = (),
    ) -> Dataset:
        """Split the labelled reviews of now that `batches` let train by time, and keep the manifest of who is where.

        The test rows of the kept dataset `judged` judge again until enough newer ones have come.
        """
        version = self.tables.version(REVIEWS_TABLE)
        dataset = build_dataset(
            self.reviews(batches=batches),
            test_share=training.test_share,
            validation_share=training.validation_share,
            min_test_rows=min_test_rows,
            max_test_rows=training.max_test_rows,
            seed=training.seed,
            not_before=not_before,
            judged=self._judged(judged),
            source=f"{REVIEWS_TABLE}, version {version}",
        )
        self.manifests.put(dataset.fingerprint, dataset.manifest)
        return dataset

    def rejected_rows(self) -> int:
        """How many rows were refused so far."""
        return sum(batch.num_rows for batch in self.tables.batches(REJECTS_TABLE, ["reason"]))

    def _judged(self, fingerprint: str | None) -> Manifest | None:
        """A kept dataset whose rows judged; None when it is not kept any more."""
        if fingerprint is None:
            return None
        try:
            return self.dataset(fingerprint)
        except NotFound as err:
            log.warning("test rows cannot be kept, others judge", error=str(err))
            return None

    def datasets(self) -> list[str]:
        """Fingerprints of the kept datasets, oldest first."""
        return self.manifests.list()

    def dataset(self, fingerprint: str) -> Manifest:
        """The kept manifest whose fingerprint starts so; NotFound for none or several."""
        return read_manifest(self.manifests.get(fingerprint))

    def diff_datasets(self, before: str, after: str) -> ManifestDiff:
        """What became of the reviews of one kept dataset in another."""
        return diff_manifests(self.dataset(before), self.dataset(after))

    def rebuild_dataset(self, dataset: str | Manifest) -> Rebuilt:
        """A kept dataset, or that of a manifest, again: from all rows that were ever taken in and are still there."""
        return rebuild(self.dataset(dataset) if isinstance(dataset, str) else dataset, self._stored())

    def known_ids(self) -> set[str]:
        """The `review_id` of every row that was ever taken in and is still there."""
        return set(self._stored()["review_id"])

    def quality(self) -> QualityReport:
        """What is odd about the current reviews."""
        return quality(self.reviews())

    def store(self, name: str, data: bytes) -> str:
        """Keep a file in the bucket; returns its address."""
        return self.files.write(name, data)


_REJECT = ["source", "line", "reason", "row"]


def _numbered(name: str, frames: Iterable[pl.DataFrame], batch_rows: int) -> Iterator[Batch]:
    """Frames as a reader's batches: rows are numbered from 1."""
    row = 1
    for frame in frames:
        mapping = {column: column for column in frame.columns if column in USUAL_NAMES}
        require_text(name, frame.columns, mapping)
        for rows in frame.select(list(mapping)).iter_slices(batch_rows):
            yield Batch(rows, range(row, row + rows.height), mapping)
            row += rows.height


@dataclass(slots=True)
class _Tally:
    """The report while it grows."""

    started_at: datetime
    counts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    mapping: dict[str, str] = field(default_factory=dict)
    authors: AuthorDays = field(default_factory=AuthorDays)

    def count(self, batch: Batch, checked: Checked, fresh: Fresh) -> None:
        read = batch.rows.height + len(batch.rejected)
        self.counts.update(read=read, new=fresh.new, updated=fresh.updated, duplicate=fresh.duplicate)
        self.reasons.update(checked.rejects["rule"])
        self.mapping.update(batch.mapping)
        if checked.authors is not None:
            self.authors.add(checked.authors, checked.reviews["submitted_at"])

    def report(self, sources: tuple[str, ...], finished_at: datetime) -> IngestReport:
        burst = self.authors.finding()
        read, new, updated, duplicate = (self.counts[name] for name in ("read", "new", "updated", "duplicate"))
        reasons, seconds = dict(self.reasons.most_common()), (finished_at - self.started_at).total_seconds()
        notes = (burst.sentence,) if burst.exceeded else ()
        rejected, mapping = self.reasons.total(), dict(self.mapping)
        return IngestReport(sources, read, new, updated, duplicate, rejected, reasons, mapping, seconds, notes)
