"""The only place that chooses adapters: settings in, a platform of ports and handlers out.

Also the two doors for Python users, `load` and `reviews`.
"""

from __future__ import annotations

import getpass
import os
import platform as machine
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING

import mobile_sentiment_ops
from mobile_sentiment_ops.settings import SETTINGS_FILE, Resolved, Settings, resolve_settings
from mobile_sentiment_ops.types import Label

if TYPE_CHECKING:
    import polars as pl

    from mobile_sentiment_ops import ports
    from mobile_sentiment_ops.adapters.store_reviews import StoreReviews
    from mobile_sentiment_ops.app.audit import AuditHandler
    from mobile_sentiment_ops.app.data_pipeline import DataHandler
    from mobile_sentiment_ops.app.incidents import IncidentHandler
    from mobile_sentiment_ops.app.keeper import Keeper
    from mobile_sentiment_ops.app.monitoring import MonitoringHandler
    from mobile_sentiment_ops.app.prediction import PredictionHandler
    from mobile_sentiment_ops.app.train_model import MLOpsHandler
    from mobile_sentiment_ops.models.model import SentimentModel


def find_settings(*, config: Path | None = None, flags: Mapping[str, object] | None = None) -> Resolved:
    """The settings of this process: `config`, else $MSO_CONFIG, else ./mso.toml when it is there."""
    named = config or (Path(os.environ["MSO_CONFIG"]) if os.environ.get("MSO_CONFIG") else None)
    here = Path(SETTINGS_FILE)
    file = named or (here if here.is_file() else None)
    return resolve_settings(environment=os.environ, file=file, flags=flags)


@dataclass(frozen=True)
class Platform:
    """Every port and handler for one tree of settings, each made on first use."""

    settings: Settings

    @cached_property
    def clock(self) -> ports.Clock:
        from mobile_sentiment_ops.adapters.clock import SystemClock

        return SystemClock()

    @cached_property
    def files(self) -> ports.Files:
        from mobile_sentiment_ops.adapters.files import FsspecFiles

        storage = self.settings.storage
        return FsspecFiles(f"{_address(storage.bucket, self.workspace)}/{storage.bucket_name}")

    @cached_property
    def tables(self) -> ports.Tables:
        from mobile_sentiment_ops.adapters.tables import DeltaTables

        return DeltaTables(_address(self.settings.storage.tables, self.workspace))

    @cached_property
    def bundles(self) -> ports.Bundles:
        from mobile_sentiment_ops.adapters.bundles import FolderBundles

        return FolderBundles(self.workspace / "bundles")

    @cached_property
    def live(self) -> ports.Live:
        from mobile_sentiment_ops.adapters.live import FolderLive

        return FolderLive(self.workspace / "live")

    @cached_property
    def datasets(self) -> ports.Datasets:
        from mobile_sentiment_ops.adapters.datasets import FolderDatasets

        return FolderDatasets(self.workspace / "datasets")

    @cached_property
    def state(self) -> ports.State:
        from mobile_sentiment_ops.adapters.state_sql import SqlState

        self.workspace.mkdir(parents=True, exist_ok=True)
        url = self.settings.storage.state_url or f"sqlite:///{self.workspace / 'state.db'}"
        return SqlState(url, self.clock, anchors=self.workspace / "ledger.anchors")

    @cached_property
    def registry(self) -> ports.Registry:
        from mobile_sentiment_ops.adapters.registry_mlflow import MlflowRegistry

        return MlflowRegistry(self.settings.mlflow)

    @cached_property
    def spool(self) -> ports.Spool:
        from mobile_sentiment_ops.adapters.spool import FileSpool

        return FileSpool(self.workspace / "spool", max_bytes=self.settings.api.spool_max_mb * 2**20)

    @cached_property
    def keys(self) -> ports.Keys:
        from mobile_sentiment_ops.adapters.keys import FileKeys

        return FileKeys(self.workspace / "keys.json")

    @cached_property
    def launcher(self) -> ports.Launcher:
        from mobile_sentiment_ops.adapters.launcher import ProcessLauncher

        return ProcessLauncher(self.workspace / "logs")

    @cached_property
    def data(self) -> DataHandler:
        from mobile_sentiment_ops.adapters.sources import open_url
        from mobile_sentiment_ops.app.data_pipeline import DataHandler
        from mobile_sentiment_ops.app.incidents import beat

        return DataHandler(
            tables=self.tables,
            files=self.files,
            manifests=self.datasets,
            clock=self.clock,
            settings=self.settings.ingest,
            open_url=open_url,
            decide=lambda decision: self.state.decide(decision),
            beat=lambda name, **how: beat(self.state, name, **how),
            actor=actor(),
        )

    @cached_property
    def stores(self) -> StoreReviews:
        from mobile_sentiment_ops.adapters.store_reviews import StoreReviews

        ingest = self.settings.ingest
        return StoreReviews(google_play_url=ingest.google_play_url, app_store_url=ingest.app_store_url)

    @cached_property
    def models(self) -> MLOpsHandler:
        from mobile_sentiment_ops.app.train_model import MLOpsHandler

        return MLOpsHandler(
            data=self.data,
            registry=self.registry,
            state=self.state,
            bundles=self.bundles,
            live=self.live,
            launcher=self.launcher,
            clock=self.clock,
            training=self.settings.training,
            gate=self.settings.gate,
            provenance=provenance(),
            holder=f"{machine.node()}:{os.getpid()}",
            monitoring=self.settings.monitoring,
        )

    @cached_property
    def audit(self) -> AuditHandler:
        from mobile_sentiment_ops.app.audit import AuditHandler

        return AuditHandler(
            data=self.data, registry=self.registry, state=self.state, bundles=self.bundles, provenance=provenance()
        )

    @cached_property
    def predictions(self) -> PredictionHandler:
        from mobile_sentiment_ops.app.prediction import PredictionHandler

        return PredictionHandler(live=self.live, spool=self.spool, clock=self.clock, api=self.settings.api)

    @cached_property
    def keeper(self) -> Keeper:
        from mobile_sentiment_ops.app.keeper import Keeper

        return Keeper(
            state=self.state,
            bundles=self.bundles,
            registry=self.registry,
            live=self.live,
            spool=self.spool,
            tables=self.tables,
            clock=self.clock,
            api=self.settings.api,
            files=self.files,
            monitoring=lambda: self.monitoring,
        )

    @cached_property
    def monitoring(self) -> MonitoringHandler:
        from mobile_sentiment_ops.adapters.evidently_report import evidently_html
        from mobile_sentiment_ops.app.monitoring import MonitoringHandler

        return MonitoringHandler(
            tables=self.tables,
            files=self.files,
            state=self.state,
            bundles=self.bundles,
            registry=self.registry,
            data=self.data,
            incidents=self.incidents,
            clock=self.clock,
            settings=self.settings.monitoring,
            evidently=evidently_html,
            log_text=self.settings.api.log_text,
        )

    @cached_property
    def incidents(self) -> IncidentHandler:
        from mobile_sentiment_ops.adapters.notify import LogNotifier, MailNotifier, WebhookNotifier
        from mobile_sentiment_ops.app.incidents import IncidentHandler

        alerts = self.settings.alerts
        channels: list[ports.Notifier] = [LogNotifier()]
        if alerts.smtp_host:
            channels.append(MailNotifier(alerts, os.environ.get(alerts.smtp_password_variable, "")))
        if alerts.webhook_url:
            channels.append(WebhookNotifier(alerts, os.environ.get(alerts.webhook_secret_variable, "")))
        holder = f"{machine.node()}:{os.getpid()}"
        return IncidentHandler(
            state=self.state, clock=self.clock, alerts=alerts, channels=tuple(channels), holder=holder
        )

    @cached_property
    def workspace(self) -> Path:
        return self.settings.storage.workspace.absolute()


