"""Settings: which layer wins, and what a wrong one says."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobile_sentiment_ops.errors import SettingsError
from mobile_sentiment_ops.settings import FIRST_VERSION_VARIABLES, resolve_settings, setting_descriptions


def test_flags_win_over_environment_over_first_version_names_over_file(tmp_path: Path) -> None:
    file = tmp_path / "mso.toml"
    file.write_text('[storage]\nbucket_name = "file"\n[api]\nport = 6001\n[mlflow]\nexperiment = "file"\n')
    found = resolve_settings(
        file=file,
        environment={"GCS_BUCKET_NAME": "first", "MSO_API__PORT": "6002", "MSO_STORAGE__BUCKET_NAME": "new"},
        flags={"api.port": 6003},
    )
    assert found.settings.api.port == 6003
    assert found.settings.storage.bucket_name == "new"
    assert found.settings.mlflow.experiment == "file"
    layers = {key: layer for key, _, layer in found.rows()}
    assert layers["api.port"] == "flag"
    assert layers["storage.bucket_name"] == "MSO_STORAGE__BUCKET_NAME"
    assert layers["mlflow.experiment"] == "mso.toml"
    assert layers["gate.min_gain"] == "default"


@pytest.mark.parametrize(("variable", "key"), sorted(FIRST_VERSION_VARIABLES.items()))
def test_every_variable_of_the_first_version_sets_its_setting(variable: str, key: str) -> None:
    found = resolve_settings(environment={variable: "given"})
    assert {name: (str(value), layer) for name, value, layer in found.rows()}[key] == ("given", variable)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"MSO_API__PROT": "1"}, "MSO_API__PROT: there is no setting api.prot; did you mean api.port?"),
        ({"MSO_NOTHING_LIKE_IT": "1"}, "there is no setting nothing_like_it"),
        ({"MSO_API__PORT": "70000"}, "MSO_API__PORT: api.port is '70000'"),
        ({"MSO_API__LOG_TEXT": "yes"}, "'masked', 'hash' or 'off'"),
        ({"MSO_INGEST__COLUMNS": "{broken"}, "ingest.columns: '{broken' is not JSON"),
    ],
)
def test_a_wrong_variable_is_named_with_what_was_found(environment: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=r"config show|JSON") as caught:
        resolve_settings(environment=environment)
    assert said in str(caught.value)


def test_a_broken_or_missing_file_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text("[api\n")
    for file in (broken, tmp_path / "none.toml"):
        with pytest.raises(SettingsError, match=file.name):
            resolve_settings(file=file, environment={})


def test_the_users_own_column_names_are_free() -> None:
    found = resolve_settings(environment={"MSO_INGEST__COLUMNS": '{"Mein Text": "review_text"}'})
    assert found.settings.ingest.columns == {"Mein Text": "review_text"}


def test_kinds_may_be_a_plain_list() -> None:
    assert resolve_settings(environment={"MSO_TRAINING__KINDS": "lr, xgb"}).settings.training.kinds == ("lr", "xgb")


def test_every_setting_says_what_it_means() -> None:
    assert [key for key, text in setting_descriptions().items() if not text] == []


def test_a_relative_folder_is_below_the_workspace(tmp_path: Path) -> None:
    storage = resolve_settings(environment={"MSO_STORAGE__WORKSPACE": str(tmp_path)}).settings.storage
    assert storage.folder("reports") == tmp_path / "reports"
    assert storage.folder("/elsewhere") == Path("/elsewhere")
