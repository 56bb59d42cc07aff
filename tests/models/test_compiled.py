"""A compiled model against the model it was made of: on 100,000 reviews, on any Unicode, and with files that lie."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mobile_sentiment_ops.data.demo_world import generate
from mobile_sentiment_ops.errors import BundleError, DataError, FormatTooNew, ModelError, MsoError
from mobile_sentiment_ops.models.compiled import MOST_APART, CompiledModel, Scored, check_compiled, compile_model
from mobile_sentiment_ops.models.kernel import counted
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.models.training import train
from mobile_sentiment_ops.settings import Demo
from mobile_sentiment_ops.types import LABELS

LINEAR = ("lr", "svc", "nbsvm")
SMALL = {"xgb": {"rounds": 20, "words": 500}, "rf": {"num_parallel_tree": 10, "words": 500}}
KINDS = (*LINEAR, *SMALL, "majority")
UNUSUAL = (
    *(
        "",
        " ",
        "İstanbul IŞIK ıi",
        "Cafe\u0301 a\u0301\u0323b",
        "ใช้งานง่าย แต่ช้า",
        "ดี'มาก" * 500,
        "👍🏽👍 🇩🇪 ❤\ufe0f good",
    ),
    *(
        "so " * 9_000,
        "x" * 20_000,
        "bad good " * 64,
        "naïve" * 4_000,
        "\x02\x03\n\0_",
        "很好用app がぎ",
        "\ufdfa" * 300,
    ),
)
WITH = ("{} İYİ {}", "{} 👍🏽 {}", "a\u0301{}e\u0323 {}", "ใช้งานง่าย {} ดี{}", "{0} {0} {0} {1}", "{} NOT {}")
texts = st.text() | st.text(
    st.sampled_from("aGoOd bad'’ \té\u0301İıßΣﬁ½ﷺ\u200d\ufe0f🏽👍🇩का\u093c가ก้ดีๆ好"), max_size=80
)


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    """Reviews of the demo world with the labels that their stars say."""
    reviews = generate(Demo()).reviews.filter(pl.col("rating").is_not_null(), pl.col("review_text").is_not_null())
    return reviews.with_columns(label=((pl.col("rating") > 2).cast(pl.Int8) + (pl.col("rating") > 3)).cast(pl.Int8))


@pytest.fixture(scope="module")
def models(frame: pl.DataFrame) -> dict[str, SentimentModel]:
    part = frame.head(4_000)
    return {kind: train(kind, part, part.clear(), seed=1, parameters=SMALL.get(kind, {})) for kind in KINDS}


@pytest.fixture(scope="module")
def compiled(models: dict[str, SentimentModel]) -> dict[str, CompiledModel]:
    return {kind: CompiledModel.of(compile_model(model, f"hash-{kind}")) for kind, model in models.items()}


@pytest.fixture(scope="module")
def many(frame: pl.DataFrame) -> list[str]:
    """More than 100,000 texts."""
    own = frame["review_text"].to_list()
    mixed = [WITH[at % len(WITH)].format(one, own[at * 7 % len(own)]) for at, one in enumerate(own * 4)]
    return [*UNUSUAL, *own, *mixed]


@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_model_answers_100000_texts_as_the_model_does(
    kind: str, models: dict[str, SentimentModel], compiled: dict[str, CompiledModel], many: list[str]
) -> None:
    assert len(many) > 100_000
    given_texts = many if kind in LINEAR else many[::20]
    check_compiled(compiled[kind], models[kind], given_texts)
    if kind != "majority":
        assert np.unique(compiled[kind].scored(given_texts).labels).tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", ["lr", "nbsvm"])
def test_a_compiled_model_answers_135000_real_reviews_as_the_model_does(kind: str, shared_data: Path) -> None:
    fintech, idea = (
        pl.read_parquet(shared_data / name).filter(pl.col("review_text").is_not_null())
        for name in ("play_fintech_reviews.parquet", "idea_reviews.parquet")
    )
    part = (
        fintech.with_columns(label=(pl.col("rating").cast(pl.Int8) - 1) // 2).filter(pl.col("rating") > 0).head(15_000)
    )
    model = train(kind, part, part.clear(), seed=1)
    every = [*fintech["review_text"], *idea["review_text"]]
    assert len(every) > 130_000
    check_compiled(CompiledModel.of(compile_model(model, "hash")), model, every)


@settings(deadline=None)
@given(st.lists(texts, max_size=5), st.sampled_from(KINDS))
def test_any_text_is_answered_as_the_model_does(
    models: dict[str, SentimentModel], compiled: dict[str, CompiledModel], given_texts: list[str], kind: str
) -> None:
    check_compiled(compiled[kind], models[kind], given_texts)


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_to_ask_gives_the_same_answer(kind: str, compiled: dict[str, CompiledModel], many: list[str]) -> None:
    model, some = compiled[kind], [*UNUSUAL, *many[100:400]]
    found = model.scored(some)
    of_arrow = model.scored(pa.chunked_array([pa.array(["", *some[:50]])[1:], pa.array([""])[:0], some[50:]]))
    assert np.array_equal(found.labels, of_arrow.labels)
    assert np.array_equal(found.probabilities, of_arrow.probabilities)
    for at, prediction in enumerate(model.predict(some)):
        answer = (int(found.labels[at]), *found.probabilities[at].tolist())
        assert model.one(some[at]) == answer
        assert (prediction.label, prediction.probabilities) == (LABELS[answer[0]], answer[1:])
        assert prediction.confidence == answer[1 + answer[0]]
    assert (
        model.scored(pa.array([None, "good"])).probabilities.tolist()
        == model.scored(["", "good"]).probabilities.tolist()
    )
    assert model.scored([]).probabilities.shape == (0, 3)


@pytest.mark.parametrize("kind", ["nbsvm", "xgb"])
def test_threads_do_not_mix_their_texts(kind: str, compiled: dict[str, CompiledModel], many: list[str]) -> None:
    model, some = compiled[kind], [*UNUSUAL, *many[:2_000]]
    expected = model.scored(some).probabilities

    def ask(turn: int) -> bool:
        alone = [model.one(text)[1:] for text in some[turn::4]]
        return np.array_equal(model.scored(some).probabilities, expected) and np.array_equal(alone, expected[turn::4])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(4)))


@pytest.mark.parametrize("kind", KINDS)
def test_without_c_the_same_is_answered(kind: str, compiled: dict[str, CompiledModel], many: list[str]) -> None:
    plain, some = replace(compiled[kind], scorer=None), [*UNUSUAL, *many[:3_000]]
    expected, found = compiled[kind].scored(some), plain.scored(some)
    assert np.abs(found.probabilities - expected.probabilities).max() < MOST_APART
    assert np.array_equal(found.labels, expected.labels)
    assert plain.one("not good") == pytest.approx(compiled[kind].one("not good"), abs=MOST_APART)


WITHOUT = """
import sys
from pathlib import Path
for name in ("_kernel", "_scorer"):
    sys.modules["mobile_sentiment_ops.models." + name] = None
