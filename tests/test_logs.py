"""Log lines: JSON events, those of libraries too, and faults of requests without what was sent."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from typing import Any

import structlog

from mobile_sentiment_ops.logs import configure_logs
from mobile_sentiment_ops.settings import Logs


def logged(output: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.getvalue().splitlines()]


def fail(text: str = "Love it") -> None:
    try:
        int(text)
    except ValueError as err:
        raise RuntimeError(f"{text} is no number") from err


def test_a_fault_of_a_request_is_told_by_its_places_alone() -> None:
    configure_logs(Logs(format="json"), output := io.StringIO())
    log = structlog.get_logger()
    try:
        fail()
    except RuntimeError as err:
        log.exception("request failed", request_id="r-1")
        log.error("request failed", request_id="r-1", exc_info=err)
        logging.getLogger("uvicorn.error").exception("Exception in ASGI application\n")
    assert len(logged(output)) == 3
    for line in logged(output):
        cause, fault = line["exception"].split("ValueError\n")
        assert "in fail" in cause
        assert fault.endswith("\nRuntimeError")
        assert "Love it" not in json.dumps(line)


def test_a_fault_elsewhere_keeps_its_message() -> None:
    configure_logs(Logs(format="json"), output := io.StringIO())
    try:
        fail()
    except RuntimeError:
        structlog.get_logger().exception("process failed", process="keeper")
    (line,) = logged(output)
    assert line["exception"].endswith("RuntimeError: Love it is no number")


def test_warnings_of_libraries_are_events_once() -> None:
    configure_logs(Logs(format="json"), io.StringIO())
    configure_logs(Logs(format="json"), output := io.StringIO())
    logging.getLogger("urllib3").warning("Retrying %s", "it")
    logging.getLogger("urllib3").info("not told")
    (line,) = logged(output)
    assert (line["event"], line["level"], line["logger"]) == ("Retrying it", "warning", "urllib3")


def test_importing_it_leaves_the_logging_of_a_program_alone() -> None:
    source = "import logging, mobile_sentiment_ops.logs; assert logging.getLogger().handlers == []"
    subprocess.run([sys.executable, "-c", source], check=True)
