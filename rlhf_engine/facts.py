"""The exact facts of a text: what an answer must get right to the last digit.

    kind      from                                value
    email     Help.Desk@heed.example              help.desk@heed.example
    link      https://heed.example/leave/         heed.example/leave
    date      3rd of March 2026, 2026-03-03       2026-03-03 (without a year 03-03)
    time      7.30 am, 07:30, noon                07:30, 12:00
    phone     +44 (0)20 7946 0958                 442079460958
    amount    €1,200 or 1200 euros, £5k           1200 eur, 5000 gbp
    percent   6 %, six percent                    6
    measure   28 days, five working days          28 day, 5 day
    place     3rd floor, room B12                 floor 3, room b12
    code      VPN2, form W-4                      vpn2, w-4
    number    1,200, three, 3rd                   1200, 3
    name      Leeds, Maria Keller                 leeds, maria keller

Regular expressions, each kind in this order, read what the earlier ones left; all are linear in
the length of the text. Words for numbers, months and units are English, digits of every script.
A date in digits that may be of two months (03/04/2026) stays as written. A name is a run of
capitalised words that does not begin a sentence; where more than two in five words are
capitalised, as in German, names cannot be told apart and none are read. A sign before a number
is not read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cache

from rlhf_engine.snapshot import normalised

MAX_CHARACTERS = 50_000
"""Facts beyond this many characters are not read."""

_TAKEN = "\ufffc"
_CITED = re.compile(r"\[\d{1,2}\](?!\()")
# fmt: off
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
    "eleventh", "twelfth",
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_UNITS = (
    "second", "minute", "min", "hour", "hr", "day", "week", "month", "quarter", "year", "time",
    "people", "page", "mile", "km", "metre", "cm", "mm", "kg", "mb", "gb", "tb", "degree",
)
# fmt: on
_SHORT = {"min": "minute", "hr": "hour"}
_WORDS = (
    {word: at for at, word in enumerate(_ONES)}
    | {word: 10 * at for at, word in enumerate(_TENS, start=2)}
    | {f"{t}-{_ONES[o]}": 10 * at + o for at, t in enumerate(_TENS, start=2) for o in range(1, 10)}
    | {word: at for at, word in enumerate(_ORDINALS, start=1)}
)
_VAGUE = {"zero", "one", "first", "second"}
"""Words that mostly count nothing, as in "one of them"; an answer may still use them to count."""

_CURRENCIES = {
    **dict.fromkeys(("€", "eur", "euro", "euros"), "eur"),
    **dict.fromkeys(("$", "usd", "dollar", "dollars"), "usd"),
    **dict.fromkeys(("£", "gbp", "pound", "pounds"), "gbp"),
    **dict.fromkeys(("¥", "jpy", "yen"), "jpy"),
    **dict.fromkeys(("₹", "inr", "rupee", "rupees"), "inr"),
    **dict.fromkeys(("chf", "franc", "francs"), "chf"),
}
_MULTIPLES = {
    **dict.fromkeys(("k", "thousand"), 10**3),
    **dict.fromkeys(("m", "million"), 10**6),
    **dict.fromkeys(("bn", "billion"), 10**9),
    "hundred": 100,
}


def _any(words: Iterable[str]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


_SPELLED = rf"\b(?:{_any(_WORDS)})(?:[ -](?:hundred|thousand|million))?\b".replace(r"\-", "[- ]")
_AFTER_SIGN = r"(?:\d{1,3}(?:,\d{3}){1,5}|\d{1,15})(?:\.\d{1,6})?"
_DIGITS = r"(?<!\w)(?<!\d\.)(?:\d{1,3}(?:,\d{3}){1,5}|\d{1,15})(?:\.\d{1,6})?(?:st|nd|rd|th)?"
_NUMBER = rf"(?:{_DIGITS}(?!\w)|{_SPELLED})"
_MULTIPLE = r"(?:\s?(k|m|bn|thousand|million|billion)\b)?"
_MONTH = (
    r"(jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?"
    r"|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\b\.?"
)
_DAY = r"\b(\d{1,2})(?:st|nd|rd|th)?\b"
_CURRENCY = rf"({_any(_CURRENCIES)})(?!\w)"
_PLACE = r"(floor|room|building|desk|gate|level)"
_BETWEEN = r"(?:(?!(?:of|in|per|an?|the|or|and|to|at|on|for|from|by|is|are)\b)[a-z]{1,20}[\s-]+)"


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact: its kind and its normalised value, as in the table above."""

    kind: str
    value: str


