from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobile_sentiment_ops.data.dataset import (
    COLUMNS,
    MIN_ROWS,
    Dataset,
    build_dataset,
    check_leakage,
    rebuild,
)
from mobile_sentiment_ops.data.duplicates import identify
from mobile_sentiment_ops.data.manifest import Manifest, read_manifest
from mobile_sentiment_ops.data.reviews import REVIEW_SCHEMA, labelled
from mobile_sentiment_ops.data.splits import text_key
from mobile_sentiment_ops.errors import LeakageError, TooFewRows

START = datetime(2025, 6, 1, tzinfo=UTC)
FIXTURES = Path(__file__).parents[1] / "fixtures"


def reviews(*rows: Mapping[str, object]) -> pl.DataFrame:
    return identify(pl.DataFrame([{**dict.fromkeys(REVIEW_SCHEMA), **row} for row in rows], schema=REVIEW_SCHEMA))


def hourly(count: int, **more: object) -> list[dict[str, object]]:
    """Reviews r0000, r0001, ... of an hour each, of all labels."""
    return [
        {
            "review_id": f"r{n:04}",
            "review_text": f"Review number {n}",
            "rating": n % 5 + 1,
            "submitted_at": START + timedelta(hours=n),
            **more,
        }
        for n in range(count)
    ]


def build(
    rows: pl.DataFrame,
    *,
    test_share: float = 0.2,
    validation_share: float = 0.1,
    max_test_rows: int = 1000,
    seed: int = 0,
    not_before: datetime | None = None,
    min_test_rows: int = 1,
    judged: Manifest | None = None,
) -> Dataset:
    return build_dataset(
        rows,
        test_share=test_share,
        validation_share=validation_share,
        max_test_rows=max_test_rows,
        seed=seed,
        not_before=not_before,
        min_test_rows=min_test_rows,
        judged=judged,
        source="reviews, version 3",
    )


def sizes(dataset: Dataset) -> tuple[int, int, int]:
    return dataset.train.height, dataset.validation.height, dataset.test.height


# --- the split


def test_the_newest_reviews_judge_and_those_before_them_validate() -> None:
    dataset = build(reviews(*hourly(100)))
    assert [part["review_id"].to_list() for part in (dataset.train, dataset.validation, dataset.test)] == [
        [f"r{n:04}" for n in part] for part in (range(72), range(72, 80), range(80, 100))
    ]
    assert dataset.test.columns == list(COLUMNS)
    assert dataset.test["label"].dtype == pl.Int8
    assert dataset.test["label"].to_list() == [0, 0, 1, 2, 2] * 4


def test_a_text_of_several_reviews_is_kept_once_as_its_latest() -> None:
    rows = hourly(100)
    rows[3]["review_text"], rows[99]["review_text"] = "SLOW!", "slow"
    rows[4]["review_text"], rows[75]["review_text"] = "Great", "great."
    rows[5]["review_text"], rows[6]["review_text"] = "Fine", "fine"
    dataset = build(reviews(*rows))
    assert not {"r0003", "r0004", "r0005"} & set(dataset.train["review_id"])
    assert "r0006" in dataset.train["review_id"]
    assert "r0099" in dataset.test["review_id"]
    assert sum(sizes(dataset)) == 97


def test_reviews_without_a_label_are_left_out() -> None:
    rows = hourly(100)
    rows[99] |= {"rating": None}
    rows[98] |= {"rating": 5, "sentiment": "Negative", "label_source": "human"}
    newest = build(reviews(*rows)).test.row(-1, named=True)
    assert (newest["review_id"], newest["label"], newest["label_source"]) == ("r0098", 0, "human")


def test_reviews_of_an_unknown_time_are_older_than_all() -> None:
    rows = hourly(100)
    for row in rows[50:]:
        row["submitted_at"] = None
    dataset = build(reviews(*rows))
    assert sizes(dataset) == (72, 8, 20)
    assert dataset.test["submitted_at"].null_count() == 0
    assert dataset.train["submitted_at"].null_count() == 50


