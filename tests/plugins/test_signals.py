"""The built-in reward signals read what their docs say, on numbers worked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.cites_documents import CitesDocuments
from plugins.concise import Concise
from plugins.contract import Answer, Feedback, OptionsError, ShownPassage
from plugins.gold_similarity import GoldSimilarity
from plugins.grounded import Grounded
from plugins.length_band import LengthBand
from plugins.refusal_when_unknown import RefusalWhenUnknown
from plugins.thumbs import Thumbs
from plugins.toxicity_or_pii import ToxicityOrPii
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


def made(cls: Any, **options: Any) -> Any:
    """The signal with these settings, checked as an operator's are."""
    return cls(checked(cls.Settings, options))


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("The limit in Boston is 210 dollars [1].", 1.0),
        ("The limit in Boston is 210 dollars [2].", -1.0),  # not in the passage that it names
        ("The limit in Boston is 210 dollars [3].", -1.0),  # nobody showed a third
        ("The limit in Boston is 210 dollars.", 0.5),  # true, and names no passage
        ("The limit in Boston is 310 dollars [1].", -1.0),  # every other word is there
        # limit, boston, night are there, breakfast is not: three of four.
        ("Limit in Boston a night, with breakfast [1].", 0.5),
        ("The limit in Boston is 210 dollars [1]. Claims are due within 30 days [2].", 1.0),
        ("The limit in Boston is 210 dollars [1]. Cats chase mice [1].", 0.0),
        ("- The limit in Boston is 210 dollars [1]\n- Claims are due within 30 days [1, 2]", 1.0),
    ],
)
def test_cites_documents_looks_up_each_sentence_where_it_says_it_stands(
    text: str, reading: float
) -> None:
    found = made(CitesDocuments).read(Answer("What is the limit?", text, PASSAGES))
    assert found == pytest.approx(reading)


def test_cites_documents_takes_what_a_sentence_without_a_passage_may_read() -> None:
    answer = Answer("What is the limit?", "The limit in Boston is 210 dollars.", PASSAGES)
    assert made(CitesDocuments, uncited=-0.5).read(answer) == -0.5


def test_gold_similarity_is_chrf_from_minus_one_to_one() -> None:
    signal = GoldSimilarity(None)
    same = Answer("Where?", "Behind the house.", gold="Behind the house.")
    assert signal.read(same) == pytest.approx(1.0)
    assert signal.read(Answer("Where?", "", gold="Behind the house.")) == -1.0
    assert signal.read(Answer("Where?", "zzz", gold="Behind the house.")) == -1.0
    assert signal.read(Answer("Where?", "Behind the house.", gold=" ")) is None


@pytest.mark.parametrize(
    ("words", "reading"),
    [(0, -1), (1, -0.5), (2, 0), (4, 1), (10, 1), (15, 0), (20, -1), (500, -1)],
)
def test_length_band_falls_on_both_sides(words: int, reading: float) -> None:
    signal = made(LengthBand, shortest=4, longest=10)
    assert signal.read(Answer("A?", "word " * words)) == pytest.approx(reading)


def test_length_band_wants_its_ends_in_order() -> None:
    with pytest.raises(OptionsError, match="shortest must not be more than longest"):
        made(LengthBand, shortest=9, longest=3)


@pytest.mark.parametrize(
    ("question", "text", "gold", "reading"),
    [
        ("What does a taxi cost?", "Sorry, I don’t know that.", None, 1.0),
        ("What does a taxi cost?", "It costs 20 dollars.", None, -1.0),
        ("What is the limit in Boston?", "It is 210 dollars.", None, 1.0),
        ("What is the limit in Boston?", "I could not find that.", None, -1.0),
        # One word of two stands in the passages: it cannot tell.
        ("Taxi in Boston?", "I could not find that.", None, None),
        ("Taxi in Boston?", "I could not find that.", "20 dollars.", -1.0),
        ("Taxi in Boston?", "20 dollars.", "We do not have information on that.", -1.0),
        ("Why?", "I don't know.", None, None),
    ],
)
def test_refusal_is_right_only_where_the_answer_is_unknown(
    question: str, text: str, gold: str | None, reading: float | None
) -> None:
    assert made(RefusalWhenUnknown).read(Answer(question, text, PASSAGES, gold)) == reading


def test_refusals_are_known_by_the_operators_phrases() -> None:
    signal = made(RefusalWhenUnknown, phrases=["Das weiß ich nicht"])
    assert signal.read(Answer("What does a taxi cost?", "DAS WEISS ich nicht.")) == 1.0
    with pytest.raises(OptionsError, match="phrases"):
        made(RefusalWhenUnknown, phrases=[" "])
    with pytest.raises(OptionsError, match="unknown_below"):
        made(RefusalWhenUnknown, unknown_below=0.9, known_from=0.1)


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("Ask the help desk.", 0.0),
        ("Ask that Idiot.", -1.0),
        ("Shut   up.", -1.0),
        ("The idiotypic network has a class in Scunthorpe.", 0.0),
        ("Write to ada@example.com.", -1.0),
        ("Write to help@example.com.", 0.0),  # stands in the passage
        ("Call (617) 253-5000.", 0.0),  # written otherwise there
        ("Call +1 212 736 5000.", -1.0),
        ("Pay to DE89 3704 0044 0532 0130 00.", -1.0),
        ("Order DE89 3704 0044 0532 0130 01 is due on 2026-11-24.", 0.0),  # wrong check digits
    ],
)
def test_toxicity_or_pii_takes_from_what_must_not_be_said(text: str, reading: float) -> None:
    passage = ShownPassage("Help", "help@example.com, 617-253-5000")
    signal = made(ToxicityOrPii, region="US")
    assert signal.read(Answer("Who helps?", text, (passage,))) == reading


def test_toxicity_or_pii_takes_words_and_country_of_the_operator() -> None:
    assert made(ToxicityOrPii, words=["blimey"]).read(Answer("A?", "Blimey!")) == -1.0
    assert made(ToxicityOrPii, words=[]).read(Answer("A?", "What an idiot.")) == 0.0
    with pytest.raises(OptionsError, match="two capital letters"):
        made(ToxicityOrPii, region="us")


def test_thumbs_read_their_mean_with_some_doubt() -> None:
    up, down = Feedback("thumb", 1), Feedback("thumb", -1)

    def read(*given: Feedback, **options: Any) -> float | None:
        return made(Thumbs, **options).read(Answer("A?", "B.", feedback=given))

    assert read() is None
    assert read(up) == 0.5
    assert read(up, down) == 0.0
    assert read(down, down, down) == -0.75
    assert read(up, doubt=0) == 1.0
