"""The lifecycle: train, compare, promote, roll back.

    train_startup_model   no champion yet: train the first kind and let it serve
    retrain               train kinds on the newest dataset, each against the champion of that moment
    schedule_retrain      the same in a process of its own, one at a time; cancel_job ends it
    promote, rollback     a person's decision, with a reason
    reconcile             close what a crash left open and repair the registry's aliases

Training is done alone: the lease `training` is held for as long as it runs, and its token fences
off a trainer that lost it (it cannot promote any more).
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import cast

import numpy as np
import polars as pl
import structlog

from mobile_sentiment_ops.app.admission import EVERY, admit_reviews
from mobile_sentiment_ops.app.comparison import baseline, judge, tested
from mobile_sentiment_ops.app.data_pipeline import DataHandler
from mobile_sentiment_ops.app.incidents import beat
from mobile_sentiment_ops.app.long_work import LEASE_SECONDS, alone, close_lost_jobs, schedule_retrain, sigterm_raises
from mobile_sentiment_ops.app.model_files import compiled_form, open_bundle
from mobile_sentiment_ops.data.dataset import Dataset, further_rows
from mobile_sentiment_ops.data.manifest import read_manifest
from mobile_sentiment_ops.data.predictions import masked_texts, with_answers
from mobile_sentiment_ops.data.reviews import labelled
from mobile_sentiment_ops.errors import BundleError, Busy, ModelError, NoModel, NotFound, StaleToken, StoreError
from mobile_sentiment_ops.models.kinds import kind_named
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.models.plots import evaluation_artifacts
from mobile_sentiment_ops.models.rows import Parameters
from mobile_sentiment_ops.models.training import go_on, train
from mobile_sentiment_ops.monitoring.reference import Reference, make_reference
from mobile_sentiment_ops.monitoring.rows import DIMENSIONS
from mobile_sentiment_ops.ports import Bundles, Clock, Launcher, Live, Registry, State, TrainingRun
from mobile_sentiment_ops.registry.behaviour import load_suite
from mobile_sentiment_ops.registry.bundle import Bundle, pack_bundle
from mobile_sentiment_ops.registry.cards import DATA, README, data_card, describe_run, model_card
from mobile_sentiment_ops.registry.checks import check_model
from mobile_sentiment_ops.registry.ledger import LEDGER_TAG, reigns
from mobile_sentiment_ops.registry.spending import Look, first_look, judged_rows, next_look
from mobile_sentiment_ops.registry.transitions import ENDED
from mobile_sentiment_ops.settings import Gate, Monitoring, Training
from mobile_sentiment_ops.types import LABELS, Champion, Decision, Job, JobState, Lease, ModelVersion, Outcome, Verdict

log = structlog.get_logger()

Progress = Callable[[str, float], None]
"""Called with a step in words and the share done, 0..1."""

LEASE = "training"
REFERENCE_ROWS = 20_000


def silent(_step: str, _share: float) -> None:
    """Progress for callers that do not look."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trained model with what it did on the test rows and what it cost."""

    kind: str
    model: SentimentModel
    probabilities: np.ndarray
    decisions: np.ndarray
    metrics: Mapping[str, float]
    started_at: datetime
    finished_at: datetime
    parent: str | None = None
    """The version that training went on from."""


@dataclass(frozen=True, slots=True)
class Parent:
    """A version that training goes on from, with the rows that are new to it."""

    version: str
    model: SentimentModel
    further: pl.DataFrame


