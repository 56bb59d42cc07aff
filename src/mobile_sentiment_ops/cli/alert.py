"""Commands about what is not well: alert test, list."""

from __future__ import annotations

from typing import Annotated

import typer

from mobile_sentiment_ops.cli.session import Json, answer, session_of

commands = typer.Typer(rich_markup_mode=None)
alert = typer.Typer(rich_markup_mode=None, help="Incidents, and the channels that tell of them.")
commands.add_typer(alert, name="alert")


@alert.command("test")
def alert_test(context: typer.Context, as_json: Json = False) -> None:
    """Send a test by every channel that the settings name; ends with 5 if one did not take it.

    \b
    mso alert test
    """
    found = session_of(context).platform(story=True).incidents.test()
    rows = [(name, fault or "ok") for name, fault in found.items()]
    answer(as_json, {"channels": {name: fault or None for name, fault in found.items()}}, ("channel", ""), rows)
    if any(found.values()):
        raise typer.Exit(5)


@alert.command("list")
def alert_list(
    context: typer.Context,
    open_only: Annotated[bool, typer.Option("--open", help="Only what is not over.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Most incidents shown.")] = 50,
    as_json: Json = False,
) -> None:
    """List incidents, newest first: what was not well, from when until when.

    \b
    mso alert list --open
    mso alert list --json
    """
    found = session_of(context).platform().state.incidents(open_only=open_only, limit=limit)
    rows = []
    for one in found:
        times = (at and f"{at:%Y-%m-%d %H:%M}" for at in (one.opened_at, one.seen_at, one.closed_at))
        rows.append((one.severity, one.key, one.title, *times, one.detail))
    columns = ("severity", "key", "what", "since (UTC)", "last seen", "over", "detail")
    answer(as_json, {"incidents": found}, columns, rows)
