"""Looking back: what is told of a version, what is compared and trained again, and what a change gives away."""

# ruff: noqa: S608 - names of columns are put into SQL, which is how someone would change them

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from mobile_sentiment_ops.adapters.memory import FixedClock, MemoryPorts
from mobile_sentiment_ops.adapters.state_sql import SqlState
from mobile_sentiment_ops.app.audit import AuditHandler, timeline
from mobile_sentiment_ops.app.data_pipeline import DataHandler
from mobile_sentiment_ops.app.train_model import MLOpsHandler
from mobile_sentiment_ops.data.demo_world import generate
from mobile_sentiment_ops.errors import NoModel, NotFound
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.ports import TrainingRun
from mobile_sentiment_ops.registry.bundle import pack_bundle
from mobile_sentiment_ops.registry.ledger import GENESIS, chain_entry
from mobile_sentiment_ops.registry.story import measured_rows, tell
from mobile_sentiment_ops.settings import Demo, Gate, Ingest, Training
from mobile_sentiment_ops.types import Decision, LedgerEntry

JANUARY = datetime(2025, 1, 1, tzinfo=UTC)
MADE_WITH = {"package_version": "0.1.0", "git_revision": "abc", "lock_hash": "0123", "python": "3.11"}
TEXT_COLUMNS = ("at", "action", "subject", "actor", "reason", "figures", "previous_hash", "entry_hash")


def handlers(
    ports: MemoryPorts, *, provenance: dict[str, str] | None = None
) -> tuple[DataHandler, MLOpsHandler, AuditHandler]:
    data = DataHandler(
        tables=ports.tables, files=ports.files, manifests=ports.datasets, clock=ports.clock, settings=Ingest(),
        decide=ports.state.decide, actor="ann",
    )  # fmt: skip
    made_with = provenance or MADE_WITH
    models = MLOpsHandler(
        data=data, registry=ports.registry, state=ports.state, bundles=ports.bundles,
 live=ports.live, launcher=ports.launcher,
        clock=ports.clock, training=Training(kinds=("lr", "nbsvm")), gate=Gate(min_test_rows=40, bootstrap_samples=200),
        provenance=made_with, holder="here",
    )  # fmt: skip
    audit = AuditHandler(
        data=data,
        registry=ports.registry,
        state=ports.state,
        bundles=ports.bundles,
        provenance=made_with,
    )
    return data, models, audit


# --- a version's story, its rebuild, and how two differ


@pytest.fixture(scope="module")
def demo() -> pl.DataFrame:
    return generate(Demo(reviews=900)).reviews


@pytest.fixture(scope="module")
def trained(demo: pl.DataFrame) -> MemoryPorts:
    """Version 1 (`lr`) is the champion, version 2 (`nbsvm`) was promoted by a person and rolled back."""
    ports = MemoryPorts(FixedClock(JANUARY))
    data, models, _ = handlers(ports)
    data.ingest_frames("folder/reviews.csv?key=1", [demo])
    models.retrain()
    champion = models.state.champion()
    assert champion is not None
    other = "2" if champion.version == "1" else "1"
    models.promote(other, actor="ann", reason="known from the pilot")
    models.rollback(actor="bob", reason="complaints")
    return ports


@pytest.fixture
def audit(trained: MemoryPorts) -> AuditHandler:
    return handlers(trained)[2]


def test_everything_that_was_decided_is_on_record(trained: MemoryPorts) -> None:
    entries = trained.state.ledger()
    actions = [entry.decision.action for entry in entries]
    assert actions[0] == "ingest"
    assert [action for action in actions if action == "train"] == ["train"] * 2
    assert actions[-1] == "rollback"
    assert {entry.decision.actor for entry in entries} == {"ann", "bob", "gate", "training", "admission"}
    assert timeline(entries, action="rollback") == entries[-1:]
    assert {entry.decision.subject for entry in timeline(entries, version="2")} == {"2"}
    assert timeline(entries, since=JANUARY.replace(year=2026)) == []


