"""One request to the engine's process, as the server keeps account of it."""

from __future__ import annotations

from collections.abc import Callable

from rlhf_engine.answer_events import Ended, Event, Failed, Token
from rlhf_engine.errors import EngineError
from rlhf_engine.serving_engine import OnEvent, Request, delivered
from service import engine_wire as wire


class ProcessJob:
    """A request on its way. `cancel` may be called from any thread, at any time."""

    def __init__(
        self,
        number: int,
        request: Request,
        on_event: OnEvent,
        withdraw: Callable[[ProcessJob], None],
    ) -> None:
        self.number, self.request = number, request
        self.first_token_s: float | None = None
        self._on_event, self._withdraw = on_event, withdraw
        self._begun: set[int] = set()
        self._ended = 0
        self._last: Event | None = None
        self._closed = False

    @property
    def size(self) -> int:
        """How many answers were asked for."""
        return len(self.request.seeds)

    @property
    def drawing(self) -> int:
        """How many of them are being drawn."""
        return len(self._begun) - self._ended

    @property
    def reads(self) -> bool:
        """Whether the prompt is still to be read, for one answer at least."""
        return len(self._begun) < self.size

    def asked(self) -> wire.Submit:
        """What the process is told."""
        request = self.request
        return wire.Submit(
            self.number,
            request.versions,
            request.prompt,
            request.seeds,
            request.settings,
            request.max_prompt_tokens,
        )

    def cancel(self) -> None:
        """End the job before its next token; a job that is over stays as it is."""
        self._withdraw(self)

    def take(self, token: Token, after_s: float) -> None:
        """Hear of a token, that many seconds after the process heard of the job."""
        if self.first_token_s is None:
            self.first_token_s = after_s
        self._begun.add(token.row)
        self._tell(token)

    def take_end(self, ended: Ended) -> bool:
        """Hear that an answer is complete; whether all are."""
        self._ended += 1
        self._last = ended
        if self._ended < self.size:
            self._tell(ended)
        return self._ended == self.size

    def close(self, error: EngineError | None) -> None:
        """Nothing more comes; with an error, say so first."""
        if self._closed:
            return
        self._closed = True
        last = self._last if error is None else Failed(error)
        if last is not None:
            self._tell(last)

    def _tell(self, event: Event) -> None:
        """Deliver one event. A listener that raises has left: the job is cancelled."""
        if not delivered(self._on_event, event):
            self.cancel()
