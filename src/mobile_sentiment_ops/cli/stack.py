"""Commands about what runs: up, down, status, serve, config."""

from __future__ import annotations

from typing import Annotated

import typer

from mobile_sentiment_ops.cli.session import Json, answer, session_of

commands = typer.Typer(rich_markup_mode=None)
config = typer.Typer(rich_markup_mode=None, help="The settings.")
commands.add_typer(config, name="config")


@commands.command()
def up(
    context: typer.Context,
    data: Annotated[list[str] | None, typer.Option(metavar="FILE", help="Reviews to take in; may be repeated.")] = None,
) -> None:
    """Run everything on this machine until Ctrl-C: MLflow, reviews, a first model, the API, the other models.

    Without any reviews, the demo world is generated; it is synthetic.

    \b
    mso up
    mso up --data reviews.csv
    """
    from mobile_sentiment_ops import stack
    from mobile_sentiment_ops.screen import Screen

    folder = session_of(context).settings().settings.storage.folder("logs")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "up.log").open("a") as log, Screen() as screen:
        stack.up(session_of(context).platform(log=log), screen, data or [])


@commands.command()
def down(context: typer.Context) -> None:
    """Stop what `mso up` started here, also what a killed one left; the data stays."""
    from mobile_sentiment_ops import stack
    from mobile_sentiment_ops.screen import Screen

    platform = session_of(context).platform()
    with Screen() as screen:
        if not platform.workspace.is_dir() or not stack.down(platform, screen):
            screen.say(f"nothing runs in {platform.workspace}")


@commands.command()
def status(context: typer.Context, as_json: Json = False) -> None:
    """Show what runs here, what answers, and with which model."""
    from mobile_sentiment_ops import stack

    found = stack.status(session_of(context).platform())
    champion = found.champion
    rows = [
        ("workspace", found.workspace),
        ("mso up", f"runs, pid {found.up_pid}" if found.up_pid else "does not run"),
        ("API", f"{found.api_url} {found.api}"),
        ("MLflow", f"{found.mlflow_url} {found.mlflow}"),
        ("champion", f"version {champion.version} ({champion.kind}): {champion.reason}" if champion else None),
        ("reviews", f"{found.reviews:,}"),
        *((f"job {job.job_id}", f"{job.state}, {job.progress:.0%}: {job.step}") for job in found.jobs),
    ]
    answer(as_json, found, ("", ""), rows)


@commands.command()
def serve(
    context: typer.Context,
    train: Annotated[
        bool, typer.Option("--train/--no-train", help="Train a model when there is none to serve.")
    ] = True,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes that answer; else the setting api.workers.")
    ] = None,
) -> None:
    """Answer over HTTP until Ctrl-C, with the champion.

    \b
    mso serve
    mso serve --workers 2
    mso --set api.port=5002 serve --no-train
    """
    import os

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy: its idle threads would not survive a fork
    from mobile_sentiment_ops.app.workers import serve as serve_with

    serve_with(session_of(context).platform(story=True, api__workers=workers), train_if_missing=train)


@config.command("show")
def config_show(
    context: typer.Context,
    sources: Annotated[bool, typer.Option("--sources", help="Say which layer each value came from.")] = False,
    as_json: Json = False,
) -> None:
    """Print every setting: its value, its meaning and, if asked for, where the value came from.

    \b
    mso config show --sources
    """
    import json

    from mobile_sentiment_ops.settings import setting_descriptions

    meanings = setting_descriptions()
    found = session_of(context).settings().rows()
    rows = [
        (key, json.dumps(value, ensure_ascii=False), *([source] if sources else []), meanings.get(key))
        for key, value, source in found
    ]
    columns = ("setting", "value", *(["from"] if sources else []), "meaning")
    answer(as_json, {key: {"value": value, "source": source} for key, value, source in found}, columns, rows)