def test_an_ingest_is_on_record_without_a_text_an_author_or_a_folder(trained: MemoryPorts, demo: pl.DataFrame) -> None:
    decision = trained.state.ledger()[0].decision
    assert decision.subject == "reviews 0"
    assert decision.figures["sources"] == ["reviews.csv"]
    assert decision.figures["table_version"] == 0
    assert decision.figures["read"] == demo.height
    assert not any(text in str(decision) for text in demo["review_text"] if len(text) > 10)


def test_a_story_tells_data_cost_verdict_figures_and_who_decided(audit: AuditHandler) -> None:
    story = audit.story("champion")
    assert story.serving
    said = "\n".join(tell(story))
    assert re.search(r"learned from \d+ reviews from 20\d\d-", said)
    assert re.search(r"[\d,]+ by stars", said)
    assert re.search(r"took \d+\.\d\d s of CPU time in .* at most \d+ MB", said)
    assert "git revision abc, lock hash 0123" in said
    assert "The gate compared it with answers dealt by chance" in said
    assert "bob went back to it from version" in said
    assert story.verdict is not None
    names = [row[0] for row in measured_rows(story.verdict.decision.figures)]
    assert names[:4] == ["reviews it was judged on", "macro-F1", "macro-F1 of its rival", "gain in macro-F1"]


def test_a_story_says_that_the_gate_was_overruled(audit: AuditHandler, trained: MemoryPorts) -> None:
    override = next(entry for entry in trained.state.ledger() if entry.decision.action in ("override", "promote")
                    and entry.decision.actor == "ann")  # fmt: skip
    said = "\n".join(tell(audit.story(override.decision.subject)))
    verdict = override.decision.figures["verdict"]
    assert f"although the gate said {verdict}: known from the pilot" in said or verdict == "PROMOTE"


def test_a_story_is_told_while_the_registry_is_away(audit: AuditHandler, trained: MemoryPorts) -> None:
    trained.registry.away = True
    try:
        assert audit.story("champion").card["kind"] in ("lr", "nbsvm")
    finally:
        trained.registry.away = False


def test_there_is_no_story_of_what_is_not_there(audit: AuditHandler) -> None:
    with pytest.raises(NotFound, match=r"no model version 9; `mso models list` shows"):
        audit.story("9")
    with pytest.raises(NoModel, match="no champion yet"):
        handlers(MemoryPorts(FixedClock(JANUARY)))[2].story("champion")


def test_a_difference_goes_both_ways(audit: AuditHandler, demo: pl.DataFrame) -> None:
    forth, back = audit.diff("1", "2"), audit.diff("2", "1")
    assert forth.rows == back.rows > 40
    assert forth.missing == forth.seen == 0
    assert len(forth.changed) == sum(forth.counts.values()) > 0
    assert forth.counts == {
        "fixed": back.counts["broken"],
        "broken": back.counts["fixed"],
        "neither": back.counts["neither"],
    }
    assert forth.figures["macro_f1"] == back.figures["macro_f1"][::-1]
    texts = dict(demo.select("review_id", "review_text").iter_rows())
    assert all(texts[one.review_id].strip() == one.text for one in forth.changed)
    assert all((one.outcome == "fixed") == (one.after == one.label) for one in forth.changed)
    gain = forth.figures["accuracy"][1] - forth.figures["accuracy"][0]
    assert (forth.counts["fixed"] - forth.counts["broken"]) / forth.rows == pytest.approx(gain)
    assert audit.diff("1", "1").changed == []


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_version_trained_again_answers_the_same_to_the_last_bit(audit: AuditHandler, version: str) -> None:
    again = audit.rebuild(version)
    assert (again.equal, again.max_difference, again.changed_answers, again.differences) == (True, 0.0, 0, [])


def test_a_rebuild_names_what_is_not_as_it_was(trained: MemoryPorts) -> None:
    audit = handlers(trained, provenance={**MADE_WITH, "python": "3.12", "lock_hash": "4567"})[2]
    assert audit.rebuild("1").differences == ["lock_hash was 0123, is 4567 now", "python was 3.11, is 3.12 now"]


