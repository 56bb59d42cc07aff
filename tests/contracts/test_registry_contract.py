"""What every `Registry` does."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from mobile_sentiment_ops.adapters.memory import FixedClock, MemoryRegistry
from mobile_sentiment_ops.adapters.registry_mlflow import MlflowRegistry
from mobile_sentiment_ops.errors import NotFound, Unavailable
from mobile_sentiment_ops.ports import Registry, TrainingRun
from mobile_sentiment_ops.settings import Mlflow

Make = Callable[..., TrainingRun]


@pytest.fixture(params=["memory", pytest.param("mlflow", marks=pytest.mark.integration)])
def registry(request: pytest.FixtureRequest, clock: FixedClock) -> Registry:
    if request.param == "memory":
        return MemoryRegistry(clock)
    settings: Mlflow = request.getfixturevalue("mlflow_settings")
    return MlflowRegistry(settings)


def test_an_empty_registry_has_nothing(registry: Registry) -> None:
    assert registry.reachable()
    assert registry.versions() == []
    assert registry.aliases() == {}
    assert registry.close_lost() == 0


def test_recorded_runs_are_versions_newest_first(registry: Registry, training_run: Make) -> None:
    first = registry.record(training_run("lr"))
    second = registry.record(training_run("rf"))
    assert [version.version for version in registry.versions()] == [second.version, first.version] == ["2", "1"]
    found = registry.versions()[1]
    assert (found.kind, found.bundle_hash, found.dataset) == ("lr", "hash-lr", "f" * 64)
    assert found.metrics == {"macro_f1": 0.7125, "macro_f1_app_com.shop.app": 0.5}
    assert found.run_id == first.run_id != second.run_id
    assert found.tags["git_revision"] == "abc"
    assert found.created_at.utcoffset() == timedelta(0)
    assert (first.metrics, first.created_at, first.kind) == (found.metrics, found.created_at, found.kind)


def test_a_bundle_comes_back_byte_for_byte(registry: Registry, training_run: Make) -> None:
    run = training_run("lr")
    version = registry.record(run)
    assert registry.download(version.version) == run.bundle


def test_aliases_point_move_and_go(registry: Registry, training_run: Make) -> None:
    for kind in ("lr", "rf"):
        registry.record(training_run(kind))
    registry.set_aliases({"champion": "1", "Production": "1", "previous": None})
    assert registry.aliases() == {"champion": "1", "Production": "1"}
    registry.set_aliases({"champion": "2", "previous": "1"})
    assert registry.aliases() == {"champion": "2", "Production": "1", "previous": "1"}
    registry.set_aliases({"previous": None})
    assert registry.aliases() == {"champion": "2", "Production": "1"}


def test_tags_are_attached_to_a_version(registry: Registry, training_run: Make) -> None:
    version = registry.record(training_run("lr")).version
    registry.attach(version, {"verdict": "PROMOTE"})
    tags = registry.versions()[0].tags
    assert (tags["verdict"], tags["git_revision"]) == ("PROMOTE", "abc")


@pytest.mark.parametrize("version", ["99", "newest"])
def test_an_unknown_version_is_not_found(registry: Registry, training_run: Make, version: str) -> None:
    registry.record(training_run("lr"))
    with pytest.raises(NotFound, match=version):
        registry.download(version)
    with pytest.raises(NotFound, match=version):
        registry.attach(version, {"verdict": "HOLD"})
    with pytest.raises(NotFound):
        registry.set_aliases({"champion": version})


def test_a_registry_that_is_away_says_so_at_once(training_run: Make, clock: FixedClock, free_port: int) -> None:
    away = MemoryRegistry(clock)
    away.away = True
    for registry in (away, MlflowRegistry(Mlflow(tracking_uri=f"http://127.0.0.1:{free_port}"))):
        assert not registry.reachable()
        for call in (registry.versions, registry.aliases, registry.close_lost):
            with pytest.raises(Unavailable):
                call()
        with pytest.raises(Unavailable):
            registry.record(training_run("lr"))
