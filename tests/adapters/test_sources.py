from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from mobile_sentiment_ops.adapters.sources import open_url
from mobile_sentiment_ops.errors import Unavailable, UnreadableFile


def test_other_addresses_are_opened_through_fsspec() -> None:
    with fsspec.open("memory://bucket/may.csv", "wb") as file:
        file.write(b"text\nfine\n")
    with open_url("memory://bucket/may.csv") as stream:
        assert stream.read() == b"text\nfine\n"
        stream.seek(0)
        assert stream.read(4) == b"text"


@pytest.mark.parametrize("address", ["memory://bucket/nowhere.csv", "gopher://host/may.csv"])
def test_an_address_without_a_file_is_unreadable(address: str) -> None:
    with pytest.raises(UnreadableFile, match=f"{address} cannot be opened"), open_url(address):
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A folder on a web server of this machine."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    (tmp_path / "may.csv").write_bytes(b"text\n" + b"fine\n" * 100_000)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.integration
def test_a_file_on_a_web_server_is_read_whole(web: str) -> None:
    with open_url(f"{web}/may.csv") as stream:
        assert len(stream.read()) == 500_005


@pytest.mark.integration
def test_a_web_server_without_the_file_is_told_from_one_that_is_away(web: str, free_port: int) -> None:
    with pytest.raises(UnreadableFile, match=r"answered 404; expected a file of reviews"), open_url(f"{web}/june.csv"):
        pass
    away = f"http://127.0.0.1:{free_port}/may.csv"
    with pytest.raises(Unavailable, match=r"cannot be fetched after 3 attempts"), open_url(away):
        pass
