"""The words of the demo world: what each language's file holds, checked and ready to be spoken.

A file `<language>.toml` has templates (sentences with `{slots}`), words (what may stand in a slot),
the same per app, spelling variants and the style of its writers. Notation inside an entry:

    {slot}         an entry of that list       (a|b)          either spelling
    [is|are]       singular | plural           [o|a|os|as]    m | f | m plural | f plural
    the icons|p    a noun with its form (s, p, m, f, mp, fp), which the brackets after it follow;
                   brackets before the first noun follow that one
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

LANGUAGES = ("en", "es", "th", "hi-Latn", "id")
_FORMS = {"s": 0, "m": 0, "f": 1, "p": 2, "mp": 2, "fp": 3}
_FORM = re.compile(r"\|(s|p|m|f|mp|fp)$")
_SLOT = re.compile(r"\{(\w+)\}|\(([^()]*\|[^()]*)\)")
_BRACKET = re.compile(r"\[([^\]]*)\]")
_NOUN = re.compile(r"\[:(\d)\]")


@dataclass(frozen=True, slots=True)
class Phrase:
    """An entry taken apart: literals, and the slots between them (a name, or spellings)."""

    literals: tuple[str, ...]
    slots: tuple[str | tuple[str, ...], ...] = ()


def parse(entry: str) -> Phrase:
    """The entry taken apart; a noun's form goes before it as `[:form]`.

    >>> parse("the icons|p")
    Phrase(literals=('[:2]the icons',), slots=())
    >>> parse("{noun} [is|are] (so|sooo) slow")
    Phrase(literals=('', ' [is|are] ', ' slow'), slots=('noun', ('so', 'sooo')))
    """
    form = _FORM.search(entry)
    text = f"[:{_FORMS[form[1]]}]{entry[: form.start()]}" if form else entry
    literals, slots, at = [], list[str | tuple[str, ...]](), 0
    for found in _SLOT.finditer(text):
        literals.append(text[at : found.start()])
        slots.append(found[1] or tuple(found[2].split("|")))
        at = found.end()
    return Phrase((*literals, text[at:]), tuple(slots))


def agree(text: str, form: int = 0) -> str:
    """The text with its brackets resolved by the forms of its nouns, or by `form` where it has none
    (0 m or singular, 1 f, 2 plural, 3 f plural).

    >>> agree("me encanta[|n] [:2]los iconos, [es|son] modern[o|a|os|as]")
    'me encantan los iconos, son modernos'
    """
    if "[" not in text:
        return text
    first = _NOUN.search(text)
    form = int(first[1]) if first else form

    def chosen(found: re.Match[str]) -> str:
        nonlocal form
        if found[1].startswith(":"):
            form = int(found[1][1:])
            return ""
        choices = found[1].split("|")
        return choices[form] if len(choices) == 4 else choices[form // 2]

    return _BRACKET.sub(chosen, text)


def forms(entry: str) -> list[str]:
    """Every form in which an entry without slots may stand in a text.

    >>> forms("chetad[o|a|os|as]"), forms("insane")
    (['chetado', 'chetada', 'chetados', 'chetadas'], ['insane'])
    """
    return list(dict.fromkeys(agree(entry, form) for form in range(4)))


@cache
def lexicon(language: str) -> Mapping[str, Any]:
    """The words of one of LANGUAGES."""
    return tomllib.loads(files(__package__).joinpath(f"{language}.toml").read_text("utf-8"))


WORLD = lexicon("world")
"""All but the words: apps, markets, plans of reviews, stars and events."""


@cache
def phrases(language: str, app: str) -> Mapping[str, tuple[Phrase, ...]]:
    """Every list of phrases that the reviewers of an app use in that language."""
    raw = lexicon(language)
    own, spell = raw["apps"][app.removeprefix("demo.")], _speller(raw)
    lists = {**raw["templates"], **raw["words"], "small": _SMALL, "big": _BIG, "name": raw["style"]["names"]}
    lists |= {name: [*entries, *raw["words"].get(name, ())] for name, entries in own.items()}
    lists["noun"] = [*own["part"], *lists["side"], *raw["words"]["part"]]
    return {name: tuple(parse(spell(entry)) for entry in entries) for name, entries in lists.items()}


_SMALL = [str(number) for number in range(2, 10)]
_BIG = [str(number) for number in (20, 50, 30, 100, 15, 40, 200, 25, 60, 300, 45, 500, 75, 80, 150, 90, 120, 250, 400)]


def _speller(raw: Mapping[str, Any]) -> Callable[[str], str]:
    """A function that opens every word with variants into its spellings: hai -> (hai|hai|h)."""
    variants = {word: f"({'|'.join(spellings)})" for word, spellings in raw["variants"].items()}
    edge = r"\b" if raw["style"].get("blanks", True) else ""
    words = re.compile(rf"{edge}({'|'.join(map(re.escape, variants))}){edge}(?![^{{]*}}|[^(]*\))")
    return lambda entry: words.sub(lambda found: variants[found[1]], entry)
