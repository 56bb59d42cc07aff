"""What the API tells of monitoring."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mobile_sentiment_ops.adapters.memory import MemoryPorts
from mobile_sentiment_ops.app import upkeep
from mobile_sentiment_ops.app.api_keys import add_key, new_key
from mobile_sentiment_ops.types import Severity

from .conftest import World


def test_incidents_are_told_newest_first(world: World, memory: MemoryPorts) -> None:
    memory.state.open_incident("drift", Severity.CRITICAL, "Größe moved", "p .01", {"share": float("nan")})
    memory.state.open_incident("labels", Severity.WARNING, "No labels")
    memory.state.close_incident("labels")
    found = world.client.get("/incidents").json()["incidents"]
    assert [one["key"] for one in found] == ["labels", "drift"]
    assert found[0]["closed_at"] == memory.clock.now().isoformat()
    assert found[1]["figures"] == {"share": None}
    assert (found[1]["title"], found[1]["severity"], found[1]["closed_at"]) == ("Größe moved", "critical", None)
    (still,) = world.client.get("/incidents?open=1").json()["incidents"]
    assert still == found[1]
    assert len(world.client.get("/incidents?limit=1").json()["incidents"]) == 1
    assert world.client.get("/incidents?limit=0").status_code == 422


def test_who_may_predict_may_read_incidents(make_world: Callable[..., World], memory: MemoryPorts) -> None:
    key, kept = new_key("shop", "predict", [], days=None, now=memory.clock.now())
    add_key(memory.keys, memory.state, kept, actor="ann")
    world = make_world({"api": {"require_keys": True}})
    time.sleep(1.1)  # a server sees new keys within a second
    assert world.client.get("/incidents").status_code == 401
    assert world.client.get("/incidents", headers={"X-API-Key": key}).status_code == 200
    assert world.client.post("/incidents", headers={"X-API-Key": key}).status_code in (403, 405)


def test_metrics_tell_when_each_part_last_went_well(
    memory: MemoryPorts, make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "FIGURES_SECONDS", 0.05)
    monkeypatch.setattr(upkeep, "REPORT_SECONDS", 0.05)
    memory.state.beat("ingest/google-play", ok=False, note="it did not answer")
    memory.state.open_incident("drift", Severity.WARNING, "Reviews moved")
    world = make_world()

    def told() -> dict[str, float]:
        families = text_string_to_metric_families(world.client.get("/metrics").text)
        return {
            f"{sample.name} {' '.join(sample.labels.values())}": sample.value
            for family in families
            for sample in family.samples
        }

    world.wait_until(lambda: "mso_last_success_timestamp_seconds drain" in told())
    found, now = told(), memory.clock.now().timestamp()
    assert found["mso_last_success_timestamp_seconds drain"] == now
    assert found["mso_last_failure_timestamp_seconds ingest/google-play"] == now
    assert "mso_last_success_timestamp_seconds ingest/google-play" not in found
    assert found["mso_incidents_open warning"] == 1
    assert found["mso_incidents_open critical"] == 0
