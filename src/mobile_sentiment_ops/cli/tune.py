"""The command that searches better parameters: tune."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from mobile_sentiment_ops.cli.session import Json, answer, session_of

USUAL_MINUTES = 5.0

commands = typer.Typer(rich_markup_mode=None)


@commands.command()
def tune(
    context: typer.Context,
    kinds: Annotated[list[str] | None, typer.Argument(metavar="[KIND ...]", help="Kinds; else those trained.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Time for all kinds together; 5 when no --trials are given.")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="End when so many sets of a kind were tried, earlier searches included.")
    ] = None,
    save: Annotated[bool, typer.Option("--save", help="Write what is better into the settings file.")] = False,
    as_json: Json = False,
) -> None:
    """Search better parameters on training and validation reviews; Ctrl-C loses nothing, the next call goes on.

    \b
    mso tune                     the trained kinds, five minutes
    mso tune lr svc --trials 40 --save
    """
    from mobile_sentiment_ops.app.long_work import alone
    from mobile_sentiment_ops.app.tuning import parameters_toml, save_parameters, tune
    from mobile_sentiment_ops.models.search import space_of
    from mobile_sentiment_ops.screen import Screen
    from mobile_sentiment_ops.settings import SETTINGS_FILE

    session = session_of(context)
    platform = session.platform()
    training = platform.settings.training
    names = list(dict.fromkeys(kinds or training.kinds))
    for name in names:
        space_of(name)
    ends = time.monotonic() + 60 * (USUAL_MINUTES if minutes is None else minutes)
    found = []
    with (
        Screen(stderr=True, quiet=as_json) as screen,
        alone(platform.state, "tuning", f"pid {os.getpid()}", patience_seconds=0, waiting=lambda: None),
    ):
        step = screen.step("tuning")
        step.at("building the dataset")
        dataset = platform.models.newest_dataset()
        for at, name in enumerate(names):
            endless = trials is not None and minutes is None
            one = tune(
                name,
                dataset,
                today=training.parameters.get(name, {}),
                file=platform.workspace / "tuning.db",
                trials=trials,
                seconds=None if endless else max(ends - time.monotonic(), 0) / (len(names) - at),
                seed=training.seed,
                progress=step.at,
            )
            found.append(one)
            gain = f"{one.gain.value:+.4f} ({one.gain.low:+.4f} to {one.gain.high:+.4f}) over today's"
            step.at(f"{name}: {one.trials} tries, {one.new_trials} of them new, in {one.seconds:.0f} s; {gain}", 1.0)
    better = {one.kind: one.parameters for one in found if one.better}
    file = session.config or Path(os.environ.get("MSO_CONFIG") or SETTINGS_FILE)
    if save and better:
        save_parameters(file, better)
    columns = ("kind", "tries", "new", "seconds", "macro-F1", "gain", "from", "to", "validation reviews")
    rows = []
    for one in found:
        gains = [f"{value:+.4f}" for value in (one.gain.value, one.gain.low, one.gain.high)]
        score = f"{one.macro_f1.value:.4f}"
        rows.append((one.kind, one.trials, one.new_trials, f"{one.seconds:.0f}", score, *gains, one.validation_rows))
    answer(as_json, {"tuned": found, "saved_to": file if save and better else None}, columns, rows)
    if not as_json:
        lines = [parameters_toml(kind, parameters) for kind, parameters in better.items()]
        print("", "\n\n".join(lines) or "Nothing better than today's parameters was found.", sep="\n")
        if lines:
            print(f"\n{'Saved in' if save else '--save writes these lines into'} {file}.", end=" ")
            print(
                "The gains are on the reviews that chose: the comparison after `mso retrain` tells what they are worth."
            )