def test_a_rebuild_that_differs_says_by_how_much(trained: MemoryPorts, tiny_model: SentimentModel) -> None:
    first = timeline(trained.state.ledger(), action="train")[0]
    files = trained.bundles.get(first.decision.figures["bundle"])  # type: ignore[arg-type]
    ports = copy_of(trained)
    card = {"kind": "lr", "trained_at": "2025-01-01", "dataset": {}, "seed": 0}
    packed, bundle_hash = pack_bundle(tiny_model, card=card, manifest=files["dataset.parquet"])
    ports.bundles.put(packed, bundle_hash)
    ports.state.decide(Decision("train", "7", "training", "", {"bundle": bundle_hash}))
    again = handlers(ports)[2].rebuild("7")
    assert again.equal is False
    assert again.max_difference is not None
    assert again.max_difference > 0.01
    assert again.changed_answers


def copy_of(ports: MemoryPorts) -> MemoryPorts:
    """Other ports with the same reviews, datasets and bundles, and a ledger of their own."""
    found = MemoryPorts(FixedClock(JANUARY))
    found.tables, found.datasets = ports.tables, ports.datasets
    for bundle_hash in ports.bundles.list():
        found.bundles.put(ports.bundles.get(bundle_hash), bundle_hash)
    return found


def test_a_rebuild_names_reviews_that_are_gone_or_edited(trained: MemoryPorts, demo: pl.DataFrame) -> None:
    ports = MemoryPorts(FixedClock(JANUARY))
    ports.bundles, ports.registry = trained.bundles, trained.registry
    text = pl.when(pl.col("review_id") == demo["review_id"][1]).then(pl.lit("another text")).otherwise("review_text")
    handlers(ports)[0].ingest_frames("fewer", [demo[1:].with_columns(review_text=text)])
    again = handlers(ports)[2].rebuild("1")
    assert (again.equal, again.missing, again.edited) == (None, [demo["review_id"][0]], [demo["review_id"][1]])


# --- what a change gives away


@dataclass
class Kept:
    """A ledger of 30 entries in SQLite with its anchors, three bundles, and a registry with tags."""

    folder: Path
    ports: MemoryPorts
    audit: AuditHandler
    state: SqlState

    def sql(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        connection = sqlite3.connect(self.folder / "state.db")
        try:
            with connection:
                return connection.execute(statement, values).fetchall()
        finally:
            connection.close()

    def fault(self) -> str | None:
        """What failed first."""
        return next((check.what for check in self.audit.verify() if check.passed is False), None)

    def write(self, entries: list[LedgerEntry]) -> None:
        """Put these in the place of the ledger, as someone would who has the database and the rule."""
        connection = sqlite3.connect(self.folder / "state.db")
        with connection:
            connection.execute("DELETE FROM ledger")
            connection.executemany(
                "INSERT INTO ledger (seq, at, action, subject, actor, reason, figures, previous_hash, entry_hash) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        one.seq, one.at.isoformat(timespec="microseconds"), one.decision.action, one.decision.subject,
                        one.decision.actor, one.decision.reason, json.dumps(one.decision.figures, ensure_ascii=False),
                        one.previous_hash, one.entry_hash,
                    )
                    for one in entries
                ],
            )  # fmt: skip
        connection.close()

    def anchor(self, entries: list[LedgerEntry]) -> None:
        """The same for the file of anchors."""
        lines = [f"{one.seq} {one.entry_hash}" for one in entries]
        (self.folder / "ledger.anchors").write_text("\n".join(["mso ledger anchors, format 1", *lines, ""]))


