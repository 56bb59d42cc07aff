"""The lifecycle over ports in memory, with real models on small data."""

from __future__ import annotations

import itertools
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from mobile_sentiment_ops.adapters.memory import FixedClock, MemoryLauncher, MemoryPorts, MemoryRegistry
from mobile_sentiment_ops.app.data_pipeline import DataHandler
from mobile_sentiment_ops.app.train_model import LEASE, MLOpsHandler, Progress
from mobile_sentiment_ops.data.dataset import rebuild
from mobile_sentiment_ops.data.manifest import read_manifest
from mobile_sentiment_ops.errors import (
    BundleError,
    Busy,
    ModelError,
    NoModel,
    NotFound,
    StaleToken,
    StoreError,
    TooFewRows,
    Unavailable,
)
from mobile_sentiment_ops.models.evaluation import evaluate
from mobile_sentiment_ops.ports import TrainingRun
from mobile_sentiment_ops.registry.bundle import pack_bundle, unpack_bundle
from mobile_sentiment_ops.registry.ledger import first_broken
from mobile_sentiment_ops.settings import Gate, Ingest, Training
from mobile_sentiment_ops.types import Champion, Decision, Job, JobState, ModelVersion, Outcome

OLD_WORDS = {
    1: ("terrible", "crashes", "useless", "slow", "broken", "awful"),
    3: ("okay", "average", "mediocre", "passable", "so-so", "middling"),
    5: ("great", "lovely", "quick", "handy", "superb", "pleasant"),
}
NEW_WORDS = {
    1: ("mies", "langsam", "kaputt", "nervig", "teuer", "schlecht"),
    3: ("mittel", "solala", "naja", "okayish", "durchwachsen", "brauchbar"),
    5: ("toll", "schnell", "klasse", "hilfreich", "prima", "super"),
}
TOPICS = ("login", "update", "widget", "camera", "search", "support", "payment", "design", "sync", "menu")
PLACES = ("phone", "tablet", "train", "office", "kitchen", "garden", "car", "watch")
JANUARY = datetime(2025, 1, 1, tzinfo=UTC)
LENIENT = Gate(min_test_rows=40, bootstrap_samples=200, max_behaviour_loss=1)
"""Models that know two dozen words are not held to what people expect of a model."""


def reviews(count: int, *, words: Mapping[int, tuple[str, ...]] = OLD_WORDS, since: datetime = JANUARY) -> pl.DataFrame:
    """That many reviews of distinct texts, one an hour, a few of them with contrary stars."""
    chance = np.random.default_rng(since.toordinal())
    texts = [
        (f"{word} {topic} on the {place}", stars)
        for stars, known in words.items()
        for word, topic, place in itertools.product(known, TOPICS, PLACES)
    ]
    chosen = [texts[at] for at in chance.permutation(len(texts))[:count]]
    return pl.DataFrame(
        {
            "review_id": [f"{since:%Y-%m}-{number}" for number in range(count)],
            "app": [("lamp", "torch")[number % 2] for number in range(count)],
            "submitted_at": [since + timedelta(hours=number) for number in range(count)],
            "rating": [6 - stars if chance.random() < 0.05 else stars for _, stars in chosen],
            "review_text": [text for text, _ in chosen],
        }
    )


@dataclass
class World:
    """Ports in memory with reviews in them, and handlers over them."""

    ports: MemoryPorts
    data: DataHandler

    def ingest(self, frame: pl.DataFrame) -> None:
        self.data.ingest_frames("reviews", [frame])

    def handler(
        self,
        holder: str = "here",
        *,
        patience: float = 0.0,
        gate: Gate = LENIENT,
        **training: object,
    ) -> MLOpsHandler:
        return MLOpsHandler(
            data=self.data,
            registry=self.ports.registry,
            state=self.ports.state,
            bundles=self.ports.bundles,
            live=self.ports.live,
            launcher=self.ports.launcher,
            clock=self.ports.clock,
            training=Training.model_validate({"kinds": ("lr",), **training}),
            gate=gate,
            provenance={"git_revision": "abc", "lock_hash": "0123"},
            holder=holder,
            patience_seconds=patience,
        )

    def job(self) -> str:
        job, created = self.ports.state.submit("retrain")
        assert created
        return job.job_id

    def actions(self) -> list[tuple[str, str]]:
        entries = self.ports.state.ledger()
        assert first_broken(entries) is None
        made = [(entry.decision.action, entry.decision.subject) for entry in entries]
        return [(action, subject) for action, subject in made if action not in ("train", "admit")]


