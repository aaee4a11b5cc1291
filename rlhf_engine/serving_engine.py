"""What a serving engine does. One conformance suite (tests/engines) runs over every engine.

An engine holds several PolicyVersions at once, each under its own immutable id, its handle.
An answer keeps the version it began with, whatever is loaded or retired meanwhile. No torch.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from rlhf_engine.answer_events import Ended, EngineStats, Event, Failed
from rlhf_engine.errors import GenerationError, PolicyVersionError, QueueFullError
from rlhf_engine.policy_version import PolicyVersionFolder
from rlhf_engine.records import Prompt, SamplingSettings

OnEvent = Callable[[Event], None]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What to answer. Row i has `versions[i]` and `seeds[i]`."""

    prompt: Prompt
    versions: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: SamplingSettings
    max_prompt_tokens: int


class RunningJob(Protocol):
    """One request on its way."""

    first_token_s: float | None
    """Seconds that the engine took from hearing of it to its first token, by its own clock; None
    before that token."""

    def cancel(self) -> None:
        """End it within one decode step, from any thread; a job that is over stays as it is."""


class ServingEngine(Protocol):
    """Answers prompts with loaded versions. All methods may be called from any thread."""

    name: str
    """What computes the answers: only an engine of the same name can make one again."""

    def start(self) -> None:
        """Check the base policy and be ready to load versions; BasePolicyError or EngineError
        where that cannot be."""

    def stop(self, drain_s: float = 0.0) -> None:
        """Take no more jobs, let those here end for up to `drain_s` seconds, then stop. Every
        listener hears Ended for each row, or one Failed."""

    def load(self, version: PolicyVersionFolder) -> str:
        """Put a version beside the others and return its handle, which is its id; loading it
        again changes nothing. PolicyVersionError leaves everything as it was."""

    def retire(self, handle: str) -> bool:
        """Forget a version; False, and nothing changes, while a job uses it. Never waits."""

    def loaded(self) -> set[str]:
        """Handles of the versions that can be asked."""

    def submit(
        self,
        handle: str,
        prompt: Prompt,
        seeds: Sequence[int],
        settings: SamplingSettings,
        on_event: OnEvent,
        versions: Sequence[str] | None = None,
        max_prompt_tokens: int = 384,
    ) -> RunningJob:
        """Ask for one answer a seed; `versions` names each row's handle where they differ.

        `on_event` is called from the engine's thread and must be quick: for every row a Token
        for each token and one Ended, or one Failed for the whole job. The same seed, prompt,
        version and settings give the same tokens, whatever else is being answered.
        Raises QueueFullError, PolicyVersionError for a handle that is not loaded, and
        GenerationError while the engine is not running.
        """

    def count_prompt_tokens(self, prompt: Prompt, max_tokens: int | None) -> int:
        """Tokens of the rendered prompt, shortened as it would be for `max_tokens`."""

    def stats(self) -> EngineStats:
        """The engine's state now."""


def versions_of_rows(
    handle: str, seeds: Sequence[int], versions: Sequence[str] | None, max_rows: int
) -> tuple[str, ...]:
    """Each row's version; GenerationError where they are not as many as the seeds, or too many."""
    chosen = tuple(versions) if versions is not None else (handle,) * len(seeds)
    if not 1 <= len(seeds) <= max_rows or len(chosen) != len(seeds):
        raise GenerationError(
            f"{len(seeds)} seeds and {len(chosen)} versions; give as many of both, 1 to {max_rows}"
        )
    return chosen


def check_loaded(versions: Iterable[str], loaded: Container[str], *, accepting: bool) -> None:
    """Raise GenerationError while no jobs are taken, PolicyVersionError for a version that is
    not loaded."""
    if not accepting:
        raise GenerationError("the engine is not running; try again when it has started")
    for version in versions:
        if version not in loaded:
            raise PolicyVersionError(f"policy version {version} is not loaded; load it first")


def check_queue(waiting: int, max_waiting: int) -> None:
    """Raise QueueFullError where no more may wait."""
    if waiting >= max_waiting:
        raise QueueFullError(f"{max_waiting} questions wait already; try again in a moment")


def delivered(on_event: OnEvent, event: Event) -> bool:
    """Tell a listener; False where it raised: it has left, and its job is to be cancelled."""
    try:
        on_event(event)
    except Exception as error:  # noqa: BLE001 - a listener must not end the engine
        log.warning("answer_listener_failed", error=repr(error), next="the job is cancelled")
        return False
    return True


def deliver_into(events: asyncio.Queue[Event], loop: asyncio.AbstractEventLoop) -> OnEvent:
    """A listener that hands events from the engine's thread to a queue of the loop's."""

    def deliver(event: Event) -> None:
        # A loop that is closed has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(events.put_nowait, event)

    return deliver


async def generate(
    engine: ServingEngine,
    handle: str,
    prompt: Prompt,
    settings: SamplingSettings,
    seeds: Sequence[int],
    max_prompt_tokens: int = 384,
) -> AsyncIterator[Event]:
    """The answers as an async stream of events, the last an Ended; close it to cancel.

    Raises what `submit` raises, and the EngineError of a Failed.
    """
    events: asyncio.Queue[Event] = asyncio.Queue()
    deliver = deliver_into(events, asyncio.get_running_loop())
    job = engine.submit(
        handle, prompt, seeds, settings, deliver, max_prompt_tokens=max_prompt_tokens
    )
    try:
        left = len(seeds)
        while left:
            event = await events.get()
            if isinstance(event, Failed):
                raise event.error
            left -= isinstance(event, Ended)
            yield event
    finally:
        job.cancel()
