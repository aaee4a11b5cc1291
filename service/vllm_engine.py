"""The serving engine over remote vLLM servers, in place of the built-in one.

Each policy version is loaded on every server under its own immutable id, which is its name
there for good: a name that was reused for other weights could answer from key-values that
the old ones computed. Version 0 is loaded like the others, as an adapter that changes nothing
(rlhf_engine/idle_adapter.py says why). One thread runs the event loop that all of it happens in.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Coroutine, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import structlog

from rlhf_engine.answer_events import EngineStats
from rlhf_engine.base_policy import check_base, load_tokenizer
from rlhf_engine.errors import EngineError, GenerationError
from rlhf_engine.idle_adapter import idle_adapter
from rlhf_engine.policy_version import PolicyVersionFolder
from rlhf_engine.prompt_length import count_prompt_tokens
from rlhf_engine.records import Prompt, SamplingSettings
from rlhf_engine.serving_engine import (
    OnEvent,
    Request,
    check_loaded,
    check_queue,
    versions_of_rows,
)
from service.settings import VllmSettings
from service.vllm_job import VllmJob
from service.vllm_server import VllmServer
from service.vllm_servers import VllmServers

MAX_ROWS = 16
UNLOAD_S = 5.0
"""How long stopping waits for servers that are told to forget versions."""

Result = TypeVar("Result")

log = structlog.get_logger(__name__)


class VllmEngine:
    """Answers prompts with versions loaded on vLLM servers. All methods are thread-safe."""

    name = "VllmEngine"

    def __init__(self, base: Path, settings: VllmSettings, max_waiting: int = 32) -> None:
        """Ask nobody yet. Up to `vllm.max_active` jobs are on the servers at once; up to
        `max_waiting` more wait here."""
        self.base = Path(base)
        self._settings, self._max_waiting = settings, max_waiting
        self._loop: asyncio.AbstractEventLoop
        self._thread = threading.Thread(target=self._run, name="heed-vllm", daemon=True)
        self._lock = threading.Lock()
        # Guarded by _lock:
        self._waiting: deque[VllmJob] = deque()
        self._active: list[VllmJob] = []
        self._loaded: set[str] = set()
        self._using: Counter[str] = Counter()
        self._accepting = False
        self._ended = self._failed = self._tokens = 0
        # Used in the event loop:
        self._servers: VllmServers | None = None
        self._watch: asyncio.Task[None] | None = None
        self._unloading: set[asyncio.Task[None]] = set()
        self._tokenizer: Any = None

    def start(self) -> None:
        """Find the servers; returns when one can be used.

        Raises BasePolicyError where they serve another base policy, or have to be started
        otherwise, and GenerationError where none can be reached.
        """
        if self._thread.ident is not None:
            raise GenerationError("this engine was started before; make a new one")
        check_base(self.base)
        self._tokenizer = load_tokenizer(self.base)
        self._loop = asyncio.new_event_loop()
        self._thread.start()
        try:
            self._in_loop(self._open())
        except BaseException:
            self.stop()
            raise

    def stop(self, drain_s: float = 0.0) -> None:
        """Take no more jobs, let those here end for up to `drain_s` seconds, then stop."""
        with self._lock:
            self._accepting = False
        if self._thread.is_alive():
            self._in_loop(self._close(drain_s))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    def load(self, version: PolicyVersionFolder) -> str:
        """Give a version to every server; returns its handle, its id, when it can be asked.

        The folder is verified again first. PolicyVersionError, and no server keeps the version,
        where it is unsound or one server refuses it; GenerationError where none is up.
        """
        if version.id in self.loaded():
            return version.id
        verified = PolicyVersionFolder.open(version.path, self.base)
        if not self._accepting or self._servers is None:
            raise GenerationError("the engine is not running; try again when it has started")
        self._in_loop(self._servers.load(verified.id, self._folder_there(verified)))
        with self._lock:
            self._loaded.add(verified.id)
        log.info("policy_version_loaded", version=verified.id)
        return verified.id

    def retire(self, handle: str) -> bool:
        """Forget a version; False, and nothing changes, while a job uses it. Never waits: the
        servers are told meanwhile."""
        with self._lock:
            if self._using[handle]:
                return False
            known = handle in self._loaded
            self._loaded.discard(handle)
        if known and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._unload, handle)
        return True

    def loaded(self) -> set[str]:
        """Handles of the versions that can be asked."""
        with self._lock:
            return set(self._loaded)

    def submit(
        self,
        handle: str,
        prompt: Prompt,
        seeds: Sequence[int],
        settings: SamplingSettings,
        on_event: OnEvent,
        versions: Sequence[str] | None = None,
        max_prompt_tokens: int = 384,
    ) -> VllmJob:
        """Ask for one answer a seed; see `ServingEngine.submit`.

        Raises QueueFullError, PolicyVersionError for a version that is not loaded, and
        GenerationError while the engine is not running or no server is up.
        """
        chosen = versions_of_rows(handle, seeds, versions, MAX_ROWS)
        request = Request(prompt, chosen, tuple(seeds), settings, max_prompt_tokens)
        job = VllmJob(request, on_event, self._withdraw)
        with self._lock:
            self._check_room(chosen)
            self._using.update(set(chosen))
            self._waiting.append(job)
        self._loop.call_soon_threadsafe(self._admit)
        return job

    def count_prompt_tokens(self, prompt: Prompt, max_tokens: int | None) -> int:
        """Tokens of the rendered prompt, shortened as it would be for `max_tokens`."""
        return count_prompt_tokens(self.base, prompt, max_tokens)

    def stats(self) -> EngineStats:
        """The engine's state now; ready while a server is up."""
        with self._lock:
            return EngineStats(
                ready=self._accepting and self._reachable(),
                dtype="vllm",
                active=len(self._active),
                rows=sum(job.open_rows for job in self._active),
                waiting=len(self._waiting),
                ended=self._ended,
                failed=self._failed,
                tokens=self._tokens + sum(job.tokens for job in self._active),
                using={handle: self._using[handle] for handle in self._loaded},
                # Counted in jobs, as many as `max_active` bounds.
                slots=self._settings.max_active,
                taken=len(self._active) + len(self._waiting),
            )

    def _check_room(self, versions: Sequence[str]) -> None:
        check_loaded(versions, self._loaded, accepting=self._accepting)
        if not self._reachable():
            raise GenerationError("no vLLM server can be reached; try again soon")
        check_queue(len(self._waiting), self._max_waiting)

    def _reachable(self) -> bool:
        return self._servers is not None and bool(self._servers.up)

    def _folder_there(self, version: PolicyVersionFolder) -> str:
        """The folder of a version's adapter, as the servers see it."""
        folder = version.path
        if version.is_base:
            folder = idle_adapter(self.base, folder.with_name(f"{version.id}-idle"))
        if self._settings.policies_path is None:
            return str(folder.resolve())
        return str(PurePosixPath(self._settings.policies_path) / folder.name)

    def _in_loop(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _withdraw(self, job: VllmJob, why: EngineError) -> None:
        # A loop that is closed has ended every job.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end, job, why)

    # Everything below runs in the event loop.

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def _open(self) -> None:
        servers = [VllmServer(url, self._settings) for url in self._settings.urls]
        self._servers = VllmServers(servers, self._settings.max_loras, self._tokenizer)
        await self._servers.open()
        self._watch = asyncio.create_task(self._servers.watch())
        with self._lock:
            self._accepting = True

    async def _close(self, drain_s: float) -> None:
        until = time.monotonic() + drain_s
        while (tasks := self._tasks()) and (left := until - time.monotonic()) > 0:
            await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        with self._lock:
            here = [*self._waiting, *self._active]
        for job in here:
            self._end(job, GenerationError("the engine stopped before the answer ended"))
        await asyncio.gather(*self._tasks(), return_exceptions=True)
        if self._unloading:
            await asyncio.wait(self._unloading, timeout=UNLOAD_S)
        rest = [*self._unloading, *([] if self._watch is None else [self._watch])]
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        if self._servers is not None:
            await self._servers.close()

    def _unload(self, handle: str) -> None:
        assert self._servers is not None
        task = self._loop.create_task(self._servers.unload(handle))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    def _tasks(self) -> list[asyncio.Task[None]]:
        with self._lock:
            return [job.task for job in self._active if job.task is not None]

    def _admit(self) -> None:
        """Send waiting jobs on, in their order, while there is room."""
        while True:
            with self._lock:
                if not self._waiting or len(self._active) >= self._settings.max_active:
                    return
                job = self._waiting.popleft()
                self._active.append(job)
            job.task = self._loop.create_task(self._answer(job))

    def _end(self, job: VllmJob, why: EngineError) -> None:
        """End a job from outside; nothing happens where it is over."""
        with self._lock:
            waits = job in self._waiting
            if waits:
                self._waiting.remove(job)
        if waits:
            self._finish(job, why)
        elif job.task is not None:
            job.why = why
            job.task.cancel()

    async def _answer(self, job: VllmJob) -> None:
        assert self._servers is not None
        error: EngineError | None = None
        try:
            await job.answer(self._servers, self._tokenizer)
        except asyncio.CancelledError:
            error = job.why
        except Exception as failure:  # noqa: BLE001 - one job's failure must not end the engine
            error = _as_engine_error(failure)
        with self._lock:
            self._active.remove(job)
            self._tokens += job.tokens
        self._finish(job, error)
        self._admit()

    def _finish(self, job: VllmJob, error: EngineError | None) -> None:
        with self._lock:
            self._using.subtract(set(job.request.versions))
            self._ended += error is None
            self._failed += error is not None
        job.close(error)


def _as_engine_error(error: Exception) -> EngineError:
    if isinstance(error, EngineError):
        return error
    log.error("answer_failed", error=repr(error))
    return GenerationError(f"the answer could not be generated: {error}")