def new_world(ports: MemoryPorts) -> World:
    data = DataHandler(
        tables=ports.tables, files=ports.files, manifests=ports.datasets, clock=ports.clock, settings=Ingest()
    )
    return World(ports, data)


@pytest.fixture
def world(memory: MemoryPorts) -> World:
    found = new_world(memory)
    found.ingest(reviews(500))
    return found


@pytest.fixture(scope="session")
def trained() -> list[TrainingRun]:
    """What the first training and a second one on the same reviews recorded."""
    found = new_world(MemoryPorts(FixedClock(JANUARY)))
    found.ingest(reviews(500))
    found.handler().train_startup_model()
    found.handler().retrain()
    return found.ports.registry.runs


@pytest.fixture
def first_champion(world: World, models: MLOpsHandler, trained: list[TrainingRun]) -> Champion:
    """Version 1 is the champion, as `test_the_first_model_serves...` trains it."""
    run, ports = trained[0], world.ports
    version = ports.registry.record(run)
    ports.bundles.put(run.bundle, run.bundle_hash)
    decision = Decision("promote", version.version, "gate", run.tags["verdict_summary"])
    champion = ports.state.change_champion(version, decision, expected_token=0)
    models.reconcile()
    return champion


@pytest.fixture
def two_versions(
    world: World, models: MLOpsHandler, first_champion: Champion, trained: list[TrainingRun]
) -> MLOpsHandler:
    """Version 1 is the champion, version 2 the challenger, as `test_the_same_data_make_no_better_model` has it."""
    run, ports = trained[1], world.ports
    version = ports.registry.record(run).version
    ports.bundles.put(run.bundle, run.bundle_hash)
    ports.state.decide(Decision("verdict", version, "gate", run.tags["verdict_summary"]))
    ports.registry.set_aliases({"challenger": version})
    return models


@pytest.fixture
def models(world: World) -> MLOpsHandler:
    return world.handler()


def when(step: str, do: Callable[[], object]) -> Progress:
    """A progress that does something once, when a step that starts like this comes."""
    todo = [do]

    def progress(said: str, share: float) -> None:
        if said.startswith(step) and todo:
            todo.pop()()

    return progress


def grow_new_words(world: World) -> None:
    world.ingest(reviews(900, words=NEW_WORDS, since=JANUARY + timedelta(days=60)))


# --- the first model


def test_the_first_model_serves_once_it_beats_answering_one_label(world: World, models: MLOpsHandler) -> None:
    champion = models.train_startup_model()
    assert (champion.version, champion.kind, champion.actor, champion.previous_version) == ("1", "lr", "gate", None)
    assert "LogisticRegression" in champion.reason
    assert world.ports.registry.aliases() == {"champion": "1", "Production": "1"}
    assert world.actions() == [("promote", "1")]
    (run,) = world.ports.registry.runs
    assert world.ports.datasets.list() == [run.dataset["fingerprint"]]
    assert models.train_startup_model() == champion
    assert len(world.ports.registry.runs) == 1


def test_a_run_carries_what_it_was_made_with(trained: list[TrainingRun]) -> None:
    run = trained[0]
    assert (run.name, run.kind) == ("LogisticRegression", "lr")
    assert run.parameters.items() >= {"kind": "lr", "seed": "0"}.items()
    assert run.tags.items() >= {"git_revision": "abc", "lock_hash": "0123", "verdict": "PROMOTE"}.items()
    assert set(run.metrics) >= {"macro_f1", "accuracy", "log_loss", "ece", "f1_neutral", "macro_f1_app_lamp"}
    assert run.metrics["train_seconds"] > 0
    assert run.metrics["train_cpu_seconds"] > 0
    assert run.metrics["peak_memory_mb"] > 50
    assert set(run.artifacts) >= {"confusion_matrix.png", "reliability.png", "classification_report.txt"}
    bundle = unpack_bundle(run.bundle, bundle_hash=run.bundle_hash)
    assert read_manifest(bundle.manifest).fingerprint == bundle.card["dataset"]["fingerprint"]
    assert bundle.card["metrics"]["macro_f1"] == run.metrics["macro_f1"]
    assert bundle.card["labels_decided"] == ["Negative", "Neutral", "Positive"]


