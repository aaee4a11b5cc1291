"""Who is asking: visitors known by a session token, operators, and simulated people.

Only the SHA-256 of a token is kept, so that nobody who reads the database can ask in
another's name.
"""

from __future__ import annotations

import hashlib
import secrets

from sqlmodel import Session, select

from service.database import insert_unless_there
from service.errors import InvalidInputError
from service.roles import Role
from service.tables import Person, new_id

LONGEST_TOKEN = 256


def visitor(session: Session, token: str | None, role: Role = "employee") -> tuple[Person, str]:
    """The person of this token with the token; a new person and token where it is not known."""
    person = person_by_token(session, token)
    if person is not None and token is not None:
        return person, token
    fresh = secrets.token_urlsafe(32)
    number = new_id()
    person = Person(id=number, name=f"Visitor {number[:4]}", role=role, token_hash=_hash(fresh))
    session.add(person)
    session.flush()
    return person, fresh


def holder(session: Session, token: str) -> Person:
    """Whoever holds this token; a new visitor, known by it from now on, where nobody does.

    InvalidInputError for a token that is too long.
    """
    if len(token) > LONGEST_TOKEN:
        raise InvalidInputError(f"the token has more than {LONGEST_TOKEN} characters; shorten it")
    person = person_by_token(session, token)
    if person is not None:
        return person
    number = new_id()
    newcomer = Person(id=number, name=f"Visitor {number[:4]}", token_hash=_hash(token))
    # Of two first requests at the same time, one makes the visitor and the other finds it.
    insert_unless_there(session, newcomer)
    return session.exec(select(Person).where(Person.token_hash == _hash(token))).one()


def person_by_token(session: Session, token: str | None) -> Person | None:
    """Whoever holds this token, or None."""
    if not token or len(token) > LONGEST_TOKEN:
        return None
    return session.exec(select(Person).where(Person.token_hash == _hash(token))).first()


def simulated_person(session: Session, name: str) -> Person:
    """The simulated person of this name, made at the first call; everything they do is labelled
    simulated."""
    number = hashlib.sha256(f"simulated:{name}".encode()).hexdigest()[:16]
    insert_unless_there(session, Person(id=number, name=name, kind="simulated"))
    return session.get_one(Person, number)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
