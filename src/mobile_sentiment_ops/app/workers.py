"""The processes of a server: a parent that owns the address, workers that answer, and one keeper.

    parent   listens, opens the compiled champion, forks the others and puts another in the place of one that ended
    worker   answers; what it needs is loaded before the fork, so that the pages are shared
    keeper   publishes the champion, drains the spools, brings answers to the bucket (app/upkeep.py)

SIGTERM and Ctrl-C end it in order: the workers finish what they were asked, then the keeper drains what they
left. Whoever loses its parent ends by itself.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

import structlog
import uvicorn

from mobile_sentiment_ops.app.guard import guard_notice
from mobile_sentiment_ops.app.hot import Dispatcher
from mobile_sentiment_ops.app.ml_server import Shared, create_app
from mobile_sentiment_ops.app.plain_http import PlainHttp
from mobile_sentiment_ops.app.upkeep import Upkeep, keeper_tasks
from mobile_sentiment_ops.bootstrap import Platform
from mobile_sentiment_ops.errors import MsoError, SettingsError
from mobile_sentiment_ops.models.compiled import CompiledModel
from mobile_sentiment_ops.settings import Api

log = structlog.get_logger()

FAREWELL_SECONDS = 1.0
"""So long connections that are kept open are answered for the last time before they are closed."""

DRAIN_SECONDS = 28.0
KEEPER_SECONDS = 25.0
LOOK_SECONDS = 0.1
AGAIN_SECONDS = 1.0
"""A process that ended sooner than this after its start is not replaced sooner either."""

SWITCH_SECONDS = 0.0005
"""How long a thread that computes may keep others from running: CSV files are answered beside single texts."""


def serve(platform: Platform, *, train_if_missing: bool = True) -> None:
    """Answer at the configured address until SIGTERM or Ctrl-C; requests in flight are finished.

    Raises SettingsError when that address cannot be listened on.
    """
    api = platform.settings.api
    listener = _listen(api)
    if notice := guard_notice(api, platform.keys):
        log.warning(notice)
    shared = Shared.by(api.workers)
    _warm(platform)
    family = _Family()
    for slot in range(api.workers):
        family.add(f"worker {slot}", lambda slot=slot: _work(platform, listener, shared, slot))  # type: ignore[misc]
    family.add("keeper", lambda: _keep(platform, listener, train_if_missing=train_if_missing))
    log.info("listening", host=api.host, port=api.port, workers=api.workers)
    family.live(at_the_end=listener.close)


def _listen(api: Api) -> socket.socket:
    family = socket.AF_INET6 if ":" in api.host else socket.AF_INET
    try:
        return socket.create_server((api.host, api.port), family=family, backlog=2048)
    except OSError as err:
        why = (err.strerror or str(err)).partition(" (")[0]
        if err.errno is not None and err.errno < 0:  # as getaddrinfo says that there is no such name
            raise SettingsError(f"api.host is {api.host!r}: {why}; set it to an address of this machine") from err
        raise SettingsError(
            f"the API cannot listen on {api.host} port {api.port}: {why}; "
            f"stop what listens there, or set api.port (MSO_API__PORT)"
        ) from err


def _warm(platform: Platform) -> None:
    """Load what every worker needs, once; a model that cannot be opened is the workers' to tell of."""
    import uvloop  # noqa: F401

    with suppress(MsoError):
        if (published := platform.live.published()) is not None and published.champion is not None:
            compiled = platform.live.compiled(published.champion.bundle_hash)
            CompiledModel.of(compiled, published.sha256).one("warm")
    gc.collect()
    gc.freeze()


# --- the parent


@dataclass
class _Child:
    name: str
    run: Callable[[], None]
    pid: int = 0
    started: float = 0.0
    due: float = 0.0
    """When it is started, while it has no pid."""


