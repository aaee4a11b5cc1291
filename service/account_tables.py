"""The tables of accounts: how people sign in, their sessions and keys, and the record of it.

Of every secret only a hash is kept: argon2 of passwords, SHA-256 of random tokens.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Index
from sqlmodel import Field, SQLModel

from service.tables import UtcDateTime, new_id, now


def _moment(*, index: bool = False) -> Any:
    return Field(default_factory=now, sa_type=UtcDateTime, index=index, nullable=False)


def _until() -> Any:
    return Field(sa_type=UtcDateTime, nullable=False, index=True)


def _later() -> Any:
    return Field(default=None, sa_type=UtcDateTime, nullable=True)


class Account(SQLModel, table=True):
    """How a person signs in: by `sign_in_name` and password, or as `subject` of the OpenID
    provider `issuer`. Visitors and simulated people have none."""

    __table_args__ = (Index("uq_account_issuer_subject", "issuer", "subject", unique=True),)

    person_id: str = Field(foreign_key="person.id", primary_key=True)
    sign_in_name: str | None = Field(default=None, unique=True)
    password_hash: str | None = None
    password_at: datetime | None = _later()
    issuer: str | None = None
    subject: str | None = None
    email: str | None = None
    disabled_at: datetime | None = _later()
    created_at: datetime = _moment()


class PersonGroup(SQLModel, table=True):
    """That a person belongs to a group and reads its documents; `name` as groups.py compares it."""

    __tablename__ = "person_group"

    person_id: str = Field(foreign_key="person.id", primary_key=True)
    name: str = Field(primary_key=True, index=True)


class SignInSession(SQLModel, table=True):
    """Somebody signed in with one browser. `method` is "password", "provider", "link" or
    "visit"; `browser` what the browser said it is, for the list on the account page."""

    __tablename__ = "sign_in_session"

    id: str = Field(default_factory=new_id, primary_key=True)
    person_id: str = Field(foreign_key="person.id", index=True)
    token_hash: str = Field(unique=True)
    method: str
    browser: str = ""
    created_at: datetime = _moment()
    seen_at: datetime = _moment()
    expires_at: datetime = _until()


class OneTimeLink(SQLModel, table=True):
    """A link that works once. `kind` is "first" (the first account), "invitation" (a new
    account of `role`) or "password" (a new password for `person_id`)."""

    __tablename__ = "one_time_link"

    id: str = Field(default_factory=new_id, primary_key=True)
    kind: str
    token_hash: str = Field(unique=True)
    role: str | None = None
    name: str | None = None
    person_id: str | None = Field(default=None, foreign_key="person.id", index=True)
    made_by: str | None = Field(default=None, foreign_key="person.id")
    used_at: datetime | None = _later()
    created_at: datetime = _moment()
    expires_at: datetime = _until()


class ProviderVisit(SQLModel, table=True):
    """Somebody who is at the OpenID provider now, and is to come back to the same browser."""

    __tablename__ = "provider_visit"

    state_hash: str = Field(primary_key=True)
    browser_hash: str
    nonce: str
    verifier: str
    next_path: str
    expires_at: datetime = _until()


class ApiKey(SQLModel, table=True):
    """A key of a person for programs. `prefix` is its beginning, by which people know it."""

    __tablename__ = "api_key"

    id: str = Field(default_factory=new_id, primary_key=True)
    person_id: str = Field(foreign_key="person.id", index=True)
    name: str
    prefix: str
    token_hash: str = Field(unique=True)
    scopes: list[str] = Field(default_factory=list, sa_type=JSON, nullable=False)
    expires_at: datetime | None = _later()
    used_at: datetime | None = _later()
    revoked_at: datetime | None = _later()
    created_at: datetime = _moment(index=True)


class AuditEntry(SQLModel, table=True):
    """Who did what to which; append-only. `by` names who has no person: the command line's
    user. `target` is "kind:id". `details` holds neither names nor secrets."""

    __tablename__ = "audit_entry"

    id: str = Field(default_factory=new_id, primary_key=True)
    created_at: datetime = _moment(index=True)
    person_id: str | None = Field(default=None, foreign_key="person.id", index=True)
    by: str | None = None
    action: str = Field(index=True)
    target: str | None = None
    details: dict[str, Any] = Field(default_factory=dict, sa_type=JSON, nullable=False)