def test_without_any_time_chance_splits_by_the_seed() -> None:
    rows = reviews(*hourly(100, submitted_at=None))
    drawn = [build(rows, seed=seed) for seed in (0, 0, 1)]
    assert {sizes(dataset) for dataset in drawn} == {(72, 8, 20)}
    assert drawn[0] is not drawn[1]
    assert drawn[0].fingerprint == drawn[1].fingerprint != drawn[2].fingerprint
    assert drawn[0].summary()["test_from"] is None


def test_reviews_of_a_day_stay_together() -> None:
    rows = hourly(100)
    for n, row in enumerate(rows):
        row["submitted_at"] = START + timedelta(days=n // 12)
    dataset = build(reviews(*rows))
    assert sizes(dataset) == (72, 12, 16)
    assert dataset.validation["submitted_at"].n_unique() == 1


def test_a_day_that_holds_most_reviews_is_divided() -> None:
    rows = hourly(100)
    for row in rows[10:]:
        row["submitted_at"] = START + timedelta(days=9)
    assert sizes(build(reviews(*rows))) == (72, 8, 20)


def test_a_sample_of_the_newest_judges_when_they_are_too_many() -> None:
    rows = reviews(*hourly(1000))
    all_of_them, sample, again, other = (
        build(rows, max_test_rows=rows_at_most, seed=seed)
        for rows_at_most, seed in ((1000, 0), (50, 0), (50, 0), (50, 1))
    )
    assert sizes(sample) == (720, 80, 50)
    assert sample.test["review_id"].is_in(all_of_them.test["review_id"].to_list()).all()
    assert sample.train.equals(all_of_them.train)
    assert sample.fingerprint == again.fingerprint != other.fingerprint


def test_the_test_rows_begin_after_what_the_champion_was_trained_on() -> None:
    rows = reviews(*hourly(2000))
    dataset = build(rows, not_before=START + timedelta(hours=1700))
    assert sizes(dataset) == (1530, 170, 300)
    assert dataset.summary()["test_from"] == (START + timedelta(hours=1700)).isoformat()
    earlier = build(rows, not_before=START + timedelta(hours=100))
    assert sizes(earlier) == (1440, 160, 400)


def test_what_the_champion_learned_never_judges_however_few_rows_are_left() -> None:
    rows = reviews(*hourly(2000))
    assert sizes(build(rows, not_before=START + timedelta(hours=1990))) == (1791, 199, 10)
    with pytest.raises(
        TooFewRows, match=r"none is left for the part 'test'; .* reviews from 2025-09-01 on, which judge"
    ):
        build(rows, not_before=START + timedelta(days=92))


def test_the_newest_share_judges_but_at_least_so_many_and_at_most_half() -> None:
    rows = reviews(*hourly(1000))
    assert [sizes(build(rows, min_test_rows=least))[2] for least in (100, 300, 5000)] == [200, 300, 500]


# --- rows that judged before


def judged(dataset: Dataset) -> Manifest:
    return read_manifest(dataset.manifest)


def test_rows_that_judged_judge_again_until_enough_newer_ones_have_come() -> None:
    first = build(reviews(*hourly(1000)), min_test_rows=200)
    few, enough = (
        build(reviews(*hourly(count)), min_test_rows=200, judged=judged(first), not_before=START + timedelta(hours=800))
        for count in (1199, 1200)
    )
    assert few.test_fingerprint == first.test_fingerprint != enough.test_fingerprint
    assert few.train.equals(first.train)
    assert sizes(enough) == (864, 96, 240)


def test_half_of_few_reviews_is_enough_to_judge_anew() -> None:
    first = build(reviews(*hourly(100)), min_test_rows=2000)
    again, anew = (build(reviews(*hourly(count)), min_test_rows=2000, judged=judged(first)) for count in (198, 199))
    assert (sizes(first)[2], sizes(again)[2], sizes(anew)[2]) == (50, 50, 99)


def test_a_kept_row_keeps_its_text_and_takes_its_new_label() -> None:
    first = build(reviews(*hourly(100)), min_test_rows=20)
    rows = hourly(110)
    rows[105]["review_text"] = "REVIEW number 99!"
    rows[98] |= {"sentiment": "Negative", "label_source": "human"}
    again = build(reviews(*rows), min_test_rows=20, judged=judged(first))
    assert again.test_fingerprint == first.test_fingerprint
    assert again.test.filter(pl.col("review_id") == "r0098")["label"].to_list() == [0]
    assert "r0105" not in again.train["review_id"]


def test_rows_that_another_champion_learned_from_judge_no_more() -> None:
    first = build(reviews(*hourly(100)), min_test_rows=20)
    later = START + timedelta(hours=90)
    again = build(reviews(*hourly(110)), min_test_rows=20, judged=judged(first), not_before=later)
    assert again.test["submitted_at"].min() == later


def test_rows_without_times_judge_again_until_enough_others_have_come() -> None:
    first = build(reviews(*hourly(100, submitted_at=None)), min_test_rows=20)
    few, enough = (
        build(reviews(*hourly(count, submitted_at=None)), min_test_rows=20, judged=judged(first))
        for count in (119, 120)
    )
    assert few.test_fingerprint == first.test_fingerprint != enough.test_fingerprint


def test_building_again_keeps_the_test_rows_of_a_small_dataset() -> None:
    first = build(reviews(*hourly(100)))
    start = datetime.fromisoformat(str(first.summary()["test_from"]))
    assert build(reviews(*hourly(100)), not_before=start).fingerprint == first.fingerprint
    assert build(reviews(*hourly(110)), not_before=start).test["submitted_at"].min() > start  # type: ignore[operator]


def test_too_few_texts_make_no_dataset() -> None:
    assert sum(sizes(build(reviews(*hourly(MIN_ROWS))))) == MIN_ROWS
    with pytest.raises(TooFewRows, match=r"version 3: 60 reviews hold 29 distinct texts with a label, expected.* 30;"):
        build(reviews(*hourly(29), *({"review_id": f"s{n}", "review_text": f"Hm {n}"} for n in range(31))))
    with pytest.raises(TooFewRows, match=r"none is left for the part 'validation'"):
        build(reviews(*hourly(100)), test_share=1.0)


texts = st.sampled_from([f"{word}{sign}" for word in ("good", "Good", "slow", "ดี", "", "fine") for sign in ("👍", "!")])
days = st.one_of(st.none(), st.integers(0, 20).map(lambda day: START + timedelta(days=day)))


@settings(deadline=None)
@given(
    st.lists(st.tuples(texts, days, st.integers(1, 5)), max_size=30), st.floats(0.05, 0.7), st.integers(0, 9), st.data()
)
def test_no_text_is_in_two_parts_and_no_order_matters(
    more: list[tuple[str, datetime | None, int]], share: float, seed: int, data: st.DataObject
) -> None:
    rows = reviews(
        *hourly(40),
        *(
            {"review_id": f"s{n}", "review_text": text, "submitted_at": at, "rating": rating}
            for n, (text, at, rating) in enumerate(more)
        ),
    )
    dataset = build(rows, test_share=share, seed=seed, max_test_rows=15)
    keys = [
        text_key(text) for part in (dataset.train, dataset.validation, dataset.test) for text in part["review_text"]
    ]
    assert len(keys) == len(set(keys))
    assert dataset.test.height <= 15
    order = data.draw(st.permutations(range(rows.height)))
    assert build(rows[list(order)], test_share=share, seed=seed, max_test_rows=15).manifest == dataset.manifest


# --- leakage


def test_a_text_in_two_parts_is_leakage_and_its_reviews_are_named() -> None:
    rows = labelled(reviews(*hourly(4)))
    parts = {"train": rows[:2], "validation": rows[2:3], "test": rows[3:]}
    check_leakage(parts)
    with pytest.raises(LeakageError, match=r"1 text is in two parts.* r0001 \(train\) and r0009 \(test\); expected"):
        check_leakage({**parts, "test": rows[1:2].with_columns(review_id=pl.lit("r0009"))})
    with pytest.raises(LeakageError, match="2 texts are in two parts"):
        check_leakage({**parts, "test": rows[1:3]})


def test_a_text_twice_in_one_part_is_no_leakage() -> None:
    rows = reviews(*hourly(2))
    check_leakage({"train": pl.concat([rows, rows]), "test": rows[:0]})


# --- back from the manifest


def test_a_dataset_is_rebuilt_row_by_row_from_its_manifest() -> None:
    rows = reviews(*hourly(100, app="lamp", language="en"))
    dataset = build(rows)
    rebuilt = rebuild(read_manifest(dataset.manifest), rows.sample(fraction=1.0, shuffle=True, seed=1))
    assert rebuilt.exact
    assert rebuilt.dataset.fingerprint == dataset.fingerprint
    assert rebuilt.dataset.summary() == dataset.summary()
    for name in ("train", "validation", "test"):
        assert getattr(rebuilt.dataset, name).equals(getattr(dataset, name)), name


def test_an_edit_since_then_changes_nothing_while_the_older_row_is_there() -> None:
    rows = reviews(*hourly(100))
    manifest = read_manifest(build(rows).manifest)
    edited = reviews({**hourly(1)[0], "review_text": "Edited", "rating": 5})
    assert rebuild(manifest, pl.concat([edited, rows, rows])).exact
    assert rebuild(manifest, pl.concat([edited, rows[1:]])).missing == ("r0000",)


def test_deleted_rows_are_named_and_the_rest_is_not_called_the_same() -> None:
    rows = reviews(*hourly(100))
    dataset = build(rows)
    rebuilt = rebuild(read_manifest(dataset.manifest), rows.filter(~pl.col("review_id").is_in(["r0007", "r0099"])))
    assert rebuilt.missing == ("r0007", "r0099")
    assert not rebuilt.exact
    assert sizes(rebuilt.dataset) == (71, 8, 19)
    assert rebuilt.dataset.fingerprint != dataset.fingerprint
    nothing = rebuild(read_manifest(dataset.manifest), rows[:0])
    assert len(nothing.missing) == 100


def test_labels_are_those_of_then() -> None:
    rows = reviews(*hourly(100, sentiment="Neutral"))
    manifest = read_manifest(build(rows).manifest)
    relabelled = rows.with_columns(sentiment=pl.lit("Positive"))
    assert set(rebuild(manifest, relabelled).dataset.test["label"]) == {1}


def test_a_manifest_with_a_text_in_two_parts_is_refused() -> None:
    rows = reviews(*hourly(100))
    manifest = read_manifest(build(rows).manifest)
    leaking = rows.with_columns(
        review_text=pl.when(pl.col("review_id") == "r0000").then(pl.lit("review NUMBER 99")).otherwise("review_text")
    )
    with pytest.raises(LeakageError, match="r0000"):
        rebuild(manifest, leaking)


def test_the_summary_counts_rows_and_labels_and_dates_the_parts() -> None:
    dataset = build(reviews(*hourly(100)))
    assert dataset.summary() == {
        "fingerprint": dataset.fingerprint,
        "source": "reviews, version 3",
        "format": 1,
        "rows": {"train": 72, "validation": 8, "test": 20},
        "labels": {
            "train": {"Negative": 30, "Neutral": 14, "Positive": 28},
            "validation": {"Negative": 2, "Neutral": 2, "Positive": 4},
            "test": {"Negative": 8, "Neutral": 4, "Positive": 8},
        },
        "train_from": "2025-06-01T00:00:00+00:00",
        "train_to": "2025-06-03T23:00:00+00:00",
        "test_from": "2025-06-04T08:00:00+00:00",
        "test_to": "2025-06-05T03:00:00+00:00",
    }


def test_a_dataset_of_format_1_still_has_its_rows_and_fingerprint() -> None:
    """Other values for the same reviews would make every kept dataset another one."""
    kept = (FIXTURES / "dataset_format_1.parquet").read_bytes()
    dataset = build(reviews(*hourly(40, app="lamp")), seed=3, max_test_rows=5)
    manifest = read_manifest(kept)
    assert manifest.fingerprint == dataset.fingerprint
    assert manifest.source == "reviews, version 3"
    assert manifest.rows.equals(read_manifest(dataset.manifest).rows)
    assert manifest.fingerprint == "90609897a3827349b86bf22deeb8a8d22b61ae2b353a8968cc1e5396e1c3877c"
