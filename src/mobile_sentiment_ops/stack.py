"""The embedded default: everything on one machine from one command, and its end.

    up       MLflow server and API as children, reviews, a first model that serves, then the other kinds
    down     end the `up` of a workspace, and whatever a killed one left behind
    status   what runs, what answers, and with which model

`up` stays in the foreground. The first model is trained in this process, as soon as MLflow answers; the
other kinds in a process of low priority, once the first one serves. When there is a champion already,
the API starts at once from its local copy, and MLflow after it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

import httpx

from mobile_sentiment_ops.bootstrap import Platform
from mobile_sentiment_ops.errors import Busy, MsoError, Unavailable
from mobile_sentiment_ops.processes import Processes, require_free
from mobile_sentiment_ops.screen import Screen, Step
from mobile_sentiment_ops.settings import Settings
from mobile_sentiment_ops.types import Champion, Decision, IngestReport, Job, JobState

MLFLOW_WITHIN_SECONDS = 120.0
API_WITHIN_SECONDS = 60.0
LEASE_WITHIN_SECONDS = 90.0
STOP_SECONDS = 60.0
DOWN_WITHIN_SECONDS = 60.0
LOOK_EVERY_SECONDS = 0.25

QUIET_MLFLOW = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""Measured: with one worker and no job runner the server takes 464 MB instead of 1.6 GB."""


def up(platform: Platform, screen: Screen, data: Sequence[str] = ()) -> None:
    """Start everything, stay with it, and end it on Ctrl-C (as KeyboardInterrupt) or SIGTERM.

    `data` are files of reviews to take in; without any review there, the demo world is. Raises Busy for a
    second `up` in the workspace or a port in use, and MsoError when a child ends by itself.
    """
    stack = _Stack(platform, screen)
    with stack.processes.in_charge(), stack.stoppable():
        stack.run(data)


def down(platform: Platform, screen: Screen) -> bool:
    """End the `up` of this workspace and what a killed one left; whether there was anything."""
    processes = Processes(platform.workspace)
    charged = processes.charged()
    if charged is not None:
        step = screen.step("mso up")
        os.kill(charged.pid, signal.SIGTERM)
        until = time.monotonic() + DOWN_WITHIN_SECONDS
        while charged.alive() and time.monotonic() < until:
            step.at(f"stopping pid {charged.pid}")
            time.sleep(LOOK_EVERY_SECONDS)
        if charged.alive():
            os.kill(charged.pid, signal.SIGKILL)
        step.done("stopped")
    with processes.in_charge():
        return _end_everything(platform, processes, screen) or charged is not None


@dataclass(frozen=True, slots=True)
class Status:
    """How a workspace does. `api` and `mlflow` are what a question to them found."""

    workspace: str
    up_pid: int | None
    api_url: str
    api: str
    mlflow_url: str
    mlflow: str
    champion: Champion | None
    reviews: int
    jobs: tuple[Job, ...]


def status(platform: Platform) -> Status:
    """What runs and answers; asking starts and makes nothing."""
    api_url = _api_url(platform.settings)
    return Status(
        workspace=str(platform.workspace),
        up_pid=charged.pid if (charged := Processes(platform.workspace).charged()) else None,
        api_url=api_url,
        api=_readiness(_ask(f"{api_url}/readyz")),
        mlflow_url=platform.settings.mlflow.tracking_uri,
        mlflow="answers" if platform.registry.reachable() else "does not answer",
        champion=platform.state.champion() if _has_state(platform) else None,
        reviews=sum(rows.num_rows for rows in platform.tables.batches("reviews", ["review_id"])),
        jobs=_unfinished(platform),
    )


