"""Which documents a person may read: everybody's, their groups', and their own.

Readers of a document are "everyone", "group:NAME" and "person:NAME", where NAME is a sign-in
name or the e-mail address that the company's provider told. Names are compared without regard
to capitals. A reader of any other form is nobody.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from sqlmodel import Session, col, delete, func, select

from service import audit
from service.account_tables import Account, PersonGroup
from service.database import insert_unless_there
from service.errors import InvalidInputError
from service.tables import Person

EVERYBODY = ("everyone",)
"""The readers that every person is."""
LONGEST_NAME = 80
MOST_GROUPS = 200
"""Groups of one person."""


def reader(text: str) -> str:
    """A document's reader as it is compared."""
    kind, mark, name = text.partition(":")
    return f"{kind}{mark}{_key(name)}" if kind in ("group", "person") else text


def readers_of(session: Session, person: Person) -> tuple[str, ...]:
    """All readers that the person is, as documents name them."""
    names = session.exec(select(PersonGroup.name).where(PersonGroup.person_id == person.id))
    found = [*EVERYBODY, *(f"group:{name}" for name in names)]
    account = session.get(Account, person.id)
    known = (account.sign_in_name, account.email) if account else ()
    return (*found, *(f"person:{_key(name)}" for name in known if name))


def groups_of(session: Session, person_ids: Sequence[str]) -> dict[str, list[str]]:
    """The groups of each of these people, by name."""
    query = select(PersonGroup).where(col(PersonGroup.person_id).in_(person_ids))
    found: dict[str, list[str]] = {number: [] for number in person_ids}
    for row in session.exec(query.order_by(col(PersonGroup.name))):
        found[row.person_id].append(row.name)
    return found


def set_groups(
    session: Session, person: Person, names: Iterable[str], by: Person | str
) -> list[str]:
    """Put the person into these groups and no others, from their next question on.

    A group is there as long as somebody is in it. InvalidInputError for a name that is none,
    or too many.
    """
    wanted = sorted({group_name(name) for name in names})
    if len(wanted) > MOST_GROUPS:
        raise InvalidInputError(f"{len(wanted)} groups are too many; at most {MOST_GROUPS}")
    before = groups_of(session, [person.id])[person.id]
    if wanted == before:
        return wanted
    session.execute(
        delete(PersonGroup).where(
            col(PersonGroup.person_id) == person.id, col(PersonGroup.name).not_in(wanted)
        )
    )
    for name in wanted:
        insert_unless_there(session, PersonGroup(person_id=person.id, name=name))
    number = f"person:{person.id}"
    audit.record(session, by, "person.groups_changed", number, before=before, now=wanted)
    return wanted


def all_groups(session: Session) -> list[tuple[str, int]]:
    """Every group with how many people are in it."""
    query = select(PersonGroup.name, func.count()).group_by(col(PersonGroup.name))
    return [(name, count) for name, count in session.exec(query.order_by(col(PersonGroup.name)))]


def group_name(name: str) -> str:
    """A group's name as it is kept; InvalidInputError where it cannot be one."""
    key = _key(name)
    if not key or len(key) > LONGEST_NAME or not key.isprintable():
        raise InvalidInputError(
            f"a group's name has 1 to {LONGEST_NAME} characters that can be shown; "
            f"{name[:LONGEST_NAME]!r} is none"
        )
    return key


def _key(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold()