def test_too_few_reviews_to_judge_by_make_no_first_model(memory: MemoryPorts) -> None:
    world = new_world(memory)
    world.ingest(reviews(50))
    with pytest.raises(ModelError, match=r"no model can serve yet: .*Only 25 .* needs 30"):
        world.handler(gate=Gate()).train_startup_model()
    assert world.ports.state.champion() is None
    assert world.actions() == [("verdict", "1")]
    assert world.ports.registry.aliases() == {"challenger": "1"}


def test_the_first_model_needs_fewer_reviews_than_one_that_replaces_another(memory: MemoryPorts) -> None:
    world = new_world(memory)
    world.ingest(reviews(300))
    world.handler(gate=Gate()).train_startup_model()
    (held,) = world.handler(gate=Gate()).retrain(kinds=["lr"])
    assert held.outcome is Outcome.HOLD
    assert "Only 150 labelled reviews" in held.summary
    assert "needs 200 (gate.min_test_rows): about 50 more" in held.summary


def test_without_reviews_nothing_is_trained(memory: MemoryPorts) -> None:
    with pytest.raises(TooFewRows, match="0 reviews"):
        new_world(memory).handler().train_startup_model()


# --- the next ones


def test_the_same_data_make_no_better_model(world: World, models: MLOpsHandler, first_champion: Champion) -> None:
    (verdict,) = models.retrain()
    assert verdict.outcome is Outcome.HOLD
    assert verdict.measured["gain"] == 0
    assert verdict.champion == "version 1 (LogisticRegression)"
    assert models.state.champion() == first_champion
    assert world.ports.registry.aliases() == {"champion": "1", "Production": "1", "challenger": "2"}
    assert world.actions() == [("promote", "1"), ("verdict", "2")]


def test_a_better_candidate_replaces_the_champion(world: World, two_versions: MLOpsHandler) -> None:
    grow_new_words(world)
    (verdict,) = two_versions.retrain()
    assert verdict.outcome is Outcome.PROMOTE
    champion = two_versions.state.champion()
    assert champion is not None
    assert (champion.version, champion.previous_version, champion.reason) == ("3", "1", verdict.summary)
    assert world.ports.registry.aliases() == {"champion": "3", "Production": "3", "previous": "1"}
    figures = world.ports.state.ledger()[-1].decision.figures
    assert figures["dataset"] == world.ports.registry.runs[-1].dataset["fingerprint"]
    assert figures["measured"] == dict(verdict.measured)


@pytest.mark.usefixtures("first_champion")
def test_both_are_judged_on_the_same_rows_that_neither_has_seen(world: World) -> None:
    grow_new_words(world)
    (verdict,) = world.handler(test_share=0.9).retrain()  # a share that would reach into what the champion learned
    first, second = (unpack_bundle(run.bundle, bundle_hash=run.bundle_hash) for run in world.ports.registry.runs)
    learned = read_manifest(first.manifest).rows.filter(pl.col("split") != "test")["review_id"]
    judged = rebuild(read_manifest(second.manifest), world.data.reviews()).dataset.test
    assert not set(learned) & set(judged["review_id"])
    assert verdict.measured["test_rows"] == judged.height
    labels = judged["label"].to_numpy()
    for name, bundle in (("candidate", second), ("rival", first)):
        probabilities = bundle.model.probabilities(judged["review_text"].to_list(), judged["rating"].to_list())
        scores = evaluate(labels, probabilities, bundle.model.decide(probabilities), {})
        assert verdict.measured[f"{name}_macro_f1"] == pytest.approx(scores.macro_f1)


