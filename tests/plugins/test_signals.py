"""The built-in reward signals read what their docs say, on numbers worked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.concise import Concise
from plugins.contract import Answer, OptionsError, ShownPassage
from plugins.grounded import Grounded
from service.plugin_fields import checked

PASSAGES = (
    ShownPassage("Hotels: Boston", "The limit in Boston is 210 dollars a night."),
    ShownPassage("Claims", "Claims are due within 30 days."),
)


def concise(options: dict[str, Any]) -> Concise:
    return Concise(checked(Concise.Settings, options))


def test_grounded_reads_the_share_of_content_words_in_the_passages() -> None:
    signal = Grounded(None)

    def read(text: str) -> float | None:
        return signal.read(Answer("What is the limit?", text, PASSAGES))

    assert read("In Boston, the LIMIT is 210 dollars.") == 1.0
    assert read("Breakfast costs extra money.") == -1.0
    # boston, limit are there; 300, euros are not.
    assert read("The limit in Boston is 300 euros.") == 0.0
    # claim, night, day meet their other forms; taxi does not stand there.
    assert read("Each claim: nights, day, taxi.") == pytest.approx(0.5)


@pytest.mark.parametrize("text", ["", "  ", "Yes, it is.", "?!"])
def test_grounded_abstains_without_content_words(text: str) -> None:
    assert Grounded(None).read(Answer("A?", text, PASSAGES)) is None


def test_grounded_abstains_without_passages() -> None:
    assert Grounded(None).read(Answer("A?", "The limit is 210.")) is None


@pytest.mark.parametrize(
    ("count", "reading"),
    [(1, 1.0), (10, 1.0), (15, 0.5), (20, 0.0), (30, -1.0), (31, -1.0), (1000, -1.0)],
)
def test_concise_falls_in_a_straight_line_to_three_times_its_words(
    count: int, reading: float
) -> None:
    signal = concise({"words": 10})
    assert signal.read(Answer("A?", "word " * count)) == pytest.approx(reading)


def test_concise_takes_40_words_and_abstains_on_an_empty_answer() -> None:
    signal = concise({})
    assert signal.read(Answer("A?", "word " * 40)) == 1.0
    assert signal.read(Answer("A?", "word " * 80)) == 0.0
    assert signal.read(Answer("A?", " \n")) is None


@pytest.mark.parametrize("words", [0, -1, 2.5, "forty", None])
def test_concise_refuses_other_words(words: Any) -> None:
    with pytest.raises(OptionsError, match="option words is"):
        concise({"words": words})


def test_unknown_options_are_named() -> None:
    with pytest.raises(OptionsError, match="'word' is unknown; it knows: words"):
        concise({"word": 3})
    with pytest.raises(OptionsError, match="'a' is unknown; it knows: no options"):
        checked(None, {"a": 3})
