"""Turns in the database: a question made ready, written, and told again when it is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, update
from sqlmodel import Session, col, func, select

import rlhf_engine
from rlhf_engine.records import to_json
from service.asked_turn import AskOptions
from service.citations import cited, restricted_passages
from service.conversations import (
    LONGEST_TITLE,
    history,
    own_conversation,
    own_turn,
    place_turn,
)
from service.database import session
from service.groups import readers_of
from service.passage_finder import PassageFinder, best_passages
from service.settings import AnswerSettings
from service.tables import Candidate, Conversation, Person, PolicyVersion, Turn, now
from service.temporary_chats import TemporaryChat
from service.turn_events import (
    UNFINISHED,
    AnswerEnded,
    Event,
    ShownPassage,
    ShownVerified,
    TurnDone,
    TurnFailed,
    TurnStarted,
)
from service.verified import answer_for, note_shown, shown_in
from service.vote_pairs import Pairing, keep
from service.voting import knows_versions


@dataclass(frozen=True, slots=True)
class Prepared:
    """A question made ready: what its answers are drawn from, as its row keeps it; what of that
    its asker is shown; the verified answer to it, if there is one; the turn it follows."""

    prompt: dict[str, Any]
    passages: tuple[ShownPassage, ...]
    verified: ShownVerified | None
    parent_id: str | None


def prepare(
    database: Engine,
    limits: AnswerSettings,
    person: Person,
    turn: Turn,
    options: AskOptions,
    continues: bool,
    chat: TemporaryChat | None = None,
    finder: PassageFinder | None = None,
) -> Prepared:
    """Find what a turn is answered with; `continues` where it belongs to an earlier conversation,
    `chat` where that is a temporary one. NotFoundError where it is somebody else's."""
    with session(database) as opened:
        parent_id, earlier = None, options.history or ()
        if chat is not None:
            parent_id = chat.parent_of(options.after, options.instead_of)
            earlier = chat.history(parent_id, limits.history_turns)
        elif continues:
            conversation = own_conversation(opened, person, turn.conversation_id)
            parent_id = place_turn(opened, conversation, options.after, options.instead_of)
            if options.history is None:
                earlier = history(opened, parent_id, limits.history_turns)
        readers = readers_of(opened, person)
        passages = best_passages(
            opened, turn.question, limits.passages, limits.source_bar, finder, readers
        )
        verified = _verified(opened, readers, turn.question, follows=parent_id is not None)
        prompt = rlhf_engine.Prompt(
            turn.id,
            turn.question,
            tuple(passages),
            earlier,
            instructions=options.instructions.strip(),
        )
        rendered = to_json(prompt)
        shown = cited(opened, {turn.id: rendered.get("passages", ())}, readers)[turn.id]
        turn.restricted = _is_restricted(opened, rendered, parent_id)
    return Prepared(rendered, shown, verified, parent_id)


def write_turn(
    database: Engine,
    person_id: str,
    turn: Turn,
    continues: bool,
    verified_id: str | None = None,
    pairing: Pairing | None = None,
    overlap_share: float = 0.0,
) -> None:
    """Write the turn into its conversation, or with a new one, and show its branch from now on.

    `pairing` says why it has two answers; `overlap_share` of such pairs are judged twice."""
    with session(database) as opened:
        if continues:
            turn.position = _next_position(opened, turn.conversation_id)
            opened.execute(
                update(Conversation)
                .where(col(Conversation.id) == turn.conversation_id)
                .values(updated_at=now(), shown_turn_id=turn.id)
            )
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
        opened.flush()
        if verified_id is not None:
            note_shown(opened, turn.id, verified_id)
        if turn.compared and pairing is not None:
            keep(opened, turn, person_id, pairing, overlap_share)


def find_own_turn(database: Engine, person_id: str, turn_id: str) -> Turn:
    """One of this person's turns; NotFoundError where there is none, or it is somebody else's."""
    with session(database) as opened:
        return own_turn(opened, person_id, turn_id)


def told_again(database: Engine, person_id: str, turn_id: str, undo_s: float) -> list[Event]:
    """The events of a turn that is over, as its rows tell them, each answer in one piece; versions
    only where a vote has stood for `undo_s` seconds.

    NotFoundError where there is no such turn, or it is somebody else's.
    """
    with session(database) as opened:
        turn = own_turn(opened, person_id, turn_id)
        rows = opened.exec(
            select(Candidate, PolicyVersion.number)
            .join(PolicyVersion)
            .where(Candidate.turn_id == turn_id)
            .order_by(col(Candidate.side))
        ).all()
        blind = turn.compared and not knows_versions(opened, person_id, turn_id, undo_s)
        ends = [
            AnswerEnded(row.side, row.id, row.text, row.finish_reason, None if blind else number)
            for row, number in rows
        ]
        readers = readers_of(opened, opened.get_one(Person, person_id))
        started = _started(opened, turn, ends, readers)
    if not ends or (turn.compared and len(ends) == 1):
        return [started, *ends, TurnFailed(turn_id, UNFINISHED)]
    return [started, *ends, TurnDone(turn_id)]


def shown_verified(opened: Session, turn_ids: list[str]) -> dict[str, ShownVerified]:
    """The verified answers that were shown in these turns."""
    return {
        turn_id: ShownVerified(
            row.id, row.answer, row.by, row.created_at, row.withdrawn_at is not None
        )
        for turn_id, row in shown_in(opened, turn_ids).items()
    }


def _is_restricted(opened: Session, prompt: Mapping[str, Any], parent_id: str | None) -> bool:
    before = opened.get(Turn, parent_id) if parent_id else None
    return (before is not None and before.restricted) or bool(restricted_passages(opened, [prompt]))


def _verified(
    opened: Session, readers: Sequence[str], question: str, *, follows: bool
) -> ShownVerified | None:
    row = answer_for(opened, question, follows=follows, reader_groups=readers)
    return ShownVerified(row.id, row.answer, row.by, row.created_at) if row else None


def _started(
    opened: Session, turn: Turn, ends: list[AnswerEnded], readers: Sequence[str]
) -> TurnStarted:
    passages = turn.prompt.get("passages", ())
    return TurnStarted(
        turn_id=turn.id,
        conversation_id=turn.conversation_id,
        sides=tuple(end.side for end in ends),
        version=ends[0].version if ends else None,
        passages=cited(opened, {turn.id: passages}, readers)[turn.id],
        no_source=not passages,
        verified=shown_verified(opened, [turn.id]).get(turn.id),
        parent_id=turn.parent_id,
    )


def _next_position(opened: Session, conversation_id: str) -> int:
    counted = select(func.max(Turn.position)).where(Turn.conversation_id == conversation_id)
    highest = opened.exec(counted).one()
    return 0 if highest is None else highest + 1
