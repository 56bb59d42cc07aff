"""The cores of kernel and scorer under sanitizers: by random changes, and by a fuzzer that looks for new paths."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TABLE = ROOT / "src" / "mobile_sentiment_ops" / "models" / "code_points.bin"
CORPUS = sorted((HERE / "corpus").iterdir())
FLAGS = ("-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-fno-sanitize-recover=all", f'-DTABLE="{TABLE}"')


def test_random_changes_break_nothing_under_the_sanitizers(tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler (cc)")
    program = tmp_path / "changes"
    build = [
        "cc",
        *FLAGS,
        "-fsanitize=address,undefined",
        "-DSTANDALONE",
        str(HERE / "harness.c"),
        "-o",
        str(program),
        "-lm",
    ]
    built = subprocess.run(build, capture_output=True, text=True)
    if "cannot find" in built.stderr:
        pytest.skip("this compiler has no sanitizers (Debian: libasan, libubsan)")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run([program, "50000", *CORPUS], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout == f"ran {len(CORPUS)} files and 50000 changes\n"


@pytest.mark.skipif(sys.platform == "darwin", reason="the clang of macOS comes without libFuzzer")
def test_the_fuzzer_finds_nothing_in_a_few_seconds() -> None:
    if shutil.which("clang") is None:
        pytest.skip("there is no clang with libFuzzer (Debian: clang and libclang-rt-14-dev)")
    ran = subprocess.run(["make", "fuzz", "SECONDS=5"], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Done" in ran.stderr
