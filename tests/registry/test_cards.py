"""The cards of a real training run: readable by machines in front, by people below, without reviews or authors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml  # MLflow brings it

from mobile_sentiment_ops.adapters.bundles import FolderBundles
from mobile_sentiment_ops.adapters.clock import SystemClock
from mobile_sentiment_ops.adapters.state_sql import SqlState
from mobile_sentiment_ops.adapters.tables import DeltaTables
from mobile_sentiment_ops.registry.cards import data_card, model_card

KEPT = Path(__file__).parents[1] / "fixtures" / "bundle_format_1" / "card.json"
Bundle = dict[str, bytes]


@pytest.fixture(scope="module")
def files(demo_workspace: Path) -> Bundle:
    """The first champion's bundle of a small demo world."""
    champion = SqlState(f"sqlite:///{demo_workspace / 'state.db'}", SystemClock()).champion()
    assert champion is not None
    return FolderBundles(demo_workspace / "bundles").get(champion.bundle_hash)


@pytest.fixture(scope="module")
def card(files: Bundle) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(files["card.json"])
    return found


def front(page: str) -> dict[str, Any]:
    mark, matter, _ = page.split("---\n", 2)
    assert mark == ""
    found: dict[str, Any] = yaml.safe_load(matter)
    return found


def test_the_bundle_holds_the_cards_that_its_facts_make(files: Bundle, card: dict[str, Any]) -> None:
    assert files["README.md"].decode() == model_card(card)
    assert files["DATA.md"].decode() == data_card(card)


def test_the_card_keeps_label_order_and_lineage(card: dict[str, Any]) -> None:
    assert card["labels"] == ["Negative", "Neutral", "Positive"]
    lineage = card["lineage"]
    assert lineage["dataset"] == card["dataset"]["fingerprint"]
    assert lineage.keys() == {"parent_version", "dataset", "commit", "lock_hash"}
    assert lineage["parent_version"] is None
    assert lineage["lock_hash"] == card["provenance"]["lock_hash"]
    assert "ledger_head" in card


def test_the_front_matter_has_the_keys_that_model_hubs_read(card: dict[str, Any]) -> None:
    found = front(model_card(card))
    assert found["pipeline_tag"] == "text-classification"
    assert found["library_name"] == "mobile-sentiment-ops"
    assert "en" in found["language"]
    assert {"license", "tags", "datasets", "metrics"} <= found.keys()
    (result,) = found["model-index"][0]["results"]
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values["f1"] == pytest.approx(card["metrics"]["macro_f1"], abs=1e-4)
    assert result["task"]["type"] == "text-classification"
    assert front(data_card(card))["task_categories"] == ["text-classification"]


def test_the_model_card_says_figures_with_intervals_cost_and_verdict(card: dict[str, Any]) -> None:
    page = model_card(card)
    low, high = card["intervals"]["macro_f1"]
    assert f"| macro-F1 | {card['metrics']['macro_f1']:.3f} | {low:.3f} to {high:.3f} |" in page
    assert low < card["metrics"]["macro_f1"] < high
    assert card["slices"]["language"].keys() >= {"en"}
    for name in ("| en |", "CPU time of training", "PROMOTE: ", "the stars given", card["dataset"]["fingerprint"]):
        assert name in page
    assert "{" not in page.split("---\n", 2)[2]


def test_counts_add_up_to_the_dataset(card: dict[str, Any]) -> None:
    dataset = card["dataset"]
    for column in ("label_source", "language", "app"):
        for part, rows in dataset["rows"].items():
            assert sum(value[part] for value in dataset["counts"][column].values()) == rows
    assert dataset["repeats"] >= 0
    assert dataset["rejected"] == 0


def test_no_review_and_no_author_is_in_either_card(files: Bundle, demo_workspace: Path) -> None:
    reviews = DeltaTables(str(demo_workspace / "tables")).read("reviews", ["review_text"])
    pages = files["README.md"].decode() + files["DATA.md"].decode()
    assert reviews.num_rows > 2_000
    assert not [text for text in reviews["review_text"].to_pylist() if len(text) > 12 and text in pages]


def test_a_card_of_an_earlier_release_is_shown_as_far_as_it_tells() -> None:
    card = json.loads(KEPT.read_text("utf-8"))
    assert "macro-F1" in model_card(card)
    assert card["dataset"]["fingerprint"] in data_card(card)
    assert front(model_card(card))["language"] == []


@pytest.mark.parametrize(
    "name", ["a|b", "<script>", "# no", "{braces}", "two\nlines", "[x](y)", "no", "2025-01-01", "'\"\\"]
)
def test_whatever_an_app_is_called_breaks_neither_table_nor_front_matter(card: dict[str, Any], name: str) -> None:
    counts = dict.fromkeys(("train", "validation", "test"), 3)
    score = {"rows": 60, "macro_f1": 0.1, "low": 0.0, "high": 0.2}
    dataset = {**card["dataset"], "counts": {"app": {name: counts}, "language": {name: counts}}}
    odd = {**card, "dataset": dataset, "slices": {"app": {name: score}}}
    assert front(model_card(odd))["language"] == [name]
    assert front(data_card(odd))["language"] == [name]
    for page in (model_card(odd), data_card(odd)):
        body = page.split("---\n", 2)[2]
        assert "<script>" not in body.replace("\\<", "")
        assert "[x](y)" not in body.replace("\\[", "")
        tables = [block for block in body.split("\n\n") if block.startswith("|")]
        for table in tables:
            bars = {line.replace("\\\\", "").replace("\\|", "").count("|") for line in table.splitlines()}
            assert len(bars) == 1
