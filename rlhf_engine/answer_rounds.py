"""The work of the engine's thread: in each round a chunk of one prompt, and one token a row.

Rows of one version are computed together by one decoder, whoever asked for them; it is
dropped when its last row ends. Everything here runs in the engine's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import structlog

from rlhf_engine.answer_job import ActiveJob, Job
from rlhf_engine.backbone import Backbone
from rlhf_engine.decoding import Decoder, Drawn, Undrawn
from rlhf_engine.errors import Cancelled, EngineError, GenerationError

log = structlog.get_logger(__name__)

OnOver = Callable[[Job, EngineError | None], None]


class AnswerRounds:
    """The jobs that are being answered, `max_rows` answers at once at most."""

    def __init__(self, backbone: Backbone, context: int, max_rows: int, on_over: OnOver) -> None:
        """`on_over` hears of each job once, when it is over, with what went wrong."""
        self.tokens = 0
        """Tokens drawn so far."""
        self._backbone, self._context, self._max_rows = backbone, context, max_rows
        self._on_over = on_over
        self._active: list[ActiveJob] = []
        self._decoders: dict[str, Decoder] = {}

    @property
    def jobs(self) -> int:
        """How many jobs are being answered."""
        return len(self._active)

    @property
    def rows(self) -> int:
        """How many answers are being drawn."""
        return sum(len(decoder.active) for decoder in list(self._decoders.values()))

    @property
    def room(self) -> int:
        """How many answers more may begin."""
        return self._max_rows - sum(active.size for active in list(self._active))

    @property
    def reading(self) -> int:
        """How many jobs' prompts are still to be read."""
        return sum(active.reads for active in list(self._active))

    def admit(self, job: Job) -> None:
        """Begin a job; there must be room for it."""
        try:
            self._active.append(ActiveJob(job, self._backbone, self._context))
        except Exception as error:  # noqa: BLE001 - one job's failure must not end the engine
            self._on_over(job, as_engine_error(error))

    def go_on(self, adapters: Mapping[str, str | None]) -> None:
        """One round; `adapters` names the backbone's adapter of each loaded version."""
        for active in [each for each in self._active if each.job.cancelled]:
            self._end(active, Cancelled("the answer was cancelled; ask again for a new one"))
        self._read(adapters)
        for version, decoder in list(self._decoders.items()):
            self._step(version, decoder)

    def close(self, error: EngineError) -> None:
        """End all jobs with this error."""
        for active in list(self._active):
            self._end(active, error)

    def _read(self, adapters: Mapping[str, str | None]) -> None:
        """Read a chunk of the prompt that has waited longest: no more, since rows wait for it."""
        active = next((each for each in self._active if each.reads), None)
        if active is None:
            return
        try:
            self._read_on(active, adapters)
        except Exception as error:  # noqa: BLE001 - one job's failure must not end the engine
            self._end(active, as_engine_error(error))

    def _read_on(self, active: ActiveJob, adapters: Mapping[str, str | None]) -> None:
        read = active.read_on(adapters)
        if read is None:
            return
        version, reading = read
        if version not in self._decoders:
            self._decoders[version] = Decoder(self._backbone, adapters[version], plain=True)
        seeds, settings = active.seeds_of(version), active.job.request.settings
        active.joined(version, self._decoders[version].join(reading, seeds, settings))

    def _step(self, version: str, decoder: Decoder) -> None:
        try:
            self._tell(version, decoder, decoder.draw())
            # Computed when the tokens are told: who reads them need not wait for the next.
            decoder.advance()
        except Exception as error:  # noqa: BLE001 - a version's failure must not end the engine
            for active in [each for each in self._active if each.uses(version)]:
                self._end(active, as_engine_error(error))
        self._forget_idle(version)

    def _tell(self, version: str, decoder: Decoder, found: Sequence[Drawn | Undrawn]) -> None:
        going_on = set(decoder.active)
        self.tokens += sum(isinstance(item, Drawn) for item in found)
        owners = {number: each for each in self._active for number in each.numbers(version)}
        for item in found:
            if item.row not in decoder.rows:  # of a job that a failure has ended meanwhile
                continue
            if isinstance(item, Undrawn):
                self._end(owners[item.row], as_engine_error(item.error))
            else:
                self._take(owners[item.row], version, item, ended=item.row not in going_on)

    def _take(self, active: ActiveJob, version: str, drawn: Drawn, *, ended: bool) -> None:
        try:
            over = active.take(version, drawn, ended=ended)
        except Exception as error:  # noqa: BLE001 - one job's failure must not end the engine
            self._end(active, as_engine_error(error))
            return
        if over:
            self._decoders[version].forget(drawn.row)
        if active.done:
            self._end(active, None)

    def _end(self, active: ActiveJob, error: EngineError | None) -> None:
        """Take a job out, with what is left of its rows."""
        self._active.remove(active)
        try:
            for version, number in active.rows:
                self._decoders[version].forget(number)
            for version in {version for version, _ in active.rows}:
                self._forget_idle(version)
        finally:
            self._on_over(active.job, error)

    def _forget_idle(self, version: str) -> None:
        """Drop a decoder without rows; one whose last rows have ended still has them to tell."""
        if version in self._decoders and not self._decoders[version].rows:
            del self._decoders[version]


def as_engine_error(error: Exception) -> EngineError:
    """What whoever asked is told."""
    if isinstance(error, EngineError):
        return error
    log.error("answer_failed", error=repr(error))
    return GenerationError(f"the answer could not be generated: {error}")
