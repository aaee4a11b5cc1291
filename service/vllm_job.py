"""One request to the vLLM servers: answers to one prompt, each a stream of its own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from rlhf_engine.answer_events import Ended, Event, Failed, Token
from rlhf_engine.answer_row import AnswerRow
from rlhf_engine.errors import Cancelled, EngineError, GenerationError, QueueFullError
from rlhf_engine.render import prompt_ids
from rlhf_engine.serving_engine import OnEvent, Request, delivered
from service.vllm_server import ServerUnusableError, VllmServer
from service.vllm_servers import VllmServers
from service.vllm_wire import ToldToken, WrongVersionError, completion_request


class VllmJob:
    """A request on its way. `cancel` may be called from any thread, at any time; the rest runs
    in the engine's event loop."""

    def __init__(
        self,
        request: Request,
        on_event: OnEvent,
        withdraw: Callable[[VllmJob, EngineError], None],
    ) -> None:
        self.request, self.tokens, self.open_rows = request, 0, 0
        self.first_token_s: float | None = None
        self._asked_at = time.monotonic()
        self.task: asyncio.Task[None] | None = None
        self.why = EngineError()
        """Why it is ended from outside, where it is."""
        self._on_event, self._withdraw = on_event, withdraw
        self._told = False

    def cancel(self) -> None:
        """End the job; a job that is over stays as it is."""
        self._withdraw(self, Cancelled("the answer was cancelled; ask again for a new one"))

    def close(self, error: EngineError | None) -> None:
        """Nothing more comes; with an error, say so first."""
        if error is not None:
            self._tell(Failed(error))

    async def answer(self, servers: VllmServers, tokenizer: Any) -> None:
        """Tell every answer's tokens and end.

        While nothing was told, a server that cannot answer is replaced by another.
        """
        ids = prompt_ids(tokenizer, self.request.prompt, self._room(servers.context))
        tried: list[VllmServer] = []
        error: EngineError = GenerationError("no vLLM server can be reached; try again soon")
        while (server := servers.least_busy(tried)) is not None:
            server.jobs += 1
            try:
                await self._answer_on(server, tokenizer, ids)
            except (ServerUnusableError, QueueFullError, WrongVersionError) as failure:
                if not isinstance(failure, QueueFullError):
                    servers.leave_out(server, failure)
                if self._told or isinstance(failure, WrongVersionError):
                    raise
                error = failure
                tried.append(server)
            else:
                return
            finally:
                server.jobs -= 1
        raise error

    async def _answer_on(self, server: VllmServer, tokenizer: Any, ids: list[int]) -> None:
        request = self.request
        try:
            async with asyncio.TaskGroup() as group:
                for at, version in enumerate(request.versions):
                    row = AnswerRow(
                        tokenizer,
                        request.settings,
                        request.prompt.id,
                        request.seeds[at],
                        at,
                        len(ids),
                    )
                    body = completion_request(
                        version,
                        ids,
                        request.seeds[at],
                        request.settings,
                        tokenizer.eos_token_id,
                    )
                    group.create_task(self._row(server, row, body))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from failed

    async def _row(self, server: VllmServer, row: AnswerRow, body: dict[str, Any]) -> None:
        """A row ends where every engine's does: at the end of its turn, its length, a stop text."""
        self.open_rows += 1
        drawn, (eos_id,) = 0, body["stop_token_ids"]
        try:
            async with aclosing(server.answer(body)) as tokens:
                async for token in tokens:
                    drawn += 1
                    ended = token.token_id == eos_id or drawn == body["max_tokens"]
                    events = row.take(token.token_id, token.logprob, token.top, ended=ended)
                    for event in events:
                        self._tell(event)
                    if isinstance(events[-1], Ended):
                        if ended:
                            await _read_end(tokens)
                        return
        finally:
            self.open_rows -= 1
        raise ServerUnusableError(
            f"the vLLM server {server.url} broke off after {drawn} tokens of an answer"
        )

    def _tell(self, event: Event) -> None:
        """Deliver one event. A listener that raises has left: the job is cancelled."""
        self._told = True
        self.tokens += isinstance(event, Token)
        if self.first_token_s is None and isinstance(event, Token):
            self.first_token_s = time.monotonic() - self._asked_at
        if not delivered(self._on_event, event):
            self.cancel()

    def _room(self, context: int) -> int:
        longest = self.request.settings.max_new_tokens
        room = min(self.request.max_prompt_tokens, context - longest)
        if room < 1:
            raise GenerationError(
                f"max_new_tokens is {longest}; the vLLM servers read {context} tokens in all, "
                "question and answer; ask for a shorter answer"
            )
        return room


async def _read_end(tokens: AsyncGenerator[ToldToken, None]) -> None:
    """A stream that is read to its end leaves the connection to the next answer; the answer
    stands, whatever comes of it."""
    with contextlib.suppress(EngineError):
        async for _ in tokens:
            return
