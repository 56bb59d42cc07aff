"""Looking back: what was decided and why, and whether what is kept is what was written.

timeline     the ledger's entries, chosen
story        why a version is what it is, from its card and its entries
verify       chain, anchors, champion, bundles, aliases and tags against each other
diff         two versions on the test rows of the second
rebuild      a version trained again, and whether its answers are the same
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime

import numpy as np
import polars as pl

from mobile_sentiment_ops.app.comparison import tested
from mobile_sentiment_ops.app.data_pipeline import DataHandler
from mobile_sentiment_ops.app.model_files import open_bundle
from mobile_sentiment_ops.data.dataset import further_rows
from mobile_sentiment_ops.data.manifest import read_manifest
from mobile_sentiment_ops.errors import MsoError, NoModel, NotFound, StoreError, Unavailable
from mobile_sentiment_ops.models.training import go_on, train
from mobile_sentiment_ops.ports import Bundles, Registry, State
from mobile_sentiment_ops.registry.bundle import Bundle, unpack_bundle
from mobile_sentiment_ops.registry.ledger import CHANGES, LEDGER_TAG, Anchor, first_broken, unanchored
from mobile_sentiment_ops.registry.story import Story
from mobile_sentiment_ops.types import LABELS, Champion, LedgerEntry

TAG = re.compile(re.escape(LEDGER_TAG) + r"\d+")

ENVIRONMENT = ("package_version", "git_revision", "lock_hash", "python", "environment_hash")
"""What of a card's provenance is compared with that of now."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at: `passed` is None when it could not be reached."""

    what: str
    passed: bool | None
    found: str


@dataclass(frozen=True, slots=True)
class Changed:
    """A test row on which two versions differ; `outcome` is fixed, broken, or neither when both are wrong."""

    review_id: str
    text: str
    label: str
    before: str
    after: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Difference:
    """Two versions on the same `rows` test rows: figures by name (before, after), and the changed rows.
    `missing` test rows are not in the reviews table any more; `seen` ones taught the first version."""

    before: str
    after: str
    rows: int
    missing: int
    seen: int
    figures: Mapping[str, tuple[float, float]]
    counts: Mapping[str, int]
    changed: Sequence[Changed]


@dataclass(frozen=True, slots=True)
class Repeat:
    """A version trained again. `equal` is None when it could not be: rows are gone. `differences` say what is
    not as it was then, `missing` and `edited` which reviews."""

    version: str
    equal: bool | None
    rows: int
    max_difference: float | None
    changed_answers: int | None
    differences: Sequence[str]
    missing: Sequence[str]
    edited: Sequence[str]


def timeline(
    entries: Iterable[LedgerEntry],
    *,
    action: str | None = None,
    since: datetime | None = None,
    version: str | None = None,
) -> list[LedgerEntry]:
    """The entries of that action, since then, about that version; in their order."""
    return [
        entry
        for entry in entries
        if (action is None or entry.decision.action == action)
        and (since is None or entry.at >= since)
        and (version is None or entry.decision.subject == version)
    ]


