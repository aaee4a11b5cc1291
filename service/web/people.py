"""People, everybody's keys and the record of who did what, for admins."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from litestar import delete, get, patch, post
from litestar.params import FromPath, FromQuery, JSONBody

from service import accounts, api_keys, audit, one_time_links, person_data
from service.account_tables import OneTimeLink
from service.cursors import cursor, place
from service.database import session
from service.errors import ConflictError
from service.groups import groups_of, set_groups
from service.roles import Role
from service.web.account import KeyEntry, shown_key
from service.web.parts import GivenParts
from service.web.rights import needs
from service.web.sessions import GivenPerson

FOR_ADMINS: dict[str, Any] = {
    "security": needs("admin", "admin"),
    "tags": ["People"],
    "sync_to_thread": True,
}


class PersonEntry(msgspec.Struct):
    """A person with an account."""

    id: str
    name: str
    role: str
    sign_in_name: str | None
    email: str | None
    company: bool
    disabled: bool
    groups: list[str]
    created_at: datetime


class People(msgspec.Struct):
    """Some people by name; `next` asks for those after them."""

    people: list[PersonEntry]
    next: str | None


class InvitationEntry(msgspec.Struct):
    """An invitation that nobody has used yet."""

    id: str
    name: str | None
    role: str | None
    created_at: datetime
    expires_at: datetime


class NewInvitation(msgspec.Struct, forbid_unknown_fields=True):
    """Somebody to invite; the name is a hint that they can change."""

    role: Role = "employee"
    name: str | None = None


class MadeLink(msgspec.Struct):
    """A link to hand to the person; it works once, and is told this once."""

    link: str
    hours: int


class PersonChange(msgspec.Struct, forbid_unknown_fields=True):
    """What is to change of a person; what is left out stays."""

    role: Role | None = None
    disabled: bool | None = None
    groups: list[str] | None = None


class OwnedKey(KeyEntry):
    """A key with its owner's name."""

    owner: str


class Keys(msgspec.Struct):
    """Some keys, the newest first; `next` asks for older ones."""

    keys: list[OwnedKey]
    next: str | None


class AuditLine(msgspec.Struct):
    """Who did what to which."""

    id: str
    created_at: datetime
    by: str
    action: str
    target: str | None
    details: dict[str, Any]


class AuditLines(msgspec.Struct):
    """Some of the record, the newest first; `next` asks for older lines."""

    entries: list[AuditLine]
    next: str | None


@get("/api/people", **FOR_ADMINS)
def list_people(
    admin: GivenPerson,  # noqa: ARG001 - the role is asked for
    parts: GivenParts,
    after: FromQuery[str] = "",
    search: FromQuery[str] = "",
) -> People:
    """People with accounts, by name."""
    with session(parts.database) as opened:
        found = accounts.members(opened, place(after, tuple[str, str]), search)
        groups = groups_of(opened, [member.person.id for member in found])
    rows = [_entry(member, groups[member.person.id]) for member in found]
    more = len(rows) == accounts.MOST_PEOPLE
    return People(rows, cursor((rows[-1].name, rows[-1].id)) if more else None)


@patch("/api/people/{person_id:str}", **FOR_ADMINS)
def change_person(
    admin: GivenPerson, parts: GivenParts, person_id: FromPath[str], data: JSONBody[PersonChange]
) -> PersonEntry:
    """Give another role or other groups, disable or enable; 409 where no admin would be left."""
    with session(parts.database) as opened:
        member = accounts.find(opened, person_id)
        if data.role is not None:
            accounts.set_role(opened, member, data.role, admin)
        if data.disabled is not None:
            change = accounts.disable if data.disabled else accounts.enable
            change(opened, member, admin)
        if data.groups is not None:
            set_groups(opened, member.person, data.groups, admin)
        groups = groups_of(opened, [person_id])[person_id]
    return _entry(member, groups)


@post("/api/people/{person_id:str}/reset", **FOR_ADMINS)
def reset_password(admin: GivenPerson, parts: GivenParts, person_id: FromPath[str]) -> MadeLink:
    """Make a link with which the person takes a new password."""
    with session(parts.database) as opened:
        member = accounts.find(opened, person_id)
        token = one_time_links.reset_password(opened, member, admin)
    return _link(parts, token, "password")


