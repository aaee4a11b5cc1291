"""Turns in the database: a question made ready, written, and told again when it is over."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine
from sqlmodel import Session, col, func, select

import rlhf_engine
from rlhf_engine.records import to_json
from service.asked_turn import AskOptions
from service.conversations import history, own_conversation
from service.database import session
from service.errors import NotFoundError
from service.retrieval import retrieve
from service.settings import AnswerSettings
from service.tables import Candidate, Conversation, Person, PolicyVersion, Turn
from service.turn_events import (
    AnswerEnded,
    Event,
    ShownPassage,
    TurnDone,
    TurnFailed,
    TurnStarted,
)

LONGEST_TITLE = 80


def rendered_prompt(
    database: Engine,
    limits: AnswerSettings,
    person: Person,
    turn: Turn,
    options: AskOptions,
    continues: bool,
) -> dict[str, Any]:
    """What the turn's answers are drawn from, as its row keeps it; `continues` where it belongs to
    an earlier conversation. NotFoundError where that is somebody else's."""
    with session(database) as opened:
        earlier = options.history or ()
        if continues:
            own_conversation(opened, person, turn.conversation_id)
            if options.history is None:
                earlier = history(opened, turn.conversation_id, limits.history_turns)
        passages = retrieve(opened, turn.question, limits.passages)
    prompt = rlhf_engine.Prompt(
        turn.id,
        turn.question,
        tuple(passages),
        earlier,
        instructions=options.instructions.strip(),
    )
    return to_json(prompt)


def write_turn(database: Engine, person_id: str, turn: Turn, continues: bool) -> None:
    """Write the turn, at the end of its conversation or with a new one."""
    with session(database) as opened:
        if continues:
            turn.position = _next_position(opened, turn.conversation_id)
        else:
            opened.add(
                Conversation(
                    id=turn.conversation_id,
                    person_id=person_id,
                    title=turn.question[:LONGEST_TITLE],
                    simulated=turn.simulated,
                )
            )
            opened.flush()
        opened.add(turn)


def find_own_turn(database: Engine, person_id: str, turn_id: str) -> Turn:
    """One of this person's turns; NotFoundError where there is none, or it is somebody else's."""
    with session(database) as opened:
        return _own_turn(opened, person_id, turn_id)


def told_again(database: Engine, person_id: str, turn_id: str) -> list[Event]:
    """The events of a turn that is over, as its rows tell them, each answer in one piece.

    NotFoundError where there is no such turn, or it is somebody else's.
    """
    with session(database) as opened:
        turn = _own_turn(opened, person_id, turn_id)
        rows = opened.exec(
            select(Candidate, PolicyVersion.number)
            .join(PolicyVersion)
            .where(Candidate.turn_id == turn_id)
            .order_by(col(Candidate.side))
        ).all()
    ends = [
        AnswerEnded(row.side, row.id, row.text, row.finish_reason, number) for row, number in rows
    ]
    if not ends or (turn.compared and len(ends) == 1):
        detail = "The answer was not finished. Please ask again."
        return [_started(turn, ends), *ends, TurnFailed(turn_id, detail)]
    return [_started(turn, ends), *ends, TurnDone(turn_id)]


def _started(turn: Turn, ends: list[AnswerEnded]) -> TurnStarted:
    return TurnStarted(
        turn_id=turn.id,
        conversation_id=turn.conversation_id,
        sides=tuple(end.side for end in ends),
        version=ends[0].version if ends else 0,
        passages=shown_passages(turn),
    )


def shown_passages(turn: Turn) -> tuple[ShownPassage, ...]:
    """The passages in the turn's prompt."""
    return tuple(ShownPassage(**passage) for passage in turn.prompt.get("passages", ()))


def _next_position(opened: Session, conversation_id: str) -> int:
    counted = select(func.max(Turn.position)).where(Turn.conversation_id == conversation_id)
    highest = opened.exec(counted).one()
    return 0 if highest is None else highest + 1


def _own_turn(opened: Session, person_id: str, turn_id: str) -> Turn:
    turn = opened.get(Turn, turn_id)
    if turn is None or opened.get_one(Conversation, turn.conversation_id).person_id != person_id:
        raise NotFoundError(f"you have no turn {turn_id!r}")
    return turn
