"""Answer pairs and their votes: the feedback that people would give, made by simulation.

Every row is marked simulated. Both parts do only what is missing, so that they can be
cut off anywhere and begun again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Engine
from sqlmodel import Session, col, select

import rlhf_engine
from rlhf_engine.records import to_json
from service import vote_pairs
from service.ballots import Ballot
from service.database import session
from service.demo import engine_job
from service.demo.voter import vote
from service.people import simulated_person
from service.settings import Settings
from service.tables import Candidate, Comparison, Conversation, Person, PolicyVersion, Turn
from service.voting import vote_on_turn

VOTER = "Simulated voter"
TEMPERATURE = 1.0
"""High, so that the two answers of a pair differ."""


def pairs_drawn(engine: Engine) -> int:
    """How many simulated turns with two answers there are."""
    with session(engine) as opened:
        return len(_simulated_turns(opened))


def choose_demonstrations(
    snapshot: rlhf_engine.Snapshot, count: int, seed: int
) -> list[rlhf_engine.Demonstration]:
    """The question of each pair: no exam question; as often held out as the data are, so that
    the reward model can be measured; each question once before any comes again."""
    judged = [item for item in snapshot.demonstrations if item.prompt.split != "exam"]
    ordered = sorted(judged, key=lambda item: item.prompt.id)
    random.Random(seed).shuffle(ordered)  # noqa: S311 - not a secret
    return [ordered[at % len(ordered)] for at in range(count)]


def draw_pairs(
    engine: Engine,
    settings: Settings,
    folder: Path,
    version: PolicyVersion,
    demonstrations: Sequence[rlhf_engine.Demonstration],
    plan: rlhf_engine.RunPlan,
    on_done: engine_job.OnDone | None = None,
) -> int:
    """Draw two answers to each question from `version` and keep them as simulated turns.

    Returns how many turns there are now.
    """
    sampling = rlhf_engine.SamplingSettings(
        temperature=TEMPERATURE, max_new_tokens=plan.max_answer_tokens
    )
    prompts = [item.prompt for item in demonstrations]
    answers = engine_job.draw(
        folder,
        "pairs",
        Path(plan.base),
        None if version.kind == "base" else settings.policies / version.id,
        prompts,
        sampling,
        [plan.seed + at for at in range(2 * len(prompts))],
        plan,
        on_done,
    )
    with session(engine) as opened:
        person = simulated_person(opened, VOTER)
        first = len(_simulated_turns(opened))
        for at in range(first, len(demonstrations)):
            pair = answers[2 * at], answers[2 * at + 1]
            keep_turn(opened, person, version, demonstrations[at].prompt, pair, sampling)
    return len(demonstrations)


def cast_votes(engine: Engine, golds: dict[str, str], seed: int) -> int:
    """Vote on every simulated turn without a vote; returns how many were cast.

    `golds` holds the gold answer by question.
    """
    with session(engine) as opened:
        person = simulated_person(opened, VOTER)
        voted = set(opened.exec(select(Comparison.turn_id)))
        waiting = [
            turn
            for turn in _simulated_turns(opened)
            if turn.id not in voted and turn.question in golds
        ]
        for turn in waiting:
            pair = _candidates(opened, turn.id)
            # Not the turn's id, which is random: the same draws get the same votes.
            key = f"{seed}/{pair[0].seed}/{turn.question}"
            choice = vote([answer.text for answer in pair], golds[turn.question], key)
            vote_on_turn(opened, person, turn.id, Ballot(choice.choice, choice.strength))
    return len(waiting)


def _simulated_turns(opened: Session) -> list[Turn]:
    statement = select(Turn).where(Turn.simulated, Turn.compared)
    return list(opened.exec(statement.order_by(col(Turn.created_at))))


def _candidates(opened: Session, turn_id: str) -> Sequence[Candidate]:
    statement = select(Candidate).where(Candidate.turn_id == turn_id)
    return opened.exec(statement.order_by(col(Candidate.side))).all()


def keep_turn(
    opened: Session,
    person: Person,
    version: PolicyVersion,
    prompt: rlhf_engine.Prompt,
    answers: Sequence[rlhf_engine.SampledAnswer],
    sampling: rlhf_engine.SamplingSettings,
) -> None:
    """Store a conversation of one turn. The answers are draws of one policy, so their order is
    random already and sides need no shuffling."""
    conversation = Conversation(person_id=person.id, title=prompt.question[:80], simulated=True)
    turn = Turn(
        conversation_id=conversation.id,
        position=0,
        question=prompt.question,
        prompt=to_json(prompt),
        compared=True,
        simulated=True,
    )
    opened.add(conversation)
    opened.flush()
    opened.add(turn)
    opened.flush()
    for side, answer in zip("AB", answers, strict=True):
        opened.add(
            Candidate(
                turn_id=turn.id,
                side=side,
                version_id=version.id,
                text=answer.text,
                token_ids=list(answer.token_ids),
                finish_reason=answer.finish_reason,
                seed=answer.seed,
                settings=to_json(sampling),
                simulated=True,
            )
        )
    opened.flush()
    vote_pairs.keep(opened, turn, person.id, vote_pairs.Pairing(True, "simulated", 1.0))
