"""Sessions: somebody signed in with one browser, known by a token in a cookie."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import delete, update
from sqlmodel import Session, col, select

from service.account_tables import Account, SignInSession
from service.database import changed_rows
from service.errors import NotFoundError
from service.people import with_role
from service.roles import Visitors
from service.secret_tokens import fresh_token, is_token, token_hash
from service.settings import Settings
from service.tables import Person, now

VISIT_DAYS = 365
SEEN_EVERY = timedelta(minutes=5)
"""A visit is noted at most so often, so that reading seldom writes."""

_BROWSERS = ("Edg", "OPR", "Firefox", "Chrome", "Safari")
_SYSTEMS = ("Android", "iPhone", "iPad", "Windows", "Mac OS X", "Linux")
_NAMES = {"Edg": "Edge", "OPR": "Opera", "Mac OS X": "macOS"}


class SignedIn(NamedTuple):
    """A session in force, and whose it is."""

    person: Person
    session: SignInSession


def begin(
    session: Session, person: Person, method: str, user_agent: str, settings: Settings
) -> tuple[SignInSession, str]:
    """A new session of this person, with its token; what has run out of theirs goes."""
    moment = now()
    session.execute(
        delete(SignInSession).where(
            col(SignInSession.person_id) == person.id, col(SignInSession.expires_at) <= moment
        )
    )
    token = fresh_token()
    days = VISIT_DAYS if method == "visit" else settings.sign_in.session_days
    row = SignInSession(
        person_id=person.id,
        token_hash=token_hash(token),
        method=method,
        browser=browser_name(user_agent),
        seen_at=moment,
        created_at=moment,
        expires_at=moment + timedelta(days=days),
    )
    session.add(row)
    session.flush()
    return row, token


def signed_in(session: Session, token: str | None, settings: Settings) -> SignedIn | None:
    """Whose session this is; None where it has run out, or its person may not sign in any more."""
    if token is None or not is_token(token):
        return None
    found = session.exec(
        select(SignInSession, Person, Account)
        .join(Person, col(Person.id) == SignInSession.person_id)
        .join(Account, col(Account.person_id) == Person.id, isouter=True)
        .where(SignInSession.token_hash == token_hash(token))
    ).first()
    if found is None:
        return None
    row, person, account = found
    moment = now()
    if _is_over(row, moment, settings) or not may_be_here(person, account, settings.visitors):
        return None
    if person.kind == "visitor" and settings.visitors != "none":
        with_role(session, person, settings.visitors)
    _note(session, row, moment)
    return SignedIn(person, row)


def may_be_here(person: Person, account: Account | None, visitors: Visitors) -> bool:
    """Whether this person may use the service now."""
    if person.kind == "visitor":
        return visitors != "none"
    return account is not None and account.disabled_at is None


def sessions_of(session: Session, person: Person, settings: Settings) -> Sequence[SignInSession]:
    """The sessions in force, the one seen last first."""
    rows = session.exec(
        select(SignInSession)
        .where(SignInSession.person_id == person.id)
        .order_by(col(SignInSession.seen_at).desc())
    ).all()
    moment = now()
    return [row for row in rows if not _is_over(row, moment, settings)]


def end(session: Session, person_id: str, session_id: str) -> None:
    """End one session of this person; NotFoundError where they have none of this id."""
    ended = session.execute(
        delete(SignInSession).where(
            col(SignInSession.id) == session_id, col(SignInSession.person_id) == person_id
        )
    )
    if changed_rows(ended) == 0:
        raise NotFoundError("there is no such session; it may have ended already")


def end_all(session: Session, person_id: str, *, but: str | None = None) -> int:
    """End all sessions of this person but one; returns how many ended."""
    ended = session.execute(
        delete(SignInSession).where(
            col(SignInSession.person_id) == person_id, col(SignInSession.id) != (but or "")
        )
    )
    return changed_rows(ended)


def end_by_token(session: Session, token: str | None) -> None:
    """End the session of this token, if there is one."""
    if token is not None and is_token(token):
        session.execute(
            delete(SignInSession).where(col(SignInSession.token_hash) == token_hash(token))
        )


def browser_name(user_agent: str) -> str:
    """What people call this browser: "Firefox on Windows"."""
    browser = next((name for name in _BROWSERS if f"{name}/" in user_agent), None)
    system = next((name for name in _SYSTEMS if name in user_agent), None)
    if browser is None:
        # A program: its own first word.
        return (re.match(r"[\w.-]{1,40}", user_agent) or ["a browser"])[0]
    shown = _NAMES.get(browser, browser)
    return shown if system is None else f"{shown} on {_NAMES.get(system, system)}"


def _is_over(row: SignInSession, moment: datetime, settings: Settings) -> bool:
    idle = timedelta(days=settings.sign_in.idle_days)
    left_alone = row.method != "visit" and row.seen_at + idle <= moment
    return row.expires_at <= moment or left_alone


def _note(session: Session, row: SignInSession, moment: datetime) -> None:
    if moment - row.seen_at >= SEEN_EVERY:
        session.execute(
            update(SignInSession).where(col(SignInSession.id) == row.id).values(seen_at=moment)
        )