Reader = Callable[[re.Match[str]], str | None]
"""The normalised value of a match, or None where it is no such fact after all."""


def facts(text: str) -> frozenset[Fact]:
    """The exact facts that `text` states."""
    return frozenset(_read(text, generous=False))


def facts_found(answer: str, gold: str) -> float | None:
    """Share of the gold answer's facts that the answer states too; None where there are none.

    A plain number may stand in the answer with a unit, a date may have a year there that the
    gold answer leaves out. Further facts in the answer cost nothing.
    """
    wanted = facts(gold)
    if not wanted:
        return None
    stated = frozenset(_read(answer, generous=True))
    words = f" {normalised(answer[:MAX_CHARACTERS])} "
    found = [
        fact in stated or (fact.kind == "name" and f" {normalised(fact.value)} " in words)
        for fact in wanted
    ]
    return sum(found) / len(wanted)


def _read(text: str, *, generous: bool) -> Iterator[Fact]:
    text = _plain(text)
    for kind, pattern, read in _kinds():
        for match in [*pattern.finditer(text)]:
            value = read(match)
            if value is None or (kind == "number" and not generous and _is_vague(match)):
                continue
            yield Fact(kind, value)
            if generous:
                yield from _implied(kind, value)
            text = text[: match.start()] + _TAKEN * len(match[0]) + text[match.end() :]
    for name in _names(text):
        yield Fact("name", name)


def _plain(text: str) -> str:
    """One form of each character; thousands are marked by commas alone; no passage is named."""
    text = _CITED.sub(" ", text[:MAX_CHARACTERS])
    text = re.sub(r"(?<=\d)[\u00a0\u202f\u2009'’](?=\d{3}(?!\d))", ",", text)
    return unicodedata.normalize("NFKC", text)[:MAX_CHARACTERS]


def _implied(kind: str, value: str) -> Iterator[Fact]:
    """What else is said: a number by its measure, a day of the year by a date."""
    if kind in ("amount", "measure", "percent"):
        yield Fact("number", value.split()[0])
    if kind == "place":
        yield Fact("number", value.split()[1])
    if kind == "date" and len(value) == len("2026-03-03"):
        yield Fact("date", value[5:])


