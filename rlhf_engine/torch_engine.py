"""The built-in serving engine: one thread that owns the base policy and answers with it.

The base policy's weights are in memory once; each PolicyVersion is an adapter over them
under its own immutable id. In each round the thread does what others asked for (install an
adapter, drop one), takes in waiting jobs, reads one chunk of one prompt, and draws one token
for every row: all rows of a version are computed together (decoding.py), whoever asked for
them. A job keeps the versions it began with, whatever is loaded meanwhile.

transformers' own continuous batching is not used: a request there cannot name its adapter or
its seed.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path

import structlog
import torch

from rlhf_engine.answer_events import Ended, EngineStats, Event, Failed, Token
from rlhf_engine.answer_job import Job
from rlhf_engine.answer_rounds import AnswerRounds
from rlhf_engine.backbone import Backbone
from rlhf_engine.base_policy import check_base
from rlhf_engine.decoding import BATCH_SIZE
from rlhf_engine.errors import (
    Cancelled,
    EngineError,
    GenerationError,
)
from rlhf_engine.policy_version import PolicyVersionFolder
from rlhf_engine.prompt_length import count_prompt_tokens
from rlhf_engine.records import Prompt, SamplingSettings
from rlhf_engine.serving_adapters import AdapterFiles, drop, install, read_verified
from rlhf_engine.serving_engine import (
    OnEvent,
    Request,
    check_loaded,
    check_queue,
    versions_of_rows,
)
from rlhf_engine.speed import faster_dtype

__all__ = ["Ended", "EngineStats", "Event", "Failed", "Job", "Token", "TorchEngine"]

log = structlog.get_logger(__name__)


class TorchEngine:
    """Answers prompts with any loaded PolicyVersion, streaming. All methods are thread-safe."""

    name = "TorchEngine"

    def __init__(
        self,
        base: Path,
        dtype: str = "auto",
        threads: int = 2,
        max_waiting: int = 32,
        max_rows: int = BATCH_SIZE,
    ) -> None:
        """Load nothing yet.

        `threads` is how many CPU threads torch uses, `max_rows` how many answers are drawn at
        once; up to `max_waiting` jobs more wait their turn.
        """
        self.base = Path(base)
        self._dtype, self._threads = dtype, threads
        self._max_waiting, self._max_rows = max_waiting, max_rows
        self._changed = threading.Condition()
        # Guarded by _changed:
        self._waiting: deque[Job] = deque()
        self._orders: deque[Callable[[], None]] = deque()
        self._adapters: dict[str, str | None] = {}
        self._using: Counter[str] = Counter()
        self._accepting = False
        self._stop_at: float | None = None
        # Touched by the engine's thread only (read by stats):
        self._rounds: AnswerRounds | None = None
        self._round_began: float | None = None
        self._ended = self._failed = 0
        self._backbone: Backbone | None = None
        self._context = 0
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Load the base policy and begin to answer; returns when ready.

        Raises BasePolicyError where the base policy cannot be used.
        """
        if self._thread is not None:
            raise GenerationError("this engine was started before; make a new one")
        loaded: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(loaded,), name="heed-engine", daemon=True
        )
        self._thread.start()
        loaded.result()

    def stop(self, drain_s: float = 0.0) -> None:
        """Take no more jobs, let those here end for up to `drain_s` seconds, then stop."""
        with self._changed:
            self._accepting = False
            self._stop_at = time.monotonic() + drain_s
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def load(self, version: PolicyVersionFolder) -> str:
        """Add a version beside the others; returns its handle, its id, when it can be asked.

        The folder is verified again and read in the caller's thread, so that answers go
        on meanwhile. PolicyVersionError leaves everything as it was.
        """
        if version.id in self.loaded():
            return version.id
        version_id, files = read_verified(version.path, self.base)
        self._between_steps(lambda: self._add(version_id, files)).result()
        log.info("policy_version_loaded", version=version_id)
        return version_id

    def retire(self, version_id: str) -> bool:
        """Forget a version and free its memory; False while a job still uses it.

        Never waits: the memory is free when the step that runs now is over.
        """
        with self._changed:
            if self._using[version_id]:
                return False
            adapter = self._adapters.pop(version_id, None)
            if adapter is not None:
                self._orders.append(lambda: self._drop(adapter))
                self._changed.notify_all()
        return True

    def loaded(self) -> set[str]:
        """Ids of the versions that can be asked."""
        with self._changed:
            return set(self._adapters)

    def submit(
        self,
        version_id: str,
        prompt: Prompt,
        seeds: Sequence[int],
        settings: SamplingSettings,
        on_event: OnEvent,
        versions: Sequence[str] | None = None,
        max_prompt_tokens: int = 384,
    ) -> Job:
        """Ask for one answer a seed; `versions` names each row's version where they differ.

        `on_event` is called from the engine's thread and must be quick: for every row its
        Tokens and one Ended, or one Failed for the whole job. The same seeds, prompt,
        versions and settings give the same tokens, whatever else is being answered.
        Raises QueueFullError, PolicyVersionError for a version that is not loaded, and
        GenerationError while the engine is not running.
        """
        chosen = versions_of_rows(version_id, seeds, versions, self._max_rows)
        request = Request(prompt, chosen, tuple(seeds), settings, max_prompt_tokens)
        job = Job(request, on_event, self._wake)
        with self._changed:
            self._check_room(chosen)
            self._using.update(set(chosen))
            self._waiting.append(job)
            self._changed.notify_all()
        return job

    def count_prompt_tokens(self, prompt: Prompt, max_tokens: int | None) -> int:
        """Tokens of the rendered prompt, shortened as it would be for `max_tokens`."""
        return count_prompt_tokens(self.base, prompt, max_tokens)

    def stats(self) -> EngineStats:
        """The engine's state now."""
        began = self._round_began
        alive = self._thread is not None and self._thread.is_alive()
        with self._changed:
            return EngineStats(
                ready=self._accepting and alive,
                dtype=self._dtype,
                active=self._jobs,
                rows=0 if self._rounds is None else self._rounds.rows,
                waiting=len(self._waiting),
                ended=self._ended,
                failed=self._failed,
                tokens=0 if self._rounds is None else self._rounds.tokens,
                using={version: self._using[version] for version in self._adapters},
                alive=alive,
                round_s=0.0 if began is None else time.monotonic() - began,
                slots=self._max_rows,
                taken=self._taken(),
                reading=0 if self._rounds is None else self._rounds.reading,
            )

    @property
    def _jobs(self) -> int:
        return 0 if self._rounds is None else self._rounds.jobs

    def _taken(self) -> int:
        room = self._max_rows if self._rounds is None else self._rounds.room
        return self._max_rows - room + sum(len(job.request.seeds) for job in self._waiting)

    def _check_room(self, versions: Sequence[str]) -> None:
        check_loaded(versions, self._adapters, accepting=self._accepting)
        check_queue(len(self._waiting), self._max_waiting)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _between_steps(self, order: Callable[[], None]) -> Future[None]:
        """Have the engine's thread do something before its next step."""
        outcome: Future[None] = Future()

        def carry_out() -> None:
            try:
                order()
            except Exception as error:  # noqa: BLE001 - handed on to the waiting thread
                outcome.set_exception(error)
            else:
                outcome.set_result(None)

        with self._changed:
            if self._stop_at is not None or self._backbone is None:
                raise GenerationError("the engine is not running; try again when it has started")
            self._orders.append(carry_out)
            self._changed.notify_all()
        return outcome

    # Everything below runs in the engine's thread.

    def _run(self, loaded: Future[None]) -> None:
        try:
            self._open()
        except Exception as error:  # noqa: BLE001 - handed on to the starting thread
            loaded.set_exception(error)
            return
        loaded.set_result(None)
        try:
            while self._wait_for_work():
                self._round()
        finally:
            self._close()

    def _open(self) -> None:
        torch.set_num_threads(self._threads)
        self._context = check_base(self.base).context or 2048
        if self._dtype == "auto":
            self._dtype = faster_dtype(self.base, self._threads)
        backbone = Backbone.load(self.base, self._dtype)
        with self._changed:
            self._backbone, self._accepting = backbone, self._stop_at is None
            self._rounds = AnswerRounds(backbone, self._context, self._max_rows, self._finish)

    def _wait_for_work(self) -> bool:
        """False when it is time to stop."""
        with self._changed:
            while not (self._orders or self._waiting or self._jobs):
                if self._stop_at is not None:
                    return False
                self._changed.wait()
            return self._stop_at is None or time.monotonic() < self._stop_at

    def _round(self) -> None:
        self._round_began = time.monotonic()
        self._carry_out_orders()
        self._drop_withdrawn()
        self._admit()
        with self._changed:
            adapters = dict(self._adapters)
        assert self._rounds is not None
        self._rounds.go_on(adapters)
        self._round_began = None

    def _carry_out_orders(self) -> None:
        while True:
            with self._changed:
                if not self._orders:
                    return
                order = self._orders.popleft()
            order()

    def _admit(self) -> None:
        """Take in waiting jobs, in their order, while there is room for all of their answers."""
        assert self._rounds is not None
        while True:
            with self._changed:
                if not self._waiting or len(self._waiting[0].request.seeds) > self._rounds.room:
                    return
                job = self._waiting.popleft()
            self._rounds.admit(job)

    def _drop_withdrawn(self) -> None:
        with self._changed:
            left = [job for job in self._waiting if job.cancelled]
            self._waiting = deque(job for job in self._waiting if not job.cancelled)
        for job in left:
            self._finish(job, Cancelled("the question was withdrawn while it waited"))

    def _finish(self, job: Job, error: EngineError | None) -> None:
        with self._changed:
            self._using.subtract(set(job.request.versions))
            if error is None:
                self._ended += 1
            else:
                self._failed += 1
        job.close(error)

    def _close(self) -> None:
        """Fail what is left, so that nobody waits for an answer that never comes."""
        with self._changed:
            self._accepting = False
            self._stop_at = self._stop_at or time.monotonic()
            left, self._waiting = list(self._waiting), deque()
        self._carry_out_orders()
        stopped = GenerationError("the engine stopped before the answer ended")
        if self._rounds is not None:
            self._rounds.close(stopped)
        for job in left:
            self._finish(job, stopped)
        self._backbone = self._rounds = None

    def _add(self, version_id: str, files: AdapterFiles | None) -> None:
        """Without adapter files it is version 0, the base policy alone."""
        if version_id in self.loaded():
            return
        if files is not None:
            assert self._backbone is not None
            install(self._backbone, version_id, files)
        with self._changed:
            self._adapters[version_id] = None if files is None else version_id

    def _drop(self, name: str) -> None:
        assert self._backbone is not None
        drop(self._backbone, name)
