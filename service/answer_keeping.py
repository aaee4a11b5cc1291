"""What the engine says of a turn, told to its readers and kept in the database.

Each answer is stored as it ends, so that what was generated is kept whether or not anybody
still reads.
"""

from __future__ import annotations

import asyncio

import structlog
from sqlalchemy import Engine

import rlhf_engine
from rlhf_engine.answer_events import Failed, Token
from rlhf_engine.records import to_json
from service.asked_turn import AnswerRow, AskedTurn, Ending
from service.database import session
from service.serving import Serving
from service.tables import Candidate
from service.turn_events import AnswerEnded, TokenPiece, TurnDone, TurnFailed

ENDED_EARLY: dict[Ending, str] = {
    "left": "The connection was lost for too long, so the answer was ended. Please ask again.",
    "restart": (
        "The server restarts, so the answer was ended; what was written of it is kept. "
        "Please ask again in a moment."
    ),
    "waited": (
        "Too many questions were ahead of this one, and it waited too long. "
        "Please ask again in a moment."
    ),
}

log = structlog.get_logger(__name__)


class AnswerKeeper:
    """Follows turns in the engine to their ends."""

    def __init__(self, database: Engine, serving: Serving) -> None:
        self._database, self._serving = database, serving

    async def follow(self, asked: AskedTurn) -> None:
        """Tell and keep everything of a turn; returns when it is over and its readers know."""
        last: TurnDone | TurnFailed = TurnFailed(asked.turn_id, "The answer could not be kept.")
        try:
            last = await self._last_event(asked)
        finally:
            asked.buffer.add(last, last=True)
            asked.over()

    async def _last_event(self, asked: AskedTurn) -> TurnDone | TurnFailed:
        try:
            # While one answer is stored, the others go on being told.
            async with asyncio.TaskGroup() as storing:
                error = await self._tell_all(asked, storing)
        except ExceptionGroup as group:
            # The edge of the turn: its readers must hear of it, whatever it is.
            asked.cancel()
            log.warning("turn_not_kept", turn=asked.turn_id, error=str(group.exceptions[0]))
            detail = "The answer could not be kept. Please ask again."
            return TurnFailed(asked.turn_id, detail)
        return TurnDone(asked.turn_id) if error is None else _ended_early(asked, error)

    async def _tell_all(
        self, asked: AskedTurn, storing: asyncio.TaskGroup
    ) -> rlhf_engine.EngineError | None:
        """Tell the engine's events to the last and begin to store each answer that ends; the
        error that ended the turn early, if one did."""
        while not all(row.ended for row in asked.rows):
            event = await asked.from_engine.get()
            if isinstance(event, Failed):
                for row in asked.rows:
                    text = "".join(row.pieces).strip()
                    if text and not row.ended:
                        storing.create_task(self._keep(asked, row, text, "cancelled"))
                return event.error
            row = asked.rows[event.row]
            if isinstance(event, Token):
                self._tell(asked, row, event)
                continue
            row.ended, row.token_ids = True, list(event.answer.token_ids)
            asked.prompt_tokens = event.prompt_tokens
            answer = event.answer
            storing.create_task(self._keep(asked, row, answer.text, answer.finish_reason))
        return None

    def _tell(self, asked: AskedTurn, row: AnswerRow, token: Token) -> None:
        if row.first_token_ms is None:
            row.first_token_ms = asked.elapsed_ms()
        row.pieces.append(token.text)
        row.token_ids.append(token.token_id)
        asked.buffer.add(TokenPiece(row.side, token.text, token.token_id, token.logprob, token.top))

    async def _keep(self, asked: AskedTurn, row: AnswerRow, text: str, reason: str) -> None:
        # A policy may draw the token of NUL, which PostgreSQL cannot keep.
        text = text.replace("\x00", "\ufffd")
        number = None if asked.turn.compared else self._serving.number(row.version_id)
        ended = AnswerEnded(row.side, row.candidate_id, text, reason, number)
        if asked.unstored is None:
            engine_s = asked.job.first_token_s
            candidate = self._candidate(asked, row, text, reason)
            await asyncio.to_thread(self._insert, candidate, engine_s)
        else:
            asked.unstored.answers.append(ended)
        asked.buffer.add(ended)

    def _candidate(self, asked: AskedTurn, row: AnswerRow, text: str, reason: str) -> Candidate:
        return Candidate(
            id=row.candidate_id,
            turn_id=asked.turn_id,
            side=row.side,
            version_id=row.version_id,
            text=text,
            token_ids=row.token_ids,
            finish_reason=reason,
            seed=row.seed,
            settings=to_json(asked.sampling),
            engine=self._serving.made_with(),
            canary=row.canary,
            first_token_ms=row.first_token_ms,
            total_ms=asked.elapsed_ms(),
            simulated=asked.turn.simulated,
        )

    def _insert(self, candidate: Candidate, engine_s: float | None) -> None:
        with session(self._database) as opened:
            opened.add(candidate)
        log.info(
            "answer_stored",
            candidate=candidate.id,
            turn=candidate.turn_id,
            version=candidate.version_id,
            finish_reason=candidate.finish_reason,
            first_token_ms=candidate.first_token_ms,
            engine_first_token_ms=None if engine_s is None else round(1000 * engine_s, 1),
            total_ms=candidate.total_ms,
        )


def _ended_early(asked: AskedTurn, error: rlhf_engine.EngineError) -> TurnDone | TurnFailed:
    """What the readers hear last of a turn that the engine did not answer to its end."""
    if asked.ending is None:
        log.warning("turn_failed", turn=asked.turn_id, error=str(error), next="ask again")
        detail = f"The answer could not be finished: {error}. Please ask again."
        return TurnFailed(asked.turn_id, detail)
    log.info("turn_ended_early", turn=asked.turn_id, why=asked.ending)
    if asked.ending == "stopped":
        return TurnDone(asked.turn_id)
    return TurnFailed(asked.turn_id, ENDED_EARLY[asked.ending])
