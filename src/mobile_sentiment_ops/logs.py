"""How the programs of this package log: one event a step, with fields. Shells call this once."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

from mobile_sentiment_ops.settings import Logs


def configure_logs(logs: Logs, output: TextIO | None = None) -> None:
    """Send structlog events to `output`, else stderr, as settings say: JSON lines, or text for a person.

    Texts of reviews are never logged. Warnings that libraries log come as events, too.
    """
    output = output or sys.stderr
    level = getattr(logging, logs.level.upper())
    readable = logs.format == "console" or (logs.format == "auto" and output.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=output.isatty())
        if readable
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _fault_of_a_request,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(output),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    if not any(isinstance(handler, _ToStructlog) for handler in root.handlers):
        root.addHandler(_ToStructlog(logging.WARNING))


class _ToStructlog(logging.Handler):
    """What libraries log, as our events."""

    def emit(self, record: logging.LogRecord) -> None:
        event = structlog.get_logger().bind(logger=record.name)
        event.log(record.levelno, record.getMessage().strip(), exc_info=record.exc_info)


def _fault_of_a_request(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A fault in a request by its kinds and places alone: messages of exceptions may hold what the caller sent."""
    if event.get("exc_info") and ("request_id" in event or event.get("logger") in ("uvicorn.error", "asyncio")):
        given, told = event.pop("exc_info"), []
        err = given if isinstance(given, BaseException) else (given if isinstance(given, tuple) else sys.exc_info())[1]
        while err is not None:
            told.append("".join(traceback.format_tb(err.__traceback__)) + type(err).__qualname__)
            err = err.__cause__ or err.__context__
        event["exception"] = "\n".join(reversed(told))
    return event
