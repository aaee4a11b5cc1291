"""What is sent to a vLLM server for an answer, and what comes back: OpenAI's completions, with
vLLM's additions. Nothing here asks a network.

The prompt goes as token ids, rendered by the engine's one renderer, and tokens come back as
ids: neither the server's chat template nor its detokenizer has a say in an answer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlhf_engine.errors import GenerationError
from rlhf_engine.records import SamplingSettings

TOKEN_MARK = "token_id:"  # noqa: S105 - how vLLM spells a token's id
DONE = "[DONE]"


class WrongVersionError(GenerationError):
    """A server answered with another version than it was asked for."""


@dataclass(frozen=True, slots=True)
class ToldToken:
    """One token with its log-probability at temperature 1, and the likeliest by id."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


def completion_request(
    model: str, prompt: Sequence[int], seed: int, settings: SamplingSettings, eos_id: int
) -> dict[str, Any]:
    """The body of one streamed answer.

    Whatever the server's own generation settings would add is set to what changes nothing. It
    ends an answer at the policy's end of a turn alone; stop texts are found by whoever
    asks, as by the other engines.
    """
    return {
        "model": model,
        "prompt": list(prompt),
        "stream": True,
        "max_tokens": settings.max_new_tokens,
        # vLLM raises what is nearly 0.
        "temperature": 0.0 if settings.greedy else settings.temperature,
        "top_p": settings.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        # vLLM takes -1 for no seed at all.
        "seed": seed % 2**63,
        "ignore_eos": True,
        "stop_token_ids": [eos_id],
        "logprobs": settings.top_logprobs,
        "return_tokens_as_token_ids": True,
    }


def read_chunk(data: str, model: str, top: int) -> list[ToldToken]:
    """The tokens of one event of the stream; none in one that only ends it.

    WrongVersionError unless it comes from `model`, GenerationError where the server reports an
    error or what it says cannot be read.
    """
    try:
        chunk = json.loads(data)
        if "error" in chunk:
            raise GenerationError(f"the vLLM server reports: {error_message(chunk)}")
        _check_model(chunk["model"], model)
        return [token for choice in chunk["choices"] for token in _tokens(choice, top)]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GenerationError(
            f"the vLLM server's answer cannot be read ({error!r}); vLLM 0.11 or newer is needed"
        ) from error


def error_message(body: Any) -> str:
    """The sentence in an error of OpenAI's form, or of FastAPI's."""
    found = body.get("error") if isinstance(body, dict) else None
    if isinstance(found, dict):
        return str(found.get("message", found))
    if isinstance(body, dict):
        return str(found or body.get("message") or body.get("detail") or body)
    return str(body)


def _check_model(found: str, model: str) -> None:
    if found != model:
        raise WrongVersionError(
            f"the vLLM server was asked for {model!r} and answered as {found!r}; the answer is "
            "not used. Give it only versions that Heed loads, under their own names"
        )


def _tokens(choice: dict[str, Any], top: int) -> list[ToldToken]:
    told = choice["logprobs"]
    if told is None:
        return []
    columns = zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True)
    return [
        ToldToken(_token_id(token), _finite(logprob), _likeliest(likely or {}, top))
        for token, logprob, likely in columns
    ]


def _likeliest(found: dict[str, float | None], top: int) -> tuple[tuple[int, float], ...]:
    """The server adds the drawn token to the likeliest, in no certain order."""
    by_id = sorted(
        ((_token_id(token), _finite(value)) for token, value in found.items()),
        key=lambda each: -each[1],
    )
    return tuple(by_id[:top])


def _token_id(token: str) -> int:
    if not token.startswith(TOKEN_MARK):
        raise ValueError(f"{token!r} is no token id")
    return int(token.removeprefix(TOKEN_MARK))


def _finite(logprob: float | None) -> float:
    if logprob is None or not math.isfinite(logprob):
        raise GenerationError(
            "the vLLM server gives probabilities that are not finite; the version is damaged"
        )
    return min(0.0, float(logprob))
