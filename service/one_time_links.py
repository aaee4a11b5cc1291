"""Links that work once: to the first account, to an invited one, to a new password.

The token stands after the # of the address, which browsers send to nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Literal, cast

from sqlalchemy import update
from sqlmodel import Session, col, select

from service import accounts, audit
from service.account_tables import Account, OneTimeLink
from service.database import changed_rows
from service.errors import InvalidInputError, NotFoundError
from service.people import clean_name
from service.roles import Role
from service.secret_tokens import fresh_token, is_token, token_hash
from service.settings import Settings
from service.tables import Person, now

Kind = Literal["first", "invitation", "password"]
HOURS: dict[Kind, int] = {"first": 24, "invitation": 7 * 24, "password": 24}
OVER = "this link was used or has run out; ask an admin for a new one"


def first_account(session: Session) -> str:
    """The token of a link to the first account, an admin's; earlier ones stop to work."""
    _void(session, col(OneTimeLink.kind) == "first")
    return _make(session, "first", role="admin")


def invite(session: Session, role: Role, name: str | None, by: accounts.Actor) -> str:
    """The token of a link with which somebody makes an account of this role."""
    shown = clean_name(name) if name else None
    token = _make(session, "invitation", role=role, name=shown, made_by=by)
    audit.record(session, by, "person.invited", role=role)
    return token


def reset_password(session: Session, member: accounts.Member, by: accounts.Actor) -> str:
    """The token of a link with which this person takes a new password; earlier ones stop."""
    if member.account.sign_in_name is None:
        raise InvalidInputError("this person signs in with the company account, by no password")
    _void(session, col(OneTimeLink.person_id) == member.person.id)
    token = _make(session, "password", person_id=member.person.id, made_by=by)
    audit.record(session, by, "person.reset", f"person:{member.person.id}")
    return token


def look(session: Session, token: str) -> OneTimeLink:
    """The link of this token while it works; NotFoundError else."""
    row = _find(session, token)
    if row is None or row.used_at is not None or row.expires_at <= now():
        raise NotFoundError(OVER)
    if row.kind == "first" and accounts.has_admin(session):
        raise NotFoundError(OVER)
    return row


def name_of(session: Session, link: OneTimeLink) -> str | None:
    """Who is invited, or whose password it is."""
    person = session.get(Person, link.person_id) if link.person_id else None
    return person.name if person else link.name


def make_account(
    session: Session, token: str, name: str, sign_in_name: str, password: str
) -> Person:
    """Use a link to make an account; NotFoundError where it does not work (any more)."""
    row = look(session, token)
    if row.kind == "password":
        raise NotFoundError(OVER)
    _use(session, row)
    return accounts.create(session, name, sign_in_name, password, cast("Role", row.role), None)


def new_password(session: Session, token: str, password: str) -> Person:
    """Use a link to take a new password; NotFoundError where it does not work (any more)."""
    row = look(session, token)
    if row.person_id is None:
        raise NotFoundError(OVER)
    _use(session, row)
    person, account = accounts.find(session, row.person_id)
    if account.disabled_at is not None:
        raise NotFoundError(OVER)
    accounts.set_password(session, person, password, person)
    return person


def open_invitations(session: Session) -> Sequence[OneTimeLink]:
    """Invitations nobody has used yet, the newest first."""
    query = select(OneTimeLink).where(
        OneTimeLink.kind == "invitation",
        col(OneTimeLink.used_at).is_(None),
        col(OneTimeLink.expires_at) > now(),
    )
    return session.exec(query.order_by(col(OneTimeLink.created_at).desc()).limit(100)).all()


def withdraw(session: Session, link_id: str, by: accounts.Actor) -> None:
    """Take an invitation back; NotFoundError where there is none of this id."""
    ended = _void(session, col(OneTimeLink.id) == link_id, col(OneTimeLink.kind) == "invitation")
    if ended == 0:
        raise NotFoundError("there is no such invitation; it may have been used")
    audit.record(session, by, "person.invitation_withdrawn", f"link:{link_id}")


def address(settings: Settings, token: str) -> str:
    """The link that a person opens."""
    host = "localhost" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - compared with, never bound
    shown = f"[{host}]" if ":" in host else host
    return f"{settings.public_url or f'http://{shown}:{settings.port}'}/welcome#{token}"


def needs_first_account(session: Session, settings: Settings) -> bool:
    """Whether nobody can sign in yet, and somebody is to make the first account."""
    waits = settings.visitors == "none" and settings.sign_in.passwords
    return waits and session.exec(select(Account.person_id).limit(1)).first() is None


def _make(
    session: Session,
    kind: Kind,
    *,
    role: Role | None = None,
    name: str | None = None,
    person_id: str | None = None,
    made_by: accounts.Actor | None = None,
) -> str:
    token = fresh_token()
    session.add(
        OneTimeLink(
            kind=kind,
            token_hash=token_hash(token),
            role=role,
            name=name,
            person_id=person_id,
            made_by=made_by.id if isinstance(made_by, Person) else None,
            expires_at=now() + timedelta(hours=HOURS[kind]),
        )
    )
    return token


def _find(session: Session, token: str) -> OneTimeLink | None:
    if not is_token(token):
        return None
    return session.exec(
        select(OneTimeLink).where(OneTimeLink.token_hash == token_hash(token))
    ).first()


def _use(session: Session, row: OneTimeLink) -> None:
    """Of two who use it at the same time, one does."""
    if _void(session, col(OneTimeLink.id) == row.id) == 0:
        raise NotFoundError(OVER)


def _void(session: Session, *which: object) -> int:
    statement = update(OneTimeLink).where(
        *which,  # type: ignore[arg-type]
        col(OneTimeLink.used_at).is_(None),
    )
    return changed_rows(session.execute(statement.values(used_at=now())))
