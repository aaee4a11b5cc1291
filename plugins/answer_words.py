"""The words of an answer that carry meaning, and the sentences that state something."""

from __future__ import annotations

import re
from collections.abc import Iterable

from plugins.contract import ShownPassage

_WORD = re.compile(r"[^\W_]+(?:['’.,:@-][^\W_]+)*")
_SENTENCE_END = re.compile(r"(?<=[.!?…。！？])\s+|\n+")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d{1,3}[.)])\s+")

_FUNCTION_WORDS = """
    a about after all also am an and any are as at be because been before being both but by
    can could did do does doing each either else even every few for from had has have having
    he her here hers him his how i if in into is it its just let may me might mine more most
    much must my neither no nor not of off on once only or other our ours out over own per
    please same shall she should since so some still such than that the their theirs them then
    there these they this those though through to too under until up upon us very was we were
    what when where whether which while who whom whose why will with within without would yes
    yet you your yours
"""
_WITHOUT_MEANING = frozenset(_FUNCTION_WORDS.split())


def content_words(text: str) -> set[str]:
    """The distinct words that carry meaning, lower-case, without a plural or possessive s."""
    words = (match.group().casefold().replace("’", "'") for match in _WORD.finditer(text))
    return {_stem(word) for word in words if word not in _WITHOUT_MEANING}


def passage_words(passages: Iterable[ShownPassage]) -> set[str]:
    """The content words of all passages, their titles included."""
    found: set[str] = set()
    for passage in passages:
        found |= content_words(passage.title) | content_words(passage.text)
    return found


def sentences(text: str) -> list[str]:
    """The text's sentences and lines, without bullets; none of them empty."""
    parts = (_BULLET.sub("", part).strip() for part in _SENTENCE_END.split(text))
    return [part for part in parts if part]


def _stem(word: str) -> str:
    word = word.removesuffix("'s")
    # "days" and "day" must meet; "pass" and "bus" are left whole.
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word
