"""Smoke questions: whether a loaded version answers at all, before anybody is answered by it."""

from __future__ import annotations

import math
import queue
from typing import Any

import rlhf_engine
from rlhf_engine.answer_events import Ended, Event, Failed
from service.errors import PromotionError

QUESTIONS = (
    "Who do I ask about my holidays?",
    "Where do I report a lost laptop?",
    "How do I claim travel expenses?",
)
TOKENS = 16
TIMEOUT_S = 120


def try_out(engine: Any, version_id: str, max_prompt_tokens: int) -> None:
    """Ask the smoke questions; PromotionError unless the version answers soundly."""
    answers = [_answer(engine, version_id, text, max_prompt_tokens) for text in QUESTIONS]
    if not any(answer.text.strip() for answer in answers):
        raise PromotionError(f"version {version_id} answers every smoke question with nothing")
    if not all(math.isfinite(value) for answer in answers for value in answer.logprobs):
        raise PromotionError(f"version {version_id} gives probabilities that are not finite")


def _answer(
    engine: Any, version_id: str, question: str, max_prompt_tokens: int
) -> rlhf_engine.SampledAnswer:
    events: queue.Queue[Event] = queue.Queue()
    job = engine.submit(
        version_id,
        rlhf_engine.Prompt(id="smoke", question=question),
        [1],
        rlhf_engine.SamplingSettings(temperature=0.0, max_new_tokens=TOKENS),
        events.put,
        max_prompt_tokens=max_prompt_tokens,
    )
    try:
        while True:
            event = events.get(timeout=TIMEOUT_S)
            if isinstance(event, Ended):
                return event.answer
            if isinstance(event, Failed):
                raise PromotionError(f"version {version_id} fails to answer: {event.error}")
    except queue.Empty as error:
        job.cancel()
        raise PromotionError(f"version {version_id} gave no answer within {TIMEOUT_S} s") from error
