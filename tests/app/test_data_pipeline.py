from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import polars as pl
import pyarrow as pa
import pytest

from mobile_sentiment_ops.adapters.datasets import FolderDatasets
from mobile_sentiment_ops.adapters.memory import FixedClock, MemoryFiles, MemoryTables
from mobile_sentiment_ops.app.data_pipeline import DataHandler
from mobile_sentiment_ops.data.reviews import REJECTS_TABLE, REVIEWS_TABLE, STORED_SCHEMA
from mobile_sentiment_ops.errors import FormatTooNew, NotFound, StoreError, UnreadableFile
from mobile_sentiment_ops.settings import Ingest, Training
from mobile_sentiment_ops.types import IngestReport

HEADER = "id,app,date,rating,text\n"
WEEK = (
    "r1,lamp,2026-01-01,5,Love the new widget\n"
    "r2,lamp,2026-01-02,1,Crashes since the update\n"
    "r3,torch,2026-01-03,3,ใช้งานง่าย แต่ช้า\n"
)


@dataclass
class World:
    """A handler over memory, and a folder to write files in."""

    folder: Path
    clock: FixedClock
    tables: MemoryTables
    files: MemoryFiles
    datasets: FolderDatasets
    data: DataHandler

    def ingest(self, text: str, name: str = "reviews.csv", **more: object) -> IngestReport:
        file = self.folder / name
        file.write_text(text, "utf-8")
        return self.data.ingest([str(file)], **more)  # type: ignore[arg-type]


def counts(report: IngestReport) -> tuple[int, int, int, int, int]:
    return report.read, report.new, report.updated, report.duplicate, report.rejected


@pytest.fixture
def make_world(tmp_path: Path, clock: FixedClock) -> Callable[..., World]:
    def make(
        tables: MemoryTables | None = None,
        settings: Mapping[str, object] | None = None,
        open_url: Callable[[str], AbstractContextManager[BinaryIO]] | None = None,
    ) -> World:
        tables, files, datasets = tables or MemoryTables(), MemoryFiles(), FolderDatasets(tmp_path / "datasets")
        ingest = Ingest.model_validate(settings or {})
        handler = DataHandler(
            tables=tables, files=files, manifests=datasets, clock=clock, settings=ingest, open_url=open_url
        )
        return World(tmp_path, clock, tables, files, datasets, handler)

    return make


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


# --- taking in


def test_a_file_is_taken_in_once_however_often_it_is_read(world: World) -> None:
    assert counts(world.ingest(HEADER + WEEK)) == (3, 3, 0, 0, 0)
    assert counts(world.ingest(HEADER + WEEK)) == (3, 0, 0, 3, 0)
    assert world.data.reviews().height == 3


def test_a_stored_review_has_its_language_hash_time_and_format(world: World) -> None:
    world.ingest(HEADER + WEEK)
    frame = world.data.reviews()
    assert frame.schema == STORED_SCHEMA
    assert frame["language"].to_list() == ["en", "en", "th"]
    assert frame["received_at"].unique().to_list() == [world.clock.now()]
    assert frame["format"].unique().to_list() == [1]
    assert frame["content_hash"].n_unique() == 3


def test_an_edited_review_is_a_new_row_and_the_latest_counts(world: World) -> None:
    world.ingest(HEADER + WEEK)
    report = world.ingest(HEADER + WEEK.replace("Crashes since the update", "Fixed now").replace(",1,", ",5,"))
    assert counts(report) == (3, 0, 1, 2, 0)
    assert world.tables.read(REVIEWS_TABLE).num_rows == 4
    current = world.data.reviews().filter(pl.col("review_id") == "r2")
    assert current.select("rating", "review_text").rows() == [(5, "Fixed now")]


