"""The registry on a real MLflow server: what others see there, and what is left after a failure."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from mobile_sentiment_ops.adapters.registry_mlflow import LOADER, RECORDING, MlflowRegistry
from mobile_sentiment_ops.errors import NotFound, StoreError, Unavailable
from mobile_sentiment_ops.ports import TrainingRun
from mobile_sentiment_ops.settings import Mlflow

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.integration

Make = Callable[..., TrainingRun]


@pytest.fixture
def registry(mlflow_settings: Mlflow) -> MlflowRegistry:
    return MlflowRegistry(mlflow_settings)


@pytest.fixture
def client(mlflow_settings: Mlflow, registry: MlflowRegistry) -> MlflowClient:
    registry.versions()  # sets the client's manners
    from mlflow import MlflowClient

    return MlflowClient(mlflow_settings.tracking_uri, registry_uri=mlflow_settings.tracking_uri)


def runs(client: MlflowClient, settings: Mlflow) -> list[tuple[str, str]]:
    experiments = [found.experiment_id for found in client.search_experiments() if found.name == settings.experiment]
    return [(str(run.info.run_name), run.info.status) for run in client.search_runs(experiments)]


def test_a_run_shows_all_it_carries(
    registry: MlflowRegistry, client: MlflowClient, mlflow_settings: Mlflow, training_run: Make
) -> None:
    given = training_run("lr")
    version = registry.record(given)
    run = client.get_run(version.run_id)
    assert (run.info.run_name, run.info.status) == ("LogisticRegression", "FINISHED")
    times = [datetime.fromtimestamp(ms / 1000, UTC) for ms in (run.info.start_time, run.info.end_time)]
    assert times == [given.started_at, given.finished_at]
    assert run.data.params == given.parameters
    assert run.data.metrics == given.metrics
    assert run.data.tags["mlflow.source.git.commit"] == run.data.tags["git_revision"] == "abc"
    (dataset,) = run.inputs.dataset_inputs if run.inputs else []
    assert (dataset.dataset.name, dataset.dataset.digest) == ("reviews", "f" * 36)
    assert json.loads(str(dataset.dataset.source))["fingerprint"] == "f" * 64
    assert json.loads(str(dataset.dataset.profile))["rows"] == {"train": 80, "test": 20}
    assert {file.path for file in client.list_artifacts(version.run_id)} == set(given.artifacts)
    (output,) = run.outputs.model_outputs if run.outputs else []
    model = client.get_logged_model(output.model_id)
    assert (model.name, str(model.status)) == ("LogisticRegression", "READY")
    assert {metric.key: metric.value for metric in model.metrics or []} == given.metrics
    registered = client.get_model_version(mlflow_settings.registered_model, version.version)
    assert registered.tags.items() >= {"kind": "lr", "bundle_hash": "hash-lr", "dataset": "f" * 64}.items()


def test_a_recording_takes_a_few_seconds_at_most(registry: MlflowRegistry, training_run: Make) -> None:
    run = training_run("lr")
    large = {**run.bundle, "weights.npy": bytes(8_000_000)}
    many = {f"f1_app_{number}": number / 500 for number in range(500)}
    started = time.monotonic()
    version = registry.record(replace(run, bundle=large, metrics=many))
    assert time.monotonic() - started < 4
    assert registry.versions()[0].metrics == many
    assert registry.download(version.version) == large


def test_names_and_texts_that_mlflow_would_refuse_are_fitted(registry: MlflowRegistry, training_run: Make) -> None:
    run = training_run("lr")
    odd = {"macro_f1_app_ร้าน! #1": 0.5, "x" * 300: 0.25}
    registry.record(replace(run, metrics=odd, parameters={"words": "w" * 9_000}, tags={"verdict_summary": "s" * 9_000}))
    (found,) = registry.versions()
    assert sorted(found.metrics.values()) == [0.25, 0.5]
    assert found.tags["verdict_summary"] == "s" * 9_000


def test_a_recording_that_fails_leaves_a_failed_run_and_no_version(
    registry: MlflowRegistry, client: MlflowClient, mlflow_settings: Mlflow, training_run: Make
) -> None:
    unfit = replace(training_run("lr"), artifacts={"plot.png": None})  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        registry.record(unfit)
    assert runs(client, mlflow_settings) == [("LogisticRegression", "FAILED")]
    assert registry.versions() == []


def test_what_mlflow_refuses_is_said_in_one_line(mlflow_settings: Mlflow, training_run: Make) -> None:
    unusable = MlflowRegistry(mlflow_settings.model_copy(update={"registered_model": "a/b:c"}))
    with pytest.raises(StoreError, match="refused") as caught:
        unusable.record(training_run("lr"))
    assert "\n" not in str(caught.value)


def test_a_run_that_a_killed_process_left_open_is_closed(
    registry: MlflowRegistry, client: MlflowClient, mlflow_settings: Mlflow, training_run: Make
) -> None:
    from mlflow.entities import LoggedModelOutput

    experiment = client.create_experiment(mlflow_settings.experiment)
    for name, age in (("lost", timedelta(hours=1)), ("under way", timedelta())):
        tags = {RECORDING: (datetime.now(UTC) - age).isoformat()}
        run = client.create_run(experiment, run_name=name, tags=tags)
        model = client.create_logged_model(experiment, name="model", source_run_id=run.info.run_id)
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
    client.create_run(experiment, run_name="somebody else's")
    assert registry.close_lost() == 1
    assert registry.close_lost() == 0
    assert sorted(runs(client, mlflow_settings)) == [
        ("lost", "FAILED"),
        ("somebody else's", "RUNNING"),
        ("under way", "RUNNING"),
    ]
    models = client.search_logged_models([experiment])
    assert sorted(str(model.status) for model in models) == ["FAILED", "PENDING"]


def test_versions_that_others_registered_are_left_alone(
    registry: MlflowRegistry, client: MlflowClient, mlflow_settings: Mlflow, training_run: Make
) -> None:
    run_id = registry.record(training_run("lr")).run_id
    theirs = client.create_logged_model(client.get_run(run_id).info.experiment_id, name="theirs").model_id
    client.create_model_version(mlflow_settings.registered_model, source=f"models:/{theirs}", model_id=theirs)
    assert [version.version for version in registry.versions()] == ["1"]
    with pytest.raises(NotFound, match="model version 2"):
        registry.download("2")


LOAD_AS_ANY_USER = """
import sys, types
from pathlib import Path
import mlflow, pandas
class Opened:
    def __init__(self, path): self.path = Path(path)
    def predict(self, frame):
        sizes = [str(file.stat().st_size) for file in sorted(self.path.rglob("*")) if file.is_file()]
        return pandas.DataFrame({"sentiment": [",".join([*frame.columns, *sizes])] * len(frame)})
