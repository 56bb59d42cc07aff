"""The live model over ports in memory, with a small real model."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from mobile_sentiment_ops.adapters.memory import MemoryPorts, MemoryState, MemoryTables
from mobile_sentiment_ops.adapters.spool import FileSpool
from mobile_sentiment_ops.app.keeper import COMPACT_EVERY
from mobile_sentiment_ops.data.predictions import PREDICTIONS_TABLE, Review, prediction_schema, text_hash
from mobile_sentiment_ops.errors import NoModel, StoreError, Unavailable
from mobile_sentiment_ops.models.compiled import compile_model
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.ports import TrainingRun
from mobile_sentiment_ops.types import Champion, JobState, Label

from ..conftest import Serving

Promote = Callable[..., Champion]
Serve = Callable[..., Serving]


@pytest.fixture
def serving(memory: MemoryPorts, promote: Promote, serve: Serve) -> Serving:
    """A handler with version 1 live."""
    promote(memory)
    found = serve(memory)
    found.follow()
    return found


def spoil(ports: MemoryPorts, champion: Champion) -> None:
    files = ports.bundles.get(champion.bundle_hash)
    ports.bundles.put({**files, "card.json": b"{}"}, champion.bundle_hash)


def logged(ports: MemoryPorts) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = ports.tables.read(PREDICTIONS_TABLE).to_pylist()
    return rows


# --- who answers


def test_without_a_champion_the_reason_tells_what_to_do(memory: MemoryPorts, serve: Serve) -> None:
    serving = serve(memory)
    with pytest.raises(NoModel, match="not loaded yet"):
        serving.batch("request")
    assert not serving.follow()
    with pytest.raises(NoModel, match="no model is promoted yet; POST /retrain trains the first one"):
        serving.batch("request")


def test_without_a_champion_the_reason_tells_of_the_training_on_its_way(memory: MemoryPorts, serve: Serve) -> None:
    serving = serve(memory)
    job, _ = memory.state.submit("retrain")
    serving.follow()
    assert serving.reason.endswith("trains the first one (queued, 0%)")
    memory.state.update_job(job.job_id, state=JobState.RUNNING, step="training lr", progress=0.4)
    serving.follow()
    assert serving.reason.endswith(f"job {job.job_id} trains the first one (training lr, 40%)")
    memory.state.update_job(job.job_id, state=JobState.FAILED, error="no reviews")
    serving.follow()
    assert serving.reason.endswith("ended failed: no reviews. Mend that and POST /retrain")


def test_a_promotion_is_followed_once(memory: MemoryPorts, promote: Promote, serve: Serve) -> None:
    serving = serve(memory)
    promote(memory)
    assert serving.follow()
    assert not serving.follow()
    promote(memory, note="another")
    assert serving.follow()
    assert (serving.version, serving.predictions.swaps, serving.reason) == ("2", 2, "")


def test_a_request_is_answered_by_one_model(memory: MemoryPorts, promote: Promote, serving: Serving) -> None:
    batch = serving.batch("request")
    batch.predict([Review("Love it")])
    promote(memory, note="another")
    assert serving.follow()
    batch.predict([Review("Love it still")])
    serving.batch("request 2").predict([Review("Love it again")])
    serving.keeper.drain()
    assert [row["model_version"] for row in logged(memory)] == ["1", "1", "2"]


def test_no_request_fails_while_models_change(memory: MemoryPorts, promote: Promote, serving: Serving) -> None:
    def ask(number: int) -> set[str]:
        batch = serving.batch(f"request {number}")
        answers = batch.predict([Review("Great app"), Review("Cannot open")])
        assert all(answer.prediction for answer in answers)
        return {batch.live.version}

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, number) for number in range(40)]
        for note in ("second", "third"):
            promote(memory, note=note)
            assert serving.follow()
        asked += [pool.submit(ask, number) for number in range(40, 50)]
    versions = set().union(*(task.result() for task in asked))
    assert versions <= {"1", "2", "3"}
    assert serving.version == "3"


def test_a_broken_champion_leaves_the_last_good_model_answering(
    memory: MemoryPorts, promote: Promote, serving: Serving
) -> None:
    champion = promote(memory, note="broken")
    good = memory.bundles.get(champion.bundle_hash)
    spoil(memory, champion)
    assert not serving.follow()
    assert serving.reason.startswith("version 2, the champion, cannot be loaded: ")
    assert serving.reason.endswith("; version 1 still answers")
    assert serving.batch("request").live.version == "1"
    memory.bundles.put(good, champion.bundle_hash)
    assert not serving.follow()  # it failed just now
    memory.clock.advance(11)
    assert serving.follow()
    assert (serving.version, serving.reason) == ("2", "")


def test_at_the_start_the_model_before_a_broken_champion_stands_in(
    memory: MemoryPorts, promote: Promote, serve: Serve
) -> None:
    first, second = promote(memory), promote(memory, note="broken")
    good = memory.bundles.get(second.bundle_hash)
    spoil(memory, second)
    serving = serve(memory)
    assert serving.follow()
    live = serving.predictions.live()
    assert (live.version, live.champion.bundle_hash, live.champion.kind) == ("1", first.bundle_hash, "lr")
    assert live.champion.reason == "it answers while version 2 cannot be loaded"
    assert serving.reason.endswith("; version 1 still answers")
    memory.bundles.put(good, second.bundle_hash)
    memory.clock.advance(11)
    assert serving.follow()
    assert (serving.predictions.live().champion, serving.reason) == (second, "")


def test_a_broken_first_champion_is_no_model(memory: MemoryPorts, promote: Promote, serve: Serve) -> None:
    spoil(memory, promote(memory))
    serving = serve(memory)
    assert not serving.follow()
    with pytest.raises(NoModel, match="version 1, the champion, cannot be loaded"):
        serving.batch("request")


def test_a_local_copy_needs_no_registry(memory: MemoryPorts, promote: Promote, serve: Serve) -> None:
    memory.registry.away = True
    promote(memory)
    serving = serve(memory)
    assert serving.follow()
    assert serving.reason == ""


def test_a_model_from_the_registry_is_kept_on_the_local_disk(
    memory: MemoryPorts, promote: Promote, training_run: Callable[..., TrainingRun], serve: Serve
) -> None:
    champion = promote(memory)
    files = memory.bundles.get(champion.bundle_hash)
    elsewhere = MemoryPorts(memory.clock)
    elsewhere.state = memory.state
    elsewhere.registry.record(replace(training_run("lr"), bundle=files, bundle_hash=champion.bundle_hash))
    elsewhere.registry.away = True
    serving = serve(elsewhere)
    assert not serving.follow()
    assert "the registry is away" in serving.reason
    elsewhere.registry.away = False
    memory.clock.advance(11)
    assert serving.follow()
    assert elsewhere.bundles.get(champion.bundle_hash) == files


class StateThatGoesAway(MemoryState):
    away = False

    def champion(self) -> Champion | None:
        if self.away:
            raise Unavailable("the state database did not answer")
        return super().champion()


def test_answers_go_on_while_the_state_database_is_away(memory: MemoryPorts, promote: Promote, serve: Serve) -> None:
    state = memory.state = StateThatGoesAway(memory.clock)
    promote(memory)
    serving = serve(memory)
    serving.follow()
    state.away = True
    assert not serving.follow()
    assert serving.reason == "the state database did not answer"
    assert serving.batch("request").predict([Review("Love it")])[0].prediction
    state.away = False
    serving.follow()
    assert serving.reason == ""


# --- predict


def test_answers_come_in_order_and_faults_spoil_no_other_row(tiny_model: SentimentModel, serving: Serving) -> None:
    texts = ["Great, I pay every day", " \u200b", "Cannot pay at all, awful", "so " * 8_000, "a\0b", "ok \ud800"]
    answers = serving.batch("request").predict([Review(text, f"r{at}") for at, text in enumerate(texts)])
    assert [answer.review_id for answer in answers] == ["r0", "r1", "r2", "r3", "r4", "r5"]
    assert [str(answer.fault).split(":")[0] for answer in answers] == [
        *("None", "blank", "None", "too_long", "nul", "undecodable")
    ]
    for answer, expected in zip(answers[::2], tiny_model.predict([texts[0], texts[2]]), strict=False):
        assert answer.prediction is not None
        assert answer.prediction.label is expected.label
        assert answer.prediction.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
    assert all((answer.prediction_id is None) == (answer.prediction is None) for answer in answers)


def test_rows_without_text_leave_nothing_behind(memory: MemoryPorts, serving: Serving) -> None:
    (answer,) = serving.batch("request").predict([Review("  ", "r1")])
    assert (answer.prediction, answer.prediction_id) == (None, None)
    assert serving.batch("request").predict([]) == []
    assert serving.predictions.spool_depth() == 0


def test_a_prediction_is_recorded_with_all_that_is_known(memory: MemoryPorts, serving: Serving) -> None:
    written = datetime(2024, 12, 24, tzinfo=UTC)
    told = Review("Love to cook with it", "r7", "lamp", "2.1", "en", 5, written)
    given, bare = serving.batch("request").predict([told, Review("How do I cook?")])
    serving.keeper.drain()
    first, second = logged(memory)
    assert first["label"] in {label.value for label in Label}
    assert first == {
        "prediction_id": given.prediction_id,
        "request_id": "request",
        "review_id": "r7",
        "event_time": written,
        "received_at": memory.clock.now(),
        "model_version": "1",
        "label": given.prediction and given.prediction.label.value,
        **dict(zip(("p_negative", "p_neutral", "p_positive"), given.prediction.probabilities, strict=True)),  # type: ignore[union-attr]
        "app": "lamp",
        "version": "2.1",
        "language": "en",
        "text": "Love to cook with it",
        "format": 1,
    }
    assert bare.review_id is None
    assert second["review_id"] == f"text-{text_hash('How do I cook?')}"
    assert second["event_time"] == memory.clock.now()
    assert [second[name] for name in ("app", "version", "language")] == [None] * 3
    assert memory.tables.read(PREDICTIONS_TABLE).schema == prediction_schema()


@pytest.mark.parametrize(
    ("log_text", "kept"),
    [("masked", "Paid <number>, ask <email>"), ("hash", text_hash("Paid 4500, ask ann@shop.example")), ("off", None)],
)
def test_of_a_text_the_log_keeps_what_the_setting_allows(
    memory: MemoryPorts, promote: Promote, log_text: str, kept: str | None, serve: Serve
) -> None:
    promote(memory)
    serving = serve(memory, log_text=log_text)
    serving.follow()
    serving.batch("request").predict([Review("Paid 4500, ask ann@shop.example")])
    serving.keeper.drain()
    assert [row["text"] for row in logged(memory)] == [kept]


def test_ids_are_unique_however_many_ask_at_once(memory: MemoryPorts, serving: Serving) -> None:
    shared = serving.batch("the same request id")

    def ask(number: int) -> list[str | None]:
        batch = shared if number % 2 else serving.batch("the same request id")
        return [answer.prediction_id for answer in batch.predict([Review("Love it")] * 5)]

    with ThreadPoolExecutor(8) as pool:
        ids = [found for ids in pool.map(ask, range(80)) for found in ids]
    assert len(set(ids)) == len(ids) == 400
    serving.keeper.drain()
    assert {row["prediction_id"] for row in logged(memory)} == set(ids)


class FullSpool(FileSpool):
    def append(self, payload: bytes, count: int) -> None:
        raise StoreError("no space left for the spool")


def test_what_cannot_be_kept_is_not_answered(
    memory: MemoryPorts, promote: Promote, serve: Serve, tmp_path: Path
) -> None:
    memory.spool = FullSpool(tmp_path)
    promote(memory)
    serving = serve(memory)
    serving.follow()
    with pytest.raises(StoreError, match="no space left"):
        serving.batch("request").predict([Review("Love it")])


# --- drain


class MoodyTables(MemoryTables):
    """Refuses an append before or after it was committed, when told to; counts compactions."""

    refuse = ""
    compactions = 0

    def append(self, table: str, rows: pa.Table, *, key: tuple[str, int] | None = None) -> bool:
        if self.refuse == "before":
            raise Unavailable("the table's store is away")
        appended = super().append(table, rows, key=key)
        if self.refuse == "after":
            raise Unavailable("the table's store did not say whether it was done")
        return appended

    def compact(self, table: str) -> None:
        self.compactions += 1


@pytest.fixture
def tables(memory: MemoryPorts) -> MoodyTables:
    memory.tables = MoodyTables()
    return memory.tables


@pytest.fixture
def asked(memory: MemoryPorts, tables: MoodyTables, promote: Promote, serve: Serve) -> Serving:
    """A handler over those tables, with three predictions in its spool."""
    promote(memory)
    found = serve(memory)
    found.follow()
    found.batch("request").predict([Review("Love it"), Review("Hate it"), Review("It is ok")])
    return found


def test_predictions_move_to_their_table_once(memory: MemoryPorts, asked: Serving) -> None:
    assert asked.keeper.depth() == 3
    assert (asked.keeper.drain(), asked.keeper.drain()) == (3, 0)
    assert (asked.keeper.depth(), len(logged(memory))) == (0, 3)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_table_that_fails_loses_and_doubles_nothing(
    memory: MemoryPorts, tables: MoodyTables, asked: Serving, moment: str
) -> None:
    tables.refuse = moment
    with pytest.raises(Unavailable):
        asked.keeper.drain()
    assert "store" in asked.keeper.drain_fault
    assert asked.keeper.depth() == 3
    asked.batch("request").predict([Review("Love it more")])
    tables.refuse = ""
    asked.keeper.drain()
    assert asked.keeper.drain_fault == ""
    assert (asked.keeper.depth(), len(logged(memory))) == (0, 4)
    assert len({row["prediction_id"] for row in logged(memory)}) == 4


def test_drains_at_once_move_each_row_once(memory: MemoryPorts, asked: Serving) -> None:
    def ask_and_drain(_: int) -> int:
        asked.batch("request").predict([Review("Love it")])
        return asked.keeper.drain()

    with ThreadPoolExecutor(4) as pool:
        moved = sum(pool.map(ask_and_drain, range(40)))
    assert moved == len(logged(memory)) == 43


def test_small_appends_are_merged_now_and_then(tables: MoodyTables, asked: Serving) -> None:
    for _ in range(COMPACT_EVERY):
        asked.batch("request").predict([Review("Love it")])
        asked.keeper.drain()
    assert tables.compactions == 2  # predictions, and their sketches


def test_what_cannot_be_kept_is_counted_where_that_may_be(
    memory: MemoryPorts, promote: Promote, serve: Serve, tmp_path: Path
) -> None:
    memory.spool = FullSpool(tmp_path)
    promote(memory)
    serving = serve(memory, spool_full="shed")
    serving.follow()
    assert [answer.fault for answer in serving.ask("Love it", " ", "Hate it")] == [
        None,
        "blank: expected some text",
        None,
    ]
    assert serving.predictions.shed == 2


def test_a_request_that_is_repeated_is_logged_once(memory: MemoryPorts, serving: Serving) -> None:
    prefix = serving.predictions.repeated_id(b"shop /predict key-1")
    for _ in range(2):
        serving.predictions.batch("request", prefix).predict([Review("Love it"), Review("Hate it")])
        serving.keeper.drain()
    assert sorted(str(row["prediction_id"]) for row in logged(memory)) == [f"{prefix}-1", f"{prefix}-2"]


def test_a_compiled_model_that_was_changed_does_not_answer(
    memory: MemoryPorts, promote: Promote, serving: Serving
) -> None:
    champion = promote(memory, note="second")
    serving.keeper.follow()
    compiled = bytearray(memory.live.compiled(champion.bundle_hash))
    compiled[-9] ^= 1
    memory.live.keep(champion.bundle_hash, bytes(compiled))
    assert not serving.predictions.reload()
    assert serving.version == "1"
    assert "was changed" in serving.reason


def test_a_compiled_model_that_was_changed_while_nothing_ran_is_made_anew(
    memory: MemoryPorts, promote: Promote, serving: Serving, serve: Serve
) -> None:
    champion = memory.state.champion()
    assert champion is not None
    sound = bytes(memory.live.compiled(champion.bundle_hash))
    changed = bytearray(sound)
    changed[-9] ^= 1
    memory.live.keep(champion.bundle_hash, bytes(changed))
    later = serve(memory)
    assert later.follow()
    assert bytes(memory.live.compiled(champion.bundle_hash)) == sound


def test_a_compiled_form_that_answers_otherwise_is_made_anew(
    memory: MemoryPorts, promote: Promote, serve: Serve, tiny_model: SentimentModel
) -> None:
    champion = promote(memory)
    flipped = replace(tiny_model, offsets=(9.0, 0.0, -9.0))
    memory.live.keep(champion.bundle_hash, compile_model(flipped, champion.bundle_hash))
    serving = serve(memory)
    assert serving.follow()
    (answer,) = serving.ask("Love to cook with it")
    assert answer.prediction is not None
    assert answer.prediction.label is Label.POSITIVE


def test_what_nobody_can_read_keeps_nothing_from_its_table(memory: MemoryPorts, serving: Serving) -> None:
    memory.spool.append(b"\x93no answer", 1)
    memory.spool.close()
    serving.ask("Love it")
    assert serving.keeper.drain() == 1
    assert (serving.keeper.depth(), serving.keeper.drain_fault) == (0, "")
