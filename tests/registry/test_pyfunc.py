"""The loader that MLflow calls."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mobile_sentiment_ops.adapters.memory import MemoryPorts
from mobile_sentiment_ops.adapters.registry_mlflow import MlflowRegistry
from mobile_sentiment_ops.data.predictions import Review
from mobile_sentiment_ops.disk import read_folder
from mobile_sentiment_ops.errors import BundleError, DataError
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.ports import TrainingRun
from mobile_sentiment_ops.registry.bundle import unpack_bundle
from mobile_sentiment_ops.registry.pyfunc import FrameModel, _load_pyfunc
from mobile_sentiment_ops.settings import Mlflow
from mobile_sentiment_ops.types import Decision

from ..conftest import Serving

KEPT = Path(__file__).parents[1] / "fixtures" / "bundle_format_1"
TEXTS = ["Love it, works well", "It crashes again and again", "it is ok"]


@pytest.fixture
def model() -> SentimentModel:
    files = read_folder(KEPT)
    return unpack_bundle(files, bundle_hash=sha256(files["manifest.json"]).hexdigest()).model


@pytest.fixture
def opened() -> FrameModel:
    return _load_pyfunc(str(KEPT))


def test_a_frame_gets_the_models_labels_and_probabilities(model: SentimentModel, opened: FrameModel) -> None:
    frame = pd.DataFrame({"stars": [5, 1, 3], "review_text": TEXTS}, index=[7, 3, 5])
    answer = opened.predict(frame)
    expected = model.predict(TEXTS)
    assert answer.index.to_list() == [7, 3, 5]
    assert answer["sentiment"].to_list() == [found.label.value for found in expected]
    assert answer["confidence"].to_list() == [found.confidence for found in expected]
    shown = answer[["p_negative", "p_neutral", "p_positive"]].to_numpy()
    assert np.array_equal(shown, [found.probabilities for found in expected])


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, "", "  \u200b", "so " * 8_000, "a\0b"])
def test_a_row_without_a_text_to_judge_stays_empty(opened: FrameModel, missing: object) -> None:
    answer = opened.predict(pd.DataFrame({"review_text": ["Love it", missing, "It crashes"]}))
    assert answer.iloc[1].isna().all()
    others = opened.predict(pd.DataFrame({"review_text": ["Love it", "It crashes"]}))
    assert answer["sentiment"].drop(1).to_list() == others["sentiment"].to_list()


@pytest.mark.parametrize("dtype", ["object", "string", "str"])
def test_every_kind_of_text_column_is_read(opened: FrameModel, dtype: str) -> None:
    frame = pd.DataFrame({"review_text": pd.Series([*TEXTS, None], dtype=dtype)})
    assert opened.predict(frame)["sentiment"].isna().to_list() == [False, False, False, True]


@pytest.mark.parametrize("ratings", [[5, 1, 3], [5.0, None, 3.0], ["5", "one", ""], [9, -1, 0]])
def test_ratings_are_taken_as_they_come(opened: FrameModel, ratings: list[object]) -> None:
    answer = opened.predict(pd.DataFrame({"review_text": TEXTS, "rating": ratings}))
    assert answer["sentiment"].notna().all()


def test_no_rows_get_no_answers(opened: FrameModel) -> None:
    answer = opened.predict(pd.DataFrame({"review_text": []}))
    assert (len(answer), list(answer.columns)) == (
        0,
        ["sentiment", "confidence", "p_negative", "p_neutral", "p_positive"],
    )


def test_a_missing_column_is_named_beside_what_is_there(opened: FrameModel) -> None:
    with pytest.raises(DataError, match="there is no column review_text; found text, stars"):
        opened.predict(pd.DataFrame({"text": TEXTS, "stars": [5, 1, 3]}))


def test_what_is_no_text_is_named_with_its_row(opened: FrameModel) -> None:
    with pytest.raises(DataError, match="review_text of row 1 is 5, expected a text"):
        opened.predict(pd.DataFrame({"review_text": ["Love it", 5]}))


def test_a_damaged_bundle_is_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(KEPT, folder)
    (folder / "card.json").write_bytes(b"{}")
    with pytest.raises(BundleError, match=r"card\.json was changed"):
        _load_pyfunc(str(folder))
    with pytest.raises(BundleError, match=r"no manifest\.json among its 0 files"):
        _load_pyfunc(str(tmp_path / "nowhere"))


def test_the_loader_does_without_mlflow(start_python: Callable[..., subprocess.Popen[str]]) -> None:
    source = "import sys; import mobile_sentiment_ops.registry.pyfunc; print('mlflow' in sys.modules)"
    assert start_python(source).communicate(timeout=120)[0] == "False\n"


ANY_USER = """
import json, sys
import mlflow, pandas
mlflow.set_tracking_uri(sys.argv[1])
frame = pandas.DataFrame(json.loads(sys.argv[3]), columns=["review_text", "rating", "app"])
answer = mlflow.pyfunc.load_model(sys.argv[2]).predict(frame)
print(json.dumps([found if isinstance(found, str) else None for found in answer["sentiment"]]))
"""


@pytest.mark.integration
def test_any_user_of_mlflow_gets_the_labels_of_the_api(
    mlflow_settings: Mlflow,
    training_run: Callable[..., TrainingRun],
    memory: MemoryPorts,
    serve: Callable[..., Serving],
    start_python: Callable[..., subprocess.Popen[str]],
) -> None:
    files = read_folder(KEPT)
    bundle_hash = sha256(files["manifest.json"]).hexdigest()
    registry = MlflowRegistry(mlflow_settings)
    version = registry.record(replace(training_run("lr"), bundle=files, bundle_hash=bundle_hash))
    registry.set_aliases({"champion": version.version})
    memory.bundles.put(files, bundle_hash)
    memory.state.change_champion(version, Decision("promote", version.version, "gate", "better"), expected_token=0)
    serving = serve(memory)
    serving.follow()
    rows = [
        (text, rating, "lamp") for text, rating in zip([*TEXTS, " ", "ใช้งานง่าย 😍"], (5, 1, None, 3, 4), strict=True)
    ]
    answers = serving.batch("request").predict([Review(text, rating=rating) for text, rating, _ in rows])
    address = f"models:/{mlflow_settings.registered_model}@champion"
    user = start_python(ANY_USER, mlflow_settings.tracking_uri, address, json.dumps(rows))
    told = json.loads(user.communicate(timeout=250)[0])
    assert told == [answer.prediction and answer.prediction.label.value for answer in answers]
    assert told[3] is None
