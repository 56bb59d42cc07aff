"""Which column of a file is which part of a review: by its usual names, or as the user says.

Names are compared without case, blanks and signs, so "Review Text", `review_text` and `reviewText`
are one. Where several columns of a file could be the same part, the name that stands first in
columns.toml wins. Two parts are read and never stored: `review_link` (a Play Console link, which
holds the review's id) and `author` (only used to notice one author's burst).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from importlib.resources import files

from mobile_sentiment_ops.errors import SettingsError, UnreadableFile

USUAL_NAMES: Mapping[str, list[str]] = tomllib.loads(files(__package__).joinpath("columns.toml").read_text("utf-8"))

READ_ONLY = ("review_link", "author")

_PLAY_CONSOLE = {"package_name", "reviewer_language", "star_rating", "review_submit_millis_since_epoch"}


def recognise(names: Sequence[str], extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The used columns of a file: its own name -> the part of a review.

    `extra` maps names of the file to parts and goes before the usual names; an empty part leaves
    the column out.

    >>> recognise(["Package Name", "Star Rating", "Review Text", "Device"])
    {'Package Name': 'app', 'Star Rating': 'rating', 'Review Text': 'review_text'}
    >>> recognise(["opinion", "score", "label"], {"opinion": "review_text", "label": ""})
    {'opinion': 'review_text', 'score': 'rating'}
    """
    extra = extra or {}
    for name, part in extra.items():
        if part and part not in USUAL_NAMES:
            raise SettingsError(
                f"ingest.columns: {name!r} cannot become {part!r}; expected one of {', '.join(USUAL_NAMES)}, "
                f"or nothing to leave the column out"
            )
    found: dict[str, str] = {}
    for name in names:
        if extra.get(name):
            found.setdefault(extra[name], name)
    usual = {plain_name(name): name for name in reversed(names) if name not in extra}
    for part, known in USUAL_NAMES.items():
        own = [usual[name] for name in known if name in usual]
        if own and part not in found:
            found[part] = own[0]
    parts = {name: part for part, name in found.items()}
    return {name: parts[name] for name in dict.fromkeys(names) if name in parts}


def plain_name(name: str) -> str:
    """A column name as names are compared.

    >>> plain_name(" Review Last-Update (Millis)"), plain_name("reviewText")
    ('review_last_update_millis', 'review_text')
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return re.sub(r"[\W_]+", "_", words).strip("_").lower()


def known_store(names: Sequence[str]) -> str | None:
    """The store whose own report has these columns, if one has.

    >>> known_store(["Package Name", "Reviewer Language", "Review Submit Millis Since Epoch", "Star Rating"])
    'google_play'
    """
    return "google_play" if {plain_name(name) for name in names} >= _PLAY_CONSOLE else None


def require_text(source: str, names: Sequence[str], mapping: Mapping[str, str]) -> None:
    """Refuse a file in which no column holds the review."""
    if "review_text" in mapping.values():
        return
    raise UnreadableFile(
        f"{source}: no column holds the review's text; found {shown(names)}, expected one of "
        f"{', '.join(USUAL_NAMES['review_text'])}. Name the columns in the first line, or say which one it is: "
        f'`[ingest.columns]` with "name in the file" = "review_text" in mso.toml'
    )


def shown(names: Sequence[str]) -> str:
    """Column names for a message, as far as one line holds them.

    >>> shown(["id", "stars"])
    "'id', 'stars'"
    """
    return ", ".join(repr(name[:40]) for name in names[:12]) + (", ..." if len(names) > 12 else "") or "nothing"


def kept_names(given: Sequence[str], added: Collection[str]) -> list[str]:
    """The names of a caller's columns; those that we add ourselves get `given_` before them.

    >>> kept_names(["review_text", "sentiment", "app"], ("sentiment",))
    ['review_text', 'given_sentiment', 'app']
    """
    kept = list(given)
    for at, name in enumerate(given):
        while kept[at] in added or (kept[at] != name and kept[at] in given):
            kept[at] = f"given_{kept[at]}"
    return kept
