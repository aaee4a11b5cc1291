"""Accounts: making them, what their people may do, disabling and erasing them.

There is always an admin who can sign in: who would be the last one stays.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import update
from sqlmodel import Session, col, func, select

from service import audit, sign_in_sessions
from service.account_tables import Account, ApiKey
from service.database import insert_unless_there
from service.errors import ConflictError, InvalidInputError, NotFoundError
from service.passwords import check_new, hash_of
from service.people import clean_name
from service.roles import Role
from service.tables import Person, now

LONGEST_SIGN_IN_NAME = 254
MOST_PEOPLE = 100

Actor = Person | str
"""Who does it: a person, or the command line's user."""


class Member(NamedTuple):
    """A person with their account."""

    person: Person
    account: Account


def sign_in_key(name: str) -> str:
    """A sign-in name as it is compared: capitals and compatible signs make no difference."""
    return unicodedata.normalize("NFKC", name).strip().casefold()


def create(
    session: Session, name: str, sign_in_name: str, password: str, role: Role, by: Actor | None
) -> Person:
    """A new person who signs in by name and password.

    InvalidInputError for a name or password that cannot be used, ConflictError for a
    sign-in name that is taken.
    """
    shown, key = clean_name(name), sign_in_key(sign_in_name)
    if not key or len(key) > LONGEST_SIGN_IN_NAME or any(c.isspace() for c in key):
        raise InvalidInputError(
            f"the sign-in name must have 1 to {LONGEST_SIGN_IN_NAME} characters and no spaces; "
            "an e-mail address is a good one"
        )
    clean_name(key[:80])
    check_new(password, key, shown)
    kept = hash_of(password)
    person = Person(name=shown, role=role)
    session.add(person)
    session.flush()
    account = Account(person_id=person.id, sign_in_name=key, password_hash=kept, password_at=now())
    if not insert_unless_there(session, account):
        raise ConflictError("this sign-in name is taken; choose another one")
    audit.record(session, by or person, "person.created", f"person:{person.id}", role=role)
    return person


def set_password(session: Session, person: Person, password: str, by: Actor) -> None:
    """Take a new password and end all sessions; InvalidInputError where it is too easy."""
    account = account_of(session, person)
    check_new(password, account.sign_in_name or "", person.name)
    account.password_hash, account.password_at = hash_of(password), now()
    session.add(account)
    sign_in_sessions.end_all(session, person.id)
    audit.record(session, by, "person.password_changed", f"person:{person.id}")


def account_of(session: Session, person: Person) -> Account:
    """The person's account; NotFoundError for visitors, who have none."""
    account = session.get(Account, person.id)
    if account is None:
        raise NotFoundError("this person has no account")
    return account


def find(session: Session, person_id: str) -> Member:
    """The person of this id who has an account; NotFoundError where there is none."""
    found = session.exec(
        select(Person, Account).join(Account).where(Person.id == person_id)
    ).first()
    if found is None:
        raise NotFoundError("there is no such person, or they were erased")
    return Member(*found)


def find_by_name(session: Session, name: str) -> Member:
    """The person of this sign-in name, or else of this name or beginning of an id.

    NotFoundError where there is none, ConflictError where there are several.
    """
    query = select(Person, Account).join(Account)
    rows = session.exec(query.where(Account.sign_in_name == sign_in_key(name))).all()
    if not rows:
        by_id = col(Person.id).startswith(name, autoescape=True)
        rows = session.exec(query.where((col(Person.name) == name) | by_id)).all()
    if not rows:
        raise NotFoundError(f"nobody is known as {name!r}; heed people list names all")
    if len(rows) > 1:
        raise ConflictError(f"{len(rows)} people are known as {name!r}; give the id of one")
    return Member(*rows[0])


def members(
    session: Session, after: tuple[str, str] | None = None, search: str = ""
) -> Sequence[Member]:
    """People with accounts by name, at most MOST_PEOPLE; those after the (name, id) of the last
    one seen. `search` is a part of the name or sign-in name."""
    query = select(Person, Account).join(Account)
    if after is not None:
        name, number = after
        same = (col(Person.name) == name) & (col(Person.id) > number)
        query = query.where((col(Person.name) > name) | same)
    if search:
        part = search.strip()
        query = query.where(
            col(Person.name).icontains(part, autoescape=True)
            | col(Account.sign_in_name).contains(sign_in_key(part), autoescape=True)
            | col(Account.email).icontains(part, autoescape=True)
        )
    rows = session.exec(query.order_by(col(Person.name), col(Person.id)).limit(MOST_PEOPLE))
    return [Member(*row) for row in rows]


def set_role(session: Session, member: Member, role: Role, by: Actor) -> None:
    """Give a person this role; ConflictError where no admin would be left."""
    before = member.person.role
    if before == role:
        return
    _lock_admins(session)
    member.person.role = role
    session.add(member.person)
    _check_admins(session)
    number = f"person:{member.person.id}"
    audit.record(session, by, "person.role_changed", number, before=before, now=role)


def disable(session: Session, member: Member, by: Actor) -> None:
    """Keep a person out from now on; ConflictError where no admin would be left.

    Their sessions end and their keys stop; what they said stays theirs."""
    if member.account.disabled_at is not None:
        return
    _lock_admins(session)
    member.account.disabled_at = now()
    session.add(member.account)
    _check_admins(session)
    sign_in_sessions.end_all(session, member.person.id)
    audit.record(session, by, "person.disabled", f"person:{member.person.id}")


def enable(session: Session, member: Member, by: Actor) -> None:
    """Let a disabled person in again; their keys work again, too."""
    if member.account.disabled_at is not None:
        member.account.disabled_at = None
        session.add(member.account)
        audit.record(session, by, "person.enabled", f"person:{member.person.id}")


def has_admin(session: Session) -> bool:
    """Whether anybody can sign in as admin."""
    return _count_admins(session) > 0


def guard_last_admin(session: Session, person_id: str) -> None:
    """ConflictError where no admin would be left without this person."""
    _lock_admins(session)
    others = select(func.count()).select_from(Person).join(Account).where(*_ADMIN)
    is_one = session.exec(others.where(Person.id == person_id)).one() > 0
    if is_one and session.exec(others.where(Person.id != person_id)).one() == 0:
        raise ConflictError(_LAST)


def revoke_keys(session: Session, person_id: str) -> None:
    """Revoke all keys of this person."""
    session.execute(
        update(ApiKey)
        .where(col(ApiKey.person_id) == person_id, col(ApiKey.revoked_at).is_(None))
        .values(revoked_at=now())
    )


_ADMIN = (col(Person.role) == "admin", col(Account.disabled_at).is_(None))
_LAST = "this is the last admin; make somebody else an admin first"


def _count_admins(session: Session) -> int:
    return session.exec(select(func.count()).select_from(Person).join(Account).where(*_ADMIN)).one()


def _lock_admins(session: Session) -> None:
    """Of two who remove one another, the second waits and then sees what the first did."""
    session.exec(select(Person.id).join(Account).where(*_ADMIN).with_for_update()).all()


def _check_admins(session: Session) -> None:
    session.flush()
    if _count_admins(session) == 0:
        raise ConflictError(_LAST)
