"""Cuts documents into passages: along headings, sentences whole, short enough for a prompt."""

from __future__ import annotations

import re
from collections.abc import Iterator

LONGEST_WORDS = 90
"""A passage holds at most this many words; two of them fit a small policy's prompt."""

CHARACTERS_A_WORD = 12
"""Text without spaces (Chinese, a long table of codes) counts as a word for every so many."""

_HEADING = re.compile(r"(#{1,6})\s+(.*?)\s*#*\s*")
_FENCE = re.compile(r"\s{0,3}(```|~~~)")
_LIST_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)]|\|)\s")
_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])")

_Unit = tuple[str, str]
"""What stands between a piece of text and the piece before it, and the piece."""


def cut(document_text: str, title: str) -> list[tuple[str, str]]:
    """The document's passages in order, each with the heading it stands under.

    Headings are lines that begin with one to six `#`. The heading is "" before the
    first one and where it only repeats the title. A sentence is cut only where it is
    longer than a passage may be.
    """
    passages = []
    for heading, body in _sections(document_text):
        shown = "" if heading.casefold() == title.casefold() else heading
        passages += [(shown, text) for text in _packed(list(_units(body)))]
    return passages


def _sections(text: str) -> Iterator[tuple[str, str]]:
    heading, lines, fenced = "", list[str](), False
    for line in text.splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        found = None if fenced else _HEADING.fullmatch(line)
        if found is None:
            lines.append(line)
            continue
        yield heading, "\n".join(lines)
        heading, lines = found.group(2), []
    yield heading, "\n".join(lines)


def _units(body: str) -> Iterator[_Unit]:
    """Sentences, list items and table rows, none longer than a passage."""
    for paragraph in re.split(r"\n\s*\n", body):
        between = "\n\n"
        for block in _lines_that_belong_together(paragraph):
            for sentence in _SENTENCE_END.split(block):
                for piece in _pieces(sentence.strip()):
                    yield between, piece
                    between = " "
            between = "\n"


def _lines_that_belong_together(paragraph: str) -> list[str]:
    blocks: list[str] = []
    for line in paragraph.splitlines():
        if blocks and not _LIST_ITEM.match(line):
            blocks[-1] += f" {line.strip()}"
        else:
            blocks.append(line.rstrip())
    return blocks


def _pieces(sentence: str) -> Iterator[str]:
    if sentence and _words(sentence) <= LONGEST_WORDS:
        yield sentence
        return
    longest = LONGEST_WORDS * CHARACTERS_A_WORD
    piece = ""
    for word in sentence.split():
        for start in range(0, len(word), longest):
            part = word[start : start + longest]
            if piece and _words(f"{piece} {part}") > LONGEST_WORDS:
                yield piece
                piece = ""
            piece = f"{piece} {part}".strip()
    if piece:
        yield piece


def _packed(units: list[_Unit]) -> list[str]:
    """Units joined to texts of about the same length, as few as the longest length allows."""
    total = sum(_words(piece) for _between, piece in units)
    even = total / max(1, -(-total // LONGEST_WORDS))
    texts: list[str] = []
    filled = LONGEST_WORDS
    for between, piece in units:
        size = _words(piece)
        if filled < even and filled + size <= LONGEST_WORDS:
            texts[-1] += between + piece
            filled += size
        else:
            texts.append(piece)
            filled = size
    return texts


def _words(text: str) -> int:
    return max(len(text.split()), -(-len(text) // CHARACTERS_A_WORD))