stand_in = types.ModuleType(sys.argv[3])
stand_in._load_pyfunc = Opened
sys.modules[sys.argv[3]] = stand_in
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model(sys.argv[2])
frame = pandas.DataFrame({"stars": [5, 1], "review_text": ["good", "bad"], "rating": [5, None]})
print(*model.predict(frame)["sentiment"])
print(*model.predict(frame[["review_text"]])["sentiment"])
"""


def test_any_user_loads_the_champion_by_its_alias(
    registry: MlflowRegistry,
    mlflow_settings: Mlflow,
    training_run: Make,
    start_python: Callable[..., subprocess.Popen[str]],
) -> None:
    registry.set_aliases({"champion": registry.record(training_run("lr")).version})
    address = f"models:/{mlflow_settings.registered_model}@champion"
    user = start_python(LOAD_AS_ANY_USER, mlflow_settings.tracking_uri, address, LOADER)
    assert user.communicate(timeout=60)[0].split() == ["review_text,rating,2,2,256"] * 2 + ["review_text,2,2,256"] * 2


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(8)
        yield server.getsockname()[1]


def test_a_server_that_never_answers_costs_five_seconds(training_run: Make, silent_port: int) -> None:
    registry = MlflowRegistry(Mlflow(tracking_uri=f"http://127.0.0.1:{silent_port}"))
    started = time.monotonic()
    assert not registry.reachable()
    assert time.monotonic() - started < 1.5
    with pytest.raises(Unavailable, match="does not answer"):
        registry.record(training_run("lr"))
    assert time.monotonic() - started < 6.5
