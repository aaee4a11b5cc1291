"""Asking an engine and hearing its events, for tests of every engine."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Any

from rlhf_engine.answer_events import Ended, Event, Failed, Token
from rlhf_engine.errors import EngineError
from rlhf_engine.records import Prompt, PromptPassage, SampledAnswer, SamplingSettings
from rlhf_engine.serving_engine import RunningJob, ServingEngine

PROMPT = Prompt("p1", "How many days of annual leave do I have?")
OTHER = Prompt("p2", "Where do I report a lost laptop?", (PromptPassage("d", "IT", "Call us."),))
GREEDY = SamplingSettings(temperature=0.0, max_new_tokens=16)
SAMPLED = SamplingSettings(temperature=1.0, max_new_tokens=16)
LONG = SamplingSettings(temperature=0.0, max_new_tokens=400)
WAIT_S = 120


class Listener:
    """Collects one job's events and holds them to their order: for a row Tokens, then its one
    Ended; after a Failed nothing."""

    def __init__(self) -> None:
        self._events: queue.Queue[Event] = queue.Queue()
        self.first_token = threading.Event()
        self.tokens: dict[int, list[Token]] = {}
        self.answers: dict[int, SampledAnswer] = {}
        self.prompt_tokens: set[int] = set()
        self.error: EngineError | None = None
        self.job: RunningJob

    def __call__(self, event: Event) -> None:
        self._events.put(event)
        if isinstance(event, Token):
            self.first_token.set()

    def wait(self, rows: int = 1) -> Listener:
        """Hear until every row has ended, or the job has failed."""
        while self.error is None and len(self.answers) < rows:
            self._take(self._events.get(timeout=WAIT_S))
        return self

    def nothing_more(self) -> bool:
        """Whether everything that came has been heard."""
        return self._events.empty()

    def text(self, row: int = 0) -> str:
        """A row's text as its Tokens brought it."""
        return "".join(token.text for token in self.tokens[row])

    def _take(self, event: Event) -> None:
        assert isinstance(event, Failed) or event.row not in self.answers
        if isinstance(event, Token):
            self.tokens.setdefault(event.row, []).append(event)
        elif isinstance(event, Ended):
            self.answers[event.row] = event.answer
            self.prompt_tokens.add(event.prompt_tokens)
        else:
            self.error = event.error


def ask(
    engine: ServingEngine,
    handle: str,
    prompt: Prompt = PROMPT,
    settings: SamplingSettings = GREEDY,
    seeds: Sequence[int] = (1,),
    **more: Any,
) -> Listener:
    """Submit; the listener hears."""
    listener = Listener()
    listener.job = engine.submit(handle, prompt, seeds, settings, listener, **more)
    return listener


def answer(engine: ServingEngine, handle: str, *args: Any, **more: Any) -> SampledAnswer:
    """One answer, heard to its end."""
    listener = ask(engine, handle, *args, **more).wait()
    assert listener.error is None, listener.error
    return listener.answers[0]
