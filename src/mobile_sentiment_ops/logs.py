"""How the programs of this package log: one event a step, with fields. Shells call this once."""

from __future__ import annotations

import logging
import sys

import structlog

from mobile_sentiment_ops.settings import Logs


def configure_logs(logs: Logs) -> None:
    """Send structlog events to stderr as settings say: JSON lines, or text for a person.

    Texts of reviews are never logged.
    """
    level = getattr(logging, logs.level.upper())
    readable = logs.format == "console" or (logs.format == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if readable
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