def test_every_kind_meets_the_champion_of_its_moment(world: World) -> None:
    verdicts = world.handler().retrain(kinds=["lr", "lr"])
    assert [verdict.champion for verdict in verdicts] == [None, "version 1 (LogisticRegression)"]


@pytest.mark.parametrize("kind", ["majority", "stars"])
def test_a_baseline_is_recorded_and_never_promoted(world: World, models: MLOpsHandler, kind: str) -> None:
    (verdict,) = models.retrain(kinds=[kind])
    assert verdict.outcome is Outcome.REJECT
    assert "baseline" in verdict.summary
    assert models.state.champion() is None
    assert world.ports.registry.aliases() == {}
    assert world.actions() == [("verdict", "1")]
    assert world.ports.registry.runs[0].tags["verdict"] == "REJECT"


def test_an_unknown_kind_stops_before_anything_is_trained(world: World, models: MLOpsHandler) -> None:
    with pytest.raises(ModelError, match="lstm"):
        models.retrain(kinds=["lr", "lstm"])
    assert not world.ports.registry.runs


def test_a_champion_whose_files_are_lost_is_replaced_and_the_reason_says_so(
    world: World, models: MLOpsHandler, first_champion: Champion
) -> None:
    damaged = {name: content + b" " for name, content in world.ports.bundles.get(first_champion.bundle_hash).items()}
    world.ports.bundles.put(damaged, first_champion.bundle_hash)
    world.ports.registry.runs[0] = replace(world.ports.registry.runs[0], bundle=damaged)
    (verdict,) = models.retrain()
    assert verdict.outcome is Outcome.PROMOTE
    assert verdict.summary.startswith("Version 1, the champion, cannot be opened any more.")
    now = models.state.champion()
    assert now is not None
    assert (now.version, now.reason) == ("2", verdict.summary)


@pytest.mark.usefixtures("first_champion")
def test_what_an_interrupted_first_run_left_is_known(world: World, trained: list[TrainingRun]) -> None:
    models = world.handler(kinds=("lr", "rf", "xgb"))
    assert models.missing_kinds() == ("rf", "xgb")
    world.ports.registry.record(replace(trained[0], kind="rf"))
    assert models.missing_kinds() == ("xgb",)


# --- test rows are spent


def test_the_same_test_rows_judge_three_rounds_and_each_spends_a_part_of_the_chance(world: World) -> None:
    models = world.handler()
    models.train_startup_model()
    verdicts = [models.retrain(kinds=["lr", "lr"]) for _ in range(4)]
    tests = [entry.decision.figures["test"] for entry in world.ports.state.ledger() if "test" in entry.decision.figures]
    assert len({test["fingerprint"] for test in tests}) == 1  # type: ignore[index]
    assert [test["round"] for test in tests] == [1, 1, 2, 2, 3, 3, 4, 4]  # type: ignore[index]
    levels = [round(float(test["level"]), 6) for test in tests]  # type: ignore[index]
    assert levels == pytest.approx([0.0075, 0.0075, 0.003125, 0.003125, 0.001875, 0.001875, 0, 0])
    assert sum(levels) == pytest.approx(0.025)
    assert [verdict.outcome for verdict in verdicts[-1]] == [Outcome.HOLD, Outcome.HOLD]
    assert "about 40 labelled reviews newer than them are needed" in verdicts[-1][0].summary


def test_newer_reviews_judge_anew_with_the_whole_chance(world: World) -> None:
    models = world.handler()
    models.train_startup_model()
    models.retrain()
    grow_new_words(world)
    models.retrain()
    entries = world.ports.state.ledger()
    before, after = [entry.decision.figures["test"] for entry in entries if "test" in entry.decision.figures][-2:]
    assert before["fingerprint"] != after["fingerprint"]  # type: ignore[index]
    assert (after["round"], after["level"]) == (1, pytest.approx(0.015))  # type: ignore[index]


# --- jobs


