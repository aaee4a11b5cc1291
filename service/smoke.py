"""Smoke questions: whether a loaded version answers at all, before anybody is answered by it."""

from __future__ import annotations

import math
import queue
from collections.abc import Sequence
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


def try_out(
    engine: Any,
    version_id: str,
    max_prompt_tokens: int,
    probes: Sequence[rlhf_engine.Probe] = (),
) -> None:
    """Ask the smoke questions, and those that the version answered in training; PromotionError
    unless it answers soundly, and as it did then, and the EngineError of an answer that fails."""
    asked = [rlhf_engine.Prompt(id="smoke", question=text) for text in QUESTIONS]
    answers = [_answer(engine, version_id, prompt, max_prompt_tokens, TOKENS) for prompt in asked]
    if not any(answer.text.strip() for answer in answers):
        raise PromotionError(f"version {version_id} answers every smoke question with nothing")
    if not all(math.isfinite(value) for answer in answers for value in answer.logprobs):
        raise PromotionError(f"version {version_id} gives probabilities that are not finite")
    _compare(engine, version_id, probes)


def _compare(engine: Any, version_id: str, probes: Sequence[rlhf_engine.Probe]) -> None:
    answers = [
        _answer(engine, version_id, probe.prompt, probe.max_prompt_tokens, len(probe.token_ids))
        for probe in probes
    ]
    other = rlhf_engine.probe_difference(probes, answers, engine.stats().dtype) if probes else None
    if other is not None:
        raise PromotionError(
            f"version {version_id} does not answer here as it did in training: {other}; serve it "
            "with the release of Heed and the base policy that trained it, or train again"
        )


def _answer(
    engine: Any,
    version_id: str,
    prompt: rlhf_engine.Prompt,
    max_prompt_tokens: int,
    tokens: int,
) -> rlhf_engine.SampledAnswer:
    events: queue.Queue[Event] = queue.Queue()
    job = engine.submit(
        version_id,
        prompt,
        [1],
        rlhf_engine.SamplingSettings(temperature=0.0, max_new_tokens=tokens),
        events.put,
        max_prompt_tokens=max_prompt_tokens,
    )
    try:
        while True:
            event = events.get(timeout=TIMEOUT_S)
            if isinstance(event, Ended):
                return event.answer
            if isinstance(event, Failed):
                raise event.error
    except queue.Empty as error:
        job.cancel()
        raise PromotionError(f"version {version_id} gave no answer within {TIMEOUT_S} s") from error