@dataclass(frozen=True, kw_only=True)
class MLOpsHandler:
    """The lifecycle of models over the ports it is given."""

    data: DataHandler
    registry: Registry
    state: State
    bundles: Bundles
    live: Live
    launcher: Launcher
    clock: Clock
    training: Training
    gate: Gate
    provenance: Mapping[str, str]
    holder: str
    monitoring: Monitoring = field(default_factory=Monitoring)
    patience_seconds: float = LEASE_SECONDS

    # --- training

    def train_startup_model(self, progress: Progress = silent) -> Champion:
        """The champion; when there is none, the first configured kind is trained and promoted.

        Raises ModelError when even that model is not better than chance.
        """
        if (champion := self.state.champion()) is not None:
            return champion
        verdict = self.retrain(kinds=self.training.kinds[:1], progress=progress)[0]
        if (champion := self.state.champion()) is None:
            raise ModelError(f"no model can serve yet: {verdict.summary}")
        return champion

    def retrain(
        self, job_id: str | None = None, kinds: Sequence[str] | None = None, progress: Progress = silent
    ) -> list[Verdict]:
        """Train each kind on the newest dataset and let it replace the champion if the gate says so.

        With `job_id` that queued job is kept up to date: it ends FAILED when this raises, CANCELLED by
        SIGTERM or Ctrl-C, and it waits as long as a training that was killed still has its lease.
        Raises Busy when another process is training, and Unavailable before anything is trained when
        the registry is away.
        """
        if job_id is None:
            return self._retrain(kinds, progress, patience_seconds=0.0)
        if (job := self.state.job(job_id)).state is not JobState.QUEUED:
            raise Busy(f"job {job_id} is {job.state.value}, expected a queued one; `mso retrain` needs none")
        self.state.update_job(job_id, state=JobState.RUNNING, pid=os.getpid())

        def report(step: str, share: float) -> None:
            told = f"{self.clock.now():%H:%M:%S} {step}\n"
            job = self.state.update_job(job_id, progress=share, step=step, log=told)
            if job.state in ENDED:
                raise StaleToken(f"job {job_id} was ended as {job.state.value} meanwhile; its training stops")
            progress(step, share)

        try:
            with sigterm_raises():
                verdicts = self._retrain(kinds, report, job_id=job_id, patience_seconds=self.patience_seconds)
        except BaseException as err:
            state = JobState.CANCELLED if isinstance(err, KeyboardInterrupt) else JobState.FAILED
            self.state.update_job(job_id, state=state, error=str(err) or type(err).__name__)
            beat(self.state, "retrain", ok=False, note=str(err) or type(err).__name__)
            raise
        result = {"verdicts": [asdict(verdict) for verdict in verdicts]}
        self.state.update_job(job_id, state=JobState.DONE, progress=1.0, step="done", result=result)
        return verdicts

    def schedule_retrain(self, kinds: Sequence[str] | None = None) -> Job:
        """A job that trains in a process of its own; the one that is already on its way, if any."""
        return schedule_retrain(self.state, self.launcher, self.clock, kinds)

    def cancel_job(self, job_id: str) -> Job:
        """End a job and its process; one that has ended stays as it ended."""
        job = self.state.job(job_id)
        if job.state in ENDED:
            return job
        # marked first: what its process says when it is told to end does not count any more
        job = self.state.update_job(job_id, state=JobState.CANCELLED, error="it was told to end")
        if job.pid is not None:
            self.launcher.stop(job.pid)
        return job

    def missing_kinds(self) -> tuple[str, ...]:
        """Configured kinds that no registered version has: what an interrupted first run left."""
        known = {version.kind for version in self.registry.versions()}
        return tuple(kind for kind in self.training.kinds if kind not in known)

    def newest_dataset(self) -> Dataset:
        """What a training of now learns from and is judged on."""
        judged = judged_rows(self.state.ledger())
        return self.data.build_dataset(
            self.training,
            min_test_rows=self.gate.min_test_rows,
            not_before=self._test_from(),
            judged=judged.dataset if judged else None,
            batches=self.state.batches(EVERY),
        )

    def _retrain(
        self, kinds: Sequence[str] | None, progress: Progress, *, patience_seconds: float, job_id: str | None = None
    ) -> list[Verdict]:
        names = tuple(kinds or self.training.kinds)
        for name, given in {**{name: {} for name in names}, **self.training.parameters}.items():
            kind_named(name).with_parameters(given)  # an unknown name stops everything before anything is trained
        waiting = partial(progress, "waiting for another training to end", 0.0)
        with alone(self.state, LEASE, self.holder, patience_seconds=patience_seconds, waiting=waiting) as lease:
            self.reconcile(but=job_id)
            progress("judging new reviews and building the dataset", 0.0)
            self._admit()
            dataset = self.newest_dataset()
            judged = judged_rows(self.state.ledger(), dataset.test_fingerprint)
            alpha = (1 - self.gate.confidence) / 2
            look = first_look(judged, dataset.test_fingerprint, alpha=alpha, candidates=len(names))
            verdicts = []
            for done, name in enumerate(names):
                start, end = (0.05 + 0.95 * (done + part) / len(names) for part in (0, 1))
                verdict = self._try_candidate(name, dataset, look, lease, _within(progress, start, end))
                verdicts.append(verdict)
                promoted, left = verdict.outcome is Outcome.PROMOTE, max(len(names) - done - 1, 1)
                look = next_look(look, promoted=promoted, alpha=alpha, candidates=left)
            beat(self.state, "retrain")
            return verdicts

    def _admit(self) -> None:
        bundle = self._champion_bundle(self.state.champion())
        admit_reviews(self.data, self.state, self.clock, bundle, self.monitoring, seed=self.training.seed)

    def _try_candidate(self, kind: str, dataset: Dataset, look: Look, lease: Lease, progress: Progress) -> Verdict:
        """Train, compare on the same rows as the champion, record, and promote when it is better."""
        progress(f"training {kind} on {dataset.train.height + dataset.validation.height} reviews", 0.0)
        candidate = self._train(kind, dataset)
        check_model(candidate.model)
        progress(f"comparing {kind} with the champion on {dataset.test.height} newer reviews", 0.6)
        champion = self.state.champion()
        verdict = self._compare(candidate, champion, dataset, look)
        progress(f"recording {kind}", 0.7)
        version = self._record(candidate, verdict, dataset)
        self.state.decide(_training_decision(candidate, version, dataset, self.training.seed))
        promoted = verdict.outcome is Outcome.PROMOTE
        figures: dict[str, object] = {
            "kind": kind,
            "bundle": version.bundle_hash,
            "dataset": dataset.fingerprint,
            "champion": champion.version if champion else None,
            "outcome": verdict.outcome.value,
            "measured": dict(verdict.measured),
            "limits": dict(verdict.limits),
            "reasons": list(verdict.reasons),
        }
        if champion is not None:  # the first model's rival is chance, which spends nothing
            figures["test"] = look.figures(promoted=promoted)
        decision = Decision("verdict", version.version, "gate", verdict.summary, figures)
        if promoted:
            token = champion.token if champion else 0
            texts = dataset.test["review_text"].to_list()
            self.live.keep(version.bundle_hash, compiled_form(candidate.model, version.bundle_hash, texts))
            champion = self.state.change_champion(
                version, replace(decision, action="promote"), expected_token=token, fence=lease
            )
            self._project_aliases(champion)
        else:
            self.state.decide(decision)
            if kind_named(kind).candidate:
                self._set_aliases({"challenger": version.version})
        log.info("compared", kind=kind, version=version.version, outcome=verdict.outcome.value)
        progress(f"{kind}: {verdict.outcome.value}. {verdict.summary}", 1.0)
        return verdict

    def _train(self, kind: str, dataset: Dataset) -> Candidate:
        started_at, wall, cpu = self.clock.now(), time.perf_counter(), time.process_time()
        seed, given = self.training.seed, self.training.parameters.get(kind, {})
        parent = self._parent(kind, given, dataset) if self.training.warm_start else None
        if parent is None:
            model = train(kind, dataset.train, dataset.validation, seed=seed, parameters=given)
        else:
            model = go_on(parent.model, parent.further, seed=seed)
        fit = {"train_seconds": time.perf_counter() - wall, "train_cpu_seconds": time.process_time() - cpu}
        fit |= {"trained_rows": float(dataset.train.height + dataset.validation.height)}
        fit |= {"labels": fit["trained_rows"] + dataset.test.height, "peak_memory_mb": _peak_memory_mb()}
        probabilities, decisions, scores = tested(model, dataset.test)
        told = {"macro_f1": round(scores["macro_f1"], 4), "seconds": time.perf_counter() - wall}
        log.info("trained", kind=kind, rows=dataset.train.height, **told)
        begun, times = parent.version if parent else None, (started_at, self.clock.now())
        return Candidate(kind, model, probabilities, decisions, {**scores, **fit}, *times, begun)

    def _parent(self, kind: str, parameters: Parameters, dataset: Dataset) -> Parent | None:
        """The newest version of the kind with these parameters, if training can go on from it."""
        made = kind_named(kind)
        for version in self.registry.versions() if made.more else []:
            if version.kind != kind:
                continue
            try:
                bundle = open_bundle(self.bundles, self.registry, version.version, version.bundle_hash)
            except (BundleError, NotFound) as err:
                log.warning("training starts anew", kind=kind, version=version.version, error=str(err))
                return None
            further = further_rows(read_manifest(bundle.manifest), dataset)
            same = bundle.model.parameters == made.with_parameters(parameters)
            return Parent(version.version, bundle.model, further) if same and further is not None else None
        return None

    def _compare(self, candidate: Candidate, champion: Champion | None, dataset: Dataset, look: Look) -> Verdict:
        bundle = self._champion_bundle(champion)
        return judge(
            candidate.model,
            bundle.model if bundle else None,
            dataset,
            champion_version=champion.version if champion else None,
            suite=load_suite(self.gate.behaviour_file),
            gate=self.gate,
            look=look,
            seed=self.training.seed,
            probabilities=candidate.probabilities,
        )

    def _record(self, candidate: Candidate, verdict: Verdict, dataset: Dataset) -> ModelVersion:
        card = describe_run(
            candidate.model,
            dataset,
            candidate.decisions,
            verdict,
            metrics=candidate.metrics,
            trained_at=candidate.finished_at,
            provenance=self.provenance,
            seed=self.training.seed,
            ledger=self.state.ledger(),
            rejected_rows=self.data.rejected_rows(),
            parent=candidate.parent,
        )
        cards = {README: model_card(card).encode(), DATA: data_card(card).encode()}
        extra = cards | _reference(candidate, dataset, self._test_stream(dataset)).files()
        files, bundle_hash = pack_bundle(candidate.model, card=card, manifest=dataset.manifest, extra=extra)
        self.bundles.put(files, bundle_hash)
        labels = dataset.test["label"].to_numpy()
        parameters = {"kind": candidate.kind, "seed": self.training.seed, **candidate.model.parameters}
        run = TrainingRun(
            name=kind_named(candidate.kind).title,
            kind=candidate.kind,
            started_at=candidate.started_at,
            finished_at=candidate.finished_at,
            parameters={key: str(value) for key, value in parameters.items()},
            metrics=candidate.metrics,
            tags={**self.provenance, "verdict": verdict.outcome.value, "verdict_summary": verdict.summary},
            dataset=dataset.summary(),
            artifacts=evaluation_artifacts(labels, candidate.probabilities, candidate.decisions) | cards,
            bundle=files,
            bundle_hash=bundle_hash,
        )
        return self.registry.record(run)

    def _test_stream(self, dataset: Dataset) -> pl.DataFrame:
        """All labelled reviews of the time that the test rows are of, repeated texts too: the dataset has each text
        once, and a window of reviews as they come would differ from that by "good" alone. At most REFERENCE_ROWS,
        spread evenly; the test rows themselves where times are not known."""
        test = dataset.test
        since, until = test["submitted_at"].min(), test["submitted_at"].max()
        if since is None or test["submitted_at"].null_count():
            return test
        rows = labelled(self.data.reviews(since=cast(datetime, since), batches=self.state.batches(EVERY)))
        rows = rows.filter(pl.col("submitted_at") <= until).sort("submitted_at", "review_id")
        return rows.gather_every(-(-rows.height // REFERENCE_ROWS))

    def _test_from(self) -> datetime | None:
        """Where the champion's own test rows begin: newer test rows were seen by neither model."""
        bundle = self._champion_bundle(self.state.champion())
        text = bundle.card["dataset"].get("test_from") if bundle else None
        return datetime.fromisoformat(text) if text else None

    def _champion_bundle(self, champion: Champion | None) -> Bundle | None:
        """The champion's files; None when there is no champion, or when its files are lost for good, so
        that only another champion helps. A registry that is away raises Unavailable."""
        if champion is None:
            return None
        try:
            return open_bundle(self.bundles, self.registry, champion.version, champion.bundle_hash)
        except (BundleError, NotFound) as err:
            log.warning("champion cannot be opened", version=champion.version, error=str(err))
            return None

    # --- who answers

    def promote(self, version: str, *, actor: str, reason: str) -> Champion:
        """Let a registered version answer because a person says so: an override, unless the gate said so too.

        Its files are opened and tried first. Raises NotFound for an unknown version, ModelError for a
        baseline, one that gave every test row the same label, and one that fails its checks.
        """
        known = {found.version: found for found in self.registry.versions()}
        if version not in known:
            raise NotFound(f"there is no model version {version}; `mso models list` shows {_some(known)}")
        bundle = open_bundle(self.bundles, self.registry, version, known[version].bundle_hash)
        kind, decided = kind_named(bundle.model.kind), bundle.card.get("labels_decided", LABELS)
        if not kind.candidate:
            raise ModelError(f"version {version} cannot be promoted: {baseline(kind)}")
        if len(decided) < 2:
            raise ModelError(f"version {version} cannot be promoted: it gave every test row the label {decided}")
        self.live.keep(known[version].bundle_hash, compiled_form(bundle.model, known[version].bundle_hash))
        agreed = self._verdict_on(known[version])["verdict"] == Outcome.PROMOTE
        return self._override("promote" if agreed else "override", known[version], actor, reason)

    def rollback(self, *, actor: str, reason: str) -> Champion:
        """Let the model before the champion answer again, and the one before that at the next rollback;
        works while the registry is away."""
        champion = self.state.champion()
        if champion is None:
            raise NoModel("there is no champion to roll back; `mso up` or `mso retrain` makes one")
        standing = reigns(self.state.ledger())
        if len(standing) < 2:
            raise NoModel(
                f"version {champion.version} is the first champion: there is none before it to roll back to; "
                f"`mso promote VERSION` lets any registered version answer"
            )
        version, bundle_hash = standing[-2].decision.subject, standing[-2].decision.figures.get("bundle")
        if bundle_hash is None and version == champion.previous_version:  # decided before bundles were named
            bundle_hash = champion.previous_bundle_hash
        if bundle_hash is None:
            bundle_hash = next((one.bundle_hash for one in self.registry.versions() if one.version == version), None)
        if bundle_hash is None:
            raise NotFound(f"version {version} answered before, and MLflow has it no more; `mso promote` another one")
        bundle = open_bundle(self.bundles, self.registry, version, str(bundle_hash))
        self.live.keep(str(bundle_hash), compiled_form(bundle.model, str(bundle_hash)))
        dataset, trained_at = bundle.card["dataset"]["fingerprint"], datetime.fromisoformat(bundle.card["trained_at"])
        previous = ModelVersion(version, bundle.model.kind, str(bundle_hash), "", dataset, trained_at)
        return self._override("rollback", previous, actor, reason)

    def _override(self, action: str, version: ModelVersion, actor: str, reason: str) -> Champion:
        champion = self.state.champion()
        if champion is not None and champion.bundle_hash == version.bundle_hash:
            return champion
        change = {"from": champion.version if champion else None, "to": version.version}
        figures = {**change, "kind": version.kind, "bundle": version.bundle_hash, **self._verdict_on(version)}
        decision = Decision(action, version.version, actor, reason, figures)
        changed = self.state.change_champion(version, decision, expected_token=champion.token if champion else 0)
        self._project_aliases(changed)
        log.info(action, version=version.version, actor=actor, reason=reason)
        return changed

    def _verdict_on(self, version: ModelVersion) -> dict[str, object]:
        """What the gate said of a version and where in the ledger, for the decision that overrides it."""
        for entry in reversed(self.state.ledger()):
            found = entry.decision
            if (found.subject, found.actor) == (version.version, "gate"):
                outcome = found.figures.get("outcome") or version.tags.get("verdict")
                return {"verdict": outcome, "verdict_summary": found.reason, "verdict_seq": entry.seq}
        return {"verdict": None}

    # --- what a crash may have left

    def reconcile(self, *, but: str | None = None) -> list[str]:
        """Close jobs and runs without a process and repair the aliases; what was found, in words.

        The job `but` is left alone: it is the caller's own. Raises Unavailable when the registry is
        away; the jobs are closed by then.
        """
        found = close_lost_jobs(self.state, self.launcher, self.clock, but=but)
        if lost := self.registry.close_lost():
            found.append(f"training runs that a process left open when it ended, closed as failed: {lost}")
        champion = self.state.champion()
        if champion is not None:
            pointed, expected = self.registry.aliases(), self._projection(champion)
            if pointed.get("challenger") == champion.version:
                expected["challenger"] = None
            wrong = {alias: version for alias, version in expected.items() if pointed.get(alias) != version}
            found += [
                f"alias {alias} pointed at {pointed.get(alias) or 'nothing'} and was put back to "
                f"{version or 'nothing'}: the champion changes only by `mso promote`"
                for alias, version in wrong.items()
            ]
            if wrong:
                self._tag_change(champion)
            self._set_aliases(wrong)
        for sentence in found:
            log.warning("reconciled", found=sentence)
        return found

    def _projection(self, champion: Champion) -> dict[str, str | None]:
        version, previous = champion.version, champion.previous_version
        return {"champion": version, "Production": version, "previous": previous}

    def _project_aliases(self, champion: Champion) -> None:
        """A new champion has no challenger yet."""
        self._tag_change(champion)
        self._set_aliases({**self._projection(champion), "challenger": None})

    def _tag_change(self, champion: Champion) -> None:
        """Its version carries the hash of the entry that made it the champion: one written anew has another."""
        tags = {f"{LEDGER_TAG}{entry.seq}": entry.entry_hash for entry in reigns(self.state.ledger())[-1:]}
        self._mirror(lambda: self.registry.attach(champion.version, tags))

    def _set_aliases(self, aliases: Mapping[str, str | None]) -> None:
        self._mirror(lambda: self.registry.set_aliases(aliases))

    def _mirror(self, write: Callable[[], None]) -> None:
        """The registry only mirrors the champion row and the ledger, so that one that is away stops nothing."""
        try:
            write()
        except StoreError as err:
            log.warning("MLflow was not told; `mso up` and every retrain repair its aliases", error=str(err))


def _training_decision(candidate: Candidate, version: ModelVersion, dataset: Dataset, seed: int) -> Decision:
    costs = ("train_cpu_seconds", "train_seconds", "peak_memory_mb", "trained_rows", "labels")
    figures = {
        **{"kind": candidate.kind, "bundle": version.bundle_hash, "dataset": dataset.fingerprint},
        **{"parameters": dict(candidate.model.parameters), "seed": seed},
        "cost": {name: candidate.metrics[name] for name in costs},
    }
    reason = f"{kind_named(candidate.kind).title} learned from {candidate.metrics['trained_rows']:,.0f} reviews"
    return Decision("train", version.version, "training", reason, figures)


def _reference(candidate: Candidate, dataset: Dataset, stream: pl.DataFrame) -> Reference:
    """What monitoring compares with: the stream of the test period as the candidate judges it, with texts as the log
    keeps them."""
    texts = stream["review_text"].to_list()
    probabilities = candidate.model.probabilities(texts, stream["rating"].to_list())
    decided = candidate.model.decide(probabilities)
    told = stream.select(*DIMENSIONS, event_time="submitted_at", truth="label", text=masked_texts(texts))
    scored = with_answers(told, decided, probabilities)
    learned = [*dataset.train["review_text"], *dataset.validation["review_text"]]
    return make_reference(masked_texts(learned).to_list(), scored)


def _within(progress: Progress, start: float, end: float) -> Progress:
    """A progress whose 0..1 is the part from `start` to `end` of another."""
    return lambda step, share: progress(step, start + (end - start) * share)


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def _some(known: Mapping[str, object]) -> str:
    return ", ".join(list(known)[:10]) or "none yet"