def test_a_job_tells_how_it_goes_and_what_came_of_it(world: World, models: MLOpsHandler) -> None:
    job_id, seen = world.job(), list[Job]()
    models.retrain(job_id, progress=lambda step, share: seen.append(world.ports.state.job(job_id)))
    assert {job.state for job in seen} == {JobState.RUNNING}
    assert [job.progress for job in seen] == sorted(job.progress for job in seen)
    job = world.ports.state.job(job_id)
    assert (job.state, job.progress, job.step, job.error) == (JobState.DONE, 1.0, "done", None)
    assert [verdict["outcome"] for verdict in job.result["verdicts"]] == ["PROMOTE"]  # type: ignore[attr-defined]
    assert "12:00:00 training lr on 400 reviews\n" in job.log


def test_a_failure_ends_its_job_with_the_reason(world: World, models: MLOpsHandler) -> None:
    job_id = world.job()
    with pytest.raises(ModelError):
        models.retrain(job_id, kinds=["lstm"])
    job = world.ports.state.job(job_id)
    assert job.state is JobState.FAILED
    assert "lstm" in str(job.error)
    assert job.finished_at == world.ports.clock.now()


def test_a_job_is_run_once(world: World, models: MLOpsHandler) -> None:
    job_id = world.job()
    models.retrain(job_id)
    with pytest.raises(Busy, match="is done, expected a queued one"):
        models.retrain(job_id)
    assert len(world.ports.registry.runs) == 1


def test_retrains_are_scheduled_one_at_a_time(world: World, models: MLOpsHandler) -> None:
    job = models.schedule_retrain(["rf", "xgb"])
    assert models.schedule_retrain().job_id == job.job_id
    assert world.ports.launcher.started == [(job.job_id, "rf", "xgb")]
    assert job.pid is not None
    assert world.ports.launcher.alive(job.pid)


def test_a_job_whose_process_was_killed_makes_way(world: World, models: MLOpsHandler) -> None:
    lost = models.schedule_retrain()
    world.ports.launcher.finish(lost.pid or 0)
    again = models.schedule_retrain()
    assert again.job_id != lost.job_id
    closed = world.ports.state.job(lost.job_id)
    assert closed.state is JobState.FAILED
    assert "ended without finishing" in str(closed.error)


def test_a_job_that_never_got_a_process_makes_way_after_a_minute(world: World, models: MLOpsHandler) -> None:
    job_id = world.job()
    assert models.schedule_retrain().job_id == job_id
    world.ports.clock.advance(61)
    assert models.schedule_retrain().job_id != job_id


def test_unknown_kinds_are_not_scheduled(world: World, models: MLOpsHandler) -> None:
    with pytest.raises(ModelError, match="lstm"):
        models.schedule_retrain(["lstm"])
    assert world.ports.state.jobs() == []


class NoProcesses(MemoryLauncher):
    def start(self, job_id: str, kinds: object = ()) -> int:
        raise StoreError("no more processes")


def test_a_job_that_cannot_be_started_fails_at_once(world: World) -> None:
    world.ports.launcher = NoProcesses()
    with pytest.raises(StoreError, match="no more processes"):
        world.handler().schedule_retrain()
    (job,) = world.ports.state.jobs()
    assert (job.state, job.error) == (JobState.FAILED, "no more processes")


def test_a_cancelled_job_loses_its_process(world: World, models: MLOpsHandler) -> None:
    job = models.schedule_retrain()
    assert models.cancel_job(job.job_id).state is JobState.CANCELLED
    assert not world.ports.launcher.alive(job.pid or 0)
    assert world.ports.state.job(job.job_id).finished_at == world.ports.clock.now()
    assert models.schedule_retrain().job_id != job.job_id


def test_a_job_that_has_ended_is_not_cancelled_any_more(world: World, models: MLOpsHandler) -> None:
    job = models.schedule_retrain()
    world.ports.state.update_job(job.job_id, state=JobState.DONE)
    assert models.cancel_job(job.job_id).state is JobState.DONE
    assert world.ports.launcher.alive(job.pid or 0)  # the number may be another job's by now


def test_a_training_notices_that_its_job_was_cancelled(world: World, models: MLOpsHandler) -> None:
    job_id = world.job()
    with pytest.raises(StaleToken, match="cancelled"):
        models.retrain(job_id, progress=when("training lr", lambda: world.handler().cancel_job(job_id)))
    assert world.ports.state.job(job_id).state is JobState.CANCELLED
    assert not world.ports.registry.runs
    assert models.state.champion() is None


