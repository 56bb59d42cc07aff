"""What is in deploy/ holds: alerts ask for what the server tells, and name commands and settings that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from prometheus_client.parser import text_string_to_metric_families

from mobile_sentiment_ops.app import upkeep
from mobile_sentiment_ops.app.metrics import STATUSES
from mobile_sentiment_ops.cli import app as mso
from mobile_sentiment_ops.settings import setting_descriptions

from .conftest import World

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
OF_PROMETHEUS = {"job", "instance"}
"""Labels that Prometheus puts to all it is told."""

OPEN = ("/readyz", "/healthcheck", "/ping", "/v2/health/ready")


def alerts() -> list[dict[str, Any]]:
    found = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text("utf-8"))
    return [rule for group in found["groups"] for rule in group["rules"]]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper looks often what to tell."""
    monkeypatch.setattr(upkeep, "FIGURES_SECONDS", 0.05)
    monkeypatch.setattr(upkeep, "REPORT_SECONDS", 0.05)


@pytest.fixture
def told(quick: None, world: World) -> dict[str, list[dict[str, str]]]:
    """What the server tells after some requests: the labels of each sample by its name."""
    world.client.post("/predict_json", json={"text": "Love it"})
    world.client.post("/predict", json={"texts": ["Love it"]})
    for path in OPEN:
        world.client.get(path)
    world.wait_until(lambda: 'part="drain"' in world.client.get("/metrics").text)
    found = defaultdict(list)
    for family in text_string_to_metric_families(world.client.get("/metrics").text):
        for sample in family.samples:
            found[sample.name].append(sample.labels)
    return found


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_the_server_tells(rule: dict[str, Any], told: dict[str, list[dict[str, str]]]) -> None:
    asked = re.findall(r"\b((?:mso|http)_\w+)(?:\{([^}]*)\})?", rule["expr"])
    assert asked or re.search(r"\bup\{", rule["expr"])
    for name, selector in asked:
        assert told[name], f"the server tells no {name}"
        for label, sign, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', selector):
            assert all(label in labels for labels in told[name]), f"{name} has no label {label}"
            known = [str(status) for status in STATUSES] if label == "status" else [one[label] for one in told[name]]
            pattern = value if sign.endswith("~") else re.escape(value)
            assert any(re.fullmatch(pattern, one) for one in known), f"no {label} of {name} is {value}"
    for grouping in re.findall(r"\b(?:by|on) \(([^)]*)\)", rule["expr"]):
        labels = {label for name, _ in asked for labels in told[name] for label in labels}
        assert set(re.split(r",\s*", grouping)) <= labels | OF_PROMETHEUS


def test_health_is_no_part_of_the_share_of_errors() -> None:
    (rule,) = (rule for rule in alerts() if rule["alert"] == "MsoErrors")
    for excluded in re.findall(r'route!~"([^"]*)"', rule["expr"]):
        assert all(re.fullmatch(excluded, path) for path in OPEN)
        assert not re.fullmatch(excluded, "/predict")


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_what_it_means_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert re.fullmatch(r"\d+[mh]", rule["for"])
    told = rule["annotations"]["description"]
    assert len(rule["annotations"]["summary"]) < 100
    commands = typer.main.get_command(mso).commands  # type: ignore[attr-defined]
    for word in re.findall(r"`mso (\w+)", told):
        assert word in commands
    for setting in re.findall(r"\bapi\.\w+", told):
        assert setting in setting_descriptions()
    assert rule["alert"] in (ROOT / "docs" / "operations.md").read_text("utf-8")


@pytest.mark.parametrize(
    "command",
    [
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
        ("check", "config", "--syntax-only", "scrape.yml"),
    ],
    ids=" ".join,
)
def test_promtool_finds_no_fault(command: tuple[str, ...]) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool on this machine; Debian has it in the package prometheus")
    done = subprocess.run(["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tried() -> None:
    tried = (PROMETHEUS / "alerts_test.yml").read_text("utf-8")
    for rule in alerts():
        assert f'{{alertname="{rule["alert"]}"' in tried


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd on this machine")
    unit = (ROOT / "deploy" / "systemd" / "mso.service").read_text("utf-8")
    (start,) = re.findall(r"^ExecStart=\S+/mso (.*)$", unit, re.MULTILINE)
    assert start.split()[0] in typer.main.get_command(mso).commands  # type: ignore[attr-defined]
    here = tmp_path / "mso.service"
    here.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={Path(sys.executable).parent / 'mso'}", unit, flags=re.M))
    for command in (["verify"], ["security", "--offline=true", "--threshold=20"]):
        done = subprocess.run(["systemd-analyze", *command, here], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
