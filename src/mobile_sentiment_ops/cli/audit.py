"""Commands that look back: timeline (ledger), why, verify, models diff, models rebuild."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated

import typer

from mobile_sentiment_ops.cli.models import models
from mobile_sentiment_ops.cli.session import Json, answer, session_of

commands = typer.Typer(rich_markup_mode=None)

LONGEST_TEXT, MOST_IDS = 160, 10


@commands.command("ledger", hidden=True)
@commands.command()
def timeline(
    context: typer.Context,
    action: Annotated[
        str | None, typer.Option(help="ingest, train, verdict, promote, override, rollback or key.")
    ] = None,
    since: Annotated[datetime | None, typer.Option(help="From this day or time (UTC) on.")] = None,
    version: Annotated[str | None, typer.Option(help="About this model version.")] = None,
    as_json: Json = False,
) -> None:
    """Print what was done and decided: when, by whom, about what, and why; newest last.

    \b
    mso timeline --since 2025-03-01
    mso timeline --action override
    mso timeline --version 3 --json
    """
    from mobile_sentiment_ops.app import audit

    entries = session_of(context).platform().state.ledger()
    found = audit.timeline(entries, action=action, since=since and since.replace(tzinfo=UTC), version=version)
    made = [(entry, entry.decision) for entry in found]
    rows = [(e.seq, f"{e.at:%Y-%m-%d %H:%M:%S}", d.actor, d.action, d.subject, d.reason) for e, d in made]
    answer(as_json, {"entries": found}, ("", "at (UTC)", "by", "action", "about", "reason"), rows)


@commands.command()
def why(context: typer.Context, version: str, as_json: Json = False) -> None:
    """Tell why a version is what it is: data, cost, comparison, figures, and who decided what.

    VERSION is a number or `champion`. Works while MLflow is away, if the model is on this disk.

    \b
    mso why champion
    mso why 3 --json
    """
    from mobile_sentiment_ops.registry.story import measured_rows, tell

    story = session_of(context).platform().audit.story(version)
    told = tell(story)
    if as_json:
        answer(True, {"story": story, "told": told}, (), ())
        return
    print("\n\n".join(told))
    if story.verdict and (rows := measured_rows(story.verdict.decision.figures)):
        print()
        answer(False, None, ("what the gate measured", "value", "interval", "limit"), rows)


@commands.command()
def verify(context: typer.Context, as_json: Json = False) -> None:
    """Check that the ledger, its anchors, the champion, the bundles and MLflow agree; ends with 1 if they do not.

    What cannot be reached is "not checked", which is no fault.

    \b
    mso verify && echo "nothing was changed"
    """
    checks = session_of(context).platform().audit.verify()
    faults = [check for check in checks if check.passed is False]
    words = {True: "ok", False: "FAULT", None: "not checked"}
    rows = [(check.what, words[check.passed], check.found) for check in checks]
    answer(as_json, {"whole": not faults, "checks": checks}, ("", "", "found"), rows)
    if faults:
        typer.echo(f"error: {faults[0].what}: {faults[0].found}", err=True)
        raise typer.Exit(1)


@models.command("diff")
def models_diff(
    context: typer.Context,
    before: str,
    after: str,
    limit: Annotated[int, typer.Option(min=0, help="Most reviews shown.")] = 20,
    as_json: Json = False,
) -> None:
    """Compare two versions on the test reviews of the second: figures, and the answers that changed.

    \b
    mso models diff 2 3
    mso models diff 2 3 --limit 100 --json
    """
    found = session_of(context).platform().audit.diff(before, after)
    if as_json:
        answer(True, replace(found, changed=found.changed[:limit]), (), ())
        return
    shown = [(name, f"{a:.4f}", f"{b:.4f}", f"{b - a:+.4f}") for name, (a, b) in found.figures.items()]
    answer(False, None, ("", f"version {before}", f"version {after}", "change"), shown)
    counts = ", ".join(f"{count:,} {name}" for name, count in found.counts.items())
    print(f"\n{len(found.changed):,} of {found.rows:,} answers changed: {counts}")
    if found.missing:
        print(f"{found.missing:,} test reviews are not in the table of reviews any more")
    if found.seen:
        print(f"{found.seen:,} of these reviews taught version {before}, so that its figures flatter it")
    rows = [(c.outcome, c.label, c.before, c.after, c.text[:LONGEST_TEXT]) for c in found.changed[:limit]]
    answer(False, None, ("", "label", f"version {before}", f"version {after}", "review"), rows)


@models.command("rebuild")
def models_rebuild(context: typer.Context, version: str, as_json: Json = False) -> None:
    """Train a version again from its manifest, parameters and seed, and compare its answers with the kept ones.

    Ends with 0 when every probability is the same, else with 1 and what differs.

    \b
    mso models rebuild 3
    """
    found = session_of(context).platform().audit.rebuild(version)
    if found.equal is None:
        said = f"not trained again: {len(found.missing):,} reviews are gone, {len(found.edited):,} were edited"
    elif found.equal:
        said = f"the same: all probabilities of {found.rows:,} test reviews are equal to the last bit"
    else:
        said = (
            f"not the same: probabilities of {found.rows:,} test reviews differ by up to {found.max_difference:.3g}, "
            f"{found.changed_answers:,} answers changed"
        )
    rows = [("result", said), *(("differs", one) for one in found.differences)]
    for name, ids in (("gone", found.missing), ("edited", found.edited)):
        more = f" and {len(ids) - MOST_IDS:,} more" if len(ids) > MOST_IDS else ""
        rows += [(name, ", ".join(ids[:MOST_IDS]) + more)] if ids else []
    answer(as_json, found, ("", ""), rows)
    if not found.equal:
        raise typer.Exit(1)
