"""One's own feedback over HTTP: seen, changed, withdrawn, and what came of it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from litestar import delete, get, put
from litestar.params import FromPath, JSONBody, QueryParameter
from sqlmodel import Session

from service import corrections, feedback, vote_checks, voting
from service.database import session
from service.effects import effects_of
from service.errors import ConflictError
from service.my_feedback import KINDS, Kind, Page, given_feedback
from service.tables import Comparison, Person
from service.voting_tables import CheckVote
from service.web.parts import GivenParts
from service.web.rights import needs
from service.web.sessions import GivenPerson
from service.web.voting import BallotBody, Correction, Recorded, Voted

RIGHTS = needs("employee", "feedback")


class ThumbChange(msgspec.Struct, forbid_unknown_fields=True):
    """What a thumb shall be instead."""

    value: Literal[1, -1]
    reason: str | None = None
    comment: str | None = None


class Told(msgspec.Struct):
    """Who wrote the two answers of a vote, by policy version; a side on trial is a canary. Of a
    check, `passed` says whether the expected answer was chosen, and there are no versions. Until
    the vote is settled all of it is null, and a check is called a pair."""

    kind: Literal["pair", "gold", "repeat"]
    version_a: int | None = None
    version_b: int | None = None
    canary_a: bool = False
    canary_b: bool = False
    goes_on_with: str | None = None
    passed: bool | None = None


class ToldEffect(msgspec.Struct):
    """What came of one's votes in one training run."""

    run_id: str
    version: int | None
    sentence: str
    trained: int
    measured: int
    corrections: int
    state: str
    finished_at: datetime | None


@get("/api/my/feedback", tags=["Feedback"], security=RIGHTS, sync_to_thread=True)
def list_feedback(
    person: GivenPerson,
    parts: GivenParts,
    kind: Annotated[Kind | None, QueryParameter()] = None,
    after: Annotated[str | None, QueryParameter(max_length=100)] = None,
) -> Page:
    """What one said of answers, newest first, twenty at a time: all of it or one kind."""
    kinds = KINDS if kind is None else (kind,)
    undo_s = parts.settings.voting.undo_s
    with session(parts.database) as opened:
        return given_feedback(opened, person.id, kinds, after, undo_s=undo_s)


@get("/api/my/effects", tags=["Feedback"], security=RIGHTS, sync_to_thread=True)
def list_effects(person: GivenPerson, parts: GivenParts) -> list[ToldEffect]:
    """What came of one's votes, the newest run first."""
    with session(parts.database) as opened:
        return [
            ToldEffect(
                row.run_id,
                row.version,
                row.sentence,
                row.trained,
                row.measured,
                row.corrections,
                row.state,
                row.finished_at,
            )
            for row in effects_of(opened, person.id)
        ]


@get(
    "/api/my/feedback/comparisons/{vote_id:str}/reveal",
    tags=["Feedback"],
    security=RIGHTS,
    sync_to_thread=True,
)
def reveal(person: GivenPerson, parts: GivenParts, vote_id: FromPath[str]) -> Told:
    """Which versions wrote the two answers; nulls until the vote can no longer be undone."""
    undo_s = parts.settings.voting.undo_s
    with session(parts.database) as opened:
        row = _own_vote(opened, person, vote_id)
        if isinstance(row, CheckVote):
            return _told_check(row, undo_s)
        told = voting.reveal(opened, person, vote_id, undo_s)
    if told is None:
        return Told("pair")
    return Told(
        "pair", told.version_a, told.version_b, told.canary_a, told.canary_b, told.goes_on_with
    )


@put(
    "/api/my/feedback/comparisons/{vote_id:str}",
    tags=["Feedback"],
    security=RIGHTS,
    sync_to_thread=True,
)
def change_comparison(
    person: GivenPerson, parts: GivenParts, vote_id: FromPath[str], data: JSONBody[BallotBody]
) -> Voted:
    """Choose otherwise; the old vote is replaced, and the new one has an id of its own."""
    undo_s = parts.settings.voting.undo_s
    with session(parts.database) as opened:
        if isinstance(_own_vote(opened, person, vote_id), CheckVote):
            raise ConflictError("this vote can be withdrawn, not changed")
        row = voting.change_vote(opened, person, vote_id, data.ballot(), undo_s)
    return Voted(row.id, undo_s)


@delete(
    "/api/my/feedback/comparisons/{vote_id:str}",
    status_code=200,
    tags=["Feedback"],
    security=RIGHTS,
    sync_to_thread=True,
)
def withdraw_comparison(person: GivenPerson, parts: GivenParts, vote_id: FromPath[str]) -> Recorded:
    """Take a vote back; the id of the row that says so."""
    with session(parts.database) as opened:
        if isinstance(_own_vote(opened, person, vote_id), CheckVote):
            return Recorded(vote_checks.withdraw_check(opened, person, vote_id).id)
        return Recorded(voting.withdraw_vote(opened, person, vote_id).id)


@put(
    "/api/my/feedback/thumbs/{thumb_id:str}",
    tags=["Feedback"],
    security=RIGHTS,
    sync_to_thread=True,
)
def change_thumb(
    person: GivenPerson, parts: GivenParts, thumb_id: FromPath[str], data: JSONBody[ThumbChange]
) -> Recorded:
    """Say otherwise; the new thumb has an id of its own."""
    with session(parts.database) as opened:
        old = feedback.own_thumb(opened, person, thumb_id)
        said = (data.value, data.reason, data.comment, old.id)
        return Recorded(feedback.record_thumb(opened, person, old.candidate_id, *said).id)


@delete(
    "/api/my/feedback/thumbs/{thumb_id:str}",
    status_code=200,
    tags=["Feedback"],
    security=RIGHTS,
    sync_to_thread=True,
)
def withdraw_thumb(person: GivenPerson, parts: GivenParts, thumb_id: FromPath[str]) -> Recorded:
    """Take a thumb back; the id of the row that says so."""
    with session(parts.database) as opened:
        return Recorded(feedback.withdraw_thumb(opened, person, thumb_id).id)


@put(
    "/api/my/feedback/corrections/{correction_id:str}",
    tags=["Feedback"],
    security=RIGHTS,
    sync_to_thread=True,
)
def change_correction(
    person: GivenPerson,
    parts: GivenParts,
    correction_id: FromPath[str],
    data: JSONBody[Correction],
) -> Recorded:
    """Word a corrected answer otherwise, while no reviewer has decided on it."""
    with session(parts.database) as opened:
        row = feedback.change_correction(opened, person, correction_id, data.answer)
        return Recorded(row.id)


@delete(
    "/api/my/feedback/corrections/{correction_id:str}",
    status_code=200,
    tags=["Feedback"],
    security=RIGHTS,
    sync_to_thread=True,
)
def withdraw_correction(
    person: GivenPerson, parts: GivenParts, correction_id: FromPath[str]
) -> Recorded:
    """Take a corrected answer back; one that was accepted is shown as verified no longer."""
    with session(parts.database) as opened:
        return Recorded(corrections.withdraw_correction(opened, person, correction_id).id)


def _own_vote(opened: Session, person: Person, vote_id: str) -> Comparison | CheckVote:
    """A vote of one's own, on a pair or in a check: nobody is to tell them apart by their ids."""
    if opened.get(CheckVote, vote_id) is not None:
        return vote_checks.own_check(opened, person, vote_id)
    return voting.own_vote(opened, person, vote_id)


def _told_check(row: CheckVote, undo_s: float) -> Told:
    if not voting.is_past(row.created_at, undo_s):
        return Told("pair")
    return Told("gold" if row.kind == "gold" else "repeat", passed=row.passed)
