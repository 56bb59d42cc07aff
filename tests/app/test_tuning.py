"""The search as a person runs it: it goes on, ends the same, sees no test row, and saves what it found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import pytest

from mobile_sentiment_ops.app.train_model import silent
from mobile_sentiment_ops.app.tuning import Tuned, save_parameters, tune, with_parameters
from mobile_sentiment_ops.cli import main
from mobile_sentiment_ops.data.dataset import Dataset
from mobile_sentiment_ops.errors import SettingsError, StoreError
from mobile_sentiment_ops.settings import resolve_settings

WORDS = (("awful", "crashes", "useless"), ("okay", "average", "passable"), ("great", "lovely", "superb"))


def frame(rows: int, seed: int) -> pl.DataFrame:
    chance = np.random.default_rng(seed)
    labels = chance.integers(3, size=rows)
    texts = [f"{WORDS[label][chance.integers(3)]} thing {seed} {at}" for at, label in enumerate(labels)]
    given = np.where(chance.random(rows) < 0.2, chance.integers(3, size=rows), labels)
    return pl.DataFrame({"review_text": texts, "rating": 1 + 2 * given, "label": given})


class Untouchable:
    """What nobody may look at."""

    def __getattribute__(self, name: str) -> object:
        raise AssertionError(f"the test rows were asked for {name}")


def dataset(fingerprint: str = "f" * 64) -> Dataset:
    """Rows to train on and to validate by; test rows that nobody may look at."""
    return Dataset(frame(200, 1), frame(100, 2), cast(pl.DataFrame, Untouchable()), fingerprint, b"", "reviews")


@pytest.fixture
def search(tmp_path: Path) -> Callable[..., Tuned]:
    """A search of `svc` on small data, kept in one file. Every test here shows that no test row is read."""
    usual: dict[str, Any] = {"dataset": dataset(), "today": {}, "seed": 3, "trials": None, "seconds": None}
    usual |= {"file": tmp_path / "kept" / "tuning.db", "progress": silent}
    return lambda **given: tune("svc", **{**usual, **given})


def test_the_test_rows_of_these_tests_cannot_be_read() -> None:
    with pytest.raises(AssertionError, match="asked for height"):
        _ = dataset().test.height


def without_time(found: Tuned) -> Tuned:
    return replace(found, seconds=0.0)


def test_a_search_tells_what_it_found_and_how_sure_that_is(search: Callable[..., Tuned]) -> None:
    steps: list[tuple[str, float]] = []
    found = search(trials=6, progress=lambda step, share: steps.append((step, share)))
    assert (found.kind, found.trials, found.new_trials) == ("svc", 6, 6)
    assert found.parameters.keys() == {"C", "word_run"}
    assert found.gain.low <= found.gain.value <= found.gain.high
    assert found.gain.value >= 0  # today's parameters were the first try
    assert found.macro_f1.value > 0.6
    assert [share for _, share in steps] == [pytest.approx(done / 6) for done in range(6)]
    assert steps[0][0] == "svc: try 1"
    assert "best macro-F1 0." in steps[1][0]


def test_a_search_in_two_calls_ends_as_one_in_one(search: Callable[..., Tuned], tmp_path: Path) -> None:
    search(trials=8)
    resumed = search(trials=12)
    assert (resumed.trials, resumed.new_trials) == (12, 4)
    whole = search(trials=12, file=tmp_path / "other.db")
    assert without_time(replace(resumed, new_trials=12)) == without_time(whole)
    again = search(trials=12)
    assert (again.new_trials, again.parameters) == (0, whole.parameters)


@pytest.mark.parametrize("other", [{"dataset": dataset("0" * 64)}, {"seed": 4}, {"today": {"loss": "logistic"}}])
def test_another_question_is_another_search(search: Callable[..., Tuned], other: dict[str, Any]) -> None:
    search(trials=1)
    assert search(trials=1, **other).new_trials == 1


def test_time_ends_a_search(search: Callable[..., Tuned]) -> None:
    began = time.monotonic()
    found = search(seconds=1.0)
    assert found.new_trials >= 1
    assert 1.0 <= time.monotonic() - began < 60
    assert search(seconds=0.0).new_trials == 0  # no time, nothing new


def test_ctrl_c_loses_no_finished_try(search: Callable[..., Tuned], tmp_path: Path) -> None:
    def stop_at_the_fifth(step: str, share: float) -> None:
        if step.startswith("svc: try 5"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(trials=9, progress=stop_at_the_fifth)
    resumed = search(trials=9)
    assert resumed.new_trials == 5
    assert resumed.parameters == search(trials=9, file=tmp_path / "other.db").parameters


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.app.test_tuning import dataset
from mobile_sentiment_ops.app import tuning
judged = tuning.Objective.decisions
count = 0
def decisions(self, parameters):
    global count
    count += 1
    if count == 5:  # the first is of today's parameters
        os.kill(os.getpid(), signal.SIGKILL)
    return judged(self, parameters)
tuning.Objective.decisions = decisions
tuning.tune("svc", dataset(), today={}, file=Path(sys.argv[1]), trials=9, seconds=None, seed=3,
            progress=lambda *_: None)
"""


