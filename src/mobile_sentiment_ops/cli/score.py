"""The command that scores files: score."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from mobile_sentiment_ops.cli.session import Json, answer, session_of

commands = typer.Typer(rich_markup_mode=None)


@commands.command()
def score(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="IN", help="A .parquet, .csv or .jsonl file, or table:reviews.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A .parquet, .csv or .jsonl file.")],
    model: Annotated[str, typer.Option(help="A registered version.")] = "champion",
    text_column: Annotated[str, typer.Option(help="The column with the texts.")] = "review_text",
    threads: Annotated[int | None, typer.Option(min=1, max=64, help="Threads; else one a core.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Add sentiment, probabilities and model version to a file of reviews; after a kill the same command goes on.

    \b
    mso score reviews.parquet scored.parquet
    mso score opinions.csv.gz scored.jsonl --text-column opinion
    mso score table:reviews all.parquet --model 3
    """
    from hashlib import sha256

    from mobile_sentiment_ops.app.model_files import open_version
    from mobile_sentiment_ops.app.score_files import kind_of, open_source
    from mobile_sentiment_ops.app.scoring import ADDED, Judge
    from mobile_sentiment_ops.app.scoring import score as score_source
    from mobile_sentiment_ops.models.compiled import CompiledModel, compile_model
    from mobile_sentiment_ops.screen import Screen

    platform = session_of(context).platform()
    copy = ADDED.names if kind_of(out)[0] == "parquet" else None
    opened = open_source(source, text_column, lambda: platform.tables, copy=copy)
    version, bundle = open_version(model, platform.state, platform.bundles, platform.registry)
    compiled = compile_model(bundle.model, "")
    judge = Judge(CompiledModel.of(compiled), version, platform.settings.api.max_text_chars)
    with Screen(stderr=True, quiet=True) as screen:
        step = screen.step("scoring")
        since: list[tuple[float, int, float]] = []  # the first piece starts it: an earlier run may have done much

        def told(rows: int, share: float | None) -> None:
            if not since:
                since.append((time.monotonic(), rows, share or 0.0))
            seconds, new, gain = time.monotonic() - since[0][0], rows - since[0][1], (share or 0.0) - since[0][2]
            left = f"{share:.0%}, {seconds / gain * (1 - share):.0f} s left, " if share and gain > 0 else ""
            step.at(f"{left}{new / max(seconds, 1e-9):,.0f}/s, {rows:,} reviews", share)

        digest, threads = sha256(compiled).hexdigest(), threads or os.cpu_count() or 1
        found = score_source(opened, out, judge, model_hash=digest, threads=threads, force=force, progress=told)
    shares = {label: count / max(found.rows - found.faulty, 1) for label, count in found.labels.items()}
    if as_json:
        answer(True, {**{name: getattr(found, name) for name in found.__slots__}, "label_shares": shares}, (), ())
        return
    note = f" ({found.note})" if found.note else ""
    print(f"{found.rows:,} reviews, {found.per_second:,.0f} a second, by model version {version}{note}")
    print(", ".join(f"{label} {share:.1%}" for label, share in shares.items()), end="")
    print(f", {found.faulty:,} not judged (column error)" if found.faulty else "")
