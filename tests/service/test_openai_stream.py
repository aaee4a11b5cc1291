"""The stream that OpenAI's clients read, where the server is slow or an answer breaks off."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from rlhf_engine.answer_events import Likely
from service.turn_buffer import TurnBuffer
from service.turn_events import AnswerEnded, Event, TokenPiece, TurnDone, TurnFailed, TurnStarted
from service.web import openai_stream
from service.web.openai_answer import STOPPED
from service.web.openai_request import ChatRequest

STARTED = TurnStarted("t1", "c1", ("",), 0, ())
ENDED = AnswerEnded("", "a1", "28", "stop", 0)
TURN: Any = SimpleNamespace(
    turn_id="t1",
    turn=SimpleNamespace(created_at=datetime(2026, 1, 1, tzinfo=UTC)),
    rows=[SimpleNamespace(side="", candidate_id="a1")],
    version_ids=["v1"],
    prompt_tokens=7,
)


def streamed(*events: Event, silent_s: float = 0.0, **request: Any) -> list[str]:
    """The stream's blocks; the last event comes after `silent_s` seconds."""

    async def collect() -> list[str]:
        buffer = TurnBuffer(lambda _readers: None)
        reader = buffer.reader()
        for event in events[:-1]:
            buffer.add(event)
        later = asyncio.get_running_loop().call_later(
            silent_s, lambda: buffer.add(events[-1], last=True)
        )
        writer = openai_stream.ChunkWriter(TURN, ChatRequest([], **request))
        blocks = [block.decode() async for block in openai_stream.lines(writer, reader)]
        later.cancel()
        return blocks

    return asyncio.run(collect())


def test_an_answer_that_breaks_off_ends_the_stream_with_an_error() -> None:
    *_, last = streamed(STARTED, TokenPiece("", "28", 5, -0.5), TurnFailed("t1", "Ask again."))
    assert json.loads(last.removeprefix("data: "))["error"]["message"] == "Ask again."


def test_an_answer_that_was_stopped_has_no_end_of_its_own() -> None:
    broken = AnswerEnded("", "a1", "28", "cancelled", 0)
    piece = TokenPiece("", "28", 5, -0.5)
    for events in ((piece, broken, TurnDone("t1")), (TurnDone("t1"),)):
        *before, last = streamed(STARTED, *events)
        assert json.loads(last.removeprefix("data: "))["error"]["message"] == STOPPED
        assert not any("cancelled" in block for block in before)


def test_silence_is_filled_with_comments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_stream, "PING_S", 0.02)
    blocks = streamed(STARTED, ENDED, TurnDone("t1"), silent_s=0.3)
    comments = [block for block in blocks if block.startswith(":")]
    assert len(comments) > 2
    assert [block for block in blocks if block not in comments][-1] == "data: [DONE]\n\n"


def test_tokens_without_text_are_only_told_where_their_probabilities_are() -> None:
    half = TokenPiece("", "", 5, float("-inf"), (Likely(6, "a", -0.1),))
    assert len(streamed(STARTED, half, ENDED, TurnDone("t1"))) == 3
    _, told, _, _ = streamed(STARTED, half, ENDED, TurnDone("t1"), logprobs=True)
    (entry,) = json.loads(told.removeprefix("data: "))["choices"][0]["logprobs"]["content"]
    assert entry == {
        "token": "",
        "logprob": -9999.0,
        "bytes": [],
        "top_logprobs": [{"token": "a", "logprob": -0.1, "bytes": [97]}],
    }