from mobile_sentiment_ops.models.compiled import CompiledModel
print(CompiledModel.open(Path(sys.argv[1])).one("Not good, crashes"))
"""


def test_a_package_without_c_opens_the_same_file_and_says_that_it_is_slow(
    compiled: dict[str, CompiledModel], models: dict[str, SentimentModel], tmp_path: Path
) -> None:
    (tmp_path / "lr").write_bytes(compile_model(models["lr"], "hash"))
    ran = subprocess.run([sys.executable, "-c", WITHOUT, tmp_path / "lr"], capture_output=True, text=True, check=True)
    label, *probabilities = json.loads(ran.stdout.replace("(", "[").replace(")", "]"))
    assert (label, *probabilities) == pytest.approx(compiled["lr"].one("Not good, crashes"), abs=MOST_APART)
    assert ran.stderr.count("install a C compiler (cc)") == 1


@pytest.mark.parametrize("kind", LINEAR)
def test_rows_and_bias_add_up_to_the_logits(kind: str, compiled: dict[str, CompiledModel]) -> None:
    model, text = compiled[kind], "not good, not good at all: crashes"
    found = counted([text], model.grams)
    rows = model.rows[found.buckets].astype(float)
    assert model.rows.shape == (2**model.grams.bits, 4)
    assert rows.any(axis=1).sum() > 5
    values = (1 + np.log(found.counts)) * rows[:, 0]
    logits = model.bias + values @ rows[:, 1:] / np.sqrt(values @ values)
    expected = np.exp(logits) / np.exp(logits).sum()
    assert model.one(text)[1:] == pytest.approx(expected.tolist(), abs=1e-6)
    assert not model.rows.kept.flags.writeable


def test_a_kind_that_looks_at_stars_is_not_for_serving(frame: pl.DataFrame) -> None:
    model = train("stars", frame.head(100), frame.clear(), seed=1)
    with pytest.raises(ModelError, match="kind stars looks at stars and is not for serving"):
        compile_model(model, "hash")


def test_another_models_answers_are_found_out(
    compiled: dict[str, CompiledModel], models: dict[str, SentimentModel]
) -> None:
    with pytest.raises(ModelError, match=r"text 0: compiled says \w+ \[.*\], the model \w+ \["):
        check_compiled(replace(compiled["lr"], scorer=compiled["svc"].scorer), models["lr"], ["good", "bad"])


def test_text_that_is_none_is_named(compiled: dict[str, CompiledModel]) -> None:
    model = compiled["lr"]
    with pytest.raises(DataError, match="text 1 holds a lone surrogate, half of a character; leave it out"):
        model.scored(["ok", "bad \ud83d"])
    with pytest.raises(DataError, match="holds a lone surrogate"):
        model.one("bad \ud83d")
    ends = pa.py_buffer(np.array([0, 2, 3], np.int32).tobytes())
    with pytest.raises(DataError, match="text 1 is not valid UTF-8; leave it out or mend its encoding"):
        model.scored(pa.Array.from_buffers(pa.string(), 2, [None, ends, pa.py_buffer(b"ok\x80")]))
    with pytest.raises(TypeError):
        model.one(b"bytes")  # type: ignore[arg-type]


def test_arrays_of_another_size_are_not_written_to(compiled: dict[str, CompiledModel]) -> None:
    for labels, probabilities in ((1, 6), (2, 5), (3, 9)):
        with pytest.raises(ValueError, match="the arrays do not fit"):
            compiled["lr"].scorer.many(("a", "b"), None, 0, np.zeros(labels, np.uint8), np.zeros(probabilities))


LIGHT = """
import sys
from pathlib import Path
from mobile_sentiment_ops.models.compiled import CompiledModel
print(CompiledModel.open(Path(sys.argv[1]), sys.argv[2]).one("good")[0])
heavy = {"polars", "pandas", "sklearn", "scipy", "xgboost", "pyarrow", "mlflow", "deltalake"} & sys.modules.keys()
assert not heavy, heavy
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_opened_and_answers_without_heavy_libraries(
    kind: str, models: dict[str, SentimentModel], tmp_path: Path
) -> None:
    data = compile_model(models[kind], "hash")
    (tmp_path / "model").write_bytes(data)
    subprocess.run([sys.executable, "-c", LIGHT, tmp_path / "model", sha256(data).hexdigest()], check=True)


