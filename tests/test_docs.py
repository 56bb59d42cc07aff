"""The documents are true: what they name exists, their examples run, and what is made from code is fresh."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.main
from fastapi.routing import APIRoute

import mobile_sentiment_ops
from mobile_sentiment_ops.app import explain, ml_server, monitoring_routes, protocols
from mobile_sentiment_ops.app.data_pipeline import DataHandler
from mobile_sentiment_ops.app.prediction import PredictionHandler
from mobile_sentiment_ops.app.train_model import MLOpsHandler
from mobile_sentiment_ops.cli import app as mso
from mobile_sentiment_ops.client import Client
from mobile_sentiment_ops.data.columns import USUAL_NAMES
from mobile_sentiment_ops.models.kinds import KINDS
from mobile_sentiment_ops.settings import FIRST_VERSION_VARIABLES, Settings, setting_descriptions

ROOT = Path(__file__).parents[1]
PACKAGE = Path(mobile_sentiment_ops.__file__).parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

COMMANDS = typer.main.get_command(mso)
HANDLERS = {handler.__name__: handler for handler in (DataHandler, PredictionHandler, MLOpsHandler)}

NOT_OURS = {"mso.toml", "data_prediction/", "reports/", "/health", "demo.wallet", "demo.photo"} | {
    *(
        "silence/drain",
        "silence/spool",
        "silence/PART",
        "alerts/CHANNEL",
        "stream/SIGNAL",
        "batch-held/BATCH",
        "ingest/google-play",
        "ingest/app-store",
    ),
}
"""Names with the look of a file, a route or a setting: the user's own, in the workspace, MLflow's, an app's, of an
incident, of a part of the pipeline."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


ROUTES = {("GET", "/openapi.json")} | {
    (method, route.path.replace(":path", ""))
    for route in (
        *ml_server.routes.routes,
        *protocols.routes.routes,
        *explain.routes.routes,
        *monitoring_routes.routes.routes,
    )
    if isinstance(route, APIRoute)
    for method in route.methods or ()
}
"""(method, path) of everything that the API answers."""