def test_sigterm_closes_the_job_and_gives_the_lease_back(world: World, models: MLOpsHandler) -> None:
    assert threading.current_thread() is threading.main_thread()
    job_id, before = world.job(), signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        models.retrain(job_id, progress=when("comparing", lambda: signal.raise_signal(signal.SIGTERM)))
    job = world.ports.state.job(job_id)
    assert (job.state, job.error) == (JobState.CANCELLED, "it was told to end by SIGTERM")
    assert signal.getsignal(signal.SIGTERM) is before
    assert models.retrain()[0].outcome is Outcome.PROMOTE


# --- one at a time


def test_only_one_process_trains(world: World, models: MLOpsHandler) -> None:
    refused: list[str] = []

    def other() -> None:
        with pytest.raises(Busy, match="another process is training") as caught:
            world.handler("there").retrain()
        refused.append(str(caught.value))

    assert models.retrain(progress=when("training lr", other))[0].outcome is Outcome.PROMOTE
    assert refused
    assert len(world.ports.registry.runs) == 1


def test_two_threads_of_a_process_are_two(world: World, models: MLOpsHandler) -> None:
    def again() -> None:
        with pytest.raises(Busy):
            models.retrain()

    assert models.retrain(progress=when("training lr", again))[0].outcome is Outcome.PROMOTE


def test_a_job_waits_for_the_lease_of_a_trainer_that_was_killed(world: World) -> None:
    assert world.ports.state.acquire(LEASE, "killed", seconds=30)
    waited = when("waiting", lambda: world.ports.clock.advance(31))
    job_id = world.job()
    assert world.handler(patience=5.0).retrain(job_id, progress=waited)[0].outcome is Outcome.PROMOTE
    assert "waiting for another training to end" in world.ports.state.job(job_id).log


def test_a_job_that_waited_in_vain_says_why(world: World) -> None:
    assert world.ports.state.acquire(LEASE, "there", seconds=30)
    job_id = world.job()
    with pytest.raises(Busy):
        world.handler(patience=0.01).retrain(job_id)
    assert "another process is training" in str(world.ports.state.job(job_id).error)


def test_a_trainer_that_lost_its_lease_cannot_promote(world: World, models: MLOpsHandler) -> None:
    def sleep_too_long() -> None:
        world.ports.clock.advance(31)
        assert world.ports.state.acquire(LEASE, "there", seconds=30)

    job_id = world.job()
    with pytest.raises(StaleToken, match="lease training was taken over"):
        models.retrain(job_id, progress=when("comparing", sleep_too_long))
    assert models.state.champion() is None
    assert world.actions() == []
    assert world.ports.registry.aliases() == {}
    assert world.ports.state.job(job_id).state is JobState.FAILED
    assert world.ports.state.acquire(LEASE, "third", seconds=30) is None  # the one that took it over still has it


def test_a_champion_that_changed_meanwhile_is_not_overwritten(world: World, two_versions: MLOpsHandler) -> None:
    grow_new_words(world)
    person = world.handler("a person's")
    with pytest.raises(StaleToken, match="champion changed meanwhile"):
        two_versions.retrain(
            progress=when("recording", lambda: person.promote("2", actor="ann", reason="known from the pilot"))
        )
    champion = two_versions.state.champion()
    assert champion is not None
    assert (champion.version, champion.actor) == ("2", "ann")


# --- the registry away


def test_a_registry_that_is_away_costs_no_training(world: World, models: MLOpsHandler) -> None:
    world.ports.registry.away = True
    job_id, steps = world.job(), list[str]()
    with pytest.raises(Unavailable):
        models.retrain(job_id, progress=lambda step, share: steps.append(step))
    assert not [step for step in steps if step.startswith("training")]
    assert "the registry is away" in str(world.ports.state.job(job_id).error)


def go_away(world: World) -> None:
    world.ports.registry.away = True


def test_a_candidate_that_cannot_be_recorded_is_not_promoted(
    world: World, models: MLOpsHandler, first_champion: Champion
) -> None:
    grow_new_words(world)
    with pytest.raises(Unavailable):
        models.retrain(progress=when("recording", lambda: go_away(world)))
    assert models.state.champion() == first_champion
    assert world.actions() == [("promote", "1")]


