"""One frozen tree of settings, and where each value came from.

Later layers win: defaults, then `mso.toml`, then the first version's variables
(`MLFLOW_TRACKING_URI`, `GCS_BUCKET_NAME`, ...), then `MSO_*`, then command-line flags.
A section and a key are joined by two underscores in the environment: `MSO_API__PORT=5002`.
Unknown keys are refused with the nearest known one.
"""

from __future__ import annotations

import difflib
import functools
import json
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mobile_sentiment_ops.errors import SettingsError

SETTINGS_FILE = "mso.toml"

FIRST_VERSION_VARIABLES = {
    "MLFLOW_TRACKING_URI": "mlflow.tracking_uri",
    "GCS_BUCKET_NAME": "storage.bucket_name",
    "GCS_ENDPOINT": "storage.gcs_endpoint",
    "GCS_STORAGE_EMULATOR_HOST": "storage.gcs_endpoint",
    "INITIAL_DATA_PATH": "training.initial_data",
    "REPORTS_DIR": "storage.reports_dir",
}
"""Variables of the first version that still work, and the setting each one is now."""

Port = Annotated[int, Field(ge=1, le=65535)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Names = tuple[Annotated[str, Field(min_length=1)], ...]


class Section(BaseModel):
    """A part of the tree: frozen, and unknown keys are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Api(Section):
    """The HTTP server."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: Port = Field(5001, description="port of the API")
    log_text: Literal["masked", "hash", "off"] = Field(
        "masked", description="text in the prediction log: masked digits, addresses and links; its hash; or nothing"
    )
    max_json_bytes: int = Field(1_048_576, ge=1024, description="largest JSON body")
    max_csv_bytes: int = Field(52_428_800, ge=1024, description="largest CSV upload")
    max_json_rows: int = Field(10_000, ge=1, description="most reviews in one JSON request")
    max_csv_rows: int = Field(1_000_000, ge=1, description="most rows in one CSV upload")
    max_text_chars: int = Field(20_000, ge=1, description="longest review, in characters")
    workers: int = Field(1, ge=1, le=64, description="processes that answer; one a core is most")
    log_requests: Literal["all", "failed"] = Field("failed", description="which predictions the log has a line for")
    durability: Literal["process", "disk"] = Field(
        "process", description="what an acknowledged prediction survives: the end of its process, or a power loss too"
    )
    spool_max_mb: int = Field(1_024, ge=16, description="most disk that predictions may take on their way to the table")
    spool_full: Literal["refuse", "shed"] = Field(
        "refuse", description="when predictions cannot be kept: answer 503, or answer and count what is not kept"
    )
    require_keys: bool = Field(
        False, description="ask for API keys on loopback too; elsewhere they are always asked for"
    )
    allowed_hosts: Names = Field((), description="names of this server in requests, beside loopback and api.host")
    cors_origins: Names = Field((), description="pages of other origins that may call, such as https://shop.example")
    requests_per_second: float = Field(0.0, ge=0.0, description="most requests a second of one key; 0: no limit")
    trace_share: Share = Field(0.0, description="share of JSON predictions that a trace tells of, where traces are on")


class Mlflow(Section):
    """The tracking server and its names, as the first version's users know them."""

    tracking_uri: str = Field("http://127.0.0.1:8000", description="address of the MLflow server")
    experiment: str = Field("Sentiment_Analysis_Production", description="experiment of all training runs")
    registered_model: str = Field("MobileSentimentModel", description="name in the model registry")


class Storage(Section):
    """Folders and addresses. A relative path is below the workspace."""

    workspace: Path = Field(Path("workspace"), description="folder of everything this project keeps")
    tables: str = Field("tables", description="reviews and predictions (Delta tables)")
    bucket: str = Field("bucket", description="folder or address that holds the bucket")
    bucket_name: str = Field("mobile-reviews-bucket", description="name of the bucket in it")
    state_url: str = Field("", description="SQLAlchemy address of the state database; empty: state.db in the workspace")
    reports_dir: Path = Field(Path("reports"), description="reports served under /reports")
    gcs_endpoint: str = Field("", description="address of a Google Cloud Storage emulator")

    def folder(self, name: str | Path) -> Path:
        """A path of this section, absolute: relative ones are below the workspace."""
        path = Path(name)
        return path if path.is_absolute() else self.workspace.absolute() / path


class Ingest(Section):
    """How reviews are read."""

    columns: dict[str, str] = Field(
        default_factory=dict, description='extra column names, "name in the file" = "canonical column"'
    )
    batch_rows: int = Field(50_000, ge=100, description="rows that are validated and committed together")
    max_text_chars: int = Field(20_000, ge=1, description="longest review taken in, in characters")
    google_play_url: str = Field("https://play.google.com", description="where `mso ingest google-play` asks")
    app_store_url: str = Field("https://itunes.apple.com", description="where `mso ingest app-store` asks")


class Training(Section):
    """What is trained, on what."""

    kinds: tuple[str, ...] = Field(
        ("lr", "nbsvm", "rf", "xgb"), description="kinds trained in this order; the first one serves first"
    )
    initial_data: str = Field("", description="file to train the first model on; empty: the demo world")
    test_share: Share = Field(0.2, description="share of the newest labelled reviews kept for the comparison")
    validation_share: Share = Field(0.1, description="share of the remaining reviews that `mso tune` chooses by")
    max_test_rows: int = Field(20_000, ge=100, description="most rows in the comparison")
    seed: int = Field(0, ge=0, description="seed of everything random in training")
    warm_start: bool = Field(
        False, description="lr, svc, nbsvm go on from their newest version when at most 3 reviews in 10 are new"
    )
    parameters: dict[str, dict[str, int | float | str]] = Field(
        default_factory=dict, description="parameters of a kind other than its usual ones; `mso tune` finds them"
    )


class Gate(Section):
    """When a candidate may replace the champion."""

    min_gain: float = Field(0.0, description="least macro-F1 gain that the lower end of the interval must exceed")
    confidence: Share = Field(
        0.95,
        description="coverage of all intervals on the same test rows together; half of the rest is wrong promotions",
    )
    bootstrap_samples: int = Field(1_000, ge=100, description="resamples of the paired bootstrap")
    min_test_rows: int = Field(
        2_000, ge=10, description="fewest rows a verdict may rest on, or half of all labelled reviews"
    )
    expected_gain: float = Field(
        0.0125, gt=0, description="the gain that a better model may have: what the labels needed are counted for"
    )
    margin: Share = Field(0.01, description="loss that counts as none, of macro-F1 and of right answers")
    equal_may_replace: bool = Field(
        False, description="promote what is within the margin and cheaper or mends a behaviour test"
    )
    max_slice_loss: Share = Field(0.04, description="F1 that a label, an app, a language or a version may lose")
    max_ece: Share = Field(0.1, description="how far confidence may be off (ECE), if it was not before")
    max_ece_rise: Share = Field(0.02, description="how much more than the champion's it may be off then")
    max_us_per_review: float = Field(1_000.0, gt=0, description="CPU time for a review in a batch, in microseconds")
    max_model_mb: float = Field(256.0, gt=0, description="size of a model's files")
    max_behaviour_loss: Share = Field(
        0.25, description="share of a behaviour test that may be lost to the champion; 1: behaviour never decides"
    )
    behaviour_file: str = Field("", description="file with behaviour tests of your own (docs/gate.md)")


SILENCE_HOURS = {
    **{"drain": 0.25, "spool": 0.25, "monitor": 26.0, "reviews": 24.0},
    **{"ingest": 192.0, "labels": 720.0, "retrain": 720.0},
}
"""How long each part of the pipeline may be silent: the server's own a quarter of an hour, days and weeks with some
slack otherwise."""


class Monitoring(Section):
    """When something has moved, and what is asked for then (docs/monitoring.md)."""

    window_days: tuple[int, ...] = Field(
        (1, 7, 28), min_length=1, description="lengths of the windows that a check compares, in days"
    )
    check_minutes: float = Field(
        60.0, ge=0, description="how often a server checks by itself; 0: never, `mso monitor run` does"
    )
    min_reviews: int = Field(50, ge=20, description="fewest reviews that a window is judged by")
    false_alarms: float = Field(
        0.03, gt=0, lt=0.5, description="share of checks that may raise a false alarm, over all windows and slices"
    )
    target_macro_f1: Share = Field(
        0.0, description="least macro-F1 that is good enough; 0: that of the champion's test"
    )
    max_loss: Share = Field(0.05, description="macro-F1 that may be lost since the champion's test")
    min_labels: int = Field(100, ge=20, description="fewest labels that live macro-F1 is measured by")
    max_insertion_rise: Share = Field(
        0.05, description="how much a word put into good reviews may raise the share called negative"
    )
    max_source_share: Share = Field(
        0.5, description="most of a training batch that one app may be beyond its usual share"
    )
    silence_hours: dict[str, float] = Field(
        default_factory=dict,
        description="hours without success after which a part of the pipeline is an incident; 0: never",
    )

    @field_validator("silence_hours")
    @classmethod
    def _known_parts(cls, given: dict[str, float]) -> dict[str, float]:
        for part, hours in given.items():
            if part.partition("/")[0] not in SILENCE_HOURS or not 0 <= hours < inf:
                raise ValueError(f"{part} = {hours:g}: expected hours, 0 or more, of one of {', '.join(SILENCE_HOURS)}")
        return given


class Alerts(Section):
    """Who is told. A password or secret is named by the environment variable that holds it."""

    cooldown_minutes: float = Field(
        240.0, ge=0, description="an open incident is told again after so long at the soonest"
    )
    min_severity: Literal["info", "warning", "critical"] = Field("warning", description="least that is told")
    webhook_url: str = Field("", description="address that gets every alert as JSON; empty: none")
    webhook_secret_variable: str = Field("MSO_WEBHOOK_SECRET", description="variable with the secret that signs it")
    smtp_host: str = Field("", description="mail server; empty: no mail")
    smtp_port: Port = Field(587, description="its port")
    smtp_security: Literal["starttls", "tls", "none"] = Field("starttls", description="how it is spoken to")
    smtp_user: str = Field("", description="user of the mail server; empty: none")
    smtp_password_variable: str = Field("MSO_SMTP_PASSWORD", description="variable with its password")
    mail_from: str = Field("mso@localhost", description="sender of mails")
    mail_to: Names = Field((), description="receivers of mails")


DemoEventKind = Literal["bad_release", "new_language", "new_slang", "spam", "bombing", "new_meaning"]
SmallShare = Annotated[float, Field(ge=0.0, le=0.4)]


class Demo(Section):
    """The generated demo world (docs/demo-world.md). A share is one of reviews."""

    seed: int = Field(7, ge=0, description="seed of the demo world")
    reviews: int = Field(26_000, ge=100, description="about how many reviews it holds")
    start: date = Field(date(2025, 4, 1), description="its first day, the first of a month")
    months: int = Field(18, ge=12, le=60, description="how long it lasts")
    events: tuple[DemoEventKind, ...] = Field(get_args(DemoEventKind), description="kinds of events that happen in it")
    negative_share: SmallShare = Field(0.25, description="negative reviews without events")
    neutral_share: SmallShare = Field(0.135, description="neutral reviews")
    mixed_share: SmallShare = Field(0.14, description="reviews that also say the opposite")
    short_share: SmallShare = Field(0.05, description="reviews of a word or two")
    contrary_stars: SmallShare = Field(0.02, description="reviews with stars that contradict the text")
    typo_share: Share = Field(0.12, description="reviews with a mistyped word")
    emoji_share: Share = Field(0.16, description="reviews with emoji")
    bad_release_negative: Share = Field(0.65, description="negative reviews of the bad version")
    bad_release_surge: float = Field(2.0, ge=1.0, le=10.0, description="reviews of that app, as a multiple of usual")
    language_share: SmallShare = Field(0.15, description="reviews in the arriving language, once it is there")
    slang_share: SmallShare = Field(0.13, description="reviews whose feeling is a new slang word, once it is there")
    meaning_share: SmallShare = Field(0.075, description="reviews whose feeling is the word that changes its meaning")
    spam_share: SmallShare = Field(0.20, description="advertisements during the spam wave")
    bombing_share: SmallShare = Field(0.30, description="bombing reviews during the review bombing")


class Logs(Section):
    """What the programs say of themselves."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level shown")
    format: Literal["auto", "console", "json"] = Field("auto", description="auto: console on a terminal, else JSON")


class Settings(Section):
    """The whole tree."""

    format: Literal[1] = Field(1, description="version of this file's format")
    api: Api = Api()
    mlflow: Mlflow = Mlflow()
    storage: Storage = Storage()
    ingest: Ingest = Ingest()
    training: Training = Training()
    gate: Gate = Gate()
    monitoring: Monitoring = Monitoring()
    alerts: Alerts = Alerts()
    demo: Demo = Demo()
    logs: Logs = Logs()


@dataclass(frozen=True, slots=True)
class Resolved:
    """The settings and, for each dotted key, the layer that gave its value."""

    settings: Settings
    sources: Mapping[str, str]

    def rows(self) -> list[tuple[str, object, str]]:
        """(dotted key, value, layer) for every setting, in the tree's order."""
        leaves = _leaves(self.settings.model_dump(mode="json"))
        return [(key, value, self._source(key)) for key, value in leaves.items()]

    def _source(self, key: str) -> str:
        return next((layer for given, layer in self.sources.items() if f"{given}.".startswith(f"{key}.")), "default")


def resolve_settings(
    *, environment: Mapping[str, str], file: Path | None = None, flags: Mapping[str, object] | None = None
) -> Resolved:
    """Merge all layers into one checked tree.

    `flags` maps dotted keys to values; `file` is skipped when None. Raises SettingsError that
    names the key, its layer and what is expected.

    >>> found = resolve_settings(environment={"MSO_API__PORT": "5002", "GCS_BUCKET_NAME": "shop"})
    >>> found.settings.api.port, found.settings.storage.bucket_name
    (5002, 'shop')
    >>> found.sources["api.port"]
    'MSO_API__PORT'
    >>> resolve_settings(environment={"MSO_API__PROT": "5002"})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    mobile_sentiment_ops.errors.SettingsError: MSO_API__PROT: there is no setting api.prot; did you mean api.port? ...
    """
    given: dict[str, tuple[object, str]] = {}
    if file is not None:
        given |= {key: (value, file.name) for key, value in _leaves(_read_toml(file)).items()}
    for variable, key in FIRST_VERSION_VARIABLES.items():
        if environment.get(variable):
            given[key] = (environment[variable], variable)
    for variable, text in environment.items():
        if variable.startswith("MSO_") and variable not in _RESERVED:
            section, *own = variable.removeprefix("MSO_").split("__")
            own[:1] = map(str.lower, own[:1])  # the user's own names below it keep their case
            key = ".".join([section.lower(), *own])
            given[key] = (from_text(key, text), variable)
    for key, value in (flags or {}).items():
        given[key] = (value, "flag")

    known = {"format", *setting_descriptions()}
    tree: dict[str, Any] = {}
    for key, (value, layer) in given.items():
        if key not in known and not any(key.startswith(f"{table}.") for table in _FREE_TABLES):
            close = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {close[0]}?" if close else "."
            raise SettingsError(f"{layer}: there is no setting {key}{hint} `mso config show` lists them all")
        *parents, last = key.split(".")
        functools.reduce(lambda table, parent: table.setdefault(parent, {}), parents, tree)[last] = value
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as err:
        first = err.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        layer = given.get(key, (None, "settings"))[1]
        raise SettingsError(
            f"{layer}: {key} is {first['input']!r}: {first['msg'].lower()}; `mso config show` explains each setting"
        ) from err
    return Resolved(settings, {key: layer for key, (_, layer) in given.items()})


_FREE_TABLES = (
    "ingest.columns",
    "training.parameters",
    "monitoring.silence_hours",
)  # tables whose keys are the user's own
_LISTS = ("training.kinds", "api.allowed_hosts", "api.cors_origins", "alerts.mail_to", "monitoring.window_days")
_RESERVED = (  # of the tests, the commands, client.py, and secrets that settings name
    *("MSO_SHARED_DATA", "MSO_CONFIG", "MSO_API_URL", "MSO_API_KEY", "MSO_WEBHOOK_SECRET", "MSO_SMTP_PASSWORD"),
)


def setting_descriptions() -> dict[str, str]:
    """What each dotted key means, in the tree's order."""
    return {
        f"{name}.{key}": field.description or ""
        for name, section in Settings()
        if isinstance(section, Section)
        for key, field in type(section).model_fields.items()
    }


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError as err:
        raise SettingsError(f"{file}: no such settings file") from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise SettingsError(f"{file}: not readable as TOML: {err}") from err


def from_text(key: str, text: str) -> object:
    """A setting's value as text gives it: lists and tables are JSON, a list may also stand with commas.

    >>> from_text("training.kinds", "lr, xgb"), from_text("ingest.columns", '{"opinion": "review_text"}')
    (['lr', 'xgb'], {'opinion': 'review_text'})
    >>> from_text("training.parameters.svc.C", "0.5")
    0.5
    """
    if key.startswith("training.parameters."):
        with suppress(ValueError):
            return json.loads(text)
    if text[:1] in "[{":
        try:
            return json.loads(text)
        except json.JSONDecodeError as err:
            raise SettingsError(f"{key}: {text!r} is not JSON: {err}") from err
    return [part.strip() for part in text.split(",") if part.strip()] if key in _LISTS else text


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    leaves: dict[str, object] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name not in _FREE_TABLES:
            leaves |= _leaves(value, f"{name}.")
        else:
            leaves[name] = value
    return leaves
