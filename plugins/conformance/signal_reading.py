"""A reward signal with the answers that it is tried on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plugins.conformance.checking import Broken
from plugins.conformance.plugin_class import PluginClass
from plugins.contract import Answer, Feedback, ShownPassage

_PASSAGES = (
    ShownPassage("Annual leave", "Everybody has thirty days of leave a year. Ask your lead."),
    ShownPassage("Parking", "Park behind the house, on the left. The gate closes at 20:00."),
)

ANSWERS: tuple[Answer, ...] = (
    Answer("How much leave do I have?", "You have thirty days of leave a year [1].", _PASSAGES),
    Answer("How much leave do I have?", "Ten days, I think.", _PASSAGES, "Thirty days a year."),
    Answer("Where do I park?", "Behind the house.", _PASSAGES, feedback=(Feedback("thumb", 1),)),
    Answer("Where do I park?", "In the garden!", _PASSAGES, feedback=(Feedback("thumb", -1),)),
    Answer("Who won in 1954?", "I do not know; the documents do not say.", _PASSAGES),
    Answer("Who?", "Write to ada@example.com or call +44 20 7946 0958.", (), "Ask Ada."),
    Answer("Wer darf parken?", "Alle, die ein Auto haben. 誰でも。 👩🏽‍💻", ()),
    Answer("Is it open?", "No.", _PASSAGES, "Yes.", (Feedback("thumb", 1), Feedback("thumb", -1))),
)
"""Answers of several kinds: right, wrong, cited, refusing, with and without all that may stand
beside an answer."""

EDGES: Mapping[str, Answer] = {
    "an empty answer": Answer("Where do I park?", "", _PASSAGES, "Behind the house."),
    "an answer of white space": Answer("Where do I park?", " \n\t ", _PASSAGES),
    "an answer without passages": Answer("Where do I park?", "Behind the house."),
    "an empty gold answer": Answer("Where do I park?", "Behind the house.", _PASSAGES, ""),
    "an empty passage": Answer("Where?", "There.", (ShownPassage("", ""),)),
    "an empty question": Answer("", "Behind the house.", _PASSAGES),
}

WRITINGS = (
    "日本語の答え",
    "עברית وعربية",
    "e\u0301\u0327 n\u0303",
    "👩🏽‍💻🏳️‍🌈",
    "\u200b\u202e\ufeff",
    "Ǆ ß ﬁ İ",
    "<script>alert(1)</script>",
    "\\ [1 ( * % {0}",
)

LONG = (
    "word " * 20_000,
    "a" * 100_000,
    " " * 100_000,
    "a." * 50_000,
    "(" * 50_000,
    "a@" * 50_000,
    "1-" * 50_000,
    "\n" * 100_000,
)
"""100,000 characters each; most bring a careless pattern to its knees."""


@dataclass
class SignalSubject(PluginClass):
    """A signal class with its settings and, where given, answers of which its readings are known:
    the first of `better` should be read higher than the second; `abstains` should give None."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    better: tuple[Answer, Answer] | None = None
    abstains: Answer | None = None

    def signal(self) -> Any:
        """A fresh object, as after a restart."""
        return self.made(self.settings)

    def readings(self, answers: Sequence[Answer], signal: Any = None) -> list[Any]:
        """What an object (a fresh one if none is given) reads of each answer, unchecked."""
        made = signal or self.signal()
        single = getattr(made, "read", None)
        if callable(single):
            return [single(answer) for answer in answers]
        if callable(getattr(made, "read_batch", None)):
            return [found for answer in answers for found in made.read_batch([answer])]
        raise Broken(f"{self.cls.__name__} has neither read(answer) nor read_batch(answers)")
