"""How a review gets its words: dice that fall the same on every machine, and a voice that speaks.

A voice is one language as the reviewers of one app write it. It turns a plan such as
`nod BUT complaint` into clauses, lets them agree, joins them, and then writes as people do: without
capitals or stops, shouting, with emoji, misspelt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from typing import TypeVar

import numpy as np

from mobile_sentiment_ops.data.demo_world.lexicon import WORLD, Phrase, agree, lexicon, phrases

_SENTENCE = re.compile(r"(^|[.!?] )([^\W\d_])")
_STOPS = re.compile(r"[.,!?:]+(?=\s|$)")
_SPACES = re.compile(r" {2,}")

T = TypeVar("T")


class Dice:
    """Uniform numbers in [0, 1) from a tuple of seeds, one by one.

    Only raw doubles of PCG64 and exact arithmetic are used, so every machine gets the same.

    >>> Dice(7, 1).roll() == Dice(7, 1).roll(), Dice(7, 1).roll() == Dice(7, 2).roll()
    (True, False)
    """

    def __init__(self, *seeds: int) -> None:
        rng = np.random.Generator(np.random.PCG64(seeds))
        self.roll = chain.from_iterable(iter(lambda: rng.random(1024).tolist(), [])).__next__

    def pick(self, options: Sequence[T], tilt: float = 0.0) -> T:
        """One of the options; with a tilt (up to 1) the first ones come more often."""
        roll = self.roll()
        return options[int(len(options) * roll * (1 - tilt + tilt * roll))]

    def below(self, share: float) -> bool:
        """True in that share of the calls."""
        return bool(self.roll() < share)


class Voice:
    """One language as the reviewers of one app write it."""

    def __init__(self, language: str, app: str) -> None:
        self.style = lexicon(language)["style"]
        self.phrases = phrases(language, app)
        self._sloppy = str.maketrans(self.style.get("sloppy", {}))
        self._form = 1 if self.style.get("default") == "f" else 0

    def say(self, name: str, dice: Dice, facts: Mapping[str, Phrase]) -> str:
        """One clause: an entry of the list `name` with its slots filled and its forms agreeing."""
        phrase = facts[name] if name in facts else dice.pick(self.phrases[name])
        text = agree(self._speak(phrase, dice, facts), self._form)
        for apart, together in self.style.get("contractions", {}).items():
            text = text.replace(apart, together)
        return text

    def _speak(self, phrase: Phrase, dice: Dice, facts: Mapping[str, Phrase]) -> str:
        text = phrase.literals[0]
        for slot, literal in zip(phrase.slots, phrase.literals[1:], strict=True):
            if isinstance(slot, tuple):
                text += dice.pick(slot) + literal
            else:
                filler = facts[slot] if slot in facts else dice.pick(self.phrases[slot], tilt=1.0)
                text += self._speak(filler, dice, facts) + literal
        return text

    def compose(self, plan: str, dice: Dice, facts: Mapping[str, Phrase]) -> str:
        """The clauses of a plan, joined: `praise BUT gripe`."""
        text, joint = "", ""
        for word in plan.split():
            if word.isupper():
                joint = dice.pick(self.style[word.lower()])
            else:
                text += (" " if text.endswith("?") else joint) + self.say(word, dice, facts)
        return _SPACES.sub(" ", text).strip()

    def scribble(self, text: str, mood: str, dice: Dice, *, typos: float, emoji: float) -> str:
        """The text as somebody types it on a phone; `typos` and `emoji` are shares of reviews."""
        manner = dice.roll()
        if not text.endswith("?"):
            if dice.below(0.12):
                text += dice.pick(self.style["tails"])
            text += dice.pick(self.style["ends"])
        if dice.below(0.3):
            text = text.translate(self._sloppy)
        if dice.below(0.1):
            text = _STOPS.sub("", text)
        if manner < 0.3:
            text = text.lower()
        elif manner > 0.97:
            text = text.upper()
        else:
            text = _SENTENCE.sub(lambda found: found[1] + found[2].upper(), text)
        if dice.below(typos):
            text = misspell(text, dice)
        if dice.below(emoji):
            mood = mood if dice.below(0.93) else "Neutral"
            text += dice.pick(("", " ")) + dice.pick(WORLD["emoji"][mood], tilt=0.5) * dice.pick((1, 1, 2, 3))
        return text


def misspell(text: str, dice: Dice) -> str:
    """The text with one long word mistyped: a letter dropped, doubled or swapped with the next.

    >>> misspell("terrible", Dice(3))
    'terirble'
    """
    words = text.split(" ")
    long = [at for at, word in enumerate(words) if len(word) > 4 and not any(char.isdigit() for char in word)]
    if not long:
        return text
    at = dice.pick(long)
    word = words[at]
    pairs = [(spot, a, b) for spot, (a, b) in enumerate(pairwise(word)) if spot and (a + b).isalpha() and a != b]
    if pairs:
        spot, a, b = dice.pick(pairs)
        words[at] = word[:spot] + dice.pick((b, a + a + b, b + a)) + word[spot + 2 :]
    return " ".join(words)