class _Stack:
    """One run of `up`."""

    def __init__(self, platform: Platform, screen: Screen) -> None:
        self.processes = Processes(platform.workspace)
        self._platform = platform
        self._settings = platform.settings
        self._screen = screen
        self._started = time.monotonic()
        self._told_until = 0
        self._signal = 0
        self._shielded = False

    # --- the way up

    def run(self, data: Sequence[str]) -> None:
        if self.processes.running() and _end_everything(self._platform, self.processes, self._screen):
            self._screen.say("an earlier `mso up` was killed; what it had left running is stopped")
        api = self._settings.api
        require_free(api.host, api.port, "api.port")
        if own := _own_mlflow(self._settings):
            require_free(*own, "mlflow.tracking_uri")
        if not _has_state(self._platform) or self._platform.state.champion() is None:
            self._start_mlflow()
            self._take_in(data or self._initial_data())
            self._meet_mlflow()
            self._start_api()
            self._train_first()
            self._meet_api()
        else:
            self._start_api()
            self._meet_api()
            self._start_mlflow()  # only now, as two cores are busy with one of them
            self._take_in(data)
            try:
                self._meet_mlflow()
            except Unavailable as err:  # a server elsewhere, which the champion's local copy does not need
                self._screen.say(f"{err}; the model is served from its local copy")
                self._watch()
        if missing := self._platform.models.missing_kinds():
            self._platform.models.schedule_retrain(kinds=missing)
        self._watch()

    def _start_mlflow(self) -> None:
        if (own := _own_mlflow(self._settings)) is None:
            return
        folder, (host, port) = self._platform.workspace, own
        command = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
        self._start("mlflow", [*command, "--artifacts-destination", str(folder / "mlflow-artifacts")], QUIET_MLFLOW)

    def _start_api(self) -> None:
        self._start("api", [sys.executable, "-m", "mobile_sentiment_ops", "serve", "--no-train"])

    def _start(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> None:
        """Start a child; a signal waits until the child is on record."""
        self._shielded = True
        self.processes.start(name, command, environment)
        self._shielded = False
        if self._signal:
            raise KeyboardInterrupt

    def _initial_data(self) -> Sequence[str]:
        """The file that the settings name; without one and without reviews, the demo world is taken in."""
        if given := self._settings.training.initial_data:
            return [given]
        if self._platform.tables.version("reviews") < 0:
            step = self._screen.step("demo world")
            step.at("generating reviews, as there are none and no --data")
            from mobile_sentiment_ops.data.demo_world import generate

            report = self._platform.data.ingest_frames("demo world", [generate(self._settings.demo).reviews])
            step.done(f"{report.new:,} synthetic reviews; no person wrote them (docs/demo-world.md)")
        return []

    def _take_in(self, sources: Sequence[str]) -> None:
        if not sources:
            return
        step = self._screen.step("reviews")

        def told(rows: int) -> None:
            self.processes.check()
            step.at(f"{rows:,} rows read from {', '.join(sources)}")

        step.at(f"reading {', '.join(sources)}")
        step.done(counts_in_words(self._platform.data.ingest(sources, progress=told)))

    def _meet_mlflow(self) -> None:
        step = self._screen.step("MLflow")
        uri = self._settings.mlflow.tracking_uri.rstrip("/")
        step.at(f"waiting for {uri}/health")
        models = self._platform.models  # its imports take seconds, and the server is still starting
        if _own_mlflow(self._settings) is not None:
            self._wait(step, f"{uri}/health", MLFLOW_WITHIN_SECONDS, self.processes.log("mlflow"))
        elif not self._platform.registry.reachable():
            step.done("does not answer")
            raise Unavailable(f"the MLflow server at {uri} (mlflow.tracking_uri) does not answer")
        found = models.reconcile()
        step.done(f"answers at {uri}")
        for sentence in found:
            self._screen.say(f"    mended: {sentence}")

    def _train_first(self) -> None:
        step = self._screen.step("first model")

        def told(detail: str, share: float) -> None:
            self.processes.check()
            if share < 1.0:  # the last one repeats the verdict
                step.at(detail, share)

        while True:
            try:
                champion = self._platform.models.train_startup_model(progress=told)
                break
            except Busy as err:  # a training that was killed holds its lease for a minute
                if time.monotonic() - self._started > LEASE_WITHIN_SECONDS:
                    raise
                told(f"waiting: {err}", 0.0)
                time.sleep(1.0)
        step.done(f"version {champion.version} ({champion.kind}). {champion.reason}")

    def _meet_api(self) -> None:
        step, url = self._screen.step("API"), _api_url(self._settings)
        self._wait(step, f"{url}/readyz", API_WITHIN_SECONDS, self.processes.log("api"))
        champion, ledger = self._platform.state.champion(), self._platform.state.ledger()
        self._told_until = ledger[-1].seq if ledger else 0
        step.done(f"answers with model version {champion.version if champion else '?'}")
        question = json.dumps({"text": "Love it, works every time"})
        self._screen.say(
            f"\nserving after {time.monotonic() - self._started:.0f} s\n"
            f"  API     {url}   (its documentation: {url}/docs)\n"
            f"  MLflow  {self._settings.mlflow.tracking_uri}\n"
            f"  data    {self._platform.workspace}\n\n"
            f"try it:\n  curl -s {url}/predict_json -H 'Content-Type: application/json' -d '{question}'\n\n"
            f"stop it with Ctrl-C, or with `mso down` from elsewhere; the data stays\n"
        )

    def _wait(self, step: Step, url: str, seconds: float, log: Path) -> None:
        """Until that address answers 200."""
        until = time.monotonic() + seconds
        step.at(f"waiting for {url}")
        while (answer := _ask(url)) is None or answer[0] != 200:
            self.processes.check()
            if time.monotonic() > until:
                raise Unavailable(f"{url} did not get ready within {seconds:.0f} s; {log} may say why")
            time.sleep(LOOK_EVERY_SECONDS)

    # --- staying

    def _watch(self) -> None:
        """Show trainings and verdicts as they come, until a signal or a child's end."""
        step: Step | None = None
        shown: Job | None = None
        while True:
            self.processes.check()
            for entry in self._platform.state.ledger(after=self._told_until):
                self._told_until = entry.seq
                self._screen.say(f"    {_subject(entry.decision)}: {entry.decision.reason}")
            job = next(iter(_unfinished(self._platform)), None)
            if shown is not None and step is not None and (job is None or job.job_id != shown.job_id):
                ended = self._platform.state.job(shown.job_id)
                step.done(f"{ended.state.value}{f': {ended.error}' if ended.error else ''}")
                step = None
            if job is not None:
                step = step or self._screen.step("training")
                if job.progress < 1.0:
                    step.at(job.step or job.state.value, job.progress)
            shown = job
            time.sleep(1.0)

    # --- the way down

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """SIGINT, SIGTERM and SIGHUP end what was started, a second one without waiting for it."""
        before = {
            number: signal.signal(number, self._on_signal)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            yield
        except KeyboardInterrupt:
            if self._signal == signal.SIGINT:
                raise
        except MsoError:
            self.processes.check()  # a child that has ended is the better reason
            raise
        finally:
            self._shielded = True
            _end_everything(self._platform, self.processes, self._screen)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.processes.hurry = self._signal != 0
        self._signal = number
        if not self._shielded:
            self._shielded = True
            raise KeyboardInterrupt


def counts_in_words(report: IngestReport) -> str:
    """An ingest in one line.

    >>> counts_in_words(IngestReport(("a.csv",), 5, 3, 0, 1, 1, {"blank review": 1}, {}, 0.1))
    '5 read: 3 new, 0 updated, 1 duplicate, 1 rejected (blank review 1)'
    """
    why = ", ".join(f"{rule} {count:,}" for rule, count in report.reasons.items())
    return (
        f"{report.read:,} read: {report.new:,} new, {report.updated:,} updated, {report.duplicate:,} duplicate, "
        f"{report.rejected:,} rejected{f' ({why})' if why else ''}"
    )


def _end_everything(platform: Platform, processes: Processes, screen: Screen) -> bool:
    """End trainings and recorded processes; whether there were any."""
    jobs = _unfinished(platform)
    if not jobs and not processes.running():
        return False
    step = screen.step("stopping")
    step.at("asking all to end")
    for job in jobs:
        try:
            platform.models.cancel_job(job.job_id)
        except MsoError as err:
            screen.say(f"job {job.job_id} could not be cancelled: {err}")
    processes.end(seconds=STOP_SECONDS)
    step.done(f"nothing runs any more; the data stays in {platform.workspace}")
    return True


def _subject(decision: Decision) -> str:
    """What a decision is about: a version of the model, reviews, or what monitoring found.

    >>> _subject(Decision("promote", "3", "ann", "")), _subject(Decision("admit", "batch 7f", "admission", ""))
    ('version 3', 'batch 7f')
    """
    if decision.action == "monitor":
        return "monitoring"
    return f"version {decision.subject}" if decision.subject.isdecimal() else decision.subject


def _unfinished(platform: Platform) -> tuple[Job, ...]:
    states = (JobState.RUNNING, JobState.QUEUED) if _has_state(platform) else ()
    return tuple(job for state in states for job in platform.state.jobs(state=state))


def _has_state(platform: Platform) -> bool:
    """Whether anything was ever decided here; asking the state itself would make one."""
    return bool(platform.settings.storage.state_url) or (platform.workspace / "state.db").exists()


def _own_mlflow(settings: Settings) -> tuple[str, int] | None:
    """Where the server that `up` starts listens; None when the settings name one elsewhere."""
    parts = urlsplit(settings.mlflow.tracking_uri)
    if parts.scheme != "http" or parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        return None
    return "127.0.0.1" if parts.hostname == "localhost" else parts.hostname, parts.port or 80


def _api_url(settings: Settings) -> str:
    host = settings.api.host
    return f"http://{'127.0.0.1' if host in ('0.0.0.0', '::', '') else host}:{settings.api.port}"  # noqa: S104


def _ask(url: str) -> tuple[int, bytes] | None:
    """Status and body of an answer, None without one; never by way of a proxy."""
    try:
        answer = httpx.get(url, timeout=2.0, trust_env=False)
    except httpx.HTTPError:
        return None
    return answer.status_code, answer.content


def _readiness(answer: tuple[int, bytes] | None) -> str:
    """What /readyz says, in a few words."""
    if answer is None:
        return "does not answer"
    try:
        found = json.loads(answer[1])
        return f"ready, version {found['model_version']}" if answer[0] == 200 else f"not ready: {found['detail']}"
    except (ValueError, KeyError, TypeError):
        return f"another program answers there ({answer[0]})"
