"""A question, answered: retrieve, render, lease a policy version, stream, keep.

The engine's thread hands its events to the asking coroutine's loop. A recorder task
stores each answer as it ends, so that what was generated is kept whether or not the
asker stays; an asker who leaves only ends the generating.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import structlog
from sqlalchemy import Engine
from sqlmodel import func, select

import rlhf_engine
from rlhf_engine.answer_events import Event as EngineEvent
from rlhf_engine.answer_events import Failed, Token
from rlhf_engine.records import from_json, to_json
from service.conversations import history, own_conversation
from service.database import session
from service.retrieval import retrieve
from service.serving import Serving
from service.settings import Settings
from service.tables import Candidate, Conversation, Person, Turn, new_id
from service.turn_events import (
    AnswerEnded,
    Event,
    ShownPassage,
    Side,
    TokenPiece,
    TurnDone,
    TurnFailed,
    TurnStarted,
)
from service.wording import readable

LONGEST_QUESTION = 4_000
LONGEST_TITLE = 80

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Row:
    """One answer being generated."""

    side: Side
    seed: int
    pieces: list[str] = field(default_factory=list)
    first_token_ms: int | None = None
    ended: bool = False


@dataclass(slots=True)
class _Running:
    """A turn in the engine. Both queues hold at most a few events a token, and the number of
    tokens is bounded, so neither needs a limit of its own."""

    turn: Turn
    version_id: str
    simulated: bool
    began: float
    rows: list[_Row]
    from_engine: asyncio.Queue[EngineEvent] = field(default_factory=asyncio.Queue)
    to_asker: asyncio.Queue[Event | None] = field(default_factory=asyncio.Queue)
    job: Any = None
    left: bool = False
    """Whether the asker has gone."""

    def elapsed_ms(self) -> int:
        return round((monotonic() - self.began) * 1000)


class Answering:
    """Answers questions with the live policy version."""

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
    ) -> AsyncIterator[Event]:
        """Begin a turn and return its events; close them to leave before the end.

        `compare` asks for two answers. Raises, before any event, InvalidInputError for a
        text that is no question, NotFoundError for somebody else's conversation,
        NotReadyError while nothing is loaded and QueueFullError where too many wait.
        """
        began = monotonic()
        text = readable("question", question, LONGEST_QUESTION)
        simulated = simulated or person.kind == "simulated"
        version_id = self._serving.take_lease()
        running = None
        try:
            turn = await asyncio.to_thread(self._prepare, person, text, conversation_id, simulated)
            turn.compared = compare
            running = _Running(turn, version_id, simulated, began, _new_rows(compare))
            self._submit(running)
            # Written while the engine already reads the prompt: the first token comes sooner.
            await asyncio.to_thread(self._store_turn, person, running, conversation_id)
        except BaseException:
            if running is not None and running.job is not None:
                running.job.cancel()
            self._serving.give_back(version_id)
            raise
        recorder = asyncio.create_task(self._record(running))
        self._recorders.add(recorder)
        recorder.add_done_callback(self._recorders.discard)
        return self._events(running)

    async def close(self, timeout_s: float) -> None:
        """Wait until the answers that the engine ended are stored."""
        if self._recorders:
            await asyncio.wait(self._recorders, timeout=timeout_s)

    def _prepare(
        self, person: Person, question: str, conversation_id: str | None, simulated: bool
    ) -> Turn:
        limits = self._settings.answers
        turn_id = new_id()
        with session(self._database) as opened:
            earlier: tuple[rlhf_engine.Exchange, ...] = ()
            if conversation_id is not None:
                own_conversation(opened, person, conversation_id)
                earlier = history(opened, conversation_id, limits.history_turns)
            passages = retrieve(opened, question, limits.passages)
        prompt = rlhf_engine.Prompt(turn_id, question, tuple(passages), earlier)
        return Turn(
            id=turn_id,
            conversation_id=conversation_id or new_id(),
            position=0,
            question=question,
            prompt=to_json(prompt),
            simulated=simulated,
        )

    def _submit(self, running: _Running) -> None:
        running.job = self._serving.submit(
            running.version_id,
            from_json(rlhf_engine.Prompt, running.turn.prompt),
            [row.seed for row in running.rows],
            _into(running.from_engine, asyncio.get_running_loop()),
        )

    def _store_turn(self, person: Person, running: _Running, known: str | None) -> None:
        turn = running.turn
        with session(self._database) as opened:
            if known is None:
                opened.add(
                    Conversation(
                        id=turn.conversation_id,
                        person_id=person.id,
                        title=turn.question[:LONGEST_TITLE],
                        simulated=running.simulated,
                    )
                )
                opened.flush()
            else:
                counted = select(func.max(Turn.position)).where(Turn.conversation_id == known)
                highest = opened.exec(counted).one()
                turn.position = 0 if highest is None else highest + 1
            opened.add(turn)
        log.info("turn_began", turn=turn.id, version=running.version_id, compared=turn.compared)

    async def _events(self, running: _Running) -> AsyncIterator[Event]:
        prompt = running.turn.prompt
        number = self._serving.number(running.version_id)
        finished = False
        try:
            yield TurnStarted(
                turn_id=running.turn.id,
                conversation_id=running.turn.conversation_id,
                sides=tuple(sorted(row.side for row in running.rows)),
                version=number,
                passages=tuple(ShownPassage(**passage) for passage in prompt["passages"]),
            )
            while (event := await running.to_asker.get()) is not None:
                finished = isinstance(event, TurnDone | TurnFailed)
                yield event
        finally:
            if not finished:
                running.left = True
                running.job.cancel()

    async def _record(self, running: _Running) -> None:
        turn_id = running.turn.id
        try:
            while not all(row.ended for row in running.rows):
                await self._take(running, await running.from_engine.get())
            running.to_asker.put_nowait(TurnDone(turn_id))
        except Exception as error:  # noqa: BLE001 - the edge of the turn: the asker must hear of it
            if running.left and isinstance(error, rlhf_engine.EngineError):
                log.info("asker_left", turn=turn_id)
                return
            log.warning("turn_failed", turn=turn_id, error=str(error), next="ask again")
            running.job.cancel()
            running.to_asker.put_nowait(TurnFailed(turn_id, _for_asker(error)))
        finally:
            self._serving.give_back(running.version_id)
            running.to_asker.put_nowait(None)

    async def _take(self, running: _Running, event: EngineEvent) -> None:
        if isinstance(event, Failed):
            await self._store_unfinished(running)
            raise event.error
        row = running.rows[event.row]
        if isinstance(event, Token):
            if row.first_token_ms is None:
                row.first_token_ms = running.elapsed_ms()
            row.pieces.append(event.text)
            running.to_asker.put_nowait(TokenPiece(row.side, event.text))
            return
        answer = event.answer
        row.ended = True
        stored = await self._store(
            running, row, answer.text, list(answer.token_ids), answer.finish_reason
        )
        number = self._serving.number(running.version_id)
        running.to_asker.put_nowait(
            AnswerEnded(row.side, stored.id, stored.text, stored.finish_reason, number)
        )

    async def _store_unfinished(self, running: _Running) -> None:
        for row in running.rows:
            text = "".join(row.pieces).strip()
            if text and not row.ended:
                row.ended = True
                await self._store(running, row, text, [], "cancelled")

    async def _store(
        self, running: _Running, row: _Row, text: str, token_ids: list[int], reason: str
    ) -> Candidate:
        candidate = Candidate(
            turn_id=running.turn.id,
            side=row.side,
            version_id=running.version_id,
            # A policy may draw the token of NUL, which PostgreSQL cannot keep.
            text=text.replace("\x00", "\ufffd"),
            token_ids=token_ids,
            finish_reason=reason,
            seed=row.seed,
            settings=to_json(self._serving.sampling()),
            first_token_ms=row.first_token_ms,
            total_ms=running.elapsed_ms(),
            simulated=running.simulated,
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


def _new_rows(compare: bool) -> list[_Row]:
    sides: list[Side] = ["A", "B"] if compare else [""]
    # Which of the engine's rows stands on which side is drawn, and kept with the answer.
    random.SystemRandom().shuffle(sides)
    seeds: set[int] = set()
    while len(seeds) < len(sides):
        seeds.add(secrets.randbelow(2**31))
    return [_Row(side, seed) for side, seed in zip(sides, seeds, strict=True)]


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
