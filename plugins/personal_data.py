"""Finds personal data in a text: e-mail addresses, phone numbers, IBANs, card numbers, US social
security numbers. Numbers must pass the check digits or plans of their kind (python-stdnum,
phonenumbers), so that an order number is no card."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from phonenumbers import SUPPORTED_REGIONS, PhoneNumberMatcher
from stdnum import iban, luhn
from stdnum.us import ssn

CHUNK, OVERLAP = 4_000, 100
"""Characters that are looked at together. What is found is far shorter than the overlap."""

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])")
_IBAN = re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)")
_CARD = re.compile(r"(?<![\w-])\d(?:[ -]?\d){12,18}(?![\w-])")
_SSN = re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")


@dataclass(frozen=True, slots=True)
class Found:
    """Personal data of a kind at text[start:end]."""

    kind: str
    start: int
    end: int
    value: str


def known_region(value: str) -> str:
    """The setting of a country whose phone numbers are known; ValueError where it is none."""
    if value and value not in SUPPORTED_REGIONS:
        raise ValueError('give a country in two capital letters, like "US" or "DE"')
    return value


def personal_data(text: str, region: str | None = None) -> list[Found]:
    """What the text holds, in its order and without overlaps. Phone numbers are found with their
    country's prefix, and those of `region` ("US", "DE") without it too."""
    kept: dict[int, Found] = {}
    for at in range(0, max(1, len(text)), CHUNK):
        start = max(0, at - OVERLAP)
        for one in _in_chunk(text[start : at + CHUNK + OVERLAP], start, region):
            kept.setdefault(one.start, one)
    found: list[Found] = []
    for one in sorted(kept.values(), key=lambda one: (one.start, -one.end)):
        if not found or one.start >= found[-1].end:
            found.append(one)
    return found


def _in_chunk(text: str, offset: int, region: str | None) -> Iterator[Found]:
    taken: list[tuple[int, int]] = []
    for kind, pattern, valid in _KINDS:
        for match in pattern.finditer(text):
            found = valid(match.group()) and _free(match.span(), taken)
            if found or pattern is _IBAN:
                # What is laid out as an IBAN holds no phone number, with right digits or not.
                taken.append(match.span())
            if found:
                start, end = match.span()
                yield Found(kind, start + offset, end + offset, match.group())
    for number in PhoneNumberMatcher(text, region):
        if _free((number.start, number.end), taken):
            yield Found(
                "phone number", number.start + offset, number.end + offset, number.raw_string
            )


def _free(span: tuple[int, int], taken: list[tuple[int, int]]) -> bool:
    return all(span[1] <= start or span[0] >= end for start, end in taken)


def _is_card(text: str) -> bool:
    digits = re.sub(r"[ -]", "", text)
    return digits[0] in "23456" and bool(luhn.is_valid(digits))


_KINDS: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("e-mail address", _EMAIL, lambda _: True),
    ("IBAN", _IBAN, iban.is_valid),
    ("card number", _CARD, _is_card),
    ("social security number", _SSN, ssn.is_valid),
)