class _Family:
    """Children that are replaced when they end, until the parent is told to end."""

    def __init__(self) -> None:
        self._children: list[_Child] = []
        self._told = 0

    def add(self, name: str, run: Callable[[], None]) -> None:
        """One more child; the last one is ended after the others."""
        self._children.append(_Child(name, run))

    def live(self, at_the_end: Callable[[], None]) -> None:
        """Run until SIGTERM or SIGINT; what is to be done `at_the_end` is done before the children end."""
        for sign in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sign, self._tell)
        while not self._told:
            for child in self._children:
                if not child.pid and time.monotonic() >= child.due:
                    self._start(child)
            time.sleep(LOOK_SECONDS)
            self._bury()
        at_the_end()
        workers, keeper = self._children[:-1], self._children[-1:]
        self._end(workers, signal.SIGTERM, FAREWELL_SECONDS + DRAIN_SECONDS)
        self._end(keeper, signal.SIGUSR1, KEEPER_SECONDS)

    def _tell(self, _sign: int, _frame: FrameType | None) -> None:
        self._told += 1

    def _start(self, child: _Child) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        child.started = time.monotonic()
        if pid := os.fork():
            child.pid = pid
            return
        code = 1
        try:
            for sign in (signal.SIGTERM, signal.SIGINT):
                signal.signal(sign, signal.SIG_DFL)
            child.run()
            code = 0
        except KeyboardInterrupt:
            code = 130
        except BaseException:
            log.exception("process failed", process=child.name)
        finally:
            os._exit(code)  # nothing of the parent's is to be cleaned up here

    def _bury(self) -> None:
        for child in self._children:
            if child.pid:
                pid, status = os.waitpid(child.pid, os.WNOHANG)
                if pid:
                    child.pid = 0
                    child.due = child.started + AGAIN_SECONDS
                    if not self._told:
                        code = os.waitstatus_to_exitcode(status)
                        log.warning("process ended and is replaced", process=child.name, code=code)

    def _end(self, children: list[_Child], sign: signal.Signals, seconds: float) -> None:
        """Tell them to end and wait; those that do not, or all when the parent is told once more, are killed."""
        deadline, told = time.monotonic() + seconds, self._told
        _tell_all(children, sign)
        while any(child.pid for child in children):
            time.sleep(LOOK_SECONDS / 4)
            self._bury()
            if time.monotonic() > deadline or self._told > told:
                log.warning("processes are killed", processes=[child.name for child in children if child.pid])
                _tell_all(children, signal.SIGKILL)
                deadline, told = float("inf"), self._told


def _tell_all(children: list[_Child], sign: signal.Signals) -> None:
    for child in children:
        if child.pid:
            with suppress(ProcessLookupError):
                os.kill(child.pid, sign)


# --- its children


class _Server(uvicorn.Server):
    """Takes leave of connections that are kept open: each is answered once more and told to close, so that no
    request is lost that was on its way when the server was told to end."""

    def __init__(self, config: uvicorn.Config, app: Dispatcher, parent: int) -> None:
        super().__init__(config)
        self._app = app
        self._parent = parent

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0 and os.getppid() != self._parent:
            log.warning("the parent is gone, so this worker ends")
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await self._accept_the_last(sockets or [])
        self._app.closing = True
        deadline = time.monotonic() + FAREWELL_SECONDS
        while self.server_state.connections and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)

    async def _accept_the_last(self, sockets: list[socket.socket]) -> None:
        """Stop listening, after taking the connections that are made already: closing would reset them."""
        loop, waiting = asyncio.get_running_loop(), []
        for listener in sockets:
            with suppress(BlockingIOError):
                while True:
                    waiting.append(listener.accept()[0])
        for server in self.servers:
            server.close()
        for listener in sockets:
            listener.close()
        for connection in waiting:
            await loop.connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> asyncio.Protocol:
        made = self.config.http_protocol_class
        return made(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)  # type: ignore[call-arg]


def _work(platform: Platform, listener: socket.socket, shared: Shared, slot: int) -> None:
    sys.setswitchinterval(SWITCH_SECONDS)
    app = create_app(platform, keep=False, shared=shared, slot=slot)
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=PlainHttp,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=int(DRAIN_SECONDS),
    )
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # answers leave no cycles; a collection would hold up whoever asks then
    _Server(config, app, os.getppid()).run(sockets=[listener])


def _keep(platform: Platform, listener: socket.socket, *, train_if_missing: bool) -> None:
    told = False

    def tell(_sign: int, _frame: FrameType | None) -> None:
        nonlocal told
        told = True

    signal.signal(signal.SIGUSR1, tell)  # before all that takes time: a server may be ended as soon as it answers
    for sign in (signal.SIGTERM, signal.SIGINT):  # these may reach all at once; the parent says when it is time
        signal.signal(sign, signal.SIG_IGN)
    listener.close()
    parent = os.getppid()
    upkeep = Upkeep(keeper_tasks(platform, train_if_missing=train_if_missing))
    upkeep.start()
    while not told and os.getppid() == parent:
        time.sleep(0.2)
    upkeep.stop()
