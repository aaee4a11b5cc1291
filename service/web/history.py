"""One's own conversations: listed, searched, shown as trees with the feedback given, changed."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated

import msgspec
from litestar import delete, get, patch
from litestar.params import FromPath, JSONBody, QueryParameter
from sqlmodel import Session

from service import conversation_search, conversations
from service.database import session
from service.errors import InvalidInputError
from service.tables import Conversation, Person
from service.web.conversation_view import (
    TurnEntry,
    remembered_turns,
    stored_turn,
    stored_turns,
)
from service.web.parts import GivenParts, Parts
from service.web.rights import needs
from service.web.sessions import GivenPerson

A_PAGE = 30
MOST_A_PAGE = 100
LONGEST_SEARCH = 200


class ConversationEntry(msgspec.Struct):
    """A conversation in the list. In a search, `found` is what stands around the words, and
    `found_turn_id` the turn where they do."""

    id: str
    title: str
    pinned: bool
    simulated: bool
    created_at: datetime
    updated_at: datetime
    found: str | None = None
    found_turn_id: str | None = None


class ConversationList(msgspec.Struct):
    """Some conversations; `next` is the `after` of those that follow, null after the last."""

    conversations: list[ConversationEntry]
    next: str | None


class ConversationDetail(msgspec.Struct):
    """A conversation with all its turns, oldest first; `parent_id` makes them a tree. Shown is the
    branch of `shown_turn_id`, and on to the newest of what follows it."""

    id: str
    title: str
    pinned: bool
    simulated: bool
    temporary: bool
    created_at: datetime
    updated_at: datetime
    shown_turn_id: str | None
    turns: list[TurnEntry]


class ConversationChange(msgspec.Struct, forbid_unknown_fields=True):
    """A new title, whether it is pinned, the turn whose branch is shown; null leaves it."""

    title: str | None = None
    pinned: bool | None = None
    shown_turn_id: str | None = None


@get(
    "/api/conversations",
    security=needs("employee", "read"),
    tags=["Chat"],
    summary="List or search conversations",
    description=(
        "One's own, pinned ones first, then those with the newest questions. With `search`, those "
        "whose title, questions or answers hold all its words, the newest first."
    ),
    sync_to_thread=True,
)
def list_conversations(
    person: GivenPerson,
    parts: GivenParts,
    search: Annotated[str | None, QueryParameter(max_length=LONGEST_SEARCH)] = None,
    after: Annotated[str | None, QueryParameter(max_length=LONGEST_SEARCH)] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=MOST_A_PAGE)] = A_PAGE,
) -> ConversationList:
    """One's own conversations, a page at a time."""
    with session(parts.database) as opened:
        if search is not None and search.strip():
            return _searched(opened, person, search, after, limit)
        page = conversations.list_own(opened, person, after, limit)
        return ConversationList([_entry(row) for row in page.rows], page.next)


@get(
    "/api/conversations/{conversation_id:str}",
    security=needs("employee", "read"),
    tags=["Chat"],
)
async def show_conversation(
    person: GivenPerson, parts: GivenParts, conversation_id: FromPath[str]
) -> ConversationDetail:
    """One of one's own conversations, also a temporary one while it is remembered."""
    remembered = _remembered(person, parts, conversation_id)
    # Not sync_to_thread: Litestar sends the first of three handlers of a path there twice.
    if remembered is not None:
        return remembered
    return await asyncio.to_thread(_stored, person, parts, conversation_id)


@patch(
    "/api/conversations/{conversation_id:str}",
    security=needs("employee", "chat"),
    tags=["Chat"],
    sync_to_thread=True,
)
def change_conversation(
    person: GivenPerson,
    parts: GivenParts,
    conversation_id: FromPath[str],
    data: JSONBody[ConversationChange],
) -> ConversationEntry:
    """Rename or pin one of one's own conversations, or show another of its branches."""
    with session(parts.database) as opened:
        conversation = conversations.own_conversation(opened, person, conversation_id)
        conversations.change(
            opened,
            conversation,
            title=data.title,
            pinned=data.pinned,
            shown_turn_id=data.shown_turn_id,
        )
        return _entry(conversation)


@delete(
    "/api/conversations/{conversation_id:str}",
    security=needs("employee", "chat"),
    tags=["Chat"],
    status_code=204,
)
async def delete_conversation(
    person: GivenPerson, parts: GivenParts, conversation_id: FromPath[str]
) -> None:
    """Delete one of one's own conversations: it is gone at once and is not trained on."""
    if not parts.answering.temporary.find(person.id, conversation_id):
        await _deleted(person, parts, conversation_id)
    parts.answering.leave_conversation(person.id, conversation_id)


@get(
    "/api/turns/{turn_id:str}",
    security=needs("employee", "read"),
    tags=["Chat"],
    summary="Show a turn",
    sync_to_thread=True,
)
def show_turn(person: GivenPerson, parts: GivenParts, turn_id: FromPath[str]) -> TurnEntry:
    """One of one's own turns, with the feedback given on it."""
    with session(parts.database) as opened:
        turn = conversations.own_turn(opened, person.id, turn_id)
        undo_s = parts.settings.voting.undo_s
        return stored_turn(opened, person, turn, parts.answering.is_running, undo_s)


async def _deleted(person: Person, parts: Parts, conversation_id: str) -> None:
    def write() -> None:
        with session(parts.database) as opened:
            row = conversations.own_conversation(opened, person, conversation_id)
            conversations.delete(opened, row)

    await asyncio.to_thread(write)


def _searched(
    opened: Session, person: Person, words: str, after: str | None, limit: int
) -> ConversationList:
    if after is not None and not (after.isascii() and after.isdigit() and len(after) < 19):
        raise InvalidInputError(
            f"after is {after[:80]!r}; it must be the `next` of an earlier page"
        )
    hits = conversation_search.search(
        opened, person.id, words, int(after) if after else None, limit
    )
    entries = [_entry(hit.conversation, hit.excerpt, hit.turn_id) for hit in hits.rows]
    return ConversationList(entries, None if hits.next is None else str(hits.next))


def _remembered(person: Person, parts: Parts, conversation_id: str) -> ConversationDetail | None:
    chat = parts.answering.temporary.find(person.id, conversation_id)
    if chat is None:
        return None
    turns = remembered_turns(chat, parts.answering.is_running)
    return ConversationDetail(
        id=chat.id,
        title="Temporary chat",
        pinned=False,
        simulated=False,
        temporary=True,
        created_at=chat.created_at,
        updated_at=turns[-1].created_at if turns else chat.created_at,
        shown_turn_id=chat.shown_turn_id,
        turns=turns,
    )


def _stored(person: Person, parts: Parts, conversation_id: str) -> ConversationDetail:
    with session(parts.database) as opened:
        row = conversations.own_conversation(opened, person, conversation_id)
        undo_s = parts.settings.voting.undo_s
        turns = stored_turns(opened, person, row.id, parts.answering.is_running, undo_s)
    return ConversationDetail(
        id=row.id,
        title=row.title,
        pinned=row.pinned,
        simulated=row.simulated,
        temporary=False,
        created_at=row.created_at,
        updated_at=row.updated_at,
        shown_turn_id=row.shown_turn_id,
        turns=turns,
    )


def _entry(
    row: Conversation, found: str | None = None, found_turn_id: str | None = None
) -> ConversationEntry:
    return ConversationEntry(
        row.id,
        row.title,
        row.pinned,
        row.simulated,
        row.created_at,
        row.updated_at,
        found,
        found_turn_id,
    )
