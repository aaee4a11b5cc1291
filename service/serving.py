"""The engine in service: which policy versions are loaded, which is live, who uses which.

Nothing here reads or moves the alias rows; swap.py tells it what to load and what is live.
"""

from __future__ import annotations

import gc
import hashlib
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

import rlhf_engine
from rlhf_engine.answer_events import Event
from rlhf_engine.records import from_json
from service import smoke
from service.engine_watch import engine_trouble
from service.errors import HeedError, NotFoundError
from service.settings import Settings

EngineFactory = Callable[[Path, Settings], Any]

MARGIN = 16
"""Tokens more that the joints of a prompt may have."""

log = structlog.get_logger(__name__)


class NotReadyError(HeedError):
    """Questions cannot be answered yet; the text says why. Trying again later helps."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The version of one answer. `canary` says that the service, not the asker, chose the
    candidate."""

    version_id: str
    canary: bool = False


class Serving:
    """The engine with its versions. Each answer leases its version until its turn ends, so that
    a swap never changes or ends an answer that has begun."""

    def __init__(self, settings: Settings, engine_factory: EngineFactory | None = None) -> None:
        self._settings = settings
        self._factory = engine_factory or make_engine
        self._lock = threading.Lock()
        self._leases: Counter[str] = Counter()
        self._numbers: dict[str, int] = {}
        self._folders: dict[str, rlhf_engine.PolicyVersionFolder] = {}
        """Versions that were loaded, as they were verified."""
        self._engine: Any = None
        self._frame: int | None = None
        """Tokens of a prompt that asks nothing, once they were counted."""
        self._aliases: dict[str, str] = {}
        self.base: Path | None = None
        self.waits_for = "the base policy is still loading"
        """What keeps the first version from being loaded, or that the server stops."""

    @property
    def ready(self) -> bool:
        """Whether questions are answered: a version is live, and its engine can be asked."""
        return self.trouble is None

    @property
    def trouble(self) -> str | None:
        """What keeps questions from being answered, in words; None where nothing does."""
        if self.live_id is None:
            return self.waits_for
        return engine_trouble(self.stats())

    @property
    def live_id(self) -> str | None:
        """The version that new turns use; None until the first is loaded."""
        return self._aliases.get("live")

    def prepare(self) -> None:
        """Load the built-in engine's libraries where it will be used. The base policy is then
        checked with them, and not in a process that would load them once more.

        What is loaded by then stays, and is not looked through for garbage again."""
        try:
            if self._factory is make_engine and not self._settings.vllm.urls:
                _ = rlhf_engine.TorchEngine
        finally:
            if not gc.isenabled():
                gc.freeze()
                gc.enable()

    def open(self, base: Path) -> None:
        """Load the base policy and start the engine; returns when it runs."""
        engine = self._factory(base, self._settings)
        engine.start()
        self.base, self._engine = base, engine

    def reopen(self) -> None:
        """Put a new engine in the place of one that has ended by itself; does nothing where the
        engine runs. Nothing is loaded into it, and no alias stands for a version until then."""
        if self.base is None or not self._engine.stats().lost:
            return
        engine = self._factory(self.base, self._settings)
        engine.start()
        with self._lock:
            self._engine, ended = engine, self._engine
            self._aliases.clear()
            self.waits_for = "the engine was started again; its versions are still loading"
        ended.stop()
        log.info("engine_started_again", next="loads the versions")

    def close(self, drain_s: float) -> None:
        """Take no more questions, let answers end for up to `drain_s` seconds, then stop."""
        self.waits_for = "the server is stopping"
        with self._lock:
            self._aliases.clear()
        if self._engine is not None:
            self._engine.stop(drain_s)

    def load(self, version_id: str, number: int) -> None:
        """Verify a stored version and load it beside the others; EngineError if it cannot be."""
        if self.base is None:
            raise NotReadyError(self.waits_for)
        self._numbers[version_id] = number
        if version_id not in self._engine.loaded():
            path = self._settings.policies / version_id
            folder = rlhf_engine.PolicyVersionFolder.open(path, self.base)
            self._engine.load(folder)
            self._folders[version_id] = folder

    def try_out(self, version_id: str) -> None:
        """Ask a loaded version the smoke questions and compare it with training; PromotionError
        unless it answers soundly, and as it did there, EngineError where an answer fails."""
        told = self._folders[version_id].manifest["lineage"].get("probes", [])
        probes = [from_json(rlhf_engine.Probe, probe) for probe in told]
        limit = self._settings.answers.max_prompt_tokens
        smoke.try_out(self._engine, version_id, limit, probes)

    def is_passing(self, error: Exception) -> bool:
        """Whether the engine, and not the version, is why a load or a try-out failed: it is full,
        or cannot be asked. Trying again later helps."""
        if isinstance(error, rlhf_engine.PolicyVersionError):
            return False
        if engine_trouble(self.stats()) is not None:
            return True
        return isinstance(error, (NotReadyError, OSError, *self._passing_errors()))

    def make_live(self, version_id: str) -> None:
        """New turns use this version from now on."""
        self.point("live", version_id)

    def point(self, alias: str, version_id: str | None) -> None:
        """Let a name stand for a loaded version from now on, or with None for none."""
        with self._lock:
            if version_id is None:
                self._aliases.pop(alias, None)
            else:
                self._aliases[alias] = version_id

    def retire_unused(self, keep: set[str]) -> None:
        """Unload what is neither kept, nor named by an alias, nor leased."""
        for version_id in self.loaded() - keep:
            with self._lock:
                if self._leases[version_id] or version_id in self._aliases.values():
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

    def aliases(self) -> dict[str, str]:
        """The loaded version that each alias stands for now."""
        with self._lock:
            return dict(self._aliases)

    def number(self, version_id: str) -> int:
        """The number people read of a loaded version."""
        return self._numbers[version_id]

    def lease_answers(
        self,
        answers: int,
        version: str | None = None,
        conversation_id: str | None = None,
        *,
        compared: bool = False,
    ) -> list[Lease]:
        """Fix the version of each answer of a turn; give each back when the turn ends.

        `version` is the id of a loaded version, or "live", "candidate" or "previous". Without
        one it is the live version, or the candidate where the settings send this conversation,
        or the second of answers that are compared, to a canary. NotReadyError while nothing is
        loaded, NotFoundError where no loaded version has that name.
        """
        with self._lock:
            if self.live_id is None:
                raise NotReadyError(self.waits_for)
            if version is None:
                leases = self._choose(answers, conversation_id, compared)
            else:
                leases = [Lease(self._named(version))] * answers
            self._leases.update(lease.version_id for lease in leases)
            return leases

    def give_back(self, version_id: str) -> None:
        """End one turn's lease."""
        with self._lock:
            self._leases[version_id] -= 1

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

    def count_prompt_tokens(self, prompt: rlhf_engine.Prompt, most: int | None) -> int:
        """Tokens of the rendered prompt, shortened as it would be for `most`. NotReadyError while
        no engine runs."""
        if self._engine is None:
            raise NotReadyError(self.waits_for)
        if self._frame is None:
            self._frame = self._engine.count_prompt_tokens(rlhf_engine.Prompt("", ""), None)
        counted: int = self._engine.count_prompt_tokens(prompt, most)
        return counted

    def surely_fits(self, text: str, most: int) -> bool:
        """Whether a prompt with this text has at most `most` tokens, however it is split: a token
        is a byte at least. False where that cannot be told without counting."""
        if self._frame is None or not text.isascii():
            return False
        return self._frame + MARGIN + len(text) <= most

    def stats(self) -> Any:
        """The engine's own figures, None before it runs."""
        return None if self._engine is None else self._engine.stats()

    def made_with(self) -> dict[str, Any]:
        """What an answer depends on besides its version, prompt, seed and sampling settings."""
        return {
            "engine": self._engine.name,
            "dtype": self._engine.stats().dtype,
            "threads": self._settings.threads,
            "max_prompt_tokens": self._settings.answers.max_prompt_tokens,
        }

    def _passing_errors(self) -> tuple[type[Exception], ...]:
        if not self._settings.vllm.urls:
            return (rlhf_engine.QueueFullError,)
        from service.vllm_server import ServerUnusableError

        return rlhf_engine.QueueFullError, ServerUnusableError

    def _choose(self, answers: int, conversation_id: str | None, compared: bool) -> list[Lease]:
        live, candidate = Lease(self._named("live")), self._aliases.get("candidate")
        if candidate is None or candidate == live.version_id:
            return [live] * answers
        canary, wanted = Lease(candidate, canary=True), self._settings.answers
        if compared:
            second = canary if wanted.canary_in_comparisons else live
            return [second if answer == 1 else live for answer in range(answers)]
        chosen = conversation_id and _place(candidate, conversation_id) < wanted.canary_share
        return [canary if chosen else live] * answers

    def _named(self, name: str) -> str:
        found = self._aliases.get(name, name)
        loaded = self.loaded()
        if found in loaded:
            return found
        raise NotFoundError(
            f"no policy version {name!r} is loaded; loaded are "
            f"{', '.join([*sorted(self._aliases), *sorted(loaded)])}; an operator can load "
            "another beside the live one by `heed candidate VERSION`"
        )


def _place(version_id: str, conversation_id: str) -> float:
    """A conversation's place in [0, 1), always the same beside one candidate."""
    digest = hashlib.sha256(f"{version_id}/{conversation_id}".encode()).digest()
    return int.from_bytes(digest[:4]) / 2**32


def make_engine(base: Path, settings: Settings) -> Any:
    """The engine that the settings ask for, not yet started."""
    if settings.vllm.urls:
        from service.vllm_engine import VllmEngine

        return VllmEngine(base, settings.vllm, settings.answers.max_waiting)
    return rlhf_engine.TorchEngine(
        base,
        dtype=settings.dtype,
        threads=settings.threads,
        max_waiting=settings.answers.max_waiting,
    )
