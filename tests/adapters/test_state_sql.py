"""The state database: what is special to it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mobile_sentiment_ops.adapters.memory import FixedClock
from mobile_sentiment_ops.adapters.state_sql import SqlState
from mobile_sentiment_ops.errors import FormatTooNew, StoreError, Unavailable
from mobile_sentiment_ops.registry.ledger import first_broken
from mobile_sentiment_ops.types import Admission, Decision, JobState, Measurement, ModelVersion, Severity

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def state(database: Path, clock: FixedClock) -> Iterator[SqlState]:
    opened = SqlState(f"sqlite:///{database}", clock)
    yield opened
    opened.close()


def sql(database: Path, statement: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(database)
    try:
        with connection:
            return connection.execute(statement).fetchall()
    finally:
        connection.close()


def test_nothing_is_opened_before_it_is_used(database: Path, state: SqlState) -> None:
    assert not database.exists()
    state.champion()
    assert database.exists()


def test_what_was_kept_is_there_after_a_restart(database: Path, clock: FixedClock) -> None:
    first = SqlState(f"sqlite:///{database}", clock)
    first.decide(Decision("note", "1", "ann", "why"))
    job, _ = first.submit("retrain")
    lease = first.acquire("training", "a", seconds=60)
    first.close()
    second = SqlState(f"sqlite:///{database}", clock)
    assert second.jobs() == [job]
    assert len(second.ledger()) == 1
    assert lease is not None
    assert second.renew(lease, seconds=60) is not None
    second.close()


def test_every_commit_reaches_the_disk_and_readers_do_not_wait(database: Path, state: SqlState) -> None:
    state.champion()
    assert sql(database, "PRAGMA journal_mode") == [("wal",)]
    writer = sqlite3.connect(database)
    writer.execute("BEGIN IMMEDIATE")
    assert state.champion() is None
    writer.close()


def test_a_changed_ledger_is_found_out(database: Path, state: SqlState) -> None:
    for number in range(4):
        state.decide(Decision("note", str(number), "ann", "why"))
    assert first_broken(state.ledger()) is None
    sql(database, "UPDATE ledger SET reason = 'another' WHERE seq = 3")
    assert first_broken(state.ledger()) == 3


def test_no_two_entries_follow_the_same_one(database: Path, state: SqlState) -> None:
    state.decide(Decision("note", "1", "ann", "why"))
    with pytest.raises(sqlite3.IntegrityError, match="previous_hash"):
        sql(
            database,
            "INSERT INTO ledger SELECT 2, at, action, '2', actor, reason, figures, previous_hash, 'x' FROM ledger",
        )


def test_a_database_of_a_later_format_is_refused(database: Path, state: SqlState, clock: FixedClock) -> None:
    state.champion()
    sql(database, "UPDATE format SET version = 3")
    later = SqlState(f"sqlite:///{database}", clock)
    with pytest.raises(FormatTooNew, match="format 3, this release reads up to 2"):
        later.champion()


def test_a_file_that_is_no_database_is_named(database: Path, state: SqlState) -> None:
    database.write_bytes(b"these are notes, not a database " * 100)
    with pytest.raises(StoreError, match=r"state\.db.*not a database"):
        state.champion()


def test_a_database_that_cannot_be_reached_is_unavailable(tmp_path: Path, clock: FixedClock) -> None:
    with pytest.raises(Unavailable, match="unable to open"):
        SqlState(f"sqlite:///{tmp_path / 'no such folder' / 'state.db'}", clock).champion()


def test_an_address_that_makes_no_sense_is_named(clock: FixedClock) -> None:
    for address in ("notes.txt", "carrier-pigeon://coop/state"):
        with pytest.raises(StoreError, match=r"storage\.state_url"):
            SqlState(address, clock).champion()


def test_a_password_is_never_shown(clock: FixedClock, free_port: int) -> None:
    pytest.importorskip("psycopg", reason="no Postgres driver installed")
    with pytest.raises(Unavailable) as caught:
        SqlState(f"postgresql+psycopg://mso:hush@127.0.0.1:{free_port}/mso", clock).champion()
    assert "hush" not in str(caught.value)


def test_a_database_of_format_1_opens(database: Path, state: SqlState, clock: FixedClock) -> None:
    database.write_bytes((FIXTURES / "state_format_1.db").read_bytes())
    champion = state.champion()
    assert champion is not None
    assert (champion.version, champion.previous_version, champion.token) == ("2", "1", 2)
    assert champion.promoted_at == datetime(2025, 3, 1, 12, 0, 1, 500000, tzinfo=UTC)
    entries = state.ledger()
    assert [entry.decision.action for entry in entries] == ["promote", "promote", "verdict"]
    assert first_broken(entries) is None
    assert [(job.kind, job.state) for job in state.jobs()] == [
        ("retrain", JobState.RUNNING),
        ("retrain", JobState.FAILED),
        ("retrain", JobState.DONE),
    ]
    assert state.jobs(state=JobState.DONE)[0].result == {"verdicts": [{"outcome": "PROMOTE"}]}
    clock.advance(86_400)
    lease = state.acquire("training", "b", seconds=1)
    assert lease is not None
    assert lease.token == 4
    assert state.decide(Decision("note", "2", "ann", "it still chains")).previous_hash == entries[-1].entry_hash
    incident, new = state.open_incident("drift", Severity.WARNING, "Reviews moved")
    assert new
    state.beat("drain")
    state.close()
    assert SqlState(f"sqlite:///{database}", clock).incidents() == [incident]
    assert sql(database, "SELECT version FROM format") == [(2,)]


def test_a_database_of_format_2_opens(database: Path, state: SqlState) -> None:
    database.write_bytes((FIXTURES / "state_format_2.db").read_bytes())
    still, over = state.incidents()
    assert (still.key, still.severity, still.closed_at) == ("silence/ingest", Severity.WARNING, None)
    assert (over.title, over.figures) == ("Größe moved", {"share": 0.4})
    noon = datetime(2025, 3, 1, 12, tzinfo=UTC)
    assert (over.opened_at, over.closed_at) == (noon, noon.replace(second=1, microsecond=500_000))
    assert state.told("mail", [over.incident_id]) == {over.incident_id: ("critical", noon)}
    assert [(beat.name, beat.succeeded_at is None, beat.note) for beat in state.beats()] == [
        ("drain", False, ""),
        ("retrain", True, "no rows"),
    ]
    (batch,) = state.batches()
    assert (batch.admission, batch.actor, batch.apps) == (Admission.REFUSED, "ann", ("lamp",))
    assert batch.reasons == ("a burst", "it is spam")
    assert batch.measured == (Measurement("burst", 0.6, 0.5, True, "too many", 40, part={"app": "lamp"}),)


HAMMER = """
import json, sys
from datetime import UTC, datetime
from mobile_sentiment_ops.adapters.clock import SystemClock
from mobile_sentiment_ops.adapters.state_sql import SqlState
from mobile_sentiment_ops.errors import StaleToken
from mobile_sentiment_ops.types import Admission, Decision, JobState, Measurement, ModelVersion, Severity
url, me = sys.argv[1:]
state = SqlState(url, SystemClock())
leases, wins, jobs = [], 0, []
for _ in range(30):
    lease = state.acquire("training", me, seconds=30)
    if lease is not None:
        leases.append(lease.token)
        state.release(lease)
    token = champion.token if (champion := state.champion()) else 0
    try:
        version = ModelVersion(f"{me}-{token}", "lr", "hash", "run", "dataset", datetime.now(UTC))
        state.change_champion(version, Decision("promote", version.version, me, "test"), expected_token=token)
        wins += 1
    except StaleToken:
        pass
    job, created = state.submit("retrain")
    if created:
        jobs.append(job.job_id)
        state.update_job(job.job_id, state=JobState.RUNNING, log="x")
        state.update_job(job.job_id, state=JobState.DONE)