@cache
def _kinds() -> list[tuple[str, re.Pattern[str], Reader]]:
    table: list[tuple[str, str, Reader]] = [
        ("email", r"(?<![\w.+-])[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}", _email),
        ("link", r"\b(?:https?://|www\.)[^\s<>\"']{1,2000}", _link),
        ("date", r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b", lambda m: _date(m[1], m[2], m[3])),
        ("date", rf"{_DAY}\s(?:of\s)?{_MONTH}(?:,?\s(\d{{4}})\b)?", lambda m: _named(m, 1, 2)),
        ("date", rf"\b{_MONTH}\s{_DAY}(?:,?\s(\d{{4}})\b)?", lambda m: _named(m, 2, 1)),
        ("date", r"(?<![\d./])(\d{1,2})([./])(\d{1,2})\2(\d{4})\b", _written_date),
        ("time", r"\b(\d{1,2})(?:[:.](\d{2}))?\s?([ap])\.?m\b\.?", _time),
        ("time", r"(?<![\d:])(\d{1,2}):(\d{2})()(?![\d:])", _time),
        ("time", r"\b(noon|midnight)\b", lambda m: "12:00" if m[1].lower() == "noon" else "00:00"),
        ("phone", r"(?<!\w)(?:\+|\(?0)\d?[\d\s()/-]{5,20}\d(?!\w)", _phone),
        ("phone", r"(?<!\w)\(?\d{3}\)?[-. ]\d{3}[-. ]\d{4}(?!\w)", _phone),
        ("amount", rf"(?<!\w)({_any(_CURRENCIES)})\s?({_AFTER_SIGN}){_MULTIPLE}(?!\w)", _amount),
        ("amount", rf"({_NUMBER}){_MULTIPLE}\s?{_CURRENCY}", _amount_after),
        ("percent", rf"({_NUMBER})\s?(?:%|per\s?cent\b)", lambda m: _number(m[1])),
        ("measure", rf"({_NUMBER})[\s-]+{_BETWEEN}{{0,2}}?({_any(_UNITS)})s?\b", _measure),
        ("place", rf"\b{_PLACE}\s([a-z]{{0,3}}-?\d[\w-]{{0,8}}(?:\.\d{{1,4}})?)\b", _place),
        ("place", rf"\b(ground|top|{_NUMBER})\s(floor|level)\b", _place_after),
        ("code", r"[a-z\d]+(?:[-.][a-z\d]+)*", _code),
        ("number", rf"({_NUMBER})", lambda m: _number(m[1])),
    ]  # fmt: skip
    return [(kind, re.compile(pattern, re.IGNORECASE), read) for kind, pattern, read in table]


def _number(text: str) -> str:
    """A number in digits or words as plain digits: "1,200" is 1200, "3rd" is 3, "1.50" is 1.5."""
    text = text.lower().replace(" ", "-")
    word, _, multiple = text.rpartition("-")
    if word in _WORDS and multiple in _MULTIPLES:
        return str(_WORDS[word] * _MULTIPLES[multiple])
    if text in _WORDS:
        return str(_WORDS[text])
    return _digits(Decimal(re.sub(r"[^\d.]", "", text)))


def _digits(number: Decimal) -> str:
    return f"{number.normalize():f}"


def _is_vague(match: re.Match[str]) -> bool:
    return match[0].lower() in _VAGUE


def _email(match: re.Match[str]) -> str:
    return match[0].rstrip(".-_").casefold()


def _link(match: re.Match[str]) -> str:
    bare = re.sub(r"^(?:https?://)?(?:www\.)?", "", match[0].casefold())
    return bare.rstrip(".,;:!?)]}").rstrip("/")


def _date(year: str | None, month: int | str, day: str) -> str | None:
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return None
    return (f"{int(year):04}-" if year else "") + f"{int(month):02}-{int(day):02}"


def _named(match: re.Match[str], day: int, month: int) -> str | None:
    return _date(match[3], 1 + _MONTHS.index(match[month][:3].lower()), match[day])


def _written_date(match: re.Match[str]) -> str | None:
    first, second, year = match[1], match[3], match[4]
    if int(first) > 12 or first == second:
        return _date(year, second, first)
    if int(second) > 12:
        return _date(year, first, second)
    return f"{int(first)}/{int(second)}/{int(year)}"


def _time(match: re.Match[str]) -> str | None:
    hour, minute, half = int(match[1]), int(match[2] or 0), match[3].lower()
    if minute > 59 or hour > (12 if half else 24) or (half and not hour):
        return None
    if half:
        hour = hour % 12 + (12 if half == "p" else 0)
    return f"{hour:02}:{minute:02}"


def _phone(match: re.Match[str]) -> str | None:
    digits = re.sub(r"\D", "", match[0].replace("(0)", "")).removeprefix("00")
    return digits if 7 <= len(digits) <= 15 else None


def _amount(match: re.Match[str]) -> str:
    return _money(match[2], match[3], match[1])


def _amount_after(match: re.Match[str]) -> str:
    return _money(match[1], match[2], match[3])


def _money(number: str, multiple: str | None, currency: str) -> str:
    amount = Decimal(_number(number)) * _MULTIPLES.get((multiple or "").lower(), 1)
    return f"{_digits(amount)} {_CURRENCIES[currency.lower()]}"


def _measure(match: re.Match[str]) -> str:
    unit = match[2].lower()
    return f"{_number(match[1])} {_SHORT.get(unit, unit)}"


def _place(match: re.Match[str]) -> str:
    return f"{match[1].lower()} {match[2].lower().rstrip('-')}"


def _place_after(match: re.Match[str]) -> str:
    which = match[1].lower()
    return f"{match[2].lower()} {which if which in ('ground', 'top') else _number(which)}"


def _code(match: re.Match[str]) -> str | None:
    text = match[0].lower()
    mixed = re.search(r"\d", text) and re.search(r"[a-z]", text)
    return None if not mixed or re.fullmatch(r"\d+(?:st|nd|rd|th)", text) else text


def _names(text: str) -> list[str]:
    """Runs of capitalised words inside sentences, in lower case."""
    runs: list[list[str]] = []
    inside = capitals = end = 0
    for match in re.finditer(r"[^\W\d_][\w'’&-]*", text):
        gap, end = text[end : match.start()], match.end()
        begins = not match.start() or bool(re.search(r"[.!?:;\n•\"“(]", gap))
        word = match[0].replace("’", "'").removesuffix("'s")
        capital = word[0].isupper() and len(word) > 1 and not word.startswith("I'")
        inside += not begins
        if begins or not capital:
            runs.append([])
            continue
        capitals += 1
        if runs and gap.isspace():
            runs[-1].append(word.casefold())
        else:
            runs.append([word.casefold()])
    if inside >= 12 and capitals > 0.4 * inside:
        return []
    return [" ".join(run) for run in runs if run]
