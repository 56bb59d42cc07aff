"""The language of a review's text, where the store does not tell it.

The script decides what it can (Thai, Hindi, Korean, ...). Text in Latin letters is first asked for
its common words, which also know Hindi as it is typed in reviews ("bahut accha app hai", `hi-Latn`),
a language no model on offer has; what is left goes to py3langid, restricted to languages that
reviews are written in. No answer is better than a wrong one: what stays below `MIN_CONFIDENCE`,
and text without letters, has no language.
"""

from __future__ import annotations

import copy
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from typing import Any

MIN_CONFIDENCE = 0.5
MIN_CHARS = 5
"""Below this the model guesses: it takes "nyc" for Polish."""
MAX_CHARS = 300
"""The start of a text is enough."""

_TABLES = tomllib.loads(files(__package__).joinpath("language.toml").read_text("utf-8"))
_SCRIPTS: dict[str, str] = _TABLES["scripts"]
_LANGUAGES: dict[str, list[str]] = _TABLES["languages"]
_COMMON_WORDS = {language: frozenset(words.split()) for language, words in _TABLES["common"].items()}


def detect_languages(texts: Iterable[str]) -> list[str | None]:
    """A language tag a text, or None where it cannot be told; equal texts are looked at once.

    >>> detect_languages(["แอปดีมาก ใช้ง่าย", "bakwas app hai, paise nahi mile", "ne fonctionne plus depuis hier", "👍"])
    ['th', 'hi-Latn', 'fr', None]
    """
    known: dict[str, str | None] = {}
    for text in (listed := list(texts)):
        if text not in known:
            known[text] = _detect(text[:MAX_CHARS])
    return [known[text] for text in listed]


def _detect(text: str) -> str | None:
    script = _script(text)
    if script == "latin":
        return _by_common_words(text) or _by_model(text, script)
    return _by_model(text, script) if script in _LANGUAGES else script


def _script(text: str) -> str | None:
    """The script of at least a third of the letters that is not Latin; else Latin; else None."""
    other = [] if text.isascii() else _OTHER_LETTER.findall(text)
    names = (unicodedata.name(char, "").partition(" ")[0] for char in other)
    counts = Counter(_SCRIPTS[name] for name in names if name in _SCRIPTS)
    if counts:
        script, count = min(counts.items(), key=lambda found: (-found[1], found[0]))
        if count >= (counts.total() + len(_LATIN_LETTER.findall(text))) / 3:
            return "ja" if script == "zh" and "ja" in counts else script
    return "latin" if _LATIN_LETTER.search(text) else None


_LATIN_LETTER = re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")
_OTHER_LETTER = re.compile("[\u0370-\u1cff\u3040-\ud7af\ufb50-\ufefe]")  # emoji, the usual company of ASCII, are none
_WORD = re.compile(r"[^\W\d_]+")


def _by_common_words(text: str) -> str | None:
    """English with at least a quarter common words; Hindi where they are as many as the English ones."""
    words = _WORD.findall(text.lower())
    english, hindi = (sum(word in _COMMON_WORDS[language] for word in words) for language in ("en", "hi-Latn"))
    if hindi and hindi >= english:
        return "hi-Latn"
    return "en" if english >= max(1, len(words) / 4) else None


def _by_model(text: str, script: str) -> str | None:
    if len(text) < MIN_CHARS:
        return None
    language, confidence = _models()[script].classify(text)
    return language if confidence >= MIN_CONFIDENCE else None


@cache
def _models() -> dict[str, Any]:
    """One model a script, restricted to the languages of that script."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # half a second and 60 MB, when first needed

    every = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    models = {script: copy.copy(every) for script in _LANGUAGES}
    for script, model in models.items():
        model.set_languages(_LANGUAGES[script])
    return models
