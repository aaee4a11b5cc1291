"""One answer of a job: its tokens so far, the text that may be told, and where it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_engine.answer_events import Ended, Event, Likely, Token
from rlhf_engine.backbone import Backbone
from rlhf_engine.decoding import Drawn
from rlhf_engine.records import SampledAnswer
from rlhf_engine.streamed_text import StreamedText

if TYPE_CHECKING:
    from rlhf_engine.answer_job import Request


class AnswerRow:
    """Turns drawn tokens into events."""

    def __init__(self, backbone: Backbone, request: Request, number: int) -> None:
        self._backbone, self._request, self._number = backbone, request, number
        self._text = StreamedText(backbone.tokenizer, request.settings.stop)
        self._tokens: list[int] = []
        self._logprobs: list[float] = []

    def take(self, drawn: Drawn, *, ended: bool) -> list[Event]:
        """The token's event, and the answer's end where it has one."""
        self._tokens.append(drawn.token_id)
        self._logprobs.append(drawn.plain)
        piece = self._text.piece(self._tokens, ended=ended)
        decode = self._backbone.tokenizer.decode
        top = tuple(
            Likely(each.token_id, decode([each.token_id]), each.logprob) for each in drawn.top
        )
        token = Token(self._number, piece, drawn.token_id, drawn.plain, top)
        if not (ended or self._text.stopped):
            return [token]
        return [token, Ended(self._number, self._answer())]

    def _answer(self) -> SampledAnswer:
        itself = self._tokens[-1] == self._backbone.eos_id
        return SampledAnswer(
            prompt_id=self._request.prompt.id,
            text=self._text.told,
            token_ids=tuple(self._tokens),
            logprobs=tuple(self._logprobs),
            finish_reason="stop" if itself or self._text.stopped else "length",
            seed=self._request.seeds[self._number],
        )
