"""uvicorn's HTTP protocol, in which a small request to a hot path is answered when its last byte is there.

For such a request no scope is made, no task, no cycle of messages and no timer, which are two thirds of what a
server spends on it. All other requests, and these as long as an earlier one of their connection is not
answered, take uvicorn's own way.
"""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from mobile_sentiment_ops.app.hot import Dispatcher

HOT_URLS = {b"/predict_json": "/predict_json", b"/predict": "/predict"}


class PlainHttp(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        assert isinstance(config.app, Dispatcher)  # noqa: S101
        self._dispatcher = config.app
        self._path: str | None = None
        """The hot path that the request goes to, which is answered here; None for any other request."""
        self._known: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._answered_at = 0.0
        self._closer: asyncio.TimerHandle | None = None

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self._path = None

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        path = HOT_URLS.get(self.url)
        if path is not None and self._at_once(path):
            self._path, self._body = path, []
            return
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()

    def _at_once(self, path: str) -> bool:
        """Whether this request is answered by `respond`: it is next in turn, and nothing about it is odd."""
        headers = self._known = dict(self.headers)
        length = headers.get(b"content-length", b"")
        parser, cycle = self.parser, self.cycle
        return (
            length.isdigit()
            and int(length) <= self._dispatcher.at_once
            and b"expect" not in headers
            and b"upgrade" not in headers
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and (cycle is None or cycle.response_complete)
            and not (self._dispatcher.waits or self.flow.write_paused)
            and self._dispatcher.is_hot(path, headers)
        )

    def on_body(self, body: bytes) -> None:
        if self._path is None:
            super().on_body(body)
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._path is None:
            super().on_message_complete()
            return
        transport = self.transport
        if transport.is_closing():
            return
        pieces, every = self._body, self.server_state.default_headers
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        date = every[0][1] if every else formatdate(usegmt=True).encode()  # uvicorn has one from its first second on
        close = self._dispatcher.closing or not self.parser.should_keep_alive()
        transport.write(self._dispatcher.respond(self._path, self._known, body, date, close=close))
        self._path = None
        self.server_state.total_requests += 1
        if close:
            transport.close()
            return
        self._answered_at = self.loop.time()
        if self._closer is None:
            self._closer = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)

    def _close_if_idle(self) -> None:
        """In the place of a timer that each request sets and stops: one that looks when it may be time."""
        self._closer = None
        busy = self._path is not None or (self.cycle is not None and not self.cycle.response_complete)
        left = self.timeout_keep_alive if busy else self._answered_at + self.timeout_keep_alive - self.loop.time()
        if left > 0.001:
            self._closer = self.loop.call_later(left, self._close_if_idle)
        elif self.timeout_keep_alive_task is None:  # else uvicorn's own closes it
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._closer is not None:
            self._closer.cancel()
        super().connection_lost(exc)
