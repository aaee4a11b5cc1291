"""What is kept of a person: all of it for themselves, and erasing it.

Erasing takes the name and everything to sign in with, and the chats from view and from
training. Votes stay, without a name: versions were compared and promoted by them, rows that
say so are never changed, and what a version has learnt cannot be taken out of it. Accepted
corrections stay as the company's knowledge, without a name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import delete, literal, update
from sqlmodel import Session, SQLModel, col, func, select

from service import audit, conversations, sign_in_sessions
from service.account_tables import Account, ApiKey, OneTimeLink, PersonGroup
from service.accounts import Actor, guard_last_admin
from service.groups import groups_of
from service.plugin_tables import PluginState
from service.review_tables import PluginSetting, Review, VerifiedAnswer
from service.run_decisions import REJECTED
from service.tables import (
    Candidate,
    Comparison,
    Conversation,
    GoldAnswer,
    Person,
    Promotion,
    Thumb,
    TrainingRun,
    Turn,
)

ERASED = "Erased person"
_HIDDEN = {"token_hash", "password_hash", "token_ids", "content_hash", "person_id"}


def export_of(session: Session, person: Person) -> dict[str, Any]:
    """Everything that the person gave or was given, as JSON values; no hashes, no secrets."""
    own = Conversation.person_id == person.id
    talks = session.exec(select(Conversation).where(own, col(Conversation.deleted_at).is_(None)))
    kept = talks.all()
    numbers = select(Conversation.id).where(own, col(Conversation.deleted_at).is_(None))
    turns = session.exec(select(Turn).where(col(Turn.conversation_id).in_(numbers))).all()
    of_turns = select(Turn.id).where(col(Turn.conversation_id).in_(numbers))
    answers = session.exec(select(Candidate).where(col(Candidate.turn_id).in_(of_turns))).all()
    account = session.get(Account, person.id)
    return {
        "person": _shown([person])[0],
        "account": _shown([account])[0] if account else None,
        "keys": _of(session, person, ApiKey),
        "groups": groups_of(session, [person.id])[person.id],
        "conversations": _shown(kept),
        "turns": [{**row, "prompt": None} for row in _shown(turns)],
        "answers": _shown(answers),
        "comparisons": _of(session, person, Comparison),
        "thumbs": _of(session, person, Thumb),
        "corrections": _of(session, person, GoldAnswer),
    }


def erase(session: Session, person: Person, by: Actor) -> None:
    """Erase a person; ConflictError where no admin would be left."""
    guard_last_admin(session, person.id)
    _take_names(session, person)
    sign_in_sessions.end_all(session, person.id)
    for table in (ApiKey, OneTimeLink, PersonGroup, Account):
        session.execute(delete(table).where(col(table.person_id) == person.id))
    open_talks = select(Conversation).where(
        Conversation.person_id == person.id, col(Conversation.deleted_at).is_(None)
    )
    for talk in session.exec(open_talks).all():
        conversations.delete(session, talk)
        talk.title = ""
    # Another instance than the handler's, which is read in the answer.
    kept = session.get_one(Person, person.id)
    kept.name, kept.kind, kept.role, kept.token_hash = ERASED, "erased", "employee", None
    session.add(kept)
    itself = isinstance(by, Person) and by.id == person.id
    audit.record(session, by, "person.erased", f"person:{person.id}", by_themselves=itself)


def _take_names(session: Session, person: Person) -> None:
    accepted = select(VerifiedAnswer.gold_answer_id).where(VerifiedAnswer.person_id == person.id)
    written = (col(GoldAnswer.person_id) == person.id) | col(GoldAnswer.id).in_(accepted)
    session.execute(update(GoldAnswer).where(written).values(author=ERASED))
    for table in (Review, VerifiedAnswer):
        session.execute(update(table).where(col(table.person_id) == person.id).values(by=ERASED))
    # The rest holds a name alone; where another person has the same, it may be theirs.
    same_name = select(func.count()).select_from(Person).where(Person.name == person.name)
    if session.exec(same_name).one() == 1:
        _take_mere_names(session, person.name)


def _take_mere_names(session: Session, name: str) -> None:
    columns = (
        (Promotion, "by"),
        (TrainingRun, "requested_by"),
        (PluginSetting, "changed_by"),
        (PluginState, "switched_by"),
    )
    for table, column in columns:
        named = getattr(table, column) == name
        session.execute(update(table).where(named).values({column: ERASED}))
    off = col(PluginState.off_reason) == f"{name} switched it off"
    session.execute(update(PluginState).where(off).values(off_reason=f"{ERASED} switched it off"))
    # Runs that an older Heed rejected name who it was before the reason.
    before = f"rejected by {name}: "
    error = col(TrainingRun.error)
    session.execute(
        update(TrainingRun)
        .where(col(TrainingRun.state) == "refused", func.substr(error, 1, len(before)) == before)
        .values(error=literal(f"{REJECTED}: ") + func.substr(error, len(before) + 1))
    )


def _of(session: Session, person: Person, table: Any) -> list[dict[str, Any]]:
    return _shown(session.exec(select(table).where(table.person_id == person.id)))


def _shown(rows: Iterable[SQLModel]) -> list[dict[str, Any]]:
    return [row.model_dump(mode="json", exclude=_HIDDEN) for row in rows]