@pytest.fixture
def kept(tmp_path: Path, tiny_model: SentimentModel) -> Iterator[Kept]:
    ports = MemoryPorts(FixedClock(JANUARY))
    state = SqlState(f"sqlite:///{tmp_path / 'state.db'}", ports.clock, anchors=tmp_path / "ledger.anchors")
    vars(ports)["state"] = state
    for number in range(1, 31):
        ports.clock.advance(60.25)
        if number % 10:
            state.decide(Decision("note", str(number), "ann", "Größe ทดสอบ 😀", {"share": number / 3, "of": ["a", 1]}))
            continue
        head = state.ledger()[-1]
        card = {"kind": "lr", "ledger_head": {"seq": head.seq, "hash": head.entry_hash}}
        files, bundle_hash = pack_bundle(tiny_model, card=card, manifest=b"")
        ports.bundles.put(files, bundle_hash)
        run = TrainingRun("lr", "lr", JANUARY, JANUARY, {}, {}, {}, {"fingerprint": "f"}, {}, files, bundle_hash)
        version, champion = ports.registry.record(run), state.champion()
        figures = {"kind": "lr", "bundle": bundle_hash}
        decision = Decision("promote", version.version, "gate", "better", figures)
        state.change_champion(version, decision, expected_token=champion.token if champion else 0)
        ports.registry.set_aliases({"champion": version.version})
        if number < 30:  # the registry was away at the last promotion
            entry = state.ledger()[-1]
            ports.registry.attach(version.version, {f"ledger.{entry.seq}": entry.entry_hash})
    yield Kept(tmp_path, ports, handlers(ports)[2], state)
    state.close()


def test_what_is_kept_verifies(kept: Kept) -> None:
    assert all(check.passed for check in kept.audit.verify())
    assert len((kept.folder / "ledger.anchors").read_text().splitlines()) == 31


def test_a_flipped_bit_of_any_column_of_any_entry_is_found(kept: Kept) -> None:
    chance = np.random.default_rng(0)
    tried = 0
    for seq in range(1, 31):
        for column in TEXT_COLUMNS:
            ((before,),) = kept.sql(f"SELECT CAST({column} AS BLOB) FROM ledger WHERE seq = ?", seq)
            assert isinstance(before, bytes)
            places = range(len(before)) if seq == 17 else chance.choice(len(before), 1)
            for at in places:
                changed = bytearray(before)
                changed[at] ^= 1 << int(chance.integers(8))
                for kind in ("TEXT", "BLOB"):
                    kept.sql(f"UPDATE ledger SET {column} = CAST(? AS {kind}) WHERE seq = ?", bytes(changed), seq)
                    assert kept.fault() == "ledger", (seq, column, bytes(changed))
                    tried += 1
            kept.sql(f"UPDATE ledger SET {column} = CAST(? AS TEXT) WHERE seq = ?", before, seq)
        kept.sql("UPDATE ledger SET seq = seq + 64 WHERE seq = ?", seq)
        assert kept.fault() == "ledger"
        kept.sql("UPDATE ledger SET seq = seq - 64 WHERE seq = ?", seq + 64)
    assert tried > 700
    assert kept.fault() is None


def test_another_spelling_of_the_same_figures_or_time_is_found(kept: Kept) -> None:
    for column, spelled in (("figures", "replace(figures, ': ', ':\t')"), ("at", "replace(at, 'T', ' ')")):
        ((before,),) = kept.sql(f"SELECT {column} FROM ledger WHERE seq = 5")
        kept.sql(f"UPDATE ledger SET {column} = {spelled} WHERE seq = 5")
        assert kept.fault() == "ledger"
        kept.sql(f"UPDATE ledger SET {column} = ? WHERE seq = 5", before)
    assert kept.fault() is None


def test_every_cut_tail_is_found(kept: Kept) -> None:
    entries = kept.state.ledger()
    for length in range(30):
        kept.write(entries[:length])
        assert kept.fault() == "anchor file", length
    kept.write(entries)
    assert kept.fault() is None


def test_a_tail_that_was_cut_from_the_anchors_too_is_found_by_bundles_and_tags(kept: Kept) -> None:
    entries = kept.state.ledger()
    for length in range(29):
        kept.write(entries[:length])
        kept.anchor(entries[:length])
        assert kept.fault() in ("champion", "bundles' heads"), length
        assert "bundles' heads" in [check.what for check in kept.audit.verify() if check.passed is False]
        if length < 20:
            assert "MLflow's tags" in [check.what for check in kept.audit.verify() if check.passed is False]


def rewritten(entries: list[LedgerEntry], seq: int) -> list[LedgerEntry]:
    """A whole chain in which the entry `seq` says another reason."""
    made: list[LedgerEntry] = []
    for entry in entries:
        decision = replace(entry.decision, reason="as I like it") if entry.seq == seq else entry.decision
        made.append(chain_entry(entry.seq, entry.at, decision, made[-1].entry_hash if made else GENESIS))
    return made


