"""Nobody is shown a document that is not for them: in a search, its sources, their page,
verified answers, the voting page, snapshots or exports."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import Session, col, select

from plugins.contract import Complete, Document
from rlhf_engine.records import Prompt, PromptPassage, to_json
from service import tables
from service.account_tables import Account
from service.citations import cited, open_turns, place_of
from service.corrections import accept
from service.database import session
from service.errors import InvalidInputError, NotFoundError
from service.evidence import Sides, gather_demonstrations, gather_thumbs
from service.export import export_feedback
from service.feedback import propose_correction
from service.groups import all_groups, readers_of, set_groups
from service.retrieval import retrieve
from service.tables import (
    Candidate,
    Conversation,
    GoldAnswer,
    Passage,
    Person,
    PolicyVersion,
    Thumb,
    Turn,
)
from service.vote_checks import new_check
from tests.service.sources import Shelf, store

PEOPLE, QUESTIONS, DOCUMENTS, WORDS = 100, 100, 60, 40
GROUPS = [f"team {n}" for n in range(8)]


@dataclass
class Asker:
    """A person, and how documents may name them; found out apart from the service."""

    person: Person
    names: set[str]


def _people(opened: Session, draw: random.Random) -> list[Asker]:
    askers = []
    for number in range(PEOPLE):
        person = Person(name=f"Person {number}")
        opened.add(person)
        opened.flush()
        names = {"everyone"}
        if number % 5:
            opened.add(
                Account(
                    person_id=person.id,
                    sign_in_name=f"p{number}" if number % 2 else None,
                    email=f"P{number}@Example.org" if number % 3 else None,
                )
            )
            names |= {f"person:p{number}"} if number % 2 else set()
            names |= {f"person:p{number}@example.org"} if number % 3 else set()
        opened.flush()
        own = draw.sample(GROUPS, draw.randrange(4))
        set_groups(opened, person, [name.upper() for name in own], "test")
        askers.append(Asker(person, names | {f"group:{name}" for name in own}))
    return askers


def _readers(draw: random.Random) -> tuple[str, ...]:
    number = draw.randrange(PEOPLE)
    kinds = [
        "everyone",
        *[f"group:{draw.choice(GROUPS)}" for _ in range(4)],
        f"person:p{number}",
        f"person:p{number}@example.org",
        "group:nobody is in it",
        "' OR 1=1 --",
        "Everyone",
        "group:",
        "person:",
    ]
    return tuple(draw.sample(kinds, draw.randrange(1, 4)))


def test_ten_thousand_questions_leak_nothing(engine: Engine) -> None:
    draw = random.Random(6)
    held = {str(n): (set(draw.sample(range(WORDS), 5)), _readers(draw)) for n in range(DOCUMENTS)}
    pages = [
        Document(name, f"page {name}", " ".join(f"word{w}x" for w in words), readers=readers)
        for name, (words, readers) in held.items()
    ]
    assert Shelf().sync(engine, *pages, Complete()).added == DOCUMENTS
    cases = leaks_tried = 0
    with session(engine) as opened:
        askers = _people(opened, draw)
        where = select(Passage.id, tables.Document.external_id).join(tables.Document)
        placed = dict(opened.exec(where).all())
        for asker in askers:
            readers = readers_of(opened, asker.person)
            may = {name for name, (_w, allowed) in held.items() if asker.names & set(allowed)}
            for _ in range(QUESTIONS):
                asked = set(draw.sample(range(WORDS), draw.randrange(1, 4)))
                question = " ".join(f"word{w}x" for w in asked)
                found = {placed[row.id] for row in retrieve(opened, question, 99, readers)}
                assert found == {name for name in may if held[name][0] & asked}
                cases += 1
            leaks_tried += _sources_tell_nothing(opened, placed, may, readers)
    assert cases == 10_000
    assert leaks_tried > 1_000


def _sources_tell_nothing(
    opened: Session, placed: dict[str, str], may: set[str], readers: tuple[str, ...]
) -> int:
    """No passage that is not for the person leads back to its document; how many were tried."""
    rows = [{"id": number, "title": "t", "text": "x"} for number in placed]
    for shown in cited(opened, {"t": rows}, readers)["t"]:
        assert (shown.document_id is not None) == (placed[shown.id] in may)
    closed = [number for number, name in placed.items() if name not in may]
    for number in closed[:3]:
        with pytest.raises(NotFoundError):
            place_of(opened, number, readers)
    return len(closed)


def test_a_person_reads_what_their_groups_read_from_the_next_question_on(engine: Engine) -> None:
    store(engine, "# Pay\nThe salary bands.", readers=("group:Board Members",))
    with session(engine) as opened:
        person = Person(name="Ada")
        opened.add(person)
        opened.flush()
        assert retrieve(opened, "salary", 1, readers_of(opened, person)) == []
        assert set_groups(opened, person, [" board MEMBERS "], "test") == ["board members"]
        assert retrieve(opened, "salary", 1, readers_of(opened, person))
        assert all_groups(opened) == [("board members", 1)]
        set_groups(opened, person, [], "test")
        assert retrieve(opened, "salary", 1, readers_of(opened, person)) == []
        for bad in ("", " ", "x" * 81, "a\nb"):
            with pytest.raises(InvalidInputError, match="group's name"):
                set_groups(opened, person, [bad], "test")


def _judged(opened: Session, passage: Passage, *, restricted: bool = False) -> Turn:
    """A turn answered from this passage, with an answer and a thumb."""
    person = Person(name="Ada")
    known = opened.exec(select(PolicyVersion)).all()
    version = PolicyVersion(id=tables.new_id(), number=len(known))
    opened.add_all([person, version])
    opened.flush()
    talk = Conversation(person_id=person.id, title="t")
    opened.add(talk)
    opened.flush()
    prompt = Prompt("t", "What?", (PromptPassage(passage.id, "t", passage.text),))
    turn = Turn(
        conversation_id=talk.id, position=0, question="What?", prompt=to_json(prompt),
        restricted=restricted,
    )  # fmt: skip
    opened.add(turn)
    opened.flush()
    answer = Candidate(
        turn_id=turn.id, version_id=version.id, text="So.", finish_reason="stop", seed=1
    )
    opened.add(answer)
    opened.flush()
    opened.add(Thumb(candidate_id=answer.id, person_id=person.id, value=1))
    opened.flush()
    return turn


def test_nothing_is_learned_from_what_only_some_may_read(engine: Engine) -> None:
    store(engine, "# Pay\nThe salary bands.", readers=("group:board",))
    store(engine, "# Pay\nThe salary is paid monthly.")
    sides = Sides(frozenset(), 0)
    with session(engine) as opened:
        rows = opened.exec(select(Passage).order_by(col(Passage.text))).all()
        closed, public = rows
        _judged(opened, closed)
        _judged(opened, public, restricted=True)
        kept = _judged(opened, public)
        [thumb] = gather_thumbs(opened, sides)
        assert [passage.id for passage in thumb.prompt.passages] == [public.id]
        turns = {turn.id: turn for turn in opened.exec(select(Turn))}
        assert list(open_turns(opened, turns)) == [kept.id]


def test_an_answer_corrected_where_only_some_may_read_is_not_trained_on(engine: Engine) -> None:
    store(engine, "# Pay\nThe salary is paid monthly.")
    sides = Sides(frozenset(), 0)
    with session(engine) as opened:
        passage = opened.exec(select(Passage)).one()
        for restricted in (True, False):
            turn = _judged(opened, passage, restricted=restricted)
            answer = opened.exec(select(Candidate).where(Candidate.turn_id == turn.id)).one()
            gold = tables.GoldAnswer(
                external_id=turn.id, question=f"What, {restricted}?", answer="So.",
                candidate_id=answer.id, content_hash="x",
            )  # fmt: skip
            opened.add(gold)
        opened.flush()
        [kept] = gather_demonstrations(opened, sides, 1)
        assert kept.prompt.question == "What, False?"


def test_a_correction_is_not_trained_on_once_only_some_may_read_what_it_corrects(
    engine: Engine, tmp_path: Path
) -> None:
    shelf = Shelf()

    def taught(*readers: str) -> tuple[list[str], int]:
        page = Document("pay", "Pay", "The bands of pay.", readers=readers)
        shelf.sync(engine, page, Complete())
        with session(engine) as opened:
            lessons = gather_demonstrations(opened, Sides(frozenset(), 0), 1)
        count = export_feedback(engine, "prompt-completion", tmp_path / "gold.jsonl")
        return [item.answer for item in lessons], count

    taught("everyone")
    with session(engine) as opened:
        turn = _judged(opened, opened.exec(select(Passage)).one())
        answer = opened.exec(select(Candidate).where(Candidate.turn_id == turn.id)).one()
        person = opened.exec(select(Person)).one()
        number = propose_correction(opened, person, answer.id, "Bands 1 to 9.").id
        accept(opened, number, "Grace", question="Which bands of pay are there?")
    assert taught("everyone") == (["Bands 1 to 9."], 1)
    with session(engine) as opened:
        open_to_all = {"question": "Who cleans?", "answer": "Nobody.", "content_hash": ""}
        # Ids decide how often a check takes each: these two lie as far apart as can be.
        far = f"{(int(number, 16) + 2**63) % 2**64:016x}"
        opened.add(GoldAnswer(id=far, external_id="faq", **open_to_all))
    assert taught("group:hr") == (["Nobody."], 1)
    assert not _is_checked_with(engine)
    assert taught("everyone")[1] == 2
    assert _is_checked_with(engine)


def _is_checked_with(engine: Engine) -> bool:
    """Whether a hidden check of the voting page ever shows the two gold answers there are."""
    with session(engine) as opened:
        person = opened.exec(select(Person)).one()
        return any(new_check(opened, person, 1.0) for _ in range(40))


def test_a_tightened_right_holds_at_once(engine: Engine) -> None:
    shelf = Shelf()
    shelf.sync(engine, Document("a", "Pay", "Salary."), Complete())
    with session(engine) as opened:
        assert retrieve(opened, "salary", 1)
    shelf.sync(engine, Document("a", "Pay", "Salary.", readers=("group:hr",)), Complete())
    with session(engine) as opened:
        assert retrieve(opened, "salary", 1) == []
        assert retrieve(opened, "salary", 1, ("group:hr",))