print(json.dumps([leases, wins, jobs]))
"""


@pytest.mark.integration
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_processes_together_keep_one_truth(
    kind: str,
    database: Path,
    request: pytest.FixtureRequest,
    clock: FixedClock,
    start_python: Callable[..., subprocess.Popen[str]],
) -> None:
    url = f"sqlite:///{database}" if kind == "sqlite" else request.getfixturevalue("postgres_database")
    workers = [start_python(HAMMER, url, f"w{number}") for number in range(4)]  # the first use makes the tables, too
    told = [json.loads(worker.communicate(timeout=120)[0]) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 4
    tokens = [token for leases, _, _ in told for token in leases]
    assert len(tokens) == len(set(tokens))
    state = SqlState(url, clock)
    champion, entries = state.champion(), state.ledger()
    assert champion is not None
    assert champion.token == sum(wins for _, wins, _ in told) == len(entries)
    assert entries[-1].decision.subject == champion.version
    assert first_broken(entries) is None
    made = [job_id for _, _, jobs in told for job_id in jobs]
    assert sorted(made) == sorted(job.job_id for job in state.jobs(limit=1_000))
    assert {job.state for job in state.jobs(limit=1_000)} == {JobState.DONE}
    state.close()


def test_versions_of_both_changes_are_kept(state: SqlState, version: Callable[..., ModelVersion]) -> None:
    state.change_champion(version("1"), Decision("promote", "1", "gate", "first"), expected_token=0)
    back = state.change_champion(version("1"), Decision("rollback", "1", "ann", "again"), expected_token=1)
    assert (back.version, back.previous_version) == ("1", "1")
