"""What may train: batches over ports in memory, with reviews of the demo world and something planted among them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from mobile_sentiment_ops.adapters.memory import FixedClock, MemoryPorts
from mobile_sentiment_ops.app.admission import admit_reviews, rule
from mobile_sentiment_ops.app.data_pipeline import DataHandler
from mobile_sentiment_ops.app.train_model import MLOpsHandler
from mobile_sentiment_ops.bootstrap import Platform
from mobile_sentiment_ops.cli import main
from mobile_sentiment_ops.data.demo_world import generate
from mobile_sentiment_ops.data.reviews import REVIEW_SCHEMA
from mobile_sentiment_ops.errors import NotFound, StoreError
from mobile_sentiment_ops.settings import Demo, Gate, Ingest, Monitoring, Settings, Training
from mobile_sentiment_ops.types import Admission, TrainingBatch

JANUARY = datetime(2026, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
BRAND, APP = "noshling", "demo.meals"


@pytest.fixture(scope="module")
def reviews() -> pl.DataFrame:
    return generate(Demo(reviews=3_000, events=(), seed=3)).reviews.sort("submitted_at", "review_id")


def planted(count: int = 60) -> pl.DataFrame:
    """One-star reviews of one app with its name."""
    numbers = pl.DataFrame({"at": range(count)})
    texts = [f"{BRAND} is a fraud fraud, it took all my money {at * 7919 % 10_007}" for at in range(count)]
    null = {name: pl.lit(None, dtype) for name, dtype in REVIEW_SCHEMA.items()}
    given = {
        "review_id": pl.format("planted-{}", "at"),
        "app": pl.lit(APP),
        "rating": pl.lit(1, pl.Int8()),
        "review_text": pl.lit(pl.Series(texts)),
        "submitted_at": pl.lit(datetime(2026, 10, 1, tzinfo=UTC)).cast(REVIEW_SCHEMA["submitted_at"]),
    }
    return numbers.select(one.alias(name) for name, one in {**null, **given}.items())


class World:
    """A pipeline whose clock moves by a week with everything that comes."""

    def __init__(self, ports: MemoryPorts) -> None:
        self.ports = ports
        self.data = DataHandler(
            tables=ports.tables, files=ports.files, manifests=ports.datasets, clock=ports.clock, settings=Ingest()
        )

    def came(self, rows: pl.DataFrame) -> None:
        self.ports.clock.advance(WEEK)
        self.data.ingest_frames("reviews", [rows])

    def admit(self) -> list[TrainingBatch]:
        self.ports.clock.advance(60)
        return admit_reviews(self.data, self.ports.state, self.ports.clock, None, Monitoring(), seed=0)

    def training_ids(self) -> set[str]:
        dataset = self.data.build_dataset(Training(), batches=self.ports.state.batches())
        return set(pl.concat([dataset.train, dataset.validation, dataset.test])["review_id"])

    def decisions(self) -> list[str]:
        return [entry.decision.action for entry in self.ports.state.ledger()]

    def handler(self) -> MLOpsHandler:
        return MLOpsHandler(
            data=self.data,
            registry=self.ports.registry,
            state=self.ports.state,
            bundles=self.ports.bundles,
            live=self.ports.live,
            launcher=self.ports.launcher,
            clock=self.ports.clock,
            training=Training(kinds=("lr",)),
            gate=Gate(min_test_rows=40, bootstrap_samples=200, max_behaviour_loss=1),
            provenance={"git_revision": "abc", "lock_hash": "0123"},
            holder="here",
        )


@pytest.fixture
def world(reviews: pl.DataFrame) -> World:
    """A pipeline that accepted 2,000 reviews."""
    found = World(MemoryPorts(FixedClock(JANUARY)))
    found.came(reviews[:2_000])
    found.admit()
    return found


@pytest.fixture
def held(world: World, reviews: pl.DataFrame) -> TrainingBatch:
    """A batch of 300 good reviews and 60 planted ones."""
    world.came(pl.concat([reviews[2_000:2_300], planted()]))
    return world.admit()[0]


def test_the_first_reviews_have_nothing_to_compare_with_and_train(world: World, reviews: pl.DataFrame) -> None:
    (first,) = world.ports.state.batches()
    assert (first.admission, first.after, first.actor) == (Admission.ADMITTED, None, "admission")
    assert "nothing to compare with" in first.reasons[0]
    assert world.training_ids() <= set(reviews["review_id"])
    assert world.decisions() == ["admit"]


def test_a_clean_batch_trains(world: World, reviews: pl.DataFrame) -> None:
    world.came(reviews[2_000:2_300])
    batch = world.admit()[0]
    assert (batch.admission, batch.apps) == (Admission.ADMITTED, ())
    assert batch.after == world.ports.state.batches()[1].until
    assert len(batch.measured) == 8
    assert world.training_ids() & set(reviews[2_000:2_300]["review_id"])
    assert world.ports.state.incidents() == []


def test_nothing_new_is_no_batch(world: World) -> None:
    assert len(world.admit()) == len(world.admit()) == 1
    assert world.decisions() == ["admit"]


def test_reviews_that_nobody_judged_do_not_train(world: World, reviews: pl.DataFrame) -> None:
    before = world.training_ids()
    world.came(reviews[2_000:2_300])
    assert world.training_ids() == before


def test_a_batch_with_something_planted_waits_for_a_person(
    world: World, held: TrainingBatch, reviews: pl.DataFrame
) -> None:
    assert held.admission is Admission.HELD
    assert any("'fraud'" in reason for reason in held.reasons)
    assert not any(name.startswith("planted") for name in world.training_ids())
    assert world.decisions() == ["admit", "hold"]
    (incident,) = world.ports.state.incidents(open_only=True)
    assert incident.key == f"batch-held/{held.batch_id}"
    assert held.batch_id in incident.detail


def test_only_the_app_is_held_when_the_rest_is_well(world: World, held: TrainingBatch, reviews: pl.DataFrame) -> None:
    clean = reviews[2_000:2_300]
    others = set(clean.filter(pl.col("app") != APP)["review_id"])
    assert held.apps == (APP,)
    assert held.rows == 60 + clean.filter(pl.col("app") == APP).height
    assert world.training_ids() & others
    assert not world.training_ids() & (set(clean["review_id"]) - others)


def test_a_person_lets_a_held_batch_train(world: World, held: TrainingBatch) -> None:
    ruled = rule(world.ports.state, held.batch_id, Admission.ADMITTED, actor="ann", reason="the outage was real")
    assert (ruled.admission, ruled.actor) == (Admission.ADMITTED, "ann")
    assert any(name.startswith("planted") for name in world.training_ids())
    assert world.decisions() == ["admit", "hold", "release"]
    assert world.ports.state.incidents(open_only=True) == []
    world.admit()
    assert world.ports.state.incidents(open_only=True) == []


def test_a_refused_batch_never_trains(world: World, held: TrainingBatch) -> None:
    rule(world.ports.state, held.batch_id, Admission.REFUSED, actor="ann", reason="a campaign")
    assert world.admit()[0].admission is Admission.REFUSED
    assert not any(name.startswith("planted") for name in world.training_ids())
    assert world.decisions() == ["admit", "hold", "refuse"]
    with pytest.raises(NotFound):
        rule(world.ports.state, "00000000", Admission.REFUSED, actor="ann", reason="")


def test_what_was_interrupted_is_judged_again_and_told_once(
    world: World, reviews: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.came(pl.concat([reviews[2_000:2_300], planted()]))

    def away(_: TrainingBatch) -> None:
        raise StoreError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(world.ports.state, "add_batch", away)
        with pytest.raises(StoreError):
            world.admit()
    assert len(world.ports.state.batches()) == 1
    first = world.ports.state.ledger()[-1].decision.subject
    again = world.admit()[0]
    assert f"batch {again.batch_id}" == first
    assert [one.admission for one in world.ports.state.batches()] == [Admission.HELD, Admission.ADMITTED]
    assert len(world.ports.state.incidents()) == 1


def test_an_edit_in_a_held_batch_leaves_the_review_as_it_was(world: World, reviews: pl.DataFrame) -> None:
    chosen = reviews[:2_000].filter(pl.col("app") == APP, pl.col("rating") == 5)["review_id"][0]
    assert chosen in set(world.data.reviews(batches=world.ports.state.batches())["review_id"])
    edit = planted(60).with_columns(
        review_id=pl.when(pl.col("review_id") == "planted-0").then(pl.lit(chosen)).otherwise("review_id"),
        updated_at=pl.col("submitted_at"),
    )
    world.came(pl.concat([reviews[2_000:2_300], edit]))
    assert world.admit()[0].admission is Admission.HELD
    kept = world.data.reviews(batches=world.ports.state.batches()).filter(pl.col("review_id") == chosen)
    assert kept["rating"].to_list() == [5]
    assert world.data.reviews().filter(pl.col("review_id") == chosen)["rating"].to_list() == [1]


def test_a_retrain_judges_first_and_goes_on_without_what_is_held(world: World, reviews: pl.DataFrame) -> None:
    handler = world.handler()
    handler.train_startup_model()
    world.came(pl.concat([reviews[2_000:2_300], planted()]))
    world.ports.clock.advance(60)
    handler.retrain()
    newest = world.ports.state.batches()[0]
    assert newest.admission is Admission.HELD
    contradiction = next(one for one in newest.measured if one.name == "contradiction")
    assert contradiction.value is not None or "no app" in contradiction.reason
    learned = handler.data.dataset(handler.data.datasets()[-1]).rows["review_id"]
    assert not learned.str.starts_with("planted").any()


Mso = Callable[..., tuple[int, str]]


@pytest.fixture
def mso(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mso:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str]:
        code = main(arguments)
        return code, capsys.readouterr().out

    return run


def test_the_commands_list_show_and_rule(mso: Mso, tmp_path: Path, held: TrainingBatch) -> None:
    settings = Settings.model_validate({"storage": {"workspace": tmp_path / "workspace"}})
    Platform(settings).state.add_batch(held)
    code, out = mso("batches", "list")
    assert (code, held.batch_id in out, "held" in out) == (0, True, True)
    code, out = mso("batches", "show", held.batch_id)
    assert code == 0
    assert "ALARM" in out
    assert "'fraud'" in out
    assert mso("batches", "show", "00000000")[0] != 0
    code, out = mso("batches", "admit", held.batch_id, "--reason", "the outage was real", "--json")
    assert (code, json.loads(out)["admission"]) == (0, "admitted")
    code, out = mso("batches", "refuse", held.batch_id, "--reason", "it was none", "--json")
    assert (code, json.loads(out)["admission"]) == (0, "refused")
    assert json.loads(mso("batches", "list", "--json")[1])["batches"][0]["reasons"][-1] == "it was none"
