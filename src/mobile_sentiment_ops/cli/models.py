"""Commands about models: retrain, models, promote, rollback, jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from mobile_sentiment_ops.cli.session import Json, answer, session_of
from mobile_sentiment_ops.errors import NotFound

Reason = Annotated[str, typer.Option(help="Why, for the ledger.")]

commands = typer.Typer(rich_markup_mode=None)
models = typer.Typer(rich_markup_mode=None, help="The registered models.")
commands.add_typer(models, name="models")


@commands.command()
def retrain(
    context: typer.Context,
    kinds: Annotated[str | None, typer.Option(metavar="LR,RF,...", help="Kinds; else those of the settings.")] = None,
    job: Annotated[
        str | None, typer.Option(metavar="ID", help="The job to keep up to date; its output is a log.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train on the newest reviews; each model replaces the champion if the comparison says so.

    \b
    mso retrain
    mso retrain --kinds lr,xgb
    """
    from mobile_sentiment_ops.screen import Screen

    names = [name.strip() for name in kinds.split(",") if name.strip()] if kinds else None
    platform = session_of(context).platform(story=job is not None)
    with Screen(stderr=True, quiet=as_json or job is not None) as screen:
        step = screen.step("training")
        verdicts = platform.models.retrain(job, kinds=names, progress=step.at)
    rows = [(verdict.candidate, verdict.outcome, verdict.summary) for verdict in verdicts]
    answer(as_json, {"verdicts": verdicts}, ("kind", "verdict", ""), rows)


@models.command("list")
def models_list(context: typer.Context, as_json: Json = False) -> None:
    """List registered models, newest first; the champion is marked."""
    platform = session_of(context).platform()
    versions, champion = platform.registry.versions(), platform.state.champion()
    serving = champion.version if champion else None
    rows = []
    for one in versions:
        score, at = one.metrics.get("macro_f1"), f"{one.created_at:%Y-%m-%d %H:%M}"
        mark, shown = "champion" if one.version == serving else "", None if score is None else f"{score:.3f}"
        rows.append((mark, one.version, one.kind, shown, one.tags.get("verdict"), at, one.dataset[:12]))
    columns = ("", "version", "kind", "macro-F1", "verdict", "trained (UTC)", "dataset")
    answer(as_json, {"champion": serving, "versions": versions}, columns, rows)


@models.command("show")
def models_show(context: typer.Context, version: str, as_json: Json = False) -> None:
    """Show one registered model with its figures."""
    versions = {found.version: found for found in session_of(context).platform().registry.versions()}
    if version not in versions:
        raise NotFound(f"there is no model version {version}; `mso models list` shows {', '.join(versions) or 'none'}")
    found = versions[version]
    facts = {"version": found.version, "kind": found.kind, "trained": f"{found.created_at:%Y-%m-%d %H:%M} UTC"}
    facts |= {"dataset": found.dataset, "bundle": found.bundle_hash, "run": found.run_id, **found.tags}
    rows = [*facts.items(), *((name, f"{value:.4f}") for name, value in sorted(found.metrics.items()))]
    answer(as_json, found, ("", ""), rows)


@models.command("card")
def models_card(
    context: typer.Context,
    version: str,
    data: Annotated[bool, typer.Option("--data", help="The card of its dataset.")] = False,
) -> None:
    """Print the card of a model as Markdown: what it is for, what it learned from, how good it is, its limits.

    \b
    mso models card champion
    mso models card 3 --data > DATA.md
    """
    from mobile_sentiment_ops.app.model_files import open_version
    from mobile_sentiment_ops.registry.cards import data_card, model_card

    platform = session_of(context).platform()
    _, bundle = open_version(version, platform.state, platform.bundles, platform.registry)
    print((data_card if data else model_card)(bundle.card), end="")


@commands.command()
def promote(context: typer.Context, version: str, reason: Reason, as_json: Json = False) -> None:
    """Let a registered model serve because you say so.

    \b
    mso promote 3 --reason "it knows the new release's words"
    """
    from mobile_sentiment_ops.bootstrap import actor

    champion = session_of(context).platform().models.promote(version, actor=actor(), reason=reason)
    answer(as_json, champion, ("", ""), [("champion", f"version {champion.version} ({champion.kind})")])


@commands.command()
def rollback(context: typer.Context, reason: Reason, as_json: Json = False) -> None:
    """Let the model before the champion serve again; works while MLflow is away.

    Running servers follow within seconds. Another rollback goes one champion further back.

    \b
    mso rollback --reason "complaints since Monday"
    """
    from mobile_sentiment_ops.bootstrap import actor

    champion = session_of(context).platform().models.rollback(actor=actor(), reason=reason)
    answer(as_json, champion, ("", ""), [("champion", f"version {champion.version} ({champion.kind})")])


@commands.command()
def jobs(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="Most jobs shown.")] = 20,
    as_json: Json = False,
) -> None:
    """Show long work: trainings, newest first."""
    from mobile_sentiment_ops.app.long_work import close_lost_jobs

    platform = session_of(context).platform()
    close_lost_jobs(platform.state, platform.launcher, platform.clock)
    found = platform.state.jobs(limit=limit)
    rows = [
        (one.job_id, one.kind, one.state, f"{one.progress:.0%}", f"{one.created_at:%m-%d %H:%M}", one.error or one.step)
        for one in found
    ]
    answer(as_json, {"jobs": found}, ("job", "kind", "state", "done", "asked for (UTC)", "step"), rows)
