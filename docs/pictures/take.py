"""Take the picture of `make up` for the README: what a real run prints, as an SVG.

    python docs/pictures/take.py

runs `mso up` in an empty folder on a terminal of its own until all kinds are compared, and stops it. The
lines are as they were printed, without the moving bars; the folder's name is shortened to `~`.
"""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

COLUMNS = 112
PICTURE = Path(__file__).with_name("up.svg")
WITHIN_SECONDS = 900.0
ALL_COMPARED = re.compile(r"✓ \[ *[\d.]+ s\] training: done")
KEPT = re.compile(r"✓ \[|    version |serving after|  (API|MLflow|data) |try it:|  curl |stop it with")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def main() -> None:
    """Run, record, draw."""
    with tempfile.TemporaryDirectory() as folder:
        printed = _run(folder).replace(folder, "~")
    kept = [line.rstrip() for line in re.split(r"[\r\n]+", ESCAPES.sub("", printed)) if KEPT.match(line)]
    lines = list(dict.fromkeys(kept))  # a terminal that is drawn anew gets a line again
    PICTURE.write_text(draw(lines), "utf-8")
    print(f"{PICTURE.name}: {len(lines)} lines")


def _run(folder: str) -> str:
    """What `mso up` prints in that folder, from its start to its end."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "mobile_sentiment_ops", "up"]
    with subprocess.Popen(command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        printed, until, asked = "", time.monotonic() + WITHIN_SECONDS, False
        while True:
            try:
                printed += os.read(ours, 65_536).decode("utf-8", "replace")
            except OSError:  # the other end is closed
                break
            if not asked and (ALL_COMPARED.search(ESCAPES.sub("", printed)) or time.monotonic() > until):
                process.send_signal(signal.SIGINT)
                asked = True
    os.close(ours)
    if not ALL_COMPARED.search(ESCAPES.sub("", printed)):
        raise SystemExit(f"`mso up` did not come to its end:\n{printed[-3000:]}")
    return printed


def draw(lines: list[str]) -> str:
    """The lines as an SVG that needs no font of another host."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False)
    console.print(Text("$ make up", style="bold"))
    for line in lines:
        if line.startswith(("serving after", "try it:", "stop it")):
            console.print()
        text = Text(line)
        text.highlight_regex(r"^✓", "green")
        text.highlight_regex(r"^serving after .*|^try it:", "bold")
        text.highlight_regex(r"https?://[^\s')]+", "cyan")
        console.print(text)
    picture = console.export_svg(title="make up", theme=DIMMED_MONOKAI)
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)


if __name__ == "__main__":
    main()
