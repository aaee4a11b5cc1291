"""A conversation's turns as its owner sees them: answers, sources, and the feedback given."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlmodel import Session, col, select

from service.ballots import WITHDRAWN
from service.citations import cited
from service.database import chunks
from service.given_votes import Vote, chosen_by, in_force
from service.groups import readers_of
from service.stored_turns import shown_verified
from service.tables import Candidate, Comparison, GoldAnswer, Person, PolicyVersion, Thumb, Turn
from service.temporary_chats import TemporaryChat
from service.turn_events import ShownPassage, ShownVerified
from service.voting import may_know

Running = Callable[[str], bool]


class GivenThumb(msgspec.Struct):
    """One's thumb in force."""

    id: str
    value: int
    reason: str | None
    comment: str | None


class GivenComparison(msgspec.Struct):
    """One's comparison in force; a `choice` of A or B is the turn's side, whichever way round the
    answers were shown for the vote."""

    id: str
    choice: str
    strength: str | None


class Answer(msgspec.Struct):
    """An answer with what one said of it. `version` is the policy version's number, null while
    two are compared blind."""

    id: str
    side: str
    text: str
    finish_reason: str
    version: int | None
    canary: bool
    simulated: bool
    created_at: datetime
    thumb: GivenThumb | None
    correction: str | None


class TurnEntry(msgspec.Struct):
    """A question with its answers; `running` says that they are still being written,
    `no_source` that nothing was found to answer from."""

    id: str
    parent_id: str | None
    question: str
    running: bool
    compared: bool
    simulated: bool
    created_at: datetime
    passages: Sequence[ShownPassage]
    no_source: bool
    verified: ShownVerified | None
    answers: list[Answer]
    comparison: GivenComparison | None


def stored_turns(
    opened: Session, person: Person, conversation_id: str, is_running: Running, undo_s: float
) -> list[TurnEntry]:
    """All turns of a conversation, oldest first; versions of two answers only where a vote on them
    has stood for `undo_s` seconds."""
    query = (
        select(Turn)
        .where(Turn.conversation_id == conversation_id)
        .order_by(col(Turn.position), col(Turn.created_at), col(Turn.id))
    )
    return _entries(opened, person, opened.exec(query).all(), is_running, undo_s)


def stored_turn(
    opened: Session, person: Person, turn: Turn, is_running: Running, undo_s: float
) -> TurnEntry:
    """One turn."""
    return _entries(opened, person, [turn], is_running, undo_s)[0]


def remembered_turns(chat: TemporaryChat, is_running: Running) -> list[TurnEntry]:
    """The turns of a temporary chat, on which no feedback can be given."""
    return [
        TurnEntry(
            id=turn.id,
            parent_id=turn.parent_id,
            question=turn.question,
            running=is_running(turn.id),
            compared=False,
            simulated=False,
            created_at=turn.created_at,
            passages=turn.passages,
            no_source=not turn.passages,
            verified=turn.verified,
            answers=[
                Answer(
                    id=end.candidate_id,
                    side=end.side,
                    text=end.text,
                    finish_reason=end.finish_reason,
                    version=end.version,
                    canary=False,
                    simulated=False,
                    created_at=turn.created_at,
                    thumb=None,
                    correction=None,
                )
                for end in turn.answers
            ],
            comparison=None,
        )
        for turn in chat.turns.values()
    ]


def _entries(
    opened: Session, person: Person, turns: Sequence[Turn], is_running: Running, undo_s: float
) -> list[TurnEntry]:
    numbers = [turn.id for turn in turns]
    prompts = {turn.id: turn.prompt.get("passages", ()) for turn in turns}
    passages = cited(opened, prompts, readers_of(opened, person))
    verified = {
        turn_id: row
        for some in chunks(numbers)
        for turn_id, row in shown_verified(opened, some).items()
    }
    candidates = _candidates(opened, numbers)
    answers = [row.id for rows in candidates.values() for row, _number in rows]
    votes = _votes(opened, Comparison, col(Comparison.turn_id), person, numbers)
    thumbs = _votes(opened, Thumb, col(Thumb.candidate_id), person, answers)
    corrections = _corrections(opened, person, answers)
    entries = []
    for turn in turns:
        given = votes.get(turn.id, [])
        vote = in_force(given)
        blind = turn.compared and not may_know(given, undo_s)
        entries.append(
            TurnEntry(
                id=turn.id,
                parent_id=turn.parent_id,
                question=turn.question,
                running=is_running(turn.id),
                compared=turn.compared,
                simulated=turn.simulated,
                created_at=turn.created_at,
                passages=passages[turn.id],
                no_source=not passages[turn.id],
                verified=verified.get(turn.id),
                answers=[
                    _answer(
                        row,
                        None if blind else number,
                        in_force(thumbs.get(row.id, [])),
                        corrections.get(row.id),
                    )
                    for row, number in candidates.get(turn.id, [])
                ],
                comparison=_comparison(vote, candidates.get(turn.id, [])),
            )
        )
    return entries


def _comparison(
    vote: Comparison | None, answers: Sequence[tuple[Candidate, int]]
) -> GivenComparison | None:
    if vote is None or vote.choice == WITHDRAWN:
        return None
    chosen = chosen_by(vote)
    sides = {row.id: row.side for row, _number in answers}
    return GivenComparison(vote.id, sides[chosen] if chosen else vote.choice, vote.strength)


def _answer(
    row: Candidate, number: int | None, thumb: Thumb | None, correction: str | None
) -> Answer:
    given = thumb is not None and thumb.value != 0
    return Answer(
        id=row.id,
        side=row.side,
        text=row.text,
        finish_reason=row.finish_reason,
        version=number,
        canary=number is not None and row.canary,
        simulated=row.simulated,
        created_at=row.created_at,
        thumb=GivenThumb(thumb.id, thumb.value, thumb.reason, thumb.comment)
        if thumb is not None and given
        else None,
        correction=correction,
    )


def _candidates(opened: Session, turn_ids: Sequence[str]) -> dict[str, list[tuple[Candidate, int]]]:
    found: dict[str, list[tuple[Candidate, int]]] = defaultdict(list)
    for some in chunks(turn_ids):
        query = (
            select(Candidate, PolicyVersion.number)
            .join(PolicyVersion)
            .where(col(Candidate.turn_id).in_(some))
            .order_by(col(Candidate.side))
        )
        for row, number in opened.exec(query):
            found[row.turn_id].append((row, number))
    return found


def _votes(
    opened: Session, kind: type[Vote], target: Any, person: Person, numbers: Sequence[str]
) -> dict[str, list[Vote]]:
    """One's votes of this kind by what they were given on."""
    found: dict[str, list[Vote]] = defaultdict(list)
    for some in chunks(numbers):
        query = select(kind, target).where(target.in_(some), col(kind.person_id) == person.id)
        for row, number in opened.exec(query):
            found[number].append(row)
    return found


def _corrections(opened: Session, person: Person, numbers: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for some in chunks(numbers):
        query = (
            select(GoldAnswer.candidate_id, GoldAnswer.answer)
            .where(
                col(GoldAnswer.candidate_id).in_(some),
                GoldAnswer.person_id == person.id,
                GoldAnswer.state != "removed",
            )
            .order_by(col(GoldAnswer.created_at))
        )
        found |= {number: answer for number, answer in opened.exec(query) if number}
    return found
