"""A person's notices over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec
from litestar import get, post
from litestar.params import FromPath

from service import notices
from service.database import session
from service.tables import now
from service.web.parts import GivenParts
from service.web.rights import needs
from service.web.sessions import GivenPerson

MOST_SHOWN = 50
ADVICE: Any = {"tags": ["Notices"], "sync_to_thread": True, "security": needs("employee", None)}


class Notice(msgspec.Struct):
    """Something a person is told about what they gave; `link` is a path of the pages."""

    id: str
    text: str
    link: str | None
    created_at: datetime
    read_at: datetime | None


class Notices(msgspec.Struct):
    """The newest notices of a person, and how many of all they have not read."""

    unread: int
    notices: list[Notice]


@get("/api/notices", **ADVICE)
def list_notices(person: GivenPerson, parts: GivenParts) -> Notices:
    """One's own notices, the newest first."""
    with session(parts.database) as opened:
        return _shown(opened, person.id)


@post("/api/notices/{notice_id:str}/read", status_code=200, **ADVICE)
def read_notice(person: GivenPerson, parts: GivenParts, notice_id: FromPath[str]) -> Notices:
    """Mark one of one's own notices as read."""
    with session(parts.database) as opened:
        notices.mark_read(opened, person.id, notice_id)
        return _shown(opened, person.id)


@post("/api/notices/read", status_code=200, **ADVICE)
def read_all_notices(person: GivenPerson, parts: GivenParts) -> Notices:
    """Mark all of one's own notices as read."""
    with session(parts.database) as opened:
        notices.mark_all_read(opened, person.id, now())
        return _shown(opened, person.id)


def _shown(opened: Any, person_id: str) -> Notices:
    rows = notices.newest(opened, person_id, MOST_SHOWN)
    listed = [Notice(r.id, r.text, r.link, r.created_at, r.read_at) for r in rows]
    return Notices(notices.unread(opened, person_id), listed)
