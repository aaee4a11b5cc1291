"""A question, answered: retrieve, render, lease a policy version, stream, keep.

The engine's thread hands its events to the asking coroutine's loop. A recorder task
stores each answer as it ends, so that what was generated is kept whether or not the
asker stays; an asker who leaves only ends the generating.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from time import monotonic

import structlog
from sqlalchemy import Engine
from sqlmodel import func, select

import rlhf_engine
from rlhf_engine.answer_events import Event as EngineEvent
from rlhf_engine.answer_events import Failed, Token
from rlhf_engine.records import from_json, to_json
from service.asked_turn import SIDES, AnswerRow, AskedTurn, AskOptions, new_rows
from service.conversations import history, own_conversation
from service.database import session
from service.errors import InvalidInputError
from service.retrieval import retrieve
from service.serving import Serving
from service.settings import Settings
from service.tables import Candidate, Conversation, Person, Turn, new_id
from service.turn_events import (
    AnswerEnded,
    ShownPassage,
    TokenPiece,
    TurnDone,
    TurnFailed,
    TurnStarted,
)
from service.wording import readable

__all__ = ["Answering", "AskOptions", "AskedTurn"]

LONGEST_QUESTION = 4_000
LONGEST_INSTRUCTIONS = 8_000
LONGEST_TITLE = 80

log = structlog.get_logger(__name__)


class Answering:
    """Answers questions with the loaded policy versions."""

    def __init__(self, database: Engine, settings: Settings, serving: Serving) -> None:
        self._database, self._settings, self._serving = database, settings, serving
        self._recorders: set[asyncio.Task[None]] = set()

    async def ask(
        self,
        person: Person,
        question: str,
        conversation_id: str | None = None,
        *,
        compare: bool = False,
        simulated: bool = False,
        options: AskOptions = AskOptions(),  # noqa: B008 - frozen
    ) -> AskedTurn:
        """Begin a turn; it is in the engine and stored when this returns.

        `compare` asks for answers to choose from, on sides that are drawn. Raises, before
        anything is stored, InvalidInputError for a text that is no question, NotFoundError for
        somebody else's conversation or a version that is not loaded, NotReadyError while
        nothing is loaded and QueueFullError where too many wait.
        """
        began = monotonic()
        text = readable("question", question, LONGEST_QUESTION)
        if options.instructions:
            readable("instructions", options.instructions, LONGEST_INSTRUCTIONS)
        version_ids = self._lease(options.version, _answers(options.answers, compare))
        asked = None
        try:
            simulated = simulated or person.kind == "simulated"
            turn = await asyncio.to_thread(
                self._prepare, person, text, conversation_id, simulated, options
            )
            turn.compared = compare
            rows = new_rows(version_ids, shuffled=compare, seed=options.seed)
            sampling = options.sampling or self._serving.sampling()
            asked = AskedTurn(person.id, turn, rows, sampling, simulated, options.detached, began)
            self._submit(asked)
            # Written while the engine already reads the prompt: the first token comes sooner.
            await asyncio.to_thread(self._store_turn, asked, conversation_id)
        except BaseException:
            if asked is not None:
                asked.cancel()
            self._give_back(version_ids)
            raise
        asked.buffer.add(self._started(asked))
        recorder = asyncio.create_task(self._record(asked))
        self._recorders.add(recorder)
        recorder.add_done_callback(self._recorders.discard)
        return asked

    async def close(self, timeout_s: float) -> None:
        """Wait until the answers that the engine ended are stored."""
        if self._recorders:
            await asyncio.wait(self._recorders, timeout=timeout_s)

    def _lease(self, version: str | None, answers: int) -> list[str]:
        first = self._serving.take_lease(version)
        # The same version for each: a lease counts answers, not turns.
        return [first] + [self._serving.take_lease(first) for _ in range(answers - 1)]

    def _give_back(self, version_ids: list[str]) -> None:
        for version_id in version_ids:
            self._serving.give_back(version_id)

    def _prepare(
        self,
        person: Person,
        question: str,
        conversation_id: str | None,
        simulated: bool,
        options: AskOptions,
    ) -> Turn:
        limits = self._settings.answers
        turn_id = new_id()
        with session(self._database) as opened:
            earlier = options.history or ()
            if conversation_id is not None:
                own_conversation(opened, person, conversation_id)
                if options.history is None:
                    earlier = history(opened, conversation_id, limits.history_turns)
            passages = retrieve(opened, question, limits.passages)
        prompt = rlhf_engine.Prompt(
            turn_id,
            question,
            tuple(passages),
            earlier,
            instructions=options.instructions.strip(),
        )
        return Turn(
            id=turn_id,
            conversation_id=conversation_id or new_id(),
            position=0,
            question=question,
            prompt=to_json(prompt),
            simulated=simulated,
        )

    def _submit(self, asked: AskedTurn) -> None:
        asked.job = self._serving.submit(
            asked.version_ids[0],
            from_json(rlhf_engine.Prompt, asked.turn.prompt),
            [row.seed for row in asked.rows],
            _into(asked.from_engine, asyncio.get_running_loop()),
            settings=asked.sampling,
            versions=asked.version_ids,
        )

    def _store_turn(self, asked: AskedTurn, known: str | None) -> None:
        turn = asked.turn
        with session(self._database) as opened:
            if known is None:
                opened.add(
                    Conversation(
                        id=turn.conversation_id,
                        person_id=asked.person_id,
                        title=turn.question[:LONGEST_TITLE],
                        simulated=asked.simulated,
                    )
                )
                opened.flush()
            else:
                counted = select(func.max(Turn.position)).where(Turn.conversation_id == known)
                highest = opened.exec(counted).one()
                turn.position = 0 if highest is None else highest + 1
            opened.add(turn)
        log.info("turn_began", turn=turn.id, versions=asked.version_ids, compared=turn.compared)

    def _started(self, asked: AskedTurn) -> TurnStarted:
        return TurnStarted(
            turn_id=asked.turn_id,
            conversation_id=asked.conversation_id,
            sides=tuple(sorted(row.side for row in asked.rows)),
            version=self._serving.number(asked.version_ids[0]),
            passages=tuple(ShownPassage(**shown) for shown in asked.turn.prompt["passages"]),
        )

    async def _record(self, asked: AskedTurn) -> None:
        last: TurnDone | TurnFailed = TurnDone(asked.turn_id)
        try:
            while not all(row.ended for row in asked.rows):
                await self._take(asked, await asked.from_engine.get())
        except Exception as error:  # noqa: BLE001 - the edge of the turn: the asker must hear of it
            last = TurnFailed(asked.turn_id, _for_asker(error))
            if asked.left and isinstance(error, rlhf_engine.EngineError):
                log.info("asker_left", turn=asked.turn_id)
            else:
                log.warning("turn_failed", turn=asked.turn_id, error=str(error), next="ask again")
                asked.cancel()
        finally:
            self._give_back(asked.version_ids)
            asked.buffer.add(last, last=True)

    async def _take(self, asked: AskedTurn, event: EngineEvent) -> None:
        if isinstance(event, Failed):
            await self._store_unfinished(asked)
            raise event.error
        row = asked.rows[event.row]
        if isinstance(event, Token):
            if row.first_token_ms is None:
                row.first_token_ms = asked.elapsed_ms()
            row.pieces.append(event.text)
            row.token_ids.append(event.token_id)
            asked.buffer.add(
                TokenPiece(row.side, event.text, event.token_id, event.logprob, event.top)
            )
            return
        answer = event.answer
        row.ended = True
        stored = await self._store(
            asked, row, answer.text, list(answer.token_ids), answer.finish_reason
        )
        number = self._serving.number(row.version_id)
        asked.buffer.add(
            AnswerEnded(row.side, stored.id, stored.text, stored.finish_reason, number)
        )

    async def _store_unfinished(self, asked: AskedTurn) -> None:
        for row in asked.rows:
            text = "".join(row.pieces).strip()
            if text and not row.ended:
                row.ended = True
                await self._store(asked, row, text, [], "cancelled")

    async def _store(
        self, asked: AskedTurn, row: AnswerRow, text: str, token_ids: list[int], reason: str
    ) -> Candidate:
        candidate = Candidate(
            id=row.candidate_id,
            turn_id=asked.turn_id,
            side=row.side,
            version_id=row.version_id,
            # A policy may draw the token of NUL, which PostgreSQL cannot keep.
            text=text.replace("\x00", "\ufffd"),
            token_ids=token_ids,
            finish_reason=reason,
            seed=row.seed,
            settings=to_json(asked.sampling),
            first_token_ms=row.first_token_ms,
            total_ms=asked.elapsed_ms(),
            simulated=asked.simulated,
        )
        await asyncio.to_thread(self._insert, candidate)
        return candidate

    def _insert(self, candidate: Candidate) -> None:
        with session(self._database) as opened:
            opened.add(candidate)
        log.info(
            "answer_stored",
            candidate=candidate.id,
            turn=candidate.turn_id,
            version=candidate.version_id,
            finish_reason=candidate.finish_reason,
            total_ms=candidate.total_ms,
        )


def _answers(wanted: int | None, compare: bool) -> int:
    answers = wanted if wanted is not None else (2 if compare else 1)
    if not 1 <= answers <= len(SIDES):
        raise InvalidInputError(f"answers is {answers}; it must be 1 to {len(SIDES)}")
    return answers


def _into(
    events: asyncio.Queue[EngineEvent], loop: asyncio.AbstractEventLoop
) -> Callable[[EngineEvent], None]:
    def deliver(event: EngineEvent) -> None:
        # A loop that is closed has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(events.put_nowait, event)

    return deliver


def _for_asker(error: Exception) -> str:
    if isinstance(error, rlhf_engine.EngineError):
        return f"The answer could not be finished: {error}. Please ask again."
    return "The answer could not be kept. Please ask again."
