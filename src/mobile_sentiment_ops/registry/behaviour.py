"""Behaviour tests: what a model must do on texts that were made for it, whatever its figures say.

    invariance   texts that differ in a name, a brand or a typo get the same label
    direction    a change moves the probability of a label the way it should: "not good", "very slow"
    minimum      plain texts get the label that anyone would give

They are data (`behaviour.toml`): texts with {slots}, filled with each combination of their words. A file of one's
own adds tests, and replaces those of the same name.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mobile_sentiment_ops.errors import SettingsError
from mobile_sentiment_ops.models.model import SentimentModel
from mobile_sentiment_ops.types import LABELS, Label

Suite = tuple["BehaviourTest", ...]


class BehaviourTest(BaseModel):
    """One test: texts in groups, each a text followed by its variants (invariance, direction) or alone (minimum)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["invariance", "direction", "minimum"]
    min_pass: float = Field(ge=0, le=1)
    texts: tuple[tuple[str, ...], ...] = Field(min_length=1)
    words: dict[str, tuple[str, ...]] = {}
    label: Label | None = None
    language: str | None = None
    """The test counts where reviews of this language judge; None: everywhere."""
    by: float = 0.0
    """How far a change must move the probability, at least; below 0: how far it may move the other way."""

    @model_validator(mode="after")
    def _whole(self) -> BehaviourTest:
        if (self.kind == "invariance") != (self.label is None):
            raise ValueError("a label is what direction and minimum ask for, and invariance does not")
        if unknown := {slot for group in self.texts for text in group for slot in _SLOT.findall(text)} - {*self.words}:
            raise ValueError(f"no words for {{{min(unknown)}}}")
        if self.kind != "minimum" and any(len(group) < 2 for group in self.groups()):
            raise ValueError("a text to compare with is missing: each entry of texts is [text, variant, ...]")
        return self

    def groups(self) -> list[tuple[str, ...]]:
        """The texts with their slots filled.

        In an invariance test all fillings of a text are one group; else each filling is a group of its own.

        >>> words = {"name": ("Tavo", "Mirel")}
        >>> same = BehaviourTest(name="n", kind="invariance", min_pass=1, texts=(("{name} helped me",),), words=words)
        >>> same.groups()
        [('Tavo helped me', 'Mirel helped me')]
        """
        found = []
        for group in self.texts:
            slots = sorted({slot for text in group for slot in _SLOT.findall(text)})
            fillings = [
                tuple(text.format(**dict(zip(slots, filling, strict=True))) for text in group)
                for filling in itertools.product(*(self.words[slot] for slot in slots))
            ]
            found += [tuple(itertools.chain(*fillings))] if self.kind == "invariance" else fillings
        return found


_SLOT = re.compile(r"\{(\w+)\}")


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal[1]
    test: tuple[BehaviourTest, ...]


def load_suite(own: str = "") -> Suite:
    """The package's tests and those of a file of one's own; SettingsError says what is wrong with it."""
    tests = {test.name: test for test in _read(files(__package__).joinpath("behaviour.toml").read_text("utf-8"))}
    if own:
        try:
            tests |= {test.name: test for test in _read(Path(own).read_text("utf-8"))}
        except ValidationError as err:
            fault = err.errors()[0]
            wrong = f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].lower()}; docs/gate.md shows a test"
            raise SettingsError(f"gate.behaviour_file: {own}: {wrong}") from err
        except (OSError, ValueError) as err:
            raise SettingsError(f"gate.behaviour_file: {own} cannot be read as TOML: {err}") from err
    return tuple(tests.values())


def _read(text: str) -> Suite:
    return _File.model_validate(tomllib.loads(text)).test


def pass_shares(model: SentimentModel, suite: Suite) -> Mapping[str, float]:
    """The share of its cases that a model passes, by test; a case is a text or a variant of one."""
    groups = {test.name: test.groups() for test in suite}
    texts = sorted({text for cases in groups.values() for text in itertools.chain(*cases)})
    place = {text: at for at, text in enumerate(texts)}
    probabilities = model.probabilities(texts or ("",))
    decided = model.decide(probabilities)
    shares = {}
    for test in suite:
        at = [[place[text] for text in group] for group in groups[test.name]]
        label = LABELS.index(test.label) if test.label else None
        if test.kind == "minimum":
            passed = [decided[row] == label for group in at for row in group]
        elif test.kind == "invariance":
            passed = [decided[row] == decided[group[0]] for group in at for row in group[1:]]
        else:
            wanted = probabilities[:, label]
            passed = [wanted[row] >= wanted[group[0]] + test.by for group in at for row in group[1:]]
        shares[test.name] = float(np.mean(passed))
    return shares
