"""What the voting page shows of an offer: question, passages and two answers, nothing that tells
who wrote which. Checks and pairs look alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlmodel import Session, col, select

from service.retrieval import retrieve
from service.settings import AnswerSettings
from service.tables import Candidate, Document, GoldAnswer, Passage, Turn
from service.turn_events import ShownPassage
from service.voting_tables import VoteOffer


@dataclass(frozen=True, slots=True)
class EarlierExchange:
    """An earlier question of the same conversation, with the answer that was shown."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class OfferedAnswers:
    """Two answers to choose from."""

    id: str
    question: str
    history: tuple[EarlierExchange, ...]
    passages: tuple[ShownPassage, ...]
    answer_a: str
    answer_b: str


def answers_of(session: Session, offer: VoteOffer, groups: Sequence[str]) -> OfferedAnswers:
    """An offer as its voter sees it."""
    if offer.kind == "gold":
        return _gold_answers(session, offer, groups)
    turn = session.get_one(Turn, str(offer.turn_id))
    first, second = (session.get_one(Candidate, n) for n in (offer.first_id, offer.second_id))
    return OfferedAnswers(
        offer.id,
        turn.question,
        tuple(EarlierExchange(**earlier) for earlier in turn.prompt.get("history", ())),
        tuple(_shown(passage) for passage in turn.prompt.get("passages", ())),
        first.text,
        second.text,
    )


def may_read_passages(session: Session, turn: Turn, groups: Sequence[str]) -> bool:
    """Whether each passage in the turn's prompt is one that these groups may read now; one that
    is gone is not."""
    wanted = {str(passage["id"]) for passage in turn.prompt.get("passages", ())}
    if not wanted:
        return True
    query = (
        select(Passage.id, Document.readers)
        .join(Document, col(Document.id) == col(Passage.document_id))
        .where(col(Passage.id).in_(wanted))
    )
    readable = {number for number, readers in session.exec(query) if set(readers) & set(groups)}
    return readable == wanted


def _gold_answers(session: Session, offer: VoteOffer, groups: Sequence[str]) -> OfferedAnswers:
    first, second = (session.get_one(GoldAnswer, n) for n in (offer.first_id, offer.second_id))
    question = (first if offer.expected == "A" else second).question
    shown = retrieve(session, question, AnswerSettings().passages, groups)
    passages = tuple(ShownPassage(row.id, row.title, row.text) for row in shown)
    return OfferedAnswers(offer.id, question, (), passages, first.answer, second.answer)


def _shown(passage: dict[str, Any]) -> ShownPassage:
    return ShownPassage(passage["id"], passage["title"], passage["text"])