@dataclass(frozen=True, kw_only=True)
class AuditHandler:
    """The questions of someone who was not there, over the ports it is given."""

    data: DataHandler
    registry: Registry
    state: State
    bundles: Bundles
    provenance: Mapping[str, str]

    def story(self, version: str) -> Story:
        """Why a version, or the `champion`, is what it is. Its bundle is opened, from the local disk if it is there."""
        champion = self.state.champion()
        if version == "champion":
            if champion is None:
                raise NoModel("there is no champion yet; `mso up` or `mso retrain` makes one")
            version = champion.version
        bundle_hash, bundle = self._open(version)
        entries = timeline(self.state.ledger(), version=version)
        spoken = [entry for entry in entries if entry.decision.actor == "gate"]
        serving = champion is not None and champion.version == version
        return Story(version, bundle_hash, serving, bundle.card, entries, spoken[-1] if spoken else None)

    def diff(self, before: str, after: str) -> Difference:
        """What the second version answers otherwise than the first, on its own test rows."""
        old, new = self._open(before)[1], self._open(after)[1]
        rebuilt = self.data.rebuild_dataset(read_manifest(new.manifest))
        test = rebuilt.dataset.test
        if not test.height:
            raise NotFound(f"none of the test reviews of version {after} is there any more; ingest their files again")
        (_, first, figures), (_, second, others) = (tested(model, test) for model in (old.model, new.model))
        rows = zip(test["review_id"], test["review_text"], test["label"], first, second, strict=True)
        changed = []
        for review_id, text, label, a, b in rows:
            if a != b:
                outcome = "fixed" if b == label else "broken" if a == label else "neither"
                changed.append(Changed(review_id, text, LABELS[label], LABELS[a], LABELS[b], outcome))
        outcomes = [one.outcome for one in changed]
        learned = set(read_manifest(old.manifest).rows.filter(pl.col("split") != "test")["review_id"])
        judged = set(read_manifest(new.manifest).rows.filter(pl.col("split") == "test")["review_id"])
        missing, seen = len(judged.intersection(rebuilt.missing)), len(learned.intersection(test["review_id"]))
        pairs = {name: (value, others[name]) for name, value in figures.items()}
        counts = {name: outcomes.count(name) for name in ("fixed", "broken", "neither")}
        return Difference(before, after, test.height, missing, seen, pairs, counts, changed)

    def rebuild(self, version: str) -> Repeat:
        """Train a version again from its manifest, parameters and seed, and compare the answers on its test rows."""
        _, bundle = self._open(version)
        card, then = bundle.card, dict(bundle.card.get("provenance", {}))
        now = {name: self.provenance.get(name) for name in ENVIRONMENT}
        differences = [
            f"{name} was {then.get(name, 'not recorded')}, is {now[name]} now"
            for name in ENVIRONMENT
            if then.get(name) != now[name]
        ]
        rebuilt = self.data.rebuild_dataset(read_manifest(bundle.manifest))
        known = self.data.known_ids() if rebuilt.missing else set()
        edited = [one for one in rebuilt.missing if one in known]
        missing = [one for one in rebuilt.missing if one not in known]
        dataset, rows = rebuilt.dataset, rebuilt.dataset.test.height
        if rebuilt.missing:
            return Repeat(version, None, rows, None, None, differences, missing, edited)
        seed = card.get("seed")
        if seed is None:
            differences.append("the seed was not recorded, 0 is taken")
        parameters = dict(bundle.model.parameters)
        if (parent := card.get("lineage", {}).get("parent_version")) is None:
            again = train(bundle.model.kind, dataset.train, dataset.validation, seed=seed or 0, parameters=parameters)
        else:
            begun = self._open(parent)[1]
            further = further_rows(read_manifest(begun.manifest), dataset)
            again = begun.model if further is None else go_on(begun.model, further, seed=seed or 0)
        differences += [
            f"parameter {name} was {parameters.get(name)}, is {value} now"
            for name, value in again.parameters.items()
            if parameters.get(name) != value
        ]
        texts, ratings = dataset.test["review_text"].to_list(), dataset.test["rating"].to_list()
        before, after = (model.probabilities(texts, ratings) for model in (bundle.model, again))
        answers = int((bundle.model.decide(before) != again.decide(after)).sum())
        largest = float(np.abs(before - after).max()) if rows else 0.0
        equal = before.tobytes() == after.tobytes() and not answers
        return Repeat(version, equal, rows, largest, answers, differences, (), ())

    def _open(self, version: str) -> tuple[str, Bundle]:
        """The hash and the bundle of a version: as the champion row and the ledger name it, else the registry."""
        champion = self.state.champion()
        named = _bundles_of(self.state.ledger()) | ({champion.version: champion.bundle_hash} if champion else {})
        if version not in named:
            named = {one.version: one.bundle_hash for one in self.registry.versions()}
        if version not in named:
            known = ", ".join(named) or "none"
            raise NotFound(f"there is no model version {version}; `mso models list` shows {known}")
        return named[version], open_bundle(self.bundles, self.registry, version, named[version])

    # --- verify

    def verify(self) -> list[Check]:
        """Every check, whether it passed, and what was found; again when a decision came in between."""
        while True:
            try:
                entries = self.state.ledger()
            except StoreError as err:
                if isinstance(err, Unavailable):
                    raise
                return [Check("ledger", False, str(err))]
            checks = list(self._checks(entries))
            last = max((entry.seq for entry in entries), default=0)
            if all(check.passed is not False for check in checks) or not self.state.ledger(after=last):
                return checks

    def _checks(self, entries: Sequence[LedgerEntry]) -> Iterator[Check]:
        broken = first_broken(entries)
        chain = f"{len(entries)} entries, each follows from the one before it"
        if broken is not None:
            chain = f"entry {broken} is not what was written, or does not follow from the one before it"
        yield Check("ledger", broken is None, chain)
        yield _checked("anchor file", lambda: _anchored(entries, self.state.anchors(), "kept in ledger.anchors"))
        yield _checked("champion", lambda: _champion_fault(entries, self.state.champion()))
        yield from self._bundle_checks(entries)
        yield from self._registry_checks(entries)

    def _bundle_checks(self, entries: Sequence[LedgerEntry]) -> Iterator[Check]:
        """Every bundle on this disk is whole and knew a ledger that this one goes on from."""
        heads: list[Anchor] = []
        faults, there = [], self.bundles.list()
        for bundle_hash in there:
            try:
                head = unpack_bundle(self.bundles.get(bundle_hash), bundle_hash=bundle_hash).card.get("ledger_head")
                heads += [(int(head["seq"]), str(head["hash"]))] if head else []
            except MsoError as err:
                faults.append(str(err))
        yield Check("bundles", not faults, faults[0] if faults else f"{len(there)} whole on this disk")
        yield _checked("bundles' heads", lambda: _anchored(entries, sorted(heads), "written into bundles"))
        if away := set(_bundles_of(entries).values()).difference(there):
            yield Check("bundles elsewhere", None, f"{len(away)} named in the ledger and not on this disk")

    def _registry_checks(self, entries: Sequence[LedgerEntry]) -> Iterator[Check]:
        try:
            versions, aliases = self.registry.versions(), self.registry.aliases()
            champion = self.state.champion()
        except StoreError as err:
            yield Check("MLflow", None if isinstance(err, Unavailable) else False, str(err))
            return
        found, expected = aliases.get("champion"), champion.version if champion else None
        said = f"MLflow's champion is {found}, the state database's {expected}"
        said += "" if found == expected else "; `mso up` and every retrain put it right"
        yield Check("MLflow's aliases", found == expected, said)
        tags = [tag for one in versions for tag in one.tags.items() if re.fullmatch(TAG, tag[0])]
        anchors = sorted((int(name.removeprefix(LEDGER_TAG)), kept) for name, kept in tags)
        yield _checked("MLflow's tags", lambda: _anchored(entries, anchors, "in MLflow's tags"))
        hashes = {one.version: one.bundle_hash for one in versions}
        others = [name for name, kept in _bundles_of(entries).items() if hashes.get(name, kept) != kept]
        said = f"version {others[0]} has another bundle there than in the ledger" if others else ""
        yield Check("MLflow's versions", not others, said or f"{len(versions)} with the bundles that the ledger names")


