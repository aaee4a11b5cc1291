"""A question, answered: admit, retrieve, render, lease policy versions, stream, keep.

The engine's thread hands its events to the event loop and waits for nobody. They stand in
the turn's buffer, which any number of readers follow at their own pace, also those who lost
the connection and come back. A turn ends early when nobody reads it any more. Turns of
temporary chats take the same way and leave no row.
"""

from __future__ import annotations

import asyncio
import contextlib
from time import monotonic

import structlog
from sqlalchemy import Engine

import rlhf_engine
from rlhf_engine.records import from_json
from rlhf_engine.serving_engine import deliver_into
from service.admission import Admission
from service.answer_keeping import AnswerKeeper
from service.asked_turn import SIDES, AskedTurn, AskOptions, new_rows
from service.errors import InvalidInputError, NotFoundError
from service.pace import Arrival
from service.passage_finder import PassageFinder
from service.serving import Lease, Serving
from service.settings import Settings
from service.stored_turns import Prepared, find_own_turn, prepare, told_again, write_turn
from service.tables import Person, Turn, new_id
from service.temporary_chats import KEPT_S as CHAT_KEPT_S
from service.temporary_chats import TemporaryChat, TemporaryChats, TemporaryTurn
from service.turn_buffer import TurnBuffer
from service.turn_events import TurnStarted
from service.wording import readable

__all__ = ["Answering", "AskOptions", "AskedTurn"]

LONGEST_QUESTION = 4_000
LONGEST_INSTRUCTIONS = 8_000

FORGOTTEN = "this temporary chat has ended and is forgotten; begin a new one"

KEPT_S = 60.0
"""How long the events of a turn that is over stay in memory; then its rows tell them."""
MOST_KEPT = 256
"""Turns that are over and stay in memory."""
STORED_S = 6.0
"""How long a stopping server waits for the answers it ended to be stored."""
LOOK_S = 0.05

log = structlog.get_logger(__name__)


