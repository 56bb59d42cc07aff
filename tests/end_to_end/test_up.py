"""`mso up` as a user runs it: a real MLflow server, a real API and real trainings on a small demo world."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest
import structlog

from mobile_sentiment_ops.cli import main
from mobile_sentiment_ops.processes import Processes

pytestmark = [pytest.mark.end_to_end, pytest.mark.timeout(300)]

MSO = [sys.executable, "-m", "mobile_sentiment_ops"]
WITHIN_SECONDS = 120.0


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Answer(NamedTuple):
    code: int
    out: str
    err: str


@dataclass
class Workplace:
    """A folder with settings of its own, and what runs in it."""

    folder: Path
    api: str = field(init=False)
    environment: dict[str, str] = field(init=False)
    ups: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        port, mlflow = _free_port(), f"http://127.0.0.1:{_free_port()}"
        self.api = f"http://127.0.0.1:{port}"
        own = {"MSO_API__PORT": str(port), "MSO_MLFLOW__TRACKING_URI": mlflow, "MSO_DEMO__REVIEWS": "3000"}
        self.environment = {**os.environ, **own}
        self.mlflow = mlflow

    def run(self, *arguments: str) -> Answer:
        """A command line in this process, which has imported everything already."""
        before, out, err = dict(os.environ), StringIO(), StringIO()
        os.environ.update(self.environment)
        try:
            with chdir(self.folder), redirect_stdout(out), redirect_stderr(err):
                return Answer(main(arguments), out.getvalue(), err.getvalue())
        finally:
            structlog.reset_defaults()
            os.environ.clear()
            os.environ.update(before)

    def answer(self, *arguments: str) -> Any:
        found = self.run(*arguments, "--json")
        assert found.code == 0, found.err
        return json.loads(found.out)

    def up(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"up-{len(self.ups)}.txt").open("wb") as output:
            started = subprocess.Popen(
                [*MSO, "up", *arguments], cwd=self.folder, env=self.environment, stdout=output, stderr=output
            )
        self.ups.append(started)
        return started

    def said(self) -> str:
        """What the last `up` printed until now."""
        return (self.folder / f"up-{len(self.ups) - 1}.txt").read_text("utf-8")

    def wait_for(self, text: str) -> str:
        self.wait_until(lambda: text in self.said() or self.ups[-1].poll() is not None)
        assert text in self.said(), self.said()
        return self.said()

    def wait_until(self, true: Callable[[], object]) -> None:
        until = time.monotonic() + WITHIN_SECONDS
        while not true():
            assert time.monotonic() < until, self.said()
            time.sleep(0.1)

    def left(self) -> list[str]:
        """Command lines of processes that were started here and still run."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.cwd().startswith(str(self.folder)):
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        return found

    def version(self) -> str | None:
        """The version that answers, None while none does."""
        try:
            found: str | None = httpx.get(f"{self.api}/readyz").json().get("model_version")
            return found
        except httpx.TransportError:
            return None


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    """One workplace that the tests use one after the other, as a user would."""
    yield from _workplace(tmp_path_factory.mktemp("used"))


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Workplace]:
    yield from _workplace(tmp_path)


def _workplace(folder: Path) -> Iterator[Workplace]:
    workplace = Workplace(folder)
    yield workplace
    for up in workplace.ups:
        if up.poll() is None:
            up.kill()
            up.wait()
    workplace.run("down")


def test_the_first_up_trains_on_the_demo_world_serves_and_lets_the_other_kinds_compete(used: Workplace) -> None:
    used.up()
    said = used.wait_for("stop it with Ctrl-C")
    assert re.search(r"demo world: [\d,]+ synthetic reviews", said)
    curl = re.search(r"try it:\n  (curl .+)\n", said)
    assert curl is not None
    answer = subprocess.run(curl[1], shell=True, capture_output=True, text=True, check=True)  # noqa: S602
    assert json.loads(answer.stdout)["prediction"] in ("Negative", "Neutral", "Positive")

    csv = {"file": ("reviews.csv", b"review_text\nCrashes all day\nLove it\n")}
    predicted = httpx.post(f"{used.api}/predict", files=csv).text.splitlines()
    assert [line.split(",")[0] for line in predicted] == ["review_text", "Crashes all day", "Love it"]

    used.wait_until(lambda: used.answer("jobs")["jobs"][0]["state"] not in ("queued", "running"))
    assert used.answer("jobs")["jobs"][0]["error"] is None
    listed = used.answer("models", "list")
    assert sorted(version["kind"] for version in listed["versions"]) == ["lr", "nbsvm", "rf", "xgb"]
    used.wait_for("training: done")
    decided = [entry["decision"] for entry in used.answer("timeline")["entries"]]
    verdicts = [decision["reason"] for decision in decided if decision["actor"] == "gate"]
    assert len(verdicts) == 4
    assert [decision["action"] for decision in decided].count("train") == 4
    assert all(reason in used.said() for reason in verdicts)
    alias = f"{used.mlflow}/api/2.0/mlflow/registered-models/alias?name=MobileSentimentModel&alias=Production"
    assert httpx.get(alias).json()["model_version"]["version"] == listed["champion"]


