"""POST /explain: what moved a prediction, as JSON and as a page."""

from __future__ import annotations

import re

import pytest
from structlog.testing import capture_logs

from .conftest import World

MIXED = "Love to cook with it, but it crashes & I cannot <b>pay</b>"


def test_the_words_that_moved_a_prediction_come_strongest_first(world: World) -> None:
    told = world.client.post("/explain", json={"text": MIXED, "limit": 1_000}).json()
    answer = world.client.post("/predict_json", json={"text": MIXED}).json()
    assert (told["prediction"], told["model_version"]) == (answer["prediction"], "1")
    assert told["probabilities"] == pytest.approx(answer["probabilities"], abs=1e-6)
    assert told["label"] == told["prediction"]
    assert told["exact"]
    assert told["difference"] < 1e-6
    sizes = [abs(one["towards"]) for one in told["words"]]
    assert sizes == sorted(sizes, reverse=True)
    love = next(one for one in told["words"] if one["words"] == "Love")
    assert (love["spans"], love["shared"]) == ([[0, 4]], False)


def test_shown_words_rest_and_bias_sum_to_the_logits(world: World) -> None:
    every = world.client.post("/explain", json={"text": MIXED, "limit": 1_000}).json()
    few = world.client.post("/explain", json={"text": MIXED}).json()
    assert few["words"] == every["words"][:10]
    assert (few["rest"]["count"], every["rest"]["count"]) == (len(every["words"]) - 10, 0)
    sums = [
        {
            label: sum(part["effects"][label] for part in [*told["words"], told["rest"], told["bias"]])
            for label in told["probabilities"]
        }
        for told in (few, every)
    ]
    assert sums[0] == pytest.approx(sums[1])
    assert max(sums[0], key=lambda label: sums[0][label] + few["offsets"][label]) == few["prediction"]


def test_another_label_may_be_asked_for(world: World) -> None:
    told = [world.client.post("/explain", json={"text": MIXED, "label": label}).json() for label in ("Negative", None)]
    assert [one["label"] for one in told] == ["Negative", told[1]["prediction"]]
    crashes = next(one for one in told[0]["words"] if one["words"] == "crashes")
    assert crashes["towards"] > 0


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ({}, "the body: Object missing required field `text`"),
        ({"text": 5}, "text: Expected `str`, got `int`"),
        ({"text": "  "}, "text: blank: expected some text"),
        ({"text": "a", "label": "Good"}, "label: Invalid enum value 'Good'"),
        ({"text": "a", "limit": 0}, "limit: Expected `int` >= 1"),
    ],
)
def test_a_faulty_question_is_refused_with_its_field(world: World, body: dict[str, object], detail: str) -> None:
    answer = world.client.post("/explain", json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"] == detail


def test_an_explanation_is_no_prediction_and_no_text_is_logged(world: World) -> None:
    with capture_logs() as logs:
        assert world.client.post("/explain", json={"text": "zq-secret"}).status_code == 200
    assert "zq-secret" not in str(logs)
    assert world.ports.spool.depth() == 0
    assert "mso_predictions_total{" not in world.client.get("/metrics").text


def test_a_page_shows_the_text_with_its_words_marked(world: World) -> None:
    answer = world.client.post("/explain", json={"text": MIXED}, headers={"Accept": "text/html"})
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<b>pay" not in answer.text
    assert "&amp;" in answer.text
    (why,) = re.findall(r'<p class="why">(.*?)</p>', answer.text)
    assert re.sub(r"\u2060<sup>.</sup>|</?mark[^>]*>", "", why) == MIXED.replace("&", "&amp;").replace(
        "<", "&lt;"
    ).replace(">", "&gt;")
    assert {"+", "−"} == set(re.findall(r"<sup>(.)</sup>", why))
    assert answer.text.count("<tr>") == 11
