"""Answers of the OpenAI-compatible API: whole, in chunks, and their log-probabilities."""

from __future__ import annotations

import math
from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from service.asked_turn import AskedTurn
from service.turn_events import TokenPiece

ID_PREFIX = "chatcmpl-"
STOPPED = "the answer was stopped on the page before its end; ask again for a new one"
LEAST_LOGPROB = -9999.0
"""Stands for the logarithm of nought, which JSON cannot say."""


class TokenLogprob(msgspec.Struct):
    """A token with its log-probability at temperature 1."""

    token: str
    logprob: float
    bytes: list[int]


class DrawnLogprob(TokenLogprob):
    """The token that was drawn, with the likeliest ones in its place."""

    top_logprobs: list[TokenLogprob]


class Logprobs(msgspec.Struct):
    """One entry a token, in order."""

    content: list[DrawnLogprob]
    refusal: None = None


class Said(msgspec.Struct):
    """An answer's text."""

    content: str
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class Choice(msgspec.Struct):
    """One answer. `id` is what feedback names."""

    index: int
    id: str
    message: Said
    finish_reason: str
    logprobs: Logprobs | None = None


class Usage(msgspec.Struct):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(msgspec.Struct):
    """All answers to one question. `model` is the exact policy version."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[Choice]
    usage: Usage
    object: Literal["chat.completion"] = "chat.completion"


class Delta(msgspec.Struct, omit_defaults=True):
    """What is new of an answer."""

    role: str | None = None
    content: str | None = None


class ChunkChoice(msgspec.Struct):
    """The next piece of one answer; `finish_reason` comes with its last."""

    index: int
    id: str
    delta: Delta
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class Chunk(msgspec.Struct):
    """One event of a stream."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"


def completion_id(asked: AskedTurn) -> str:
    """The id of a completion: that of its answer, or of the turn where there are several."""
    single = len(asked.rows) == 1
    return f"{ID_PREFIX}{asked.rows[0].candidate_id if single else asked.turn_id}"


def choice_id(asked: AskedTurn, index: int) -> str:
    """The id of one answer."""
    return f"{ID_PREFIX}{asked.rows[index].candidate_id}"


def shown_text(piece: TokenPiece) -> str:
    """A piece as it is stored."""
    return piece.text.replace("\x00", "\ufffd")


def drawn(piece: TokenPiece) -> DrawnLogprob:
    """The log-probabilities of one token."""
    text = shown_text(piece)
    likely = [_entry(likely.text, likely.logprob) for likely in piece.top]
    own = _entry(text, piece.logprob)
    return DrawnLogprob(own.token, own.logprob, own.bytes, likely)


def _entry(text: str, logprob: float) -> TokenLogprob:
    finite = logprob if math.isfinite(logprob) else LEAST_LOGPROB
    return TokenLogprob(text, max(finite, LEAST_LOGPROB), list(text.encode("utf-8", "replace")))


def usage(asked: AskedTurn, completion_tokens: int) -> Usage:
    """The tokens of a turn whose answers are complete."""
    read = asked.prompt_tokens
    assert read is not None, "no answer has ended"
    return Usage(read, completion_tokens, read + completion_tokens)