@post("/api/people/{person_id:str}/erase", status_code=204, **FOR_ADMINS)
def erase_person(admin: GivenPerson, parts: GivenParts, person_id: FromPath[str]) -> None:
    """Erase a person: name, sign-in and chats go; votes stay without a name."""
    if person_id == admin.id:
        raise ConflictError("erase yourself on your account page")
    with session(parts.database) as opened:
        member = accounts.find(opened, person_id)
        person_data.erase(opened, member.person, admin)


@get("/api/invitations", **FOR_ADMINS)
def list_invitations(admin: GivenPerson, parts: GivenParts) -> list[InvitationEntry]:  # noqa: ARG001 - as above
    """Invitations that nobody has used yet."""
    with session(parts.database) as opened:
        return [_invitation(row) for row in one_time_links.open_invitations(opened)]


@post("/api/invitations", **FOR_ADMINS)
def invite(admin: GivenPerson, parts: GivenParts, data: JSONBody[NewInvitation]) -> MadeLink:
    """Make a link with which somebody makes their account."""
    with session(parts.database) as opened:
        token = one_time_links.invite(opened, data.role, data.name, admin)
    return _link(parts, token, "invitation")


@delete("/api/invitations/{invitation_id:str}", **FOR_ADMINS)
def withdraw_invitation(
    admin: GivenPerson, parts: GivenParts, invitation_id: FromPath[str]
) -> None:
    """Take an invitation back."""
    with session(parts.database) as opened:
        one_time_links.withdraw(opened, invitation_id, admin)


@get("/api/keys", **FOR_ADMINS)
def list_keys(admin: GivenPerson, parts: GivenParts, before: FromQuery[str] = "") -> Keys:  # noqa: ARG001 - as above
    """Everybody's keys, the newest first."""
    with session(parts.database) as opened:
        found = api_keys.all_keys(opened, place(before, tuple[datetime, str]))
    rows = [OwnedKey(**shown_key(key), owner=owner) for key, owner in found]
    more = len(rows) == api_keys.MOST_LISTED
    return Keys(rows, cursor((rows[-1].created_at, rows[-1].id)) if more else None)


@delete("/api/keys/{any_key_id:str}", **FOR_ADMINS)
def revoke_any_key(admin: GivenPerson, parts: GivenParts, any_key_id: FromPath[str]) -> None:
    """Revoke anybody's key, at once."""
    with session(parts.database) as opened:
        api_keys.revoke(opened, admin, any_key_id, anybodys=True)


@get("/api/audit", **FOR_ADMINS)
def list_audit(
    admin: GivenPerson,  # noqa: ARG001 - as above
    parts: GivenParts,
    before: FromQuery[str] = "",
    action: FromQuery[str] = "",
) -> AuditLines:
    """The record of who did what, the newest first; `action` is the beginning of an action."""
    with session(parts.database) as opened:
        found = audit.entries(opened, place(before, tuple[datetime, str]), action or None)
    rows = [_line(entry) for entry in found]
    more = len(rows) == audit.MOST_ENTRIES
    return AuditLines(rows, cursor((rows[-1].created_at, rows[-1].id)) if more else None)


def _entry(member: accounts.Member, groups: list[str]) -> PersonEntry:
    person, account = member
    return PersonEntry(
        id=person.id,
        name=person.name,
        role=person.role,
        sign_in_name=account.sign_in_name,
        email=account.email,
        company=account.issuer is not None,
        disabled=account.disabled_at is not None,
        groups=groups,
        created_at=person.created_at,
    )


def _invitation(row: OneTimeLink) -> InvitationEntry:
    return InvitationEntry(row.id, row.name, row.role, row.created_at, row.expires_at)


def _link(parts: GivenParts, token: str, kind: one_time_links.Kind) -> MadeLink:
    address = one_time_links.address(parts.settings, token)
    return MadeLink(address, one_time_links.HOURS[kind])


def _line(recorded: audit.Recorded) -> AuditLine:
    entry, name = recorded
    kept = entry.model_dump(include={"id", "created_at", "action", "target", "details"})
    return AuditLine(**kept, by=name)
