"""The built-in engine, in a process of its own: the serving engine that `heed serve` uses.

The queue, the leases of versions and all counting are here, so that no question waits for the
process to know whether it is taken. engine_process.py is the other end. Where the process
ends by itself, every job fails, nothing is loaded any more, and a new engine must be made.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from rlhf_engine.answer_events import EngineStats
from rlhf_engine.errors import Cancelled, EngineError, GenerationError
from rlhf_engine.policy_version import PolicyVersionFolder
from rlhf_engine.records import Prompt, SamplingSettings
from rlhf_engine.serving_engine import (
    OnEvent,
    Request,
    check_loaded,
    check_queue,
    versions_of_rows,
)
from service import engine_wire as wire
from service.engine_line import ENDS_S, EngineLine, EngineProcess
from service.process_job import ProcessJob
from service.settings import Settings

MAX_ROWS = 16
"""Answers drawn at once."""
SILENT_S = 10.0
"""A process that says nothing for so long hangs, though it was at rest."""
log = structlog.get_logger(__name__)


class ProcessEngine:
    """Answers prompts with any loaded PolicyVersion. All methods are thread-safe."""

    name = "TorchEngine"

    def __init__(
        self,
        base: Path,
        dtype: str = "auto",
        threads: int = 2,
        max_waiting: int = 32,
        max_rows: int = MAX_ROWS,
        process: EngineProcess | None = None,
    ) -> None:
        """Load nothing yet; the arguments are those of TorchEngine. `process` is one that was
        started before."""
        self.base = Path(base)
        self._dtype, self._threads = dtype, threads
        self._max_waiting, self._max_rows = max_waiting, max_rows
        self._process = process
        self._line: EngineLine | None = None
        self._changed = threading.Condition()
        # Guarded by _changed:
        self._waiting: deque[ProcessJob] = deque()
        self._active: dict[int, ProcessJob] = {}
        self._loaded: set[str] = set()
        self._using: Counter[str] = Counter()
        self._accepting = self._stopping = self._gone = False
        self._ended = self._failed = self._tokens = self._jobs = 0
        self._pulse, self._heard_at = wire.Pulse(alive=True, round_s=0.0), time.monotonic()

    @property
    def pid(self) -> int | None:
        """The process's id; None before the start."""
        return None if self._line is None else self._line.process.pid

    def start(self) -> None:
        """Have the base policy loaded; returns when ready.

        Raises BasePolicyError where the base policy cannot be used.
        """
        if self._line is not None:
            raise GenerationError("this engine was started before; make a new one")
        self._line = EngineLine(self._process or EngineProcess(), self._take, self._lose)
        asked = str(self.base.resolve()), self._dtype, self._threads, self._max_rows
        try:
            self._dtype = str(self._line.call(lambda number: wire.Open(number, *asked)))
        except BaseException:
            self.stop()
            raise
        with self._changed:
            self._accepting = not (self._stopping or self._gone)

    def stop(self, drain_s: float = 0.0) -> None:
        """Take no more jobs, let those here end for up to `drain_s` seconds, then stop."""
        with self._changed:
            self._accepting = False
            self._changed.wait_for(lambda: not (self._waiting or self._active), drain_s)
            self._stopping = True
            left = [*self._waiting]
            self._waiting.clear()
        for job in left:
            self._over(job, _stopped())
        if self._line is not None:
            self._line.hang_up()

    def load(self, version: PolicyVersionFolder) -> str:
        """Add a version beside the others; returns its handle, its id, when it can be asked.

        The folder is verified again there. PolicyVersionError leaves everything as it was.
        """
        if version.id in self.loaded():
            return version.id
        path = str(version.path.resolve())
        found = str(self._running().call(lambda number: wire.Load(number, path)))
        with self._changed:
            self._loaded.add(found)
        return found

    def retire(self, handle: str) -> bool:
        """Forget a version; False, and nothing changes, while a job uses it. Never waits."""
        with self._changed:
            if self._using[handle]:
                return False
            if handle in self._loaded:
                self._loaded.discard(handle)
                self._say(wire.Retire(handle))
        return True

    def loaded(self) -> set[str]:
        """Ids of the versions that can be asked."""
        with self._changed:
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
    ) -> ProcessJob:
        """Ask for one answer a seed; see `ServingEngine.submit`."""
        chosen = versions_of_rows(handle, seeds, versions, self._max_rows)
        request = Request(prompt, chosen, tuple(seeds), settings, max_prompt_tokens)
        with self._changed:
            check_loaded(chosen, self._loaded, accepting=self._accepting)
            check_queue(len(self._waiting), self._max_waiting)
            self._jobs += 1
            job = ProcessJob(self._jobs, request, on_event, self._withdraw)
            self._using.update(set(chosen))
            self._waiting.append(job)
            self._admit()
        return job

    def count_prompt_tokens(self, prompt: Prompt, max_tokens: int | None) -> int:
        """Tokens of the rendered prompt, shortened as it would be for `max_tokens`."""
        counted = self._running().call(lambda number: wire.Count(number, prompt, max_tokens))
        return int(counted or 0)

    def stats(self) -> EngineStats:
        """The engine's state now."""
        with self._changed:
            jobs = [*self._waiting, *self._active.values()]
            return EngineStats(
                ready=self._accepting,
                dtype=self._dtype,
                active=len(self._active),
                rows=sum(job.drawing for job in self._active.values()),
                waiting=len(self._waiting),
                ended=self._ended,
                failed=self._failed,
                tokens=self._tokens,
                using={version: self._using[version] for version in self._loaded},
                alive=self._line is not None and not (self._gone and self._stopping),
                lost=self._gone and not self._stopping,
                round_s=self._round_s(),
                slots=self._max_rows,
                taken=sum(job.size for job in jobs),
                reading=sum(job.reads for job in self._active.values()),
            )

    def _round_s(self) -> float:
        silent_s = time.monotonic() - self._heard_at
        if self._accepting and (self._pulse.round_s or silent_s > SILENT_S):
            return self._pulse.round_s + silent_s
        return 0.0

    def _admit(self) -> None:
        """Hand waiting jobs over, in their order, while there is room for all of their answers;
        under the lock."""
        room = self._max_rows - sum(job.size for job in self._active.values())
        while self._waiting and self._waiting[0].size <= room:
            job = self._waiting.popleft()
            room -= job.size
            self._active[job.number] = job
            self._say(job.asked())

    def _withdraw(self, job: ProcessJob) -> None:
        with self._changed:
            waits = job in self._waiting
            if waits:
                self._waiting.remove(job)
                self._admit()
            elif job.number in self._active:
                self._say(wire.Cancel(job.number))
        if waits:
            why = Cancelled("the question was withdrawn while it waited")
            self._say(lambda: self._over(job, why))

    def _over(self, job: ProcessJob, error: EngineError | None) -> None:
        """Count a job out, then tell."""
        with self._changed:
            self._active.pop(job.number, None)
            self._using.subtract(set(job.request.versions))
            self._ended += error is None
            self._failed += error is not None
            self._admit()
            self._changed.notify_all()
        job.close(error)

    def _running(self) -> EngineLine:
        if self._line is None or not self._accepting:
            raise GenerationError("the engine is not running; try again when it has started")
        return self._line

    def _say(self, said: wire.Asked | Callable[[], None]) -> None:
        assert self._line is not None
        self._line.say(said)

    # What the receiving thread hears.

    def _take(self, told: wire.Told) -> None:
        self._heard_at = time.monotonic()
        if isinstance(told, wire.Pulse):
            self._pulse = told
            if not told.alive and self._accepting and self._line is not None:
                self._line.process.end()  # its engine's thread is gone; _lose follows
        elif isinstance(told, wire.Drawn | wire.RowEnded | wire.JobFailed):
            job = self._active.get(told.job)
            if job is not None:  # else it is over meanwhile
                self._tell(job, told)

    def _tell(self, job: ProcessJob, told: wire.Drawn | wire.RowEnded | wire.JobFailed) -> None:
        match told:
            case wire.Drawn(token=token, after_s=after_s):
                self._tokens += 1
                job.take(token, after_s)
            case wire.RowEnded(ended=ended):
                if job.take_end(ended):
                    self._over(job, None)
            case wire.JobFailed(kind=kind, text=text):
                self._over(job, wire.error_of(kind, text))

    def _lose(self) -> None:
        """The process is gone: nothing is loaded, and whoever waits is told."""
        with self._changed:
            self._gone, self._accepting = True, False
            jobs = [*self._waiting, *self._active.values()]
            self._waiting.clear()
            self._loaded.clear()
            stopping = self._stopping
        error = _stopped()
        if not stopping and self._line is not None:
            how = self._line.process.end(ENDS_S)
            log.error("engine_process_ended", how=how, next="another one is started")
            error = GenerationError(f"the engine's process ended ({how}); ask again in a moment")
        for job in jobs:
            self._over(job, error)


class EngineProcesses:
    """Makes the engines of a server. The process of the first is started with this."""

    def __init__(self, settings: Settings) -> None:
        self._log_format = settings.log_format
        self._first: EngineProcess | None = EngineProcess(self._log_format)

    def __call__(self, base: Path, settings: Settings) -> ProcessEngine:
        """An engine over this base policy, not yet started."""
        process, self._first = self._first, None
        return ProcessEngine(
            base,
            settings.dtype,
            settings.threads,
            settings.answers.max_waiting,
            process=process or EngineProcess(self._log_format),
        )


def _stopped() -> GenerationError:
    return GenerationError("the engine stopped before the answer ended")
