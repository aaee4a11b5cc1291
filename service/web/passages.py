"""A passage at its place in its document, for whoever may read that."""

from __future__ import annotations

from litestar import get
from litestar.params import FromPath

from service.citations import PassagePlace, place_of
from service.database import session
from service.groups import readers_of
from service.web.parts import GivenParts
from service.web.rights import needs
from service.web.sessions import GivenPerson


@get(
    "/api/passages/{passage_id:str}",
    security=needs("employee", "read"),
    tags=["Chat"],
    summary="Open a passage",
    description=(
        "A passage that an answer rests on, with the text around it in its document; `asked_for` "
        "marks it. 404 where the document has changed since, or is not for you."
    ),
    sync_to_thread=True,
)
def show_passage(
    person: GivenPerson,
    parts: GivenParts,
    passage_id: FromPath[str],
) -> PassagePlace:
    """Show a passage in its document."""
    with session(parts.database) as opened:
        return place_of(opened, passage_id, readers_of(opened, person))
