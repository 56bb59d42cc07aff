"""uvicorn's HTTP protocol, in which a small request to a hot path is answered when its last byte is there.

For such a request no scope is made, no task and no cycle of messages, which are two thirds of what a server
spends on it. All other requests, and these as long as an earlier one of their connection is not answered,
take uvicorn's own way.
"""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from mobile_sentiment_ops.app.hot import BODY_AT_ONCE, Dispatcher

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
        self._known: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []

    def on_message_begin(self) -> None:
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        path = HOT_URLS.get(self.url)
        if path is not None and self._at_once(path):
            self._path, self._parts = path, []
            return
        self._path = None
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()

    def _at_once(self, path: str) -> bool:
        """Whether this request is answered by `respond`: it is next in turn, and nothing about it is odd."""
        headers = self._known = dict(self.headers)
        length = headers.get(b"content-length", b"")
        return (
            (self.cycle is None or self.cycle.response_complete)
            and length.isdigit()
            and int(length) <= BODY_AT_ONCE
            and not (self._dispatcher.waits or self.expect_100_continue or self.flow.write_paused)
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and not self.parser.should_upgrade()
            and self._dispatcher.is_hot(path, headers)
        )

    def on_body(self, body: bytes) -> None:
        if self._path is None:
            super().on_body(body)
        else:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        if self._path is None:
            super().on_message_complete()
            return
        if self.transport.is_closing():
            return
        parts, every = self._parts, self.server_state.default_headers
        date = every[0][1] if every else formatdate(usegmt=True).encode()  # uvicorn has one from its first second on
        close = self._dispatcher.closing or not self.parser.should_keep_alive()
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        self.transport.write(self._dispatcher.respond(self._path, self._known, body, date, close=close))
        if close:
            self.transport.close()
        self.on_response_complete()
