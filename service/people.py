"""Who is asking: people with accounts, visitors of a demonstration, and simulated people.

`kind` of a person is "person" (with an account), "visitor", "simulated" or "erased".
Visitors are there only while the setting `visitors` gives them a role.
"""

from __future__ import annotations

import hashlib
import unicodedata

from sqlmodel import Session, select

from service.database import insert_unless_there
from service.errors import InvalidInputError
from service.roles import Role
from service.secret_tokens import LONGEST_TOKEN, is_token, token_hash
from service.tables import Person, new_id

LONGEST_NAME = 80


def new_visitor(session: Session, role: Role) -> Person:
    """A visitor of a demonstration, with a name of their own."""
    number = new_id()
    person = Person(id=number, name=f"Visitor {number[:4]}", kind="visitor", role=role)
    session.add(person)
    session.flush()
    return person


def holder(session: Session, token: str, role: Role) -> Person:
    """The visitor who chose this key; a new one, known by it from now on, where nobody did.

    InvalidInputError for a key that is too long.
    """
    if not is_token(token):
        raise InvalidInputError(f"the key has more than {LONGEST_TOKEN} characters; shorten it")
    chosen = select(Person).where(Person.token_hash == token_hash(token), Person.kind == "visitor")
    person = session.exec(chosen).first()
    if person is None:
        number = new_id()
        newcomer = Person(
            id=number,
            name=f"Visitor {number[:4]}",
            kind="visitor",
            role=role,
            token_hash=token_hash(token),
        )
        # Of two first requests at the same time, one makes the visitor and the other finds it.
        insert_unless_there(session, newcomer)
        person = session.exec(chosen).one()
    return with_role(session, person, role)


def with_role(session: Session, person: Person, role: Role) -> Person:
    """The person, who has this role from now on."""
    if person.role != role:
        person.role = role
        session.add(person)
    return person


def simulated_person(session: Session, name: str) -> Person:
    """The simulated person of this name, made at the first call; everything they do is labelled
    simulated."""
    number = hashlib.sha256(f"simulated:{name}".encode()).hexdigest()[:16]
    insert_unless_there(session, Person(id=number, name=name, kind="simulated"))
    return session.get_one(Person, number)


def clean_name(name: str) -> str:
    """A name as it is shown; InvalidInputError where it cannot be one."""
    text = " ".join(unicodedata.normalize("NFC", name).split())
    if not text or len(text) > LONGEST_NAME:
        raise InvalidInputError(f"the name must have 1 to {LONGEST_NAME} characters")
    if any(unicodedata.category(sign) in ("Cc", "Cf", "Co", "Cn", "Cs") for sign in text):
        raise InvalidInputError("the name holds signs that cannot be shown; leave them out")
    return text
