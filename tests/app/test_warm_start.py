"""Training that goes on from the newest version of a kind when few rows are new."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from mobile_sentiment_ops.adapters.memory import FixedClock, MemoryPorts
from mobile_sentiment_ops.app.audit import AuditHandler
from mobile_sentiment_ops.app.data_pipeline import DataHandler
from mobile_sentiment_ops.app.train_model import MLOpsHandler
from mobile_sentiment_ops.data.dataset import Dataset, further_rows
from mobile_sentiment_ops.data.demo_world import generate
from mobile_sentiment_ops.data.manifest import read_manifest
from mobile_sentiment_ops.registry.bundle import unpack_bundle
from mobile_sentiment_ops.settings import Demo, Gate, Ingest, Training

JANUARY = datetime(2027, 1, 1, tzinfo=UTC)
MADE_WITH = {"package_version": "0.1.0"}


class Shop:
    """Handlers over the same ports."""

    def __init__(self) -> None:
        self.ports = MemoryPorts(FixedClock(JANUARY))
        ports = self.ports
        self.data = DataHandler(
            tables=ports.tables, files=ports.files, manifests=ports.datasets, clock=ports.clock, settings=Ingest(),
            decide=ports.state.decide, actor="ann",
        )  # fmt: skip

    def models(self, **training: object) -> MLOpsHandler:
        ports = self.ports
        return MLOpsHandler(
            data=self.data, registry=ports.registry, state=ports.state, bundles=ports.bundles,
 live=ports.live, launcher=ports.launcher,
            clock=ports.clock, gate=Gate(min_test_rows=100, bootstrap_samples=200), provenance=MADE_WITH, holder="here",
            training=Training(**{"kinds": ("lr",), "warm_start": True, **training}),
        )  # fmt: skip

    def parents(self) -> list[str | None]:
        """What each version went on from, oldest first."""
        cards = (
            unpack_bundle(self.ports.bundles.get(one.bundle_hash), bundle_hash=one.bundle_hash).card
            for one in self.ports.registry.versions()[::-1]
        )
        return [card["lineage"]["parent_version"] for card in cards]

    def dataset(self) -> Dataset:
        return self.models().newest_dataset()


@pytest.fixture(scope="module")
def demo() -> pl.DataFrame:
    return generate(Demo(reviews=3_000)).reviews.sort("submitted_at")


@pytest.fixture
def shop(demo: pl.DataFrame) -> Shop:
    """A shop with one version, and then a tenth more reviews."""
    shop = Shop()
    shop.data.ingest_frames("first", [demo[:2_600]])
    shop.models().retrain()
    shop.data.ingest_frames("second", [demo[2_600:2_900]])
    return shop


def test_a_tenth_of_new_reviews_is_learned_from_alone(shop: Shop) -> None:
    shop.models().retrain()
    assert shop.parents() == [None, "1"]
    audit = AuditHandler(
        data=shop.data, registry=shop.ports.registry, state=shop.ports.state, bundles=shop.ports.bundles,
        provenance=MADE_WITH,
    )  # fmt: skip
    again = audit.rebuild("2")
    assert (again.equal, again.changed_answers) == (True, 0)


@pytest.mark.parametrize(
    "training", [{"warm_start": False}, {"parameters": {"lr": {"C": 1.0}}}, {"kinds": ("svc",)}, {"kinds": ("xgb",)}]
)
def test_training_is_anew_when_it_is_not_asked_or_not_the_same(shop: Shop, training: dict[str, object]) -> None:
    shop.models(**training).retrain()
    assert shop.parents() == [None, None]


def test_a_version_whose_files_are_lost_is_no_parent(shop: Shop, tmp_path: Path) -> None:
    shop.ports.bundles = type(shop.ports.bundles)(tmp_path)
    shop.ports.registry.runs[:] = [replace(run, bundle={}) for run in shop.ports.registry.runs]
    shop.models().retrain()
    assert shop.ports.registry.versions()[0].version == "2"


def test_what_has_changed_since_is_not_gone_on_from(shop: Shop) -> None:
    version = shop.ports.registry.versions()[0]
    before = read_manifest(shop.ports.bundles.get(version.bundle_hash)["dataset.parquet"])
    dataset = shop.dataset()
    further = further_rows(before, dataset)
    assert further is not None
    learned = before.rows.filter(pl.col("split") != "test")
    assert not set(further["review_id"]) & set(learned["review_id"])
    rows = dataset.train.height + dataset.validation.height

    def changed(**columns: pl.Expr) -> Dataset:
        return Dataset(dataset.train.with_columns(**columns), dataset.validation, dataset.test, "", b"", "reviews")

    def kept(train: pl.DataFrame, test: pl.DataFrame = dataset.test) -> Dataset:
        return Dataset(train, dataset.validation, test, "", b"", "reviews")

    assert further.height == rows - learned.join(pl.concat([dataset.train, dataset.validation]), on="review_id").height
    assert further_rows(before, changed(label=2 - pl.col("label"))) is None
    assert further_rows(before, changed(content_hash=pl.lit("edited"))) is None
    assert further_rows(before, kept(dataset.train[200:])) is None  # too many are gone
    assert further_rows(before, kept(dataset.train, dataset.train[:1])) is None  # one that was learned from judges
    assert further_rows(read_manifest(dataset.manifest), dataset) is None  # nothing is new