class Answering:
    """Answers questions with the loaded policy versions. One event loop uses it."""

    def __init__(self, database: Engine, settings: Settings, serving: Serving) -> None:
        self._database, self._settings, self._serving = database, settings, serving
        self._admission = Admission(settings.answers, serving)
        self._keeper = AnswerKeeper(database, serving)
        self.finder = PassageFinder(settings, database)
        self.temporary = TemporaryChats()
        self._turns: dict[str, AskedTurn] = {}
        self._over: dict[str, asyncio.TimerHandle] = {}
        self._followers: set[asyncio.Task[None]] = set()

    @property
    def stopping(self) -> bool:
        """Whether the server stops and takes no more questions."""
        return self._admission.closed

    def check_room(self, person_id: str | None = None) -> None:
        """Raise at once, without the database, what `ask` would raise where no question can be
        taken now, or none of this person: NotReadyError or a TryLaterError."""
        self._admission.check(person_id)

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
        anything is stored, InvalidInputError for a text that is no question, or two answers in a
        temporary chat, NotFoundError for somebody else's conversation or a version that is not
        loaded, NotReadyError while nothing is loaded, OverloadedError where too many wait and
        TooManyTurnsError where too many of this person do.
        """
        began = monotonic()
        turn = Turn(
            id=new_id(),
            conversation_id=conversation_id or new_id(),
            position=0,
            question=readable("question", question, LONGEST_QUESTION),
            compared=compare,
            simulated=simulated or person.kind == "simulated",
        )
        if options.instructions:
            readable("instructions", options.instructions, LONGEST_INSTRUCTIONS)
        answers = _answers(options.answers, compare)
        continues = conversation_id is not None
        if not continues and (options.after or options.instead_of):
            raise InvalidInputError(
                "after_turn_id and instead_of_turn_id name a turn of a conversation; give its "
                "conversation_id too"
            )
        chat = self._chat(person, conversation_id, options)
        if chat is not None and compare:
            raise InvalidInputError("votes are kept, so a temporary chat has no answers to compare")
        with contextlib.ExitStack() as release:
            arrival = self._admission.enter(person.id, answers)
            release.callback(self._admission.leave, person.id)
            leases = self._serving.lease_answers(
                answers, options.version, turn.conversation_id, compared=compare
            )
            release.callback(self._give_back, leases)
            with self._admission.preparing(answers):
                prepared = await asyncio.to_thread(
                    prepare,
                    self._database,
                    self._settings.answers,
                    person,
                    turn,
                    options,
                    continues,
                    chat,
                    self.finder,
                )
                turn.prompt, turn.parent_id = prepared.prompt, prepared.parent_id
                asked = self._asked(person, turn, leases, options, began)
                self._submit(asked)
            release.callback(asked.cancel)
            if options.temporary or chat is not None:
                asked.unstored = self._remember(person, turn, prepared, begun=chat is not None)
            else:
                # Written while the engine already reads the prompt: the first token comes sooner.
                shown = prepared.verified.id if prepared.verified else None
                await asyncio.to_thread(
                    write_turn,
                    self._database,
                    person.id,
                    turn,
                    continues,
                    shown,
                    options.pairing,
                    self._settings.voting.overlap_share,
                )
            self._begin(asked, prepared, release.pop_all(), arrival)
        return asked

    async def told(self, person: Person, turn_id: str, after: int = 0) -> TurnBuffer:
        """The events of one of this person's turns, running or over, to read on after number
        `after`. NotFoundError where there is no such turn, or it is somebody else's.
        """
        asked = self._own(person, turn_id)
        if asked is not None:
            return asked.buffer
        events = list(self.temporary.told(person.id, turn_id)) or await asyncio.to_thread(
            told_again, self._database, person.id, turn_id, self._settings.voting.undo_s
        )
        return TurnBuffer.told(events[1:] if after else events, before=after)

    async def stop(self, person: Person, turn_id: str) -> bool:
        """End one of this person's turns within one decode step and keep what there is of it;
        False where it is over. NotFoundError as for `told`."""
        asked = self._own(person, turn_id)
        if asked is None:
            if not self.temporary.told(person.id, turn_id):
                await asyncio.to_thread(find_own_turn, self._database, person.id, turn_id)
            return False
        running = not asked.buffer.over
        asked.end("stopped")
        return running

    def is_running(self, turn_id: str) -> bool:
        """Whether this turn is being answered."""
        asked = self._turns.get(turn_id)
        return asked is not None and not asked.buffer.over

    def leave_conversation(self, person_id: str, conversation_id: str) -> bool:
        """End and forget what is in memory of a conversation that its owner deleted; whether that
        was a temporary chat."""
        for asked in self._turns.values():
            if asked.conversation_id == conversation_id and asked.person_id == person_id:
                asked.gone = True
                asked.end("stopped")
        return self.temporary.forget(person_id, conversation_id)

    def close(self) -> None:
        """Let go of what answers rest on, once none is given any more."""
        self.finder.close()

    async def drain(self, timeout_s: float) -> None:
        """Take no more questions, let answers end for up to `timeout_s` seconds, then end and
        keep the rest, whose readers hear that the server restarts."""
        self._admission.closed = True
        await self._all_over(timeout_s)
        for asked in self._turns.values():
            asked.end("restart")
        await self._all_over(STORED_S)
        for timer in self._over.values():
            timer.cancel()

    def _asked(
        self, person: Person, turn: Turn, leases: list[Lease], options: AskOptions, began: float
    ) -> AskedTurn:
        return AskedTurn(
            person_id=person.id,
            turn=turn,
            rows=new_rows(leases, shuffled=turn.compared, seed=options.seed),
            sampling=options.sampling or self._serving.sampling(),
            reconnect_s=self._settings.answers.reconnect_s if options.detached else 0.0,
            began=began,
        )

    def _submit(self, asked: AskedTurn) -> None:
        try:
            asked.job = self._serving.submit(
                asked.version_ids[0],
                from_json(rlhf_engine.Prompt, asked.turn.prompt),
                [row.seed for row in asked.rows],
                deliver_into(asked.from_engine, asyncio.get_running_loop()),
                settings=asked.sampling,
                versions=asked.version_ids,
            )
        except rlhf_engine.QueueFullError as error:
            raise self._admission.overloaded(len(asked.rows)) from error

    def _chat(
        self, person: Person, conversation_id: str | None, options: AskOptions
    ) -> TemporaryChat | None:
        """The temporary chat that a question goes on in, if it does."""
        chat = self.temporary.find(person.id, conversation_id) if conversation_id else None
        if chat is None and conversation_id and options.temporary:
            raise NotFoundError(FORGOTTEN)
        return chat

    def _remember(
        self, person: Person, turn: Turn, prepared: Prepared, *, begun: bool
    ) -> TemporaryTurn:
        if not begun:
            self.temporary.begin(turn.conversation_id, person.id)
        elif self.temporary.find(person.id, turn.conversation_id) is None:
            # Deleted while the question was made ready.
            raise NotFoundError(FORGOTTEN)
        unstored = TemporaryTurn(
            turn.id, turn.parent_id, turn.question, prepared.passages, prepared.verified
        )
        self.temporary.add(turn.conversation_id, unstored)
        asyncio.get_running_loop().call_later(CHAT_KEPT_S + 1, self.temporary.forget_old)
        return unstored

    def _begin(
        self,
        asked: AskedTurn,
        prepared: Prepared,
        release: contextlib.ExitStack,
        arrival: Arrival,
    ) -> None:
        turn = asked.turn
        version = None if turn.compared else self._serving.number(asked.version_ids[0])
        asked.buffer.add(
            TurnStarted(
                turn_id=turn.id,
                conversation_id=turn.conversation_id,
                sides=tuple(sorted(row.side for row in asked.rows)),
                version=version,
                passages=prepared.passages,
                no_source=not prepared.passages,
                verified=prepared.verified,
                parent_id=turn.parent_id,
                temporary=asked.unstored is not None,
            )
        )
        self._turns[turn.id] = asked
        asked.watch(self._settings.answers.longest_wait_s)
        follower = asyncio.create_task(self._follow(asked, release, arrival))
        self._followers.add(follower)
        follower.add_done_callback(self._followers.discard)
        log.info("turn_began", turn=turn.id, versions=asked.version_ids, compared=turn.compared)

    async def _follow(
        self, asked: AskedTurn, release: contextlib.ExitStack, arrival: Arrival
    ) -> None:
        try:
            await self._keeper.follow(asked)
        finally:
            release.close()
            self._keep_for_a_while(asked.turn_id)
        first_ms = asked.first_token_ms()
        if asked.ending is None and first_ms is not None:
            busy_ms = asked.elapsed_ms() - first_ms
            self._admission.learn(first_ms / 1000, busy_ms / 1000, arrival)

    def _keep_for_a_while(self, turn_id: str) -> None:
        loop = asyncio.get_running_loop()
        self._over[turn_id] = loop.call_later(KEPT_S, self._forget, turn_id)
        if len(self._over) > MOST_KEPT:
            self._forget(next(iter(self._over)))

    def _forget(self, turn_id: str) -> None:
        self._over.pop(turn_id).cancel()
        del self._turns[turn_id]

    def _own(self, person: Person, turn_id: str) -> AskedTurn | None:
        asked = self._turns.get(turn_id)
        if asked is not None and (asked.gone or asked.person_id != person.id):
            raise NotFoundError(f"you have no turn {turn_id!r}")
        return asked

    def _give_back(self, leases: list[Lease]) -> None:
        for lease in leases:
            self._serving.give_back(lease.version_id)

    async def _all_over(self, timeout_s: float) -> None:
        until = monotonic() + timeout_s
        while self._admission.running and monotonic() < until:
            await asyncio.sleep(LOOK_S)


def _answers(wanted: int | None, compare: bool) -> int:
    answers = wanted if wanted is not None else (2 if compare else 1)
    if not 1 <= answers <= len(SIDES):
        raise InvalidInputError(f"answers is {answers}; it must be 1 to {len(SIDES)}")
    return answers
