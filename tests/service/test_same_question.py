"""Two wordings are one question only where nothing that carries meaning differs."""

from __future__ import annotations

import pytest

from service.same_question import points_back, same_question, wording

LEAVE = "How many days of annual leave do I have?"


@pytest.mark.parametrize(
    "other",
    [
        LEAVE,
        "how many days of annual leave do i have",
        "  How many days of  annual leave do I have??  ",
        "HOW MANY days of annual leave do I have?",
        "Hi! Could you please tell me: how many days of annual leave do I have? Thanks!",
        "Hello, how many days of the annual leave do I have, please?",
        "**How many days of “annual leave” do I have?**",
        "How many days of annual\u00a0leave do I have？",
    ],
)
def test_the_same_question_otherwise_written_is_the_same(other: str) -> None:
    assert same_question(LEAVE, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What's the limit for a hotel?", "what is the limit for a hotel"),
        ("Who’s my manager?", "who is my manager?"),
        ("I can't reach the service desk", "I cannot reach service desk."),
        ("Can you tell me who signs travel expenses?", "who signs travel expenses"),
    ],
)
def test_short_forms_and_courtesies_do_not_count(one: str, other: str) -> None:
    assert same_question(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LEAVE, "How many days of sick leave do I have?"),
        (LEAVE, "How many days of annual leave do you have?"),
        (LEAVE, "How many days of annual leave do I not have?"),
        (LEAVE, "How many hours of annual leave do I have?"),
        ("Can I carry over leave?", "Can't I carry over leave?"),
        ("What is the limit in 2025?", "What is the limit in 2026?"),
        ("Is 1.5 days enough?", "Is 15 days enough?"),
        ("Is the limit 1.5?", "Is the limit 1,5?"),
        ("Do we use C++ here?", "Do we use C# here?"),
        ("Do we use C++ here?", "Do we use C here?"),
        ("Do we support .NET code?", "Do we support net code?"),
        ("Is it >5 days?", "Is it <5 days?"),
        ("Is it $5 a day?", "Is it €5 a day?"),
        ("Is it 5% of pay?", "Is it 5 of pay?"),
        ("Who pays for -5 degrees?", "Who pays for 5 degrees?"),
        ("Who heads IT?", "Who heads it?"),
        ("May I travel to the US?", "May I travel to us?"),
        ("Who works in building A?", "Who works in building?"),
        ("Who works in building A?", "Who works in building B?"),
        ("Where is my contract?", "Where is my contact?"),
        ("Does Ada report to Bob?", "Does Bob report to Ada?"),
        ("Who is on call today?", "Who is not on call today?"),
        ("Thanks to whom is this here?", "To whom is this here?"),
    ],
)
def test_a_different_question_is_never_the_same(one: str, other: str) -> None:
    assert not same_question(one, other)


@pytest.mark.parametrize("text", ["", "?", "the", "Leave?", "Hello", "Please, thank you!", "🙂"])
def test_what_is_too_short_is_the_same_as_nothing(text: str) -> None:
    assert wording(text) == ""
    assert not same_question(text, text)


@pytest.mark.parametrize(
    "text",
    [
        "How do I reset it?",
        "And for part-time staff?",
        "What about contractors?",
        "Why is that so?",
    ],
)
def test_a_question_may_point_back(text: str) -> None:
    assert points_back(text)


@pytest.mark.parametrize(
    "text",
    [
        LEAVE,
        "Who heads IT?",
        "How many days of leave are there?",
        "Where do I report a lost laptop?",
    ],
)
def test_a_question_may_stand_alone(text: str) -> None:
    assert not points_back(text)
