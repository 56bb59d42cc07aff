"""Commands about what may train: batches list, show, admit, refuse."""

from __future__ import annotations

from typing import Annotated

import typer

from mobile_sentiment_ops.cli.session import Json, answer, session_of
from mobile_sentiment_ops.errors import NotFound
from mobile_sentiment_ops.types import Admission

Batch = Annotated[str, typer.Argument(metavar="BATCH")]
Reason = Annotated[str, typer.Option(help="Why, for the ledger.")]

commands = typer.Typer(rich_markup_mode=None)
batches = typer.Typer(rich_markup_mode=None, help="New reviews before they train: admitted, held or refused.")
commands.add_typer(batches, name="batches")


@batches.command("list")
def batches_list(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="Most batches shown.")] = 20,
    as_json: Json = False,
) -> None:
    """List training batches, newest first.

    \b
    mso batches list
    """
    found = session_of(context).platform().state.batches(limit)
    rows = [
        (one.batch_id, one.admission, one.rows, ", ".join(one.apps) or "all", f"{one.until:%Y-%m-%d %H:%M}", one.actor)
        for one in found
    ]
    answer(as_json, {"batches": found}, ("batch", "", "reviews", "apps", "until (UTC)", "by"), rows)


@batches.command("show")
def batches_show(context: typer.Context, batch: Batch, as_json: Json = False) -> None:
    """Show every alarm of one batch: what was measured, the limit, and why.

    \b
    mso batches show 9c41d0aa
    """
    every = session_of(context).platform().state.batches(1_000_000)
    found = next((one for one in every if one.batch_id == batch), None)
    if found is None:
        raise NotFound(f"there is no training batch {batch!r}; `mso batches list` shows the kept ones")
    rows: list[tuple[object, ...]] = [("", found.admission, "", "", reason) for reason in found.reasons]
    for one in found.measured:
        shown = (None if figure is None else f"{figure:.3f}" for figure in (one.value, one.limit))
        rows.append(("ALARM" if one.fired else "", one.name, *shown, one.reason))
    answer(as_json, found, ("", "alarm", "value", "limit", "reason"), rows)


@batches.command("admit")
def batches_admit(context: typer.Context, batch: Batch, reason: Reason, as_json: Json = False) -> None:
    """Let a held batch train, from the next retrain on.

    \b
    mso batches admit 9c41d0aa --reason "the outage on Monday was real"
    """
    _rule(context, batch, Admission.ADMITTED, reason, as_json)


@batches.command("refuse")
def batches_refuse(context: typer.Context, batch: Batch, reason: Reason, as_json: Json = False) -> None:
    """Keep a batch out of training for good.

    \b
    mso batches refuse 9c41d0aa --reason "a paid campaign"
    """
    _rule(context, batch, Admission.REFUSED, reason, as_json)


def _rule(context: typer.Context, batch: str, admission: Admission, reason: str, as_json: bool) -> None:
    from mobile_sentiment_ops.app.admission import rule
    from mobile_sentiment_ops.bootstrap import actor

    found = rule(session_of(context).platform().state, batch, admission, actor=actor(), reason=reason)
    answer(as_json, found, ("", ""), [(found.admission, f"batch {found.batch_id}, {found.rows:,} reviews")])