def test_a_kill_in_the_middle_of_a_try_loses_that_try_alone(
    search: Callable[..., Tuned], tmp_path: Path, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    root = str(Path(__file__).parents[2])
    assert start_python(KILLED, str(tmp_path / "kept" / "tuning.db"), root).wait(100) == -9
    resumed = search(trials=9)
    assert (resumed.trials, resumed.new_trials) == (9, 6)
    assert resumed.parameters == search(trials=9, file=tmp_path / "other.db").parameters


def test_a_file_that_is_no_database_is_named(search: Callable[..., Tuned], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("bread, milk\n" * 100)
    with pytest.raises(StoreError, match=r"notes\.txt, which keeps what was tried, cannot be opened"):
        search(file=tmp_path / "notes.txt", trials=1)
    assert (tmp_path / "notes.txt").read_text().startswith("bread")


# --- the settings file

FILE = """# what we run
format = 1

[training.parameters.lr]  # from spring
C = 3.0
# longer runs
word_run = 3

[api]
port = 5002
"""


def test_saving_replaces_the_kinds_table_and_keeps_the_rest() -> None:
    written = with_parameters(FILE, {"lr": {"C": 1.5}, "svc": {"C": 0.2}})
    assert tomllib.loads(written)["training"]["parameters"] == {"lr": {"C": 1.5, "word_run": 3}, "svc": {"C": 0.2}}
    kept = ("# what we run", "# longer runs", "[api]", "port = 5002", "format = 1")
    assert all(line in written.splitlines() for line in kept)
    assert with_parameters(written, {"lr": {"C": 1.5}, "svc": {"C": 0.2}}).count("[training.parameters.lr]") == 1


@pytest.mark.parametrize(
    "text",
    [
        "[training]\nparameters = {lr = {C = 3.0}}\n",
        "[training]\nparameters.lr.C = 3.0\n",
        "[training.parameters]\nlr = {C = 3.0}\n",
        'note = """\n[training.parameters.lr]\nC = 3\n"""\n',
    ],
)
def test_a_file_that_lines_cannot_change_safely_is_left_alone(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mso.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match="by hand"):
        save_parameters(file, {"lr": {"C": 1.5}})
    assert file.read_text() == text


def test_what_was_saved_are_settings(tmp_path: Path) -> None:
    file = tmp_path / "mso.toml"
    save_parameters(file, {"nbsvm": {"C": 0.25, "characters": 4}})
    found = resolve_settings(environment={}, file=file).settings.training.parameters
    assert found == {"nbsvm": {"C": 0.25, "characters": 4}}
    more = resolve_settings(environment={"MSO_TRAINING__PARAMETERS__nbsvm__C": "0.5"}, file=file)
    assert more.settings.training.parameters == {"nbsvm": {"C": 0.5, "characters": 4}}


# --- the command


@pytest.fixture
def workspace(demo_workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the demo workspace, and an empty folder to run commands in; MLflow is away."""
    shutil.copytree(demo_workspace, tmp_path / "workspace")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {**os.environ, "MSO_MLFLOW__TRACKING_URI": "http://127.0.0.1:9"})
    return tmp_path


def test_what_mso_tune_saves_is_what_the_next_training_takes(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (workspace / "mso.toml").write_text("format = 1\n[training]\nseed = 2  # ours\n")
    assert main(["tune", "svc", "--trials", "12", "--save", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (tuned,) = told["tuned"]
    assert (tuned["kind"], tuned["trials"]) == ("svc", 12)
    settings = tomllib.loads((workspace / "mso.toml").read_text())["training"]
    assert settings["seed"] == 2
    if tuned["better"]:
        assert settings["parameters"] == {"svc": tuned["parameters"]}
        assert told["saved_to"] == "mso.toml"
    else:
        assert "parameters" not in settings
    assert main(["tune", "svc", "--trials", "12"]) == 0
    said = capsys.readouterr()
    assert "svc" in said.out
    assert "try 13" not in said.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tune", "stars"], "stars has no parameters to search"),
        (["tune", "lstm"], "no kind of model named 'lstm'"),
        (
            ["--set", 'training.parameters={"svc": {"c": 1}}', "tune", "svc", "--trials", "1"],
            "svc has no parameter 'c'",
        ),
        (
            ["--set", "training.parameters.svc.C=much", "tune", "svc", "--trials", "1"],
            "svc.C is 'much', expected float",
        ),
    ],
)
def test_what_cannot_be_searched_is_refused_in_words(
    workspace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) != 0
    assert message in capsys.readouterr().err


def test_the_cards_of_the_champion_are_printed(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "card", "champion"]) == 0
    assert "pipeline_tag: text-classification" in capsys.readouterr().out
    assert main(["models", "card", "champion", "--data"]) == 0
    assert "It holds no text and no" in capsys.readouterr().out
