from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest

from mobile_sentiment_ops.adapters.memory import MemoryFiles
from mobile_sentiment_ops.app import outbox as outbox_module
from mobile_sentiment_ops.app.outbox import Outbox
from mobile_sentiment_ops.errors import StoreError, Unavailable


class Bucket(MemoryFiles):
    """A bucket that can be away."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False

    def write(self, name: str, data: bytes) -> str:
        if self.away:
            raise Unavailable("the bucket is away")
        return super().write(name, data)


@pytest.fixture
def bucket() -> Bucket:
    return Bucket()


@pytest.fixture
def outbox(tmp_path: Path, bucket: Bucket) -> Outbox:
    return Outbox(tmp_path / "answers", lambda: bucket)


def writing(text: str) -> Callable[[TextIO], None]:
    def write(out: TextIO) -> None:
        out.write(text)

    return write


def test_an_answer_is_given_back_and_then_sent(outbox: Outbox, bucket: Bucket, tmp_path: Path) -> None:
    with outbox.keep("predicted_1.csv", writing("review_text\nça va\n")) as answer:
        outbox.send()
        assert answer.read() == "review_text\nça va\n".encode()
    assert bucket.read("data_prediction/predicted_1.csv") == "review_text\nça va\n".encode()
    assert list((tmp_path / "answers").iterdir()) == []


def test_answers_wait_while_the_bucket_is_away(outbox: Outbox, bucket: Bucket) -> None:
    bucket.away = True
    for number in (1, 2):
        outbox.keep(f"predicted_{number}.csv", writing("x")).close()
    with pytest.raises(Unavailable):
        outbox.send()
    assert outbox.fault == "the bucket is away"
    bucket.away = False
    outbox.send()
    assert outbox.fault == ""
    assert bucket.list("data_prediction/") == ["data_prediction/predicted_1.csv", "data_prediction/predicted_2.csv"]


def test_answers_that_an_ended_server_left_are_sent(tmp_path: Path, bucket: Bucket) -> None:
    Outbox(tmp_path, lambda: bucket).keep("predicted_1.csv", writing("x")).close()
    Outbox(tmp_path, lambda: bucket).send()
    assert bucket.list() == ["data_prediction/predicted_1.csv"]


def test_an_answer_that_fails_leaves_nothing(outbox: Outbox, bucket: Bucket, tmp_path: Path) -> None:
    def write(out: TextIO) -> None:
        out.write("half")
        raise StoreError("no room for the prediction log")

    with pytest.raises(StoreError, match="no room for the prediction log"):
        outbox.keep("predicted_1.csv", write)
    assert list((tmp_path / "answers").iterdir()) == []


def test_what_is_being_written_is_not_sent(outbox: Outbox, bucket: Bucket) -> None:
    def write(out: TextIO) -> None:
        out.write("half")
        out.flush()
        outbox.send()
        out.write("whole")

    outbox.keep("predicted_1.csv", write).close()
    assert bucket.list() == []
    outbox.send()
    assert bucket.read("data_prediction/predicted_1.csv") == b"halfwhole"


def test_a_killed_server_leaves_no_half_answer_for_long(outbox: Outbox, bucket: Bucket, tmp_path: Path) -> None:
    half = tmp_path / "answers" / ".part-predicted_1.csv"
    half.parent.mkdir()
    half.write_text("half")
    outbox.send()
    assert half.exists()
    os.utime(half, (0, 0))
    outbox.send()
    assert not half.exists()
    assert bucket.list() == []


def test_answers_are_given_back_but_not_kept_when_too_much_waits(
    outbox: Outbox, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "MAX_WAITING_BYTES", 10)
    outbox.keep("predicted_1.csv", writing("12345678")).close()
    with outbox.keep("predicted_2.csv", writing("1234")) as answer:
        assert answer.read() == b"1234"
    outbox.send()
    assert bucket.list() == ["data_prediction/predicted_1.csv"]


def test_a_folder_that_cannot_be_written_is_a_store_error(tmp_path: Path, bucket: Bucket) -> None:
    (tmp_path / "answers").write_text("a file")
    with pytest.raises(StoreError, match=r"the answer cannot be written in .*answers"):
        Outbox(tmp_path / "answers", lambda: bucket).keep("predicted_1.csv", writing("x"))


def test_answers_are_kept_while_others_are_sent(tmp_path: Path) -> None:
    """Two servers on one folder, each keeping and sending: every answer arrives, and none fails."""
    bucket = Bucket()
    failed: list[BaseException] = []

    def serve(server: int) -> None:
        outbox = Outbox(tmp_path, lambda: bucket)
        try:
            for number in range(100):
                outbox.keep(f"predicted_{server}_{number}.csv", writing("x")).close()
                outbox.send()
        except BaseException as err:
            failed.append(err)

    threads = [threading.Thread(target=serve, args=(server,)) for server in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(bucket.list()) == 400
