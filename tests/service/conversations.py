"""A small conversation with two answers, for tests that vote on it."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine
from sqlmodel import Session, select

from rlhf_engine.records import Prompt, PromptPassage, to_json
from service.ballots import Ballot
from service.database import session
from service.tables import (
    Candidate,
    Comparison,
    Conversation,
    Person,
    PolicyVersion,
    Thumb,
    Turn,
    new_id,
)
from service.voting import vote_on_turn

BASE = "0000000000000000"


@dataclass(frozen=True)
class Talk:
    """One turn of `person` with the answers A and B; `person` is detached."""

    engine: Engine
    person: Person
    turn: str
    candidate_a: str
    candidate_b: str

    def vote_everything(self) -> None:
        """Store one comparison and one thumb."""
        with session(self.engine) as opened:
            opened.add(
                Comparison(
                    turn_id=self.turn,
                    person_id=self.person.id,
                    candidate_a_id=self.candidate_a,
                    candidate_b_id=self.candidate_b,
                    choice="A",
                )
            )
            opened.add(Thumb(candidate_id=self.candidate_a, person_id=self.person.id, value=1))


def make_talk(
    engine: Engine,
    question: str = "How many days of leave are there?",
    answers: tuple[str, ...] = ("There are 25.", "Ask somebody else."),
    *,
    kind: str = "person",
    finish_reason: str = "stop",
) -> Talk:
    """Store a person with one turn of one or two answers by version 0."""
    person = Person(name="Ada", kind=kind)
    turn_id = new_id()
    sides = ("A", "B") if len(answers) > 1 else ("",)
    simulated = kind == "simulated"
    prompt = Prompt(turn_id, question, (PromptPassage("p1", "Leave", "Everybody has 25 days."),))
    candidates = [
        Candidate(
            turn_id=turn_id,
            side=side,
            version_id=BASE,
            text=answer,
            finish_reason=finish_reason,
            seed=2**62,
            simulated=simulated,
        )
        for side, answer in zip(sides, answers, strict=True)
    ]
    with session(engine) as opened:
        # A running server has a version 0 of its own.
        base = opened.exec(select(PolicyVersion.id).where(PolicyVersion.number == 0)).first()
        if base is None:
            opened.add(PolicyVersion(id=BASE, number=0, state="live"))
        for candidate in candidates:
            candidate.version_id = base or BASE
        conversation = Conversation(person_id=person.id, title=question, simulated=simulated)
        for row in (person, conversation):
            opened.add(row)
            opened.flush()
        opened.add(
            Turn(
                id=turn_id,
                conversation_id=conversation.id,
                position=0,
                question=question,
                prompt=to_json(prompt),
                compared=len(answers) > 1,
                simulated=simulated,
            )
        )
        opened.flush()
        opened.add_all(candidates)
    return Talk(engine, person, turn_id, candidates[0].id, candidates[-1].id)


def record_comparison(
    opened: Session,
    person: Person,
    turn_id: str,
    choice: str,
    strength: str | None = None,
    replaces: str | None = None,
) -> Comparison:
    """Keep a person's choice between the two answers of their turn."""
    return vote_on_turn(opened, person, turn_id, Ballot(choice, strength), replaces)
