"""The engine in service: which policy versions are loaded, which is live, who uses which.

Nothing here reads or moves the alias rows; swap.py tells it what to load and what is live.
"""

from __future__ import annotations

import math
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

import rlhf_engine
from rlhf_engine.answer_events import Ended, Event, Failed
from service.errors import HeedError, NotFoundError, PromotionError
from service.settings import Settings

SMOKE_QUESTIONS = (
    "Who do I ask about my holidays?",
    "Where do I report a lost laptop?",
    "How do I claim travel expenses?",
)
SMOKE_TOKENS = 16
SMOKE_TIMEOUT_S = 120

EngineFactory = Callable[[Path, Settings], Any]

log = structlog.get_logger(__name__)


class NotReadyError(HeedError):
    """Questions cannot be answered yet; the text says why. Trying again later helps."""


class Serving:
    """The engine with its versions. Questions lease the live version for one turn, so that
    a swap never changes or ends an answer that has begun."""

    def __init__(self, settings: Settings, engine_factory: EngineFactory | None = None) -> None:
        self._settings = settings
        self._factory = engine_factory or _torch_engine
        self._lock = threading.Lock()
        self._leases: Counter[str] = Counter()
        self._numbers: dict[str, int] = {}
        self._engine: Any = None
        self._live: str | None = None
        self._aliases: dict[str, str] = {}
        self.base: Path | None = None
        self.waits_for = "the base policy is still loading"
        """What keeps questions from being answered, while `ready` is false."""

    @property
    def ready(self) -> bool:
        """Whether questions are answered."""
        return self._live is not None

    @property
    def live_id(self) -> str | None:
        """The version that new turns use; None until the first is loaded."""
        return self._live

    def open(self, base: Path) -> None:
        """Load the base policy and start the engine; returns when it runs."""
        engine = self._factory(base, self._settings)
        engine.start()
        self.base, self._engine = base, engine

    def close(self, drain_s: float) -> None:
        """Take no more questions, let answers end for up to `drain_s` seconds, then stop."""
        self._live, self.waits_for = None, "the server is stopping"
        if self._engine is not None:
            self._engine.stop(drain_s)

    def load(self, version_id: str, number: int) -> None:
        """Verify a stored version and load it beside the others; EngineError if it cannot be."""
        if self.base is None:
            raise NotReadyError(self.waits_for)
        self._numbers[version_id] = number
        if version_id not in self._engine.loaded():
            folder = self._settings.policies / version_id
            self._engine.load(rlhf_engine.PolicyVersionFolder.open(folder, self.base))

    def try_out(self, version_id: str) -> None:
        """Ask the smoke questions; PromotionError unless the version answers soundly."""
        answers = [self._smoke_answer(version_id, question) for question in SMOKE_QUESTIONS]
        if not any(answer.text.strip() for answer in answers):
            raise PromotionError(f"version {version_id} answers every smoke question with nothing")
        if not all(math.isfinite(value) for answer in answers for value in answer.logprobs):
            raise PromotionError(f"version {version_id} gives probabilities that are not finite")

    def make_live(self, version_id: str) -> None:
        """New turns use this version from now on."""
        with self._lock:
            self._live = version_id
            self._aliases["live"] = version_id

    def retire_unused(self, keep: set[str]) -> None:
        """Unload what is neither kept, nor live, nor leased."""
        for version_id in self.loaded() - keep:
            with self._lock:
                if self._leases[version_id] or version_id == self._live:
                    continue
                # Under the lock: no turn can lease the version while it goes.
                gone = self._engine.retire(version_id)
            if gone:
                log.info("version_unloaded", version=version_id)

    def loaded(self) -> set[str]:
        """Ids of the loaded versions."""
        return set() if self._engine is None else set(self._engine.loaded())

    def leases(self) -> dict[str, int]:
        """How many turns use each version now."""
        with self._lock:
            return {version: count for version, count in self._leases.items() if count}

    def number(self, version_id: str) -> int:
        """The number people read of a loaded version."""
        return self._numbers[version_id]

    def take_lease(self, version: str | None = None) -> str:
        """Fix a version for one turn and return its id; give it back when the turn ends.

        `version` is the id of a loaded version, or "live", "candidate" or "previous"; None
        leaves the choice to the service. NotReadyError while nothing is loaded, NotFoundError
        where no loaded version has that name.
        """
        with self._lock:
            if self._live is None:
                raise NotReadyError(self.waits_for)
            chosen = self._named(version or "live")
            self._leases[chosen] += 1
            return chosen

    def give_back(self, version_id: str) -> None:
        """End one turn's lease."""
        with self._lock:
            self._leases[version_id] -= 1

    @contextmanager
    def leased(self) -> Iterator[str]:
        """The live version, fixed for the block."""
        version_id = self.take_lease()
        try:
            yield version_id
        finally:
            self.give_back(version_id)

    def submit(
        self,
        version_id: str,
        prompt: rlhf_engine.Prompt,
        seeds: list[int],
        on_event: Callable[[Event], None],
        settings: rlhf_engine.SamplingSettings | None = None,
        versions: list[str] | None = None,
    ) -> Any:
        """Ask the engine for one answer a seed; the job, which can be cancelled.

        `settings` None takes those of the deployment; `versions` names each row's where they
        differ, each of them leased. `on_event` is called from the engine's thread.
        QueueFullError where too many wait.
        """
        return self._engine.submit(
            version_id,
            prompt,
            seeds,
            settings or self.sampling(),
            on_event,
            versions=versions,
            max_prompt_tokens=self._settings.answers.max_prompt_tokens,
        )

    def sampling(self) -> rlhf_engine.SamplingSettings:
        """How answers are sampled."""
        answers = self._settings.answers
        return rlhf_engine.SamplingSettings(
            temperature=answers.temperature, max_new_tokens=answers.max_new_tokens
        )

    def stats(self) -> Any:
        """The engine's own figures, None before it runs."""
        return None if self._engine is None else self._engine.stats()

    def _named(self, name: str) -> str:
        found = self._aliases.get(name, name)
        if found in self._engine.loaded():
            return found
        raise NotFoundError(
            f"no policy version {name!r} is loaded; loaded are "
            f"{', '.join(sorted(self._aliases) + sorted(self._engine.loaded()))}"
        )

    def _smoke_answer(self, version_id: str, question: str) -> rlhf_engine.SampledAnswer:
        events: queue.Queue[Event] = queue.Queue()
        job = self._engine.submit(
            version_id,
            rlhf_engine.Prompt(id="smoke", question=question),
            [1],
            rlhf_engine.SamplingSettings(temperature=0.0, max_new_tokens=SMOKE_TOKENS),
            events.put,
            max_prompt_tokens=self._settings.answers.max_prompt_tokens,
        )
        try:
            while True:
                event = events.get(timeout=SMOKE_TIMEOUT_S)
                if isinstance(event, Ended):
                    return event.answer
                if isinstance(event, Failed):
                    raise PromotionError(f"version {version_id} fails to answer: {event.error}")
        except queue.Empty as error:
            job.cancel()
            raise PromotionError(
                f"version {version_id} gave no answer within {SMOKE_TIMEOUT_S} s"
            ) from error


def _torch_engine(base: Path, settings: Settings) -> Any:
    return rlhf_engine.TorchEngine(
        base,
        dtype=settings.dtype,
        threads=settings.threads,
        max_waiting=settings.answers.max_waiting,
    )
