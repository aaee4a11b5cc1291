"""One request to the torch engine: answers to one prompt, row by row, until each has ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from rlhf_engine.answer_events import Ended, Event, Failed, Token
from rlhf_engine.answer_row import AnswerRow
from rlhf_engine.backbone import Backbone
from rlhf_engine.decoding import Drawn, Reading
from rlhf_engine.errors import EngineError, GenerationError
from rlhf_engine.render import prompt_ids
from rlhf_engine.serving_engine import OnEvent, Request, delivered


class Job:
    """A request on its way. `cancel` may be called from any thread, at any time."""

    def __init__(self, request: Request, on_event: OnEvent, wake: Callable[[], None]) -> None:
        self.request = request
        self.first_token_s: float | None = None
        self._asked_at = time.monotonic()
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
        """End the job before its next token; a job that is over stays as it is."""
        self._cancel.set()
        self._wake()

    def tell(self, event: Event) -> None:
        """Deliver one event. A listener that raises has left: the job is cancelled."""
        if self.first_token_s is None and isinstance(event, Token):
            self.first_token_s = time.monotonic() - self._asked_at
        if not delivered(self._on_event, event):
            self._cancel.set()

    def close(self, error: EngineError | None = None) -> None:
        """Nothing more comes; with an error, say so first."""
        if not self.over:
            if error is not None:
                self.tell(Failed(error))
            self._over.set()


class ActiveJob:
    """A job that is being answered. Its prompt is read once for each version, then each row is a
    decoder's row; `rows` maps (version, the decoder's number) to the job's own number."""

    def __init__(self, job: Job, backbone: Backbone, context: int) -> None:
        """Called in the engine's thread, as all here. GenerationError for an answer that is
        longer than the context."""
        self.job = job
        self.rows: dict[tuple[str, int], int] = {}
        self._backbone, self._most = backbone, self._room(context)
        self._ids: list[int] = []
        self._answers: list[AnswerRow] = []
        self._left = list(dict.fromkeys(job.request.versions))
        self._reading: Reading | None = None

    @property
    def size(self) -> int:
        """How many answers were asked for."""
        return len(self.job.request.seeds)

    @property
    def reads(self) -> bool:
        """Whether the prompt is still to be read, by one version at least."""
        return bool(self._left)

    @property
    def done(self) -> bool:
        """Whether every answer has ended."""
        return not self.reads and not self.rows

    def numbers(self, version: str) -> list[int]:
        """The decoder's numbers of the rows that this version answers now."""
        return [number for own, number in self.rows if own == version]

    def uses(self, version: str) -> bool:
        """Whether this version answers a row now."""
        return bool(self.numbers(version))

    def read_on(self, adapters: Mapping[str, str | None]) -> tuple[str, Reading] | None:
        """Read a chunk of the prompt, which is rendered before its first; the version and the
        reading when it is whole."""
        if not self._ids:
            self._render()
        version = self._left[0]
        if self._reading is None:
            self._reading = Reading(self._backbone, adapters[version], self._ids)
        self._reading.advance()
        if not self._reading.done:
            return None
        reading, self._reading = self._reading, None
        self._left.pop(0)
        return version, reading

    def seeds_of(self, version: str) -> list[int]:
        """The seeds of the rows that this version answers, in the rows' order."""
        return [self.job.request.seeds[at] for at in self._of(version)]

    def joined(self, version: str, numbers: Sequence[int]) -> None:
        """Hear the decoder's numbers of these rows."""
        for number, at in zip(numbers, self._of(version), strict=True):
            self.rows[version, number] = at

    def take(self, version: str, drawn: Drawn, *, ended: bool) -> bool:
        """Tell a drawn token; whether the row has ended with it, by itself or at a stop text."""
        at = self.rows[version, drawn.row]
        top = [(each.token_id, each.logprob) for each in drawn.top]
        events = self._answers[at].take(drawn.token_id, drawn.plain, top, ended=ended)
        for event in events:
            self.job.tell(event)
        if isinstance(events[-1], Ended):
            del self.rows[version, drawn.row]
            return True
        return False

    def _render(self) -> None:
        request, tokenizer = self.job.request, self._backbone.tokenizer
        self._ids = prompt_ids(tokenizer, request.prompt, self._most)
        self._answers = [
            AnswerRow(tokenizer, request.settings, request.prompt.id, seed, at, len(self._ids))
            for at, seed in enumerate(request.seeds)
        ]

    def _of(self, version: str) -> list[int]:
        return [at for at, own in enumerate(self.job.request.versions) if own == version]

    def _room(self, context: int) -> int:
        longest = self.job.request.settings.max_new_tokens
        room = min(self.job.request.max_prompt_tokens, context - longest)
        if room < 1:
            raise GenerationError(
                f"max_new_tokens is {longest}; the base policy reads {context} tokens in all, "
                "question and answer; ask for a shorter answer"
            )
        return room
