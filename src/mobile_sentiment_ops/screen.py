"""How a command goes, for a person: bars on a terminal, plain lines with seconds elsewhere; and tables."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

WIDE = 1_000  # columns: what is no terminal cuts nothing off


def console(*, stderr: bool = False) -> Console:
    """A console without colour when piped or when NO_COLOR is set."""
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if terminal else WIDE, highlight=False, markup=False, emoji=False)


class Screen:
    """Steps with bars and elapsed time. `quiet` leaves out what is not for a terminal."""

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        self._console = console(stderr=stderr)
        self.live = self._console.is_terminal
        self._quiet = quiet and not self.live
        self._started = time.monotonic()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", markup=False, table_column=Column(ratio=1, no_wrap=True)),
            console=self._console,
            expand=True,
            transient=True,
            disable=not self.live,
        )

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def step(self, name: str) -> Step:
        """Begin a step."""
        return Step(self, self._progress, name)

    def say(self, text: str) -> None:
        """Lines that stay. A terminal that is gone stops nothing, least of all what has to be ended."""
        if not self._quiet:
            with suppress(OSError, SystemExit):  # Rich ends the program when its pipe is closed
                self._console.print(text, soft_wrap=True)

    def line(self, mark: str, text: str) -> None:
        """A line that stays, with the seconds since the beginning."""
        self.say(f"{mark if self.live else ''}[{time.monotonic() - self._started:6.1f} s] {text}")


class Step:
    """One step: a bar while it runs, a line when it is done; only lines where there is no terminal."""

    def __init__(self, screen: Screen, progress: Progress, name: str) -> None:
        self._screen = screen
        self._progress = progress
        self._name = name
        self._detail = ""
        self._task = progress.add_task(name, total=None, detail="")

    def at(self, detail: str, share: float | None = None) -> None:
        """What is done now, and the share that is done, 0..1."""
        self._progress.update(self._task, detail=detail, total=None if share is None else 1.0, completed=share or 0.0)
        if detail != self._detail and not self._screen.live:
            self._screen.line("  ", f"{self._name}: {detail}")
        self._detail = detail

    def done(self, detail: str) -> None:
        """How it ended."""
        self._progress.remove_task(self._task)
        self._screen.line("✓ ", f"{self._name}: {detail}")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Rows under their names on stdout; numbers stand at the right, nothing is a dash."""
    shown = [["-" if cell is None else str(cell) for cell in row] for row in rows]
    made = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for at, name in enumerate(columns):
        right = all(row[at].strip("-").replace(".", "", 1).isdigit() or row[at] == "-" for row in shown)
        made.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in shown:
        made.add_row(*row)
    with (out := console()).capture() as lines:
        out.print(made)
    print("\n".join(line.rstrip() for line in lines.get().splitlines()))
