"""Which waiting pairs the reward heads disagree on: asked of a training run, read at its end."""

from __future__ import annotations

from pathlib import Path

import structlog
from sqlmodel import Session, col, select

from rlhf_engine.errors import RunFolderError
from rlhf_engine.records import Prompt, from_json
from rlhf_engine.waiting import WaitingPair, read_spreads, write_waiting
from service import vote_pairs
from service.tables import Candidate, Turn

log = structlog.get_logger(__name__)


def leave_pairs(session: Session, run: Path, limit: int) -> None:
    """Leave the newest `limit` pairs that wait for a vote in a run's folder."""
    found = [_waiting_pair(session, turn_id) for turn_id in vote_pairs.waiting(session, limit)]
    write_waiting(run, [pair for pair in found if pair is not None])


def note_spreads(session: Session, run: Path) -> None:
    """Bring what a finished run made of them into the queue's order, which stays as it is where
    that cannot be read."""
    try:
        spreads = read_spreads(run)
    except RunFolderError as error:
        log.warning("waiting_pairs_not_read", run=run.name, error=str(error), next="the next run")
        return
    if spreads is not None:
        vote_pairs.note_spreads(session, spreads)
        log.info("waiting_pairs_read", run=run.name, pairs=len(spreads))


def _waiting_pair(session: Session, turn_id: str) -> WaitingPair | None:
    turn = session.get_one(Turn, turn_id)
    rows = session.exec(
        select(Candidate).where(Candidate.turn_id == turn_id).order_by(col(Candidate.side))
    ).all()
    if [row.side for row in rows] != ["A", "B"]:
        return None
    return WaitingPair(turn_id, from_json(Prompt, turn.prompt), rows[0].text, rows[1].text)