def test_a_decision_of_a_person_reaches_the_running_server(used: Workplace) -> None:
    listed = used.answer("models", "list")
    before = listed["champion"]
    other = next(version["version"] for version in listed["versions"] if version["version"] != before)
    assert used.answer("promote", other, "--reason", "a try")["version"] == other
    used.wait_until(lambda: used.version() == other)
    assert used.run("rollback", "--reason", "it was worse").code == 0
    used.wait_until(lambda: used.version() == before)
    decided = [entry["decision"]["action"] for entry in used.answer("ledger")["entries"][-2:]]
    assert decided in (["override", "rollback"], ["promote", "rollback"])
    checks = used.answer("verify")
    assert checks["whole"], checks
    assert all(check["passed"] for check in checks["checks"])
    assert "macro_f1" in used.answer("models", "show", before)["metrics"]
    assert used.run("models", "show", "99").code == 7
    assert used.run("promote", "99", "--reason", "x").code == 7


def test_what_a_model_learned_from_can_be_shown(used: Workplace) -> None:
    (fingerprint, *_) = used.answer("dataset", "list")["datasets"]
    shown = used.answer("dataset", "show", fingerprint[:8])
    assert shown["fingerprint"] == fingerprint
    assert all(sum(shown["rows"][part].values()) > 0 for part in ("train", "validation", "test"))
    assert set(used.answer("dataset", "diff", fingerprint, fingerprint).values()) == {0}


def test_a_second_up_says_who_is_there(used: Workplace, fresh: Workplace) -> None:
    pid = used.ups[-1].pid
    same = used.run("up")
    assert (same.code, same.out) == (6, "")
    assert f"pid {pid}" in same.err
    fresh.environment = used.environment
    elsewhere = fresh.run("up")
    assert elsewhere.code == 6
    assert re.match(r"error: port \d+ \(api.port\) is in use by process \d+ ", elsewhere.err)
    status = used.answer("status")
    assert (status["up_pid"], status["mlflow"]) == (pid, "answers")
    assert status["api"].startswith("ready, version ")


def test_ctrl_c_stops_all_and_keeps_the_data(used: Workplace) -> None:
    used.ups[-1].send_signal(signal.SIGINT)
    assert used.ups[-1].wait(60) == 130
    assert used.left() == []
    status = used.answer("status")
    assert status["up_pid"] is None
    assert status["champion"] is not None
    assert status["reviews"] > 2500


def test_the_next_up_serves_at_once(used: Workplace) -> None:
    used.up()
    said = used.wait_for("try it:")
    assert "synthetic" not in said
    assert re.search(r"serving after \d+ s", said)
    used.wait_for("MLflow: answers")


def test_up_after_a_killed_one_replaces_what_it_left_and_takes_files_in(used: Workplace) -> None:
    used.ups[-1].kill()
    used.ups[-1].wait()
    assert used.version() is not None
    (used.folder / "own.csv").write_text("review_id,review_text,rating\nown-1,Fine by me,4\n")
    used.up("--data", "own.csv")
    said = used.wait_for("reviews: 1 read: 1 new")
    assert "an earlier `mso up` was killed" in said


def test_a_child_that_dies_ends_all_with_its_last_words(used: Workplace) -> None:
    api = next(one for one in Processes(used.folder / "workspace").running() if one.name == "api")
    os.kill(api.pid, signal.SIGKILL)
    assert used.ups[-1].wait(60) == 1
    assert "error: api ended with exit code -9, so everything is stopped" in used.said()
    assert "model loaded" in used.said()
    assert used.left() == []


def test_a_first_run_that_was_killed_in_the_middle_is_continued_and_put_down(fresh: Workplace) -> None:
    fresh.up()
    fresh.wait_for("first model: training lr")
    fresh.ups[-1].kill()
    fresh.ups[-1].wait()
    found = fresh.run("down")
    assert (found.code, found.err) == (0, "")
    assert "nothing runs any more" in found.out
    assert fresh.left() == []
    fresh.up()
    fresh.wait_for("try it:")
    assert fresh.run("down").code == 0
    assert fresh.ups[-1].wait(10) == 0
    assert fresh.left() == []


def test_a_file_that_cannot_be_used_ends_up_with_the_reason(fresh: Workplace) -> None:
    (fresh.folder / "notes.csv").write_text("day,note\nMonday,rain\n")
    assert fresh.up("--data", "notes.csv").wait(90) == 3
    assert "error: notes.csv: no column holds the review's text" in fresh.said()
    assert fresh.left() == []