def test_ids_that_repeat_within_a_file_are_edits_of_one_review(world: World) -> None:
    text = HEADER + "r1,lamp,2026-01-01,5,one\nr1,lamp,2026-01-02,5,two\nr1,lamp,2026-01-01,5,one\n"
    assert counts(world.ingest(text)) == (3, 1, 1, 1, 0)
    assert counts(world.ingest(text)) == (3, 0, 0, 3, 0)
    assert world.data.reviews()["review_text"].to_list() == ["two"]


def test_reviews_without_an_id_are_known_by_their_content(world: World) -> None:
    text = "review_text,sentiment,brand,rating\nGreat,Positive,lamp,5\nSlow,Negative,lamp,1\nGreat,Positive,lamp,5\n"
    assert counts(world.ingest(text)) == (3, 2, 0, 1, 0)
    relabelled = text.replace("Slow,Negative", "Slow,Neutral")
    assert counts(world.ingest(relabelled)) == (3, 0, 1, 2, 0)
    assert world.data.reviews()["sentiment"].to_list() == ["Positive", "Neutral"]


def test_bad_rows_go_to_the_rejects_table_and_spoil_no_other(world: World) -> None:
    text = HEADER + WEEK + "r4,lamp,2026-01-04,7,odd\nr5,lamp\nr6,lamp,2026-01-04,5,\nr7,lamp,soon,5,ok\n"
    report = world.ingest(text)
    assert counts(report) == (7, 3, 0, 0, 4)
    assert report.reasons == {"rating": 1, "ragged": 1, "blank_text": 1, "date": 1}
    rows = world.tables.read(REJECTS_TABLE).to_pylist()
    assert [row["line"] for row in rows] == [5, 6, 7, 8]
    assert rows[0]["reason"] == "rating: rating is '7', expected a whole number from 1 to 5"
    assert rows[0]["row"] == "r4, lamp, 2026-01-04, 7, odd"
    assert rows[0]["source"] == str(world.folder / "reviews.csv")
    assert rows[0]["format"] == 1


def test_a_rejected_row_is_kept_once_however_often_it_is_read(world: World) -> None:
    for _ in range(2):
        assert world.ingest(HEADER + WEEK + "r4,lamp,2026-01-04,7,odd\n").rejected == 1
    assert world.tables.read(REJECTS_TABLE).num_rows == 1


def test_rows_are_committed_in_batches_and_progress_is_told(make_world: Callable[..., World]) -> None:
    world = make_world(settings={"batch_rows": 100})
    heard: list[int] = []
    text = "id,text\n" + "".join(f"r{n},Review number {n}\n" for n in range(250))
    assert counts(world.ingest(text, progress=heard.append)) == (250, 250, 0, 0, 0)
    assert heard == [100, 200, 250]
    assert world.tables.version(REVIEWS_TABLE) == 2


class FailingTables(MemoryTables):
    """Goes away after so many appends."""

    def __init__(self, appends: int) -> None:
        super().__init__()
        self.left = appends

    def append(self, table: str, rows: pa.Table, *, key: tuple[str, int] | None = None) -> bool:
        if self.left == 0:
            raise StoreError("the disk is full")
        self.left -= 1
        return super().append(table, rows, key=key)


def test_an_ingest_that_broke_off_is_completed_by_the_next(make_world: Callable[..., World]) -> None:
    tables = FailingTables(2)
    world = make_world(tables, {"batch_rows": 100})
    text = "id,text\n" + "".join(f"r{n},Review number {n}\n" for n in range(250))
    with pytest.raises(StoreError, match="disk is full"):
        world.ingest(text)
    tables.left = 99
    assert counts(world.ingest(text)) == (250, 50, 0, 200, 0)
    assert world.data.reviews().height == 250


def test_a_file_that_breaks_in_the_middle_keeps_what_came_before(make_world: Callable[..., World]) -> None:
    world = make_world(settings={"batch_rows": 100})
    rows = "".join(f"r{n},Review number {n}\n" for n in range(150))
    with pytest.raises(UnreadableFile, match="line 152: a quote is opened"):
        world.ingest("id,text\n" + rows + 'r200,"never closed\n')
    assert counts(world.ingest("id,text\n" + rows + 'r200,"closed"\n')) == (151, 51, 0, 100, 0)


