"""Experiment tracking and the model registry on an MLflow server.

MLflow's client is imported at the first call that needs it (two seconds), is given its address
rather than told it globally, and is kept from waiting for minutes on a server that is away. Model
versions of this program carry its tags `kind`, `bundle_hash` and `dataset`; others are left alone.
A version is registered last of all, so a crash leaves at most an open run without one, which
`close_lost` (and each recording) marks as failed.
"""

from __future__ import annotations

import json
import os
import platform
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import structlog

from mobile_sentiment_ops.disk import read_folder, write_folder
from mobile_sentiment_ops.errors import NotFound, StoreError, Unavailable
from mobile_sentiment_ops.ports import TrainingRun
from mobile_sentiment_ops.settings import Mlflow
from mobile_sentiment_ops.types import ModelVersion

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, LoggedModel
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion
    from mlflow.models import ModelSignature

log = structlog.get_logger()

LOADER = "mobile_sentiment_ops.registry.pyfunc"
BUNDLE = "bundle"
DATASET_NAME, DIGEST_CHARS = "reviews", 36
REQUIREMENTS = ("mobile-sentiment-ops", "numpy", "pandas")
MANNERS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""What the client reads from the environment: by default it retries for four minutes, and reports
its use to its makers. Values that are already set stay."""

SIGNS_OF_NOTHING = ("RESOURCE_DOES_NOT_EXIST", "404 Client Error", "'version' must be an integer")
RECORDING = "mso.recording_since"
LOST_AFTER = timedelta(minutes=10)


class MlflowRegistry:
    """The experiment and the registered model that the settings name."""

    def __init__(self, settings: Mlflow) -> None:
        self._uri = settings.tracking_uri.rstrip("/")
        self._experiment_name = settings.experiment
        self._model_name = settings.registered_model

    def record(self, run: TrainingRun) -> ModelVersion:
        with self._speaking_plainly() as client:
            experiment = self._experiment(client) or client.create_experiment(self._experiment_name)
            self._close_lost(client, experiment)
            run_id = client.create_run(
                experiment,
                start_time=_milliseconds(run.started_at),
                run_name=run.name,
                tags=_tags(run)
                | {
                    "mlflow.source.name": "mobile-sentiment-ops",
                    "mlflow.source.git.commit": run.tags.get("git_revision", "unknown"),
                    RECORDING: datetime.now(UTC).isoformat(),
                },
            ).info.run_id
            try:
                model_id = self._log(client, experiment, run_id, run)
                client.set_terminated(run_id, "FINISHED", _milliseconds(run.finished_at))
                return _version(self._register(client, run_id, model_id, run), run.metrics)
            except BaseException:
                with suppress(Exception):  # the reason to tell is the first one
                    self._mark_failed(client, run_id)
                raise

    def versions(self) -> list[ModelVersion]:
        with self._speaking_plainly() as client:
            found = client.search_model_versions(f"name = '{self._model_name}'")  # 10,000 of them
            ours = [version for version in found if "bundle_hash" in version.tags]
            metrics = self._metrics(client, [str(version.run_id) for version in ours])
            known = [_version(version, metrics.get(str(version.run_id), {})) for version in ours]
            return sorted(known, key=lambda version: int(version.version), reverse=True)

    def download(self, version: str) -> dict[str, bytes]:
        with self._speaking_plainly(f"model version {version}") as client, tempfile.TemporaryDirectory() as folder:
            from mlflow.artifacts import download_artifacts

            model = client.get_model_version_download_uri(self._model_name, version)
            address = f"{model}/data/{BUNDLE}"
            root = Path(download_artifacts(artifact_uri=address, dst_path=folder, tracking_uri=self._uri))
            return read_folder(root)

    def aliases(self) -> dict[str, str]:
        with self._speaking_plainly() as client:
            return self._aliases(client)

    def set_aliases(self, aliases: Mapping[str, str | None]) -> None:
        with self._speaking_plainly("a model version to point at") as client:
            now = self._aliases(client)
            for alias, version in aliases.items():
                if version is not None and now.get(alias) != version:
                    client.set_registered_model_alias(self._model_name, alias, version)
                elif version is None and alias in now:
                    client.delete_registered_model_alias(self._model_name, alias)

    def attach(self, version: str, tags: Mapping[str, str]) -> None:
        with self._speaking_plainly(f"model version {version}") as client:
            for key, value in tags.items():
                client.set_model_version_tag(self._model_name, version, key, value)

    def close_lost(self) -> int:
        with self._speaking_plainly() as client:
            experiment = self._experiment(client)
            return self._close_lost(client, experiment) if experiment else 0

    def reachable(self) -> bool:
        return self._answers_within(1.0)

    # --- the steps of a recording

    def _log(self, client: MlflowClient, experiment: str, run_id: str, run: TrainingRun) -> str:
        """All that the run carries; returns the id of its logged model."""
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric, Param

        fingerprint = str(run.dataset["fingerprint"])
        parameters = [Param(key, value) for key, value in run.parameters.items()]
        model = client.create_logged_model(
            experiment, name=run.name, source_run_id=run_id, params=dict(run.parameters), tags={"kind": run.kind}
        )
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        client.log_inputs(run_id, [_dataset(run.dataset)])
        at, digest = _milliseconds(run.finished_at), fingerprint[:DIGEST_CHARS]
        metrics = [
            Metric(_metric_key(key), value, at, 0, model.model_id, DATASET_NAME, digest, run_id)
            for key, value in run.metrics.items()
        ]
        for start in range(0, max(len(metrics), len(parameters)), 100):
            client.log_batch(run_id, metrics[start : start + 100], parameters[start : start + 100])
        with tempfile.TemporaryDirectory() as folder:
            artifacts = Path(folder) / "artifacts"
            write_folder(artifacts, run.artifacts)
            client.log_artifacts(run_id, str(artifacts))
            files = Path(folder) / "model"
            write_folder(files, _model_files(model, run))
            client.log_model_artifacts(model.model_id, str(files))
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        return str(model.model_id)

    def _register(self, client: MlflowClient, run_id: str, model_id: str, run: TrainingRun) -> MlflowVersion:
        if not client.search_registered_models(f"name = '{self._model_name}'"):
            client.create_registered_model(self._model_name)
        tags = _tags(run) | {"dataset": str(run.dataset["fingerprint"])}
        source = f"models:/{model_id}"
        return client.create_model_version(
            self._model_name, source, run_id=run_id, model_id=model_id, await_creation_for=0, tags=tags
        )

    # --- what a killed process may have left

    def _close_lost(self, client: MlflowClient, experiment: str) -> int:
        before = (datetime.now(UTC) - LOST_AFTER).isoformat()
        opened = client.search_runs([experiment], "attributes.status = 'RUNNING'")
        lost = [run.info.run_id for run in opened if run.data.tags.get(RECORDING, "~") < before]
        for run_id in lost:
            self._mark_failed(client, run_id)
            log.warning("run closed that a killed process left open", run=run_id)
        return len(lost)

    def _mark_failed(self, client: MlflowClient, run_id: str) -> None:
        from mlflow.entities import LoggedModelStatus

        client.set_terminated(run_id, "FAILED")
        outputs = client.get_run(run_id).outputs
        for output in outputs.model_outputs if outputs else []:
            client.finalize_logged_model(output.model_id, LoggedModelStatus.FAILED)

    # --- the server

    @cached_property
    def _client(self) -> MlflowClient:
        for name, value in MANNERS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        return MlflowClient(self._uri, registry_uri=self._uri)

    def _experiment(self, client: MlflowClient) -> str | None:
        found = client.get_experiment_by_name(self._experiment_name)
        return str(found.experiment_id) if found else None

    def _aliases(self, client: MlflowClient) -> dict[str, str]:
        found = client.search_registered_models(f"name = '{self._model_name}'")
        return {alias: str(version) for model in found for alias, version in model.aliases.items()}

    def _metrics(self, client: MlflowClient, run_ids: Sequence[str]) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        experiment = self._experiment(client)
        if experiment is None:
            return found
        for start in range(0, len(run_ids), 100):
            names = ", ".join(f"'{run_id}'" for run_id in run_ids[start : start + 100])
            for run in client.search_runs([experiment], f"attributes.run_id IN ({names})"):
                found[run.info.run_id] = dict(run.data.metrics)
        return found

    @contextmanager
    def _speaking_plainly(self, what: str = "what was asked for") -> Iterator[MlflowClient]:
        """The client, once the server answers; its errors as ours."""
        if not (self._answers_within(1.0) or self._answers_within(3.0)):
            raise Unavailable(f"MLflow does not answer at {self._uri}; is it running? `mlflow.tracking_uri` names it")
        client = self._client
        from mlflow.exceptions import MlflowException

        try:
            yield client
        except MlflowException as err:
            said = str(err).strip().partition("\n")[0]
            if any(sign in f"{err.error_code} {err}" for sign in SIGNS_OF_NOTHING):
                raise NotFound(f"MLflow at {self._uri} does not have {what}: {said}") from err
            if err.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"):
                raise Unavailable(f"MLflow at {self._uri} failed: {said}") from err
            raise StoreError(f"MLflow at {self._uri} refused: {said}") from err
        except OSError as err:  # so are the errors of requests
            raise Unavailable(f"MLflow at {self._uri} failed: {err}") from err

    def _answers_within(self, seconds: float) -> bool:
        if not self._uri.startswith("http"):
            return True
        try:
            return httpx.get(f"{self._uri}/health", timeout=seconds).status_code == 200
        except httpx.HTTPError:
            return False


def _tags(run: TrainingRun) -> dict[str, str]:
    return {**run.tags, "kind": run.kind, "bundle_hash": run.bundle_hash}


def _dataset(dataset: Mapping[str, object]) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    fingerprint = str(dataset["fingerprint"])
    source = json.dumps({"fingerprint": fingerprint, "source": dataset.get("source")})
    profile = json.dumps(dict(dataset))
    found = Dataset(DATASET_NAME, fingerprint[:DIGEST_CHARS], "mobile-sentiment-ops", source, profile=profile)
    return DatasetInput(found, [InputTag("mlflow.data.context", "training")])


def _version(found: MlflowVersion, metrics: Mapping[str, float]) -> ModelVersion:
    tags = dict(found.tags)
    names = str(found.version), tags.get("kind", ""), tags["bundle_hash"], str(found.run_id), tags.get("dataset", "")
    return ModelVersion(*names, datetime.fromtimestamp(found.creation_timestamp / 1000, UTC), dict(metrics), tags)


def _model_files(model: LoggedModel, run: TrainingRun) -> dict[str, bytes]:
    """The files of an MLflow model whose data are the bundle. `mlflow.pyfunc.save_model` would
    write the same after seconds of guessing at requirements and warnings about what it guessed."""
    from mlflow.models import Model

    described = Model(
        model_uuid=model.model_id, model_id=model.model_id, run_id=model.source_run_id, signature=_signature()
    )
    data = f"data/{BUNDLE}"
    python, environment_file = platform.python_version(), "python_env.yaml"
    described.add_flavor(
        "python_function", loader_module=LOADER, data=data, python_version=python, env={"virtualenv": environment_file}
    )
    requirements = "".join(f"{name}=={installed_version(name)}\n" for name in REQUIREMENTS)
    environment = {"python": python, "dependencies": ["-r requirements.txt"]}
    return {
        "MLmodel": described.to_yaml().encode(),
        environment_file: json.dumps(environment).encode(),  # JSON is YAML
        "requirements.txt": requirements.encode(),
        **{f"{data}/{name}": content for name, content in run.bundle.items()},
    }


def _signature() -> ModelSignature:
    """What registry/pyfunc.py takes and answers. Ratings may be whole numbers, or floats where some are missing."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    figures = ("confidence", "p_negative", "p_neutral", "p_positive")
    rating = AnyType()  # type: ignore[no-untyped-call]
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "review_text"), ColSpec(rating, "rating", required=False)]),
        outputs=Schema([ColSpec(DataType.string, "sentiment"), *(ColSpec(DataType.double, name) for name in figures)]),
    )


def _metric_key(name: str) -> str:
    """A name as MLflow takes it: what it refuses in an app's or a language's name becomes `_`."""
    return re.sub(r"[^\w.\- :/]", "_", name)[:250]


def _milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)