ROWS = """
import sys
import numpy as np
if sys.argv[1] == "without":
    sys.modules["mobile_sentiment_ops.models._scorer"] = None
from mobile_sentiment_ops.models.compiled import CompiledModel, Scored
few = [[1, 0, 0], [1e-7, 5e-7, 1e-12], [0.25, 0.123456499, 0.1234565], [1e-6, 0.1, 0.999999], [0.9999996, 1e-4, 0]]
every = np.concatenate([few, np.random.default_rng(1).dirichlet([0.1, 0.1, 0.1], 20_000)])
labels = (np.arange(len(every)) % 3).astype(np.uint8)
sys.stdout.buffer.write(CompiledModel.rendered(Scored(labels, every), "0af-x", 99_998))
assert CompiledModel.rendered(Scored(labels[:0], every[:0]), "a", 0) == b""
"""


def test_rows_of_json_hold_the_answers_and_are_the_same_bytes_without_c() -> None:
    found, plain = (
        subprocess.run([sys.executable, "-c", ROWS, how], capture_output=True, check=True).stdout
        for how in ("with", "without")
    )
    assert found == plain
    rows = json.loads(b"[" + found + b"]")
    assert (len(rows), rows[1]["prediction_id"]) == (20_005, "0af-x-99999")
    assert rows[0] == {
        **{"review_id": None, "prediction_id": "0af-x-99998", "sentiment": "Negative", "confidence": 1.0},
        **{"probabilities": {"Negative": 1.0, "Neutral": 0.0, "Positive": 0.0}, "error": None},
    }
    assert list(rows[1]["probabilities"].values()) == [0, 1e-6, 0]
    for at, row in enumerate(rows):
        probabilities = list(row["probabilities"].values())
        assert LABELS[at % 3] == row["sentiment"]
        assert probabilities[at % 3] == row["confidence"]
        assert at < 5 or abs(sum(probabilities) - 1) < 2e-6


@pytest.mark.parametrize(
    ("label", "probability", "rows"), [(3, 0.5, 1), (0, 1.5, 1), (0, -0.1, 1), (0, np.nan, 1), (0, 0.5, 2)]
)
def test_answers_that_are_none_are_not_written(label: int, probability: float, rows: int) -> None:
    wrong = Scored(np.array([label], np.uint8), np.full((rows, 3), probability))
    with pytest.raises(ValueError, match="do not fit together, or are none"):
        CompiledModel.rendered(wrong, "a", 0)