def test_columns_are_mapped_by_settings_and_by_argument(make_world: Callable[..., World]) -> None:
    world = make_world(settings={"columns": {"Meinung": "review_text", "Punkte": "title"}})
    report = world.ingest("Meinung;Punkte\nsehr gut;5\n", columns={"Punkte": "rating"}, app="lamp")
    assert report.mapping == {"Meinung": "review_text", "Punkte": "rating"}
    assert world.data.reviews().select("app", "rating", "review_text").rows() == [("lamp", 5, "sehr gut")]


def test_several_files_make_one_report(world: World) -> None:
    paths = []
    for name, row in (("a.csv", "r1,one,5"), ("b.csv", "r2,two,9")):
        (world.folder / name).write_text(f"id,text,stars\n{row}\n")
        paths.append(str(world.folder / name))
    report = world.data.ingest(paths)
    assert report.sources == tuple(paths)
    assert counts(report) == (2, 1, 0, 0, 1)


def test_a_busy_author_is_noted_and_never_stored(world: World) -> None:
    text = "text,date,author\n" + "".join(f"Spam number {n},2026-01-01,Zebedee\n" for n in range(15))
    report = world.ingest(text + ",2026-01-01,Zebedee\nragged,Zebedee\n")
    assert report.notes == ("one author wrote 15 reviews on 2026-01-01",)
    for table in (REVIEWS_TABLE, REJECTS_TABLE):
        assert "Zebedee" not in str(world.tables.read(table).to_pylist())


def test_frames_are_taken_in_like_files(world: World) -> None:
    def frames() -> Iterator[pl.DataFrame]:
        yield pl.DataFrame({"review_id": ["a", "b"], "review_text": ["Lovely", " "], "rating": [5, 1], "extra": [1, 2]})
        yield pl.DataFrame({"review_id": ["c"], "review_text": ["Slow"], "rating": [9]})

    report = world.data.ingest_frames("google play", frames())
    assert counts(report) == (3, 1, 0, 0, 2)
    rejects = world.tables.read(REJECTS_TABLE, ["source", "line"]).to_pylist()
    assert rejects == [{"source": "google play", "line": 2}, {"source": "google play", "line": 3}]


def test_a_file_that_is_not_there_is_named(world: World) -> None:
    with pytest.raises(UnreadableFile, match=r"nowhere\.csv cannot be opened: no such file or directory"):
        world.data.ingest(["nowhere.csv"])
    with pytest.raises(UnreadableFile, match="is a folder; name the files in it"):
        world.data.ingest([str(world.folder)])


def test_addresses_are_opened_by_who_can(make_world: Callable[..., World]) -> None:
    def open_url(address: str) -> AbstractContextManager[BinaryIO]:
        assert address == "https://example.com/may.csv"
        return nullcontext(BytesIO(b"text\nfine\n"))

    assert make_world(open_url=open_url).data.ingest(["https://example.com/may.csv"]).new == 1
    with pytest.raises(UnreadableFile, match="expected a file of this machine"):
        make_world().data.ingest(["https://example.com/may.csv"])


# --- giving back


def test_reviews_can_be_asked_by_app_and_time(world: World) -> None:
    world.ingest(HEADER + WEEK)
    assert world.data.reviews(app="lamp")["review_id"].to_list() == ["r1", "r2"]
    assert world.data.reviews(since=datetime(2026, 1, 2, tzinfo=UTC))["review_id"].to_list() == ["r2", "r3"]
    assert world.data.reviews(app="nothing").height == 0


def test_no_reviews_are_an_empty_frame(world: World) -> None:
    assert world.data.reviews().schema == STORED_SCHEMA
    assert world.data.quality().rows == 0


