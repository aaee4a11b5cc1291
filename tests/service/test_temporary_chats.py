"""Temporary chats are forgotten in time, at once where their owner ends them."""

from __future__ import annotations

import pytest

from service import temporary_chats
from service.errors import NotFoundError
from service.temporary_chats import TemporaryChats, TemporaryTurn
from service.turn_events import AnswerEnded, TurnDone, TurnFailed, TurnStarted


def turn(number: str, parent: str | None = None) -> TemporaryTurn:
    row = TemporaryTurn(number, parent, f"question {number}")
    row.answers.append(AnswerEnded("", f"c{number}", f"answer {number}", "stop", 0))
    return row


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    at = [0.0]
    monkeypatch.setattr(temporary_chats, "monotonic", lambda: at[0])
    return at


def test_a_chat_is_forgotten_some_time_after_its_last_question(clock: list[float]) -> None:
    chats = TemporaryChats(kept_s=60)
    chats.begin("c", "ada").used = 0.0
    clock[0] = 50
    chats.add("c", turn("t"))
    clock[0] = 109
    assert chats.find("ada", "c") is not None
    clock[0] = 111
    chats.forget_old()
    assert len(chats) == 0
    assert chats.told("ada", "t") == []
    chats.add("c", turn("late"))
    assert len(chats) == 0


def test_only_its_owner_has_a_chat(clock: list[float]) -> None:
    chats = TemporaryChats()
    chats.begin("c", "ada").used = 0.0
    chats.add("c", turn("t"))
    assert chats.find("bob", "c") is None
    assert chats.told("bob", "t") == []
    assert chats.forget("bob", "c") is False
    assert chats.forget("ada", "c") is True
    assert chats.find("ada", "c") is None


def test_the_longest_unused_chat_goes_where_there_are_very_many(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporary_chats, "MOST_CHATS", 2)
    chats = TemporaryChats()
    for number in range(3):
        chats.begin(f"c{number}", "ada").used = float(number)
    assert [chats.find("ada", f"c{number}") is not None for number in range(3)] == [
        False,
        True,
        True,
    ]


def test_the_history_follows_the_branch(clock: list[float]) -> None:
    chat = TemporaryChats().begin("c", "ada")
    for row in (turn("1"), turn("2", "1"), turn("2b", "1")):
        chat.turns[row.id] = row
    assert chat.parent_of(None, None) == "2b"
    assert chat.parent_of("2", None) == "2"
    assert chat.parent_of(None, "2") == "1"
    assert [told.answer for told in chat.history("2", 5)] == ["answer 1", "answer 2"]
    assert [told.answer for told in chat.history("2b", 1)] == ["answer 2b"]
    with pytest.raises(NotFoundError):
        chat.parent_of("none", None)


def test_a_turn_that_was_ended_before_any_answer_is_told_as_unfinished() -> None:
    chats = TemporaryChats()
    chats.begin("c", "ada")
    chats.add("c", TemporaryTurn("t", None, "question"))
    chats.add("c", turn("u", "t"))
    assert [type(event) for event in chats.told("ada", "t")] == [TurnStarted, TurnFailed]
    assert [type(event) for event in chats.told("ada", "u")][-1] is TurnDone