# --- files that are not what they should be


@pytest.fixture(scope="module")
def file(models: dict[str, SentimentModel]) -> bytes:
    return compile_model(models["xgb"], "hash-xgb")


def test_the_same_model_is_the_same_file_and_says_what_it_is(file: bytes, models: dict[str, SentimentModel]) -> None:
    assert compile_model(models["xgb"], "hash-xgb") == file
    opened = CompiledModel.of(file)
    assert (opened.kind, opened.bundle_hash, opened.offsets) == ("xgb", "hash-xgb", models["xgb"].offsets)


def test_every_flipped_bit_is_refused(file: bytes, tmp_path: Path) -> None:
    expected, random, path = sha256(file).hexdigest(), np.random.default_rng(3), tmp_path / "model"
    path.write_bytes(file)
    assert CompiledModel.open(path, expected).kind == "xgb"
    for place in [*range(64), *random.integers(0, len(file), 300).tolist()]:
        spoiled = bytearray(file)
        spoiled[place] ^= 1 << place % 8
        path.write_bytes(spoiled)
        with pytest.raises(BundleError, match="model has the sha256"):
            CompiledModel.open(path, expected)


def changed(file: bytes, **fields: object) -> bytes:
    """The file with other fields of its header, and its arrays where they were."""
    size = int.from_bytes(file[12:16], "little")
    begin = -(-(16 + size) // 64) * 64
    header = json.dumps({**json.loads(file[16 : 16 + size]), **fields}).encode()
    start = file[:12] + len(header).to_bytes(4, "little") + header
    return start.ljust(-(-len(start) // 64) * 64, b"\0") + file[begin:]


def test_what_is_wrong_with_a_file_is_named(file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.touch()
    for wrong in (path, tmp_path / "none"):
        with pytest.raises(BundleError, match=r"cannot be mapped: .*; remove it: it is compiled again"):
            CompiledModel.open(wrong)
    path.write_bytes(b"PK")
    with pytest.raises(BundleError, match="model: this is no compiled model, it begins with b'PK"):
        CompiledModel.open(path)
    with pytest.raises(FormatTooNew, match="has format 2, this release reads 1; upgrade"):
        CompiledModel.of(file[:8] + (2).to_bytes(4, "little") + file[12:])
    with pytest.raises(BundleError, match="read by Unicode 99"):
        CompiledModel.of(changed(file, unicode="99"))


@pytest.mark.parametrize(
    "fields",
    [
        *(
            {"grams": grams}
            for grams in ([], [2, 0, 0, 21], [4, 0, 0, 20], [2, 0, 0, 2**40], [2, 3, 2, 20], "2000", None)
        ),
        *({"offsets": offsets} for offsets in ([0, 0], [0, 0, "x"], None, [0, 0, float("nan")])),
        *({"arrays": {"blocks": place}} for place in ([0, 2**62], [-64, 1], [0], None)),
        *({"arrays": {}}, {"arrays": []}),
    ],
)
def test_headers_that_lie_are_refused(file: bytes, fields: dict[str, object]) -> None:
    with pytest.raises(BundleError, match="the compiled model is not as it is written"):
        CompiledModel.of(changed(file, **fields))


def arrays_of(file: bytes) -> Iterator[tuple[str, int, int]]:
    size = int.from_bytes(file[12:16], "little")
    for name, (at, count) in json.loads(file[16 : 16 + size])["arrays"].items():
        yield name, -(-(16 + size) // 64) * 64 + at, count


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_files_with_other_numbers_are_refused_or_answer(
    models: dict[str, SentimentModel], file: bytes, data: st.DataObject
) -> None:
    spoiled = bytearray(data.draw(st.sampled_from([file, compile_model(models["majority"], "hash")])))
    places = [place for _, at, count in arrays_of(file) for place in range(at, at + 64 * bool(count))]
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 800) | st.sampled_from(places) | st.integers(0, len(spoiled) - 1))
        if place < len(spoiled):
            spoiled[place] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    spoiled = spoiled[: data.draw(st.sampled_from([len(spoiled)] * 5 + [len(spoiled) // 2, 900, 15, 0]))]
    try:
        model = CompiledModel.of(bytes(spoiled))
    except MsoError:
        return
    found = model.scored(["", "Not good", *UNUSUAL[:4]]).probabilities
    assert np.isfinite(found).all()
    assert found.sum(axis=1) == pytest.approx(1)
