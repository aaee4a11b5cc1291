"""A deployment after some years: 10,000 conversations, 100,000 votes, and all that grows with them.

Rows are written as dictionaries, a template with a few values changed, since making 500,000
objects takes longer than storing them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import Engine, insert
from sqlmodel import Session, SQLModel

from service.account_tables import AuditEntry, SignInSession
from service.review_tables import Notice, VerifiedAnswer
from service.same_question import wording
from service.tables import (
    Alias,
    Candidate,
    Comparison,
    Conversation,
    DataSource,
    Document,
    GoldAnswer,
    Passage,
    Person,
    PolicyVersion,
    Promotion,
    StageReport,
    Thumb,
    TrainingRun,
    Turn,
    now,
)
from service.voting_tables import VotePair

CHUNK = 1_000
STAGES = ("snapshot", "sft", "reward_model", "ppo", "evaluation")
SUBJECTS = ("leave", "travel", "laptops", "hotels", "pensions", "parking", "training", "badges")
ANSWER = "Everybody has 28 days of {subject} a year; what is not used ends on 31 March. " * 3

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is. Each conversation has `turns` turns, each with two answers and a vote."""

    people: int = 200
    conversations: int = 10_000
    turns: int = 10
    versions: int = 12
    runs: int = 60
    documents: int = 2_000
    others: int = 20_000
    """Thumbs, and entries of the audit record; a tenth as many corrections."""


def seed(engine: Engine, size: Size, days: int = 90) -> None:
    """Fill a migrated, empty database with rows of the last `days` days."""
    drawn = random.Random(17)
    began = now() - timedelta(days=days)
    with Session(engine) as opened:
        _write(opened, _policies(size, began))
        _write(opened, _documents(size, began))
        _write(opened, _people(size, began))
        talks = [f"talk{at}" for at in range(size.conversations)]
        for start in range(0, len(talks), CHUNK):
            _write(opened, _talks(talks[start : start + CHUNK], size, drawn, began, days))
        _write(opened, _feedback(size, drawn, began, days))
        opened.commit()


def belong_to(engine: Engine, person_id: str, size: Size) -> list[str]:
    """Give this person as many conversations and votes as everybody has, some notices, and 200
    turns with two answers that wait for a vote; returns these turns."""
    drawn, moment = random.Random(18), now()
    each = size.conversations // size.people
    talks = [f"own{at}" for at in range(each)]
    with Session(engine) as opened:
        rows = _talks(talks, size, drawn, moment - timedelta(days=30), 30, person_id)
        _write(opened, rows)
        waiting = [*_talks(["waiting"], Size(turns=200), drawn, moment, 0, person_id)]
        _write(opened, [(kind, row) for kind, row in waiting if kind is not Comparison])
        for at in range(300):
            notice = Notice(person_id=person_id, about=f"n{at}", text="Fixed.", created_at=moment)
            opened.add(notice)
        opened.commit()
    return [row["id"] for kind, row in waiting if kind is Turn]


def _policies(size: Size, began: datetime) -> Iterator[tuple[type[SQLModel], Row]]:
    for number in range(size.versions):
        state = "live" if number == size.versions - 1 else "retired"
        row = PolicyVersion(id=f"v{number}", number=number, state=state, created_at=began)
        yield PolicyVersion, row.model_dump()
    yield Alias, Alias(name="live", version_id=f"v{size.versions - 1}").model_dump()
    for at in range(size.runs):
        moment = began + timedelta(hours=at)
        run = TrainingRun(
            id=f"run{at}",
            state="promoted" if at % 3 else "refused",
            folder=f"/nowhere/run{at}",
            requested_by="schedule",
            reason="new votes",
            created_at=moment,
            started_at=moment,
            finished_at=moment + timedelta(minutes=40),
        )
        yield TrainingRun, run.model_dump()
        for stage in STAGES:
            yield StageReport, StageReport(run_id=run.id, stage=stage, seconds=60).model_dump()
    for number in range(1, size.versions):
        promotion = Promotion(
            version_id=f"v{number}",
            replaced_id=f"v{number - 1}",
            by="the gate",
            evidence="Passed.",
            state="done",
        )
        yield Promotion, promotion.model_dump()


def _documents(size: Size, began: datetime) -> Iterator[tuple[type[SQLModel], Row]]:
    for name in ("handbook", "faq"):
        yield DataSource, DataSource(id=name, name=name, plugin="markdown_folder").model_dump()
    for at in range(size.documents):
        subject = SUBJECTS[at % len(SUBJECTS)]
        text = ANSWER.format(subject=subject)
        document = Document(
            id=f"doc{at}",
            source_id="handbook",
            external_id=f"{at}.md",
            title=f"About {subject} {at}",
            text=text,
            readers=["everyone"],
            content_hash=str(at),
            created_at=began,
        )
        yield Document, document.model_dump()
        for part in range(3):
            passage = Passage(
                id=f"p{at}-{part}", document_id=document.id, position=part, heading="", text=text
            )
            yield Passage, passage.model_dump()


def _people(size: Size, began: datetime) -> Iterator[tuple[type[SQLModel], Row]]:
    for at in range(size.people):
        person = Person(id=f"person{at}", name=f"Person {at}", created_at=began)
        yield Person, person.model_dump()
        session = SignInSession(
            person_id=person.id, token_hash=f"hash{at}", method="password", expires_at=now()
        )
        yield SignInSession, session.model_dump()


