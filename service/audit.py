"""The record of who did what to which: written with the deed, in its own transaction's end."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

import structlog
from sqlmodel import Session, col, select, tuple_

from service.account_tables import AuditEntry
from service.tables import Person

log = structlog.get_logger(__name__)

MOST_ENTRIES = 100


class Recorded(NamedTuple):
    """An entry with the name of who did it, as it is now."""

    entry: AuditEntry
    name: str


def record(
    session: Session,
    who: Person | str | None,
    action: str,
    target: str | None = None,
    **details: Any,
) -> None:
    """Put an entry into this session; it is kept if the session commits.

    `who` is a person, the command line's user by name, or None for somebody not signed in.
    `action` reads "kind.verb" ("policy.promoted", "export.made"), `target` "kind:id".
    Details are JSON values, and neither names nor texts nor secrets: the record outlives
    an erased person.
    """
    person_id = who.id if isinstance(who, Person) else None
    by = who if isinstance(who, str) else None
    session.add(
        AuditEntry(person_id=person_id, by=by, action=action, target=target, details=details)
    )
    log.info("audit", action=action, target=target, person=person_id)


def entries(
    session: Session, before: tuple[datetime, str] | None = None, action: str | None = None
) -> list[Recorded]:
    """The newest entries, at most MOST_ENTRIES; those older than `before`, the moment and id of
    the last one seen. `action` is the beginning of the actions to show."""
    query = select(AuditEntry, Person.name).join(Person, isouter=True)
    if before is not None:
        query = query.where(tuple_(col(AuditEntry.created_at), col(AuditEntry.id)) < before)
    if action:
        query = query.where(col(AuditEntry.action).startswith(action, autoescape=True))
    newest = query.order_by(col(AuditEntry.created_at).desc(), col(AuditEntry.id).desc())
    rows = session.exec(newest.limit(MOST_ENTRIES))
    return [Recorded(entry, name or entry.by or "somebody not signed in") for entry, name in rows]


def shown_details(details: Mapping[str, Any]) -> str:
    """The details in one line, for a list."""
    return ", ".join(f"{name} {value}" for name, value in details.items() if value is not None)
