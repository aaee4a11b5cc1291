"""What a client of the OpenAI-compatible API may ask, and what Heed makes of it.

A parameter that would change the answer, and that Heed cannot follow, is refused: an
answer that silently ignores it would mislead the client.
"""

from __future__ import annotations

from itertools import groupby
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

import rlhf_engine
from service.askable import DEFAULT
from service.asked_turn import SIDES, AskOptions
from service.settings import AnswerSettings
from service.web.openai_errors import ParameterError
from service.wording import storable

MOST_STOPS = 4
LONGEST_STOP = 100

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "web_search_options": (),
    "service_tier": ("auto", "default"),
}
"""Parameters that are refused, but for values that ask for nothing."""


class Part(msgspec.Struct):
    """A part of a message's content; only text is read."""

    type: str
    text: str | None = None


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """One message. An assistant's may be sent back as it was received."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None
    name: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: Any = None
    tool_calls: Any = None
    function_call: Any = None
    tool_call_id: str | None = None


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """`include_usage` adds a last chunk with the tokens used."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ChatRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A chat completion; the last user message is the question."""

    messages: list[Message]
    model: str = DEFAULT
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Meta(ge=1)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    n: Annotated[int, Meta(ge=1, le=len(SIDES))] | None = None
    seed: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    stop: str | list[str] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    # Taken and left alone: they do not change the answer.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    parallel_tool_calls: bool | None = None
    # Refused unless they ask for nothing.
    tools: Any = None
    tool_choice: Any = None
    functions: Any = None
    function_call: Any = None
    response_format: Any = None
    logit_bias: Any = None
    frequency_penalty: Any = None
    presence_penalty: Any = None
    modalities: Any = None
    audio: Any = None
    prediction: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    web_search_options: Any = None
    service_tier: Any = None


def question_of(request: ChatRequest) -> str:
    """The text of the last user message, with unanswered ones right before it."""
    spoken = _spoken(request.messages)
    if not spoken or spoken[-1][0] != "user":
        raise ParameterError("the last message must be a user's: it is the question", "messages")
    return spoken[-1][1]


def options_of(request: ChatRequest, version: str | None, defaults: AnswerSettings) -> AskOptions:
    """How the question is to be answered; ParameterError where that cannot be followed."""
    _refuse_unsupported(request)
    spoken = _spoken(request.messages)
    return AskOptions(
        answers=request.n or 1,
        sampling=_sampling(request, defaults),
        seed=request.seed,
        version=version,
        history=_history(spoken[:-1]),
        instructions=_instructions(request.messages),
    )


def _refuse_unsupported(request: ChatRequest) -> None:
    for name, neutral in NEUTRAL.items():
        value = getattr(request, name)
        if value is not None and value not in neutral:
            raise ParameterError(
                f"{name} is not supported; leave it out", name, "unsupported_parameter"
            )
    if request.stream_options is not None and not request.stream:
        raise ParameterError("stream_options belongs to stream: true", "stream_options")
    if request.top_logprobs and not request.logprobs:
        raise ParameterError("top_logprobs belongs to logprobs: true", "top_logprobs")


def _sampling(request: ChatRequest, defaults: AnswerSettings) -> rlhf_engine.SamplingSettings:
    wanted = (request.max_completion_tokens, request.max_tokens, defaults.max_new_tokens)
    return rlhf_engine.SamplingSettings(
        temperature=_given(request.temperature, defaults.temperature),
        top_p=_given(request.top_p, 1.0),
        max_new_tokens=min(limit for limit in wanted if limit is not None),
        stop=_stops(request.stop),
        top_logprobs=request.top_logprobs or 0,
    )


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    sound = all(0 < len(text) <= LONGEST_STOP and storable(text) for text in stops)
    if len(stops) > MOST_STOPS or not sound:
        raise ParameterError(
            f"stop takes up to {MOST_STOPS} texts of 1 to {LONGEST_STOP} characters", "stop"
        )
    return tuple(stops)


def _instructions(messages: list[Message]) -> str:
    texts = [
        _text(message, place)
        for place, message in enumerate(messages)
        if message.role in ("system", "developer")
    ]
    return "\n\n".join(text for text in texts if text.strip())


def _spoken(messages: list[Message]) -> list[tuple[str, str]]:
    """Role and text of what was said, neighbours of the same role joined."""
    said = [
        (message.role, _text(message, place))
        for place, message in enumerate(messages)
        if message.role not in ("system", "developer")
    ]
    return [
        (role, "\n\n".join(text for _, text in group if text.strip()))
        for role, group in groupby(said, key=lambda pair: pair[0])
    ]


def _history(spoken: list[tuple[str, str]]) -> tuple[rlhf_engine.Exchange, ...]:
    """Questions and answers in turn; an assistant who speaks first answers an empty question."""
    if spoken and spoken[0][0] == "assistant":
        spoken = [("user", ""), *spoken]
    pairs = zip(spoken[::2], spoken[1::2], strict=True)
    return tuple(rlhf_engine.Exchange(asked, said) for (_, asked), (_, said) in pairs if said)


def _text(message: Message, place: int) -> str:
    param = f"messages[{place}]"
    calls = message.tool_calls or message.function_call or message.tool_call_id
    if message.role in ("tool", "function") or calls or message.audio:
        raise ParameterError(
            f"{param} speaks of tools or sound; only text is read", param, "unsupported_value"
        )
    content = message.content or ""
    if not isinstance(content, str):
        other = next((part.type for part in content if part.type != "text"), None)
        if other is not None:
            raise ParameterError(
                f"{param}.content has a part of type {other[:40]!r}; only text is read",
                f"{param}.content",
                "unsupported_value",
            )
        content = "\n".join(part.text or "" for part in content)
    if not storable(content):
        raise ParameterError(
            f"{param}.content holds a character that is no text; remove it", f"{param}.content"
        )
    return content
