"""What every command starts from: its settings, the platform over them, and answers for scripts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TextIO

import typer

from mobile_sentiment_ops.errors import SettingsError

if TYPE_CHECKING:
    from mobile_sentiment_ops.bootstrap import Platform
    from mobile_sentiment_ops.settings import Resolved

Json = Annotated[bool, typer.Option("--json", help="Answer with one JSON document.")]


@dataclass
class Session:
    """The global options of one command line."""

    config: Path | None = None
    flags: dict[str, object] = field(default_factory=dict)
    debug: bool = False

    def read(self, config: Path | None, given: list[str]) -> None:
        """Take the options in. Processes that this one starts find them in the environment."""
        self.config = config
        if config is not None:
            os.environ["MSO_CONFIG"] = str(config.absolute())
        for pair in given:
            key, found, text = pair.partition("=")
            if not found:
                raise SettingsError(f"--set {pair}: expected KEY=VALUE, such as --set api.port=5002")
            self.flags[key] = text
            section, *own = key.split(".", 2)  # below these two, names are the user's and keep their case
            variable = "__".join([f"MSO_{section.upper()}", *map(str.upper, own[:1]), *own[1:]])
            os.environ[variable.replace(".", "__")] = text

    def settings(self, **more: object) -> Resolved:
        """The settings of all layers; `more` are flags of the command, with __ for the dot."""
        from mobile_sentiment_ops.bootstrap import find_settings
        from mobile_sentiment_ops.settings import from_text

        flags = {key: from_text(key, str(text)) for key, text in self.flags.items()}
        flags |= {key.replace("__", "."): value for key, value in more.items() if value is not None}
        found = find_settings(config=self.config, flags=flags)
        self.debug = found.settings.logs.level == "debug"
        return found

    def platform(self, *, story: bool = False, log: TextIO | None = None, **more: object) -> Platform:
        """The platform, with logs as the settings say, on stderr or into `log`. A command that tells how
        it goes by itself leaves the `story` out: only warnings are logged, unless a level was set. `more` as
        `settings` takes them."""
        from mobile_sentiment_ops.bootstrap import Platform
        from mobile_sentiment_ops.logs import configure_logs

        found = self.settings(**more)
        logs = found.settings.logs
        if not story and log is None and "logs.level" not in found.sources:
            logs = logs.model_copy(update={"level": "warning"})
        configure_logs(logs, log)
        return Platform(found.settings)


def session_of(context: typer.Context) -> Session:
    """The session that `main` gave to this command."""
    found: Session = context.find_object(Session) or Session()
    return found


def answer(as_json: bool, value: object, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """`value` as one JSON document, in which null is what could not be measured, or `rows` as a table."""
    if as_json:
        from pydantic_core import to_json

        print(to_json(value, indent=2, inf_nan_mode="null").decode())
    else:
        from mobile_sentiment_ops.screen import table

        table(columns, rows)
