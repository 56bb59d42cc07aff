"""The command line as scripts and people use it: outcomes, exit codes, JSON, one-sentence errors."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mobile_sentiment_ops.cli import main
from mobile_sentiment_ops.cli.session import Session
from mobile_sentiment_ops.types import Severity

REVIEWS = """review_id,app,submitted_at,rating,review_text
a,shop,2025-01-01T10:00:00Z,5,"Love it, works every time"
b,shop,2025-01-02T10:00:00Z,1,Crashes since the update
c,shop,2025-01-03T10:00:00Z,9,Nine stars if I could
"""


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Mso = Callable[..., Answer]


@pytest.fixture
def mso(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Mso:
    """Runs a command line in an empty folder whose MLflow does not answer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {**os.environ, "MSO_MLFLOW__TRACKING_URI": "http://127.0.0.1:9"})

    def run(*arguments: object) -> Answer:
        code = main([str(word) for word in arguments])
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    return run


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    file = tmp_path / "reviews.csv"
    file.write_text(REVIEWS, "utf-8")
    return file


def test_help_and_version_import_nothing_heavy() -> None:
    source = """
import sys
from mobile_sentiment_ops.cli import main
main(["--version"]); main(["ingest", "--help"])
heavy = ("mobile_sentiment_ops.settings", "polars", "numpy", "rich.console", "structlog", "mlflow")
print([name for name in heavy if name in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


def test_without_a_command_the_help_shows_them_all(mso: Mso) -> None:
    found = mso()
    assert found.code == 0
    for name in ("up", "down", "ingest", "retrain", "models", "promote", "rollback", "dataset", "config"):
        assert f"\n  {name} " in found.out


def test_ingest_prints_what_became_of_every_row(mso: Mso, reviews: Path) -> None:
    found = mso("ingest", reviews)
    assert found.code == 0
    assert found.out.startswith("columns: review_id, app, submitted_at, rating, review_text\n")
    assert [line.split() for line in found.out.splitlines()[1:6]] == [
        ["read", "3"],
        ["new", "2"],
        ["updated", "0"],
        ["duplicate", "0"],
        ["rejected", "1"],
    ]
    assert "rating" in found.out.splitlines()[6]
    assert found.err == ""
    assert "\x1b" not in found.out


def test_ingest_again_finds_nothing_new(mso: Mso, reviews: Path) -> None:
    mso("ingest", reviews)
    again = mso("ingest", reviews, "--json")
    assert (again.json["new"], again.json["duplicate"], again.json["rejected"]) == (0, 2, 1)


def test_ingest_ends_with_3_when_every_row_is_rejected(mso: Mso, tmp_path: Path) -> None:
    (tmp_path / "bad.csv").write_text("review_text,rating\n ,5\nfine,seven\n", "utf-8")
    found = mso("ingest", "bad.csv", "--json")
    assert found.code == 3
    assert found.json["rejected"] == 2
    assert found.err.startswith("error: every one of 2 rows was rejected")


def test_ingest_takes_columns_by_name_and_the_app_from_options(mso: Mso, tmp_path: Path) -> None:
    (tmp_path / "opinions.csv").write_text("What they wrote;points\nGreat;5\n", "utf-8")
    mapping = ("--column", "What they wrote=review_text", "--column", "points=rating")
    found = mso("ingest", "opinions.csv", *mapping, "--app", "shop", "--json")
    assert found.json["mapping"] == {"What they wrote": "review_text", "points": "rating"}
    assert "'What they wrote' -> review_text" in mso("ingest", "opinions.csv", *mapping).out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("ingest", "no.csv"), 3, "no.csv cannot be opened: no such file"),
        (("ingest", "x.csv", "--column", "opinion"), 2, "expected"),
        (("ingest", "google-play"), 2, "needs the id of an app"),
        (("ingest", "app-store", "shop"), 7, "no App Store id"),
        (("ingest",), 2, "Missing argument"),
        (("fly",), 2, "No such command 'fly'"),
        (("status", "--nosuch"), 2, "No such option"),
        (("--set", "api.prot=1", "config", "show"), 2, "did you mean api.port"),
        (("--set", "api.port", "config", "show"), 2, "expected KEY=VALUE"),
        (("--config", "no.toml", "config", "show"), 2, "no such settings file"),
        (("demo-data", "--output", "demo.xls"), 2, ".parquet"),
        (("demo-data", "--json"), 2, "--json needs --output"),
        (("rollback", "--reason", "worse"), 4, "no champion to roll back"),
        (("rollback",), 2, "--reason"),
        (("dataset", "show", "0123"), 7, "0123"),
        (("models", "list"), 5, "127.0.0.1:9"),
        (("promote", "3", "--reason", "better"), 5, "127.0.0.1:9"),
        (("retrain", "--kinds", "lr,perceptron"), 4, "perceptron"),
        (("keys", "add", "shop front"), 2, "letters, digits"),
        (("keys", "add", "shop", "--role", "admin"), 2, "operate"),
        (("keys", "add", "shop", "--days", "0"), 2, "days"),
        (("keys", "revoke", "1f09a2c4"), 7, "1f09a2c4"),
        (("retrain",), 5, "127.0.0.1:9"),
    ],
)
def test_errors_are_one_sentence_with_their_exit_code(
    mso: Mso, arguments: tuple[str, ...], code: int, said: str
) -> None:
    found = mso(*arguments)
    assert (found.code, found.out) == (code, "")
    assert found.err.startswith("error: ")
    assert said in found.err
    assert found.err.count("\n") == 1


def test_the_traceback_is_shown_at_debug_level(mso: Mso) -> None:
    with pytest.raises(Exception, match=r"cannot be opened"):
        mso("--set", "logs.level=debug", "ingest", "no.csv")


def test_what_nobody_expected_is_an_error_too(mso: Mso, tmp_path: Path) -> None:
    (tmp_path / "workspace").write_text("a file where the folder should be")
    found = mso("jobs")
    assert (found.code, found.out) == (1, "")
    assert found.err.startswith("error: unexpected ")


def test_demo_data_is_called_synthetic_and_the_same_for_a_seed(mso: Mso, tmp_path: Path) -> None:
    found = mso("demo-data", "--reviews", 300, "--seed", 3, "--output", "demo.parquet", "--json")
    assert found.json == {"reviews": 300, "seed": 3, "synthetic": True, "output": "demo.parquet"} | {
        "reviews": pl.read_parquet(tmp_path / "demo.parquet").height
    }
    first = mso("demo-data", "--reviews", 300, "--seed", 3, "--output", "demo.csv")
    assert "synthetic" in first.err
    assert mso("ingest", "demo.csv", "demo.parquet", "--json").json["duplicate"] == found.json["reviews"]


def test_demo_data_goes_to_standard_output_as_csv() -> None:
    command = [sys.executable, "-m", "mobile_sentiment_ops", "demo-data", "--reviews", "300"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.startswith("review_id,app,version,")
    assert "synthetic" in found.stderr


def test_config_show_tells_where_a_value_came_from(mso: Mso, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "MSO_API__PORT", "5002")
    found = mso("--set", "training.kinds=lr,xgb", "config", "show", "--sources")
    lines = {line.split()[0]: line for line in found.out.splitlines()}
    assert " 5002 " in lines["api.port"]
    assert " MSO_API__PORT " in lines["api.port"]
    assert '["lr", "xgb"]' in lines["training.kinds"]
    assert " flag " in lines["training.kinds"]
    assert mso("config", "show", "--json").json["api.port"] == {"value": 5002, "source": "MSO_API__PORT"}


def test_options_reach_the_processes_that_a_command_starts(mso: Mso, tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text("format = 1\n[api]\nmax_json_rows = 7\n")
    assert mso("--config", "own.toml", "--set", "api.port=5003", "config", "show", "--json").code == 0
    settings = Session().settings().settings
    assert (settings.api.port, settings.api.max_json_rows) == (5003, 7)


def test_status_of_an_empty_folder_makes_nothing(mso: Mso, tmp_path: Path) -> None:
    found = mso("--set", "api.port=9", "status", "--json")
    assert found.json["champion"] is None
    assert found.json["api"] == found.json["mlflow"] == "does not answer"
    assert mso("down").out.endswith(f"nothing runs in {tmp_path / 'workspace'}\n")
    assert list(tmp_path.iterdir()) == []


def test_what_is_empty_is_shown_as_empty(mso: Mso, reviews: Path) -> None:
    mso("ingest", reviews)
    assert mso("jobs", "--json").json == {"jobs": []}
    assert [entry["decision"]["action"] for entry in mso("ledger", "--json").json["entries"]] == ["ingest"]
    assert mso("timeline", "--action", "promote", "--json").json == {"entries": []}
    assert mso("dataset", "list", "--json").json == {"datasets": []}
    assert mso("status", "--json").json["reviews"] == 2
    assert mso("quality", "--json").json["rows"] == 2
    assert mso("quality").out.startswith("2 current reviews\n")


def test_a_person_is_told_why_the_champion_answers_and_that_nothing_was_changed(mso: Mso, demo_workspace: Path) -> None:
    here = ("--set", f"storage.workspace={demo_workspace}")
    told = mso(*here, "why", "champion").out
    assert told.startswith("Version 1 is of the kind lr")
    assert "gain in macro-F1" in told
    assert mso(*here, "why", "1", "--json").json["story"]["serving"] is True
    assert mso(*here, "why", "9").code == 5  # only MLflow could know it, and it is away
    checked = mso(*here, "verify")
    assert (checked.code, checked.err) == (0, "")
    assert "not checked" in checked.out
    assert mso(*here, "verify", "--json").json["whole"] is True
    days = [mso(*here, "timeline", "--since", day, "--json").json["entries"] for day in ("2025-01-01", "2999-01-01")]
    assert [entry["decision"]["action"] for entry in days[0]] == ["ingest", "admit", "train", "promote"]
    assert days[1] == []
    rebuilt = mso(*here, "models", "rebuild", "1")
    assert (rebuilt.code, "equal to the last bit" in rebuilt.out) == (0, True)
    assert mso(*here, "models", "diff", "1", "1", "--json").json["changed"] == []
    assert "0 of " in mso(*here, "models", "diff", "1", "1", "--limit", "0").out
    assert mso(*here, "rollback", "--reason", "x").err.startswith("error: version 1 is the first champion")


def test_what_moved_is_told_in_words_figures_and_pages(mso: Mso, demo_workspace: Path, tmp_path: Path) -> None:
    workspace = tmp_path / "monitored"
    shutil.copytree(demo_workspace, workspace)
    here = ("--set", f"storage.workspace={workspace}", "monitor")
    before = mso(*here, "drift")
    assert before.code == 7
    assert "mso monitor run" in before.err
    told = mso(*here, "run")
    assert told.out.startswith("NOTHING: Nothing is to be done: nothing could be judged")  # the demo world has ended
    assert mso(*here, "drift", "--json").json["drift"] == "too-few"
    assert "0 of 100 labels" in mso(*here, "performance").out
    assert mso(*here, "performance", "--json").json["model_version"] == "1"
    explained = mso(*here, "explain", "--days", "28", "--until", "2026-09-01")
    assert explained.out.startswith("The share of negative reviews")
    assert "how much each app moved the negative share" in explained.out
    one = mso(*here, "explain", "--app", "demo.meals", "--until", "2026-09-01", "--json").json
    assert {part["part"]["app"] for part in one["contributions"]["app"]} == {"demo.meals"}
    assert "expected a day such as" in mso(*here, "explain", "--until", "soon").err
    written = mso(*here, "report", "--days", "28", "--until", "2026-09-01", "--json").json["reports"]
    assert [Path(name).suffix for name in written] == [".html", ".json"]
    assert b"<svg" in Path(written[0]).read_bytes()


def test_score_adds_columns_to_a_file_and_says_what_came_of_it(
    mso: Mso, reviews: Path, demo_workspace: Path, tmp_path: Path
) -> None:
    here = ("--set", f"storage.workspace={demo_workspace}", "score")
    told = mso(*here, reviews, "scored.parquet")
    assert (told.code, told.err) == (0, "")
    assert re.match(r"3 reviews, [\d,]+ a second, by model version 1\nNegative \d+\.\d%, Neutral ", told.out)
    frame = pl.read_parquet(tmp_path / "scored.parquet")
    assert frame["review_id"].to_list() == ["a", "b", "c"]
    assert frame["model_version"].to_list() == ["1"] * 3
    found = mso(*here, "scored.parquet", "again.jsonl", "--json", "--threads", 1).json
    assert (found["rows"], found["faulty"], found["resumed_rows"], found["model_version"]) == (3, 0, 0, "1")
    assert sum(found["label_shares"].values()) == pytest.approx(1)
    assert mso(*here, "table:reviews", "table.csv", "--json").json["rows"] == pl.read_csv("table.csv").height > 2_000
    for arguments, code, said in [
        ((reviews, "scored.parquet"), 5, "scored.parquet exists"),
        ((reviews, "scored.txt"), 3, "expected a name that ends with"),
        ((reviews, "out.csv", "--text-column", "opinion"), 3, "no columns are named opinion"),
        ((reviews, "out.csv", "--model", "9"), 5, "127.0.0.1:9"),
    ]:
        refused = mso(*here, *arguments)
        assert (refused.code, refused.out) == (code, "")
        assert said in refused.err
    empty = ("--set", f"storage.workspace={tmp_path / 'empty'}")
    assert mso(*empty, "score", reviews, "out.csv").err.startswith("error: no model is promoted here")
    assert not (tmp_path / "out.csv.part").exists()


def test_verify_ends_with_1_and_says_the_first_fault(mso: Mso, reviews: Path, tmp_path: Path) -> None:
    mso("ingest", reviews)
    anchors = tmp_path / "workspace" / "ledger.anchors"
    anchors.write_text(f"mso ledger anchors, format 1\n1 {'0' * 64}\n")
    checked = mso("verify")
    assert checked.code == 1
    assert re.search(
        r"error: anchor file: entry 1 was written with the hash 000000000000 and has \w{12} now", checked.err
    )


def test_ctrl_c_ends_with_130() -> None:
    command = [sys.executable, "-m", "mobile_sentiment_ops", "demo-data", "--reviews", "1000000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == (b"", b"")
    assert process.returncode == 130


def test_a_key_is_printed_once_and_replaced_while_it_is_valid(mso: Mso) -> None:
    made = mso("keys", "add", "shop", "--app", "shop", "--days", 30, "--json").json
    assert made["key"].startswith("mso_")
    assert (made["role"], made["apps"]) == ("predict", ["shop"])
    printed = mso("keys", "add", "shop", "--role", "operate").out
    assert re.search(r"^key +mso_[\w-]{43}$", printed, re.MULTILINE)
    third = mso("keys", "add", "shop")
    assert (third.code, third.out) == (5, "")
    assert f"mso keys revoke {made['id']}" in third.err
    assert mso("keys", "revoke", made["id"]).out.split() == ["revoked", made["id"], "of", "shop"]
    listed = mso("keys", "list")
    assert made["key"] not in listed.out
    assert [line.split()[1:4] for line in listed.out.splitlines()[1:]] == [["shop", "operate", "all"]]
    (kept,) = mso("keys", "list", "--json").json["keys"]
    assert set(kept) == {"id", "name", "role", "apps", "last4", "created_at", "expires_at"}
    entries = mso("timeline", "--action", "key", "--json").json["entries"]
    assert [entry["decision"]["reason"].partition(" ")[0] for entry in entries] == ["made", "made", "revoked,"]


def test_alerts_are_tried_and_what_failed_is_told(mso: Mso, free_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = mso("alert", "test")
    assert found.code == 0
    assert "A test of the alerts" in found.err
    os.environ["MSO_SMTP_PASSWORD"] = "hush"
    mail = ("alerts.smtp_host=localhost", f"alerts.smtp_port={free_port}", "alerts.mail_to=ops@example.org")
    options = [
        word for pair in (*mail, "alerts.smtp_user=mso", "alerts.webhook_url=file:///x") for word in ("--set", pair)
    ]
    found = mso(*options, "alert", "test", "--json")
    assert found.code == 5
    channels = found.json["channels"]
    assert channels["log"] is None
    assert f"localhost:{free_port} did not answer" in channels["mail"]
    assert "alerts.webhook_url" in channels["webhook"]
    assert "hush" not in found.out + found.err


def test_incidents_are_listed_newest_first(mso: Mso) -> None:
    assert mso("alert", "list", "--json").json == {"incidents": []}
    state = Session().platform().state
    state.open_incident("drift", Severity.CRITICAL, "Reviews moved", "p .01", {"share": 0.4})
    state.open_incident("labels", Severity.WARNING, "No labels")
    state.close_incident("drift")
    assert [found["key"] for found in mso("alert", "list", "--json").json["incidents"]] == ["labels", "drift"]
    (still,) = mso("alert", "list", "--open", "--json").json["incidents"]
    assert (still["severity"], still["title"], still["closed_at"]) == ("warning", "No labels", None)
    assert "Reviews moved" in mso("alert", "list").out
    assert "Reviews moved" not in mso("alert", "list", "--open").out


def test_what_is_taken_in_is_a_sign_of_life(mso: Mso, reviews: Path, tmp_path: Path) -> None:
    assert mso("ingest", reviews).code == 0
    state = Session().platform().state
    assert [(beat.name, beat.failed_at) for beat in state.beats()] == [("ingest", None), ("labels", None)]
    first = {beat.name: beat.succeeded_at for beat in state.beats()}
    assert mso("ingest", reviews).code == 0  # nothing new: the source goes on, and no label arrived
    again = {beat.name: beat.succeeded_at for beat in state.beats()}
    assert again["labels"] == first["labels"]
    assert again["ingest"] != first["ingest"]
    assert mso("ingest", tmp_path / "none.csv").code == 3
    (failed,) = (beat for beat in state.beats() if beat.failed_at)
    assert failed.name == "ingest"
    assert "none.csv" in failed.note
