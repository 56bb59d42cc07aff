"""Write the parts of the documents that are made from the code and from measured figures.

python docs/write.py            writes them
python docs/write.py --check    names those that are behind, and ends with 1 if there are any

settings.md is made whole; in other pages it is the part between two marks.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.quality import quality_table  # noqa: E402 - the path first
from bench.results import RESULTS, Row, figures_table, markdown  # noqa: E402
from bench.serving import peers_table  # noqa: E402
from mobile_sentiment_ops.data.demo_world.lexicon import LANGUAGES, lexicon  # noqa: E402
from mobile_sentiment_ops.settings import (  # noqa: E402
    FIRST_VERSION_VARIABLES,
    SETTINGS_FILE,
    Settings,
    setting_descriptions,
)


def settings_page(_before: str = "") -> str:
    """docs/settings.md: every setting with its default, its variable and what it means."""
    defaults = Settings().model_dump(mode="json")
    first_version = {key: variable for variable, key in reversed(FIRST_VERSION_VARIABLES.items())}
    lines = [
        "# Settings",
        "",
        "<!-- written by `make docs` from src/mobile_sentiment_ops/settings.py -->",
        "",
        f"One tree. Later layers win: these defaults, then `{SETTINGS_FILE}` in the current folder (or the file that",
        "`$MSO_CONFIG` names), then the first version's variables, then `MSO_*` variables, then flags of a command. An",
        "unknown key is an error that names the nearest known one. `mso config show --sources` prints every value with",
        "the layer it came from.",
        "",
        "A section and a key are joined by two underscores in a variable: `MSO_API__PORT=5002`. Lists and tables are",
        'JSON there: `MSO_TRAINING__KINDS=["lr", "rf"]`. In the file:',
        "",
        "```toml",
        "format = 1",
        "",
        "[api]",
        "port = 5002",
        "",
        "[ingest.columns]",
        '"What they wrote" = "review_text"',
        "```",
    ]
    descriptions = setting_descriptions()
    for section, field in Settings.model_fields.items():
        keys = {key: text for key, text in descriptions.items() if key.startswith(f"{section}.")}
        if not keys:
            continue
        doc = (getattr(field.annotation, "__doc__", "") or "").strip().partition("\n")[0]
        rows = [("setting", "default", "meaning")]
        for key, text in keys.items():
            default = json.dumps(defaults[section][key.partition(".")[2]], ensure_ascii=False)
            also = f" (the first version's `{first_version[key]}`)" if key in first_version else ""
            rows.append((f"`{key}`", f"`{default}`", f"{text}{also}"))
        lines += ["", f"## {section}", "", doc, "", markdown(rows)]
    return "\n".join(lines) + "\n"


def between(mark: str, content: Callable[[], str]) -> Callable[[str], str]:
    """A page with the part between the marks `mark` written anew."""

    def written(page: str) -> str:
        begin, end = f"<!-- {mark}: written by `make docs` -->\n", f"<!-- end of {mark} -->"
        before, found, rest = page.partition(begin)
        if not found or end not in rest:
            raise SystemExit(f"the page has no marks {begin.strip()} and {end}")
        return f"{before}{begin}{content().rstrip()}\n{rest[rest.index(end) :]}"

    return written


Words = Mapping[str, tuple[str, str]]
"""What a row measures, for a reader, and in which unit."""

START: Words = {
    "up/first_serving_demo_s": ("from `make up` to the first answer, on the demo world", " s"),
    "up/first_serving_90k_s": ("the same on 88,749 real reviews as CSV", " s"),
    "up/second_s": ("a second `make up`", " s"),
    "ingest_5m/peak_mb": ("memory at most, taking in a CSV of five million reviews", " MB"),
    "check/s": ("`make check`", " s"),
}

SERVING: Words = {
    "predict_json/single/cpu_us": ("CPU time of the whole server for one review", " us"),
    "ratio/constant_answer": ("one review, beside a server that always answers the same", " times"),
    "ratio/mlflow_models_serve": ("what `mlflow models serve` takes for it", " times as much"),
    "ratio/bentoml_batching": ("what BentoML with batching takes for it", " times as much"),
    "ratio/litserve": ("what LitServe with batching takes for it", " times as much"),
    "ratio/mlserver_batching": ("what MLServer with batching takes for it", " times as much"),
    "predict/batch100/cpu_us_per_review": ("CPU time for each of a hundred reviews in one request", " us"),
    "keeper/cpu_us_per_review": ("CPU time of the keeper for each recorded prediction", " us"),
    "inprocess/single/us": ("the scorer alone, one review", " us"),
    "inprocess/batch1000/us": ("the scorer alone, each of a thousand", " us"),
    "start/first_process_cpu_s": ("CPU time of a first process up to its first prediction", " s"),
    "start/first_process_mb": ("its memory", " MB"),
    "start/worker_cpu_s": ("CPU time of the start of each further worker", " s"),
    "start/worker_private_mb": ("its memory, beside what workers share", " MB"),
    "p99_above_constant_ms": ("p99 at 2,000 requests a second, above that of the constant answer", " ms"),
    "csv_800k/others_p99_ms": ("p99 of others while a CSV file of 800,000 rows is answered", " ms"),
    "swap/worst_ms": ("longest answer over fifty changes of the model, 2,000 requests a second", " ms"),
    "swap/failed": ("requests that failed over fifty changes of the model, 2,000 a second", ""),
    "kill9/acknowledged_missing": ("answered predictions that a hundred random kills lost", ""),
    "kill9/duplicated": ("predictions that are recorded twice after a hundred random kills", ""),
    "kill9/torn": ("predictions that are recorded in part after them", ""),
    "score/parquet_to_parquet_per_s": ("`mso score` from Parquet to Parquet", " reviews/s"),
    "score/ratio_sklearn_pandas": ("what scikit-learn with pandas takes for the same file", " times as much"),
    "score/peak_mb": ("memory of `mso score` at most, whatever the size of the file", " MB"),
}

SERVING_IN_SHORT: Words = {
    name: SERVING[name]
    for name in (
        "predict_json/single/cpu_us",
        "ratio/mlflow_models_serve",
        "predict/batch100/cpu_us_per_review",
        "score/parquet_to_parquet_per_s",
        "swap/failed",
        "kill9/acknowledged_missing",
    )
}


def figures(area: str, words: Words, *, peers: bool = False) -> Callable[[], str]:
    """The rows of bench/results/<area>.json that have words, as a table; with `peers` a table of them before it."""

    def written() -> str:
        path = RESULTS / f"{area}.json"
        if not path.exists():
            return f"Not measured yet: `python -m bench --only {area}` does it."
        file = json.loads(path.read_text("utf-8"))
        known = {row["name"]: row for row in file["rows"]}
        table = [("figure", "measured", "goal")]
        for row, what, unit in ((known[name], *said) for name, said in words.items() if name in known):
            measured = row["note"] if row["value"] is None else f"{_number(row['value'])}{unit}"
            limit = f"{'at most' if row['better'] == 'lower' else 'at least'} {_number(row['goal'] or 0)}{unit}"
            goal = "" if row["goal"] is None else f"{limit}, missed" if row["met"] is False else limit
            table.append((what, measured, goal))
        where = file["machine"]
        beside = [peers_table([Row(**{key: row[key] for key in row if key != "met"}) for row in known.values()])]
        measured_on = (
            f"Measured on {where['cores']} cores ({where['cpu']}), {where['memory_gib']} GiB, "
            f"Python {where['python']}; `bench/results/{area}.json`."
        )
        return "\n\n".join([*(beside if peers else []), markdown(table), measured_on])

    return written


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:g}"


def kept(area: str, table: Callable[[Sequence[Mapping[str, Any]]], str]) -> Callable[[], str]:
    """The rows of bench/results/<area>.json as that table."""

    def written() -> str:
        file = RESULTS / f"{area}.json"
        return table(json.loads(file.read_text("utf-8"))["rows"] if file.exists() else [])

    return written


def entries(language: str) -> set[str]:
    """The entries of a language in the demo world: words and phrases, without templates, names, numbers,
    joining words and spelling variants."""
    raw = lexicon(language)
    lists = [*raw["words"].values(), *(found for own in raw["apps"].values() for found in own.values())]
    return {re.sub(r"\|(s|p|m|f|mp|fp)$", "", entry) for found in lists for entry in found}


def templates() -> str:
    """Every template of every language of the demo world."""
    lines = []
    for language in LANGUAGES:
        lines += [f"### {language}: {len(entries(language)):,} entries", ""]
        for group, found in lexicon(language)["templates"].items():
            lines += [f"- **{group}**: " + " · ".join(f"`{template}`" for template in found)]
        lines += [""]
    return "\n".join(lines)


PAGES: dict[str, Callable[[str], str]] = {
    "docs/settings.md": settings_page,
    "docs/demo-world.md": between("templates", templates),
    "docs/models.md": lambda page: between("cost", kept("training", figures_table))(
        between("quality", kept("quality", quality_table))(page)
    ),
    "docs/gate.md": between("figures", kept("gate", figures_table)),
    "docs/monitoring.md": between("figures", kept("monitoring", figures_table)),
    "docs/serving.md": between("figures", figures("serving", SERVING, peers=True)),
    "README.md": lambda page: between("figures", figures("main", START))(
        between("serving", figures("serving", SERVING_IN_SHORT))(page)
    ),
}


def main() -> int:
    """Write, or check with --check."""
    behind = []
    for name, written in PAGES.items():
        path = ROOT / name
        page = path.read_text("utf-8") if path.exists() else ""
        fresh = written(page)
        if fresh == page:
            continue
        behind.append(name)
        if "--check" not in sys.argv[1:]:
            path.write_text(fresh, "utf-8")
    for name in behind:
        print(f"{name} {'is behind: `make docs` writes it' if '--check' in sys.argv[1:] else 'written'}")
    return 1 if behind and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
