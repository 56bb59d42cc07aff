"""Monitoring over the ports: what came since, what it means, and what is to be done.

observe   sketches of predictions that were just kept, and the alarm within the stream (the keeper's)
mend      sketches that are lost or do not fit the log, made again from it
check     the newest windows against the champion's reference: the retrain decision
explain   which words, apps, versions and languages moved
report    both as JSON and as a page, in the bucket
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import cast

import polars as pl
import pyarrow as pa
import structlog
from pydantic import TypeAdapter
from pydantic_core import from_json, to_json

from mobile_sentiment_ops.app.data_pipeline import DataHandler
from mobile_sentiment_ops.app.incidents import IncidentHandler, beat
from mobile_sentiment_ops.app.model_files import open_bundle
from mobile_sentiment_ops.data.predictions import (
    PREDICTIONS_TABLE,
    PROBABILITIES,
    masked_texts,
    prediction_schema,
    with_answers,
)
from mobile_sentiment_ops.data.reviews import labelled
from mobile_sentiment_ops.errors import BundleError, MsoError, NoModel, NotFound, TooFewRows, Unavailable
from mobile_sentiment_ops.models.compiled import CompiledModel, compile_model
from mobile_sentiment_ops.monitoring import DECISION_FILE, REPORTS, SKETCHES_TABLE
from mobile_sentiment_ops.monitoring.decision import Findings, decide
from mobile_sentiment_ops.monitoring.drift import Limits, check_drift, draw_limits
from mobile_sentiment_ops.monitoring.explanation import Explanation, explain
from mobile_sentiment_ops.monitoring.page import report_page
from mobile_sentiment_ops.monitoring.performance import Confidence, estimated_performance, live_performance
from mobile_sentiment_ops.monitoring.reference import MIN_ROWS, Reference, read_reference
from mobile_sentiment_ops.monitoring.rows import DIMENSIONS, MOMENTS, Rows, Vocabulary, rows_of
from mobile_sentiment_ops.monitoring.shares import Cells, class_shares, grid_cells
from mobile_sentiment_ops.monitoring.sketch import SKETCH_SCHEMA, Sketch, Window, sketched
from mobile_sentiment_ops.monitoring.stream import Alarm, Stream, StreamLimits, follow, stream_limits
from mobile_sentiment_ops.ports import Bundles, Clock, Files, Registry, State, Tables
from mobile_sentiment_ops.settings import Monitoring
from mobile_sentiment_ops.types import (
    LABELS,
    Action,
    Admission,
    Champion,
    Decision,
    DriftStatus,
    Interval,
    Measurement,
    RetrainDecision,
    Severity,
)

log = structlog.get_logger()

BEFORE_WINDOWS = 4
"""An explanation compares a window with so many of its length before it."""
SAID_AGAIN = CALM = timedelta(days=1)
STREAM = "stream/"
"""Keys of incidents that the stream raises begin so."""

_SCORED = ("review_id", "event_time", "label", *PROBABILITIES, *DIMENSIONS, "text")
_DECISION = TypeAdapter(RetrainDecision)


@dataclass(frozen=True)
class Judge:
    """A champion as monitoring needs it: its compiled model, and its reference with limits, or why there is none."""

    champion: Champion
    model: CompiledModel
    reference: Reference | None
    limits: Limits | None
    stream: StreamLimits | None


@dataclass(kw_only=True)
class MonitoringHandler:
    """Monitoring over the ports it is given. `observe` and `mend` are one caller's, the keeper's."""

    tables: Tables
    files: Files
    state: State
    bundles: Bundles
    registry: Registry
    data: DataHandler
    incidents: IncidentHandler
    clock: Clock
    settings: Monitoring
    evidently: Callable[[pl.DataFrame, pl.DataFrame], bytes]
    log_text: str = "masked"
    _judge: Judge | None = field(default=None, init=False)
    _vocabularies: dict[str, Vocabulary | None] = field(default_factory=dict, init=False)
    _stream: tuple[str, Stream] = field(default=("", Stream()), init=False)

    # --- what was just kept

    def observe(self, kept: pa.Table, key: tuple[str, int] | None = None) -> int:
        """Add the sketches of rows of the predictions table, once for each `key`; how many groups they are in. Alarms
        of the stream become incidents."""
        found = 0
        for rows, version in self._by_version(cast(pl.DataFrame, pl.from_arrow(kept))):
            made = rows_of(rows, self._vocabulary(version))
            sketches = sketched(made)
            found += sketches.height
            self.tables.append(
                SKETCHES_TABLE, sketches.to_arrow(), key=(f"{key[0]} {version}", key[1]) if key else None
            )
            for signal in self._alarms(version, made):
                title = f"The stream of reviews raised an alarm on {signal}"
                detail = f"among the reviews that version {version} judged; `mso monitor explain` says what moved"
                self.incidents.report(f"{STREAM}{signal}", Severity.WARNING, title, detail)
        return found

    def _alarms(self, version: str, made: Rows) -> set[str]:
        """Signals that raised an alarm among these reviews, which are the newest of the log; after a start, the
        stream is followed from the log's beginning first."""
        judge = self._judge  # the one of the last check: its limits take seconds, and a drain waits for nothing
        if judge is None or judge.champion.version != version or judge.stream is None:
            return set()
        if self._stream[0] == version:
            state, alarms = follow(self._stream[1], made, judge.stream)
        else:
            state, alarms = Stream(), []
            columns, which = [*_SCORED, "model_version"], {"model_version": version}
            for batch in self.tables.batches(PREDICTIONS_TABLE, columns, equals=which):
                for rows, _ in self._by_version(cast(pl.DataFrame, pl.from_arrow(batch))):
                    seen = state.seen
                    state, more = follow(state, rows_of(rows, self._vocabulary(version)), judge.stream)
                    alarms += [Alarm(alarm.signal, seen + alarm.row) for alarm in more]
            alarms = [alarm for alarm in alarms if alarm.row >= state.seen - len(made)]
        self._stream = (version, state)
        return {alarm.signal for alarm in alarms}

    def mend(self) -> bool:
        """Make the sketches again from the log when they are not of as many predictions; whether they were."""
        logged = sum(batch.num_rows for batch in self.tables.batches(PREDICTIONS_TABLE, ["format"]))
        try:
            kept = sum(int(batch["n"].to_numpy().sum()) for batch in self.tables.batches(SKETCHES_TABLE, ["n"]))
        except MsoError as err:
            log.warning("sketches cannot be read", error=str(err))
            kept = -1
        if kept == logged:
            return False
        log.warning("sketches are made again from the log", predictions=logged, sketched=kept)
        self.tables.drop(SKETCHES_TABLE)
        wanted = [*_SCORED, "model_version"]
        for batch in self.tables.batches(PREDICTIONS_TABLE, wanted):
            for rows, version in self._by_version(cast(pl.DataFrame, pl.from_arrow(batch))):
                self.tables.append(SKETCHES_TABLE, sketched(rows_of(rows, self._vocabulary(version))).to_arrow())
        return True

    def _by_version(self, rows: pl.DataFrame) -> list[tuple[pl.DataFrame, str]]:
        parts = self._as_kept(rows).partition_by("model_version", maintain_order=True)
        return [(part, part["model_version"][0]) for part in parts]

    def _as_kept(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Rows of the log, without what is no text there: its hash."""
        return rows if self.log_text == "masked" else rows.with_columns(pl.lit(None, pl.Utf8()).alias("text"))

    def _vocabulary(self, version: str) -> Vocabulary | None:
        """That of a model version; None for one that is gone, or of a release without monitoring."""
        if version not in self._vocabularies:
            champion = self.state.champion()
            known = {}
            if champion is not None:
                known = {
                    champion.version: champion.bundle_hash,
                    champion.previous_version: champion.previous_bundle_hash,
                }
            try:
                bundle_hash = known.get(version) or self._registered(version)
                extra = open_bundle(self.bundles, self.registry, version, bundle_hash).extra
                self._vocabularies[version] = read_reference(extra).vocabulary
            except (BundleError, NotFound) as err:
                log.warning("no word counts as unknown", version=version, error=str(err))
                self._vocabularies[version] = None
            except Unavailable as err:
                log.warning("no word counts as unknown while the registry is away", version=version, error=str(err))
                return None
        return self._vocabularies[version]

    def _registered(self, version: str) -> str:
        for known in self.registry.versions():
            if known.version == version:
                return known.bundle_hash
        raise NotFound(f"there is no model version {version} any more")

    # --- the champion

    def judge(self) -> Judge | None:
        """The champion with all that windows are compared with; None when there is no champion. The limits of a new
        one are drawn (some seconds) and kept in the bucket."""
        champion = self.state.champion()
        if champion is None:
            return None
        if self._judge is None or self._judge.champion != champion:
            bundle = open_bundle(self.bundles, self.registry, champion.version, champion.bundle_hash)
            model = CompiledModel.of(compile_model(bundle.model, champion.bundle_hash))
            try:
                reference = read_reference(bundle.extra)
            except BundleError as err:
                log.warning("nothing to compare with", version=champion.version, error=str(err))
                self._judge = Judge(champion, model, None, None, None)
                return self._judge
            enough = len(reference.rows) >= MIN_ROWS
            limits, stream = self._limits(champion.bundle_hash, reference) if enough else (None, None)
            self._judge = Judge(champion, model, reference, limits, stream)
        return self._judge

    def _limits(self, bundle_hash: str, reference: Reference) -> tuple[Limits, StreamLimits]:
        name = f"monitoring/limits_{bundle_hash[:16]}.json"
        try:
            kept = from_json(self.files.read(name))
            return Limits.from_json(to_json(kept["windows"])), TypeAdapter(StreamLimits).validate_python(kept["stream"])
        except (NotFound, BundleError, ValueError, KeyError, TypeError):
            limits, stream = draw_limits(reference), stream_limits(reference)
            told = {"windows": from_json(limits.to_json()), "stream": asdict(stream)}
            self.files.write(name, to_json(told))
            return limits, stream

    # --- reviews as the champion judges them

    def scored(self, since: datetime, until: datetime) -> pl.DataFrame:
        """Reviews written in [since, until) with the champion's prediction, their text, masked, where it is kept, and
        `truth`, an index into LABELS, where they have a label. `logged` tells those that it judged when they came from
        those that it judges now: of other versions' predictions, and reviews that nobody asked about."""
        judge = self._required()
        logged = self._logged(since, until)
        reviews = self.data.reviews(since=since).filter(pl.col("submitted_at") < until)
        own = logged.filter(pl.col("model_version") == judge.champion.version)
        others = logged.filter((pl.col("model_version") != judge.champion.version) & pl.col("text").is_not_null())
        taken_in = reviews.select(
            "review_id", *DIMENSIONS, pl.col("submitted_at").alias("event_time"), pl.col("review_text").alias("text")
        )
        unseen = pl.concat([taken_in, others.select(taken_in.columns)]).unique(
            "review_id", keep="first", maintain_order=True
        )
        unseen = unseen.join(own.select("review_id"), on="review_id", how="anti", maintain_order="left")
        both = [
            own.select(_SCORED).with_columns(logged=True),
            _judged(judge.model, unseen).select(_SCORED).with_columns(logged=False),
        ]
        truth = labelled(reviews).select("review_id", "label_source", pl.col("label").cast(pl.Int8()).alias("truth"))
        return pl.concat(both).join(truth, on="review_id", how="left", maintain_order="left")

    def _required(self) -> Judge:
        if (judge := self.judge()) is None:
            raise NoModel("no model is promoted yet, so there is nothing to compare with; `mso retrain` makes one")
        return judge

    def _logged(self, since: datetime, until: datetime) -> pl.DataFrame:
        """The log's rows of that time."""
        found = self.tables.read(PREDICTIONS_TABLE, [*_SCORED, "model_version"], since=("event_time", since))
        if not found.num_columns:
            found = prediction_schema().empty_table().select([*_SCORED, "model_version"])
        rows = cast(pl.DataFrame, pl.from_arrow(found)).filter(pl.col("event_time") < until)
        return self._as_kept(rows)

    # --- the decision

    def check(self) -> RetrainDecision:
        """Compare the newest windows with the champion's reference, and decide. The decision is kept for those who
        ask, goes to the ledger when it is another one or a day old, and opens or closes the incident `drift`. Another
        one also gets a report."""
        now, judge = self.clock.now(), self.judge()
        if judge is None:
            decision = decide(Findings(now, None))
        else:
            frame = self.scored(_since(now, max(self.settings.window_days)), now + timedelta(seconds=1))
            decision = decide(self._findings(judge, frame, now))
        self._keep(decision)
        beat(self.state, "monitor")
        return decision

    def due(self) -> bool:
        """Whether a server is to check by itself: the last decision is of another champion, or old enough."""
        champion, minutes, last = self.state.champion(), self.settings.check_minutes, self.decision()
        if champion is None or not minutes:
            return False
        known = last is not None and last.model_version == champion.version
        return not known or last is None or self.clock.now() - last.at >= timedelta(minutes=minutes)

    def _findings(self, judge: Judge, frame: pl.DataFrame, now: datetime) -> Findings:
        share = self.settings.false_alarms / len(self.settings.window_days)
        sketches = self._sketches(judge, frame)
        windows = {
            days: Window.of(sketches.filter(pl.col("hour") >= _since(now, days))) for days in self.settings.window_days
        }
        drift = {
            days: check_drift(
                *(window, judge.reference, judge.limits), false_alarms=share, min_reviews=self.settings.min_reviews
            )
            for days, window in windows.items()
        }
        fired = {one.name for _, measured in drift.values() for one in measured if one.fired}
        part = _new_part(frame, judge.reference, fired)
        champion, told = judge.champion, frame.filter(pl.col("truth").is_not_null())
        performance, loss, estimate = self._performance(judge, told, windows[max(windows)].sketch)
        return Findings(
            at=now,
            model_version=champion.version,
            promoted_at=champion.promoted_at,
            previous_version=champion.previous_version,
            drift=drift,
            performance=performance,
            loss=loss,
            estimate=estimate,
            alarms=self._standing_alarms(now),
            held=[batch for batch in self.state.batches() if batch.admission is Admission.HELD],
            new_part=part,
            labels=told.height,
            new_labels=_of_new(told, part, judge.reference) if fired else 0,
            min_labels=self.settings.min_labels,
        )

    def _standing_alarms(self, now: datetime) -> list[str]:
        """Signals of the stream whose alarm is not over: one that was not raised again for a day is."""
        standing = []
        for found in self.state.incidents(open_only=True):
            if found.key.startswith(STREAM):
                if now - found.seen_at >= CALM:
                    self.incidents.well(found.key, "it was not raised again for a day")
                else:
                    standing.append(found.key.removeprefix(STREAM))
        return standing

    def _performance(
        self, judge: Judge, told: pl.DataFrame, window: Sketch
    ) -> tuple[tuple[Measurement, ...], Measurement | None, Measurement | None]:
        """How good the champion is: all that is measured, its loss by labels, and its accuracy without any."""
        reference, settings = judge.reference, self.settings
        if reference is None:
            return (), None, None
        rows = reference.rows
        tested = rows.frame.select(DIMENSIONS).with_columns(
            pl.Series("truth", reference.truth), pl.Series("predicted", rows.labels)
        )
        names = [label.value for label in LABELS]
        labelled = told.with_columns(predicted=told["label"].replace_strict(names, range(3), return_dtype=pl.Int8()))
        try:
            by_labels = live_performance(
                labelled,
                tested,
                min_labels=settings.min_labels,
                max_loss=settings.max_loss,
                target=settings.target_macro_f1,
            )
            p = reference.probabilities
            cells = Cells.of(grid_cells(p), p, reference.truth, window.cells.size)
        except TooFewRows as err:
            return (Measurement("macro-F1", None, None, False, str(err)),), None, None
        known = Confidence.of(p, rows.labels, reference.truth)
        accuracy, macro_f1 = estimated_performance(
            window.confidence, known, max_loss=settings.max_loss, min_reviews=settings.min_reviews
        )
        measured = (*by_labels.measured, accuracy, macro_f1)
        if window.n < settings.min_reviews:
            return measured, by_labels.loss, accuracy
        share = class_shares(window.cells.reshape(1, -1), cells).interval(0)
        reason = f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%}) of {window.n:,} reviews are negative"
        reason += f", {cells.prior[0]:.1%} in the champion's test"
        by_em = Measurement("negative share by EM", share.value, None, False, reason, window.n, share.low, share.high)
        return (*measured, by_em), by_labels.loss, accuracy

    def _sketches(self, judge: Judge, frame: pl.DataFrame) -> pl.DataFrame:
        """Those of a scored frame: what the keeper made of the logged ones, unless some of it is missing."""
        vocabulary = judge.reference.vocabulary if judge.reference else None
        now = sketched(rows_of(frame.filter(~pl.col("logged")), vocabulary))
        logged = frame.filter("logged")
        if logged.height:
            found = self.tables.read(
                SKETCHES_TABLE, since=("hour", cast(datetime, frame["event_time"].dt.truncate("1h").min()))
            )
            kept = cast(pl.DataFrame, pl.from_arrow(found)) if found.num_columns else pl.DataFrame(schema=SKETCH_SCHEMA)
            kept = kept.filter(pl.col("model_version") == judge.champion.version)
            if kept["n"].sum() != logged.height:
                log.info("sketches are made anew for a check", logged=logged.height, sketched=kept["n"].sum())
                kept = sketched(rows_of(logged, vocabulary))
            now = pl.concat([now, kept.select(SKETCH_SCHEMA.names()).cast(SKETCH_SCHEMA)])
        return now

    def _keep(self, decision: RetrainDecision) -> None:
        before = self.decision()
        self.files.write(DECISION_FILE, to_json(decision, inf_nan_mode="null"))
        another = before is None or (before.action, before.model_version) != (decision.action, decision.model_version)
        if another or (before is not None and decision.at - before.at >= SAID_AGAIN):
            self.state.decide(_for_ledger(decision))
        if another and decision.drift in (DriftStatus.OK, DriftStatus.DRIFT):
            self.report()
        figures = {one.name: one.value for one in decision.measured if one.fired}
        if decision.action in (Action.NOTHING, Action.HOLD):
            self.incidents.well("drift", decision.summary)
        else:
            severity = Severity.CRITICAL if decision.action is Action.ROLLBACK else Severity.WARNING
            self.incidents.report("drift", severity, decision.summary, "; ".join(decision.reasons), figures)
        log.info("checked", action=decision.action.value, drift=decision.drift.value, version=decision.model_version)

    def decision(self) -> RetrainDecision | None:
        """What the last finished check decided; None before the first."""
        try:
            return _DECISION.validate_json(self.files.read(DECISION_FILE))
        except (NotFound, ValueError):
            return None

    # --- explanations

    def explain(self, *, days: int = 7, app: str | None = None, until: datetime | None = None) -> Explanation:
        """What moved in the last `days` against the weeks before, of one app or of all."""
        return explain(*self._sides(days, app, until))

    def _sides(self, days: int, app: str | None, until: datetime | None) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Reviews of BEFORE_WINDOWS windows, and of the one behind them."""
        end = until or self.clock.now() + timedelta(seconds=1)
        start = end - timedelta(days=days)
        frame = self.scored(start - timedelta(days=BEFORE_WINDOWS * days), end)
        if app is not None:
            frame = frame.filter(pl.col("app") == app)
        return frame.filter(pl.col("event_time") < start), frame.filter(pl.col("event_time") >= start)

    def report(
        self, *, days: int = 7, app: str | None = None, until: datetime | None = None, evidently: bool = False
    ) -> list[str]:
        """Write the last decision and an explanation as JSON and as a page into the bucket's `reports/`, with
        Evidently's report where that is asked for; their addresses, which the champion's version in MLflow names."""
        decision = self.decision() or self.check()
        before, after = self._sides(days, app, until)
        explanation = explain(before, after)
        name = f"{REPORTS}drift_{self.clock.now():%Y%m%dT%H%M%S}"
        written = {
            f"{name}.html": report_page(decision, explanation, _series(pl.concat([before, after]))),
            f"{name}.json": to_json({"decision": decision, "explanation": explanation}, inf_nan_mode="null", indent=1),
        }
        if evidently:
            written[f"{name}_evidently.html"] = self.evidently(before, after)
        addresses = [self.files.write(file, content) for file, content in written.items()]
        if decision.model_version is not None:
            try:
                self.registry.attach(decision.model_version, {"mso.report": addresses[0]})
            except MsoError as err:
                log.warning("MLflow was not told of a report", error=str(err))
        return addresses

    def reports(self) -> list[str]:
        """The names of written reports, newest first."""
        return [name.removeprefix(REPORTS) for name in reversed(self.files.list(REPORTS)) if "/drift_" in f"/{name}"]


def _for_ledger(decision: RetrainDecision) -> Decision:
    """What the ledger keeps: figures and sentences of the decision, which hold no text of a review."""
    measured = [
        {
            "name": one.name,
            "value": one.value,
            "limit": one.limit,
            "n": one.n,
            "fired": one.fired,
            **({"part": dict(one.part)} if one.part else {}),
        }
        for one in decision.measured
    ]
    figures: dict[str, object] = {
        "action": decision.action.value,
        "drift": decision.drift.value,
        "reasons": list(decision.reasons),
        "measured": measured,
        "labels_wanted": decision.labels_wanted,
        "label_where": dict(decision.label_where),
    }
    return Decision("monitor", decision.model_version or "none", "monitoring", decision.summary, figures)


def _since(now: datetime, days: int) -> datetime:
    """The full hour so many days ago: sketches know no minutes."""
    return (now - timedelta(days=days)).replace(minute=0, second=0, microsecond=0)


def _judged(model: CompiledModel, rows: pl.DataFrame) -> pl.DataFrame:
    """Reviews with the label and the probabilities that a model gives them now, and their texts masked."""
    texts = rows["text"].fill_null("").to_list()
    found = model.scored(texts)
    return with_answers(rows.with_columns(text=masked_texts(texts)), found.labels, found.probabilities)


def _series(frame: pl.DataFrame) -> list[tuple[datetime, Interval]]:
    """The mean of p_negative in each day, or in each week where there are more than 60 days."""
    if not frame.height:
        return []
    span = cast(datetime, frame["event_time"].max()) - cast(datetime, frame["event_time"].min())
    time = pl.col("event_time").dt.truncate("1d" if span <= timedelta(days=60) else "1w").alias("time")
    p = pl.col("p_negative")
    found = (
        frame.group_by(time).agg(p.mean().alias("mean"), (1.96 * p.std() / pl.len().sqrt()).alias("reach")).sort("time")
    )
    return [
        (at, Interval(mean, max(mean - (reach or 0.5), 0.0), min(mean + (reach or 0.5), 1.0)))
        for at, mean, reach in found.rows()
    ]


def _new_part(frame: pl.DataFrame, reference: Reference | None, fired: Collection[str]) -> dict[str, str]:
    """The commonest language or app that the reference has none of, where that is what moved."""
    for name, dimension in (("new languages", "language"), ("new apps", "app")):
        if name in fired and reference is not None:
            known = reference.rows.frame[dimension].drop_nulls().unique()
            new = frame[dimension].drop_nulls()
            new = new.filter(~new.is_in(known.implode()))
            if new.len():
                return {dimension: new.value_counts(sort=True)[dimension][0]}
    return {}


def _of_new(told: pl.DataFrame, part: Mapping[str, str], reference: Reference | None) -> int:
    """How many labelled reviews are of what is new: that app or language, else those with unknown words."""
    if part:
        return told.filter(*(pl.col(name) == value for name, value in part.items())).height
    rows = rows_of(told, reference.vocabulary if reference else None)
    return int((rows.moments[:, MOMENTS.index("unknown")] > 0).sum())
