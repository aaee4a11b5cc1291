"""The load of the throughput benchmark: so many streams, the same questions for every side."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

import rlhf_engine
from rlhf_engine.answer_events import Ended, Token
from rlhf_engine.render import messages
from rlhf_engine.serving_engine import generate
from service.replay import PREFIX
from tests.benchmarks.serving_goals import prompt, quantile

PEOPLE = 16
"""As many as ask at once. Each looks at Heed's models before anything is measured: a newcomer's
account is a cost of its own, not the answer's."""
ANSWER_S = 300.0
"""An answer that takes longer has failed, and with it the side."""


@dataclass(frozen=True)
class Sample:
    """One answer: seconds to its first readable token, its tokens, and its id where it has one."""

    first_token_s: float
    tokens: int
    id: str = ""


@dataclass(frozen=True)
class Figures:
    """One side under one load."""

    tokens_per_s: float
    first_p50_s: float
    first_p95_s: float
    tokens: int
    samples: tuple[Sample, ...] = ()

    @classmethod
    def of(cls, samples: Sequence[Sample], seconds: float) -> Figures:
        """Of answers that took `seconds` in all."""
        firsts = [each.first_token_s for each in samples]
        tokens = sum(each.tokens for each in samples)
        return cls(
            tokens / seconds, quantile(firsts, 0.5), quantile(firsts, 0.95), tokens, tuple(samples)
        )


Ask = Callable[[int], Awaitable[Sample]]
"""Asks the question of a number and reads its answer to the end."""


async def under_load(ask: Ask, streams: int, questions: int, apart_s: float = 0.0) -> Figures:
    """So many streams, each with its next question as soon as its last is answered; they begin so
    many seconds apart."""
    left = iter(range(questions))
    samples: list[Sample] = []

    async def stream(at: int) -> None:
        await asyncio.sleep(at * apart_s)
        for number in left:
            async with asyncio.timeout(ANSWER_S):
                samples.append(await ask(number))

    began = time.monotonic()
    await asyncio.gather(*(stream(at) for at in range(streams)))
    return Figures.of(samples, time.monotonic() - began)


def engine_ask(engine: Any, version: str, answer_tokens: int) -> Ask:
    """Asks the engine itself."""
    settings = rlhf_engine.SamplingSettings(temperature=0.0, max_new_tokens=answer_tokens)

    async def ask(number: int) -> Sample:
        asked, first, tokens = time.monotonic(), 0.0, 0
        async for event in generate(engine, version, prompt(number), settings, [1]):
            if isinstance(event, Token) and event.text:
                first = first or time.monotonic() - asked
            elif isinstance(event, Ended):
                tokens = len(event.answer.token_ids)
        return Sample(first, tokens)

    return ask


@contextlib.asynccontextmanager
async def openai_ask(
    url: str, model: str, answer_tokens: int, *, whole_prompt: bool
) -> AsyncIterator[Ask]:
    """Asks a server by OpenAI's API, questions asked at once in different people's names.

    Heed adds its system text itself; with `whole_prompt` it is sent, so that all read the same.
    """
    async with httpx.AsyncClient(base_url=url, timeout=ANSWER_S, trust_env=False) as client:

        async def ask(number: int) -> Sample:
            chat = messages(prompt(number))
            body = {
                "model": model,
                "messages": chat if whole_prompt else chat[-1:],
                "max_tokens": answer_tokens,
                "temperature": 0.0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            headers = _named(number)
            asked = time.monotonic()
            async with client.stream(
                "POST", "/v1/chat/completions", json=body, headers=headers
            ) as response:
                if response.status_code != 200:
                    told = (await response.aread()).decode(errors="replace")
                    raise ConnectionError(f"status {response.status_code}: {told[:300]}")
                return await _sample(response, asked)

        for number in range(0 if whole_prompt else PEOPLE):
            await client.get("/v1/models", headers=_named(number))
        yield ask


def _named(number: int) -> dict[str, str]:
    return {"Authorization": f"Bearer benchmark-{number % PEOPLE}"}


async def _sample(response: httpx.Response, asked: float) -> Sample:
    first, pieces, told, name = 0.0, 0, 0, ""
    async for line in response.aiter_lines():
        data = line.removeprefix("data: ")
        if data == line or data == "[DONE]":
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            raise ConnectionError(f"the stream broke off: {chunk['error']}")
        name = chunk.get("id") or name
        told = (chunk.get("usage") or {}).get("completion_tokens") or told
        if any(choice["delta"].get("content") for choice in chunk.get("choices", [])):
            pieces += 1
            first = first or time.monotonic() - asked
    if not first:
        raise ConnectionError("the answer has no text")
    return Sample(first, told or pieces, name)


def engine_firsts(log: Path) -> dict[str, float]:
    """Seconds to the first token by the engine's own clock, by answer, as a server's log tells."""
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines() if line[:1] == "{"]
    told = [row for row in rows if row.get("event") == "answer_stored"]
    return {f"{PREFIX}{row['candidate']}": row["engine_first_token_ms"] / 1e3 for row in told}


def added_by_service(figures: Figures, engine_s: Mapping[str, float]) -> list[float]:
    """Seconds that each question's first token took beyond what the engine took for it."""
    return [each.first_token_s - engine_s[each.id] for each in figures.samples]
