"""Journey 1 over HTTP: a question in, server-sent events out, also after a lost connection."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get, post
from litestar.params import FromPath, JSONBody, QueryParameter
from litestar.response import Stream

from service import vote_pairs
from service.answering import AskOptions
from service.errors import InvalidInputError
from service.web.admission import require_room, token_of
from service.web.event_stream import streamed
from service.web.parts import GivenParts
from service.web.rights import needs
from service.web.sessions import GivenPerson


class Question(msgspec.Struct, forbid_unknown_fields=True):
    """A question. Without a conversation it begins one; in one, it goes on from the branch shown,
    or follows the turn `after_turn_id`, or begins a branch beside `instead_of_turn_id`.
    `compare` asks for two answers or for one; left out, the service decides. Nothing of a
    `temporary` conversation is stored."""

    question: str
    conversation_id: str | None = None
    compare: bool | None = None
    after_turn_id: str | None = None
    instead_of_turn_id: str | None = None
    temporary: bool = False


class Stopped(msgspec.Struct):
    """Whether the turn was still being answered."""

    stopped: bool


@post(
    "/api/ask",
    status_code=200,
    guards=[require_room],
    security=needs("employee", "chat"),
    tags=["Chat"],
    summary="Ask a question",
    description=(
        "Answers with numbered server-sent events: `turn` (ids, sides, version, passages), "
        "`token` (side, text), `end` (side, candidate_id, text), then `done`, or `error`."
    ),
)
async def ask(
    request: Request[Any, Any, Any],
    visitor: GivenPerson,
    parts: GivenParts,
    data: JSONBody[Question],
) -> Stream:
    """Begin a turn and stream its events."""
    chats, chat_id, wanted = parts.answering.temporary, data.conversation_id, data.compare
    if wanted is None and (data.temporary or (chat_id and chats.find(visitor.id, chat_id))):
        # Votes are kept, so in a temporary chat no two answers come by chance.
        wanted = False
    pairing = await asyncio.to_thread(
        vote_pairs.draw, parts.database, parts.settings, visitor.id, wanted
    )
    parts.askers.remember(token_of(request), visitor.id)
    asked = await parts.answering.ask(
        visitor,
        data.question,
        data.conversation_id,
        compare=pairing.compared,
        options=AskOptions(
            detached=True,
            after=data.after_turn_id,
            instead_of=data.instead_of_turn_id,
            temporary=data.temporary,
            pairing=pairing,
        ),
    )
    return streamed(asked.events)


@get(
    "/api/turns/{turn_id:str}/stream",
    security=needs("employee", "chat"),
    tags=["Chat"],
    summary="Follow a turn",
    description=(
        "The events of one's own turn that come after the number in the header Last-Event-ID, or "
        "in `after`; all of them without either. 204 where there will be none. Of a turn that has "
        "been over for a while each answer comes in one piece."
    ),
)
async def follow(
    request: Request[Any, Any, Any],
    person: GivenPerson,
    parts: GivenParts,
    turn_id: FromPath[str],
    after: Annotated[int, QueryParameter(ge=0, le=2**31)] = 0,
) -> Response[Any]:
    """Go on with a turn's events after a lost connection or a refreshed page."""
    seen = _last_seen(request, after)
    told = await parts.answering.told(person, turn_id, seen)
    if told.exhausted(seen):
        return Response(None, status_code=204)
    return streamed(lambda: told.reader(seen))


@post(
    "/api/turns/{turn_id:str}/stop",
    status_code=200,
    security=needs("employee", "chat"),
    tags=["Chat"],
    summary="Stop a turn",
)
async def stop(person: GivenPerson, parts: GivenParts, turn_id: FromPath[str]) -> Stopped:
    """End one's own turn and keep what there is of its answers."""
    return Stopped(await parts.answering.stop(person, turn_id))


def _last_seen(request: Request[Any, Any, Any], after: int) -> int:
    given = request.headers.get("last-event-id")
    if given is None:
        return after
    if not given.isascii() or not given.isdigit() or len(given) > len(str(2**31)):
        raise InvalidInputError(f"Last-Event-ID is {given!r}; it must be the id of an event")
    return int(given)