def test_every_rewritten_chain_is_found(kept: Kept) -> None:
    entries = kept.state.ledger()
    for seq in range(1, 31):
        made = rewritten(entries, seq)
        kept.write(made)
        assert kept.fault() == "anchor file", seq
        kept.anchor(made)
        assert kept.fault() == ("champion" if seq == 30 else "bundles' heads"), seq
        kept.anchor(entries)
    kept.write(entries)
    assert kept.fault() is None


def test_every_changed_column_of_the_champion_is_found(kept: Kept) -> None:
    for column in ("version", "kind", "bundle_hash", "previous_version", "previous_bundle_hash", "actor", "reason"):
        ((before,),) = kept.sql(f"SELECT {column} FROM champion")
        kept.sql(f"UPDATE champion SET {column} = {column} || 'x'")
        assert kept.fault() == "champion"
        kept.sql(f"UPDATE champion SET {column} = ?", before)
    for column, changed in (("token", "token + 1"), ("promoted_at", "replace(promoted_at, '2025', '2024')")):
        ((before,),) = kept.sql(f"SELECT {column} FROM champion")
        kept.sql(f"UPDATE champion SET {column} = {changed}")
        assert kept.fault() == "champion"
        kept.sql(f"UPDATE champion SET {column} = ?", before)
    assert kept.fault() is None


def test_a_changed_bundle_alias_or_tag_is_found(kept: Kept) -> None:
    kept.ports.registry.set_aliases({"champion": "1"})
    assert kept.fault() == "MLflow's aliases"
    kept.ports.registry.set_aliases({"champion": "3"})
    tags = kept.ports.registry.versions()[-1].tags
    kept.ports.registry.attach("1", {"ledger.10": "0" * 64})
    assert kept.fault() == "MLflow's tags"
    kept.ports.registry.attach("1", tags)
    bundle_hash = kept.ports.bundles.list()[0]
    files = kept.ports.bundles.get(bundle_hash)
    kept.ports.bundles.put({**files, "card.json": files["card.json"] + b" "}, bundle_hash)
    assert kept.fault() == "bundles"


def test_what_cannot_be_reached_is_not_checked_and_no_fault(kept: Kept) -> None:
    kept.ports.registry.away = True
    checks = {check.what: check.passed for check in kept.audit.verify()}
    assert checks.pop("MLflow") is None
    assert set(checks.values()) == {True}


def test_anchors_that_a_crash_left_behind_are_mended_forward(kept: Kept, clock: FixedClock) -> None:
    path = kept.folder / "ledger.anchors"
    whole = path.read_bytes()
    for behind in (b"", whole[:20], whole[:200], whole[:-10], whole[:-1]):
        path.write_bytes(behind)
        again = SqlState(f"sqlite:///{kept.folder / 'state.db'}", clock, anchors=path)
        assert again.ledger()[-1].seq == 30
        assert path.read_bytes() == whole
        again.close()


def test_anchors_are_never_mended_backward(kept: Kept, clock: FixedClock) -> None:
    path, entries = kept.folder / "ledger.anchors", kept.state.ledger()
    whole = path.read_bytes()
    kept.write(entries[:25])
    again = SqlState(f"sqlite:///{kept.folder / 'state.db'}", clock, anchors=path)
    for number in range(7):
        again.decide(Decision("note", str(number), "ann", "as if nothing had been"))
    again.close()
    assert path.read_bytes() == whole
    assert kept.fault() == "anchor file"


def test_a_changed_file_of_anchors_is_found_and_not_written_to(kept: Kept) -> None:
    path = kept.folder / "ledger.anchors"
    whole = path.read_bytes()
    chance = np.random.default_rng(0)
    for at in chance.choice(len(whole) - 1, 60, replace=False):
        changed = bytearray(whole)
        changed[at] ^= 1 << int(chance.integers(8))
        path.write_bytes(bytes(changed))
        assert kept.fault() == "anchor file", at
        kept.state.decide(Decision("note", "x", "ann", "meanwhile"))
        assert path.read_bytes().startswith(bytes(changed))
        assert kept.fault() == "anchor file"
