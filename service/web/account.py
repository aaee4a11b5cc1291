"""One's own account over HTTP: name, password, sessions, keys, one's data and the end of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.params import FromPath, JSONBody

from service import accounts, api_keys, audit, person_data, sign_in_sessions
from service.account_tables import Account, ApiKey
from service.database import session
from service.errors import InvalidInputError
from service.people import clean_name
from service.roles import SCOPES, Scope, may
from service.sign_in import check_password
from service.tables import Person
from service.web.parts import GivenParts
from service.web.rights import needs
from service.web.sessions import GivenAsker, GivenPerson, begin_session, drop_session
from service.web.sign_in import address_of

AnyRequest = Request[Any, Any, Any]

MINE = needs("employee", None)
"""No key may change how its owner signs in, or make another key."""


class SessionEntry(msgspec.Struct):
    """A browser one is signed in with; `current` is this one."""

    id: str
    browser: str
    method: str
    created_at: datetime
    seen_at: datetime
    expires_at: datetime
    current: bool


class KeyEntry(msgspec.Struct):
    """A key, without what is secret of it."""

    id: str
    name: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    used_at: datetime | None
    expires_at: datetime | None


class AccountDetail(msgspec.Struct):
    """One's account. `scopes` are those that one's role may give to a key."""

    name: str
    role: str
    demonstration: bool
    sign_in_name: str | None
    email: str | None
    has_password: bool
    sessions: list[SessionEntry]
    keys: list[KeyEntry]
    scopes: list[str]


class NewName(msgspec.Struct, forbid_unknown_fields=True):
    """What one wants to be called."""

    name: str


class NewPassword(msgspec.Struct, forbid_unknown_fields=True):
    """The password of now, and the one from now on."""

    password: str
    new_password: str


class NewKey(msgspec.Struct, forbid_unknown_fields=True):
    """A key to make; without `days` it works until it is revoked."""

    name: str
    scopes: list[Scope]
    days: int | None = 90


class MadeKey(KeyEntry):
    """A new key. `key` is told this once, and kept nowhere."""

    key: str


class Erase(msgspec.Struct, forbid_unknown_fields=True):
    """One's password, where one has one, so that nobody else does it at an open browser."""

    password: str = ""


@get("/api/account", security=MINE, tags=["Account"], sync_to_thread=True)
def show_account(asker: GivenAsker, parts: GivenParts) -> AccountDetail:
    """One's account, the browsers one is signed in with, and one's keys."""
    person = asker.person
    with session(parts.database) as opened:
        account = opened.get(Account, person.id)
        rows = sign_in_sessions.sessions_of(opened, person, parts.settings)
        keys = api_keys.keys_of(opened, person)
    return AccountDetail(
        name=person.name,
        role=person.role,
        demonstration=person.kind == "visitor",
        sign_in_name=account.sign_in_name if account else None,
        email=account.email if account else None,
        has_password=account is not None and account.password_hash is not None,
        sessions=[
            SessionEntry(
                **row.model_dump(exclude={"person_id", "token_hash"}),
                current=row.id == asker.session_id,
            )
            for row in rows
        ],
        keys=[KeyEntry(**shown_key(key)) for key in keys],
        scopes=[scope for scope, least in SCOPES.items() if may(person.role, least)],
    )


@patch("/api/account", security=MINE, tags=["Account"], sync_to_thread=True)
def rename(person: GivenPerson, parts: GivenParts, data: JSONBody[NewName]) -> NewName:
    """Take another name."""
    with session(parts.database) as opened:
        kept = opened.get_one(Person, person.id)
        kept.name = clean_name(data.name)
        opened.add(kept)
    return NewName(kept.name)


@post(
    "/api/account/password", status_code=204, security=MINE, tags=["Account"], sync_to_thread=True
)
def change_password(
    request: AnyRequest, asker: GivenAsker, parts: GivenParts, data: JSONBody[NewPassword]
) -> None:
    """Change one's password; all other sessions end."""
    with session(parts.database) as opened:
        person = opened.get_one(Person, asker.person.id)
        if accounts.account_of(opened, person).password_hash is None:
            raise InvalidInputError("you have no password here; you sign in with another account")
        limits = parts.sign_in_limits
        check_password(opened, limits, person, data.password, address_of(request))
        accounts.set_password(opened, person, data.new_password, person)
        begin_session(request, opened, parts, person, asker.method)


@delete(
    "/api/account/sessions/{session_id:str}", security=MINE, tags=["Account"], sync_to_thread=True
)
def end_session(person: GivenPerson, parts: GivenParts, session_id: FromPath[str]) -> None:
    """Sign one of one's browsers out."""
    with session(parts.database) as opened:
        sign_in_sessions.end(opened, person.id, session_id)


@post(
    "/api/account/sign-out-everywhere",
    status_code=204,
    security=MINE,
    tags=["Account"],
    sync_to_thread=True,
)
def sign_out_everywhere(request: AnyRequest, person: GivenPerson, parts: GivenParts) -> None:
    """End all of one's sessions, this one too. Keys go on working."""
    with session(parts.database) as opened:
        sign_in_sessions.end_all(opened, person.id)
        audit.record(opened, person, "sign_in.ended_everywhere", f"person:{person.id}")
    drop_session(request, parts.settings)


@post("/api/account/keys", security=MINE, tags=["Account"], sync_to_thread=True)
def make_key(person: GivenPerson, parts: GivenParts, data: JSONBody[NewKey]) -> MadeKey:
    """Make a key; the answer is the only time that it is told."""
    with session(parts.database) as opened:
        made = api_keys.make(opened, person, data.name, data.scopes, data.days)
    return MadeKey(**shown_key(made.row), key=made.token)


@delete("/api/account/keys/{key_id:str}", security=MINE, tags=["Account"], sync_to_thread=True)
def revoke_key(person: GivenPerson, parts: GivenParts, key_id: FromPath[str]) -> None:
    """Revoke one of one's keys, at once."""
    with session(parts.database) as opened:
        api_keys.revoke(opened, person, key_id)


@get("/api/account/export", security=MINE, tags=["Account"], sync_to_thread=True)
def export_data(person: GivenPerson, parts: GivenParts) -> Response[dict[str, Any]]:
    """All that is kept of oneself, as a JSON file."""
    with session(parts.database) as opened:
        found = person_data.export_of(opened, person)
        audit.record(opened, person, "export.own_data", f"person:{person.id}")
    headers = {"Content-Disposition": 'attachment; filename="heed-my-data.json"'}
    return Response(found, media_type="application/json", headers=headers)


@post("/api/account/erase", status_code=204, security=MINE, tags=["Account"], sync_to_thread=True)
def erase(
    request: AnyRequest, person: GivenPerson, parts: GivenParts, data: JSONBody[Erase]
) -> None:
    """Erase oneself: name, sign-in and chats go; votes stay without a name."""
    with session(parts.database) as opened:
        if person.kind != "visitor":
            limits = parts.sign_in_limits
            check_password(opened, limits, person, data.password, address_of(request))
        person_data.erase(opened, person, person)
    drop_session(request, parts.settings)


def shown_key(key: ApiKey) -> dict[str, Any]:
    """A key's fields that may be shown."""
    return key.model_dump(exclude={"person_id", "token_hash", "revoked_at"})
