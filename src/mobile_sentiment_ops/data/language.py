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
from bisect import bisect
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

MIN_CONFIDENCE = 0.5
MIN_CHARS = 5
"""Below this the model guesses: it takes "nyc" for Polish."""
MAX_CHARS = 300
"""The start of a text is enough."""

_TABLE = """
    cyrillic 0400-052F; arabic 0600-06FF 0750-077F FB50-FDFF FE70-FEFE; devanagari 0900-097F
    el 0370-03FF; hy 0530-058F; he 0590-05FF; bn 0980-09FF; pa 0A00-0A7F; gu 0A80-0AFF; or 0B00-0B7F; ta 0B80-0BFF
    te 0C00-0C7F; kn 0C80-0CFF; ml 0D00-0D7F; si 0D80-0DFF; th 0E00-0E7F; lo 0E80-0EFF; my 1000-109F; ka 10A0-10FF
    am 1200-137F; km 1780-17FF; ko 1100-11FF AC00-D7AF; ja 3040-30FF; zh 3400-4DBF 4E00-9FFF
"""
_SCRIPTS = sorted(
    (int(first, 16), int(last, 16), script)
    for script, *ranges in map(str.split, re.split("[;\n]", _TABLE.strip()))
    for first, last in (span.split("-") for span in ranges)
)
"""First and last code point of what each script is written with. A script of one language among
reviews goes by that language's name."""

_LANGUAGES = {
    "latin": ["en", "es", "pt", "fr", "de", "it", "id", "vi", "tr", "nl", "pl"],
    "devanagari": ["hi", "mr", "ne"],
    "arabic": ["ar", "fa", "ur"],
    "cyrillic": ["ru", "uk", "bg", "sr", "kk"],
}
"""The languages among which the model chooses, by script."""

_HINDI_WORDS = """
    abhi accha acchi acha achha achhi achi agar apka aur badhiya bahot bahut bakwas bekar bhai bhi bhut bohot
    chahiye faltu gaya gya hai hain hota hoti hua humko iska isme jata kaisa kaise karke karna karo karta kuch kyon
    kyu kyun liye mast matlab mera mere meri mujhe nahi nahin nai nhi paisa paise pasand phir raha rahe rahi rha rhe
    rhi sabse sahi sakta tha thik toh wala yaar yeh
"""
_ENGLISH_WORDS = """
    about account after again all always am amazing and any are at awesome bad be because been best better but can
    cannot cant cool does doesn doesnt don dont easy ever every everything experience fast fix for from get good
    great happy have help helpful i is issue it its just keeps like love many money more much my never nice not
    nothing of ok okay only open please poor problem really should slow still thank thanks that the there they this
    time to too unable use useful useless user very was waste well what when why will with work working works worst
    would wrong you your
"""
_HINDI = frozenset(_HINDI_WORDS.split())
_ENGLISH = frozenset(_ENGLISH_WORDS.split())


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
    counts = Counter(script for char in other if (script := _script_of(ord(char))) is not None)
    if counts:
        script, count = min(counts.items(), key=lambda found: (-found[1], found[0]))
        if count >= (counts.total() + len(_LATIN_LETTER.findall(text))) / 3:
            return "ja" if script == "zh" and "ja" in counts else script
    return "latin" if _LATIN_LETTER.search(text) else None


def _script_of(code: int) -> str | None:
    first, last, script = _SCRIPTS[max(bisect(_SCRIPTS, (code, 0x110000, "")) - 1, 0)]
    return script if first <= code <= last else None


_LATIN_LETTER = re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff]")
_OTHER_LETTER = re.compile("[\u0370-\u1dff\u3040-\ud7af\ufb50-\ufefe]")  # emoji, the usual company of ASCII, are none
_WORD = re.compile(r"[^\W\d_]+")


def _by_common_words(text: str) -> str | None:
    """English with at least a quarter common words; Hindi where they are as many as the English ones."""
    words = _WORD.findall(text.lower())
    english, hindi = (sum(word in known for word in words) for known in (_ENGLISH, _HINDI))
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