def _bundles_of(entries: Iterable[LedgerEntry]) -> dict[str, str]:
    """The hash of each version's bundle, as far as the ledger names it."""
    decisions = [entry.decision for entry in entries if "bundle" in entry.decision.figures]
    return {decision.subject: str(decision.figures["bundle"]) for decision in decisions}


def _checked(what: str, check: Callable[[], tuple[bool | None, str]]) -> Check:
    try:
        return Check(what, *check())
    except Unavailable as err:
        return Check(what, None, str(err))
    except StoreError as err:
        return Check(what, False, str(err))


def _anchored(entries: Sequence[LedgerEntry], anchors: Sequence[Anchor], where: str) -> tuple[bool | None, str]:
    if not anchors:
        return None, f"no hash is {where} yet"
    fault = unanchored(entries, anchors)
    return fault is None, fault or f"{len(anchors)} hashes {where}, all in the ledger"


def _champion_fault(entries: Sequence[LedgerEntry], champion: Champion | None) -> tuple[bool, str]:
    """Whether the champion row is what the ledger's changes led to."""
    changes = [entry for entry in entries if entry.decision.action in CHANGES]
    if champion is None or not changes:
        return champion is None and not changes, f"{len(changes)} changes in the ledger, the champion is {champion}"
    last, before = changes[-1], changes[-2] if len(changes) > 1 else None
    expected = Champion(
        last.decision.subject,
        str(last.decision.figures.get("kind", champion.kind)),
        str(last.decision.figures.get("bundle", champion.bundle_hash)),
        before.decision.subject if before else None,
        str(before.decision.figures.get("bundle", champion.previous_bundle_hash)) if before else None,
        last.at,
        last.decision.actor,
        last.decision.reason,
        len(changes),
    )
    for part in fields(Champion):
        found, told = getattr(champion, part.name), getattr(expected, part.name)
        if found != told:
            return False, f"{part.name} of the champion is {found!r}, entry {last.seq} of the ledger says {told!r}"
    return True, f"version {champion.version}, as entry {last.seq} says"
