"""API keys: made and revoked by their owners, known by a hash, limited by scopes and role."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import update
from sqlmodel import Session, col, select

from service import audit
from service.account_tables import Account, ApiKey
from service.errors import ConflictError, InvalidInputError, NotFoundError
from service.people import clean_name
from service.roles import SCOPES, Role, Scope, Visitors, may
from service.secret_tokens import fresh_token, is_token, token_hash
from service.sign_in_sessions import may_be_here
from service.tables import Person, now

BEGINNING = "heed_"
SHOWN = len(BEGINNING) + 6
"""How many characters of a key are kept to know it by; too few to guess the rest."""

MOST_KEYS = 20
"""How many keys one person may have at once."""

USED_EVERY = timedelta(minutes=1)
LONGEST_DAYS = 730
MOST_LISTED = 100


class Made(NamedTuple):
    """A new key; `token` is told this once."""

    row: ApiKey
    token: str


class KeyHolder(NamedTuple):
    """A key in force, and whose it is."""

    person: Person
    key: ApiKey


def make(
    session: Session, person: Person, name: str, scopes: Sequence[Scope], days: int | None
) -> Made:
    """A new key that works for so many days, or until it is revoked.

    InvalidInputError for scopes beyond the person's role, ConflictError for too many keys.
    """
    _check_scopes(person.role, scopes)
    if days is not None and not 1 <= days <= LONGEST_DAYS:
        raise InvalidInputError(f"a key may work for 1 to {LONGEST_DAYS} days")
    if len([row for row in keys_of(session, person) if row.revoked_at is None]) >= MOST_KEYS:
        raise ConflictError(f"you have {MOST_KEYS} keys; revoke one that you do not need")
    token = BEGINNING + fresh_token()
    row = ApiKey(
        person_id=person.id,
        name=clean_name(name),
        prefix=token[:SHOWN],
        token_hash=token_hash(token),
        scopes=sorted(set(scopes)),
        expires_at=now() + timedelta(days=days) if days is not None else None,
    )
    session.add(row)
    session.flush()
    audit.record(session, person, "key.made", f"key:{row.id}", scopes=row.scopes)
    return Made(row, token)


def find_holder(session: Session, token: str, visitors: Visitors) -> KeyHolder | None:
    """Whose key this is; None where it is not known, revoked, or its owner may not be here."""
    if not is_token(token):
        return None
    found = session.exec(
        select(ApiKey, Person, Account)
        .join(Person, col(Person.id) == ApiKey.person_id)
        .join(Account, col(Account.person_id) == Person.id, isouter=True)
        .where(ApiKey.token_hash == token_hash(token))
    ).first()
    if found is None:
        return None
    key, person, account = found
    moment = now()
    over = key.expires_at is not None and key.expires_at <= moment
    if over or key.revoked_at is not None or not may_be_here(person, account, visitors):
        return None
    _note(session, key, moment)
    return KeyHolder(person, key)


def keys_of(session: Session, person: Person) -> Sequence[ApiKey]:
    """The person's keys that are not revoked, the newest first."""
    query = select(ApiKey).where(ApiKey.person_id == person.id, col(ApiKey.revoked_at).is_(None))
    return session.exec(query.order_by(col(ApiKey.created_at).desc())).all()


def all_keys(
    session: Session, before: tuple[datetime, str] | None = None
) -> Sequence[tuple[ApiKey, str]]:
    """Everybody's keys that are not revoked with their owners' names, the newest first, at most
    100; those older than `before`, the moment and id of the last one seen."""
    query = select(ApiKey, Person.name).join(Person).where(col(ApiKey.revoked_at).is_(None))
    if before is not None:
        moment, number = before
        same = (col(ApiKey.created_at) == moment) & (col(ApiKey.id) < number)
        query = query.where((col(ApiKey.created_at) < moment) | same)
    newest = query.order_by(col(ApiKey.created_at).desc(), col(ApiKey.id).desc())
    return session.exec(newest.limit(MOST_LISTED)).all()


def revoke(session: Session, by: Person, key_id: str, *, anybodys: bool = False) -> None:
    """Revoke one's own key, or anybody's; NotFoundError where there is none in force."""
    row = session.get(ApiKey, key_id)
    if row is None or row.revoked_at is not None or not (anybodys or row.person_id == by.id):
        raise NotFoundError("there is no such key; it may have been revoked")
    row.revoked_at = now()
    session.add(row)
    audit.record(session, by, "key.revoked", f"key:{row.id}")


def _check_scopes(role: str, scopes: Sequence[Scope]) -> None:
    if not scopes:
        raise InvalidInputError("a key needs a scope; say what it is for")
    for scope in scopes:
        least: Role = SCOPES[scope]
        if not may(role, least):
            raise InvalidInputError(
                f"your role is {role}; a key of the scope {scope} needs the role {least}"
            )


def _note(session: Session, key: ApiKey, moment: datetime) -> None:
    if key.used_at is None or moment - key.used_at >= USED_EVERY:
        statement = update(ApiKey).where(col(ApiKey.id) == key.id).values(used_at=moment)
        session.execute(statement)
