"""The review queue over HTTP, for reviewers: what waits, and deciding on it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import get, post
from litestar.params import FromPath, JSONBody, QueryParameter

from service import corrections, review, verified
from service.database import session
from service.errors import InvalidInputError, NotFoundError
from service.keyset import place
from service.web.parts import GivenParts
from service.web.rights import needs
from service.web.sessions import GivenPerson

KINDS = {"answers": "answer", "questions": "question"}
ADVICE: Any = {"tags": ["Review"], "sync_to_thread": True}
RIGHTS: Any = {"security": needs("reviewer", None)}


class ShownPassage(msgspec.Struct):
    """A passage that the answer rested on."""

    title: str
    text: str


class Waiting(msgspec.Struct):
    """How many of each kind wait, counted up to `most`."""

    corrections: int
    answers: int
    questions: int
    most: int = review.MOST_COUNTED


class Item(msgspec.Struct):
    """One thing that waits, or a verified answer. `answer` is what was shown, `proposed` what
    somebody says would be right; `stale` says that a verified answer is not shown because a
    passage it rests on has changed, `shown` how often it was shown."""

    id: str
    question: str
    created_at: datetime
    answer: str | None
    version: int | None
    passages: list[ShownPassage]
    proposed: str | None
    by: str | None
    reason: str | None
    comment: str | None
    stale: bool
    shown: int


class Items(msgspec.Struct):
    """A page of the queue; give `next` as `after` for the page behind it."""

    items: list[Item]
    next: str | None


class RightAnswer(msgspec.Struct, forbid_unknown_fields=True):
    """A question in full, and the answer to show to whoever asks it."""

    question: str
    answer: str


class Reason(msgspec.Struct, forbid_unknown_fields=True):
    """Why it was decided so."""

    reason: str | None = None


class Verified(msgspec.Struct):
    """The verified answer that is in force now."""

    id: str
    question: str
    answer: str
    by: str


class Decided(msgspec.Struct):
    """What a decision left of the queue."""

    waiting: Waiting


@get("/api/review", **ADVICE, **RIGHTS)
def show_waiting(reviewer: GivenPerson, parts: GivenParts) -> Waiting:  # noqa: ARG001 - the role is asked for
    """How many things wait for a reviewer."""
    with session(parts.database) as opened:
        return Waiting(**review.count_waiting(opened))


@get("/api/review/{queue:str}", **ADVICE, **RIGHTS)
def list_queue(
    reviewer: GivenPerson,  # noqa: ARG001 - as above
    parts: GivenParts,
    queue: FromPath[str],
    after: Annotated[str | None, QueryParameter(description="The `next` of a page.")] = None,
    words: Annotated[str, QueryParameter(description="Of verified answers: a part.")] = "",
) -> Items:
    """A page of the corrections, the reported answers, the questions without a source, or the
    verified answers in force."""
    beginning = place(after)
    with session(parts.database) as opened:
        match queue:
            case "corrections":
                listed = review.corrections(opened, beginning)
            case "answers":
                listed = review.reported_answers(opened, beginning)
            case "questions":
                listed = review.questions_without_source(opened, beginning)
            case "verified":
                listed = review.verified_answers(opened, beginning, words)
            case _:
                raise NotFoundError(f"there is no queue {queue!r}")
    return Items([_shown(item) for item in listed.items], str(listed.next) if listed.next else None)


@post("/api/review/{queue:str}/{item_id:str}/accept", **ADVICE, **RIGHTS)
def accept_correction(
    reviewer: GivenPerson,
    parts: GivenParts,
    queue: FromPath[str],
    item_id: FromPath[str],
    data: JSONBody[RightAnswer],
) -> Verified:
    """Accept a correction as it stands here: it is shown at once, and trained on later."""
    _only("corrections", queue)
    with session(parts.database) as opened:
        row = corrections.accept(
            opened,
            item_id,
            reviewer.name,
            reviewer,
            question=data.question,
            answer=data.answer,
        )
        return Verified(row.id, row.question, row.answer, row.by)


@post("/api/review/{queue:str}/{item_id:str}/reject", **ADVICE, **RIGHTS)
def reject_correction(
    reviewer: GivenPerson,
    parts: GivenParts,
    queue: FromPath[str],
    item_id: FromPath[str],
    data: JSONBody[Reason],
) -> Decided:
    """Leave a correction out for good; whoever proposed it is told the reason."""
    _only("corrections", queue)
    reason = _needed(data.reason)
    with session(parts.database) as opened:
        corrections.reject(opened, item_id, reviewer.name, reason, reviewer)
        return Decided(Waiting(**review.count_waiting(opened)))


@post("/api/review/{queue:str}/{item_id:str}/answer", **ADVICE, **RIGHTS)
def write_answer(
    reviewer: GivenPerson,
    parts: GivenParts,
    queue: FromPath[str],
    item_id: FromPath[str],
    data: JSONBody[RightAnswer],
) -> Verified:
    """Write the right answer to a reported answer or a question without a source."""
    kind = _kind(queue)
    with session(parts.database) as opened:
        row = review.write_answer(opened, kind, item_id, reviewer, data.question, data.answer)
        return Verified(row.id, row.question, row.answer, row.by)


@post("/api/review/{queue:str}/{item_id:str}/settle", **ADVICE, **RIGHTS)
def settle(
    reviewer: GivenPerson,
    parts: GivenParts,
    queue: FromPath[str],
    item_id: FromPath[str],
    data: JSONBody[Reason],
) -> Decided:
    """Take a reported answer or a question off the queue, with nothing else done."""
    kind = _kind(queue)
    with session(parts.database) as opened:
        review.settle(opened, kind, item_id, reviewer, data.reason)
        return Decided(Waiting(**review.count_waiting(opened)))


@post("/api/review/{queue:str}/{item_id:str}/withdraw", **ADVICE, **RIGHTS)
def withdraw_verified(
    reviewer: GivenPerson,
    parts: GivenParts,
    queue: FromPath[str],
    item_id: FromPath[str],
    data: JSONBody[Reason],
) -> Decided:
    """Show a verified answer no longer, and train on it no longer."""
    _only("verified", queue)
    reason = _needed(data.reason)
    with session(parts.database) as opened:
        verified.withdraw(opened, item_id, reviewer.name, reason, reviewer)
        return Decided(Waiting(**review.count_waiting(opened)))


@post("/api/review/{queue:str}/{item_id:str}/confirm", **ADVICE, **RIGHTS)
def confirm_verified(
    reviewer: GivenPerson, parts: GivenParts, queue: FromPath[str], item_id: FromPath[str]
) -> Decided:
    """Show a verified answer again although a passage it rests on has changed."""
    _only("verified", queue)
    with session(parts.database) as opened:
        verified.confirm(opened, item_id, reviewer.name, reviewer)
        return Decided(Waiting(**review.count_waiting(opened)))


def _only(known: str, queue: str) -> None:
    # The router would not find a queue's own page beside a path that begins with its name.
    if queue != known:
        raise NotFoundError(f"this is done to {known} only, not to {queue!r}")


def _kind(queue: str) -> str:
    if queue not in KINDS:
        raise NotFoundError(f"there is no queue {queue!r} to decide on here")
    return KINDS[queue]


def _needed(reason: str | None) -> str:
    if reason is None or not reason.strip():
        raise InvalidInputError("reason is empty; say why, so that others understand it")
    return reason


def _shown(item: review.Item) -> Item:
    passages = [ShownPassage(p.get("title", ""), p.get("text", "")) for p in item.passages]
    values = {name: getattr(item, name) for name in Item.__struct_fields__ if name != "passages"}
    return Item(**values, passages=passages)
