"""Commands about reviews: ingest, quality, demo-data, dataset."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mobile_sentiment_ops.cli.session import Json, answer, session_of
from mobile_sentiment_ops.errors import DataError

if TYPE_CHECKING:
    import polars as pl

    from mobile_sentiment_ops.bootstrap import Platform

STORES = ("google-play", "app-store")

commands = typer.Typer(rich_markup_mode=None)
dataset = typer.Typer(rich_markup_mode=None, help="The datasets that models were trained on.")
commands.add_typer(dataset, name="dataset")


@commands.command()
def ingest(
    context: typer.Context,
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE", help="Files, addresses, or a store and app ids.")],
    app: Annotated[str | None, typer.Option(help="The app of rows that name none.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar='"NAME IN THE FILE=PART"', help="What a column holds; may be repeated.")
    ] = None,
    country: Annotated[str, typer.Option(help="Of the store.")] = "us",
    language: Annotated[str, typer.Option(help="Of the reviews on Google Play.")] = "en",
    limit: Annotated[int, typer.Option(min=1, help="Most reviews from a store.")] = 2_000,
    as_json: Json = False,
) -> None:
    """Take reviews in from files, addresses or a store; what is known already is skipped.

    Reads CSV, JSON, JSON lines and Parquet, also gzipped, and the stores' own reports. Bad rows are kept apart
    with their line and reason. Ends with 3 when no row at all could be used.

    \b
    mso ingest reviews.csv more.parquet
    mso ingest opinions.csv --column "What they wrote=review_text" --app com.example.shop
    mso ingest google-play com.example.shop --country in --limit 500
    mso ingest app-store 123456789
    """
    from mobile_sentiment_ops.screen import Screen

    columns = dict(_named_column(pair) for pair in column or [])
    platform = session_of(context).platform()
    with Screen(stderr=True, quiet=True) as screen:
        step = screen.step("reviews")

        def told(rows: int) -> None:
            step.at(f"{rows:,} rows read")

        if sources[0] in STORES:
            if not sources[1:]:
                raise typer.BadParameter(f"{sources[0]} needs the id of an app")
            frames = _store_pages(platform, sources[0], sources[1:], country, language, limit)
            report = platform.data.ingest_frames(" ".join(sources), frames, progress=told)
        else:
            report = platform.data.ingest(sources, columns=columns, app=app, progress=told)
    if not as_json:
        mapping = report.mapping.items()
        print("columns: " + ", ".join(name if name == part else f"{name!r} -> {part}" for name, part in mapping))
    counts = [(name, getattr(report, name)) for name in ("read", "new", "updated", "duplicate", "rejected")]
    answer(as_json, report, ("", ""), [*counts, *((f"  {rule}", count) for rule, count in report.reasons.items())])
    if not as_json:
        print("\n".join([*report.notes, f"{report.seconds:.1f} s"]))
    if report.read and report.rejected == report.read:
        raise DataError(f"every one of {report.read:,} rows was rejected; see the reasons, or map columns by --column")


def _named_column(pair: str) -> tuple[str, str]:
    name, _, part = pair.rpartition("=")
    if not name:
        raise typer.BadParameter(f'--column {pair}: expected "NAME IN THE FILE=PART", such as "opinion=review_text"')
    return name, part


def _store_pages(
    platform: Platform, store: str, apps: list[str], country: str, language: str, limit: int
) -> Iterator[pl.DataFrame]:
    for app in apps:
        if store == "google-play":
            yield from platform.stores.google_play(app, language=language, country=country, limit=limit)
        else:
            yield from platform.stores.app_store(app, country=country, limit=limit)


@commands.command()
def quality(context: typer.Context, as_json: Json = False) -> None:
    """Measure what is odd about the reviews: missing, repeated, contradicting their stars, bursts, languages."""
    found = session_of(context).platform().data.quality()
    if not as_json:
        languages = ", ".join(f"{name} {share:.1%}" for name, share in found.languages.items())
        print(f"{found.rows:,} current reviews\nlanguages: {languages or 'none'}\n")
    rows = [("look" if one.exceeded else "ok", one.name, one.sentence) for one in found.findings]
    answer(as_json, found, ("", "check", "found"), rows)


@commands.command("demo-data")
def demo_data(
    context: typer.Context,
    output: Annotated[
        Path | None, typer.Option(help="A .csv, .parquet or .jsonl file; else CSV on standard output.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed, another world.")] = None,
    reviews: Annotated[int | None, typer.Option(min=100, help="About how many reviews.")] = None,
    as_json: Json = False,
) -> None:
    """Write the demo world's reviews: synthetic, generated, no person wrote them.

    \b
    mso demo-data --output demo.csv
    mso demo-data --seed 7 | head
    """
    from mobile_sentiment_ops.data.demo_world import generate

    if as_json and output is None:
        raise typer.BadParameter("--json needs --output")
    writers = {".csv": "write_csv", ".parquet": "write_parquet", ".jsonl": "write_ndjson"}
    if output is not None and output.suffix not in writers:
        raise typer.BadParameter(f"--output {output}: expected a name that ends with {', '.join(writers)}")
    demo = session_of(context).settings(demo__seed=seed, demo__reviews=reviews).settings.demo
    world = generate(demo)
    if output is None:
        world.reviews.write_csv(sys.stdout.buffer)
    else:
        getattr(world.reviews, writers[output.suffix])(output)
    rows = world.reviews.height
    print(f"{rows:,} synthetic reviews with seed {demo.seed}; no person wrote them", file=sys.stderr)
    if output is not None:
        facts = {"reviews": rows, "seed": demo.seed, "synthetic": True, "output": output}
        answer(as_json, facts, ("", ""), facts.items())


@dataset.command("list")
def dataset_list(context: typer.Context, as_json: Json = False) -> None:
    """List kept datasets by fingerprint, oldest first."""
    found = session_of(context).platform().data.datasets()
    answer(as_json, {"datasets": found}, ("dataset",), [(fingerprint,) for fingerprint in found])


@dataset.command("show")
def dataset_show(
    context: typer.Context,
    fingerprint: Annotated[str, typer.Argument(help="Its beginning is enough.")],
    as_json: Json = False,
) -> None:
    """Show one dataset: where its reviews were found, and how many carry which label in which part."""
    from mobile_sentiment_ops.types import LABELS

    found = session_of(context).platform().data.dataset(fingerprint)
    parts = {part: dict.fromkeys(LABELS, 0) for part in ("train", "validation", "test")}
    for part, label, count in found.rows.group_by("split", "label").len().rows():
        parts[part][LABELS[label]] = count
    if not as_json:
        print(f"dataset {found.fingerprint}\nfrom {found.source}, {found.rows.height:,} reviews\n")
    facts = {"fingerprint": found.fingerprint, "source": found.source, "rows": parts}
    answer(as_json, facts, ("part", *LABELS), [(part, *labels.values()) for part, labels in parts.items()])


@dataset.command("diff")
def dataset_diff(context: typer.Context, before: str, after: str, as_json: Json = False) -> None:
    """Say what became of the reviews of one dataset in another.

    \b
    mso dataset diff 3fa1 90bc
    """
    counts = session_of(context).platform().data.diff_datasets(before, after).counts()
    answer(as_json, counts, ("reviews", ""), counts.items())
