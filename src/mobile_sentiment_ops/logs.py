"""How the programs of this package log: one event a step, with fields. Shells call this once."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog

from mobile_sentiment_ops.settings import Logs


def configure_logs(logs: Logs, output: TextIO | None = None) -> None:
    """Send structlog events to `output`, else stderr, as settings say: JSON lines, or text for a person.

    Texts of reviews are never logged.
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
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(output),
        cache_logger_on_first_use=False,
    )
