"""A turn's events as the server-sent chunks that OpenAI's clients read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import msgspec
from msgspec import UNSET

from service.asked_turn import AskedTurn
from service.turn_buffer import TurnReader
from service.turn_events import AnswerEnded, Event, TokenPiece, TurnDone, TurnFailed, TurnStarted
from service.web import openai_answer as answers
from service.web.event_stream import PING_S
from service.web.openai_errors import failure
from service.web.openai_request import ChatRequest


class ChunkWriter:
    """Makes the chunks of one turn."""

    def __init__(self, asked: AskedTurn, request: ChatRequest) -> None:
        self._asked, self._logprobs = asked, bool(request.logprobs)
        self._places = {row.side: index for index, row in enumerate(asked.rows)}
        options = request.stream_options
        self.wants_usage = bool(options and options.include_usage)
        self.tokens = 0
        """Tokens of all answers so far."""
        self.unfinished = len(asked.rows)
        """Answers that have not come to an end of their own."""

    def chunks(self, event: Event) -> Iterator[answers.Chunk]:
        """What a client hears of one event."""
        if isinstance(event, TurnStarted):
            for index in range(len(self._asked.rows)):
                yield self._of_choice(index, answers.Delta("assistant", ""))
        elif isinstance(event, TokenPiece):
            self.tokens += 1
            text = answers.shown_text(event)
            told = answers.Logprobs([answers.drawn(event)]) if self._logprobs else None
            if text or told:
                yield self._of_choice(self._places[event.side], answers.Delta(None, text), told)
        elif isinstance(event, AnswerEnded) and event.whole:
            self.unfinished -= 1
            index, reason = self._places[event.side], event.finish_reason
            yield self._of_choice(index, answers.Delta(), finish_reason=reason)

    def last(self) -> answers.Chunk:
        """The chunk that tells the tokens used."""
        return self._chunk([], answers.usage(self._asked, self.tokens))

    def _of_choice(
        self,
        index: int,
        delta: answers.Delta,
        logprobs: answers.Logprobs | None = None,
        finish_reason: str | None = None,
    ) -> answers.Chunk:
        number = answers.choice_id(self._asked, index)
        return self._chunk(
            [answers.ChunkChoice(index, number, delta, finish_reason, logprobs)],
            None if self.wants_usage else UNSET,
        )

    def _chunk(
        self, choices: list[answers.ChunkChoice], usage: answers.Usage | msgspec.UnsetType | None
    ) -> answers.Chunk:
        version = self._asked.version_ids[0]
        created = int(self._asked.turn.created_at.timestamp())
        number = answers.completion_id(self._asked)
        return answers.Chunk(number, created, version, version, choices, usage)


async def lines(writer: ChunkWriter, reader: TurnReader) -> AsyncIterator[bytes]:
    """The stream to its end, [DONE], or to an error; a comment now and then in silence."""
    try:
        while not isinstance(event := await _next(reader), TurnDone):
            if event is None:
                yield b": still working\n\n"
            elif isinstance(event, TurnFailed):
                yield _line({"error": failure(event.detail)})
                return
            else:
                for chunk in writer.chunks(event):
                    yield _line(chunk)
        if writer.unfinished:
            yield _line({"error": failure(answers.STOPPED)})
            return
        if writer.wants_usage:
            yield _line(writer.last())
        yield b"data: [DONE]\n\n"
    finally:
        await reader.aclose()


async def _next(reader: TurnReader) -> Event | None:
    """The next event; None after a while of silence."""
    try:
        async with asyncio.timeout(PING_S):
            return (await anext(reader)).event
    except TimeoutError:
        return None


def _line(data: object) -> bytes:
    return b"data: %s\n\n" % msgspec.json.encode(data)