def _prose(page: Path) -> str:
    """The page without its code blocks and without what is generated."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"<!-- (\w+): written by.*?<!-- end of \1 -->", "", text, flags=re.DOTALL)


def _code(page: Path) -> list[str]:
    """Everything that stands between single backticks."""
    return [code for code in re.findall(r"`([^`\n]+)`", _prose(page)) if code not in NOT_OURS]


def _blocks(page: Path, *languages: str) -> list[str]:
    """Code blocks by language, without those that are marked as not to be run."""
    text = re.sub(r"<!-- not run: [^>]+ -->\n```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    return [block for name, block in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S) if name in languages]


def _lines_to_type(page: Path) -> Iterator[str]:
    """Commands in the text and in the shell blocks, without comments."""
    yield from _code(page)
    for block in _blocks(page, "sh"):
        yield from (line.partition(" # ")[0].strip() for line in block.splitlines())


@each_page
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for line in _lines_to_type(page):
        if found := re.match(r"make ([a-z-]+)", line):
            assert found[1] in targets, line


@each_page
def test_every_command_and_option_exists(page: Path) -> None:
    for line in _lines_to_type(page):
        if re.match(r"(\.venv/bin/)?mso( |$)", line):
            _follow(shlex.split(line.partition(" | ")[0])[1:], line)


def _follow(words: list[str], line: str) -> None:
    """Walk down the commands and options of a line, as far as they name any."""
    command: Any = COMMANDS
    waiting = iter(words)
    for word in waiting:
        options = {name: option for option in command.params for name in option.opts + option.secondary_opts}
        if word == "--help":
            continue
        if word.startswith("--"):
            assert word in options, line
            if not getattr(options[word], "is_flag", False):
                next(waiting, None)
        elif (commands := getattr(command, "commands", None)) and not word.isupper():
            assert set(word.split("|")) <= set(commands), line
            command = commands[word.partition("|")[0]]


@each_page
def test_every_setting_and_variable_exists(page: Path) -> None:
    sections = "|".join(set(Settings.model_fields) - {"format"})
    for code in _code(page):
        key = code.partition("=")[0]
        if re.fullmatch(rf"({sections})\.[a-z_]+", key) and not key.endswith((".py", ".md", ".db", ".log")):
            assert key in setting_descriptions(), code
        if re.fullmatch(r"MSO_[A-Z]+__[A-Z_]+", key):
            assert key.removeprefix("MSO_").lower().replace("__", ".") in setting_descriptions(), code


@each_page
def test_every_route_exists(page: Path) -> None:
    for code in _code(page):
        if found := re.fullmatch(r"(GET|POST) (/[\w/{}.]*)", code):
            assert (found[1], found[2]) in ROUTES, code
        elif re.fullmatch(r"/[a-z_./]+", code):
            assert any(path == code for _, path in ROUTES), code


@each_page
def test_every_file_exists(page: Path) -> None:
    for code in _code(page):
        looks = re.fullmatch(r"[A-Za-z_.][\w.-]*(/[\w.-]+)*/?", code) and (
            "/" in code or re.search(r"\.(py|md|txt|toml)$", code)
        )
        if (
            not looks
            or code.startswith("workspace/")
            or page.name == "storage.md"
            or "not yet here" in _row(page, code)
        ):
            continue
        places = (ROOT, PACKAGE, ROOT / "docs", PACKAGE / "data" / "demo_world")
        assert any((place / code).exists() for place in places), f"{page.name}: there is no {code}"


def _places() -> list[str]:
    """What the first table of storage.md says to be in the workspace."""
    table = (ROOT / "docs" / "storage.md").read_text("utf-8").partition("| place |")[2].partition("\n\n")[0]
    return [place for line in table.splitlines() for place in re.findall("`([^`]+)`", line.split("|")[1:2][0])]


def test_the_places_of_the_workspace_are_those_of_the_code(demo_workspace: Path) -> None:
    code = "".join(path.read_text("utf-8") for path in PACKAGE.rglob("*.py"))
    for place in _places():
        top = place.partition("/")[0].partition(".parquet")[0]
        made = (demo_workspace / top).exists() or re.search(rf"[/\"']{re.escape(top)}[\"']", code)
        assert made, f"nothing is kept at {place}"
    assert {path.name.partition("-")[0] for path in demo_workspace.iterdir()} <= {
        place.partition("/")[0] for place in _places()
    }


def _row(page: Path, code: str) -> str:
    return next((line for line in page.read_text("utf-8").splitlines() if f"`{code}`" in line), "")


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in {_anchor(title) for title in re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.M)}, (
                target
            )


def _anchor(title: str) -> str:
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page, "python")], ids=lambda page: page.stem)
def test_python_examples_run(
    page: Path, demo_workspace: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """All blocks of a page in one go, in a workspace with reviews and a champion, and with a server of it."""
    monkeypatch.setenv("MSO_STORAGE__WORKSPACE", str(demo_workspace))
    if page.stem == "client":
        monkeypatch.setenv("MSO_API_URL", request.getfixturevalue("demo_server"))
        monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "example"}
    for block in _blocks(page, "python"):
        exec(compile(block, str(page), "exec"), names)  # noqa: S102 - our own documents
    for client in [made for made in names.values() if isinstance(made, Client)]:
        client.close()


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl on this machine")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if "curl -s" in page.read_text("utf-8")], ids=lambda page: page.stem
)
def test_curl_examples_are_answered(page: Path, demo_server: str, tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("review_text,app\nLove it,shop\n")
    asked = 0
    for block in _blocks(page, "sh"):
        calls = re.sub(r"^(mso|make) .*$", "", block, flags=re.M)
        calls = calls.replace("localhost:5001", demo_server).replace("curl -s ", "curl -sSf ")
        environment = {"PATH": os.environ["PATH"], "KEY": "none is asked for here"}
        found = subprocess.run(
            ["sh", "-euc", calls], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, calls + found.stderr
        asked += calls.count("curl")
    assert asked


def test_what_is_made_from_code_and_figures_is_fresh() -> None:
    command = [sys.executable, str(ROOT / "docs" / "write.py"), "--check"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_readme_tree_is_there() -> None:
    tree = next(block for block in _blocks(ROOT / "README.md", "text") if block.startswith("src/"))
    for line in tree.splitlines():
        names = re.match(r"( *)((?:[\w/.]+)(?:, [\w/.]+)*)", line)
        assert names is not None, line
        for name in names[2].split(", "):
            assert ((PACKAGE if names[1] else ROOT) / name).exists(), name


# --- names of the first version

FIRST_VERSION = """
    POST /predict, POST /predict_json, POST /retrain, GET /model/metrics, GET /healthcheck, GET /loadmodel, /reports
    review_text, sentiment, brand, rating, data_label/labeled_*.csv, data_prediction/predicted_<id>.csv
    reports/drift_<id>.html, reports/eda/<tag>/*, Sentiment_Analysis_Production, MobileSentimentModel
    LogisticRegression, RandomForest, XGBoost, Production, MLFLOW_TRACKING_URI, GCS_ENDPOINT, GCS_BUCKET_NAME
    GCS_STORAGE_EMULATOR_HOST, INITIAL_DATA_PATH, REPORTS_DIR, POSTGRES_*, LABEL_STUDIO_*
    GOOGLE_APPLICATION_CREDENTIALS, app/ml_server.py, app/data_pipeline.py, DataHandler, app/prediction.py
    PredictionHandler, app/train_model.py, MLOpsHandler, train_startup_model(), lib/train_with_dags.py
    db_init/init.sh, docker-compose.test.yml
"""
"""What its users' scripts and habits call: each needs a row in the README."""


def _first_version_rows() -> list[tuple[str, str]]:
    text = (ROOT / "README.md").read_text("utf-8").partition("## From the first version")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [(left.strip(), right.strip()) for left, right in rows[2:]]


def test_every_name_of_the_first_version_has_a_row() -> None:
    known = {name for left, _ in _first_version_rows() for name in re.findall("`([^`]+)`", left)}
    assert set(re.split(r", |\n\s*", FIRST_VERSION.strip())) == known


@pytest.mark.parametrize("row", _first_version_rows(), ids=lambda row: row[0].replace("`", ""))
def test_a_name_of_the_first_version_is_where_the_readme_says(row: tuple[str, str]) -> None:
    left, right = (re.findall("`([^`]+)`", cell) for cell in row)
    if row[1].startswith("not yet here"):
        for name in left:
            assert not (ROOT / name).exists(), f"{name} is here now: the README says it is not"
            assert name not in FIRST_VERSION_VARIABLES
        return
    assert right
    for name in right:
        assert _resolves(name), name
    if "setting" in row[1]:
        default = str(_default(right[0]))
        for name in left:
            assert FIRST_VERSION_VARIABLES.get(name) == right[0] or name == default, name
        if port := re.search(r"port (\d+)", row[0]):
            assert default.endswith(port[1])
    if row[1].startswith("kinds"):
        assert [KINDS[kind].title for kind in right] == left
    if "read by these names" in row[1]:
        assert set(left) <= {name for names in USUAL_NAMES.values() for name in names}
    for path, name in pairwise(right):
        if row[1].startswith(f"`{path}`: `"):
            assert name in (PACKAGE / path).read_text("utf-8")


def _default(key: str) -> object:
    section, _, name = key.partition(".")
    return getattr(getattr(Settings(), section), name)


def _resolves(name: str) -> bool:
    """Whether a name in the right column exists: a route, file, class, setting, kind, column, variable, target."""
    if call := re.fullmatch(r"(GET|POST) (\S+)", name):
        return (call[1], call[2]) in ROUTES
    if name.endswith(".py"):
        return (PACKAGE / name).is_file()
    if name.partition(".")[0] in HANDLERS:
        handler, _, method = name.partition(".")
        return not method or hasattr(HANDLERS[handler], method)
    return (
        name in setting_descriptions()
        or name in KINDS
        or name in ("confidence", "prediction_id", "error", "Production")
        or name.removeprefix("make ") in (ROOT / "Makefile").read_text("utf-8")
    )
