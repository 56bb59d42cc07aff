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
from bench.results import RESULTS, figures_table, goals, markdown  # noqa: E402
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


WORDS = {
    "up/first_serving_demo_s": "from `make up` to the first answer, on the demo world",
    "up/first_serving_90k_s": "the same on 88,749 real reviews as CSV",
    "up/second_s": "a second `make up`",
    "ingest_5m/peak_mb": "memory at most, taking in a CSV of five million reviews",
    "check/s": "`make check`",
}
"""What the rows of the main area measure, for a reader."""


def figures() -> str:
    """The rows of bench/results/main.json that goals.json names, as a table."""
    file = json.loads((RESULTS / "main.json").read_text("utf-8"))
    known = {row["name"]: row for row in file["rows"]}
    table = [("figure", "measured", "goal")]
    for goal in (goal for goal in goals() if goal.area == "main"):
        row, unit = known[goal.name], goal.unit.replace("mb", "MB")
        measured = row["note"] if row["value"] is None else f"{row['value']:g} {unit}"
        limit = f"{'at most' if goal.better == 'lower' else 'at least'} {goal.goal:g} {unit}"
        table.append((WORDS[goal.name], measured, f"{limit}, missed" if row["met"] is False else limit))
    where = file["machine"]
    return (
        f"{markdown(table)}\n\nMeasured on {where['cores']} cores ({where['cpu']}), {where['memory_gib']} GiB, "
        f"Python {where['python']}; `bench/results/main.json`."
    )


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
    "README.md": between("figures", figures),
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
