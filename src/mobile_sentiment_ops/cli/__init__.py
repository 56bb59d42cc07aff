"""The command `mso`: parse, call one flow, render.

    session.py   settings of one command, errors as one sentence, JSON for scripts
    data.py      ingest, quality, demo-data, dataset
    models.py    retrain, models, promote, rollback, jobs
    audit.py     timeline, why, verify; models diff, models rebuild
    tune.py      tune
    score.py     score
    keys.py      keys add, list, revoke
    monitor.py   monitor run, drift, explain, report
    alert.py     alert test, list
    admission.py batches list, show, admit, refuse
    stack.py     up, down, status, serve, config

What costs time to import is imported by the command that needs it, so that `mso --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import Abort, TyperException

import mobile_sentiment_ops
from mobile_sentiment_ops.cli import admission, alert, audit, data, keys, models, monitor, score, stack, tune
from mobile_sentiment_ops.cli.session import Session
from mobile_sentiment_ops.errors import MsoError

app = typer.Typer(name="mso", rich_markup_mode=None, pretty_exceptions_enable=False)
for part in (stack, data, models, audit, tune, keys, score, monitor, alert, admission):
    app.add_typer(part.commands)


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="Settings file; else $MSO_CONFIG, else ./mso.toml.")] = None,
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as api.port=5002.")
    ] = None,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """What the reviewers of a mobile app feel, from a model that keeps itself trustworthy.

    \b
    mso up                       everything on this machine: MLflow, reviews, a model, the API
    mso ingest reviews.csv       take reviews in
    mso retrain                  train on them; what is better serves
    mso --set api.port=5002 up   with another setting
    """
    context.obj.read(config, given or [])
    if version:
        print(f"mso {mobile_sentiment_ops.__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; its exit code, as docs/commands.md lists them."""
    session = Session()
    try:
        return app(args=arguments, standalone_mode=False, obj=session) or 0
    except MsoError as err:
        return _failed(err, str(err), err.exit_code, session)
    except TyperException as err:
        return _failed(err, f"{err.format_message()} (`mso --help` shows how)", 2, session)
    except Abort:
        return 130
    except Exception as err:
        what = f"unexpected {type(err).__name__}: {err}; `mso --set logs.level=debug ...` shows where"
        return _failed(err, what, 1, session)


def _failed(err: Exception, message: str, code: int, session: Session) -> int:
    print(f"error: {message}", file=sys.stderr)
    if session.debug:
        raise err
    return code