def test_rows_of_a_later_release_are_refused(world: World) -> None:
    world.ingest(HEADER + WEEK)
    later = world.data.reviews().with_columns(format=pl.lit(2, pl.Int16), review_id=pl.lit("r9"))
    world.tables.append(REVIEWS_TABLE, later.to_arrow())
    with pytest.raises(FormatTooNew, match="format 2, this release reads up to 1"):
        world.data.reviews()


def test_stored_rows_of_format_1_are_still_read_and_known(world: World) -> None:
    kept = pl.read_parquet(Path(__file__).parents[1] / "fixtures" / "reviews_format_1.parquet")
    world.tables.append(REVIEWS_TABLE, kept.to_arrow())
    assert world.data.reviews()["review_id"].to_list() == ["r1", "r2", "r3"]
    assert counts(world.ingest(HEADER + WEEK)) == (3, 0, 0, 3, 0)


YEAR = HEADER + "".join(
    f"r{n},lamp,{datetime(2025, 6, 1, tzinfo=UTC) + timedelta(hours=n)},{n % 5 + 1},Review number {n}\n"
    for n in range(400)
)


def test_a_dataset_is_built_of_labelled_reviews_and_its_manifest_kept(world: World) -> None:
    world.ingest(YEAR)
    dataset = world.data.build_dataset(Training())
    assert world.data.datasets() == [dataset.fingerprint]
    assert world.datasets.get(dataset.fingerprint) == dataset.manifest
    manifest = world.data.dataset(dataset.fingerprint[:8])
    assert (manifest.fingerprint, manifest.source) == (dataset.fingerprint, "reviews, version 0")
    assert dataset.train["submitted_at"].max() < dataset.test["submitted_at"].min()  # type: ignore[operator]
    with pytest.raises(NotFound, match="fingerprint"):
        world.data.dataset("xyz")


def test_datasets_are_compared_and_rebuilt_by_their_fingerprints(world: World) -> None:
    world.ingest(YEAR)
    before = world.data.build_dataset(Training()).fingerprint
    world.ingest(YEAR.replace("5,Review number 4\n", "1,Crashes\n"))
    after = world.data.build_dataset(Training()).fingerprint
    counts = {"added": 0, "removed": 0, "relabelled": 1, "moved": 0, "edited": 1}
    assert world.data.diff_datasets(before[:8], after[:8]).counts() == counts
    rebuilt = world.data.rebuild_dataset(before)
    assert rebuilt.exact
    assert rebuilt.dataset.fingerprint == before


def test_quality_looks_at_current_reviews(world: World) -> None:
    world.ingest(HEADER + WEEK)
    world.ingest(HEADER + WEEK.replace("Love the new widget", "Crashes since the update"))
    report = world.data.quality()
    assert report.rows == 3
    assert report.languages == {"en": pytest.approx(2 / 3), "th": pytest.approx(1 / 3)}
    assert next(f.value for f in report.findings if f.name == "duplicate_share") == pytest.approx(1 / 3)


def test_files_are_stored_in_the_bucket(world: World) -> None:
    assert world.data.store("reports/a.html", b"<p>").endswith("/reports/a.html")
    assert world.files.read("reports/a.html") == b"<p>"


# --- the real files


@pytest.mark.parametrize("name", ["play_fintech_reviews.parquet", "idea_reviews.parquet"])
def test_real_reviews_are_taken_in_whole_and_once(world: World, shared_data: Path, name: str) -> None:
    rows = pl.read_parquet(shared_data / name).tail(20_000)
    rows.write_csv(world.folder / "real.csv")
    first = world.data.ingest([str(world.folder / "real.csv")])
    again = world.data.ingest([str(world.folder / "real.csv")])
    assert first.read == first.new + first.updated + first.duplicate == rows.height
    assert first.new == rows["review_id"].n_unique()
    assert (again.new, again.updated) == (0, 0)