class AwayAfterRecording(MemoryRegistry):
    def record(self, run: TrainingRun) -> ModelVersion:
        version = super().record(run)
        self.away = True
        return version


def test_aliases_that_could_not_be_set_are_repaired(world: World) -> None:
    world.ports.registry = AwayAfterRecording(world.ports.clock)
    models = world.handler()
    assert models.train_startup_model().version == "1"
    world.ports.registry.away = False
    assert world.ports.registry.aliases() == {}
    assert len(models.reconcile()) == 2
    assert world.ports.registry.aliases() == {"champion": "1", "Production": "1"}


@pytest.mark.usefixtures("first_champion")
def test_a_retrain_compares_from_the_local_disk(world: World, models: MLOpsHandler) -> None:
    world.ports.registry.runs[0] = replace(world.ports.registry.runs[0], bundle={})
    assert models.retrain()[0].champion == "version 1 (LogisticRegression)"


# --- a person decides


def test_a_person_may_overrule_the_gate_with_a_reason(world: World, two_versions: MLOpsHandler) -> None:
    champion = two_versions.promote("2", actor="ann", reason="known from the pilot")
    assert (champion.version, champion.previous_version, champion.token) == ("2", "1", 2)
    assert (champion.actor, champion.reason) == ("ann", "known from the pilot")
    assert world.ports.registry.aliases() == {"champion": "2", "Production": "2", "previous": "1"}
    entry = world.ports.state.ledger()[-1]
    assert (entry.decision.action, entry.decision.actor) == ("override", "ann")
    overridden = world.ports.state.ledger()[-2]
    assert entry.decision.figures == {
        "from": "1",
        "to": "2",
        "kind": "lr",
        "bundle": world.ports.registry.runs[1].bundle_hash,
        "verdict": "HOLD",
        "verdict_summary": overridden.decision.reason,
        "verdict_seq": overridden.seq,
    }


def test_promoting_the_champion_changes_nothing(world: World, two_versions: MLOpsHandler) -> None:
    before = world.actions()
    assert two_versions.promote("1", actor="ann", reason="sure") == two_versions.state.champion()
    assert world.actions() == before


def test_only_known_versions_are_promoted(two_versions: MLOpsHandler) -> None:
    with pytest.raises(NotFound, match="no model version 9; `mso models list` shows 2, 1"):
        two_versions.promote("9", actor="ann", reason="a typing error")


def test_a_baseline_is_not_promoted_by_a_person_either(world: World, two_versions: MLOpsHandler) -> None:
    two_versions.retrain(kinds=["stars"])
    with pytest.raises(ModelError, match=r"version 3 cannot be promoted: Stars is a baseline"):
        two_versions.promote("3", actor="ann", reason="stars are enough")


def test_a_model_that_knows_one_label_is_not_promoted_by_a_person_either(
    world: World, two_versions: MLOpsHandler
) -> None:
    run = world.ports.registry.runs[1]
    bundle = unpack_bundle(run.bundle, bundle_hash=run.bundle_hash)
    card = {**bundle.card, "labels_decided": ["Positive"]}
    files, bundle_hash = pack_bundle(bundle.model, card=card, manifest=bundle.manifest)
    version = world.ports.registry.record(replace(run, bundle=files, bundle_hash=bundle_hash)).version
    with pytest.raises(ModelError, match=r"it gave every test row the label .*Positive"):
        two_versions.promote(version, actor="ann", reason="optimism")


def test_a_version_whose_files_were_changed_is_not_promoted(world: World, two_versions: MLOpsHandler) -> None:
    run = world.ports.registry.runs[1]
    damaged = {**run.bundle, "card.json": run.bundle["card.json"].replace(b"HOLD", b"GOOD")}
    world.ports.registry.runs[1] = replace(run, bundle=damaged)
    world.ports.bundles.put(damaged, run.bundle_hash)
    with pytest.raises(BundleError, match=r"version 2: .*card.json was changed"):
        two_versions.promote("2", actor="ann", reason="known from the pilot")
    assert world.actions()[-1] == ("verdict", "2")