def actor() -> str:
    """Who decides: the name of this user of the operating system."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in a container
        return f"uid {os.getuid()}"


def provenance() -> dict[str, str]:
    """What a run was made with: package version, git revision, Python, and a hash of every
    installed distribution's version (equal hashes mean equal environments)."""
    installed = sorted({f"{found.metadata['Name'].lower()}=={found.version}" for found in distributions()})
    return {
        "package_version": mobile_sentiment_ops.__version__,
        "python": machine.python_version(),
        "environment_hash": sha256("\n".join(installed).encode()).hexdigest()[:16],
        "git_revision": "unknown",
        "lock_hash": "unknown",
        **_of_checkout(Path(__file__).resolve().parents[2]),
    }


def _of_checkout(root: Path) -> dict[str, str]:
    """The revision and the lock of the checkout this package runs from, if it runs from one."""
    found: dict[str, str] = {}
    if (root / ".git").exists():
        asked = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        with suppress(OSError, subprocess.SubprocessError):
            answer = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True)
            found["git_revision"] = answer.stdout.strip()
        with suppress(OSError):
            found["lock_hash"] = sha256((root / "requirements" / "runtime.txt").read_bytes()).hexdigest()[:16]
    return found


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A registered model, opened for use from Python."""

    version: str
    model: SentimentModel

    def predict(self, texts: Sequence[str]) -> list[Label]:
        """One label a text, the same ones that the API answers."""
        return [prediction.label for prediction in self.model.predict(texts)]


def load(name: str = "champion", *, settings: Settings | None = None) -> LoadedModel:
    """The champion, or a registered version by its number.

    >>> load("champion").predict(["Love it", "It crashes"])  # doctest: +SKIP
    [<Label.POSITIVE: 'Positive'>, <Label.NEGATIVE: 'Negative'>]
    """
    from mobile_sentiment_ops.app.model_files import open_version

    found = Platform(settings or find_settings().settings)
    version, bundle = open_version(name, found.state, found.bundles, found.registry)
    return LoadedModel(version, bundle.model)


def reviews(*, app: str | None = None, settings: Settings | None = None) -> pl.DataFrame:
    """Current reviews, of one app or of all, as a polars frame."""
    return Platform(settings or find_settings().settings).data.reviews(app=app)


def _address(place: str, workspace: Path) -> str:
    """A URL as it is; a folder made absolute below the workspace."""
    return place.rstrip("/") if "://" in place else str(workspace / place)
