"""What every `State` does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from mobile_sentiment_ops.adapters.memory import FixedClock, MemoryState
from mobile_sentiment_ops.adapters.state_sql import SqlState
from mobile_sentiment_ops.errors import NotFound, StaleToken, StoreError
from mobile_sentiment_ops.ports import State
from mobile_sentiment_ops.registry.ledger import GENESIS, first_broken
from mobile_sentiment_ops.types import (
    Admission,
    Beat,
    Decision,
    JobState,
    Measurement,
    ModelVersion,
    Severity,
    TrainingBatch,
)

PROMOTE = Decision("promote", "1", "gate", "better by 0.02", {"macro_f1": 0.7125, "limits": ["min_gain", 0.0]})


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def state(request: pytest.FixtureRequest, tmp_path: Path, clock: FixedClock) -> Iterator[State]:
    if request.param == "memory":
        yield MemoryState(clock)
        return
    url = f"sqlite:///{tmp_path / 'state.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_database")
    opened = SqlState(url, clock)
    yield opened
    opened.close()


Make = Callable[..., ModelVersion]


def test_there_is_no_champion_before_the_first(state: State) -> None:
    assert state.champion() is None
    assert state.ledger() == []


def test_a_new_champion_and_its_decision_are_there_together(state: State, clock: FixedClock, version: Make) -> None:
    first = state.change_champion(version("1"), PROMOTE, expected_token=0)
    clock.advance(timedelta(minutes=5, microseconds=1))
    second = state.change_champion(version("2", kind="rf"), PROMOTE, expected_token=first.token)
    assert state.champion() == second
    assert (second.version, second.kind, second.bundle_hash) == ("2", "rf", "hash-2")
    assert (second.previous_version, second.previous_bundle_hash) == ("1", "hash-1")
    assert (second.actor, second.reason, second.token) == ("gate", "better by 0.02", 2)
    assert second.promoted_at == clock.now()
    assert [(entry.seq, entry.decision) for entry in state.ledger()] == [(1, PROMOTE), (2, PROMOTE)]


def test_a_decision_on_an_older_champion_changes_nothing(state: State, version: Make) -> None:
    first = state.change_champion(version("1"), PROMOTE, expected_token=0)
    with pytest.raises(StaleToken, match="token 1, expected 0"):
        state.change_champion(version("2"), PROMOTE, expected_token=0)
    assert state.champion() == first
    assert len(state.ledger()) == 1


def test_who_lost_the_lease_cannot_promote(state: State, clock: FixedClock, version: Make) -> None:
    old = state.acquire("training", "a", seconds=60)
    assert old is not None
    clock.advance(61)
    new = state.acquire("training", "b", seconds=60)
    with pytest.raises(StaleToken, match="training"):
        state.change_champion(version("1"), PROMOTE, expected_token=0, fence=old)
    assert state.champion() is None
    assert state.ledger() == []
    assert state.change_champion(version("1"), PROMOTE, expected_token=0, fence=new).version == "1"


def test_an_expired_lease_that_nobody_took_still_fences_in(state: State, clock: FixedClock, version: Make) -> None:
    lease = state.acquire("training", "a", seconds=60)
    clock.advance(3600)
    assert state.change_champion(version("1"), PROMOTE, expected_token=0, fence=lease).token == 1


def test_the_ledger_is_one_unbroken_chain(state: State, clock: FixedClock) -> None:
    written = []
    for number in range(5):
        clock.advance(1.5)
        written.append(state.decide(Decision("note", str(number), "ann", "Größe ทดสอบ 😀", {"share": number / 3})))
    assert state.ledger() == written
    assert written[0].previous_hash == GENESIS
    assert first_broken(state.ledger()) is None
    assert state.ledger(after=2, limit=2) == written[2:4]
    assert state.ledger(after=5) == []


def test_figures_come_back_as_json_values(state: State) -> None:
    entry = state.decide(Decision("note", "1", "ann", "", {"limits": ("a", 1), "nothing": None}))
    assert entry.decision.figures == {"limits": ["a", 1], "nothing": None}
    assert state.ledger() == [entry]
    with pytest.raises(TypeError):
        state.decide(Decision("note", "1", "ann", "", {"thing": object()}))
    assert state.ledger() == [entry]


def test_one_job_of_a_kind_at_a_time(state: State, clock: FixedClock) -> None:
    job, created = state.submit("retrain")
    assert created
    assert (job.kind, job.state, job.created_at) == ("retrain", JobState.QUEUED, clock.now())
    assert state.submit("retrain") == (job, False)
    other, created = state.submit("report")
    assert created
    running = state.update_job(job.job_id, state=JobState.RUNNING)
    assert state.submit("retrain") == (running, False)
    state.update_job(job.job_id, state=JobState.DONE)
    again, created = state.submit("retrain")
    assert created
    assert [found.job_id for found in state.jobs()] == [again.job_id, other.job_id, job.job_id]
    assert [found.job_id for found in state.jobs(state=JobState.DONE)] == [job.job_id]
    assert [found.job_id for found in state.jobs(limit=1)] == [again.job_id]


def test_a_job_tells_its_way(state: State, clock: FixedClock) -> None:
    job_id = state.submit("retrain")[0].job_id
    started = clock.advance(1)
    state.update_job(job_id, state=JobState.RUNNING, pid=4711)
    state.update_job(job_id, progress=0.5, step="training lr", log="one\n")
    ended = clock.advance(1)
    state.update_job(job_id, log="two\n")
    state.update_job(job_id, state=JobState.DONE, progress=1.0, result={"verdicts": [{"reasons": ("a",)}]})
    job = state.job(job_id)
    assert (job.state, job.pid, job.progress, job.step) == (JobState.DONE, 4711, 1.0, "training lr")
    assert (job.started_at, job.finished_at) == (started, ended)
    assert job.log == "one\ntwo\n"
    assert job.result == {"verdicts": [{"reasons": ["a"]}]}


def test_a_job_that_has_ended_stays_as_it_ended(state: State, clock: FixedClock) -> None:
    job_id = state.submit("retrain")[0].job_id
    failed = state.update_job(job_id, state=JobState.FAILED, error="no rows")
    clock.advance(10)
    assert state.update_job(job_id, state=JobState.RUNNING, step="training", pid=1, log="more") == failed
    assert state.job(job_id) == failed
    assert (failed.error, failed.started_at) == ("no rows", None)


def test_a_job_keeps_the_end_of_its_log(state: State) -> None:
    job_id = state.submit("retrain")[0].job_id
    for letter in "abc":
        state.update_job(job_id, log=letter * 40_000)
    kept = state.job(job_id).log
    assert len(kept) == 100_000
    assert kept.endswith("b" + "c" * 40_000)


def test_an_unknown_job_is_not_found(state: State) -> None:
    with pytest.raises(NotFound, match="retrain-0"):
        state.job("retrain-0")
    with pytest.raises(NotFound, match="retrain-0"):
        state.update_job("retrain-0", progress=1.0)


def test_a_lease_is_held_by_one(state: State, clock: FixedClock) -> None:
    lease = state.acquire("training", "a", seconds=60)
    assert lease is not None
    assert lease.expires_at == clock.now() + timedelta(seconds=60)
    assert state.acquire("training", "b", seconds=60) is None
    assert state.acquire("drain", "b", seconds=60) is not None
    clock.advance(59)
    renewed = state.renew(lease, seconds=60)
    assert renewed is not None
    assert renewed.token == lease.token
    clock.advance(59)
    assert state.acquire("training", "b", seconds=60) is None
    clock.advance(1)
    taken = state.acquire("training", "b", seconds=60)
    assert taken is not None
    assert taken.token > lease.token
    assert state.renew(renewed, seconds=60) is None
    state.release(renewed)
    assert state.acquire("training", "a", seconds=60) is None


def test_tokens_grow_even_after_a_release(state: State) -> None:
    tokens = []
    for holder in "abab":
        lease = state.acquire("training", holder, seconds=60)
        assert lease is not None
        tokens.append(lease.token)
        state.release(lease)
        assert state.renew(lease, seconds=60) is None
        state.release(lease)
    assert tokens == [1, 2, 3, 4]


def test_a_holder_that_takes_its_lease_again_loses_the_first_one(state: State) -> None:
    first = state.acquire("training", "a", seconds=60)
    second = state.acquire("training", "a", seconds=60)
    assert first is not None
    assert second is not None
    assert state.renew(first, seconds=60) is None
    assert state.renew(second, seconds=60) is not None


def test_of_many_threads_one_wins_each_change(state: State, version: Make) -> None:
    start = threading.Barrier(4)

    def compete(worker: int) -> list[bool]:
        start.wait()
        won = []
        for token in range(5):
            try:
                state.change_champion(version(f"{worker}"), PROMOTE, expected_token=token)
                won.append(True)
            except StaleToken:
                won.append(False)
            while (champion := state.champion()) is None or champion.token <= token:
                pass
        return won

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(compete, range(4)))
    assert [sum(column) for column in zip(*outcomes, strict=True)] == [1] * 5
    assert first_broken(state.ledger()) is None
    assert len(state.ledger()) == 5


def test_an_incident_is_opened_once_and_seen_again(state: State, clock: FixedClock) -> None:
    opened_at = clock.now()
    first, new = state.open_incident("drift", Severity.WARNING, "Reviews moved", "p .01", {"share": ("a", 0.5)})
    assert new
    assert (first.opened_at, first.seen_at, first.closed_at) == (opened_at, opened_at, None)
    clock.advance(60)
    other, new = state.open_incident("silence/drain", Severity.INFO, "No drain")
    assert new
    raised, new = state.open_incident("drift", Severity.CRITICAL, "another title", "p .001", {"share": 0.7})
    assert not new
    assert raised == replace(
        first, severity=Severity.CRITICAL, detail="p .001", seen_at=clock.now(), figures={"share": 0.7}
    )
    lower, _ = state.open_incident("drift", Severity.INFO, "Reviews moved", "p .02")
    assert (lower.severity, lower.detail, lower.figures) == (Severity.CRITICAL, "p .02", {})
    assert state.incidents() == [other, lower]
    assert first.figures == {"share": ["a", 0.5]}


def test_an_incident_is_closed_once_and_its_key_is_free_again(state: State, clock: FixedClock) -> None:
    assert state.close_incident("drift") is None
    first, _ = state.open_incident("drift", Severity.WARNING, "Reviews moved", "p .01")
    clock.advance(60)
    closed = state.close_incident("drift")
    assert closed == replace(first, closed_at=clock.now())
    assert state.close_incident("drift") is None
    again, new = state.open_incident("drift", Severity.INFO, "Reviews moved", "p .02")
    assert new
    assert again.incident_id != first.incident_id
    assert state.incidents(open_only=True) == [again]
    assert state.incidents() == [again, closed]
    assert state.incidents(limit=1) == [again]
    ended = state.close_incident("drift", "p .8")
    assert ended is not None
    assert ended.detail == "p .8"


def test_what_each_channel_was_told_last_is_known(state: State, clock: FixedClock) -> None:
    first, _ = state.open_incident("drift", Severity.WARNING, "Reviews moved")
    second, _ = state.open_incident("labels", Severity.WARNING, "No labels")
    both = [first.incident_id, second.incident_id]
    assert state.told("mail", both) == {}
    state.tell(first.incident_id, "mail", "warning")
    early = clock.now()
    clock.advance(60)
    state.tell(first.incident_id, "log", "warning")
    state.tell(second.incident_id, "mail", "closed")
    assert state.told("mail", both) == {both[0]: ("warning", early), both[1]: ("closed", clock.now())}
    state.tell(first.incident_id, "mail", "critical")
    assert state.told("mail", both[:1]) == {both[0]: ("critical", clock.now())}
    assert state.told("mail", []) == {}


def test_a_part_of_the_pipeline_beats(state: State, clock: FixedClock) -> None:
    assert state.beats() == []
    state.beat("retrain", ok=False, note="no rows")
    failed = clock.now()
    state.beat("drain")
    assert state.beats() == [Beat("drain", failed), Beat("retrain", None, failed, "no rows")]
    well = clock.advance(60)
    state.beat("retrain")
    assert state.beats()[1] == Beat("retrain", well, failed, "")
    clock.advance(60)
    state.beat("retrain", ok=False, note="killed")
    assert state.beats()[1] == Beat("retrain", well, clock.now(), "killed")


def test_training_batches_are_kept_whole_and_ruled_on(state: State, clock: FixedClock) -> None:
    measured = (Measurement("burst", 0.6, 0.5, True, "too many", 40, part={"app": "lamp"}),)
    first = TrainingBatch("b1", None, clock.now(), Admission.ADMITTED, (), 900, (), clock.now(), "monitor")
    second = TrainingBatch(
        *("b2", clock.now(), clock.now(), Admission.HELD, ("lamp", "größe"), 40, ("a burst",), clock.now(), "monitor"),
        measured,
    )
    state.add_batch(first)
    state.add_batch(second)
    assert state.batches() == [second, first]
    assert state.batches(limit=1) == [second]
    clock.advance(3600)
    ruled = state.rule_on_batch("b2", Admission.REFUSED, "ann", "it is spam")
    assert ruled == replace(
        second,
        admission=Admission.REFUSED,
        actor="ann",
        reasons=("a burst", "it is spam"),
        decided_at=clock.now(),
    )
    assert state.batches() == [ruled, first]
    with pytest.raises(NotFound, match="b3"):
        state.rule_on_batch("b3", Admission.ADMITTED, "ann", "fine")
    with pytest.raises(StoreError):
        state.add_batch(first)
    assert state.batches() == [ruled, first]
