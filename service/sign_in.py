"""Signing in by name and password. What is wrong, the name or the password, is never told."""

from __future__ import annotations

from sqlalchemy import Engine
from sqlmodel import Session, select

from service import audit, sign_in_sessions
from service.account_tables import Account
from service.accounts import account_of, sign_in_key
from service.database import session
from service.errors import InvalidInputError, NotSignedInError
from service.passwords import Verdict, verify
from service.settings import Settings
from service.sign_in_limits import SignInLimits
from service.tables import Person

WRONG = "the name or the password is wrong"


def sign_in(
    database: Engine,
    settings: Settings,
    limits: SignInLimits,
    given: tuple[str, str],
    browser: tuple[str, str],
) -> tuple[Person, str]:
    """Whose name and password these are, with the token of a new session.

    `given` is the name and the password, `browser` its address and what it says it is.
    NotSignedInError where they are wrong, TooManyAttemptsError after too many tries.
    """
    (name, password), (address, user_agent) = given, browser
    key = sign_in_key(name)
    limits.count(key, address)
    with session(database) as opened:
        account = opened.exec(select(Account).where(Account.sign_in_name == key)).first()
    # Slow: no connection is held meanwhile.
    verdict = verify(account.password_hash if account else None, password)
    with session(database) as opened:
        # Read anew: meanwhile it may have been disabled, or its password changed.
        now_kept = opened.get(Account, account.person_id) if account is not None else None
        if verdict.right and now_kept is not None and _is_same(account, now_kept):
            signed_in = _begin(opened, settings, now_kept, verdict, user_agent)
        else:
            target = None if account is None else f"person:{account.person_id}"
            audit.record(opened, None, "sign_in.failed", target, address=address)
            signed_in = None
    if signed_in is None:
        raise NotSignedInError(WRONG)
    limits.forget(key, address)
    return signed_in


def check_password(
    opened: Session, limits: SignInLimits, person: Person, password: str, address: str
) -> None:
    """InvalidInputError unless this is the person's password; tries are counted as for signing
    in. People without a password pass."""
    account = account_of(opened, person)
    if account.password_hash is None:
        return
    limits.count(account.sign_in_name or person.id, address)
    if not verify(account.password_hash, password).right:
        raise InvalidInputError("this is not your password")
    limits.forget(account.sign_in_name or person.id, address)


def _is_same(before: Account | None, kept: Account) -> bool:
    same = before is not None and before.password_hash == kept.password_hash
    return same and kept.disabled_at is None


def _begin(
    opened: Session, settings: Settings, account: Account, verdict: Verdict, user_agent: str
) -> tuple[Person, str]:
    if verdict.new_hash is not None:
        account.password_hash = verdict.new_hash
        opened.add(account)
    person = opened.get_one(Person, account.person_id)
    _row, token = sign_in_sessions.begin(opened, person, "password", user_agent, settings)
    audit.record(opened, person, "sign_in.done", method="password")
    return person, token
