"""One request to the torch engine: answers to one prompt, row by row, until each has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from rlhf_engine.answer_events import Ended, Event, Failed, Token
from rlhf_engine.backbone import Backbone
from rlhf_engine.errors import Cancelled, EngineError, GenerationError
from rlhf_engine.generation import Decoder, sampled_answer
from rlhf_engine.records import Prompt, SamplingSettings
from rlhf_engine.render import prompt_ids
from rlhf_engine.streamed_text import StreamedText

log = structlog.get_logger(__name__)

OnEvent = Callable[[Event], None]


@dataclass(frozen=True, slots=True)
class Request:
    """What to answer. Row i has `versions[i]` and `seeds[i]`."""

    prompt: Prompt
    versions: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: SamplingSettings
    max_prompt_tokens: int


class Job:
    """A request on its way. `cancel` may be called from any thread, at any time."""

    def __init__(self, request: Request, on_event: OnEvent, wake: Callable[[], None]) -> None:
        self.request = request
        self._on_event, self._wake = on_event, wake
        self._cancel = threading.Event()
        self._over = threading.Event()

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked for this job to end early."""
        return self._cancel.is_set()

    @property
    def over(self) -> bool:
        """Whether the last event was delivered."""
        return self._over.is_set()

    def cancel(self) -> None:
        """End the job at its next token; a job that is over stays as it is."""
        self._cancel.set()
        self._wake()

    def tell(self, event: Event) -> None:
        """Deliver one event. A listener that raises has left: the job is cancelled."""
        try:
            self._on_event(event)
        except Exception as error:  # noqa: BLE001 - a listener must not end the engine
            log.warning("answer_listener_failed", error=repr(error), next="the job is cancelled")
            self._cancel.set()

    def close(self, error: EngineError | None = None) -> None:
        """Nothing more comes; with an error, say so first."""
        if not self.over:
            if error is not None:
                self.tell(Failed(error))
            self._over.set()


class ActiveJob:
    """A job with its decoders: one a version, so that no answer mixes versions."""

    def __init__(
        self, job: Job, backbone: Backbone, adapters: dict[str, str | None], context: int
    ) -> None:
        """Reads the prompt once for each version. Called in the engine's thread, as all here."""
        request = job.request
        self.job, self.tokens = job, 0
        self._texts = [StreamedText(backbone.tokenizer) for _ in request.seeds]
        room = min(request.max_prompt_tokens, context - request.settings.max_new_tokens)
        if room < 1:
            raise GenerationError(
                f"max_new_tokens is {request.settings.max_new_tokens}; the base policy reads "
                f"{context} tokens in all, question and answer; ask for a shorter answer"
            )
        ids = prompt_ids(backbone.tokenizer, request.prompt, room)
        self._groups = [
            (rows, self._decoder(backbone, adapters[version], ids, rows))
            for version, rows in _rows_by_version(request.versions).items()
        ]

    @property
    def done(self) -> bool:
        """Whether every row has ended."""
        return all(decoder.done for _, decoder in self._groups)

    def step(self) -> None:
        """Draw one token for each row that goes on, and tell what is new."""
        if self.job.cancelled:
            raise Cancelled("the answer was cancelled; ask again for a new one")
        for rows, decoder in self._groups:
            if not decoder.done:
                self._step(rows, decoder)

    def _step(self, rows: Sequence[int], decoder: Decoder) -> None:
        drawn = decoder.step()
        going_on = set(decoder.active)
        for item in drawn:
            self.tokens += 1
            self._tell(rows[item.row], decoder, item.row, ended=item.row not in going_on)

    def _tell(self, row: int, decoder: Decoder, at: int, *, ended: bool) -> None:
        """`row` is the job's number of the row, `at` the decoder's."""
        piece = self._texts[row].piece(decoder.tokens[at], ended=ended)
        if piece:
            self.job.tell(Token(row, piece))
        if ended:
            request = self.job.request
            answer = sampled_answer(decoder, at, request.prompt.id, request.seeds[row])
            self.job.tell(Ended(row, answer))

    def _decoder(
        self, backbone: Backbone, adapter: str | None, ids: list[int], rows: Sequence[int]
    ) -> Decoder:
        request = self.job.request
        seeds = [request.seeds[row] for row in rows]
        return Decoder(backbone, adapter, [ids], seeds, request.settings)


def _rows_by_version(versions: Sequence[str]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, version in enumerate(versions):
        rows.setdefault(version, []).append(row)
    return rows
