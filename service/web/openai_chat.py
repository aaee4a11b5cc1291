"""Journey 1 for clients of OpenAI's chat API: `POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from litestar import Request, Response, post
from litestar.background_tasks import BackgroundTask
from litestar.exceptions import HTTPException
from litestar.params import JSONBody
from litestar.response import Stream

import rlhf_engine
from service.askable import DEFAULT, find_askable
from service.asked_turn import AskedTurn
from service.database import session
from service.errors import ConflictError, InvalidInputError, NotFoundError
from service.serving import NotReadyError
from service.turn_events import AnswerEnded, TokenPiece, TurnFailed
from service.web import openai_answer as answers
from service.web.admission import require_room, token_of
from service.web.openai_errors import ModelNotFoundError, ParameterError
from service.web.openai_request import ChatRequest, options_of, question_of
from service.web.openai_stream import ChunkWriter, lines
from service.web.parts import GivenParts, Parts
from service.web.rights import key_only
from service.web.sessions import GivenPerson

CLIENT_GONE = 499
"""The status of a request whose client left; nobody reads it."""

Result = TypeVar("Result")


@post(
    "/v1/chat/completions",
    status_code=200,
    guards=[require_room],
    security=key_only("chat"),
    tags=["OpenAI"],
    summary="Answer a conversation",
    description="OpenAI's chat completions; see docs/api.md for what is supported.",
)
async def complete(
    request: Request[Any, Any, Any],
    caller: GivenPerson,
    parts: GivenParts,
    data: JSONBody[ChatRequest],
) -> Response[Any]:
    """Answer the last user message, at once or as a stream."""
    parts.askers.remember(token_of(request), caller.id)
    parts.answering.check_room(caller.id)
    question = question_of(data)
    named = data.model != DEFAULT
    version = await asyncio.to_thread(_version, parts, data.model) if named else None
    options = options_of(data, version, parts.settings.answers)
    limit = parts.settings.answers.max_prompt_tokens
    if not parts.serving.surely_fits(question + options.instructions, limit):
        await asyncio.to_thread(_require_short, parts, question, options.instructions)
    try:
        asked = await parts.answering.ask(caller, question, options=options)
    except NotFoundError as error:
        raise ModelNotFoundError(str(error)) from error
    except InvalidInputError as error:
        raise ParameterError(str(error), "messages") from error
    if data.stream:
        return _stream(asked, data)
    return Response(await _unless_gone(request, _whole(asked, data)))


def _version(parts: Parts, model: str) -> str:
    if model == "live":
        return model
    with session(parts.database) as opened:
        try:
            return find_askable(opened, parts.serving, model).version.id
        except NotFoundError as error:
            raise ModelNotFoundError(str(error)) from error


def _require_short(parts: Parts, question: str, instructions: str) -> None:
    """Refuse what could only be answered in part: history may be left out, these may not."""
    prompt = rlhf_engine.Prompt("", question, instructions=instructions)
    length = parts.serving.count_prompt_tokens(prompt, None)
    limit = parts.settings.answers.max_prompt_tokens
    if length > limit:
        raise ParameterError(
            f"instructions and question have {length} tokens; at most {limit} are read "
            "(the setting answers.max_prompt_tokens), shorten them",
            "messages",
            "context_length_exceeded",
        )


async def _whole(asked: AskedTurn, data: ChatRequest) -> answers.Completion:
    """Wait for all answers; NotReadyError where the engine could not finish them, ConflictError
    where somebody stopped them."""
    places = {row.side: index for index, row in enumerate(asked.rows)}
    choices = [_empty_choice(asked, index, data) for index in range(len(asked.rows))]
    tokens, unfinished = 0, len(asked.rows)
    reader = asked.events()
    try:
        async for numbered in reader:
            event = numbered.event
            if isinstance(event, TurnFailed):
                raise NotReadyError(event.detail)
            if isinstance(event, TokenPiece):
                tokens += 1
                if told := choices[places[event.side]].logprobs:
                    told.content.append(answers.drawn(event))
            elif isinstance(event, AnswerEnded) and event.whole:
                unfinished -= 1
                choice = choices[places[event.side]]
                choice.message.content = event.text
                choice.finish_reason = event.finish_reason
    finally:
        await reader.aclose()
    if unfinished:
        raise ConflictError(answers.STOPPED)
    usage = answers.usage(asked, tokens)
    version, created = asked.version_ids[0], int(asked.turn.created_at.timestamp())
    number = answers.completion_id(asked)
    return answers.Completion(number, created, version, version, choices, usage)


def _empty_choice(asked: AskedTurn, index: int, data: ChatRequest) -> answers.Choice:
    logprobs = answers.Logprobs([]) if data.logprobs else None
    number = answers.choice_id(asked, index)
    return answers.Choice(index, number, answers.Said(""), "stop", logprobs)


async def _unless_gone(
    request: Request[Any, Any, Any], work: Coroutine[Any, Any, Result]
) -> Result:
    """The work's result; it is cancelled as soon as the client closes the connection."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise HTTPException("the client left", status_code=CLIENT_GONE)
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def _gone(request: Request[Any, Any, Any]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _stream(asked: AskedTurn, data: ChatRequest) -> Stream:
    reader = asked.events()
    return Stream(
        lines(ChunkWriter(asked, data), reader),
        media_type="text/event-stream; charset=utf-8",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        # A client may leave before the first line is asked for, or while one is being sent.
        background=BackgroundTask(reader.aclose),
    )
