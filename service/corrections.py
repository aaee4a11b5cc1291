"""Corrected answers waiting for somebody's word: accepted ones are trained on, others are not."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from sqlalchemy import update
from sqlmodel import Session, col, select

from service.database import changed_rows
from service.errors import ConflictError, NotFoundError
from service.tables import GoldAnswer, now

log = structlog.get_logger(__name__)


def proposed(session: Session) -> Sequence[GoldAnswer]:
    """The corrections nobody has decided on, oldest first."""
    waiting = select(GoldAnswer).where(
        GoldAnswer.state == "proposed", GoldAnswer.origin == "correction"
    )
    return session.exec(waiting.order_by(col(GoldAnswer.created_at), col(GoldAnswer.id))).all()


def find_proposed(session: Session, beginning: str) -> GoldAnswer:
    """The waiting correction whose id begins so; NotFoundError where it is none or several."""
    found = [row for row in proposed(session) if row.id.startswith(beginning)]
    if len(found) != 1 or not beginning:
        raise NotFoundError(
            f"{len(found)} waiting corrections have an id that begins with {beginning!r}; "
            "`heed corrections list` shows them"
        )
    return found[0]


def decide(session: Session, gold_answer_id: str, by: str, *, accept: bool) -> None:
    """Accept a correction (it becomes the newest gold answer to its question), or reject it.

    Raises ConflictError where somebody has decided already.
    """
    values = (
        {"state": "accepted", "author": by, "updated": now()} if accept else {"state": "removed"}
    )
    undecided = (
        col(GoldAnswer.id) == gold_answer_id,
        col(GoldAnswer.state) == "proposed",
    )
    if not changed_rows(session.execute(update(GoldAnswer).where(*undecided).values(**values))):
        raise ConflictError(f"correction {gold_answer_id} was decided already")
    log.info("correction_decided", gold_answer=gold_answer_id, accepted=accept)
