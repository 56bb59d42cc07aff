"""Drift: limits from windows in which nothing moved, what moves them, and the decision on it."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobile_sentiment_ops.errors import BundleError
from mobile_sentiment_ops.monitoring.decision import FRESH, Findings, decide
from mobile_sentiment_ops.monitoring.drift import STATISTICS, Limits, check_drift, draw_limits
from mobile_sentiment_ops.monitoring.reference import Reference, make_reference
from mobile_sentiment_ops.monitoring.rows import UNIT, rows_of
from mobile_sentiment_ops.monitoring.sketch import Window, sketched
from mobile_sentiment_ops.monitoring.stream import RECENT, Stream, StreamLimits, follow, stream_limits
from mobile_sentiment_ops.types import Action, Admission, DriftStatus, Measurement, TrainingBatch

NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
GOOD = ("love it", "great app", "works well", "nice and quick", "best one so far")
BAD = ("it crashes", "keeps freezing", "cannot log in", "lost my money", "slow and broken")
ENDS = (
    "on my phone",
    "every day",
    "since the update",
    "for the family",
    "at work",
    "really",
    "now",
    "again",
    "so far",
    "",
)


def scored(n: int, *, seed: int, negative: float = 0.25, **constant: str) -> pl.DataFrame:
    """Reviews of two apps, of which so many are negative, as a model that is right nine times in ten judges them."""
    chance = np.random.default_rng(seed)
    bad = chance.random(n) < negative
    wrong = chance.random(n) < 0.1
    p = np.clip(np.where(bad ^ wrong, 0.8, 0.15) + chance.normal(0, 0.05, n), 0.01, 0.97)
    texts = [f"{chance.choice(BAD if one else GOOD)} {chance.choice(ENDS)} {chance.choice(ENDS)}" for one in bad]
    frame = pl.DataFrame(
        {
            "text": texts,
            "p_negative": p,
            "p_neutral": np.full(n, 0.02),
            "p_positive": 0.98 - p,
            "label": np.where(p > 0.5, "Negative", "Positive").tolist(),
            "truth": np.where(bad, 0, 2).astype(np.int8),
            "app": [("lamp", "bell")[at % 2] for at in range(n)],
            "version": [("1.0", "1.1")[at % 3 == 0] for at in range(n)],
            "language": ["en"] * n,
            "event_time": [NOON + timedelta(minutes=at) for at in range(n)],
        }
    )
    return frame.with_columns(**{name: pl.lit(value) for name, value in constant.items()})


@pytest.fixture(scope="module")
def reference() -> Reference:
    return make_reference([*GOOD, *BAD, *ENDS], scored(3_000, seed=1))


@pytest.fixture(scope="module")
def limits(reference: Reference) -> Limits:
    return draw_limits(reference, draws=1_000, sizes=(100, 500, 1_000))


def judged(
    frame: pl.DataFrame, reference: Reference, limits: Limits, alpha: float = 0.03
) -> tuple[DriftStatus, set[str]]:
    window = Window.of_rows(rows_of(frame, reference.vocabulary))
    status, measured = check_drift(window, reference, limits, false_alarms=alpha)
    return status, {one.name for one in measured if one.fired}


def test_alarms_are_as_rare_as_asked_for_when_nothing_moved(reference: Reference, limits: Limits) -> None:
    fired = [judged(scored(300, seed=100 + at), reference, limits)[0] is DriftStatus.DRIFT for at in range(150)]
    assert sum(fired) <= 12  # 3% of 150 are 4.5; more than 12 come once in a thousand


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        (lambda frame: scored(400, seed=7, negative=0.5), "negative share, more"),
        (lambda frame: scored(400, seed=7, negative=0.05), "negative share, less"),
        (lambda frame: frame.with_columns(app=pl.lit("gong")), "new apps"),
        (lambda frame: frame.with_columns(language=pl.lit("th")), "new languages"),
        (lambda frame: _some(frame, 0.1, "blorp zweep nice app"), "unknown words"),
        (lambda frame: _some(frame, 0.2, "money on my phone"), "rate of a word"),
        (lambda frame: _some(frame, 0.05, ""), "empty texts"),
        (lambda frame: _some(frame, 0.05, "donâ€™t love it"), "wrongly decoded texts"),
        (
            lambda frame: _some(frame, 0.3, "great app for the family since the update at work"),
            "one text again and again",
        ),
        (lambda frame: frame.with_columns(text=pl.col("text") + "!!!!!!"), "punctuation"),
        (lambda frame: frame.with_columns(text=pl.concat_str(["text"] * 6, separator=" ")), "length"),
    ],
)
def test_what_moved_is_found_by_its_name(changed: Any, found: str, reference: Reference, limits: Limits) -> None:
    status, fired = judged(changed(scored(400, seed=7)), reference, limits)
    assert status is DriftStatus.DRIFT
    assert found in fired


def _some(frame: pl.DataFrame, share: float, text: str) -> pl.DataFrame:
    changed = np.random.default_rng(3).random(frame.height) < share
    return frame.with_columns(text=pl.when(pl.Series(changed)).then(pl.lit(text)).otherwise("text"))


def test_a_bad_version_is_found_among_good_ones(reference: Reference, limits: Limits) -> None:
    good, bad = scored(600, seed=8), scored(80, seed=9, negative=0.7, app="bell", version="2.0")
    window = Window.of_rows(rows_of(pl.concat([good, bad]), reference.vocabulary))
    _, measured = check_drift(window, reference, limits, false_alarms=0.03)
    (of_slice,) = [one for one in measured if one.name == "negative share of a slice"]
    assert of_slice.fired
    assert dict(of_slice.part) == {"app": "bell", "version": "2.0"}
    assert "bell" in of_slice.reason


def test_windows_of_sketches_are_judged_as_their_reviews_are(reference: Reference, limits: Limits) -> None:
    rows = rows_of(scored(500, seed=11, negative=0.4), reference.vocabulary)
    both = [
        check_drift(window, reference, limits, false_alarms=0.03)
        for window in (Window.of_rows(rows), Window.of(sketched(rows)))
    ]
    assert both[0] == both[1]


def test_a_window_larger_than_any_limit_is_known_for_is_judged_alike(reference: Reference, limits: Limits) -> None:
    quiet = [judged(scored(20_000, seed=200 + at), reference, limits)[0] for at in range(8)]
    assert quiet.count(DriftStatus.DRIFT) <= 3
    assert "negative share, more" in judged(scored(20_000, seed=12, negative=0.35), reference, limits)[1]


def test_what_cannot_be_judged_is_said(reference: Reference, limits: Limits) -> None:
    assert judged(scored(49, seed=1), reference, limits)[0] is DriftStatus.TOO_FEW
    window = Window.of_rows(rows_of(scored(300, seed=1), None))
    status, (told,) = check_drift(window, None, None, false_alarms=0.03)
    assert (status, told.value) == (DriftStatus.NO_REFERENCE, None)
    small = make_reference(list(GOOD), scored(150, seed=1))
    status, (told,) = check_drift(window, small, limits, false_alarms=0.03)
    assert (status, told.reason) == (
        DriftStatus.NO_REFERENCE,
        "the reference has 150 of 200 rows; `mso retrain` makes one",
    )


def test_reviews_without_app_language_or_text_are_judged_by_their_predictions(
    reference: Reference, limits: Limits
) -> None:
    nothing = {name: pl.lit(None, pl.Utf8()) for name in ("app", "version", "language", "text")}
    assert judged(scored(400, seed=7).with_columns(**nothing), reference, limits)[0] is DriftStatus.OK
    moved = judged(scored(400, seed=7, negative=0.6).with_columns(**nothing), reference, limits)
    assert "negative share, more" in moved[1]


def test_limits_are_kept_and_refused_when_they_are_odd(limits: Limits) -> None:
    again = Limits.from_json(limits.to_json())
    assert all(np.array_equal(a, b) for a, b in zip(again.at(300, 0.01), limits.at(300, 0.01), strict=True))
    for odd in (b"{}", b"[]", b"no", limits.to_json().replace(b"negative share, more", b"mood")):
        with pytest.raises(BundleError, match="drawn anew"):
            Limits.from_json(odd)


def test_rarer_alarms_and_more_windows_have_wider_limits(limits: Limits) -> None:
    wide, narrow = (limits.at(300, share)[1] for share in (0.005, 0.05))
    assert (wide > narrow).all()
    assert len(wide) == len(STATISTICS)


# --- the stream


def test_the_stream_is_quiet_when_nothing_moved_and_tells_a_worse_mood_soon(reference: Reference) -> None:
    known = stream_limits(reference, streams=100)
    _, alarms = follow(Stream(), rows_of(scored(10_000, seed=21), reference.vocabulary), known)
    assert [alarm.signal for alarm in alarms].count("negative share") <= 1
    _, alarms = follow(Stream(), rows_of(scored(400, seed=22, negative=0.6), reference.vocabulary), known)
    assert alarms[0].signal == "negative share"
    assert alarms[0].row < 150


@given(st.lists(st.integers(0, 60), max_size=5), st.integers(0, 5))
def test_the_stream_does_not_depend_on_how_it_was_cut(cuts: list[int], seed: int) -> None:
    chance = np.random.default_rng(seed)
    figures = {
        "scores": chance.integers(0, UNIT, (60, 3)),
        "moments": chance.integers(0, 1024, (60, 6)),
        "keys": chance.integers(0, 5, 60).astype(np.uint64),
    }
    known = StreamLimits((0.4, 0.5, 0.1), (0.3, 0.3, 0.3), (3_000, 3_000, 3_000))
    whole, alarms = follow(Stream(), _rows(figures, 0, 60), known)
    state, found, ends = Stream(), [], sorted({0, *cuts, 60})
    for first, last in itertools.pairwise(ends):
        state, more = follow(state, _rows(figures, first, last), known)
        found += [replace(alarm, row=alarm.row + first) for alarm in more]
    assert (state.sums, state.seen, state.recent.tolist()) == (whole.sums, whole.seen, whole.recent.tolist())
    assert sorted(found, key=lambda one: (one.row, one.signal)) == sorted(alarms, key=lambda one: (one.row, one.signal))


def _rows(figures: dict[str, np.ndarray], first: int, last: int) -> Any:
    return SimpleNamespace(**{name: of[first:last] for name, of in figures.items()})


def test_a_text_is_repeated_when_it_came_among_the_last_ones() -> None:
    quiet = {"scores": np.zeros((RECENT + 50, 3), int), "moments": np.zeros((RECENT + 50, 6), int)}
    keys = np.arange(1, RECENT + 51).astype(np.uint64)
    known = StreamLimits((0, 0, 0), (1, 1, 0.01), (10**9, 10**9, 50_000))
    keys[5] = keys[0]
    assert [one.row for one in follow(Stream(), _rows({**quiet, "keys": keys}, 0, len(keys)), known)[1]] == [5]
    keys[5], keys[-1] = 6, keys[0]  # too long ago
    assert follow(Stream(), _rows({**quiet, "keys": keys}, 0, len(keys)), known)[1] == []


# --- the decision


def measured(name: str, *, fired: bool = True) -> Measurement:
    return Measurement(name, 9.0 if fired else 1.0, 3.0, fired, f"{name}: off by 9.0", 500)


def findings(*fired: str, **more: Any) -> Findings:
    status = DriftStatus.DRIFT if fired else DriftStatus.OK
    return Findings(NOON, "3", drift={7: (status, [measured(name) for name in fired])}, **more)


LOSS = Measurement("loss of macro-F1", 0.08, 0.03, True, "macro-F1 fell from 0.700 to 0.620 by 800 labels", 800)
HELD = TrainingBatch("b7", None, NOON, Admission.HELD, ("lamp",), 400, ("a burst of one word",), NOON, "monitoring")


@pytest.mark.parametrize(
    ("found", "action", "said"),
    [
        (findings(), Action.NOTHING, "nothing moved beyond chance"),
        (Findings(NOON, None), Action.NOTHING, "nothing could be judged"),
        (findings("negative share, more"), Action.WATCH, "the model needs nothing"),
        (findings("rate of a word", "length"), Action.WATCH, "the model needs nothing"),
        (findings("wrongly decoded texts"), Action.WATCH, "wrongly decoded texts: off by"),
        (findings(alarms=["unknown words"]), Action.WATCH, "the stream raised an alarm on unknown words"),
        (findings("unknown words", new_labels=20), Action.LABEL, "Label 80 reviews, then train again"),
        (findings("new languages", new_part={"language": "id"}), Action.LABEL, "Label 100 reviews of language id"),
        (findings("new languages", new_part={"language": "id"}, new_labels=300), Action.RETRAIN, "Train again"),
        (findings(loss=LOSS), Action.RETRAIN, "0.620 by 800 labels"),
        (findings(loss=LOSS, promoted_at=NOON - FRESH), Action.RETRAIN, "Train again"),
        (
            findings(loss=LOSS, promoted_at=NOON - FRESH, previous_version="2"),
            Action.ROLLBACK,
            "version 2 answered before",
        ),
        (
            findings(loss=LOSS, promoted_at=NOON - FRESH - timedelta(days=1), previous_version="2"),
            Action.RETRAIN,
            "Train again",
        ),
        (findings("new apps", loss=LOSS, held=[HELD]), Action.HOLD, "batch b7: 400 reviews of lamp wait"),
        (findings(estimate=replace(LOSS, reason="accuracy is 0.61")), Action.LABEL, "accuracy is 0.61"),
    ],
)
def test_the_first_that_applies_is_decided_and_all_are_told(found: Findings, action: Action, said: str) -> None:
    decision = decide(found)
    assert decision.action is action
    assert said in decision.summary
    assert len(decision.measured) == sum(len(of) for _, of in found.drift.values())
    if found.held:
        assert any("0.620" in reason for reason in decision.reasons)


def test_the_source_of_broken_texts_is_to_be_mended() -> None:
    assert "mend the source" in " ".join(decide(findings("empty texts")).reasons)


def test_a_window_that_can_be_judged_counts_more_than_one_that_cannot() -> None:
    few = (DriftStatus.TOO_FEW, [Measurement("drift", None, None, False, "12 reviews", 12)])
    fine = (DriftStatus.OK, [measured("length", fired=False)])
    assert decide(Findings(NOON, "3", drift={1: few, 7: fine})).drift is DriftStatus.OK
    assert decide(Findings(NOON, "3", drift={1: few})).drift is DriftStatus.TOO_FEW
