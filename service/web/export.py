"""The feedback as training data, as a file for reviewers to keep."""

from __future__ import annotations

from typing import Annotated, Literal

from litestar import get
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream

from service import audit
from service.database import session
from service.export import exported_bytes, known_kind
from service.redaction import open_redaction
from service.web.parts import GivenParts
from service.web.rights import needs
from service.web.sessions import GivenPerson

MEDIA = {"jsonl": "application/x-ndjson", "parquet": "application/vnd.apache.parquet"}


@get(
    "/api/export/{kind:str}",
    tags=["Review"],
    sync_to_thread=True,
    security=needs("reviewer", "read"),
)
def export(
    reviewer: GivenPerson,
    parts: GivenParts,
    kind: FromPath[str],
    form: Annotated[
        Literal["jsonl", "parquet"], QueryParameter(description="JSON lines, or Parquet.")
    ] = "jsonl",
    simulated: Annotated[
        bool, QueryParameter(description="Whether simulated people's rows are there, marked.")
    ] = False,
) -> Stream:
    """The feedback in one of TRL's forms: `preference`, `unpaired` or `prompt-completion`."""
    name = f"heed-{known_kind(kind)}.{form}"
    pieces = exported_bytes(
        parts.database,
        kind,
        form,
        simulated=simulated,
        undo_s=parts.settings.voting.undo_s,
        answers=parts.settings.answers,
        redact=open_redaction(parts.settings, parts.database),
        finder=parts.answering.finder,
    )
    with session(parts.database) as opened:
        audit.record(opened, reviewer, "export.made", f"export:{kind}", simulated=simulated)
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return Stream(pieces, media_type=MEDIA[form], headers=headers)