def test_each_rollback_goes_one_champion_further_back(world: World, two_versions: MLOpsHandler) -> None:
    two_versions.promote("2", actor="ann", reason="known from the pilot")
    two_versions.promote("1", actor="ann", reason="for the weekend")
    go_away(world)
    back = two_versions.rollback(actor="bob", reason="the weekend is over")
    assert (back.version, back.kind, back.previous_version, back.token) == ("2", "lr", "1", 4)
    assert two_versions.rollback(actor="bob", reason="complaints about 2").version == "1"
    with pytest.raises(NoModel, match=r"version 1 is the first champion.*`mso promote VERSION`"):
        two_versions.rollback(actor="bob", reason="and further")
    world.ports.registry.away = False
    two_versions.reconcile()
    assert world.ports.registry.aliases() == {"champion": "1", "Production": "1", "previous": "2"}
    assert world.actions()[-4:] == [("override", "2"), ("promote", "1"), ("rollback", "2"), ("rollback", "1")]


def test_a_promoted_version_carries_the_hash_of_its_promotion(world: World, two_versions: MLOpsHandler) -> None:
    two_versions.promote("2", actor="ann", reason="known from the pilot")
    entry = world.ports.state.ledger()[-1]
    (version,) = (found for found in two_versions.registry.versions() if found.version == "2")
    assert version.tags[f"ledger.{entry.seq}"] == entry.entry_hash


def test_a_training_is_on_record_with_what_it_cost(world: World, models: MLOpsHandler) -> None:
    models.train_startup_model()
    entry = next(entry for entry in world.ports.state.ledger() if entry.decision.action == "train")
    figures, run = entry.decision.figures, world.ports.registry.runs[0]
    assert (entry.decision.subject, figures["bundle"], figures["kind"]) == ("1", run.bundle_hash, "lr")
    assert figures["dataset"] == run.dataset["fingerprint"]
    cost = figures["cost"]
    assert isinstance(cost, dict)
    assert (cost["trained_rows"], cost["labels"]) == (400.0, 500.0)
    assert cost["peak_memory_mb"] > 50
    assert run.metrics["labels"] == 500.0


def test_there_is_nothing_to_roll_back_at_first(models: MLOpsHandler) -> None:
    with pytest.raises(NoModel, match="no champion"):
        models.rollback(actor="ann", reason="panic")


@pytest.mark.usefixtures("first_champion")
def test_there_is_nothing_before_the_first_champion(models: MLOpsHandler) -> None:
    with pytest.raises(NoModel, match="first champion"):
        models.rollback(actor="ann", reason="panic")


# --- after a crash


def test_an_alias_moved_by_hand_is_put_back_and_told(world: World, two_versions: MLOpsHandler) -> None:
    world.ports.registry.set_aliases({"Production": "2", "previous": "2", "challenger": "1", "theirs": "2"})
    found = two_versions.reconcile()
    assert [sentence.split(":")[0] for sentence in found] == [
        "alias Production pointed at 2 and was put back to 1",
        "alias previous pointed at 2 and was put back to nothing",
        "alias challenger pointed at 1 and was put back to nothing",
    ]
    assert world.ports.registry.aliases() == {"champion": "1", "Production": "1", "theirs": "2"}
    assert two_versions.reconcile() == []


@pytest.mark.usefixtures("first_champion")
def test_every_retrain_repairs_what_it_finds(world: World, models: MLOpsHandler) -> None:
    lost = models.schedule_retrain()
    world.ports.launcher.finish(lost.pid or 0)
    world.ports.registry.set_aliases({"champion": None})
    models.retrain()
    assert world.ports.state.job(lost.job_id).state is JobState.FAILED
    assert world.ports.registry.aliases()["champion"] == "1"


def test_lost_jobs_are_closed_while_the_registry_is_away(world: World, models: MLOpsHandler) -> None:
    lost = models.schedule_retrain()
    world.ports.launcher.finish(lost.pid or 0)
    go_away(world)
    with pytest.raises(Unavailable):
        models.reconcile()
    assert world.ports.state.job(lost.job_id).state is JobState.FAILED
