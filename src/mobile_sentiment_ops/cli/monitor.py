"""Commands about monitoring: monitor run, drift, performance, explain, report."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from mobile_sentiment_ops.cli.session import Json, answer, session_of
from mobile_sentiment_ops.errors import NotFound, SettingsError
from mobile_sentiment_ops.monitoring import OF_PERFORMANCE

if TYPE_CHECKING:
    from mobile_sentiment_ops.types import Measurement, RetrainDecision

commands = typer.Typer(rich_markup_mode=None)
monitor = typer.Typer(rich_markup_mode=None, help="Whether the model still is what it was, and what moved.")
commands.add_typer(monitor, name="monitor")

Days = Annotated[int, typer.Option(min=1, help="Length of the window, in days.")]
App = Annotated[str | None, typer.Option(help="Reviews of this app alone.")]
Until = Annotated[str | None, typer.Option(metavar="DATE", help="The day the window ends before, else now.")]


@monitor.command()
def run(context: typer.Context, as_json: Json = False) -> None:
    """Check the newest reviews against the champion and decide what is to be done.

    The decision goes to the ledger, to GET /monitoring and to /predict's X-Drift headers. Exit code 0 whatever is
    decided: read `action`.

    \b
    mso monitor run
    mso monitor run --json | jq -r .action
    """
    from mobile_sentiment_ops.screen import Screen

    platform = session_of(context).platform()
    with Screen(stderr=True, quiet=as_json) as screen:
        screen.step("comparing the newest reviews with the champion's")
        decision = platform.monitoring.check()
    _show(decision, as_json, decision.measured)


@monitor.command()
def drift(context: typer.Context, as_json: Json = False) -> None:
    """Show what the last check measured of drift, beside the limits of chance."""
    decision = _last(context)
    _show(decision, as_json, [one for one in decision.measured if not _of_performance(one)])


@monitor.command()
def performance(context: typer.Context, as_json: Json = False) -> None:
    """Show how good the last check found the champion: by the labels that came, and by its confidence alone."""
    decision = _last(context)
    told = [one for one in decision.measured if _of_performance(one)]
    if as_json:
        answer(True, {"at": decision.at, "model_version": decision.model_version, "measured": told}, (), ())
    for one in () if as_json else told:
        print(f"{'!' if one.fired else ' '} {one.reason}")


def _of_performance(one: Measurement) -> bool:
    return any(part in one.name for part in OF_PERFORMANCE)


def _last(context: typer.Context) -> RetrainDecision:
    decision = session_of(context).platform().monitoring.decision()
    if decision is None:
        raise NotFound("nothing was checked yet; `mso monitor run` does, and a server does every hour")
    return decision


def _show(decision: RetrainDecision, as_json: bool, measured: list[Measurement] | tuple[Measurement, ...]) -> None:
    if not as_json:
        print(f"{decision.action.value}: {decision.summary}")
        for reason in decision.reasons:
            print(f"  - {reason}")
        print()
    rows = [
        (
            "!" if one.fired else "",
            one.name,
            _number(one.value),
            _number(one.limit),
            one.n or "",
            ", ".join(one.part.values()),
        )
        for one in measured
    ]
    answer(as_json, decision, ("", "measured", "value", "limit", "reviews", "of"), rows)


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3g}"


@monitor.command()
def explain(
    context: typer.Context, days: Days = 7, app: App = None, until: Until = None, as_json: Json = False
) -> None:
    """Say which words, apps, versions and languages moved, and by how much, in words to forward.

    \b
    mso monitor explain
    mso monitor explain --app shop.example --days 7 --until 2026-03-07
    """
    explanation = session_of(context).platform().monitoring.explain(days=days, app=app, until=_day(until))
    if as_json:
        answer(True, explanation, (), ())
        return
    print(explanation.summary)
    for title, words in (("rose", explanation.rose), ("fell", explanation.fell)):
        if words:
            print(f"\nwords that {title}")
            rows = [
                (one.words, f"{one.before:.1%}", f"{one.after:.1%}", (one.examples or ("",))[0][:70])
                for one in words[:8]
            ]
            answer(False, None, ("word", "before", "now", "for example"), rows)
    for dimension, parts in explanation.contributions.items():
        rows = [
            (
                " ".join(value or "none told" for value in one.part.values()),
                _share(one.negative_before),
                _share(one.negative_after),
                f"{100 * one.total.value:+.1f}",
            )
            for one in sorted(parts, key=lambda one: -abs(one.total.value))[:5]
        ]
        if rows:
            print(f"\nhow much each {dimension} moved the negative share, in points")
            answer(False, None, (dimension, "before", "now", "points"), rows)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def _day(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as err:
        raise SettingsError(f"--until {text}: expected a day such as 2026-03-07") from err
    return found if found.tzinfo else found.replace(tzinfo=UTC)


@monitor.command()
def report(
    context: typer.Context,
    days: Days = 7,
    app: App = None,
    until: Until = None,
    evidently: Annotated[
        bool, typer.Option("--evidently", help="Evidently's report too (needs the extra evidently).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the last decision and an explanation as JSON and as a page, into the bucket's reports/.

    \b
    mso monitor report
    mso monitor report --evidently
    """
    written = (
        session_of(context).platform().monitoring.report(days=days, app=app, until=_day(until), evidently=evidently)
    )
    answer(as_json, {"reports": written}, ("report",), [(address,) for address in written])
