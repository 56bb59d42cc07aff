"""Monitoring over ports in memory: a real champion on small data, its log, checks, explanations and reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta

import polars as pl
import pyarrow as pa
import pytest

from mobile_sentiment_ops.adapters.memory import MemoryPorts
from mobile_sentiment_ops.app.monitoring import MonitoringHandler
from mobile_sentiment_ops.bootstrap import Platform
from mobile_sentiment_ops.data.predictions import PREDICTIONS_TABLE, Review, predictions_table
from mobile_sentiment_ops.errors import NoModel
from mobile_sentiment_ops.monitoring import DECISION_FILE, SKETCHES_TABLE
from mobile_sentiment_ops.monitoring.sketch import Sketch
from mobile_sentiment_ops.settings import Api, Monitoring, Settings
from mobile_sentiment_ops.types import Action, Admission, DriftStatus, TrainingBatch

from ..conftest import Serving
from .test_train_model import JANUARY, NEW_WORDS, World, new_world, reviews

BAD = {1: ("terrible", "crashes", "useless", "slow", "broken", "awful")}


@pytest.fixture
def world(memory: MemoryPorts) -> World:
    found = new_world(memory)
    found.ingest(reviews(1_300))
    found.handler().train_startup_model()
    return found


def monitoring(world: World, **settings: object) -> MonitoringHandler:
    platform = Platform(Settings(monitoring=Monitoring.model_validate(settings), api=Api()))
    vars(platform).update(vars(world.ports))
    return platform.monitoring


def angry(count: int, since: datetime) -> pl.DataFrame:
    """Reviews that are all bad, and mean it."""
    return reviews(count, words=BAD, since=since).with_columns(rating=pl.lit(1))


def later(world: World, frame: pl.DataFrame) -> None:
    """Take in reviews, and let it be the hour after the last of them."""
    world.ingest(frame)
    world.ports.clock.advance(frame["submitted_at"].max() + timedelta(hours=1) - world.ports.clock.now())  # type: ignore[operator]


def asked(world: World, serve: Callable[..., Serving], frame: pl.DataFrame, **api: object) -> None:
    """Have the reviews judged by the server, and its spool drained."""
    server = serve(world.ports, **api)
    server.follow()
    given = [
        Review(row["review_text"], row["review_id"], row["app"], submitted_at=row["submitted_at"])
        for row in frame.iter_rows(named=True)
    ]
    server.batch().predict(given)
    server.keeper.drain()


JUNE = JANUARY + timedelta(days=150)


def test_nothing_is_decided_without_a_model(memory: MemoryPorts) -> None:
    handler = monitoring(new_world(memory))
    decision = handler.check()
    assert (decision.action, decision.drift) == (Action.NOTHING, DriftStatus.NO_REFERENCE)
    assert handler.decision() == decision
    with pytest.raises(NoModel, match="mso retrain"):
        handler.explain()


def test_too_few_reviews_are_an_outcome_of_their_own(world: World) -> None:
    later(world, reviews(20, since=JUNE))
    decision = monitoring(world).check()
    assert (decision.action, decision.drift) == (Action.NOTHING, DriftStatus.TOO_FEW)
    assert "20 reviews, expected at least 50" in decision.summary


def test_nothing_is_done_when_nothing_moved(world: World) -> None:
    later(world, reviews(400, since=JUNE))
    decision = monitoring(world).check()
    assert (decision.action, decision.drift) == (Action.NOTHING, DriftStatus.OK), decision.reasons
    assert {one.n for one in decision.measured if one.name == "negative share, more, 7 days"} == {168}
    assert world.ports.state.incidents(open_only=True) == []


def test_a_worse_mood_is_watched_and_told(world: World) -> None:
    later(world, angry(300, JUNE))
    handler = monitoring(world)
    decision = handler.check()
    assert (decision.action, decision.drift) == (Action.WATCH, DriftStatus.DRIFT)
    assert any(reason.startswith("negative share, more: off by") for reason in decision.reasons)
    (incident,) = world.ports.state.incidents(open_only=True)
    assert (incident.key, incident.title) == ("drift", decision.summary)
    entry = world.ports.state.ledger()[-1].decision
    assert (entry.action, entry.figures["action"], entry.reason) == ("monitor", "WATCH", decision.summary)
    handler.check()
    assert [one.decision.action for one in world.ports.state.ledger()].count("monitor") == 1  # the same a second time


def test_words_that_nobody_taught_ask_for_labels_and_then_for_a_training(world: World) -> None:
    fresh = reviews(300, words=NEW_WORDS, since=JUNE)
    later(world, fresh.with_columns(pl.lit(None, pl.Int64()).alias("rating")))
    decision = monitoring(world).check()
    assert (decision.action, decision.labels_wanted) == (Action.LABEL, 100)
    later(world, reviews(400, words=NEW_WORDS, since=JUNE + timedelta(days=13)))
    decision = monitoring(world).check()
    assert decision.action is Action.RETRAIN, decision.summary
    assert any(one.name == "loss of macro-F1" and one.fired for one in decision.measured)


def test_a_loss_soon_after_a_promotion_asks_for_the_version_before(world: World) -> None:
    world.handler().train_startup_model()
    later(world, reviews(400, words=NEW_WORDS, since=world.ports.clock.now() + timedelta(hours=1)))
    handler = monitoring(world)
    champion = world.ports.state.champion()
    assert champion is not None
    assert handler.check().action is Action.RETRAIN  # there is none before the first
    versions = [world.handler(seed=seed) for seed in (1,)]
    versions[0].retrain()
    newest = world.ports.registry.versions()[0].version
    if (now := world.ports.state.champion()) is not None and now.version != newest:
        versions[0].promote(newest, actor="ann", reason="try it")
    later(
        world,
        reviews(250, since=world.ports.clock.now() + timedelta(hours=1)).with_columns(rating=6 - pl.col("rating")),
    )
    decision = handler.check()
    assert decision.action is Action.ROLLBACK, decision.summary
    assert "answered before" in decision.summary


def test_a_held_batch_comes_first(world: World) -> None:
    later(world, angry(300, JUNE))
    now = world.ports.clock.now()
    world.ports.state.add_batch(
        TrainingBatch("b1", None, now, Admission.HELD, ("lamp",), 300, ("a word came in a burst",), now, "monitoring")
    )
    decision = monitoring(world).check()
    assert decision.action is Action.HOLD
    assert decision.summary.startswith("Reviews are held back")
    assert any("off by" in reason for reason in decision.reasons)  # and what else moved


def test_the_log_and_reviews_that_nobody_asked_about_are_one_window(
    world: World, serve: Callable[..., Serving]
) -> None:
    frame = reviews(400, since=JUNE)
    later(world, frame)
    asked(world, serve, frame[:250])
    handler = monitoring(world)
    found = handler.scored(JUNE, world.ports.clock.now())
    assert found.height == 400
    assert found["logged"].sum() == 250
    assert found["truth"].null_count() == 0
    assert Sketch.of(pl.from_arrow(world.ports.tables.read(SKETCHES_TABLE))).n == 250  # type: ignore[arg-type]
    decision = handler.check()
    assert decision.drift is DriftStatus.OK
    # and the same without sketches: they are made anew
    world.ports.tables.drop(SKETCHES_TABLE)
    assert [one.value for one in monitoring(world).check().measured] == [one.value for one in decision.measured]


def test_lost_sketches_are_made_again_to_the_same_value(world: World, serve: Callable[..., Serving]) -> None:
    frame = reviews(300, since=JUNE)
    asked(world, serve, frame[:100])
    asked(world, serve, frame[100:])
    handler = monitoring(world)
    assert handler.mend() is False

    def sketch() -> Sketch:
        return Sketch.of(pl.DataFrame(pl.from_arrow(world.ports.tables.read(SKETCHES_TABLE))))

    before = sketch()
    world.ports.tables.drop(SKETCHES_TABLE)
    assert monitoring(world).mend() is True
    after = sketch()
    assert (after.sums, after.tokens.tolist(), after.scores.tolist(), after.sample) == (
        before.sums,
        before.tokens.tolist(),
        before.scores.tolist(),
        before.sample,
    )
    some = world.ports.tables.read(SKETCHES_TABLE).slice(0, 1)
    world.ports.tables.append(SKETCHES_TABLE, some)  # one too many
    assert monitoring(world).mend() is True
    assert sketch().sums == before.sums


def test_a_segment_that_comes_twice_is_sketched_once(world: World, serve: Callable[..., Serving]) -> None:
    asked(world, serve, reviews(50, since=JUNE))
    rows = world.ports.tables.read(PREDICTIONS_TABLE)
    handler = monitoring(world)
    for _ in range(2):
        handler.observe(rows, ("worker-7", 3))
    assert Sketch.of(pl.DataFrame(pl.from_arrow(world.ports.tables.read(SKETCHES_TABLE)))).n == 100


def test_texts_that_the_log_may_not_keep_are_not_in_its_sketches(world: World, serve: Callable[..., Serving]) -> None:
    asked(world, serve, reviews(60, since=JUNE), log_text="hash")
    found = Sketch.of(pl.DataFrame(pl.from_arrow(world.ports.tables.read(SKETCHES_TABLE))))
    assert (found.n, found.sums["told"], found.sample) == (60, 0, ())


def test_the_stream_raises_an_alarm_before_a_window_ends(world: World, serve: Callable[..., Serving]) -> None:
    later(world, reviews(60, since=JUNE))
    frame = angry(200, JUNE + timedelta(days=3))
    server = serve(world.ports)
    server.keeper._monitoring().check()
    server.follow()
    server.batch().predict([Review(text) for text in frame["review_text"]])
    server.keeper.drain()
    keys = {found.key for found in world.ports.state.incidents(open_only=True)}
    assert "stream/negative share" in keys
    again = serve(world.ports)  # another keeper goes on where this one was
    again.keeper._monitoring().check()
    again.follow()
    again.batch().predict([Review("Love it")])
    again.keeper.drain()
    assert again.keeper._monitoring()._stream[1].sums == followed(server, again)
    world.ports.clock.advance(timedelta(hours=30))
    again.keeper._monitoring().check()
    assert not {found.key for found in world.ports.state.incidents(open_only=True)} & keys


def followed(before: Serving, after: Serving) -> tuple[int, ...]:
    """Where the stream of one keeper is after the last review of another."""
    rows = pl.DataFrame(pl.from_arrow(after.keeper._tables.read(PREDICTIONS_TABLE)))[-1:]
    before.keeper._monitoring().observe(rows.to_arrow())
    return before.keeper._monitoring()._stream[1].sums


def test_what_is_found_reaches_the_headers_of_answers(world: World, serve: Callable[..., Serving]) -> None:
    later(world, angry(300, JUNE))
    server = serve(world.ports)
    server.follow()
    drifts = [server.predictions.drift]
    decision = server.keeper.check()
    assert decision is not None
    server.follow()
    drifts += [decision.drift, server.predictions.drift]
    assert drifts == [DriftStatus.NO_REFERENCE, DriftStatus.DRIFT, DriftStatus.DRIFT]
    assert server.keeper.check() is None  # not before an hour has gone
    world.ports.clock.advance(timedelta(minutes=61))
    assert server.keeper.check() is not None


def test_a_report_is_a_page_and_a_document_that_the_registry_names(world: World) -> None:
    later(world, angry(300, JUNE))
    handler = monitoring(world)
    handler.check()
    first = handler.reports()
    assert [name.rpartition(".")[2] for name in first] == ["json", "html"]  # another decision gets one by itself
    page = world.ports.files.read(f"reports/{first[1]}")
    assert len(page) <= 300_000
    assert b"<svg" in page
    told = json.loads(world.ports.files.read(f"reports/{first[0]}"))
    assert told["decision"]["action"] == "WATCH"
    assert told["explanation"]["reviews_after"] == 167
    assert world.ports.registry.versions()[0].tags["mso.report"].endswith(first[1])
    assert json.loads(world.ports.files.read(DECISION_FILE))["action"] == "WATCH"


def test_a_champion_of_a_release_without_monitoring_has_no_reference(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mobile_sentiment_ops.monitoring.reference.Reference.files", lambda _: {})
    old = new_world(MemoryPorts(world.ports.clock))
    old.ingest(reviews(600))
    old.handler().train_startup_model()
    later(old, reviews(300, since=JUNE))
    decision = monitoring(old).check()
    assert (decision.action, decision.drift) == (Action.NOTHING, DriftStatus.NO_REFERENCE)
    assert "mso retrain" in decision.summary


def test_predictions_table_rows_are_what_is_observed(world: World) -> None:
    empty: pa.Table = predictions_table([], "masked")
    assert monitoring(world).observe(empty) == 0