def _talks(
    talks: list[str],
    size: Size,
    drawn: random.Random,
    began: datetime,
    days: int,
    person_id: str | None = None,
) -> Iterator[tuple[type[SQLModel], Row]]:
    turn_row = Turn(conversation_id="", position=0, question="", compared=True).model_dump()
    answer_row = Candidate(turn_id="", version_id="", text="", finish_reason="stop", seed=1)
    answer, vote = answer_row.model_dump(), _vote_row()
    for talk in talks:
        owner = person_id or f"person{drawn.randrange(size.people)}"
        # A vote comes a minute after its turn, and the last one is not in the future.
        moment = began + timedelta(days=drawn.random() * days, minutes=-size.turns)
        subject = drawn.choice(SUBJECTS)
        conversation = Conversation(
            id=talk,
            person_id=owner,
            title=f"How is it with {subject}?",
            created_at=moment,
            updated_at=moment,
        )
        yield Conversation, conversation.model_dump()
        for at in range(size.turns):
            number, asked = f"{talk}-{at}", moment + timedelta(minutes=at)
            question = f"How many days of {subject} are there in year {at}?"
            text = ANSWER.format(subject=subject)
            passages = [{"id": f"p{at}-0", "title": subject, "text": text}] if at % 10 else []
            yield (
                Turn,
                turn_row
                | {
                    "id": number,
                    "conversation_id": talk,
                    "parent_id": f"{talk}-{at - 1}" if at else None,
                    "position": at,
                    "question": question,
                    "prompt": {"id": number, "question": question, "passages": passages},
                    "created_at": asked,
                },
            )
            first, second = drawn.sample(range(size.versions), 2)
            for side, version in (("A", first), ("B", second)):
                shown = {"id": number + side, "turn_id": number, "side": side, "text": text}
                more = {"version_id": f"v{version}", "created_at": asked}
                yield Candidate, answer | shown | more
            yield (
                Comparison,
                vote
                | {
                    "id": f"{number}c",
                    "turn_id": number,
                    "person_id": owner,
                    "candidate_a_id": f"{number}A",
                    "candidate_b_id": f"{number}B",
                    "version_a_id": f"v{first}",
                    "version_b_id": f"v{second}",
                    "choice": drawn.choice(("A", "A", "B", "tie", "both_bad")),
                    "created_at": asked + timedelta(minutes=1),
                },
            )
            yield VotePair, _pair(number, owner, asked, waiting=days == 0)


def _vote_row() -> Row:
    return Comparison(
        turn_id="",
        person_id="",
        candidate_a_id="",
        candidate_b_id="",
        choice="A",
        length_a=30,
        length_b=20,
    ).model_dump()


def _pair(turn_id: str, owner: str, moment: datetime, *, waiting: bool) -> Row:
    return VotePair(
        turn_id=turn_id,
        person_id=owner,
        pool=owner,
        pairing="ordinary",
        probability=0.2,
        state="waiting" if waiting else "done",
        votes=int(not waiting),
        created_at=moment,
    ).model_dump()


def _feedback(
    size: Size, drawn: random.Random, began: datetime, days: int
) -> Iterator[tuple[type[SQLModel], Row]]:
    for at in range(min(size.others, size.conversations * size.turns)):
        number = f"talk{at % size.conversations}-{at // size.conversations}"
        owner = f"person{drawn.randrange(size.people)}"
        moment = began + timedelta(days=drawn.random() * days)
        thumb = Thumb(candidate_id=f"{number}A", person_id=owner, value=1 if at % 4 else -1)
        yield Thumb, thumb.model_dump() | {"created_at": moment}
        entry = AuditEntry(by="operator", action="run.started", target=f"run:{at}")
        yield AuditEntry, entry.model_dump() | {"created_at": moment}
        if at % 10 == 0:
            yield from _correction(at, number, owner, moment)


def _correction(
    at: int, turn_id: str, owner: str, moment: datetime
) -> Iterator[tuple[type[SQLModel], Row]]:
    question = f"How many desks are there in building {at}?"
    gold = GoldAnswer(
        id=f"gold{at}",
        external_id=f"gold{at}",
        question=question,
        answer="Forty.",
        state="accepted" if at % 20 else "proposed",
        origin="correction",
        person_id=owner,
        candidate_id=f"{turn_id}B",
        content_hash=str(at),
        created_at=moment,
    )
    yield GoldAnswer, gold.model_dump()
    if gold.state == "accepted":
        shown = VerifiedAnswer(
            gold_answer_id=gold.id,
            wording=wording(question),
            question=question,
            answer=gold.answer,
            by="Person 1",
            created_at=moment,
        )
        yield VerifiedAnswer, shown.model_dump()


def _write(opened: Session, rows: Iterable[tuple[type[SQLModel], Row]]) -> None:
    """Write rows in the order of their kinds' first appearance, so that keys exist before they are
    named."""
    kinds: dict[type[SQLModel], list[Row]] = {}
    for kind, row in rows:
        kinds.setdefault(kind, []).append(row)
    for kind, found in kinds.items():
        rest = iter(found)
        while some := list(islice(rest, CHUNK)):
            opened.execute(insert(kind), some)
