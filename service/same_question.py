"""Tells whether two texts ask the same question, without judging what words mean.

Two questions are the same where their words are, one by one and in the same order, after
what cannot change the question is left out: letter case, the punctuation around words,
greetings and courtesies at the ends, "the" and "an", and short forms ("what's" is "what
is"). A different number, name, negation, order or spelling makes a different question:
missing a rewording only costs an answer of the policy, and showing one person's answer to
another question would cost trust.
"""

from __future__ import annotations

import unicodedata
from itertools import pairwise

FEWEST_WORDS = 2

_BEFORE = "\"'“”‘’„«»‹›()[]{}?!,;:…¿¡*_`"
_AFTER = _BEFORE + "."
_LEFT_OUT = frozenset({"the", "an"})
_NAMES_IN_CAPITALS = frozenset({"IT", "US", "WHO", "AM", "OR", "IN", "ME"})
"""Short names that are everyday words in small letters: "who heads IT", "who heads it"."""

_SHORT_FORMS = {
    "what's": "what is",
    "who's": "who is",
    "where's": "where is",
    "when's": "when is",
    "how's": "how is",
    "it's": "it is",
    "there's": "there is",
    "i'm": "i am",
    "we're": "we are",
    "i've": "i have",
    "we've": "we have",
    "i'll": "i will",
    "don't": "do not",
    "doesn't": "does not",
    "didn't": "did not",
    "isn't": "is not",
    "aren't": "are not",
    "can't": "can not",
    "cannot": "can not",
    "won't": "will not",
    "shouldn't": "should not",
    "mustn't": "must not",
}

_OPENINGS = tuple(
    tuple(words.split())
    for words in (
        "please",
        "hi",
        "hello",
        "hey",
        "heed",
        "good morning",
        "good afternoon",
        "good evening",
        "quick question",
        "could you please tell me",
        "can you please tell me",
        "could you tell me",
        "can you tell me",
        "please tell me",
        "tell me",
        "do you know",
        "i would like to know",
        "i want to know",
    )
)
_ENDINGS = tuple(
    tuple(words.split())
    for words in (
        "please",
        "thanks",
        "thank you",
        "thanks in advance",
        "thank you in advance",
        "many thanks",
    )
)

_BACKWARD_WORDS = """
    it its that this these those they them their he him his she her there then same other another
    instead too also above
"""
_POINTING_BACK = frozenset(_BACKWARD_WORDS.split())
_OF_BEING = frozenset({"is", "are", "was", "were"})
"""After these, "there" says that something exists and points nowhere."""
_GOING_ON = (("and",), ("or",), ("but",), ("so",), ("what", "about"), ("how", "about"), ("why",))


def wording(question: str) -> str:
    """The question as it is compared: equal for two texts that ask the same, "" where fewer than
    two words are left."""
    words = _words(question)
    words = _without_openings(words)
    words = _without_endings(words)
    kept = [word for word in words if word not in _LEFT_OUT]
    return " ".join(kept) if len(kept) >= FEWEST_WORDS else ""


def points_back(question: str) -> bool:
    """Whether a question may refer to what was said before it, as "and how do I reset it?"
    does; asked elsewhere it could mean something else."""
    words = wording(question).split()
    goes_on = any(tuple(words[: len(begin)]) == begin for begin in _GOING_ON)
    pointing = [
        word
        for before, word in pairwise(["", *words])
        if word in _POINTING_BACK and not (word == "there" and before in _OF_BEING)
    ]
    return goes_on or not words or bool(pointing)


def _words(question: str) -> list[str]:
    text = unicodedata.normalize("NFKC", question).replace("’", "'").replace("\u00ad", "")
    found: list[str] = []
    for raw in text.split():
        word = raw.lstrip(_BEFORE).rstrip(_AFTER)
        if word and word not in _NAMES_IN_CAPITALS:
            word = word.casefold()
            found += _SHORT_FORMS.get(word, word).split()
        elif word:
            found.append(word)
    return found


def _without_openings(words: list[str]) -> list[str]:
    for opening in sorted(_OPENINGS, key=len, reverse=True):
        if tuple(words[: len(opening)]) == opening:
            return _without_openings(words[len(opening) :])
    return words


def _without_endings(words: list[str]) -> list[str]:
    for ending in sorted(_ENDINGS, key=len, reverse=True):
        if tuple(words[-len(ending) :]) == ending:
            return _without_endings(words[: -len(ending)])
    return words


def same_question(one: str, other: str) -> bool:
    """Whether the two ask the same; False where either is too short to tell."""
    key = wording(one)
    return bool(key) and key == wording(other)
