"""People who come from the company's OpenID provider: who they are here, and their role.

They are known by issuer and subject alone. A local account with the same e-mail address is
somebody else's until an admin says otherwise: addresses can be taken over.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NamedTuple

import structlog
from sqlalchemy import delete
from sqlmodel import Session, col, select

from service import audit
from service.account_tables import Account, ProviderVisit
from service.database import insert_unless_there
from service.errors import InvalidInputError, NotSignedInError
from service.people import clean_name
from service.roles import ROLES, Role
from service.secret_tokens import is_token, token_hash
from service.settings import Settings
from service.sign_in_settings import OidcSettings
from service.tables import Person, now

VISIT = timedelta(minutes=10)
LONGEST_PATH = 500

log = structlog.get_logger(__name__)


Claims = Mapping[str, Any]


class Departure(NamedTuple):
    """Where to send the browser, and what to know when it comes back."""

    url: str
    state: str
    nonce: str
    verifier: str


class IdentityProvider(ABC):
    """Whoever vouches for people; sign_in_provider.py's, whose libraries load slowly."""

    @abstractmethod
    def depart(self, redirect_uri: str) -> Departure:
        """Begin; ProviderError where the provider cannot be reached."""

    @abstractmethod
    def arrive(self, code: str, redirect_uri: str, nonce: str, verifier: str) -> Claims:
        """What the provider says of the person who came back with this code.

        ProviderError where it cannot be reached, refuses, or says what does not hold.
        """


class Return(NamedTuple):
    """What was kept of a departure."""

    nonce: str
    verifier: str
    next_path: str


def keep_departure(
    session: Session, departure: Departure, browser_token: str, next_path: str
) -> None:
    """Remember who left for the provider; those who never came back are forgotten."""
    session.execute(delete(ProviderVisit).where(col(ProviderVisit.expires_at) <= now()))
    session.add(
        ProviderVisit(
            state_hash=token_hash(departure.state),
            browser_hash=token_hash(browser_token),
            nonce=departure.nonce,
            verifier=departure.verifier,
            next_path=next_path if is_own_path(next_path) else "/",
            expires_at=now() + VISIT,
        )
    )


def take_departure(session: Session, state: str, browser_token: str | None) -> Return:
    """What was kept for this state, once; NotSignedInError where it is not known, has run out,
    or was another browser's."""
    kept = session.exec(
        select(ProviderVisit).where(
            ProviderVisit.state_hash == token_hash(state),
            ProviderVisit.browser_hash == token_hash(browser_token or ""),
            ProviderVisit.expires_at > now(),
        )
    ).first()
    if kept is None or not is_token(state) or not browser_token:
        raise NotSignedInError("this sign-in has run out; begin again")
    found = Return(kept.nonce, kept.verifier, kept.next_path)
    session.delete(kept)
    session.flush()
    return found


def is_own_path(path: str) -> bool:
    """Whether a browser that goes there stays on this page."""
    plain = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return plain and "\\" not in path and len(path) <= LONGEST_PATH


def person_of(session: Session, settings: Settings, claims: Claims) -> Person:
    """The person of these claims, made at the first time; NotSignedInError for those who are
    kept out."""
    oidc, subject = settings.oidc, str(claims.get("sub") or "")
    role = role_of(oidc, claims)
    if not subject or role is None or not _has_allowed_email(oidc, claims):
        audit.record(session, None, "sign_in.refused", method="provider")
        session.commit()
        raise NotSignedInError("your company account may not use Heed; ask an admin")
    person, account = _find(session, str(oidc.issuer), subject) or _make(
        session, oidc, claims, subject, role
    )
    if account.disabled_at is not None:
        raise NotSignedInError("your account is disabled; ask an admin")
    if oidc.role_claim is not None and person.role != role:
        number, before = f"person:{person.id}", person.role
        person.role = role
        audit.record(session, None, "person.role_changed", number, before=before, now=role)
    account.email = _email(claims) or account.email
    session.add_all([person, account])
    return person


def role_of(oidc: OidcSettings, claims: Claims) -> Role | None:
    """The highest role of the person's groups; the default where none of them has one."""
    listed: Any = claims
    for part in (oidc.role_claim or "").split("."):
        listed = listed.get(part) if isinstance(listed, Mapping) else None
    groups = [listed] if isinstance(listed, str) else listed if isinstance(listed, list) else []
    given = [
        oidc.roles[group] for group in groups if isinstance(group, str) and group in oidc.roles
    ]
    return max(given, key=ROLES.index) if given else oidc.default_role


def _has_allowed_email(oidc: OidcSettings, claims: Claims) -> bool:
    if not oidc.email_domains:
        return True
    domain = (_email(claims) or "").rpartition("@")[2].lower()
    return claims.get("email_verified") is True and domain in oidc.email_domains


def _email(claims: Claims) -> str | None:
    """The e-mail address, unless the provider says that it may be another person's: documents
    can be for the holder of one."""
    email = claims.get("email")
    usable = isinstance(email, str) and len(email) <= 254
    return email if usable and claims.get("email_verified") is not False else None


def _find(session: Session, issuer: str, subject: str) -> tuple[Person, Account] | None:
    return session.exec(
        select(Person, Account)
        .join(Account)
        .where(Account.issuer == issuer, Account.subject == subject)
    ).first()


def _make(
    session: Session, oidc: OidcSettings, claims: Claims, subject: str, role: Role
) -> tuple[Person, Account]:
    person = Person(name=_name(claims), role=role)
    session.add(person)
    session.flush()
    account = Account(
        person_id=person.id, issuer=oidc.issuer, subject=subject, email=_email(claims)
    )
    if not insert_unless_there(session, account):
        raise NotSignedInError("you are being signed in already; try again")
    audit.record(session, person, "person.created", f"person:{person.id}", role=role)
    return person, session.get_one(Account, person.id)


def _name(claims: Claims) -> str:
    for claim in ("name", "preferred_username", "email"):
        try:
            return clean_name(str(claims.get(claim) or "")[:80])
        except InvalidInputError:
            continue
    return "Colleague"
