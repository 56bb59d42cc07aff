"""The wheel, installed as a user installs it: complete, and able to train and predict."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import mobile_sentiment_ops

pytestmark = pytest.mark.end_to_end

ROOT = Path(__file__).parents[2]
UV = ROOT / ".setup" / "bin" / "uv"

TRAIN_AND_PREDICT = """
import json, mobile_sentiment_ops, polars as pl
from mobile_sentiment_ops.models.training import train
texts = ["love it", "great and fast", "crashes all day", "bad and slow", "it is ok", "so so"]
labels = pl.Series([2, 2, 0, 0, 1, 1] * 20, dtype=pl.Int8)
frame = pl.DataFrame({"review_text": texts * 20, "rating": [5, 4, 1, 2, 3, 3] * 20, "label": labels})
model = train("lr", frame, frame, seed=0)
labels = [found.label for found in model.predict(["love it", "crashes all day"])]
print(json.dumps({"file": mobile_sentiment_ops.__file__, "labels": labels}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as `make wheel` builds it: from the source package, so that nothing older slips in."""
    folder = tmp_path_factory.mktemp("wheel")
    pinned = ["--build-constraints", "requirements/build.txt", "--require-hashes"]
    subprocess.run([UV, "build", "--quiet", *pinned, "--out-dir", folder], cwd=ROOT, check=True)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    package = Path(mobile_sentiment_ops.__file__).parent
    here = {
        f"mobile_sentiment_ops/{file.relative_to(package).as_posix()}"
        for file in package.rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == here
    assert {"mobile_sentiment_ops/py.typed", "mobile_sentiment_ops/data/demo_world/th.toml"} <= held


def test_the_installed_wheel_runs_and_predicts(wheel: Path, tmp_path: Path) -> None:
    """Its requirements come from this environment, by a path that stands behind its own packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(tmp_path / "venv")}))
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib"))
    subprocess.run([UV, "pip", "install", "--quiet", "--python", python, "--no-deps", wheel], check=True)

    def run(*command: str) -> str:
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    assert run(str(tmp_path / "venv/bin/mso"), "--version") == f"mso {mobile_sentiment_ops.__version__}\n"
    found = json.loads(run(str(python), "-W", "error", "-c", TRAIN_AND_PREDICT).splitlines()[-1])
    assert Path(found["file"]).is_relative_to(site)
    assert found["labels"] == ["Positive", "Negative"]
