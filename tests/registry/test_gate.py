from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobile_sentiment_ops.registry.comparison import Part
from mobile_sentiment_ops.registry.gate import Answers, compare
from mobile_sentiment_ops.settings import Gate
from mobile_sentiment_ops.types import Outcome, Verdict

GATE = Gate(min_test_rows=200)


def rows(count: int = 1000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice(3, size=count, p=[0.3, 0.15, 0.55]).astype(np.int8)


def knowing(labels: np.ndarray, share: float, seed: int = 1) -> np.ndarray:
    """Decisions of a model that knows this share of the labels and guesses the others."""
    draw = np.random.default_rng(seed)
    return np.where(draw.random(len(labels)) < share, labels, draw.integers(0, 3, len(labels)))


def answers(decisions: np.ndarray, name: str = "XGBoost", confidence: float = 0.87) -> Answers:
    probabilities = np.full((len(decisions), 3), (1 - confidence) / 2)
    probabilities[np.arange(len(decisions)), decisions] = confidence
    return Answers(name, decisions, probabilities)


def judge(
    labels: np.ndarray,
    candidate: np.ndarray | Answers,
    champion: np.ndarray | Answers | None,
    gate: Gate = GATE,
    **more: object,
) -> Verdict:
    if isinstance(champion, np.ndarray):
        champion = answers(champion, "version 3 (LogisticRegression)")
    candidate = candidate if isinstance(candidate, Answers) else answers(candidate)
    return compare(labels, candidate, champion, gate=gate, seed=0, **more)  # type: ignore[arg-type]


def gated(**changes: object) -> Gate:
    return Gate.model_validate({**GATE.model_dump(), **changes})


# --- the gain


def test_a_candidate_that_is_surely_better_is_promoted_and_the_figures_are_told() -> None:
    labels = rows()
    verdict = judge(labels, knowing(labels, 0.9), knowing(labels, 0.7))
    assert verdict.outcome is Outcome.PROMOTE
    assert 0 < verdict.measured["gain_low"] < verdict.measured["gain"] < verdict.measured["gain_high"]
    gain = verdict.measured["candidate_macro_f1"] - verdict.measured["rival_macro_f1"]
    assert gain == pytest.approx(verdict.measured["gain"])
    assert verdict.limits["max_slice_loss"] == GATE.max_slice_loss
    assert not set(verdict.limits) & set(verdict.measured)
    assert verdict.summary.startswith("XGBoost replaces version 3 (LogisticRegression). On the same 1,000 reviews")
    assert verdict.summary.endswith(verdict.reasons[0])
    assert verdict.reasons[0].endswith(", all of it above zero.")
    json.dumps(asdict(verdict), allow_nan=False)


def test_answers_that_changed_are_counted() -> None:
    labels = np.array([0, 1, 2] * 100)
    candidate, champion = labels.copy(), labels.copy()
    champion[:30] = (labels[:30] + 1) % 3
    candidate[90:100] = (labels[90:100] + 1) % 3
    champion[200:205], candidate[200:205] = (labels[200:205] + 1) % 3, (labels[200:205] + 2) % 3
    verdict = judge(labels, candidate, champion)
    counted = {name: verdict.measured[name] for name in ("changed_rows", "mended_rows", "spoiled_rows")}
    assert counted == {"changed_rows": 45, "mended_rows": 30, "spoiled_rows": 10}
    assert verdict.measured["mcnemar_p"] == pytest.approx(0.0022, abs=1e-4)
    assert "45 answers differ: 30 turn from wrong to right, 10 from right to wrong." in verdict.summary


def test_a_worse_candidate_is_rejected() -> None:
    labels = rows()
    verdict = judge(labels, knowing(labels, 0.7), knowing(labels, 0.9))
    assert verdict.outcome is Outcome.REJECT
    assert "all of it below zero" in verdict.summary


def test_what_may_be_chance_is_held() -> None:
    labels = rows()
    verdict = judge(labels, knowing(labels, 0.8, seed=1), knowing(labels, 0.8, seed=2))
    assert verdict.outcome is Outcome.HOLD
    assert "which is not sure to be above zero." in verdict.reasons[0]
    assert judge(labels, labels, labels).outcome is Outcome.HOLD


def test_a_smaller_level_asks_for_a_surer_gain() -> None:
    labels = rows(3000)
    candidate, champion = knowing(labels, 0.83), knowing(labels, 0.8, seed=2)
    told = [judge(labels, candidate, champion, level=level) for level in (0.2, 0.025, 0.000001)]
    lows = [verdict.measured["gain_low"] for verdict in told]
    assert lows == sorted(lows, reverse=True)
    assert (told[0].outcome, told[2].outcome) == (Outcome.PROMOTE, Outcome.HOLD)


def test_a_gain_must_exceed_the_least_one_asked_for() -> None:
    labels = rows(5000)
    candidate, champion = knowing(labels, 0.85), knowing(labels, 0.8)
    gain = judge(labels, candidate, champion).measured["gain"]
    asked = [judge(labels, candidate, champion, gated(min_gain=least)) for least in (gain / 3, gain, 3 * gain)]
    assert [verdict.outcome for verdict in asked] == [Outcome.PROMOTE, Outcome.HOLD, Outcome.REJECT]
    assert f"not sure to be above the {gain:+.3f} asked for (gate.min_gain)" in asked[1].summary


def test_too_few_rows_give_no_verdict() -> None:
    labels = rows(199)
    verdict = judge(labels, labels, knowing(labels, 0.2))
    assert verdict.outcome is Outcome.HOLD
    assert "Only 199 labelled reviews" in verdict.summary
    assert "needs 200 (gate.min_test_rows): about 1 more labelled reviews" in verdict.summary
    assert judge(rows(200), rows(200), knowing(rows(200), 0.2)).outcome is Outcome.PROMOTE
    nothing = judge(rows(0), rows(0), rows(0))
    assert (nothing.outcome, nothing.measured) == (Outcome.HOLD, {"test_rows": 0.0})


def test_spent_test_rows_ask_for_newer_ones() -> None:
    labels = rows()
    verdict = judge(labels, labels, knowing(labels, 0.2), level=0.0)
    assert verdict.outcome is Outcome.HOLD
    assert "about 200 labelled reviews newer than them are needed" in verdict.summary


@pytest.mark.parametrize("answer", [0, 1, 2])
def test_one_answer_to_everything_is_rejected(answer: int) -> None:
    labels = rows()
    verdict = judge(labels, np.full(1000, answer), np.full(1000, (answer + 1) % 3))
    assert verdict.outcome is Outcome.REJECT
    assert "to every review, whatever it says" in verdict.reasons[0]
    assert judge(labels, np.full(1000, answer), None).outcome is Outcome.REJECT


def test_rows_of_one_label_cannot_tell() -> None:
    labels = np.full(500, 2)
    verdict = judge(labels, knowing(labels, 0.9), knowing(labels, 0.1))
    assert verdict.outcome is Outcome.HOLD
    assert "All reviews to judge it on are Positive" in verdict.summary


@settings(deadline=None, max_examples=60)
@given(st.floats(0.2, 1), st.floats(0.2, 1), st.integers(0, 50), st.sampled_from([-0.05, 0.0, 0.05]))
def test_two_models_never_replace_each_other(one: float, other: float, seed: int, min_gain: float) -> None:
    labels = rows(400, seed)
    gate = gated(bootstrap_samples=200, min_gain=min_gain)
    first, second = knowing(labels, one, seed), knowing(labels, other, seed + 1)
    there, back = judge(labels, first, second, gate), judge(labels, second, first, gate)
    assert judge(labels, first, second, gate) == there
    assert there.measured["gain"] == pytest.approx(-back.measured["gain"])
    assert [there.outcome, back.outcome].count(Outcome.PROMOTE) < 2 or min_gain < 0
    assert there.outcome is not Outcome.PROMOTE or there.measured["gain_low"] > min_gain


# --- the first model


def test_the_first_model_is_judged_on_few_rows_by_a_wide_interval() -> None:
    labels = rows(60)
    assert judge(labels, labels, None).outcome is Outcome.PROMOTE
    assert judge(labels, knowing(labels, 0.1), None).outcome is not Outcome.PROMOTE
    assert "needs 30" in judge(labels[:29], labels[:29], None).summary


def test_the_first_model_must_be_better_than_chance() -> None:
    labels = rows()
    verdict = judge(labels, knowing(labels, 0.6), None)
    assert (verdict.outcome, verdict.champion) == (Outcome.PROMOTE, None)
    assert verdict.summary.startswith("XGBoost is the first to answer.")
    assert "the same answers dealt by chance 0.3" in verdict.summary
    guesses = [judge(labels, knowing(labels, 0.0, seed), None) for seed in range(20)]
    assert sum(guess.outcome is Outcome.PROMOTE for guess in guesses) <= 2
    assert guesses[0].summary.startswith("XGBoost is not shown to be better than the same answers dealt by chance.")


# --- what may not get worse behind a gain


def better_but(worse: slice, share: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, a candidate that is better than the champion except on some rows, where it knows that share."""
    labels = rows(6000)
    candidate, champion = knowing(labels, 0.9), knowing(labels, 0.75, seed=2)
    candidate[worse] = knowing(labels, share, seed=3)[worse]
    return labels, candidate, champion


def test_a_part_that_surely_loses_refuses_a_candidate_that_gains_elsewhere() -> None:
    labels, candidate, champion = better_but(slice(0, 1500), 0.6)
    torch = Part("app torch", np.arange(1500))
    assert judge(labels, candidate, champion).outcome is Outcome.PROMOTE
    verdict = judge(labels, candidate, champion, parts=[torch, Part("app lamp", np.arange(1500, 6000))])
    assert verdict.outcome is Outcome.REJECT
    assert verdict.reasons[0].startswith("app torch: 0.1")
    assert verdict.measured["loss_app_torch"] > 0.05 > 0 > verdict.measured["loss_app_lamp"]


def test_a_small_part_that_looks_worse_is_held_with_the_labels_that_would_tell() -> None:
    labels, candidate, champion = better_but(slice(0, 100), 0.65)
    torch = Part("app torch", np.arange(100))
    verdict = judge(labels, candidate, champion, parts=[torch])
    assert verdict.outcome is Outcome.HOLD
    assert verdict.reasons[0].startswith("app torch: 0.")
    assert "it may be chance: about" in verdict.reasons[0]
    assert judge(labels, candidate, champion, gated(max_slice_loss=0.5), parts=[torch]).outcome is Outcome.PROMOTE


def test_a_gain_paid_with_right_answers_is_for_a_person_to_decide() -> None:
    labels = np.repeat([0, 1, 2], [1500, 100, 4400])
    champion = labels.copy()
    champion[1500:1600] = 2
    candidate = labels.copy()
    candidate[1600:2200] = 1
    verdict = judge(labels, candidate, champion, gated(max_slice_loss=1))
    assert verdict.measured["gain_low"] > 0
    assert verdict.outcome is Outcome.HOLD
    assert verdict.reasons[0].startswith("It spoils more answers than it mends: 8.3% of all")


def test_budgets_are_kept() -> None:
    labels = rows(2000)
    good, champion = answers(knowing(labels, 0.9)), knowing(labels, 0.7)
    assert judge(labels, good, champion).outcome is Outcome.PROMOTE
    for worse, reason in (
        (answers(good.decisions, confidence=0.5), "Its confidence is off by 0."),
        (replace(good, cpu_us_per_review=1500.0), "It takes 1,500.0 us of CPU a review, 1,000 are allowed"),
        (replace(good, model_mb=300.0), "It takes 300.0 MB, 256 are allowed (gate.max_model_mb)."),
    ):
        verdict = judge(labels, worse, champion)
        assert verdict.outcome is Outcome.REJECT
        assert verdict.reasons[0].startswith(reason)


def test_confidence_may_be_as_far_off_as_the_champions() -> None:
    labels = rows(2000)
    off, champion = answers(knowing(labels, 0.9), confidence=0.6), answers(knowing(labels, 0.7), confidence=0.4)
    assert judge(labels, off, champion).outcome is Outcome.PROMOTE


@pytest.mark.parametrize(
    ("found", "before", "outcome"),
    [
        (0.9, 0.9, "PROMOTE"),
        (0.7, 0.9, "PROMOTE"),
        (0.6, 0.9, "REJECT"),
        (0.65, 0.75, "REJECT"),
        (0.5, 0.5, "PROMOTE"),
        (0.4, 0.5, "REJECT"),
    ],
)
def test_a_behaviour_test_binds_as_far_as_the_champion_passes_it(found: float, before: float, outcome: str) -> None:
    labels = rows(2000)
    candidate = replace(answers(knowing(labels, 0.9)), behaviour={"negation": found})
    champion = replace(answers(knowing(labels, 0.7)), behaviour={"negation": before})
    verdict = judge(labels, candidate, champion, behaviour_floors={"negation": 0.7})
    assert verdict.outcome == outcome
    assert judge(labels, candidate, champion).outcome is Outcome.PROMOTE
    lenient = gated(max_behaviour_loss=1)
    assert judge(labels, candidate, champion, lenient, behaviour_floors={"negation": 0.7}).outcome is Outcome.PROMOTE


def test_an_equal_candidate_that_brings_something_is_promoted_where_that_is_allowed() -> None:
    labels = rows(5000)
    champion = replace(answers(knowing(labels, 0.8)), model_mb=10.0)
    candidate = replace(champion, model_mb=1.0, name="small")
    held, promoted = (judge(labels, candidate, champion, gated(equal_may_replace=may)) for may in (False, True))
    assert held.outcome is Outcome.HOLD
    assert "It takes 1.0 MB instead of 10.0" in held.reasons[0]
    assert "gate.equal_may_replace would promote it" in held.reasons[0]
    assert promoted.outcome is Outcome.PROMOTE
    assert judge(labels, champion, champion, gated(equal_may_replace=True)).outcome is Outcome.HOLD


def test_every_reason_is_told_the_gravest_first() -> None:
    labels = rows(2000)
    verdict = judge(labels, replace(answers(knowing(labels, 0.8)), model_mb=300.0), knowing(labels, 0.8, seed=2))
    assert verdict.outcome is Outcome.REJECT
    assert [reason.split()[0:2] for reason in verdict.reasons] == [["It", "takes"], ["The", "gain"]]
    assert verdict.summary.endswith(" ".join(verdict.reasons))


# --- the labels that would decide


def test_a_hold_says_how_many_more_labels_would_decide() -> None:
    labels = rows(2000)
    found = (judge(labels, knowing(labels, 0.81, seed), knowing(labels, 0.8, 99)) for seed in range(30))
    held = [verdict for verdict in found if verdict.outcome is Outcome.HOLD]
    for verdict in held:
        if verdict.measured["gain"] > 0:
            assert verdict.measured["labels_needed"] > 1000
            assert "more labelled reviews to decide, if it is better by 0.0125" in verdict.summary
        else:
            assert "labels_needed" not in verdict.measured
            assert "More labelled reviews are not expected to change that." in verdict.summary
    assert {verdict.measured["gain"] > 0 for verdict in held} == {True, False}
